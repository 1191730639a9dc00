// Small kernels beside the products: the list of queries a sweep visits, sums of partial results, and the greatest
// values.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads) list_kernel(const __grid_constant__ ListTask task) {
    constexpr int kEach = 16, kWarps = kThreads / 32;
    __shared__ int of_warp[kWarps];
    wait_for_earlier();
    let_next_start();
    const int h = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float* r = task.r + h * task.r_head_stride;
    const float* lse = task.lse == nullptr ? nullptr : task.lse + static_cast<long long>(h) * task.queries;
    int* index = task.list.index + h * task.list.padded;
    float2* weight = task.list.weight + h * task.list.padded;
    int count = 0;
    // A warp takes runs of 32 queries, side by side; whole numbers alone are added, so the order cannot matter.
    for (long long base = 0; base < task.queries; base += kThreads * kEach) {
        const long long first = base + warp * 32 * kEach + lane;
        float2 x[kEach];
        unsigned kept[kEach];
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            x[e] = make_float2(0, 0);
            if (first + e * 32 < task.queries)
                x[e] = make_float2(r[first + e * 32], lse == nullptr ? 0.0F : safe_lse(lse[first + e * 32]));
        }
        int mine = 0;
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            // A row that is masked entirely adds nothing; a NaN must.
            kept[e] = __ballot_sync(~0U, x[e].x != 0 && x[e].y != plus_infinity());
            mine += __popc(kept[e]);
        }
        __syncthreads();
        if (lane == 0) of_warp[warp] = mine;
        __syncthreads();
        int to = count;
        for (int w = 0; w < kWarps; ++w) {
            to += w < warp ? of_warp[w] : 0;
            count += of_warp[w];
        }
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
            const int at = to + __popc(kept[e] & ((1U << lane) - 1));
            if (kept[e] >> lane & 1) {
                index[at] = static_cast<int>(first + e * 32);
                weight[at] = x[e];
            }
            to += __popc(kept[e]);
        }
    }
    if (threadIdx.x == 0) task.list.count[h] = count;
    const int end = (count + kListTile - 1) / kListTile * kListTile;
    for (int x = count + threadIdx.x; x < end; x += kThreads) {
        index[x] = 0;
        weight[x] = make_float2(0, plus_infinity());
    }
}

__global__ void __launch_bounds__(256) pack_kernel(const __grid_constant__ PackTask task) {
    const int h = blockIdx.y, first = blockIdx.x * kPackTile;
    const ListTask& all = task.unlisted;
    __shared__ int rows[kPackTile];  // -1: none, zeros
    wait_for_earlier();
    let_next_start();
    if (first >= (all.r != nullptr ? all.queries : task.list.count[h])) return;
    float2 weight = make_float2(0, plus_infinity());
    if (threadIdx.x < kPackTile) {
        const int x = first + static_cast<int>(threadIdx.x);
        int row = -1;
        if (all.r == nullptr) {
            row = task.list.index[h * task.list.padded + x];
            weight = task.list.weight[h * task.list.padded + x];
        } else if (x < all.queries) {
            const float r = all.r[h * all.r_head_stride + x];
            const float lse =
                all.lse == nullptr ? 0.0F : safe_lse(all.lse[static_cast<long long>(h) * all.queries + x]);
            if (r != 0 && lse != plus_infinity()) {  // as list_kernel chooses
                row = x;
                weight = make_float2(r, lse);
            }
        }
        rows[threadIdx.x] = row;
        weight.y *= -kLog2E;
    }
    __syncthreads();
    char* out = task.out + (h * (task.list.padded / kPackTile) + blockIdx.x) *
                               static_cast<long long>(pack_bytes(task.pieces[0] + task.pieces[1]));
    for (int s = 0; s < 2; ++s) {
        const Side& side = task.side[s];
        const int chunks = task.pieces[s] * 8;
        for (int x = threadIdx.x; x < kPackTile * chunks; x += 256) {
            const int row = x / chunks, chunk = x % chunks;
            uint4 value = make_uint4(0, 0, 0, 0);
            if (chunk * 16 < side.row_bytes && rows[row] >= 0)
                value = *reinterpret_cast<const uint4*>(side.x + h * side.stride[0] + rows[row] * side.stride[1] +
                                                        chunk * 16);
            *reinterpret_cast<uint4*>(out + (chunk / 8 * kPackTile + row) * 128 + ((chunk % 8 ^ row % 8) << 4)) = value;
        }
        out += kPackTile * 128 * task.pieces[s];
    }
    if (threadIdx.x < kPackTile) reinterpret_cast<float2*>(out)[threadIdx.x] = weight;
}

struct SumTask {
    const float* part;
    long long count;
    int splits;
    float* out;
};
__global__ void sum_kernel(const __grid_constant__ SumTask task) {
    const long long x = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    wait_for_earlier();
    if (x >= task.count) return;
    float sum = 0;
    for (int s = 0; s < task.splits; ++s) sum += task.part[s * task.count + x];
    task.out[x] = sum;
}

/// 32 keys a block; eight warps share the heads and parts out, and add up in a fixed order.
constexpr int kStepKeys = 32, kStepWarps = 8;
__global__ void __launch_bounds__(kStepKeys* kStepWarps) step_kernel(const __grid_constant__ StepTask task) {
    __shared__ float sums[kStepWarps][kStepKeys];
    const int lane = threadIdx.x % kStepKeys, warp = threadIdx.x / kStepKeys;
    const int j = blockIdx.x * kStepKeys + lane, rows = task.splits * task.heads;
    float sum = 0;
    wait_for_earlier();
    if (j < task.keys) {
#pragma unroll 4
        for (int row = warp; row < rows; row += kStepWarps)
            sum += task.part[static_cast<long long>(row) * task.keys + j];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || j >= task.keys) return;
    sum = 0;
#pragma unroll
    for (int w = 0; w < kStepWarps; ++w) sum += sums[w][lane];
    sum /= static_cast<float>(task.heads);
    task.out[j] = task.r == nullptr ? sum : (sum + task.r[j]) / 2;
}

struct TopKTask {
    const float* values;
    int count, k;
    float* out_values;
    std::int64_t* out_indices;
};

/// Greater keys first: the value's order in the upper half, the lower index in the lower half. No two are alike.
__device__ unsigned long long key_of(float value, int index) {
    const unsigned bits = __float_as_uint(value);
    const unsigned ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
    return static_cast<unsigned long long>(ordered) << 32 | static_cast<unsigned>(~index);
}

__global__ void __launch_bounds__(kThreads) top_k_kernel(const __grid_constant__ TopKTask task) {
    __shared__ unsigned long long found[kMaxTopK];
    __shared__ int counts[256];
    __shared__ int chosen, left, filled;
    const float* values = task.values + static_cast<long long>(blockIdx.x) * task.count;
    // The k-th greatest key, eight bits at a time from the top: how many keys that agree so far have each next byte.
    unsigned long long prefix = 0;
    if (threadIdx.x == 0) left = task.k;
    for (int shift = 56; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) counts[threadIdx.x] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < task.count; i += kThreads) {
            const unsigned long long key = key_of(values[i], i);
            if (shift == 56 || key >> (shift + 8) == prefix >> (shift + 8))
                atomicAdd(&counts[static_cast<int>(key >> shift & 255)], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int byte = 255, above = left;
            while (byte > 0 && counts[byte] < above) above -= counts[byte--];
            chosen = byte;
            left = above;
        }
        __syncthreads();
        prefix |= static_cast<unsigned long long>(chosen) << shift;
    }
    if (threadIdx.x == 0) filled = 0;
    found[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < task.count; i += kThreads) {
        const unsigned long long key = key_of(values[i], i);
        if (key >= prefix) found[atomicAdd(&filled, 1)] = key;  // any order: sorted below
    }
    __syncthreads();
    for (int width = 2; width <= kMaxTopK; width *= 2)
        for (int step = width / 2; step > 0; step /= 2) {
            const int x = threadIdx.x, y = x ^ step;
            if (y > x) {
                const bool falling = (x & width) == 0;
                const unsigned long long a = found[x], b = found[y];
                if ((a < b) == falling) {
                    found[x] = b;
                    found[y] = a;
                }
            }
            __syncthreads();
        }
    if (threadIdx.x < task.k) {
        const int i = static_cast<int>(~static_cast<unsigned>(found[threadIdx.x]));
        const long long to = static_cast<long long>(blockIdx.x) * task.k + threadIdx.x;
        task.out_values[to] = values[i];
        task.out_indices[to] = i;
    }
}
static_assert(kMaxTopK == kThreads);

}  // namespace

const char* launch_list(const ListTask& task, int heads, const Launch& launch) {
    return launch_early(list_kernel, task, dim3(heads), kThreads, 0, launch);
}

const char* launch_pack(const PackTask& task, int heads, const Launch& launch) {
    const dim3 grid(static_cast<unsigned>(task.list.padded / kPackTile), heads);
    return launch_early(pack_kernel, task, grid, 256, 0, launch);
}

const char* launch_sum(const float* part, long long count, int splits, float* out, const Launch& launch) {
    const SumTask task{part, count, splits, out};
    return launch_early(sum_kernel, task, dim3(static_cast<unsigned>((count + 255) / 256)), 256, 0, launch);
}

const char* launch_step(const StepTask& task, const Launch& launch) {
    return launch_early(step_kernel, task, dim3((task.keys + kStepKeys - 1) / kStepKeys), kStepKeys * kStepWarps, 0,
                        launch);
}

const char* launch_top_k(const float* values, long long rows, int count, int k, float* out_values,
                         std::int64_t* out_indices, const Launch& launch) {
    const TopKTask task{values, count, k, out_values, out_indices};
    return launch_kernel(top_k_kernel, task, dim3(static_cast<unsigned>(rows)), kThreads, 0, launch);
}

}  // namespace vitrine::kernels::cuda
