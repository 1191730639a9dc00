// Points are written into an image of their own, pixel by pixel: with 16,384 of them QPainter's calls would take most
// of a frame. Hovering draws only ring and card over it.
#include "concept_map.h"

#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

#include <vitrine/viz/scene.h>

#include "panels/concept_grid.h"
#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr double kMargin = 24, kReach = 12;
constexpr int kCardCrop = 64, kCardCrops = 3;

}  // namespace

ConceptMap::ConceptMap(ConceptGallery& gallery, QWidget* parent) : QWidget(parent), gallery_(gallery) {
    setObjectName(QStringLiteral("conceptMap"));
    setAccessibleName(tr("Map of all concepts"));
    setMouseTracking(true);
    setFocusPolicy(Qt::StrongFocus);
    setMinimumSize(200, 160);
    connect(&gallery, &ConceptGallery::listChanged, this, &ConceptMap::take);
    connect(&gallery, &ConceptGallery::selectedChanged, this, qOverload<>(&QWidget::update));
    connect(&gallery, &ConceptGallery::picturesChanged, this, [this] {
        if (hovered_ >= 0) update();
    });
}

void ConceptMap::restyle() { take(); }

void ConceptMap::take() {
    colours_.clear();
    order_.clear();
    bounds_ = {};
    dirty_ = true;
    update();
    const auto* index = gallery_.index();
    if (index != of_) {
        of_ = index;
        fitted_ = true;
        hovered_ = -1;
    }
    if (!index) return;
    const auto points = index->map();
    const auto count = std::min<std::size_t>(points.size() / 2, static_cast<std::size_t>(index->latents()));
    float low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
    for (std::size_t i = 0; i < 2 * count; ++i) {
        if (!std::isfinite(points[i])) continue;
        low[i % 2] = std::min(low[i % 2], points[i]);
        high[i % 2] = std::max(high[i % 2], points[i]);
    }
    if (!(low[0] <= high[0]) || !(low[1] <= high[1])) return;
    bounds_ = QRectF(QPointF(low[0], low[1]), QPointF(high[0], high[1]));
    // How often it speaks, from once in a hundred thousand patches to one in ten; what is not shown steps back.
    const auto& t = Theme::now();
    const auto frequency = index->column("frequency");
    colours_.resize(count);
    order_.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        const double f = i < frequency.size() ? static_cast<double>(frequency[i]) : 0;
        const auto share = f > 0 ? std::clamp((std::log10(f) + 5) / 4, 0.0, 1.0) : 0;
        const auto c = viz::colour_at(viz::ColourMap::Viridis, t.dark ? 0.25 + 0.75 * share : 0.85 * share);
        const bool shown = gallery_.isShown(static_cast<std::int64_t>(i));
        colours_[i] = shown ? qRgb(c.r, c.g, c.b) : t.line.rgb();
        if (!shown) order_.push_back(static_cast<std::uint32_t>(i));
    }
    for (std::size_t i = 0; i < count; ++i)
        if (gallery_.isShown(static_cast<std::int64_t>(i))) order_.push_back(static_cast<std::uint32_t>(i));
    if (fitted_) fit();
}

void ConceptMap::fit() {
    fitted_ = true;
    dirty_ = true;
    centre_ = bounds_.center();
    const double wide = std::max(bounds_.width(), 1e-9), high = std::max(bounds_.height(), 1e-9);
    scale_ = std::max(1e-9, std::min((width() - 2 * kMargin) / wide, (height() - 2 * kMargin) / high));
    update();
}

QPointF ConceptMap::placeOf(std::int64_t latent) const {
    const auto points = gallery_.index()->map();
    const auto at = 2 * static_cast<std::size_t>(latent);
    return QPointF((static_cast<double>(points[at]) - centre_.x()) * scale_ + width() / 2.0,
                   (static_cast<double>(points[at + 1]) - centre_.y()) * scale_ + height() / 2.0);
}

void ConceptMap::showSelected() {
    const auto latent = gallery_.selected();
    if (latent < 0 || static_cast<std::size_t>(latent) >= colours_.size()) return;
    if (!rect().adjusted(8, 8, -8, -8).contains(placeOf(latent).toPoint())) {
        const auto points = gallery_.index()->map();
        const auto at = 2 * static_cast<std::size_t>(latent);
        centre_ = QPointF(static_cast<double>(points[at]), static_cast<double>(points[at + 1]));
        fitted_ = false;
        dirty_ = true;
    }
    update();
}

void ConceptMap::drawPoints() {
    const double ratio = devicePixelRatioF();
    const QSize size = (QSizeF(this->size()) * ratio).toSize();
    if (points_.size() != size) points_ = QImage(size, QImage::Format_RGB32);
    points_.fill(Theme::now().room);
    const auto points = gallery_.index()->map();
    // As large as there is room for: close by, a point is a disc that one can hit.
    const double density =
        std::sqrt(static_cast<double>(width()) * height() / std::max<std::size_t>(colours_.size(), 1));
    const double zoom = bounds_.width() > 0 ? scale_ * bounds_.width() / width() : 1;
    const int r = static_cast<int>(std::lround(std::clamp(density * std::sqrt(zoom) / 6, 1.0, 6.0) * ratio));
    std::vector<int> half;  // of each row of the disc
    for (int y = -r; y <= r; ++y) half.push_back(static_cast<int>(std::sqrt((r + 0.5) * (r + 0.5) - y * y)));
    const double sx = scale_ * ratio, ox = size.width() / 2.0 - centre_.x() * sx,
                 oy = size.height() / 2.0 - centre_.y() * sx;
    auto* bits = reinterpret_cast<QRgb*>(points_.bits());
    const auto stride = points_.bytesPerLine() / static_cast<qsizetype>(sizeof(QRgb));
    for (const auto latent : order_) {
        const double px = static_cast<double>(points[2 * latent]) * sx + ox,
                     py = static_cast<double>(points[2 * latent + 1]) * sx + oy;
        if (!(px > -r && py > -r && px < size.width() + r && py < size.height() + r)) continue;  // no number: neither
        const int x = static_cast<int>(px), y = static_cast<int>(py);
        for (int dy = -r; dy <= r; ++dy) {
            if (y + dy < 0 || y + dy >= size.height()) continue;
            const int reach = half[static_cast<std::size_t>(dy + r)];
            const int from = std::max(0, x - reach), to = std::min(size.width() - 1, x + reach);
            auto* row = bits + (y + dy) * stride;
            for (int at = from; at <= to; ++at) row[at] = colours_[latent];
        }
    }
    points_.setDevicePixelRatio(ratio);
    dirty_ = false;
}

void ConceptMap::paintEvent(QPaintEvent*) {
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    const auto& t = Theme::now();
    if (colours_.empty()) {
        painter.fillRect(rect(), t.room);
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(24, 24, -24, -24), Qt::AlignCenter | Qt::TextWordWrap,
                         tr("This index has no map"));
        return;
    }
    if (dirty_ || points_.size() != (QSizeF(size()) * devicePixelRatioF()).toSize()) drawPoints();
    painter.drawImage(0, 0, points_);
    const auto ring = [&](std::int64_t latent, const QColor& colour) {
        if (latent < 0 || static_cast<std::size_t>(latent) >= colours_.size()) return;
        painter.setBrush(Qt::NoBrush);
        painter.setPen(QPen(t.room, 4));
        painter.drawEllipse(placeOf(latent), 8, 8);
        painter.setPen(QPen(colour, 2));
        painter.drawEllipse(placeOf(latent), 8, 8);
    };
    // The way to the neighbours of what is looked at.
    if (const auto selected = gallery_.selected();
        selected >= 0 && static_cast<std::size_t>(selected) < colours_.size()) {
        painter.setPen(QPen(t.secondary, 1));
        for (const auto& one : gallery_.index()->neighbours(selected))
            if (one.latent < colours_.size()) painter.drawLine(placeOf(selected), placeOf(one.latent));
        ring(selected, t.accent);
    }
    ring(hovered_, t.text);
    painter.setFont(sans(11));
    const auto legend = painter.fontMetrics().elidedText(
        tr("Near: like directions. Colour: how often it speaks, dark seldom, yellow often"), Qt::ElideRight,
        width() - 24);
    const QRectF ground(8, height() - 24, painter.fontMetrics().horizontalAdvance(legend) + 8, 20);
    painter.fillRect(ground, t.room);
    painter.setPen(t.secondary);
    painter.drawText(ground, Qt::AlignCenter, legend);
    if (hovered_ >= 0) paintCard(painter, hovered_);
}

void ConceptMap::paintCard(QPainter& painter, std::int64_t latent) {
    const auto& t = Theme::now();
    const auto tops = gallery_.tops(latent);
    const int crops = std::min<int>(kCardCrops, static_cast<int>(tops.size()));
    constexpr int kWide = 16 + kCardCrops * kCardCrop + (kCardCrops - 1) * 4;
    const int high = 48 + (crops > 0 ? kCardCrop + 4 : 0);
    const auto place = placeOf(latent);
    QRectF card(place.x() + 16, place.y() + 16, kWide, high);
    if (card.right() > width() - 4) card.moveRight(place.x() - 16);
    if (card.bottom() > height() - 4) card.moveBottom(place.y() - 16);
    card.moveLeft(std::max(4.0, card.left()));
    card.moveTop(std::max(4.0, card.top()));
    QPainterPath round;
    round.addRoundedRect(card, 6, 6);
    painter.fillPath(round, t.raised);
    painter.strokePath(round, QPen(t.line));
    painter.setFont(sans(13, !gallery_.nameOf(latent).isEmpty()));
    painter.setPen(t.text);
    painter.drawText(card.adjusted(8, 6, -8, 0), Qt::AlignLeft | Qt::AlignTop,
                     painter.fontMetrics().elidedText(gallery_.titleOf(latent), Qt::ElideRight, kWide - 16));
    painter.setFont(mono(11));
    painter.setPen(t.secondary);
    painter.drawText(card.adjusted(8, 26, -8, 0), Qt::AlignLeft | Qt::AlignTop, QString::number(latent));
    painter.drawText(card.adjusted(8, 26, -8, 0), Qt::AlignRight | Qt::AlignTop,
                     tops.empty() ? tr("silent") : share_words(gallery_.figure("frequency", latent)));
    painter.setRenderHint(QPainter::SmoothPixmapTransform);
    for (int i = 0; i < crops; ++i)
        paintCrop(painter, QRectF(card.x() + 8 + i * (kCardCrop + 4), card.y() + 44, kCardCrop, kCardCrop),
                  gallery_.crop(tops[static_cast<std::size_t>(i)]));
}

void ConceptMap::setHovered(std::int64_t latent) {
    if (latent == hovered_) return;
    hovered_ = latent;
    setCursor(latent >= 0 ? Qt::PointingHandCursor : Qt::ArrowCursor);
    update();
}

void ConceptMap::resizeEvent(QResizeEvent*) {
    dirty_ = true;
    if (fitted_) fit();
}

void ConceptMap::mouseMoveEvent(QMouseEvent* event) {
    if (colours_.empty()) return;
    const auto at = event->position();
    if (dragging_) {
        if ((at - pressed_at_).manhattanLength() > 4) moved_ = true;
        if (moved_) {
            centre_ -= (at - last_) / scale_;
            fitted_ = false;
            dirty_ = true;
            setHovered(-1);
            update();
        }
        last_ = at;
        return;
    }
    const auto x = (at.x() - width() / 2.0) / scale_ + centre_.x(),
               y = (at.y() - height() / 2.0) / scale_ + centre_.y();
    setHovered(nearest_point(gallery_.index()->map().first(2 * colours_.size()), static_cast<float>(x),
                             static_cast<float>(y), static_cast<float>(kReach / scale_)));
}

void ConceptMap::mousePressEvent(QMouseEvent* event) {
    if (event->button() != Qt::LeftButton && event->button() != Qt::MiddleButton) return;
    dragging_ = true;
    moved_ = false;
    pressed_at_ = last_ = event->position();
}

void ConceptMap::mouseReleaseEvent(QMouseEvent* event) {
    const bool click = dragging_ && !moved_ && event->button() == Qt::LeftButton;
    dragging_ = false;
    if (!click || hovered_ < 0) return;
    gallery_.select(hovered_);
    Q_EMIT detailsWanted();
}

void ConceptMap::mouseDoubleClickEvent(QMouseEvent*) {
    if (hovered_ < 0) fit();
}

void ConceptMap::zoomAt(QPointF at, double factor) {
    if (colours_.empty()) return;
    const QPointF from = at - QPointF(width(), height()) / 2.0;
    const double wide = std::max(bounds_.width(), 1e-9);
    const double after = std::clamp(scale_ * factor, 0.2 * width() / wide, 500.0 * width() / wide);
    centre_ += from / scale_ - from / after;
    scale_ = after;
    fitted_ = false;
    dirty_ = true;
    update();
}

void ConceptMap::wheelEvent(QWheelEvent* event) {
    zoomAt(event->position(), std::pow(1.0015, event->angleDelta().y()));
    event->accept();
}

void ConceptMap::keyPressEvent(QKeyEvent* event) {
    const double step = 48 / scale_;
    switch (event->key()) {
        case Qt::Key_Left:
            centre_.rx() -= step;
            break;
        case Qt::Key_Right:
            centre_.rx() += step;
            break;
        case Qt::Key_Up:
            centre_.ry() -= step;
            break;
        case Qt::Key_Down:
            centre_.ry() += step;
            break;
        default:
            return QWidget::keyPressEvent(event);
    }
    fitted_ = false;
    dirty_ = true;
    update();
}

void ConceptMap::leaveEvent(QEvent*) { setHovered(-1); }

}  // namespace vitrine::app
