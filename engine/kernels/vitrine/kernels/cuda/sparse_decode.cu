// Sums of few rows, gathered by warps, and their gradients. The gradient to the rows needs no sort and no atomic sum:
// a bit for each row and sum says who names whom, and reading the bits in order is the order of the sum.
#include <vitrine/kernels/cuda/sparse_decode.h>

#include <vitrine/kernels/cuda/device.cuh>

#include <cuda_bf16.h>

namespace vitrine::kernels::cuda {
namespace {

using Index = std::int64_t;

constexpr int kWarps = 8, kThreads = kWarps * 32;
/// Numbers of a row that a lane holds at once, in vectors of kWide (1 where rows are no multiple of 16 bytes).
constexpr int kHeld = 2;
constexpr unsigned kAll = 0xFFFFFFFFU;

template <int kWide>
struct Vector {
    float x[kWide];
};

template <Element kElement, int kWide>
__device__ __forceinline__ Vector<kWide> load(const void* base, Index at) {
    Vector<kWide> out;
    if constexpr (kElement == Element::F32) {
        const float* p = static_cast<const float*>(base) + at;
        if constexpr (kWide == 4) {
            const float4 v = __ldg(reinterpret_cast<const float4*>(p));
            out.x[0] = v.x, out.x[1] = v.y, out.x[2] = v.z, out.x[3] = v.w;
        } else if constexpr (kWide == 2) {
            const float2 v = __ldg(reinterpret_cast<const float2*>(p));
            out.x[0] = v.x, out.x[1] = v.y;
        } else {
            out.x[0] = __ldg(p);
        }
    } else {
        const __nv_bfloat16* p = static_cast<const __nv_bfloat16*>(base) + at;
        if constexpr (kWide == 4) {
            const uint2 v = __ldg(reinterpret_cast<const uint2*>(p));
            out.x[0] = __uint_as_float(v.x << 16), out.x[1] = __uint_as_float(v.x & 0xFFFF0000U);
            out.x[2] = __uint_as_float(v.y << 16), out.x[3] = __uint_as_float(v.y & 0xFFFF0000U);
        } else {
            out.x[0] = __bfloat162float(*p);
        }
    }
    return out;
}

template <int kWide>
__device__ __forceinline__ void store(float* to, const Vector<kWide>& v) {
    if constexpr (kWide == 4)
        *reinterpret_cast<float4*>(to) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
    else if constexpr (kWide == 2)
        *reinterpret_cast<float2*>(to) = make_float2(v.x[0], v.x[1]);
    else
        *to = v.x[0];
}

template <int kWide>
__device__ __forceinline__ void add(Vector<kWide>& sum, float weight, const Vector<kWide>& v) {
#pragma unroll
    for (int e = 0; e < kWide; ++e) sum.x[e] = fmaf(weight, v.x[e], sum.x[e]);
}

struct SparseTask {
    const Index* indices;
    const float* values;
    const void* rows;
    const Index* starts;
    int n, k, m, d;
    const float* d_out;
    float* out;  // of decode [n, d], of the values' gradient as many as values
    RowGradient gradient[2];
    int gradients;
    float* heard;    // [m] or null
    unsigned* bits;  // [m, words]
    int* counts;     // [m]: how many sums name a row; null: a block makes each row
    int words;
};

__device__ __forceinline__ Index first_term(const SparseTask& t, int i) {
    return t.starts != nullptr ? __ldg(t.starts + i) : static_cast<Index>(i) * t.k;
}

/// A warp makes 32 * kWide * kHeld numbers of one sum.
template <Element kElement, int kWide>
__global__ void __launch_bounds__(kThreads) decode_kernel(const __grid_constant__ SparseTask t) {
    constexpr int kChunk = 32 * kWide * kHeld;
    const int chunks = (t.d + kChunk - 1) / kChunk, lane = threadIdx.x % 32;
    const Index warp = static_cast<Index>(blockIdx.x) * kWarps + threadIdx.x / 32;
    if (warp >= static_cast<Index>(t.n) * chunks) return;
    const int i = static_cast<int>(warp / chunks), from = static_cast<int>(warp % chunks) * kChunk + lane * kWide;
    Vector<kWide> sum[kHeld] = {};
    const Index end = first_term(t, i + 1);
    for (Index at = first_term(t, i); at < end; at += 32) {
        // Lanes read a term each and tell it to all.
        const int some = static_cast<int>(min(static_cast<Index>(32), end - at));
        const int row_of = lane < some ? static_cast<int>(__ldg(t.indices + at + lane)) : 0;
        const float value_of = lane < some ? __ldg(t.values + at + lane) : 0;
#pragma unroll 4
        for (int j = 0; j < some; ++j) {
            const Index row = __shfl_sync(kAll, row_of, j);
            const float value = __shfl_sync(kAll, value_of, j);
#pragma unroll
            for (int h = 0; h < kHeld; ++h)
                if (from + h * 32 * kWide < t.d)
                    add(sum[h], value, load<kElement, kWide>(t.rows, row * t.d + from + h * 32 * kWide));
        }
    }
#pragma unroll
    for (int h = 0; h < kHeld; ++h)
        if (from + h * 32 * kWide < t.d) store(t.out + static_cast<Index>(i) * t.d + from + h * 32 * kWide, sum[h]);
}

__device__ __forceinline__ float over_lanes(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
    return x;
}

/// A warp makes kEach of one sum's gradients at a time; two warps share a sum.
template <Element kElement, int kWide>
__global__ void __launch_bounds__(kThreads) value_gradient_kernel(const __grid_constant__ SparseTask t) {
    constexpr int kEach = 4, kShare = 2;
    const int lane = threadIdx.x % 32;
    const Index warp = static_cast<Index>(blockIdx.x) * kWarps + threadIdx.x / 32;
    const Index i = warp / kShare;
    if (i >= t.n) return;
    const Index end = first_term(t, static_cast<int>(i) + 1);
    for (Index at = first_term(t, static_cast<int>(i)) + warp % kShare * kEach; at < end; at += kShare * kEach) {
        const int some = static_cast<int>(min(static_cast<Index>(kEach), end - at));
        Index row[kEach];
        float sum[kEach] = {};
#pragma unroll
        for (int j = 0; j < kEach; ++j) row[j] = __ldg(t.indices + at + min(j, some - 1)) * t.d;
        for (int x = lane * kWide; x < t.d; x += 32 * kWide) {
            const auto d = load<Element::F32, kWide>(t.d_out, i * t.d + x);
#pragma unroll
            for (int j = 0; j < kEach; ++j) {
                const auto r = load<kElement, kWide>(t.rows, row[j] + x);
#pragma unroll
                for (int e = 0; e < kWide; ++e) sum[j] = fmaf(r.x[e], d.x[e], sum[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
            const float all = over_lanes(sum[j]);
            if (lane == 0 && j < some) t.out[at + j] = all;
        }
    }
}

/// A bit for each row that a sum names.
__global__ void __launch_bounds__(kThreads) mark_kernel(const __grid_constant__ SparseTask t) {
    const int i = static_cast<int>((static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x) / 32);
    if (i >= t.n) return;
    const Index end = first_term(t, i + 1);
    for (Index at = first_term(t, i) + threadIdx.x % 32; at < end; at += 32)
        atomicOr(t.bits + __ldg(t.indices + at) * t.words + i / 32, 1U << (i % 32));
}

struct Entry {
    int token;
    float weight[2];  // in each gradient
};

/// Adds to `list` from `filled` on the sums that this lane's word names, in order over the lanes; gives how many now.
__device__ __forceinline__ int append(Entry* list, int filled, unsigned word, int first_token) {
    const int own = __popc(word), lane = threadIdx.x % 32;
    int before = own;  // becomes: this lane's and those of the lanes before
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(kAll, before, step);
        if (lane >= step) before += other;
    }
    const int all = __shfl_sync(kAll, before, 31);
    int to = filled + before - own;
    for (; word != 0; word &= word - 1) list[to++].token = first_token + __ffs(static_cast<int>(word)) - 1;
    return filled + all;
}

/// What a warp sums up beside a row.
struct Beside {
    float sums[2] = {};
    unsigned heard = 0;
};

/// What each listed sum weighs the row with. A warp reads a sum's terms together, so that few loads are waited for;
/// more than one may name the row, and they are added in their order.
__device__ __forceinline__ void weigh(const SparseTask& t, Entry* list, int count, int row, Beside& beside) {
    constexpr int kAtOnce = 4;
    const int lane = threadIdx.x % 32;
    const float* const first_values = t.gradient[0].values;
    const float* const second_values = t.gradients > 1 ? t.gradient[1].values : nullptr;
    for (int first = 0; first < count; first += kAtOnce) {
        Index at[kAtOnce], end[kAtOnce];
        bool own[kAtOnce];
        float a[kAtOnce], b[kAtOnce];
        // All loads of one kind before what hangs on them.
#pragma unroll
        for (int q = 0; q < kAtOnce; ++q) {
            const int i = list[min(first + q, count - 1)].token;
            at[q] = first_term(t, i) + lane;
            end[q] = first_term(t, i + 1);
        }
#pragma unroll
        for (int q = 0; q < kAtOnce; ++q) own[q] = at[q] < end[q] && __ldg(t.indices + at[q]) == row;
#pragma unroll
        for (int q = 0; q < kAtOnce; ++q) {
            a[q] = own[q] ? __ldg(first_values + at[q]) : 0;
            b[q] = own[q] && second_values != nullptr ? __ldg(second_values + at[q]) : 0;
        }
#pragma unroll
        for (int q = 0; q < kAtOnce; ++q) {
            if (first + q >= count) break;
            float weight[2] = {};
            while (true) {
                beside.heard |= __ballot_sync(kAll, a[q] > 0);
                for (unsigned which = __ballot_sync(kAll, own[q]); which != 0; which &= which - 1) {
                    const int from = __ffs(static_cast<int>(which)) - 1;
                    weight[0] += __shfl_sync(kAll, a[q], from);
                    weight[1] += __shfl_sync(kAll, b[q], from);
                }
                at[q] += 32;
                if (at[q] - lane >= end[q]) break;
                own[q] = at[q] < end[q] && __ldg(t.indices + at[q]) == row;
                a[q] = own[q] ? __ldg(first_values + at[q]) : 0;
                b[q] = own[q] && second_values != nullptr ? __ldg(second_values + at[q]) : 0;
            }
            beside.sums[0] += weight[0];
            beside.sums[1] += weight[1];
            if (lane == 0) {
                list[first + q].weight[0] = weight[0];
                list[first + q].weight[1] = weight[1];
            }
        }
    }
    __syncwarp();
}

/// Numbers of a row that a warp holds: kNumbers vectors a lane.
template <int kWide, int kNumbers>
__device__ __forceinline__ void gather(const SparseTask& t, const Entry* list, int count, int which, int from,
                                       Vector<kWide> (&sum)[kNumbers]) {
    const float* d_out = t.gradient[which].d_out;
    constexpr int kUnrolled = kNumbers > 4 ? 2 : 4;
#pragma unroll kUnrolled
    for (int e = 0; e < count; ++e) {
        const float weight = list[e].weight[which];
        const Index at = static_cast<Index>(list[e].token) * t.d + from;
#pragma unroll
        for (int h = 0; h < kNumbers; ++h)
            if (from + h * 32 * kWide < t.d) add(sum[h], weight, load<Element::F32, kWide>(d_out, at + h * 32 * kWide));
    }
}

constexpr int kShort = 256;  ///< sums that name a row: up to here one warp adds them

/// A warp makes one row. Rows that many sums name are only counted.
template <int kWide, int kNumbers>
__global__ void __launch_bounds__(kThreads) short_rows_kernel(const __grid_constant__ SparseTask t) {
    __shared__ Entry lists[kWarps][kShort];
    const int row = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= t.m) return;
    const unsigned* bits = t.bits + static_cast<Index>(row) * t.words;
    int count = 0;
    for (int w = lane; w < t.words; w += 32) count += __popc(bits[w]);
    count = __reduce_add_sync(kAll, count);
    if (lane == 0) t.counts[row] = count;
    if (count > kShort) return;
    Entry* const list = lists[threadIdx.x / 32];
    int filled = 0;
    if (count > 0)
        for (int w = 0; w < t.words; w += 32) {
            const unsigned word = w + lane < t.words ? bits[w + lane] : 0;
            if (__any_sync(kAll, word != 0)) filled = append(list, filled, word, (w + lane) * 32);
        }
    __syncwarp();
    Beside beside;
    weigh(t, list, count, row, beside);
    if (lane == 0 && t.heard != nullptr) t.heard[row] = beside.heard != 0 ? 1 : 0;
    constexpr int kChunk = 32 * kWide * kNumbers;
    for (int which = 0; which < t.gradients; ++which) {
        const RowGradient& g = t.gradient[which];
        float square = 0;
        for (int chunk = 0; chunk < t.d; chunk += kChunk) {
            const int from = chunk + lane * kWide;
            const Index at = static_cast<Index>(row) * t.d + from;
            Vector<kWide> sum[kNumbers] = {};
            if (g.plus != nullptr)
#pragma unroll
                for (int h = 0; h < kNumbers; ++h)
                    if (from + h * 32 * kWide < t.d) sum[h] = load<Element::F32, kWide>(g.plus, at + h * 32 * kWide);
            gather(t, list, count, which, from, sum);
            if (g.along != nullptr) {  // then there is one chunk
                Vector<kWide> direction[kNumbers] = {};
                float product = 0;
#pragma unroll
                for (int h = 0; h < kNumbers; ++h) {
                    if (from + h * 32 * kWide < t.d)
                        direction[h] = load<Element::F32, kWide>(g.along, at + h * 32 * kWide);
#pragma unroll
                    for (int e = 0; e < kWide; ++e) product = fmaf(sum[h].x[e], direction[h].x[e], product);
                }
                product = over_lanes(product);
#pragma unroll
                for (int h = 0; h < kNumbers; ++h) add(sum[h], -product, direction[h]);
            }
#pragma unroll
            for (int h = 0; h < kNumbers; ++h) {
                if (from + h * 32 * kWide < t.d) store(g.d_rows + at + h * 32 * kWide, sum[h]);
#pragma unroll
                for (int e = 0; e < kWide; ++e) square = fmaf(sum[h].x[e], sum[h].x[e], square);
            }
        }
        square = over_lanes(square);
        if (lane == 0 && g.squares != nullptr) g.squares[row] = square;
        if (lane == 0 && g.sums != nullptr) g.sums[row] = beside.sums[which];
    }
}

constexpr int kLongWarps = 4;

/// A block makes the rows that many sums name: its warps share these sums out and add up in their order.
template <int kWide, int kNumbers>
__global__ void __launch_bounds__(kLongWarps * 32) long_rows_kernel(const __grid_constant__ SparseTask t) {
    constexpr int kChunk = 32 * kWide * kNumbers, kOwn = kChunk / (kLongWarps * 32);
    constexpr int kGroup = kChunk > 768 ? 256 : 512, kGroupWords = kGroup / 32;  // sums that a warp lists at once
    __shared__ Entry lists[kLongWarps][kGroup];
    __shared__ float parts[kLongWarps][kChunk];
    __shared__ float shared_sums[kLongWarps][2];
    __shared__ float over[kLongWarps];
    __shared__ unsigned heard[kLongWarps];
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
    Entry* const list = lists[warp];
    const int groups = (t.words + kGroupWords - 1) / kGroupWords;
    const auto over_block = [&](float x) {
        x = over_lanes(x);
        __syncthreads();
        if (lane == 0) over[warp] = x;
        __syncthreads();
        float all = 0;
#pragma unroll
        for (int w = 0; w < kLongWarps; ++w) all += over[w];
        return all;
    };
    if (t.counts != nullptr) {  // most blocks find nothing to do, and find it at once
        bool any = false;
        for (Index row = blockIdx.x + static_cast<Index>(threadIdx.x) * gridDim.x; row < t.m;
             row += static_cast<Index>(gridDim.x) * kLongWarps * 32)
            any = any || t.counts[row] > kShort;
        if (__syncthreads_or(any ? 1 : 0) == 0) return;
    }
    for (int row = blockIdx.x; row < t.m; row += gridDim.x) {
        if (t.counts != nullptr && t.counts[row] <= kShort) continue;
        const unsigned* bits = t.bits + static_cast<Index>(row) * t.words;
        float square[2] = {};
        for (int chunk = 0; chunk < t.d; chunk += kChunk) {
            const int from = chunk + lane * kWide;
            Vector<kWide> sum[2][kNumbers] = {};
            Beside beside;
            for (int group = groups * warp / kLongWarps; group < groups * (warp + 1) / kLongWarps; ++group) {
                const int w = group * kGroupWords + lane;
                const int count = append(list, 0, lane < kGroupWords && w < t.words ? bits[w] : 0, w * 32);
                __syncwarp();
                weigh(t, list, count, row, beside);
                gather(t, list, count, 0, from, sum[0]);
                if (t.gradients > 1) gather(t, list, count, 1, from, sum[1]);
                __syncwarp();
            }
            if (lane == 0) {
                shared_sums[warp][0] = beside.sums[0];
                shared_sums[warp][1] = beside.sums[1];
                heard[warp] = beside.heard;
            }
#pragma unroll
            for (int which = 0; which < 2; ++which) {
                if (which >= t.gradients) break;
                const RowGradient& g = t.gradient[which];
#pragma unroll
                for (int h = 0; h < kNumbers; ++h)
#pragma unroll
                    for (int e = 0; e < kWide; ++e) parts[warp][(h * 32 + lane) * kWide + e] = sum[which][h].x[e];
                __syncthreads();
                float own[kOwn], product = 0;
#pragma unroll
                for (int o = 0; o < kOwn; ++o) {
                    const int x = o * kLongWarps * 32 + static_cast<int>(threadIdx.x);
                    const bool there = chunk + x < t.d;
                    const Index at = static_cast<Index>(row) * t.d + chunk + x;
                    own[o] = there && g.plus != nullptr ? g.plus[at] : 0;
                    for (int part = 0; part < kLongWarps; ++part) own[o] += parts[part][x];
                    if (there && g.along != nullptr) product = fmaf(own[o], g.along[at], product);
                }
                if (g.along != nullptr) product = over_block(product);
#pragma unroll
                for (int o = 0; o < kOwn; ++o) {
                    const int x = o * kLongWarps * 32 + static_cast<int>(threadIdx.x);
                    if (chunk + x >= t.d) continue;
                    const Index at = static_cast<Index>(row) * t.d + chunk + x;
                    if (g.along != nullptr) own[o] = fmaf(-product, g.along[at], own[o]);
                    g.d_rows[at] = own[o];
                    square[which] = fmaf(own[o], own[o], square[which]);
                }
                if (chunk == 0 && threadIdx.x == 0) {
                    float all = 0;
                    unsigned any = 0;
                    for (int part = 0; part < kLongWarps; ++part) {
                        all += shared_sums[part][which];
                        any |= heard[part];
                    }
                    if (g.sums != nullptr) g.sums[row] = all;
                    if (t.heard != nullptr && which == 0) t.heard[row] = any != 0 ? 1 : 0;
                }
                __syncthreads();
            }
        }
#pragma unroll
        for (int which = 0; which < 2; ++which) {
            if (which >= t.gradients || t.gradient[which].squares == nullptr) continue;
            const float all = over_block(square[which]);
            if (threadIdx.x == 0) t.gradient[which].squares[row] = all;
        }
        __syncthreads();
    }
}

SparseTask task_of(const DeviceSparseRows& p) {
    SparseTask t{};
    t.indices = p.indices;
    t.values = p.values;
    t.rows = p.rows;
    t.starts = p.starts;
    t.n = static_cast<int>(p.n);
    t.k = static_cast<int>(p.k);
    t.m = static_cast<int>(p.m);
    t.d = static_cast<int>(p.d);
    t.words = static_cast<int>((p.n + 31) / 32);
    return t;
}

template <class... T>
bool aligned(Index d, const T*... pointers) {
    return d % 4 == 0 && ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

/// Calls f(element, width of a vector) with both as constants.
template <class F>
const char* with_rows(const DeviceSparseRows& p, bool wide, const F& f) {
    using Four = std::integral_constant<int, 4>;
    using One = std::integral_constant<int, 1>;
    if (p.element == Element::F32) {
        constexpr std::integral_constant<Element, Element::F32> element{};
        return wide ? f(element, Four()) : f(element, One());
    }
    constexpr std::integral_constant<Element, Element::BF16> element{};
    return wide ? f(element, Four()) : f(element, One());
}

/// Calls f(width of a vector, how many of them a lane holds) so that a warp has a whole row where rows are not longer
/// than kWidestRow and of whole vectors.
template <class F>
const char* with_row(Index d, bool wide, const F& f) {
    const auto of = [&](auto width, auto numbers) { return f(width, numbers); };
    using std::integral_constant;
    constexpr integral_constant<int, 4> four{};
    if (!wide) return of(integral_constant<int, 1>(), integral_constant<int, 4>());
    if (d <= 64) return of(integral_constant<int, 1>(), integral_constant<int, 4>());
    if (d <= 256 && d % 64 == 0 && d % 128 != 0) return of(integral_constant<int, 2>(), integral_constant<int, 4>());
    if (d <= 512) return of(four, integral_constant<int, 4>());
    if (d <= 768) return of(four, integral_constant<int, 6>());
    if (d <= 1024) return of(four, integral_constant<int, 8>());
    return of(four, integral_constant<int, 12>());
}

unsigned blocks_of(Index warps) { return static_cast<unsigned>((warps + kWarps - 1) / kWarps); }

const char* problem_of(const DeviceSparseRows& p, bool needs_rows) {
    constexpr Index kMost = 1 << 30;
    if (p.n < 0 || p.k < 0 || p.m < 1 || p.d < 1) return "a size is not positive";
    if (p.n > kMost || p.k > kMost || p.m > kMost || p.d > kMost) return "a size is beyond 2^30";
    if (p.element == Element::F16) return "rows in fp16 are not read, bf16 and fp32 are";
    if (p.n > 0 && (p.indices == nullptr || p.values == nullptr) && (p.starts != nullptr || p.k > 0))
        return "the terms are missing";
    if (needs_rows && p.rows == nullptr) return "the rows are missing";
    return nullptr;
}

struct LargestTask {
    const float* x;
    float* values;
    Index* indices;
    int count, top;
};

constexpr int kRoom = 1024;
static_assert(kMostLargest <= kRoom);

__device__ __forceinline__ unsigned ordered(float value) {
    const unsigned bits = __float_as_uint(value + 0.0F);  // -0 is 0
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/// Calls f(number as one in the same order, its place) for this thread's part of a row: held in kVectors registers
/// where it fits, else (0 of them) read again.
template <int kLargestThreads, int kVectors>
struct Part {
    static constexpr bool kInRegisters = kVectors > 0;
    uint4 held[kInRegisters ? kVectors : 1];
    const float* row;
    int count;
    __device__ Part(const float* of_row, int numbers) : row(of_row), count(numbers) {
        if constexpr (kInRegisters) {
#pragma unroll
            for (int v = 0; v < kVectors; ++v) {
                const int at = (v * kLargestThreads + static_cast<int>(threadIdx.x)) * 4;
                if (at >= count) continue;
                const float4 x = __ldcs(reinterpret_cast<const float4*>(row + at));
                held[v] = make_uint4(ordered(x.x), ordered(x.y), ordered(x.z), ordered(x.w));
            }
        }
    }
    template <class F>
    __device__ __forceinline__ void each(const F& f) const {
        if constexpr (kInRegisters) {
#pragma unroll
            for (int v = 0; v < kVectors; ++v) {
                const int at = (v * kLargestThreads + static_cast<int>(threadIdx.x)) * 4;
                if (at < count) {
                    f(held[v].x, at);
                    f(held[v].y, at + 1);
                    f(held[v].z, at + 2);
                    f(held[v].w, at + 3);
                }
            }
        } else {
            for (int at = static_cast<int>(threadIdx.x); at < count; at += kLargestThreads) f(ordered(row[at]), at);
        }
    }
};

/// A block selects from a row. The top-th largest of what each thread found largest, cut to 16 bits, is exceeded or met
/// by at least `top` numbers and by few more: these are ranked by comparing all with all. Where they are too many,
/// equal ones for most of it, the exact bound is searched bit by bit.
template <int kLargestThreads, int kVectors>
__global__ void __launch_bounds__(kLargestThreads, 1536 / kLargestThreads)
    largest_kernel(const __grid_constant__ LargestTask task) {
    __shared__ unsigned long long found[kRoom];
    __shared__ int filled;
    using Key = unsigned long long;
    const Index row = blockIdx.x;
    const Part<kLargestThreads, kVectors> part(task.x + row * task.count, task.count);
    unsigned own = 0;
    part.each([&](unsigned number, int) { own = max(own, number); });
    unsigned bound = 0;
    for (unsigned bit = 0x80000000U; bit != 0x8000U; bit /= 2)
        if (__syncthreads_count(own >= (bound | bit)) >= task.top) bound |= bit;
    if (threadIdx.x == 0) filled = 0;
    __syncthreads();
    const auto key_of = [](unsigned number, int at) {
        return static_cast<Key>(number) << 32 | static_cast<unsigned>(~at);
    };
    const auto take = [&](Key key) {
        const int to = atomicAdd(&filled, 1);  // in any order: ranked below
        if (to < kRoom) found[to] = key;
    };
    part.each([&](unsigned number, int at) {
        if (number >= bound) take(key_of(number, at));
    });
    __syncthreads();
    if (filled > kRoom) {
        const Part<kLargestThreads, 0> again(task.x + row * task.count, task.count);
        Key exact = 0;
        for (Key bit = Key{1} << 63; bit != 0; bit /= 2) {
            __syncthreads();
            if (threadIdx.x == 0) filled = 0;
            __syncthreads();
            int reached = 0;
            again.each([&](unsigned number, int at) { reached += key_of(number, at) >= (exact | bit) ? 1 : 0; });
            if (reached > 0) atomicAdd(&filled, reached);
            __syncthreads();
            if (filled >= task.top) exact |= bit;
        }
        __syncthreads();
        if (threadIdx.x == 0) filled = 0;
        __syncthreads();
        again.each([&](unsigned number, int at) {
            if (key_of(number, at) >= exact) take(key_of(number, at));
        });
        __syncthreads();
    }
    // A warp ranks a candidate, so that all take part where candidates are few.
    const int candidates = filled, lane = static_cast<int>(threadIdx.x) % 32;
    for (int c = static_cast<int>(threadIdx.x) / 32; c < candidates; c += kLargestThreads / 32) {
        const Key key = found[c];
        int before = 0;
        for (int other = lane; other < candidates; other += 32) before += found[other] > key ? 1 : 0;
        const int rank = __reduce_add_sync(kAll, before);
        if (lane != 0 || rank >= task.top) continue;
        const auto number = static_cast<unsigned>(key >> 32);
        task.values[row * task.top + rank] =
            __uint_as_float((number & 0x80000000U) != 0 ? number ^ 0x80000000U : ~number);
        task.indices[row * task.top + rank] = static_cast<int>(~static_cast<unsigned>(key));
    }
}

}  // namespace

const char* cannot_run(const DeviceSparseRows& p, int compute_capability) noexcept {
    if (compute_capability < 80) return "the device is older than compute capability 8.0";
    return problem_of(p, true);
}

const char* sparse_decode(const DeviceSparseRows& p, float* out, const Launch& launch) noexcept {
    if (const char* problem = problem_of(p, true)) return problem;
    if (p.n == 0) return nullptr;
    SparseTask t = task_of(p);
    t.out = out;
    return with_rows(p, aligned(p.d, static_cast<const char*>(p.rows), out), [&](auto element, auto wide) {
        constexpr int kChunk = 32 * wide() * kHeld;
        const Index chunks = (p.d + kChunk - 1) / kChunk;
        return launch_kernel(decode_kernel<element(), wide()>, t, dim3(blocks_of(p.n * chunks)), kThreads, 0, launch);
    });
}

const char* sparse_value_gradient(const DeviceSparseRows& p, const float* d_out, float* d_values,
                                  const Launch& launch) noexcept {
    if (const char* problem = problem_of(p, true)) return problem;
    if (p.n == 0 || (p.starts == nullptr && p.k == 0)) return nullptr;
    SparseTask t = task_of(p);
    t.d_out = d_out;
    t.out = d_values;
    return with_rows(p, aligned(p.d, static_cast<const char*>(p.rows), d_out), [&](auto element, auto wide) {
        return launch_kernel(value_gradient_kernel<element(), wide()>, t, dim3(blocks_of(2 * p.n)), kThreads, 0,
                             launch);
    });
}

std::size_t sparse_row_gradient_workspace(const DeviceSparseRows& p) noexcept {
    return static_cast<std::size_t>(p.m) * (static_cast<std::size_t>((p.n + 31) / 32) + 1) * 4;
}

const char* sparse_row_gradients(const DeviceSparseRows& p, const RowGradient* which, int count, float* heard,
                                 const Launch& launch) noexcept {
    if (const char* problem = problem_of(p, false)) return problem;
    if (launch.workspace == nullptr || launch.workspace_bytes < sparse_row_gradient_workspace(p))
        return "the scratch is too small";
    if (count < 1 || count > 2) return "one or two gradients are made";
    SparseTask t = task_of(p);
    t.gradients = count;
    t.heard = heard;
    bool wide = true;
    for (int g = 0; g < count; ++g) {
        t.gradient[g] = which[g];
        if (which[g].along != nullptr && p.d > kWidestRow) return "rows are too long for their parts to be taken off";
        wide = wide &&
               aligned(p.d, which[g].d_out, static_cast<const float*>(which[g].d_rows), which[g].plus, which[g].along);
        if (which[g].along != nullptr && p.d % 4 != 0) return "rows are no multiple of 16 bytes";
    }
    if (which[0].along != nullptr && !wide) return "rows are no multiple of 16 bytes";
    t.counts = static_cast<int*>(launch.workspace);
    t.bits = static_cast<unsigned*>(launch.workspace) + p.m;
    const auto stream = static_cast<cudaStream_t>(launch.stream);
    const auto bytes = static_cast<std::size_t>(p.m) * static_cast<std::size_t>(t.words) * 4;
    if (bytes > 0)
        if (const cudaError_t error = cudaMemsetAsync(t.bits, 0, bytes, stream); error != cudaSuccess)
            return cudaGetErrorString(error);
    if (p.n > 0)
        if (const char* problem = launch_kernel(mark_kernel, t, dim3(blocks_of(p.n)), kThreads, 0, launch))
            return problem;
    return with_row(p.d, wide, [&](auto width, auto numbers) -> const char* {
        // A warp a row would leave a device idle where rows are few, and then many sums name each.
        constexpr Index kFewRows = 4096;
        if (p.m <= kFewRows && p.n > kShort) {
            t.counts = nullptr;
            return launch_kernel(long_rows_kernel<width(), numbers()>, t, dim3(static_cast<unsigned>(p.m)),
                                 kLongWarps * 32, 0, launch);
        }
        if (const char* problem =
                launch_kernel(short_rows_kernel<width(), numbers()>, t, dim3(blocks_of(p.m)), kThreads, 0, launch))
            return problem;
        if (p.n <= kShort) return nullptr;
        // The persistent blocks look at every row's count: enough to fill a device, few enough to start at once.
        constexpr unsigned kLongBlocks = 512;
        return launch_kernel(long_rows_kernel<width(), numbers()>, t, dim3(kLongBlocks), kLongWarps * 32, 0, launch);
    });
}

const char* largest(const float* x, std::int64_t rows, std::int64_t count, std::int64_t top, float* values,
                    std::int64_t* indices, const Launch& launch) noexcept {
    if (count < 1 || count > (1 << 30) || rows > (1 << 30)) return "a size is beyond 2^30";
    if (top < 0 || top > count) return "more numbers are wanted than a row has";
    if (top > kMostLargest) return "more than 512 of a row are wanted";
    if (rows == 0 || top == 0) return nullptr;
    const LargestTask task{x, values, indices, static_cast<int>(count), static_cast<int>(top)};
    const dim3 grid(static_cast<unsigned>(rows));
    // Each thread's largest tells a bound well where threads are many more than are wanted.
    if (aligned(count, x) && count <= 2048 && top <= 64)
        return launch_kernel(largest_kernel<128, 4>, task, grid, 128, 0, launch);
    if (aligned(count, x) && count <= 12288) return launch_kernel(largest_kernel<512, 6>, task, grid, 512, 0, launch);
    if (aligned(count, x) && count <= 16384) return launch_kernel(largest_kernel<512, 8>, task, grid, 512, 0, launch);
    return launch_kernel(largest_kernel<512, 0>, task, grid, 512, 0, launch);
}

}  // namespace vitrine::kernels::cuda
