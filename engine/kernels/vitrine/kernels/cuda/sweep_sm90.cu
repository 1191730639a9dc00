// The weighted column sums on compute capability 9.0: as sweep.cu, with products by wgmma that run while the other
// half's exponentials do. Without the map it sums a function of dO V^T in the same way.
#include <vitrine/kernels/cuda/launches.cuh>
#include <vitrine/kernels/cuda/wgmma.cuh>

namespace vitrine::kernels::cuda {
namespace {

// Two warpgroups of 128 keys each; a stage is 64 queries.
constexpr int kThreads = 256, kKeys = 256, kTile = 64, kStages = 4;

constexpr int pieces_of(int steps) { return (steps + 3) / 4; }
constexpr int stage_bytes(int steps) { return kTile * 128 * pieces_of(steps) + 1024; }  // the weights take 512
constexpr int shared_bytes(int steps) { return 1024 + kKeys * 128 * pieces_of(steps) + kStages * stage_bytes(steps); }

/// Adds what 64 keys of this warpgroup get from a tile of queries. sum: the lane's two keys.
template <bool kMap>
__device__ __forceinline__ void add_tile(const SweepTask& task, const float (&c)[32], const float4* weights,
                                         float (&sum)[2]) {
    const float scale = task.p.scale * kLog2E;
    float part[2] = {};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const float4 w = weights[n * 4 + threadIdx.x % 4];
        const float lse[2] = {-kLog2E * w.y, -kLog2E * w.w};
#pragma unroll
        for (int x = 0; x < 4; ++x) {
            const float dot = c[n * 4 + x];
            float value;
            if constexpr (kMap)
                value = exp2_fast(fmaf(dot, scale, lse[x % 2]));
            else
                value = fmaxf(dot, task.relu * dot);
            part[x / 2] = fmaf(x % 2 == 0 ? w.x : w.z, value, part[x / 2]);
        }
    }
    sum[0] += part[0];
    sum[1] += part[1];
}

template <Element kElement, int kSteps, bool kMap>
__global__ void __launch_bounds__(kThreads, kSteps == 4 ? 2 : 1) sweep_kernel(const __grid_constant__ SweepTask task) {
#ifdef VITRINE_WGMMA
    extern __shared__ char unaligned[];
    constexpr int kPieces = pieces_of(kSteps);
    const std::uint32_t key_tile = (shared_address(unaligned) + 1023) / 1024 * 1024;
    const std::uint32_t stages = key_tile + kKeys * 128 * kPieces;
    const char* shared = unaligned + (key_tile - shared_address(unaligned));
    const Problem& p = task.p;
    const int h = blockIdx.z, split = blockIdx.y, first_key = blockIdx.x * kKeys;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const char* queries = kMap ? p.q + h * p.q_stride[0] : task.d_out.x + h * task.d_out.stride[0];
    const char* keys = kMap ? p.k + h / p.group * p.k_stride[0] : task.v.x + h / p.group * task.v.stride[0];
    const long long query_stride = kMap ? p.q_stride[1] : task.d_out.stride[1];
    const long long key_stride = kMap ? p.k_stride[1] : task.v.stride[1];
    const int row_bytes = kMap ? p.row_bytes : task.v.row_bytes;
    const int* index = task.list.index + h * task.list.padded;
    const float2* weight = task.list.weight + h * task.list.padded;
    const int tiles = (task.list.count[h] + kTile - 1) / kTile;
    const int begin = static_cast<int>(static_cast<long long>(tiles) * split / task.splits);
    const int end = static_cast<int>(static_cast<long long>(tiles) * (split + 1) / task.splits);
    copy_rows_swizzled<kKeys, kPieces>(key_tile, row_bytes, queries, [&](int row) {
        return first_key + row < p.keys ? keys + (first_key + row) * key_stride : nullptr;
    });
    const auto copy_queries = [&](int tile) {
        if (tile < end) {
            const std::uint32_t stage = stages + tile % kStages * stage_bytes(kSteps);
            copy_rows_swizzled<kTile, kPieces>(
                stage, row_bytes, queries, [&](int row) { return queries + index[tile * kTile + row] * query_stride; });
            if (threadIdx.x < kTile / 2)
                copy16(stage + kTile * 128 * kPieces + threadIdx.x * 16, weight + tile * kTile + threadIdx.x * 2, true);
        }
        commit_copies();  // empty ones too: the waits count groups
    };
    float sum[2][2] = {};
    if (begin < end) {
        for (int x = 0; x < kStages - 1; ++x) copy_queries(begin + x);
        float c0[32], c1[32];
        // Keys that fit stay in registers: half of what the products would read from shared memory.
        std::uint32_t a0[4][4], a1[4][4];
        for (int tile = begin; tile < end; ++tile) {
            wait_copies<kStages - 2>();
            show_to_wgmma();
            __syncthreads();  // and all are done with the stage that the next copy takes
            copy_queries(tile + kStages - 1);
            const std::uint32_t stage = stages + tile % kStages * stage_bytes(kSteps);
            const auto* weights = reinterpret_cast<const float4*>(shared + (stage - key_tile) + kTile * 128 * kPieces);
            if constexpr (kSteps == 4) {
                if (tile == begin) {
                    load_rows(a0, key_tile, group * 128);
                    load_rows(a1, key_tile, group * 128 + 64);
                }
                begin_tile<kElement>(c0, a0, stage);
                begin_tile<kElement>(c1, a1, stage);
            } else {
                begin_tile<kElement, kSteps, kKeys>(c0, key_tile, group * 128, stage);
                begin_tile<kElement, kSteps, kKeys>(c1, key_tile, group * 128 + 64, stage);
            }
            wait_products<1>(c0);
            add_tile<kMap>(task, c0, weights, sum[0]);  // while the second half is multiplied
            wait_products<0>(c1);
            add_tile<kMap>(task, c1, weights, sum[1]);
        }
    }
    wait_copies<0>();
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float x = sum[m][half];
            x += __shfl_xor_sync(~0U, x, 1);
            x += __shfl_xor_sync(~0U, x, 2);
            const int j = first_key + group * 128 + m * 64 + warp * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && j < p.keys) task.out[(static_cast<long long>(split) * p.heads + h) * p.keys + j] = x;
        }
#endif
}

template <bool kMap>
const char* launch(Element element, const SweepTask& task, const Launch& to) {
    return with_steps(kMap ? task.p.head_dim : task.v.dim, [&](auto steps) {
        const dim3 grid((task.p.keys + kKeys - 1) / kKeys, task.splits, task.p.heads);
        return launch_kernel(element == Element::F16 ? sweep_kernel<Element::F16, steps(), kMap>
                                                     : sweep_kernel<Element::BF16, steps(), kMap>,
                             task, grid, kThreads, shared_bytes(steps()), to);
    });
}

}  // namespace

const char* launch_sweep_sm90(Element element, const SweepTask& task, const Launch& to) {
    return task.needs_map != 0 ? launch<true>(element, task, to) : launch<false>(element, task, to);
}

}  // namespace vitrine::kernels::cuda
