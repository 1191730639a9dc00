// The right-hand panels: what the model answered, the evidence with its checks, how it is drawn; and what the model is.
#pragma once

#include <QWidget>

#include "jobs/comparison.h"
#include "panels/view_settings.h"

class QComboBox;
class QLabel;
class QPushButton;
class QSlider;
class QVBoxLayout;
class QCheckBox;
class QToolButton;

namespace vitrine::app {

class MethodSettingsView;
class PredictionsView;
class RangeBar;
class PictureBox;
class RegionRow;
class SecondPicture;

class ExplainPanel : public QWidget {
    Q_OBJECT

  public:
    ExplainPanel(Session& session, Comparison& comparison, ViewSettings& settings, QWidget* parent = nullptr);
    void restyle();
    void refresh();
    void focusRegion();  ///< the region's numbers, now or once there is one
    PredictionsView* predictions() const { return predictions_; }
    MethodSettingsView* methodSettings() const { return method_settings_; }
    QSize sizeHint() const override { return {304, 600}; }

  Q_SIGNALS:
    void settingsChanged();
    void secondPictureWanted();
    void insideWanted();  ///< what the layers of a mask add, and its other classes

  private:
    void refreshEvidence();
    void refreshPredictions();
    void refreshTables();
    void refreshMask();
    void showOf(const char* which);

    Session& session_;
    Comparison& comparison_;
    ViewSettings& settings_;
    PredictionsView* predictions_;
    SecondPicture* second_;
    RegionRow* region_;
    QPushButton *show_explanation_, *show_attention_;
    QLabel *evidence_title_, *evidence_what_, *evidence_facts_;
    QToolButton* refresh_;
    QPushButton *check_, *map_, *mask_, *inside_;
    QWidget* of_mask_;  ///< the switch between map and training mask
    MethodSettingsView* method_settings_;
    QVBoxLayout* findings_;
    QString findings_key_;
    QVBoxLayout* tables_;
    std::shared_ptr<const std::vector<float>> tables_of_;  ///< the map beside which the tables came
    QSlider* opacity_;
    QLabel* opacity_value_ = nullptr;
    QComboBox* colours_;
    QPushButton* upsampling_[3];
    QCheckBox *solid_, *grid_, *logarithmic_, *live_;
    RangeBar* range_;
};

/// What is open: the model, its preprocessing, and what it sees.
class ModelPanel : public QWidget {
    Q_OBJECT

  public:
    explicit ModelPanel(Session& session, QWidget* parent = nullptr);
    void refresh();
    QSize sizeHint() const override { return {304, 600}; }

  private:
    Session& session_;
    QLabel *title_, *why_, *preprocessing_, *assumed_, *picture_note_;
    PictureBox* seen_;
    QVBoxLayout *facts_, *notes_;
};

}  // namespace vitrine::app
