// The whole map of one head, queries down and keys across: drawn in blocks at any zoom, never formed as a whole.
#pragma once

#include <QImage>
#include <QPoint>
#include <QWidget>

#include <optional>

#include "jobs/session.h"
#include "panels/view_settings.h"

class QLabel;
class QPushButton;

namespace vitrine::app {

/// The map itself: wheel zooms at the cursor, dragging pans, hovering shows the row's token on the picture, a click
/// pins it.
class MapCanvas : public QWidget {
    Q_OBJECT

  public:
    MapCanvas(Session& session, const ViewSettings& settings, QWidget* parent = nullptr);
    QSize sizeHint() const override { return {272, 272}; }
    QSize minimumSizeHint() const override { return {160, 160}; }
    bool hasHeightForWidth() const override { return true; }
    int heightForWidth(int width) const override { return width; }

    struct Cell {
        std::int64_t query = 0, key = 0;
        std::optional<float> value;  ///< of the block that holds it; nothing while it is computed
    };
    std::optional<Cell> under() const { return under_; }
    void showAll();
    void setLargest(bool largest);  ///< blocks show their largest entry instead of the mean
    void redraw();                  ///< paints the piece anew: another one, or other colours
    void refresh();  ///< asks for what is in view when it is not at hand; only while the panel can be seen

  Q_SIGNALS:
    void underChanged();

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void showEvent(QShowEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

  private:
    void keepInside();
    void point(const QPointF& at);
    std::optional<Token> patchOf(std::int64_t query) const;
    double perToken() const;  ///< pixels a token
    int side() const { return std::min(width(), height()); }

    Session& session_;
    const ViewSettings& settings_;
    double q_ = 0, k_ = 0, span_ = 0;  ///< upper left corner and side of what is in view, in tokens; span 0: all
    QImage image_;
    std::optional<Cell> under_;
    QPointF pressed_, last_;
    bool dragging_ = false, moved_ = false, largest_ = false;
    int asked_layer_ = -2, asked_head_ = -2;
    std::uint64_t asked_picture_ = 0;
    std::int64_t asked_[4] = {-1, -1, -1, -1};
};

class MapPanel : public QWidget {
    Q_OBJECT

  public:
    MapPanel(Session& session, const ViewSettings& settings, QWidget* parent = nullptr);
    void restyle();
    MapCanvas* canvas() const { return canvas_; }
    QPushButton* largest() const { return largest_; }
    QSize sizeHint() const override { return {304, 480}; }

  private:
    void describe();
    Session& session_;
    MapCanvas* canvas_;
    QPushButton *means_, *largest_;
    QLabel *title_, *where_, *value_, *facts_;
};

}  // namespace vitrine::app
