// The curve of how far a concept steers: KL from the answer before against what the concept is set to.
#pragma once

#include <QWidget>

#include <optional>

#include "jobs/workbench.h"

namespace vitrine::app {

class SteerCurveView : public QWidget {
    Q_OBJECT

  public:
    explicit SteerCurveView(QWidget* parent = nullptr);
    /// @param words  shown where there is no curve
    void setCurve(const std::optional<SteerCurve>& curve, const QString& words);
    QSize sizeHint() const override { return {272, 148}; }
    QSize minimumSizeHint() const override { return {200, 148}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    void mouseMoveEvent(QMouseEvent* event) override;
    void leaveEvent(QEvent* event) override;

  private:
    QRectF plot() const;
    double xOf(double value) const;
    QString wordsAt(std::size_t point) const;
    std::optional<SteerCurve> curve_;
    QString words_;
    std::optional<std::size_t> under_;  ///< the point nearest the cursor
};

}  // namespace vitrine::app
