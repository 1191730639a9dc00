// Several maps of one picture side by side: one cursor, one zoom, one colour scale or a scale each.
#pragma once

#include <QImage>
#include <QWidget>

#include <optional>
#include <string>
#include <vector>

#include "jobs/comparison.h"
#include "panels/view_settings.h"

class QPushButton;
class QScrollArea;
class QToolButton;

namespace vitrine::app {

class ChoiceButton;
class Graphics;
class GridView;

/// One cell: title above, the picture with its map, and below the value under the linked cursor with the scale.
class GridCell : public QWidget {
    Q_OBJECT

  public:
    GridCell(GridView& grid, int index);
    void setIndex(int index);
    void refresh();  ///< title, buttons and texts; the picture follows when it is painted
    void restyle();
    /// What the cell says of itself: "running, 38 of 100 pictures", "partial", ...
    QString stateWords() const;
    QString reading() const;                         ///< the value under the linked cursor; empty where there is none
    QRect canvas() const;                            ///< where the picture is, in the cell
    const QImage& drawn() const { return drawn_; }   ///< the last composite, for tests
    QToolButton* action() const { return action_; }  ///< stops or makes anew

    static constexpr int kHeader = 32, kFooter = 28;

  protected:
    void paintEvent(QPaintEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mousePressEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void mouseDoubleClickEvent(QMouseEvent* event) override;
    void wheelEvent(QWheelEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;
    bool event(QEvent* event) override;

  private:
    const Cell* cell() const;
    const Plane* plane() const;
    void compose();
    void paintHeader(class QPainter& painter, const Cell& cell) const;
    void paintFooter(QPainter& painter, const Cell& cell) const;
    void paintState(QPainter& painter, const Cell& cell) const;
    std::vector<Finding> badges() const;
    QRect badgeAt(int index) const;

    GridView& grid_;
    int index_;
    QToolButton *action_, *close_;
    QImage drawn_;
    std::string drawn_key_, trouble_;  ///< what `drawn_` shows; why nothing could be drawn
    QPoint pressed_at_, last_;
    bool pressed_ = false, moved_ = false;
};

class GridView : public QWidget {
    Q_OBJECT

  public:
    GridView(Session& session, Comparison& comparison, const ViewSettings& settings, QWidget* parent = nullptr);
    /// The device to draw with; null or not ready: cells show their maps alone.
    void setGraphics(Graphics* graphics);
    void restyle();
    void refresh();  ///< after the view settings were changed

    void fit();
    void oneToOne();
    void zoomBy(double factor);
    void unpin();
    bool isPinned() const { return pinned_.has_value(); }
    bool isFitted() const { return fitted_; }
    double zoom() const { return view_.zoom; }

    std::vector<GridCell*> cells() const { return cells_; }
    bool oneScale() const { return one_scale_; }
    void setOneScale(bool one);
    /// The point that all cells read: under the cursor, else pinned. In photo pixels.
    std::optional<Point> point() const { return cursor_ ? cursor_ : pinned_; }
    /// How a cell's values become colours.
    ViewSettings settingsOf(int cell) const;

  Q_SIGNALS:
    void methodsWanted(QWidget* anchor);
    void shownAlone(const QString& method);
    void pointed();

  private:
    friend class GridCell;
    void arrange();
    void place();
    void setCursorAt(std::optional<Point> photo);
    void pinAt(Point photo);
    void zoomAt(const GridCell& cell, QPointF position, double factor);
    void panBy(QPointF logical);
    viz::ViewTransform viewOf(const GridCell& cell) const;  ///< in device pixels of the cell's canvas
    void updateCells();
    void resizeEvent(QResizeEvent* event) override;

    Session& session_;
    Comparison& comparison_;
    const ViewSettings& settings_;
    Graphics* graphics_ = nullptr;
    QPushButton *methods_, *own_, *one_;
    ChoiceButton* beside_;
    QToolButton *again_, *close_;
    QScrollArea* area_;
    QWidget* board_;
    std::vector<GridCell*> cells_;
    bool one_scale_ = false, fitted_ = true;
    viz::ViewTransform view_;
    std::optional<Point> cursor_, pinned_;
};

}  // namespace vitrine::app
