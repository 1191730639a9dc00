// How much an answer hangs on each of a picture's concepts: runs with others in their place, total Sobol indices.
//
//     at::Tensor masks = VITRINE_TRY(replicated_design(concepts, 32, "halton"));
//     at::Tensor answers = ...;  // one for each mask
//     at::Tensor importance = total_indices(answers, concepts, 32);
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/explainer.h>

namespace vitrine {

/// Masks in [0, 1) for Jansen's estimator, from the first `designs` points of a sequence without scrambling in twice as
/// many dimensions, the point at 0 among them: A, its first half; B, the other; then for each dimension A with that one
/// taken from B. float32 [designs (2 + dimensions), dimensions]
///
/// @param sequence  "halton" or "sobol" (Joe and Kuo's numbers)
/// @error BadInput  another sequence, nothing to draw, more dimensions than 512
Result<at::Tensor> replicated_design(std::int64_t dimensions, std::int64_t designs, const std::string& sequence);

/// Total Sobol indices: sum (f(A) - f(C_i))^2 / (2 designs var f(A)), the variance unbiased and at least 1e-12.
/// [dimensions], float64
///
/// @param answers  [designs (2 + dimensions)], for the masks in their order; B's are not looked at
/// @source         M. Jansen, "Analysis of variance designs for model output", 1999
at::Tensor total_indices(const at::Tensor& answers, std::int64_t dimensions, std::int64_t designs);

/// The explained number with other activations in the place of the point's, some a run. Of a row of blocks only the one
/// with the point and those behind it run. float64 [count], on the CPU
///
/// @param make  activations `from` to `from + count`, shaped as the point's own: [count, tokens, width] or [count,
///              channels, rows, cols]
/// @error Cancelled    the context was stopped
/// @error Unsupported  the objective reads a point instead of the answer
Result<at::Tensor> answers_with(ExplainContext& context, const Objective& objective, const std::string& point,
                                std::int64_t count,
                                const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& make);

}  // namespace vitrine
