// Painting of the small widgets.
#include "small_widgets.h"

#include <QApplication>
#include <QClipboard>
#include <QHBoxLayout>
#include <QHelpEvent>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>
#include <QTimerEvent>
#include <QToolTip>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {

// ---- predictions ----------------------------------------------------------------------------------------------------

PredictionsView::PredictionsView(int rows, QWidget* parent) : QWidget(parent), rows_(rows) {
    setObjectName(QStringLiteral("predictions"));
    setAccessibleName(tr("Most probable classes"));
    setMouseTracking(true);
    setFocusPolicy(Qt::TabFocus);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
}

void PredictionsView::setPredictions(std::vector<Prediction> predictions, std::optional<std::int64_t> target,
                                     const QString& empty, std::vector<double> before) {
    predictions_ = std::move(predictions);
    before_ = std::move(before);
    target_ = target;
    empty_ = empty;
    focused_ = std::clamp(focused_, 0, std::max(0, static_cast<int>(predictions_.size()) - 1));
    update();
}

std::optional<double> PredictionsView::beforeOf(const Prediction& prediction) const {
    const auto at = static_cast<std::size_t>(prediction.index);
    return at < before_.size() ? std::optional(before_[at]) : std::nullopt;
}

int PredictionsView::rowAt(const QPoint& position) const {
    const int row = position.y() / kRow;
    return rect().contains(position) && row < std::min(rows_, static_cast<int>(predictions_.size())) ? row : -1;
}

void PredictionsView::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    if (predictions_.empty()) {
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        painter.drawText(QRect(0, 0, width(), kRow), Qt::AlignVCenter | Qt::TextWordWrap, empty_);
        return;
    }
    for (int i = 0; i < static_cast<int>(predictions_.size()) && i < rows_; ++i) {
        const auto& p = predictions_[static_cast<std::size_t>(i)];
        const QRectF row(0, i * kRow, width(), kRow);
        const bool chosen = target_ == p.index;
        if (i == hovered_ || (hasFocus() && i == focused_)) {
            QColor ground = t.hover;
            painter.setPen(hasFocus() && i == focused_ ? QPen(t.accent, 1) : QPen(Qt::NoPen));
            painter.setBrush(ground);
            painter.drawRoundedRect(
                row.adjusted(-7.5, 1.5, 7.5, -1.5).intersected(QRectF(rect()).adjusted(0.5, 0, -0.5, 0)), 6, 6);
        }
        const auto share = percent(p.probability);
        painter.setFont(mono(11));
        int number = std::max(56, painter.fontMetrics().horizontalAdvance(share));
        painter.setPen(chosen ? t.text : t.secondary);
        painter.drawText(row.adjusted(0, 2, -8, -10), Qt::AlignRight | Qt::AlignVCenter, share);
        const auto before = beforeOf(p);
        if (before) {
            const auto was = tr("was %1").arg(percent(*before));
            painter.setPen(t.secondary);
            painter.drawText(row.adjusted(0, 2, -8 - number, -10), Qt::AlignRight | Qt::AlignVCenter, was);
            number += painter.fontMetrics().horizontalAdvance(was) + 8;
        }
        painter.setFont(sans(13, chosen));
        painter.setPen(t.text);
        const double left = chosen ? 22 : 8;
        if (chosen)
            painter.drawPixmap(QPointF(4, row.top() + 4),
                               iconPixmap(QStringLiteral("check"), t.accent, 14, devicePixelRatioF()));
        painter.drawText(row.adjusted(left, 2, -number - 16, -10), Qt::AlignVCenter,
                         painter.fontMetrics().elidedText(QString::fromStdString(p.label), Qt::ElideRight,
                                                          static_cast<int>(width() - number - 16 - left)));
        const QRectF track(8, row.bottom() - 8, width() - 16.0, 4);
        painter.setPen(Qt::NoPen);
        painter.setBrush(t.faint);
        painter.drawRoundedRect(track, 2, 2);
        painter.setBrush(chosen ? t.accent : QColor(t.secondary));
        const double width = std::max(2.0, track.width() * p.probability);
        painter.drawRoundedRect(QRectF(track.left(), track.top(), width, track.height()), 2, 2);
        if (before) {
            painter.setBrush(t.secondary);
            painter.drawRect(QRectF(track.left(), track.bottom() + 1, std::max(2.0, track.width() * *before), 2));
        }
    }
}

void PredictionsView::mouseMoveEvent(QMouseEvent* event) {
    const int row = rowAt(event->pos());
    if (row == hovered_) return;
    hovered_ = row;
    setCursor(row >= 0 ? Qt::PointingHandCursor : Qt::ArrowCursor);
    update();
}

void PredictionsView::leaveEvent(QEvent*) {
    hovered_ = -1;
    update();
}

void PredictionsView::mouseReleaseEvent(QMouseEvent* event) {
    if (const int row = rowAt(event->pos()); row >= 0 && event->button() == Qt::LeftButton)
        Q_EMIT chosen(predictions_[static_cast<std::size_t>(row)].index);
}

void PredictionsView::keyPressEvent(QKeyEvent* event) {
    const int last = static_cast<int>(predictions_.size()) - 1;
    if (event->key() == Qt::Key_Down)
        focused_ = std::min(last, focused_ + 1);
    else if (event->key() == Qt::Key_Up)
        focused_ = std::max(0, focused_ - 1);
    else if ((event->key() == Qt::Key_Return || event->key() == Qt::Key_Space) && focused_ <= last && last >= 0)
        Q_EMIT chosen(predictions_[static_cast<std::size_t>(focused_)].index);
    else
        return QWidget::keyPressEvent(event);
    update();
}

bool PredictionsView::event(QEvent* event) {
    if (event->type() == QEvent::ToolTip) {
        auto* help = static_cast<QHelpEvent*>(event);
        if (const int row = rowAt(help->pos()); row >= 0) {
            const auto& p = predictions_[static_cast<std::size_t>(row)];
            QToolTip::showText(
                help->globalPos(),
                tr("%1\nClass %2, logit %3%4\nClick to explain this class")
                    .arg(QString::fromStdString(p.label))
                    .arg(p.index)
                    .arg(p.logit, 0, 'f', 2)
                    .arg(beforeOf(p) ? tr("\nNot steered: %1, the thin bar").arg(percent(*beforeOf(p))) : QString()),
                this);
        } else {
            QToolTip::hideText();
        }
        return true;
    }
    return QWidget::event(event);
}

// ---- range ----------------------------------------------------------------------------------------------------------

namespace {
constexpr double kBarTop = 28, kBarHeight = 12;
}

RangeBar::RangeBar(QWidget* parent) : QWidget(parent) {
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Range of the colours"));
    setCursor(Qt::SizeHorCursor);
}

void RangeBar::setPlane(const Plane* plane, const ViewSettings& settings) {
    settings_ = settings;
    const bool colours = plane && plane->colours;
    if (colours) plane = nullptr;  // a picture has no range
    setToolTip(colours ? tr("This map has colours of its own")
                       : tr("Drag the ends to change the range. Double click to take the default back."));
    if (plane && (!plane_ || plane->values != plane_->values)) {
        histogram_.assign(48, 0);
        const float low = plane->is_signed ? -std::max(std::abs(plane->low), std::abs(plane->high)) : plane->low;
        const float high = plane->is_signed ? -low : plane->high;
        if (high > low)
            for (const float v : *plane->values)
                if (std::isfinite(v))
                    ++histogram_[static_cast<std::size_t>(std::clamp((v - low) / (high - low) * 47.99F, 0.0F, 47.0F))];
    }
    plane_ = plane ? std::optional(*plane) : std::nullopt;
    setEnabled(plane_.has_value());
    update();
}

double RangeBar::xOf(float value) const {
    const float low = plane_->is_signed ? -std::max(std::abs(plane_->low), std::abs(plane_->high)) : plane_->low;
    const float high = plane_->is_signed ? -low : plane_->high;
    if (high <= low) return left();
    return left() + std::clamp((value - low) / (high - low), 0.0F, 1.0F) * span();
}

float RangeBar::valueAt(double x) const {
    const float low = plane_->is_signed ? -std::max(std::abs(plane_->low), std::abs(plane_->high)) : plane_->low;
    const float high = plane_->is_signed ? -low : plane_->high;
    return low + static_cast<float>(std::clamp((x - left()) / span(), 0.0, 1.0)) * (high - low);
}

void RangeBar::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    const QRectF bar(left(), kBarTop, span(), kBarHeight);
    QPainterPath clip;
    clip.addRoundedRect(bar, 3, 3);
    if (!plane_) {
        painter.fillPath(clip, t.faint);
        return;
    }
    // Behind: how often values occur, on a root scale so that the tail can be seen.
    const int most = std::max(1, *std::max_element(histogram_.begin(), histogram_.end()));
    painter.setPen(Qt::NoPen);
    painter.setBrush(t.line);
    for (std::size_t i = 0; i < histogram_.size(); ++i) {
        const double h = std::sqrt(static_cast<double>(histogram_[i]) / most) * (kBarTop - 4);
        const double w = span() / static_cast<double>(histogram_.size());
        if (histogram_[i] > 0) painter.drawRect(QRectF(left() + static_cast<double>(i) * w, kBarTop - h, w - 1, h));
    }
    const auto scale = scale_of(*plane_, settings_);
    const auto colours = colours_of(*plane_, settings_);
    painter.save();
    painter.setClipPath(clip);
    for (int x = 0; x < static_cast<int>(span()) + 1; ++x) {
        const auto colour = viz::colour_at(colours, viz::position_of(valueAt(left() + x), scale));
        painter.fillRect(QRectF(left() + x, kBarTop, 1.5, kBarHeight), QColor(colour.r, colour.g, colour.b));
    }
    painter.restore();
    const double ends[] = {xOf(scale.low), xOf(scale.high)};
    for (const double x : ends) {
        painter.setPen(QPen(t.panel, 1.5));
        painter.setBrush(t.text);
        painter.drawRoundedRect(QRectF(x - 4, kBarTop - 4, 8, kBarHeight + 8), 3, 3);
    }
    painter.setFont(mono(11));
    painter.setPen(t.secondary);
    const QRectF below(0, kBarTop + kBarHeight + 8, width(), 16);
    painter.drawText(below, Qt::AlignLeft | Qt::AlignVCenter, value(scale.low));
    painter.drawText(below, Qt::AlignRight | Qt::AlignVCenter, value(scale.high));
    std::int64_t outside = 0, all = 0;
    for (const float v : *plane_->values) {
        if (!std::isfinite(v)) continue;
        ++all;
        if (v < scale.low || v > scale.high) ++outside;
    }
    painter.setFont(sans(11));
    painter.drawText(below, Qt::AlignCenter,
                     outside == 0
                         ? tr("nothing clipped")
                         : tr("%1 clipped").arg(percent(static_cast<double>(outside) / static_cast<double>(all))));
}

void RangeBar::mousePressEvent(QMouseEvent* event) {
    if (!plane_ || event->button() != Qt::LeftButton) return;
    const auto scale = scale_of(*plane_, settings_);
    const double x = event->position().x();
    dragged_ = std::abs(x - xOf(scale.low)) < std::abs(x - xOf(scale.high)) ? -1 : 1;
    mouseMoveEvent(event);
}

void RangeBar::mouseMoveEvent(QMouseEvent* event) {
    if (!plane_ || dragged_ == 0) return;
    auto scale = scale_of(*plane_, settings_);
    const float v = valueAt(event->position().x());
    if (plane_->is_signed) {
        // Zero stays in the middle: both ends move.
        const float reach = std::max(std::abs(v), 1e-12F);
        return Q_EMIT rangeChanged(-reach, reach);
    }
    if (dragged_ < 0)
        scale.low = std::min(v, scale.high);
    else
        scale.high = std::max(v, scale.low);
    Q_EMIT rangeChanged(scale.low, scale.high);
}

void RangeBar::mouseReleaseEvent(QMouseEvent*) { dragged_ = 0; }
void RangeBar::mouseDoubleClickEvent(QMouseEvent*) {
    dragged_ = 0;
    Q_EMIT rangeReset();
}

// ---- picture box ----------------------------------------------------------------------------------------------------

PictureBox::PictureBox(int side, QWidget* parent) : QWidget(parent), side_(side) { setFixedSize(side, side); }

void PictureBox::setImage(const QImage& image) {
    image_ = image;
    update();
}

void PictureBox::setStale(bool stale) {
    stale_ = stale;
    update();
}

void PictureBox::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHints(QPainter::Antialiasing | QPainter::SmoothPixmapTransform);
    QPainterPath frame;
    frame.addRoundedRect(QRectF(rect()), 6, 6);
    painter.fillPath(frame, t.faint);
    if (!image_.isNull()) {
        const auto size = QSizeF(image_.size()).scaled(QSizeF(side_, side_), Qt::KeepAspectRatio);
        painter.setClipPath(frame);
        if (stale_) painter.setOpacity(0.5);
        painter.drawImage(QRectF((side_ - size.width()) / 2, (side_ - size.height()) / 2, size.width(), size.height()),
                          image_);
    }
}

// ---- findings and notices -------------------------------------------------------------------------------------------

FindingRow::FindingRow(const Finding& finding, QWidget* parent) : QWidget(parent) {
    const auto& t = Theme::now();
    auto* row = new QHBoxLayout(this);
    row->setContentsMargins(0, 0, 0, 0);
    row->setSpacing(8);
    auto* sign = new QLabel;
    sign->setPixmap(iconPixmap(finding.passed ? QStringLiteral("check") : QStringLiteral("warning"),
                               finding.passed ? t.good : t.warning, 16, devicePixelRatioF()));
    sign->setAccessibleName(finding.passed ? tr("passed") : tr("failed"));
    row->addWidget(sign, 0, Qt::AlignTop);
    auto* words =
        new QLabel(tr("%1: %2").arg(QString::fromStdString(finding.name), QString::fromStdString(finding.finding)));
    words->setWordWrap(true);
    words->setProperty("role", "small");
    words->setTextInteractionFlags(Qt::TextSelectableByMouse);
    row->addWidget(words, 1);
}

NoticeBar::NoticeBar(QWidget* parent) : QFrame(parent) {
    setObjectName(QStringLiteral("notice"));
    auto* row = new QHBoxLayout(this);
    row->setContentsMargins(12, 4, 8, 4);
    row->setSpacing(8);
    sign_ = new QLabel;
    text_ = new QLabel;
    text_->setObjectName(QStringLiteral("noticeText"));
    text_->setWordWrap(true);
    text_->setTextInteractionFlags(Qt::TextSelectableByMouse);
    action_ = new QPushButton;
    action_->setObjectName(QStringLiteral("noticeAction"));
    action_->setProperty("primary", true);
    action_->hide();
    copy_ = new QToolButton;
    copy_->setToolTip(tr("Copy the details"));
    copy_->setAccessibleName(copy_->toolTip());
    close_ = new QToolButton;
    close_->setObjectName(QStringLiteral("noticeClose"));
    close_->setToolTip(tr("Dismiss"));
    close_->setAccessibleName(close_->toolTip());
    more_ = quiet();
    more_->setWordWrap(false);
    row->addWidget(sign_);
    row->addWidget(text_, 1);
    row->addWidget(more_);
    row->addWidget(action_);
    row->addWidget(copy_);
    row->addWidget(close_);
    connect(action_, &QPushButton::clicked, this, [this] {
        const auto act = notice_.act;
        dismiss();
        if (act) act();
    });
    connect(copy_, &QToolButton::clicked, this, [this] {
        QApplication::clipboard()->setText(notice_.detail.isEmpty() ? notice_.sentence : notice_.detail);
    });
    connect(close_, &QToolButton::clicked, this, &NoticeBar::closeOne);
    hide();
}

void NoticeBar::restyle() {
    const auto& t = Theme::now();
    const bool failure = notice_.kind == Notice::Kind::Failure, warning = notice_.kind == Notice::Kind::Warning;
    sign_->setPixmap(iconPixmap(failure   ? QStringLiteral("failure")
                                : warning ? QStringLiteral("warning")
                                          : QStringLiteral("hint"),
                                failure   ? t.error
                                : warning ? t.warning
                                          : t.accent,
                                20, devicePixelRatioF()));
    copy_->setIcon(icon(QStringLiteral("copy")));
    close_->setIcon(icon(QStringLiteral("close")));
    copy_->setIconSize({16, 16});
    close_->setIconSize({16, 16});
}

void NoticeBar::show(const Notice& notice) {
    constexpr std::size_t kMostCovered = 9;
    if (notice_.kind == Notice::Kind::Failure && !notice_.sentence.isEmpty() && notice_.sentence != notice.sentence) {
        if (covered_.size() == kMostCovered) covered_.erase(covered_.begin());
        covered_.push_back(notice_);
    }
    notice_ = notice;
    fill();
}

void NoticeBar::fill() {
    text_->setText(breakable(notice_.sentence));
    more_->setText(tr("%1 more").arg(covered_.size()));
    more_->setVisible(!covered_.empty());
    action_->setText(notice_.action);
    action_->setVisible(!notice_.action.isEmpty());
    copy_->setVisible(notice_.kind == Notice::Kind::Failure || !notice_.detail.isEmpty());
    restyle();
    setVisible(true);
}

void NoticeBar::closeOne() {
    if (covered_.empty()) return dismiss();
    notice_ = covered_.back();
    covered_.pop_back();
    fill();
}

void NoticeBar::dismiss() {
    notice_ = {};
    covered_.clear();
    setVisible(false);
}

// ---- thin bar -------------------------------------------------------------------------------------------------------

ThinBar::ThinBar(QWidget* parent) : QWidget(parent) { setFixedHeight(2); }

void ThinBar::setProgress(bool active, double share) {
    active_ = active;
    share_ = share;
    if (active && share < 0 && timer_ == 0) {
        timer_ = startTimer(40);
    } else if ((!active || share >= 0) && timer_ != 0) {
        killTimer(timer_);
        timer_ = 0;
    }
    update();
}

void ThinBar::timerEvent(QTimerEvent*) {
    phase_ = std::fmod(phase_ + 0.02, 1.0);
    update();
}

void ThinBar::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.fillRect(rect(), t.panel);
    if (!active_) return;
    if (share_ >= 0)
        painter.fillRect(QRectF(0, 0, width() * share_, height()), t.accent);
    else
        painter.fillRect(QRectF(width() * (phase_ * 1.25 - 0.25), 0, width() * 0.25, height()), t.accent);
}

// ---- dock titles ---------------------------------------------------------------------------------------------------

DockTitle::DockTitle(QDockWidget* dock, QMainWindow* window) : QWidget(dock), dock_(dock), window_(window) {
    auto* row = new QHBoxLayout(this);
    row->setContentsMargins(12, 0, 8, 0);
    row->setSpacing(4);
    label_ = heading(dock->windowTitle());
    close_ = new QToolButton;
    close_->setIconSize({14, 14});
    close_->setFixedSize(22, 22);
    close_->setToolTip(tr("Hide; Window > %1 brings it back").arg(dock->windowTitle()));
    close_->setAccessibleName(tr("Hide %1").arg(dock->windowTitle()));
    row->addWidget(label_, 1);
    row->addWidget(close_);
    connect(close_, &QToolButton::clicked, dock, &QDockWidget::hide);
    for (const auto signal : {&QDockWidget::visibilityChanged, &QDockWidget::topLevelChanged})
        connect(dock, signal, this, &DockTitle::settle);
    connect(dock, &QDockWidget::dockLocationChanged, this, &DockTitle::settle);
    restyle();
}

bool DockTitle::tabbed() const { return !dock_->isFloating() && !window_->tabifiedDockWidgets(dock_).isEmpty(); }

void DockTitle::settle() {
    const bool quietly = tabbed();
    label_->setVisible(!quietly);
    close_->setVisible(!quietly);
    updateGeometry();
}

void DockTitle::restyle() { close_->setIcon(icon(QStringLiteral("close"))); }

// ---- one line ------------------------------------------------------------------------------------------------------

ReservedLabel::ReservedLabel(int reserved, QWidget* parent) : QLabel(parent), reserved_(reserved) {
    setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
}

void ReservedLabel::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    painter.setPen(palette().color(QPalette::WindowText));
    painter.drawText(contentsRect(), static_cast<int>(alignment()) | Qt::TextSingleLine,
                     fontMetrics().elidedText(text(), Qt::ElideMiddle, contentsRect().width()));
}

bool ReservedLabel::event(QEvent* event) {
    if (event->type() == QEvent::ToolTip && fontMetrics().horizontalAdvance(text()) > contentsRect().width()) {
        QToolTip::showText(static_cast<QHelpEvent*>(event)->globalPos(),
                           toolTip().isEmpty() ? text() : text() + QLatin1Char('\n') + toolTip(), this);
        return true;
    }
    return QLabel::event(event);
}

// ---- captions -------------------------------------------------------------------------------------------------------

QWidget* captioned(const QString& caption, QWidget* control, QLabel** value) {
    auto* box = new QWidget;
    auto* column = new QVBoxLayout(box);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(4);
    auto* row = new QHBoxLayout;
    row->setSpacing(8);
    auto* label = new QLabel(caption);
    label->setProperty("role", "small");
    label->setBuddy(control);
    row->addWidget(label);
    row->addStretch(1);
    if (value) {
        *value = new QLabel;
        (*value)->setFont(mono(11));
        (*value)->setProperty("role", "small");
        row->addWidget(*value);
    }
    column->addLayout(row);
    column->addWidget(control);
    control->setAccessibleName(caption);
    return box;
}

QLabel* heading(const QString& text) {
    auto* label = new QLabel(text);
    label->setProperty("role", "heading");
    return label;
}

QLabel* quiet(const QString& text) {
    auto* label = new QLabel(text);
    label->setProperty("role", "small");
    label->setWordWrap(true);
    label->setTextInteractionFlags(Qt::TextSelectableByMouse);
    return label;
}

QVBoxLayout* columnIn(QWidget* box, int spacing) {
    auto* column = new QVBoxLayout(box);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(spacing);
    return column;
}

QPushButton* segment(const QString& words, const char* place, const char* name) {
    auto* button = new QPushButton(words);
    button->setObjectName(QLatin1String(name));
    button->setCheckable(true);
    button->setProperty("segment", place);
    return button;
}

void clearLayout(QLayout* layout) {
    while (auto* item = layout->takeAt(0)) {
        if (item->widget()) item->widget()->deleteLater();
        delete item;
    }
}

}  // namespace vitrine::app
