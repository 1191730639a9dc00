// What reads the concepts of sparse autoencoders: an explainer and a measure.
#pragma once

#include <memory>

#include <vitrine/explainer.h>
#include <vitrine/measure.h>

namespace vitrine::plugin::concepts {

std::unique_ptr<Explainer> make_concepts();
std::unique_ptr<Measure> make_uncertainty_response();

}  // namespace vitrine::plugin::concepts
