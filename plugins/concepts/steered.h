// The variant that steers by concepts.
#pragma once

#include <memory>

#include <vitrine/variant.h>

namespace vitrine::plugin::concepts {

std::unique_ptr<Variant> make_steered();

}  // namespace vitrine::plugin::concepts
