// The probe (LeanAttention) on a CUDA device: what ../probe.h describes, on device pointers, in fp32, fp16 or bf16. The
// rules of attention.h hold.
#pragma once

#include <cstddef>
#include <cstdint>

#include <vitrine/kernels/cuda/attention.h>
#include <vitrine/kernels/probe.h>

namespace vitrine::kernels::cuda {

/// As ProbeParams. Rows of q, k and v are multiples of 16 bytes and start at such.
struct DeviceProbe {
    Element element = Element::F32;
    const void* q = nullptr;               ///< [batches, heads, queries, head_dim]
    const void* k = nullptr;               ///< [batches, key_heads, keys, head_dim]
    const void* v = nullptr;               ///< the same shape as k
    std::int64_t q_stride[3] = {0, 0, 0};  ///< batch, head, token
    std::int64_t k_stride[3] = {0, 0, 0};
    std::int64_t v_stride[3] = {0, 0, 0};
    std::int64_t batches = 1, heads = 0, key_heads = 0, queries = 0, keys = 0, head_dim = 0;
    const std::int32_t* lengths = nullptr;  ///< [batches]; read by the kernel, so that a graph replays with new ones
    float scale = 1;
    bool causal = false;
    std::int64_t workers = 0;  ///< thread blocks; 0: as many as the device holds at once
};

/// How the pieces of an output come together. The answer is the same within rounding, and always the same bits for one
/// of them.
enum class ProbeMerge : std::uint8_t {
    Auto,          ///< the last arriver where it has little to do, else a second launch
    LastArriver,   ///< the block that finishes last merges all pieces in one fixed order; nobody waits for anybody
    SecondLaunch,  ///< a second kernel merges
};

struct DeviceProbeResult {
    float* out = nullptr;   ///< [batches, heads, queries, head_dim]; 0 where no key is seen
    float* lse = nullptr;   ///< [batches, heads, queries]; -infinity where no key is seen
    float* mass = nullptr;  ///< [workers + outputs, kLeanRows] as in ProbeResult; may be null
    /// [outputs], 0 before the first probe; every probe leaves them 0. Null: a second launch merges.
    std::int32_t* tickets = nullptr;
    ProbeMerge merge = ProbeMerge::Auto;
};

/// Why these parameters cannot be run on a device of that compute capability; null when they can.
const char* cannot_run(const DeviceProbe& params, int compute_capability) noexcept;

/// What `workers` = 0 stands for on the current device.
std::int64_t probe_workers(const DeviceProbe& params);
/// Keys of one tile of the schedule.
std::int64_t probe_tile_keys(const DeviceProbe& params);
/// Bytes of scratch on the current device.
std::size_t probe_workspace(const DeviceProbe& params);

const char* probe(const DeviceProbe& params, const DeviceProbeResult& result, const Launch& launch) noexcept;

/// The same answer with every output cut in `splits` equal parts and a second launch: what the probe is compared with.
/// @source  T. Dao et al., "Flash-Decoding for long-context inference", 2023
const char* probe_splits(const DeviceProbe& params, std::int64_t splits, float* out, float* lse,
                         const Launch& launch) noexcept;
/// The number of splits that FlashAttention would choose.
std::int64_t probe_best_splits(const DeviceProbe& params);
std::size_t probe_splits_workspace(const DeviceProbe& params, std::int64_t splits);

}  // namespace vitrine::kernels::cuda
