// The concepts of the picture on show: which autoencoder reads it, what it found, and what is pointed at, in the list
// or on the picture.
//
// Lives on the interface thread, beside the session, which posts its jobs. Works only while somebody looks. What the
// cursor asks is answered from ConceptsOfPicture, without the engine.
#pragma once

#include <QObject>

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "jobs/session.h"

namespace vitrine::app {

class ConceptsOnShow : public QObject {
    Q_OBJECT

  public:
    explicit ConceptsOnShow(Session& session);

    // ---- asking -------------------------------------------------------------------------------------------------
    void setLooking(bool looking);
    void setLookingAtLayers(bool looking);  ///< the same concepts at every layer, too
    /// Empty: what came with the model. Once its concepts are there, every concept is left as it is; where it is
    /// refused, what was steered stays.
    void choose(const QString& file);
    /// What a file does not say of itself, by AutoencoderConfig's names; empty takes it back.
    void give(const std::string& name, const std::string& value);
    void reread();  ///< the names beside it, where nothing else changed
    void again();   ///< reads what was stopped
    /// The cursor on the picture, in photo pixels.
    void pointAt(const std::optional<Point>& photo);
    void hover(std::int64_t number);  ///< a concept in the list; -1 for none
    /// Pins a concept, or lets it go where it is the one that is pinned; -1 lets all go.
    /// @param beside  joins or leaves those that are chosen already
    void pin(std::int64_t number, bool beside = false);

    // ---- steering -----------------------------------------------------------------------------------------------
    /// What a slider multiplies: the largest that was seen of the concept, in the index where there is one, else on
    /// this picture; where it was never heard, of any.
    double unitOf(std::int64_t number) const;
    QString whyNoSteering() const;  ///< empty where concepts can be changed
    QString whyNotOn(Steer::Tokens tokens) const;
    /// The next drag on the picture chooses patches to steer on, in place of what is explained.
    void setDrawing(bool drawing);
    bool drawing() const { return drawing_; }
    void draw(const Box& photo);  ///< where the drag ended
    std::optional<Region> regionUnder(const Box& photo) const;
    std::optional<Region> regionOfTarget() const;  ///< the region that is explained, in the concepts' patches
    std::optional<Box> steered() const;            ///< the patches that are steered on, in photo pixels

    // ---- reading ------------------------------------------------------------------------------------------------
    enum class State : std::uint8_t {
        Nothing,  ///< there is no model or no picture, or the model did not run: `why`
        None,     ///< no autoencoder for this model: `why`
        Loading,  ///< the first time; later ones are `stale`
        Stopped,  ///< the first time, by the person: `again` reads them
        Refused,  ///< the file: `why`
        Ready,
    };
    State state() const;
    const QString& why() const { return why_; }
    bool asksForMore() const { return asks_; }  ///< it was refused for what the file does not say and could be given
    bool stale() const { return found_ && found_for_ != wantedKey(); }
    /// By the person: nothing is read until the question is another, or `again`.
    bool stopped() const { return stopped_ && asked_for_ == wantedKey(); }
    bool stoppedLayers() const { return stopped() || (layers_stopped_ && layers_asked_for_ == wantedKey()); }
    const ConceptSource& source() const { return source_; }
    const std::optional<ConceptsFound>& found() const { return found_; }
    const ConceptsOfPicture& picture() const;   ///< empty where there is none
    QString nameOf(std::int64_t number) const;  ///< "Concept 12" where it has no name
    const std::optional<ConceptLayers>& layers() const { return layers_; }
    QString whyNoLayers() const;
    /// The first of them by their sum over the patches.
    std::vector<std::int32_t> strongest(std::size_t most) const;
    bool isNamed(std::int64_t number) const;
    std::int64_t hovered() const { return hovered_; }
    std::int64_t pinned() const { return pinned_; }
    const std::set<std::int64_t>& chosen() const { return chosen_; }  ///< the pinned one among them
    /// The patch that is asked about, in the concepts' own grid: under the cursor, else the one that is pinned.
    std::optional<std::pair<std::int64_t, std::int64_t>> patch() const { return patch_; }
    std::span<const ConceptValue> atPatch() const;
    float valueAtPatch(std::int64_t number) const;  ///< 0 where the concept is silent there
    /// Its map, from zero to the largest that was ever seen of it.
    Plane planeOf(std::int64_t number) const;
    /// Which colour it has while it is chosen with others; -1 where it is alone or not chosen. Kept while it is chosen.
    int slotOf(std::int64_t number) const;
    static QString tokenName(const std::string& token);  ///< "class token", "register 0"
    QString aside(std::int64_t number) const;            ///< as LitConcept::aside

  Q_SIGNALS:
    void changed();         ///< all of it
    void pointedChanged();  ///< patch, hover, pin, choice
    void opened(const QString& file);

  private:
    std::string wantedKey() const;  ///< of model, picture and autoencoder
    void follow();
    void readAnew();
    void forgetStops();
    void post();
    void followLayers();
    bool layersUnderWay() const;
    bool anyLooks() const { return looking_ || looking_at_layers_; }
    void placePatch();
    void light();

    Session& session_;
    bool looking_ = false, looking_at_layers_ = false, running_ = false, drawing_ = false, unsteer_ = false;
    bool stopped_ = false, layers_stopped_ = false;  ///< of what `asked_for_` and `layers_asked_for_` say
    std::optional<ConceptLayers> layers_;
    std::vector<std::int32_t> ranked_;
    const void* ranked_of_ = nullptr;
    std::string layers_asked_for_;
    QString why_no_layers_;
    ConceptSource source_;
    std::string asked_for_, found_for_;
    std::optional<ConceptsFound> found_;
    QString why_;
    bool asks_ = false;
    bool none_ = false;
    std::optional<Point> cursor_;
    std::optional<std::pair<std::int64_t, std::int64_t>> patch_;
    std::int64_t hovered_ = -1, pinned_ = -1;
    std::set<std::int64_t> chosen_;
    std::map<std::int64_t, int> slots_;  ///< of those that are chosen
};

}  // namespace vitrine::app
