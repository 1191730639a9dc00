// How the concepts of a model answer to inputs that lose their structure, and what they foretell of the answer's risk.
//
//     UncertaintyOptions options{.names = names, .pixels = load, .autoencoders = {{"concepts.safetensors", concepts}}};
//     UncertaintyResponse found = VITRINE_TRY(uncertainty_response(model, options));
//
// Source: P. Suresh et al., "From Noise to Narrative", 2025. What is adapted is said where it is: OutputRisk, Rung.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/autoencoder.h>
#include <vitrine/base/result.h>
#include <vitrine/explainer.h>
#include <vitrine/folder_journal.h>
#include <vitrine/ladder.h>
#include <vitrine/output_risk.h>

namespace vitrine {

struct UncertaintyResponse;

/// How far a climb is; pictures and seeds are counted from 1.
struct LadderPlace {
    bool control = false;
    std::int64_t picture = 0, pictures = 0, seed = 0, seeds = 0;
    std::string rung;  ///< the last one that was read
};

/// What climbs have measured, for one that goes on. A later call of uncertainty_response with the same model, pictures,
/// autoencoders and ladder, and with as many pictures and seeds or more, begins where the one before ended or was
/// stopped, and finds what one that began anew would: to the bit on the CPU.
class LadderMemory {
  public:
    LadderMemory();
    ~LadderMemory();
    struct Kept;

    /// What the caller knows of its pictures: with another one nothing is remembered.
    std::string stamp;
    std::unique_ptr<Kept> kept;  ///< of uncertainty_response alone
};

struct UncertaintyOptions {
    std::vector<std::string> names;  ///< of the pictures, each another: what is drawn follows from it
    /// A picture, normalised: float32 [1, 3, height, width], all of one size. Called from several threads at once.
    std::function<Result<at::Tensor>(std::int64_t picture)> pixels;
    /// One for each layer that is looked at, with the name that it gets in the result.
    std::vector<std::pair<std::string, Autoencoder>> autoencoders;
    LadderOptions ladder;
    std::int64_t pictures = 32;  ///< that climb the ladder; fewer where there are fewer
    std::int64_t seeds = 8;      ///< of everything that is drawn: `seed`, `seed` + 1, ...
    std::int64_t reference =
        512;  ///< pictures for the meaning of concepts and for the predictor, those of the ladder first
    std::uint64_t seed = 0;
    bool control = true;  ///< the ladder once more with each weight tensor's numbers shuffled
    /// Who reads the shuffled weights: as many as `autoencoders`, of the same points, each trained on this model's
    /// weights shuffled (train_concepts' setting `shuffled_weights`), all by one seed; so are they here. Empty: the
    /// same ones, which have never seen such tokens.
    std::vector<std::pair<std::string, Autoencoder>> control_autoencoders;
    /// Which tokens speak for a concept where one number a picture is asked for: "patches", "class", "all". What an
    /// autoencoder does not read gives way to what it does.
    std::string over = "patches";
    double heard = 0.9;  ///< share of noise inputs from which on a concept counts as insensitive to input
    std::int64_t resamples = 2000;

    /// What is foretold: "confidence" (1 - the largest probability), "label" (1 - the true label's), "scores", "none".
    std::string risk = "confidence";
    std::vector<std::int64_t> labels;       ///< of each picture, -1: not known
    std::vector<double> scores;             ///< of each picture, NaN: none
    bool risk_on_ladder = false;            ///< each picture at every rung, else as it is alone
    std::string pool = "mean";              ///< over tokens: "mean", "max"
    RiskOptions predictor;                  ///< its seed, resamples, stop and progress are taken from here
    std::int64_t suppressed = 10;           ///< concepts that are suppressed; 0: no suppression
    std::int64_t suppression_controls = 5;  ///< random sets of concepts as frequent

    std::int64_t batch = 0;  ///< inputs that the model runs at once; 0: what suits the device
    std::stop_token stop = {};
    std::function<void(const Progress&)> progress = {};
    /// Told after every run of the model on the ladder, on the calling thread.
    std::function<void(const LadderPlace&)> place = {};
    /// What is known by then, at most every so many seconds, and when the climb is stopped: rungs that were not read
    /// yet have no inputs and NaN, intervals are from fewer resamples, and what is found after the climb is not there.
    std::function<void(const UncertaintyResponse&)> so_far = {};
    double so_far_seconds = 0.2;
    std::shared_ptr<LadderMemory> memory;
    /// Keeps each picture that is through, by its place in `names`: a later run with the same model, rungs, seeds and
    /// autoencoders does not run the model on it again, and finds what one that began anew would: to the bit on the
    /// CPU.
    FolderJournal* journal = nullptr;
};

/// A mean over pictures, each of them the mean over its seeds, and the middle 95 % over resampled pictures. NaN where
/// there is one picture.
struct Estimate {
    double mean = 0, low = 0, high = 0;
};

/// One rung for one kind of token: kinds are never pooled.
struct RungFigures {
    std::string rung;
    std::string tokens;  ///< "class", "registers", "patches"; "tokens" where it is not known which are which
    std::int64_t inputs = 0;
    Estimate active;                ///< latents a token (L0)
    Estimate ratio;                 ///< of that to the clean run's, resampled together
    Estimate distinct;              ///< latents an input
    Estimate overlap;               ///< with those of the clean picture: shared / heard in either (Jaccard)
    double explained_variance = 0;  ///< over all tokens of all inputs of the rung
    double norm = 0;                ///< mean length of the tokens
    bool unreliable = false;        ///< the explained variance is below one half
};

/// A concept that is heard on (nearly) every noise.
struct NoiseConcept {
    std::int64_t latent = 0;
    std::vector<double> heard;            ///< share of inputs, of each noise of the ladder
    std::optional<double> insensitivity;  ///< 1 - variance between pictures / whole variance, over their shuffles
    double frequency = 0;                 ///< share of reference pictures where it is heard
    /// How much more alike its 16 strongest reference pictures are than 16 random ones, in deviations of the latter.
    std::optional<double> coherence;
    std::vector<std::int64_t> pictures;  ///< those 16, the strongest first
    bool meaningful() const { return coherence && *coherence >= 3; }
};

/// What suppressing concepts does to the score of inputs that were held out, those of their fold's worst quartile.
struct Suppression {
    std::string chosen;  ///< "largest": |beta|; "raising": beta, positive
    std::int64_t inputs = 0;
    std::vector<std::vector<std::int64_t>> latents;  ///< of each fold
    Estimate before, after, change;
    Estimate control;     ///< change with as many random concepts of like frequency instead, mean over sets
    Estimate difference;  ///< change less control
};

struct LayerResponse {
    std::string name, point, kind, read;  ///< `read`: the tokens that the autoencoder reads
    std::string over;                     ///< the tokens that speak for a concept
    std::int64_t latents = 0;
    std::string tokens_seen;     ///< in training, as the file says; empty: it does not
    std::string trained_at;      ///< the rung that it was trained at; empty: the pictures themselves
    std::optional<double> held;  ///< the variance explained on pictures held out in training, likewise
    /// Who read the shuffled weights; empty: the same one.
    std::string control_name, control_tokens_seen;
    std::optional<double> control_held;
    std::vector<RungFigures> rungs, control;  ///< rung by rung, kind by kind
    std::int64_t noise_inputs = 0;            ///< of the first noise
    std::vector<NoiseConcept> insensitive;    ///< by the first noise, the most coherent first
    at::Tensor heard;                         ///< float64 [noises, latents]: share of inputs
    at::Tensor insensitivity;  ///< float64 [latents], NaN where nothing varies; undefined below two shuffles a picture
    std::optional<OutputRisk> risk;
    std::vector<Suppression> suppression;
    std::vector<std::string> notes;
};

struct UncertaintyResponse {
    std::vector<std::string>
        pictures;  ///< of the reference, in the order drawn; the first `climbed` climbed the ladder
    std::int64_t climbed = 0, inputs = 0;
    std::vector<std::uint64_t> seeds;
    std::optional<std::uint64_t> shuffled_by;  ///< the control's weights
    std::vector<Rung> rungs;
    std::string risk;  ///< what is foretold, in words; empty: nothing
    std::vector<LayerResponse> layers;
    std::vector<std::string> skipped;  ///< one sentence for each picture that could not be read
    std::vector<std::string> notes;
};

/// In which order pictures are drawn by a seed: those that climb come first.
std::vector<std::int64_t> ladder_order(std::int64_t pictures, std::uint64_t seed);

/// Memory: some numbers for each picture and rung, the active concepts of each reference input, and for the predictor
/// three times the reference inputs' codes in full. The model is as before when this returns.
///
/// @error BadInput     no picture that can be read, no autoencoder, one that does not fit the model, one for the
/// control
///                     that was not trained on its weights shuffled, an unknown word
/// @error Unsupported  tokens that an autoencoder wants and the point has not
/// @error Cancelled    stop was requested
/// @error as `journal`
Result<UncertaintyResponse> uncertainty_response(Model& model, const UncertaintyOptions& options);

}  // namespace vitrine
