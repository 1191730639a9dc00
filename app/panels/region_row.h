// The region that is explained, as four numbers that can be typed, and a button that takes it back.
#pragma once

#include <QFrame>

#include "jobs/session.h"

class QLabel;
class QSpinBox;
class QToolButton;

namespace vitrine::app {

/// "3,4" or "3,4 to 5,9": rows and columns.
QString wordsOf(const Region& region);

class RegionRow : public QFrame {
    Q_OBJECT

  public:
    explicit RegionRow(Session& session, QWidget* parent = nullptr);
    void restyle();
    void takeFocus();  ///< now, or once there is a region

  private:
    void refresh();
    void changed();

    Session& session_;
    QLabel* facts_;
    QToolButton* clear_;
    QSpinBox *row_, *to_row_, *col_, *to_col_;
    bool focus_wanted_ = false;
};

}  // namespace vitrine::app
