// Kernels on one map fused of all heads: its rows, row sums, weighted sums and the counts by which an exact order
// statistic is found. The fused map is never formed.
//
// The fused map F is [queries, keys], f_ij the mean, maximum or minimum over the heads of p_hij. All functions of one
// implementation work on the same numbers, bit for bit: a threshold that fused_histogram found means the same entries
// in fused_sweep and fused_row_sums, and fused_rows shows them. Results do not depend on the number of threads.
// An entry is at least +0 (never -0) or not-a-number, so that its bits, read as an unsigned integer, order it.
// The functions here are the plain reference.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include <vitrine/kernels/attention.h>

namespace vitrine::kernels {

/// How the heads become one map. The mean adds the heads in order, in float32, and multiplies by 1 / heads.
enum class HeadFusion : std::uint8_t { Mean, Max, Min };

/// "mean", "max", "min"
const char* name_of(HeadFusion fusion) noexcept;

/// Which entries of a fused map count as zero: those below the threshold, and of those that equal it the first ones
/// in row-major order, as a stable sort would have them. The standard values drop nothing.
struct Dropped {
    float threshold = -std::numeric_limits<float>::infinity();
    std::int64_t tie_end = 0;       ///< an entry equal to the threshold is dropped when query * keys + key < tie_end
    std::int64_t kept_key = -1;     ///< this key's entries are never dropped ...
    std::int64_t kept_queries = 0;  ///< ... for queries [0, kept_queries)

    bool drops(float value, std::int64_t query, std::int64_t key, std::int64_t keys) const noexcept {
        if (key == kept_key && query < kept_queries) return false;
        return value < threshold || (value == threshold && query * keys + key < tie_end);
    }
};

/// Chosen rows of F, nothing dropped. out: [chosen queries, keys].
void fused_rows(const AttentionParams& params, HeadFusion fusion, std::span<const std::int64_t> queries, float* out,
                const ParallelFor& parallel_for);

/// out[j] = sum_i r[i] f_ij over what is not dropped. r: [queries], out: [keys]. Queries with r = 0 are skipped.
/// Added in float32 over at most 64 queries at a time, those sums in double.
void fused_sweep(const AttentionParams& params, HeadFusion fusion, const Dropped& dropped, const float* r, float* out,
                 const ParallelFor& parallel_for);

/// out[i] = sum_j f_ij over what is not dropped. out: [queries]; sums as in fused_sweep.
void fused_row_sums(const AttentionParams& params, HeadFusion fusion, const Dropped& dropped, float* out,
                    const ParallelFor& parallel_for);

/// counts[b] = how many entries of F have bits in [first + (b << shift), first + ((b + 1) << shift)), b < bins; `below`
/// how many have fewer bits than `first`. Two passes with shift 15 and 0 find any order statistic of numbers up to 2.
/// counts: [bins], overwritten; below may be null. shift < 32.
void fused_histogram(const AttentionParams& params, HeadFusion fusion, std::uint32_t first, int shift,
                     std::int64_t bins, std::int64_t* counts, std::int64_t* below, const ParallelFor& parallel_for);

/// The functions of one implementation, together: they are only ever used together.
struct FusedKernels {
    decltype(&vitrine::kernels::fused_rows) rows;
    decltype(&vitrine::kernels::fused_sweep) sweep;
    decltype(&vitrine::kernels::fused_row_sums) row_sums;
    decltype(&vitrine::kernels::fused_histogram) histogram;
};

}  // namespace vitrine::kernels
