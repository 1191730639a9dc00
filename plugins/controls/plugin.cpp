// Registers the controls: maps that have not looked at the model.
#include "controls.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(controls) {
    registry.add(vitrine::plugin::controls::make_random());
    registry.add(vitrine::plugin::controls::make_centre_gaussian());
    registry.add(vitrine::plugin::controls::make_edges());
    registry.add(vitrine::plugin::controls::make_constant());
}
