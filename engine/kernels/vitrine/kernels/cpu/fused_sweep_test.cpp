// Every implementation of the kernels on the fused map against double precision and against its own rows.
#include <vitrine/kernels/chooser.h>

#include <cases/attention_cases.h>
#include <cases/kernel_calls.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>

namespace vitrine::kernels {
namespace {

using cases::AttentionCase;
using cases::AttentionData;
using cases::Floats;
using cases::guarded;
using cases::kBackwards;
using cases::kSerial;
using cases::kTwo;
using Index = std::int64_t;

std::vector<Index> all_of(Index count) {
    std::vector<Index> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    return all;
}

struct Counts {
    std::vector<Index> bins;
    Index below = -1;
    bool operator==(const Counts&) const = default;
};

/// One implementation on one set of parameters.
struct Caller {
    const AttentionKernels& kernels;
    const AttentionParams& p;
    HeadFusion fusion;
    const ParallelFor& threads = kSerial;

    Floats rows(const std::vector<Index>& queries) const {
        return guarded(static_cast<Index>(queries.size()) * p.keys,
                       [&](float* out) { kernels.fused->rows(p, fusion, queries, out, threads); });
    }
    Floats sweep(const Dropped& dropped, const Floats& r) const {
        return guarded(p.keys, [&](float* out) { kernels.fused->sweep(p, fusion, dropped, r.data(), out, threads); });
    }
    Floats row_sums(const Dropped& dropped) const {
        return guarded(p.queries, [&](float* out) { kernels.fused->row_sums(p, fusion, dropped, out, threads); });
    }
    Counts histogram(std::uint32_t first, int shift, Index bins) const {
        Counts found;
        found.bins.assign(static_cast<std::size_t>(bins), -7);
        kernels.fused->histogram(p, fusion, first, shift, bins, found.bins.data(), &found.below, threads);
        return found;
    }
};

std::vector<double> fused(const AttentionData& data, const std::vector<double>& map, HeadFusion fusion) {
    const auto size = static_cast<std::size_t>(data.p.queries * data.p.keys);
    std::vector<double> out(map.begin(), map.begin() + static_cast<Index>(size));
    for (std::size_t h = 1; h < static_cast<std::size_t>(data.p.heads); ++h)
        for (std::size_t x = 0; x < size; ++x) {
            const double p = map[h * size + x];
            if (fusion == HeadFusion::Mean)
                out[x] += p;
            else
                out[x] = fusion == HeadFusion::Max ? std::max(out[x], p) : std::min(out[x], p);
        }
    if (fusion == HeadFusion::Mean)
        for (double& x : out) x /= static_cast<double>(data.p.heads);
    return out;
}

struct Sums {
    std::vector<double> columns, rows;
};

/// Weighted column sums and row sums of a map.
template <class T>
Sums summed(const std::vector<T>& map, const Floats& r, Index keys) {
    Sums out;
    out.columns.resize(static_cast<std::size_t>(keys));
    const auto queries = static_cast<Index>(map.size()) / keys;
    out.rows.resize(static_cast<std::size_t>(queries));
    for (Index i = 0; i < queries; ++i)
        for (Index j = 0; j < keys; ++j) {
            const double x = map[static_cast<std::size_t>(i * keys + j)];
            out.columns[static_cast<std::size_t>(j)] += static_cast<double>(r[static_cast<std::size_t>(i)]) * x;
            out.rows[static_cast<std::size_t>(i)] += x;
        }
    return out;
}

double largest(const std::vector<double>& exact) {
    double most = 0;
    for (const double x : exact) most = std::max(most, std::abs(x));
    return most;
}

double error(const Floats& found, const std::vector<double>& exact) {
    EXPECT_EQ(found.size(), exact.size());
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i)
        if (const double off = std::abs(found[i] - exact[i]); !(off <= worst)) worst = off;  // not-a-number sticks
    return worst;
}

/// A rounding of a score s changes p by up to |s| 2^-24 of itself; the floor allows four of them on the largest score,
/// and on 1.
double floor_of(const AttentionData& data) {
    double most = 1;
    for (Index h = 0; h < data.p.heads; ++h)
        for (Index i = 0; i < data.p.queries; i += 7)
            for (const double s : data.scores(h, i))
                if (std::isfinite(s)) most = std::max(most, std::abs(s));
    return std::ldexp(1 + most, -22);
}

/// At most twice the error of the plain version plus `floor` of the largest value.
void expect_close(const Floats& found, const Floats& plain, const std::vector<double>& exact, double floor,
                  const char* what) {
    EXPECT_LE(error(found, exact), 2 * error(plain, exact) + floor * largest(exact))
        << what << ", the plain version is off by " << error(plain, exact);
}

/// What drops the first `count` entries of a map in the order of a stable sort.
Dropped smallest(const Floats& map, Index count) {
    Dropped dropped;
    if (count < 1) return dropped;
    std::vector<Index> order = all_of(static_cast<Index>(map.size()));
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) {
        return map[static_cast<std::size_t>(a)] < map[static_cast<std::size_t>(b)];
    });
    const Index last = order[static_cast<std::size_t>(count - 1)];
    dropped.threshold = map[static_cast<std::size_t>(last)];
    dropped.tie_end = last + 1;
    return dropped;
}

Floats without(Floats map, const Dropped& dropped, Index keys) {
    for (std::size_t x = 0; x < map.size(); ++x)
        if (dropped.drops(map[x], static_cast<Index>(x) / keys, static_cast<Index>(x) % keys, keys)) map[x] = 0;
    return map;
}

/// The sums of entries that are known to the bit: only additions round. 64 of them in single precision, then double.
void expect_sums(const Caller& run, const Floats& map, const Dropped& dropped, const Floats& r) {
    const Sums exact = summed(without(map, dropped, run.p.keys), r, run.p.keys);
    const double ulp = std::ldexp(1.0, -24);
    EXPECT_LE(error(run.sweep(dropped, r), exact.columns), 64 * ulp * largest(exact.columns)) << "columns";
    EXPECT_LE(error(run.row_sums(dropped), exact.rows), 64 * ulp * largest(exact.rows)) << "rows";
}

std::vector<const AttentionKernels*> runnable() {
    std::vector<const AttentionKernels*> list;
    for (const AttentionKernels* kernels : attention_kernels())
        if (kernels->machine() == nullptr && kernels->fused != nullptr) list.push_back(kernels);
    return list;
}

constexpr HeadFusion kFusions[] = {HeadFusion::Mean, HeadFusion::Max, HeadFusion::Min};

/// Sizes at the edges of tiles, and every kind of bias, mask and shared key.
std::vector<AttentionCase> some_cases() {
    std::vector<AttentionCase> some;
    for (const AttentionCase& c : cases::attention_cases())
        if (c.queries <= 200 && c.keys <= 200 && c.heads < 12) some.push_back(c);
    return some;
}

class FusedKernel : public testing::TestWithParam<std::tuple<const AttentionKernels*, AttentionCase>> {
  protected:
    FusedKernel() : kernels(*std::get<0>(GetParam())), data(std::get<1>(GetParam())) {
        r.assign(data.r.begin(), data.r.begin() + data.p.queries);
    }
    const AttentionKernels& kernels;
    AttentionData data;
    Floats r;
};

TEST_P(FusedKernel, IsThatOfDoublePrecision) {
    const auto map = data.map();
    const double floor = floor_of(data);
    const auto every = all_of(data.p.queries);
    Floats single(r.size(), 0.0F);
    single[r.size() / 2] = 0.7F;
    for (const HeadFusion fusion : kFusions) {
        SCOPED_TRACE(name_of(fusion));
        const Caller run{kernels, data.p, fusion}, plain{*attention_kernels().front(), data.p, fusion};
        const auto exact = fused(data, map, fusion);
        // The minimum over heads of a masked map may be all zero; the mean never is.
        if (fusion == HeadFusion::Mean) {
            EXPECT_GT(largest(exact), 1e-4);
        }
        expect_close(run.rows(every), plain.rows(every), exact, floor, "rows");
        for (const Floats& weights : {r, single})
            expect_close(run.sweep({}, weights), plain.sweep({}, weights), summed(exact, weights, data.p.keys).columns,
                         floor, "sweep");
        expect_close(run.row_sums({}), plain.row_sums({}), summed(exact, r, data.p.keys).rows, floor, "row sums");
    }
}

TEST_P(FusedKernel, SeesTheSameBitsEverywhere) {
    for (const HeadFusion fusion : kFusions) {
        SCOPED_TRACE(name_of(fusion));
        const Caller run{kernels, data.p, fusion};
        const Floats map = run.rows(all_of(data.p.queries));
        // Rows in another order and company.
        std::vector<Index> few;
        for (Index i = 0; i < 5; ++i) few.push_back((i * 37 + 5) % data.p.queries);
        const Floats picked = run.rows(few);
        for (std::size_t i = 0; i < few.size(); ++i)
            EXPECT_EQ(std::memcmp(picked.data() + static_cast<Index>(i) * data.p.keys,
                                  map.data() + few[i] * data.p.keys, static_cast<std::size_t>(data.p.keys) * 4),
                      0);
        // Counts over all numbers up to 2, and a narrow range around the median.
        const Floats sorted = [&] {
            Floats copy = map;
            std::sort(copy.begin(), copy.end());
            return copy;
        }();
        const auto median = std::bit_cast<std::uint32_t>(sorted[sorted.size() / 2]);
        for (const auto& [first, shift, bins] :
             {std::tuple{0U, 15, Index{32768}}, {median >> 15U << 15U, 0, Index{32768}}, {median, 3, Index{5}}}) {
            Counts wanted{std::vector<Index>(static_cast<std::size_t>(bins)), 0};
            for (const float x : map) {
                const auto bits = std::bit_cast<std::uint32_t>(x);
                if (bits < first)
                    ++wanted.below;
                else if ((bits - first) >> shift < bins)
                    ++wanted.bins[(bits - first) >> shift];
            }
            EXPECT_TRUE(run.histogram(first, shift, bins) == wanted) << "from " << first << " by 2^" << shift;
        }
        // Sums over what is left when some entries are dropped: at ties, with a kept key, with one kept entry.
        for (const double ratio : {0.0, 0.6}) {
            Dropped dropped = smallest(map, static_cast<Index>(ratio * static_cast<double>(map.size())));
            expect_sums(run, map, dropped, r);
            dropped.kept_key = data.p.keys / 2;
            dropped.kept_queries = data.p.queries;
            expect_sums(run, map, dropped, r);
            dropped.kept_key = 0;
            dropped.kept_queries = 1;
            expect_sums(run, map, dropped, r);
        }
    }
}

TEST_P(FusedKernel, DoesNotDependOnThreads) {
    if (data.p.queries * data.p.keys > 20000 && !data.p.causal) return;  // what differs in shape is among the others
    const auto every = all_of(data.p.queries);
    for (const HeadFusion fusion : kFusions) {
        const Caller one{kernels, data.p, fusion};
        const Floats map = one.rows(every);
        const Dropped dropped = smallest(map, static_cast<Index>(map.size()) / 2);
        for (const ParallelFor* threads : {&kTwo, &kBackwards}) {
            const Caller other{kernels, data.p, fusion, *threads};
            EXPECT_EQ(other.rows(every), map);
            EXPECT_EQ(other.sweep(dropped, r), one.sweep(dropped, r));
            EXPECT_EQ(other.row_sums(dropped), one.row_sums(dropped));
            EXPECT_TRUE(other.histogram(0, 15, 32768) == one.histogram(0, 15, 32768));
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, FusedKernel,
                         testing::Combine(testing::ValuesIn(runnable()), testing::ValuesIn(some_cases())),
                         [](const auto& info) {
                             return std::string(std::get<0>(info.param)->name) + std::get<1>(info.param).name;
                         });

class FusedTies : public testing::TestWithParam<const AttentionKernels*> {};

TEST_P(FusedTies, AreDroppedInRowMajorOrder) {
    // Three queries and four keys in a row are alike, so that every number stands twelve times in the map.
    constexpr Index kHeads = 3, kQueries = 99, kKeys = 132, kDim = 16;
    AttentionData data({"Ties", kHeads, kHeads, kQueries, kKeys, kDim, kDim, cases::Layout::Contiguous});
    for (Index h = 0; h < kHeads; ++h) {
        for (Index i = 0; i < kQueries; ++i) {
            std::copy_n(data.q_store.begin() + (h * kQueries + i / 3 * 3) * kDim, kDim,
                        data.q_store.begin() + (h * kQueries + i) * kDim);
            data.lse[static_cast<std::size_t>(h * kQueries + i)] =
                data.lse[static_cast<std::size_t>(h * kQueries + i / 3 * 3)];
        }
        for (Index j = 0; j < kKeys; ++j)
            std::copy_n(data.k_store.begin() + (h * kKeys + j / 4 * 4) * kDim, kDim,
                        data.k_store.begin() + (h * kKeys + j) * kDim);
    }
    const Floats r(data.r.begin(), data.r.begin() + kQueries);
    for (const HeadFusion fusion : kFusions) {
        const Caller run{*GetParam(), data.p, fusion};
        const Floats map = run.rows(all_of(kQueries));
        const Index half = static_cast<Index>(map.size()) / 2;
        for (Index count = half; count < half + 12; ++count) {
            const Dropped dropped = smallest(map, count);
            const Floats left = without(map, dropped, kKeys);
            EXPECT_EQ(std::count(left.begin(), left.end(), 0.0F), count) << "so many and no more are dropped";
            expect_sums(run, map, dropped, r);
        }
    }
}

TEST_P(FusedTies, NotANumberInOneHeadIsNotHidden) {
    AttentionData data({"NotANumber", 3, 3, 65, 70, 16, 16, cases::Layout::Contiguous});
    for (const Index head : {0, 1, 2}) {
        float& x = data.q_store[static_cast<std::size_t>((head * 65 + 20) * 16 + 3)];
        const float saved = std::exchange(x, std::numeric_limits<float>::quiet_NaN());
        for (const HeadFusion fusion : kFusions) {
            const Caller run{*GetParam(), data.p, fusion};
            const Floats map = run.rows({20, 21});
            for (Index j = 0; j < 70; ++j) {
                EXPECT_TRUE(std::isnan(map[static_cast<std::size_t>(j)])) << name_of(fusion) << " head " << head;
                EXPECT_FALSE(std::isnan(map[static_cast<std::size_t>(70 + j)]));
            }
            const Floats sums = run.row_sums({0.5F, 0, -1, 0});
            EXPECT_TRUE(std::isnan(sums[20]));
            EXPECT_FALSE(std::isnan(sums[21]));
        }
        x = saved;
    }
}

INSTANTIATE_TEST_SUITE_P(All, FusedTies, testing::ValuesIn(runnable()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace vitrine::kernels
