// Registers the methods whose mask is optimised on the one picture.
#include "optimised.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(optimised) {
    registry.add(vitrine::plugin::optimised::make_meaningful_perturbation());
    registry.add(vitrine::plugin::optimised::make_extremal_perturbation());
    registry.add(vitrine::plugin::optimised::make_token_mask());
}
