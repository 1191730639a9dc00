// The curves of a training: the four terms of the loss on one scale, the coverage on its own from 0 to 100 %.
#pragma once

#include <QWidget>

#include "jobs/mask_run.h"

namespace vitrine::app {

class CurveView : public QWidget {
    Q_OBJECT

  public:
    explicit CurveView(QWidget* parent = nullptr);
    void setCurve(const std::vector<MaskRun::Point>& curve);
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
    std::vector<MaskRun::Point> curve_;
    QString empty_;
    bool logarithmic_ = true;
    double cursor_ = -1;  ///< x of the mouse; negative: not here
};

}  // namespace vitrine::app
