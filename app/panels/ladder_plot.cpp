// What is hollow is not to be read; what is not known yet is not there.
#include "ladder_plot.h"

#include <QMouseEvent>
#include <QPainter>
#include <QPainterPath>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kLeft = 42, kRight = 8, kLegendRow = 18, kAbove = 2 * kLegendRow + 8, kBelow = 20, kBetween = 20;
constexpr double kEnoughVariance = 0.5;

/// 1, 2 or 5 times a power of ten: the largest that is no larger, or the smallest that is no smaller.
double round_number(double value, bool up) {
    const double power = std::pow(10.0, std::floor(std::log10(value)));
    double best = up ? 10 * power : power;
    for (const double factor : {1.0, 2.0, 5.0})
        if (up ? factor * power >= value * (1 - 1e-9) && factor * power < best
               : factor * power <= value * (1 + 1e-9) && factor * power > best)
            best = factor * power;
    return best;
}

}  // namespace

LadderPlot::LadderPlot(QWidget* parent) : QWidget(parent) {
    setMouseTracking(true);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Concepts from signal to noise"));
}

void LadderPlot::setContent(Content content) {
    content_ = std::move(content);
    if (hovered_ >= static_cast<int>(content_.places.size())) hovered_ = -1;
    QStringList words;
    for (const auto& curve : content_.curves)
        for (std::size_t i = 0; i < curve.values.size(); ++i)
            if (std::isfinite(curve.values[i].mean))
                words << tr("%1, %2: %3").arg(curve.name, content_.places[i], value(curve.values[i].mean));
    setAccessibleDescription(words.join(QStringLiteral("; ")));
    scale();
    update();
}

double LadderPlot::Scale::share(double value) const {
    const double way =
        logarithmic ? std::log(std::max(value, low) / low) / std::log(high / low) : (value - low) / (high - low);
    return std::clamp(way, 0.0, 1.0);
}

/// All means and intervals. Shuffled weights often have many times as many concepts, and tokens many times as long:
/// then both are read on a logarithmic scale.
void LadderPlot::scale() {
    double least = INFINITY, most = -INFINITY, positive = INFINITY, longest = 0, shortest = INFINITY;
    for (const auto& curve : content_.curves) {
        for (const auto& e : curve.values)
            for (const double v : {e.mean, e.low, e.high}) {
                if (!std::isfinite(v)) continue;
                least = std::min(least, v);
                most = std::max(most, v);
                if (v > 0) positive = std::min(positive, v);
            }
        for (const double v : curve.norms) {
            if (!std::isfinite(v) || v <= 0) continue;
            longest = std::max(longest, v);
            shortest = std::min(shortest, v);
        }
    }
    lengths_ = {};
    if (longest > 5 * shortest)
        lengths_ = {round_number(shortest, false), round_number(longest, true), true};
    else if (longest > 0)
        lengths_.high = round_number(longest, true);
    scale_ = {};
    ticks_.clear();
    if (content_.shares) {
        ticks_ = {0, 0.25, 0.5, 0.75, 1};
        return;
    }
    const bool compared = std::isfinite(content_.level);
    if (compared) least = std::min(least, content_.level), most = std::max(most, content_.level);
    if (!std::isfinite(least)) least = 0, most = 1;
    scale_.logarithmic = least >= 0 && std::isfinite(positive) && most > 5 * positive;
    if (scale_.logarithmic) {
        // A count of next to nothing would take all the room.
        positive = std::max(positive, most * 1e-4);
        scale_.low = round_number(positive, false);
        scale_.high = round_number(most, true);
        std::vector<double> decades;
        for (double v = scale_.low; v <= scale_.high * 1.001; v = round_number(v * 1.5, true)) {
            ticks_.push_back(v);
            const double power = std::log10(v);
            if (std::abs(power - std::round(power)) < 1e-6) decades.push_back(v);
        }
        if (ticks_.size() > 6 && decades.size() > 1) ticks_ = decades;
        return;
    }
    // Counts begin at nought; ratios and what may be negative where they are.
    const double from = compared ? least : std::min(least, 0.0);
    const double step = round_number(std::max(most - from, 1e-9) / 4, true);
    scale_.low = step * std::floor(from / step + 1e-9);
    scale_.high = std::max(step * std::ceil(most / step - 1e-9), scale_.low + step);
    for (double v = scale_.low; v <= scale_.high + step * 0.01; v += step)
        ticks_.push_back(std::abs(v) < step / 100 ? 0 : v);
}

double LadderPlot::xOf(std::size_t place) const {
    const double wide = width() - kLeft - kRight;
    return kLeft + wide * (static_cast<double>(place) + 0.5) /
                       static_cast<double>(std::max<std::size_t>(content_.places.size(), 1));
}

void LadderPlot::paintBelow(QPainter& painter, double top) const {
    const auto& t = Theme::now();
    const auto& places = content_.places;
    const QFontMetrics letters(sans(11));
    const auto named = [&](double from, double to, const QString& words, const QColor& colour) {
        painter.setPen(colour);
        const double wide = letters.horizontalAdvance(words);
        const double x = std::clamp((from + to - wide) / 2, 0.0, std::max(0.0, width() - wide - 1));
        painter.drawText(QPointF(x, top + letters.ascent() + 3), words);
        return std::pair{x, x + wide};
    };
    painter.setFont(sans(11));
    if (hovered_ >= 0) {
        const double x = xOf(static_cast<std::size_t>(hovered_));
        named(x, x, places[static_cast<std::size_t>(hovered_)], t.text);
        return;
    }
    if (content_.groups.empty()) {
        double free = -INFINITY;  // a name that does not fit is told by the mouse
        for (std::size_t i = 0; i < places.size(); ++i) {
            const double wide = letters.horizontalAdvance(places[i]);
            const double x = std::clamp(xOf(i) - wide / 2, 0.0, std::max(0.0, width() - wide - 1));
            if (x < free) continue;
            free = named(xOf(i), xOf(i), places[i], t.secondary).second + 6;
        }
        return;
    }
    double free = -INFINITY;
    for (std::size_t from = 0; from < places.size();) {
        std::size_t to = from + 1;
        while (to < places.size() && content_.groups[to] == content_.groups[from]) ++to;
        const double wide = letters.horizontalAdvance(content_.groups[from]);
        const double middle = (xOf(from) + xOf(to - 1)) / 2;
        if (std::clamp(middle - wide / 2, 0.0, std::max(0.0, width() - wide - 1)) >= free)
            free = named(middle, middle, content_.groups[from], t.secondary).second + 6;
        from = to;
    }
}

void LadderPlot::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    painter.setFont(sans(11));
    if (content_.curves.empty()) {
        QPainterPath frame;
        frame.addRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6);
        painter.strokePath(frame, QPen(t.line));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(24, 12, -24, -12), Qt::AlignCenter | Qt::TextWordWrap,
                         tr("How many concepts speak at each step from the picture to noise is drawn here"));
        return;
    }
    const bool shares = std::any_of(content_.curves.begin(), content_.curves.end(),
                                    [](const auto& curve) { return !curve.explained.empty(); });
    const bool norms = std::any_of(content_.curves.begin(), content_.curves.end(),
                                   [](const auto& curve) { return !curve.norms.empty(); });
    const double across = width() - kLeft - kRight, usable = height() - kAbove - kBelow;
    double from_below = kAbove + usable;
    const auto strip = [&](bool there, double tall) {
        if (!there) return QRectF(kLeft, from_below, across, 0);
        from_below -= tall + kBetween;
        return QRectF(kLeft, from_below + kBetween, across, tall);
    };
    const QRectF lowest = strip(norms, 36), lower = strip(shares, 56);
    const QRectF upper(kLeft, kAbove, across, from_below - kAbove);
    const double bottom = kAbove + usable;
    const auto yOf = [&](double v) { return upper.bottom() - upper.height() * scale_.share(v); };
    const auto yOfShare = [&](double v) { return lower.bottom() - lower.height() * std::clamp(v, 0.0, 1.0); };
    const auto yOfNorm = [&](double v) { return lowest.bottom() - lowest.height() * lengths_.share(v); };
    painter.setFont(mono(11));
    const auto tick = [&](double y, const QString& words) {
        y = std::round(y) + 0.5;
        painter.setPen(t.line);
        painter.drawLine(QPointF(kLeft, y), QPointF(width() - kRight, y));
        painter.setPen(t.secondary);
        painter.drawText(QRectF(0, y - 8, kLeft - 6, 16), Qt::AlignRight | Qt::AlignVCenter, words);
    };
    for (const double v : ticks_) tick(yOf(v), QString::number(v, 'g', 4));
    if (shares)
        for (const double share : {0.0, kEnoughVariance, 1.0})
            tick(yOfShare(share), QString::number(100 * share) + QLatin1Char('%'));
    if (norms)
        for (const double v : {lengths_.low, lengths_.high}) tick(yOfNorm(v), QString::number(v, 'g', 4));
    painter.setFont(sans(11));
    painter.setPen(t.secondary);
    const auto caption = [&](const QRectF& below, const QString& words) {
        painter.drawText(QRectF(kLeft, below.top() - kBetween + 2, across, kBetween - 2),
                         Qt::AlignLeft | Qt::AlignVCenter, words);
    };
    if (shares) caption(lower, tr("explained variance"));
    if (norms) caption(lowest, lengths_.logarithmic ? tr("length of tokens, log scale") : tr("length of tokens"));
    if (std::isfinite(content_.level)) {
        painter.setPen(QPen(t.secondary, 1));
        const double y = std::round(yOf(content_.level)) + 0.5;
        painter.drawLine(QPointF(kLeft, y), QPointF(width() - kRight, y));
    }
    painter.setPen(t.line);
    for (std::size_t i = 1; i < content_.groups.size(); ++i)
        if (content_.groups[i] != content_.groups[i - 1]) {
            const double x = std::round((xOf(i - 1) + xOf(i)) / 2) + 0.5;
            for (const auto& one : {upper, lower, lowest})  // not through the words between
                painter.drawLine(QPointF(x, one.top()), QPointF(x, one.bottom()));
        }
    if (hovered_ >= 0) {
        painter.setPen(t.secondary);
        const double x = std::round(xOf(static_cast<std::size_t>(hovered_))) + 0.5;
        painter.drawLine(QPointF(x, upper.top()), QPointF(x, bottom));
    }
    paintBelow(painter, bottom);

    // The control lies behind, half a point aside, so that intervals of both are seen.
    bool hollow = false;
    for (const bool control : {true, false})
        for (const auto& curve : content_.curves) {
            if (curve.control != control) continue;
            const QColor colour = control ? t.secondary : t.accent;
            QPen pen(colour, control ? 1.5 : 2);
            if (control) pen.setDashPattern({4, 3});
            const double aside = control ? 2 : 0;
            const auto draw = [&](const auto& value_at, const auto& y) {
                QPolygonF line;
                const auto stroke = [&] {
                    painter.setPen(pen);
                    if (line.size() > 1) painter.drawPolyline(line);
                    // What stands alone has no line.
                    if (line.size() == 1) {
                        painter.setPen(Qt::NoPen);
                        painter.setBrush(colour);
                        painter.drawEllipse(line[0], 2, 2);
                        painter.setBrush(Qt::NoBrush);
                    }
                    line.clear();
                };
                for (std::size_t i = 0; i < content_.places.size(); ++i) {
                    if (i > 0 && !content_.groups.empty() && content_.groups[i] != content_.groups[i - 1]) stroke();
                    if (const double v = value_at(i); std::isfinite(v)) line << QPointF(xOf(i) + aside, y(v));
                }
                stroke();
            };
            painter.setPen(QPen(colour, 1.5));
            for (std::size_t i = 0; i < curve.values.size(); ++i) {
                const auto& e = curve.values[i];
                if (std::isfinite(e.mean) && std::isfinite(e.low) && std::isfinite(e.high))
                    painter.drawLine(QPointF(xOf(i) + aside, yOf(e.low)), QPointF(xOf(i) + aside, yOf(e.high)));
            }
            draw([&](std::size_t i) { return curve.values[i].mean; }, yOf);
            if (!curve.explained.empty()) draw([&](std::size_t i) { return curve.explained[i]; }, yOfShare);
            if (!curve.norms.empty()) draw([&](std::size_t i) { return curve.norms[i]; }, yOfNorm);
            for (std::size_t i = 0; i < curve.values.size(); ++i) {
                if (!std::isfinite(curve.values[i].mean)) continue;
                const bool open = !curve.unreliable.empty() && curve.unreliable[i];
                hollow = hollow || open;
                painter.setPen(QPen(colour, 1.5));
                painter.setBrush(open ? t.panel : colour);
                painter.drawEllipse(QPointF(xOf(i) + aside, yOf(curve.values[i].mean)), 3, 3);
            }
            painter.setBrush(Qt::NoBrush);
        }

    double x = 0;
    int row = 0;
    const QFontMetrics letters(sans(11));
    painter.setFont(sans(11));
    const auto entry = [&](const QString& words, const QPen* pen) {
        const int room = width() - 20;
        const QString cut = letters.elidedText(words, Qt::ElideMiddle, room);
        const double wide = 20 + letters.horizontalAdvance(cut);
        if (x > 0 && x + wide > width()) x = 0, ++row;
        const double y = row * kLegendRow + kLegendRow / 2 + 0.5;
        if (pen) {
            painter.setPen(*pen);
            painter.drawLine(QPointF(x, y), QPointF(x + 14, y));
        } else {
            painter.setPen(QPen(t.secondary, 1.5));
            painter.drawEllipse(QPointF(x + 7, y), 3, 3);
        }
        painter.setPen(pen ? t.text : t.secondary);
        painter.drawText(QRectF(x + 20, row * kLegendRow, wide, kLegendRow), Qt::AlignLeft | Qt::AlignVCenter, cut);
        x += wide + 14;
    };
    for (const auto& curve : content_.curves) {
        QPen pen(curve.control ? t.secondary : t.accent, curve.control ? 1.5 : 2);
        if (curve.control) pen.setDashPattern({4, 3});
        entry(curve.name, &pen);
    }
    if (hollow) entry(tr("too little explained"), nullptr);
    if (scale_.logarithmic) {
        painter.setPen(t.secondary);
        painter.drawText(QRectF(kLeft, kAbove - kLegendRow + 2, upper.width(), kLegendRow - 4),
                         Qt::AlignRight | Qt::AlignVCenter, row == 0 || x < width() - 70 ? tr("log scale") : QString());
    }
}

void LadderPlot::mouseMoveEvent(QMouseEvent* event) {
    int nearest = -1;
    for (std::size_t i = 0; i < content_.places.size() && !content_.curves.empty(); ++i)
        if (nearest < 0 || std::abs(xOf(i) - event->position().x()) <
                               std::abs(xOf(static_cast<std::size_t>(nearest)) - event->position().x()))
            nearest = static_cast<int>(i);
    hovered_ = nearest;
    QStringList lines;
    if (nearest >= 0) {
        const auto at = static_cast<std::size_t>(nearest);
        lines << content_.places[at];
        for (const auto& curve : content_.curves) {
            const auto& e = curve.values[at];
            if (!std::isfinite(e.mean)) {
                lines << tr("%1: not read yet").arg(curve.name);
                continue;
            }
            QString line = curve.name + QStringLiteral(": ") + value(e.mean);
            if (std::isfinite(e.low) && std::isfinite(e.high))
                line += tr(", from %1 to %2").arg(value(e.low), value(e.high));
            if (!curve.explained.empty() && std::isfinite(curve.explained[at]))
                line += tr("; %1 explained").arg(percent(curve.explained[at]));
            if (!curve.norms.empty() && std::isfinite(curve.norms[at]))
                line += tr("; tokens %1 long").arg(value(curve.norms[at]));
            if (!curve.unreliable.empty() && curve.unreliable[at]) line += tr("; too little explained to be read");
            lines << line;
        }
    }
    setToolTip(lines.join(QLatin1Char('\n')));
    update();
}

void LadderPlot::leaveEvent(QEvent*) {
    hovered_ = -1;
    update();
}

}  // namespace vitrine::app
