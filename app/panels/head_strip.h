// Every head of every layer for one token, as small multiples: one block a layer, from the first to the last.
#pragma once

#include <QImage>
#include <QScrollArea>

#include <vector>

#include "jobs/session.h"
#include "panels/view_settings.h"

namespace vitrine::app {

class HeadStrip : public QWidget {
    Q_OBJECT

  public:
    explicit HeadStrip(Session& session, QWidget* parent = nullptr);
    void setColours(viz::ColourMap colours);
    QSize sizeHint() const override { return {800, 148}; }
    QSize minimumSizeHint() const override;
    /// The cell of a layer and head (-1: the mean), for tests. Empty when there is none.
    QRect cell(int layer, int head) const;

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void leaveEvent(QEvent* event) override;
    bool event(QEvent* event) override;

  private:
    struct Shape {
        int columns = 1, rows = 1;  ///< of cells in a block
        int side = 16;
        int block = 0;  ///< width of a block with its gap
    };
    Shape shape() const;
    void rebuild();
    std::pair<int, int> at(const QPoint& position) const;  ///< layer and head; layer -1 outside

    Session& session_;
    viz::ColourMap colours_ = viz::ColourMap::Viridis;
    std::vector<std::vector<QImage>> images_;  ///< [layer][mean, head 0, head 1, ...]
    std::pair<int, int> hovered_{-1, -1};
    int offset_ = 0;  ///< scrolled by so many pixels
};

}  // namespace vitrine::app
