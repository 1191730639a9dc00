// Rows of equal height, so that thousands are laid out at once; painted here.
#include "concept_list.h"

#include <QAbstractListModel>
#include <QCache>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QResizeEvent>
#include <QStyledItemDelegate>
#include <QWheelEvent>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "panels/list_row.h"
#include "windows/scene.h"
#include "windows/theme.h"

namespace vitrine::app {

/// Heading, the patch's concepts or empty places, heading, the picture's concepts; or a heading and concepts for each
/// token that is no patch.
class ConceptRows : public QAbstractListModel {
  public:
    ConceptRows(ConceptList& list, ConceptsOnShow& concepts)
        : QAbstractListModel(&list), list_(list), concepts_(concepts) {}

    enum class Kind : std::uint8_t { PatchHeading, OfPatch, PictureHeading, OfPicture, TokenHeading, OfToken };
    /// A row below the patch's.
    struct Place {
        Kind kind = Kind::PictureHeading;
        int token = -1;  ///< of `apart`
        std::int64_t concept_id = -1;
        float value = 0;  ///< in the token
    };
    int above() const { return concepts_.picture().has_grid() ? 1 + ConceptList::kOfPatch : 0; }
    const Place* placeAt(int row) const {
        const int i = row - above();
        return i >= 0 && i < static_cast<int>(places_.size()) ? &places_[static_cast<std::size_t>(i)] : nullptr;
    }
    Kind kindAt(int row) const {
        if (row < above()) return row == 0 ? Kind::PatchHeading : Kind::OfPatch;
        const auto* place = placeAt(row);
        return place ? place->kind : Kind::PictureHeading;
    }
    int firstBelow() const { return above() + 1; }
    std::int64_t at(int row) const {
        if (kindAt(row) == Kind::OfPatch) {
            const auto here = concepts_.atPatch();
            const auto i = static_cast<std::size_t>(row - 1);
            return i < here.size() ? here[i].id : -1;
        }
        const auto* place = placeAt(row);
        return place ? place->concept_id : -1;
    }
    int shown() const {
        return static_cast<int>(
            std::count_if(places_.begin(), places_.end(), [](const Place& one) { return one.concept_id >= 0; }));
    }

    int rowCount(const QModelIndex& parent = {}) const override {
        return parent.isValid() || !concepts_.found() ? 0 : above() + static_cast<int>(places_.size());
    }
    Qt::ItemFlags flags(const QModelIndex& index) const override {
        return at(index.row()) < 0 ? Qt::ItemIsEnabled : Qt::ItemIsEnabled | Qt::ItemIsSelectable;
    }
    QVariant data(const QModelIndex& index, int role) const override {
        const auto number = at(index.row());
        if (role != Qt::DisplayRole && role != Qt::ToolTipRole && role != Qt::AccessibleTextRole) return {};
        if (number < 0) return role == Qt::ToolTipRole ? QVariant() : headingAt(index.row());
        if (role == Qt::DisplayRole) return concepts_.nameOf(number);
        const auto one = concepts_.picture().summary(number);
        const bool grid = concepts_.picture().has_grid();
        auto words = concepts_.isNamed(number) ? QObject::tr("%1, concept %2").arg(concepts_.nameOf(number)).arg(number)
                                               : concepts_.nameOf(number);
        words += one.patches == 0 ? QObject::tr("\nSilent on this picture")
                                  : (grid ? QObject::tr("\nIn %1 of %2 patches; strongest %3, sum %4")
                                          : QObject::tr("\nIn %1 of %2 tokens; strongest %3, sum %4"))
                                        .arg(count(one.patches), count(concepts_.picture().patches()),
                                             value(one.strongest), value(one.sum));
        if (const float here = concepts_.valueAtPatch(number); here != 0)
            words += QObject::tr("\nIn the patch that is pointed at: %1").arg(value(here));
        for (const auto& token : concepts_.found()->apart)
            if (const float there = token.at(number); there != 0)
                words += QObject::tr("\nIn the %1: %2").arg(ConceptsOnShow::tokenName(token.token), value(there));
        if (concepts_.isNamed(number)) {
            const auto& named = concepts_.found()->facts.names.at(static_cast<std::int32_t>(number));
            if (!named.tags.empty()) words += QObject::tr("\nTags: %1").arg(QString::fromStdString(named.tags));
            if (!named.note.empty()) words += QLatin1Char('\n') + QString::fromStdString(named.note);
        }
        if (const auto badge = list_.badgeOf(number); !badge.isEmpty())
            words += QObject::tr("\nSteered: %1").arg(badge);
        if (role == Qt::ToolTipRole) {
            words += QObject::tr("\nA click pins it, Ctrl and a click chooses several");
            return QStringLiteral("<p style='white-space:pre-wrap'>%1</p>")
                .arg(words.toHtmlEscaped());  // long names wrap
        }
        return words;
    }
    QString headingAt(int row) const {
        if (kindAt(row) == Kind::PictureHeading) {
            const auto all = static_cast<std::int64_t>(concepts_.picture().heard().size());
            if (!filter_.isEmpty()) return QObject::tr("Found: %1").arg(count(shown()));
            return (concepts_.picture().has_grid()       ? QObject::tr("All patches: %1 active")
                    : concepts_.picture().patches() == 1 ? QObject::tr("Class token: %1 active")
                                                         : QObject::tr("All tokens: %1 active"))
                .arg(count(all));
        }
        if (kindAt(row) == Kind::TokenHeading) {
            const auto& token = concepts_.found()->apart[static_cast<std::size_t>(placeAt(row)->token)];
            auto name = ConceptsOnShow::tokenName(token.token);
            name[0] = name[0].toUpper();
            return QObject::tr("%1: %2 active").arg(name, count(std::ssize(token.concepts)));
        }
        if (kindAt(row) == Kind::PatchHeading) {
            const auto& patch = concepts_.patch();
            return patch ? QObject::tr("Patch %1, %2: %3 active")
                               .arg(patch->first)
                               .arg(patch->second)
                               .arg(count(std::ssize(concepts_.atPatch())))
                         : QObject::tr("This patch");
        }
        return {};
    }

    void rank() {
        beginResetModel();
        places_.clear();
        maps_.clear();
        reach_ = 0;
        const auto& picture = concepts_.picture();
        const auto fits = [&](std::int64_t number) {
            return filter_.isEmpty() || QString::number(number).startsWith(filter_) ||
                   (concepts_.isNamed(number) && concepts_.nameOf(number).contains(filter_, Qt::CaseInsensitive));
        };
        if (apart_ && concepts_.found()) {
            const auto& apart = concepts_.found()->apart;
            for (int token = 0; token < static_cast<int>(apart.size()); ++token) {
                places_.push_back({Kind::TokenHeading, token});
                for (const auto& one : apart[static_cast<std::size_t>(token)].concepts)
                    if (fits(one.id)) places_.push_back({Kind::OfToken, token, one.id, one.value});
            }
            return endResetModel();
        }
        places_.push_back({});
        const auto show = [this](std::int64_t number) { places_.push_back({Kind::OfPicture, -1, number}); };
        auto ranked = picture.ranked(order_);
        if (named_first_)
            std::stable_partition(ranked.begin(), ranked.end(),
                                  [this](std::int32_t number) { return concepts_.isNamed(number); });
        for (const auto number : ranked) {
            reach_ = std::max(reach_, measureOf(picture.summary(number)));
            if (fits(number)) show(number);
        }
        // A silent one is found only by those who look for it.
        if (concepts_.found() && !filter_.isEmpty()) {
            bool is_number = false;
            if (const auto number = filter_.toLongLong(&is_number);
                is_number && number >= 0 && number < picture.concepts() && picture.where(number).empty())
                show(number);
            for (const auto& [number, name] : concepts_.found()->facts.names)
                if (picture.where(number).empty() &&
                    QString::fromStdString(name.name).contains(filter_, Qt::CaseInsensitive))
                    show(number);
        }
        endResetModel();
    }
    double measureOf(const ConceptSummary& one) const {
        return order_ == ConceptOrder::Sum         ? std::abs(one.sum)
               : order_ == ConceptOrder::Strongest ? std::abs(one.strongest)
                                                   : one.patches;
    }
    double reach() const { return reach_; }
    const QImage& mapOf(std::int64_t number, const ViewSettings& settings) {
        if (auto* kept = maps_.object(number)) return *kept;
        auto plain = settings;
        plain.range.reset();  // set by hand for another map
        auto* made = new QImage(paint_map(concepts_.planeOf(number), plain));
        maps_.insert(number, made);
        return *made;
    }

    ConceptOrder order_ = ConceptOrder::Sum;
    QString filter_;
    bool apart_ = false, named_first_ = false;

  private:
    ConceptList& list_;
    ConceptsOnShow& concepts_;
    std::vector<Place> places_;
    double reach_ = 0;
    QCache<std::int64_t, QImage> maps_{512};
};

namespace {

constexpr int kMap = 20, kLeft = 16, kBar = 48, kCount = 44;
constexpr int kRight = 4;  // with the scroll bar, whose place is kept, 16

class ConceptDelegate : public QStyledItemDelegate {
  public:
    ConceptDelegate(ConceptList& list, ConceptsOnShow& concepts, ConceptRows& rows, const ViewSettings& settings)
        : QStyledItemDelegate(&list), list_(list), concepts_(concepts), rows_(rows), settings_(settings) {}
    QSize sizeHint(const QStyleOptionViewItem&, const QModelIndex&) const override { return {200, kListRow}; }

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override {
        painter->save();
        const auto number = rows_.at(index.row());
        if (number < 0)
            paintPlace(*painter, option.rect, index.row());
        else
            paintConcept(*painter, option, index, number);
        painter->restore();
    }

  private:
    void paintPlace(QPainter& painter, const QRect& row, int at) const {
        const auto& t = Theme::now();
        painter.setPen(t.secondary);
        const auto kind = rows_.kindAt(at);
        if (kind == ConceptRows::Kind::OfPatch) {
            // The first empty place says how it is filled.
            if (at != 1) return;
            painter.setFont(sans(11));
            painter.drawText(row.adjusted(kLeft, 0, -kRight, 0), Qt::AlignVCenter | Qt::TextWordWrap,
                             concepts_.patch() ? QObject::tr("No concept is active here")
                                               : QObject::tr("Point at the picture to see a patch's concepts"));
            return;
        }
        painter.setFont(sans(11, true));
        const QRect words = row.adjusted(kLeft, 4, -kRight, 0);
        painter.drawText(words, Qt::AlignVCenter | Qt::AlignLeft, rows_.headingAt(at));
        painter.setFont(sans(11));
        painter.drawText(words, Qt::AlignVCenter | Qt::AlignRight,
                         kind != ConceptRows::Kind::PictureHeading || concepts_.picture().patches() == 1
                             ? QObject::tr("strength")
                         : concepts_.picture().has_grid() ? QObject::tr("patches")
                                                          : QObject::tr("tokens"));
    }

    void paintConcept(QPainter& painter, const QStyleOptionViewItem& option, const QModelIndex& index,
                      std::int64_t number) const {
        const auto& t = Theme::now();
        painter.setRenderHint(QPainter::Antialiasing);
        const QRect row = option.rect;
        if (concepts_.stale()) painter.setOpacity(0.5);
        const bool of_patch = rows_.kindAt(index.row()) == ConceptRows::Kind::OfPatch;
        const auto* place = rows_.placeAt(index.row());
        const bool of_token = place && place->kind == ConceptRows::Kind::OfToken;
        const bool chosen = concepts_.chosen().contains(number), hovered = concepts_.hovered() == number;
        const float here = concepts_.valueAtPatch(number);
        const auto one = concepts_.picture().summary(number);
        if (chosen || hovered) {
            QColor ground = t.accent;
            ground.setAlphaF(chosen ? 0.24F : 0.10F);
            painter.setPen(Qt::NoPen);
            painter.setBrush(ground);
            painter.drawRoundedRect(row.adjusted(8, 0, 0, 0), 4, 4);
        }
        if (list_.hasFocus() && index == list_.currentIndex()) {
            painter.setPen(QPen(t.accent, 1));
            painter.setBrush(Qt::NoBrush);
            painter.drawRoundedRect(QRectF(row).adjusted(8.5, 0.5, -0.5, -0.5), 4, 4);
        }
        // Active in the patch that is pointed at: said by a mark and not by colour alone.
        if (here != 0 && !of_patch) {
            painter.setPen(Qt::NoPen);
            painter.setBrush(t.accent);
            painter.drawRoundedRect(QRectF(row.left() + 9, row.top() + 6, 3, row.height() - 12), 1.5, 1.5);
        }
        const QRectF box(row.left() + kLeft, row.top() + (row.height() - kMap) / 2.0, kMap, kMap);
        if (concepts_.picture().has_grid()) {
            const auto& map = rows_.mapOf(number, settings_);
            painter.setRenderHint(QPainter::SmoothPixmapTransform, false);
            painter.drawImage(box, map);
        }
        if (const int slot = concepts_.slotOf(number); slot >= 0) {
            // Its colour on the picture.
            const auto hue = hue_of(slot);
            painter.setPen(QPen(QColor(hue.r, hue.g, hue.b), 2));
            painter.setBrush(Qt::NoBrush);
            painter.drawRect(box.adjusted(-2, -2, 2, 2));
        }
        const int left = concepts_.picture().has_grid() ? kLeft + kMap + 8 : kLeft;
        int right = row.right() + 1 - kRight;
        const auto badge = list_.badgeOf(number);
        painter.setFont(mono(11));
        painter.setPen(badge.isEmpty() ? t.secondary : t.accent);
        painter.drawText(QRect(right - kCount, row.top(), kCount, row.height()), Qt::AlignVCenter | Qt::AlignRight,
                         !badge.isEmpty()                     ? badge
                         : of_patch                           ? value(here)
                         : of_token                           ? value(place->value)
                         : one.patches == 0                   ? QObject::tr("silent")
                         : concepts_.picture().patches() == 1 ? value(one.strongest)
                                                              : count(one.patches));
        right -= kCount + 8;
        const double whole = of_patch ? reachOf(concepts_.atPatch())
                             : of_token
                                 ? reachOf(concepts_.found()->apart[static_cast<std::size_t>(place->token)].concepts)
                                 : rows_.reach();
        const double part = of_patch ? std::abs(here) : of_token ? std::abs(place->value) : rows_.measureOf(one);
        const double share = whole > 0 ? std::min(1.0, part / whole) : 0;
        const QRectF track(right - kBar, row.center().y() - 1.5, kBar, 4);
        painter.setPen(Qt::NoPen);
        painter.setBrush(t.faint);
        painter.drawRoundedRect(track, 2, 2);
        if (share > 0) {
            painter.setBrush(here != 0 ? t.accent : t.secondary);
            painter.drawRoundedRect(QRectF(track.left(), track.top(), std::max(2.0, kBar * share), 4), 2, 2);
        }
        right -= kBar + 8;
        int name_left = row.left() + left;
        if (concepts_.pinned() == number) {
            painter.drawPixmap(QPointF(name_left, row.top() + 7),
                               iconPixmap(QStringLiteral("pin"), t.accent, 14, painter.device()->devicePixelRatio()));
            name_left += 18;
        }
        ListRow text{row, right};
        paintListName(painter, text, name_left, concepts_.nameOf(number), true, chosen, Qt::ElideRight);
    }
    static double reachOf(std::span<const ConceptValue> some) {
        double most = 0;
        for (const auto& one : some) most = std::max(most, static_cast<double>(std::abs(one.value)));
        return most;
    }

    ConceptList& list_;
    ConceptsOnShow& concepts_;
    ConceptRows& rows_;
    const ViewSettings& settings_;
};

}  // namespace

ConceptList::ConceptList(ConceptsOnShow& concepts, const ViewSettings& settings, QWidget* parent)
    : QListView(parent), concepts_(concepts), rows_(new ConceptRows(*this, concepts)) {
    setObjectName(QStringLiteral("conceptList"));
    setAccessibleName(tr("Concepts"));
    setModel(rows_);
    setItemDelegate(new ConceptDelegate(*this, concepts, *rows_, settings));
    setUniformItemSizes(true);
    setSelectionMode(NoSelection);  // what is chosen are concepts, not rows
    setEditTriggers(NoEditTriggers);
    setMouseTracking(true);
    setVerticalScrollMode(ScrollPerPixel);
    setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    setVerticalScrollBarPolicy(Qt::ScrollBarAlwaysOn);  // its place is kept
    setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Expanding);
}

std::int64_t ConceptList::conceptAt(const QModelIndex& index) const {
    return index.isValid() ? rows_->at(index.row()) : -1;
}

int ConceptList::shown() const { return rows_->shown(); }
bool ConceptList::apart() const { return rows_->apart_; }

void ConceptList::setApart(bool apart) {
    if (rows_->apart_ == apart) return;
    rows_->apart_ = apart;
    rows_->rank();
}

void ConceptList::setOrder(ConceptOrder order, bool named_first) {
    if (rows_->order_ == order && rows_->named_first_ == named_first) return;
    rows_->order_ = order;
    rows_->named_first_ = named_first;
    rows_->rank();
}

void ConceptList::setFilter(const QString& words) {
    if (rows_->filter_ == words) return;
    rows_->filter_ = words;
    rows_->rank();
}

void ConceptList::refresh() { rows_->rank(); }

void ConceptList::refreshPatch() { viewport()->update(); }

/// What was clicked stays in sight when steering takes its place below.
void ConceptList::resizeEvent(QResizeEvent* event) {
    QListView::resizeEvent(event);
    if (event->size().height() < event->oldSize().height() && conceptAt(currentIndex()) == concepts_.pinned() &&
        concepts_.pinned() >= 0)
        scrollTo(currentIndex());
}

void ConceptList::mouseMoveEvent(QMouseEvent* event) {
    concepts_.hover(conceptAt(indexAt(event->pos())));
    QListView::mouseMoveEvent(event);
}

/// What comes to lie under a cursor that rests is what it points at.
void ConceptList::wheelEvent(QWheelEvent* event) {
    QListView::wheelEvent(event);
    concepts_.hover(conceptAt(indexAt(viewport()->mapFromGlobal(event->globalPosition()).toPoint())));
}

void ConceptList::mousePressEvent(QMouseEvent* event) {
    if (event->button() == Qt::LeftButton) pressed_ = conceptAt(indexAt(event->pos()));
    QListView::mousePressEvent(event);
}

void ConceptList::mouseReleaseEvent(QMouseEvent* event) {
    QListView::mouseReleaseEvent(event);
    if (event->button() != Qt::LeftButton) return;
    const auto number = conceptAt(indexAt(event->pos()));
    if (number >= 0 && number == pressed_) concepts_.pin(number, event->modifiers().testFlag(Qt::ControlModifier));
    pressed_ = -1;
}

void ConceptList::leaveEvent(QEvent* event) {
    concepts_.hover(-1);
    QListView::leaveEvent(event);
}

void ConceptList::currentChanged(const QModelIndex& current, const QModelIndex& previous) {
    QListView::currentChanged(current, previous);
    viewport()->update();
}

void ConceptList::focusInEvent(QFocusEvent* event) {
    QListView::focusInEvent(event);
    if (event->reason() == Qt::TabFocusReason || event->reason() == Qt::BacktabFocusReason) {
        if (conceptAt(currentIndex()) < 0 && rows_->rowCount() > rows_->firstBelow())
            setCurrentIndex(rows_->index(rows_->firstBelow()));
        concepts_.hover(conceptAt(currentIndex()));
    }
}

void ConceptList::focusOutEvent(QFocusEvent* event) {
    QListView::focusOutEvent(event);
    if (!underMouse()) concepts_.hover(-1);
}

void ConceptList::keyPressEvent(QKeyEvent* event) {
    const auto number = conceptAt(currentIndex());
    if (number >= 0 &&
        (event->key() == Qt::Key_Space || event->key() == Qt::Key_Return || event->key() == Qt::Key_Enter))
        return concepts_.pin(number, event->modifiers().testFlag(Qt::ControlModifier));
    // Letters are the window's keys: nothing is searched for by typing here.
    if (!event->text().isEmpty() && event->text().front().isPrint()) return event->ignore();
    const auto before = currentIndex();
    QListView::keyPressEvent(event);
    if (currentIndex() != before) concepts_.hover(conceptAt(currentIndex()));
}

void ConceptList::contextMenuEvent(QContextMenuEvent* event) {
    const auto at = event->reason() == QContextMenuEvent::Keyboard ? currentIndex() : indexAt(event->pos());
    if (const auto number = conceptAt(at); number >= 0)
        Q_EMIT menuWanted(number, event->reason() == QContextMenuEvent::Keyboard
                                      ? viewport()->mapToGlobal(visualRect(at).bottomLeft())
                                      : event->globalPos());
}

}  // namespace vitrine::app
