// Least squares with answers of zero or more.
#pragma once

#include <ATen/core/Tensor.h>

namespace vitrine {

/// Each row's u >= 0 that makes u gram u - 2 u right + ridge u u least: with gram = W W^T and right = x W^T the codes
/// of x over the rows of W.
///
/// Coordinate descent from 0 finds which are above zero, a Cholesky solution of those finishes: exact within rounding
/// where the optimality conditions hold for it to 1e-10 of the right side's size. Where it is never so (rows of W that
/// depend on each other) the descent goes on until no code moves by more than 1e-10 of the largest, 2000 rounds at the
/// most. In double, on the CPU; the same for any number of threads. Gradients go to `right`: which codes are above zero
/// is constant there.
///
/// @param gram   [m, m], symmetric
/// @param right  [n, m], any device
/// @return       [n, m], like `right`
at::Tensor non_negative_least_squares(const at::Tensor& gram, const at::Tensor& right, double ridge = 0);

}  // namespace vitrine
