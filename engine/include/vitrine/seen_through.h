// The picture that measures show the model again: what a map keeps of it.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/explainer.h>
#include <vitrine/mask_module.h>

namespace vitrine {

/// The map as it is, float32 on the CPU. @error BadInput  not two-dimensional, empty, or with a number that is none
Result<at::Tensor> native_map(const Attribution& attribution);
/// Bilinear, align_corners = false; a map that has the size is given back untouched. [rows, cols] -> [height, width]
at::Tensor upsampled(const at::Tensor& map, std::int64_t height, std::int64_t width);
/// From 0 to 1; zero where the map is flat.
at::Tensor unit_range(const at::Tensor& map);

/// A picture seen through its map, and what the model makes of both.
struct SeenThrough {
    double keep = 100;    ///< share of the map's highest values that was kept, in %
    at::Tensor pixels;    ///< [1, 3, height, width], normalised: what the model was shown
    double visible = 0;   ///< share of the pixels that were not wholly hidden
    double whole = 0;     ///< the explained number of the picture
    double seen = 0;      ///< and through the map
    Objective objective;  ///< the number: a probability where the target leaves it open
};

/// One run on the picture as it is and on what each share of the map keeps of it: the map is scaled to 0 to 1, resized
/// bilinearly, and values below the quantile are set to 0. Average drop and its kin are read from these numbers.
///
/// @param keep    shares in %, above 0 and at most 100
/// @param policy  Black: what is hidden is black; Mean: it has the mean colour
/// @error BadInput  the map is none; else what the objective and the run say
/// @source M. Ntrougkas et al., T-TAME, IEEE Access 2024 (the budgets)
Result<std::vector<SeenThrough>> look_through(ExplainContext& context, const Attribution& attribution,
                                              const std::vector<double>& keep, MaskPolicy policy = MaskPolicy::Black);

/// Normalised pixels as the picture they are, rounded to bytes.
///
/// @param pixels  [1, 3, height, width]
Image image_of(const at::Tensor& pixels, const Preprocess& preprocess);

}  // namespace vitrine
