// A training, of a mask or of concepts, as a person drives it: set up, started, paused, gone on with, ended, tried out.
//
// Lives on the interface thread, beside the session. The training has a thread of its own with its own copy of the
// model, so that the session's model answers meanwhile, and another may even be opened.
#pragma once

#include <QObject>

#include <array>
#include <optional>
#include <stop_token>
#include <vector>

#include "jobs/session.h"
#include "jobs/training.h"

namespace vitrine::app {

class TrainingRun : public QObject {
    Q_OBJECT

  public:
    enum class Stage { Setup, Starting, Running, Pausing, Paused, Ended };
    struct Point {
        std::int64_t step = 0;
        TrainingFigures values{};
    };

    TrainingRun(Session& session, Trained what);
    ~TrainingRun() override;

    // ---- setting up -------------------------------------------------------------------------------------------------
    void setData(const QString& folder);
    void setOut(const QString& file);
    void set(const std::string& name, const std::string& value);
    void resetSettings();
    void setLooking(bool looking);  ///< whether somebody sees the settings: layers are chosen only then
    const QString& data() const { return data_; }
    const QString& out() const { return out_; }
    const std::vector<SettingFacts>& declared() const { return declared_; }  ///< with the layers that would be chosen
    const MethodSettings& settings() const { return settings_; }
    Trained what() const { return plan_.what; }
    QString whyNot() const;        ///< why training cannot start; empty when it can
    QString aboutTheFile() const;  ///< what is there already; empty when nothing is
    bool goesOn() const;           ///< a paused training lies there: starting goes on with it

    // ---- driving ----------------------------------------------------------------------------------------------------
    void start();
    void startAnew();  ///< from the first step; the paused training that lies there is moved aside
    void pause();
    void resume();
    void stop();   ///< back to the settings; the checkpoint stays
    void again();  ///< back to the settings once it has ended
    QString whyNotExplain() const;
    void explainWithIt();  ///< the picture that is open

    // ---- reading ----------------------------------------------------------------------------------------------------
    Stage stage() const { return stage_; }
    bool busy() const { return stage_ == Stage::Starting || stage_ == Stage::Running || stage_ == Stage::Pausing; }
    const QString& modelTitle() const { return model_title_; }  ///< of the run
    const QString& doing() const { return doing_; }             ///< one line
    double share() const;                                       ///< 0 to 1; negative where it is not known
    const QString& trouble() const { return trouble_; }
    QString warning() const;  ///< what goes wrong while there is time to stop; empty when all is well
    const QStringList& notes() const { return notes_; }
    const std::vector<Point>& curve() const { return curve_; }
    const std::vector<TrainingLook>& looks() const { return looks_; }  ///< of concepts, one after another
    const std::optional<TrainingMoment>& moment() const { return moment_; }
    const std::optional<MaskPreview>& preview() const { return preview_; }
    const std::optional<TrainingOutcome>& outcome() const { return outcome_; }

  Q_SIGNALS:
    void changed();  ///< stage, settings, outcome
    void moved();    ///< figures, curve, what is being done
    void previewChanged();
    void formChanged();  ///< which settings there are: the defaults are others

  private:
    void go();
    QString stopping(bool leaving) const;
    void took(Result<TrainingOutcome> outcome);
    void followModel();
    void takeModel();
    void setUp();
    void layersNow();
    SettingFacts* declared(const std::string& name);
    QString suggestedFile() const;

    Session& session_;
    std::vector<SettingFacts> declared_;
    MethodSettings settings_;
    QString data_, out_, suggested_;
    bool looking_ = false;
    std::string followed_;   ///< the model that the form is for
    std::string layers_of_;  ///< model and version whose layers were asked for
    Stage stage_ = Stage::Setup;
    TrainingPlan plan_;
    QString model_title_, doing_, trouble_;
    QStringList notes_;
    double share_ = -1;
    bool leaving_ = false;  ///< stopped, not paused
    std::vector<Point> curve_;
    std::vector<TrainingLook> looks_;
    std::int64_t sound_ = 0;  ///< the last step whose masks hid neither all nor nothing
    std::optional<TrainingMoment> moment_;
    std::optional<MaskPreview> preview_;
    std::optional<TrainingOutcome> outcome_;
    std::shared_ptr<PreviewPicture> picture_ = std::make_shared<PreviewPicture>();
    std::stop_source stop_;
    JobQueue<Trainer> jobs_;  // last: it ends before what its answers touch
};

}  // namespace vitrine::app
