// The kernels on the fused map for any vector type: included after attention_vector.h, inside the same region.
//
// The unit is a tile of 64 queries x one panel of keys. Head after head is fused into it while it lies in the first
// cache; then it is looked at once and forgotten. Every function makes its tiles by the same steps, and an entry does
// not depend on its place in a tile, so that all see the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <vitrine/kernels/cpu/attention_vector.h>
#include <vitrine/kernels/fused_sweep.h>

namespace vitrine::kernels {
namespace {

template <class S>
struct Fused {
    using A = Attention<S>;
    using Float = typename S::Float;
    using Rows = typename A::Rows;
    static constexpr int kLanes = S::kLanes;
    static constexpr int kRows = S::kRows;
    static constexpr Index kPanel = A::kPanel;
    static constexpr Index kBand = 64;
    static constexpr Index kGroups = kBand / kRows;

    /// The same queries of every head, packed. The index of the queries is that of any head.
    static std::unique_ptr<Rows[]> pack_heads(const AttentionParams& p, const Tokens& queries,
                                              const ParallelFor& parallel_for) {
        std::unique_ptr<Rows[]> rows(new Rows[static_cast<std::size_t>(p.heads)]);
        parallel_for(p.heads, [&](Index begin, Index end) {
            for (Index h = begin; h < end; ++h) {
                A::take(rows[h], p, h, queries);
                A::pack(rows[h], A::queries_of(p, h), p.head_dim);
            }
        });
        return rows;
    }

    /// What an item needs for itself.
    struct Room {
        Scratch<float> panels, tile;
        explicit Room(const AttentionParams& p) : panels(p.key_heads * p.head_dim * kPanel), tile(kBand * kPanel) {}
    };

    /// Adds one head's tile of groups [g0, g1) to what is there.
    template <int NV>
    static void fuse(const AttentionParams& p, HeadFusion fusion, const Rows& rows, Index g0, Index g1,
                     const float* panel, const Tokens& keys, Index first, Index count, float* tile) {
        const bool starts = rows.head == 0, ends = rows.head == p.heads - 1;
        const Float share = S::all(1.0F / static_cast<float>(p.heads));
        for (Index g = g0; g < g1; ++g) {
            Float acc[kRows][NV];
            A::template probabilities<NV>(p, rows, g, panel, keys, first, count, acc);
            float* to = tile + (g - g0) * kRows * NV * kLanes;
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v, to += kLanes) {
                    Float x = acc[m][v];
                    if (!starts) {
                        const Float old = S::load(to);
                        const Float sum = S::add(old, x);
                        // Zero times the sum lets not-a-number through, which maximum and minimum would hide.
                        if (fusion == HeadFusion::Mean)
                            x = sum;
                        else if (fusion == HeadFusion::Max)
                            x = S::fma(sum, S::zero(), S::max(old, x));
                        else
                            x = S::fma(sum, S::zero(), S::min(old, x));
                    }
                    if (ends && fusion == HeadFusion::Mean) x = S::mul(x, share);
                    S::store(to, x);
                }
        }
    }

    /// Calls look(nv, first key, keys, first row, rows, tile) for every tile of one panel; a tile's row has nv vectors,
    /// zeros behind the last key.
    template <class F>
    static void tiles(const AttentionParams& p, HeadFusion fusion, const Rows* rows, Index panel, const Room& room,
                      const F& look) {
        const Index first = panel * kPanel, count = least(kPanel, p.keys - first);
        const Tokens keys{nullptr, 0, p.keys};
        A::with_vectors(count, [&](auto nv) {
            constexpr int NV = nv();
            constexpr Index kWidth = NV * kLanes;
            const Index size = p.head_dim * kPanel;
            for (Index h = 0; h < p.heads; h += p.heads / p.key_heads)
                A::pack_panel(room.panels.data() + A::key_head(p, h) * size, kWidth, A::keys_of(p, h), keys, first,
                              count, p.head_dim);
            for (Index g0 = 0; g0 < rows[0].groups; g0 += kGroups) {
                const Index g1 = least(g0 + kGroups, rows[0].groups), n = least(kBand, rows[0].count - g0 * kRows);
                for (Index h = 0; h < p.heads; ++h)
                    fuse<NV>(p, fusion, rows[h], g0, g1, room.panels.data() + A::key_head(p, h) * size, keys, first,
                             count, room.tile.data());
                if (count < kWidth)
                    for (Index m = 0; m < n; ++m)
                        for (Index c = count; c < kWidth; ++c) room.tile[m * kWidth + c] = 0;
                look(nv, first, count, g0 * kRows, n, room.tile.data());
            }
        });
    }

    /// Sets to zero what is dropped.
    static void drop(const AttentionParams& p, const Dropped& dropped, const Index* queries, Index n, Index first,
                     Index count, Index width, float* tile) {
        if (dropped.threshold == kNothing) return;
        const float threshold = dropped.threshold;
        const Index kept =
            dropped.kept_key >= first && dropped.kept_key < first + count ? dropped.kept_key - first : -1;
        for (Index m = 0; m < n; ++m) {
            float* row = tile + m * width;
            const float saved = kept >= 0 ? row[kept] : 0;
            // Keys before `ties` drop with the threshold itself. Not-a-number stays.
            Index ties = dropped.tie_end - queries[m] * p.keys - first;
            ties = ties < 0 ? 0 : least(ties, count);
            for (Index c = 0; c < ties; ++c) row[c] = row[c] <= threshold ? 0.0F : row[c];
            for (Index c = ties; c < count; ++c) row[c] = row[c] < threshold ? 0.0F : row[c];
            if (kept >= 0 && queries[m] < dropped.kept_queries) row[kept] = saved;
        }
    }

    static void fused_rows(const AttentionParams& p, HeadFusion fusion, std::span<const Index> queries, float* out,
                           const ParallelFor& parallel_for) {
        const auto rows = pack_heads(p, {queries.data(), 0, static_cast<Index>(queries.size())}, parallel_for);
        parallel_for(pieces(p.keys, kPanel), [&](Index begin, Index end) {
            const Room room(p);
            for (Index panel = begin; panel < end; ++panel)
                tiles(p, fusion, rows.get(), panel, room,
                      [&](auto nv, Index first, Index count, Index row, Index n, const float* tile) {
                          for (Index m = 0; m < n; ++m)
                              for (Index c = 0; c < count; ++c)
                                  out[(row + m) * p.keys + first + c] = tile[m * nv() * kLanes + c];
                      });
        });
    }

    static void fused_sweep(const AttentionParams& p, HeadFusion fusion, const Dropped& dropped, const float* r,
                            float* out, const ParallelFor& parallel_for) {
        Scratch<Index> weighing(p.queries);
        Index some = 0;
        for (Index i = 0; i < p.queries; ++i)
            if (r[i] != 0) weighing[some++] = i;
        const auto rows = pack_heads(p, {weighing.data(), 0, some}, parallel_for);
        parallel_for(pieces(p.keys, kPanel), [&](Index begin, Index end) {
            const Room room(p);
            for (Index panel = begin; panel < end; ++panel) {
                double sum[kPanel] = {};
                tiles(p, fusion, rows.get(), panel, room,
                      [&](auto nv, Index first, Index count, Index row, Index n, float* tile) {
                          constexpr int NV = nv();
                          drop(p, dropped, weighing.data() + row, n, first, count, NV * kLanes, tile);
                          Float column[NV];
                          for (int v = 0; v < NV; ++v) column[v] = S::zero();
                          for (Index m = 0; m < n; ++m) {
                              const Float w = S::all(r[weighing[row + m]]);
#pragma GCC unroll 4
                              for (int v = 0; v < NV; ++v)
                                  column[v] = S::fma(S::load(tile + (m * NV + v) * kLanes), w, column[v]);
                          }
                          A::template flush<NV>(column, sum);
                      });
                for (Index c = 0; c < least(kPanel, p.keys - panel * kPanel); ++c)
                    out[panel * kPanel + c] = static_cast<float>(sum[c]);
            }
        });
    }

    static void fused_row_sums(const AttentionParams& p, HeadFusion fusion, const Dropped& dropped, float* out,
                               const ParallelFor& parallel_for) {
        const auto rows = pack_heads(p, {nullptr, 0, p.queries}, parallel_for);
        // So many runs of panels, whatever the number of threads; their sums are added in order at the end.
        const Index panels = pieces(p.keys, kPanel), runs = least(64, panels);
        Scratch<double> part(runs * p.queries);
        parallel_for(runs, [&](Index begin, Index end) {
            const Room room(p);
            for (Index run = begin; run < end; ++run) {
                double* sum = part.data() + run * p.queries;
                for (Index i = 0; i < p.queries; ++i) sum[i] = 0;
                for (Index panel = run * panels / runs; panel < (run + 1) * panels / runs; ++panel)
                    tiles(p, fusion, rows.get(), panel, room,
                          [&](auto nv, Index first, Index count, Index row, Index n, float* tile) {
                              constexpr int NV = nv();
                              drop(p, dropped, rows[0].index.data() + row, n, first, count, NV * kLanes, tile);
                              for (Index m = 0; m < n; ++m) {
                                  Float across = S::load(tile + m * NV * kLanes);
#pragma GCC unroll 4
                                  for (int v = 1; v < NV; ++v)
                                      across = S::add(across, S::load(tile + (m * NV + v) * kLanes));
                                  alignas(64) float lane[kLanes];
                                  S::store(lane, across);
                                  double all = 0;
                                  for (const float x : lane) all += x;
                                  sum[row + m] += all;
                              }
                          });
            }
        });
        for (Index i = 0; i < p.queries; ++i) {
            double sum = 0;
            for (Index run = 0; run < runs; ++run) sum += part[run * p.queries + i];
            out[i] = static_cast<float>(sum);
        }
    }

    static void fused_histogram(const AttentionParams& p, HeadFusion fusion, std::uint32_t first_bits, int shift,
                                Index bins, Index* counts, Index* below, const ParallelFor& parallel_for) {
        const auto rows = pack_heads(p, {nullptr, 0, p.queries}, parallel_for);
        for (Index b = 0; b < bins; ++b) counts[b] = 0;
        Index fewer = 0;
        parallel_for(pieces(p.keys, kPanel), [&](Index begin, Index end) {
            const Room room(p);
            Scratch<Index> mine(bins);
            for (Index b = 0; b < bins; ++b) mine[b] = 0;
            Index under = 0;
            for (Index panel = begin; panel < end; ++panel)
                tiles(p, fusion, rows.get(), panel, room,
                      [&](auto nv, Index, Index count, Index, Index n, const float* tile) {
                          for (Index m = 0; m < n; ++m)
                              for (Index c = 0; c < count; ++c) {
                                  std::uint32_t bits;
                                  __builtin_memcpy(&bits, tile + m * nv() * kLanes + c, sizeof bits);
                                  if (bits < first_bits)
                                      ++under;
                                  else if (const Index bin = (bits - first_bits) >> shift; bin < bins)
                                      ++mine[bin];
                              }
                      });
            for (Index b = 0; b < bins; ++b)
                if (mine[b] != 0) __atomic_fetch_add(counts + b, mine[b], __ATOMIC_RELAXED);
            __atomic_fetch_add(&fewer, under, __ATOMIC_RELAXED);
        });
        if (below != nullptr) *below = fewer;
    }

    static constexpr FusedKernels kTable{&fused_rows, &fused_sweep, &fused_row_sums, &fused_histogram};
};

}  // namespace
}  // namespace vitrine::kernels
