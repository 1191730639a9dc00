// Sums of few rows for any vector type: included inside the region compiled for its instruction set.
//
// A row is read from end to end and meets the sum in the first cache: rows lie far apart in memory, and only runs along
// them are read ahead. Four rows at a time share the sum's loads and stores.
#pragma once

#include <vitrine/kernels/cpu/sparse_run.h>

namespace vitrine::kernels {
namespace {

template <class S>
struct SparseVectors {
    using Float = typename S::Float;
    using Index = std::int64_t;
    static constexpr Index kLanes = S::kLanes;

    /// to += sum of kCount weighted rows, in this order.
    template <int kCount>
    [[gnu::always_inline]] static void add_rows(float* to, const float* const* rows, const float* weights, Index d) {
        Float weight[kCount];
#pragma GCC unroll 4
        for (int r = 0; r < kCount; ++r) weight[r] = S::all(weights[r]);
        Index x = 0;
        for (; x + kLanes <= d; x += kLanes) {
            Float sum = S::load(to + x);
#pragma GCC unroll 4
            for (int r = 0; r < kCount; ++r) sum = S::fma(weight[r], S::load(rows[r] + x), sum);
            S::store(to + x, sum);
        }
        if (x == d) return;
        const typename S::Mask rest = S::first(d - x);
        Float sum = S::load(to + x, rest);
#pragma GCC unroll 4
        for (int r = 0; r < kCount; ++r) sum = S::fma(weight[r], S::load(rows[r] + x, rest), sum);
        S::store(to + x, sum, rest);
    }

    /// to = the sum of all `count` rows; row(j) and weight(j) say which.
    template <class Row, class Weight>
    [[gnu::always_inline]] static void sum_rows(float* to, Index count, Index d, const Row& row, const Weight& weight) {
        for (Index x = 0; x < d; ++x) to[x] = 0;
        Index j = 0;
        for (; j + 4 <= count; j += 4) {
            const float* const rows[4] = {row(j), row(j + 1), row(j + 2), row(j + 3)};
            const float weights[4] = {weight(j), weight(j + 1), weight(j + 2), weight(j + 3)};
            add_rows<4>(to, rows, weights, d);
        }
        for (; j < count; ++j) {
            const float* const one = row(j);
            const float of_one = weight(j);
            add_rows<1>(to, &one, &of_one, d);
        }
    }

    static float total(Float x) {
        float lanes[kLanes], sum = 0;
        S::store(lanes, x);
        for (Index l = 0; l < kLanes; ++l) sum += lanes[l];
        return sum;
    }

    static void decode(const SparseRows& p, float* out, const ParallelFor& parallel_for) {
        parallel_for(p.n, [&](Index begin, Index end) {
            for (Index i = begin; i < end; ++i) {
                const Index first = first_term(p, i);
                sum_rows(
                    out + i * p.d, first_term(p, i + 1) - first, p.d,
                    [&](Index j) { return p.rows + p.indices[first + j] * p.d; },
                    [&](Index j) { return p.values[first + j]; });
            }
        });
    }

    static void value_gradient(const SparseRows& p, const float* d_out, float* d_values,
                               const ParallelFor& parallel_for) {
        parallel_for(p.n, [&](Index begin, Index end) {
            for (Index i = begin; i < end; ++i)
                for (Index j = first_term(p, i); j < first_term(p, i + 1); ++j) {
                    const float *row = p.rows + p.indices[j] * p.d, *d = d_out + i * p.d;
                    Float sum[4] = {S::zero(), S::zero(), S::zero(), S::zero()};
                    Index x = 0;
                    for (; x + 4 * kLanes <= p.d; x += 4 * kLanes)
#pragma GCC unroll 4
                        for (int s = 0; s < 4; ++s)
                            sum[s] = S::fma(S::load(row + x + s * kLanes), S::load(d + x + s * kLanes), sum[s]);
                    for (; x + kLanes <= p.d; x += kLanes) sum[0] = S::fma(S::load(row + x), S::load(d + x), sum[0]);
                    if (x < p.d) {
                        const typename S::Mask rest = S::first(p.d - x);
                        sum[1] = S::fma(S::load(row + x, rest), S::load(d + x, rest), sum[1]);
                    }
                    d_values[j] = total(S::add(S::add(sum[0], sum[1]), S::add(sum[2], sum[3])));
                }
        });
    }

    static void row_gradient(const SparseRows& p, const float* d_out, float* d_rows, float* sums,
                             const ParallelFor& parallel_for) {
        const TermsByRow by_row(p);
        by_row.share(parallel_for, [&](Index row) {
            const auto terms = by_row.of(row);
            const auto* const term = terms.data();
            sum_rows(
                d_rows + row * p.d, static_cast<Index>(terms.size()), p.d,
                [&](Index j) { return d_out + term[j].token * p.d; }, [&](Index j) { return p.values[term[j].at]; });
            if (sums == nullptr) return;
            float sum = 0;
            for (const auto& one : terms) sum += p.values[one.at];
            sums[row] = sum;
        });
    }

    /// Few are kept sorted while the row goes by in vectors; a vector none of which exceeds the last of them is passed.
    static void top_of_row(const float* row, Index count, Index top, float* values, Index* indices) {
        const auto keep = [&](Index held, Index j) {
            const float x = row[j];
            Index at = held;
            for (; at > 0 && values[at - 1] < x; --at) {
                values[at] = values[at - 1];
                indices[at] = indices[at - 1];
            }
            values[at] = x;
            indices[at] = j;
        };
        for (Index j = 0; j < top; ++j) keep(j, j);
        Index j = top;
        for (; j + kLanes <= count; j += kLanes) {
            unsigned exceeding = S::greater(S::load(row + j), S::all(values[top - 1]));
            for (; exceeding != 0; exceeding &= exceeding - 1) {
                const Index at = j + __builtin_ctz(exceeding);
                if (row[at] > values[top - 1]) keep(top - 1, at);
            }
        }
        for (; j < count; ++j)
            if (row[j] > values[top - 1]) keep(top - 1, j);
    }

    static bool has_nan(const float* row, Index count) {
        // The difference of a number and itself is 0, of what is none it is none; infinities are rare enough.
        Float sum = S::zero();
        Index j = 0;
        for (; j + kLanes <= count; j += kLanes) {
            const Float x = S::load(row + j);
            sum = S::add(sum, S::sub(x, x));
        }
        float rest = total(sum);
        for (; j < count; ++j) rest += row[j] - row[j];
        return rest != 0 || rest != rest;
    }

    static void largest(const float* x, Index rows, Index count, Index top, float* values, Index* indices,
                        const ParallelFor& parallel_for) {
        // Insertion is quadratic in what is kept.
        constexpr Index kFew = 128;
        parallel_for(rows, [&](Index begin, Index end) {
            for (Index r = begin; r < end; ++r) {
                const float* row = x + r * count;
                if (top > kFew || has_nan(row, count))
                    select_top(row, count, top, values + r * top, indices + r * top);
                else if (top > 0)
                    top_of_row(row, count, top, values + r * top, indices + r * top);
            }
        });
    }

    static SparseKernels table(const char* name, const char* (*machine)() noexcept) {
        return {name, machine, &decode, &value_gradient, &row_gradient, &largest};
    }
};

}  // namespace
}  // namespace vitrine::kernels
