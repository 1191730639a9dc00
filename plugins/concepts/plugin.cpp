// Registers what explains by concepts of a sparse autoencoder.
#include "concepts.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(concepts) { registry.add(vitrine::plugin::concepts::make_concepts()); }
