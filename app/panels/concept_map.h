// All concepts as points, those with like directions close together: to wander in.
#pragma once

#include <QImage>
#include <QWidget>

#include "jobs/concept_gallery.h"

namespace vitrine::app {

class ConceptMap : public QWidget {
    Q_OBJECT

  public:
    explicit ConceptMap(ConceptGallery& gallery, QWidget* parent = nullptr);
    void restyle();
    void fit();
    void showSelected();  ///< brings it into sight
    std::int64_t hovered() const { return hovered_; }
    QPointF placeOf(std::int64_t latent) const;  ///< in widget pixels
    QSize sizeHint() const override { return {640, 480}; }

  Q_SIGNALS:
    void detailsWanted();

  protected:
    void paintEvent(QPaintEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void leaveEvent(QEvent* event) override;

  private:
    void take();  ///< bounds and colours of the points, after the list changed
    void drawPoints();
    void zoomAt(QPointF at, double factor);
    void setHovered(std::int64_t latent);
    void paintCard(QPainter& painter, std::int64_t latent);

    ConceptGallery& gallery_;
    const void* of_ = nullptr;  ///< the index whose points these are
    QRectF bounds_;             ///< of the points
    double scale_ = 1;          ///< pixels a unit
    QPointF centre_;            ///< in units, at the widget's middle
    bool fitted_ = true, dirty_ = true, dragging_ = false, moved_ = false;
    QPointF pressed_at_, last_;
    std::vector<QRgb> colours_;
    std::vector<std::uint32_t> order_;  ///< those that are not shown first, under the others
    QImage points_;                     ///< what lies under ring and card
    std::int64_t hovered_ = -1;
};

}  // namespace vitrine::app
