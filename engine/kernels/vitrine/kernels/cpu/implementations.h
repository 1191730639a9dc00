// The tables of the implementations, one per source file, and what they share.
#pragma once

#include <vitrine/kernels/sweep_gradient.h>

namespace vitrine::kernels {

struct AttentionKernels;
struct FusedKernels;

/// For tests: the kernels' own memory starts as not-a-number, so that what is read before it was written shows.
extern bool poison_scratch;

/// map_rows_top by the rows of any implementation.
void rows_top(decltype(&map_rows_layers) rows_of, std::span<const AttentionParams> layers,
              std::span<const std::int64_t> queries, bool head_mean, std::int64_t top, std::span<float* const> values,
              std::span<std::int64_t* const> indices, const ParallelFor& parallel_for);

const AttentionKernels* reference_kernels() noexcept;
const AttentionKernels* avx2_kernels() noexcept;    ///< null where it was not built
const AttentionKernels* avx512_kernels() noexcept;  ///< null where it was not built

const FusedKernels* fused_reference() noexcept;
const FusedKernels* fused_avx2() noexcept;    ///< null where it was not built
const FusedKernels* fused_avx512() noexcept;  ///< null where it was not built

}  // namespace vitrine::kernels
