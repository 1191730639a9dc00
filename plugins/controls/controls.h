// Maps that any method has to beat, made without asking the model.
#pragma once

#include <memory>

#include <vitrine/explainer.h>

namespace vitrine::plugin::controls {

/// Uniform noise over the token grid, or over cells of 32 pixels resized bilinearly where there is none.
std::unique_ptr<Explainer> make_random();
/// A round bump in the middle of what the model sees, over its input pixels.
std::unique_ptr<Explainer> make_centre_gaussian();
/// The length of the Sobel gradient of the grey picture, over the model's input pixels.
std::unique_ptr<Explainer> make_edges();
/// The same everywhere.
std::unique_ptr<Explainer> make_constant();

}  // namespace vitrine::plugin::controls
