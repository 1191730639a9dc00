// What a method costs beside the passes through the model that it spends.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include <vitrine/explainer.h>

namespace vitrine {

/// Runs a method at several batch sizes and times the model alone at the same sizes, one sample of each a round.
///
/// Passes are counted by what goes through the model, whatever the method says of itself: pictures without and with a
/// graph; a block run on its own counts as its share of a forward. What is not spent in the model is set-up and
/// post-processing.
///
/// @param batches  pictures a pass, 1 or more; sizes beyond what the method spends are left out
/// @param repeats  rounds after one of warm-up, 1 or more
/// @return  `spent`, medians in milliseconds by batch, the best batch, the time in the model over (passes spent) x
/// (best
///          batched time of a pass), and `verified`: all batch sizes gave the same map within 1e-3 of its range
/// @error Unsupported  the method has no meaning on this model
/// @error BadInput     no batch size, no repeat
Result<nlohmann::json> bench_explain(Model& model, const Input& input, const Target& target, const Explainer& method,
                                     const Settings& settings, const std::vector<std::int64_t>& batches, int repeats,
                                     std::uint64_t seed = 0);

}  // namespace vitrine
