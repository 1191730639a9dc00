// Options that every explainer takes: maps of flipped, scaled and brightened copies of the picture, and of several
// layers, made one.
//
//     Settings options(smoothing_parameters());
//     VITRINE_CHECK(options.set("preset", "grad_cam"));
//     const auto smooth = smoothed(explainer, options);
//     auto map = smooth->explain(context, settings);
#pragma once

#include <memory>
#include <vector>

#include <vitrine/explainer.h>

namespace vitrine {

/// The owner of these options on the command line: --set smooth.flips=horizontal.
inline constexpr const char* kSmoothing = "smooth";

/// preset, flips, scales, factors, layers, fuse and range. With their defaults nothing is changed.
std::vector<Parameter> smoothing_parameters();

/// Why these options have no meaning, whatever is explained; nothing when they have.
/// @error BadInput  a number that is none or out of range, named
Status check_smoothing(const Settings& options);

/// The explainer under these options; its name, parameters and reasons are the explainer's own.
///
/// Each copy of the picture is explained for the same target, its map is laid back (flipped again; resized to that of
/// the picture as it is, bilinear, align_corners = false), and the maps become one by `fuse`. The maps of several
/// layers become one first, on the finest grid. With `range=unit` each map is taken to 0 to 1 before it is fused, and
/// the maps of the layers again after that, as pytorch-grad-cam does; a signed map is divided by its largest magnitude
/// instead. Checks, channels and tables belong to one map and are left out of a fused one.
///
/// In every case a map that holds a number that is not finite is refused.
///
/// @param explainer  borrowed: it must outlive what is returned
/// @param options    of smoothing_parameters()
/// @error BadInput     options that check_smoothing() refuses; a layer that the model does not have
/// @error Unsupported  several layers for a method that reads none, copies for a target that is a place in the picture,
///                     a product of signed maps, a scale that the model does not take, a map that is not finite
/// @cost               copies times layers as much as the explainer
/// @source J. Gildenblat et al., pytorch-grad-cam, aug_smooth; flips and scales: Y. Wang et al., "Self-supervised
///         Equivariant Attention Mechanism", CVPR 2020, section 4.1 (test time)
std::unique_ptr<Explainer> smoothed(const Explainer& explainer, const Settings& options);

}  // namespace vitrine
