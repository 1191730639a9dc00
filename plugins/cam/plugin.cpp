// Registers the class activation maps: one method a rule of the table, and FullGrad.
#include "cam.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(cam) {
    for (const vitrine::plugin::cam::Rule& rule : vitrine::plugin::cam::rules())
        registry.add(vitrine::plugin::cam::make_cam(rule));
    registry.add(vitrine::plugin::cam::make_full_grad());
}
