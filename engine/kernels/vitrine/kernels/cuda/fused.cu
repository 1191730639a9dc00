// One map fused of all heads by mean, maximum or minimum, never formed: its rows, row sums, weighted column sums and
// counts, by mma.sync.
//
// The exponential grows with its argument, so the greatest (least) of the heads is found among the exponents and one
// exponential an entry is enough. Tiles of keys (the accumulators' rows) and queries of each head stream through shared
// memory; a block keeps one side's place and walks along the other: keys for the weighted sum, queries for the rest.
#include <type_traits>

#include <vitrine/kernels/cuda/launches.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kSide = 128, kWarps = 8, kThreads = kWarps * 32;
constexpr int kChunk = 256;   // bytes of a row that are in shared memory at a time
constexpr int kSlots = 2048;  // counts that a block keeps itself: eight powers of two of 256 bins

/// Both tiles of a stage, its queries' numbers and their log-sum-exps.
__host__ __device__ constexpr int stage_bytes_of(int pitch) { return 2 * kSide * pitch + kSide * 8; }

__device__ __forceinline__ float greater(float a, float b) {  // not-a-number wins, unlike fmaxf's
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}
__device__ __forceinline__ float lesser(float a, float b) {
    float c;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

/// Counts a bin in the block's own slot, or in the whole where another bin has the slot.
__device__ __forceinline__ void count_bin(int bin, int* owner, unsigned* own, unsigned long long* all) {
    const int slot = bin % kSlots;
    int who = owner[slot];
    if (who < 0) who = atomicCAS(&owner[slot], -1, bin);
    if (who < 0 || who == bin)
        atomicAdd(&own[slot], 1U);
    else
        atomicAdd(&all[bin], 1ULL);
}

// Called, not copied into the unrolled loops: they hold 64 entries each, and these are the rare or the slow ones.

/// The natural logarithm of an entry with all that a problem can hold.
__device__ __noinline__ float general_entry(const Problem& p, float dot, int h, int i, int j, float lse) {
    return i < p.queries && j < p.keys ? general_score(p, dot, h, i, j) - lse : minus_infinity();
}
/// What is left of an entry that equals the threshold or belongs to the kept key.
__device__ __noinline__ float kept_of(const FusedDropped& d, float value, int i, int j, int keys) {
    const bool dropped =
        !(j == d.kept_key && i < d.kept_queries) &&
        (value < d.threshold || (value == d.threshold && static_cast<long long>(i) * keys + j < d.tie_end));
    return dropped ? 0.0F : value;
}
template <Element kElement, bool kGeneral>
__global__ void __launch_bounds__(kThreads) fused_kernel(const __grid_constant__ FusedTask task) {
    extern __shared__ __align__(128) char shared[];
    __shared__ float crossing[4][kSide];
    const Problem& p = task.p;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int warp_key = warp / 2 * 32, warp_query = warp % 2 * 64;
    const int chunks = (p.row_bytes + kChunk - 1) / kChunk;
    const int pitch = pitch_of(min(p.row_bytes, kChunk));
    const int stage_bytes = stage_bytes_of(pitch);
    const std::uint32_t stages = shared_address(shared);
    const bool sweep = task.mode == FusedMode::Sweep;
    auto* owner = reinterpret_cast<int*>(shared + 2 * stage_bytes);
    auto* own = reinterpret_cast<unsigned*>(owner + kSlots);
    unsigned fewer = 0;
    if (task.mode == FusedMode::Histogram)
        for (int x = threadIdx.x; x < kSlots; x += kThreads) {
            owner[x] = -1;
            own[x] = 0;
        }
    const int queries = task.mode == FusedMode::Rows ? task.listed : task.count != nullptr ? *task.count : p.queries;
    const auto query = [&](int x) {
        if (x >= queries) return -1;
        if (task.mode == FusedMode::Rows)
            return static_cast<int>(task.list != nullptr ? task.list[x] : task.host_list[x]);
        return task.index != nullptr ? task.index[x] : x;
    };
    const int walked = ((sweep ? queries : p.keys) + kSide - 1) / kSide;
    const int begin = static_cast<int>(static_cast<long long>(walked) * blockIdx.y / task.splits);
    const int end = static_cast<int>(static_cast<long long>(walked) * (blockIdx.y + 1) / task.splits);
    const int per_tile = p.heads * chunks;
    const int total = (end - begin) * per_tile;
    const auto copy_stage = [&](int x) {
        const int at = begin + x / per_tile, h = x % per_tile / chunks, from = x % per_tile % chunks * kChunk;
        const int bytes = min(kChunk, p.row_bytes - from), pieces = steps_of(bytes) * 2;
        const int first_key = (sweep ? blockIdx.x : at) * kSide, first_query = (sweep ? at : blockIdx.x) * kSide;
        const std::uint32_t stage = stages + x % 2 * stage_bytes;
        const char* q = p.q + h * p.q_stride[0] + from;
        const char* k = p.k + h / p.group * p.k_stride[0] + from;
        copy_rows(stage, pitch, kSide, pieces, bytes, p.q,
                  [&](int row) { return first_key + row < p.keys ? k + (first_key + row) * p.k_stride[1] : nullptr; });
        copy_rows(stage + kSide * pitch, pitch, kSide, pieces, bytes, p.q, [&](int row) {
            const int i = query(first_query + row);
            return i >= 0 ? q + i * p.q_stride[1] : nullptr;
        });
        if (threadIdx.x < kSide) {
            const int i = query(first_query + threadIdx.x), at_end = x % 2 * stage_bytes + 2 * kSide * pitch;
            // Outside it is a number that general problems do not read at, and p = 0.
            reinterpret_cast<int*>(shared + at_end)[threadIdx.x] = i < 0 ? p.queries : i;
            float* lse = reinterpret_cast<float*>(shared + at_end) + kSide + threadIdx.x;
            if (i < 0)
                *lse = plus_infinity();
            else
                copy4(shared_address(lse), p.lse + static_cast<long long>(h) * p.queries + i);
        }
        commit_copies();
    };
    float sum[16] = {};  // by key (m, half) in a sweep, by query (n, parity) for row sums
    float s[2][8][4], fused[2][8][4];
    if (total > 0) copy_stage(0);
    for (int x = 0; x < total; ++x) {
        if (x + 1 < total) {
            copy_stage(x + 1);
            wait_copies<1>();
        } else {
            wait_copies<0>();
        }
        __syncthreads();
        const int at = begin + x / per_tile, h = x % per_tile / chunks, chunk = x % per_tile % chunks;
        const int first_key = (sweep ? blockIdx.x : at) * kSide + warp_key;
        const int first_query = (sweep ? at : blockIdx.x) * kSide + warp_query;
        if (chunk == 0) clear(s);
        const std::uint32_t stage = stages + x % 2 * stage_bytes;
        multiply_tiles<kElement>(s, stage + warp_key * pitch, pitch, stage + (kSide + warp_query) * pitch, pitch,
                                 steps_of(min(kChunk, p.row_bytes - chunk * kChunk)));
        const auto* of_queries =
            reinterpret_cast<const int*>(shared + x % 2 * stage_bytes + 2 * kSide * pitch) + warp_query;
        if (chunk + 1 == chunks) {
            // s becomes the natural logarithm of p; fused = f(fused, s), from what changes nothing on.
#pragma unroll
            for (int n = 0; n < 8; ++n)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    [[maybe_unused]] const int i = of_queries[n * 8 + t * 2 + c];
                    const float lse = safe_lse(reinterpret_cast<const float*>(of_queries)[kSide + n * 8 + t * 2 + c]);
#pragma unroll
                    for (int m = 0; m < 2; ++m)
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            float& x = s[m][n][half * 2 + c];
                            if constexpr (kGeneral)
                                x = general_entry(p, x, h, i, first_key + m * 16 + half * 8 + g, lse);
                            else
                                x = fmaf(x, p.scale, -lse);
                        }
                }
            const auto fuse = [&](float begin, const auto& f) {
#pragma unroll
                for (int m = 0; m < 2; ++m)
#pragma unroll
                    for (int n = 0; n < 8; ++n)
#pragma unroll
                        for (int w = 0; w < 4; ++w) fused[m][n][w] = f(h == 0 ? begin : fused[m][n][w], s[m][n][w]);
            };
            if (task.fusion == Fusion::Mean)
                fuse(0.0F, [](float f, float e) { return f + exp2_fast(e * kLog2E); });
            else if (task.fusion == Fusion::Max)
                fuse(minus_infinity(), greater);
            else
                fuse(plus_infinity(), lesser);
        }
        if (chunk + 1 == chunks && h + 1 == p.heads) {
            const float share = 1.0F / static_cast<float>(p.heads);
            // Calls f(entry, its weight, place, query, key, index of the key in `sum`, of the query in `sum`) for all
            // that is in the map.
            const auto each = [&](const auto& f) {
#pragma unroll
                for (int n = 0; n < 8; ++n)
#pragma unroll
                    for (int c = 0; c < 2; ++c) {
                        const int place = first_query + n * 8 + t * 2 + c;
                        const int i = of_queries[n * 8 + t * 2 + c];
                        const float r = sweep && i < p.queries ? task.weight[place].x : 0.0F;
#pragma unroll
                        for (int m = 0; m < 2; ++m)
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                const int j = first_key + m * 16 + half * 8 + g;
                                if (i >= p.queries || j >= p.keys) continue;
                                const float x = fused[m][n][half * 2 + c];
                                f(task.fusion == Fusion::Mean ? x * share : exp2_fast(x * kLog2E), r, place, i, j,
                                  m * 2 + half, n * 2 + c);
                            }
                    }
            };
            if (task.mode == FusedMode::Rows) {
                each([&](float value, float, int place, int, int j, int, int) {
                    task.out[static_cast<long long>(place) * p.keys + j] = value;
                });
            } else if (task.mode == FusedMode::Histogram) {
                each([&](float value, float, int, int, int, int, int) {
                    const std::uint32_t bits = __float_as_uint(value);
                    const long long bin = static_cast<long long>(bits - task.first) >> task.shift;
                    if (bits < task.first) {
                        ++fewer;
                    } else if (bin < task.bins) {
                        count_bin(static_cast<int>(bin), owner, own, task.counts);
                    }
                });
            } else {
                const FusedDropped& d = task.dropped;
                float part[16] = {};
                each([&](float value, float r, int, int i, int j, int of_key, int of_query) {
                    float kept = value < d.threshold ? 0.0F : value;
                    if (value == d.threshold || j == d.kept_key) kept = kept_of(d, value, i, j, p.keys);
                    if (sweep)
                        part[of_key] = fmaf(r, kept, part[of_key]);
                    else
                        part[of_query] += kept;
                });
#pragma unroll
                for (int y = 0; y < 16; ++y) sum[y] += part[y];
            }
        }
        __syncthreads();
    }
    if (sweep) {
        // Four lanes share a key, two warps its queries.
#pragma unroll
        for (int y = 0; y < 4; ++y) {
            float all = sum[y];
            all += __shfl_xor_sync(~0U, all, 1);
            all += __shfl_xor_sync(~0U, all, 2);
            if (t == 0) crossing[warp % 2][warp_key + y / 2 * 16 + y % 2 * 8 + g] = all;
        }
        __syncthreads();
        for (int x = threadIdx.x; x < kSide; x += kThreads) {
            const int j = blockIdx.x * kSide + x;
            if (j < p.keys) task.out[static_cast<long long>(blockIdx.y) * p.keys + j] = crossing[0][x] + crossing[1][x];
        }
    } else if (task.mode == FusedMode::Histogram) {
        if (task.below != nullptr && fewer != 0) atomicAdd(task.below, static_cast<unsigned long long>(fewer));
        for (int x = threadIdx.x; x < kSlots; x += kThreads)
            if (own[x] != 0) atomicAdd(&task.counts[owner[x]], static_cast<unsigned long long>(own[x]));
    } else if (task.mode == FusedMode::RowSums) {
        // Eight lanes share a query, four warps its keys.
#pragma unroll
        for (int y = 0; y < 16; ++y) {
            float all = sum[y];
            all += __shfl_xor_sync(~0U, all, 4);
            all += __shfl_xor_sync(~0U, all, 8);
            all += __shfl_xor_sync(~0U, all, 16);
            if (g == 0) crossing[warp / 2][warp_query + y / 2 * 8 + t * 2 + y % 2] = all;
        }
        __syncthreads();
        for (int x = threadIdx.x; x < kSide; x += kThreads) {
            const int i = blockIdx.x * kSide + x;
            if (i < p.queries)
                task.out[static_cast<long long>(blockIdx.y) * p.queries + i] =
                    (crossing[0][x] + crossing[1][x]) + (crossing[2][x] + crossing[3][x]);
        }
    }
}

}  // namespace

const char* launch_fused(Element element, const FusedTask& task, const Launch& launch) {
    return with_element(element, [&](auto e) {
        const int own = task.mode == FusedMode::Sweep  ? task.p.keys
                        : task.mode == FusedMode::Rows ? task.listed
                                                       : task.p.queries;
        const dim3 grid((own + kSide - 1) / kSide, task.splits);
        const int bytes = 2 * stage_bytes_of(pitch_of(min(task.p.row_bytes, kChunk))) +
                          (task.mode == FusedMode::Histogram ? kSlots * 8 : 0);
        return launch_kernel(is_general(task.p) ? fused_kernel<e(), true> : fused_kernel<e(), false>, task, grid,
                             kThreads, bytes, launch);
    });
}

}  // namespace vitrine::kernels::cuda
