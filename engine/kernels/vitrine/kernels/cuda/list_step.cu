// What list_step.h describes. A token's rows are gathered once: they stay in registers between what they say and their
// products with where that is wrong.
#include <vitrine/kernels/cuda/list_step.h>

#include <vitrine/kernels/cuda/device.cuh>

namespace vitrine::kernels::cuda {
namespace {

using Index = std::int64_t;
constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kAtOnce = 32;  ///< terms of a token that are held

template <int kWide>
struct Vector {
    float x[kWide];
};

template <int kWide>
__device__ __forceinline__ Vector<kWide> load(const float* p) {
    Vector<kWide> out;
    if constexpr (kWide == 4) {
        const float4 v = *reinterpret_cast<const float4*>(p);
        out.x[0] = v.x, out.x[1] = v.y, out.x[2] = v.z, out.x[3] = v.w;
    } else {
        const float2 v = *reinterpret_cast<const float2*>(p);
        out.x[0] = v.x, out.x[1] = v.y;
    }
    return out;
}
template <int kWide>
__device__ __forceinline__ void store(float* p, const Vector<kWide>& v) {
    if constexpr (kWide == 4)
        *reinterpret_cast<float4*>(p) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
    else
        *reinterpret_cast<float2*>(p) = make_float2(v.x[0], v.x[1]);
}

__device__ __forceinline__ float over_lanes(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
    return x;
}

/// Lanes halve what they have and give away: in the end lane j has, first of all, the warp's j-th sum.
template <int kStep>
__device__ __forceinline__ void halve(float (&x)[kAtOnce], int lane) {
    const bool upper = (lane & kStep) != 0;
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
        const float given = upper ? x[j] : x[j + kStep];
        x[j] = (upper ? x[j + kStep] : x[j]) + __shfl_xor_sync(kAll, given, kStep);
    }
    if constexpr (kStep > 1) halve<kStep / 2>(x, lane);
}

/// A block makes a token; a thread has kWide of its numbers, and those of all rows that it names.
template <int kWide, int kMost, int kBlocks>
__global__ void __launch_bounds__(kMost, kBlocks) error_kernel(const __grid_constant__ ListError t) {
    constexpr int kMostWarps = kMost / 32;
    __shared__ Index row_of[kAtOnce];
    __shared__ float value_of[kAtOnce];
    __shared__ float over[kMostWarps][kAtOnce + 1];
    __shared__ float sums[3];
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int warps = static_cast<int>(blockDim.x) / 32, d = static_cast<int>(t.lists.d), from = thread * kWide;
    const bool there = from < d;
    const Index i = blockIdx.x;
    const Index begin = t.lists.starts != nullptr ? t.lists.starts[i] : i * t.lists.k,
                end = t.lists.starts != nullptr ? t.lists.starts[i + 1] : begin + t.lists.k;
    const auto* rows = static_cast<const float*>(t.lists.rows) + from;
    Vector<kWide> held[kAtOnce], said{};
    int some = 0, active_latents = 0;
    const auto take = [&](Index at, bool first_time) {
        __syncthreads();
        some = static_cast<int>(min(static_cast<Index>(kAtOnce), end - at));
        if (thread < kAtOnce) {
            float value = 0;
            if (thread < some) {
                value = t.lists.values[at + thread];
                if (!t.keep_negative && value < 0) value = 0;
                row_of[thread] = t.lists.indices[at + thread] * d;
                if (first_time) t.active[at + thread] = value;
            }
            value_of[thread] = value;
            if (first_time) active_latents += __popc(__ballot_sync(kAll, value != 0));
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) held[j] = j < some && there ? load<kWide>(rows + row_of[j]) : Vector<kWide>{};
    };
    Index last = begin;
    for (Index at = begin; at < end; at += kAtOnce) {
        take(at, true);
        last = at;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            const float value = value_of[j];
#pragma unroll
            for (int e = 0; e < kWide; ++e) said.x[e] = fmaf(value, held[j].x[e], said.x[e]);
        }
    }
    const float scale = t.scale != nullptr ? t.scale[i] : 1, shift = t.shift != nullptr ? t.shift[i] : 0;
    Vector<kWide> error{};
    float part[3] = {};  // square error, square, square from the centre
    if (there) {
        const auto bias = load<kWide>(t.bias + from), x = load<kWide>(t.x + i * d + from),
                   centre = load<kWide>(t.centre + from);
        Vector<kWide> made;
#pragma unroll
        for (int e = 0; e < kWide; ++e) {
            made.x[e] = said.x[e] + bias.x[e];
            if (t.scale != nullptr) made.x[e] *= scale;
            if (t.shift != nullptr) made.x[e] += shift;
            error.x[e] = made.x[e] - x.x[e];
            const float off = x.x[e] - centre.x[e];
            part[0] = fmaf(error.x[e], error.x[e], part[0]);
            part[1] = fmaf(x.x[e], x.x[e], part[1]);
            part[2] = fmaf(off, off, part[2]);
        }
        if (t.made != nullptr) store(t.made + i * d + from, made);
    }
#pragma unroll
    for (int q = 0; q < 3; ++q) {
        part[q] = over_lanes(part[q]);
        if (lane == 0) over[warp][q] = part[q];
    }
    __syncthreads();
    if (thread < 3) {
        float all = 0;
        for (int w = 0; w < warps; ++w) all += over[w][thread];
        sums[thread] = all;
    }
    __syncthreads();
    float weight = t.factor;
    if (t.over == ErrorOver::MeanSquare) weight /= sums[1] / static_cast<float>(d);
    if (t.over == ErrorOver::CentredLength) weight /= sqrtf(sums[2]);
    if (thread == 0)
        *reinterpret_cast<float4*>(t.sums + i * 4) =
            make_float4(weight * sums[0], sums[0], sums[2], static_cast<float>(active_latents));
    Vector<kWide> slope;
#pragma unroll
    for (int e = 0; e < kWide; ++e) slope.x[e] = 2 * weight * scale * error.x[e];
    if (there) store(t.d_said + i * d + from, slope);
    for (Index at = last; end > begin && at >= begin; at -= kAtOnce) {
        if (at != last) take(at, false);
        float product[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            product[j] = 0;
#pragma unroll
            for (int e = 0; e < kWide; ++e) product[j] = fmaf(held[j].x[e], slope.x[e], product[j]);
        }
        halve<16>(product, lane);
        __syncthreads();  // the sums above are read
        over[warp][lane] = product[0];
        __syncthreads();
        if (thread < some) {
            float all = 0;
            for (int w = 0; w < warps; ++w) all += over[w][thread];
            t.d_values[at + thread] = t.keep_negative || value_of[thread] > 0 ? all : 0;
        }
    }
}

constexpr int kFinishThreads = 1024;

struct FinishTask {
    ListFigures figures;
    ListUpdate update;
};

/// Sums over the block, the same order always. All threads call it and all get the sums.
template <int kCount>
__device__ __forceinline__ void over_block(float (&x)[kCount]) {
    __shared__ float parts[kFinishThreads / 32][kCount];
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kCount; ++q) {
        const float all = over_lanes(x[q]);
        if (lane == 0) parts[warp][q] = all;
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kCount; ++q) x[q] = over_lanes(parts[lane][q]);
}
static_assert(kFinishThreads == 1024, "a warp's lanes are the block's warps");

__global__ void __launch_bounds__(kFinishThreads) finish_kernel(const __grid_constant__ FinishTask t) {
    const auto thread = static_cast<Index>(threadIdx.x);
    if (t.figures.figures != nullptr) {
        float sum[4] = {};
#pragma unroll 4
        for (Index i = thread; i < t.figures.n; i += kFinishThreads) {
            const float4 of = *reinterpret_cast<const float4*>(t.figures.sums + i * 4);
            sum[0] += of.x, sum[1] += of.y, sum[2] += of.z, sum[3] += of.w;
        }
        over_block(sum);
        if (thread == 0) {
            float* f = t.figures.figures;
            const float revival = t.figures.revival != nullptr ? *t.figures.revival * t.figures.revival_share : 0;
            f[0] = sum[0] + revival;
            f[1] = sum[0];
            f[2] = 0;
            f[3] = revival;
            f[4] = sum[1];
            f[5] = static_cast<float>(sum[3] / t.figures.tokens);
            f[6] = 0;
            f[7] = sum[2];
        }
    }
    const ListUpdate& u = t.update;
    if (u.scalars == nullptr) return;
    float sum[2] = {};  // square of all gradients, latents that are silent
    const Index m = u.sizes[0], d = u.sizes[1];
#pragma unroll 4
    for (Index r = thread; r < m; r += kFinishThreads) {
        const float slope = u.slopes[0][r];
        sum[0] += u.squares[0][r] + u.squares[1][r] + slope * slope;
        const Index silent = u.silent[r];
        sum[1] += silent > u.window ? 1 : 0;
        u.silent[r] = u.heard[r] != 0 ? 0 : min(silent + u.batch, u.longest);
    }
    for (Index c = thread; c < d; c += kFinishThreads) sum[0] = fmaf(u.slopes[1][c], u.slopes[1][c], sum[0]);
    over_block(sum);
    if (thread != 0) return;
    u.figures[4] = 1 - u.figures[4] / fmaxf(u.figures[7], 1e-30F);
    u.figures[6] = sum[1] / static_cast<float>(m);
    const float norm = sqrtf(sum[0]), factor = static_cast<float>(u.clip) / (norm + 1e-6F);
    const float count = *u.counts[0] + 1;
    for (float* const of : u.counts) *of += 1;
    const double rate = u.rate_there != nullptr ? static_cast<double>(*u.rate_there) : u.rate;
    // A norm that is no number stays one.
    u.scalars[0] = u.clip > 0 && !(factor >= 1) ? factor : 1;
    u.scalars[1] = static_cast<float>(rate / (1 - pow(u.beta1, static_cast<double>(count))));
    u.scalars[2] = static_cast<float>(sqrt(1 - pow(u.beta2, static_cast<double>(count))));
    u.scalars[3] = norm;
}

constexpr int kPartThreads = 256;

/// A warp has 128 columns of every 8th row of a part.
__global__ void __launch_bounds__(kPartThreads) column_parts_kernel(const __grid_constant__ ColumnSums t) {
    constexpr int kRows = kPartThreads / 32;
    __shared__ float of_warp[kRows][128];
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const Index column = static_cast<Index>(blockIdx.x) * 128 + lane * 4, part = blockIdx.y;
    Vector<4> sum{}, off{};
    if (column < t.d) {
        if (t.taken_off != nullptr) off = load<4>(t.taken_off + column);
#pragma unroll 4
        for (Index i = t.n * part / kColumnParts + warp; i < t.n * (part + 1) / kColumnParts; i += kRows) {
            auto x = load<4>(t.x + i * t.d + column);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                sum.x[e] += x.x[e];
                x.x[e] -= off.x[e];
            }
            if (t.less != nullptr) store(t.less + i * t.d + column, x);
        }
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) of_warp[warp][lane * 4 + e] = sum.x[e];
    __syncthreads();
    const Index own = static_cast<Index>(blockIdx.x) * 128 + threadIdx.x;
    if (threadIdx.x >= 128 || own >= t.d) return;
    float all = 0;
#pragma unroll
    for (int w = 0; w < kRows; ++w) all += of_warp[w][threadIdx.x];
    t.parts[part * t.d + own] = all;
}

constexpr int kEndThreads = 256;

/// A block ends a column where one of a matrix is taken off, else a warp does.
__global__ void __launch_bounds__(kEndThreads) column_ends_kernel(const __grid_constant__ ColumnSums t) {
    __shared__ float of_warp[kEndThreads / 32];
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const bool taken = t.weights != nullptr;
    const Index column = taken ? blockIdx.x : static_cast<Index>(blockIdx.x) * (kEndThreads / 32) + warp;
    if (column >= t.d) return;
    static_assert(kColumnParts == 32, "a lane has a part");
    const float all = over_lanes(t.parts[lane * t.d + column]) * t.factor;
    float product = 0;
    if (taken) {
#pragma unroll 8
        for (Index r = threadIdx.x; r < t.m; r += kEndThreads)
            product = fmaf(t.columns[column * t.m + r], t.weights[r], product);
        product = over_lanes(product);
        if (lane == 0) of_warp[warp] = product;
        __syncthreads();
        product = 0;
        for (int w = 0; w < kEndThreads / 32; ++w) product += of_warp[w];
        if (warp != 0) return;
    }
    if (lane == 0) t.sums[column] = all - product + (t.plus != nullptr ? t.plus[column] : 0);
}

struct SquaresTask {
    const float* x;
    float* squares;
    Index rows, d;
};
constexpr int kWarps = 8;

__global__ void __launch_bounds__(kWarps * 32) squares_kernel(const __grid_constant__ SquaresTask t) {
    const Index row = static_cast<Index>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (row >= t.rows) return;
    float sum = 0;
#pragma unroll 4
    for (Index x = threadIdx.x % 32; x < t.d; x += 32) {
        const float of = t.x[row * t.d + x];
        sum = fmaf(of, of, sum);
    }
    sum = over_lanes(sum);
    if (threadIdx.x % 32 == 0) t.squares[row] = sum;
}

constexpr int kTileRows = 32, kTileColumns = 128;  ///< of [d, m]

struct AdamTask {
    ListAdam p;
    int row_blocks, tiles_across, tile_blocks;
};

/// One number's step: gives the new weight.
struct Adam {
    float clip, size, correction, beta1, beta2, epsilon;
    __device__ explicit Adam(const ListAdam& p)
        : clip(p.scalars[0]),
          size(p.scalars[1]),
          correction(p.scalars[2]),
          beta1(p.beta1),
          beta2(p.beta2),
          epsilon(p.epsilon) {}
    __device__ __forceinline__ float operator()(float weight, float slope, float& first, float& second) const {
        slope *= clip;
        first = beta1 * first + (1 - beta1) * slope;
        second = beta2 * second + (1 - beta2) * slope * slope;
        return weight - size * first / (sqrtf(second) / correction + epsilon);
    }
};

/// First a warp for each row, then a block for each tile of the columns, then the biases.
template <int kWide, int kNumbers>
__global__ void __launch_bounds__(kWarps * 32, 2) adam_kernel(const __grid_constant__ AdamTask t) {
    __shared__ float tile[kTileRows][kTileColumns + 1];
    const ListAdam& p = t.p;
    const Adam adam(p);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    int block = static_cast<int>(blockIdx.x);
    if (block < t.row_blocks) {
        const Index row = static_cast<Index>(block) * kWarps + warp;
        if (row >= p.m) return;
        Vector<kWide> weight[kNumbers];
        float square = 0;
        constexpr int kEach = 2;  // vectors that are under way at once
#pragma unroll
        for (int begin = 0; begin < kNumbers; begin += kEach) {
            Vector<kWide> first[kEach], second[kEach], slope[kEach];
#pragma unroll
            for (int h = 0; h < kEach; ++h) {
                const int from = ((begin + h) * 32 + lane) * kWide;
                if (from >= p.d) continue;
                const Index at = row * p.d + from;
                weight[begin + h] = load<kWide>(p.rows.weight + at);
                first[h] = load<kWide>(p.rows.first + at);
                second[h] = load<kWide>(p.rows.second + at);
                slope[h] = load<kWide>(p.rows.gradient + at);
            }
#pragma unroll
            for (int h = 0; h < kEach; ++h) {
                const int from = ((begin + h) * 32 + lane) * kWide;
                if (from >= p.d) continue;
                Vector<kWide>& of = weight[begin + h];
#pragma unroll
                for (int e = 0; e < kWide; ++e) {
                    of.x[e] = adam(of.x[e], slope[h].x[e], first[h].x[e], second[h].x[e]);
                    square = fmaf(of.x[e], of.x[e], square);
                }
                store(p.rows.first + row * p.d + from, first[h]);
                store(p.rows.second + row * p.d + from, second[h]);
            }
        }
        static_assert(kNumbers % kEach == 0, "vectors come in whole groups");
        const float length = fmaxf(sqrtf(over_lanes(square)), 1e-12F);
#pragma unroll
        for (int h = 0; h < kNumbers; ++h) {
            const int from = (h * 32 + lane) * kWide;
            if (from >= p.d) continue;
#pragma unroll
            for (int e = 0; e < kWide; ++e) weight[h].x[e] /= length;
            store(p.rows.weight + row * p.d + from, weight[h]);
        }
        return;
    }
    block -= t.row_blocks;
    if (block < t.tile_blocks) {
        const Index first_column = static_cast<Index>(block % t.tiles_across) * kTileColumns,
                    first_row = static_cast<Index>(block / t.tiles_across) * kTileRows;
#pragma unroll 8
        for (int c = warp; c < kTileColumns; c += kWarps)
            if (first_column + c < p.m && first_row + lane < p.d)
                tile[lane][c] = __ldcs(p.columns.gradient + (first_column + c) * p.d + first_row + lane);
        __syncthreads();
        constexpr int kEach = kTileColumns / 32;
#pragma unroll
        for (int r = warp; r < kTileRows; r += kWarps) {
            if (first_row + r >= p.d) break;
            const Index at = (first_row + r) * p.m + first_column + lane;
            float weight[kEach], first[kEach], second[kEach];
#pragma unroll
            for (int c = 0; c < kEach; ++c) {
                if (first_column + lane + c * 32 >= p.m) continue;
                weight[c] = p.columns.weight[at + c * 32];
                first[c] = __ldcs(p.columns.first + at + c * 32);
                second[c] = __ldcs(p.columns.second + at + c * 32);
            }
#pragma unroll
            for (int c = 0; c < kEach; ++c) {
                if (first_column + lane + c * 32 >= p.m) continue;
                p.columns.weight[at + c * 32] = adam(weight[c], tile[r][lane + c * 32], first[c], second[c]);
                __stcs(p.columns.first + at + c * 32, first[c]);
                __stcs(p.columns.second + at + c * 32, second[c]);
            }
        }
        return;
    }
    block -= t.tile_blocks;
    const Index at = static_cast<Index>(block) * kWarps * 32 + threadIdx.x;
    const int which = at < p.m ? 0 : 1;
    const Index x = at - which * p.m;
    if (which == 1 && x >= p.d) return;
    const AdamTensor& of = p.biases[which];
    float first = of.first[x], second = of.second[x];
    of.weight[x] = adam(of.weight[x], of.gradient[x], first, second);
    of.first[x] = first;
    of.second[x] = second;
}

template <class... T>
bool aligned(const T*... pointers) {
    return ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace

bool list_step_takes(std::int64_t d) noexcept { return d > 0 && d % 4 == 0 && d <= kWidestRow; }

const char* list_error(const ListError& p, const Launch& launch) noexcept {
    const DeviceSparseRows& lists = p.lists;
    if (const char* problem = cannot_run(lists, 80)) return problem;
    if (lists.element != Element::F32) return "rows are not fp32";
    if (!list_step_takes(lists.d)) return "rows are too long or no whole vectors";
    if (!aligned(static_cast<const char*>(lists.rows), p.bias, p.x, p.centre, p.d_said, p.made, p.sums))
        return "memory does not begin at a whole vector";
    if (lists.n == 0) return nullptr;
    const dim3 grid(static_cast<unsigned>(lists.n));
    const auto threads = [&](int wide) { return static_cast<int>((lists.d / wide + 31) / 32 * 32); };
    if (lists.d <= 512) return launch_kernel(error_kernel<2, 256, 2>, p, grid, threads(2), 0, launch);
    if (lists.d <= 768) return launch_kernel(error_kernel<4, 192, 2>, p, grid, threads(4), 0, launch);
    return launch_kernel(error_kernel<4, 384, 1>, p, grid, threads(4), 0, launch);
}

const char* list_finish(const ListFigures* figures, const ListUpdate* update, const Launch& launch) noexcept {
    FinishTask t{};
    if (figures != nullptr) t.figures = *figures;
    if (update != nullptr) t.update = *update;
    return launch_kernel(finish_kernel, t, dim3(1), kFinishThreads, 0, launch);
}

const char* column_sums(const ColumnSums& p, const Launch& launch) noexcept {
    if (p.d < 1 || p.d % 4 != 0) return "rows are no whole vectors";
    if (!aligned(p.x, p.taken_off, p.less)) return "memory does not begin at a whole vector";
    const dim3 grid(static_cast<unsigned>((p.d + 127) / 128), kColumnParts);
    if (const char* problem = launch_kernel(column_parts_kernel, p, grid, kPartThreads, 0, launch)) return problem;
    constexpr Index kEach = kEndThreads / 32;
    const Index ends = p.weights != nullptr ? p.d : (p.d + kEach - 1) / kEach;
    return launch_kernel(column_ends_kernel, p, dim3(static_cast<unsigned>(ends)), kEndThreads, 0, launch);
}

const char* row_squares(const float* x, std::int64_t rows, std::int64_t d, float* squares,
                        const Launch& launch) noexcept {
    const SquaresTask t{x, squares, rows, d};
    if (rows == 0) return nullptr;
    return launch_kernel(squares_kernel, t, dim3(static_cast<unsigned>((rows + kWarps - 1) / kWarps)), kWarps * 32, 0,
                         launch);
}

const char* list_adam(const ListAdam& p, const Launch& launch) noexcept {
    if (!list_step_takes(p.d) || p.m < 1 || p.m > (1 << 30)) return "rows are too long or no whole vectors";
    if (!aligned(p.rows.weight, p.rows.first, p.rows.second, p.rows.gradient))
        return "memory does not begin at a whole vector";
    AdamTask t{p, 0, 0, 0};
    t.row_blocks = static_cast<int>((p.m + kWarps - 1) / kWarps);
    t.tiles_across = static_cast<int>((p.m + kTileColumns - 1) / kTileColumns);
    t.tile_blocks = t.tiles_across * static_cast<int>((p.d + kTileRows - 1) / kTileRows);
    const auto biases = static_cast<int>((p.m + p.d + kWarps * 32 - 1) / (kWarps * 32));
    const dim3 grid(static_cast<unsigned>(t.row_blocks + t.tile_blocks + biases));
    const auto run = [&](auto kernel) { return launch_kernel(kernel, t, grid, kWarps * 32, 0, launch); };
    if (p.d <= 256) return run(adam_kernel<2, 4>);
    if (p.d <= 512) return run(adam_kernel<4, 4>);
    if (p.d <= 768) return run(adam_kernel<4, 6>);
    if (p.d <= 1024) return run(adam_kernel<4, 8>);
    return run(adam_kernel<4, 12>);
}

}  // namespace vitrine::kernels::cuda
