// P V from the known log-sum-exp, by mma.sync. The map's entries go from accumulators to operands in registers; halves
// are split in two, so that rounding them costs nothing against values in half precision.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kWarps = 4, kRows = 16 * kWarps, kKeys = 64, kValues = 64;

/// Two floats as two halves of a register, the rest that rounding leaves in `low`.
template <Element kElement>
__device__ __forceinline__ std::uint32_t split(float a, float b, std::uint32_t& low) {
    if constexpr (kElement == Element::F16) {
        const __half2 x = __floats2half2_rn(a, b);
        const __half2 rest = __floats2half2_rn(a - __low2float(x), b - __high2float(x));
        low = *reinterpret_cast<const std::uint32_t*>(&rest);
        return *reinterpret_cast<const std::uint32_t*>(&x);
    } else {
        const __nv_bfloat162 x = __floats2bfloat162_rn(a, b);
        const __nv_bfloat162 rest = __floats2bfloat162_rn(a - __low2float(x), b - __high2float(x));
        low = *reinterpret_cast<const std::uint32_t*>(&rest);
        return *reinterpret_cast<const std::uint32_t*>(&x);
    }
}

template <Element kElement, bool kGeneral>
__global__ void __launch_bounds__(kWarps * 32) apply_kernel(const __grid_constant__ ApplyTask task) {
    extern __shared__ __align__(128) char shared[];
    const Problem& p = task.p;
    const int h = blockIdx.y, first = blockIdx.x * kRows, first_value = blockIdx.z * kValues;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    constexpr int kSize = kElement == Element::F32 ? 4 : 2;
    constexpr int kValuePitch = kValues * kSize + 16;
    const int steps = steps_of(p.row_bytes), pitch = pitch_of(p.row_bytes);
    const int stage_bytes = kKeys * (pitch + kValuePitch);
    const std::uint32_t q_tile = shared_address(shared), stages = q_tile + kRows * pitch;
    const char* q = p.q + h * p.q_stride[0];
    const char* k = p.k + h / p.group * p.k_stride[0];
    const char* v = task.v.x + h / p.group * task.v.stride[0] + first_value * kSize;
    const int value_bytes = min(kValues, task.v.dim - first_value) * kSize;
    copy_rows(q_tile, pitch, kRows, steps * 2, p.row_bytes, p.q,
              [&](int row) { return first + row < p.queries ? q + (first + row) * p.q_stride[1] : nullptr; });
    const auto copy_stage = [&](int tile) {
        const std::uint32_t stage = stages + tile % task.stages * stage_bytes;
        copy_rows(stage, pitch, kKeys, steps * 2, p.row_bytes, p.q, [&](int row) {
            return tile * kKeys + row < p.keys ? k + (tile * kKeys + row) * p.k_stride[1] : nullptr;
        });
        copy_rows(stage + kKeys * pitch, kValuePitch, kKeys, kValues * kSize / 16, value_bytes, p.q, [&](int row) {
            return tile * kKeys + row < p.keys ? v + (tile * kKeys + row) * task.v.stride[1] : nullptr;
        });
        commit_copies();
    };
    copy_stage(0);
    float lse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int i = first + warp * 16 + lane / 4 + half * 8;
        lse[half] = i < p.queries ? safe_lse(p.lse[static_cast<long long>(h) * p.queries + i]) : plus_infinity();
    }
    const int tiles = (p.keys + kKeys - 1) / kKeys;
    float out[8][4] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        if (task.stages == 2 && tile + 1 < tiles) {
            copy_stage(tile + 1);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        const std::uint32_t stage = stages + tile % task.stages * stage_bytes;
        float s[1][8][4];
        clear(s);
        multiply_tiles<kElement>(s, q_tile + warp * 16 * pitch, pitch, stage, pitch, steps);
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const int i = first + warp * 16 + lane / 4 + w / 2 * 8;
                const int j = tile * kKeys + n * 8 + lane % 4 * 2 + w % 2;
                // Keys behind the last one lie at zero, whose entry may be infinite: their values are zero, their
                // product not.
                s[0][n][w] = j < p.keys ? exp2_fast(exponent<kGeneral>(p, s[0][n][w], h, i, j, lse[w / 2])) : 0.0F;
            }
        const std::uint32_t values = stage + kKeys * pitch;
        if constexpr (kElement == Element::F32) {
            // Key 2 t of a tile stands at the operand's place t, key 2 t + 1 at t + 4: where accumulators have them.
            const char* tile_values = shared + (values - shared_address(shared));
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                Fragment<kElement, 4> rows;
                rows.set(0, __float_as_uint(s[0][n][0]));
                rows.set(1, __float_as_uint(s[0][n][2]));
                rows.set(2, __float_as_uint(s[0][n][1]));
                rows.set(3, __float_as_uint(s[0][n][3]));
                const char* row = tile_values + (n * 8 + lane % 4 * 2) * kValuePitch + lane / 4 * 4;
#pragma unroll
                for (int d = 0; d < 8; ++d) {
                    Fragment<kElement, 2> columns;
                    columns.set(0, *reinterpret_cast<const std::uint32_t*>(row + d * 32));
                    columns.set(1, *reinterpret_cast<const std::uint32_t*>(row + kValuePitch + d * 32));
                    multiply_step<kElement>(out[d], rows, columns);
                }
            }
        } else {
#pragma unroll
            for (int n = 0; n < 8; n += 2) {
                Fragment<kElement, 4> rows, low;
                rows.x[0] = split<kElement>(s[0][n][0], s[0][n][1], low.x[0]);
                rows.x[1] = split<kElement>(s[0][n][2], s[0][n][3], low.x[1]);
                rows.x[2] = split<kElement>(s[0][n + 1][0], s[0][n + 1][1], low.x[2]);
                rows.x[3] = split<kElement>(s[0][n + 1][2], s[0][n + 1][3], low.x[3]);
#pragma unroll
                for (int d = 0; d < 8; d += 2) {
                    std::uint32_t x[4];
                    load_matrices_transposed(
                        x, values + (n * 8 + lane % 16) * kValuePitch + (d * 8 + lane / 16 * 8) * kSize);
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        Fragment<kElement, 2> columns;
                        columns.set(0, x[half * 2]);
                        columns.set(1, x[half * 2 + 1]);
                        multiply_step<kElement>(out[d + half], low, columns);
                        multiply_step<kElement>(out[d + half], rows, columns);
                    }
                }
            }
        }
        __syncthreads();
        if (task.stages == 1 && tile + 1 < tiles) copy_stage(tile + 1);
    }
#pragma unroll
    for (int d = 0; d < 8; ++d)
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const int i = first + warp * 16 + lane / 4 + w / 2 * 8;
            const int column = first_value + d * 8 + lane % 4 * 2 + w % 2;
            if (i < p.queries && column < task.v.dim)
                task.out[(static_cast<long long>(h) * p.queries + i) * task.v.dim + column] = out[d][w];
        }
}

}  // namespace

const char* launch_apply(Element element, const ApplyTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        ApplyTask t = task;
        const int pitch = pitch_of(t.p.row_bytes);
        const int stage = kKeys * (pitch + kValues * static_cast<int>(size_of(e())) + 16);
        t.stages = kRows * pitch + 2 * stage <= kSharedLimit ? 2 : 1;
        const dim3 grid((t.p.queries + kRows - 1) / kRows, t.p.heads, (t.v.dim + kValues - 1) / kValues);
        return launch_kernel(is_general(t.p) ? apply_kernel<e(), true> : apply_kernel<e(), false>, t, grid, kWarps * 32,
                             kRows * pitch + t.stages * stage, launch);
    });
}

}  // namespace vitrine::kernels::cuda
