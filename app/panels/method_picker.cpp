// The popup of methods.
#include "method_picker.h"

#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QLineEdit>
#include <QListView>
#include <QMouseEvent>
#include <QPainter>
#include <QPushButton>
#include <QScreen>
#include <QScrollArea>
#include <QStyledItemDelegate>
#include <QVBoxLayout>

#include <algorithm>

#include "panels/format.h"
#include "panels/list_row.h"
#include "panels/small_widgets.h"
#include "windows/theme.h"

namespace vitrine::app {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

enum Role { IndexRole = Qt::UserRole + 1, HeadingRole, CostRole, CurrentRole, CheckedRole };
constexpr int kHeading = 28, kWidth = 680, kList = 328, kHeight = 460;

/// The families in the order in which people come to them; others follow, those without a family last.
int rankOf(const std::string& family) {
    static const char* const kOrder[] = {"Attention",     "Class activation", "Gradients", "Perturbation",
                                         "Learned masks", "Inner views",      "Controls"};
    const int known = static_cast<int>(std::size(kOrder));
    for (int i = 0; i < known; ++i)
        if (family == kOrder[i]) return i;
    return family.empty() ? known + 1 : known;
}

/// A backward pass costs about two forward ones: it has two products where a forward pass has one.
double millisecondsOf(const PassFacts& passes, double forward_ms) {
    return forward_ms * (static_cast<double>(passes.forwards) + 2.0 * static_cast<double>(passes.backwards));
}

/// Where the box of a row is.
QRect boxIn(const QRect& item, bool heading) {
    const int top = item.top() + (heading ? kHeading : 0);
    return {item.left() + 12, top + (kListRow - 16) / 2, 16, 16};
}

class Delegate : public QStyledItemDelegate {
  public:
    using QStyledItemDelegate::QStyledItemDelegate;

    QSize sizeHint(const QStyleOptionViewItem&, const QModelIndex& index) const override {
        return {100, index.data(HeadingRole).toString().isEmpty() ? kListRow : kListRow + kHeading};
    }

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override {
        const auto& t = Theme::now();
        painter->save();
        const auto heading = index.data(HeadingRole).toString();
        const bool can = index.data(Qt::AccessibleDescriptionRole).toString().isEmpty();
        const ListRow row = paintListRow(*painter, option, heading, kHeading, can ? t.accent : t.secondary,
                                         index.data(CostRole).toString());
        if (can) {
            const bool in = index.data(CheckedRole).toBool();
            const auto box = boxIn(option.rect, !heading.isEmpty());
            painter->setBrush(in ? t.accent : t.panel);
            painter->setPen(QPen(in ? t.accent : t.secondary, 1));
            painter->drawRoundedRect(QRectF(box).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4);
            if (in)
                painter->drawPixmap(box.topLeft(), iconPixmap(QStringLiteral("check"), t.dark ? t.room : t.panel, 16,
                                                              painter->device()->devicePixelRatio()));
        }
        paintListName(*painter, row, row.rect.left() + 38, index.data(Qt::DisplayRole).toString(), can,
                      index.data(CurrentRole).toBool(), Qt::ElideRight);
        painter->restore();
    }
};

}  // namespace

QString costShort(const MethodFacts& method, double forward_ms) {
    if (!method.why_not.empty()) return {};
    if (!method.passes) return QObject::tr("unknown");
    if (method.passes->forwards + method.passes->backwards == 0) return QObject::tr("at once");
    if (forward_ms <= 0) return QObject::tr("%1 passes").arg(method.passes->forwards + method.passes->backwards);
    return duration(millisecondsOf(*method.passes, forward_ms));
}

QString costWords(const MethodFacts& method, double forward_ms) {
    if (!method.passes) return QObject::tr("unknown: how often the model is run is not known before");
    const auto& passes = *method.passes;
    if (passes.forwards + passes.backwards == 0) return QObject::tr("at once: it reads the run that is already there");
    QStringList runs;
    if (passes.forwards > 0) runs << QObject::tr("%1 forward").arg(count(passes.forwards));
    if (passes.backwards > 0) runs << QObject::tr("%1 backward").arg(count(passes.backwards));
    const bool one = passes.forwards + passes.backwards == 1;
    const auto words = (one ? QObject::tr("%1 pass") : QObject::tr("%1 passes")).arg(runs.join(QObject::tr(" and ")));
    if (forward_ms <= 0) return QObject::tr("%1; how long they take is known once the model has run").arg(words);
    return QObject::tr("about %1: %2 of %3 each%4")
        .arg(duration(millisecondsOf(passes, forward_ms)), words, duration(forward_ms),
             passes.backwards > 0 ? QObject::tr(", a backward one taken as two") : QString());
}

std::vector<MethodFacts> byFamily(std::vector<MethodFacts> methods) {
    std::stable_sort(methods.begin(), methods.end(), [](const MethodFacts& a, const MethodFacts& b) {
        const int x = rankOf(a.family), y = rankOf(b.family);
        return x != y ? x < y : a.family < b.family;
    });
    return methods;
}

MethodPicker* MethodPicker::open(Session& session, Comparison& comparison, QWidget* anchor) {
    auto* picker = new MethodPicker(session, comparison, anchor);
    const auto room = anchor->screen()->availableGeometry();
    const auto below = anchor->mapToGlobal(QPoint(0, anchor->height() + 4));
    const int width = std::min(kWidth, room.width() - 16);
    const int height = std::clamp(room.bottom() - below.y() - 8, 200, kHeight);
    picker->setGeometry(std::clamp(below.x(), room.left() + 8, room.right() - width - 8), below.y(), width, height);
    picker->QFrame::show();
    picker->search_->setFocus();
    return picker;
}

MethodPicker::MethodPicker(Session& session, Comparison& comparison, QWidget* anchor)
    : QFrame(anchor, Qt::Popup | Qt::FramelessWindowHint), session_(session), comparison_(comparison) {
    setAttribute(Qt::WA_DeleteOnClose);
    setObjectName(QStringLiteral("methodPicker"));
    if (session.model()) methods_ = byFamily(session.model()->methods);
    // Of what is asked now: some methods cannot explain a region.
    for (auto& method : methods_) method.why_not = session.whyNot(method).toStdString();
    auto* column = new QVBoxLayout(this);
    column->setContentsMargins(1, 1, 1, 1);
    column->setSpacing(0);
    search_ = new QLineEdit;
    search_->setObjectName(QStringLiteral("methodSearch"));
    search_->setPlaceholderText(tr("Find a method by name, family or meaning"));
    search_->setAccessibleName(search_->placeholderText());
    column->addWidget(search_);
    auto* row = new QHBoxLayout;
    row->setSpacing(0);
    list_ = new QListView;
    list_->setObjectName(QStringLiteral("methodList"));
    list_->setAccessibleName(tr("Methods"));
    list_->setModel(&model_);
    list_->setItemDelegate(new Delegate(list_));
    list_->setMouseTracking(true);
    list_->setEditTriggers(QAbstractItemView::NoEditTriggers);
    list_->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    list_->setVerticalScrollMode(QAbstractItemView::ScrollPerPixel);
    list_->setFixedWidth(kList);
    row->addWidget(list_);
    auto* details = new QWidget;
    auto* lines = new QVBoxLayout(details);
    lines->setContentsMargins(16, 12, 16, 16);
    lines->setSpacing(8);
    title_ = new QLabel;
    title_->setProperty("role", "title");
    summary_ = new QLabel;
    formula_ = new QLabel;
    formula_->setObjectName(QStringLiteral("formula"));
    formula_->setFont(mono(11));
    reason_ = new QLabel;
    reason_->setProperty("role", "warning");
    facts_ = quiet();
    facts_->setTextFormat(Qt::RichText);
    for (auto* label : {title_, summary_, reason_, formula_, facts_}) {
        label->setWordWrap(true);
        lines->addWidget(label);
    }
    lines->addStretch(1);
    auto* area = new QScrollArea;
    area->setObjectName(QStringLiteral("methodDetails"));
    area->setWidgetResizable(true);
    area->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    area->setFrameShape(QFrame::NoFrame);
    area->setFocusPolicy(Qt::NoFocus);
    area->setWidget(details);
    row->addWidget(area, 1);
    column->addLayout(row, 1);
    auto* foot = new QFrame;
    foot->setObjectName(QStringLiteral("methodFoot"));
    auto* buttons = new QHBoxLayout(foot);
    buttons->setContentsMargins(12, 8, 12, 8);
    hint_ = quiet();
    hint_->setTextInteractionFlags(Qt::NoTextInteraction);
    compare_ = new QPushButton;
    compare_->setObjectName(QStringLiteral("compareMethods"));
    buttons->addWidget(hint_, 1);
    buttons->addWidget(compare_);
    column->addWidget(foot);
    connect(compare_, &QPushButton::clicked, this, [this] {
        auto& comparison = comparison_;
        close();
        comparison.setOpen(true);
    });
    connect(search_, &QLineEdit::textChanged, this, &MethodPicker::fill);
    for (auto* watched : {static_cast<QWidget*>(search_), static_cast<QWidget*>(list_), list_->viewport()})
        watched->installEventFilter(this);
    connect(list_, &QListView::clicked, this, &MethodPicker::take);
    connect(list_, &QListView::entered, this, &MethodPicker::show);
    fill({});
    connect(list_->selectionModel(), &QItemSelectionModel::currentChanged, this, &MethodPicker::show);
    show(list_->currentIndex());
    refreshChecks();
}

void MethodPicker::fill(const QString& words) {
    const QSignalBlocker quiet(list_->selectionModel());
    model_.clear();
    const auto wanted = words.split(QLatin1Char(' '), Qt::SkipEmptyParts);
    const double forward_ms = session_.look() ? session_.look()->forward_ms : 0;
    const bool grouped = std::any_of(methods_.begin(), methods_.end(), [](const auto& m) { return !m.family.empty(); });
    QString family;
    int select = -1;
    for (std::size_t i = 0; i < methods_.size(); ++i) {
        const auto& method = methods_[i];
        const auto all = text(method.title + ' ' + method.name + ' ' + method.family + ' ' + method.summary);
        if (!std::all_of(wanted.begin(), wanted.end(),
                         [&](const QString& word) { return all.contains(word, Qt::CaseInsensitive); }))
            continue;
        auto* item = new QStandardItem(text(method.title));
        item->setData(static_cast<int>(i), IndexRole);
        item->setData(costShort(method, forward_ms), CostRole);
        item->setData(session_.method() == text(method.name), CurrentRole);
        item->setData(comparison_.methods().contains(text(method.name)), CheckedRole);
        item->setData(text(method.why_not), Qt::AccessibleDescriptionRole);
        const auto own = method.family.empty() ? tr("Other methods") : text(method.family);
        if (grouped && own != family) item->setData(own, HeadingRole);
        family = own;
        model_.appendRow(item);
        const bool can = method.why_not.empty();
        if (can && (select < 0 || (wanted.isEmpty() && session_.method() == text(method.name))))
            select = model_.rowCount() - 1;
    }
    if (model_.rowCount() > 0) {
        list_->setCurrentIndex(model_.index(std::max(select, 0), 0));
        list_->scrollTo(list_->currentIndex(),
                        wanted.isEmpty() ? QListView::PositionAtCenter : QListView::EnsureVisible);
    }
    show(list_->currentIndex());
}

const MethodFacts* MethodPicker::at(const QModelIndex& index) const {
    return index.isValid() ? &methods_[static_cast<std::size_t>(index.data(IndexRole).toInt())] : nullptr;
}

void MethodPicker::show(const QModelIndex& index) {
    const auto* method = at(index);
    for (auto* label : {summary_, reason_, formula_, facts_}) label->setVisible(method != nullptr);
    if (!method) return title_->setText(methods_.empty() ? tr("Open a model first") : tr("Nothing by that name"));
    title_->setText(text(method->title));
    summary_->setText(breakable(text(method->summary)));
    reason_->setText(breakable(text(method->why_not)));
    reason_->setVisible(!method->why_not.empty());
    formula_->setText(breakableFormula(text(method->formula)));
    formula_->setVisible(!method->formula.empty());
    QString lines;
    const auto line = [&](const QString& name, const QString& words) {
        if (!words.isEmpty())
            lines += QStringLiteral("<p style='margin:0 0 8px 0'><b>%1</b><br>%2</p>")
                         .arg(name.toHtmlEscaped(), breakable(words).toHtmlEscaped());
    };
    if (method->why_not.empty())
        line(tr("Cost"), costWords(*method, session_.look() ? session_.look()->forward_ms : 0));
    line(tr("Known to fail"), text(method->weakness));
    line(tr("Class"), method->class_specific ? QString() : tr("It does not depend on the class"));
    line(tr("From"), text(method->source));
    facts_->setText(lines);
}

void MethodPicker::take(const QModelIndex& index) {
    const auto* method = at(index);
    if (!method || !method->why_not.empty()) return;
    const auto name = text(method->name);
    auto& session = session_;
    close();
    session.setMethod(name);
}

void MethodPicker::toggle(const QModelIndex& index) {
    const auto* method = at(index);
    if (!method || !method->why_not.empty()) return;
    comparison_.toggle(text(method->name));
    refreshChecks();
}

void MethodPicker::refreshChecks() {
    for (int row = 0; row < model_.rowCount(); ++row) {
        const auto index = model_.index(row, 0);
        model_.setData(index, comparison_.methods().contains(text(at(index)->name)), CheckedRole);
    }
    const auto number = comparison_.methods().size();
    hint_->setText(comparison_.isOpen() ? tr("A box adds a method to the grid or takes it out")
                                        : tr("A click shows a method; its box puts it beside others"));
    compare_->setText(number == 0   ? tr("Side by side")
                      : number == 1 ? tr("Show 1 in the grid")
                                    : tr("Show %1 side by side").arg(number));
    compare_->setVisible(!comparison_.isOpen());
    compare_->setEnabled(number > 0);
    compare_->setToolTip(number > 0 ? QString() : tr("Choose methods by their boxes"));
}

bool MethodPicker::eventFilter(QObject* watched, QEvent* event) {
    if (watched == list_->viewport() && event->type() == QEvent::MouseButtonRelease) {
        // On the box, or anywhere while the grid is open: there a click is no wish to leave it.
        const auto at_cursor = static_cast<QMouseEvent*>(event)->pos();
        const auto index = list_->indexAt(at_cursor);
        const auto box = boxIn(list_->visualRect(index), !index.data(HeadingRole).toString().isEmpty());
        if (index.isValid() && (comparison_.isOpen() || box.adjusted(-12, -6, 8, 6).contains(at_cursor))) {
            toggle(index);
            return true;
        }
    }
    if (event->type() != QEvent::KeyPress) return QFrame::eventFilter(watched, event);
    switch (static_cast<QKeyEvent*>(event)->key()) {
        case Qt::Key_Return:
        case Qt::Key_Enter:
            if (comparison_.isOpen() || (static_cast<QKeyEvent*>(event)->modifiers() & Qt::ControlModifier))
                toggle(list_->currentIndex());
            else
                take(list_->currentIndex());
            return true;
        case Qt::Key_Up:
        case Qt::Key_Down:
        case Qt::Key_PageUp:
        case Qt::Key_PageDown:
            if (watched != search_) break;
            QCoreApplication::sendEvent(list_, event);
            return true;
        default:
            break;
    }
    return QFrame::eventFilter(watched, event);
}

QStringList MethodPicker::listed() const {
    QStringList out;
    for (int row = 0; row < model_.rowCount(); ++row) out << text(at(model_.index(row, 0))->name);
    return out;
}

QString MethodPicker::headingOf(const QString& method) const {
    QString heading;
    for (int row = 0; row < model_.rowCount(); ++row) {
        const auto index = model_.index(row, 0);
        if (const auto own = index.data(HeadingRole).toString(); !own.isEmpty()) heading = own;
        if (at(index)->name == method.toStdString()) return heading;
    }
    return {};
}

void MethodPicker::setSearch(const QString& words) { search_->setText(words); }

void MethodPicker::point(const QString& method) {
    for (int row = 0; row < model_.rowCount(); ++row)
        if (at(model_.index(row, 0))->name == method.toStdString()) list_->setCurrentIndex(model_.index(row, 0));
}

QRect MethodPicker::boxOf(const QString& method) const {
    for (int row = 0; row < model_.rowCount(); ++row) {
        const auto index = model_.index(row, 0);
        if (at(index)->name != method.toStdString()) continue;
        list_->scrollTo(index);
        return boxIn(list_->visualRect(index), !index.data(HeadingRole).toString().isEmpty());
    }
    return {};
}

QString MethodPicker::details() const {
    QStringList out;
    for (const auto* label : {title_, summary_, reason_, formula_, facts_})
        if (!label->isHidden()) out << label->text();
    return out.join(QLatin1Char('\n')).remove(QChar(0x200B)).remove(QChar(0x2060));
}

}  // namespace vitrine::app
