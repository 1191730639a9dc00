// One segment of the probe for any vector type: included after small_attention_vector.h, inside the region compiled for
// its instruction set.
#pragma once

#include <vitrine/kernels/cpu/probe_run.h>
#include <vitrine/kernels/cpu/small_attention_vector.h>

namespace vitrine::kernels {
namespace {

template <class S>
struct Probe {
    using A = Attention<S>;
    using Float = typename S::Float;
    static constexpr int kLanes = S::kLanes;
    static constexpr int kRows = S::kRows;
    static constexpr Index kPanel = A::kPanel;
    static_assert(kLeanRows % kRows == 0);

    /// Scores of one row against up to kPanel keys, unpacked.
    static void few(const ProbeParams& p, const float* q, const Side& keys, Index first, Index count, float* to) {
        for (Index c = 0; c < count; c += kLanes) {
            const Index n = least(kLanes, count - c);
            Float dot;
            if (n == kLanes) {
                dot = A::dots(keys, first + c, q, p.head_dim);
            } else {
                const float* row[kLanes];
                for (Index l = 0; l < kLanes; ++l) row[l] = keys.data + (first + c + least(l, n - 1)) * keys.stride;
                dot = A::dots(row, q, p.head_dim, 0);
            }
            S::store(to + c, S::mul(dot, S::all(p.scale)));
        }
    }

    static void segment(const ProbeParams& p, const ProbeBlock& b, LeanPart* parts, float* out) {
        const Index group = p.heads / p.key_heads, dim = p.head_dim, vectors = pieces(dim, kLanes);
        const Index pitch = vectors * kLanes, groups = pieces(b.rows, kRows);
        const Side keys{p.k + b.batch * p.k_stride[0] + b.key_head * p.k_stride[1], p.k_stride[2]};
        const float* values = p.v + b.batch * p.v_stride[0] + b.key_head * p.v_stride[1];
        const bool packs = b.rows > A::kFew;
        Scratch<float> sums(groups * kRows * pitch), panel(packs ? dim * kPanel : 1),
            packed(packs ? groups * kRows * dim : 1);
        const float* query[kLeanRows];
        float high[kLeanRows];
        double sum[kLeanRows];
        for (Index r = 0; r < b.rows; ++r) {
            const Index i = (b.row + r) / group, h = b.key_head * group + (b.row + r) % group;
            query[r] = p.q + b.batch * p.q_stride[0] + h * p.q_stride[1] + i * p.q_stride[2];
            high[r] = kNothing;
            sum[r] = 0;
        }
        for (Index x = 0; x < groups * kRows * pitch; ++x) sums[x] = 0;
        if (packs)
            for (Index r = 0; r < groups * kRows; ++r)
                for (Index d = 0; d < dim; ++d)
                    packed[(r / kRows * dim + d) * kRows + r % kRows] = r < b.rows ? query[r][d] : 0;
        const Tokens tokens{nullptr, 0, p.keys};
        alignas(64) float map[kLeanRows][kPanel] = {};

        for (Index first = b.first; first < b.last; first += kPanel) {
            const Index count = least(kPanel, b.last - first);
            if (packs)
                A::with_vectors(count, [&](auto nv) {
                    constexpr int NV = nv();
                    A::pack_panel(panel.data(), NV * kLanes, keys, tokens, first, count, dim);
                    for (Index g = 0; g < groups; ++g) {
                        Float acc[kRows][NV];
                        A::template product<NV>(panel.data(), packed.data() + g * kRows * dim, dim, acc);
#pragma GCC unroll 8
                        for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
                            for (int v = 0; v < NV; ++v)
                                S::store(map[g * kRows + m] + v * kLanes, S::mul(acc[m][v], S::all(p.scale)));
                    }
                });
            else
                for (Index r = 0; r < b.rows; ++r) few(p, query[r], keys, first, count, map[r]);

            const Index width = pieces(count, kLanes) * kLanes;
            for (Index r = 0; r < b.rows; ++r) {
                const Index seen = p.causal ? least(count, (b.row + r) / group + 1 - first) : count;
                for (Index c = seen > 0 ? seen : 0; c < width; ++c) map[r][c] = kNothing;
                Float most = S::all(high[r]);
                for (Index c = 0; c < width; c += kLanes) most = S::max(most, S::load(map[r] + c));
                alignas(64) float part[kLanes];
                S::store(part, most);
                float now = high[r];
                for (const float x : part) now = x > now ? x : now;
                if (now > high[r]) {
                    // The first keys seen find sums of zero.
                    const double shrink = high[r] == kNothing ? 0 : std::exp(static_cast<double>(high[r]) - now);
                    sum[r] *= shrink;
                    const Float factor = S::all(static_cast<float>(shrink));
                    for (Index v = 0; v < vectors; ++v) {
                        float* at = sums.data() + r * pitch + v * kLanes;
                        S::store(at, S::mul(S::load(at), factor));
                    }
                    high[r] = now;
                }
                const Float shift = S::all(now == kNothing ? 0 : now);
                Float total = S::zero();
                for (Index c = 0; c < width; c += kLanes) {
                    const Float x = A::exponential(S::sub(S::load(map[r] + c), shift));
                    S::store(map[r] + c, x);
                    total = S::add(total, x);
                }
                S::store(part, total);
                float added = 0;
                for (const float x : part) added += x;
                sum[r] += added;
            }
            const float* from = values + first * p.v_stride[2];
            over_vectors<S>(dim, [&](Index at, auto nv, auto partial) {
                constexpr int NV = nv();
                const auto last = S::first(dim - (at + NV - 1) * kLanes);
                const auto rows = [&](auto m_count, Index r) {
                    constexpr int M = m_count();
                    Float acc[M][NV];
                    float* to = sums.data() + r * pitch + at * kLanes;
                    // A panel is summed by itself: shorter chains of roundings.
#pragma GCC unroll 8
                    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
                        for (int v = 0; v < NV; ++v) acc[m][v] = S::zero();
                    weigh<S, M, NV, partial()>(map[r], kPanel, from + at * kLanes, p.v_stride[2], count, last, acc);
#pragma GCC unroll 8
                    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
                        for (int v = 0; v < NV; ++v) {
                            float* at_sum = to + m * pitch + v * kLanes;
                            S::store(at_sum, S::add(S::load(at_sum), acc[m][v]));
                        }
                };
                if (b.rows == 1)
                    rows(std::integral_constant<int, 1>{}, 0);
                else
                    for (Index g = 0; g < groups; ++g) rows(std::integral_constant<int, kRows>{}, g * kRows);
            });
        }
        for (Index r = 0; r < b.rows; ++r) {
            parts[r] = {high[r], static_cast<float>(sum[r])};
            for (Index d = 0; d < dim; ++d) out[r * dim + d] = sums[r * pitch + d];
        }
    }

    static void run(const ProbeParams& p, const ProbeResult& result, const ParallelFor& parallel_for) {
        probe_by(&segment, p, result, parallel_for);
    }
};

}  // namespace
}  // namespace vitrine::kernels
