// Paints scores, their intervals and what they are worth.
#include "tcav_bars.h"

#include <QHelpEvent>
#include <QPainter>
#include <QPainterPath>
#include <QToolTip>

#include <algorithm>

#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kLegend = 20, kRow = 64, kEmpty = 72;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString scoreWords(double score) { return QString::number(score, 'f', 2); }

/// "p 0.012", "p < 0.0001".
QString chanceWords(double p) {
    return p < 1e-4 ? TcavBars::tr("p < 0.0001") : TcavBars::tr("p %1").arg(QString::number(p, 'g', 2));
}

QString spanWords(const TcavEstimate& e) {
    return TcavBars::tr("%1, from %2 to %3").arg(scoreWords(e.mean), scoreWords(e.low), scoreWords(e.high));
}

}  // namespace

TcavBars::TcavBars(QWidget* parent) : QWidget(parent) {
    setObjectName(QStringLiteral("tcavBars"));
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(tr("Scores of the concepts"));
}

void TcavBars::setFacts(std::optional<TcavFacts> facts) {
    facts_ = std::move(facts);
    QStringList lines;
    if (facts_)
        for (const auto& one : facts_->concepts)
            lines << tr("%1: %2, %3").arg(text(one.name), scoreWords(one.score.mean), verdictOf(one));
    setAccessibleDescription(lines.join(QLatin1Char('\n')));
    updateGeometry();
    update();
}

QString TcavBars::verdictOf(const TcavConcept& one) {
    return (!one.significant()                 ? tr("Not told from chance, %1")
            : one.score.mean > one.random.mean ? tr("Moves towards the class, %1")
                                               : tr("Moves away from the class, %1"))
        .arg(chanceWords(one.p_corrected));
}

QString TcavBars::table() const {
    QString out = QStringLiteral(
        "concept\texamples\tscore\tlow\thigh\trandom\trandom low\trandom high\taccuracy\trandom accuracy\tp\tp "
        "corrected");
    if (!facts_) return out;
    for (const auto& one : facts_->concepts) {
        out += QLatin1Char('\n') + text(one.name) + QLatin1Char('\t') + QString::number(one.examples);
        for (const double v : {one.score.mean, one.score.low, one.score.high, one.random.mean, one.random.low,
                               one.random.high, one.accuracy, one.random_accuracy, one.p, one.p_corrected})
            out += QLatin1Char('\t') + QString::number(v, 'g', 9);
    }
    return out;
}

QSize TcavBars::sizeHint() const {
    return {272, facts_ ? kLegend + kRow * static_cast<int>(facts_->concepts.size()) : kEmpty};
}

void TcavBars::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    painter.setFont(sans(11));
    if (!facts_) {
        QPainterPath frame;
        frame.addRoundedRect(QRectF(rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6);
        painter.strokePath(frame, QPen(t.line));
        painter.setPen(t.secondary);
        painter.drawText(rect().adjusted(24, 8, -24, -8), Qt::AlignCenter | Qt::TextWordWrap,
                         tr("How each concept moves the answer is drawn here"));
        return;
    }
    const double left = 4, span = width() - 2 * left;
    const auto x = [&](double score) { return left + span * std::clamp(score, 0.0, 1.0); };
    int at = 0;
    const auto legend = [&](const QColor& colour, const QString& words) {
        painter.setPen(Qt::NoPen);
        painter.setBrush(colour);
        painter.drawRoundedRect(QRectF(at, 5, 14, 8), 2, 2);
        painter.setPen(t.secondary);
        painter.drawText(QRectF(at + 20, 0, 160, 18), Qt::AlignLeft | Qt::AlignVCenter, words);
        at += 20 + painter.fontMetrics().horizontalAdvance(words) + 16;
    };
    legend(t.accent, tr("the concept"));
    legend(t.secondary, tr("random sets"));
    for (std::size_t i = 0; i < facts_->concepts.size(); ++i) {
        const auto& one = facts_->concepts[i];
        const int top = kLegend + static_cast<int>(i) * kRow;
        painter.setFont(mono(11));
        painter.setPen(t.text);
        const auto number = scoreWords(one.score.mean);
        painter.drawText(QRectF(0, top, width(), 20), Qt::AlignRight | Qt::AlignVCenter, number);
        const int room = width() - painter.fontMetrics().horizontalAdvance(number) - 12;
        painter.setFont(sans(13));
        painter.drawText(QRectF(0, top, room, 20), Qt::AlignLeft | Qt::AlignVCenter,
                         painter.fontMetrics().elidedText(text(one.name), Qt::ElideMiddle, room));
        // Two tracks from 0 to 1, so that neither interval hides the other.
        const auto track = [&](double y, double high, const TcavEstimate& e, const QColor& colour, bool hollow) {
            painter.setPen(Qt::NoPen);
            painter.setBrush(t.faint);
            painter.drawRoundedRect(QRectF(left, y, span, high), 2, 2);
            const QRectF bar(left, y, std::max(1.0, x(e.mean) - left), high);
            painter.setBrush(hollow ? Qt::transparent : colour);
            painter.setPen(hollow ? QPen(colour, 1) : QPen(Qt::NoPen));
            painter.drawRoundedRect(hollow ? bar.adjusted(0.5, 0.5, -0.5, -0.5) : bar, 2, 2);
            painter.setPen(QPen(t.panel, 4));
            const double middle = y + high / 2;
            if (x(e.high) - x(e.low) > 4) painter.drawLine(QPointF(x(e.low), middle), QPointF(x(e.high), middle));
            painter.setPen(QPen(t.text, 1.5));
            painter.drawLine(QPointF(x(e.low), middle), QPointF(x(e.high), middle));
            for (const double end : {e.low, e.high})
                painter.drawLine(QPointF(x(end), middle - 3), QPointF(x(end), middle + 3));
        };
        track(top + 22, 8, one.score, t.accent, !one.significant());
        track(top + 33, 6, one.random, t.secondary, false);
        painter.setFont(sans(11));
        painter.setPen(one.significant() ? t.text : t.secondary);
        painter.drawText(QRectF(0, top + 42, width(), 16), Qt::AlignLeft | Qt::AlignVCenter,
                         painter.fontMetrics().elidedText(verdictOf(one), Qt::ElideRight, width()));
    }
}

bool TcavBars::event(QEvent* event) {
    if (event->type() == QEvent::ToolTip && facts_) {
        const auto* help = static_cast<QHelpEvent*>(event);
        const int row = (help->pos().y() - kLegend) / kRow;
        if (help->pos().y() < kLegend || row >= static_cast<int>(facts_->concepts.size())) {
            QToolTip::hideText();
            return true;
        }
        const auto& one = facts_->concepts[static_cast<std::size_t>(row)];
        QToolTip::showText(
            help->globalPos(),
            tr("%1: %2\nrandom sets: %3\nright on %4 of what was held back, %5 between random sets\n%6 drawn a run of "
               "%7; p %8 before it is corrected")
                .arg(text(one.name), spanWords(one.score), spanWords(one.random), percent(one.accuracy),
                     percent(one.random_accuracy), QString::number(one.drawn), QString::number(one.examples),
                     QString::number(one.p, 'g', 2)),
            this);
        return true;
    }
    return QWidget::event(event);
}

}  // namespace vitrine::app
