// Measurements: the answer is verified first, then timed, beside a peer in the same run.
#pragma once

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

}  // namespace vitrine
