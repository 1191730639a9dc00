// The look of the room: colours, one sans and one mono family, spacing in steps of four.
#include "theme.h"

#include <QApplication>
#include <QFile>
#include <QFontDatabase>
#include <QPainter>
#include <QPalette>
#include <QPixmapCache>
#include <QStyle>
#include <QStyleFactory>
#include <QStyleHints>
#include <QSvgRenderer>

/// The linker would drop the resources of a static library that nobody names. Outside the namespace, as Qt's macro
/// asks.
static void take_resources() { Q_INIT_RESOURCE(window); }

namespace vitrine::app {
namespace {

Theme current = Theme::make(true);

/// Qt 6.4 cannot be asked for the colour scheme; the window colour it started with tells.
bool systemIsDark() {
    static const bool dark = QApplication::palette().color(QPalette::Window).lightness() < 128;
    return dark;
}

viz::Rgb rgb(const QColor& colour) {
    return {static_cast<std::uint8_t>(colour.red()), static_cast<std::uint8_t>(colour.green()),
            static_cast<std::uint8_t>(colour.blue())};
}

QColor mix(const QColor& a, const QColor& b, double share) {
    const auto between = [&](int x, int y) { return static_cast<int>(x + (y - x) * share + 0.5); };
    return {between(a.red(), b.red()), between(a.green(), b.green()), between(a.blue(), b.blue())};
}

QString sheet(const Theme& t) {
    QFile file(QStringLiteral(":/vitrine/room.qss"));
    if (!file.open(QIODevice::ReadOnly)) return {};
    QString text = QString::fromUtf8(file.readAll());
    const std::pair<const char*, QColor> names[] = {{"@room", t.room},
                                                    {"@panel", t.panel},
                                                    {"@raised", t.raised},
                                                    {"@line", t.line},
                                                    {"@text", t.text},
                                                    {"@secondary", t.secondary},
                                                    {"@accent", t.accent},
                                                    {"@warning", t.warning},
                                                    {"@error", t.error},
                                                    {"@good", t.good},
                                                    {"@hover", t.hover},
                                                    {"@faint", t.faint},
                                                    {"@selection", mix(t.panel, t.accent, t.dark ? 0.28 : 0.16)},
                                                    {"@edge", mix(t.line, t.secondary, 0.35)},
                                                    {"@disabled", mix(t.panel, t.secondary, 0.55)}};
    for (const auto& [name, colour] : names) text.replace(QLatin1String(name), colour.name());
    text.replace(QLatin1String("@mode"), t.dark ? QStringLiteral("dark") : QStringLiteral("light"));
    return text;
}

}  // namespace

Theme Theme::make(bool dark) {
    Theme t;
    t.dark = dark;
    if (dark) {
        t.room = QColor(0x12, 0x14, 0x17), t.panel = QColor(0x19, 0x1C, 0x20), t.raised = QColor(0x21, 0x25, 0x2B),
        t.line = QColor(0x2D, 0x32, 0x3A);
        t.text = QColor(0xE7, 0xEA, 0xEE), t.secondary = QColor(0x9B, 0xA4, 0xAF), t.accent = QColor(0x6A, 0xB0, 0xF3);
        t.warning = QColor(0xE8, 0xB4, 0x54), t.error = QColor(0xEF, 0x6B, 0x73), t.good = QColor(0x62, 0xC4, 0x8B);
        t.hover = QColor(0x28, 0x2D, 0x34), t.faint = QColor(0x2A, 0x2F, 0x36);
    } else {
        t.room = QColor(0xF4, 0xF5, 0xF7), t.panel = QColor(0xFF, 0xFF, 0xFF), t.raised = QColor(0xFF, 0xFF, 0xFF),
        t.line = QColor(0xD9, 0xDD, 0xE3);
        t.text = QColor(0x1B, 0x1F, 0x24), t.secondary = QColor(0x5B, 0x65, 0x70), t.accent = QColor(0x1F, 0x6F, 0xBF);
        // Warning and good are a shade darker than they look best: 4.5:1 must hold on a hovered control, too.
        t.warning = QColor(0x85, 0x5C, 0x00), t.error = QColor(0xB3, 0x26, 0x1E), t.good = QColor(0x1B, 0x75, 0x48);
        t.hover = QColor(0xEE, 0xF1, 0xF4), t.faint = QColor(0xE8, 0xEB, 0xEF);
    }
    return t;
}

const Theme& Theme::now() { return current; }

Theme::Choice Theme::choiceNamed(const QString& name) {
    return name == QLatin1String("dark")    ? Choice::Dark
           : name == QLatin1String("light") ? Choice::Light
                                            : Choice::System;
}

QString Theme::nameOf(Choice choice) {
    return choice == Choice::Dark    ? QStringLiteral("dark")
           : choice == Choice::Light ? QStringLiteral("light")
                                     : QStringLiteral("system");
}

void Theme::apply(QApplication& application, Choice choice) {
    take_resources();
    const bool system_dark = systemIsDark();  // before our own palette hides the answer
    if (const auto forced = qEnvironmentVariable("VITRINE_THEME"); !forced.isEmpty()) choice = choiceNamed(forced);
    current = make(choice == Choice::System ? system_dark : choice == Choice::Dark);
    const auto& t = current;
    QPixmapCache::clear();
    if (application.style()->name() != QLatin1String("fusion"))
        application.setStyle(QStyleFactory::create(QStringLiteral("Fusion")));
    QPalette palette;
    palette.setColor(QPalette::Window, t.panel);
    palette.setColor(QPalette::WindowText, t.text);
    palette.setColor(QPalette::Base, t.dark ? t.room : t.panel);
    palette.setColor(QPalette::AlternateBase, t.raised);
    palette.setColor(QPalette::Text, t.text);
    palette.setColor(QPalette::PlaceholderText, t.secondary);
    palette.setColor(QPalette::Button, t.raised);
    palette.setColor(QPalette::ButtonText, t.text);
    palette.setColor(QPalette::BrightText, t.error);
    palette.setColor(QPalette::Highlight, t.accent);
    palette.setColor(QPalette::HighlightedText, t.dark ? t.room : t.panel);
    palette.setColor(QPalette::Link, t.accent);
    palette.setColor(QPalette::ToolTipBase, t.raised);
    palette.setColor(QPalette::ToolTipText, t.text);
    palette.setColor(QPalette::Light, t.raised);
    palette.setColor(QPalette::Midlight, t.line);
    palette.setColor(QPalette::Mid, t.line);
    palette.setColor(QPalette::Dark, t.line);
    palette.setColor(QPalette::Shadow, t.room);
    for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText})
        palette.setColor(QPalette::Disabled, role, mix(t.panel, t.secondary, 0.55));
    application.setPalette(palette);
    application.setFont(sans());
    application.setStyleSheet(sheet(t));
}

viz::Palette Theme::palette() const {
    auto palette = dark ? viz::Palette::dark() : viz::Palette::light();
    palette.room = rgb(room);
    palette.text = rgb(text);
    palette.secondary = rgb(secondary);
    palette.panel = rgb(panel);
    palette.line = rgb(line);
    return palette;
}

QFont sans(int pixels, bool semibold) {
    QFont font;
    font.setFamilies({QStringLiteral("Inter"), QStringLiteral("Noto Sans"), QStringLiteral("Cantarell"),
                      QStringLiteral("DejaVu Sans")});
    font.setPixelSize(pixels);
    font.setWeight(semibold ? QFont::DemiBold : QFont::Normal);
    font.setHintingPreference(QFont::PreferNoHinting);
    return font;
}

QFont mono(int pixels) {
    QFont font;
    font.setFamilies(
        {QStringLiteral("JetBrains Mono"), QStringLiteral("Noto Sans Mono"), QStringLiteral("DejaVu Sans Mono")});
    font.setStyleHint(QFont::Monospace);
    font.setPixelSize(pixels);
    font.setHintingPreference(QFont::PreferNoHinting);
    return font;
}

QPixmap iconPixmap(const QString& name, const QColor& colour, int side, qreal ratio) {
    QFile file(QStringLiteral(":/vitrine/icons/%1.svg").arg(name));
    QPixmap pixmap(static_cast<int>(side * ratio + 0.5), static_cast<int>(side * ratio + 0.5));
    pixmap.fill(Qt::transparent);
    if (file.open(QIODevice::ReadOnly)) {
        QSvgRenderer renderer(file.readAll().replace("currentColor", colour.name().toLatin1()));
        QPainter painter(&pixmap);
        renderer.render(&painter);
    }
    pixmap.setDevicePixelRatio(ratio);
    return pixmap;
}

QIcon icon(const QString& name) {
    const auto& t = Theme::now();
    QIcon made;
    for (const qreal ratio : {1.0, 2.0}) {
        made.addPixmap(iconPixmap(name, t.secondary, 20, ratio), QIcon::Normal, QIcon::Off);
        made.addPixmap(iconPixmap(name, t.text, 20, ratio), QIcon::Active, QIcon::Off);
        made.addPixmap(iconPixmap(name, t.accent, 20, ratio), QIcon::Normal, QIcon::On);
        made.addPixmap(iconPixmap(name, t.accent, 20, ratio), QIcon::Active, QIcon::On);
        made.addPixmap(iconPixmap(name, mix(t.panel, t.secondary, 0.45), 20, ratio), QIcon::Disabled, QIcon::Off);
    }
    return made;
}

}  // namespace vitrine::app
