// Means with their intervals along rungs or layers, and below them the explained variance and the tokens' length, each
// on its own scale.
#pragma once

#include <QWidget>

#include <limits>
#include <vector>

#include "jobs/ladder_walk.h"

namespace vitrine::app {

class LadderPlot : public QWidget {
    Q_OBJECT

  public:
    /// Round numbers at both ends; logarithmic where what is positive spans much.
    struct Scale {
        double low = 0, high = 1;
        bool logarithmic = false;
        double share(double value) const;  ///< of the way from low to high, 0 to 1
    };
    struct Curve {
        QString name;
        bool control = false;                ///< dashed, and quiet
        std::vector<LadderEstimate> values;  ///< at each place; NaN: not known yet
        std::vector<double> explained;       ///< likewise; empty: there is none to draw
        std::vector<double> norms;           ///< lengths of the tokens that were read; empty: there are none to draw
        std::vector<bool> unreliable;        ///< drawn hollow; empty: none is
    };
    struct Content {
        std::vector<QString> places;  ///< along x
        /// Of each place: a line ends where the next place is of another one. Empty: all are of one, and every place is
        /// named below.
        std::vector<QString> groups;
        std::vector<Curve> curves;
        double level = std::numeric_limits<double>::quiet_NaN();  ///< a line to compare with: 1 of ratios
        bool shares = false;                                      ///< all of them are, from 0 to 1
    };
    explicit LadderPlot(QWidget* parent = nullptr);
    void setContent(Content content);
    const Content& content() const { return content_; }
    bool isLogarithmic() const { return scale_.logarithmic; }
    QSize sizeHint() const override { return {272, 344}; }
    QSize minimumSizeHint() const override { return {200, 300}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;

  private:
    void scale();
    double xOf(std::size_t place) const;
    void paintBelow(QPainter& painter, double top) const;
    Content content_;
    Scale scale_, lengths_;
    std::vector<double> ticks_;
    int hovered_ = -1;
};

}  // namespace vitrine::app
