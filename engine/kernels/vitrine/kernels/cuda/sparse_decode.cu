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
    float* out;      // of decode [n, d], of the values' gradient as many as values, of the rows' gradient [m, d]
    float* sums;     // [m] or null
    unsigned* bits;  // [m, words]
    int* counts;     // [m]: how many sums name a row
    int words, long_rows;
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

/// What a sum weighs a row with: more than one term may name it, and they are added in their order.
__device__ __forceinline__ float weight_of(const SparseTask& t, int i, int row) {
    float sum = 0;
    const Index end = first_term(t, i + 1);
#pragma unroll 4
    for (Index at = first_term(t, i); at < end; ++at)
        if (__ldg(t.indices + at) == row) sum += __ldg(t.values + at);
    return sum;
}

struct Entry {
    int token;
    float weight;
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

template <int kWide>
__device__ __forceinline__ void gather(const SparseTask& t, const Entry* list, int count, int from,
                                       Vector<kWide> (&sum)[kHeld]) {
#pragma unroll 4
    for (int e = 0; e < count; ++e) {
        const Entry entry = list[e];
#pragma unroll
        for (int h = 0; h < kHeld; ++h)
            if (from + h * 32 * kWide < t.d)
                add(sum[h], entry.weight,
                    load<Element::F32, kWide>(t.d_out, static_cast<Index>(entry.token) * t.d + from + h * 32 * kWide));
    }
}

constexpr int kShort = 256;  ///< sums that name a row: up to here one warp adds them

/// A warp makes one row. Rows that many sums name are only counted.
template <int kWide>
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
    float sum_of = 0;
    for (int e = lane; e < count; e += 32) sum_of += list[e].weight = weight_of(t, list[e].token, row);
    __syncwarp();
    if (t.sums != nullptr) {
        sum_of = over_lanes(sum_of);
        if (lane == 0) t.sums[row] = sum_of;
    }
    constexpr int kChunk = 32 * kWide * kHeld;
    for (int from = lane * kWide; from < t.d; from += kChunk) {
        Vector<kWide> sum[kHeld] = {};
        gather(t, list, count, from, sum);
#pragma unroll
        for (int h = 0; h < kHeld; ++h)
            if (from + h * 32 * kWide < t.d)
                store(t.out + static_cast<Index>(row) * t.d + from + h * 32 * kWide, sum[h]);
    }
}

constexpr int kLongWarps = 4, kGroup = 1024;  ///< sums that a warp lists at once: 32 words of bits

/// A block makes the rows that many sums name: its warps share these sums out and add up in their order.
template <int kWide>
__global__ void __launch_bounds__(kLongWarps * 32) long_rows_kernel(const __grid_constant__ SparseTask t) {
    constexpr int kChunk = 32 * kWide * kHeld;
    __shared__ Entry lists[kLongWarps][kGroup];
    __shared__ float parts[kLongWarps][kChunk];
    __shared__ float sums[kLongWarps];
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = threadIdx.x % 32;
    Entry* const list = lists[warp];
    const int groups = (t.words + 31) / 32;
    for (int row = blockIdx.x; row < t.m; row += gridDim.x) {
        if (t.counts[row] <= kShort) continue;
        const unsigned* bits = t.bits + static_cast<Index>(row) * t.words;
        for (int chunk = 0; chunk < t.d; chunk += kChunk) {
            const int from = chunk + lane * kWide;
            Vector<kWide> sum[kHeld] = {};
            float sum_of = 0;
            for (int group = groups * warp / kLongWarps; group < groups * (warp + 1) / kLongWarps; ++group) {
                const int w = group * 32 + lane;
                const int count = append(list, 0, w < t.words ? bits[w] : 0, w * 32);
                __syncwarp();
                for (int e = lane; e < count; e += 32) sum_of += list[e].weight = weight_of(t, list[e].token, row);
                __syncwarp();
                gather(t, list, count, from, sum);
                __syncwarp();
            }
#pragma unroll
            for (int h = 0; h < kHeld; ++h)
#pragma unroll
                for (int e = 0; e < kWide; ++e) parts[warp][(h * 32 + lane) * kWide + e] = sum[h].x[e];
            sum_of = over_lanes(sum_of);
            if (lane == 0) sums[warp] = sum_of;
            __syncthreads();
            for (int x = static_cast<int>(threadIdx.x); x < kChunk; x += kLongWarps * 32) {
                float all = 0;
                for (int part = 0; part < kLongWarps; ++part) all += parts[part][x];
                if (chunk + x < t.d) t.out[static_cast<Index>(row) * t.d + chunk + x] = all;
            }
            if (chunk == 0 && threadIdx.x == 0 && t.sums != nullptr) {
                float all = 0;
                for (int part = 0; part < kLongWarps; ++part) all += sums[part];
                t.sums[row] = all;
            }
            __syncthreads();
        }
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

constexpr int kLargestThreads = 512, kRoom = 1024, kVectors = 8;
static_assert(kMostLargest <= kLargestThreads && kMostLargest <= kRoom);

__device__ __forceinline__ unsigned ordered(float value) {
    const unsigned bits = __float_as_uint(value + 0.0F);  // -0 is 0
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/// Calls f(number, its place) for this thread's part of a row: held in registers where it fits, else read again.
template <bool kInRegisters>
struct Part {
    float4 held[kInRegisters ? kVectors : 1];
    const float* row;
    int count;
    __device__ Part(const float* of_row, int numbers) : row(of_row), count(numbers) {
        if constexpr (kInRegisters) {
#pragma unroll
            for (int v = 0; v < kVectors; ++v) {
                const int at = (v * kLargestThreads + static_cast<int>(threadIdx.x)) * 4;
                if (at < count) held[v] = __ldcs(reinterpret_cast<const float4*>(row + at));
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
            for (int at = static_cast<int>(threadIdx.x); at < count; at += kLargestThreads) f(row[at], at);
        }
    }
};

/// A block selects from a row. The top-th largest of what each thread found largest is exceeded or met by at least
/// `top` numbers and by few more: these are ranked by comparing all with all. Where they are too many, equal ones for
/// most of it, the exact bound is searched bit by bit.
template <bool kInRegisters>
__global__ void __launch_bounds__(kLargestThreads, 2) largest_kernel(const __grid_constant__ LargestTask task) {
    __shared__ unsigned long long found[kRoom];
    __shared__ int filled;
    using Key = unsigned long long;
    const Index row = blockIdx.x;
    const Part<kInRegisters> part(task.x + row * task.count, task.count);
    unsigned own = 0;
    part.each([&](float value, int) { own = max(own, ordered(value)); });
    unsigned bound = 0;
    for (unsigned bit = 0x80000000U; bit != 0; bit /= 2)
        if (__syncthreads_count(own >= (bound | bit)) >= task.top) bound |= bit;
    if (threadIdx.x == 0) filled = 0;
    __syncthreads();
    const auto key_of = [](float value, int at) {
        return static_cast<Key>(ordered(value)) << 32 | static_cast<unsigned>(~at);
    };
    const auto collect = [&](Key least) {
        part.each([&](float value, int at) {
            const Key key = key_of(value, at);
            if (key < least) return;
            const int to = atomicAdd(&filled, 1);  // in any order: ranked below
            if (to < kRoom) found[to] = key;
        });
    };
    collect(static_cast<Key>(bound) << 32);
    __syncthreads();
    if (filled > kRoom) {
        Key exact = 0;
        for (Key bit = Key{1} << 63; bit != 0; bit /= 2) {
            __syncthreads();
            if (threadIdx.x == 0) filled = 0;
            __syncthreads();
            int reached = 0;
            part.each([&](float value, int at) { reached += key_of(value, at) >= (exact | bit) ? 1 : 0; });
            if (reached > 0) atomicAdd(&filled, reached);
            __syncthreads();
            if (filled >= task.top) exact |= bit;
        }
        __syncthreads();
        if (threadIdx.x == 0) filled = 0;
        __syncthreads();
        collect(exact);
        __syncthreads();
    }
    const int candidates = filled;
    for (int c = static_cast<int>(threadIdx.x); c < candidates; c += kLargestThreads) {
        const Key key = found[c];
        int rank = 0;
        for (int other = 0; other < candidates; ++other) rank += found[other] > key ? 1 : 0;
        if (rank >= task.top) continue;
        const int at = static_cast<int>(~static_cast<unsigned>(key));
        task.values[row * task.top + rank] = task.x[row * task.count + at];
        task.indices[row * task.top + rank] = at;
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

const char* sparse_row_gradient(const DeviceSparseRows& p, const float* d_out, float* d_rows, float* sums,
                                const Launch& launch) noexcept {
    if (const char* problem = problem_of(p, false)) return problem;
    if (launch.workspace == nullptr || launch.workspace_bytes < sparse_row_gradient_workspace(p))
        return "the scratch is too small";
    SparseTask t = task_of(p);
    t.d_out = d_out;
    t.out = d_rows;
    t.sums = sums;
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
    // The persistent blocks look at every row's count: enough to fill a device, few enough to start at once.
    constexpr unsigned kLongBlocks = 512;
    const auto run = [&](auto wide) -> const char* {
        if (const char* problem =
                launch_kernel(short_rows_kernel<wide()>, t, dim3(blocks_of(p.m)), kThreads, 0, launch))
            return problem;
        if (p.n <= kShort) return nullptr;
        return launch_kernel(long_rows_kernel<wide()>, t, dim3(kLongBlocks), kLongWarps * 32, 0, launch);
    };
    return aligned(p.d, d_out, d_rows) ? run(std::integral_constant<int, 4>()) : run(std::integral_constant<int, 1>());
}

const char* largest(const float* x, std::int64_t rows, std::int64_t count, std::int64_t top, float* values,
                    std::int64_t* indices, const Launch& launch) noexcept {
    if (count < 1 || count > (1 << 30) || rows > (1 << 30)) return "a size is beyond 2^30";
    if (top < 0 || top > count) return "more numbers are wanted than a row has";
    if (top > kMostLargest) return "more than 512 of a row are wanted";
    if (rows == 0 || top == 0) return nullptr;
    const LargestTask task{x, values, indices, static_cast<int>(count), static_cast<int>(top)};
    const dim3 grid(static_cast<unsigned>(rows));
    if (aligned(count, x) && count <= kLargestThreads * kVectors * 4)
        return launch_kernel(largest_kernel<true>, task, grid, kLargestThreads, 0, launch);
    return launch_kernel(largest_kernel<false>, task, grid, kLargestThreads, 0, launch);
}

}  // namespace vitrine::kernels::cuda
