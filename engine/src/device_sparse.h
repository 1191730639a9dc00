// The kernels on lists of codes over tensors of a CUDA device. Raise a c10::Error where they cannot run.
#pragma once

#include <ATen/core/Tensor.h>

namespace vitrine {

/// Whether they are in this build.
bool device_sparse_built();
/// The largest k that device_largest takes.
std::int64_t device_most_largest();

// As kernels/cuda/sparse_decode.h; `starts` may be undefined, `rows` is fp32 or bf16, all contiguous.
at::Tensor device_sparse_decode(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                const at::Tensor& rows);
at::Tensor device_sparse_value_gradient(const at::Tensor& indices, const at::Tensor& starts, const at::Tensor& rows,
                                        const at::Tensor& d_out);
/// d_rows [m, width] and, unless `sums` is undefined, the values' sums [m]
at::Tensor device_sparse_row_gradient(const at::Tensor& indices, const at::Tensor& values, const at::Tensor& starts,
                                      std::int64_t m, const at::Tensor& d_out, const at::Tensor& sums);
/// Fills values and indices [rows, k].
void device_largest(const at::Tensor& x, const at::Tensor& values, const at::Tensor& indices);

}  // namespace vitrine
