// One control a declared parameter; a changed one is marked and can be taken back.
#include "method_settings.h"

#include <QCheckBox>
#include <QComboBox>
#include <QDoubleSpinBox>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QSignalBlocker>
#include <QSpinBox>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>
#include <limits>

#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

/// "discard_ratio" -> "Discard ratio".
QString words(const std::string& name) {
    auto out = text(name).replace(QLatin1Char('_'), QLatin1Char(' '));
    if (!out.isEmpty()) out[0] = out[0].toUpper();
    return out;
}

/// As Settings parses it, shortest form.
QString plain(double number) { return QString::number(number, 'g', 12); }

/// The wheel scrolls the panel; it changes a value only where the person is at work.
template <class Box>
class Calm : public Box {
  public:
    explicit Calm() { this->setFocusPolicy(Qt::StrongFocus); }

  protected:
    void wheelEvent(QWheelEvent* event) override {
        if (this->hasFocus())
            Box::wheelEvent(event);
        else
            event->ignore();
    }
};

/// A number without the zeros that say nothing.
class NumberBox : public Calm<QDoubleSpinBox> {
  public:
    NumberBox() { setDecimals(6); }
    QString textFromValue(double number) const override { return plain(number); }
};

}  // namespace

MethodSettingsView::MethodSettingsView(Session& session, QWidget* parent) : QWidget(parent), session_(session) {
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 8, 0, 0);
    column->setSpacing(4);
    auto* title = new QHBoxLayout;
    heading_ = heading(tr("Settings"));
    title->addWidget(heading_);
    title->addStretch(1);
    reset_ = new QToolButton;
    reset_->setObjectName(QStringLiteral("resetSettings"));
    reset_->setText(tr("Defaults"));
    title->addWidget(reset_);
    column->addLayout(title);
    grid_ = new QGridLayout;
    grid_->setHorizontalSpacing(12);
    grid_->setVerticalSpacing(4);
    grid_->setColumnStretch(0, 1);
    column->addLayout(grid_);
    connect(reset_, &QToolButton::clicked, &session_, &Session::resetSettings);
    connect(&session_, &Session::modelChanged, this, [this] { method_.clear(), refresh(); });
    connect(&session_, &Session::choiceChanged, this, &MethodSettingsView::refresh);
    refresh();
}

void MethodSettingsView::restyle() { fill(); }

void MethodSettingsView::setShown(bool shown) {
    shown_ = shown;
    setVisible(shown_ && !lines_.empty());
}

QWidget* MethodSettingsView::control(const std::string& name) const {
    for (const auto& line : lines_)
        if (line.facts.name == name) return line.control;
    return nullptr;
}

void MethodSettingsView::refresh() {
    const auto* facts = session_.methodFacts();
    if (!facts) {
        lines_.clear();
        method_.clear();
        clearLayout(grid_);
    } else if (facts->name != method_) {
        rebuild(*facts);
    }
    fill();
    setShown(shown_);
}

void MethodSettingsView::rebuild(const MethodFacts& facts) {
    method_ = facts.name;
    lines_.clear();
    clearLayout(grid_);
    for (const auto& setting : facts.settings) {
        auto* caption = new QLabel(words(setting.name));
        auto* control = make(setting);
        caption->setBuddy(control);
        const auto tip = QStringLiteral("<p>%1.</p><p>%2</p>")
                             .arg(words(setting.meaning).toHtmlEscaped(),
                                  tr("Default: %1%2")
                                      .arg(text(setting.standard).toHtmlEscaped(),
                                           setting.source.empty()
                                               ? QString()
                                               : QStringLiteral(" (%1)").arg(text(setting.source).toHtmlEscaped())));
        caption->setToolTip(tip);
        control->setToolTip(tip);
        control->setAccessibleName(words(setting.name));
        control->setAccessibleDescription(text(setting.meaning));
        const int row = static_cast<int>(lines_.size());
        grid_->addWidget(caption, row, 0);
        grid_->addWidget(control, row, 1);
        lines_.push_back({setting, caption, control});
    }
}

QWidget* MethodSettingsView::make(const SettingFacts& facts) {
    constexpr int kWidth = 132;
    const auto set = [this, name = facts.name](const QString& value) {
        session_.setSetting(name, value.toStdString());
    };
    const auto suffix = facts.unit.empty() ? QString() : QLatin1Char(' ') + text(facts.unit);
    QWidget* made = nullptr;
    switch (facts.kind) {
        case SettingFacts::Kind::Flag: {
            auto* box = new QCheckBox;
            connect(box, &QCheckBox::toggled, this,
                    [set](bool on) { set(on ? QStringLiteral("true") : QStringLiteral("false")); });
            made = box;
            break;
        }
        case SettingFacts::Kind::Integer: {
            auto* box = new Calm<QSpinBox>;
            box->setRange(static_cast<int>(std::max(facts.low.value_or(-1e9), -1e9)),
                          static_cast<int>(std::min(facts.high.value_or(1e9), 1e9)));
            box->setKeyboardTracking(false);
            box->setSuffix(suffix);
            connect(box, &QSpinBox::valueChanged, this, [set](int value) { set(QString::number(value)); });
            made = box;
            break;
        }
        case SettingFacts::Kind::Number: {
            auto* box = new NumberBox;
            box->setRange(facts.low.value_or(-1e9), facts.high.value_or(1e9));
            const double span = facts.low && facts.high ? *facts.high - *facts.low : 10;
            box->setSingleStep(std::pow(10.0, std::floor(std::log10(span / 10))));
            box->setKeyboardTracking(false);
            box->setSuffix(suffix);
            connect(box, &QDoubleSpinBox::valueChanged, this, [set](double value) { set(plain(value)); });
            made = box;
            break;
        }
        case SettingFacts::Kind::Choice: {
            auto* box = new Calm<QComboBox>;
            for (const auto& choice : facts.choices) box->addItem(text(choice));
            connect(box, &QComboBox::currentTextChanged, this, set);
            made = box;
            break;
        }
        case SettingFacts::Kind::Text: {
            auto* line = new QLineEdit;
            connect(line, &QLineEdit::editingFinished, this, [line, set] { set(line->text()); });
            made = line;
            break;
        }
    }
    if (facts.kind != SettingFacts::Kind::Flag) made->setFixedWidth(kWidth);
    return made;
}

/// Brings the controls to what the session holds, without asking for anything.
void MethodSettingsView::fill() {
    const auto& chosen = session_.settings();
    for (const auto& line : lines_) {
        const auto found = chosen.find(line.facts.name);
        const auto value = text(found == chosen.end() ? line.facts.standard : found->second);
        const QSignalBlocker quiet(line.control);
        if (auto* flag = qobject_cast<QCheckBox*>(line.control)) flag->setChecked(value == QLatin1String("true"));
        if (auto* whole = qobject_cast<QSpinBox*>(line.control)) whole->setValue(value.toInt());
        if (auto* number = qobject_cast<QDoubleSpinBox*>(line.control)) number->setValue(value.toDouble());
        if (auto* choice = qobject_cast<QComboBox*>(line.control)) choice->setCurrentText(value);
        if (auto* words = qobject_cast<QLineEdit*>(line.control)) words->setText(value);
        // A changed setting is said by weight and by the button above, not by colour alone.
        line.caption->setFont(sans(13, found != chosen.end()));
    }
    reset_->setEnabled(!chosen.empty());
    reset_->setToolTip(chosen.empty() ? tr("These are the method's own settings")
                                      : tr("Take the method's own settings back"));
}

}  // namespace vitrine::app
