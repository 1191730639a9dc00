// Every implementation of the attention kernels against double precision, over the table of cases.
#include <vitrine/kernels/chooser.h>
#include <vitrine/kernels/cpu/implementations.h>

#include <cases/attention_cases.h>
#include <cases/kernel_calls.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <tuple>

namespace vitrine::kernels {
namespace {

using cases::AttentionCase;
using cases::AttentionData;
using cases::Floats;
using cases::Guarded;
using cases::kBackwards;
using cases::kSerial;
using cases::kTwo;
using Index = std::int64_t;

[[maybe_unused]] const bool kPoisoned = poison_scratch = true;

struct Caller {
    const AttentionKernels& kernels;
    const AttentionData& data;
    const ParallelFor& threads = kSerial;

    std::vector<Index> heads() const {
        std::vector<Index> all(static_cast<std::size_t>(data.p.heads));
        std::iota(all.rbegin(), all.rend(), 0);  // backwards: an index into the choice is not an index of a head
        return all;
    }
    Floats lse() const {
        Guarded out(data.p.heads * data.p.queries);
        kernels.log_sum_exp(data.p, out.data(), threads);
        return out.take();
    }
    Floats rows(const std::vector<Index>& queries) const {
        Guarded out(data.p.heads * static_cast<Index>(queries.size()) * data.p.keys);
        kernels.map_rows(data.p, heads(), queries, out.data(), threads);
        return out.take();
    }
    Floats columns(const std::vector<Index>& keys) const {
        Guarded out(data.p.heads * static_cast<Index>(keys.size()) * data.p.queries);
        kernels.map_columns(data.p, heads(), keys, out.data(), threads);
        return out.take();
    }
    Floats tile(Index q0, Index q1, Index k0, Index k1, Index pool, Pooling pooling = Pooling::Mean) const {
        Guarded out(data.p.heads * ((q1 - q0 + pool - 1) / pool) * ((k1 - k0 + pool - 1) / pool));
        kernels.map_tile(data.p, heads(), q0, q1, k0, k1, pool, pooling, out.data(), threads);
        return out.take();
    }
    Floats sweep(const Floats& r, Index stride) const {
        Guarded out(data.p.heads * data.p.keys);
        kernels.map_sweep(data.p, r.data(), stride, out.data(), threads);
        return out.take();
    }
    struct Counted {
        Floats sums;
        std::vector<double> rows;
        std::vector<std::uint64_t> bins;
    };
    Counted counts(const Floats& r, Index stride) const {
        Guarded out(data.p.heads * data.p.keys);
        Counted found;
        found.rows.assign(static_cast<std::size_t>(data.p.heads * data.p.queries), std::nan(""));
        found.bins.assign(static_cast<std::size_t>(data.p.heads * kHistogramBins), ~std::uint64_t{0});
        kernels.map_sweep_counts(data.p, r.data(), stride, out.data(), {found.rows.data(), found.bins.data()}, threads);
        found.sums = out.take();
        return found;
    }
    Floats gradient(SweepFunctor functor, const Floats& r, Index stride) const {
        Guarded out(data.p.heads * data.p.keys);
        kernels.map_sweep_gradient(data.p, data.g, functor, r.data(), stride, out.data(), threads);
        return out.take();
    }
    Floats apply(const Floats& v, Index dim) const {
        Guarded out(data.p.heads * data.p.queries * dim);
        const Index strides[2] = {data.p.keys * dim, dim};
        kernels.map_apply(data.p, v.data(), strides, dim, out.data(), threads);
        return out.take();
    }
    Floats layers(const std::vector<Index>& queries, bool mean, const float* packed = nullptr) const {
        AttentionParams p = data.p;
        p.packed_keys = packed;
        return both((mean ? 1 : p.heads) * static_cast<Index>(queries.size()) * p.keys,
                    [&](std::span<float* const> out) {
                        kernels.map_rows_layers(std::vector{p, p}, queries, mean, out, threads);
                    });
    }
    Floats columns_of_layers(const std::vector<Index>& keys, bool mean) const {
        return both((mean ? 1 : data.p.heads) * static_cast<Index>(keys.size()) * data.p.queries,
                    [&](std::span<float* const> out) {
                        kernels.map_columns_layers(std::vector{data.p, data.p}, keys, mean, out, threads);
                    });
    }
    Floats packed() const {
        Guarded out(packed_keys_size(data.p));
        kernels.pack_keys(data.p, out.data(), threads);
        return out.take();
    }
    struct Top {
        Floats values;
        std::vector<Index> indices;
    };
    Top top(const std::vector<Index>& queries, bool mean, Index count) const {
        const Index size = (mean ? 1 : data.p.heads) * static_cast<Index>(queries.size()) * count;
        Guarded values(size);
        Top found;
        found.indices.assign(static_cast<std::size_t>(size), -1);
        float* const to[] = {values.data()};
        Index* const at[] = {found.indices.data()};
        kernels.map_rows_top({&data.p, 1}, queries, mean, count, {to, 1}, {at, 1}, threads);
        found.values = values.take();
        return found;
    }

  private:
    template <class F>
    static Floats both(Index size, const F& f) {
        Guarded first(size), second(size);
        float* const out[] = {first.data(), second.data()};
        f(out);
        Floats a = first.take();
        const Floats b = second.take();
        EXPECT_EQ(a, b) << "the same layer twice gives different results";
        return a;
    }
};

double error(const Floats& found, const std::vector<double>& exact) {
    EXPECT_EQ(found.size(), exact.size());
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double off = found[i] == exact[i] ? 0 : std::abs(found[i] - exact[i]);
        if (!(off <= worst)) worst = off;  // not-a-number sticks
    }
    return worst;
}

double largest(const std::vector<double>& exact) {
    double most = 0;
    for (const double x : exact)
        if (std::isfinite(x)) most = std::max(most, std::abs(x));
    return most;
}

/// A rounding of a score s changes p by up to |s| 2^-24 of itself; the floor allows four of them on the largest score,
/// and on 1.
double floor_of(const AttentionData& data) {
    double most = 1;
    for (Index h = 0; h < data.p.heads; ++h)
        for (Index i = 0; i < data.p.queries; i += 7) most = std::max(most, largest(data.scores(h, i)));
    return std::ldexp(1 + most, -22);
}

/// At most twice the error of the plain version plus `floor` of the largest value.
void expect_close(const Floats& found, const Floats& plain, const std::vector<double>& exact, double floor,
                  const std::string& what, double more = 0) {
    const double allowed = 2 * error(plain, exact) + floor * largest(exact) + more;
    EXPECT_LE(error(found, exact), allowed) << what << ", the plain version is off by " << error(plain, exact);
}

std::vector<Index> some(Index count, Index wanted) {
    std::vector<Index> picked;
    for (Index i = 0; i < wanted; ++i) picked.push_back((i * 37 + 5) % count);
    return picked;
}

std::vector<const AttentionKernels*> runnable() {
    std::vector<const AttentionKernels*> list;
    for (const AttentionKernels* kernels : attention_kernels())
        if (kernels->machine() == nullptr) list.push_back(kernels);
    return list;
}

using Parameter = std::tuple<const AttentionKernels*, AttentionCase>;

class AttentionKernel : public testing::TestWithParam<Parameter> {
  protected:
    AttentionKernel() : kernels(*std::get<0>(GetParam())), data(std::get<1>(GetParam())) {
        if (const char* why = cannot_run(data.p)) ADD_FAILURE() << why;
        if (kernels.cannot_run(Operation::MapRows, data.p) != nullptr) ADD_FAILURE() << "a case that cannot run";
        exact = data.map();
    }
    double p(Index h, Index i, Index j) const {
        return exact[static_cast<std::size_t>((h * data.p.queries + i) * data.p.keys + j)];
    }

    void data_is_not_all_zero() const;
    void log_sum_exp_is_that_of_double_precision() const;
    void rows_are_those_of_double_precision() const;
    void rows_of_layers_are_those_of_each_layer() const;
    void columns_are_those_of_double_precision() const;
    void columns_of_layers_are_those_of_each_layer() const;
    void packed_keys_give_the_same_rows() const;
    void top_is_the_sorted_row() const;
    void tiles_pool_the_map() const;
    void sweep_sums_weighted_rows() const;
    void sweep_counts_what_it_passes() const;
    void sweep_gradient_sums_its_functor() const;
    void apply_is_the_map_times_values() const;
    void rows_columns_tiles_and_sweep_agree() const;

    const AttentionKernels& kernels;
    AttentionData data;
    std::vector<double> exact;
    const double floor = floor_of(data);
    const Caller run{kernels, data};
    const Caller plain{*attention_kernels().front(), data};
};

void AttentionKernel::data_is_not_all_zero() const {
    EXPECT_GT(largest(exact), 1e-4);
    double spread = 0;
    for (std::size_t d = 1; d < data.q_store.size(); ++d) spread += data.q_store[d] != data.q_store[0] ? 1 : 0;
    EXPECT_EQ(spread, static_cast<double>(data.q_store.size() - 1));
}

void AttentionKernel::log_sum_exp_is_that_of_double_precision() const {
    const Floats found = run.lse();
    for (std::size_t i = 0; i < found.size(); ++i)
        if (std::isinf(data.lse_exact[i])) {
            EXPECT_EQ(found[i], data.lse_exact[i]) << "row " << i;
        }
    expect_close(found, plain.lse(), data.lse_exact, floor, "log-sum-exp");
}

void AttentionKernel::rows_are_those_of_double_precision() const {
    for (const Index count : {1, 3, 9, 30}) {
        const auto picked = some(data.p.queries, count);
        std::vector<double> wanted;
        for (const Index h : run.heads())
            for (const Index i : picked)
                for (Index j = 0; j < data.p.keys; ++j) wanted.push_back(p(h, i, j));
        expect_close(run.rows(picked), plain.rows(picked), wanted, floor, std::to_string(count) + " rows");
    }
}

void AttentionKernel::rows_of_layers_are_those_of_each_layer() const {
    const auto picked = some(data.p.queries, 2);
    std::vector<double> wanted, mean;
    for (Index h = 0; h < data.p.heads; ++h)
        for (const Index i : picked)
            for (Index j = 0; j < data.p.keys; ++j) wanted.push_back(p(h, i, j));
    for (const Index i : picked)
        for (Index j = 0; j < data.p.keys; ++j) {
            double sum = 0;
            for (Index h = 0; h < data.p.heads; ++h) sum += p(h, i, j);
            mean.push_back(sum / static_cast<double>(data.p.heads));
        }
    expect_close(run.layers(picked, false), plain.layers(picked, false), wanted, floor, "rows of layers");
    expect_close(run.layers(picked, true), plain.layers(picked, true), mean, floor, "mean rows of layers");
}

void AttentionKernel::columns_are_those_of_double_precision() const {
    for (const Index count : {1, 4, 11}) {
        const auto picked = some(data.p.keys, count);
        std::vector<double> wanted;
        for (const Index h : run.heads())
            for (Index i = 0; i < data.p.queries; ++i)
                for (const Index j : picked) wanted.push_back(p(h, i, j));
        expect_close(run.columns(picked), plain.columns(picked), wanted, floor, std::to_string(count) + " columns");
    }
}

void AttentionKernel::columns_of_layers_are_those_of_each_layer() const {
    const auto picked = some(data.p.keys, 3);
    std::vector<double> each, mean;
    for (Index h = 0; h < data.p.heads; ++h)
        for (Index i = 0; i < data.p.queries; ++i)
            for (const Index j : picked) each.push_back(p(h, i, j));
    for (Index i = 0; i < data.p.queries; ++i)
        for (const Index j : picked) {
            double sum = 0;
            for (Index h = 0; h < data.p.heads; ++h) sum += p(h, i, j);
            mean.push_back(sum / static_cast<double>(data.p.heads));
        }
    expect_close(run.columns_of_layers(picked, false), plain.columns_of_layers(picked, false), each, floor,
                 "columns of layers");
    expect_close(run.columns_of_layers(picked, true), plain.columns_of_layers(picked, true), mean, floor,
                 "mean columns of layers");
}

void AttentionKernel::packed_keys_give_the_same_rows() const {
    const Floats keys = run.packed();
    EXPECT_EQ(keys, plain.packed()) << "a copy has no room for differences";
    const auto picked = some(data.p.queries, 2);
    for (const bool mean : {false, true})
        EXPECT_EQ(run.layers(picked, mean, keys.data()), run.layers(picked, mean)) << "to the last bit";
}

void AttentionKernel::top_is_the_sorted_row() const {
    const auto picked = some(data.p.queries, 3);
    for (const bool mean : {false, true})
        for (const Index count : {Index{1}, std::min<Index>(7, data.p.keys), std::min<Index>(100, data.p.keys)}) {
            const Floats rows = run.layers(picked, mean);
            const Caller::Top found = run.top(picked, mean, count);
            for (std::size_t row = 0; row * static_cast<std::size_t>(data.p.keys) < rows.size(); ++row) {
                const float* at = rows.data() + row * static_cast<std::size_t>(data.p.keys);
                std::vector<Index> order(static_cast<std::size_t>(data.p.keys));
                std::iota(order.begin(), order.end(), 0);
                std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return at[a] > at[b]; });
                for (std::size_t t = 0; t < static_cast<std::size_t>(count); ++t) {
                    const std::size_t x = row * static_cast<std::size_t>(count) + t;
                    ASSERT_EQ(found.indices[x], order[t]) << "row " << row << ", place " << t;
                    ASSERT_EQ(found.values[x], at[order[t]]);
                }
            }
        }
}

void AttentionKernel::tiles_pool_the_map() const {
    for (const Index pool : {1, 3, 16, 61}) {
        const Index q0 = data.p.queries / 5, q1 = data.p.queries, k0 = data.p.keys / 7,
                    k1 = data.p.keys - data.p.keys / 9;
        std::vector<double> mean, most;
        for (const Index h : run.heads())
            for (Index a = q0; a < q1; a += pool)
                for (Index b = k0; b < k1; b += pool) {
                    double sum = 0, count = 0, high = 0;
                    for (Index i = a; i < std::min(a + pool, q1); ++i)
                        for (Index j = b; j < std::min(b + pool, k1); ++j) {
                            sum += p(h, i, j);
                            high = std::max(high, p(h, i, j));
                            ++count;
                        }
                    mean.push_back(sum / count);
                    most.push_back(high);
                }
        expect_close(run.tile(q0, q1, k0, k1, pool), plain.tile(q0, q1, k0, k1, pool), mean, floor,
                     "pool " + std::to_string(pool));
        expect_close(run.tile(q0, q1, k0, k1, pool, Pooling::Max), plain.tile(q0, q1, k0, k1, pool, Pooling::Max), most,
                     floor, "largest of " + std::to_string(pool));
    }
}

std::vector<double> swept(const AttentionData& data, const std::vector<double>& map, const Floats& r, Index stride) {
    std::vector<double> sums(static_cast<std::size_t>(data.p.heads * data.p.keys));
    for (Index h = 0; h < data.p.heads; ++h)
        for (Index i = 0; i < data.p.queries; ++i)
            for (Index j = 0; j < data.p.keys; ++j)
                sums[static_cast<std::size_t>(h * data.p.keys + j)] +=
                    static_cast<double>(r[static_cast<std::size_t>(h * stride + i)]) *
                    map[static_cast<std::size_t>((h * data.p.queries + i) * data.p.keys + j)];
    return sums;
}

void AttentionKernel::sweep_sums_weighted_rows() const {
    Floats single(data.r.size(), 0.0F);
    single[static_cast<std::size_t>(data.p.queries / 2)] = 0.7F;
    for (const Floats& r : {data.r, single})
        for (const Index stride : {Index{0}, data.p.queries})
            expect_close(run.sweep(r, stride), plain.sweep(r, stride), swept(data, exact, r, stride), floor, "sweep");
}

void AttentionKernel::sweep_counts_what_it_passes() const {
    const Caller::Counted found = run.counts(data.r, data.p.queries);
    expect_close(found.sums, plain.sweep(data.r, data.p.queries), swept(data, exact, data.r, data.p.queries), floor,
                 "sweep with counts");
    double off = 0;
    for (Index h = 0; h < data.p.heads; ++h) {
        std::vector<double> counted;
        for (Index i = 0; i < data.p.queries; ++i) {
            const auto row = static_cast<std::size_t>(h * data.p.queries + i);
            double sum = 0;
            if (data.r[row] != 0)
                for (Index j = 0; j < data.p.keys; ++j) {
                    sum += p(h, i, j);
                    counted.push_back(p(h, i, j));
                }
            off = std::max(off, std::abs(found.rows[row] - sum));
            if (!std::isfinite(found.rows[row])) off = std::numeric_limits<double>::infinity();
        }
        // How many entries are at least 2^-b: an entry within rounding of the edge may fall on either side.
        std::sort(counted.begin(), counted.end());
        const auto at_least = [&](double edge) {
            return static_cast<std::uint64_t>(counted.end() - std::lower_bound(counted.begin(), counted.end(), edge));
        };
        std::uint64_t sum = 0;
        for (Index b = 0; b < kHistogramBins; ++b) {
            sum += found.bins[static_cast<std::size_t>(h * kHistogramBins + b)];
            const double edge = std::ldexp(1.0, static_cast<int>(-b));
            if (b > 124) continue;  // below exp(-87) the kernels give 0
            ASSERT_GE(sum, at_least(edge * (1 + 4 * floor))) << "bin " << b;
            ASSERT_LE(sum, at_least(edge * (1 - 4 * floor))) << "bin " << b;
        }
        EXPECT_EQ(sum, counted.size()) << "every entry is counted once";
    }
    EXPECT_LE(off, floor) << "row sums";
}

void AttentionKernel::sweep_gradient_sums_its_functor() const {
    for (const SweepFunctor functor :
         {SweepFunctor::ReluPdP, SweepFunctor::PdP, SweepFunctor::ReluDP, SweepFunctor::AbsDP}) {
        std::vector<double> values = exact, terms = exact;
        for (Index h = 0; h < data.p.heads; ++h)
            for (Index i = 0; i < data.p.queries; ++i)
                for (Index j = 0; j < data.p.keys; ++j) {
                    const float* a = data.g.d_out + h * data.g.d_out_stride[0] + i * data.g.d_out_stride[1];
                    const float* b = data.g.v + data.value_head(h) * data.g.v_stride[0] + j * data.g.v_stride[1];
                    double dp = 0, magnitude = 0;
                    for (Index d = 0; d < data.g.value_dim; ++d) {
                        dp += static_cast<double>(a[d]) * b[d];
                        magnitude += std::abs(static_cast<double>(a[d]) * b[d]);
                    }
                    const auto at = static_cast<std::size_t>((h * data.p.queries + i) * data.p.keys + j);
                    double& x = values[at];
                    terms[at] = (needs_map(functor) ? x : 1) * magnitude;
                    x = needs_map(functor) ? x * dp : dp;
                    if (functor == SweepFunctor::AbsDP) x = std::abs(x);
                    if (functor == SweepFunctor::ReluPdP || functor == SweepFunctor::ReluDP) x = std::max(x, 0.0);
                }
        expect_close(run.gradient(functor, data.r, data.p.queries), plain.gradient(functor, data.r, data.p.queries),
                     swept(data, values, data.r, data.p.queries), floor, name_of(functor),
                     // The terms of dp may cancel: one rounding of what they are before they do.
                     std::ldexp(largest(swept(data, terms, data.r, data.p.queries)), -24));
    }
}

void AttentionKernel::apply_is_the_map_times_values() const {
    const Index dim = std::min<Index>(data.p.head_dim + 3, 67);
    Floats v(static_cast<std::size_t>(data.p.heads * data.p.keys * dim));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = std::sin(0.37F * static_cast<float>(i));
    std::vector<double> wanted(static_cast<std::size_t>(data.p.heads * data.p.queries * dim));
    for (Index h = 0; h < data.p.heads; ++h)
        for (Index i = 0; i < data.p.queries; ++i)
            for (Index j = 0; j < data.p.keys; ++j)
                for (Index d = 0; d < dim; ++d)
                    wanted[static_cast<std::size_t>((h * data.p.queries + i) * dim + d)] +=
                        p(h, i, j) * v[static_cast<std::size_t>((h * data.p.keys + j) * dim + d)];
    expect_close(run.apply(v, dim), plain.apply(v, dim), wanted, floor, "map times values");
}

void AttentionKernel::rows_columns_tiles_and_sweep_agree() const {
    // The sum of all columns, of all rows and a sweep with ones are three ways to the same number.
    const Floats ones(static_cast<std::size_t>(data.p.queries), 1.0F);
    const Floats sums = run.sweep(ones, 0);
    const Floats whole = run.tile(0, data.p.queries, 0, data.p.keys, 1);
    std::vector<Index> every(static_cast<std::size_t>(data.p.queries));
    std::iota(every.begin(), every.end(), 0);
    if (data.p.queries > 4) {
        EXPECT_EQ(run.rows(every), whole) << "many rows and a whole tile are computed by the same steps";
    }
    const auto heads = run.heads();
    for (std::size_t at = 0; at < heads.size(); ++at)
        for (Index j = 0; j < data.p.keys; ++j) {
            double sum = 0;
            for (Index i = 0; i < data.p.queries; ++i)
                sum += whole[static_cast<std::size_t>((static_cast<Index>(at) * data.p.queries + i) * data.p.keys + j)];
            const double found = sums[static_cast<std::size_t>(heads[at] * data.p.keys + j)];
            EXPECT_NEAR(found, sum, 2e-6 * (1 + sum));
        }
}

TEST_P(AttentionKernel, AgreesWithDoublePrecisionInEveryOperation) {
    data_is_not_all_zero();
    log_sum_exp_is_that_of_double_precision();
    rows_are_those_of_double_precision();
    rows_of_layers_are_those_of_each_layer();
    columns_are_those_of_double_precision();
    columns_of_layers_are_those_of_each_layer();
    packed_keys_give_the_same_rows();
    top_is_the_sorted_row();
    tiles_pool_the_map();
    sweep_sums_weighted_rows();
    sweep_counts_what_it_passes();
    sweep_gradient_sums_its_functor();
    apply_is_the_map_times_values();
    rows_columns_tiles_and_sweep_agree();
}

TEST_P(AttentionKernel, ResultsDoNotDependOnRunsOrThreads) {
    const auto all = [&](const ParallelFor& threads) {
        const Caller with{kernels, data, threads};
        std::vector<Floats> found{with.lse(),
                                  with.rows(some(data.p.queries, 2)),
                                  with.rows(some(data.p.queries, 12)),
                                  with.columns(some(data.p.keys, 2)),
                                  with.tile(0, data.p.queries, 0, data.p.keys, 5),
                                  with.tile(0, data.p.queries, 0, data.p.keys, 5, Pooling::Max),
                                  with.sweep(data.r, data.p.queries),
                                  with.columns_of_layers(some(data.p.keys, 2), true),
                                  with.top(some(data.p.queries, 2), false, 1).values,
                                  with.packed(),
                                  with.gradient(SweepFunctor::ReluPdP, data.r, data.p.queries),
                                  with.layers(some(data.p.queries, 1), true)};
        // Doubles and counts as they lie in memory.
        const Caller::Counted counted = with.counts(data.r, data.p.queries);
        found.push_back(counted.sums);
        Floats raw(counted.rows.size() * 2 + counted.bins.size() * 2);
        std::memcpy(raw.data(), counted.rows.data(), counted.rows.size() * sizeof(double));
        std::memcpy(raw.data() + counted.rows.size() * 2, counted.bins.data(),
                    counted.bins.size() * sizeof(std::uint64_t));
        found.push_back(std::move(raw));
        return found;
    };
    const auto bits = [](const std::vector<Floats>& a, const std::vector<Floats>& b) {
        if (a.size() != b.size()) return false;
        for (std::size_t i = 0; i < a.size(); ++i)
            if (a[i].size() != b[i].size() || std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0)
                return false;
        return true;
    };
    const auto first = all(kSerial);
    EXPECT_TRUE(bits(first, all(kTwo))) << "two threads";
    EXPECT_TRUE(bits(first, all(kBackwards))) << "one item at a time, backwards";
    // The plain version is the same code each time and slow; the repeats are for the fast ones.
    const int repeats = &kernels == attention_kernels().front() || data.p.queries > 300 ? 1 : 20;
    for (int repeat = 0; repeat < repeats; ++repeat) ASSERT_TRUE(bits(first, all(kTwo))) << "run " << repeat;
}

// Built twice: the heavy part of the table is a program of its own, labelled slow.
#if defined(VITRINE_SLOW_CASES)
constexpr auto kWeight = cases::Weight::Slow;
#define VITRINE_SHAPES HeavyShapes
#else
constexpr auto kWeight = cases::Weight::Fast;
#define VITRINE_SHAPES Shapes
#endif

INSTANTIATE_TEST_SUITE_P(VITRINE_SHAPES, AttentionKernel,
                         testing::Combine(testing::ValuesIn(runnable()),
                                          testing::ValuesIn(cases::attention_cases(kWeight))),
                         [](const auto& info) {
                             return std::string(std::get<0>(info.param)->name) + "_" + std::get<1>(info.param).name;
                         });

#if !defined(VITRINE_SLOW_CASES)

// ---- the exponential ----

class Exponential : public testing::TestWithParam<const AttentionKernels*> {};

TEST_P(Exponential, IsWithinTwoUnitsInTheLastPlace) {
    // With one coordinate, q = 1, no scale and a log-sum-exp of 0 a row is exp of the keys.
    Floats x;
    for (float at = -87; at < 1; at += 0.00037F) x.push_back(at);
    const float one = 1, zero = 0;
    AttentionParams p;
    p.q = &one;
    p.k = x.data();
    p.k_stride[1] = 1;
    p.heads = p.key_heads = p.queries = p.head_dim = 1;
    p.keys = static_cast<Index>(x.size());
    p.lse = &zero;
    Floats out(x.size());
    const Index which = 0;
    GetParam()->map_rows(p, {&which, 1}, {&which, 1}, out.data(), kSerial);
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double exact = std::exp(static_cast<double>(x[i]));
        const double unit =
            std::nextafter(static_cast<float>(exact), 1e30F) - static_cast<double>(static_cast<float>(exact));
        worst = std::max(worst, std::abs(out[i] - exact) / unit);
    }
    EXPECT_LE(worst, 2);
    EXPECT_GT(worst, 0.1);
}

TEST_P(Exponential, OfMinusInfinityIsZeroAndNotANumberIsSeen) {
    const float q[] = {1, 2, 3};
    const float k[] = {1, 1, 1, 1};
    constexpr float kMasked = -std::numeric_limits<float>::infinity();
    const float bias[] = {kMasked, 0, std::numeric_limits<float>::quiet_NaN(), -500};
    const float lse[] = {0, 1, kMasked};
    AttentionParams p;
    p.q = q;
    p.k = k;
    p.q_stride[1] = p.k_stride[1] = 1;
    p.heads = p.key_heads = p.head_dim = 1;
    p.queries = 3;
    p.keys = 4;
    p.bias = bias;
    p.bias_stride[2] = 1;
    p.lse = lse;
    const Index head = 0;
    const Index rows[] = {0, 1, 2};
    float out[12];
    GetParam()->map_rows(p, {&head, 1}, {rows, 3}, out, kSerial);
    EXPECT_EQ(out[0], 0.0F);
    EXPECT_FALSE(std::signbit(out[0]));
    EXPECT_NEAR(out[1], std::exp(1.0), 1e-6);
    EXPECT_TRUE(std::isnan(out[2]));
    EXPECT_EQ(out[3], 0.0F);
    EXPECT_EQ(out[8 + 0], 0.0F) << "a row in which everything is masked is zero";
    EXPECT_EQ(out[8 + 1], 0.0F);
    EXPECT_EQ(out[8 + 3], 0.0F);
}

INSTANTIATE_TEST_SUITE_P(Implementations, Exponential, testing::ValuesIn(runnable()),
                         [](const auto& info) { return std::string(info.param->name); });

// ---- an independent oracle ----

class TransposedAttention : public testing::TestWithParam<AttentionCase> {};

TEST_P(TransposedAttention, GivesTheSweepByAnotherWay) {
    // sum_i r_i p_ij = exp(log-sum-exp over i of (score_ij + log r_i - lse_i)): attention with the roles changed.
    const AttentionData data(GetParam());
    const AttentionParams& p = data.p;
    Floats r(data.lse.size());
    for (std::size_t i = 0; i < r.size(); ++i) r[i] = 0.01F + static_cast<float>(i % 13);
    // Per head: what was added to the scores, its axes swapped, plus log r_i - lse_i of what is now the key. A row
    // in which everything was masked gives nothing.
    Floats bias(static_cast<std::size_t>(p.heads * p.keys * p.queries));
    for (Index h = 0; h < p.heads; ++h)
        for (Index j = 0; j < p.keys; ++j)
            for (Index i = 0; i < p.queries; ++i) {
                const auto row = static_cast<std::size_t>(h * p.queries + i);
                float add =
                    p.bias == nullptr ? 0 : p.bias[h * p.bias_stride[0] + i * p.bias_stride[1] + j * p.bias_stride[2]];
                if (p.causal && j > i) add = -std::numeric_limits<float>::infinity();
                bias[static_cast<std::size_t>((h * p.keys + j) * p.queries + i)] =
                    std::isinf(data.lse[row]) ? -std::numeric_limits<float>::infinity()
                                              : add + std::log(r[row]) - data.lse[row];
            }
    AttentionParams swapped = p;
    std::swap(swapped.q, swapped.k);
    std::swap(swapped.q_stride, swapped.k_stride);
    std::swap(swapped.queries, swapped.keys);
    std::swap(swapped.mask_stride[1], swapped.mask_stride[2]);
    swapped.causal = false;
    swapped.lse = nullptr;
    swapped.bias = bias.data();
    swapped.bias_stride[0] = p.keys * p.queries;
    swapped.bias_stride[1] = p.queries;
    swapped.bias_stride[2] = 1;
    // Rounding of the logarithms: the largest of them and of the scores, in units of 2^-24, a few times.
    double most = 1;
    for (const float x : data.lse)
        if (std::isfinite(x)) most = std::max(most, std::abs(static_cast<double>(x)));
    const double allowed = 8 * std::ldexp(most + floor_of(data) * std::ldexp(1, 22), -24);
    for (const AttentionKernels* kernels : runnable()) {
        Floats sums(static_cast<std::size_t>(p.heads * p.keys)), lse(sums.size());
        kernels->map_sweep(p, r.data(), p.queries, sums.data(), kSerial);
        kernels->log_sum_exp(swapped, lse.data(), kSerial);
        for (std::size_t j = 0; j < sums.size(); ++j) {
            if (sums[j] < 1e-30F) {
                EXPECT_LT(lse[j], -69);  // log 1e-30
                continue;
            }
            EXPECT_NEAR(std::log(static_cast<double>(sums[j])), lse[j], allowed) << kernels->name << ", key " << j;
        }
    }
}

std::vector<AttentionCase> with_a_head_of_keys_each() {
    std::vector<AttentionCase> all;
    for (const AttentionCase& c : cases::attention_cases())
        if (c.heads == c.key_heads) all.push_back(c);
    return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, TransposedAttention, testing::ValuesIn(with_a_head_of_keys_each()),
                         [](const auto& info) { return info.param.name; });

// ---- the largest of a row ----

TEST(SelectTop, TakesTheLowerOfEqualOnesAndSeesNotANumber) {
    const float nan = std::nanf("");
    const Floats row{0.5F, 0.7F, nan, 0.7F, 0.5F, nan, 0.9F};
    const std::vector<Index> wanted{2, 5, 6, 1, 3, 0, 4};
    for (Index top = 1; top <= 7; ++top) {
        Floats values(static_cast<std::size_t>(top));
        std::vector<Index> indices(values.size());
        select_top(row.data(), 7, top, values.data(), indices.data());
        EXPECT_EQ(indices, std::vector<Index>(wanted.begin(), wanted.begin() + top));
    }
    // Few are kept sorted, many are sorted at the end: both ways give the same.
    Floats ties(500), few(64), many(65);
    for (std::size_t i = 0; i < ties.size(); ++i) ties[i] = static_cast<float>(i * 7919 % 23);
    std::vector<Index> few_at(64), many_at(65);
    select_top(ties.data(), 500, 64, few.data(), few_at.data());
    select_top(ties.data(), 500, 65, many.data(), many_at.data());
    many_at.pop_back();
    EXPECT_EQ(few_at, many_at);
}

// ---- the chooser ----

class Chooser : public testing::Test {
  protected:
    static AttentionCase shape() {
        AttentionCase c;
        c.heads = c.key_heads = 2;
        c.queries = c.keys = 50;
        return c;
    }
    const AttentionData data{shape()};
};

TEST_F(Chooser, TakesTheLastThatTheMachineCanRunAndSaysWhy) {
    const auto choice = choose(Operation::MapSweep, data.p, "");
    ASSERT_TRUE(choice);
    EXPECT_EQ(choice->kernels, runnable().back());
    EXPECT_FALSE(choice->reason.empty());
    EXPECT_EQ(choice->shown(), std::string("map_sweep ") + runnable().back()->name);
}

TEST_F(Chooser, ForcesEachByNameAndThatOneRuns) {
    std::set<Floats> different;
    const Index heads[] = {0, 1}, query = 7;
    for (const AttentionKernels* wanted : runnable()) {
        const auto choice = choose(Operation::MapRows, data.p, wanted->name);
        ASSERT_TRUE(choice) << choice.error().message;
        EXPECT_EQ(choice->kernels, wanted);
        Floats by_choice(100), direct(100);
        choice->kernels->map_rows(data.p, {heads, 2}, {&query, 1}, by_choice.data(), kSerial);
        wanted->map_rows(data.p, {heads, 2}, {&query, 1}, direct.data(), kSerial);
        EXPECT_EQ(by_choice, direct);
        different.insert(by_choice);
    }
    // A single row is added up in as many parts as there are lanes, so that its bits show which one ran.
    EXPECT_EQ(different.size(), runnable().size());
}

TEST_F(Chooser, RefusesANameThatIsNotThere) {
    const auto choice = choose(Operation::MapRows, data.p, "avx9");
    ASSERT_FALSE(choice);
    EXPECT_EQ(choice.error().code, ErrorCode::BadInput);
    EXPECT_THAT(choice.error().message, testing::HasSubstr("avx9"));
    EXPECT_THAT(choice.error().message, testing::HasSubstr("reference"));
}

TEST_F(Chooser, SaysWhyTheForcedOneCannotRun) {
    AttentionParams wide = data.p;
    wide.head_dim = 5000;
    for (const AttentionKernels* kernels : runnable()) {
        if (kernels == attention_kernels().front()) continue;
        const auto choice = choose(Operation::MapRows, wide, kernels->name);
        ASSERT_FALSE(choice);
        EXPECT_EQ(choice.error().code, ErrorCode::Unsupported);
        EXPECT_THAT(choice.error().message, testing::HasSubstr("4096"));
    }
    const auto fallback = choose(Operation::MapRows, wide, "");
    ASSERT_TRUE(fallback);
    EXPECT_STREQ(fallback->kernels->name, "reference");
    if (runnable().size() > 1) {
        EXPECT_THAT(fallback->reason, testing::HasSubstr("4096"));
    }
}

TEST_F(Chooser, RefusesParametersThatNothingCanRun) {
    AttentionParams p = data.p;
    p.lse = nullptr;
    EXPECT_FALSE(choose(Operation::MapRows, p, ""));
    EXPECT_TRUE(choose(Operation::LogSumExp, p, ""));
    p.keys = 0;
    EXPECT_FALSE(choose(Operation::LogSumExp, p, ""));
    EXPECT_NE(cannot_run(data.p, GradientParams{}, SweepFunctor::ReluDP), nullptr);
    GradientParams g = data.g;
    g.value_heads = 3;
    EXPECT_NE(cannot_run(data.p, g, SweepFunctor::ReluDP), nullptr) << "2 heads cannot share 3 values";
    AttentionParams capped = data.p;
    capped.softcap = -1;
    EXPECT_NE(cannot_run(capped), nullptr);
    capped.softcap = std::nanf("");
    EXPECT_NE(cannot_run(capped), nullptr);
}

#endif

}  // namespace
}  // namespace vitrine::kernels
