// The curves of a training: terms of the loss on one scale, shares on their own from 0 to 100 %.
#pragma once

#include <QWidget>

#include "jobs/training_run.h"

namespace vitrine::app {

/// One of the values of a step.
struct Curve {
    QString name;
    std::size_t value = 0;
    bool share = false;  ///< from 0 to 100 %, on the right
};

class CurveView : public QWidget {
    Q_OBJECT

  public:
    explicit CurveView(QWidget* parent = nullptr);
    void setCurves(std::vector<Curve> curves);  ///< what is drawn; five at most
    void setPoints(const std::vector<TrainingRun::Point>& points);
    void setLogarithmic(bool logarithmic);
    void setEmptyWords(const QString& words);
    QSize sizeHint() const override { return {272, 176}; }
    QSize minimumSizeHint() const override { return {200, 160}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;

  private:
    QRectF plot() const;
    double xOf(std::int64_t step) const;
    const TrainingRun::Point& pointAt(double x) const;
    double valueOf(const TrainingRun::Point& point, const Curve& curve) const;
    std::vector<Curve> curves_;
    std::vector<TrainingRun::Point> curve_;
    QString empty_;
    bool logarithmic_ = true;
    double cursor_ = -1;  ///< x of the mouse; negative: not here
};

}  // namespace vitrine::app
