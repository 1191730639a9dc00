// The pictures that are open, as a strip of thumbnails.
#pragma once

#include <QListWidget>

#include "jobs/session.h"

namespace vitrine::app {

class Filmstrip : public QListWidget {
    Q_OBJECT

  public:
    explicit Filmstrip(Session& session, QWidget* parent = nullptr);

  protected:
    QSize sizeHint() const override { return {104, 400}; }
    QSize minimumSizeHint() const override { return {88, 100}; }
    void paintEvent(QPaintEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;

  private:
    void refresh();
    Session& session_;
    bool filling_ = false;
};

}  // namespace vitrine::app
