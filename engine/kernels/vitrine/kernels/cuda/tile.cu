// A piece of the map pooled to cells by mean and maximum, by mma.sync: the map lies in shared memory 64 x 64 entries at
// a time.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kSide = 64, kWarps = 4, kThreads = kWarps * 32;

template <Element kElement, bool kGeneral>
__global__ void __launch_bounds__(kThreads) tile_kernel(const __grid_constant__ TileTask task) {
    extern __shared__ __align__(128) char shared[];
    __shared__ float part_sum[kThreads], part_high[kThreads];
    const Problem& p = task.p;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int steps = steps_of(p.row_bytes), pitch = pitch_of(p.row_bytes);
    // The operands' tiles, then the map's.
    const std::uint32_t q_tile = shared_address(shared), k_tile = q_tile + kSide * pitch;
    float* map = reinterpret_cast<float*>(shared + 2 * kSide * pitch);
    constexpr int kMapPitch = kSide + 1;
    const int cell_q = blockIdx.y * task.block, cell_k = blockIdx.x * task.block;
    // Entries of this block, of which there are at most 64 x 64 at a time: one step where cells are small, else pieces
    // of the one cell.
    const int q_begin = task.q0 + cell_q * task.pool, k_begin = task.k0 + cell_k * task.pool;
    const int q_end = min(q_begin + task.block * task.pool, task.q1);
    const int k_end = min(k_begin + task.block * task.pool, task.k1);
    float sum = 0, high = minus_infinity();  // of the one cell, over this thread's entries
    for (int q_at = q_begin; q_at < q_end; q_at += kSide)
        for (int k_at = k_begin; k_at < k_end; k_at += kSide) {
            const int rows = min(kSide, q_end - q_at), columns = min(kSide, k_end - k_at);
            float value[8][4] = {};
            const int head_begin = task.head_mean != 0 ? 0 : blockIdx.z;
            const int head_end = task.head_mean != 0 ? p.heads : head_begin + 1;
            for (int h = head_begin; h < head_end; ++h) {
                const char* q = p.q + h * p.q_stride[0];
                const char* k = p.k + h / p.group * p.k_stride[0];
                __syncthreads();
                copy_rows(q_tile, pitch, kSide, steps * 2, p.row_bytes, p.q,
                          [&](int row) { return row < rows ? q + (q_at + row) * p.q_stride[1] : nullptr; });
                copy_rows(k_tile, pitch, kSide, steps * 2, p.row_bytes, p.q,
                          [&](int row) { return row < columns ? k + (k_at + row) * p.k_stride[1] : nullptr; });
                commit_copies();
                wait_copies<0>();
                __syncthreads();
                float lse[2];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int i = q_at + warp * 16 + lane / 4 + half * 8;
                    lse[half] =
                        i < q_end ? safe_lse(p.lse[static_cast<long long>(h) * p.queries + i]) : plus_infinity();
                }
                float s[1][8][4];
                clear(s);
                multiply_tiles<kElement>(s, q_tile + warp * 16 * pitch, pitch, k_tile, pitch, steps);
#pragma unroll
                for (int n = 0; n < 8; ++n)
#pragma unroll
                    for (int w = 0; w < 4; ++w) {
                        const int i = q_at + warp * 16 + lane / 4 + w / 2 * 8;
                        const int j = k_at + n * 8 + lane % 4 * 2 + w % 2;
                        const float e = exponent<kGeneral>(p, s[0][n][w], h, i, j, lse[w / 2]);
                        // Outside the piece the sum is not looked at.
                        value[n][w] += exp2_fast(e);
                    }
            }
            const float share = task.head_mean != 0 ? static_cast<float>(p.heads) : 1.0F;
#pragma unroll
            for (int n = 0; n < 8; ++n)
#pragma unroll
                for (int w = 0; w < 4; ++w)
                    map[(warp * 16 + lane / 4 + w / 2 * 8) * kMapPitch + n * 8 + lane % 4 * 2 + w % 2] =
                        value[n][w] / share;
            __syncthreads();
            if (task.block > 1 || task.pool <= kSide) {
                // Whole cells lie in this piece: a thread sums one.
                for (int x = threadIdx.x; x < task.block * task.block; x += kThreads) {
                    const int row = x / task.block, column = x % task.block;
                    if (cell_q + row >= task.cells_q || cell_k + column >= task.cells_k) continue;
                    const int i_end = min((row + 1) * task.pool, rows), j_end = min((column + 1) * task.pool, columns);
                    float cell_sum = 0, cell_high = minus_infinity();
                    for (int i = row * task.pool; i < i_end; ++i)
                        for (int j = column * task.pool; j < j_end; ++j) {
                            cell_sum += map[i * kMapPitch + j];
                            cell_high = fmaxf(cell_high, map[i * kMapPitch + j]);
                        }
                    const long long at =
                        (static_cast<long long>(blockIdx.z) * task.cells_q + cell_q + row) * task.cells_k + cell_k +
                        column;
                    const int entries = (i_end - row * task.pool) * (j_end - column * task.pool);
                    if (task.mean != nullptr) task.mean[at] = cell_sum / static_cast<float>(entries);
                    if (task.maximum != nullptr) task.maximum[at] = cell_high;
                }
            } else {
                for (int x = threadIdx.x; x < rows * kSide; x += kThreads) {
                    if (x % kSide >= columns) continue;
                    sum += map[x / kSide * kMapPitch + x % kSide];
                    high = fmaxf(high, map[x / kSide * kMapPitch + x % kSide]);
                }
            }
        }
    if (task.block > 1 || task.pool <= kSide) return;
    part_sum[threadIdx.x] = sum;
    part_high[threadIdx.x] = high;
    __syncthreads();
    for (int step = kThreads / 2; step > 0; step /= 2) {
        if (threadIdx.x < step) {
            part_sum[threadIdx.x] += part_sum[threadIdx.x + step];
            part_high[threadIdx.x] = fmaxf(part_high[threadIdx.x], part_high[threadIdx.x + step]);
        }
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    const long long at = (static_cast<long long>(blockIdx.z) * task.cells_q + cell_q) * task.cells_k + cell_k;
    const float entries = static_cast<float>(q_end - q_begin) * static_cast<float>(k_end - k_begin);
    if (task.mean != nullptr) task.mean[at] = part_sum[0] / entries;
    if (task.maximum != nullptr) task.maximum[at] = part_high[0];
}

}  // namespace

const char* launch_tile(Element element, const TileTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        TileTask t = task;
        t.block = max(1, kSide / t.pool);
        const dim3 grid((t.cells_k + t.block - 1) / t.block, (t.cells_q + t.block - 1) / t.block,
                        t.head_mean != 0 ? 1 : t.p.heads);
        if (grid.y > 65535) return "the piece has too many cells for one launch";
        const int bytes = 2 * kSide * pitch_of(t.p.row_bytes) + kSide * (kSide + 1) * 4;
        return launch_kernel(is_general(t.p) ? tile_kernel<e(), true> : tile_kernel<e(), false>, t, grid, kThreads,
                             bytes, launch);
    });
}

}  // namespace vitrine::kernels::cuda
