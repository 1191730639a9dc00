// Attention of a short sequence with its map on a CUDA device, what ../small_attention.h describes, and rollout from
// kept maps. The rules of attention.h hold; there is no workspace.
#pragma once

#include <cstdint>

#include <vitrine/kernels/cuda/attention.h>

namespace vitrine::kernels::cuda {

inline constexpr std::int64_t kSmallKeys = 320;

/// Values and results beside the DeviceAttention of the scores (whose lse is not read), and the strides of a batch.
/// Rows of q, k and v are multiples of 16 bytes and start at such; v and out are of the same element and as wide as q.
struct DeviceSmallAttention {
    const void* v = nullptr;            ///< [batches, key_heads, keys, head_dim]
    std::int64_t v_stride[2] = {0, 0};  ///< head, token
    void* out = nullptr;                ///< [batches, heads, queries, head_dim]
    std::int64_t out_stride[2] = {0, 0};
    float* map = nullptr;  ///< [batches, heads, queries, keys] contiguous; null: not written
    float* lse = nullptr;  ///< [batches, heads, queries] contiguous; null: not written
    std::int64_t batches = 1;
    std::int64_t q_batch = 0, k_batch = 0, v_batch = 0, out_batch = 0, bias_batch = 0, mask_batch = 0;
};

/// Why these parameters cannot be run on a device of that compute capability; null when they can.
const char* cannot_run(const DeviceAttention& attention, const DeviceSmallAttention& small,
                       int compute_capability) noexcept;

/// One launch, keys <= kSmallKeys. A row in which everything is masked is 0, its log-sum-exp -infinity.
const char* small_attention(const DeviceAttention& attention, const DeviceSmallAttention& small,
                            const Launch& launch) noexcept;

/// mean[b, i] = mean over heads of maps[b, h, i]; both contiguous, `cells` = queries * keys.
const char* head_mean(const float* maps, std::int64_t batches, std::int64_t heads, std::int64_t cells, float* mean,
                      const Launch& launch) noexcept;

/// Attention rollout from one token: r, at first 1 at `token`, becomes (r A + r) / 2 for A from the last layer to the
/// first. One launch: on devices of compute capability 9.0 eight blocks share the rows of a layer and exchange r.
///
/// @param means  [layers, batches, tokens, tokens], first layer first, tokens <= kSmallKeys
/// @param out    [batches, tokens]
/// @source       S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3
const char* rollout(const float* means, std::int64_t layers, std::int64_t batches, std::int64_t tokens,
                    std::int64_t token, float* out, const Launch& launch) noexcept;

}  // namespace vitrine::kernels::cuda
