// Chosen rows or columns of many layers in one launch: the streamed side goes from device memory straight into the
// fragments of mma.sync, once.
//
// A product of two rows does not depend on the order of its terms, so a lane takes 16 adjacent bytes of a row as its
// part of two steps, for both sides alike: four lanes read 64 bytes of a row, and nothing passes through shared memory.
#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kWarps = 4, kTiles = 2, kStream = kWarps * kTiles * 16, kFixed = 8;

template <Element kElement>
__global__ void __launch_bounds__(kWarps * 32) strip_kernel(const __grid_constant__ StripTask task) {
    const StripLayer& layer = task.layer[blockIdx.y];
    const Problem& p = layer.p;
    const int streamed = task.rows != 0 ? p.keys : p.queries;
    const int groups = (task.listed + kFixed - 1) / kFixed;
    const int group = blockIdx.z % groups, first_head = blockIdx.z / groups;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // Warps share the streamed rows out, or, where a mean is wanted, the heads of the same rows.
    const bool mean_wanted = task.mean != 0;
    const int first = mean_wanted ? blockIdx.x * kTiles * 16 : blockIdx.x * kStream + warp * kTiles * 16;
    if (first >= streamed || first_head >= p.heads) return;
    const int begin_head = mean_wanted ? warp : first_head, end_head = mean_wanted ? p.heads : first_head + 1;
    const auto listed = [&](int x) {
        if (x >= task.listed) return -1;
        return static_cast<int>(task.list != nullptr ? task.list[x] : task.host_list[x]);
    };
    const int fixed_row = listed(group * kFixed + g);
    const int fixed[2] = {listed(group * kFixed + t * 2), listed(group * kFixed + t * 2 + 1)};
    float mean[kTiles][4] = {};
    for (int h = begin_head; h < end_head; h += kWarps) {
        const char* q = p.q + h * p.q_stride[0];
        const char* k = p.k + h / p.group * p.k_stride[0];
        const char* stream_side = task.rows != 0 ? k : q;
        const char* fixed_side = task.rows != 0 ? q : k;
        const long long stream_stride = task.rows != 0 ? p.k_stride[1] : p.q_stride[1];
        const long long fixed_stride = task.rows != 0 ? p.q_stride[1] : p.k_stride[1];
        const char* b = fixed_row < 0 ? nullptr : fixed_side + fixed_row * fixed_stride;
        const char* a[kTiles][2];
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = first + m * 16 + half * 8 + g;
                a[m][half] = row < streamed ? stream_side + row * stream_stride : nullptr;
            }
        float s[kTiles][4] = {};
#pragma unroll 2
        for (int at = t * 16; at < (p.row_bytes + 63) / 64 * 64; at += 64) {
            const bool inside = at < p.row_bytes;
            const uint4 zero = make_uint4(0, 0, 0, 0);
            uint4 x[kTiles][2];
#pragma unroll
            for (int m = 0; m < kTiles; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    x[m][half] =
                        inside && a[m][half] != nullptr ? __ldg(reinterpret_cast<const uint4*>(a[m][half] + at)) : zero;
            const uint4 y = inside && b != nullptr ? __ldg(reinterpret_cast<const uint4*>(b + at)) : zero;
#pragma unroll
            for (int m = 0; m < kTiles; ++m) {
                Fragment<kElement, 4> rows;
                Fragment<kElement, 2> columns;
                rows.set(0, x[m][0].x);
                rows.set(1, x[m][1].x);
                rows.set(2, x[m][0].y);
                rows.set(3, x[m][1].y);
                columns.set(0, y.x);
                columns.set(1, y.y);
                multiply_step<kElement>(s[m], rows, columns);
                rows.set(0, x[m][0].z);
                rows.set(1, x[m][1].z);
                rows.set(2, x[m][0].w);
                rows.set(3, x[m][1].w);
                columns.set(0, y.z);
                columns.set(1, y.w);
                multiply_step<kElement>(s[m], rows, columns);
            }
        }
        const float* lse = p.lse + static_cast<long long>(h) * p.queries;
#pragma unroll
        for (int m = 0; m < kTiles; ++m)
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const int other = first + m * 16 + w / 2 * 8 + g;
                if (other >= streamed || fixed[w % 2] < 0) continue;
                const int i = task.rows != 0 ? fixed[w % 2] : other, j = task.rows != 0 ? other : fixed[w % 2];
                const float value = exp2_fast(exponent<true>(p, s[m][w], h, i, j, safe_lse(lse[i])));
                mean[m][w] += value;
                if (layer.out == nullptr) continue;
                const long long x = group * kFixed + t * 2 + w % 2;
                const long long at =
                    task.rows != 0 ? x * streamed + other : other * static_cast<long long>(task.listed) + x;
                layer.out[static_cast<long long>(h) * streamed * task.listed + at] = value;
            }
    }
    if (!mean_wanted || layer.mean == nullptr) return;
    __shared__ float parts[kWarps][kTiles * 4][32];
#pragma unroll
    for (int x = 0; x < kTiles * 4; ++x) parts[warp][x][lane] = mean[x / 4][x % 4];
    __syncthreads();
    if (warp != 0) return;
#pragma unroll
    for (int m = 0; m < kTiles; ++m)
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const int other = first + m * 16 + w / 2 * 8 + g;
            if (other >= streamed || fixed[w % 2] < 0) continue;
            const long long x = group * kFixed + t * 2 + w % 2;
            const long long at =
                task.rows != 0 ? x * streamed + other : other * static_cast<long long>(task.listed) + x;
            float sum = 0;
            for (int part = 0; part < kWarps; ++part) sum += parts[part][m * 4 + w][lane];
            layer.mean[at] = sum / static_cast<float>(p.heads);
        }
}

}  // namespace

const char* launch_strip(Element element, const StripTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        int streamed = 0, heads = 1;
        for (int l = 0; l < task.layers; ++l) {
            const Problem& p = task.layer[l].p;
            streamed = max(streamed, task.rows != 0 ? p.keys : p.queries);
            heads = max(heads, p.heads);
        }
        const int groups = (task.listed + kFixed - 1) / kFixed;
        const int rows = task.mean != 0 ? kTiles * 16 : kStream;
        const dim3 grid((streamed + rows - 1) / rows, task.layers, groups * (task.mean != 0 ? 1 : heads));
        if (grid.z > 65535) return "too many rows or columns are listed for one launch";
        return launch_kernel(strip_kernel<e()>, task, grid, kWarps * 32, 0, launch);
    });
}

}  // namespace vitrine::kernels::cuda
