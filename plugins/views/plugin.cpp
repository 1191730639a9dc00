// Registers the views into a model: what its inner tokens say, which head and block gave what, what happens without it.
#include "views.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(views) {
    registry.add(vitrine::plugin::views::make_logit_lens());
    registry.add(vitrine::plugin::views::make_direct_logit_attribution());
    registry.add(vitrine::plugin::views::make_head_ablation());
    registry.add(vitrine::plugin::views::make_activation_patching());
    registry.add(vitrine::plugin::views::make_token_norms());
    registry.add(vitrine::plugin::views::make_token_pca());
}
