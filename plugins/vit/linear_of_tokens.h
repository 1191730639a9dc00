// A linear layer that notices where all tokens have the same gradient.
#pragma once

#include <ATen/core/Tensor.h>

namespace vitrine::plugin::vit {

/// at::linear of x [batch, tokens, width] under gradients, with a weight and bias that need none. Where the gradient of
/// its answer is one vector repeated for all tokens, as that of a sum over tokens is, the product with the weight is
/// made once.
at::Tensor linear_of_tokens(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace vitrine::plugin::vit
