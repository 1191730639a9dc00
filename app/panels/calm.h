// Boxes in a panel that scrolls.
#pragma once

#include <QWheelEvent>

namespace vitrine::app {

/// A QComboBox or a spin box: the wheel scrolls the panel, and changes a value only where the person is at work.
template <class Box>
class Calm : public Box {
  public:
    explicit Calm() { this->setFocusPolicy(Qt::StrongFocus); }

  protected:
    void wheelEvent(QWheelEvent* event) override {
        if (this->hasFocus())
            Box::wheelEvent(event);
        else
            event->ignore();
    }
};

}  // namespace vitrine::app
