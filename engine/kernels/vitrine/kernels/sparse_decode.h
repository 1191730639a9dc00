// Sums of few rows of a dictionary with weights, their gradients, and which few numbers of a row are largest: what
// codes of a sparse autoencoder cost where most of them are zero.
//
//     const auto chosen = choose_sparse();                       // SparseKernels of this machine, or the forced one
//     (*chosen)->decode(p, out, threads);                        // out[i] = sum_j values[i, j] rows[indices[i, j]]
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include <vitrine/base/result.h>
#include <vitrine/kernels/attention.h>

namespace vitrine::kernels {

/// n sums of rows out of m. Each has k terms, or, where `starts` is given, those from starts[i] up to starts[i + 1] of
/// lists that hold all terms one after another. The same row may be named more than once. Everything is contiguous.
struct SparseRows {
    const std::int64_t* indices = nullptr;  ///< [n, k] or [terms], 0 <= index < m: not checked
    const float* values = nullptr;          ///< as many
    const float* rows = nullptr;            ///< [m, d]; not read by the gradient to the rows
    const std::int64_t* starts = nullptr;   ///< [n + 1], rising, or null
    std::int64_t n = 0, k = 0, m = 0, d = 0;
};

/// Terms in all.
inline std::int64_t terms_of(const SparseRows& p) noexcept { return p.starts != nullptr ? p.starts[p.n] : p.n * p.k; }

/// Why these cannot be run; null when they can.
const char* cannot_run(const SparseRows& p) noexcept;

/// One implementation. Results do not depend on the number of threads: every sum is made by one of them, in the order
/// of its terms.
struct SparseKernels {
    const char* name;                   ///< "reference", "avx2", "avx512": what VITRINE_KERNEL takes
    const char* (*machine)() noexcept;  ///< why this machine cannot run it; null when it can
    /// out[i] = sum_j values[i, j] rows[indices[i, j]]. [n, d]
    void (*decode)(const SparseRows& p, float* out, const ParallelFor& parallel_for);
    /// d_values[i, j] = rows[indices[i, j]] . d_out[i]. As many as values; `values` is not read.
    void (*value_gradient)(const SparseRows& p, const float* d_out, float* d_values, const ParallelFor& parallel_for);
    /// d_rows[r] = sum of values[i, j] d_out[i] over indices[i, j] = r, in the order of i, j; zeros where there is
    /// none. [m, d]. `sums`, unless null: the sums of these values alone. [m]
    void (*row_gradient)(const SparseRows& p, const float* d_out, float* d_rows, float* sums,
                         const ParallelFor& parallel_for);
    /// The `top` largest of each row, the largest first, of equal ones the first; not-a-number counts as largest.
    /// @param x  [rows, count] contiguous, top <= count
    void (*largest)(const float* x, std::int64_t rows, std::int64_t count, std::int64_t top, float* values,
                    std::int64_t* indices, const ParallelFor& parallel_for);
};

/// All that were built, the plain one first, then by growing speed.
std::span<const SparseKernels* const> sparse_kernels() noexcept;

/// The fastest that runs here, or the one that the environment variable VITRINE_KERNEL names.
/// @error BadInput     VITRINE_KERNEL names none of them; the names of a device's kernels force nothing here
/// @error Unsupported  the forced one cannot run here
Result<const SparseKernels*> choose_sparse();
Result<const SparseKernels*> choose_sparse(const std::string& forced);

}  // namespace vitrine::kernels
