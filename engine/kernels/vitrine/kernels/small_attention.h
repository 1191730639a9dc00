// Attention of a short sequence, forward and map at once: out, the whole map and the log-sum-exp in one pass.
//
// For models of 224-pixel pictures, whose maps are small and whose cost is launches: keeping every map costs little
// more than the forward, and nothing is computed twice.
#pragma once

#include <cstdint>

#include <vitrine/kernels/attention.h>

namespace vitrine::kernels {

/// Values and results beside the AttentionParams of the scores (whose lse is not read). Strides are in elements: head,
/// token; the last axis has stride 1.
struct SmallAttentionParams {
    const float* v = nullptr;  ///< [value_heads, keys, value_dim]
    std::int64_t v_stride[2] = {0, 0};
    std::int64_t value_dim = 0;
    std::int64_t value_heads = 0;  ///< 0: as many as key heads; heads is a multiple, as with keys
    float* out = nullptr;          ///< [heads, queries, value_dim]
    std::int64_t out_stride[2] = {0, 0};
    float* map = nullptr;  ///< [heads, queries, keys] contiguous
    float* lse = nullptr;  ///< [heads, queries] contiguous, natural logarithm
};

/// The value head that a head reads.
inline std::int64_t value_head(const AttentionParams& p, const SmallAttentionParams& s, std::int64_t head) noexcept {
    return head / (p.heads / (s.value_heads > 0 ? s.value_heads : p.key_heads));
}

/// Why these parameters cannot be run; null when they can.
const char* cannot_run(const AttentionParams& params, const SmallAttentionParams& small) noexcept;

/// out = P v with the map P and its log-sum-exp. A row in which everything is masked is 0, its log-sum-exp -infinity.
void small_attention(const AttentionParams& params, const SmallAttentionParams& small, const ParallelFor& parallel_for);

}  // namespace vitrine::kernels
