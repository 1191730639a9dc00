// The chosen method's map at every layer, from the first to the last: a click picks one. For a mask: what each layer
// adds, then the most probable classes.
#pragma once

#include <QImage>
#include <QWidget>

#include <vector>

#include "jobs/layer_maps.h"
#include "panels/view_settings.h"

namespace vitrine::app {

class LayerStrip : public QWidget {
    Q_OBJECT

  public:
    LayerStrip(LayerMaps& maps, const ViewSettings& settings, QWidget* parent = nullptr);
    void restyle() { rebuild(); }
    QRect cell(int layer) const;  ///< empty when there is none
    QSize sizeHint() const override { return {800, 148}; }
    QSize minimumSizeHint() const override { return {240, 72}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void leaveEvent(QEvent* event) override;
    bool event(QEvent* event) override;

  private:
    void rebuild();
    int side() const;
    bool parts() const;  ///< parts and classes, in two groups with headings
    int left(int layer) const;
    int top() const;
    int words() const;  ///< height of what is written under a cell
    int at(const QPoint& position) const;

    LayerMaps& maps_;
    const ViewSettings& settings_;
    std::vector<QImage> images_;
    int hovered_ = -1, offset_ = 0;
    int full() const;  ///< width of all of it
};

}  // namespace vitrine::app
