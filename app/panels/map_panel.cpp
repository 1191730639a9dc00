// Asks for the blocks that are in view and paints them; the last piece stands in, scaled, until the new one is there.
#include "map_panel.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QMouseEvent>
#include <QPainter>
#include <QPushButton>
#include <QVBoxLayout>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

constexpr double kClosest = 8;  // tokens a side at the deepest zoom

}  // namespace

// ---- canvas
// --------------------------------------------------------------------------------------------------------------------

MapCanvas::MapCanvas(Session& session, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), session_(session), settings_(settings) {
    setObjectName(QStringLiteral("mapCanvas"));
    setAccessibleName(tr("Attention map"));
    setMouseTracking(true);
    auto policy = sizePolicy();
    policy.setHeightForWidth(true);
    setSizePolicy(policy);
    connect(&session_, &Session::pieceChanged, this, [this] {
        if (!session_.piece()) showAll();
        redraw();
    });
    connect(&session_, &Session::evidenceChanged, this, [this] { refresh(), update(); });
    connect(&session_, &Session::lookChanged, this, [this] { refresh(), update(); });
}

double MapCanvas::perToken() const {
    const auto& piece = session_.piece();
    const double whole = piece ? static_cast<double>(std::max(piece->queries, piece->keys)) : 1;
    return side() / (span_ > 0 ? span_ : whole);
}

void MapCanvas::showAll() {
    q_ = k_ = span_ = 0;
    asked_[0] = -1;
    refresh();
    update();
}

void MapCanvas::setLargest(bool largest) {
    if (largest_ == largest) return;
    largest_ = largest;
    asked_[0] = -1;
    refresh();
}

void MapCanvas::refresh() {
    const auto& look = session_.look();
    if (!isVisible() || !look || look->heads.empty() || session_.layer() < 0) return;
    const auto& piece = session_.piece();
    std::int64_t wanted[4] = {0, 1 << 30, 0, 1 << 30};  // all; the bench cuts it to the map
    if (span_ > 0 && piece) {
        wanted[0] = static_cast<std::int64_t>(std::floor(q_));
        wanted[1] = static_cast<std::int64_t>(std::ceil(q_ + span_));
        wanted[2] = static_cast<std::int64_t>(std::floor(k_));
        wanted[3] = static_cast<std::int64_t>(std::ceil(k_ + span_));
    }
    if (std::equal(wanted, wanted + 4, asked_) && asked_layer_ == session_.layer() && asked_head_ == session_.head() &&
        asked_picture_ == session_.pictureId())
        return;
    std::copy(wanted, wanted + 4, asked_);
    asked_layer_ = session_.layer();
    asked_head_ = session_.head();
    asked_picture_ = session_.pictureId();
    session_.askPiece(wanted[0], wanted[1], wanted[2], wanted[3], 256, largest_);
}

void MapCanvas::redraw() {
    image_ = {};
    if (const auto& piece = session_.piece(); piece && !piece->plane.empty()) {
        const auto& plane = piece->plane;
        image_ = QImage(static_cast<int>(plane.cols), static_cast<int>(plane.rows), QImage::Format_RGB32);
        viz::ValueScale scale;
        scale.low = plane.low;
        scale.high = plane.shown_high > plane.low ? plane.shown_high : plane.high;
        scale.logarithmic = settings_.logarithmic;
        for (int r = 0; r < image_.height(); ++r) {
            auto* line = reinterpret_cast<QRgb*>(image_.scanLine(r));
            for (int c = 0; c < image_.width(); ++c) {
                const auto colour = viz::colour_at(settings_.colours, viz::position_of(plane.at(r, c), scale));
                line[c] = qRgb(colour.r, colour.g, colour.b);
            }
        }
    }
    if (dragging_ || under_) point(last_);
    update();
    Q_EMIT underChanged();
}

void MapCanvas::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    const QRect square(0, 0, side(), side());
    painter.fillRect(square, t.room);
    const auto& piece = session_.piece();
    if (image_.isNull() || !piece) {
        painter.setPen(t.secondary);
        painter.setFont(sans(13));
        const auto& look = session_.look();
        painter.drawText(square.adjusted(16, 16, -16, -16), Qt::AlignCenter | Qt::TextWordWrap,
                         session_.asking()     ? tr("The model has not run on this picture yet")
                         : !look               ? tr("Open a model and a picture to see its maps")
                         : look->heads.empty() ? tr("This model has no attention layers")
                                               : tr("Computing"));
        return;
    }
    painter.setClipRect(square);
    const double scale = perToken();
    const auto x = [&](double key) { return (key - k_) * scale; };
    const auto y = [&](double query) { return (query - q_) * scale; };
    // The last block of a side may stick out over the map's end: it is as wide as the others in the image.
    const double reach_q = static_cast<double>(piece->q0 + piece->plane.rows * piece->pool),
                 reach_k = static_cast<double>(piece->k0 + piece->plane.cols * piece->pool);
    painter.setClipRect(QRectF(x(static_cast<double>(piece->k0)), y(static_cast<double>(piece->q0)),
                               static_cast<double>(piece->k1 - piece->k0) * scale,
                               static_cast<double>(piece->q1 - piece->q0) * scale)
                            .intersected(square));
    painter.drawImage(QRectF(QPointF(x(static_cast<double>(piece->k0)), y(static_cast<double>(piece->q0))),
                             QPointF(x(reach_k), y(reach_q))),
                      image_);
    painter.setClipRect(square);
    // Where the patches begin.
    painter.setPen(QPen(QColor(255, 255, 255, 110), 1));
    if (const auto n = static_cast<double>(piece->key_names.size()); n > 0 && scale * n > 3)
        painter.drawLine(QPointF(x(n), 0), QPointF(x(n), side()));
    if (const auto n = static_cast<double>(piece->query_names.size()); n > 0 && scale * n > 3)
        painter.drawLine(QPointF(0, y(n)), QPointF(side(), y(n)));
    const auto mark = [&](const std::optional<Token>& token, const QColor& colour) {
        if (!token || piece->query_cols <= 0) return;
        const double query = static_cast<double>(static_cast<std::int64_t>(piece->query_names.size()) +
                                                 token->row * piece->query_cols + token->col);
        const QRectF row(0, y(query), side(), std::max(scale, 1.0));
        painter.setPen(QPen(colour, 1));
        painter.drawLine(QPointF(0, row.top() - 0.5), QPointF(side(), row.top() - 0.5));
        painter.drawLine(QPointF(0, row.bottom() + 0.5), QPointF(side(), row.bottom() + 0.5));
    };
    // The same colours as on the picture: they lie on the map there and here, not on the room.
    const auto palette = t.palette();
    const auto colour = [](const viz::Rgb& c) { return QColor(c.r, c.g, c.b); };
    mark(session_.pinned(), colour(palette.pinned));
    mark(session_.hovered(), colour(palette.hovered));
    if (under_) {
        const double pool = static_cast<double>(piece->pool);
        const auto block = [&](std::int64_t token, std::int64_t first) {
            return static_cast<double>(first) + std::floor(static_cast<double>(token - first) / pool) * pool;
        };
        painter.setPen(QPen(t.text, 1));
        painter.drawRect(
            QRectF(x(block(under_->key, piece->k0)), y(block(under_->query, piece->q0)), pool * scale, pool * scale)
                .adjusted(-0.5, -0.5, 0.5, 0.5));
    }
}

std::optional<Token> MapCanvas::patchOf(std::int64_t query) const {
    const auto& piece = session_.piece();
    const auto& look = session_.look();
    if (!piece || !look || piece->query_cols <= 0) return std::nullopt;
    const auto patch = query - static_cast<std::int64_t>(piece->query_names.size());
    if (patch < 0) return std::nullopt;
    const Token token{patch / piece->query_cols, patch % piece->query_cols};
    // A layer with another grid than the picture's has no place there.
    if (piece->query_cols != look->grid_cols || token.row >= look->grid_rows) return std::nullopt;
    return token;
}

void MapCanvas::point(const QPointF& at) {
    const auto& piece = session_.piece();
    under_.reset();
    if (piece && at.x() >= 0 && at.y() >= 0 && at.x() < side() && at.y() < side()) {
        const auto query = static_cast<std::int64_t>(std::floor(q_ + at.y() / perToken())),
                   key = static_cast<std::int64_t>(std::floor(k_ + at.x() / perToken()));
        if (query >= 0 && query < piece->queries && key >= 0 && key < piece->keys) {
            under_ = Cell{query, key, std::nullopt};
            if (query >= piece->q0 && query < piece->q1 && key >= piece->k0 && key < piece->k1)
                under_->value = piece->plane.at((query - piece->q0) / piece->pool, (key - piece->k0) / piece->pool);
        }
    }
    update();
    Q_EMIT underChanged();
}

void MapCanvas::keepInside() {
    const auto& piece = session_.piece();
    if (!piece) return;
    const double whole = static_cast<double>(std::max(piece->queries, piece->keys));
    if (span_ >= whole || span_ <= 0) {
        q_ = k_ = span_ = 0;
        return;
    }
    q_ = std::clamp(q_, 0.0, whole - span_);
    k_ = std::clamp(k_, 0.0, whole - span_);
}

void MapCanvas::mouseMoveEvent(QMouseEvent* event) {
    const auto at = event->position();
    if (event->buttons().testFlag(Qt::LeftButton) && (at - pressed_).manhattanLength() > 4) moved_ = true;
    if (dragging_ && moved_ && span_ > 0) {
        k_ -= (at.x() - last_.x()) / perToken();
        q_ -= (at.y() - last_.y()) / perToken();
        keepInside();
        refresh();
    }
    last_ = at;
    point(at);
    if (!dragging_ || !moved_) session_.hover(under_ ? patchOf(under_->query) : std::nullopt);
}

void MapCanvas::mousePressEvent(QMouseEvent* event) {
    if (event->button() != Qt::LeftButton) return;
    pressed_ = last_ = event->position();
    dragging_ = true;
    moved_ = false;
}

void MapCanvas::mouseReleaseEvent(QMouseEvent* event) {
    if (event->button() != Qt::LeftButton) return;
    dragging_ = false;
    if (moved_ || !under_) return;
    if (const auto patch = patchOf(under_->query))
        session_.pin(session_.pinned() == patch ? std::nullopt : std::optional<Token>(patch));
}

void MapCanvas::mouseDoubleClickEvent(QMouseEvent*) { showAll(); }

void MapCanvas::wheelEvent(QWheelEvent* event) {
    const auto& piece = session_.piece();
    const double steps = event->angleDelta().y() / 120.0;
    event->accept();
    if (!piece || steps == 0) return;
    const double whole = static_cast<double>(std::max(piece->queries, piece->keys));
    const auto at = event->position();
    const double before = span_ > 0 ? span_ : whole;
    const double query = q_ + at.y() / perToken(), key = k_ + at.x() / perToken();
    span_ = std::clamp(before * std::pow(1.25, -steps), std::min(kClosest, whole), whole);
    q_ = query - at.y() / perToken();
    k_ = key - at.x() / perToken();
    keepInside();
    refresh();
    point(at);
}

void MapCanvas::leaveEvent(QEvent*) {
    under_.reset();
    session_.hover(std::nullopt);
    update();
    Q_EMIT underChanged();
}

void MapCanvas::showEvent(QShowEvent*) { refresh(); }
void MapCanvas::resizeEvent(QResizeEvent*) { update(); }

// ---- panel
// ---------------------------------------------------------------------------------------------------------------------

MapPanel::MapPanel(Session& session, const ViewSettings& settings, QWidget* parent)
    : QWidget(parent), session_(session) {
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(16, 12, 16, 16);
    column->setSpacing(8);
    title_ = new QLabel;
    title_->setFont(sans(13, true));
    column->addWidget(title_);
    column->addWidget(quiet(tr("Rows ask, columns are read")));
    auto* blocks = new QHBoxLayout;
    blocks->setSpacing(0);
    means_ = new QPushButton(tr("Means"));
    largest_ = new QPushButton(tr("Largest"));
    means_->setProperty("segment", "left");
    largest_->setProperty("segment", "right");
    means_->setToolTip(tr("Where a cell holds several entries it shows their mean"));
    largest_->setToolTip(
        tr("Where a cell holds several entries it shows the largest, of any head where none is chosen"));
    for (auto* button : {means_, largest_}) {
        button->setCheckable(true);
        button->setAutoExclusive(true);
        blocks->addWidget(button, 1);
    }
    means_->setChecked(true);
    column->addLayout(blocks);
    canvas_ = new MapCanvas(session, settings);
    column->addWidget(canvas_);
    where_ = new QLabel;
    where_->setFont(mono(11));
    column->addWidget(where_);
    value_ = new QLabel;
    value_->setFont(mono(11));
    column->addWidget(value_);
    facts_ = quiet();
    facts_->setFont(mono(11));
    column->addWidget(facts_);
    column->addWidget(
        quiet(tr("The wheel zooms, dragging pans, a double click shows all. A click pins the row's patch.")));
    column->addStretch(1);
    connect(largest_, &QPushButton::toggled, canvas_, &MapCanvas::setLargest);
    connect(canvas_, &MapCanvas::underChanged, this, &MapPanel::describe);
    connect(&session_, &Session::evidenceChanged, this, &MapPanel::describe);
    describe();
}

void MapPanel::restyle() { canvas_->redraw(); }

void MapPanel::describe() {
    const auto& piece = session_.piece();
    title_->setText(!piece                              ? tr("No map")
                    : piece->head < 0 && piece->largest ? tr("Layer %1, largest of any head").arg(piece->layer)
                    : piece->head < 0                   ? tr("Layer %1, mean over heads").arg(piece->layer)
                                                        : tr("Layer %1 head %2").arg(piece->layer).arg(piece->head));
    const auto cell = canvas_->under();
    if (!piece) {
        where_->setText(QStringLiteral(" "));
        value_->setText(QStringLiteral(" "));
        facts_->clear();
        return;
    }
    facts_->setText(
        tr("%1 \u00d7 %2 tokens, %3\n%4  %5\nscale to %6, the 99.5th percentile")
            .arg(count(piece->queries), count(piece->keys),
                 piece->pool == 1
                     ? tr("one a cell")
                     : (piece->largest ? tr("largest of %1 \u00d7 %1") : tr("means of %1 \u00d7 %1")).arg(piece->pool),
                 text(piece->implementation), duration(piece->milliseconds),
                 vitrine::app::value(piece->plane.shown_high)));
    if (!cell) {
        where_->setText(QStringLiteral(" "));
        value_->setText(QStringLiteral(" "));
        return;
    }
    where_->setText(QStringLiteral("%1 \u2192 %2")
                        .arg(text(MapPiece::name_of(cell->query, piece->query_names, piece->query_cols)),
                             text(MapPiece::name_of(cell->key, piece->key_names, piece->key_cols))));
    value_->setText(!cell->value       ? QStringLiteral("\u2013")
                    : piece->pool == 1 ? vitrine::app::value(*cell->value)
                                       : (piece->largest ? tr("%1 at most here") : tr("%1 on average here"))
                                             .arg(vitrine::app::value(*cell->value)));
}

}  // namespace vitrine::app
