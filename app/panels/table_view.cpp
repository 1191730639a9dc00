// Paints the table in the colours of the maps; where cells are wide the values stand in them.
#include "table_view.h"

#include <QClipboard>
#include <QContextMenuEvent>
#include <QGuiApplication>
#include <QKeyEvent>
#include <QMenu>
#include <QMouseEvent>
#include <QPainter>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

constexpr int kTitle = 20, kReading = 16, kHead = 20, kTop = kTitle + kReading + kHead, kWide = 36;

/// Relative luminance as WCAG has it.
double luminance(const viz::Rgb& c) {
    const auto linear = [](double v) { return v <= 0.03928 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4); };
    return 0.2126 * linear(c.r / 255.0) + 0.7152 * linear(c.g / 255.0) + 0.0722 * linear(c.b / 255.0);
}

}  // namespace

TableView::TableView(Session& session, const TableFacts& table, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), session_(session), table_(table), settings_(settings) {
    setObjectName(QStringLiteral("table"));
    setMouseTracking(true);
    setFocusPolicy(Qt::TabFocus);
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
    setAccessibleName(text(table_.title));
    setAccessibleDescription(reading());
    connect(&session_, &Session::evidenceChanged, this, qOverload<>(&QWidget::update));
}

void TableView::setStale(bool stale) {
    if (stale_ == stale) return;
    stale_ = stale;
    update();
}

double TableView::rowHeight() const { return table_.rows.size() > 16 ? 14 : 18; }

QSize TableView::sizeHint() const {
    return {240, kTop + static_cast<int>(rowHeight() * static_cast<double>(table_.rows.size()))};
}

QString TableView::rowName(int row) const {
    const auto i = static_cast<std::size_t>(row);
    return table_.layers[i] >= 0 ? tr("layer %1").arg(table_.layers[i]) : text(table_.rows[i]);
}

QString TableView::colName(int col) const { return text(table_.cols[static_cast<std::size_t>(col)]); }

double TableView::labels() const {
    const QFontMetrics metrics(mono(11));
    const bool all_layers =
        std::all_of(table_.layers.begin(), table_.layers.end(), [](std::int64_t layer) { return layer >= 0; });
    if (all_layers) return metrics.horizontalAdvance(QStringLiteral("00")) + 10;
    int widest = 0;
    for (int row = 0; row < static_cast<int>(table_.rows.size()); ++row)
        widest = std::max(widest, metrics.horizontalAdvance(rowName(row)));
    return std::min(widest + 8, width() * 2 / 5);
}

double TableView::step() const {
    return (width() - labels()) / static_cast<double>(std::max<std::size_t>(1, table_.cols.size()));
}

bool TableView::holds(int row, int col) const {
    return row >= 0 && col >= 0 && row < static_cast<int>(table_.values.size()) &&
           col < static_cast<int>(table_.values[static_cast<std::size_t>(row)].size());
}

bool TableView::leads(int row, int col) const {
    return holds(row, col) && table_.layers[static_cast<std::size_t>(row)] >= 0 &&
           table_.heads[static_cast<std::size_t>(col)] >= 0;
}

QRectF TableView::cell(int row, int col) const {
    if (!holds(row, col)) return {};
    return {labels() + col * step(), kTop + row * rowHeight(), step(), rowHeight()};
}

std::pair<int, int> TableView::at(const QPointF& position) const {
    const std::pair none{-1, -1};
    if (position.x() < labels() || position.y() < kTop) return none;
    const int row = static_cast<int>((position.y() - kTop) / rowHeight()),
              col = static_cast<int>((position.x() - labels()) / step());
    return holds(row, col) ? std::pair{row, col} : none;
}

std::pair<int, int> TableView::chosen() const {
    if (session_.showsExplanation()) return {-1, -1};
    const auto row = std::find(table_.layers.begin(), table_.layers.end(), session_.layer());
    const auto col = std::find(table_.heads.begin(), table_.heads.end(), session_.head());
    if (row == table_.layers.end() || col == table_.heads.end() || session_.head() < 0) return {-1, -1};
    return {static_cast<int>(row - table_.layers.begin()), static_cast<int>(col - table_.heads.begin())};
}

QString TableView::reading() const {
    const auto unit = table_.unit.empty() ? QString() : QLatin1Char(' ') + text(table_.unit);
    if (holds(under_.first, under_.second))
        return tr("%1 %2  %3%4")
            .arg(rowName(under_.first), colName(under_.second),
                 value(table_.values[static_cast<std::size_t>(under_.first)][static_cast<std::size_t>(under_.second)]),
                 unit);
    return tr("%1 to %2%3").arg(value(table_.low), value(table_.high), unit);
}

void TableView::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    if (stale_) painter.setOpacity(0.5);
    painter.setFont(sans(11, true));
    painter.setPen(t.secondary);
    painter.drawText(QRect(0, 0, width(), kTitle), Qt::AlignLeft | Qt::AlignVCenter,
                     painter.fontMetrics().elidedText(text(table_.title), Qt::ElideRight, width()));
    const double left = labels(), wide = step(), high = rowHeight();
    const auto current = chosen();
    painter.setFont(mono(11));
    // Heads are named by their number where words do not fit; the axis says what is counted.
    const bool all_heads =
        std::all_of(table_.heads.begin(), table_.heads.end(), [](std::int64_t head) { return head >= 0; });
    const int columns = static_cast<int>(table_.cols.size());
    const auto widest = [&](auto name) {
        double most = 0;
        for (int col = 0; col < columns; ++col)
            most = std::max<double>(most, painter.fontMetrics().horizontalAdvance(name(col)));
        return most + 4;
    };
    const auto number = [&](int col) { return QString::number(table_.heads[static_cast<std::size_t>(col)]); };
    const auto words = [&](int col) { return colName(col); };
    const bool short_names = all_heads && widest(words) > wide;
    // Every second, third, ... is named where not all fit.
    const int every = std::max(1, static_cast<int>(std::ceil((short_names ? widest(number) : widest(words)) / wide)));
    for (int col = 0; col < columns; col += every) {
        painter.setPen(col == current.second || col == under_.second ? t.text : t.secondary);
        painter.drawText(QRectF(left + col * wide - 20, kTitle + kReading, wide + 40, kHead),
                         Qt::AlignHCenter | Qt::AlignVCenter, short_names ? number(col) : words(col));
    }
    viz::ValueScale scale;
    scale.low = static_cast<float>(table_.low);
    scale.high = static_cast<float>(table_.high);
    scale.symmetric = table_.low < 0;
    if (scale.symmetric) scale.high = std::max(std::abs(scale.low), std::abs(scale.high)), scale.low = -scale.high;
    const auto colours = scale.symmetric ? viz::ColourMap::Diverging : settings_.colours;
    // Three digits of the largest, the same for all: a column of numbers is compared at a glance. Hovering says more.
    const double largest = std::max(std::abs(table_.low), std::abs(table_.high));
    const int decimals = largest > 0 ? std::clamp(2 - static_cast<int>(std::floor(std::log10(largest))), 0, 4) : 0;
    for (int row = 0; row < static_cast<int>(table_.rows.size()); ++row) {
        const auto r = static_cast<std::size_t>(row);
        const auto name = table_.layers[r] >= 0 && left < 40 ? QString::number(table_.layers[r]) : rowName(row);
        painter.setPen(row == current.first || row == under_.first ? t.text : t.secondary);
        painter.drawText(QRectF(0, kTop + row * high, left - 8, high), Qt::AlignRight | Qt::AlignVCenter,
                         painter.fontMetrics().elidedText(name, Qt::ElideMiddle, static_cast<int>(left - 7)));
        for (int col = 0; holds(row, col); ++col) {
            const double v = table_.values[r][static_cast<std::size_t>(col)];
            const double gap = wide > 8 ? 1 : 0;
            const QRectF box = cell(row, col).adjusted(0, 0, -gap, -1);
            if (!std::isfinite(v)) {
                painter.fillRect(box, t.faint);
                continue;
            }
            const auto c = viz::colour_at(colours, viz::position_of(static_cast<float>(v), scale));
            painter.fillRect(box, QColor(c.r, c.g, c.b));
            if (wide < kWide) continue;
            // Black or white, whichever reads better on the cell.
            painter.setPen(luminance(c) > 0.179 ? Qt::black : Qt::white);
            painter.drawText(box, Qt::AlignCenter, QString::number(v, 'f', decimals));
        }
    }
    painter.setBrush(Qt::NoBrush);
    const auto ring = [&](std::pair<int, int> place, const QColor& colour) {
        if (!holds(place.first, place.second)) return;
        painter.setPen(QPen(t.panel, 3));
        painter.drawRect(cell(place.first, place.second).adjusted(0, 0, -1, -1));
        painter.setPen(QPen(colour, 1.5));
        painter.drawRect(cell(place.first, place.second).adjusted(-0.5, -0.5, -0.5, -0.5));
    };
    ring(current, t.accent);
    ring(under_, hasFocus() ? t.accent : t.text);
    painter.setPen(t.secondary);
    painter.drawText(QRect(0, kTitle, width(), kReading), Qt::AlignLeft | Qt::AlignVCenter,
                     painter.fontMetrics().elidedText(reading(), Qt::ElideRight, width()));
}

void TableView::point(std::pair<int, int> place) {
    if (place == under_) return;
    under_ = place;
    setCursor(leads(place.first, place.second) ? Qt::PointingHandCursor : Qt::ArrowCursor);
    setAccessibleDescription(reading());
    update();
}

void TableView::go(std::pair<int, int> place) {
    if (leads(place.first, place.second))
        session_.setPlace(static_cast<int>(table_.layers[static_cast<std::size_t>(place.first)]),
                          static_cast<int>(table_.heads[static_cast<std::size_t>(place.second)]));
}

void TableView::mouseMoveEvent(QMouseEvent* event) { point(at(event->position())); }

void TableView::mouseReleaseEvent(QMouseEvent* event) {
    if (event->button() == Qt::LeftButton) go(at(event->position()));
}

void TableView::focusInEvent(QFocusEvent* event) {
    if (under_.first < 0 && holds(0, 0)) point(chosen().first >= 0 ? chosen() : std::pair{0, 0});
    QWidget::focusInEvent(event);
}

void TableView::keyPressEvent(QKeyEvent* event) {
    auto next = under_;
    switch (event->key()) {
        case Qt::Key_Left:
            --next.second;
            break;
        case Qt::Key_Right:
            ++next.second;
            break;
        case Qt::Key_Up:
            --next.first;
            break;
        case Qt::Key_Down:
            ++next.first;
            break;
        case Qt::Key_Return:
        case Qt::Key_Enter:
            return go(under_);
        default:
            return QWidget::keyPressEvent(event);
    }
    if (holds(next.first, next.second)) point(next);
}

void TableView::leaveEvent(QEvent*) {
    if (!hasFocus()) point({-1, -1});
}

void TableView::contextMenuEvent(QContextMenuEvent* event) {
    QMenu menu(this);
    connect(menu.addAction(tr("Copy table")), &QAction::triggered, this, [this] {
        QString out = text(table_.title);
        if (!table_.unit.empty()) out += QStringLiteral(" (%1)").arg(text(table_.unit));
        for (const auto& col : table_.cols) out += QLatin1Char('\t') + text(col);
        for (std::size_t row = 0; row < table_.rows.size(); ++row) {
            out += QLatin1Char('\n') + text(table_.rows[row]);
            for (const double v : table_.values[row]) out += QLatin1Char('\t') + QString::number(v, 'g', 9);
        }
        QGuiApplication::clipboard()->setText(out);
    });
    menu.exec(event->globalPos());
}

}  // namespace vitrine::app
