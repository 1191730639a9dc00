// Paints rows of searchable lists.
#include "list_row.h"

#include <QPainter>
#include <QStyleOptionViewItem>

#include "windows/theme.h"

namespace vitrine::app {

ListRow paintListRow(QPainter& painter, const QStyleOptionViewItem& option, const QString& heading, int heading_height,
                     QColor ground, const QString& note) {
    const auto& t = Theme::now();
    painter.setRenderHint(QPainter::Antialiasing);
    ListRow out{option.rect, option.rect.right() - 12};
    QRect& row = out.rect;
    if (!heading.isEmpty()) {
        painter.setFont(sans(11, true));
        painter.setPen(t.secondary);
        painter.drawText(QRect(row.x() + 12, row.y() + 4, row.width() - 24, heading_height - 4), Qt::AlignVCenter,
                         heading);
        row.setTop(row.top() + heading_height);
    }
    if (ground.isValid() && (option.state & (QStyle::State_Selected | QStyle::State_MouseOver))) {
        painter.setPen(Qt::NoPen);
        ground.setAlphaF((option.state & QStyle::State_Selected) ? 0.24F : 0.10F);
        painter.setBrush(ground);
        painter.drawRoundedRect(row.adjusted(4, 0, -4, 0), 4, 4);
    }
    if (!note.isEmpty()) {
        painter.setFont(mono(11));
        painter.setPen(t.secondary);
        painter.drawText(row.adjusted(0, 0, -12, 0), Qt::AlignVCenter | Qt::AlignRight, note);
        out.right -= painter.fontMetrics().horizontalAdvance(note) + 12;
    }
    return out;
}

void paintListName(QPainter& painter, const ListRow& row, int left, const QString& name, bool enabled, bool bold,
                   Qt::TextElideMode elide) {
    painter.setFont(sans(13, bold));
    QColor colour = Theme::now().text;
    if (!enabled) colour.setAlphaF(0.45F);
    painter.setPen(colour);
    painter.drawText(QRect(left, row.rect.top(), row.right - left, row.rect.height()), Qt::AlignVCenter,
                     painter.fontMetrics().elidedText(name, elide, row.right - left));
}

}  // namespace vitrine::app
