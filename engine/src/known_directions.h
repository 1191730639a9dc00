// Tokens whose directions are known, for tests of what finds them.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>

namespace vitrine {

inline at::Tensor unit(const at::Tensor& rows) { return rows / at::linalg_vector_norm(rows, 2, {1}, true); }

/// Tokens that are sums of three of `directions`, by 0.5 to 1.5 each. [count, width]
///
/// @param directions  [n, width], of length 1
inline at::Tensor sums_of_three(const at::Tensor& directions, std::int64_t count, at::Generator g) {
    const at::Tensor which = std::get<1>(at::topk(at::rand({count, directions.size(0)}, g), 3, 1));
    const at::Tensor by = at::rand({count, 3}, g) + 0.5;
    return at::matmul(at::zeros({count, directions.size(0)}).scatter(1, which, by), directions);
}

}  // namespace vitrine
