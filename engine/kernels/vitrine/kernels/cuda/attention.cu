// The door of the CUDA kernels: checks what it is given, picks the implementation, lays out the workspace and launches.
#include <vitrine/kernels/cuda/attention.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr std::int64_t kMost = 2147483647 / 2;  // tokens: their numbers and a tile's fit an int

bool aligned(const void* pointer, std::int64_t head, std::int64_t token, std::int64_t dim, Element element) {
    const std::int64_t mask = 16 / size_of(element) - 1;
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && ((head | token | dim) & mask) == 0;
}

Problem problem_of(const DeviceAttention& a) {
    Problem p{};
    const std::int64_t size = size_of(a.element);
    p.q = static_cast<const char*>(a.q);
    p.k = static_cast<const char*>(a.k);
    for (int x = 0; x < 2; ++x) {
        p.q_stride[x] = a.q_stride[x] * size;
        p.k_stride[x] = a.k_stride[x] * size;
    }
    p.bias = a.bias;
    p.mask = a.mask;
    for (int x = 0; x < 3; ++x) {
        p.bias_stride[x] = a.bias_stride[x];
        p.mask_stride[x] = a.mask_stride[x];
    }
    p.lse = a.lse;
    p.scale = a.scale;
    p.softcap = a.softcap;
    p.heads = static_cast<int>(a.heads);
    p.group = static_cast<int>(a.heads / a.key_heads);
    p.queries = static_cast<int>(a.queries);
    p.keys = static_cast<int>(a.keys);
    p.head_dim = static_cast<int>(a.head_dim);
    p.row_bytes = static_cast<int>(a.head_dim * size);
    p.causal = a.causal ? 1 : 0;
    return p;
}

Side side_of(const void* x, const std::int64_t stride[2], std::int64_t dim, Element element) {
    const std::int64_t size = size_of(element);
    return {static_cast<const char*>(x),
            {stride[0] * size, stride[1] * size},
            static_cast<int>(dim),
            static_cast<int>(dim * size)};
}

/// Checked once a process: the capability of the device that launches go to.
int current_capability() noexcept {
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 0;
    return compute_capability(device);
}

const char* check(Operation operation, const DeviceAttention& a, const Launch& launch,
                  const DeviceGradient* gradient = nullptr, SweepFunctor functor = SweepFunctor::PdP) noexcept {
    return cannot_run(operation, launch.implementation, a, current_capability(), gradient, functor);
}

/// Where the parts of a sweep's workspace begin; every part starts at a multiple of 256 bytes.
struct Room {
    std::size_t size = 0;
    std::size_t take(std::size_t bytes) {
        const std::size_t at = size;
        size += (bytes + 255) / 256 * 256;
        return at;
    }
};

/// Parts of the walked side, so that a small map fills the device as well. Fixed by the shape: results must not depend
/// on the device.
int splits_of(std::int64_t blocks, std::int64_t walked, std::int64_t wanted) {
    const std::int64_t most = std::min<std::int64_t>(16, std::max<std::int64_t>(1, walked / 256));
    return static_cast<int>(std::clamp<std::int64_t>((wanted + blocks - 1) / blocks, 1, most));
}
int sweep_splits(const DeviceAttention& a) { return splits_of((a.keys + 127) / 128 * a.heads, a.queries, 1056); }

struct SweepRoom {
    std::size_t count, index, weight, part, packed, size;
    std::int64_t padded;
    SweepRoom(std::int64_t heads, std::int64_t queries, std::int64_t part_floats, int packed_bytes = 0) {
        Room room;
        padded = (queries + kListTile - 1) / kListTile * kListTile;
        count = room.take(static_cast<std::size_t>(heads) * sizeof(int));
        index = room.take(static_cast<std::size_t>(heads * padded) * sizeof(int));
        weight = room.take(static_cast<std::size_t>(heads * padded) * sizeof(float2));
        part = room.take(static_cast<std::size_t>(part_floats) * sizeof(float));
        packed = room.take(static_cast<std::size_t>(heads * (padded / kPackTile) * packed_bytes));
        size = room.size;
    }
    QueryList list(void* workspace) const {
        auto* at = static_cast<char*>(workspace);
        return {reinterpret_cast<int*>(at + count), reinterpret_cast<int*>(at + index),
                reinterpret_cast<float2*>(at + weight), padded};
    }
    float* parts(void* workspace) const { return reinterpret_cast<float*>(static_cast<char*>(workspace) + part); }
};
/// With the packed queries of 9.0, where that might run.
SweepRoom sweep_room(const DeviceAttention& a, std::int64_t value_dim) {
    const std::int64_t dim = std::max(a.head_dim, value_dim);
    return {a.heads, a.queries, sweep_splits(a) * a.heads * a.keys,
            a.element != Element::F32 && dim <= 128 ? pack_bytes(dim > 64 ? 2 : 1) : 0};
}
int fused_splits(const DeviceAttention& a) {
    return splits_of((std::min(a.keys, a.queries) + 127) / 128, std::min(a.queries, a.keys), 132);
}
SweepRoom fused_room(const DeviceAttention& a) { return {1, a.queries, fused_splits(a) * std::max(a.keys, a.queries)}; }

const char* lacks(const Launch& launch, std::size_t needed) noexcept {
    if (launch.workspace_bytes < needed || (launch.workspace == nullptr && needed > 0))
        return "the workspace is smaller than the operation needs";
    return reinterpret_cast<std::uintptr_t>(launch.workspace) % 16 != 0 ? "the workspace is not aligned to 16 bytes"
                                                                        : nullptr;
}

const char* clear_counts(void* counts, std::int64_t count, const Launch& launch) {
    const cudaError_t error = cudaMemsetAsync(counts, 0, static_cast<std::size_t>(count) * sizeof(std::int64_t),
                                              static_cast<cudaStream_t>(launch.stream));
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* check_listed(const Listed& listed, std::int64_t size) noexcept {
    if (listed.count < 1 || listed.count > kMost) return "no rows or columns are listed";
    if (listed.device != nullptr) return nullptr;
    if (listed.host == nullptr) return "the list of rows or columns is missing";
    if (listed.count > kMaxListed) return "a list in host memory holds more than 64 rows or columns";
    for (std::int64_t x = 0; x < listed.count; ++x)
        if (listed.host[x] < 0 || listed.host[x] >= size) return "a listed row or column is not in the map";
    return nullptr;
}

const char* strip(Operation operation, std::span<const DeviceAttention> layers, const Listed& listed,
                  std::span<float* const> out, std::span<float* const> mean, const Launch& launch) noexcept {
    if (layers.empty()) return nullptr;
    if ((!out.empty() && out.size() != layers.size()) || (!mean.empty() && mean.size() != layers.size()))
        return "there are not as many results as layers";
    const bool rows = operation == Operation::MapRows;
    for (const DeviceAttention& a : layers) {
        if (const char* problem = check(operation, a, launch)) return problem;
        if (a.element != layers[0].element) return "the layers differ in their element";
        if (const char* problem = check_listed(listed, rows ? a.queries : a.keys)) return problem;
    }
    StripTask task{};
    task.list = listed.device;
    task.listed = static_cast<int>(listed.count);
    if (listed.device == nullptr) std::copy_n(listed.host, listed.count, task.host_list);
    task.rows = rows ? 1 : 0;
    for (float* x : mean) task.mean |= x != nullptr ? 1 : 0;
    for (std::size_t first = 0; first < layers.size(); first += kMaxLayers) {
        task.layers = static_cast<int>(std::min(kMaxLayers, layers.size() - first));
        for (int l = 0; l < task.layers; ++l) {
            const std::size_t at = first + static_cast<std::size_t>(l);
            task.layer[l] = {problem_of(layers[at]), out.empty() ? nullptr : out[at],
                             mean.empty() ? nullptr : mean[at]};
            if (launch.implementation != Implementation::Reference) continue;
            if (const char* problem = reference_strip(layers[0].element, task.layer[l], task, launch)) return problem;
        }
        if (launch.implementation == Implementation::Reference) continue;
        if (const char* problem = launch_strip(layers[0].element, task, launch)) return problem;
    }
    return nullptr;
}

/// So few queries are swept sooner than a list of those with a weight is made.
constexpr std::int64_t kMostUnlisted = 4096;

/// Lists the queries and sweeps: shared by both sweeps. The parts [splits, heads, keys] go to the workspace, or, where
/// there is one, to `whole`; `task` tells where and how many.
const char* sweep_parts(const DeviceAttention& a, SweepTask& task, const float* r, std::int64_t r_head_stride,
                        float* whole, bool gradient, const Launch& launch) {
    const SweepRoom room = sweep_room(a, task.v.dim);
    if (const char* problem = lacks(launch, room.size)) return problem;
    task.p = problem_of(a);
    if (launch.implementation == Implementation::Reference) {
        task.out = whole;
        task.splits = 1;
        return reference_sweep(a.element, task, r, r_head_stride, gradient, launch);
    }
    task.list = room.list(launch.workspace);
    task.splits = sweep_splits(a);
    task.out = task.splits > 1 ? room.parts(launch.workspace) : whole;
    task.packed = static_cast<char*>(launch.workspace) + room.packed;
    const ListTask list{task.list, r, r_head_stride, task.needs_map != 0 ? a.lse : nullptr, task.p.queries};
    const bool sm90 = launch.implementation == Implementation::Sm90;
    const bool packs = sm90 && task.histogram.counts == nullptr && (!gradient || task.needs_map == 0);
    if (packs && a.queries <= kMostUnlisted) {
        task.unlisted = list;
    } else if (const char* problem = launch_list(list, task.p.heads, launch)) {
        return problem;
    }
    if (gradient)
        return sm90 ? launch_sweep_gradient_sm90(a.element, task, launch)
                    : launch_sweep_gradient(a.element, task, launch);
    return sm90 && task.histogram.counts == nullptr ? launch_sweep_sm90(a.element, task, launch)
                                                    : launch_sweep(a.element, task, launch);
}

/// And adds the parts.
const char* sweep(const DeviceAttention& a, SweepTask& task, const float* r, std::int64_t r_head_stride, float* out,
                  bool gradient, const Launch& launch) {
    const char* problem = sweep_parts(a, task, r, r_head_stride, out, gradient, launch);
    if (problem != nullptr || task.splits == 1) return problem;
    return launch_sum(task.out, a.heads * a.keys, task.splits, out, launch);
}

const char* fused(const DeviceAttention& a, Fusion fusion, FusedTask& task, const float* r, float* out,
                  const Launch& launch) noexcept {
    if (const char* problem = check(Operation::Fused, a, launch)) return problem;
    const SweepRoom room = fused_room(a);
    if (const char* problem = lacks(launch, room.size)) return problem;
    task.p = problem_of(a);
    task.fusion = fusion;
    if (launch.implementation == Implementation::Reference) {
        task.out = out;
        return reference_fused(a.element, task, r, launch);
    }
    const bool sums = task.mode == FusedMode::Sweep || task.mode == FusedMode::RowSums;
    task.splits = fused_splits(a);
    task.out = sums && task.splits > 1 ? room.parts(launch.workspace) : out;
    if (task.mode == FusedMode::Sweep) {
        const QueryList list = room.list(launch.workspace);
        const ListTask listing{list, r, 0, nullptr, task.p.queries};
        if (const char* problem = launch_list(listing, 1, launch)) return problem;
        task.count = list.count;
        task.index = list.index;
        task.weight = list.weight;
    }
    if (const char* problem = launch_fused(a.element, task, launch)) return problem;
    if (!sums || task.splits == 1) return nullptr;
    return launch_sum(task.out, task.mode == FusedMode::Sweep ? a.keys : a.queries, task.splits, out, launch);
}

}  // namespace

const char* name_of(Operation operation) noexcept {
    static constexpr const char* kNames[] = {"log_sum_exp",        "map_rows",  "map_columns",
                                             "map_tile",           "map_apply", "map_sweep",
                                             "map_sweep_gradient", "fused",     "top_k"};
    return kNames[static_cast<int>(operation)];
}

const char* name_of(Implementation implementation) noexcept {
    static constexpr const char* kNames[] = {"cuda_reference", "cuda_sm80", "cuda_sm90"};
    return kNames[static_cast<int>(implementation)];
}

int device_count() noexcept {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

int compute_capability(int device) noexcept {
    // A device does not change, and every operation asks.
    static std::atomic<int> known[32];
    const bool kept = device >= 0 && device < 32;
    if (kept && known[device] != 0) return known[device];
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        cudaGetLastError();  // no device is an answer here, not an error to be found later
        return 0;
    }
    if (kept) known[device] = major * 10 + minor;
    return major * 10 + minor;
}

const char* cannot_run(Operation operation, Implementation implementation, const DeviceAttention& a, int capability,
                       const DeviceGradient* gradient, SweepFunctor functor) noexcept {
    if (capability == 0) return "there is no CUDA device";
    if (capability / 10 != 8 && capability != 90) return "the device is of no compute capability this was built for";
    if (operation == Operation::TopK)
        return implementation == Implementation::Sm90 ? "this operation has no form of its own on 9.0" : nullptr;
    if (a.q == nullptr || a.k == nullptr) return "queries or keys are missing";
    if (a.heads < 1 || a.queries < 1 || a.keys < 1 || a.head_dim < 1) return "an axis is empty";
    if (a.key_heads < 1 || a.heads % a.key_heads != 0) return "the number of heads is no multiple of the key heads";
    if (a.queries > kMost || a.keys > kMost || a.heads > 65535 || a.head_dim > 65536) return "an axis is too long";
    const bool sweep_gradient = operation == Operation::MapSweepGradient;
    const bool map = !sweep_gradient || needs_map(functor);
    if (operation != Operation::LogSumExp && map && a.lse == nullptr) return "the log-sum-exp is missing";
    if (sweep_gradient || operation == Operation::MapApply) {
        if (gradient == nullptr || gradient->v == nullptr || (sweep_gradient && gradient->d_out == nullptr))
            return "the values or the gradient of the output are missing";
        if (gradient->value_dim < 1 || gradient->value_dim > 65536) return "the values are empty or too wide";
    }
    if (implementation == Implementation::Reference) return nullptr;
    if (a.head_dim > 256) return "the heads are wider than 256";
    // Blocks of 8.6 and 8.9 have 99 KB of shared memory where those of 8.0 have 163.
    if (capability != 80 && capability != 87 && capability != 90 &&
        std::max(a.head_dim, sweep_gradient ? gradient->value_dim : 0) * size_of(a.element) > 128)
        return "the device's shared memory is too small for heads of more than 128 bytes";
    if (!aligned(a.q, a.q_stride[0], a.q_stride[1], a.head_dim, a.element) ||
        !aligned(a.k, a.k_stride[0], a.k_stride[1], a.head_dim, a.element))
        return "rows of queries or keys are not aligned to 16 bytes";
    if (sweep_gradient || operation == Operation::MapApply) {
        if (!aligned(gradient->v, gradient->v_stride[0], gradient->v_stride[1], gradient->value_dim, a.element))
            return "rows of values are not aligned to 16 bytes";
        if (sweep_gradient && !aligned(gradient->d_out, gradient->d_out_stride[0], gradient->d_out_stride[1],
                                       gradient->value_dim, a.element))
            return "rows of the output's gradient are not aligned to 16 bytes";
        if (sweep_gradient && gradient->value_dim > 256) return "the values are wider than 256";
    }
    if (implementation == Implementation::Sm80) return nullptr;
    if (capability != 90) return "the device is not of compute capability 9.0";
    if (operation != Operation::MapSweep && !sweep_gradient) return "this operation has no form of its own on 9.0";
    if (a.element == Element::F32) return "fp32 runs by mma.sync in three passes";
    if (map && (a.bias != nullptr || a.mask != nullptr || a.causal || a.softcap != 0))
        return "a bias, mask, causality or softcap runs by mma.sync";
    if (a.head_dim > 128 || (sweep_gradient && gradient->value_dim > 128)) return "the heads are wider than 128";
    return nullptr;
}

Chosen choose(Operation operation, const DeviceAttention& attention, int capability, const DeviceGradient* gradient,
              SweepFunctor functor, const char* forced) noexcept {
    if (forced != nullptr && *forced != 0) {
        for (const Implementation x : kImplementations)
            if (std::strcmp(forced, name_of(x)) == 0)
                return {x, cannot_run(operation, x, attention, capability, gradient, functor)};
        return {Implementation::Reference, "no CUDA implementation has this name"};
    }
    for (const Implementation x : {Implementation::Sm90, Implementation::Sm80})
        if (cannot_run(operation, x, attention, capability, gradient, functor) == nullptr) return {x, nullptr};
    return {Implementation::Reference,
            cannot_run(operation, Implementation::Reference, attention, capability, gradient, functor)};
}

const char* log_sum_exp(const DeviceAttention& a, float* lse, const Launch& launch) noexcept {
    if (const char* problem = check(Operation::LogSumExp, a, launch)) return problem;
    const LseTask task{problem_of(a), lse, nullptr, nullptr, 0, 1};
    return launch.implementation == Implementation::Reference ? reference_lse(a.element, task, launch)
                                                              : launch_lse(a.element, task, launch);
}

const char* map_rows(std::span<const DeviceAttention> layers, const Listed& queries, std::span<float* const> out,
                     std::span<float* const> mean, const Launch& launch) noexcept {
    return strip(Operation::MapRows, layers, queries, out, mean, launch);
}

const char* map_columns(std::span<const DeviceAttention> layers, const Listed& keys, std::span<float* const> out,
                        std::span<float* const> mean, const Launch& launch) noexcept {
    return strip(Operation::MapColumns, layers, keys, out, mean, launch);
}

const char* top_k(const float* values, std::int64_t rows, std::int64_t count, std::int64_t k, float* out_values,
                  std::int64_t* out_indices, const Launch& launch) noexcept {
    if (rows < 1 || count < 1 || count > kMost || rows > kMost) return "there are no values, or too many";
    if (k < 1 || k > std::min(count, kMaxTopK)) return "k is not between 1 and the values of a row, or above 1024";
    if (const char* problem = check(Operation::TopK, {}, launch)) return problem;
    return launch_top_k(values, rows, static_cast<int>(count), static_cast<int>(k), out_values, out_indices, launch);
}

const char* map_tile(const DeviceAttention& a, std::int64_t q0, std::int64_t q1, std::int64_t k0, std::int64_t k1,
                     std::int64_t pool, bool head_mean, float* mean, float* maximum, const Launch& launch) noexcept {
    if (const char* problem = check(Operation::MapTile, a, launch)) return problem;
    if (q0 < 0 || q1 > a.queries || q0 >= q1 || k0 < 0 || k1 > a.keys || k0 >= k1) return "the piece is not in the map";
    if (pool < 1) return "the pool is smaller than one";
    pool = std::min(pool, std::max(q1 - q0, k1 - k0));
    TileTask task{};
    task.p = problem_of(a);
    task.q0 = static_cast<int>(q0);
    task.q1 = static_cast<int>(q1);
    task.k0 = static_cast<int>(k0);
    task.k1 = static_cast<int>(k1);
    task.pool = static_cast<int>(pool);
    task.head_mean = head_mean ? 1 : 0;
    task.cells_q = static_cast<int>((q1 - q0 + pool - 1) / pool);
    task.cells_k = static_cast<int>((k1 - k0 + pool - 1) / pool);
    task.mean = mean;
    task.maximum = maximum;
    return launch.implementation == Implementation::Reference ? reference_tile(a.element, task, launch)
                                                              : launch_tile(a.element, task, launch);
}

const char* map_apply(const DeviceAttention& a, const DeviceGradient& values, float* out,
                      const Launch& launch) noexcept {
    if (const char* problem = check(Operation::MapApply, a, launch, &values)) return problem;
    const ApplyTask task{problem_of(a), side_of(values.v, values.v_stride, values.value_dim, a.element), out, 1};
    return launch.implementation == Implementation::Reference ? reference_apply(a.element, task, launch)
                                                              : launch_apply(a.element, task, launch);
}

std::size_t sweep_workspace(const DeviceAttention& a, const DeviceGradient* gradient) noexcept {
    return sweep_room(a, gradient == nullptr ? 0 : gradient->value_dim).size;
}

const char* map_sweep(const DeviceAttention& a, const float* r, std::int64_t r_head_stride, float* out,
                      const SweepExtras& extras, const Launch& launch) noexcept {
    if (const char* problem = check(Operation::MapSweep, a, launch)) return problem;
    SweepTask task{};
    task.needs_map = 1;
    const Histogram& histogram = extras.histogram;
    if (histogram.counts != nullptr) {
        if (histogram.bins < 1 || histogram.bins > kMaxBins || !(histogram.low < histogram.high))
            return "the histogram has no bins, more than 1024, or an empty range";
        task.histogram = {reinterpret_cast<unsigned long long*>(histogram.counts), histogram.bins, histogram.low,
                          histogram.high, static_cast<float>(histogram.bins) / (histogram.high - histogram.low)};
        if (const char* problem = clear_counts(histogram.counts, a.heads * (histogram.bins + 2), launch))
            return problem;
    }
    if (const char* problem = sweep(a, task, r, r_head_stride, out, false, launch)) return problem;
    if (extras.row_sums == nullptr) return nullptr;
    // The sum of a row is what the log-sum-exp of its scores says against the one that was given.
    const LseTask rows{task.p, extras.row_sums, a.lse, r, r_head_stride, 1};
    return launch.implementation == Implementation::Reference ? reference_lse(a.element, rows, launch)
                                                              : launch_lse(a.element, rows, launch);
}

const char* map_step(const DeviceAttention& a, const float* r, bool residual, float* out,
                     const Launch& launch) noexcept {
    if (const char* problem = check(Operation::MapSweep, a, launch)) return problem;
    if (residual && a.queries != a.keys) return "a residual path has as many keys as queries";
    SweepTask task{};
    task.needs_map = 1;
    if (const char* problem = lacks(launch, sweep_room(a, 0).size)) return problem;
    if (const char* problem = sweep_parts(a, task, r, 0, sweep_room(a, 0).parts(launch.workspace), false, launch))
        return problem;
    return launch_step({task.out, residual ? r : nullptr, out, task.splits, task.p.heads, task.p.keys}, launch);
}

const char* map_sweep_gradient(const DeviceAttention& a, const DeviceGradient& gradient, SweepFunctor functor,
                               const float* r, std::int64_t r_head_stride, float* out, const Launch& launch) noexcept {
    if (const char* problem = check(Operation::MapSweepGradient, a, launch, &gradient, functor)) return problem;
    SweepTask task{};
    task.v = side_of(gradient.v, gradient.v_stride, gradient.value_dim, a.element);
    task.d_out = side_of(gradient.d_out, gradient.d_out_stride, gradient.value_dim, a.element);
    task.relu = functor == SweepFunctor::PdP ? 1.0F : functor == SweepFunctor::AbsDP ? -1.0F : 0.0F;
    task.needs_map = needs_map(functor) ? 1 : 0;
    return sweep(a, task, r, r_head_stride, out, true, launch);
}

std::size_t fused_workspace(const DeviceAttention& a) noexcept { return fused_room(a).size; }

const char* fused_rows(const DeviceAttention& a, Fusion fusion, const Listed& queries, float* out,
                       const Launch& launch) noexcept {
    if (const char* problem = check_listed(queries, a.queries)) return problem;
    FusedTask task{};
    task.mode = FusedMode::Rows;
    task.list = queries.device;
    task.listed = static_cast<int>(queries.count);
    if (queries.device == nullptr) std::copy_n(queries.host, queries.count, task.host_list);
    return fused(a, fusion, task, nullptr, out, launch);
}

const char* fused_sweep(const DeviceAttention& a, Fusion fusion, const FusedDropped& dropped, const float* r,
                        float* out, const Launch& launch) noexcept {
    FusedTask task{};
    task.mode = FusedMode::Sweep;
    task.dropped = dropped;
    return fused(a, fusion, task, r, out, launch);
}

const char* fused_row_sums(const DeviceAttention& a, Fusion fusion, const FusedDropped& dropped, float* out,
                           const Launch& launch) noexcept {
    FusedTask task{};
    task.mode = FusedMode::RowSums;
    task.dropped = dropped;
    return fused(a, fusion, task, nullptr, out, launch);
}

const char* fused_histogram(const DeviceAttention& a, Fusion fusion, std::uint32_t first, int shift, std::int64_t bins,
                            std::int64_t* counts, std::int64_t* below, const Launch& launch) noexcept {
    if (bins < 1 || counts == nullptr || shift < 0 || shift > 31)
        return "the histogram has no bins, or a shift beyond 31";
    FusedTask task{};
    task.mode = FusedMode::Histogram;
    task.first = first;
    task.shift = shift;
    task.bins = bins;
    task.counts = reinterpret_cast<unsigned long long*>(counts);
    task.below = reinterpret_cast<unsigned long long*>(below);
    if (const char* problem = check(Operation::Fused, a, launch)) return problem;
    if (const char* problem = clear_counts(counts, bins, launch)) return problem;
    if (below != nullptr)
        if (const char* problem = clear_counts(below, 1, launch)) return problem;
    return fused(a, fusion, task, nullptr, nullptr, launch);
}

}  // namespace vitrine::kernels::cuda
