// Registers the methods that ask the model about changed pictures.
#include "perturbation.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(perturbation) {
    registry.add(vitrine::plugin::perturbation::make_occlusion());
    registry.add(vitrine::plugin::perturbation::make_feature_ablation());
    registry.add(vitrine::plugin::perturbation::make_rise());
    registry.add(vitrine::plugin::perturbation::make_lime());
    registry.add(vitrine::plugin::perturbation::make_kernel_shap());
    registry.add(vitrine::plugin::perturbation::make_sobol());
    registry.add(vitrine::plugin::perturbation::make_hsic());
    registry.add(vitrine::plugin::perturbation::make_vit_cx());
    registry.add(vitrine::plugin::perturbation::make_tis());
}
