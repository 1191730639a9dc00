// Registers the methods that read the gradient of the explained number with respect to the pixels.
#include "gradient.h"

#include <vitrine/registry.h>

VITRINE_PLUGIN(gradient) {
    registry.add(vitrine::plugin::gradient::make_saliency());
    registry.add(vitrine::plugin::gradient::make_input_x_gradient());
    registry.add(vitrine::plugin::gradient::make_integrated_gradients());
    registry.add(vitrine::plugin::gradient::make_blur_ig());
    registry.add(vitrine::plugin::gradient::make_xrai());
    registry.add(vitrine::plugin::gradient::make_smooth_grad());
    registry.add(vitrine::plugin::gradient::make_square_grad());
    registry.add(vitrine::plugin::gradient::make_var_grad());
    registry.add(vitrine::plugin::gradient::make_gradient_shap());
    registry.add(vitrine::plugin::gradient::make_deep_lift());
    registry.add(vitrine::plugin::gradient::make_guided_backprop());
    registry.add(vitrine::plugin::gradient::make_guided_grad_cam());
}
