// A table that a method gave beside its map, as a calm heat map: rows down, columns across, the value on hover.
#pragma once

#include <QWidget>

#include <utility>

#include "jobs/session.h"
#include "panels/view_settings.h"

namespace vitrine::app {

/// Hovering or the arrow keys read a cell; a click or Enter goes to its layer and head where it has one.
class TableView : public QWidget {
    Q_OBJECT

  public:
    TableView(Session& session, const TableFacts& table, const ViewSettings& settings, QWidget* parent = nullptr);
    QSize sizeHint() const override;
    QSize minimumSizeHint() const override { return {160, sizeHint().height()}; }

    QRectF cell(int row, int col) const;                  ///< empty where the table has no value
    std::pair<int, int> under() const { return under_; }  ///< -1, -1 for none
    QString reading() const;                              ///< "layer 3 head 2  48.1 input pixels", or the range
    void setStale(bool stale);

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void mouseReleaseEvent(QMouseEvent* event) override;
    void keyPressEvent(QKeyEvent* event) override;
    void focusInEvent(QFocusEvent* event) override;
    void leaveEvent(QEvent* event) override;
    void contextMenuEvent(QContextMenuEvent* event) override;

  private:
    bool holds(int row, int col) const;
    bool leads(int row, int col) const;  ///< whether the cell is a place one can go to
    std::pair<int, int> at(const QPointF& position) const;
    std::pair<int, int> chosen() const;  ///< the cell of the layer and head that are shown
    QString rowName(int row) const;
    QString colName(int col) const;
    void point(std::pair<int, int> cell);
    void go(std::pair<int, int> cell);
    double rowHeight() const;
    double labels() const;  ///< width of the row labels
    double step() const;    ///< width of a column

    Session& session_;
    TableFacts table_;
    const ViewSettings& settings_;
    std::pair<int, int> under_{-1, -1};
    bool stale_ = false;
};

}  // namespace vitrine::app
