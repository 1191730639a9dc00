// What is open and what was asked: the window's state, and the only place from which jobs are posted.
//
// Lives on the interface thread. Panels read it and listen to its signals; none of them knows the engine.
#pragma once

#include <QImage>
#include <QObject>
#include <QPointer>
#include <QString>
#include <QStringList>
#include <QTimer>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "job_queue.h"
#include "workbench.h"

namespace vitrine::app {

/// A picture in the filmstrip.
struct FilmFrame {
    QString file, name;
    QImage thumbnail;  ///< null until it is decoded
    QString trouble;   ///< why it cannot be shown; empty when it can
};

/// The picture that methods compare with.
struct OtherPicture {
    QString file, name;
    QImage thumbnail;
};

/// One of several concepts that are lit together, each in a colour of its own.
struct LitMap {
    std::int64_t number = 0;
    int slot = 0;  ///< which colour
    Plane plane;
};

/// A concept that is seen on the picture in place of the map.
struct LitConcept {
    const void* of = nullptr;  ///< the codes it was read from
    std::int64_t number = 0;
    QString title;
    QString aside;  ///< "class token 2.31": how strong it is in tokens that are no patches; empty where it is silent
    Plane plane;
    Wanted wanted;                 ///< how a method makes the same map
    std::vector<LitMap> together;  ///< all that are chosen, this one among them; empty: this one, in a map's colours
};

/// Something that went wrong or is worth saying, as one sentence and copyable detail.
struct Notice {
    enum class Kind { Hint, Warning, Failure };
    Kind kind = Kind::Hint;
    QString sentence, detail;
    QString action{};             ///< words of a button beside it; empty for none
    std::function<void()> act{};  ///< what the button does; the notice goes
};

class Session : public QObject {
    Q_OBJECT

  public:
    explicit Session(QObject* parent = nullptr);
    ~Session() override;

    // ---- opening ------------------------------------------------------------------------------------------------
    /// Files and folders in any order: models open, pictures join the filmstrip and the first new one is shown, and an
    /// autoencoder is asked for once its model is there (conceptsWanted).
    /// With `at_start`, what was not named is filled in from what is built in.
    void openPaths(const QStringList& paths, bool at_start = false);
    /// A path or "starter". TorchScript needs `trusted`; without it `consentWanted` is emitted.
    void openModel(const QString& request, bool trusted = false);
    void showPicture(int index);
    void removePicture(int index);
    void reopenPicture();

    /// The picture that is compared with, for all models and pictures until it is taken out or the window closes.
    void setOther(const QString& file);
    void removeOther();

    // ---- asking -------------------------------------------------------------------------------------------------
    void setMethod(const QString& name);
    /// A value of the chosen method; its default takes it back. The explanation is computed again.
    void setSetting(const std::string& name, const std::string& value);
    void resetSettings();  ///< all of the chosen method
    /// A setting that all methods take, likewise.
    void setShared(const std::string& name, const std::string& value);
    void resetShared();
    void setTarget(std::optional<std::int64_t> index);  ///< nothing: the predicted class
    void setVersus(std::optional<std::int64_t> index);
    /// Explains one more class beside the target, or leaves it out again.
    void toggleAlso(std::int64_t index);
    void setProbability(bool yes);  ///< of the class, in place of the method's own number
    /// A rectangle of the picture is explained in place of a class: its cells, cut to those there are. It goes with the
    /// picture, of which it names a place.
    void setRegion(Region region);
    void setRegion(const Box& photo);  ///< every cell that it touches; nothing where it touches none
    void startRegion();                ///< the pinned patch, or the middle of the picture
    void clearRegion();                ///< the class is explained again
    void prepareRegion();              ///< learns which cells there are, before the person has chosen some
    /// What regions at a point of the model are drawn on; see Workbench::ground. Not answered once the work on the
    /// model was dropped (workDropped), or asked again.
    void askGround(const QString& point, std::function<void(Result<Ground>)> then);
    void setLayer(int layer);
    void setHead(int head);  ///< -1: mean over heads
    void setPlace(int layer, int head);
    void hover(std::optional<Token> patch);
    void pin(std::optional<Token> patch);
    /// A piece of the map of the chosen layer and head, in at most `cells` blocks a side: see pieceChanged.
    void askPiece(std::int64_t q0, std::int64_t q1, std::int64_t k0, std::int64_t k1, int cells, bool largest);
    /// Shows a concept's patches in place of the map, or the map again.
    void light(std::optional<LitConcept> lit);
    /// Changes concepts while the model runs: what it answers, all maps and all numbers follow. While one change is
    /// computed only the latest of those that come is kept.
    ///
    /// @param gesture  changes of the same one, other than 0, are one step to take back: the moves of a slider
    void steer(const Steer& steer, quint64 gesture = 0);
    void saveSteered(const QString& file);  ///< NAME.steered.json
    void showOriginal(bool original);       ///< the model as it was opened, while it is steered
    void setLive(bool live);                ///< whether hovering shows attention
    void preferExplanation(bool yes);       ///< what is shown when nothing is hovered or pinned
    void refreshExplanation();
    void stopExplaining();  ///< what there is of the map stays
    void cancelAll();
    void runAnyway();  ///< the person's word to a run that is long or large

    // ---- reading ------------------------------------------------------------------------------------------------
    const std::vector<FilmFrame>& film() const { return film_; }
    int current() const { return current_; }
    const std::optional<ModelFacts>& model() const { return model_; }
    const std::optional<PictureFacts>& picture() const { return picture_; }
    std::uint64_t pictureId() const { return picture_id_; }
    const std::optional<OtherPicture>& other() const { return other_; }
    const std::optional<Look>& look() const { return look_; }
    const std::optional<Row>& row() const { return row_; }
    const std::optional<Strip>& strip() const { return strip_; }
    const std::optional<MapPiece>& piece() const { return piece_; }
    const std::optional<Explanation>& explanation() const { return explanation_; }
    const std::vector<Finding>& replay() const { return replay_; }
    const QString& explainTrouble() const { return explain_trouble_; }
    bool explaining() const { return explaining_; }
    /// Whether the explanation is of another question than the one that is being answered.
    bool stale() const { return explaining_ && !refining_; }
    bool opening() const { return opening_; }  ///< a model or picture is on its way: what is here may go
    bool looking() const { return looking_; }
    /// What waits for the person's word before the model runs on the picture; nothing when nothing does.
    const std::optional<RunCost>& asking() const { return asking_; }
    const QString& method() const { return method_; }
    const MethodFacts* methodFacts() const;
    const MethodFacts* methodFacts(const QString& name) const;
    /// What is asked of a method now: its settings, and the target where it depends on one.
    Wanted wanted(const QString& method) const;
    const MethodSettings& settings() const;                   ///< of the chosen method: what differs from its defaults
    const MethodSettings& shared() const { return shared_; }  ///< of all methods, likewise
    std::optional<std::int64_t> target() const { return target_; }
    std::optional<std::int64_t> versus() const { return versus_; }
    std::optional<std::int64_t> explainedClass() const;  ///< the target, or the predicted class; none beside a region
    const std::vector<std::int64_t>& also() const { return also_; }
    bool probability() const { return probability_; }
    const std::optional<Region>& region() const { return region_; }
    const std::optional<RegionFacts>& regionCells() const { return region_cells_; }
    std::optional<Region> regionUnder(const Box& photo) const;  ///< nothing where it touches no cell, or none is known
    Box boxOf(const Region& region) const;                      ///< in photo pixels
    /// The same of other cells that lie evenly over what the model sees.
    std::optional<Region> cellsUnder(const Box& photo, std::int64_t rows, std::int64_t cols) const;
    Box boxOf(const Region& region, std::int64_t rows, std::int64_t cols) const;
    QString whyNoRegion() const;  ///< empty where one can be chosen
    /// Why the method cannot answer what is asked; empty when it can.
    QString whyNot(const MethodFacts& method) const;
    int layer() const { return layer_; }
    int head() const { return head_; }
    int heads() const;  ///< of the chosen layer
    std::optional<Token> hovered() const { return hovered_; }
    std::optional<Token> pinned() const { return pinned_; }
    Token asked() const;  ///< the token whose attention is wanted now
    const std::optional<LitConcept>& lit() const { return lit_; }
    const Steer& steering() const { return steer_wanted_; }  ///< as it was asked for last
    bool showsOriginal() const { return original_; }
    /// Within choiceChanged: whether nothing but steering is another.
    bool steersAlone() const { return steer_alone_; }
    /// Probabilities of the model as it was opened, beside a steered one's; empty where they are not known.
    std::vector<double> before() const;
    bool live() const { return live_; }
    bool prefersExplanation() const { return prefers_explanation_; }
    /// Whether the explanation (and not a row of attention) is to be seen now.
    bool showsExplanation() const;
    /// The map to be seen now; null when there is none. It may still be the one before while a new one is computed.
    const Plane* shown() const;
    JobStatus jobs() const;  ///< what the engine does; where it rests, what is read beside it
    QString className(std::int64_t index) const;

  Q_SIGNALS:
    void modelChanged();
    void filmChanged();
    void pictureChanged();
    void otherChanged();
    void lookChanged();
    void evidenceChanged();  ///< row, explanation, layer, head, pin or hover
    void stripChanged();
    void pieceChanged();
    void replayChanged();
    void choiceChanged();                                                 ///< method, target, versus
    void steerAsked(const vitrine::app::Steer& before, quint64 gesture);  ///< somebody wants other changes
    void steerChanged();  ///< what was asked for, or whether the original is shown
    void steerSaved();
    void jobsChanged();
    void noticed(const vitrine::app::Notice& notice);
    void settled();  ///< something that could have failed went well: an old notice is out of date
    void consentWanted(const QString& request);
    /// All work on the model was cancelled: `stopped` by the person, else to make way for something to be opened.
    void workDropped(bool stopped);
    void modelOpened(const QString& request);
    void pictureOpened(const QString& file);
    void conceptsWanted(const QString& file);  ///< an autoencoder was opened: whoever has a place for it shows it
    void autoencoderReady(
        const QString& file);  ///< concepts were trained, or chosen somewhere: offered to who reads them

  private:
    friend class Comparison;  // these post their own jobs
    friend class ConceptsOnShow;
    friend class ConceptGallery;
    friend class LayerMaps;
    friend class SeenThrough;
    friend class SteerCurves;
    friend class TrainingRun;
    template <class Job, class Then>
    void post(JobLabel label, Job job, Then then) {
        jobs_.post(std::move(label), std::move(job),
                   [self = QPointer<Session>(this), then = std::move(then)](auto answer) mutable {
                       if (self) then(std::move(answer));
                   });
    }
    /// Reads the run at hand, beside the engine thread where it allows that; `then` is not called once the run is
    /// another.
    ///
    /// @param read  (const Capture&, std::stop_token) -> Result<T>
    template <class Read, class Then>
    void postRead(JobLabel label, Read read, Then then) {
        auto run = look_->run;
        auto kept = [self = QPointer<Session>(this), run, then = std::move(then)](auto answer) mutable {
            if (self && self->look_ && self->look_->run == run) then(std::move(answer));
        };
        if (look_->apart)
            readers_.post(
                std::move(label), [run, read](Reader&, JobControl& job) { return read(*run, job.stop()); },
                std::move(kept));
        else
            jobs_.post(
                std::move(label), [run, read](Workbench&, JobControl& job) { return read(*run, job.stop()); },
                std::move(kept));
    }
    void dropWork();
    void offerConcepts();
    void tell(const Error& error, const QString& about);
    void lookNow(bool consented = false);
    void resume();
    void steerNow();
    void tellSteered();
    Steer inForce() const;  ///< nothing where the original is shown
    void explainNow(bool fresh = false);
    void rowNow();
    void stripNow();
    void dropResults();
    void withCells(std::function<void()> then);
    void otherIs(std::optional<OtherPicture> other);
    void decodeThumbnails();
    void addPictures(const QStringList& files);

    /// An autoencoder that was opened before its model was: a model that opens drops the concepts of the one before.
    struct WaitingConcepts {
        QString file;
        QString model;  ///< as it was asked for; empty: whichever is there
    };

    std::vector<FilmFrame> film_;
    int current_ = -1;
    WaitingConcepts waiting_concepts_;
    std::optional<ModelFacts> model_;
    std::optional<PictureFacts> picture_;
    std::uint64_t picture_id_ = 0;
    std::optional<OtherPicture> other_;
    std::optional<Look> look_;
    std::optional<Row> row_;
    std::optional<Strip> strip_;
    std::optional<MapPiece> piece_;
    std::optional<Explanation> explanation_;
    std::vector<Finding> replay_;
    QString explain_trouble_;
    bool explaining_ = false, refining_ = false, looking_ = false, opening_ = false;
    std::optional<RunCost> asking_;
    QString method_;
    std::map<QString, MethodSettings> settings_;  ///< by method, kept while the window is open
    MethodSettings shared_;
    std::optional<std::int64_t> target_, versus_;
    std::vector<std::int64_t> also_;
    bool probability_ = false;
    std::optional<Region> region_;
    std::optional<RegionFacts> region_cells_;  ///< of the model
    QString region_trouble_;
    int layer_ = -1, head_ = -1;
    std::optional<Token> hovered_, pinned_;
    std::optional<LitConcept> lit_;
    Steer steer_wanted_, steer_, looked_;  ///< as asked for, as in force, of `look_`
    std::vector<double> own_probabilities_;
    bool original_ = false, steer_alone_ = false;
    QTimer steer_rest_;  ///< a map is given this long before the next change takes its turn
    bool live_ = true, prefers_explanation_ = true;
    // Last: their threads end before anything they could report to.
    JobQueue<Reader> readers_;  // answers the cursor while a long method runs
    JobQueue<Workbench> jobs_;
};

}  // namespace vitrine::app
