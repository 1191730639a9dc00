// Testing with concept vectors: does a concept that pictures show move the answer towards a class?
#pragma once

#include <QWidget>

#include <stop_token>

#include "jobs/tcav_run.h"
#include "panels/tcav_sets.h"

class QComboBox;
class QSpinBox;

namespace vitrine::app {

class ChoiceButton;
class PathLine;
class TcavBars;
class RunBox;

class TcavPanel : public QWidget {
    Q_OBJECT

  public:
    explicit TcavPanel(Session& session, QWidget* parent = nullptr);
    ~TcavPanel() override;
    void restyle();
    void setLooking(bool looking);  ///< whether it is seen: drags draw only then
    TcavSets* sets() const { return sets_; }
    void setTarget(std::optional<std::int64_t> index);  ///< nothing: the predicted class
    void setPoint(const QString& point);                ///< empty: three quarters deep
    void setExamples(const QString& folder);
    void setRandom(const QString& folder);
    QString whyNot() const;  ///< empty where it can start
    bool ready() const { return ground_.has_value(); }
    bool running() const { return running_; }
    double share() const { return share_; }  ///< of the test; negative: not known
    const std::optional<TcavFacts>& facts() const { return facts_; }
    const QString& trouble() const { return trouble_; }
    QString command() const;  ///< that makes the scores which are shown again; empty without any
    void start();
    void stop();
    QSize sizeHint() const override { return {304, 600}; }

  Q_SIGNALS:
    void moved();  ///< the test began, went on or ended

  private:
    struct Hands {};  ///< what the thread has of its own: nothing
    std::optional<std::int64_t> target() const;
    TcavPlan plan() const;
    void askGround();
    void forget();  ///< what was known of the point
    void fillChoices();
    void refresh();
    void refreshFacts();
    void revealOutcome();

    Session& session_;
    std::optional<std::int64_t> target_;
    QString point_, examples_, random_, doing_, trouble_, ground_trouble_, of_;
    std::optional<Ground> ground_;
    std::optional<TcavFacts> facts_;
    TcavPlan ran_;
    double share_ = -1;
    bool looking_ = false, asking_ = false, running_ = false;
    std::stop_source stop_;
    ChoiceButton *class_button_, *point_button_;
    PathLine *examples_line_, *random_line_;
    TcavSets* sets_;
    QSpinBox* runs_;
    QComboBox* features_;
    QPushButton *copy_command_, *copy_table_;
    RunBox* run_;
    QLabel *next_, *about_, *notes_;
    TcavBars* bars_;
    JobQueue<Hands> jobs_;  // last: it ends before what its answers touch
};

}  // namespace vitrine::app
