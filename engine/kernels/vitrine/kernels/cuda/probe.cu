// The probe on a CUDA device: equal runs of key tiles over all multiprocessors, across the borders of heads.
//
// A block is four warps. Of every tile of 64 keys each warp takes 16, loads them itself (cp.async, several tiles
// ahead, also past the end of an output) and keeps its own (m, l, o), so that warps meet only where an output or the
// run ends. fp16 and bf16 multiply on tensor cores (mma.sync m16n8k16), fp32 by multiply-adds.
#include <vitrine/kernels/cuda/probe.h>

#include <algorithm>
#include <cmath>

#include <vitrine/kernels/cuda/fragments.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = static_cast<int>(kLeanRows);
/// Floats between rows of a block's output in shared memory, so that the fragments of 8 rows meet no conflict.
__host__ __device__ constexpr int out_pitch(int dim) { return dim + 8; }
constexpr int kMaxBatches = 1024;
/// Rows times pieces, with what every row costs, up to which a block merges alone.
constexpr std::int64_t kRowCost = 64;
constexpr std::int64_t kFewPieces = 384;

struct Args {
    const void *q, *k, *v;
    std::int64_t q_stride[3], k_stride[3], v_stride[3];
    int batches, heads, key_heads, queries, keys, dim, group, blocks;  // blocks of rows of one key head
    const std::int32_t* lengths;
    float scale2;  // scale * log2(e), applied once
    bool causal;
    float *out, *lse, *mass;
    // Scratch: one (m, l, o) a slot.
    int* tickets;  // null: a second launch merges
    float *part_high, *part_sum, *part_out;
    int workers, tile_keys;
    int splits;  // 0: equal runs; else this many splits of every output
};

__device__ inline int length_of(const Args& a, int b) {
    if (a.lengths == nullptr) return a.keys;
    const int n = a.lengths[b];
    return n < 0 ? 0 : n > a.keys ? a.keys : n;
}

__device__ inline int tiles_of(const Args& a, int length, int block) {
    return lean_tiles(length, block, a.queries, a.group, a.causal, a.tile_keys);
}

__device__ inline int tiles_of_head(const Args& a, int length) {
    if (!a.causal) return a.blocks * tiles_of(a, length, 0);
    int sum = 0;
    for (int r = 0; r < a.blocks; ++r) sum += tiles_of(a, length, r);
    return sum;
}

/// Tiles before each batch. Equal lengths need a multiplication alone; others a sum in shared memory [batches + 1].
struct Prefix {
    const int* sums;  // null: all batches have `each`
    int each;

    __device__ Prefix(const Args& a, int* shared) : sums(nullptr), each(0) {
        if (a.lengths == nullptr) {
            each = a.key_heads * tiles_of_head(a, a.keys);
            return;
        }
        sums = shared;
        for (int b = threadIdx.x; b < a.batches; b += kThreads)
            shared[b + 1] = a.key_heads * tiles_of_head(a, length_of(a, b));
        if (threadIdx.x == 0) shared[0] = 0;
        __syncthreads();
        if (threadIdx.x < 32) {
            int before = 0;
            for (int b0 = 0; b0 < a.batches; b0 += 32) {
                const int b = b0 + static_cast<int>(threadIdx.x);
                int sum = b < a.batches ? shared[b + 1] : 0;
                for (int step = 1; step < 32; step *= 2) {
                    const int left = __shfl_up_sync(~0U, sum, step);
                    if (static_cast<int>(threadIdx.x) >= step) sum += left;
                }
                if (b < a.batches) shared[b + 1] = before + sum;
                before += __shfl_sync(~0U, sum, 31);
            }
        }
        __syncthreads();
    }
    __device__ int before(int batch) const { return sums == nullptr ? batch * each : sums[batch]; }
    /// The batch that holds a tile: the last that starts at or before it.
    __device__ int batch_of(int tile, int batches) const {
        if (sums == nullptr) return tile / each;
        int low = 0, high = batches - 1;
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (sums[middle] <= tile)
                low = middle;
            else
                high = middle - 1;
        }
        return low;
    }
};

/// A place in the row of all tiles.
struct Cursor {
    int batch, head, block;  // key head, block of rows
    int first, tiles;        // of this output: index of its first tile, how many
    int length;              // keys of this batch

    __device__ int output(const Args& a) const { return (batch * a.key_heads + head) * a.blocks + block; }

    __device__ void enter(const Args& a, int b, int h, int r, int at) {
        batch = b;
        head = h;
        block = r;
        first = at;
        length = length_of(a, b);
        tiles = tiles_of(a, length, r);
    }
    __device__ void find(const Args& a, const Prefix& prefix, int tile) {
        const int b = prefix.batch_of(tile, a.batches), n = length_of(a, b), per_head = tiles_of_head(a, n);
        const int h = (tile - prefix.before(b)) / per_head;
        int at = prefix.before(b) + h * per_head, r = 0;
        while (at + tiles_of(a, n, r) <= tile) at += tiles_of(a, n, r++);
        enter(a, b, h, r, at);
    }
    /// The next output that has tiles; there is one.
    __device__ void next(const Args& a) {
        const int at = first + tiles;
        int b = batch, h = head, r = block + 1;
        if (r == a.blocks) {
            r = 0;
            if (++h == a.key_heads) {
                h = 0;
                do ++b;
                while (length_of(a, b) == 0);
            }
        }
        enter(a, b, h, r, at);
    }
};

/// Row r of a block of rows: which query and head.
struct Row {
    int query, head;
    bool there;
    __device__ Row(const Args& a, const Cursor& c, int r) {
        const int row = c.block * kRows + r;
        there = row < a.queries * a.group;
        query = row / a.group;
        head = c.head * a.group + row % a.group;
    }
    __device__ std::int64_t index(const Args& a, int batch) const {
        return (static_cast<std::int64_t>(batch) * a.heads + head) * a.queries + query;
    }
};

// ---- tensor cores ----

template <class T, int D>
struct TensorBody {
    using Element = T;
    static constexpr int kDim = D;
    static constexpr int kKeys = 16;      ///< of one warp
    static constexpr int kPitch = D + 8;  ///< elements; an odd number of 16 bytes, so that ldmatrix meets no conflict
    static constexpr int kStages = D > 128 ? 2 : 3;
    static constexpr int kBlocks = D > 128 ? 1 : 2;
    /// Queries of wide heads stay in shared memory: with the output they would not fit the registers.
    static constexpr bool kShared = D > 128;
    static constexpr int kQueryFloats = kShared ? kRows * kPitch / 2 : 0;
    static constexpr int kMapFloats = 0;

    std::uint32_t q[kShared ? 1 : D / 16][4];
    float o[D / 8][4];
    float high[2], sum[2];

    __device__ void begin(const Args& a, const Cursor& c, float* queries) {
        const int lane = threadIdx.x % 32;
        if constexpr (kShared) {
            auto* to = reinterpret_cast<T*>(queries);
            for (int x = threadIdx.x; x < kRows * D; x += kThreads) {
                const Row row(a, c, x / D);
                const int d = x % D;
                to[x / D * kPitch + d] =
                    row.there && d < a.dim
                        ? static_cast<const T*>(
                              a.q)[c.batch * a.q_stride[0] + row.head * a.q_stride[1] + row.query * a.q_stride[2] + d]
                        : T(0.0F);
            }
            __syncthreads();
        }
        const Row rows[2] = {Row(a, c, lane / 4), Row(a, c, lane / 4 + 8)};
        const T* base[2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
            base[i] = static_cast<const T*>(a.q) + c.batch * a.q_stride[0] + rows[i].head * a.q_stride[1] +
                      rows[i].query * a.q_stride[2];
#pragma unroll
        for (int s = 0; s < (kShared ? 0 : D / 16); ++s)
#pragma unroll
            for (int x = 0; x < 4; ++x) {
                const int d = s * 16 + (x / 2) * 8 + (lane % 4) * 2;
                q[s][x] = rows[x % 2].there && d < a.dim ? *reinterpret_cast<const std::uint32_t*>(base[x % 2] + d) : 0;
            }
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
#pragma unroll
            for (int x = 0; x < 4; ++x) o[n][x] = 0;
        high[0] = high[1] = -INFINITY;
        sum[0] = sum[1] = 0;
    }

    /// The warp's 16 keys from `key` on; those from `limit` on do not count.
    __device__ void step(const Args& a, const Cursor& c, const T* keys, const T* values, int key, float* queries,
                         float*) {
        const int lane = threadIdx.x % 32;
        float s[2][4] = {};
        {
            const T* from = keys + ((lane / 16) * 8 + lane % 8) * kPitch + (lane / 8) % 2 * 8;
#pragma unroll
            for (int k = 0; k < D / 16; ++k) {
                std::uint32_t b[4];
                load_matrices(b, shared_address(from + k * 16));
                if constexpr (kShared)
                    load_matrices(q[0], shared_address(reinterpret_cast<const T*>(queries) + lane % 16 * kPitch +
                                                       lane / 16 * 8 + k * 16));
                multiply<T>(s[0], q[kShared ? 0 : k], b[0], b[1]);
                multiply<T>(s[1], q[kShared ? 0 : k], b[2], b[3]);
            }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int x = 0; x < 4; ++x) s[n][x] *= a.scale2;
        if (a.causal || key + kKeys > c.length) {
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int x = 0; x < 4; ++x) {
                    const int j = key + n * 8 + (lane % 4) * 2 + x % 2;
                    const int i = (c.block * kRows + lane / 4 + x / 2 * 8) / a.group;
                    if (j >= c.length || (a.causal && j > i)) s[n][x] = -INFINITY;
                }
        }
        float now[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float most = fmaxf(fmaxf(s[0][2 * i], s[0][2 * i + 1]), fmaxf(s[1][2 * i], s[1][2 * i + 1]));
            most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
            most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
            now[i] = fmaxf(high[i], most);
        }
        if (__any_sync(~0U, now[0] > high[0] || now[1] > high[1])) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float shrink = now[i] == -INFINITY ? 0.0F : exp2_fast(high[i] - now[i]);
                high[i] = now[i];
                sum[i] *= shrink;
#pragma unroll
                for (int n = 0; n < D / 8; ++n) {
                    o[n][2 * i] *= shrink;
                    o[n][2 * i + 1] *= shrink;
                }
            }
        }
        std::uint32_t p[4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float shift = high[i] == -INFINITY ? 0.0F : high[i];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const float x = exp2_fast(s[n][2 * i] - shift), y = exp2_fast(s[n][2 * i + 1] - shift);
                sum[i] += x + y;
                p[n * 2 + i] = pack<T>(x, y);
            }
        }
        const T* from = values + ((lane / 8) % 2 * 8 + lane % 8) * kPitch + lane / 16 * 8;
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            std::uint32_t b[4];
            load_matrices_transposed(b, shared_address(from + n * 16));
            multiply<T>(o[2 * n], p, b[0], b[1]);
            multiply<T>(o[2 * n + 1], p, b[2], b[3]);
        }
    }

    /// This warp's highest scores and sums to shared memory, [kRows] each.
    __device__ void publish(float* to_high, float* to_sum) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float all = sum[i] + __shfl_xor_sync(~0U, sum[i], 1);
            all += __shfl_xor_sync(~0U, all, 2);
            if (lane % 4 == 0) {
                to_high[lane / 4 + 8 * i] = high[i];
                to_sum[lane / 4 + 8 * i] = all;
            }
        }
    }

    /// Adds o, scaled to the block's highest scores, to `to` [rows][pitch].
    __device__ void add(const float* block_high, float* to, int rows, bool first) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int r = lane / 4 + 8 * i;
            if (r >= rows) continue;
            const float w = high[i] == -INFINITY ? 0.0F : exp2_fast(high[i] - block_high[r]);
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                auto* at = reinterpret_cast<float2*>(to + r * out_pitch(D) + n * 8 + lane % 4 * 2);
                float2 x = first ? make_float2(0, 0) : *at;
                x.x += w * o[n][2 * i];
                x.y += w * o[n][2 * i + 1];
                *at = x;
            }
        }
    }
};

// ---- multiply-adds ----

/// R: rows that are computed, the first of a block's kRows.
template <int D, int R>
struct PlainBody {
    using Element = float;
    static constexpr int kDim = D;
    static constexpr int kKeys = D > 128 ? 8 : 16;
    static constexpr int kPitch = D + 4;
    static constexpr int kStages = D >= 128 ? 2 : 3;
    static constexpr int kBlocks = D >= 128 ? 1 : 2;
    static constexpr int kQueryFloats = R * D;
    static constexpr int kMapFloats = R * kKeys;
    static constexpr int kParts = 32 / kKeys;  ///< lanes that share a key
    static constexpr int kOwn = D / 32;        ///< coordinates of the output that a lane owns: lane + 32 i

    float o[R][kOwn];
    float high[R], sum[R];

    __device__ void begin(const Args& a, const Cursor& c, float* queries) {
        for (int x = threadIdx.x; x < R * D; x += kThreads) {
            const Row row(a, c, x / D);
            const int d = x % D;
            queries[x] =
                row.there && d < a.dim
                    ? a.scale2 *
                          static_cast<const float*>(
                              a.q)[c.batch * a.q_stride[0] + row.head * a.q_stride[1] + row.query * a.q_stride[2] + d]
                    : 0.0F;
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int i = 0; i < kOwn; ++i) o[r][i] = 0;
            high[r] = -INFINITY;
            sum[r] = 0;
        }
        __syncthreads();
    }

    __device__ void step(const Args& a, const Cursor& c, const float* keys, const float* values, int key,
                         float* queries, float* map) {
        const int lane = threadIdx.x % 32, mine = lane % kKeys, part = lane / kKeys;
        float s[R] = {};
        {
            const float* k = keys + mine * kPitch + part * (D / kParts);
            const float* q = queries + part * (D / kParts);
#pragma unroll 4
            for (int d = 0; d < D / kParts; d += 4) {
                const float4 x = *reinterpret_cast<const float4*>(k + d);
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    const float4 y = *reinterpret_cast<const float4*>(q + r * D + d);
                    s[r] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, s[r]))));
                }
            }
        }
        bool grows = false;
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int step = kKeys; step < 32; step *= 2) s[r] += __shfl_xor_sync(~0U, s[r], step);
            const int j = key + mine;
            if (j >= c.length || (a.causal && j > (c.block * kRows + r) / a.group)) s[r] = -INFINITY;
            grows = grows || s[r] > high[r];
        }
        if (__any_sync(~0U, grows)) {
#pragma unroll
            for (int r = 0; r < R; ++r) {
                float now = s[r];
#pragma unroll
                for (int step = 1; step < kKeys; step *= 2) now = fmaxf(now, __shfl_xor_sync(~0U, now, step));
                now = fmaxf(now, high[r]);
                const float shrink = now == -INFINITY ? 0.0F : exp2_fast(high[r] - now);
                high[r] = now;
                sum[r] *= shrink;
#pragma unroll
                for (int i = 0; i < kOwn; ++i) o[r][i] *= shrink;
            }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const float p = exp2_fast(s[r] - (high[r] == -INFINITY ? 0.0F : high[r]));
            sum[r] += p;
            if (part == 0) map[mine * R + r] = p;
        }
        __syncwarp();
#pragma unroll(R* kOwn > 64 ? 1 : 2)
        for (int j = 0; j < kKeys; ++j) {
            float v[kOwn];
#pragma unroll
            for (int i = 0; i < kOwn; ++i) v[i] = values[j * kPitch + lane + 32 * i];
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const float p = map[j * R + r];
#pragma unroll
                for (int i = 0; i < kOwn; ++i) o[r][i] = fmaf(p, v[i], o[r][i]);
            }
        }
        __syncwarp();
    }

    __device__ void publish(float* to_high, float* to_sum) {
        const int lane = threadIdx.x % 32;
        if (lane < kRows && lane >= R) {
            to_high[lane] = -INFINITY;
            to_sum[lane] = 0;
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            float all = sum[r];
#pragma unroll
            for (int step = 1; step < kKeys; step *= 2) all += __shfl_xor_sync(~0U, all, step);
            if (lane == 0) {
                to_high[r] = high[r];
                to_sum[r] = all;
            }
        }
    }

    __device__ void add(const float* block_high, float* to, int rows, bool first) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            if (r >= rows) continue;
            const float w = high[r] == -INFINITY ? 0.0F : exp2_fast(high[r] - block_high[r]);
#pragma unroll
            for (int i = 0; i < kOwn; ++i) {
                float* at = to + r * out_pitch(D) + lane + 32 * i;
                *at = (first ? 0.0F : *at) + w * o[r][i];
            }
        }
    }
};

// ---- pieces ----

/// Which slots hold the pieces of an output.
struct Pieces {
    int count, worker;  // worker: of the first piece
    bool fixed;
    __device__ int slot(int piece) const {
        if (fixed) return worker + piece;
        return piece == 0 ? 2 * worker + 1 : 2 * (worker + piece);
    }
};

__device__ inline Pieces pieces_of(const Args& a, const LeanCutOf<int>& cut, const Cursor& c) {
    Pieces p;
    p.fixed = a.splits > 0;
    if (p.fixed) {
        const int share = (c.tiles + a.splits - 1) / a.splits;
        p.worker = c.output(a) * a.splits;
        p.count = (c.tiles + share - 1) / share;
    } else {
        p.worker = cut.worker_of(c.first);
        p.count = cut.worker_of(c.first + c.tiles - 1) - p.worker + 1;
    }
    return p;
}

/// (high, sum) of two sets of keys.
__device__ inline void join(float& high, float& sum, float other_high, float other_sum) {
    const float now = fmaxf(high, other_high), shift = now == -INFINITY ? 0.0F : now;
    sum = exp2_fast(high - shift) * sum + exp2_fast(other_high - shift) * other_sum;
    high = now;
}

/// One row of an output from its pieces, by the whole block, always in the same order. shared: at least
/// kRows * out_pitch(D) floats.
template <int D>
__device__ void merge_row(const Args& a, const Cursor& c, const Pieces& p, int r, float* shared) {
    constexpr int kLanes = D / 4, kGroups = kThreads / kLanes;  // four coordinates a lane, a group of lanes a piece
    static_assert(kGroups * D + 2 * kWarps <= kRows * out_pitch(D));
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Row row(a, c, r);
    float high = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < p.count; i += kThreads) {
        const int slot = p.slot(i) * kRows + r;
        join(high, sum, __ldcg(a.part_high + slot), __ldcg(a.part_sum + slot));
    }
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
        join(high, sum, __shfl_xor_sync(~0U, high, step), __shfl_xor_sync(~0U, sum, step));
    float* const totals = shared + kGroups * D;
    if (lane == 0) {
        totals[warp] = high;
        totals[kWarps + warp] = sum;
    }
    __syncthreads();
    high = totals[0];
    sum = totals[kWarps];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) join(high, sum, totals[w], totals[kWarps + w]);
    const float shift = high == -INFINITY ? 0.0F : high;
    const float inverse = sum > 0 ? 1 / sum : 0.0F;

    const int group = threadIdx.x / kLanes, own = threadIdx.x % kLanes * 4;
    if (group < kGroups) {
        float4 o = make_float4(0, 0, 0, 0);
#pragma unroll 8
        for (int i = group; i < p.count; i += kGroups) {
            const int slot = p.slot(i) * kRows + r;
            const float w = exp2_fast(__ldcg(a.part_high + slot) - shift);
            const float4 x =
                __ldcg(reinterpret_cast<const float4*>(a.part_out + static_cast<std::int64_t>(slot) * D + own));
            o.x = fmaf(w, x.x, o.x);
            o.y = fmaf(w, x.y, o.y);
            o.z = fmaf(w, x.z, o.z);
            o.w = fmaf(w, x.w, o.w);
        }
        *reinterpret_cast<float4*>(shared + group * D + own) = o;
    }
    __syncthreads();
    const std::int64_t at = row.index(a, c.batch);
    for (int d = threadIdx.x; d < a.dim; d += kThreads) {
        float all = 0;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) all += shared[g * D + d];
        a.out[at * a.dim + d] = all * inverse;
    }
    if (threadIdx.x == 0) a.lse[at] = sum > 0 ? (high + log2f(sum)) * kLn2 : -INFINITY;
    if (a.mass != nullptr)
        for (int i = threadIdx.x; i < p.count; i += kThreads) {
            const int slot = p.slot(i) * kRows + r;
            a.mass[(p.worker + i + c.output(a)) * kRows + r] =
                exp2_fast(__ldcg(a.part_high + slot) - shift) * __ldcg(a.part_sum + slot) * inverse;
        }
    __syncthreads();
}

// ---- the kernel ----

template <class Body>
struct Memory {
    static constexpr int kTile = Body::kKeys * Body::kPitch;  ///< elements of one warp's keys, or values, of one stage
    alignas(16) typename Body::Element tiles[kWarps][Body::kStages][2][kTile];
    alignas(16) float queries[Body::kQueryFloats > 0 ? Body::kQueryFloats : 4];
    alignas(16) float map[kWarps][Body::kMapFloats > 0 ? Body::kMapFloats : 4];
    alignas(16) float out[kRows * out_pitch(Body::kDim)];
    float high[kWarps][kRows], sum[kWarps][kRows], block_high[kRows], block_sum[kRows];
    int ticket;
    int prefix[1];  ///< batches + 1
};

/// Begins to copy the warp's keys and values of a tile to shared memory, 16 bytes at a time. Rows beyond the last key
/// and columns beyond the head's width become zeros. (The bulk copy engine of 9.0, a row a copy, was tried: a warp
/// issues such copies one after the other, and was slower at every size.)
template <class Body>
__device__ void load_tile(const Args& a, const Cursor& c, int tile, typename Body::Element (*to)[Memory<Body>::kTile]) {
    using T = typename Body::Element;
    constexpr int kPer = 16 / sizeof(T), kChunks = Body::kDim / kPer, kAll = kChunks * Body::kKeys;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int key = (tile - c.first) * kWarps * Body::kKeys + warp * Body::kKeys;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
        const std::int64_t* stride = side == 0 ? a.k_stride : a.v_stride;
        const T* from =
            static_cast<const T*>(side == 0 ? a.k : a.v) + c.batch * stride[0] + c.head * stride[1] + key * stride[2];
#pragma unroll
        for (int i = 0; i < (kAll + 31) / 32; ++i) {
            const int x = lane + 32 * i, row = x / kChunks, chunk = x % kChunks * kPer;
            if (kAll % 32 != 0 && x >= kAll) break;
            // Where nothing is there, the address is one that can be read.
            const bool there = key + row < c.length && chunk < a.dim;
            copy16_of_line(shared_address(to[side] + row * Body::kPitch + chunk),
                           there ? static_cast<const void*>(from + row * stride[2] + chunk) : a.k, there);
        }
    }
}

template <class Body>
__global__ void __launch_bounds__(kThreads, Body::kBlocks) probe_kernel(const __grid_constant__ Args a) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto& memory = *reinterpret_cast<Memory<Body>*>(shared);
    constexpr int D = Body::kDim;
    const int warp = threadIdx.x / 32;

    // Batches without keys own no tile.
    for (int b = blockIdx.x; b < a.batches && a.lengths != nullptr; b += gridDim.x) {
        if (length_of(a, b) != 0) continue;
        const std::int64_t rows = static_cast<std::int64_t>(a.heads) * a.queries;
        for (std::int64_t x = threadIdx.x; x < rows * a.dim; x += kThreads) a.out[b * rows * a.dim + x] = 0;
        for (std::int64_t x = threadIdx.x; x < rows; x += kThreads) a.lse[b * rows + x] = -INFINITY;
    }
    const Prefix prefix(a, memory.prefix);
    const LeanCutOf<int> cut = lean_cut(prefix.before(a.batches), a.workers);

    Cursor now;
    int begin, end;
    if (a.splits > 0) {
        const int output = blockIdx.x / a.splits, split = blockIdx.x % a.splits;
        now.enter(a, output / a.blocks / a.key_heads, output / a.blocks % a.key_heads, output % a.blocks, 0);
        const int share = (now.tiles + a.splits - 1) / a.splits;
        begin = split * share;
        end = min(begin + share, now.tiles);
    } else {
        if (blockIdx.x >= cut.workers) return;
        begin = cut.start(blockIdx.x);
        end = begin + cut.count(blockIdx.x);
        if (begin < end) now.find(a, prefix, begin);
    }
    if (begin >= end) return;

    Cursor ahead = now;
    const auto load = [&](int tile, int stage) {
        if (tile < end) {
            if (tile == ahead.first + ahead.tiles) ahead.next(a);
            load_tile<Body>(a, ahead, tile, memory.tiles[warp][stage]);
        }
        commit_copies();
    };
#pragma unroll
    for (int s = 0; s < Body::kStages - 1; ++s) load(begin + s, s);

    Body body;
    body.begin(a, now, memory.queries);
    int stage = 0, segment = begin;
    for (int tile = begin; tile < end; ++tile) {
        wait_copies<Body::kStages - 2>();
        __syncwarp();
        load(tile + Body::kStages - 1, stage == 0 ? Body::kStages - 1 : stage - 1);
        body.step(a, now, memory.tiles[warp][stage][0], memory.tiles[warp][stage][1],
                  (tile - now.first) * kWarps * Body::kKeys + warp * Body::kKeys, memory.queries, memory.map[warp]);
        stage = stage + 1 == Body::kStages ? 0 : stage + 1;
        const bool finish = tile + 1 == now.first + now.tiles;
        if (!finish && tile + 1 < end) continue;

        // The end of an output or of the run: the warps come together, in their order.
        const int rows = min(kRows, a.queries * a.group - now.block * kRows);
        const bool side_by_side = rows * kWarps <= kRows;  // there is room for all, else one after the other
        body.publish(memory.high[warp], memory.sum[warp]);
        __syncthreads();
        if (threadIdx.x < kRows) {
            float high = memory.high[0][threadIdx.x], sum = memory.sum[0][threadIdx.x];
            for (int w = 1; w < kWarps; ++w) join(high, sum, memory.high[w][threadIdx.x], memory.sum[w][threadIdx.x]);
            memory.block_high[threadIdx.x] = high;
            memory.block_sum[threadIdx.x] = sum;
        }
        __syncthreads();
        if (side_by_side) {
            body.add(memory.block_high, memory.out + warp * rows * out_pitch(D), rows, true);
            __syncthreads();
        } else {
            for (int w = 0; w < kWarps; ++w) {
                if (w == warp) body.add(memory.block_high, memory.out, rows, w == 0);
                __syncthreads();
            }
        }
        const auto out_of = [&](int r, int d) {
            float all = memory.out[r * out_pitch(D) + d];
            if (side_by_side)
                for (int w = 1; w < kWarps; ++w) all += memory.out[(w * rows + r) * out_pitch(D) + d];
            return all;
        };
        const bool whole = finish && segment == now.first;
        if (whole) {
            for (int x = threadIdx.x; x < rows * D; x += kThreads) {
                const int r = x / D, d = x % D;
                const float sum = memory.block_sum[r];
                if (d < a.dim)
                    a.out[Row(a, now, r).index(a, now.batch) * a.dim + d] = sum > 0 ? out_of(r, d) / sum : 0.0F;
            }
            if (threadIdx.x < rows) {
                const int r = threadIdx.x;
                const float sum = memory.block_sum[r];
                a.lse[Row(a, now, r).index(a, now.batch)] =
                    sum > 0 ? (memory.block_high[r] + log2f(sum)) * kLn2 : -INFINITY;
                if (a.mass != nullptr) a.mass[(blockIdx.x + now.output(a)) * kRows + r] = sum > 0 ? 1.0F : 0.0F;
            }
        } else {
            const Pieces pieces = pieces_of(a, cut, now);
            const int slot =
                a.splits > 0 ? static_cast<int>(blockIdx.x) : pieces.slot(static_cast<int>(blockIdx.x) - pieces.worker);
            for (int x = threadIdx.x; x < rows * D; x += kThreads)
                a.part_out[static_cast<std::int64_t>(slot) * kRows * D + x] = out_of(x / D, x % D);
            if (threadIdx.x < rows) {
                a.part_high[slot * kRows + threadIdx.x] = memory.block_high[threadIdx.x];
                a.part_sum[slot * kRows + threadIdx.x] = memory.block_sum[threadIdx.x];
            }
            if (a.tickets != nullptr) {
                __threadfence();
                __syncthreads();
                if (threadIdx.x == 0) memory.ticket = atomicAdd(a.tickets + now.output(a), 1);
                __syncthreads();
                if (memory.ticket == pieces.count - 1) {
                    __threadfence();
                    if (threadIdx.x == 0) a.tickets[now.output(a)] = 0;
                    for (int r = 0; r < rows; ++r) merge_row<D>(a, now, pieces, r, memory.out);
                }
            }
        }
        __syncthreads();
        if (tile + 1 < end) {
            now.next(a);
            segment = tile + 1;
            body.begin(a, now, memory.queries);
        }
    }
}

/// The second launch: one block a row of an output that was cut.
template <int D>
__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ Args a) {
    extern __shared__ __align__(16) unsigned char shared[];
    auto* out = reinterpret_cast<float*>(shared);
    const Prefix prefix(a, reinterpret_cast<int*>(out + kRows * out_pitch(D)));
    const int output = blockIdx.x, batch = output / a.blocks / a.key_heads;
    Cursor c;
    c.enter(a, batch, output / a.blocks % a.key_heads, output % a.blocks, 0);
    if (c.tiles == 0) return;
    c.first = prefix.before(batch) + c.head * tiles_of_head(a, c.length);
    for (int r = 0; r < c.block; ++r) c.first += tiles_of(a, c.length, r);
    const Pieces pieces = pieces_of(a, lean_cut(prefix.before(a.batches), a.workers), c);
    if (pieces.count == 1 || !Row(a, c, blockIdx.y).there) return;
    merge_row<D>(a, c, pieces, blockIdx.y, out);
}

// ---- host ----

struct Kernel {
    const void *run = nullptr, *merge = nullptr;
    int memory = 0, dim = 0;
};

template <class Body>
Kernel kernel_of() {
    return {reinterpret_cast<const void*>(&probe_kernel<Body>),
            reinterpret_cast<const void*>(&merge_kernel<Body::kDim>), static_cast<int>(sizeof(Memory<Body>)),
            Body::kDim};
}

template <class T>
Kernel tensor_kernel(std::int64_t dim) {
    // Between these widths zeros are multiplied; no byte more is read.
    if (dim <= 64) return kernel_of<TensorBody<T, 64>>();
    if (dim <= 128) return kernel_of<TensorBody<T, 128>>();
    return kernel_of<TensorBody<T, 256>>();
}

template <int R>
Kernel plain_kernel(std::int64_t dim) {
    if (dim <= 64) return kernel_of<PlainBody<64, R>>();
    if (dim <= 128) return kernel_of<PlainBody<128, R>>();
    return kernel_of<PlainBody<256, R>>();
}

Kernel kernel_for(const DeviceProbe& p) {
    if (p.element == Element::F16) return tensor_kernel<__half>(p.head_dim);
    if (p.element == Element::BF16) return tensor_kernel<__nv_bfloat16>(p.head_dim);
    const std::int64_t rows = p.queries * (p.heads / p.key_heads);
    return rows == 1   ? plain_kernel<1>(p.head_dim)
           : rows <= 4 ? plain_kernel<4>(p.head_dim)
                       : plain_kernel<kRows>(p.head_dim);
}

int attribute(cudaDeviceAttr what) {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, what, device);
    return value;
}

int compute_capability_of_current() {
    return attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
}

std::int64_t outputs_of(const DeviceProbe& p) {
    return p.batches * p.key_heads * lean_row_blocks(p.queries, p.heads / p.key_heads);
}

/// Tiles where every batch has all its keys.
std::int64_t most_tiles(const DeviceProbe& p) {
    const std::int64_t group = p.heads / p.key_heads, blocks = lean_row_blocks(p.queries, group);
    std::int64_t sum = 0;
    for (std::int64_t r = 0; r < blocks; ++r)
        sum += lean_tiles<std::int64_t>(p.keys, r, p.queries, group, p.causal, probe_tile_keys(p));
    return sum * p.batches * p.key_heads;
}

int memory_of(const Kernel& kernel, const DeviceProbe& p) {
    return kernel.memory + static_cast<int>(p.batches) * static_cast<int>(sizeof(int));
}

/// Blocks of this kernel that the current device holds at once.
std::int64_t at_once(const Kernel& kernel, int memory) {
    cudaFuncSetAttribute(kernel.run, cudaFuncAttributeMaxDynamicSharedMemorySize, memory);
    int blocks = 0;
    if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel.run, kThreads,
                                                      static_cast<std::size_t>(memory)) != cudaSuccess)
        return 1;
    return static_cast<std::int64_t>(std::max(blocks, 1)) * attribute(cudaDevAttrMultiProcessorCount);
}

struct Workspace {
    std::size_t sum, out, bytes;
    Workspace(std::int64_t slots, int dim) {
        const std::size_t rows = static_cast<std::size_t>(slots) * kRows;
        sum = rows * sizeof(float);
        out = 2 * sum;
        bytes = out + rows * sizeof(float) * static_cast<std::size_t>(dim);
    }
};

struct Plan {
    Kernel kernel;
    int memory;
    std::int64_t outputs, workers;
    explicit Plan(const DeviceProbe& p) : kernel(kernel_for(p)), memory(memory_of(kernel, p)), outputs(outputs_of(p)) {
        const std::int64_t tiles = most_tiles(p);
        const std::int64_t held = at_once(kernel, memory);
        workers = std::min(p.workers > 0 ? p.workers : lean_workers(tiles, held), std::max<std::int64_t>(tiles, 1));
        // Few outputs of few tiles: half the workers leave half the pieces, whose merging is what takes time there
        // (one head of 65,536 keys and width 64 on an H100: 21.8 us with 264 workers, 14.0 with 132).
        if (p.workers == 0 && workers == held && workers / outputs > 100 && tiles < 8 * workers) {
            workers = held / 2;
            return;
        }
        // Where almost as many workers share every output evenly, heads are read side by side: tokens that lie in one
        // page of memory at one time.
        if (p.workers > 0 || p.causal || workers < held) return;
        for (std::int64_t share = held / outputs; share > 0 && outputs * share * 16 >= held * 15; --share)
            if (tiles / outputs % share == 0) {
                workers = outputs * share;
                return;
            }
    }
};

Args args_of(const DeviceProbe& p, const Kernel& kernel, void* workspace, std::int64_t slots) {
    Args a{};
    a.q = p.q;
    a.k = p.k;
    a.v = p.v;
    for (int i = 0; i < 3; ++i) {
        a.q_stride[i] = p.q_stride[i];
        a.k_stride[i] = p.k_stride[i];
        a.v_stride[i] = p.v_stride[i];
    }
    a.batches = static_cast<int>(p.batches);
    a.heads = static_cast<int>(p.heads);
    a.key_heads = static_cast<int>(p.key_heads);
    a.queries = static_cast<int>(p.queries);
    a.keys = static_cast<int>(p.keys);
    a.dim = static_cast<int>(p.head_dim);
    a.group = a.heads / a.key_heads;
    a.blocks = static_cast<int>(lean_row_blocks(p.queries, a.group));
    a.lengths = p.lengths;
    a.scale2 = p.scale * kLog2E;
    a.causal = p.causal;
    a.tile_keys = static_cast<int>(probe_tile_keys(p));
    const Workspace at(slots, kernel.dim);
    auto* bytes = static_cast<unsigned char*>(workspace);
    a.part_high = reinterpret_cast<float*>(bytes);
    a.part_sum = reinterpret_cast<float*>(bytes + at.sum);
    a.part_out = reinterpret_cast<float*>(bytes + at.out);
    return a;
}

const char* queue(const Plan& plan, Args a, std::int64_t blocks, cudaStream_t stream) {
    cudaError_t error = cudaFuncSetAttribute(plan.kernel.run, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.memory);
    void* arguments[] = {&a};
    if (error == cudaSuccess)
        error = cudaLaunchKernel(plan.kernel.run, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), arguments,
                                 static_cast<std::size_t>(plan.memory), stream);
    if (error == cudaSuccess && a.tickets == nullptr) {
        const int rows = std::min(kRows, a.queries * a.group);
        const std::size_t memory = sizeof(float) * static_cast<std::size_t>(kRows * out_pitch(plan.kernel.dim)) +
                                   sizeof(int) * static_cast<std::size_t>(a.batches + 1);
        error =
            cudaLaunchKernel(plan.kernel.merge, dim3(static_cast<unsigned>(plan.outputs), static_cast<unsigned>(rows)),
                             dim3(kThreads), arguments, memory, stream);
    }
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

std::int64_t probe_tile_keys(const DeviceProbe& p) {
    return p.element == Element::F32 && p.head_dim > 128 ? kLeanKeys / 2 : kLeanKeys;
}

const char* cannot_run(const DeviceProbe& p, int compute_capability) noexcept {
    if (p.q == nullptr || p.k == nullptr || p.v == nullptr) return "queries, keys or values are missing";
    if (p.batches < 1 || p.heads < 1 || p.queries < 1 || p.keys < 1 || p.head_dim < 1) return "an axis is empty";
    if (p.key_heads < 1 || p.heads % p.key_heads != 0) return "the number of heads is no multiple of the key heads";
    if (p.head_dim > 256) return "heads are wider than 256";
    if (p.batches > kMaxBatches) return "there are more than 1024 batches";
    const std::int64_t size = size_of(p.element);
    const auto odd = [&](std::int64_t x) { return x * size % 16 != 0; };
    const auto astray = [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 != 0; };
    if (odd(p.head_dim) || astray(p.q) || astray(p.k) || astray(p.v))
        return "rows of queries, keys and values are no multiples of 16 bytes";
    for (int i = 0; i < 3; ++i)
        if (odd(p.q_stride[i]) || odd(p.k_stride[i]) || odd(p.v_stride[i]))
            return "rows of queries, keys and values do not start at multiples of 16 bytes";
    constexpr std::int64_t kMost = 0x7FFFFFFF;
    if (p.keys > kMost || p.queries > kMost / p.heads || p.batches * p.heads * p.queries > kMost / kRows ||
        most_tiles(p) > kMost / 2)
        return "there are more tiles than 32 bits count";
    if (compute_capability < 80) return "the device is older than compute capability 8.0";
    if (memory_of(kernel_for(p), p) > shared_limit(compute_capability))
        return "a block of this device has too little shared memory";
    return nullptr;
}

std::int64_t probe_workers(const DeviceProbe& p) { return Plan(p).workers; }

std::size_t probe_workspace(const DeviceProbe& p) {
    const Plan plan(p);
    return Workspace(2 * plan.workers, plan.kernel.dim).bytes;
}

const char* probe(const DeviceProbe& p, const DeviceProbeResult& to, const Launch& launch) noexcept {
    if (const char* why = cannot_run(p, compute_capability_of_current())) return why;
    if (to.out == nullptr || to.lse == nullptr) return "there is no place for the output or its log-sum-exp";
    const Plan plan(p);
    if (launch.workspace_bytes < Workspace(2 * plan.workers, plan.kernel.dim).bytes)
        return "the workspace is too small";
    const auto stream = static_cast<cudaStream_t>(launch.stream);
    Args a = args_of(p, plan.kernel, launch.workspace, 2 * plan.workers);
    a.workers = static_cast<int>(plan.workers);
    a.out = to.out;
    a.lse = to.lse;
    a.mass = to.mass;
    if (a.mass != nullptr) {
        const std::size_t bytes = static_cast<std::size_t>((plan.workers + plan.outputs) * kRows) * sizeof(float);
        if (const cudaError_t error = cudaMemsetAsync(a.mass, 0, bytes, stream)) return cudaGetErrorString(error);
    }
    // One block merges few pieces faster than a second launch starts.
    const std::int64_t rows = std::min<std::int64_t>(kRows, p.queries * (p.heads / p.key_heads));
    const bool alone =
        to.merge == ProbeMerge::LastArriver ||
        (to.merge == ProbeMerge::Auto && rows * (plan.workers / plan.outputs + 2 + kRowCost) <= kFewPieces);
    a.tickets = alone ? to.tickets : nullptr;
    return queue(plan, a, plan.workers, stream);
}

std::int64_t probe_best_splits(const DeviceProbe& p) {
    // The fewest splits that keep the device at least 85 % as busy as the best number of them does.
    const Plan plan(p);
    const auto resident = static_cast<double>(at_once(plan.kernel, plan.memory));
    const auto busy = [&](std::int64_t splits) {
        const double waves = static_cast<double>(plan.outputs * splits) / resident;
        return waves / std::ceil(waves);
    };
    const std::int64_t most = std::min<std::int64_t>(128, (p.keys + kLeanKeys - 1) / kLeanKeys);
    double best = 0;
    for (std::int64_t s = 1; s <= most; ++s) best = std::max(best, busy(s));
    for (std::int64_t s = 1; s <= most; ++s)
        if (busy(s) >= 0.85 * best) return s;
    return 1;
}

std::size_t probe_splits_workspace(const DeviceProbe& p, std::int64_t splits) {
    const Plan plan(p);
    return Workspace(plan.outputs * splits, plan.kernel.dim).bytes;
}

const char* probe_splits(const DeviceProbe& p, std::int64_t splits, float* out, float* lse,
                         const Launch& launch) noexcept {
    if (const char* why = cannot_run(p, compute_capability_of_current())) return why;
    if (splits < 1 || splits > 4096) return "the number of splits is not in 1 to 4096";
    const Plan plan(p);
    const std::int64_t slots = plan.outputs * splits;
    if (launch.workspace_bytes < Workspace(slots, plan.kernel.dim).bytes) return "the workspace is too small";
    Args a = args_of(p, plan.kernel, launch.workspace, slots);
    a.workers = 1;
    a.splits = static_cast<int>(splits);
    a.out = out;
    a.lse = lse;
    return queue(plan, a, slots, static_cast<cudaStream_t>(launch.stream));
}

}  // namespace vitrine::kernels::cuda
