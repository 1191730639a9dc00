// The mouse in tests of the window, without the pointer of the screen: its moves arrive late on a busy machine, two of
// them may arrive as one, and none arrives where it already is.
#pragma once

#include <QCoreApplication>
#include <QMouseEvent>
#include <QWheelEvent>

namespace vitrine::app {

/// Moves over `there`, a QWidget or a QWindow, to `at` (its own logical pixels); returns when that has been answered.
template <class Surface>
void point_at(Surface* there, QPointF at) {
    QMouseEvent move(QEvent::MouseMove, at, there->mapToGlobal(at), Qt::NoButton, Qt::NoButton, Qt::NoModifier);
    QCoreApplication::sendEvent(there, &move);
}

/// Turns the wheel by `notches` over `there`, up being positive.
template <class Surface>
void turn_wheel(Surface* there, QPointF at, int notches) {
    QWheelEvent turn(at, there->mapToGlobal(at), {}, QPoint(0, 120 * notches), Qt::NoButton, Qt::NoModifier,
                     Qt::NoScrollPhase, false);
    QCoreApplication::sendEvent(there, &turn);
}

}  // namespace vitrine::app
