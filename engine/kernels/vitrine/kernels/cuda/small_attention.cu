// Attention of a short sequence with its map on a CUDA device.
//
// A block takes 16 queries of one head. On tensor cores its eight warps share the keys, 16 at a time, and meet twice:
// for the highest scores, and to add their outputs. The scores of all keys stay in registers, so that softmax is taken
// once over whole rows and the map is written from it in fp32, before it is rounded for the product with the values.
#include <vitrine/kernels/cuda/small_attention.h>

#include <cooperative_groups.h>

#include <algorithm>

#include <vitrine/kernels/cuda/fragments.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = 16;

struct Args {
    const void *q, *k, *v;
    std::int64_t q_stride[3], k_stride[3], v_stride[3];
    int heads, group, queries, keys, dim;
    float scale2;  // scale * log2(e)
    float scale, softcap;
    const float* bias;
    std::int64_t bias_stride[4];
    const std::uint8_t* mask;
    std::int64_t mask_stride[4];
    bool causal;
    void* out;
    std::int64_t out_stride[3];
    float *map, *lse;
};

/// What a block works on.
struct Place {
    int batch, head, first;  // first query
    __device__ explicit Place(int) : batch(blockIdx.z), head(blockIdx.y), first(blockIdx.x * kRows) {}
    __device__ std::int64_t row(const Args& a, int r) const {
        return (static_cast<std::int64_t>(batch) * a.heads + head) * a.queries + first + r;
    }
    template <class T>
    __device__ const T* keys(const Args& a) const {
        return static_cast<const T*>(a.k) + batch * a.k_stride[0] + head / a.group * a.k_stride[1];
    }
    template <class T>
    __device__ const T* values(const Args& a) const {
        return static_cast<const T*>(a.v) + batch * a.v_stride[0] + head / a.group * a.v_stride[1];
    }
    template <class T>
    __device__ const T* queries(const Args& a, int r) const {
        return static_cast<const T*>(a.q) + batch * a.q_stride[0] + head * a.q_stride[1] + (first + r) * a.q_stride[2];
    }
    template <class T>
    __device__ T* out(const Args& a, int r) const {
        return static_cast<T*>(a.out) + batch * a.out_stride[0] + head * a.out_stride[1] +
               (first + r) * a.out_stride[2];
    }
};

/// The score of query r of the block and key j in base 2, minus infinity where it does not count.
__device__ inline float score(const Args& a, const Place& at, float product, int r, int j) {
    const int i = at.first + r;
    if (j >= a.keys || (a.causal && j > i)) return -INFINITY;
    if (i >= a.queries) return 0;  // of a row that nobody sees
    float s = product * a.scale2;
    if (a.softcap > 0) s = a.softcap * kLog2E * tanhf(product * a.scale / a.softcap);
    if (a.bias != nullptr)
        s += kLog2E * a.bias[at.batch * a.bias_stride[0] + at.head * a.bias_stride[1] + i * a.bias_stride[2] +
                             j * a.bias_stride[3]];
    if (a.mask != nullptr && a.mask[at.batch * a.mask_stride[0] + at.head * a.mask_stride[1] + i * a.mask_stride[2] +
                                    j * a.mask_stride[3]] == 0)
        return -INFINITY;
    return s;
}

// ---- tensor cores ----

constexpr int kTiles = 3;  ///< of 16 keys, one warp's share of 24 at most
static_assert(kTiles * kWarps * 16 >= kSmallKeys);

template <int D>
struct Layout {
    static constexpr int kPitch = D + 8;  ///< elements of a row of keys or values: an odd number of 16 bytes
    static constexpr int kOutPitch = D + 8;
    int padded, map_pitch, values, sums, total;  ///< offsets in bytes
    __host__ __device__ explicit Layout(int keys) {
        padded = (keys + 15) / 16 * 16;
        map_pitch = (padded + 31) / 32 * 32 + 8;
        const int side = padded * kPitch * 2;
        // Outputs of the warps and the map take the place of the keys once the scores are known.
        const int after = (kWarps * kRows * kOutPitch + kRows * map_pitch) * 4;
        values = side > after ? side : after;
        sums = values + side;
        total = sums + 2 * kWarps * kRows * 4;
    }
};

template <class T, int D>
__global__ void __launch_bounds__(kThreads, D <= 64 ? 2 : 1) small_tensor_kernel(const __grid_constant__ Args a) {
    extern __shared__ __align__(16) unsigned char shared[];
    using L = Layout<D>;
    const L layout(a.keys);
    T* const keys = reinterpret_cast<T*>(shared);
    T* const values = reinterpret_cast<T*>(shared + layout.values);
    float* const outs = reinterpret_cast<float*>(shared);  // [kWarps][kRows][kOutPitch]
    float* const map = outs + kWarps * kRows * L::kOutPitch;
    float* const highs = reinterpret_cast<float*>(shared + layout.sums);  // [kWarps][kRows]
    float* const sums = highs + kWarps * kRows;
    const Place at(0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = lane / 4, column = lane % 4 * 2;
    const int tiles = layout.padded / 16;

    constexpr int kChunks = D / 8, kLoads = kChunks * 16 / 32;
    const auto load = [&](const T* from, std::int64_t stride, T* to) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            const int tile = warp + t * kWarps;
            if (tile >= tiles) break;
#pragma unroll
            for (int i = 0; i < kLoads; ++i) {
                const int x = lane + 32 * i, j = tile * 16 + x / kChunks, chunk = x % kChunks * 8;
                const bool there = j < a.keys && chunk < a.dim;
                copy16(shared_address(to + j * L::kPitch + chunk), there ? from + j * stride + chunk : from, there);
            }
        }
        commit_copies();
    };
    load(at.keys<T>(a), a.k_stride[2], keys);
    load(at.values<T>(a), a.v_stride[2], values);

    std::uint32_t q[D / 16][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const bool there = at.first + row + 8 * i < a.queries;
        const T* from = at.queries<T>(a, there ? row + 8 * i : 0);
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int d = k * 16 + half * 8 + column;
                q[k][half * 2 + i] = there && d < a.dim ? *reinterpret_cast<const std::uint32_t*>(from + d) : 0;
            }
    }

    float s[kTiles][2][4];
    float high[2] = {-INFINITY, -INFINITY};
    wait_copies<1>();
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const int tile = warp + t * kWarps;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int x = 0; x < 4; ++x) s[t][n][x] = 0;
        if (tile < tiles) {
            const T* from = keys + (tile * 16 + lane / 16 * 8 + lane % 8) * L::kPitch + lane / 8 % 2 * 8;
#pragma unroll
            for (int k = 0; k < D / 16; ++k) {
                std::uint32_t b[4];
                load_matrices(b, shared_address(from + k * 16));
                multiply<T>(s[t][0], q[k], b[0], b[1]);
                multiply<T>(s[t][1], q[k], b[2], b[3]);
            }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int x = 0; x < 4; ++x) {
                s[t][n][x] = score(a, at, s[t][n][x], row + x / 2 * 8, tile * 16 + n * 8 + column + x % 2);
                high[x / 2] = fmaxf(high[x / 2], s[t][n][x]);
            }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        high[i] = fmaxf(high[i], __shfl_xor_sync(~0U, high[i], 1));
        high[i] = fmaxf(high[i], __shfl_xor_sync(~0U, high[i], 2));
        if (lane % 4 == 0) highs[warp * kRows + row + 8 * i] = high[i];
    }
    __syncthreads();  // from here on the keys' place is free
    float sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int w = 0; w < kWarps; ++w) high[i] = fmaxf(high[i], highs[w * kRows + row + 8 * i]);
        const float shift = high[i] == -INFINITY ? 0.0F : high[i];
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                float& x = s[t][n][2 * i];
                float& y = s[t][n][2 * i + 1];
                x = exp2_fast(x - shift);
                y = exp2_fast(y - shift);
                sum[i] += x + y;
                const int tile = warp + t * kWarps;
                if (tile < tiles)
                    *reinterpret_cast<float2*>(map + (row + 8 * i) * layout.map_pitch + tile * 16 + n * 8 + column) =
                        make_float2(x, y);
            }
        sum[i] += __shfl_xor_sync(~0U, sum[i], 1);
        sum[i] += __shfl_xor_sync(~0U, sum[i], 2);
        if (lane % 4 == 0) sums[warp * kRows + row + 8 * i] = sum[i];
    }

    float o[D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int x = 0; x < 4; ++x) o[n][x] = 0;
    wait_copies<0>();
    __syncwarp();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const int tile = warp + t * kWarps;
        if (tile >= tiles) break;
        const std::uint32_t p[4] = {pack<T>(s[t][0][0], s[t][0][1]), pack<T>(s[t][0][2], s[t][0][3]),
                                    pack<T>(s[t][1][0], s[t][1][1]), pack<T>(s[t][1][2], s[t][1][3])};
        const T* from = values + (tile * 16 + lane / 8 % 2 * 8 + lane % 8) * L::kPitch + lane / 16 * 8;
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            std::uint32_t b[4];
            load_matrices_transposed(b, shared_address(from + n * 16));
            multiply<T>(o[2 * n], p, b[0], b[1]);
            multiply<T>(o[2 * n + 1], p, b[2], b[3]);
        }
    }
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
            *reinterpret_cast<float2*>(outs + (warp * kRows + row + 8 * i) * L::kOutPitch + n * 8 + column) =
                make_float2(o[n][2 * i], o[n][2 * i + 1]);
    __syncthreads();

    const int rows = min(kRows, a.queries - at.first);
    // A warp finishes rows `warp` and `warp` + 8: their sums, their map, their output.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int r = warp + 8 * i;
        if (r >= rows) break;
        float all = 0, most = -INFINITY;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
            all += sums[w * kRows + r];
            most = fmaxf(most, highs[w * kRows + r]);
        }
        const float inverse = all > 0 ? 1 / all : 0.0F;
        if (a.map != nullptr) {
            float* to = a.map + at.row(a, r) * a.keys;
            const float* from = map + r * layout.map_pitch;
            for (int j = lane; j < a.keys; j += 32) to[j] = from[j] * inverse;
        }
        T* to = at.out<T>(a, r);
        for (int d = lane * 2; d < a.dim; d += 64) {
            float2 x = make_float2(0, 0);
#pragma unroll
            for (int w = 0; w < kWarps; ++w) {
                const float2 y = *reinterpret_cast<const float2*>(outs + (w * kRows + r) * L::kOutPitch + d);
                x.x += y.x;
                x.y += y.y;
            }
            *reinterpret_cast<std::uint32_t*>(to + d) = pack<T>(x.x * inverse, x.y * inverse);
        }
        if (lane == 0 && a.lse != nullptr) a.lse[at.row(a, r)] = all > 0 ? (most + log2f(all)) * kLn2 : -INFINITY;
    }
}

// ---- multiply-adds ----

constexpr int kBand = 64;  ///< keys, or values, in shared memory at a time
constexpr int kBands = static_cast<int>(kSmallKeys) / kBand;

template <int D>
struct PlainMemory {
    static constexpr int kPitch = D + 4;
    alignas(16) float queries[kRows][D];
    alignas(16) float band[2][kBand][kPitch];
    alignas(16) float map[kRows][kSmallKeys];
};

template <int D>
__global__ void __launch_bounds__(kThreads) small_plain_kernel(const __grid_constant__ Args a) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& memory = *reinterpret_cast<PlainMemory<D>*>(shared);
    const Place at(0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int bands = (a.keys + kBand - 1) / kBand;

    // Bands of keys, then bands of values, one ahead.
    const auto load = [&](int band) {
        if (band < 2 * bands) {
            const bool is_keys = band < bands;
            const float* from = is_keys ? at.keys<float>(a) : at.values<float>(a);
            const std::int64_t stride = is_keys ? a.k_stride[2] : a.v_stride[2];
            const int first = (is_keys ? band : band - bands) * kBand;
            for (int x = threadIdx.x; x < kBand * (D / 4); x += kThreads) {
                const int j = x / (D / 4), chunk = x % (D / 4) * 4;
                const bool there = first + j < a.keys && chunk < a.dim;
                copy16(shared_address(&memory.band[band % 2][j][chunk]),
                       there ? from + (first + j) * stride + chunk : from, there);
            }
        }
        commit_copies();
    };
    load(0);
    for (int x = threadIdx.x; x < kRows * D; x += kThreads) {
        const int r = x / D, d = x % D;
        memory.queries[r][d] = at.first + r < a.queries && d < a.dim ? at.queries<float>(a, r)[d] : 0.0F;
    }
    const int r0 = warp * 2;
    float s[2][kBands][2];
    float high[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int b = 0; b < kBands; ++b) {
        float x[2][2] = {};
        if (b < bands) {
            load(b + 1);
            wait_copies<1>();
            __syncthreads();
            const float* k0 = memory.band[b % 2][lane];
            const float* k1 = memory.band[b % 2][lane + 32];
#pragma unroll 8
            for (int d = 0; d < D; d += 4) {
                const float4 y0 = *reinterpret_cast<const float4*>(k0 + d);
                const float4 y1 = *reinterpret_cast<const float4*>(k1 + d);
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const float4 z = *reinterpret_cast<const float4*>(&memory.queries[r0 + r][d]);
                    x[r][0] = fmaf(y0.x, z.x, fmaf(y0.y, z.y, fmaf(y0.z, z.z, fmaf(y0.w, z.w, x[r][0]))));
                    x[r][1] = fmaf(y1.x, z.x, fmaf(y1.y, z.y, fmaf(y1.z, z.z, fmaf(y1.w, z.w, x[r][1]))));
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                s[r][b][half] = score(a, at, x[r][half], r0 + r, b * kBand + half * 32 + lane);
                high[r] = fmaxf(high[r], s[r][b][half]);
            }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int step = 1; step < 32; step *= 2) high[r] = fmaxf(high[r], __shfl_xor_sync(~0U, high[r], step));
        const float shift = high[r] == -INFINITY ? 0.0F : high[r];
        float sum = 0;
#pragma unroll
        for (int b = 0; b < kBands; ++b)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                s[r][b][half] = exp2_fast(s[r][b][half] - shift);
                sum += s[r][b][half];
            }
#pragma unroll
        for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(~0U, sum, step);
        const float inverse = sum > 0 ? 1 / sum : 0.0F;
        const bool there = at.first + r0 + r < a.queries;
        float* to = a.map != nullptr && there ? a.map + at.row(a, r0 + r) * a.keys : nullptr;
#pragma unroll
        for (int b = 0; b < kBands; ++b)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int j = b * kBand + half * 32 + lane;
                const float p = s[r][b][half] * inverse;
                memory.map[r0 + r][j] = p;
                if (to != nullptr && j < a.keys) to[j] = p;
            }
        if (lane == 0 && there && a.lse != nullptr)
            a.lse[at.row(a, r0 + r)] = sum > 0 ? (high[r] + log2f(sum)) * kLn2 : -INFINITY;
    }
    __syncwarp();
    constexpr int kOwn = D / 32;
    float o[2][kOwn] = {};
    for (int b = 0; b < bands; ++b) {
        load(bands + b + 1);
        wait_copies<1>();
        __syncthreads();
        const auto& band = memory.band[(bands + b) % 2];
#pragma unroll 4
        for (int j = 0; j < kBand; ++j) {
            const float p0 = memory.map[r0][b * kBand + j], p1 = memory.map[r0 + 1][b * kBand + j];
#pragma unroll
            for (int i = 0; i < kOwn; ++i) {
                const float v = band[j][lane + 32 * i];
                o[0][i] = fmaf(p0, v, o[0][i]);
                o[1][i] = fmaf(p1, v, o[1][i]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if (at.first + r0 + r >= a.queries) break;
        float* to = at.out<float>(a, r0 + r);
#pragma unroll
        for (int i = 0; i < kOwn; ++i)
            if (lane + 32 * i < a.dim) to[lane + 32 * i] = o[r][i];
    }
}

// ---- rollout ----

__global__ void head_mean_kernel(const float* maps, int heads, std::int64_t cells, float share, float* mean) {
    const float* from = maps + blockIdx.y * heads * cells;
    const std::int64_t x = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (x >= cells) return;
    float sum = 0;
#pragma unroll 4
    for (int h = 0; h < heads; ++h) sum += from[h * cells + x];
    mean[blockIdx.y * cells + x] = sum * share;
}

constexpr int kRollWarps = 16;
constexpr int kTogether = 8;  ///< blocks of a cluster
constexpr int kColumns = static_cast<int>(kSmallKeys) / 32;

/// Blocks: 1, or kTogether that run as one cluster; each takes an equal run of the rows of every layer.
template <int Blocks>
__global__ void __launch_bounds__(kRollWarps * 32)
    rollout_kernel(const float* means, int layers, std::int64_t layer_stride, int tokens, int token, float* out) {
    __shared__ float r[kSmallKeys];
    __shared__ float part[kRollWarps][kSmallKeys];
    __shared__ float inbox[2][Blocks][kSmallKeys];
    constexpr int kRowsEach = (static_cast<int>(kSmallKeys) + Blocks * kRollWarps - 1) / (Blocks * kRollWarps);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, block = blockIdx.x;
    const std::int64_t cells = static_cast<std::int64_t>(tokens) * tokens;
    for (int j = threadIdx.x; j < tokens; j += blockDim.x) r[j] = j == token ? 1.0F : 0.0F;
    const int share = (tokens + Blocks - 1) / Blocks;
    const int first = block * share, last = min(first + share, tokens);

    constexpr bool kAhead = kRowsEach <= 4;  // more rows do not fit the registers
    float next[kAhead ? kRowsEach : 1][kColumns];
    const auto fetch = [&](int layer, int m0) {
        const float* from = means + layer * layer_stride + blockIdx.y * cells;
#pragma unroll
        for (int m = 0; m < (kAhead ? kRowsEach : 1); ++m) {
            const int i = first + warp + (m0 + m) * kRollWarps;
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                const int j = lane + 32 * c;
                next[m][c] = layer >= 0 && i < last && j < tokens
                                 ? __ldg(from + static_cast<std::int64_t>(i) * tokens + j)
                                 : 0.0F;
            }
        }
    };
    if (kAhead) fetch(layers - 1, 0);
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if constexpr (Blocks > 1) cooperative_groups::this_cluster().sync();  // all are there before anyone writes to them
#endif
    for (int layer = layers - 1; layer >= 0; --layer) {
        __syncthreads();
        float sum[kColumns] = {};
#pragma unroll(kAhead ? kRowsEach : 1)
        for (int m = 0; m < kRowsEach; ++m) {
            const int i = first + warp + m * kRollWarps;
            const float weight = i < last ? r[i] : 0.0F;
            if constexpr (!kAhead) fetch(layer, m);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) sum[c] = fmaf(weight, next[kAhead ? m : 0][c], sum[c]);
        }
        if (kAhead) fetch(layer - 1, 0);  // the next layer's rows are on their way while blocks exchange
#pragma unroll
        for (int c = 0; c < kColumns; ++c) part[warp][lane + 32 * c] = sum[c];
        __syncthreads();
        auto& box = inbox[layer % 2];
        for (int j = threadIdx.x; j < tokens; j += blockDim.x) {
            float all = 0;
#pragma unroll
            for (int w = 0; w < kRollWarps; ++w) all += part[w][j];
            if constexpr (Blocks == 1) {
                box[0][j] = all;
            } else {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
                auto cluster = cooperative_groups::this_cluster();
#pragma unroll
                for (int b = 0; b < Blocks; ++b) *cluster.map_shared_rank(&box[block][j], b) = all;
#endif
            }
        }
        if constexpr (Blocks == 1) {
            __syncthreads();
        } else {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
            cooperative_groups::this_cluster().sync();
#endif
        }
        for (int j = threadIdx.x; j < tokens; j += blockDim.x) {
            float all = 0;
#pragma unroll
            for (int b = 0; b < Blocks; ++b) all += box[b][j];
            r[j] = 0.5F * (r[j] + all);
        }
    }
    // The same thread wrote r[j] above.
    if (block == 0)
        for (int j = threadIdx.x; j < tokens; j += blockDim.x) out[blockIdx.y * tokens + j] = r[j];
}

// ---- host ----

struct Kernel {
    const void* run = nullptr;
    int memory = 0;
};

template <class T>
Kernel tensor_kernel(int dim, int keys) {
    const auto of = [&](auto width) -> Kernel {
        constexpr int D = decltype(width)::value;
        return {reinterpret_cast<const void*>(&small_tensor_kernel<T, D>), Layout<D>(keys).total};
    };
    if (dim <= 32) return of(std::integral_constant<int, 32>{});
    if (dim <= 64) return of(std::integral_constant<int, 64>{});
    if (dim <= 96) return of(std::integral_constant<int, 96>{});
    if (dim <= 128) return of(std::integral_constant<int, 128>{});
    return of(std::integral_constant<int, 256>{});
}

Kernel plain_kernel(int dim) {
    const auto of = [&](auto width) -> Kernel {
        constexpr int D = decltype(width)::value;
        return {reinterpret_cast<const void*>(&small_plain_kernel<D>), static_cast<int>(sizeof(PlainMemory<D>))};
    };
    if (dim <= 32) return of(std::integral_constant<int, 32>{});
    if (dim <= 64) return of(std::integral_constant<int, 64>{});
    if (dim <= 96) return of(std::integral_constant<int, 96>{});
    if (dim <= 128) return of(std::integral_constant<int, 128>{});
    return of(std::integral_constant<int, 256>{});
}

Kernel kernel_for(const DeviceAttention& p) {
    const int dim = static_cast<int>(p.head_dim), keys = static_cast<int>(p.keys);
    if (p.element == Element::F16) return tensor_kernel<__half>(dim, keys);
    if (p.element == Element::BF16) return tensor_kernel<__nv_bfloat16>(dim, keys);
    return plain_kernel(dim);
}

int compute_capability_of_current() {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return major * 10 + minor;
}

const char* in_words(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

}  // namespace

const char* cannot_run(const DeviceAttention& p, const DeviceSmallAttention& s, int compute_capability) noexcept {
    if (p.q == nullptr || p.k == nullptr || s.v == nullptr || s.out == nullptr)
        return "queries, keys, values or the output are missing";
    if (s.batches < 1 || p.heads < 1 || p.queries < 1 || p.keys < 1 || p.head_dim < 1) return "an axis is empty";
    if (p.key_heads < 1 || p.heads % p.key_heads != 0) return "the number of heads is no multiple of the key heads";
    if (p.keys > kSmallKeys) return "there are more than 320 keys";
    if (p.head_dim > 256) return "heads are wider than 256";
    if (s.batches > 65535 || p.heads > 65535 || p.queries > 0x7FFFFFFF) return "an axis is too long for one launch";
    const std::int64_t size = size_of(p.element);
    const auto odd = [&](std::int64_t x) { return x * size % 16 != 0; };
    const auto astray = [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 != 0; };
    if (odd(p.head_dim) || astray(p.q) || astray(p.k) || astray(s.v))
        return "rows of queries, keys and values are no multiples of 16 bytes";
    for (int i = 0; i < 2; ++i)
        if (odd(p.q_stride[i]) || odd(p.k_stride[i]) || odd(s.v_stride[i]) || odd(s.q_batch) || odd(s.k_batch) ||
            odd(s.v_batch))
            return "rows of queries, keys and values do not start at multiples of 16 bytes";
    if (s.out_stride[0] * size % 4 != 0 || s.out_stride[1] * size % 4 != 0 || s.out_batch * size % 4 != 0 ||
        reinterpret_cast<std::uintptr_t>(s.out) % 4 != 0)
        return "rows of the output do not start at multiples of 4 bytes";
    if (compute_capability < 80) return "the device is older than compute capability 8.0";
    if (kernel_for(p).memory > shared_limit(compute_capability))
        return "the keys and values of a head do not fit the shared memory of this device";
    return nullptr;
}

const char* small_attention(const DeviceAttention& p, const DeviceSmallAttention& s, const Launch& launch) noexcept {
    if (const char* why = cannot_run(p, s, compute_capability_of_current())) return why;
    Args a{};
    a.q = p.q;
    a.k = p.k;
    a.v = s.v;
    a.q_stride[0] = s.q_batch;
    a.k_stride[0] = s.k_batch;
    a.v_stride[0] = s.v_batch;
    a.out_stride[0] = s.out_batch;
    a.bias_stride[0] = s.bias_batch;
    a.mask_stride[0] = s.mask_batch;
    for (int i = 0; i < 2; ++i) {
        a.q_stride[i + 1] = p.q_stride[i];
        a.k_stride[i + 1] = p.k_stride[i];
        a.v_stride[i + 1] = s.v_stride[i];
        a.out_stride[i + 1] = s.out_stride[i];
    }
    for (int i = 0; i < 3; ++i) {
        a.bias_stride[i + 1] = p.bias_stride[i];
        a.mask_stride[i + 1] = p.mask_stride[i];
    }
    a.heads = static_cast<int>(p.heads);
    a.group = static_cast<int>(p.heads / p.key_heads);
    a.queries = static_cast<int>(p.queries);
    a.keys = static_cast<int>(p.keys);
    a.dim = static_cast<int>(p.head_dim);
    a.scale = p.scale;
    a.scale2 = p.scale * kLog2E;
    a.softcap = p.softcap;
    a.bias = p.bias;
    a.mask = p.mask;
    a.causal = p.causal;
    a.out = s.out;
    a.map = s.map;
    a.lse = s.lse;
    const Kernel kernel = kernel_for(p);
    if (const cudaError_t error =
            cudaFuncSetAttribute(kernel.run, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.memory))
        return in_words(error);
    void* arguments[] = {&a};
    const dim3 grid(static_cast<unsigned>((p.queries + kRows - 1) / kRows), static_cast<unsigned>(p.heads),
                    static_cast<unsigned>(s.batches));
    return in_words(cudaLaunchKernel(kernel.run, grid, dim3(kThreads), arguments,
                                     static_cast<std::size_t>(kernel.memory),
                                     static_cast<cudaStream_t>(launch.stream)));
}

const char* head_mean(const float* maps, std::int64_t batches, std::int64_t heads, std::int64_t cells, float* mean,
                      const Launch& launch) noexcept {
    if (batches < 1 || batches > 65535 || heads < 1 || cells < 1) return "an axis is empty or too long";
    const dim3 grid(static_cast<unsigned>((cells + 255) / 256), static_cast<unsigned>(batches));
    head_mean_kernel<<<grid, 256, 0, static_cast<cudaStream_t>(launch.stream)>>>(
        maps, static_cast<int>(heads), cells, 1.0F / static_cast<float>(heads), mean);
    return in_words(cudaGetLastError());
}

const char* rollout(const float* means, std::int64_t layers, std::int64_t batches, std::int64_t tokens,
                    std::int64_t token, float* out, const Launch& launch) noexcept {
    const auto stream = static_cast<cudaStream_t>(launch.stream);
    if (layers < 1 || batches < 1 || batches > 65535 || tokens < 1) return "an axis is empty or too long";
    if (tokens > kSmallKeys) return "there are more than 320 tokens";
    if (token < 0 || token >= tokens) return "the first token is none of them";
    const std::int64_t layer_stride = batches * tokens * tokens;
    const int count = static_cast<int>(layers), width = static_cast<int>(tokens), start = static_cast<int>(token);
    if (compute_capability_of_current() < 90) {
        rollout_kernel<1><<<dim3(1, static_cast<unsigned>(batches)), kRollWarps * 32, 0, stream>>>(
            means, count, layer_stride, width, start, out);
        return in_words(cudaGetLastError());
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(kTogether, static_cast<unsigned>(batches));
    config.blockDim = dim3(kRollWarps * 32);
    config.stream = stream;
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = kTogether;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return in_words(
        cudaLaunchKernelEx(&config, &rollout_kernel<kTogether>, means, count, layer_stride, width, start, out));
}

}  // namespace vitrine::kernels::cuda
