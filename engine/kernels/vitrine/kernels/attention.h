// What softmax attention is made of, as plain data, and the plain kernels that compute pieces of its map from it.
//
// No torch here: the engine fills the struct and passes its threads. The map P is [heads, queries, keys],
//     p_ij = exp(score_ij - lse_i),  score_ij = scale q_i . k_j + bias_ij,
// and is never formed unless all of it is asked for. With a softcap c the product enters as c tanh(scale q_i . k_j /
// c); where the mask is zero the score is -infinity. A row whose log-sum-exp is -infinity (everything masked) is zero.
// The functions here are the reference: they stay when faster ones arrive.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace vitrine::kernels {

/// Runs f(begin, end) over pieces of [0, count), on as many threads as the caller likes.
using ParallelFor =
    std::function<void(std::int64_t count, const std::function<void(std::int64_t begin, std::int64_t end)>& f)>;

/// Strides are in elements; the last axis of q, k and v has stride 1.
struct AttentionParams {
    const float* q = nullptr;           ///< [heads, queries, head_dim]
    const float* k = nullptr;           ///< [key_heads, keys, head_dim]
    std::int64_t q_stride[2] = {0, 0};  ///< head, token
    std::int64_t k_stride[2] = {0, 0};
    std::int64_t heads = 0;
    std::int64_t key_heads = 0;  ///< heads is a multiple; head h reads key head h / (heads / key_heads)
    std::int64_t queries = 0, keys = 0, head_dim = 0;
    float scale = 1;
    float softcap = 0;                        ///< above 0: caps the scaled product by tanh, before the bias is added
    const float* bias = nullptr;              ///< added to the scaled scores; null is none, -infinity masks
    std::int64_t bias_stride[3] = {0, 0, 0};  ///< head, query, key; 0 repeats
    const std::uint8_t* mask = nullptr;       ///< nonzero keeps; null keeps all
    std::int64_t mask_stride[3] = {0, 0, 0};  ///< head, query, key; 0 repeats
    bool causal = false;                      ///< key j is seen by query i when j <= i
    const float* lse = nullptr;               ///< [heads, queries] contiguous, natural logarithm, of the scores
    /// The keys once more as pack_keys() wrote them, or null: few rows are then read in one run of memory.
    const float* packed_keys = nullptr;
};

/// Why these parameters cannot be run; null when they can. `needs_lse` is false for log_sum_exp alone.
const char* cannot_run(const AttentionParams& params, bool needs_lse = true) noexcept;

/// lse[h, i] = log sum_j exp(score_ij), by one streaming pass. lse: [heads, queries].
void log_sum_exp(const AttentionParams& params, float* lse, const ParallelFor& parallel_for);

/// Chosen rows. out: [chosen heads, chosen queries, keys].
void map_rows(const AttentionParams& params, std::span<const std::int64_t> heads, std::span<const std::int64_t> queries,
              float* out, const ParallelFor& parallel_for);

/// Chosen columns. out: [chosen heads, queries, chosen keys].
void map_columns(const AttentionParams& params, std::span<const std::int64_t> heads, std::span<const std::int64_t> keys,
                 float* out, const ParallelFor& parallel_for);

/// What a cell of a pooled tile holds of the entries below it.
enum class Pooling : std::uint8_t { Mean, Max };

/// The piece [q0, q1) x [k0, k1) pooled over pool x pool blocks; blocks at the far edges pool what they have.
/// out: [chosen heads, ceil((q1 - q0) / pool), ceil((k1 - k0) / pool)].
void map_tile(const AttentionParams& params, std::span<const std::int64_t> heads, std::int64_t q0, std::int64_t q1,
              std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling, float* out,
              const ParallelFor& parallel_for);

/// out[h, j] = sum_i r[h, i] p_ij. `r_head_stride` 0 shares one r among the heads. Rows with r = 0 are skipped.
void map_sweep(const AttentionParams& params, const float* r, std::int64_t r_head_stride, float* out,
               const ParallelFor& parallel_for);

/// Bin b of a histogram of the map counts entries with 2^-b <= p < 2^(1 - b); 1 and above are in bin 0, below 2^-126
/// (zero, too) in the last.
inline constexpr std::int64_t kHistogramBins = 128;

/// What a sweep counts on its way, over the rows whose r is not 0. Either may be null.
struct SweepCounts {
    double* row_sums = nullptr;          ///< [heads, queries], sum_j p_ij; 0 for a skipped row
    std::uint64_t* histogram = nullptr;  ///< [heads, kHistogramBins]
};

/// map_sweep with counts.
void map_sweep_counts(const AttentionParams& params, const float* r, std::int64_t r_head_stride, float* out,
                      const SweepCounts& counts, const ParallelFor& parallel_for);

/// out[h, i, :] = sum_j p_ij v[h, j, :], v: [heads, keys, dim] with strides head and token. out is contiguous.
void map_apply(const AttentionParams& params, const float* v, const std::int64_t v_stride[2], std::int64_t dim,
               float* out, const ParallelFor& parallel_for);

/// Keys side by side in a panel of packed keys.
inline constexpr std::int64_t kPackedKeys = 16;
/// Floats that pack_keys() writes: [ceil(keys / 16), key heads, head_dim, 16], zeros where there is no key.
std::int64_t packed_keys_size(const AttentionParams& params) noexcept;
/// Writes the keys as panels of 16, so that a row of all heads reads memory in order and needs no sums across lanes.
/// Worth it from the second row on: packing costs about three of them.
void pack_keys(const AttentionParams& params, float* to, const ParallelFor& parallel_for);

}  // namespace vitrine::kernels
