// The ladder from signal to noise: one picture with less and less of its structure, down to none at all.
//
//     for (const Rung& rung : VITRINE_TRY(ladder_of({})))
//         at::Tensor pixels = VITRINE_TRY(rung_pixels(rung, input.pixels, model.preprocess(), seed, input.name));
//
// Source: P. Suresh et al., "From Noise to Narrative", 2025 (patches shuffled at falling size, pure noise). The other
// kinds of noise and the blend are ours.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/preprocess.h>

namespace vitrine {

/// One step of the ladder. All of it happens after resize and crop.
struct Rung {
    enum class Kind : std::uint8_t {
        Clean,
        Shuffle,  ///< `tiles` x `tiles` pieces in an order drawn anew; pixels that are over at the edges stay
        Blend,    ///< (1 - share) picture + share noise
        Noise
    };
    Kind kind = Kind::Clean;
    std::int64_t tiles = 1;
    double share = 0;
    /// "gaussian": every number N(0, 1) after normalisation. "uniform": colours from 0 to 1. "clipped": gaussian, the
    /// colours cut to 0 to 1. "low_pass_S": gaussian, smoothed with a deviation of S pixels, then of deviation 1 again.
    /// "phase": the picture with its spectrum's magnitudes and phases drawn anew (one for all channels).
    std::string noise;

    std::string name() const;  ///< "clean", "shuffle 7", "blend 0.3", "gaussian"
    /// Whether the picture is as it was: then the seed does not matter, and the pixels are the very same.
    bool is_clean() const;
};

/// The rung of this name. @error BadInput  there is none
Result<Rung> rung_of(const std::string& name);

struct LadderOptions {
    std::vector<std::int64_t> tiles{1, 2, 4, 7, 14, 28};
    std::vector<double> blends{0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1};
    std::string blend_noise = "gaussian";
    std::vector<std::string> noises{"gaussian"};
};

/// The picture first, then shuffles, blends and noises in the order given.
/// @error BadInput  an unknown noise, a share outside 0 to 1, tiles below 1
Result<std::vector<Rung>> ladder_of(const LadderOptions& options);

/// The picture at this rung. What is drawn follows from the seed, the picture's name and the kind of noise (the number
/// of tiles) alone: a blend goes along a straight line to the noise of the same seed.
///
/// @param pixels  float32 [1, 3, height, width], normalised, on the CPU
/// @error BadInput  more tiles than pixels
Result<at::Tensor> rung_pixels(const Rung& rung, const at::Tensor& pixels, const Preprocess& preprocess,
                               std::uint64_t seed, const std::string& picture);

}  // namespace vitrine
