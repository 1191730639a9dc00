// Registers the methods that read attention: one layer's rows, their product over the layers, those that weigh it by
// gradients, and how far and how widely each head looks.
#include "attention.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(attention) {
    registry.add(vitrine::plugin::attention::make_raw_attention());
    registry.add(vitrine::plugin::attention::make_rollout());
    registry.add(vitrine::plugin::attention::make_chefer());
    registry.add(vitrine::plugin::attention::make_legrad());
    registry.add(vitrine::plugin::attention::make_gradient_rollout());
    registry.add(vitrine::plugin::attention::make_grad_sam());
    registry.add(vitrine::plugin::attention::make_cdam());
    registry.add(vitrine::plugin::attention::make_attention_distance());
    registry.add(vitrine::plugin::attention::make_attention_entropy());
}
