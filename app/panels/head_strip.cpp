// Small multiples of attention.
#include "head_strip.h"

#include <QHelpEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>
#include <QToolTip>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

#include "windows/scene.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kMargin = 12, kGap = 2, kBlockGap = 10, kTop = 20, kSmallest = 12, kLargest = 64;

Plane mean_of(const std::vector<Plane>& heads) {
    const auto& first = heads.front();
    std::vector<float> sum(first.values->size(), 0.0F);
    for (const auto& head : heads)
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += (*head.values)[i] / static_cast<float>(heads.size());
    return make_plane(first.rows, first.cols, std::move(sum), false, false);
}

}  // namespace

HeadStrip::HeadStrip(Session& session, QWidget* parent) : QWidget(parent), session_(session) {
    setObjectName(QStringLiteral("headStrip"));
    setAccessibleName(tr("Layers and heads"));
    setMouseTracking(true);
    connect(&session, &Session::stripChanged, this, &HeadStrip::rebuild);
    connect(&session, &Session::evidenceChanged, this, qOverload<>(&QWidget::update));
    connect(&session, &Session::lookChanged, this, qOverload<>(&QWidget::update));
}

QSize HeadStrip::minimumSizeHint() const { return {240, kTop + 2 * kSmallest + 24}; }

void HeadStrip::setColours(viz::ColourMap colours) {
    colours_ = colours;
    rebuild();
}

void HeadStrip::rebuild() {
    images_.clear();
    if (const auto& strip = session_.strip()) {
        for (const auto& heads : strip->layers) {
            auto& row = images_.emplace_back();
            if (heads.empty()) continue;
            ViewSettings settings;
            settings.colours = colours_;
            row.push_back(paint_map(mean_of(heads), settings));
            for (const auto& head : heads) row.push_back(paint_map(head, settings));
        }
    }
    update();
}

HeadStrip::Shape HeadStrip::shape() const {
    std::size_t cells = 1;
    std::size_t layers = 1;
    if (const auto& look = session_.look()) {
        layers = std::max<std::size_t>(1, look->heads.size());
        for (const auto heads : look->heads) cells = std::max(cells, static_cast<std::size_t>(heads) + 1);
    }
    // The block's columns are chosen so that cells become as large as width and height allow.
    Shape best;
    best.side = 0;
    const int count = static_cast<int>(cells);
    for (int columns = 1; columns <= count; ++columns) {
        const int rows = (count + columns - 1) / columns;
        const int by_height = (height() - kTop - 12 - (rows - 1) * kGap) / rows;
        const int by_width =
            ((width() - 2 * kMargin + kBlockGap) / static_cast<int>(layers) - kBlockGap - (columns - 1) * kGap) /
            columns;
        const int side = std::min({by_height, by_width, kLargest});
        if (side > best.side) best = {columns, rows, side, 0};
    }
    if (best.side < kSmallest) {
        // Too many to see at once: the height decides and the strip scrolls.
        best.rows = std::max(1, (height() - kTop - 12 + kGap) / (kSmallest + 4 + kGap));
        best.columns = (count + best.rows - 1) / best.rows;
        best.rows = (count + best.columns - 1) / best.columns;
        best.side = std::max(kSmallest, (height() - kTop - 12 - (best.rows - 1) * kGap) / best.rows);
    }
    best.block = best.columns * (best.side + kGap) - kGap + kBlockGap;
    return best;
}

QRect HeadStrip::cell(int layer, int head) const {
    const auto& look = session_.look();
    if (!look || layer < 0 || layer >= static_cast<int>(look->heads.size()) ||
        head + 1 > look->heads[static_cast<std::size_t>(layer)])
        return {};
    const auto s = shape();
    const int index = head + 1;
    return {kMargin - offset_ + layer * s.block + (index % s.columns) * (s.side + kGap),
            kTop + (index / s.columns) * (s.side + kGap), s.side, s.side};
}

std::pair<int, int> HeadStrip::at(const QPoint& position) const {
    const auto& look = session_.look();
    if (!look) return {-1, -1};
    for (int layer = 0; layer < static_cast<int>(look->heads.size()); ++layer)
        for (int head = -1; head < static_cast<int>(look->heads[static_cast<std::size_t>(layer)]); ++head)
            if (cell(layer, head).adjusted(-1, -1, 1, 1).contains(position)) return {layer, head};
    return {-1, -1};
}

void HeadStrip::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.fillRect(rect(), t.panel);
    painter.setRenderHint(QPainter::Antialiasing);
    const auto& look = session_.look();
    if (!look || look->heads.empty()) {
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        const auto words = !look ? (session_.looking()  ? tr("Running the model")
                                    : session_.asking() ? tr("The model has not run on this picture yet")
                                                        : tr("Open a model and a picture to see every head here"))
                                 : tr("This model has no attention layers");
        painter.drawText(rect(), Qt::AlignCenter, words);
        return;
    }
    if (!look->no_grid.empty()) {
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(kMargin, 0, -kMargin, 0), Qt::AlignCenter | Qt::TextWordWrap,
                         tr("No maps can be drawn: %1").arg(QString::fromStdString(look->no_grid)));
        return;
    }
    const auto s = shape();
    for (int layer = 0; layer < static_cast<int>(look->heads.size()); ++layer) {
        const int x = kMargin - offset_ + layer * s.block;
        if (x > width() || x + s.block < 0) continue;
        const bool chosen_layer = layer == session_.layer();
        painter.setFont(mono(11));
        painter.setPen(chosen_layer ? t.accent : t.secondary);
        const auto number = QString::number(layer);
        painter.drawText(QRect(x, 0, s.block - kBlockGap, kTop), Qt::AlignLeft | Qt::AlignVCenter,
                         layer == 0 && s.block > 72 ? tr("layer %1").arg(number) : number);
        for (int head = -1; head < static_cast<int>(look->heads[static_cast<std::size_t>(layer)]); ++head) {
            const QRect box = cell(layer, head);
            const auto l = static_cast<std::size_t>(layer), h = static_cast<std::size_t>(head + 1);
            if (l < images_.size() && h < images_[l].size())
                painter.drawImage(box, images_[l][h]);
            else
                painter.fillRect(box, t.faint);
            if (head < 0 && s.side >= 32 && (layer == 0 || hovered_ == std::pair{layer, head})) {
                // The first cell is the mean; said once, and where the cursor is, so that the word does not cover every
                // one of them.
                painter.setFont(sans(11));
                const QRect tag(box.left(), box.bottom() - 14, box.width() + 1, 15);
                painter.fillRect(tag, QColor(0, 0, 0, 130));
                painter.setPen(Qt::white);
                painter.drawText(tag, Qt::AlignCenter, tr("mean"));
            }
            const bool chosen = chosen_layer && head == session_.head();
            if (chosen || hovered_ == std::pair{layer, head}) {
                painter.setBrush(Qt::NoBrush);
                painter.setPen(QPen(chosen ? t.accent : t.text, chosen ? 2 : 1));
                painter.drawRect(
                    QRectF(box).adjusted(chosen ? -1 : -0.5, chosen ? -1 : -0.5, chosen ? 1 : 0.5, chosen ? 1 : 0.5));
            }
        }
    }
}

void HeadStrip::mouseMoveEvent(QMouseEvent* event) {
    const auto now = at(event->pos());
    if (now == hovered_) return;
    hovered_ = now;
    setCursor(now.first >= 0 ? Qt::PointingHandCursor : Qt::ArrowCursor);
    update();
}

void HeadStrip::leaveEvent(QEvent*) {
    hovered_ = {-1, -1};
    update();
}

void HeadStrip::mouseReleaseEvent(QMouseEvent* event) {
    if (event->button() != Qt::LeftButton) return;
    if (const auto [layer, head] = at(event->pos()); layer >= 0) session_.setPlace(layer, head);
}

void HeadStrip::wheelEvent(QWheelEvent* event) {
    const auto& look = session_.look();
    if (!look) return;
    const int full = static_cast<int>(look->heads.size()) * shape().block + 2 * kMargin - kBlockGap;
    const int delta = event->angleDelta().x() != 0 ? event->angleDelta().x() : event->angleDelta().y();
    offset_ = std::clamp(offset_ - delta / 2, 0, std::max(0, full - width()));
    update();
}

bool HeadStrip::event(QEvent* event) {
    if (event->type() == QEvent::Resize) offset_ = 0;
    if (event->type() == QEvent::ToolTip) {
        auto* help = static_cast<QHelpEvent*>(event);
        const auto [layer, head] = at(help->pos());
        if (layer < 0)
            QToolTip::hideText();
        else
            QToolTip::showText(
                help->globalPos(),
                head < 0 ? tr("layer %1, mean over heads").arg(layer) : tr("layer %1 head %2").arg(layer).arg(head),
                this);
        return true;
    }
    return QWidget::event(event);
}

}  // namespace vitrine::app
