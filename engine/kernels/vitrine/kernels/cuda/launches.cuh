// The launches of the single operations, as attention.cu calls them once it has checked what it was given.
#pragma once

#include <vitrine/kernels/cuda/device.cuh>

namespace vitrine::kernels::cuda {

/// Values, or gradients of the output: strides in bytes.
struct Side {
    const char* x;
    long long stride[2];  ///< head (key head for v), token
    int dim, row_bytes;
};

/// log_sum_exp; with `against` not null the row sums exp(lse - against) where r is not zero.
struct LseTask {
    Problem p;
    float* out;
    const float* against;
    const float* r;
    long long r_head_stride;
    int stages;
};
const char* launch_lse(Element element, const LseTask& task, const Launch& launch);

/// Rows or columns of one layer: the streamed side is read whole, the fixed side is the listed rows.
struct StripLayer {
    Problem p;
    float *out, *mean;  ///< either may be null
};
struct StripTask {
    StripLayer layer[kMaxLayers];
    std::int64_t host_list[kMaxListed];
    const std::int64_t* list;  ///< null: host_list
    int listed, layers;
    int rows;  ///< 1: keys are streamed and queries listed; 0: the other way
    int mean;  ///< a block goes through all heads
};
static_assert(sizeof(StripTask) < 32000, "kernel parameters end at 32764 bytes");
const char* launch_strip(Element element, const StripTask& task, const Launch& launch);

struct TileTask {
    Problem p;
    int q0, q1, k0, k1, pool;
    int head_mean;
    int cells_q, cells_k;  ///< cells in all
    int block;             ///< cells of a block along each axis
    float *mean, *maximum;
};
const char* launch_tile(Element element, const TileTask& task, const Launch& launch);

struct ApplyTask {
    Problem p;
    Side v;
    float* out;
    int stages;
};
const char* launch_apply(Element element, const ApplyTask& task, const Launch& launch);

/// The queries of a sweep whose weight is not zero, head by head, in order, padded to a multiple of kListTile.
inline constexpr int kListTile = 128;
struct QueryList {
    int* count;        ///< [heads]
    int* index;        ///< [heads, padded]; 0 in the padding
    float2* weight;    ///< [heads, padded]: r and the log-sum-exp; (0, infinity) in the padding
    long long padded;  ///< room of one head
};
struct ListTask {
    QueryList list;
    const float* r;
    long long r_head_stride;
    const float* lse;  ///< null: none is known, rows are kept
    int queries;
};
/// One block a head.
const char* launch_list(const ListTask& task, int heads, const Launch& launch);
/// The listed rows of one or two operands and their weights as the kernels of 9.0 read them: tiles of kPackTile rows,
/// swizzled as in wgmma.cuh, 512 bytes of (r, -log2(e) log-sum-exp) behind them. One tile is one piece of memory.
inline constexpr int kPackTile = 64;
constexpr int pieces_of(int steps) { return (steps + 3) / 4; }
constexpr int pack_bytes(int pieces) { return kPackTile * (128 * pieces + static_cast<int>(sizeof(float2))); }
struct PackTask {
    QueryList list;
    ListTask unlisted;  ///< with r not null: all queries in their own order, and no list
    Side side[2];
    int pieces[2];  ///< of 64 values a row; 0: no such operand
    char* out;      ///< [heads, padded / kPackTile, pack_bytes]
};
const char* launch_pack(const PackTask& task, int heads, const Launch& launch);
/// out[x] = sum_s part[s, x]; part: [splits, count].
const char* launch_sum(const float* part, long long count, int splits, float* out, const Launch& launch);
/// One step of a walk: out[j] = mean_h sum_s part[s, h, j], and with r not null the mean of that and r[j].
struct StepTask {
    const float* part;  ///< [splits, heads, keys]
    const float* r;
    float* out;
    int splits, heads, keys;
};
const char* launch_step(const StepTask& task, const Launch& launch);
const char* launch_top_k(const float* values, long long rows, int count, int k, float* out_values,
                         std::int64_t* out_indices, const Launch& launch);

struct DeviceHistogram {
    unsigned long long* counts;  ///< [heads, bins + 2]; null: none
    int bins;
    float low, high, per_unit;
};
struct SweepTask {
    Problem p;
    QueryList list;
    ListTask unlisted;  ///< with r not null there is no list: all queries are packed
    Side v, d_out;      ///< of the gradient sweep
    float relu;     ///< f = max(x, relu x): 0 the positive part, 1 all, -1 the magnitude
    int needs_map;
    float* out;  ///< [splits, heads, keys]
    int splits;  ///< parts of the queries
    int stages, tile;
    char* packed;  ///< room for PackTask's output, on 9.0
    DeviceHistogram histogram;
};
const char* launch_sweep(Element element, SweepTask task, const Launch& launch);
const char* launch_sweep_gradient(Element element, SweepTask task, const Launch& launch);
/// By wgmma: 16-bit elements without bias, mask, softcap, causality and histogram.
const char* launch_sweep_sm90(Element element, const SweepTask& task, const Launch& launch);
const char* launch_sweep_gradient_sm90(Element element, const SweepTask& task, const Launch& launch);

enum class FusedMode : std::uint8_t { Rows, Sweep, RowSums, Histogram };
struct FusedTask {
    Problem p;
    Fusion fusion;
    FusedMode mode;
    FusedDropped dropped;
    const int* count;      ///< of `index`, in device memory; null: all queries
    const int* index;      ///< the sweep's queries
    const float2* weight;  ///< the sweep's weights (first member)
    std::int64_t host_list[kMaxListed];
    const std::int64_t* list;  ///< of rows; null: host_list
    int listed;
    float* out;  ///< Rows: [listed, keys]; Sweep: [splits, keys]; RowSums: [splits, queries]
    int splits;
    std::uint32_t first;
    int shift;
    long long bins;
    unsigned long long *counts, *below;
};
const char* launch_fused(Element element, const FusedTask& task, const Launch& launch);

/// The plain kernels: one thread an entry, a row or a column.
const char* reference_lse(Element element, const LseTask& task, const Launch& launch);
const char* reference_strip(Element element, const StripLayer& layer, const StripTask& task, const Launch& launch);
const char* reference_tile(Element element, const TileTask& task, const Launch& launch);
const char* reference_apply(Element element, const ApplyTask& task, const Launch& launch);
const char* reference_sweep(Element element, const SweepTask& task, const float* r, long long r_head_stride,
                            bool gradient, const Launch& launch);
const char* reference_fused(Element element, const FusedTask& task, const float* r, const Launch& launch);

}  // namespace vitrine::kernels::cuda
