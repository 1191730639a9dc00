// Measurements: the answer is verified first, then timed, beside a peer in the same run.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/result.h>
#include <vitrine/model.h>

namespace vitrine {

/// What watching costs: the model's forward alone and with capture, interleaved.
///
/// @param pixels   [1, 3, H, W]
/// @param repeats  pairs measured after three of warm-up, 3 or more
/// @return         medians in milliseconds, the median of the paired ratios, sizes, the device; `verified` says that logits were equal
///                 and every Mixing passed its check
Result<nlohmann::json> bench_capture(Model& model, const at::Tensor& pixels, int repeats);

/// The cases of bench_attention: "vit_s_1370", "vit_ti_197", and a tiny one for tests.
std::vector<std::string> attention_bench_cases();

/// What looking at attention costs beside the forward, on a random-weight model of the vit architecture: capture, one row of all layers
/// and heads, all maps, rollout by sweeps, the gradient methods; beside matmul and softmax over the same kept keys, the dense product,
/// and the multiply-add and read ceilings of this machine. Answers are verified first; one sample of each a round, medians.
///
/// @param repeats  rounds after one of warm-up
/// @return         medians in milliseconds, floors, ratios (medians of the ratios of a round), the stated targets and whether they are met
/// @error BadInput  there is no such case
Result<nlohmann::json> bench_attention(const std::string& case_name, int repeats);

}  // namespace vitrine
