// Painting of the table of concepts and layers, and what is pointed at in it.
#include "concept_strip.h"

#include <QHelpEvent>
#include <QKeyEvent>
#include <QPainter>
#include <QPushButton>
#include <QToolTip>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "windows/scene.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kMargin = 12, kRow = 20, kHead = 20, kNames = 184, kWidest = 72;

/// "8" of "blocks.8.norm1"; all of a name without a number.
QString layerName(const std::string& point) {
    const auto from = point.find_first_of("0123456789");
    if (from == std::string::npos) return QString::fromStdString(point);
    return QString::fromStdString(point.substr(from, point.find_first_not_of("0123456789", from) - from));
}

}  // namespace

ConceptStrip::ConceptStrip(ConceptsOnShow& concepts, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), concepts_(concepts), settings_(settings) {
    setObjectName(QStringLiteral("conceptStrip"));
    setAccessibleName(tr("The picture's concepts at every layer"));
    setMouseTracking(true);
    setFocusPolicy(Qt::TabFocus);
    again_ = new QPushButton(tr("Read them"), this);
    again_->setObjectName(QStringLiteral("readLayers"));
    again_->hide();
    connect(again_, &QPushButton::clicked, &concepts, &ConceptsOnShow::again);
    connect(&concepts, &ConceptsOnShow::changed, this, &ConceptStrip::choose);
    connect(&concepts, &ConceptsOnShow::pointedChanged, this, &ConceptStrip::choose);
}

void ConceptStrip::choose() {
    const auto room = static_cast<std::size_t>(std::max(0, (height() - kHead - kRow - 8) / kRow));
    rows_.assign(concepts_.chosen().begin(), concepts_.chosen().end());
    for (const auto number : concepts_.strongest(room + rows_.size()))
        if (!concepts_.chosen().contains(number)) rows_.push_back(number);
    if (rows_.size() > room) rows_.resize(room);
    offer();
    update();
}

void ConceptStrip::offer() {
    again_->resize(again_->sizeHint());
    again_->move((width() - again_->width()) / 2, wordsEnd());
    again_->setVisible(!concepts_.layers() && concepts_.stoppedLayers());
}

/// Where words without a table end, above the button that may stand below them.
int ConceptStrip::wordsEnd() const { return height() / 2; }

std::int64_t ConceptStrip::conceptAt(int row) const {
    return row >= 0 && row < static_cast<int>(rows_.size()) ? rows_[static_cast<std::size_t>(row)] : -1;
}

QRect ConceptStrip::cell(int row, int layer) const {
    const auto& layers = concepts_.layers();
    if (!layers || row < 0 || row > static_cast<int>(rows_.size()) || layer < 0 ||
        layer >= static_cast<int>(layers->points.size()))
        return {};
    const int wide =
        std::min(kWidest, (width() - 2 * kMargin - kNames) / std::max(1, static_cast<int>(layers->points.size())));
    return {kMargin + kNames + layer * wide, kHead + row * kRow, wide - 1, kRow - 1};
}

int ConceptStrip::at(const QPoint& position) const {
    const int row = (position.y() - kHead) / kRow;
    return position.y() >= kHead && conceptAt(row) >= 0 ? row : -1;
}

void ConceptStrip::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.fillRect(rect(), t.panel);
    const auto& layers = concepts_.layers();
    if (!layers) {
        painter.setFont(sans(13));
        painter.setPen(t.secondary);
        const bool offers = concepts_.stoppedLayers();
        painter.drawText(QRect(kMargin, 0, width() - 2 * kMargin, offers ? wordsEnd() - 6 : height()),
                         Qt::AlignHCenter | (offers ? Qt::AlignBottom : Qt::AlignVCenter) | Qt::TextWordWrap,
                         breakable(concepts_.whyNoLayers()));
        return;
    }
    const int count = static_cast<int>(layers->points.size());
    painter.setFont(sans(11));
    painter.setPen(t.secondary);
    painter.drawText(QRect(kMargin, 0, kNames, kHead), Qt::AlignVCenter, tr("layer"));
    for (int layer = 0; layer < count; ++layer) {
        const bool own = layer == layers->own;
        painter.setFont(own ? sans(11, true) : mono(11));
        painter.setPen(own ? t.accent : t.secondary);
        painter.drawText(cell(0, layer).translated(0, -kHead), Qt::AlignCenter,
                         layerName(layers->points[static_cast<std::size_t>(layer)]));
    }
    if (concepts_.stale()) painter.setOpacity(0.5);
    for (int row = 0; row < static_cast<int>(rows_.size()); ++row) {
        const auto number = conceptAt(row);
        const bool chosen = concepts_.chosen().contains(number), hovered = concepts_.hovered() == number;
        const QRect line(kMargin - 4, kHead + row * kRow, kNames, kRow);
        if (chosen || hovered || (hasFocus() && row == current_)) {
            QColor ground = t.accent;
            ground.setAlphaF(chosen ? 0.24F : 0.10F);
            painter.fillRect(line, ground);
        }
        painter.setFont(sans(13, chosen));
        painter.setPen(t.text);
        painter.drawText(line.adjusted(4, 0, -12, 0), Qt::AlignVCenter,
                         painter.fontMetrics().elidedText(concepts_.nameOf(number), Qt::ElideRight, kNames - 16));
        const double most = concepts_.unitOf(number);
        for (int layer = 0; layer < count; ++layer) {
            const double share = most > 0 ? layers->at(layer, number) / most : 0;
            const auto colour = viz::colour_at(settings_.colours, std::clamp(share, 0.0, 1.0));
            painter.fillRect(cell(row, layer), QColor(colour.r, colour.g, colour.b));
        }
    }
    // Away from its own layer an autoencoder reads what it was not trained on: how well it does stands below.
    const int last = static_cast<int>(rows_.size());
    painter.setFont(sans(11));
    painter.setPen(t.secondary);
    painter.drawText(QRect(kMargin, kHead + last * kRow, kNames, kRow), Qt::AlignVCenter, tr("explained"));
    painter.setFont(mono(11));
    for (int layer = 0; layer < count; ++layer) {
        const double share = layers->explained[static_cast<std::size_t>(layer)];
        painter.setPen(share < 0.5 ? t.warning : t.secondary);
        painter.drawText(cell(last, layer), Qt::AlignCenter, share < 0 ? tr("none") : percent(share));
    }
}

void ConceptStrip::resizeEvent(QResizeEvent*) { choose(); }

void ConceptStrip::mouseMoveEvent(QMouseEvent* event) { concepts_.hover(conceptAt(at(event->pos()))); }

void ConceptStrip::mouseReleaseEvent(QMouseEvent* event) {
    const auto number = conceptAt(at(event->pos()));
    if (event->button() == Qt::LeftButton && number >= 0)
        concepts_.pin(number, event->modifiers().testFlag(Qt::ControlModifier));
}

void ConceptStrip::keyPressEvent(QKeyEvent* event) {
    const int step = event->key() == Qt::Key_Up ? -1 : event->key() == Qt::Key_Down ? 1 : 0;
    if (step != 0 && !rows_.empty()) {
        current_ = std::clamp(current_ + step, 0, static_cast<int>(rows_.size()) - 1);
        concepts_.hover(conceptAt(current_));
    } else if (const auto number = conceptAt(current_);
               number >= 0 && (event->key() == Qt::Key_Space || event->key() == Qt::Key_Return)) {
        concepts_.pin(number, event->modifiers().testFlag(Qt::ControlModifier));
    } else {
        QWidget::keyPressEvent(event);
    }
}

void ConceptStrip::leaveEvent(QEvent*) { concepts_.hover(-1); }

void ConceptStrip::focusOutEvent(QFocusEvent* event) {
    QWidget::focusOutEvent(event);
    if (!underMouse()) concepts_.hover(-1);
}

bool ConceptStrip::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    const auto& layers = concepts_.layers();
    const auto number = conceptAt(at(help->pos()));
    QToolTip::hideText();
    if (!layers || number < 0) return true;
    auto words = concepts_.nameOf(number);
    for (int layer = 0; layer < static_cast<int>(layers->points.size()); ++layer)
        if (cell(at(help->pos()), layer).contains(help->pos())) {
            const auto& point = layers->points[static_cast<std::size_t>(layer)];
            words += tr("\nAt %1: %2 in its strongest patch; the largest seen of it is %3")
                         .arg(QString::fromStdString(point), value(layers->at(layer, number)),
                              value(concepts_.unitOf(number)));
            if (layer != layers->own)
                words += tr("\nThe autoencoder was trained at %1; of this layer it explains what stands below")
                             .arg(QString::fromStdString(layers->points[static_cast<std::size_t>(layers->own)]));
        }
    QToolTip::showText(help->globalPos(),
                       QStringLiteral("<p style='white-space:pre-wrap'>%1</p>").arg(words.toHtmlEscaped()), this);
    return true;
}

}  // namespace vitrine::app
