// Sums of few rows on a device, their gradients and the selection of the largest numbers, against double precision.
#include <vitrine/kernels/cuda/sparse_decode.h>

#include <vitrine/kernels/cuda/testing.h>

#include <algorithm>
#include <numeric>
#include <random>

#include <vitrine/kernels/sparse_decode.h>

namespace vitrine::kernels::cuda {
namespace {

using namespace testing;

struct Shape {
    const char* name;
    Index n, k, m, d;
    bool ragged = false, repeated = false, one_row = false;
};

constexpr Shape kShapes[] = {{"Usual", 700, 32, 1536, 192},
                             {"Wide", 260, 32, 12288, 768},
                             {"WidthOfNoWholeVector", 19, 5, 40, 77},
                             {"Narrow", 8, 3, 9, 1},
                             {"NothingChosen", 6, 0, 10, 24},
                             {"NoSums", 0, 4, 10, 24},
                             {"OneRowOfAll", 5000, 4, 64, 320, false, false, true},
                             {"OneRowOfAllNarrow", 5000, 4, 64, 33, false, false, true},
                             {"ARowMoreThanOnce", 333, 8, 16, 52, false, true},
                             {"ListsOfAnyLength", 500, 70, 333, 64, true},
                             {"MoreTermsThanLanes", 65, 200, 1000, 1024}};

struct Case {
    std::vector<Index> indices, starts;
    Floats values, rows, d_out;

    Case(const Shape& s, Element element) {
        std::mt19937 g(static_cast<unsigned>(s.n * 131 + s.d));
        std::vector<Index> order(static_cast<std::size_t>(s.m));
        std::iota(order.begin(), order.end(), 0);
        for (Index i = 0; i < s.n; ++i) {
            starts.push_back(std::ssize(indices));
            const Index count = s.ragged ? static_cast<Index>(g() % static_cast<unsigned>(s.k)) : s.k;
            for (Index j = 0; j < count; ++j) {
                std::swap(order[static_cast<std::size_t>(j)],
                          order[static_cast<std::size_t>(j) + g() % static_cast<std::size_t>(s.m - j)]);
                indices.push_back(s.one_row && j == 0        ? 3
                                  : s.repeated && j % 2 == 1 ? indices.back()
                                                             : order[static_cast<std::size_t>(j)]);
            }
        }
        starts.push_back(std::ssize(indices));
        values = normals(std::ssize(indices), 1);
        rows = normals(s.m * s.d, 2);
        d_out = normals(s.n * s.d, 3);
        bytes = as_element(rows, element);
    }
    std::vector<unsigned char> bytes;  // of the rows, which are rounded to it
};

double relative(const Floats& found, const std::vector<double>& wanted) {
    double size = 1e-30;
    for (const double w : wanted) size = std::max(size, std::abs(w));
    return worst(found, wanted) / size;
}

class SparseDecode : public ::testing::TestWithParam<Shape> {};

TEST_P(SparseDecode, EqualsTheProductAndItsGradients) {
    VITRINE_NEEDS_DEVICE();
    const Shape& s = GetParam();
    for (const Element element : {Element::F32, Element::BF16}) {
        const Case c(s, element);
        const auto at = [](Index x) { return static_cast<std::size_t>(x); };
        std::vector<double> out(at(s.n * s.d)), d_values(c.values.size()), d_rows(at(s.m * s.d)), sums(at(s.m));
        for (Index i = 0; i < s.n; ++i)
            for (Index j = c.starts[at(i)]; j < c.starts[at(i + 1)]; ++j) {
                const Index row = c.indices[at(j)];
                sums[at(row)] += c.values[at(j)];
                for (Index x = 0; x < s.d; ++x) {
                    const double r = c.rows[at(row * s.d + x)], d = c.d_out[at(i * s.d + x)], v = c.values[at(j)];
                    out[at(i * s.d + x)] += v * r;
                    d_values[at(j)] += r * d;
                    d_rows[at(row * s.d + x)] += v * d;
                }
            }
        const Buffer indices(c.indices.data(), c.indices.size() * 8), starts(c.starts.data(), c.starts.size() * 8),
            values(c.values.data(), c.values.size() * 4), rows(c.bytes.data(), c.bytes.size()),
            d_out(c.d_out.data(), c.d_out.size() * 4);
        DeviceSparseRows p;
        p.indices = reinterpret_cast<const Index*>(indices.data());
        p.values = values.floats();
        p.rows = rows.data();
        p.element = element;
        p.starts = s.ragged ? reinterpret_cast<const Index*>(starts.data()) : nullptr;
        p.n = s.n, p.k = s.k, p.m = s.m, p.d = s.d;
        ASSERT_EQ(cannot_run(p, device_capability()), nullptr);
        const Buffer f_out(out.size() * 4), f_values(d_values.size() * 4), f_rows(d_rows.size() * 4),
            f_sums(sums.size() * 4), again(d_rows.size() * 4), scratch(sparse_row_gradient_workspace(p));
        Launch launch;
        launch.workspace = scratch.data();
        launch.workspace_bytes = scratch.size();
        ASSERT_EQ(sparse_decode(p, f_out.floats(), launch), nullptr);
        ASSERT_EQ(sparse_value_gradient(p, d_out.floats(), f_values.floats(), launch), nullptr);
        RowGradient gradient;
        gradient.values = values.floats();
        gradient.d_out = d_out.floats();
        gradient.d_rows = f_rows.floats();
        gradient.sums = f_sums.floats();
        ASSERT_EQ(sparse_row_gradients(p, &gradient, 1, nullptr, launch), nullptr);
        RowGradient once_more = gradient;
        once_more.d_rows = again.floats();
        once_more.sums = nullptr;
        ASSERT_EQ(sparse_row_gradients(p, &once_more, 1, nullptr, launch), nullptr);
        check(cudaDeviceSynchronize(), "running");
        const char* name = name_of(element);
        EXPECT_LE(relative(f_out.take<float>(), out), 1e-5) << name;
        EXPECT_LE(relative(f_values.take<float>(), d_values), 1e-5) << name;
        const Floats made = f_rows.take<float>();
        EXPECT_LE(relative(made, d_rows), 1e-5) << name;
        EXPECT_LE(relative(f_sums.take<float>(), sums), 1e-5) << name;
        EXPECT_EQ(made, again.take<float>()) << name << ": the same call gives the same bits";
        scratch.take<unsigned char>();
        launch.workspace_bytes -= 1;
        EXPECT_NE(sparse_row_gradients(p, &gradient, 1, nullptr, launch), nullptr);
    }
}

TEST_P(SparseDecode, MakesTwoGradientsAtOnce) {
    VITRINE_NEEDS_DEVICE();
    const Shape& s = GetParam();
    const Case c(s, Element::F32);
    const auto at = [](Index x) { return static_cast<std::size_t>(x); };
    const bool along = s.d % 4 == 0;
    const Floats others = normals(std::ssize(c.values), 4), plus = normals(s.m * s.d, 5),
                 other_out = normals(s.n * s.d, 6);
    Floats unit = c.rows;
    for (Index r = 0; r < s.m; ++r) {
        double square = 0;
        for (Index x = 0; x < s.d; ++x) square += std::pow(unit[at(r * s.d + x)], 2);
        for (Index x = 0; x < s.d; ++x) unit[at(r * s.d + x)] /= static_cast<float>(std::sqrt(square));
    }
    std::vector<double> first(plus.begin(), plus.end()), second(at(s.m * s.d)), sums(at(s.m)), squares[2];
    Floats heard(at(s.m));
    for (Index i = 0; i < s.n; ++i)
        for (Index j = c.starts[at(i)]; j < c.starts[at(i + 1)]; ++j) {
            const Index row = c.indices[at(j)];
            sums[at(row)] += others[at(j)];
            if (c.values[at(j)] > 0) heard[at(row)] = 1;
            for (Index x = 0; x < s.d; ++x) {
                first[at(row * s.d + x)] += static_cast<double>(c.values[at(j)]) * c.d_out[at(i * s.d + x)];
                second[at(row * s.d + x)] += static_cast<double>(others[at(j)]) * other_out[at(i * s.d + x)];
            }
        }
    for (Index r = 0; r < s.m; ++r) {
        double product = 0, square[2] = {};
        for (Index x = 0; x < s.d; ++x) product += first[at(r * s.d + x)] * unit[at(r * s.d + x)];
        for (Index x = 0; x < s.d; ++x) {
            if (along) first[at(r * s.d + x)] -= product * unit[at(r * s.d + x)];
            square[0] += std::pow(first[at(r * s.d + x)], 2);
            square[1] += std::pow(second[at(r * s.d + x)], 2);
        }
        for (int g = 0; g < 2; ++g) squares[g].push_back(square[g]);
    }
    const auto there = [](const auto& x) { return Buffer(x.data(), x.size() * sizeof(x[0])); };
    const Buffer indices = there(c.indices), starts = there(c.starts), values = there(c.values),
                 values2 = there(others), d_out = there(c.d_out), d_out2 = there(other_out), added = there(plus),
                 directions = there(unit), f_first(plus.size() * 4), f_second(plus.size() * 4), f_sums(sums.size() * 4),
                 f_heard(sums.size() * 4), f_squares(sums.size() * 4), f_squares2(sums.size() * 4);
    DeviceSparseRows p;
    p.indices = reinterpret_cast<const Index*>(indices.data());
    p.values = values.floats();
    p.starts = s.ragged ? reinterpret_cast<const Index*>(starts.data()) : nullptr;
    p.n = s.n, p.k = s.k, p.m = s.m, p.d = s.d;
    const Buffer scratch(sparse_row_gradient_workspace(p));
    Launch launch;
    launch.workspace = scratch.data();
    launch.workspace_bytes = scratch.size();
    const RowGradient both[] = {
        {values.floats(), d_out.floats(), f_first.floats(), nullptr, added.floats(),
         along ? directions.floats() : nullptr, f_squares.floats()},
        {values2.floats(), d_out2.floats(), f_second.floats(), f_sums.floats(), nullptr, nullptr, f_squares2.floats()}};
    ASSERT_EQ(sparse_row_gradients(p, both, 2, f_heard.floats(), launch), nullptr);
    check(cudaDeviceSynchronize(), "running");
    EXPECT_LE(relative(f_first.take<float>(), first), 1e-5);
    EXPECT_LE(relative(f_second.take<float>(), second), 1e-5);
    EXPECT_LE(relative(f_sums.take<float>(), sums), 1e-5);
    EXPECT_EQ(f_heard.take<float>(), heard);
    EXPECT_LE(relative(f_squares.take<float>(), squares[0]), 1e-5);
    EXPECT_LE(relative(f_squares2.take<float>(), squares[1]), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseDecode, ::testing::ValuesIn(kShapes),
                         [](const auto& info) { return info.param.name; });

TEST(SparseLargest, AreThoseOfTheCpu) {
    VITRINE_NEEDS_DEVICE();
    const kernels::SparseKernels& reference = *kernels::sparse_kernels().front();
    std::mt19937 g(5);
    for (const Index count : {1, 7, 64, 500, 1536, 6000, 12288, 16384, 16388, 40000})
        for (const Index top : {1, 3, 32, 64, 256, 512}) {
            if (top > count) continue;
            constexpr Index kRows = 6;
            Floats x = normals(kRows * count, static_cast<std::uint64_t>(count + top));
            for (Index i = 0; i < count; ++i) {
                x[static_cast<std::size_t>(i)] = 0.25F;                                    // all alike
                x[static_cast<std::size_t>(count + i)] = static_cast<float>(g() % 5) - 2;  // few different ones
                auto& positive = x[static_cast<std::size_t>(2 * count + i)];               // most are 0
                if (positive < 1) positive = i % 2 == 0 ? 0.0F : -0.0F;
                x[static_cast<std::size_t>(3 * count + i)] = -std::abs(x[static_cast<std::size_t>(3 * count + i)]);
            }
            x[static_cast<std::size_t>(4 * count + count / 2)] = std::numeric_limits<float>::infinity();
            x[static_cast<std::size_t>(4 * count)] = -std::numeric_limits<float>::infinity();
            Floats values(static_cast<std::size_t>(kRows * top));
            std::vector<Index> indices(values.size());
            reference.largest(x.data(), kRows, count, top, values.data(), indices.data(), kThreads);
            const Buffer there(x.data(), x.size() * 4), f_values(values.size() * 4), f_indices(indices.size() * 8);
            ASSERT_EQ(largest(there.floats(), kRows, count, top, f_values.floats(),
                              reinterpret_cast<Index*>(f_indices.data()), {}),
                      nullptr);
            check(cudaDeviceSynchronize(), "running");
            EXPECT_EQ(f_indices.take<Index>(), indices) << count << " numbers, the " << top << " largest";
            EXPECT_EQ(f_values.take<float>(), values) << count << " numbers, the " << top << " largest";
        }
    EXPECT_NE(largest(nullptr, 1, 5000, 513, nullptr, nullptr, {}), nullptr);
    EXPECT_NE(largest(nullptr, 1, 5, 6, nullptr, nullptr, {}), nullptr);
}

}  // namespace
}  // namespace vitrine::kernels::cuda
