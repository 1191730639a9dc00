// The column sums of the map weighted by row, by mma.sync: keys are the rows of the accumulators, so that the sum over
// queries stays in a thread. Listed queries stream by; those of weight zero are not in the list.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kTile = 64;

template <Element kElement, bool kGeneral>
__global__ void __launch_bounds__(128) sweep_kernel(const __grid_constant__ SweepTask task) {
    extern __shared__ __align__(128) char shared[];
    const Problem& p = task.p;
    const int h = blockIdx.z, split = blockIdx.y;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int block_keys = blockDim.x, first_key = blockIdx.x * block_keys;
    const int steps = steps_of(p.row_bytes), pitch = pitch_of(p.row_bytes);
    const int stage_bytes = kTile * (pitch + static_cast<int>(sizeof(float2)));
    const std::uint32_t k_tile = shared_address(shared), stages = k_tile + block_keys * pitch;
    auto* counted = reinterpret_cast<unsigned*>(shared + block_keys * pitch + task.stages * stage_bytes);
    const char* q = p.q + h * p.q_stride[0];
    const char* k = p.k + h / p.group * p.k_stride[0];
    const int* index = task.list.index + h * task.list.padded;
    const float2* weight = task.list.weight + h * task.list.padded;
    const int count = task.list.count[h];
    const int tiles = (count + kTile - 1) / kTile;
    const int begin = static_cast<int>(static_cast<long long>(tiles) * split / task.splits);
    const int end = static_cast<int>(static_cast<long long>(tiles) * (split + 1) / task.splits);
    const bool histogram = kGeneral && task.histogram.counts != nullptr;
    if (histogram)
        for (int b = threadIdx.x; b < task.histogram.bins + 2; b += blockDim.x) counted[b] = 0;
    copy_rows(k_tile, pitch, block_keys, steps * 2, p.row_bytes, p.q,
              [&](int row) { return first_key + row < p.keys ? k + (first_key + row) * p.k_stride[1] : nullptr; });
    const auto copy_queries = [&](int tile) {
        const std::uint32_t stage = stages + tile % task.stages * stage_bytes;
        copy_rows(stage, pitch, kTile, steps * 2, p.row_bytes, p.q,
                  [&](int row) { return q + index[tile * kTile + row] * p.q_stride[1]; });
        if (threadIdx.x < kTile / 2)
            copy16(stage + kTile * pitch + threadIdx.x * 16, weight + tile * kTile + threadIdx.x * 2, true);
        commit_copies();
    };
    if (begin < end) copy_queries(begin);
    float sum[2][2] = {};
    for (int tile = begin; tile < end; ++tile) {
        if (task.stages == 2 && tile + 1 < end) {
            copy_queries(tile + 1);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        const int stage = tile % task.stages * stage_bytes;
        float s[2][8][4];
        clear(s);
        multiply_tiles<kElement>(s, k_tile + warp * 32 * pitch, pitch, stages + stage, pitch, steps);
        const auto* weights = reinterpret_cast<const float4*>(shared + block_keys * pitch + stage + kTile * pitch);
        float part[2][2] = {};
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const float4 w = weights[n * 4 + lane % 4];
            int i[2] = {0, 0};
            if constexpr (kGeneral) {
                i[0] = index[tile * kTile + n * 8 + lane % 4 * 2];
                i[1] = index[tile * kTile + n * 8 + lane % 4 * 2 + 1];
            }
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int j = first_key + warp * 32 + m * 16 + half * 8 + lane / 4;
                    const float a = exp2_fast(exponent<kGeneral>(p, s[m][n][half * 2], h, i[0], j, w.y));
                    const float b = exp2_fast(exponent<kGeneral>(p, s[m][n][half * 2 + 1], h, i[1], j, w.w));
                    part[m][half] = fmaf(w.x, a, part[m][half]);
                    part[m][half] = fmaf(w.z, b, part[m][half]);
                    if constexpr (kGeneral) {
                        if (!histogram || j >= p.keys) continue;
                        const auto add = [&](float x, int place) {
                            if (place >= count) return;
                            const DeviceHistogram& d = task.histogram;
                            int bin = d.bins + 1;
                            if (x < d.low)
                                bin = 0;
                            else if (x < d.high)
                                bin = 1 + min(d.bins - 1, static_cast<int>((x - d.low) * d.per_unit));
                            atomicAdd(&counted[bin], 1U);
                        };
                        add(a, tile * kTile + n * 8 + lane % 4 * 2);
                        add(b, tile * kTile + n * 8 + lane % 4 * 2 + 1);
                    }
                }
        }
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) sum[m][half] += part[m][half];
        __syncthreads();
        if (task.stages == 1 && tile + 1 < end) copy_queries(tile + 1);
    }
    wait_copies<0>();
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float x = sum[m][half];
            x += __shfl_xor_sync(~0U, x, 1);
            x += __shfl_xor_sync(~0U, x, 2);
            const int j = first_key + warp * 32 + m * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && j < p.keys) task.out[(static_cast<long long>(split) * p.heads + h) * p.keys + j] = x;
        }
    if (histogram) {
        __syncthreads();
        unsigned long long* all = task.histogram.counts + static_cast<long long>(h) * (task.histogram.bins + 2);
        for (int b = threadIdx.x; b < task.histogram.bins + 2; b += blockDim.x)
            if (counted[b] != 0) atomicAdd(&all[b], static_cast<unsigned long long>(counted[b]));  // whole numbers
    }
}

}  // namespace

const char* launch_sweep(Element element, SweepTask task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        const int pitch = pitch_of(task.p.row_bytes);
        const int counts = task.histogram.counts != nullptr ? (task.histogram.bins + 2) * 4 : 0;
        const auto bytes = [&](int warps, int stages) {
            return warps * 32 * pitch + stages * kTile * (pitch + static_cast<int>(sizeof(float2))) + counts;
        };
        // Half of the shared memory at most, so that two blocks share a multiprocessor, where the heads are thin
        // enough.
        int warps = 4;
        task.stages = 2;
        if (bytes(warps, 2) > kSharedLimit) task.stages = 1;
        if (bytes(warps, task.stages) > kSharedLimit) warps = 2;
        const dim3 grid((task.p.keys + warps * 32 - 1) / (warps * 32), task.splits, task.p.heads);
        const bool general = is_general(task.p) || task.histogram.counts != nullptr;
        return launch_kernel(general ? sweep_kernel<e(), true> : sweep_kernel<e(), false>, task, grid, warps * 32,
                             bytes(warps, task.stages), launch);
    });
}

}  // namespace vitrine::kernels::cuda
