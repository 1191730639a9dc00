// Training a mask or concepts: what is asked, how it goes, and what came of it.
#pragma once

#include <QLineEdit>
#include <QWidget>

#include "jobs/training_run.h"

class QGridLayout;
class QLabel;
class QPushButton;
class QToolButton;
class QVBoxLayout;

namespace vitrine::app {

class CurveView;
class PictureBox;
class SettingsForm;
class ThinBar;

/// A line for a path: its end is what is seen, and what is dropped on it is taken.
class PathLine : public QLineEdit {
    Q_OBJECT

  public:
    explicit PathLine(QWidget* parent = nullptr);
    void setPath(const QString& path);

  Q_SIGNALS:
    void chosen(const QString& path);

  protected:
    void dragEnterEvent(QDragEnterEvent* event) override;
    void dropEvent(QDropEvent* event) override;
    void focusOutEvent(QFocusEvent* event) override;
};

class TrainPanel : public QWidget {
    Q_OBJECT

  public:
    TrainPanel(Session& session, TrainingRun& mask, TrainingRun& concepts, QWidget* parent = nullptr);
    void restyle();
    void show(Trained what);
    TrainingRun& run() const { return *run_; }  ///< that is shown
    QWidget* control(const std::string& setting) const;
    CurveView* curves() const { return curves_; }
    CurveView* lookCurves() const { return look_curves_; }
    PictureBox* previewBox() const { return picture_; }
    QSize sizeHint() const override { return {304, 600}; }

  Q_SIGNALS:
    void folderWanted();
    void fileWanted();

  private:
    struct Figure {
        QString name, tip;
        QString (*words)(const TrainingMoment& now);
    };
    void follow(TrainingRun& run);
    void buildForms();
    void fillHeld(const TrainingOutcome& found);
    void fillSpeed(const TrainingOutcome& found);
    void refresh();
    void refreshFigures();
    void refreshPreview();
    void unfold(bool more);

    Session& session_;
    TrainingRun *mask_, *concepts_, *run_;
    QPushButton *of_mask_, *of_concepts_;
    QWidget *setup_, *settings_, *running_, *more_box_, *held_, *trouble_, *warning_;
    PathLine *data_, *out_;
    QLabel *about_, *about_file_, *of_run_, *trouble_sign_, *trouble_words_, *warning_sign_, *warning_words_, *doing_,
        *preview_words_, *held_words_, *notes_, *speed_;
    SettingsForm *first_, *more_;
    QToolButton *fold_, *reset_, *logarithmic_;
    QPushButton *start_, *anew_, *pause_, *resume_, *stop_, *explain_, *again_;
    ThinBar* bar_;
    CurveView *curves_, *more_curves_, *look_curves_;
    static constexpr int kFigures = 7;
    std::vector<Figure> told_;
    QLabel *captions_[kFigures], *figures_[kFigures];
    QGridLayout* held_grid_;
    PictureBox* picture_;
};

}  // namespace vitrine::app
