// Painting of the strip of layers.
#include "layer_strip.h"

#include <QHelpEvent>
#include <QKeyEvent>
#include <QPainter>
#include <QToolTip>

#include <algorithm>

#include "windows/scene.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {
constexpr int kMargin = 12, kGap = 8, kTop = 8, kName = 20, kSmallest = 40, kLargest = 112;
}

LayerStrip::LayerStrip(LayerMaps& maps, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), maps_(maps), settings_(settings) {
    setObjectName(QStringLiteral("layerStrip"));
    setAccessibleName(tr("The method's map at every layer"));
    setMouseTracking(true);
    setFocusPolicy(Qt::TabFocus);
    connect(&maps, &LayerMaps::changed, this, &LayerStrip::rebuild);
}

void LayerStrip::rebuild() {
    images_.clear();
    auto settings = settings_;
    settings.range.reset();  // set by hand for one map
    for (const auto& layer : maps_.layers())
        images_.push_back(layer.plane && !layer.plane->empty() ? paint_map(*layer.plane, settings) : QImage());
    update();
}

int LayerStrip::side() const {
    const int count = std::max<int>(1, static_cast<int>(maps_.layers().size()));
    const int by_width = (width() - 2 * kMargin + kGap) / count - kGap;
    return std::clamp(std::min(height() - kTop - kName - 4, std::max(by_width, kSmallest)), kSmallest / 2, kLargest);
}

QRect LayerStrip::cell(int layer) const {
    if (layer < 0 || layer >= static_cast<int>(maps_.layers().size())) return {};
    const int s = side();
    return {kMargin - offset_ + layer * (s + kGap), kTop, s, s};
}

int LayerStrip::at(const QPoint& position) const {
    for (int layer = 0; layer < static_cast<int>(maps_.layers().size()); ++layer)
        if (cell(layer).adjusted(-kGap / 2, 0, kGap / 2, kName).contains(position)) return layer;
    return -1;
}

void LayerStrip::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.fillRect(rect(), t.panel);
    painter.setRenderHint(QPainter::Antialiasing);
    if (const auto why = maps_.whyNot(); !why.isEmpty()) {
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(kMargin, 0, -kMargin, 0), Qt::AlignCenter | Qt::TextWordWrap, why);
        return;
    }
    const int chosen = maps_.chosen();
    for (int layer = 0; layer < static_cast<int>(maps_.layers().size()); ++layer) {
        const auto box = cell(layer);
        if (box.right() < 0 || box.left() > width()) continue;
        const auto& one = maps_.layers()[static_cast<std::size_t>(layer)];
        const auto& image = images_[static_cast<std::size_t>(layer)];
        painter.fillRect(box, t.faint);
        if (!image.isNull()) {
            painter.setOpacity(maps_.stale() ? 0.5 : 1);
            const auto size = image.size().scaled(box.size(), Qt::KeepAspectRatio);
            painter.drawImage(QRect(box.center().x() - size.width() / 2 + 1, box.center().y() - size.height() / 2 + 1,
                                    size.width(), size.height()),
                              image);
            painter.setOpacity(1);
        } else if (!one.trouble.isEmpty()) {
            painter.drawPixmap(box.center().x() - 8, box.center().y() - 8,
                               iconPixmap(QStringLiteral("warning"), t.warning, 16, devicePixelRatioF()));
        }
        if (layer == chosen || layer == hovered_) {
            const bool is = layer == chosen;
            painter.setBrush(Qt::NoBrush);
            painter.setPen(QPen(is ? t.accent : t.text, is ? 2 : 1));
            painter.drawRect(QRectF(box).adjusted(-1, -1, 1, 1));
        }
        painter.setFont(mono(11));
        painter.setPen(layer == chosen ? t.accent : t.secondary);
        const QRect under(box.left() - kGap / 2, box.bottom() + 2, box.width() + kGap, kName);
        painter.drawText(
            under, Qt::AlignCenter,
            painter.fontMetrics().elidedText(QString::fromStdString(one.name), Qt::ElideMiddle, under.width()));
    }
}

void LayerStrip::mouseMoveEvent(QMouseEvent* event) {
    hovered_ = at(event->pos());
    setCursor(hovered_ >= 0 ? Qt::PointingHandCursor : Qt::ArrowCursor);
    update();
}

void LayerStrip::leaveEvent(QEvent*) {
    hovered_ = -1;
    update();
}

void LayerStrip::mouseReleaseEvent(QMouseEvent* event) {
    if (event->button() == Qt::LeftButton) maps_.choose(at(event->pos()));
}

void LayerStrip::keyPressEvent(QKeyEvent* event) {
    const int step = event->key() == Qt::Key_Left ? -1 : event->key() == Qt::Key_Right ? 1 : 0;
    if (step == 0) return QWidget::keyPressEvent(event);
    maps_.choose(std::clamp(maps_.chosen() + step, 0, std::max(0, static_cast<int>(maps_.layers().size()) - 1)));
}

void LayerStrip::wheelEvent(QWheelEvent* event) {
    const int full = static_cast<int>(maps_.layers().size()) * (side() + kGap) - kGap + 2 * kMargin;
    const int delta = event->angleDelta().x() != 0 ? event->angleDelta().x() : event->angleDelta().y();
    offset_ = std::clamp(offset_ - delta / 2, 0, std::max(0, full - width()));
    update();
}

bool LayerStrip::event(QEvent* event) {
    if (event->type() == QEvent::Resize) offset_ = 0;
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    const int layer = at(help->pos());
    if (layer < 0) {
        QToolTip::hideText();
        return true;
    }
    const auto& one = maps_.layers()[static_cast<std::size_t>(layer)];
    QToolTip::showText(help->globalPos(),
                       one.trouble.isEmpty() ? tr("%1\nA click reads this layer").arg(QString::fromStdString(one.name))
                                             : QString::fromStdString(one.name) + QLatin1Char('\n') + one.trouble,
                       this);
    return true;
}

}  // namespace vitrine::app
