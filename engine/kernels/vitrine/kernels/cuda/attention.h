// The map kernels of softmax attention on a CUDA device: what attention.h and sweep_gradient.h give on the CPU, of
// operands that lie in device memory, in fp32, fp16 or bf16.
//
// Plain C++ without CUDA headers. Rules that hold for all functions here:
//  - Every pointer is a device pointer unless it says host. Results are fp32. Sizes and strides are in elements.
//  - Nothing allocates and nothing waits: work is queued on launch.stream and may be captured in a CUDA graph. What an
//    operation needs as scratch is given in launch.workspace, as many bytes as the function ..._workspace says;
//    two operations in flight at once need two workspaces.
//  - The answer is null, or one sentence saying why the work was not queued.
//  - Results are deterministic: the same call gives the same bits.
//  - fp32 products go through three passes of TF32 or plain fp32 arithmetic, never one pass of TF32.
//
//     const auto chosen = choose(Operation::MapSweep, a, compute_capability(0));   // chosen.problem says why not
//     Launch launch{stream, scratch, sweep_workspace(a), chosen.implementation};
//     if (const char* problem = map_sweep(a, r, 0, out, {}, launch)) ...
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <vitrine/kernels/sweep_gradient.h>

namespace vitrine::kernels::cuda {

enum class Element : std::uint8_t { F32, F16, BF16 };
/// Bytes of one element.
constexpr std::int64_t size_of(Element element) noexcept { return element == Element::F32 ? 4 : 2; }

/// The operations, for choose() and cannot_run().
enum class Operation : std::uint8_t {
    LogSumExp,
    MapRows,
    MapColumns,
    MapTile,
    MapApply,
    MapSweep,
    MapSweepGradient,
    Fused,
    TopK
};
inline constexpr Operation kOperations[] = {Operation::LogSumExp,        Operation::MapRows,  Operation::MapColumns,
                                            Operation::MapTile,          Operation::MapApply, Operation::MapSweep,
                                            Operation::MapSweepGradient, Operation::Fused,    Operation::TopK};
/// "map_rows"
const char* name_of(Operation operation) noexcept;

/// Reference: plain fp32 arithmetic, one thread an entry, any layout. Sm80: tensor cores by mma.sync. Sm90: by wgmma,
/// for the sweeps alone; the other operations have no form of their own there and cannot_run says so.
enum class Implementation : std::uint8_t { Reference, Sm80, Sm90 };
inline constexpr Implementation kImplementations[] = {Implementation::Reference, Implementation::Sm80,
                                                      Implementation::Sm90};
/// "cuda_reference", "cuda_sm80", "cuda_sm90"
const char* name_of(Implementation implementation) noexcept;

/// Attention as in AttentionParams, on the device:
///     score_ij = cap(scale q_i . k_j) + bias_ij,  cap(x) = softcap tanh(x / softcap), or x where softcap is 0,
/// and -infinity where the mask is zero or causality hides the key. p_ij = exp(score_ij - lse_i), rows whose
/// log-sum-exp is -infinity are zero. The last axis of q and k has stride 1.
struct DeviceAttention {
    const void* q = nullptr;  ///< [heads, queries, head_dim] of `element`
    const void* k = nullptr;  ///< [key_heads, keys, head_dim]
    Element element = Element::F32;
    std::int64_t q_stride[2] = {0, 0};  ///< head, token
    std::int64_t k_stride[2] = {0, 0};
    std::int64_t heads = 0;
    std::int64_t key_heads = 0;  ///< heads is a multiple; head h reads key head h / (heads / key_heads)
    std::int64_t queries = 0, keys = 0, head_dim = 0;
    float scale = 1;
    float softcap = 0;                        ///< 0: none
    const float* bias = nullptr;              ///< added to the scores; null is none, -infinity masks
    std::int64_t bias_stride[3] = {0, 0, 0};  ///< head, query, key; 0 repeats
    const std::uint8_t* mask = nullptr;       ///< nonzero keeps; null keeps all
    std::int64_t mask_stride[3] = {0, 0, 0};
    bool causal = false;         ///< key j is seen by query i when j <= i
    const float* lse = nullptr;  ///< [heads, queries] contiguous, natural logarithm; not needed by log_sum_exp
};

/// The same attention with one head alone: how chosen heads are given to map_rows and map_tile.
inline DeviceAttention one_head(DeviceAttention a, std::int64_t head) noexcept {
    const std::int64_t size = size_of(a.element);
    const std::int64_t key_head = head / (a.heads / a.key_heads);
    a.q = static_cast<const char*>(a.q) + head * a.q_stride[0] * size;
    a.k = static_cast<const char*>(a.k) + key_head * a.k_stride[0] * size;
    if (a.bias != nullptr) a.bias += head * a.bias_stride[0];
    if (a.mask != nullptr) a.mask += head * a.mask_stride[0];
    if (a.lse != nullptr) a.lse += head * a.queries;
    a.heads = a.key_heads = 1;
    return a;
}

/// The gradient side of a sweep, of the same element as q and k.
struct DeviceGradient {
    const void* v = nullptr;      ///< [key_heads, keys, value_dim]
    const void* d_out = nullptr;  ///< [heads, queries, value_dim], d score / d (P V)
    std::int64_t v_stride[2] = {0, 0};
    std::int64_t d_out_stride[2] = {0, 0};
    std::int64_t value_dim = 0;
};

struct Launch {
    void* stream = nullptr;  ///< a cudaStream_t
    void* workspace = nullptr;
    std::size_t workspace_bytes = 0;
    Implementation implementation = Implementation::Sm80;
};

/// Devices that the driver shows; 0 where there is no driver.
int device_count() noexcept;
/// 90 for a device of compute capability 9.0; 0 where there is none.
int compute_capability(int device) noexcept;

/// Why this implementation cannot do this on a device of that compute capability; null when it can. `gradient` is read
/// for MapSweepGradient and, v alone, for MapApply.
const char* cannot_run(Operation operation, Implementation implementation, const DeviceAttention& attention,
                       int compute_capability, const DeviceGradient* gradient = nullptr,
                       SweepFunctor functor = SweepFunctor::PdP) noexcept;

struct Chosen {
    Implementation implementation = Implementation::Reference;
    const char* problem = nullptr;  ///< why even the reference cannot run, or why the forced one cannot
};
/// The fastest implementation that runs; `forced` is a name of one ("cuda_sm80"), null or empty forces none.
Chosen choose(Operation operation, const DeviceAttention& attention, int compute_capability,
              const DeviceGradient* gradient = nullptr, SweepFunctor functor = SweepFunctor::PdP,
              const char* forced = nullptr) noexcept;

/// Row or key numbers, in host memory (copied into the launch, kMaxListed at most) or in device memory (any count; not
/// checked against the sizes, so they must be right).
struct Listed {
    const std::int64_t* host = nullptr;
    const std::int64_t* device = nullptr;  ///< read instead of `host` where given
    std::int64_t count = 0;
};
inline constexpr std::int64_t kMaxListed = 64;
/// Layers of one launch; more are queued as several launches.
inline constexpr std::size_t kMaxLayers = 48;

/// lse[h, i] = log sum_j exp(score_ij), by one streaming pass. lse: [heads, queries]. No workspace.
const char* log_sum_exp(const DeviceAttention& attention, float* lse, const Launch& launch) noexcept;

/// Chosen rows of many layers at once. out[l]: [heads, listed, keys] of that layer, and mean[l]: [listed, keys], their
/// mean over the heads; host arrays of device pointers, either may be empty or hold nulls. Layers may differ in shape,
/// not in element. No workspace.
const char* map_rows(std::span<const DeviceAttention> layers, const Listed& queries, std::span<float* const> out,
                     std::span<float* const> mean, const Launch& launch) noexcept;

/// Chosen columns of many layers at once. out[l]: [heads, queries, listed], mean[l]: [queries, listed].
const char* map_columns(std::span<const DeviceAttention> layers, const Listed& keys, std::span<float* const> out,
                        std::span<float* const> mean, const Launch& launch) noexcept;

/// The k greatest of each row of values [rows, count], greatest first, equal ones by lower index; -0 counts below +0.
/// out_values, out_indices: [rows, k]. 1 <= k <= min(count, kMaxTopK), count < 2^31. No workspace.
const char* top_k(const float* values, std::int64_t rows, std::int64_t count, std::int64_t k, float* out_values,
                  std::int64_t* out_indices, const Launch& launch) noexcept;
inline constexpr std::int64_t kMaxTopK = 1024;

/// The piece [q0, q1) x [k0, k1) pooled over pool x pool blocks; blocks at the far edges pool what they have.
/// mean, maximum: [heads, ceil((q1 - q0) / pool), ceil((k1 - k0) / pool)]; either may be null. With head_mean the map
/// is averaged over the heads first and the heads' axis is absent. No workspace.
const char* map_tile(const DeviceAttention& attention, std::int64_t q0, std::int64_t q1, std::int64_t k0,
                     std::int64_t k1, std::int64_t pool, bool head_mean, float* mean, float* maximum,
                     const Launch& launch) noexcept;

/// out[h, i, :] = sum_j p_ij v[h, j, :]. v: gradient.v with its strides and value_dim; out: contiguous
/// [heads, queries, value_dim]. No workspace.
const char* map_apply(const DeviceAttention& attention, const DeviceGradient& values, float* out,
                      const Launch& launch) noexcept;

/// How often entries of p fall in equal parts of [low, high): counts[0] below low, counts[1 + b] in part b, counts[bins
/// + 1] from high on. The part of x is floor((x - low) * (bins / (high - low))) in fp32, so it grows with x.
struct Histogram {
    std::int64_t* counts = nullptr;  ///< [heads, bins + 2], overwritten; null: none wanted
    std::int32_t bins = 0;           ///< 1 to kMaxBins
    float low = 0, high = 1;
};
inline constexpr std::int32_t kMaxBins = 1024;

/// What a sweep gives beside its columns. Rows that the sweep skips (r = 0) have the row sum 0 and are not counted.
struct SweepExtras {
    float* row_sums = nullptr;  ///< [heads, queries], sum_j p_ij: 1 within rounding where lse is right
    Histogram histogram;
};

/// Bytes of scratch of map_sweep and, with the gradient, of map_sweep_gradient. Heads of 16-bit elements take about a
/// copy of the queries: on 9.0 the listed ones are packed.
std::size_t sweep_workspace(const DeviceAttention& attention, const DeviceGradient* gradient = nullptr) noexcept;

/// out[h, j] = sum_i r[h, i] p_ij. out: [heads, keys]. `r_head_stride` 0 shares one r among the heads. Rows with r = 0
/// are skipped: a single nonzero row costs about that row.
const char* map_sweep(const DeviceAttention& attention, const float* r, std::int64_t r_head_stride, float* out,
                      const SweepExtras& extras, const Launch& launch) noexcept;

/// One step of a walk back through layers: out[j] = mean_h sum_i r[i] p_ij, and with a residual path the mean of that
/// and r[j], then with as many keys as queries. r: [queries], out: [keys], not the same. Workspace and implementations
/// are those of map_sweep.
const char* map_step(const DeviceAttention& attention, const float* r, bool residual, float* out,
                     const Launch& launch) noexcept;

/// out[h, j] = sum_i r[h, i] f(p_ij, dp_ij), as in sweep_gradient.h.
const char* map_sweep_gradient(const DeviceAttention& attention, const DeviceGradient& gradient, SweepFunctor functor,
                               const float* r, std::int64_t r_head_stride, float* out, const Launch& launch) noexcept;

// One map fused of all heads; the meanings are those of fused_sweep.h. All four functions of one implementation see the
// same numbers, bit for bit. The mean adds the heads in order and multiplies by 1 / heads.

enum class Fusion : std::uint8_t { Mean, Max, Min };

/// Which entries count as zero: those below the threshold, and of those that equal it the first in row-major order.
struct FusedDropped {
    float threshold = -std::numeric_limits<float>::infinity();
    std::int64_t tie_end = 0;       ///< an entry equal to the threshold is dropped when query * keys + key < tie_end
    std::int64_t kept_key = -1;     ///< this key's entries are never dropped ...
    std::int64_t kept_queries = 0;  ///< ... for queries [0, kept_queries)
};

/// Bytes of scratch of the fused functions.
std::size_t fused_workspace(const DeviceAttention& attention) noexcept;

/// Chosen rows of the fused map, nothing dropped. out: [listed, keys].
const char* fused_rows(const DeviceAttention& attention, Fusion fusion, const Listed& queries, float* out,
                       const Launch& launch) noexcept;

/// out[j] = sum_i r[i] f_ij over what is not dropped. r: [queries], out: [keys]. Queries with r = 0 are skipped.
const char* fused_sweep(const DeviceAttention& attention, Fusion fusion, const FusedDropped& dropped, const float* r,
                        float* out, const Launch& launch) noexcept;

/// out[i] = sum_j f_ij over what is not dropped. out: [queries].
const char* fused_row_sums(const DeviceAttention& attention, Fusion fusion, const FusedDropped& dropped, float* out,
                           const Launch& launch) noexcept;

/// counts[b] = how many entries have bits in [first + (b << shift), first + ((b + 1) << shift)), b < bins; *below how
/// many have fewer bits than `first`. counts: [bins], overwritten; below may be null. shift < 32.
const char* fused_histogram(const DeviceAttention& attention, Fusion fusion, std::uint32_t first, int shift,
                            std::int64_t bins, std::int64_t* counts, std::int64_t* below,
                            const Launch& launch) noexcept;

}  // namespace vitrine::kernels::cuda
