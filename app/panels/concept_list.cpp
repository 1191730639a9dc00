// Rows of equal height, so that thousands are laid out at once; painted here.
#include "concept_list.h"

#include <QAbstractListModel>
#include <QCache>
#include <QKeyEvent>
#include <QMouseEvent>
#include <QPainter>
#include <QResizeEvent>
#include <QStyledItemDelegate>

#include <algorithm>
#include <cmath>

#include "panels/format.h"
#include "panels/list_row.h"
#include "windows/scene.h"
#include "windows/theme.h"

namespace vitrine::app {

/// Heading, the patch's concepts or empty places, heading, the picture's concepts.
class ConceptRows : public QAbstractListModel {
  public:
    ConceptRows(ConceptList& list, ConceptsOnShow& concepts)
        : QAbstractListModel(&list), list_(list), concepts_(concepts) {}

    enum class Kind : std::uint8_t { PatchHeading, OfPatch, PictureHeading, OfPicture };
    Kind kindAt(int row) const {
        const int above = concepts_.picture().has_grid() ? 1 + ConceptList::kOfPatch : 0;
        if (row < above) return row == 0 ? Kind::PatchHeading : Kind::OfPatch;
        return row == above ? Kind::PictureHeading : Kind::OfPicture;
    }
    int firstOfPicture() const { return concepts_.picture().has_grid() ? 2 + ConceptList::kOfPatch : 1; }
    std::int64_t at(int row) const {
        switch (kindAt(row)) {
            case Kind::OfPatch: {
                const auto here = concepts_.atPatch();
                const auto i = static_cast<std::size_t>(row - 1);
                return i < here.size() ? here[i].id : -1;
            }
            case Kind::OfPicture: {
                const auto i = static_cast<std::size_t>(row - firstOfPicture());
                return i < shown_.size() ? shown_[i] : -1;
            }
            default:
                return -1;
        }
    }

    int rowCount(const QModelIndex& parent = {}) const override {
        return parent.isValid() || !concepts_.found() ? 0 : firstOfPicture() + static_cast<int>(shown_.size());
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
            if (!filter_.isEmpty()) return QObject::tr("Found: %1").arg(count(std::ssize(shown_)));
            return QObject::tr("This picture: %1 active").arg(count(all));
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
        shown_.clear();
        maps_.clear();
        reach_ = 0;
        const auto& picture = concepts_.picture();
        const auto fits = [&](std::int64_t number) {
            return filter_.isEmpty() || QString::number(number).startsWith(filter_) ||
                   (concepts_.isNamed(number) && concepts_.nameOf(number).contains(filter_, Qt::CaseInsensitive));
        };
        for (const auto number : picture.ranked(order_)) {
            reach_ = std::max(reach_, measureOf(picture.summary(number)));
            if (fits(number)) shown_.push_back(number);
        }
        // A silent one is found only by those who look for it.
        if (concepts_.found() && !filter_.isEmpty()) {
            bool is_number = false;
            if (const auto number = filter_.toLongLong(&is_number);
                is_number && number >= 0 && number < picture.concepts() && picture.where(number).empty())
                shown_.push_back(static_cast<std::int32_t>(number));
            for (const auto& [number, name] : concepts_.found()->facts.names)
                if (picture.where(number).empty() &&
                    QString::fromStdString(name.name).contains(filter_, Qt::CaseInsensitive))
                    shown_.push_back(number);
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

  private:
    ConceptList& list_;
    ConceptsOnShow& concepts_;
    std::vector<std::int32_t> shown_;
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
                         kind == ConceptRows::Kind::PatchHeading ? QObject::tr("strength")
                         : concepts_.picture().has_grid()        ? QObject::tr("patches")
                                                                 : QObject::tr("tokens"));
    }

    void paintConcept(QPainter& painter, const QStyleOptionViewItem& option, const QModelIndex& index,
                      std::int64_t number) const {
        const auto& t = Theme::now();
        painter.setRenderHint(QPainter::Antialiasing);
        const QRect row = option.rect;
        if (concepts_.stale()) painter.setOpacity(0.5);
        const bool of_patch = rows_.kindAt(index.row()) == ConceptRows::Kind::OfPatch;
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
        const int left = concepts_.picture().has_grid() ? kLeft + kMap + 8 : kLeft;
        int right = row.right() + 1 - kRight;
        const auto badge = list_.badgeOf(number);
        painter.setFont(mono(11));
        painter.setPen(badge.isEmpty() ? t.secondary : t.accent);
        painter.drawText(QRect(right - kCount, row.top(), kCount, row.height()), Qt::AlignVCenter | Qt::AlignRight,
                         !badge.isEmpty()   ? badge
                         : of_patch         ? value(here)
                         : one.patches == 0 ? QObject::tr("silent")
                                            : count(one.patches));
        right -= kCount + 8;
        const double whole = of_patch ? patchReach() : rows_.reach();
        const double share = whole > 0 ? std::min(1.0, (of_patch ? std::abs(here) : rows_.measureOf(one)) / whole) : 0;
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
    double patchReach() const {
        double most = 0;
        for (const auto& one : concepts_.atPatch()) most = std::max(most, static_cast<double>(std::abs(one.value)));
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

int ConceptList::shown() const { return std::max(0, rows_->rowCount() - rows_->firstOfPicture()); }

void ConceptList::setOrder(ConceptOrder order) {
    if (rows_->order_ == order) return;
    rows_->order_ = order;
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
        if (conceptAt(currentIndex()) < 0 && rows_->rowCount() > rows_->firstOfPicture())
            setCurrentIndex(rows_->index(rows_->firstOfPicture()));
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
