// What lies on the bench: one model, one picture, one run. Plain answers for the window; no torch, no Qt in sight.
//
// A Workbench lives on the engine thread and is reached only from inside a job. What it returns is immutable and
// shared.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <vitrine/base/geometry.h>
#include <vitrine/base/image.h>
#include <vitrine/base/result.h>

#include "concept_book.h"
#include "concepts_of_picture.h"

namespace vitrine {
struct Capture;
class ExplainContext;
struct Parameter;
struct Score;
}  // namespace vitrine

namespace vitrine::app {

struct Made;

/// A small map of values with the range it is shown in by default.
struct Plane {
    std::int64_t rows = 0, cols = 0;
    std::shared_ptr<const std::vector<float>> values;  ///< [rows, cols]
    float low = 0, high = 1;                           ///< smallest and largest value
    float shown_low = 0,
          shown_high = 1;  ///< the default range: min to max, 99.5th percentile for pixels, symmetric when signed
    bool is_signed = false;
    /// Where the map is itself a picture: [3, rows, cols], 0 to 1, drawn in place of the values; else null.
    std::shared_ptr<const std::vector<float>> colours;
    std::string colours_mean;  ///< "first three components"

    bool empty() const { return !values || values->empty(); }
    float at(std::int64_t row, std::int64_t col) const { return (*values)[static_cast<std::size_t>(row * cols + col)]; }
    /// Red, green and blue of a cell.
    std::array<float, 3> colour_at(std::int64_t row, std::int64_t col) const;
    MapView view() const;  ///< of the colours where there are some, else of the values
};
Plane make_plane(std::int64_t rows, std::int64_t cols, std::vector<float> values, bool is_signed, bool per_pixel);

/// One declared parameter of a method, as a panel shows it.
struct SettingFacts {
    enum class Kind : std::uint8_t { Flag, Integer, Number, Choice, Text };
    Kind kind = Kind::Text;
    std::string name, meaning, unit, source;
    std::string caption;               ///< what a panel calls it; empty: its name
    std::string standard;              ///< the default, as text
    std::optional<double> low, high;   ///< for numbers, inclusive
    std::vector<std::string> choices;  ///< for Choice
};

SettingFacts setting_of(const Parameter& parameter);

/// How often the model is run for one map, with the method's own settings; the shared first run not counted.
struct PassFacts {
    std::int64_t forwards = 0, backwards = 0;
};

struct MethodFacts {
    std::string name, title, summary, source;
    std::string family, formula, weakness;  ///< each may be empty: not said
    std::string why_not;                    ///< empty when it can run on the open model
    bool class_specific = false;
    bool may_read_other = false;      ///< with some of its settings it compares with a second picture
    std::optional<PassFacts> passes;  ///< nothing where it cannot be known before
    std::vector<SettingFacts> settings;

    bool has(std::string_view setting) const;
};

struct MeasureFacts {
    std::string name, title, summary, source;
    std::optional<bool> higher_is_better;  ///< nothing where neither is
};

/// Values that differ from a method's defaults, by name.
using MethodSettings = std::map<std::string, std::string>;

/// A rectangle of cells, its corners included; they count from 0.
struct Region {
    std::int64_t row = 0, col = 0, to_row = 0, to_col = 0;
    bool operator==(const Region&) const = default;
    /// As the command line takes it: "3,4" or "3,4-5,9".
    std::string text() const;
};

/// What is done to a concept while the model runs.
struct SteeredConcept {
    enum class Mode : std::uint8_t { Suppress, Scale, Set };
    std::int64_t number = 0;
    Mode mode = Mode::Suppress;
    double value = 0;  ///< the factor, or the strength; of Suppress nothing
    bool operator==(const SteeredConcept&) const = default;
};

/// How the model is steered: which concepts of which autoencoder, and on which tokens.
struct Steer {
    enum class Tokens : std::uint8_t { All, Class, Patches, Chosen };
    ConceptSource source;
    std::vector<SteeredConcept> edits;  ///< by number, each once
    Tokens tokens = Tokens::All;
    std::optional<Region> region{};  ///< of Chosen: patches of the concepts' grid
    bool operator==(const Steer&) const = default;

    /// Whether anything is changed: some concepts, on some tokens.
    bool active() const { return !edits.empty() && (tokens != Tokens::Chosen || region); }
    const SteeredConcept* find(std::int64_t number) const;  ///< null where it is left as it is
    void put(SteeredConcept edit);
    void drop(std::int64_t number);
};

/// What is answered to the picture while a concept is set to more and to less, beside what chance does.
struct SteerCurve {
    struct Point {
        double value = 0;                            ///< times the largest that was seen of the concept
        double divergence = 0;                       ///< KL from the answer before, nats
        std::int64_t changed = 0;                    ///< of the five likeliest classes, how many are others now
        std::string top;                             ///< the likeliest now
        double probability = 0;                      ///< of the class that was likeliest before
        double concepts = 0, concepts_most = 0;      ///< divergence with other concepts set likewise: mean, largest
        double directions = 0, directions_most = 0;  ///< with tokens moved as far in directions by chance
    };
    std::int64_t number = 0;
    std::string top;  ///< the likeliest before
    double probability = 0;
    std::int64_t concepts = 0, directions = 0;  ///< how many there were of chance
    std::vector<Point> points;                  ///< by value
};

/// The cells of which regions consist: they lie evenly over what the model sees.
struct RegionFacts {
    std::int64_t rows = 0, cols = 0;
    std::string point;  ///< where the activation is read
};

/// What regions that are kept are drawn on and shown by.
struct Ground {
    RegionFacts cells;
    SeePicture see;
};

/// A question to a method.
struct Wanted {
    std::string method;
    MethodSettings settings, shared;  ///< of the method; of all methods (smoothing)
    std::optional<std::int64_t> target, versus;
    std::vector<std::int64_t> also{};  ///< further classes, whose numbers are added
    bool probability = false;          ///< of the class, in place of the method's own number
    std::optional<Region> region{};    ///< its activation, in place of a class
    std::filesystem::path other;       ///< the second picture, as open_other() took it; empty for none
    Steer steer{};                     ///< of the model that answers; without edits it is the one that was opened
    bool operator==(const Wanted&) const = default;
};

struct ModelFacts {
    std::string request;  ///< what was asked for: a path or "starter"
    std::string name, title, architecture, dialect, why, readout;
    std::int64_t parameters = 0, size_bytes = 0, layers = 0, heads = 0, width = 0, classes = 0, patch_height = 0,
                 patch_width = 0;
    std::int64_t input_height = 0, input_width = 0;
    std::vector<std::string> labels;  ///< one per class
    std::string label_source;
    bool labels_assumed = false;
    std::string preprocessing;  ///< one line
    std::string preprocessing_source;
    std::vector<std::string> assumed;  ///< names of guessed preprocessing fields
    std::vector<std::string> notes;
    std::string cam_point;                  ///< the point that methods with a layer read by default; may be empty
    std::vector<std::string> layer_points;  ///< points alike to it, from the first layer to the last
    std::vector<std::string> points;        ///< all that have a name
    std::vector<MethodFacts> methods;
    std::vector<SettingFacts> shared;  ///< settings that all methods take
    std::vector<MeasureFacts> measures;
};

struct PictureFacts {
    std::filesystem::path file;
    std::string name, note;
    ImageView photo;  ///< upright
};

/// The picture that is compared with.
struct OtherFacts {
    std::string name;
    ImageView thumbnail;
};

struct Prediction {
    std::int64_t index = 0;
    std::string label;
    double logit = 0, probability = 0;
};

/// One run of the model on the picture.
struct Look {
    InputGeometry geometry;
    ImageView seen;                             ///< what the model sees
    std::vector<Prediction> top;                ///< five at most
    std::vector<double> probabilities;          ///< of every class; empty without a classifier
    std::int64_t grid_rows = 0, grid_cols = 0;  ///< patches of the first mixing; 0 when there are none
    std::string no_grid;                        ///< why patches cannot be pointed at; empty when they can
    std::vector<std::int64_t> heads;            ///< per layer
    std::vector<std::string> prefix;            ///< names of the tokens before the patches
    std::string readout;                        ///< "class token", "mean of the patches"
    std::int64_t capture_bytes = 0;
    double forward_ms = 0;
    std::vector<std::string> notes;
    std::string steered;                 ///< what is changed, in words; empty: nothing
    std::shared_ptr<const Capture> run;  ///< for Reader
    bool apart = false;                  ///< the run may be read while the model works
};

/// Which token's attention is wanted: a patch, or where the model reads its answer.
struct Token {
    std::int64_t row = -1, col = -1;
    bool is_patch() const { return row >= 0; }
    bool operator==(const Token&) const = default;
};

/// What one token reads in one head (or the mean over heads).
struct Row {
    Token token;
    std::int64_t layer = 0, head = -1;                  ///< head -1: mean
    Plane plane;                                        ///< on the key side's patches
    std::vector<std::pair<std::string, float>> prefix;  ///< what went to the tokens before the patches
    std::string implementation;
    double milliseconds = 0;
};

/// The same for every head of every layer.
struct Strip {
    Token token;
    std::vector<std::vector<Plane>> layers;  ///< [layer][head]
    double milliseconds = 0;
};

/// A piece of one head's map (or of all heads), in pool x pool blocks: means, or the largest entries.
struct MapPiece {
    std::int64_t layer = 0, head = -1;            ///< head -1: mean
    std::int64_t queries = 0, keys = 0;           ///< of the whole map
    std::int64_t q0 = 0, q1 = 0, k0 = 0, k1 = 0;  ///< what it covers
    std::int64_t pool = 1;
    bool largest = false;                             ///< of a block, and of any head where none is chosen; else means
    Plane plane;                                      ///< [queries / pool, keys / pool]
    std::vector<std::string> query_names, key_names;  ///< the tokens before the patches on either side
    std::int64_t query_cols = 0, key_cols = 0;        ///< patches a row; 0 where patches are not known
    std::string implementation;
    double milliseconds = 0;

    /// "patch 3, 7", "cls" or "token 12".
    static std::string name_of(std::int64_t token, const std::vector<std::string>& names, std::int64_t cols);
};

/// What running the model on the picture would take, known before it is done.
struct RunCost {
    std::string sentence;     ///< "160 001 tokens: keeps 5.9 GB, ...; about 2 s"
    bool needs_word = false;  ///< it is long or large: nothing runs before the person says so
};

struct Finding {
    std::string name, finding;
    bool passed = true;
};

/// Numbers beside a map, as a panel shows them. Rows that are layers and columns that are heads can be gone to.
struct TableFacts {
    std::string title, unit;                  ///< "Attention distance", "input pixels"
    std::vector<std::string> rows, cols;      ///< labels
    std::vector<std::vector<double>> values;  ///< one list a row, which may be shorter than `cols`
    std::vector<std::int64_t> layers;         ///< per row; -1 where it is no layer
    std::vector<std::int64_t> heads;          ///< per column; -1 where it is no head
    double low = 0, high = 0;                 ///< smallest and largest finite value
};

struct Explanation {
    std::string method, title, explained, implementation, source;
    Plane plane;
    bool on_tokens = true, class_specific = false, partial = false;
    double prefix_mass = 0;
    double milliseconds = 0;
    std::vector<Finding> checks;
    std::vector<TableFacts> tables;
    std::vector<std::string> notes;
    std::vector<std::string>
        parts;  ///< values of the method's setting `part`, where it has one: what adds up to the map
};

/// What the measures show the model again: the picture through its map, at shares of the map that are kept.
struct ThroughFacts {
    struct Kept {
        double keep = 100;   ///< of the map's highest values, in %
        double visible = 0;  ///< share of the pixels that are not wholly hidden
        double number = 0;   ///< the explained number of it
        ImageView picture;
    };
    std::string explained;  ///< "probability of class 3"
    double whole = 0;       ///< the number of the whole picture
    std::vector<Kept> kept;
    double milliseconds = 0;
};

/// One number of how far a map can be trusted, on one picture.
struct ScoreFacts {
    std::string measure, unit;
    double value = 0;
    std::vector<std::string> notes;
    double milliseconds = 0;
};

/// What a dropped path turned out to be.
struct Sorted {
    std::vector<std::filesystem::path> models, pictures, autoencoders;
    std::vector<std::string> refused;  ///< one sentence each
    bool needs_consent = false;        ///< the model is a TorchScript program
};

/// Reads what a run left behind: answers to the cursor. It has nothing of its own, so that it can live on a thread
/// beside the engine's, where runs that allow it (Look::apart) are read while a long method computes.
class Reader {
  public:
    /// @error BadInput layer or head out of range
    static Result<Row> row(const Capture& run, Token token, std::int64_t layer, std::int64_t head);
    static Result<Strip> strip(const Capture& run, Token token, std::stop_token stop);
    /// The map over these queries and keys in at most `cells` x `cells` blocks; the region is cut to the map.
    /// @error BadInput layer or head out of range, an empty region
    static Result<MapPiece> piece(const Capture& run, std::int64_t layer, std::int64_t head, std::int64_t q0,
                                  std::int64_t q1, std::int64_t k0, std::int64_t k1, std::int64_t cells,
                                  bool largest = false);
};

class Workbench {
  public:
    using Report = std::function<void(std::int64_t done, std::int64_t total, const std::string& unit)>;
    using Refined = std::function<void(Explanation so_far)>;

    Workbench();
    ~Workbench();
    Workbench(const Workbench&) = delete;
    Workbench& operator=(const Workbench&) = delete;

    /// Looks at what is in them, not at names. A folder with a model or an autoencoder in it is that, any other folder
    /// is its pictures.
    static Sorted sort(const std::vector<std::filesystem::path>& paths);

    /// The model that was open stays when this fails.
    Result<ModelFacts> open_model(const std::string& request, bool trust, std::stop_token stop);
    /// Decodes a picture and lays it on the bench; the one before stays when this fails.
    Result<PictureFacts> open_picture(const std::filesystem::path& file, std::stop_token stop);
    /// Decodes the second picture and keeps it beside the first, whatever model comes; the one before stays when this
    /// fails. The thumbnail's longer side is `side` pixels.
    Result<OtherFacts> open_other(const std::filesystem::path& file, std::int64_t side);
    void drop_other();
    /// What lies on the bench: the model as it was asked for and the picture's file; empty for nothing.
    std::pair<std::string, std::filesystem::path> at_hand() const;
    /// A small version for the filmstrip; leaves the bench alone. The longer side is `side` pixels.
    Result<ImageView> thumbnail(const std::filesystem::path& file, std::int64_t side) const;

    /// @error NotFound there is no model or no picture
    Result<RunCost> cost() const;
    /// Runs the model, steered or as it was opened, on the picture and keeps the capture: of the one that was opened,
    /// and of the one that was steered last. What was run before is not run again.
    /// @error NotFound there is no model or no picture; what steering says
    Result<Look> look(const Steer& steer, std::stop_token stop);
    /// Writes the steered model. @error what steering or writing says
    Status save_steered(const Steer& steer, const std::filesystem::path& file);
    /// How far a concept steers, on the tokens of `steer`.
    /// @param unit  what a value of 1 sets it to
    /// @error Unsupported the model has no classes; what steering says
    Result<SteerCurve> steer_curve(const Steer& steer, std::int64_t number, double unit, std::stop_token stop,
                                   const Report& report);
    /// Replays 8 rows of every head and compares with what the model used.
    Result<std::vector<Finding>> check(const Steer& steer, std::stop_token stop, const Report& report);
    /// A map that was made before on the same picture is not made again, unless it is asked for `fresh`.
    ///
    /// @param refined  given the map so far, a few times a second at most, by methods that refine; may be empty
    /// @error BadInput a setting that the method does not declare or that is out of its range
    Result<Explanation> explain(const Wanted& wanted, std::stop_token stop, const Report& report,
                                const Refined& refined = {}, bool fresh = false);

    /// Whether the method compares with a second picture under these settings. From any thread.
    static bool reads_other(const Wanted& wanted);
    /// Why the method cannot explain a region under these settings; empty when it can, or explains no target at all.
    /// From any thread.
    static std::string no_region(const Wanted& wanted);
    /// The cells that a region can be made of; the model runs once for it. @error Unsupported why there are none
    Result<RegionFacts> region_facts(std::stop_token stop);
    /// The same at any point; empty: where concepts are tested by default.
    Result<Ground> ground(const std::string& point, std::stop_token stop);

    /// What the concepts of an autoencoder say of the picture.
    /// @error  what reading it says; it does not fit the model
    Result<ConceptsFound> concepts(const ConceptSource& source, std::stop_token stop);
    /// The same at all layers. @error  as there; Unsupported: there is no other layer like theirs
    Result<ConceptLayers> concept_layers(const ConceptSource& source, std::stop_token stop);

    /// The point that methods with a layer read when none is set; empty without a model.
    std::string own_layer() const;
    /// The concepts of an autoencoder with their index. @error NotFound there is no model; what open_book() says
    Result<ConceptBook> concept_book(const ConceptSource& source) const;
    /// Where a concept is in a picture, over its patches.
    /// @error Unsupported  the autoencoder reads no patches
    Result<Plane> concept_heat(const ConceptSource& source, std::int64_t latent, const std::filesystem::path& picture,
                               std::stop_token stop);
    /// Layers that a trained mask would read. Runs the model once where it has no blocks.
    Result<std::vector<std::string>> mask_layers(const std::string& version) const;
    /// How the map measures; the map is made first where it is not at hand.
    /// @error Unsupported the measure has no meaning for the method, the model or this picture: why
    Result<ScoreFacts> measure(const Wanted& wanted, const std::string& measure, std::stop_token stop,
                               const Report& report);
    /// What average drop and its kin show the model again, with 100, 50 and 15 % of the map kept; hidden pixels are
    /// black.
    Result<ThroughFacts> through(const Wanted& wanted, std::stop_token stop, const Report& report);
    /// Whether the map changes when the model's weights are shuffled from the head down: passed when the wholly
    /// shuffled model's map is at most half as alike as the sound model's own from another seed.
    Result<Finding> check_randomisation(const Wanted& wanted, std::stop_token stop, const Report& report);

    static std::vector<std::filesystem::path> builtin_pictures();
    static bool has_starter();
    /// The autoencoder that came with a model, by ModelFacts::request; empty for none.
    static std::filesystem::path own_concepts(const std::string& request);

  private:
    Status read_other(const std::filesystem::path& file);
    /// @error what reading the second picture, or running the model on it, says
    Result<ExplainContext> context_for(const Wanted& wanted, std::stop_token stop, const Report& report);
    Result<std::shared_ptr<const Made>> attribution(const Wanted& wanted, std::stop_token stop, const Report& report,
                                                    const Refined& refined, bool fresh);
    struct Run;
    Result<Run*> run_of(const Steer& steer);
    Result<std::pair<Score, double>> score_of(const Wanted& wanted, const std::string& name, const MethodSettings& set,
                                              std::stop_token stop, const Report& report);
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace vitrine::app
