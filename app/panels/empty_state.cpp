// The invitation and the sheet of keys.
#include "empty_state.h"

#include <QFileInfo>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QPainter>
#include <QPainterPath>
#include <QPushButton>
#include <QSvgRenderer>

#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {

EmptyState::EmptyState(QWidget* parent) : QFrame(parent) {
    setObjectName(QStringLiteral("empty"));
    auto* outer = new QVBoxLayout(this);
    outer->setContentsMargins(40, 36, 40, 36);  // inside the dashed frame
    outer->addStretch(3);
    mark_ = new QLabel;
    mark_->setContentsMargins(0, 0, 0, 20);
    QPixmap pixmap(static_cast<int>(88 * devicePixelRatioF()), static_cast<int>(88 * devicePixelRatioF()));
    pixmap.fill(Qt::transparent);
    QPainter painter(&pixmap);
    QSvgRenderer(QStringLiteral(":/vitrine/icons/vitrine.svg")).render(&painter);
    painter.end();
    pixmap.setDevicePixelRatio(devicePixelRatioF());
    mark_->setPixmap(pixmap);
    outer->addWidget(mark_, 0, Qt::AlignHCenter);
    title_ = new QLabel;
    title_->setProperty("role", "display");
    title_->setAlignment(Qt::AlignCenter);
    outer->addWidget(title_);
    outer->addSpacing(4);
    words_ = new QLabel;
    words_->setProperty("role", "secondary");
    words_->setAlignment(Qt::AlignCenter);
    words_->setWordWrap(true);
    outer->addWidget(words_);
    outer->addSpacing(20);
    auto* row = new QHBoxLayout;
    row->setSpacing(8);
    row->addStretch(1);
    picture_ = new QPushButton(tr("Open picture"));
    picture_->setProperty("primary", true);
    model_ = new QPushButton(tr("Open model"));
    row->addWidget(picture_);
    row->addWidget(model_);
    row->addStretch(1);
    outer->addLayout(row);
    outer->addSpacing(20);
    auto* recent = new QWidget;
    recent_ = new QVBoxLayout(recent);
    recent_->setContentsMargins(0, 0, 0, 0);
    recent_->setSpacing(2);
    outer->addWidget(recent);
    outer->addStretch(4);
    connect(picture_, &QPushButton::clicked, this, &EmptyState::openPictureWanted);
    connect(model_, &QPushButton::clicked, this, &EmptyState::openModelWanted);
    setState(false, {}, {});
}

void EmptyState::setState(bool has_model, const QString& model, const QStringList& recent) {
    title_->setText(has_model ? tr("Drop a picture here") : tr("Drop a picture or a model here"));
    words_->setText(has_model
                        ? tr("%1 is open and waits for something to look at.").arg(model)
                        : tr("Models open as you have them: a hub folder, safetensors, a PyTorch file, TorchScript."));
    clearLayout(recent_);
    int shown = 0;
    for (const auto& path : recent) {
        if (shown >= 3) break;
        if (!QFileInfo::exists(path)) continue;
        if (shown++ == 0) recent_->addWidget(heading(tr("Opened before")), 0, Qt::AlignHCenter);
        auto* link = new QPushButton(QFontMetrics(sans()).elidedText(QFileInfo(path).fileName(), Qt::ElideMiddle, 360));
        link->setFlat(true);
        link->setToolTip(path);
        link->setCursor(Qt::PointingHandCursor);
        link->setStyleSheet(
            QStringLiteral("QPushButton { background: transparent; border: none; color: %1; min-height: 24px; } "
                           "QPushButton:hover, QPushButton:focus { text-decoration: underline; }")
                .arg(Theme::now().accent.name()));
        connect(link, &QPushButton::clicked, this, [this, path] { Q_EMIT recentWanted(path); });
        recent_->addWidget(link, 0, Qt::AlignHCenter);
    }
}

void EmptyState::resizeEvent(QResizeEvent*) {
    mark_->setVisible(height() >= 340);  // in a low window the words are what matters
}

void EmptyState::setDropping(bool dropping) {
    dropping_ = dropping;
    update();
}

void EmptyState::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.fillRect(rect(), t.room);
    painter.setRenderHint(QPainter::Antialiasing);
    QPen pen(dropping_ ? t.accent : t.line, dropping_ ? 2 : 1.5);
    pen.setDashPattern({6, 5});
    painter.setPen(pen);
    painter.drawRoundedRect(QRectF(rect()).adjusted(24.5, 24.5, -24.5, -24.5), 12, 12);
}

ShortcutSheet::ShortcutSheet(QWidget* parent) : QWidget(parent) {
    column_ = new QVBoxLayout(this);
    column_->setContentsMargins(16, 12, 16, 16);
    column_->setSpacing(4);
}

void ShortcutSheet::setGroups(const std::vector<Group>& groups) {
    clearLayout(column_);
    for (const auto& group : groups) {
        if (group.keys.empty()) continue;
        auto* box = new QWidget;
        auto* grid = new QGridLayout(box);
        grid->setContentsMargins(0, 4, 0, 8);
        grid->setHorizontalSpacing(12);
        grid->setVerticalSpacing(4);
        grid->setColumnStretch(1, 1);
        grid->addWidget(heading(group.heading), 0, 0, 1, 2);
        int row = 1;
        for (const auto& [keys, what] : group.keys) {
            auto* key = new QLabel(keys);
            key->setFont(mono(11));
            key->setMinimumWidth(96);
            auto* words = quiet(what);
            grid->addWidget(key, row, 0, Qt::AlignTop);
            grid->addWidget(words, row, 1);
            ++row;
        }
        column_->addWidget(box);
    }
    column_->addStretch(1);
}

}  // namespace vitrine::app
