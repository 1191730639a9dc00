// Column sums of the map times its gradient on compute capability 9.0: two products a tile by wgmma, the exponentials
// of the first while the second runs.
#include <vitrine/kernels/cuda/launches.cuh>
#include <vitrine/kernels/cuda/wgmma.cuh>

namespace vitrine::kernels::cuda {
namespace {

// Two warpgroups of 64 keys each; a stage is 64 queries and their gradients.
constexpr int kThreads = 256, kKeys = 128, kTile = 64, kStages = 3;

constexpr int stage_bytes(int steps) { return 2 * kTile * 128 * pieces_of(steps) + 1024; }
constexpr int shared_bytes(int steps) {
    return 1024 + 2 * kKeys * 128 * pieces_of(steps) + kStages * stage_bytes(steps);
}

template <Element kElement, int kSteps>
__global__ void __launch_bounds__(kThreads, kSteps == 4 ? 2 : 1)
    gradient_kernel(const __grid_constant__ SweepTask task) {
#ifdef VITRINE_WGMMA
    extern __shared__ char unaligned[];
    constexpr int kPieces = pieces_of(kSteps), kQueryBytes = kTile * 128 * kPieces;
    const std::uint32_t key_tile = (shared_address(unaligned) + 1023) / 1024 * 1024;
    const std::uint32_t value_tile = key_tile + kKeys * 128 * kPieces, stages = value_tile + kKeys * 128 * kPieces;
    const char* shared = unaligned + (key_tile - shared_address(unaligned));
    const Problem& p = task.p;
    const int h = blockIdx.z, split = blockIdx.y, first_key = blockIdx.x * kKeys;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const char* q = p.q + h * p.q_stride[0];
    const char* k = p.k + h / p.group * p.k_stride[0];
    const char* v = task.v.x + h / p.group * task.v.stride[0];
    const char* d_out = task.d_out.x + h * task.d_out.stride[0];
    const int* index = task.list.index + h * task.list.padded;
    const float2* weight = task.list.weight + h * task.list.padded;
    copy_rows_swizzled<kKeys, kPieces>(key_tile, p.row_bytes, q, [&](int row) {
        return first_key + row < p.keys ? k + (first_key + row) * p.k_stride[1] : nullptr;
    });
    copy_rows_swizzled<kKeys, kPieces>(value_tile, task.v.row_bytes, q, [&](int row) {
        return first_key + row < p.keys ? v + (first_key + row) * task.v.stride[1] : nullptr;
    });
    // Keys and values were there before the list was made.
    wait_for_earlier();
    const int tiles = (task.list.count[h] + kTile - 1) / kTile;
    const int begin = static_cast<int>(static_cast<long long>(tiles) * split / task.splits);
    const int end = static_cast<int>(static_cast<long long>(tiles) * (split + 1) / task.splits);
    const auto stage_of = [&](int tile) { return stages + tile % kStages * stage_bytes(kSteps); };
    const auto copy_queries = [&](int tile) {
        if (tile < end) {
            const std::uint32_t stage = stage_of(tile);
            copy_rows_swizzled<kTile, kPieces>(stage, p.row_bytes, q,
                                               [&](int row) { return q + index[tile * kTile + row] * p.q_stride[1]; });
            copy_rows_swizzled<kTile, kPieces>(stage + kQueryBytes, task.v.row_bytes, q, [&](int row) {
                return d_out + index[tile * kTile + row] * task.d_out.stride[1];
            });
            if (threadIdx.x < kTile / 2)
                copy16(stage + 2 * kQueryBytes + threadIdx.x * 16, weight + tile * kTile + threadIdx.x * 2, true);
        }
        commit_copies();
    };
    const float scale = p.scale * kLog2E;
    float sum[2] = {};
    if (begin < end) {
        for (int x = 0; x < kStages - 1; ++x) copy_queries(begin + x);
        float s[32], dp[32];
        for (int tile = begin; tile < end; ++tile) {
            wait_copies<kStages - 2>();
            show_to_wgmma();
            __syncthreads();  // and all are done with the stage that the next copy takes
            copy_queries(tile + kStages - 1);
            begin_tile<kElement, kSteps, kKeys>(s, key_tile, group * 64, stage_of(tile));
            begin_tile<kElement, kSteps, kKeys>(dp, value_tile, group * 64, stage_of(tile) + kQueryBytes);
            const auto* weights =
                reinterpret_cast<const float4*>(shared + (stage_of(tile) - key_tile) + 2 * kQueryBytes);
            wait_products<1>(s);
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const float4 w = weights[n * 4 + lane % 4];
                const float lse[2] = {-kLog2E * w.y, -kLog2E * w.w};
#pragma unroll
                for (int x = 0; x < 4; ++x)
                    s[n * 4 + x] = (x % 2 == 0 ? w.x : w.z) * exp2_fast(fmaf(s[n * 4 + x], scale, lse[x % 2]));
            }
            wait_products<0>(dp);
            float part[2] = {};
            // r p max(dp, relu dp): p is never negative, so the functor may look at dp alone.
#pragma unroll
            for (int x = 0; x < 32; ++x) part[x / 2 % 2] = fmaf(s[x], fmaxf(dp[x], task.relu * dp[x]), part[x / 2 % 2]);
            sum[0] += part[0];
            sum[1] += part[1];
        }
    }
    wait_copies<0>();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float x = sum[half];
        x += __shfl_xor_sync(~0U, x, 1);
        x += __shfl_xor_sync(~0U, x, 2);
        const int j = first_key + group * 64 + warp * 16 + half * 8 + lane / 4;
        if (lane % 4 == 0 && j < p.keys) task.out[(static_cast<long long>(split) * p.heads + h) * p.keys + j] = x;
    }
#endif
}

}  // namespace

const char* launch_sweep_gradient_sm90(Element element, const SweepTask& task, const Launch& launch) {
    if (task.needs_map == 0) return launch_sweep_sm90(element, task, launch);
    return with_steps(max(task.p.head_dim, task.v.dim), [&](auto steps) {
        const dim3 grid((task.p.keys + kKeys - 1) / kKeys, task.splits, task.p.heads);
        return launch_early(
            element == Element::F16 ? gradient_kernel<Element::F16, steps()> : gradient_kernel<Element::BF16, steps()>,
            task, grid, kThreads, shared_bytes(steps()), launch);
    });
}

}  // namespace vitrine::kernels::cuda
