// Three curves, told apart by colour and stroke: the concept, other concepts and directions by chance.
#include "steer_curve_view.h"

#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>

#include <algorithm>
#include <array>
#include <cmath>

#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kLegendRow = 18, kLeft = 40, kRight = 10, kBelow = 20, kHead = 14;

struct Line {
    QString name;
    double SteerCurve::Point::*value;
};

std::array<Line, 3> lines() {
    return {Line{SteerCurveView::tr("this concept"), &SteerCurve::Point::divergence},
            Line{SteerCurveView::tr("others"), &SteerCurve::Point::concepts},
            Line{SteerCurveView::tr("directions"), &SteerCurve::Point::directions}};
}

QPen penOf(std::size_t line) {
    const auto& t = Theme::now();
    QPen pen(line == 0 ? t.accent : line == 1 ? t.warning : t.secondary, line == 0 ? 2 : 1.5);
    if (line == 1) pen.setDashPattern({6, 2});
    if (line == 2) pen.setDashPattern({2, 2});
    pen.setCapStyle(Qt::FlatCap);
    return pen;
}

/// 1, 2 or 5 times a power of ten, at least as large.
double roundedUp(double value) {
    const double power = std::pow(10.0, std::floor(std::log10(value)));
    for (const double factor : {1.0, 2.0, 5.0})
        if (factor * power >= value * (1 - 1e-9)) return factor * power;
    return 10 * power;
}

}  // namespace

SteerCurveView::SteerCurveView(QWidget* parent) : QWidget(parent) {
    setObjectName(QStringLiteral("steerCurve"));
    setMouseTracking(true);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("How far the concept steers"));
}

void SteerCurveView::setCurve(const std::optional<SteerCurve>& curve, const QString& words) {
    curve_ = curve;
    words_ = words;
    under_.reset();
    setToolTip({});
    setAccessibleDescription(curve_ && !curve_->points.empty()
                                 ? wordsAt(0) + QStringLiteral("; ") + wordsAt(curve_->points.size() - 1)
                                 : words);
    update();
}

QString SteerCurveView::wordsAt(std::size_t point) const {
    const auto& p = curve_->points[point];
    return tr("\u00d7 %1: KL %2 nats, %3 of the five likeliest changed, %4\n"
              "%5 other concepts: %6 on average, %7 at most\n%8 directions by chance: %9 on average, %10 at most")
        .arg(QString::number(p.value, 'g', 3), value(p.divergence), QString::number(p.changed),
             QString::fromStdString(p.top) + QLatin1Char(' ') + percent(p.probability))
        .arg(curve_->concepts)
        .arg(value(p.concepts), value(p.concepts_most))
        .arg(curve_->directions)
        .arg(value(p.directions), value(p.directions_most));
}

QRectF SteerCurveView::plot() const {
    return QRectF(kLeft, kLegendRow + kHead, width() - kLeft - kRight, height() - kLegendRow - kHead - kBelow);
}

double SteerCurveView::xOf(double value) const {
    const auto box = plot();
    const double first = curve_->points.front().value, last = curve_->points.back().value;
    return box.left() + box.width() * (value - first) / std::max(1e-9, last - first);
}

void SteerCurveView::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    if (!curve_ || curve_->points.empty()) {
        QPainterPath frame;
        frame.addRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6);
        painter.strokePath(frame, QPen(t.line));
        painter.setFont(sans(11));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(24, 12, -24, -12), Qt::AlignCenter | Qt::TextWordWrap, words_);
        return;
    }
    const auto box = plot();
    double high = 0;
    for (const auto& p : curve_->points)
        for (const auto& line : lines())
            if (std::isfinite(p.*line.value)) high = std::max(high, p.*line.value);
    const double step = roundedUp(std::max(high, 1e-6) / 3);
    high = step * std::ceil(high / step - 1e-9);
    if (!(high > 0)) high = step;
    const auto yOf = [&](double v) { return box.bottom() - box.height() * std::clamp(v / high, 0.0, 1.0); };
    painter.setFont(mono(11));
    for (double v = 0; v <= high * 1.001; v += step) {
        const double y = std::round(yOf(v)) + 0.5;
        painter.setPen(t.line);
        painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y));
        painter.setPen(t.secondary);
        painter.drawText(QRectF(0, y - 8, kLeft - 6, 16), Qt::AlignRight | Qt::AlignVCenter,
                         QString::number(v, 'g', 2));
    }
    painter.setPen(t.secondary);
    for (const double v : {curve_->points.front().value, 0.0, curve_->points.back().value}) {
        const QRectF at(std::clamp(xOf(v) - 24, 0.0, static_cast<double>(width()) - 48), box.bottom() + 4, 48, 16);
        painter.drawText(at, xOf(v) + 24 > width() ? Qt::AlignRight : Qt::AlignHCenter,
                         (v == 0 ? QString() : QStringLiteral("\u00d7")) +
                             (v < 0 ? QStringLiteral("\u2212") : QString()) + QString::number(std::abs(v), 'g', 3));
    }
    if (under_) {
        const double x = std::round(xOf(curve_->points[*under_].value)) + 0.5;
        painter.drawLine(QPointF(x, box.top()), QPointF(x, box.bottom()));
    }
    const auto all = lines();
    for (std::size_t i = all.size(); i-- > 0;) {
        QPolygonF line;
        for (const auto& p : curve_->points)
            if (std::isfinite(p.*all[i].value)) line << QPointF(xOf(p.value), yOf(p.*all[i].value));
        painter.setPen(penOf(i));
        painter.setBrush(Qt::NoBrush);
        painter.drawPolyline(line);
        if (i > 0) continue;
        painter.setPen(Qt::NoPen);
        painter.setBrush(t.accent);
        for (const auto& point : line) painter.drawEllipse(point, 2.5, 2.5);
    }
    // How many of the five likeliest are others now.
    painter.setPen(t.text);
    for (const auto& p : curve_->points)
        if (p.changed > 0 && std::isfinite(p.divergence))
            painter.drawText(QRectF(xOf(p.value) - 10, yOf(p.divergence) - 17, 20, 14), Qt::AlignCenter,
                             QString::number(p.changed));
    const QFontMetrics letters(sans(11));
    int x = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        painter.setPen(penOf(i));
        painter.drawLine(QPointF(x, kLegendRow / 2 + 0.5), QPointF(x + 14, kLegendRow / 2 + 0.5));
        painter.setFont(sans(11));
        painter.setPen(t.text);
        painter.drawText(QRect(x + 20, 0, letters.horizontalAdvance(all[i].name) + 4, kLegendRow),
                         Qt::AlignLeft | Qt::AlignVCenter, all[i].name);
        x += 20 + letters.horizontalAdvance(all[i].name) + 14;
    }
    painter.setPen(t.secondary);
    painter.drawText(QRect(0, 0, width() - 1, kLegendRow), Qt::AlignRight | Qt::AlignVCenter, tr("KL"));
}

void SteerCurveView::mouseMoveEvent(QMouseEvent* event) {
    if (!curve_ || curve_->points.empty()) return;
    const auto& points = curve_->points;
    const double x = event->position().x();
    const auto nearest = std::min_element(points.begin(), points.end(), [&](const auto& a, const auto& b) {
        return std::abs(xOf(a.value) - x) < std::abs(xOf(b.value) - x);
    });
    under_ = static_cast<std::size_t>(nearest - points.begin());
    setToolTip(wordsAt(*under_));
    update();
}

void SteerCurveView::leaveEvent(QEvent*) {
    under_.reset();
    update();
}

}  // namespace vitrine::app
