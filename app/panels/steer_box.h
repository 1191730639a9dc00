// Steering: what is done to the concepts that are chosen, on which tokens, and what the model answers then.
#pragma once

#include <QElapsedTimer>
#include <QWidget>

#include "jobs/concepts_on_show.h"

class QComboBox;
class QDoubleSpinBox;
class QLabel;
class QPushButton;
class QSlider;
class QToolButton;

namespace vitrine::app {

class PredictionsView;
class SteerCurves;
class SteerCurveView;

class SteerBox : public QWidget {
    Q_OBJECT

  public:
    SteerBox(Session& session, ConceptsOnShow& concepts, QWidget* parent = nullptr);
    void restyle();
    /// What can be done to a concept of the list.
    void openMenu(qint64 number, const QPoint& global);
    /// "off", "×2", "=3.1": what is done to a concept; empty where nothing is.
    static QString badgeOf(const Session& session, std::int64_t number);

  Q_SIGNALS:
    void saveWanted();

  private:
    using Mode = SteeredConcept::Mode;
    void refresh();
    void refreshAnswers();
    void refreshCurve();
    void apply(std::optional<Mode> mode, double factor, quint64 gesture = 0);
    void slid(double factor);
    std::optional<SteeredConcept> first() const;  ///< what is done to the first of those that are chosen

    Session& session_;
    ConceptsOnShow& concepts_;
    QToolButton *original_, *how_far_, *reset_, *save_;
    QLabel* which_;
    QWidget* controls_;
    QPushButton* modes_[4];
    QSlider* slider_;
    QDoubleSpinBox* number_;
    QComboBox* tokens_;
    QPushButton *draw_, *measure_;
    PredictionsView* answers_;
    SteerCurves* curves_;
    SteerCurveView* curve_;
    quint64 gesture_ = 0;  ///< the drag of the slider, or a row of keys
    QElapsedTimer slid_;
};

}  // namespace vitrine::app
