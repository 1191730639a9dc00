// Means with their intervals along rungs or layers, and below them the explained variance on its own scale.
#pragma once

#include <QWidget>

#include <limits>
#include <vector>

#include "jobs/ladder_walk.h"

namespace vitrine::app {

class LadderPlot : public QWidget {
    Q_OBJECT

  public:
    struct Curve {
        QString name;
        bool control = false;                ///< dashed, and quiet
        std::vector<LadderEstimate> values;  ///< at each place; NaN: not known yet
        std::vector<double> explained;       ///< likewise; empty: there is none to draw
        std::vector<bool> unreliable;        ///< drawn hollow; empty: none is
    };
    struct Content {
        std::vector<QString> places;  ///< along x
        /// Of each place: a line ends where the next place is of another one. Empty: all are of one, and every place is
        /// named below.
        std::vector<QString> groups;
        std::vector<Curve> curves;
        double level = std::numeric_limits<double>::quiet_NaN();  ///< a line to compare with: 1 of ratios
    };
    explicit LadderPlot(QWidget* parent = nullptr);
    void setContent(Content content);
    const Content& content() const { return content_; }
    bool isLogarithmic() const { return logarithmic_; }
    QSize sizeHint() const override { return {272, 272}; }
    QSize minimumSizeHint() const override { return {200, 240}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;

  private:
    void scale();
    double xOf(std::size_t place) const;
    void paintBelow(QPainter& painter, double top) const;
    Content content_;
    bool logarithmic_ = false;
    double low_ = 0, high_ = 1;
    std::vector<double> ticks_;
    int hovered_ = -1;
};

}  // namespace vitrine::app
