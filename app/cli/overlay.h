// Turns an attribution into a scene to draw: the same for exported files and for the window.
#pragma once

#include <vitrine/explainer.h>

#if VITRINE_VIZ
#include <vitrine/viz/compositor.h>
#include <vitrine/viz/scene.h>

namespace vitrine::cli {

/// How the values become colours by default: min to max for attention, the 99.5th percentile for input-pixel maps,
/// symmetric for signed maps. `clipped` receives the share of cells beyond the ends.
viz::ValueScale display_scale(const Attribution& attribution, double* clipped = nullptr);

/// A borrowed view of a [rows, cols] tensor.
MapView view_of(const at::Tensor& map);

/// The photograph with the map where the model saw it, at 1:1 photo pixels.
viz::Scene overlay_scene(const Input& input, const Attribution& attribution);

}  // namespace vitrine::cli
#endif
