// From signal to noise as the window asks for it: a folder, an autoencoder, and back come figures to be plotted. Plain
// structs; no torch, no Qt in sight.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine::app {

struct LadderPlan {
    std::string model;  ///< as ModelFacts::request: it is opened once more, so that the window keeps its own
    std::filesystem::path folder, autoencoder;
    std::int64_t pictures = 16, seeds = 4;
    bool control = true;  ///< the same with the model's weights shuffled
};

/// A mean over pictures and the middle 95 % over resampled ones.
struct LadderEstimate {
    double mean = 0, low = 0, high = 0;
};

struct LadderPoint {
    LadderEstimate active, distinct;  ///< concepts a token, and a picture
    double explained = 0;             ///< share of the variance
    bool unreliable = false;          ///< that is below one half
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
    std::optional<double> coherence;
    bool meaningful = false;
};

struct LadderFacts {
    std::string point, kind;
    bool fixed =
        false;  ///< each token has the same number of concepts by its kind: only those of a picture say something
    std::int64_t pictures = 0, seeds = 0, inputs = 0;
    std::vector<std::string> rungs;
    std::vector<LadderSeries> series;
    std::vector<LadderConcept> insensitive;
    std::vector<std::string> notes;
};

/// On the calling thread, which gives way to others from then on. First with a few pictures, so that there is something
/// to see soon.
///
/// @param so_far  told of what the few say
Result<LadderFacts> climb_ladder(
    const LadderPlan& plan, std::stop_token stop,
    const std::function<void(std::string doing, std::int64_t done, std::int64_t total)>& doing,
    const std::function<void(LadderFacts)>& so_far);

}  // namespace vitrine::app
