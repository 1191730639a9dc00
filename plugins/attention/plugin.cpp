// Registers the two methods that read attention as it is: one layer's rows, and their product over the layers.
#include "attention.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(attention) {
    registry.add(vitrine::plugin::attention::make_raw_attention());
    registry.add(vitrine::plugin::attention::make_rollout());
}
