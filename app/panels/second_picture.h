// The picture that methods compare with: chosen by a button or dropped here, shown small with its name.
#pragma once

#include <QFrame>

#include "jobs/session.h"

class QLabel;
class QPushButton;
class QToolButton;

namespace vitrine::app {

class PictureBox;

class SecondPicture : public QFrame {
    Q_OBJECT

  public:
    explicit SecondPicture(Session& session, QWidget* parent = nullptr);
    void restyle();

  Q_SIGNALS:
    void wanted();  ///< a file is to be chosen

  protected:
    void dragEnterEvent(QDragEnterEvent* event) override;
    void dragLeaveEvent(QDragLeaveEvent* event) override;
    void dropEvent(QDropEvent* event) override;

  private:
    void refresh();
    void setDropping(bool dropping);

    Session& session_;
    QPushButton* choose_;
    QWidget* chosen_;
    PictureBox* picture_;
    QLabel *name_, *role_;
    QToolButton* remove_;
};

}  // namespace vitrine::app
