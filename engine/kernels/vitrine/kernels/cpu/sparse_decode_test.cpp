// Sums of few rows and their gradients against double precision, and the selection of the largest numbers.
#include <vitrine/kernels/sparse_decode.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

namespace vitrine::kernels {
namespace {

const ParallelFor kThreads = [](std::int64_t n, const std::function<void(std::int64_t, std::int64_t)>& f) {
    std::thread half([&] { f(0, n / 2); });
    f(n / 2, n);
    half.join();
};

struct Shape {
    const char* name;
    std::int64_t n, k, m, d;
    bool ragged = false, repeated = false, one_row = false;
};

constexpr Shape kShapes[] = {{"Usual", 37, 32, 512, 192},
                             {"WidthOfNoWholeVector", 19, 5, 40, 77},
                             {"Narrow", 8, 3, 9, 1},
                             {"NothingChosen", 6, 0, 10, 24},
                             {"NoSums", 0, 4, 10, 24},
                             {"OneRowOfAll", 300, 4, 64, 40, false, false, true},
                             {"ARowMoreThanOnce", 21, 8, 16, 50, false, true},
                             {"ListsOfAnyLength", 23, 7, 33, 64, true},
                             {"Long", 5, 200, 1000, 768}};

/// Numbers for a shape; not all of them zero.
struct Case {
    std::vector<std::int64_t> indices, starts;
    std::vector<float> values, rows, d_out;
    SparseRows p;

    explicit Case(const Shape& s) {
        std::mt19937 g(static_cast<unsigned>(s.n * 131 + s.d));
        std::normal_distribution<float> normal;
        const auto fill = [&](std::vector<float>& x, std::int64_t count) {
            x.resize(static_cast<std::size_t>(count));
            for (float& one : x) one = normal(g);
        };
        std::vector<std::int64_t> order(static_cast<std::size_t>(s.m));
        for (std::int64_t i = 0; i < s.n; ++i) {
            starts.push_back(std::ssize(indices));
            const std::int64_t count = s.ragged ? static_cast<std::int64_t>(g() % static_cast<unsigned>(s.k)) : s.k;
            std::iota(order.begin(), order.end(), 0);
            std::shuffle(order.begin(), order.end(), g);
            for (std::int64_t j = 0; j < count; ++j)
                indices.push_back(s.one_row && j == 0        ? 3
                                  : s.repeated && j % 2 == 1 ? indices.back()
                                                             : order[static_cast<std::size_t>(j)]);
        }
        starts.push_back(std::ssize(indices));
        fill(values, std::ssize(indices));
        fill(rows, s.m * s.d);
        fill(d_out, s.n * s.d);
        p = {indices.data(), values.data(), rows.data(), s.ragged ? starts.data() : nullptr, s.n, s.k, s.m, s.d};
    }
};

double worst(const std::vector<float>& found, const std::vector<double>& wanted) {
    double off = 0, size = 1e-30;
    for (const double w : wanted) size = std::max(size, std::abs(w));
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const double one = std::abs(static_cast<double>(found[i]) - wanted[i]);
        if (!(one <= off)) off = one;
    }
    return off / size;
}

class SparseDecode : public testing::TestWithParam<Shape> {};

TEST_P(SparseDecode, EqualsTheProductAndItsGradients) {
    const Shape& s = GetParam();
    const Case c(s);
    ASSERT_EQ(cannot_run(c.p), nullptr) << cannot_run(c.p);
    const auto at = [](std::int64_t x) { return static_cast<std::size_t>(x); };
    std::vector<double> out(at(s.n * s.d)), d_values(c.values.size()), d_rows(at(s.m * s.d)), sums(at(s.m));
    for (std::int64_t i = 0; i < s.n; ++i)
        for (std::int64_t j = c.starts[at(i)]; j < c.starts[at(i + 1)]; ++j) {
            const std::int64_t row = c.indices[at(j)];
            sums[at(row)] += c.values[at(j)];
            for (std::int64_t x = 0; x < s.d; ++x) {
                const double r = c.rows[at(row * s.d + x)], d = c.d_out[at(i * s.d + x)], v = c.values[at(j)];
                out[at(i * s.d + x)] += v * r;
                d_values[at(j)] += r * d;
                d_rows[at(row * s.d + x)] += v * d;
            }
        }
    int ran = 0;
    for (const SparseKernels* kernels : sparse_kernels()) {
        if (kernels->machine() != nullptr) continue;
        ++ran;
        constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
        std::vector<float> f_out(out.size(), kPoison), f_values(d_values.size(), kPoison),
            f_rows(d_rows.size(), kPoison), f_sums(sums.size(), kPoison);
        kernels->decode(c.p, f_out.data(), kThreads);
        kernels->value_gradient(c.p, c.d_out.data(), f_values.data(), kThreads);
        kernels->row_gradient(c.p, c.d_out.data(), f_rows.data(), f_sums.data(), kThreads);
        EXPECT_LE(worst(f_out, out), 1e-5) << kernels->name;
        EXPECT_LE(worst(f_values, d_values), 1e-5) << kernels->name;
        EXPECT_LE(worst(f_rows, d_rows), 1e-5) << kernels->name;
        EXPECT_LE(worst(f_sums, sums), 1e-5) << kernels->name;
        // The same bits with one thread, and without the sums.
        std::vector<float> again(d_rows.size(), kPoison);
        kernels->row_gradient(c.p, c.d_out.data(), again.data(), nullptr,
                              [](std::int64_t n, const auto& f) { f(0, n); });
        EXPECT_EQ(again, f_rows) << kernels->name;
    }
    EXPECT_GE(ran, 1);
    if (s.n * s.k > 0) {
        EXPECT_NE(std::count(out.begin(), out.end(), 0.0), std::ssize(out));
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseDecode, testing::ValuesIn(kShapes),
                         [](const auto& info) { return info.param.name; });

TEST(SparseLargest, TakesTheFirstOfEqualOnes) {
    std::mt19937 g(5);
    for (const std::int64_t count : {1, 7, 64, 300, 1000})
        for (const std::int64_t top : {1, 3, 32, 150}) {
            if (top > count) continue;
            constexpr std::int64_t kRows = 9;
            std::vector<float> x(static_cast<std::size_t>(kRows * count));
            // Rows of few different numbers, and one of a single one.
            for (std::size_t i = 0; i < x.size(); ++i)
                x[i] = i < static_cast<std::size_t>(count) ? 0.5F
                       : i % 2 == 0                        ? static_cast<float>(g() % 8) - 3
                                                           : static_cast<float>(g()) * 1e-9F;
            if (count == 300) x[310] = std::numeric_limits<float>::quiet_NaN();
            if (count == 300) x[620] = std::numeric_limits<float>::infinity();
            for (const SparseKernels* kernels : sparse_kernels()) {
                if (kernels->machine() != nullptr) continue;
                std::vector<float> values(static_cast<std::size_t>(kRows * top));
                std::vector<std::int64_t> indices(values.size());
                kernels->largest(x.data(), kRows, count, top, values.data(), indices.data(), kThreads);
                for (std::int64_t r = 0; r < kRows; ++r) {
                    const float* row = x.data() + r * count;
                    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
                    std::iota(order.begin(), order.end(), 0);
                    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
                        return std::isnan(row[a]) ? !std::isnan(row[b]) : row[a] > row[b];
                    });
                    for (std::int64_t t = 0; t < top; ++t) {
                        ASSERT_EQ(indices[static_cast<std::size_t>(r * top + t)], order[static_cast<std::size_t>(t)])
                            << kernels->name << ", " << count << " numbers, row " << r << ", place " << t;
                        if (!std::isnan(row[order[static_cast<std::size_t>(t)]])) {
                            ASSERT_EQ(values[static_cast<std::size_t>(r * top + t)],
                                      row[order[static_cast<std::size_t>(t)]]);
                        }
                    }
                }
            }
        }
}

TEST(SparseKernelsChosen, AreTheForcedOnesOrNone) {
    EXPECT_STREQ(choose_sparse("reference").value()->name, "reference");
    EXPECT_EQ(choose_sparse("cuda_sm80").value(), choose_sparse("").value());
    const auto none = choose_sparse("fast");
    ASSERT_FALSE(none);
    EXPECT_THAT(none.error().message, testing::HasSubstr("there is only reference"));
}

TEST(SparseRowsChecked, RefuseInWords) {
    SparseRows p{nullptr, nullptr, nullptr, nullptr, 3, 2, 5, 4};
    EXPECT_THAT(cannot_run(p), testing::StrEq("the terms are missing"));
    p.d = 0;
    EXPECT_THAT(cannot_run(p), testing::HasSubstr("size"));
}

}  // namespace
}  // namespace vitrine::kernels
