// The board of cells: its bar, how cells are laid out, and what they share.
#include "grid_view.h"

#include <QHBoxLayout>
#include <QPushButton>
#include <QScrollArea>
#include <QToolButton>
#include <QVBoxLayout>

#include <algorithm>
#include <cmath>

#include "panels/choice_button.h"
#include "panels/format.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"
#include "windows/viewport.h"

namespace vitrine::app {
namespace {

constexpr int kGap = 8, kLeastWidth = 184, kLeastHeight = 160;

}  // namespace

GridView::GridView(Session& session, Comparison& comparison, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), session_(session), comparison_(comparison), settings_(settings) {
    setObjectName(QStringLiteral("stage"));
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(0, 0, 0, 0);
    column->setSpacing(0);
    auto* bar = new QWidget;
    bar->setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Fixed);  // the window may be as narrow as it was
    auto* row = new QHBoxLayout(bar);
    row->setContentsMargins(12, 8, 12, 0);
    row->setSpacing(8);
    methods_ = new QPushButton;
    methods_->setObjectName(QStringLiteral("gridMethods"));
    methods_->setToolTip(tr("Choose what stands side by side"));
    beside_ = new ChoiceButton;
    beside_->setHint(tr("The maps of a second class beside those of the first"));
    own_ = new QPushButton(tr("Own scales"));
    one_ = new QPushButton(tr("One scale"));
    own_->setToolTip(tr("Each map from its own least to its own largest value"));
    one_->setToolTip(tr("Equal values have equal colours; where two classes are shown, in each method's pair"));
    auto* scales = new QHBoxLayout;
    scales->setSpacing(0);
    const char* place = "left";
    for (auto* button : {own_, one_}) {
        button->setCheckable(true);
        button->setProperty("segment", place);
        place = "right";
        scales->addWidget(button);
    }
    again_ = new QToolButton;
    again_->setObjectName(QStringLiteral("gridAgain"));
    again_->setToolTip(tr("Compute all again (F5)"));
    close_ = new QToolButton;
    close_->setObjectName(QStringLiteral("gridClose"));
    close_->setToolTip(tr("Back to one map (M)"));
    for (auto* button : {again_, close_}) {
        button->setAccessibleName(button->toolTip());
        button->setIconSize({16, 16});
    }
    row->addWidget(methods_);
    row->addWidget(beside_);
    row->addLayout(scales);
    row->addStretch(1);
    row->addWidget(again_);
    row->addWidget(close_);
    column->addWidget(bar);
    board_ = new QWidget;
    area_ = new QScrollArea;
    area_->setFrameShape(QFrame::NoFrame);
    area_->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    area_->setFocusPolicy(Qt::NoFocus);
    area_->setWidget(board_);
    column->addWidget(area_, 1);

    beside_->setItems(
        [this] {
            std::vector<ChoiceItem> items;
            const auto chosen = comparison_.beside();
            items.push_back({tr("No other class"), {}, {}, qlonglong(-1), {}, !chosen, {}});
            const auto& look = session_.look();
            const auto add = [&](std::int64_t index, const QString& note, const QString& group) {
                items.push_back(
                    {session_.className(index), note, tr("Class %1").arg(index), qlonglong(index),
                     index == session_.explainedClass() ? tr("This is the class that is explained") : QString(),
                     chosen == index, group});
            };
            QString group = tr("Most probable");
            if (look)
                for (const auto& p : look->top) add(p.index, percent(p.probability), group), group.clear();
            group = tr("All classes");
            if (session_.model())
                for (std::int64_t i = 0; i < session_.model()->classes; ++i) add(i, {}, group), group.clear();
            return items;
        },
        tr("Find a class by name"));
    connect(beside_, &ChoiceButton::chosen, this, [this](const QVariant& value) {
        const auto index = value.toLongLong();
        // Two classes are compared by how strong the evidence is: that takes one scale.
        if (index >= 0) setOneScale(true);
        comparison_.setBeside(index < 0 ? std::nullopt : std::optional<std::int64_t>(index));
    });
    connect(methods_, &QPushButton::clicked, this, [this] { Q_EMIT methodsWanted(methods_); });
    connect(own_, &QPushButton::clicked, this, [this] { setOneScale(false); });
    connect(one_, &QPushButton::clicked, this, [this] { setOneScale(true); });
    connect(again_, &QToolButton::clicked, &comparison_, &Comparison::againAll);
    connect(close_, &QToolButton::clicked, &comparison_, [this] { comparison_.setOpen(false); });
    connect(&comparison_, &Comparison::arranged, this, &GridView::arrange);
    connect(&comparison_, &Comparison::openChanged, this, &GridView::arrange);
    connect(&comparison_, &Comparison::cellChanged, this, [this](int index) {
        if (index < static_cast<int>(cells_.size())) cells_[static_cast<std::size_t>(index)]->refresh();
        if (one_scale_) updateCells();  // one map may widen the scale of all
    });
    connect(&session_, &Session::pictureChanged, this, [this] {
        cursor_.reset(), pinned_.reset();
        fit();
    });
    for (const auto signal : {&Session::lookChanged, &Session::choiceChanged, &Session::modelChanged})
        connect(&session_, signal, this, &GridView::refresh);
    // A concept that is lit is outlined: nothing is composed anew.
    connect(&session_, &Session::evidenceChanged, this, &GridView::updateCells);
    restyle();
    arrange();
}

void GridView::setGraphics(Graphics* graphics) {
    graphics_ = graphics;
    updateCells();
}

void GridView::restyle() {
    methods_->setIcon(icon(QStringLiteral("spark")));
    again_->setIcon(icon(QStringLiteral("refresh")));
    close_->setIcon(icon(QStringLiteral("close")));
    for (auto* cell : cells_) cell->restyle();
    refresh();
}

void GridView::refresh() {
    const auto number = comparison_.methods().size();
    methods_->setText(number == 1 ? tr("1 method") : tr("%1 methods").arg(number));
    beside_->setFace({}, tr("beside"),
                     comparison_.beside() ? session_.className(*comparison_.beside()) : tr("no other class"));
    beside_->setReason(!session_.model()               ? tr("Open a model first")
                       : session_.model()->classes < 2 ? tr("This model has no other class")
                                                       : QString());
    own_->setChecked(!one_scale_);
    one_->setChecked(one_scale_);
    for (auto* cell : cells_) cell->refresh();
}

void GridView::arrange() {
    if (!comparison_.isOpen()) return;  // the one cell of a closed comparison is the viewport's
    const auto wanted = comparison_.cells().size();
    while (cells_.size() > wanted) {
        cells_.back()->deleteLater();
        cells_.back()->hide();
        cells_.pop_back();
    }
    while (cells_.size() < wanted) {
        cells_.push_back(new GridCell(*this, static_cast<int>(cells_.size())));
        cells_.back()->show();
    }
    place();
    refresh();
}

void GridView::place() {
    const int count = static_cast<int>(cells_.size());
    if (count == 0) return board_->resize(0, 0);
    const int width = area_->width() - 2 * 12, height = area_->height() - kGap - 12;
    double aspect = 1;  // of the picture
    if (const auto& picture = session_.picture())
        aspect = std::clamp(static_cast<double>(picture->photo.width) / static_cast<double>(picture->photo.height), 0.4,
                            2.5);
    const bool pairs = comparison_.beside().has_value() && count > 1;
    const int step = pairs ? 2 : 1;
    int columns = step, most = step;  // `most`: as many as have room beside each other
    double best = -1;
    for (int c = step; c < count + step; c += step) {
        const int rows = (count + c - 1) / c;
        const double w = static_cast<double>(width - (c - 1) * kGap) / c;
        const double h = static_cast<double>(height - (rows - 1) * kGap) / rows;
        if (w < kLeastWidth && c > step) break;
        most = c;
        if (h < kLeastHeight) continue;
        // How large the picture gets.
        const double side = std::min(w, (h - GridCell::kHeader - GridCell::kFooter) * aspect);
        if (side > best) best = side, columns = c;
    }
    if (best < 0) columns = most;  // it has to scroll: the less the better
    const int rows = (count + columns - 1) / columns;
    const int w = std::max(120, (width - (columns - 1) * kGap) / columns);
    const int h = std::max(kLeastHeight, (height - (rows - 1) * kGap) / rows);
    board_->resize(area_->width(), kGap + rows * (h + kGap) - kGap + 12);
    for (int i = 0; i < count; ++i)
        cells_[static_cast<std::size_t>(i)]->setGeometry(12 + (i % columns) * (w + kGap),
                                                         kGap + (i / columns) * (h + kGap), w, h);
}

void GridView::resizeEvent(QResizeEvent*) { place(); }

void GridView::setOneScale(bool one) {
    one_scale_ = one;
    refresh();
}

ViewSettings GridView::settingsOf(int index) const {
    auto out = settings_;
    out.range.reset();  // set by hand for another map
    const auto& cells = comparison_.cells();
    if (!one_scale_ || index < 0 || index >= static_cast<int>(cells.size())) return out;
    const auto& own = cells[static_cast<std::size_t>(index)];
    if (!own.found || own.found->plane.colours) return out;
    float low = own.found->plane.shown_low, high = own.found->plane.shown_high;
    for (const auto& other : cells) {
        if (!other.found || other.found->plane.colours || other.found->plane.is_signed != own.found->plane.is_signed)
            continue;
        if (comparison_.beside() && other.wanted.method != own.wanted.method) continue;
        low = std::min(low, other.found->plane.shown_low);
        high = std::max(high, other.found->plane.shown_high);
    }
    out.range = {low, high};
    return out;
}

// ---- what cells share -----------------------------------------------------------------------------------------------

viz::ViewTransform GridView::viewOf(const GridCell& cell) const {
    const auto& picture = session_.picture();
    if (!picture) return view_;
    if (!fitted_) return view_;
    const double ratio = devicePixelRatioF();
    const auto size = cell.canvas().size() * ratio;
    return viz::ViewTransform::fit(picture->photo.width, picture->photo.height, size.width(), size.height(), 0);
}

void GridView::fit() {
    fitted_ = true;
    if (!cells_.empty()) view_ = viewOf(*cells_.front());
    updateCells();
}

void GridView::oneToOne() {
    if (cells_.empty()) return;
    view_ = viewOf(*cells_.front());
    view_.zoom = 1;
    fitted_ = false;
    updateCells();
}

void GridView::zoomBy(double factor) {
    if (!cells_.empty()) zoomAt(*cells_.front(), QRectF(cells_.front()->canvas()).center(), factor);
}

void GridView::zoomAt(const GridCell& cell, QPointF position, double factor) {
    const double ratio = devicePixelRatioF();
    const auto size = cell.canvas().size() * ratio;
    const auto at = (position - cell.canvas().topLeft()) * ratio;
    view_ = viewOf(cell).zoomed_at({at.x(), at.y()}, factor, size.width(), size.height());
    fitted_ = false;
    updateCells();
}

void GridView::panBy(QPointF logical) {
    if (cells_.empty()) return;
    view_ = viewOf(*cells_.front());
    fitted_ = false;
    view_.centre.x -= logical.x() * devicePixelRatioF() / view_.zoom;
    view_.centre.y -= logical.y() * devicePixelRatioF() / view_.zoom;
    updateCells();
}

void GridView::setCursorAt(std::optional<Point> photo) {
    cursor_ = photo;
    updateCells();
    Q_EMIT pointed();
}

void GridView::pinAt(Point photo) {
    if (pinned_)
        pinned_.reset();
    else
        pinned_ = photo;
    updateCells();
}

void GridView::unpin() {
    pinned_.reset();
    updateCells();
}

void GridView::updateCells() {
    for (auto* cell : cells_) cell->update();
}

}  // namespace vitrine::app
