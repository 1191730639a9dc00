// The probe (LeanAttention) on the CPU: its schedule, the merge of pieces, and the plain version.
#include <vitrine/kernels/probe.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <vitrine/kernels/cpu/probe_run.h>

namespace vitrine::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
/// Runs on the CPU: a number that most numbers of threads divide, and always the same, so that the answer is too.
constexpr std::int64_t kWorkers = 240;

std::int64_t group_of(const ProbeParams& p) { return p.heads / p.key_heads; }

/// Which batch, key head and block of rows an output is.
struct Output {
    std::int64_t batch, key_head, block;
    Output(const ProbeParams& p, std::int64_t index) {
        const std::int64_t blocks = lean_row_blocks(p.queries, group_of(p));
        block = index % blocks;
        key_head = index / blocks % p.key_heads;
        batch = index / blocks / p.key_heads;
    }
};

std::int64_t length_of(const ProbeParams& p, std::int64_t batch) {
    return p.lengths == nullptr ? p.keys : std::clamp<std::int64_t>(p.lengths[batch], 0, p.keys);
}

/// Row `row` of a key head in [batches, heads, queries].
std::int64_t place_of(const ProbeParams& p, const Output& o, std::int64_t row) {
    const std::int64_t head = o.key_head * group_of(p) + row % group_of(p);
    return (o.batch * p.heads + head) * p.queries + row / group_of(p);
}

void plain_segment(const ProbeParams& p, const ProbeBlock& b, LeanPart* parts, float* out) {
    const std::int64_t group = group_of(p);
    std::vector<double> score(static_cast<std::size_t>(b.last - b.first)), sum(static_cast<std::size_t>(p.head_dim));
    const float* k = p.k + b.batch * p.k_stride[0] + b.key_head * p.k_stride[1];
    const float* v = p.v + b.batch * p.v_stride[0] + b.key_head * p.v_stride[1];
    for (std::int64_t r = 0; r < b.rows; ++r) {
        const std::int64_t query = (b.row + r) / group, head = b.key_head * group + (b.row + r) % group;
        const float* q = p.q + b.batch * p.q_stride[0] + head * p.q_stride[1] + query * p.q_stride[2];
        const std::int64_t last = p.causal ? std::min(b.last, query + 1) : b.last;
        double high = -std::numeric_limits<double>::infinity();
        for (std::int64_t j = b.first; j < last; ++j) {
            double dot = 0;
            for (std::int64_t d = 0; d < p.head_dim; ++d) dot += static_cast<double>(q[d]) * k[j * p.k_stride[2] + d];
            score[static_cast<std::size_t>(j - b.first)] = dot * p.scale;
            high = std::max(high, dot * p.scale);
        }
        // The sums belong to the highest score as it is passed on.
        const auto shift = static_cast<double>(static_cast<float>(high));
        double total = 0;
        std::fill(sum.begin(), sum.end(), 0);
        for (std::int64_t j = b.first; j < last; ++j) {
            const double x = std::exp(score[static_cast<std::size_t>(j - b.first)] - shift);
            total += x;
            for (std::int64_t d = 0; d < p.head_dim; ++d)
                sum[static_cast<std::size_t>(d)] += x * v[j * p.v_stride[2] + d];
        }
        parts[r] = {static_cast<float>(high), static_cast<float>(total)};
        for (std::int64_t d = 0; d < p.head_dim; ++d)
            out[r * p.head_dim + d] = static_cast<float>(sum[static_cast<std::size_t>(d)]);
    }
}

}  // namespace

std::int64_t LeanSchedule::pieces(std::int64_t output) const {
    const auto t = static_cast<std::size_t>(output);
    if (first[t] == first[t + 1]) return 0;
    return cut.worker_of(first[t + 1] - 1) - cut.worker_of(first[t]) + 1;
}

std::vector<LeanSegment> LeanSchedule::segments(std::int64_t worker) const {
    std::vector<LeanSegment> list;
    if (worker >= cut.workers) return list;
    const std::int64_t begin = cut.start(worker), end = begin + cut.count(worker);
    // The output that holds a tile: the last that starts at or before it.
    auto t = static_cast<std::size_t>(std::upper_bound(first.begin(), first.end(), begin) - first.begin()) - 1;
    for (std::int64_t tile = begin; tile < end; ++t) {
        const std::int64_t last = std::min(end, first[t + 1]);
        if (last == tile) continue;  // an output without tiles
        list.push_back({worker, static_cast<std::int64_t>(t), tile - first[t], last - tile, tile == first[t],
                        last == first[t + 1]});
        tile = last;
    }
    return list;
}

double LeanSchedule::balance() const {
    return cut.tiles == 0 ? 1 : static_cast<double>(cut.tiles) / static_cast<double>(cut.most * cut.workers);
}

LeanSchedule lean_schedule(std::span<const std::int64_t> tile_counts, std::int64_t workers) {
    LeanSchedule s;
    s.first.reserve(tile_counts.size() + 1);
    s.first.push_back(0);
    for (const std::int64_t tiles : tile_counts) s.first.push_back(s.first.back() + tiles);
    s.cut = lean_cut(s.first.back(), workers);
    return s;
}

LeanSchedule lean_schedule(const ProbeParams& p, std::int64_t workers) {
    const std::int64_t blocks = lean_row_blocks(p.queries, group_of(p));
    std::vector<std::int64_t> tiles;
    tiles.reserve(static_cast<std::size_t>(p.batches * p.key_heads * blocks));
    std::int64_t total = 0;
    for (std::int64_t o = 0; o < p.batches * p.key_heads * blocks; ++o) {
        const Output at(p, o);
        tiles.push_back(lean_tiles(length_of(p, at.batch), at.block, p.queries, group_of(p), p.causal));
        total += tiles.back();
    }
    if (workers <= 0) workers = p.workers > 0 ? p.workers : lean_workers(total, kWorkers);
    return lean_schedule(tiles, workers);
}

void lean_merge(LeanPart& a, float* out_a, const LeanPart& b, const float* out_b, std::int64_t dim) {
    const float high = std::max(a.high, b.high);
    // exp(-infinity + infinity) is asked for nowhere: what holds no key weighs nothing.
    const float wa = a.high == kMinusInfinity ? 0 : std::exp(a.high - high);
    const float wb = b.high == kMinusInfinity ? 0 : std::exp(b.high - high);
    a = {high, wa * a.sum + wb * b.sum};
    for (std::int64_t d = 0; d < dim; ++d) out_a[d] = wa * out_a[d] + wb * out_b[d];
}

const char* cannot_run(const ProbeParams& p) noexcept {
    if (p.q == nullptr || p.k == nullptr || p.v == nullptr) return "queries, keys or values are missing";
    if (p.batches < 1 || p.heads < 1 || p.queries < 1 || p.keys < 1 || p.head_dim < 1) return "an axis is empty";
    if (p.key_heads < 1 || p.heads % p.key_heads != 0) return "the number of heads is no multiple of the key heads";
    return nullptr;
}

AttentionParams attention_of(const ProbeParams& p) noexcept {
    AttentionParams one;
    one.q = p.q;
    one.k = p.k;
    for (int i = 0; i < 2; ++i) {
        one.q_stride[i] = p.q_stride[i + 1];
        one.k_stride[i] = p.k_stride[i + 1];
    }
    one.heads = p.heads;
    one.key_heads = p.key_heads;
    one.queries = p.queries;
    one.keys = p.keys;
    one.head_dim = p.head_dim;
    one.scale = p.scale;
    one.causal = p.causal;
    return one;
}

void probe_by(ProbeSegment segment, const ProbeParams& p, const ProbeResult& to, const ParallelFor& parallel_for) {
    const LeanSchedule s = lean_schedule(p);
    const std::int64_t outputs = s.outputs(), dim = p.head_dim, rows_in_all = p.queries * group_of(p);
    const auto rows_of = [&](const Output& at) { return std::min(kLeanRows, rows_in_all - at.block * kLeanRows); };
    // A run ends in at most two outputs that others share: its first and its last. Their pieces lie in the slots
    // 2 worker and 2 worker + 1.
    std::vector<LeanPart> parts(static_cast<std::size_t>(2 * s.cut.workers * kLeanRows), {kMinusInfinity, 0});
    std::vector<float> sums(static_cast<std::size_t>(2 * s.cut.workers * kLeanRows * dim));
    if (to.mass != nullptr) std::fill(to.mass, to.mass + (s.cut.workers + outputs) * kLeanRows, 0.0F);

    const auto finish = [&](const Output& at, std::int64_t r, const LeanPart& part, const float* sum) {
        const std::int64_t place = place_of(p, at, at.block * kLeanRows + r);
        to.lse[place] = part.sum > 0 ? part.high + std::log(part.sum) : kMinusInfinity;
        for (std::int64_t d = 0; d < dim; ++d) to.out[place * dim + d] = part.sum > 0 ? sum[d] / part.sum : 0;
    };
    parallel_for(s.cut.workers, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> out(static_cast<std::size_t>(kLeanRows * dim));
        for (std::int64_t worker = begin; worker < end; ++worker)
            for (const LeanSegment& piece : s.segments(worker)) {
                const Output at(p, piece.output);
                const std::int64_t rows = rows_of(at);
                const bool whole = piece.host && piece.finish;
                const std::int64_t slot = 2 * worker + (piece.host ? 1 : 0);
                LeanPart own[kLeanRows];
                LeanPart* part = whole ? own : parts.data() + slot * kLeanRows;
                float* sum = whole ? out.data() : sums.data() + slot * kLeanRows * dim;
                const std::int64_t first = piece.first * kLeanKeys;
                segment(p,
                        {at.batch, at.key_head, at.block * kLeanRows, rows, first,
                         std::min(first + piece.count * kLeanKeys, length_of(p, at.batch))},
                        part, sum);
                if (!whole) continue;
                for (std::int64_t r = 0; r < rows; ++r) {
                    finish(at, r, part[r], sum + r * dim);
                    if (to.mass != nullptr) to.mass[(worker + piece.output) * kLeanRows + r] = part[r].sum > 0 ? 1 : 0;
                }
            }
    });
    parallel_for(outputs, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> sum(static_cast<std::size_t>(dim));
        for (std::int64_t o = begin; o < end; ++o) {
            const Output at(p, o);
            const std::int64_t pieces = s.pieces(o);
            if (pieces == 1) continue;
            const std::int64_t worker = pieces == 0 ? 0 : s.cut.worker_of(s.first[static_cast<std::size_t>(o)]);
            const auto slot = [&](std::int64_t piece, std::int64_t r) {
                return static_cast<std::size_t>((piece == 0 ? 2 * worker + 1 : 2 * (worker + piece)) * kLeanRows + r);
            };
            for (std::int64_t r = 0; r < rows_of(at); ++r) {
                LeanPart all{kMinusInfinity, 0};
                std::fill(sum.begin(), sum.end(), 0.0F);
                for (std::int64_t i = 0; i < pieces; ++i)
                    lean_merge(all, sum.data(), parts[slot(i, r)],
                               sums.data() + slot(i, r) * static_cast<std::size_t>(dim), dim);
                finish(at, r, all, sum.data());
                if (to.mass == nullptr || !(all.sum > 0)) continue;
                for (std::int64_t i = 0; i < pieces; ++i) {
                    const LeanPart& part = parts[slot(i, r)];
                    to.mass[(worker + i + o) * kLeanRows + r] =
                        part.high == kMinusInfinity ? 0 : std::exp(part.high - all.high) * part.sum / all.sum;
                }
            }
        }
    });
}

void probe(const ProbeParams& p, const ProbeResult& result, const ParallelFor& parallel_for) {
    probe_by(&plain_segment, p, result, parallel_for);
}

}  // namespace vitrine::kernels
