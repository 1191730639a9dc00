// Each curve has a colour and a stroke of its own, so that it is told apart without colour too.
#include "curve_view.h"

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

constexpr std::size_t kMost = 5;
constexpr int kLegendRow = 18, kLegend = 2 * kLegendRow + 6, kBelow = 18, kLeft = 40, kRight = 36;

QPen penOf(std::size_t curve) {
    const auto& t = Theme::now();
    const std::array<QColor, kMost> colours{t.text, t.accent, t.warning, t.good,
                                            t.dark ? QColor(0xC0, 0x9A, 0xF2) : QColor(0x7A, 0x4F, 0xC4)};
    const std::array<QList<qreal>, kMost> dashes{QList<qreal>{}, {}, {6, 2}, {2, 2}, {6, 2, 1.5, 2}};
    QPen pen(colours[curve], curve == 0 ? 2 : 1.5);
    if (const auto& dash = dashes[curve]; !dash.isEmpty()) pen.setDashPattern(dash);
    pen.setCapStyle(Qt::FlatCap);
    return pen;
}

/// 1, 2 or 5 times a power of ten, at least as large.
double round_up(double value) {
    const double power = std::pow(10.0, std::floor(std::log10(value)));
    for (const double factor : {1.0, 2.0, 5.0})
        if (factor * power >= value * (1 - 1e-9)) return factor * power;
    return 10 * power;
}

QString tick(double v) { return QString::number(v, 'g', 3); }

}  // namespace

CurveView::CurveView(QWidget* parent) : QWidget(parent) {
    setMouseTracking(true);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Curves of the training"));
}

void CurveView::setCurves(std::vector<Curve> curves) {
    curves_ = std::move(curves);
    curves_.resize(std::min(curves_.size(), kMost));
    update();
}

void CurveView::setPoints(const std::vector<TrainingRun::Point>& points) {
    curve_ = points;
    if (!curve_.empty()) {
        QStringList words;
        for (const auto& curve : curves_) words << curve.name + QLatin1Char(' ') + value(valueOf(curve_.back(), curve));
        setAccessibleDescription(tr("Step %1: %2").arg(curve_.back().step).arg(words.join(QStringLiteral(", "))));
    }
    update();
}

double CurveView::valueOf(const TrainingRun::Point& point, const Curve& curve) const {
    return static_cast<double>(point.values[curve.value]);
}

const TrainingRun::Point& CurveView::pointAt(double x) const {
    return *std::min_element(curve_.begin(), curve_.end(), [&](const auto& a, const auto& b) {
        return std::abs(xOf(a.step) - x) < std::abs(xOf(b.step) - x);
    });
}

void CurveView::setLogarithmic(bool logarithmic) {
    logarithmic_ = logarithmic;
    update();
}

void CurveView::setEmptyWords(const QString& words) {
    empty_ = words;
    update();
}

QRectF CurveView::plot() const {
    return QRectF(kLeft, kLegend + 4, width() - kLeft - kRight, height() - kLegend - 4 - kBelow);
}

double CurveView::xOf(std::int64_t step) const {
    const auto box = plot();
    const auto first = curve_.front().step, last = curve_.back().step;
    if (first == last) return box.center().x();
    return box.left() + box.width() * static_cast<double>(step - first) / static_cast<double>(last - first);
}

void CurveView::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    if (curve_.empty()) {
        QPainterPath frame;
        frame.addRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6);
        painter.strokePath(frame, QPen(t.line));
        painter.setFont(sans(11));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(24, 12, -24, -12), Qt::AlignCenter | Qt::TextWordWrap, empty_);
        return;
    }
    const auto box = plot();
    // The scale of the loss: all that is finite, and in the logarithm above nought.
    double low = INFINITY, high = 0;
    for (const auto& point : curve_)
        for (const auto& curve : curves_) {
            const double v = valueOf(point, curve);
            if (curve.share || !std::isfinite(v)) continue;
            high = std::max(high, v);
            if (v > 0) low = std::min(low, v);
        }
    if (!(high > 0)) high = 1;
    if (!std::isfinite(low)) low = high / 10;
    low = std::max(low, high * 1e-6);
    if (logarithmic_) {
        low = std::pow(10.0, std::floor(std::log10(low) * 2) / 2);
        high = std::max(std::pow(10.0, std::ceil(std::log10(high) * 2) / 2), low * 10);
    } else {
        const double step = round_up(high / 4);
        low = 0;
        high = step * std::ceil(high / step - 1e-9);
    }
    const auto yOf = [&](double v) {
        double share = logarithmic_ ? std::log(std::max(v, low) / low) / std::log(high / low) : v / high;
        return box.bottom() - box.height() * std::clamp(share, 0.0, 1.0);
    };
    painter.setFont(mono(11));
    std::vector<double> ticks;
    if (logarithmic_) {
        for (double power = std::pow(10.0, std::ceil(std::log10(low) - 1e-9)); power <= high * 1.001; power *= 10)
            ticks.push_back(power);
        while (ticks.size() > 5) {
            std::vector<double> fewer;
            for (std::size_t i = 0; i < ticks.size(); i += 2) fewer.push_back(ticks[i]);
            ticks = std::move(fewer);
        }
    } else {
        for (double v = 0, step = round_up(high / 4); v <= high * 1.001; v += step) ticks.push_back(v);
    }
    for (const double v : ticks) {
        const double y = std::round(yOf(v)) + 0.5;
        painter.setPen(t.line);
        painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y));
        painter.setPen(t.secondary);
        painter.drawText(QRectF(0, y - 8, kLeft - 6, 16), Qt::AlignRight | Qt::AlignVCenter, tick(v));
    }
    painter.setPen(t.secondary);
    const bool shares = std::any_of(curves_.begin(), curves_.end(), [](const auto& curve) { return curve.share; });
    for (const int p : {0, 50, 100})
        if (shares)
            painter.drawText(QRectF(box.right() + 6, box.bottom() - box.height() * p / 100 - 8, kRight - 6, 16),
                             Qt::AlignLeft | Qt::AlignVCenter, p == 100 ? QStringLiteral("100%") : QString::number(p));
    const QRectF below(box.left(), box.bottom() + 4, box.width(), kBelow - 4);
    painter.drawText(below, Qt::AlignLeft | Qt::AlignVCenter, tr("step %1").arg(count(curve_.front().step)));
    if (curve_.back().step != curve_.front().step)
        painter.drawText(below, Qt::AlignRight | Qt::AlignVCenter, count(curve_.back().step));

    // No more points than columns: a long run is drawn by its means.
    const std::size_t columns = std::max<std::size_t>(2, static_cast<std::size_t>(box.width()));
    const std::size_t group = (curve_.size() + columns - 1) / columns;
    painter.save();
    painter.setClipRect(box.adjusted(-1, -2, 1, 2));
    for (std::size_t c = curves_.size(); c-- > 0;) {
        QPolygonF line;
        for (std::size_t from = 0; from < curve_.size(); from += group) {
            const std::size_t to = std::min(from + group, curve_.size());
            double sum = 0;
            for (std::size_t i = from; i < to; ++i) sum += valueOf(curve_[i], curves_[c]);
            const double mean = sum / static_cast<double>(to - from);
            if (!std::isfinite(mean)) continue;
            const double y = curves_[c].share ? box.bottom() - box.height() * std::clamp(mean, 0.0, 1.0) : yOf(mean);
            line << QPointF(xOf(curve_[(from + to - 1) / 2].step), y);
        }
        painter.setPen(penOf(c));
        if (line.size() > 1) {
            painter.drawPolyline(line);
        } else if (line.size() == 1) {
            painter.setBrush(penOf(c).color());
            painter.setPen(Qt::NoPen);
            painter.drawEllipse(line[0], 3, 3);
            painter.setBrush(Qt::NoBrush);
        }
    }
    painter.restore();

    // The tooltip tells the figures of the step under the cursor.
    if (cursor_ >= box.left() && cursor_ <= box.right()) {
        painter.setPen(t.secondary);
        const double x = std::round(xOf(pointAt(cursor_).step)) + 0.5;
        painter.drawLine(QPointF(x, box.top()), QPointF(x, box.bottom()));
    }
    const QFontMetrics letters(sans(11));
    int x = 0, row = 0;
    for (std::size_t c = 0; c < curves_.size(); ++c) {
        constexpr int kSample = 20, kGap = 16;
        const int wide = kSample + letters.horizontalAdvance(curves_[c].name);
        if (row == 0 && x + wide > width()) x = 0, row = 1;
        const double y = row * kLegendRow + kLegendRow / 2 + 0.5;
        painter.setPen(penOf(c));
        painter.drawLine(QPointF(x, y), QPointF(x + 14, y));
        painter.setFont(sans(11));
        painter.setPen(t.text);
        painter.drawText(QRect(x + kSample, row * kLegendRow, wide, kLegendRow), Qt::AlignLeft | Qt::AlignVCenter,
                         curves_[c].name);
        x += wide + kGap;
    }
}

void CurveView::mouseMoveEvent(QMouseEvent* event) {
    cursor_ = event->position().x();
    if (!curve_.empty()) {
        const auto& said = pointAt(cursor_);
        QStringList lines{tr("Step %1").arg(count(said.step))};
        for (const auto& curve : curves_) {
            const double v = valueOf(said, curve);
            lines << curve.name + QLatin1Char(' ') + (curve.share ? percent(v) : value(v));
        }
        setToolTip(lines.join(QLatin1Char('\n')));
    }
    update();
}

void CurveView::leaveEvent(QEvent*) {
    cursor_ = -1;
    update();
}

}  // namespace vitrine::app
