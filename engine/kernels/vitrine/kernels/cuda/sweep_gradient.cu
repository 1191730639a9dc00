// Column sums of a function of the map and its gradient, by mma.sync: as sweep.cu, with a second product dO V^T beside
// the first. Without the map there is no exponential and no first product.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

template <Element kElement, bool kMap, bool kGeneral>
__global__ void __launch_bounds__(128) sweep_gradient_kernel(const __grid_constant__ SweepTask task) {
    extern __shared__ __align__(128) char shared[];
    constexpr int kPart = 32;  // queries at a time
    const Problem& p = task.p;
    const int h = blockIdx.z, split = blockIdx.y;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int block_keys = blockDim.x, first_key = blockIdx.x * block_keys;
    const int q_steps = steps_of(p.row_bytes), q_pitch = kMap ? pitch_of(p.row_bytes) : 0;
    const int v_steps = steps_of(task.v.row_bytes), v_pitch = pitch_of(task.v.row_bytes);
    const int stage_bytes = task.tile * (q_pitch + v_pitch + static_cast<int>(sizeof(float2)));
    const std::uint32_t k_tile = shared_address(shared), v_tile = k_tile + block_keys * q_pitch;
    const int stages_at = block_keys * (q_pitch + v_pitch);
    const char* q = p.q + h * p.q_stride[0];
    const char* k = p.k + h / p.group * p.k_stride[0];
    const char* v = task.v.x + h / p.group * task.v.stride[0];
    const char* d_out = task.d_out.x + h * task.d_out.stride[0];
    const int* index = task.list.index + h * task.list.padded;
    const float2* weight = task.list.weight + h * task.list.padded;
    const int count = task.list.count[h];
    const int tiles = (count + task.tile - 1) / task.tile;
    const int begin = static_cast<int>(static_cast<long long>(tiles) * split / task.splits);
    const int end = static_cast<int>(static_cast<long long>(tiles) * (split + 1) / task.splits);
    if constexpr (kMap)
        copy_rows(k_tile, q_pitch, block_keys, q_steps * 2, p.row_bytes, p.q,
                  [&](int row) { return first_key + row < p.keys ? k + (first_key + row) * p.k_stride[1] : nullptr; });
    copy_rows(v_tile, v_pitch, block_keys, v_steps * 2, task.v.row_bytes, p.q,
              [&](int row) { return first_key + row < p.keys ? v + (first_key + row) * task.v.stride[1] : nullptr; });
    const auto copy_queries = [&](int tile) {
        const std::uint32_t stage = k_tile + stages_at + tile % task.stages * stage_bytes;
        if constexpr (kMap)
            copy_rows(stage, q_pitch, task.tile, q_steps * 2, p.row_bytes, p.q,
                      [&](int row) { return q + index[tile * task.tile + row] * p.q_stride[1]; });
        copy_rows(stage + task.tile * q_pitch, v_pitch, task.tile, v_steps * 2, task.v.row_bytes, p.q,
                  [&](int row) { return d_out + index[tile * task.tile + row] * task.d_out.stride[1]; });
        if (threadIdx.x < task.tile / 2)
            copy16(stage + task.tile * (q_pitch + v_pitch) + threadIdx.x * 16,
                   weight + tile * task.tile + threadIdx.x * 2, true);
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
        const int stage_at = stages_at + tile % task.stages * stage_bytes;
        const auto* weights = reinterpret_cast<const float4*>(shared + stage_at + task.tile * (q_pitch + v_pitch));
        for (int first = 0; first < task.tile; first += kPart) {
            float s[2][4][4], dp[2][4][4];
            if constexpr (kMap) {
                clear(s);
                multiply_tiles<kElement>(s, k_tile + warp * 32 * q_pitch, q_pitch, k_tile + stage_at + first * q_pitch,
                                         q_pitch, q_steps);
            }
            clear(dp);
            multiply_tiles<kElement>(dp, v_tile + warp * 32 * v_pitch, v_pitch,
                                     k_tile + stage_at + task.tile * q_pitch + first * v_pitch, v_pitch, v_steps);
            float part[2][2] = {};
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const float4 w = weights[first / 2 + n * 4 + lane % 4];
                int i[2] = {0, 0};
                if constexpr (kGeneral) {
                    i[0] = index[tile * task.tile + first + n * 8 + lane % 4 * 2];
                    i[1] = index[tile * task.tile + first + n * 8 + lane % 4 * 2 + 1];
                }
#pragma unroll
                for (int m = 0; m < 2; ++m)
#pragma unroll
                    for (int x = 0; x < 4; ++x) {
                        float value = dp[m][n][x];
                        if constexpr (kMap) {
                            const int j = first_key + warp * 32 + m * 16 + x / 2 * 8 + lane / 4;
                            const float lse = x % 2 == 0 ? w.y : w.w;
                            value *= exp2_fast(exponent<kGeneral>(p, s[m][n][x], h, i[x % 2], j, lse));
                        }
                        value = fmaxf(value, task.relu * value);
                        part[m][x / 2] = fmaf(x % 2 == 0 ? w.x : w.z, value, part[m][x / 2]);
                    }
            }
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) sum[m][half] += part[m][half];
        }
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
}

}  // namespace

const char* launch_sweep_gradient(Element element, SweepTask task, const Launch& launch) {
    return with_element(element, [&](auto e) -> const char* {
        const int q_pitch = task.needs_map != 0 ? pitch_of(task.p.row_bytes) : 0, v_pitch = pitch_of(task.v.row_bytes);
        const auto bytes = [&](int warps, int tile, int stages) {
            return warps * 32 * (q_pitch + v_pitch) +
                   stages * tile * (q_pitch + v_pitch + static_cast<int>(sizeof(float2)));
        };
        // The first of these that fits; two blocks fit a multiprocessor of 9.0 where the heads have 64 halves.
        constexpr int kShapes[][3] = {{4, 64, 2}, {4, 64, 1}, {4, 32, 1}, {2, 64, 1}, {2, 32, 1}, {1, 32, 1}};
        for (const auto& [warps, tile, stages] : kShapes) {
            if (bytes(warps, tile, stages) > kSharedLimit) continue;
            task.tile = tile;
            task.stages = stages;
            const dim3 grid((task.p.keys + warps * 32 - 1) / (warps * 32), task.splits, task.p.heads);
            const auto kernel = task.needs_map == 0  ? sweep_gradient_kernel<e(), false, false>
                                : is_general(task.p) ? sweep_gradient_kernel<e(), true, true>
                                                     : sweep_gradient_kernel<e(), true, false>;
            return launch_kernel(kernel, task, grid, warps * 32, bytes(warps, tile, stages), launch);
        }
        return "the heads are too wide for shared memory";
    });
}

}  // namespace vitrine::kernels::cuda
