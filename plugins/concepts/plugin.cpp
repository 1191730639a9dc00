// Registers what explains, steers and measures by concepts of a sparse autoencoder.
#include "concepts.h"
#include "steered.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(concepts) {
    registry.add(vitrine::plugin::concepts::make_concepts());
    registry.add(vitrine::plugin::concepts::make_steered());
    registry.add(vitrine::plugin::concepts::make_uncertainty_response());
}
