// The searchable choice: a list with headings, notes and reasons.
#include "choice_button.h"

#include <QApplication>
#include <QEvent>
#include <QFrame>
#include <QHelpEvent>
#include <QKeyEvent>
#include <QLineEdit>
#include <QListView>
#include <QPainter>
#include <QPointer>
#include <QScreen>
#include <QScrollBar>
#include <QStandardItemModel>
#include <QStyleOptionButton>
#include <QStyledItemDelegate>
#include <QToolTip>
#include <QVBoxLayout>

#include "panels/list_row.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

enum Role { NoteRole = Qt::UserRole + 1, ValueRole, HeadingRole, CurrentRole, IndexRole };

constexpr int kHeading = 24;

class ChoiceDelegate : public QStyledItemDelegate {
  public:
    using QStyledItemDelegate::QStyledItemDelegate;

    QSize sizeHint(const QStyleOptionViewItem&, const QModelIndex& index) const override {
        return {100, index.data(HeadingRole).toString().isEmpty() ? kListRow : kListRow + kHeading};
    }

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override {
        const auto& t = Theme::now();
        painter->save();
        const bool enabled = index.flags() & Qt::ItemIsEnabled;
        const ListRow row = paintListRow(*painter, option, index.data(HeadingRole).toString(), kHeading,
                                         enabled ? t.accent : QColor(), index.data(NoteRole).toString());
        if (index.data(CurrentRole).toBool())
            painter->drawPixmap(
                row.rect.left() + 10, row.rect.top() + (kListRow - 16) / 2,
                iconPixmap(QStringLiteral("check"), t.accent, 16, painter->device()->devicePixelRatio()));
        paintListName(*painter, row, row.rect.left() + 32, index.data(Qt::DisplayRole).toString(), enabled, false,
                      Qt::ElideMiddle);
        painter->restore();
    }
};

class ChoicePopup : public QFrame {
  public:
    ChoicePopup(QWidget* anchor, const QString& hint, std::vector<ChoiceItem> items,
                std::function<void(const QVariant&)> chosen)
        : QFrame(anchor, Qt::Popup | Qt::FramelessWindowHint), items_(std::move(items)), chosen_(std::move(chosen)) {
        setAttribute(Qt::WA_DeleteOnClose);
        setObjectName(QStringLiteral("choicePopup"));
        auto* column = new QVBoxLayout(this);
        column->setContentsMargins(1, 1, 1, 1);
        column->setSpacing(0);
        search_ = new QLineEdit;
        search_->setObjectName(QStringLiteral("choiceSearch"));
        search_->setPlaceholderText(hint);
        search_->installEventFilter(this);
        search_->setVisible(items_.size() > 8);
        column->addWidget(search_);
        list_ = new QListView;
        list_->setObjectName(QStringLiteral("choiceList"));
        list_->setModel(&model_);
        list_->setItemDelegate(new ChoiceDelegate(list_));
        list_->setMouseTracking(true);
        list_->setEditTriggers(QAbstractItemView::NoEditTriggers);
        list_->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
        list_->setVerticalScrollMode(QAbstractItemView::ScrollPerPixel);
        list_->installEventFilter(this);
        column->addWidget(list_, 1);
        nothing_ = new QLabel(tr("Nothing by that name"));
        nothing_->setAlignment(Qt::AlignCenter);
        nothing_->setProperty("role", "secondary");
        nothing_->hide();
        column->addWidget(nothing_, 1);
        connect(search_, &QLineEdit::textChanged, this, [this](const QString& text) { fill(text); });
        connect(list_, &QListView::clicked, this, [this](const QModelIndex& index) { take(index); });
        fill({});
        setFocusProxy(search_->isVisibleTo(this) ? static_cast<QWidget*>(search_) : list_);
    }

    int wantedHeight() const {
        int height = 16 + (items_.size() > 8 ? 34 : 0);
        for (const auto& item : items_) height += kListRow + (item.heading.isEmpty() ? 0 : kHeading);
        return height;
    }

    void start() { (items_.size() > 8 ? static_cast<QWidget*>(search_) : list_)->setFocus(); }

  protected:
    bool eventFilter(QObject* watched, QEvent* event) override {
        if (event->type() == QEvent::KeyPress) {
            auto* key = static_cast<QKeyEvent*>(event);
            switch (key->key()) {
                case Qt::Key_Return:
                case Qt::Key_Enter:
                    take(list_->currentIndex());
                    return true;
                case Qt::Key_Up:
                case Qt::Key_Down:
                case Qt::Key_PageUp:
                case Qt::Key_PageDown:
                    if (watched == search_) {
                        QApplication::sendEvent(list_, event);
                        return true;
                    }
                    break;
                default:
                    break;
            }
        }
        return QFrame::eventFilter(watched, event);
    }

  private:
    void fill(const QString& text) {
        model_.clear();
        QString heading;
        const auto words = text.split(QLatin1Char(' '), Qt::SkipEmptyParts);
        int select = -1;
        for (std::size_t i = 0; i < items_.size(); ++i) {
            const auto& item = items_[i];
            if (!item.heading.isEmpty()) heading = item.heading;
            bool matches = true;
            for (const auto& word : words)
                matches = matches && (item.title.contains(word, Qt::CaseInsensitive) || item.note == word);
            if (!matches) continue;
            auto* row = new QStandardItem(item.title);
            row->setData(item.note, NoteRole);
            row->setData(item.current, CurrentRole);
            row->setData(heading, HeadingRole);
            row->setData(static_cast<int>(i), IndexRole);
            row->setEnabled(item.why_not.isEmpty());
            // Grey, and the tooltip says why.
            row->setToolTip(item.why_not.isEmpty() ? item.tooltip : item.why_not);
            heading.clear();
            model_.appendRow(row);
            if (select < 0 && row->isEnabled() && (item.current || !words.isEmpty())) select = model_.rowCount() - 1;
        }
        list_->setVisible(model_.rowCount() > 0);
        nothing_->setVisible(model_.rowCount() == 0);
        for (int r = 0; select < 0 && r < model_.rowCount(); ++r)
            if (model_.item(r)->isEnabled()) select = r;
        if (select >= 0) {
            list_->setCurrentIndex(model_.index(select, 0));
            list_->scrollTo(list_->currentIndex());
        }
    }

    void take(const QModelIndex& index) {
        if (!index.isValid() || !(index.flags() & Qt::ItemIsEnabled)) return;
        const auto value = items_[static_cast<std::size_t>(index.data(IndexRole).toInt())].value;
        const auto chosen = chosen_;
        close();
        chosen(value);
    }

    std::vector<ChoiceItem> items_;
    std::function<void(const QVariant&)> chosen_;
    QStandardItemModel model_;
    QLineEdit* search_ = nullptr;
    QListView* list_ = nullptr;
    QLabel* nothing_ = nullptr;
};

}  // namespace

void openChoices(QWidget* anchor, const QPoint& where, int width, const QString& search_hint,
                 std::vector<ChoiceItem> items, std::function<void(const QVariant&)> chosen) {
    auto* popup = new ChoicePopup(anchor, search_hint, std::move(items), std::move(chosen));
    const auto room = anchor->screen()->availableGeometry();
    const int height = std::min({popup->wantedHeight(), 440, room.bottom() - where.y() - 8});
    popup->setGeometry(std::min(where.x(), room.right() - width), where.y(), width, std::max(height, 44));
    popup->show();
    popup->start();
}

ChoiceButton::ChoiceButton(QWidget* parent) : QPushButton(parent) {
    setObjectName(QStringLiteral("choice"));
    setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
    setMaximumWidth(320);
    connect(this, &QPushButton::clicked, this, &ChoiceButton::openList);
}

void ChoiceButton::setFace(const QString& icon, const QString& caption, const QString& text, const QString& note) {
    if (icon == icon_ && caption == caption_ && text == text_ && note == note_) return;
    icon_ = icon, caption_ = caption, text_ = text, note_ = note;
    setAccessibleName(caption + QLatin1Char(' ') + text + QLatin1Char(' ') + note);
    updateGeometry();
    update();
}

void ChoiceButton::setItems(std::function<std::vector<ChoiceItem>()> items, const QString& search_hint) {
    items_ = std::move(items);
    search_hint_ = search_hint;
}

void ChoiceButton::setOpener(std::function<void()> open) { opener_ = std::move(open); }

void ChoiceButton::setReason(const QString& why_not) {
    setEnabled(why_not.isEmpty());
    setToolTip(why_not.isEmpty() ? hint_ : why_not);
}

void ChoiceButton::setHint(const QString& tooltip) {
    hint_ = tooltip;
    if (isEnabled()) setToolTip(tooltip);
}

QSize ChoiceButton::sizeHint() const {
    int width = 12 + 28 + 6;  // a little slack: rounded advances may add up to less than what is drawn
    if (!icon_.isEmpty()) width += 24;
    if (!caption_.isEmpty()) width += QFontMetrics(sans(13)).horizontalAdvance(caption_) + 6;
    width += QFontMetrics(sans(13)).horizontalAdvance(text_);
    if (!note_.isEmpty()) width += QFontMetrics(mono(11)).horizontalAdvance(note_) + 8;
    return {width, 28};
}

QSize ChoiceButton::minimumSizeHint() const { return {std::min(112, sizeHint().width()), 28}; }

bool ChoiceButton::event(QEvent* event) {
    if (event->type() == QEvent::ToolTip && isEnabled() && width() < sizeHint().width()) {
        // What had to be cut is said here in full.
        const auto face = QStringList{caption_, text_, note_}.join(QLatin1Char(' ')).trimmed();
        QToolTip::showText(static_cast<QHelpEvent*>(event)->globalPos(), face + QLatin1Char('\n') + hint_, this);
        return true;
    }
    return QPushButton::event(event);
}

void ChoiceButton::paintEvent(QPaintEvent*) {
    const auto& t = Theme::now();
    QPainter painter(this);
    QStyleOptionButton option;
    initStyleOption(&option);
    option.text.clear();
    style()->drawControl(QStyle::CE_PushButton, &option, &painter, this);
    painter.setRenderHint(QPainter::Antialiasing);
    const qreal ratio = devicePixelRatioF();
    const double fade = isEnabled() ? 1.0 : 0.45;
    painter.setOpacity(fade);
    int x = 8;
    if (!icon_.isEmpty()) {
        painter.drawPixmap(x, (height() - 20) / 2, iconPixmap(icon_, t.secondary, 20, ratio));
        x += 26;
    } else {
        x = 12;
    }
    int right = width() - 28;
    painter.drawPixmap(width() - 24, (height() - 16) / 2,
                       iconPixmap(QStringLiteral("chevron_down"), t.secondary, 16, ratio));
    painter.setFont(sans(13));
    if (!caption_.isEmpty()) {
        painter.setPen(t.secondary);
        painter.drawText(QRect(x, 0, right - x, height()), Qt::AlignVCenter, caption_);
        x += painter.fontMetrics().horizontalAdvance(caption_) + 6;
    }
    // The note gives way before the text does.
    const int note = note_.isEmpty() ? 0 : QFontMetrics(mono(11)).horizontalAdvance(note_) + 8;
    const bool with_note = note > 0 && right - x - note >= std::min(80, painter.fontMetrics().horizontalAdvance(text_));
    if (with_note) right -= note;
    const auto shown = painter.fontMetrics().elidedText(text_, Qt::ElideRight, right - x);
    painter.setPen(t.text);
    painter.drawText(QRect(x, 0, right - x, height()), Qt::AlignVCenter, shown);
    x += painter.fontMetrics().horizontalAdvance(shown) + 8;
    if (with_note) {
        painter.setFont(mono(11));
        painter.setPen(t.secondary);
        painter.drawText(QRect(x, 0, width() - 28 - x, height()), Qt::AlignVCenter, note_);
    }
}

void ChoiceButton::openList() {
    if (opener_) return opener_();
    if (!items_) return;
    auto items = items_();
    if (items.empty()) return;
    openChoices(this, mapToGlobal(QPoint(0, height() + 4)), std::max(width(), 320), search_hint_, std::move(items),
                [self = QPointer(this)](const QVariant& value) {
                    if (self) Q_EMIT self->chosen(value);
                });
}

}  // namespace vitrine::app
