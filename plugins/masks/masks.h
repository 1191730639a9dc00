// Explanations by trained masks.
#pragma once

#include <memory>

#include <vitrine/explainer.h>

namespace vitrine::plugin::masks {

std::unique_ptr<Explainer> make_ttame();

}  // namespace vitrine::plugin::masks
