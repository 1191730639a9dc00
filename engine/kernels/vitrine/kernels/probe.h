// Attention of few queries to very many keys, the log-sum-exp not known beforehand: edited queries, another picture's
// keys, a class token over a long sequence, one step of a decoder with cached keys.
//
// The keys of all batches and heads are cut into tiles, and the tiles into runs of equal length, one per worker; a run
// goes on across the border of a head (stream-K). Each worker leaves (m, l, o) of the part of a head it saw: the
// highest score, the sum of exponentials and the sum of values. These merge associatively, so any cut gives
//     out = o / l,   lse = m + log l.
// The schedule is integer arithmetic that the CPU and CUDA versions share.
//
// @source  R. Sanovar et al., "Lean Attention: Hardware-Aware Scalable Attention Mechanism for the Decode-Phase of
//          Transformers", 2024, arXiv 2405.10480, sections 4 and 5. Instead of a host that waits, the last arriver or a
//          second launch merges.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <vitrine/kernels/attention.h>

#if defined(__CUDACC__)
#define VITRINE_HOST_DEVICE __host__ __device__
#else
#define VITRINE_HOST_DEVICE
#endif

namespace vitrine::kernels {

// ---- schedule ----

/// How `tiles` tiles of keys are cut among `workers`: the first `high` workers take `most`, the others one less.
/// Int: 64 bits on the host, 32 on a device, whose long divisions are slow.
template <class Int>
struct LeanCutOf {
    Int tiles = 0, workers = 1, most = 0, high = 1;

    VITRINE_HOST_DEVICE Int start(Int worker) const {
        return worker < high ? worker * most : worker * (most - 1) + high;
    }
    VITRINE_HOST_DEVICE Int count(Int worker) const { return worker < high ? most : most - 1; }
    /// The worker that takes this tile, 0 <= tile < tiles. With runs of one tile every worker is among the first.
    VITRINE_HOST_DEVICE Int worker_of(Int tile) const {
        return tile < high * most ? tile / most : high + (tile - high * most) / (most - 1);
    }
};
using LeanCut = LeanCutOf<std::int64_t>;

/// Workers without a tile are left out: the cut has min(workers, tiles) of them, and 1 where there is no tile.
template <class Int>
VITRINE_HOST_DEVICE inline LeanCutOf<Int> lean_cut(Int tiles, Int workers) {
    LeanCutOf<Int> cut;
    cut.tiles = tiles;
    cut.workers = workers < tiles ? workers : tiles;
    if (cut.workers < 1) cut.workers = 1;
    cut.most = (tiles + cut.workers - 1) / cut.workers;
    cut.high = tiles - (cut.most - 1) * cut.workers;
    return cut;
}

/// What one worker does in one go: tiles of one output.
struct LeanSegment {
    std::int64_t worker = 0, output = 0;
    std::int64_t first = 0, count = 0;  ///< tiles, counted within the output
    bool host = false, finish = false;  ///< holds the output's first, its last tile
};

struct LeanSchedule {
    LeanCut cut;
    std::vector<std::int64_t> first;  ///< [outputs + 1], tiles before each output

    std::int64_t outputs() const { return static_cast<std::int64_t>(first.size()) - 1; }
    /// How many workers share an output; 0 where it has no tile.
    std::int64_t pieces(std::int64_t output) const;
    std::vector<LeanSegment> segments(std::int64_t worker) const;
    /// Mean over longest run, at most 1.
    double balance() const;
};

/// @param tile_counts  tiles of each output; 0 is allowed
/// @param workers      at least 1
LeanSchedule lean_schedule(std::span<const std::int64_t> tile_counts, std::int64_t workers);

/// Workers that pay: as many as run at once, but at least two tiles each.
VITRINE_HOST_DEVICE inline std::int64_t lean_workers(std::int64_t tiles, std::int64_t at_once) {
    const std::int64_t fair = tiles / 2 < 1 ? 1 : tiles / 2;
    return at_once < fair ? at_once : fair;
}

// ---- merge ----

/// Softmax over some of the keys: the highest score and the sum of exp(score - high). (-infinity, 0) is of no key.
struct LeanPart {
    float high, sum;
};

/// (a, out_a) becomes that of both sets of keys; out: [dim], sums of exp(score - high) v.
void lean_merge(LeanPart& a, float* out_a, const LeanPart& b, const float* out_b, std::int64_t dim);

// ---- the operation ----

/// Keys of one tile, and rows of one output. Rows are (query, head of the group) of one key head, queries outermost.
inline constexpr std::int64_t kLeanKeys = 64;
inline constexpr std::int64_t kLeanRows = 16;

/// Strides are in elements: batch, head, token; the last axis has stride 1.
struct ProbeParams {
    const float* q = nullptr;  ///< [batches, heads, queries, head_dim]
    const float* k = nullptr;  ///< [batches, key_heads, keys, head_dim]
    const float* v = nullptr;  ///< the same shape as k
    std::int64_t q_stride[3] = {0, 0, 0};
    std::int64_t k_stride[3] = {0, 0, 0};
    std::int64_t v_stride[3] = {0, 0, 0};
    std::int64_t batches = 1;
    std::int64_t heads = 0;
    std::int64_t key_heads = 0;  ///< heads is a multiple; head h reads key head h / (heads / key_heads)
    std::int64_t queries = 0, keys = 0, head_dim = 0;
    const std::int32_t* lengths = nullptr;  ///< [batches], keys that count, 0 to `keys`; null: all
    float scale = 1;
    bool causal = false;       ///< key j is seen by query i when j <= i
    std::int64_t workers = 0;  ///< 0: the kernel's own choice
};

/// All contiguous.
struct ProbeResult {
    float* out = nullptr;  ///< [batches, heads, queries, head_dim]; 0 where no key is seen
    float* lse = nullptr;  ///< [batches, heads, queries], natural logarithm; -infinity where no key is seen
    /// The share of each piece in its row, a coarse map for nothing; may be null. [workers + outputs, kLeanRows]: the
    /// piece of worker g in output t is line g + t; lines and rows that are no piece are 0. Sums to 1 over the pieces
    /// of an output.
    float* mass = nullptr;
};

/// Why these parameters cannot be run; null when they can. Lengths are not read.
const char* cannot_run(const ProbeParams& params) noexcept;

/// The same shapes as one attention, as the chooser asks for them.
AttentionParams attention_of(const ProbeParams& params) noexcept;

/// Outputs of one probe: batch, then key head, then block of rows.
VITRINE_HOST_DEVICE inline std::int64_t lean_row_blocks(std::int64_t queries, std::int64_t group) {
    return (queries * group + kLeanRows - 1) / kLeanRows;
}

/// Tiles of one block of rows over `length` keys.
template <class Int>
VITRINE_HOST_DEVICE inline Int lean_tiles(Int length, Int block, Int queries, Int group, bool causal,
                                          Int tile_keys = static_cast<Int>(kLeanKeys)) {
    Int seen = length;
    if (causal) {
        const Int last = ((block + 1) * static_cast<Int>(kLeanRows) - 1) / group;
        const Int limit = (last < queries - 1 ? last : queries - 1) + 1;
        if (limit < seen) seen = limit;
    }
    return (seen + tile_keys - 1) / tile_keys;
}

/// What `probe` does on the CPU with these parameters: for tests, the view of the schedule, and the ranges of `mass`.
/// `workers` 0 takes params.workers, and where that is 0 the CPU's own choice.
LeanSchedule lean_schedule(const ProbeParams& params, std::int64_t workers = 0);

/// Deterministic, also over numbers of threads.
void probe(const ProbeParams& params, const ProbeResult& result, const ParallelFor& parallel_for);

}  // namespace vitrine::kernels
