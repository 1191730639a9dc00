// One cell of the grid: its composite, kept until something of it changes, and what is written around it.
#include <QContextMenuEvent>
#include <QHelpEvent>
#include <QMenu>
#include <QPainter>
#include <QToolButton>
#include <QToolTip>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "panels/format.h"
#include "panels/grid_view.h"
#include "windows/scene.h"
#include "windows/theme.h"
#include "windows/viewport.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

constexpr int kBadge = 16, kValue = 64, kColour = 112;  // a colour is three numbers

}  // namespace

GridCell::GridCell(GridView& grid, int index) : QWidget(grid.board_), grid_(grid), index_(index) {
    setObjectName(QStringLiteral("gridCell"));
    setMouseTracking(true);
    action_ = new QToolButton(this);
    action_->setObjectName(QStringLiteral("cellAction"));
    close_ = new QToolButton(this);
    close_->setObjectName(QStringLiteral("cellClose"));
    for (auto* button : {action_, close_}) {
        button->setIconSize({14, 14});
        button->setFixedSize(24, 24);
    }
    connect(action_, &QToolButton::clicked, this, [this] {
        const auto* c = cell();
        if (!c) return;
        if (c->stage == Stage::Waiting || c->stage == Stage::Running)
            grid_.comparison_.stop(index_);
        else
            grid_.comparison_.again(index_);
    });
    connect(close_, &QToolButton::clicked, this, [this] { grid_.comparison_.remove(index_); });
    restyle();
    refresh();
}

void GridCell::setIndex(int index) { index_ = index; }

const Cell* GridCell::cell() const {
    const auto& cells = grid_.comparison_.cells();
    return grid_.comparison_.isOpen() && index_ < static_cast<int>(cells.size())
               ? &cells[static_cast<std::size_t>(index_)]
               : nullptr;
}

const Plane* GridCell::plane() const {
    const auto* c = cell();
    return c && c->found && !c->found->plane.empty() ? &c->found->plane : nullptr;
}

QRect GridCell::canvas() const { return rect().adjusted(0, kHeader, 0, -kFooter); }

void GridCell::restyle() { close_->setIcon(icon(QStringLiteral("close"))); }

void GridCell::refresh() {
    const auto* c = cell();
    if (!c) return;
    const bool busy = c->stage == Stage::Waiting || c->stage == Stage::Running;
    action_->setIcon(icon(busy ? QStringLiteral("stop") : QStringLiteral("refresh")));
    action_->setToolTip(busy ? tr("Stop; what there is stays") : tr("Compute again"));
    action_->setAccessibleName((busy ? tr("Stop %1") : tr("Compute %1 again")).arg(c->title));
    const auto* facts = grid_.session_.methodFacts(text(c->wanted.method));
    action_->setEnabled(!facts || facts->why_not.empty());
    if (!action_->isEnabled()) action_->setToolTip(text(facts->why_not));
    close_->setToolTip(tr("Take %1 out").arg(c->title));
    close_->setAccessibleName(close_->toolTip());
    setAccessibleName(tr("%1: %2").arg(c->title, stateWords()));
    update();
}

void GridCell::resizeEvent(QResizeEvent*) {
    close_->move(width() - 28, (kHeader - 24) / 2);
    action_->move(width() - 54, (kHeader - 24) / 2);
}

QString GridCell::stateWords() const {
    const auto* c = cell();
    if (!c) return {};
    switch (c->stage) {
        case Stage::Waiting:
            return c->stale ? tr("out of date, waiting") : tr("waiting");
        case Stage::Running: {
            const auto& p = c->progress;
            const auto far =
                p.total > 0 ? tr("%1 of %2 %3").arg(count(p.done), count(p.total), text(p.unit)) : tr("running");
            if (c->stale) return tr("out of date, %1").arg(far);
            return c->found ? tr("so far, %1").arg(far) : far;
        }
        case Stage::Stopped:
            return !c->found ? tr("stopped") : c->stale ? tr("out of date, stopped") : tr("partial, stopped");
        case Stage::Failed:
            return c->trouble;
        case Stage::Done:
            return c->checking ? tr("being checked") : QString();
    }
    return {};
}

QString GridCell::reading() const {
    const auto found = reading_at(grid_.session_, plane(), grid_.point());
    return found.words();
}

std::vector<Finding> GridCell::badges() const {
    const auto* c = cell();
    std::vector<Finding> out;
    if (!c || !c->found || c->stage == Stage::Running) return out;
    out = c->found->checks;
    if (c->randomisation) out.push_back(*c->randomisation);
    return out;
}

QRect GridCell::badgeAt(int index) const {
    return {(plane() && plane()->colours ? kColour : kValue) + index * (kBadge + 4),
            height() - kFooter + (kFooter - kBadge) / 2, kBadge, kBadge};
}

// ---- drawing --------------------------------------------------------------------------------------------------------

void GridCell::compose() {
    const auto* c = cell();
    const auto& picture = grid_.session_.picture();
    if (!c || !picture || canvas().isEmpty()) {
        drawn_ = {};
        drawn_key_.clear();
        return;
    }
    const double ratio = devicePixelRatioF();
    const auto size = canvas().size() * ratio;
    const auto settings = grid_.settingsOf(index_);
    const auto* map = plane();
    const auto view = grid_.viewOf(*this);
    const bool faint = c->stale || c->stage == Stage::Failed;
    // All that the composite depends on: while it is equal, the one before is shown.
    const auto key = fmt::format(
        "{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}", size.width(), size.height(),
        grid_.session_.pictureId(), grid_.session_.look().has_value(), fmt::ptr(map ? map->values.get() : nullptr),
        settings.range ? settings.range->first : 0, settings.range ? settings.range->second : 0, settings.opacity,
        static_cast<int>(settings.colours), static_cast<int>(settings.upsampling), settings.solid, settings.grid,
        settings.logarithmic, view.centre.x, view.centre.y, view.zoom, faint, Theme::now().dark,
        grid_.graphics_ && grid_.graphics_->ready());
    if (key == drawn_key_) return;
    drawn_key_ = key;
    trouble_.clear();
    auto scene = app::compose(grid_.session_, settings, c->stage == Stage::Failed ? nullptr : map, faint);
    scene.hovered.reset();
    scene.pinned.reset();
    scene.view = view;
    scene.display_scale = static_cast<float>(ratio);
    if (!grid_.graphics_) return;
    auto compositor = grid_.graphics_->compositor();
    if (compositor) {
        const auto image = (*compositor)->render(scene, size.width(), size.height());
        if (image) {
            drawn_ = QImage(image->pixels.data(), static_cast<int>(image->width), static_cast<int>(image->height),
                            static_cast<qsizetype>(image->width * 3), QImage::Format_RGB888)
                         .copy();
            drawn_.setDevicePixelRatio(ratio);
            return;
        }
        trouble_ = image.error().message;
        drawn_key_.clear();  // a device that was lost comes back
    }
    // Without Vulkan the map is shown alone, in its own shape.
    drawn_ = map ? paint_map(*map, settings) : QImage();
}

void GridCell::paintEvent(QPaintEvent*) {
    const auto* c = cell();
    if (!c) return;
    compose();
    const auto& t = Theme::now();
    QPainter painter(this);
    painter.setRenderHint(QPainter::Antialiasing);
    painter.fillRect(rect(), t.panel);
    const auto area = canvas();
    painter.fillRect(area, t.room);
    if (!drawn_.isNull()) {
        const bool whole = drawn_.size() == area.size() * devicePixelRatioF();
        const auto side = std::min(area.width(), area.height());
        painter.drawImage(whole ? QRect(area.topLeft(), area.size())
                                : QRect(area.center().x() - side / 2, area.center().y() - side / 2, side, side),
                          drawn_);
    }
    paintHeader(painter, *c);
    paintFooter(painter, *c);
    paintState(painter, *c);
    if (!grid_.session_.look()) return;
    const double ratio = devicePixelRatioF();
    const auto view = grid_.viewOf(*this);
    const auto size = area.size() * ratio;
    const auto to_cell = [&](Point photo) {
        const auto p = view.to_screen(photo, size.width(), size.height());
        return QPointF(p.x, p.y) / ratio + area.topLeft();
    };
    painter.setClipRect(area);
    if (const auto& lit = grid_.session_.lit(); lit && drawn_.size() == area.size() * ratio) {
        const auto seen = grid_.session_.look()->geometry.seen();
        outline_concepts(painter, *lit, {to_cell({seen.x0, seen.y0}), to_cell({seen.x1, seen.y1})});
    }
    // The linked cursor: the cell of this map that is read.
    const auto point = grid_.point();
    const auto* map = plane();
    if (!point || !map) return;
    const auto read = reading_at(grid_.session_, map, point);
    if (!read.inside) return;
    const auto box = grid_.session_.look()->geometry.cell(read.row, read.col, map->rows, map->cols);
    QRectF mark(to_cell({box.x0, box.y0}), to_cell({box.x1, box.y1}));
    if (mark.width() < 6) mark = QRectF(to_cell(*point) - QPointF(4, 4), QSizeF(8, 8));
    painter.setBrush(Qt::NoBrush);
    painter.setPen(QPen(QColor(0, 0, 0, 160), 3));
    painter.drawRect(mark);
    painter.setPen(QPen(grid_.cursor_ ? t.accent : t.warning, 1.5));
    painter.drawRect(mark);
}

void GridCell::paintHeader(QPainter& painter, const Cell& c) const {
    const auto& t = Theme::now();
    const QRect row(8, 0, action_->x() - 12, kHeader);
    painter.setFont(sans(13, true));
    painter.setPen(t.text);
    int width = row.width();
    const int wanted = painter.fontMetrics().horizontalAdvance(c.title) + 2;  // rounded advances may add up to less
    if (!c.target.isEmpty()) width = std::min(wanted, row.width() * 3 / 5);
    painter.drawText(row, Qt::AlignVCenter, painter.fontMetrics().elidedText(c.title, Qt::ElideRight, width));
    if (c.target.isEmpty()) return;
    const int left = row.left() + std::min(wanted, width) + 8;
    painter.setFont(sans(11));
    painter.setPen(c.is_second ? t.warning : t.accent);
    const QRect rest(left, 0, row.right() - left, kHeader);
    painter.drawText(rest, Qt::AlignVCenter, painter.fontMetrics().elidedText(c.target, Qt::ElideRight, rest.width()));
}

void GridCell::paintFooter(QPainter& painter, const Cell& c) const {
    const auto& t = Theme::now();
    const QRect row(8, height() - kFooter, width() - 16, kFooter);
    painter.setFont(mono(11));
    painter.setPen(t.text);
    painter.drawText(row, Qt::AlignVCenter, reading());
    const auto found = badges();
    int right = row.right();
    if (const auto* map = plane(); map && !map->colours && c.stage != Stage::Failed) {
        const auto settings = grid_.settingsOf(index_);
        const auto scale = scale_of(*map, settings);
        const auto high = value(scale.high), low = value(scale.low);
        const auto& metrics = painter.fontMetrics();
        const int bar = 40, taken = kValue + static_cast<int>(found.size()) * (kBadge + 4);
        const int full = metrics.horizontalAdvance(low) + metrics.horizontalAdvance(high) + bar + 16;
        painter.setPen(t.secondary);
        if (right - full > taken) {
            painter.drawText(row, Qt::AlignVCenter | Qt::AlignRight, high);
            right -= metrics.horizontalAdvance(high) + 6;
            painter.drawText(QRect(row.left(), row.top(), right - bar - 6 - row.left(), kFooter),
                             Qt::AlignVCenter | Qt::AlignRight, low);
        }
        if (right - bar > taken) {
            const auto colours = colours_of(*map, settings);
            for (int x = 0; x < bar; ++x) {
                const auto colour = viz::colour_at(colours, (x + 0.5) / bar);
                painter.fillRect(QRect(right - bar + x, row.center().y() - 3, 1, 8),
                                 QColor(colour.r, colour.g, colour.b));
            }
        }
    }
    for (std::size_t i = 0; i < found.size(); ++i)
        painter.drawPixmap(badgeAt(static_cast<int>(i)).topLeft(),
                           iconPixmap(found[i].passed ? QStringLiteral("check") : QStringLiteral("warning"),
                                      found[i].passed ? t.good : t.warning, kBadge, devicePixelRatioF()));
}

void GridCell::paintState(QPainter& painter, const Cell& c) const {
    const auto& t = Theme::now();
    const auto area = canvas();
    if (c.stage == Stage::Running) {
        painter.fillRect(QRect(area.left(), area.top(), area.width(), 2), t.faint);
        const double share =
            c.progress.total > 0 ? static_cast<double>(c.progress.done) / static_cast<double>(c.progress.total) : 0;
        painter.fillRect(QRectF(area.left(), area.top(), area.width() * std::clamp(share, 0.0, 1.0), 2), t.accent);
    }
    const auto words = stateWords();
    if (words.isEmpty()) return;
    const bool failed = c.stage == Stage::Failed;
    painter.setFont(sans(11));
    if (failed) {
        // The whole reason, on a ground of its own.
        const int width = std::min(area.width() - 24, 280);
        auto box = painter.fontMetrics().boundingRect(QRect(0, 0, width - 44, area.height() - 32),
                                                      Qt::AlignLeft | Qt::TextWordWrap, breakable(words));
        const int height = std::min(box.height(), area.height() - 32);
        const QRect ground(area.center().x() - width / 2, area.center().y() - height / 2 - 8, width, height + 16);
        painter.setPen(QPen(t.line, 1));
        painter.setBrush(t.raised);
        painter.drawRoundedRect(ground, 6, 6);
        painter.drawPixmap(ground.left() + 10, ground.top() + 8,
                           iconPixmap(QStringLiteral("warning"), t.warning, 16, devicePixelRatioF()));
        painter.setPen(t.text);
        painter.drawText(ground.adjusted(34, 8, -10, -8), Qt::AlignLeft | Qt::TextWordWrap, breakable(words));
        return;
    }
    const auto cut = painter.fontMetrics().elidedText(words, Qt::ElideRight, area.width() - 32);
    const QRect ground(area.left() + 8, area.bottom() - 28, painter.fontMetrics().horizontalAdvance(cut) + 16, 20);
    painter.setPen(Qt::NoPen);
    QColor under = t.raised;
    under.setAlpha(230);
    painter.setBrush(under);
    painter.drawRoundedRect(ground, 4, 4);
    painter.setPen(c.stale || c.stage == Stage::Stopped ? t.warning : t.text);
    painter.drawText(ground, Qt::AlignCenter, cut);
}

// ---- the hand -------------------------------------------------------------------------------------------------------

namespace {
Point photo_at(const viz::ViewTransform& view, QPointF in_canvas, QSizeF canvas, double ratio) {
    const auto p = in_canvas * ratio;
    return view.to_photo({p.x(), p.y()}, std::llround(canvas.width() * ratio), std::llround(canvas.height() * ratio));
}
}  // namespace

void GridCell::mouseMoveEvent(QMouseEvent* event) {
    const auto at = event->position();
    if (pressed_ && (event->pos() - pressed_at_).manhattanLength() > 4) moved_ = true;
    if (pressed_ && moved_) grid_.panBy(event->pos() - last_);
    last_ = event->pos();
    setCursor(pressed_ && moved_ ? Qt::ClosedHandCursor : Qt::ArrowCursor);
    if (canvas().contains(event->pos()))
        grid_.setCursorAt(
            photo_at(grid_.viewOf(*this), at - QPointF(canvas().topLeft()), canvas().size(), devicePixelRatioF()));
    else
        grid_.setCursorAt(std::nullopt);
}

void GridCell::mousePressEvent(QMouseEvent* event) {
    pressed_ = event->button() != Qt::RightButton;
    moved_ = false;
    pressed_at_ = last_ = event->pos();
}

void GridCell::mouseReleaseEvent(QMouseEvent* event) {
    const bool clicked = pressed_ && !moved_ && event->button() == Qt::LeftButton;
    pressed_ = moved_ = false;
    setCursor(Qt::ArrowCursor);
    if (clicked && canvas().contains(event->pos()))
        grid_.pinAt(photo_at(grid_.viewOf(*this), event->position() - QPointF(canvas().topLeft()), canvas().size(),
                             devicePixelRatioF()));
}

void GridCell::mouseDoubleClickEvent(QMouseEvent*) {
    if (const auto* c = cell()) Q_EMIT grid_.shownAlone(text(c->wanted.method));
}

void GridCell::wheelEvent(QWheelEvent* event) {
    const double steps = event->angleDelta().y() / 120.0;
    if (steps == 0 || !canvas().contains(event->position().toPoint())) return event->ignore();
    grid_.zoomAt(*this, event->position(), std::pow(1.2, steps));
    event->accept();
}

void GridCell::leaveEvent(QEvent*) { grid_.setCursorAt(std::nullopt); }

void GridCell::contextMenuEvent(QContextMenuEvent* event) {
    const auto* c = cell();
    if (!c) return;
    QMenu menu(this);
    menu.setToolTipsVisible(true);
    const auto method = text(c->wanted.method);
    connect(menu.addAction(tr("Show alone")), &QAction::triggered, this,
            [this, method] { Q_EMIT grid_.shownAlone(method); });
    connect(menu.addAction(action_->icon(), action_->toolTip()), &QAction::triggered, action_, &QToolButton::click);
    auto* check = menu.addAction(tr("Check against shuffled weights"));
    check->setEnabled(c->stage == Stage::Done && !c->stale && !c->checking);
    check->setToolTip(check->isEnabled()
                          ? tr("Does the map change when the model's weights are shuffled, layer by layer? It takes as "
                               "many maps as the model has layers, three times")
                          : tr("It needs a finished map"));
    connect(check, &QAction::triggered, this, [this] { grid_.comparison_.check(index_); });
    menu.addSeparator();
    connect(menu.addAction(close_->toolTip()), &QAction::triggered, close_, &QToolButton::click);
    menu.exec(event->globalPos());
}

bool GridCell::event(QEvent* event) {
    if (event->type() != QEvent::ToolTip) return QWidget::event(event);
    const auto* help = static_cast<QHelpEvent*>(event);
    const auto* c = cell();
    const auto found = badges();
    for (std::size_t i = 0; i < found.size(); ++i)
        if (badgeAt(static_cast<int>(i)).contains(help->pos())) {
            QToolTip::showText(help->globalPos(), tr("%1: %2").arg(text(found[i].name), text(found[i].finding)), this);
            return true;
        }
    if (c && help->pos().y() < kHeader) {
        QStringList lines{c->target.isEmpty() ? c->title : tr("%1, %2").arg(c->title, c->target)};
        if (c->found)
            lines << text(c->found->explained)
                  << text(c->found->implementation) + QLatin1Char(' ') + duration(c->found->milliseconds);
        lines << tr("Double click shows it alone");
        QToolTip::showText(help->globalPos(), lines.join(QLatin1Char('\n')), this);
    } else {
        QToolTip::hideText();
    }
    return true;
}

}  // namespace vitrine::app
