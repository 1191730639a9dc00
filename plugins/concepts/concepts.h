// Explainers by concepts of sparse autoencoders.
#pragma once

#include <memory>

#include <vitrine/explainer.h>

namespace vitrine::plugin::concepts {

std::unique_ptr<Explainer> make_concepts();

}  // namespace vitrine::plugin::concepts
