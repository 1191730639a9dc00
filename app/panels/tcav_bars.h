// Scores of concepts as bars: what was found, beside what sets of random pictures give.
#pragma once

#include <QWidget>

#include <optional>

#include "jobs/tcav_run.h"

namespace vitrine::app {

/// One concept a row: its name and score, a bar with the middle of the runs, a band of what chance gives, a verdict.
class TcavBars : public QWidget {
    Q_OBJECT

  public:
    explicit TcavBars(QWidget* parent = nullptr);
    void setFacts(std::optional<TcavFacts> facts);
    QString table() const;  ///< all numbers, to be pasted
    static QString verdictOf(const TcavConcept& concept_of);
    QSize sizeHint() const override;
    QSize minimumSizeHint() const override { return {160, sizeHint().height()}; }

  protected:
    void paintEvent(QPaintEvent* event) override;
    bool event(QEvent* event) override;

  private:
    std::optional<TcavFacts> facts_;
};

}  // namespace vitrine::app
