// Attention of a short sequence with its map, for any vector type: included after attention_vector.h, inside the region
// compiled for its instruction set.
//
// A group of kRows queries meets all keys of its head: scores, softmax and the product with the values of a group stay
// in the first cache, and the map is written once.
#pragma once

#include <vitrine/kernels/cpu/attention_vector.h>
#include <vitrine/kernels/small_attention.h>

namespace vitrine::kernels {
namespace {

/// acc[m][v] += sum_j weight[m][j] values[j][v]; with Partial the last vector ends at `last`.
template <class S, int M, int NV, bool Partial>
[[gnu::always_inline]] inline void weigh(const float* weight, Index pitch, const float* values, Index stride,
                                         Index keys, typename S::Mask last, typename S::Float (&acc)[M][NV]) {
    for (Index j = 0; j < keys; ++j) {
        typename S::Float lanes[NV];
#pragma GCC unroll 4
        for (int v = 0; v + 1 < NV; ++v) lanes[v] = S::load(values + v * S::kLanes);
        if constexpr (Partial)
            lanes[NV - 1] = S::load(values + (NV - 1) * S::kLanes, last);
        else
            lanes[NV - 1] = S::load(values + (NV - 1) * S::kLanes);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
            const typename S::Float one = S::all(weight[m * pitch + j]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[m][v] = S::fma(one, lanes[v], acc[m][v]);
        }
        values += stride;
    }
}

/// Calls f(first vector, how many of them as a constant, whether the last is partial as a constant) over the vectors of
/// `dim` coordinates, three at a time, or two and two where four are left.
template <class S, class F>
[[gnu::always_inline]] inline void over_vectors(Index dim, const F& f) {
    const Index vectors = pieces(dim, S::kLanes);
    for (Index at = 0; at < vectors;) {
        const Index left = vectors - at;
        const int take = left == 4 || left == 2 ? 2 : left == 1 ? 1 : 3;
        const auto call = [&](auto partial) {
            if (take == 1)
                f(at, std::integral_constant<int, 1>{}, partial);
            else if (take == 2)
                f(at, std::integral_constant<int, 2>{}, partial);
            else
                f(at, std::integral_constant<int, 3>{}, partial);
        };
        at + take == vectors&& dim % S::kLanes != 0 ? call(std::true_type{}) : call(std::false_type{});
        at += take;
    }
}

template <class S>
struct SmallAttention {
    using A = Attention<S>;
    using Float = typename S::Float;
    static constexpr int kLanes = S::kLanes;
    static constexpr int kRows = S::kRows;
    static constexpr Index kGroups = 8;  ///< of kRows queries, at most one item's

    /// Scores of one group against one panel into `to` [kRows][pitch], minus infinity behind the last key.
    template <int NV>
    static void scores(const AttentionParams& p, Index h, const float* group, Index query, const float* panel,
                       Index first, Index count, float* to, Index pitch) {
        Float acc[kRows][NV];
        A::template product<NV>(panel, group, p.head_dim, acc);
        if (A::has_extra(p)) {
            alignas(64) float extra[kRows][NV * kLanes] = {};
            const Tokens keys{nullptr, 0, p.keys};
            for (Index m = 0; m < kRows; ++m)
                A::extra_of_query(p, h, least(query + m, p.queries - 1), keys, first, count, extra[m]);
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v)
                    S::store(to + m * pitch + v * kLanes, A::score(p, acc[m][v], S::load(extra[m] + v * kLanes)));
        } else {
#pragma GCC unroll 8
            for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) S::store(to + m * pitch + v * kLanes, S::mul(acc[m][v], S::all(p.scale)));
        }
        for (Index m = 0; m < kRows && count < NV * kLanes; ++m)
            for (Index c = count; c < NV * kLanes; ++c) to[m * pitch + c] = kNothing;
    }

    /// Scores of one row become its map, in place and in `map`; returns the log-sum-exp.
    static float softmax(float* row, Index pitch, float* map, Index keys) {
        Float most = S::all(kNothing);
        for (Index c = 0; c < pitch; c += kLanes) most = S::max(most, S::load(row + c));
        alignas(64) float part[kLanes];
        S::store(part, most);
        float high = kNothing;
        for (const float x : part) high = x > high ? x : high;
        Float sum = S::zero();
        // Where everything is masked, 0 in place of minus infinity: the exponentials are then 0, not undefined.
        const Float shift = S::all(high == kNothing ? 0 : high);
        for (Index c = 0; c < pitch; c += kLanes) {
            const Float x = A::exponential(S::sub(S::load(row + c), shift));
            S::store(row + c, x);
            sum = S::add(sum, x);
        }
        S::store(part, sum);
        float total = 0;
        for (const float x : part) total += x;
        const Float share = S::all(total > 0 ? 1 / total : 0);
        Index c = 0;
        for (; c + kLanes <= keys; c += kLanes) {
            const Float x = S::mul(S::load(row + c), share);
            S::store(row + c, x);
            S::store(map + c, x);
        }
        if (c < keys) {
            const Float x = S::mul(S::load(row + c), share);
            S::store(row + c, x);
            S::store(map + c, x, S::first(keys - c));
        }
        return high == kNothing ? kNothing : high + std::log(total);
    }

    static void pack_values(const SmallAttentionParams& s, const float* v, Index keys, float* to) {
        over_vectors<S>(s.value_dim, [&](Index at, auto nv, auto) {
            constexpr int NV = nv();
            const auto last = S::first(s.value_dim - (at + NV - 1) * kLanes);
            float* row = to + at * kLanes * keys;
            for (Index j = 0; j < keys; ++j, row += NV * kLanes) {
                const float* from = v + j * s.v_stride[1] + at * kLanes;
                for (int x = 0; x + 1 < NV; ++x) S::store(row + x * kLanes, S::load(from + x * kLanes));
                S::store(row + (NV - 1) * kLanes, S::load(from + (NV - 1) * kLanes, last));
            }
        });
    }

    static void run(const AttentionParams& p, const SmallAttentionParams& s, const ParallelFor& parallel_for) {
        const Index groups = pieces(p.queries, kRows), blocks = pieces(groups, kGroups);
        const Index panels = pieces(p.keys, A::kPanel), pitch = pieces(p.keys, kLanes) * kLanes;
        const Index wide = pieces(s.value_dim, kLanes) * kLanes;
        const Tokens keys{nullptr, 0, p.keys}, queries{nullptr, 0, p.queries};
        parallel_for(p.heads * blocks, [&](Index begin, Index end) {
            Scratch<float> packed(panels * p.head_dim * A::kPanel), group(p.head_dim * kRows), rows(kRows * pitch);
            // Values [vectors taken together][key][vectors]: rows of a fused qkv tensor lie in few sets of the cache.
            Scratch<float> waste(p.keys), values(p.keys * wide);
            Index head = -1, values_of = -1;
            for (Index item = begin; item < end; ++item) {
                const Index h = item / blocks, block = item % blocks;
                if (A::key_head(p, h) != head) {
                    head = A::key_head(p, h);
                    for (Index b = 0; b < panels; ++b) {
                        const Index first = b * A::kPanel, count = least(A::kPanel, p.keys - first);
                        A::pack_panel(packed.data() + first * p.head_dim, pieces(count, kLanes) * kLanes,
                                      A::keys_of(p, h), keys, first, count, p.head_dim);
                    }
                }
                if (value_head(p, s, h) != values_of) {
                    values_of = value_head(p, s, h);
                    pack_values(s, s.v + values_of * s.v_stride[0], p.keys, values.data());
                }
                for (Index g = groups * block / blocks; g < groups * (block + 1) / blocks; ++g) {
                    const Index query = g * kRows, n = least(kRows, p.queries - query);
                    A::pack_panel(group.data(), kRows, A::queries_of(p, h), queries, query, n, p.head_dim);
                    for (Index b = 0; b < panels; ++b) {
                        const Index first = b * A::kPanel, count = least(A::kPanel, p.keys - first);
                        A::with_vectors(count, [&](auto nv) {
                            scores<nv()>(p, h, group.data(), query, packed.data() + first * p.head_dim, first, count,
                                         rows.data() + first, pitch);
                        });
                    }
                    for (Index m = 0; m < kRows; ++m) {
                        // The last group is filled up with rows that nobody sees.
                        const Index at = h * p.queries + query + m;
                        const float lse =
                            softmax(rows.data() + m * pitch, pitch, m < n ? s.map + at * p.keys : waste.data(), p.keys);
                        if (m < n) s.lse[at] = lse;
                    }
                    float* out = s.out + h * s.out_stride[0] + query * s.out_stride[1];
                    over_vectors<S>(s.value_dim, [&](Index at, auto nv, auto) {
                        constexpr int NV = nv();
                        Float acc[kRows][NV];
                        A::template clear<NV>(acc);
                        const auto last = S::first(s.value_dim - (at + NV - 1) * kLanes);
                        weigh<S, kRows, NV, false>(rows.data(), pitch, values.data() + at * kLanes * p.keys,
                                                   NV * kLanes, p.keys, last, acc);
#pragma GCC unroll 8
                        for (int m = 0; m < kRows; ++m) {
                            if (m >= n) break;
                            float* to = out + m * s.out_stride[1] + at * kLanes;
#pragma GCC unroll 4
                            for (int x = 0; x + 1 < NV; ++x) S::store(to + x * kLanes, acc[m][x]);
                            S::store(to + (NV - 1) * kLanes, acc[m][NV - 1], last);
                        }
                    });
                }
            }
        });
    }
};

}  // namespace
}  // namespace vitrine::kernels
