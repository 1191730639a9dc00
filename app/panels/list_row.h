// A row of a searchable list: a heading above the first of a group, a ground under the one that is meant, the name, a
// note at its right.
#pragma once

#include <QColor>
#include <QRect>
#include <QString>

class QPainter;
class QStyleOptionViewItem;

namespace vitrine::app {

constexpr int kListRow = 28;  ///< pixels, without the heading

/// What is left of a row once its heading, ground and note are painted.
struct ListRow {
    QRect rect;     ///< without the heading
    int right = 0;  ///< where the name ends at the latest
};

/// @param heading  empty: none, else `heading_height` pixels above the row
/// @param ground   under a row that is selected or pointed at; invalid: none
ListRow paintListRow(QPainter& painter, const QStyleOptionViewItem& option, const QString& heading, int heading_height,
                     QColor ground, const QString& note);
void paintListName(QPainter& painter, const ListRow& row, int left, const QString& name, bool enabled, bool bold,
                   Qt::TextElideMode elide);

}  // namespace vitrine::app
