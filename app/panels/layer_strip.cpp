// Painting of the strip of layers.
#include "layer_strip.h"

#include <QHelpEvent>
#include <QKeyEvent>
#include <QPainter>
#include <QToolTip>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "windows/scene.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {
constexpr int kMargin = 12, kGap = 8, kTop = 8, kName = 20, kSmallest = 40, kLargest = 112;
// Between parts stands what is done with them, between the groups nothing.
constexpr int kSign = 20, kBetween = 32, kHeading = 20, kLine = 15, kSmallestPart = 52;
using Kind = LayerMaps::Kind;

QString nameOf(const LayerMaps::Layer& one) {
    return one.kind == Kind::Part && one.name == "sum" ? LayerStrip::tr("sum") : QString::fromStdString(one.name);
}

/// What all layers' names end with is no news: "blocks.7" of "blocks.7.norm1". Bias and sum come last.
std::size_t commonEnding(const std::vector<LayerMaps::Layer>& layers) {
    std::string ending;
    bool first = true;
    for (const auto& one : layers) {
        if (one.kind != Kind::Part || one.name == "bias") break;
        const auto dot = one.name.rfind('.');
        const auto own = dot == std::string::npos || dot == 0 ? std::string() : one.name.substr(dot);
        if (!first && own != ending) return 0;
        ending = own;
        first = false;
    }
    // "features.16" ends with what tells it apart.
    return ending.find_first_not_of(".0123456789") == std::string::npos ? 0 : ending.size();
}

/// "+0.31", of all its cells.
QString signedMean(const Plane& plane) {
    double sum = 0;
    for (const float v : *plane.values) sum += v;
    const double mean = sum / static_cast<double>(std::max<std::size_t>(1, plane.values->size()));
    return (mean < 0 ? QStringLiteral("\u2212") : QStringLiteral("+")) + QString::number(std::abs(mean), 'f', 2);
}

QString tipOf(const LayerMaps::Layer& one) {
    const auto name = nameOf(one);
    if (one.kind == Kind::Layer) return LayerStrip::tr("%1\nA click reads this layer").arg(name);
    if (one.kind == Kind::Class)
        return LayerStrip::tr("%1, %2\nA click explains this class; the model is not run again")
                   .arg(name, percent(one.probability)) +
               (one.probability < LayerMaps::kWeak
                    ? LayerStrip::tr("\n* Weakly trained: masks of improbable classes have seen little of them")
                    : QString());
    if (!one.plane) return name;
    const auto range = one.plane->low == one.plane->high
                           ? signedMean(*one.plane)
                           : LayerStrip::tr("from %1 to %2, mean %3")
                                 .arg(value(one.plane->low), value(one.plane->high), signedMean(*one.plane));
    return (one.name == "sum"    ? LayerStrip::tr("The mask's own numbers: the layers and the bias together")
            : one.name == "bias" ? LayerStrip::tr("The bias, the same everywhere")
                                 : LayerStrip::tr("What %1 adds to the mask's numbers").arg(name)) +
           QLatin1Char('\n') + range + LayerStrip::tr("\nA click shows it, another takes it back");
}
}  // namespace

LayerStrip::LayerStrip(LayerMaps& maps, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), maps_(maps), settings_(settings) {
    setObjectName(QStringLiteral("layerStrip"));
    setAccessibleName(tr("The method's map at every layer"));
    setMouseTracking(true);
    setFocusPolicy(Qt::TabFocus);
    connect(&maps, &LayerMaps::changed, this, &LayerStrip::rebuild);
    connect(&maps, &LayerMaps::litChanged, this, qOverload<>(&QWidget::update));
}

void LayerStrip::rebuild() {
    images_.clear();
    auto settings = settings_;
    settings.range.reset();  // set by hand for one map
    const float reach = maps_.reach();
    for (const auto& layer : maps_.layers()) {
        settings.range.reset();
        if (layer.kind == Kind::Part && reach > 0) settings.range = {-reach, reach};
        images_.push_back(layer.plane && !layer.plane->empty() ? paint_map(*layer.plane, settings) : QImage());
    }
    if (offset_ > std::max(0, full() - width())) offset_ = 0;
    update();
}

bool LayerStrip::parts() const { return !maps_.layers().empty() && maps_.layers().front().kind == Kind::Part; }
int LayerStrip::top() const { return parts() ? kTop + kHeading : kTop; }
int LayerStrip::words() const { return parts() ? 2 * kLine + 2 : kName; }

int LayerStrip::left(int layer) const {
    if (!parts()) return layer * (side() + kGap);
    int x = 0;
    const auto& layers = maps_.layers();
    for (int i = 0; i < layer; ++i) {
        const auto here = layers[static_cast<std::size_t>(i)].kind;
        const bool last = i + 1 == static_cast<int>(layers.size());
        const auto next = last ? here : layers[static_cast<std::size_t>(i) + 1].kind;
        x += side() + (here != next ? kBetween : here == Kind::Part ? kSign : kGap);
    }
    return x;
}

int LayerStrip::full() const {
    const int count = static_cast<int>(maps_.layers().size());
    return count == 0 ? 0 : left(count - 1) + side() + 2 * kMargin;
}

int LayerStrip::side() const {
    if (parts()) {
        int gaps = 0;
        const auto& layers = maps_.layers();
        for (std::size_t i = 1; i < layers.size(); ++i)
            gaps += layers[i].kind != layers[i - 1].kind ? kBetween : layers[i].kind == Kind::Part ? kSign : kGap;
        const int wide = (width() - 2 * kMargin - gaps) / static_cast<int>(layers.size());
        return std::clamp(std::min(height() - top() - words() - 4, wide), kSmallestPart, kLargest);
    }
    const int count = std::max<int>(1, static_cast<int>(maps_.layers().size()));
    const int by_width = (width() - 2 * kMargin + kGap) / count - kGap;
    return std::clamp(std::min(height() - kTop - kName - 4, std::max(by_width, kSmallest)), kSmallest / 2, kLargest);
}

QRect LayerStrip::cell(int layer) const {
    if (layer < 0 || layer >= static_cast<int>(maps_.layers().size())) return {};
    const int s = side();
    return {kMargin - offset_ + left(layer), top(), s, s};
}

int LayerStrip::at(const QPoint& position) const {
    for (int layer = 0; layer < static_cast<int>(maps_.layers().size()); ++layer)
        if (cell(layer).adjusted(-kGap / 2, 0, kGap / 2, words()).contains(position)) return layer;
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
    if (maps_.layers().empty() && maps_.running()) {
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        painter.drawText(rect(), Qt::AlignCenter, tr("Computing"));
        return;
    }
    if (parts()) {
        painter.setFont(sans(11, true));
        painter.setPen(t.secondary);
        for (int layer = 0; layer < static_cast<int>(maps_.layers().size()); ++layer) {
            const auto kind = maps_.layers()[static_cast<std::size_t>(layer)].kind;
            if (layer > 0 && kind == maps_.layers()[static_cast<std::size_t>(layer) - 1].kind) continue;
            const bool weak = maps_.layers().back().probability < LayerMaps::kWeak;
            painter.drawText(QRect(cell(layer).left(), kTop - 4, 640, kHeading), Qt::AlignLeft | Qt::AlignVCenter,
                             kind == Kind::Part ? tr("What each layer adds, on one scale")
                             : weak             ? tr("The most probable classes  (* under 1 %: weakly trained)")
                                                : tr("The most probable classes"));
        }
    }
    const auto ending = static_cast<qsizetype>(commonEnding(maps_.layers()));
    for (int layer = 0; layer < static_cast<int>(maps_.layers().size()); ++layer) {
        const auto box = cell(layer);
        if (box.right() < 0 || box.left() > width()) continue;
        const auto& one = maps_.layers()[static_cast<std::size_t>(layer)];
        const auto& image = images_[static_cast<std::size_t>(layer)];
        painter.fillRect(box, t.faint);
        if (!image.isNull()) {
            painter.setOpacity(maps_.stale() ? 0.5 : 1);
            const auto size = image.size().scaled(box.size(), Qt::KeepAspectRatio);
            const QRect of_map(box.center().x() - size.width() / 2 + 1, box.center().y() - size.height() / 2 + 1,
                               size.width(), size.height());
            painter.drawImage(of_map, image);
            painter.setOpacity(1);
            if (maps_.lit()) outline_concepts(painter, *maps_.lit(), of_map);
        } else if (!one.trouble.isEmpty()) {
            painter.drawPixmap(box.center().x() - 8, box.center().y() - 8,
                               iconPixmap(QStringLiteral("warning"), t.warning, 16, devicePixelRatioF()));
        }
        const bool is = maps_.isChosen(layer);
        if (is || layer == hovered_) {
            painter.setBrush(Qt::NoBrush);
            painter.setPen(QPen(is ? t.accent : t.text, is ? 2 : 1));
            painter.drawRect(QRectF(box).adjusted(-1, -1, 1, 1));
        }
        painter.setFont(one.kind == Kind::Class ? sans(11) : mono(11));
        painter.setPen(is ? t.accent : t.secondary);
        const QRect under(box.left() - kGap / 2, box.bottom() + 2, box.width() + kGap, parts() ? kLine : kName);
        auto name = nameOf(one);
        if (one.kind == Kind::Part && one.name != "bias" && one.name != "sum") name.chop(ending);
        const auto elide = one.kind == Kind::Class  ? Qt::ElideRight
                           : one.kind == Kind::Part ? Qt::ElideLeft
                                                    : Qt::ElideMiddle;
        painter.drawText(under, Qt::AlignCenter, painter.fontMetrics().elidedText(name, elide, under.width()));
        if (!parts()) continue;
        painter.setFont(one.kind == Kind::Class ? sans(11) : mono(11));
        const bool weak = one.kind == Kind::Class && one.probability < LayerMaps::kWeak;
        QString second = one.kind == Kind::Class ? percent(one.probability) : QString();
        if (weak) second += QStringLiteral(" *");
        if (one.kind == Kind::Part && one.plane) second = signedMean(*one.plane);
        painter.drawText(under.translated(0, kLine), Qt::AlignCenter, second);
        const auto i = static_cast<std::size_t>(layer);
        if (one.kind != Kind::Part || i + 1 >= maps_.layers().size() || maps_.layers()[i + 1].kind != Kind::Part)
            continue;
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        const bool equals = i + 2 >= maps_.layers().size() || maps_.layers()[i + 2].kind != Kind::Part;
        painter.drawText(QRect(box.right() + 1, box.top(), kSign, box.height()), Qt::AlignCenter,
                         equals ? QStringLiteral("=") : QStringLiteral("+"));
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
    const int next = std::clamp(maps_.chosen() + step, 0, std::max(0, static_cast<int>(maps_.layers().size()) - 1));
    if (next != maps_.chosen()) maps_.choose(next);
}

void LayerStrip::wheelEvent(QWheelEvent* event) {
    const int delta = event->angleDelta().x() != 0 ? event->angleDelta().x() : event->angleDelta().y();
    offset_ = std::clamp(offset_ - delta / 2, 0, std::max(0, full() - width()));
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
    QToolTip::showText(
        help->globalPos(),
        one.trouble.isEmpty() ? tipOf(one) : QString::fromStdString(one.name) + QLatin1Char('\n') + one.trouble, this);
    return true;
}

}  // namespace vitrine::app
