// Registers what explains, steers and measures by concepts.
#include "concepts.h"
#include "steered.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(concepts) {
    using namespace vitrine::plugin::concepts;
    registry.add(make_autoencoder_fidelity());
    registry.add(make_concepts());
    registry.add(make_craft());
    registry.add(make_deep_feature_factorisation());
    registry.add(make_steered());
    registry.add(make_uncertainty_response());
}
