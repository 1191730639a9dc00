// From signal to noise as the window asks for it: a folder, autoencoders, and back come figures to be plotted, as they
// are found; and one picture at every step of the way. Plain structs; no torch, no Qt in sight.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <vitrine/base/result.h>

#include "concepts_of_picture.h"

namespace vitrine {
class LadderMemory;
}

namespace vitrine::app {

/// The same with the model's weights shuffled: not at all, read by the same concepts, or by concepts that are trained
/// on shuffled weights first, which is the fair comparison.
enum class LadderControl : std::uint8_t { None, Same, Trained };

struct LadderPlan {
    std::string model;  ///< as ModelFacts::request: it is opened once more, so that the window keeps its own
    std::filesystem::path folder;
    std::vector<ConceptSource> autoencoders;  ///< one for each layer
    std::int64_t pictures = 16, seeds = 4;
    LadderControl control = LadderControl::Same;
    std::int64_t control_steps = 500;  ///< the most that are trained
    bool risk = false;                 ///< whether the answer's risk is foretold from concepts
    bool suppress = false;             ///< with it, whether the concepts that foretell it are then suppressed
    bool operator==(const LadderPlan&) const = default;
};

/// A mean over pictures and the middle 95 % over resampled ones; NaN where it is not known.
struct LadderEstimate {
    double mean = 0, low = 0, high = 0;
};

struct LadderPoint {
    LadderEstimate active, distinct, ratio;  ///< concepts a token, a picture; a token's as a ratio to the clean picture
    LadderEstimate overlap;                  ///< with those of the clean picture: shared / heard in either (Jaccard)
    double explained = 0;                    ///< share of the variance
    double norm = 0;                         ///< mean length of the tokens
    bool unreliable = false;                 ///< the share explained is below one half
    std::int64_t inputs = 0;                 ///< that were read; 0: none yet
};

/// One kind of token, of the model or of its shuffled self; a point for each rung.
struct LadderSeries {
    std::string tokens;
    bool control = false;
    std::vector<LadderPoint> points;
};

/// A concept that is heard on (nearly) every noise.
struct LadderConcept {
    std::int64_t latent = 0;
    double heard = 0;
    std::optional<double> insensitivity;  ///< 1 - variance between pictures / variance, over a picture's shuffles
    std::optional<double> coherence;      ///< how much more alike its strongest pictures are than others, in deviations
    bool meaningful = false;
    std::string name;  ///< as a person called it; empty: it has none
};

/// How well the answer's risk is foretold, and where scores are permuted.
struct LadderRisk {
    LadderEstimate r2, spearman, auroc;  ///< of pictures held out; the middle 95 % over those resampled, the fits stay
    double p_r2 = 1, p_spearman = 1, p_auroc = 1;
    double null_r2 = 0, null_spearman = 0, null_auroc = 0;
};

/// What becomes of the risk of the worst quarter of pictures held out when the concepts that foretell it are silent.
struct LadderSuppression {
    bool raising = false;     ///< those of the largest positive weight, else of the largest of either sign
    std::int64_t inputs = 0;  ///< that were run again
    LadderEstimate before, after, change;
    LadderEstimate control;     ///< change with as many random concepts, as frequent, instead
    LadderEstimate difference;  ///< change less control
};

/// Tokens that an autoencoder was trained on, and what it explains of pictures held out then, as its file says.
struct LadderTraining {
    std::string tokens;
    std::optional<double> held;
    std::string rung{};  ///< that the pictures were at; empty: as they are
};

struct LadderLayer {
    std::filesystem::path path;
    std::string file, point, kind;
    /// Each token has the same number of concepts by its kind: only those of a picture say something.
    bool fixed = false;
    std::vector<LadderSeries> series;
    std::vector<LadderConcept> insensitive;
    std::optional<LadderRisk> risk;
    std::vector<LadderSuppression> suppression;
    LadderTraining trained;
    std::optional<LadderTraining> control;  ///< of the control's own concepts
    std::vector<std::string> notes;
};

struct LadderFacts {
    bool whole = false;  ///< else some of it, on the way there
    std::int64_t pictures = 0, seeds = 0, inputs = 0;
    std::vector<std::string> rungs;
    std::vector<LadderLayer> layers;
    std::vector<std::string> notes;
};

/// On the calling thread, which gives way to others from then on.
///
/// What a file does not say and nobody gave is taken from its index, where it has one.
///
/// @param memory  of the climb before: one that goes on, or has more pictures or draws, does not start over
/// @param doing   told of what is done, and of the share of it that is through; negative: not known
/// @param so_far  told of what is known by then, rung by rung, and at the end of a climb that is stopped
Result<LadderFacts> climb_ladder(const LadderPlan& plan, std::shared_ptr<LadderMemory>& memory, std::stop_token stop,
                                 const std::function<void(std::string doing, double share)>& doing,
                                 const std::function<void(LadderFacts)>& so_far);

/// A concept of a picture that loses its structure.
struct PlayedConcept {
    std::int64_t latent = 0;
    double sum = 0;      ///< over the patches
    bool stays = false;  ///< it was heard in the picture as it is and at every step of this kind since
};

struct PlayedStep {
    std::string rung;
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> rgb;        ///< what the model sees, row by row
    std::vector<PlayedConcept> concepts;  ///< the strongest, largest first
    std::int64_t heard = 0, stay = 0;     ///< of all
};

/// One picture at every step of the ladder, each drawn once.
Result<std::vector<PlayedStep>> play_ladder(const std::string& model, const ConceptSource& autoencoder,
                                            const std::filesystem::path& picture, std::stop_token stop);

}  // namespace vitrine::app
