// Batched augmentation for training: crops, scales, blurs, colours and mixes pictures where they lie, as a few matrix
// products.
#pragma once

#include <array>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "dataset.h"

namespace vitrine {

struct AugmentOptions {
    double scale_low = 0.25, scale_high = 1.0;  ///< share of the picture's area that a crop keeps
    double aspect = 1.333;                      ///< crops are up to this much wider or taller than the picture
    double flip = 0.5;                          ///< chance of a mirrored picture
    /// Chance that the crop is first reduced to a side drawn between `low_side` and the view's, and enlarged again;
    /// then the share of those that are reduced to exactly `low_side`. Without this a set of small pictures is known by
    /// its blur.
    double reduce = 0.5, reduce_fully = 0.3;
    std::int64_t low_side = 32;
    double sharpen =
        0.5;  ///< chance of unsharp masking (twice as likely as blurring) with a random radius and strength
    double detail =
        0.25;  ///< chance of adding another picture's fine detail (what a blur takes away), which then means nothing
    double colour = 0.3;  ///< strength of brightness, contrast and saturation changes; 0 is none
    double grey = 0.05;   ///< chance of a grey picture
    double grain = 0.2;   ///< chance of noise
    double erase = 0.25;  ///< chance of a rectangle of noise
    double mixup = 0.4;   ///< chance that a picture is blended with another (mixup)
    double cutmix = 0.4;  ///< chance that a rectangle of another picture is pasted in (CutMix); else neither
    double mixup_alpha = 0.8, cutmix_alpha = 1.0;
    std::array<double, 3> mean{0.5, 0.5, 0.5}, std{0.5, 0.5, 0.5};
};

/// Nothing but the flip: for tests and fine adjustments at the end of a run.
AugmentOptions gentle(AugmentOptions options);

/// How one output axis reads one input axis: row o of the result weighs the input's samples, antialiased, rows sum
/// to 1.
///
/// `begin` and `length` [n] give the window in input pixels; the output's `out` samples cover it evenly, mirrored where
/// `mirrored` is 1. `kernel` [n] is 0 box, 1 triangle, 2 cubic (a = -0.5, as Pillow). All float32 on one device. -> [n,
/// out, in]
at::Tensor resampling(const at::Tensor& begin, const at::Tensor& length, const at::Tensor& mirrored,
                      const at::Tensor& kernel, std::int64_t out, std::int64_t in);

/// Applies resampling matrices to uint8 pictures [n, h, w, 3] -> float32 [n, 3, out_h, out_w] in 0 to 1.
at::Tensor resample(const at::Tensor& pictures, const at::Tensor& vertical, const at::Tensor& horizontal);

/// The whole picture at a side, as the product would prepare it (bicubic, antialiased). uint8 [n, h, w, 3] -> float32
/// [n, 3, side, side], 0 to 1
at::Tensor whole(const at::Tensor& pictures, std::int64_t side);

/// Enlarges or reduces finished views [n, 3, h, w] to a side (bicubic, antialiased).
at::Tensor resized(const at::Tensor& views, std::int64_t side);

/// Random crops of one set, before pictures of different sets meet. uint8 [n, h, w, 3] -> float32 [n, 3, view, view], 0
/// to 1
at::Tensor random_views(const at::Tensor& pictures, std::int64_t view, const AugmentOptions& options,
                        StepRandom& random);

/// Pictures of a larger set made like those of a smaller one, so that nothing but their content tells them apart: a
/// random crop of at least half the area, reduced to `side` and compressed as JPEG of quality 75 with halved colour.
/// uint8 [n, h, w, 3] -> uint8 [n, side, side, 3]
at::Tensor shrunken(const at::Tensor& pictures, std::int64_t side, StepRandom& random);

/// Views made smaller and pasted at a random place over backgrounds, so that tight framing does not tell a set either.
/// Both [n, 3, side, side], 0 to 1; 0.45 to 0.9 of the side is kept.
at::Tensor in_context(const at::Tensor& views, const at::Tensor& backgrounds, StepRandom& random);

/// What JPEG of quality 75 with 4:2:0 colour leaves of pictures whose side is a multiple of 16. float32 [n, 3, side,
/// side], 0 to 255. Source: ITU-T T.81, annex A.3.3 (transform) and K.1, K.2 (tables), scaled as the IJG's library does
/// for quality 75.
at::Tensor through_jpeg(const at::Tensor& views);

/// Random blur, sharpening, detail, colour, grain and erasing over the whole batch, in place of nothing: a new tensor,
/// 0 to 1.
at::Tensor random_looks(const at::Tensor& views, const AugmentOptions& options, StepRandom& random);

struct Mixed {
    at::Tensor views;    ///< [n, 3, view, view]
    at::Tensor partner;  ///< int64 [n]: whose label the other share is
    at::Tensor share;    ///< float32 [n]: share of the picture's own label
};
/// Mixup and CutMix inside the batch.
Mixed mix(const at::Tensor& views, const AugmentOptions& options, StepRandom& random);

/// (x - mean) / std per channel.
at::Tensor normalised(const at::Tensor& views, const std::array<double, 3>& mean, const std::array<double, 3>& std);

}  // namespace vitrine
