// Registers what explains by masks that were trained beside the model.
#include "masks.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(masks) { registry.add(vitrine::plugin::masks::make_ttame()); }
