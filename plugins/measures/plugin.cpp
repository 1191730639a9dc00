// Registers the measures: how faithful, how stable, how well placed and how selective an explanation is.
#include "measures.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(measures) {
    using namespace vitrine::plugin::measures;
    registry.add(make_insertion());
    registry.add(make_deletion());
    registry.add(make_aopc());
    registry.add(make_average_drop());
    registry.add(make_increase_in_confidence());
    registry.add(make_average_gain());
#if VITRINE_EIGEN
    registry.add(make_road());
#endif
    registry.add(make_infidelity());
    registry.add(make_max_sensitivity());
    registry.add(make_completeness());
    registry.add(make_sparseness());
    registry.add(make_complexity());
    registry.add(make_pointing_game());
    registry.add(make_energy_pointing_game());
    registry.add(make_localisation_mass());
    registry.add(make_topk_localisation());
    registry.add(make_parameter_randomisation());
    registry.add(make_random_logit());
    registry.add(make_agreement());
}
