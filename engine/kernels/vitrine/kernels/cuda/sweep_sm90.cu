// The weighted column sums on compute capability 9.0: as sweep.cu, with products by wgmma that run while the other
// half's exponentials do. Without the map it sums a function of dO V^T in the same way.
#include <vitrine/kernels/cuda/launches.cuh>
#include <vitrine/kernels/cuda/wgmma.cuh>

namespace vitrine::kernels::cuda {
namespace {

// Two warpgroups of 128 keys each; a stage is 64 queries.
constexpr int kThreads = 256, kKeys = 256, kTile = kPackTile, kStages = 4;
/// A stage is filled again that many tiles after its own, when the slower warpgroup has long left it.
[[maybe_unused]] constexpr int kSlack = 2;

constexpr int stage_bytes(int steps) { return kTile * 128 * pieces_of(steps) + 1024; }  // the weights take 512
constexpr int shared_bytes(int steps) {
    return 1024 + kKeys * 128 * pieces_of(steps) + kStages * (stage_bytes(steps) + 16);
}

/// Adds what 64 keys of this warpgroup get from a tile of queries. sum: the lane's two keys.
template <bool kMap>
__device__ __forceinline__ void add_tile(const SweepTask& task, const float (&c)[32], const float4* weights,
                                         float4 first, float (&sum)[2]) {
    const float scale = task.p.scale * kLog2E;
    float part[2] = {};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const float4 w = n == 0 ? first : weights[n * 4 + threadIdx.x % 4];
        const float lse[2] = {w.y, w.w};
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
    const std::uint32_t full = stages + kStages * stage_bytes(kSteps), left = full + kStages * 8;
    const char* shared = unaligned + (key_tile - shared_address(unaligned));
    const Problem& p = task.p;
    const int h = blockIdx.z, split = blockIdx.y, first_key = blockIdx.x * kKeys;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const char* keys = kMap ? p.k + h / p.group * p.k_stride[0] : task.v.x + h / p.group * task.v.stride[0];
    const long long key_stride = kMap ? p.k_stride[1] : task.v.stride[1];
    // Keys were there before the queries were packed.
    copy_rows_swizzled<kKeys, kPieces>(key_tile, kMap ? p.row_bytes : task.v.row_bytes, keys, [&](int row) {
        return first_key + row < p.keys ? keys + (first_key + row) * key_stride : nullptr;
    });
    commit_copies();
    wait_for_earlier();
    const int queries = task.unlisted.r != nullptr ? task.unlisted.queries : task.list.count[h];
    const int tiles = (queries + kTile - 1) / kTile;
    const int begin = static_cast<int>(static_cast<long long>(tiles) * split / task.splits);
    const int end = static_cast<int>(static_cast<long long>(tiles) * (split + 1) / task.splits);
    const char* packed = task.packed + h * (task.list.padded / kTile) * static_cast<long long>(pack_bytes(kPieces));
    const auto stage_of = [&](int x) { return stages + x % kStages * stage_bytes(kSteps); };
    // Tiles are counted from `begin`.
    const auto copy_queries = [&](int x) {
        copy_bulk(stage_of(x), packed + static_cast<long long>(begin + x) * pack_bytes(kPieces), pack_bytes(kPieces),
                  full + x % kStages * 8);
    };
    if (threadIdx.x == 0) {
        for (int x = 0; x < kStages; ++x) {
            begin_barrier(full + x * 8, 1);
            begin_barrier(left + x * 8, kThreads / 32);
        }
        show_to_wgmma();
        for (int x = 0; x < min(kStages, end - begin); ++x) copy_queries(x);
    }
    wait_copies<0>();
    show_to_wgmma();
    __syncthreads();
    float sum[2][2] = {};
    if (begin < end) {
        // Keys that fit stay in registers: half of what the products would read from shared memory.
        [[maybe_unused]] std::uint32_t a0[4][4], a1[4][4];
        float c0[32], c1[32];
        const auto multiply_first = [&](std::uint32_t stage) {
            if constexpr (kSteps == 4)
                begin_tile<kElement>(c0, a0, stage);
            else
                begin_tile<kElement, kSteps, kKeys>(c0, key_tile, group * 128, stage);
        };
        const auto multiply_second = [&](std::uint32_t stage) {
            if constexpr (kSteps == 4)
                begin_tile<kElement>(c1, a1, stage);
            else
                begin_tile<kElement, kSteps, kKeys>(c1, key_tile, group * 128 + 64, stage);
        };
        const auto weights_of = [&](int x) {
            return reinterpret_cast<const float4*>(shared + (stage_of(x) - key_tile) + kTile * 128 * kPieces);
        };
        // Always one half is multiplied while the exponentials of the other are taken, the first of a tile with the
        // second of the one before. (Nothing is under way where the loop turns: ptxas would wait for each product.)
        const auto finish_first = [&](int x) {
            wait_products<0>(c0);
            const float4 w = weights_of(x)[threadIdx.x % 4];
            multiply_second(stage_of(x));
            wait_products<1>(c0);  // waits for nothing, but ptxas puts no product behind it
            add_tile<kMap>(task, c0, weights_of(x), w, sum[0]);
            wait_products<0>(c1);
        };
        if constexpr (kSteps == 4) {
            load_rows(a0, key_tile, group * 128);
            load_rows(a1, key_tile, group * 128 + 64);
        }
        wait_phase(full, 0);
        multiply_first(stages);
        finish_first(0);
        const int count = end - begin;
        for (int x = 1; x < count; ++x) {
            wait_phase(full + x % kStages * 8, x / kStages % 2);
            const float4 w = weights_of(x - 1)[threadIdx.x % 4];
            multiply_first(stage_of(x));
            wait_products<1>(c1);
            add_tile<kMap>(task, c1, weights_of(x - 1), w, sum[1]);
            __syncwarp();
            if (lane == 0) arrive(left + (x - 1) % kStages * 8);
            if (threadIdx.x == 0) {
                const int y = x + kStages - kSlack;
                if (y >= kStages && y < count) {
                    wait_phase(left + y % kStages * 8, (y / kStages - 1) % 2);
                    copy_queries(y);
                }
            }
            finish_first(x);
        }
        add_tile<kMap>(task, c1, weights_of(count - 1), weights_of(count - 1)[threadIdx.x % 4], sum[1]);
    }
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
    return with_steps(kMap ? task.p.head_dim : task.v.dim, [&](auto steps) -> const char* {
        PackTask pack{task.list, task.unlisted, {}, {pieces_of(steps()), 0}, task.packed};
        pack.side[0] = kMap
                           ? Side{task.p.q, {task.p.q_stride[0], task.p.q_stride[1]}, task.p.head_dim, task.p.row_bytes}
                           : task.d_out;
        if (const char* problem = launch_pack(pack, task.p.heads, to)) return problem;
        const dim3 grid((task.p.keys + kKeys - 1) / kKeys, task.splits, task.p.heads);
        return launch_early(element == Element::F16 ? sweep_kernel<Element::F16, steps(), kMap>
                                                    : sweep_kernel<Element::BF16, steps(), kMap>,
                            task, grid, kThreads, shared_bytes(steps()), to);
    });
}

}  // namespace

const char* launch_sweep_sm90(Element element, const SweepTask& task, const Launch& to) {
    return task.needs_map != 0 ? launch<true>(element, task, to) : launch<false>(element, task, to);
}

}  // namespace vitrine::kernels::cuda
