// Thumbnails: each frame keeps its space while it is decoded, and a broken one says so.
#include "filmstrip.h"

#include <QContextMenuEvent>
#include <QMenu>
#include <QPainter>
#include <QPainterPath>
#include <QStyledItemDelegate>

#include "windows/theme.h"

namespace vitrine::app {
namespace {

constexpr int kSide = 72;
constexpr int kLeft = 12;  // under the heading, whether or not there is a scroll bar

class FrameDelegate : public QStyledItemDelegate {
  public:
    FrameDelegate(Session& session, QObject* parent) : QStyledItemDelegate(parent), session_(session) {}
    QSize sizeHint(const QStyleOptionViewItem&, const QModelIndex&) const override {
        return {kLeft + kSide + 4, kSide + 8};
    }

    void paint(QPainter* painter, const QStyleOptionViewItem& option, const QModelIndex& index) const override {
        const auto& t = Theme::now();
        const auto at = static_cast<std::size_t>(index.row());
        if (at >= session_.film().size()) return;
        const auto& frame = session_.film()[at];
        painter->save();
        painter->setRenderHints(QPainter::Antialiasing | QPainter::SmoothPixmapTransform);
        const QRectF box(option.rect.left() + kLeft, option.rect.center().y() - kSide / 2.0 + 0.5, kSide, kSide);
        QPainterPath round;
        round.addRoundedRect(box, 6, 6);
        painter->fillPath(round, t.faint);
        if (!frame.thumbnail.isNull()) {
            // Filled, cut at the edges: a strip of equal squares is calmer than one of many shapes.
            const auto size = QSizeF(frame.thumbnail.size()).scaled(box.size(), Qt::KeepAspectRatioByExpanding);
            painter->setClipPath(round);
            painter->drawImage(QRectF(box.center().x() - size.width() / 2, box.center().y() - size.height() / 2,
                                      size.width(), size.height()),
                               frame.thumbnail);
            painter->setClipping(false);
        } else {
            painter->drawPixmap(
                QPointF(box.center().x() - 10, box.center().y() - 10),
                iconPixmap(frame.trouble.isEmpty() ? QStringLiteral("picture") : QStringLiteral("warning"),
                           frame.trouble.isEmpty() ? t.secondary : t.warning, 20,
                           painter->device()->devicePixelRatio()));
        }
        if (index.row() == session_.current()) {
            painter->setPen(QPen(t.accent, 2));
            painter->drawRoundedRect(box.adjusted(-3, -3, 3, 3), 8, 8);
        } else if (option.state & QStyle::State_MouseOver) {
            painter->setPen(QPen(t.secondary, 1));
            painter->drawRoundedRect(box.adjusted(-1.5, -1.5, 1.5, 1.5), 7, 7);
        }
        painter->restore();
    }

  private:
    Session& session_;
};

}  // namespace

Filmstrip::Filmstrip(Session& session, QWidget* parent) : QListWidget(parent), session_(session) {
    setObjectName(QStringLiteral("filmstrip"));
    setAccessibleName(tr("Pictures"));
    setItemDelegate(new FrameDelegate(session, this));
    setMouseTracking(true);
    setVerticalScrollMode(ScrollPerPixel);
    setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    setFlow(TopToBottom);
    setSpacing(0);
    connect(&session, &Session::filmChanged, this, &Filmstrip::refresh);
    connect(this, &QListWidget::currentRowChanged, this, [this](int row) {
        if (!filling_ && row >= 0 && row != session_.current()) session_.showPicture(row);
    });
    connect(this, &QListWidget::itemClicked, this, [this](QListWidgetItem* item) {
        if (row(item) != session_.current()) session_.showPicture(row(item));
    });
}

void Filmstrip::refresh() {
    filling_ = true;
    const auto& film = session_.film();
    while (count() > static_cast<int>(film.size())) delete takeItem(count() - 1);
    while (count() < static_cast<int>(film.size())) addItem(new QListWidgetItem);
    for (std::size_t i = 0; i < film.size(); ++i) {
        auto* frame = item(static_cast<int>(i));
        frame->setToolTip(film[i].trouble.isEmpty() ? film[i].name
                                                    : film[i].name + QLatin1Char('\n') + film[i].trouble);
        frame->setData(Qt::AccessibleTextRole, film[i].name);
    }
    if (session_.current() != currentRow()) setCurrentRow(session_.current());
    filling_ = false;
    viewport()->update();
}

void Filmstrip::paintEvent(QPaintEvent* event) {
    QListWidget::paintEvent(event);
    // The one line that invites, where the next picture will be.
    const int top = count() > 0 ? visualItemRect(item(count() - 1)).bottom() + 8 : 8;
    const QRect free(kLeft, top, viewport()->width() - 2 * kLeft, viewport()->height() - top - 8);
    if (free.height() < 64) return;
    QPainter painter(viewport());
    painter.setFont(sans(11));
    painter.setPen(Theme::now().secondary);
    painter.drawText(free, Qt::AlignLeft | Qt::AlignTop | Qt::TextWordWrap, tr("Drop pictures or a model anywhere"));
}

void Filmstrip::contextMenuEvent(QContextMenuEvent* event) {
    auto* frame = itemAt(event->pos());
    if (!frame) return;
    const int at = row(frame);
    QMenu menu(this);
    menu.setToolTipsVisible(true);
    connect(menu.addAction(tr("Show")), &QAction::triggered, this, [this, at] { session_.showPicture(at); });
    auto* remove = menu.addAction(tr("Remove from the strip"));
    remove->setEnabled(count() > 1);
    if (count() < 2) remove->setToolTip(tr("The last picture stays"));
    connect(remove, &QAction::triggered, this, [this, at] { session_.removePicture(at); });
    menu.exec(event->globalPos());
}

}  // namespace vitrine::app
