// The log-sum-exp of every row in one streaming pass, by mma.sync.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kWarps = 4, kRows = 16 * kWarps, kKeys = 64;

template <Element kElement, bool kGeneral>
__global__ void __launch_bounds__(kWarps * 32) lse_kernel(const __grid_constant__ LseTask task) {
    extern __shared__ __align__(128) char shared[];
    const Problem& p = task.p;
    const int h = blockIdx.y, first = blockIdx.x * kRows;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int steps = steps_of(p.row_bytes), pitch = pitch_of(p.row_bytes);
    const std::uint32_t q_tile = shared_address(shared), k_tiles = q_tile + kRows * pitch;
    const char* q = p.q + h * p.q_stride[0];
    const char* k = p.k + h / p.group * p.k_stride[0];
    copy_rows(q_tile, pitch, kRows, steps * 2, p.row_bytes, p.q,
              [&](int row) { return first + row < p.queries ? q + (first + row) * p.q_stride[1] : nullptr; });
    const auto copy_keys = [&](int tile) {
        copy_rows(k_tiles + tile % task.stages * kKeys * pitch, pitch, kKeys, steps * 2, p.row_bytes, p.q,
                  [&](int row) {
                      const int j = tile * kKeys + row;
                      return j < p.keys ? k + j * p.k_stride[1] : nullptr;
                  });
        commit_copies();
    };
    copy_keys(0);
    const int tiles = (p.keys + kKeys - 1) / kKeys;
    float high[2] = {minus_infinity(), minus_infinity()}, sum[2] = {0, 0};
    for (int tile = 0; tile < tiles; ++tile) {
        if (task.stages == 2 && tile + 1 < tiles) {
            copy_keys(tile + 1);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        float s[1][8][4];
        clear(s);
        multiply_tiles<kElement>(s, q_tile + warp * 16 * pitch, pitch, k_tiles + tile % task.stages * kKeys * pitch,
                                 pitch, steps);
        float block_high[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const int i = first + warp * 16 + lane / 4 + w / 2 * 8;
                const int j = tile * kKeys + n * 8 + lane % 4 * 2 + w % 2;
                float x = minus_infinity();
                if constexpr (kGeneral) {
                    if (i < p.queries && j < p.keys) x = general_score(p, s[0][n][w], h, i, j);
                } else {
                    if (j < p.keys) x = s[0][n][w] * p.scale;
                }
                s[0][n][w] = x;
                block_high[w / 2] = fmaxf(block_high[w / 2], x);
            }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            block_high[half] = fmaxf(block_high[half], __shfl_xor_sync(~0U, block_high[half], 1));
            block_high[half] = fmaxf(block_high[half], __shfl_xor_sync(~0U, block_high[half], 2));
            const float new_high = fmaxf(high[half], block_high[half]);
            if (new_high == minus_infinity()) continue;  // nothing seen yet: infinity - infinity is no number
            float part = 0;
#pragma unroll
            for (int n = 0; n < 8; ++n)
#pragma unroll
                for (int w = 0; w < 2; ++w) part += exp2_fast((s[0][n][half * 2 + w] - new_high) * kLog2E);
            sum[half] = sum[half] * exp2_fast((high[half] - new_high) * kLog2E) + part;
            high[half] = new_high;
        }
        __syncthreads();
        if (task.stages == 1 && tile + 1 < tiles) copy_keys(tile + 1);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        sum[half] += __shfl_xor_sync(~0U, sum[half], 1);
        sum[half] += __shfl_xor_sync(~0U, sum[half], 2);
        const int i = first + warp * 16 + lane / 4 + half * 8;
        if (lane % 4 != 0 || i >= p.queries) continue;
        const long long at = static_cast<long long>(h) * p.queries + i;
        if (task.against == nullptr) {
            task.out[at] = high[half] == minus_infinity() ? high[half] : high[half] + logf(sum[half]);
            continue;
        }
        const bool skipped = task.r[h * task.r_head_stride + i] == 0 || high[half] == minus_infinity();
        task.out[at] = skipped ? 0.0F : sum[half] * expf(high[half] - safe_lse(task.against[at]));
    }
}

}  // namespace

const char* launch_lse(Element element, const LseTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        LseTask t = task;
        const int pitch = pitch_of(t.p.row_bytes);
        t.stages = (kRows + 2 * kKeys) * pitch <= kSharedLimit ? 2 : 1;
        const dim3 grid((t.p.queries + kRows - 1) / kRows, t.p.heads);
        const int bytes = (kRows + t.stages * kKeys) * pitch;
        return launch_kernel(is_general(t.p) ? lse_kernel<e(), true> : lse_kernel<e(), false>, t, grid, kWarps * 32,
                             bytes, launch);
    });
}

}  // namespace vitrine::kernels::cuda
