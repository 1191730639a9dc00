// Sums of few rows of a dictionary and their gradients on a CUDA device, what ../sparse_decode.h describes. The rules
// of attention.h hold: nothing allocates or waits, the answer is null or a sentence, the same call gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include <vitrine/kernels/cuda/attention.h>

namespace vitrine::kernels::cuda {

/// As kernels::SparseRows, in device memory. How many terms there are in all is not asked where `starts` is given.
struct DeviceSparseRows {
    const std::int64_t* indices = nullptr;  ///< [n, k] or [terms], 0 <= index < m: not checked
    const float* values = nullptr;          ///< as many
    const void* rows = nullptr;             ///< [m, d] of `element`; not read by sparse_row_gradients
    Element element = Element::F32;
    const std::int64_t* starts = nullptr;  ///< [n + 1], rising from 0, or null: each sum has k terms
    std::int64_t n = 0, k = 0, m = 0, d = 0;
};

/// Why these cannot be run on a device of that compute capability; null when they can.
const char* cannot_run(const DeviceSparseRows& p, int compute_capability) noexcept;

/// out[i] = sum_j values[i, j] rows[indices[i, j]], in the order of j. [n, d]
const char* sparse_decode(const DeviceSparseRows& p, float* out, const Launch& launch) noexcept;

/// d_values[i, j] = rows[indices[i, j]] . d_out[i]. As many as values, which are not read.
const char* sparse_value_gradient(const DeviceSparseRows& p, const float* d_out, float* d_values,
                                  const Launch& launch) noexcept;

/// One gradient to rows: d_rows[r] = sum of values[i, j] d_out[i] over indices[i, j] = r, in a fixed order; zeros where
/// there is none. All but the first three may be null.
struct RowGradient {
    const float* values = nullptr;  ///< as many as indices
    const float* d_out = nullptr;   ///< [n, d]
    float* d_rows = nullptr;        ///< [m, d]
    float* sums = nullptr;          ///< [m]: the sums of these values alone
    const float* plus = nullptr;    ///< [m, d]: added first of all
    const float* along = nullptr;   ///< [m, d], rows of length 1: what points along them is taken off; d <= kWidestRow
    float* squares = nullptr;       ///< [m]: the square of each row's length, as it is then
};
inline constexpr std::int64_t kWidestRow = 1536;

/// Bytes of scratch: a bit for each row and sum.
std::size_t sparse_row_gradient_workspace(const DeviceSparseRows& p) noexcept;
/// One or two gradients over the same indices; p's values are not read.
/// @param heard  [m]: 1 where one of the first one's values is above 0, else 0; or null
const char* sparse_row_gradients(const DeviceSparseRows& p, const RowGradient* which, int count, float* heard,
                                 const Launch& launch) noexcept;

inline constexpr std::int64_t kMostLargest = 512;
/// The `top` largest of each row, the largest first, of equal ones the first; positive not-a-number counts as largest.
/// One pass over memory for rows of up to 16384 numbers, two for longer ones.
///
/// @param x  [rows, count] contiguous; top <= min(count, kMostLargest)
const char* largest(const float* x, std::int64_t rows, std::int64_t count, std::int64_t top, float* values,
                    std::int64_t* indices, const Launch& launch) noexcept;

}  // namespace vitrine::kernels::cuda
