// A walk back through the layers of a flow.
#pragma once

#include <span>

#include <ATen/core/Tensor.h>

#include <vitrine/mixing.h>

namespace vitrine {

/// Rollout with the heads' mean, from behind the last of these steps to before the first: r becomes r^T P, with a residual path
/// (r^T P + r) / 2, and goes through the step's token map. All layers of one device are walked through in one go, three launches each.
///
/// @param steps      in the flow's order
/// @param r          [queries of the last step], float32
/// @param residuals  false: residual paths are not counted
/// @return           over the tokens before the first step, float32, where its layer lies
/// @error            those of Mixing::left; Unsupported where a residual path joins other numbers of queries and keys
Result<at::Tensor> left_mean(std::span<const FlowStep> steps, const at::Tensor& r, bool residuals = true);

}  // namespace vitrine
