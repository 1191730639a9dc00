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

/// The cases of bench_attention that are for the CPU ("vit_s_1370", "vit_ti_197", and a tiny one for tests) or for a device
/// ("vit_b_197", "vit_l_1370", "vit_b_16385", "vit_b_160000", "vit_l_160000").
std::vector<std::string> attention_bench_cases(bool on_cpu = true);

/// What looking at attention costs beside the forward, on a random-weight model of the vit architecture: capture, one row of all layers
/// and heads, all maps, rollout by sweeps, the gradient methods; beside matmul and softmax over the same kept keys, the dense product,
/// and the multiply-add and read ceilings of this machine. Answers are verified first; one sample of each a round, medians.
///
/// @param repeats  rounds after one of warm-up
/// @return         medians in milliseconds, floors, ratios (medians of the ratios of a round), the stated targets and whether they are met
/// @param device   "cpu" or "cuda[:N]"; on a device the forward is the fastest of its attention backends, answers stay there while timed,
///                 peak memory is the allocator's; the forward that targets are against is a CUDA graph of it
/// @param memory_budget  bytes that a capture may keep; 0 as in CaptureOptions
/// @error BadInput     there is no such case
/// @error Unsupported  no such device
Result<nlohmann::json> bench_attention(const std::string& case_name, int repeats, const std::string& device = "cpu",
                                       const std::string& dtype = "fp32", std::int64_t memory_budget = 0);

/// An index of concepts over made-up codes: what it takes on disk and in memory, how long it takes to put together, to open, to sort by a
/// column and to read concepts of, warm and with its pages thrown out. The journal lies in the folder for temporary files and goes again.
///
/// @param distinct  concepts that each picture says something of
/// @param repeats   readings, of 100 concepts each
/// @return          bytes, seconds, medians in microseconds; `verified` says that lists and counts are those of a plain computation
/// @error Io        no room: 28 bytes times pictures times distinct
Result<nlohmann::json> bench_concept_index(std::int64_t pictures, std::int64_t latents, std::int64_t distinct, int repeats);

}  // namespace vitrine
