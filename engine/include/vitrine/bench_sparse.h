// Measurements of codes as lists: verified first, then timed beside dense products and what memory allows.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <vitrine/base/result.h>

namespace vitrine {

/// "w192" (1,536 latents), "w768" (12,288 latents); 4,096 tokens, 32 latents each. And "tiny", for tests.
std::vector<std::string> sparse_bench_cases();

/// The kernels on lists of codes and a whole training step of a top_k autoencoder on random tokens of this shape.
///
/// Each kernel is compared with the dense product, which must agree to 1e-5 of the largest number, then timed beside it
/// and beside the bytes it must move at the bandwidth of a copy in the same run. The step is timed beside its ceiling:
/// the encoder's product and one copy of the codes before the activation. On the CPU also from which share of codes
/// that are not zero the dense product is faster.
///
/// @param products  "fp32" or "tf32": how a device multiplies, in the step and in its ceiling alike
/// @return          medians in milliseconds and their ratios (medians of the ratios of a round)
/// @error BadInput     there is no such case
/// @error Unsupported  no such device, or no kernels for it in this build
/// @error Internal     a kernel disagrees with the product
Result<nlohmann::json> bench_sparse(const std::string& case_name, int repeats, const std::string& device = "cpu",
                                    const std::string& products = "fp32");

}  // namespace vitrine
