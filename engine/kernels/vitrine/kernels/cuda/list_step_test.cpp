// The kernels of a step on lists, against double precision.
#include <vitrine/kernels/cuda/list_step.h>

#include <vitrine/kernels/cuda/testing.h>

#include <algorithm>
#include <random>

namespace vitrine::kernels::cuda {
namespace {

using namespace testing;

std::size_t at(Index x) { return static_cast<std::size_t>(x); }

template <class T>
Buffer there(const std::vector<T>& x) {
    return Buffer(x.data(), x.size() * sizeof(T));
}

double relative(const Floats& found, const std::vector<double>& wanted) {
    double size = 1e-30;
    for (const double w : wanted) size = std::max(size, std::abs(w));
    return worst(found, wanted) / size;
}

struct Shape {
    const char* name;
    Index n, k, m, d;
    bool ragged = false, keep_negative = false, scaled = false;
    ErrorOver over = ErrorOver::Nothing;
};
constexpr Shape kShapes[] = {{"Narrow", 300, 32, 1536, 192},
                             {"Wide", 130, 32, 4096, 768, false, false, true, ErrorOver::MeanSquare},
                             {"Widest", 20, 40, 500, 1536, false, true, true, ErrorOver::CentredLength},
                             {"FewColumns", 50, 3, 60, 20, false, true, false, ErrorOver::MeanSquare},
                             {"ManyTerms", 40, 100, 700, 64, false, false, false, ErrorOver::CentredLength},
                             {"ListsOfAnyLength", 90, 80, 300, 1028, true, false, true, ErrorOver::MeanSquare},
                             {"NothingChosen", 5, 0, 10, 24}};

class ListStep : public ::testing::TestWithParam<Shape> {};

TEST_P(ListStep, FindsTheErrorAndItsGradients) {
    VITRINE_NEEDS_DEVICE();
    const Shape& s = GetParam();
    std::mt19937 g(3);
    std::vector<Index> indices, starts;
    for (Index i = 0; i < s.n; ++i) {
        starts.push_back(std::ssize(indices));
        const Index count = s.ragged ? static_cast<Index>(g() % at(s.k)) : s.k;
        for (Index j = 0; j < count; ++j) indices.push_back(static_cast<Index>(g() % at(s.m)));
    }
    starts.push_back(std::ssize(indices));
    const Floats values = normals(std::ssize(indices), 1), rows = normals(s.m * s.d, 2), bias = normals(s.d, 3),
                 x = normals(s.n * s.d, 4), centre = normals(s.d, 5), scale = normals(s.n, 6), shift = normals(s.n, 7);
    constexpr double kFactor = 0.37;
    std::vector<double> active, d_values, d_said, made, sums;
    for (Index i = 0; i < s.n; ++i) {
        std::vector<double> error(at(s.d));
        double square = 0, own = 0, spread = 0, latents = 0;
        for (Index j = starts[at(i)]; j < starts[at(i + 1)]; ++j) {
            active.push_back(s.keep_negative ? values[at(j)] : std::max(values[at(j)], 0.0F));
            latents += active.back() != 0 ? 1 : 0;
        }
        for (Index c = 0; c < s.d; ++c) {
            double said = bias[at(c)];
            for (Index j = starts[at(i)]; j < starts[at(i + 1)]; ++j)
                said += active[at(j)] * rows[at(indices[at(j)] * s.d + c)];
            if (s.scaled) said = said * scale[at(i)] + shift[at(i)];
            made.push_back(said);
            const double of = x[at(i * s.d + c)];
            error[at(c)] = said - of;
            square += error[at(c)] * error[at(c)];
            own += of * of;
            spread += (of - centre[at(c)]) * (of - centre[at(c)]);
        }
        const double weight = kFactor / (s.over == ErrorOver::MeanSquare      ? own / static_cast<double>(s.d)
                                         : s.over == ErrorOver::CentredLength ? std::sqrt(spread)
                                                                              : 1);
        sums.insert(sums.end(), {weight * square, square, spread, latents});
        for (Index c = 0; c < s.d; ++c) d_said.push_back(2 * weight * error[at(c)] * (s.scaled ? scale[at(i)] : 1));
        for (Index j = starts[at(i)]; j < starts[at(i + 1)]; ++j) {
            double slope = 0;
            for (Index c = 0; c < s.d; ++c) slope += d_said[at(i * s.d + c)] * rows[at(indices[at(j)] * s.d + c)];
            d_values.push_back(s.keep_negative || values[at(j)] > 0 ? slope : 0);
        }
    }
    const Buffer f_indices = there(indices), f_starts = there(starts), f_values = there(values), f_rows = there(rows),
                 f_bias = there(bias), f_x = there(x), f_centre = there(centre), f_scale = there(scale),
                 f_shift = there(shift), f_active(active.size() * 4), f_d_values(active.size() * 4),
                 f_d_said(x.size() * 4), f_made(x.size() * 4), f_sums(sums.size() * 4);
    ListError p;
    p.lists.indices = reinterpret_cast<const Index*>(f_indices.data());
    p.lists.values = f_values.floats();
    p.lists.rows = f_rows.data();
    p.lists.starts = s.ragged ? reinterpret_cast<const Index*>(f_starts.data()) : nullptr;
    p.lists.n = s.n, p.lists.k = s.k, p.lists.m = s.m, p.lists.d = s.d;
    p.keep_negative = s.keep_negative;
    p.bias = f_bias.floats();
    p.x = f_x.floats();
    p.centre = f_centre.floats();
    if (s.scaled) {
        p.scale = f_scale.floats();
        p.shift = f_shift.floats();
    }
    p.over = s.over;
    p.factor = static_cast<float>(kFactor);
    p.active = f_active.floats();
    p.d_values = f_d_values.floats();
    p.d_said = f_d_said.floats();
    p.made = f_made.floats();
    p.sums = f_sums.floats();
    ASSERT_EQ(list_error(p, {}), nullptr);
    check(cudaDeviceSynchronize(), "running");
    EXPECT_LE(relative(f_active.take<float>(), active), 1e-7);
    EXPECT_LE(relative(f_made.take<float>(), made), 1e-5);
    EXPECT_LE(relative(f_d_said.take<float>(), d_said), 1e-5);
    EXPECT_LE(relative(f_d_values.take<float>(), d_values), 1e-5);
    EXPECT_LE(relative(f_sums.take<float>(), sums), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ListStep, ::testing::ValuesIn(kShapes),
                         [](const auto& info) { return info.param.name; });

TEST(ListStep, SumsColumns) {
    VITRINE_NEEDS_DEVICE();
    for (const auto [n, d, m] : {std::array<Index, 3>{1, 4, 9}, {17, 192, 1536}, {1000, 772, 333}}) {
        const Floats x = normals(n * d, 1), off = normals(d, 2), columns = normals(d * m, 3), weights = normals(m, 4),
                     plus = normals(d, 5);
        std::vector<double> sums(at(d)), taken(at(d)), less;
        for (Index i = 0; i < n; ++i)
            for (Index c = 0; c < d; ++c) {
                sums[at(c)] += 0.5 * x[at(i * d + c)];
                less.push_back(static_cast<double>(x[at(i * d + c)]) - off[at(c)]);
            }
        for (Index c = 0; c < d; ++c) {
            taken[at(c)] = sums[at(c)] + plus[at(c)];
            for (Index r = 0; r < m; ++r) taken[at(c)] -= static_cast<double>(columns[at(c * m + r)]) * weights[at(r)];
        }
        const Buffer f_x = there(x), f_off = there(off), f_columns = there(columns), f_weights = there(weights),
                     f_plus = there(plus), f_less(x.size() * 4), f_parts(at(kColumnParts * d) * 4),
                     f_sums(sums.size() * 4);
        ColumnSums p;
        p.x = f_x.floats();
        p.n = n, p.d = d;
        p.factor = 0.5F;
        p.taken_off = f_off.floats();
        p.less = f_less.floats();
        p.parts = f_parts.floats();
        p.sums = f_sums.floats();
        ASSERT_EQ(column_sums(p, {}), nullptr);
        check(cudaDeviceSynchronize(), "running");
        EXPECT_LE(relative(f_sums.take<float>(), sums), 1e-5);
        EXPECT_LE(relative(f_less.take<float>(), less), 1e-6);
        p.taken_off = p.less = nullptr;
        p.columns = f_columns.floats();
        p.weights = f_weights.floats();
        p.m = m;
        p.plus = f_plus.floats();
        ASSERT_EQ(column_sums(p, {}), nullptr);
        check(cudaDeviceSynchronize(), "running");
        EXPECT_LE(relative(f_sums.take<float>(), taken), 1e-5);
    }
}

TEST(ListStep, EndsWithItsFiguresAndAdam) {
    VITRINE_NEEDS_DEVICE();
    for (const auto [m, d] :
         {std::array<Index, 2>{1536, 192}, {2050, 768}, {33, 20}, {140, 1500}, {9, 1024}, {9, 512}}) {
        constexpr Index kTokens = 1234;
        constexpr double kRate = 0.01, kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
        const Index sizes[] = {m * d, d * m, m, d};
        Floats weights[4], first[4], second[4], slopes[4];
        for (int t = 0; t < 4; ++t) {
            const auto seed = static_cast<std::uint64_t>(10 * t);
            weights[t] = normals(sizes[t], seed + 1);
            first[t] = normals(sizes[t], seed + 2);
            second[t] = normals(sizes[t], seed + 3);
            for (float& v : second[t]) v = v * v;
            slopes[t] = normals(sizes[t], seed + 4);
        }
        Floats sums = normals(kTokens * 4, 77), squares[2], heard(at(m));
        for (float& v : sums) v = v * v;
        std::vector<Index> silent;
        for (Index r = 0; r < m; ++r) {
            for (int g = 0; g < 2; ++g) {
                double square = 0;
                for (Index c = 0; c < d; ++c) square += std::pow(slopes[g][at(r * d + c)], 2);
                squares[g].push_back(static_cast<float>(square));
            }
            heard[at(r)] = r % 3 == 0 ? 1 : 0;
            silent.push_back(r % 7 * 1000);
        }
        double square = 0, totals[4] = {};
        for (const Floats& slope : slopes)
            for (const float v : slope) square += static_cast<double>(v) * v;
        for (std::size_t i = 0; i < sums.size(); ++i) totals[i % 4] += sums[i];
        const double clip = 1 / (std::sqrt(square) + 1e-6), correction1 = 1 - std::pow(kBeta1, 6),
                     correction2 = 1 - std::pow(kBeta2, 6);

        const Buffer f_squares[] = {there(squares[0]), there(squares[1])}, f_heard = there(heard),
                     f_silent = there(silent), f_sums = there(sums), f_figures(32), f_scalars(16),
                     f_count = there(Floats{5, 5, 5, 5}), f_rate = there(Floats{static_cast<float>(kRate)}),
                     f_revival = there(Floats{0.25F}), f_squares_again(at(m) * 4);
        const Buffer f_weights[] = {there(weights[0]), there(weights[1]), there(weights[2]), there(weights[3])},
                     f_first[] = {there(first[0]), there(first[1]), there(first[2]), there(first[3])},
                     f_second[] = {there(second[0]), there(second[1]), there(second[2]), there(second[3])},
                     f_slopes[] = {there(slopes[0]), there(slopes[1]), there(slopes[2]), there(slopes[3])};
        ListFigures figures;
        figures.sums = f_sums.floats();
        figures.n = kTokens;
        figures.tokens = 2.0 * kTokens;
        figures.revival = f_revival.floats();
        figures.revival_share = 0.5F;
        figures.figures = f_figures.floats();
        ASSERT_EQ(list_finish(&figures, nullptr, {}), nullptr);
        ListUpdate update;
        for (int g = 0; g < 2; ++g) {
            update.squares[g] = f_squares[g].floats();
            update.slopes[g] = f_slopes[2 + g].floats();
            update.sizes[g] = sizes[2 + g];
        }
        update.heard = f_heard.floats();
        update.silent = reinterpret_cast<Index*>(f_silent.data());
        update.batch = 100, update.window = 3500, update.longest = 5050;
        for (int t = 0; t < 4; ++t) update.counts[t] = f_count.floats() + t;
        update.rate_there = f_rate.floats();
        update.figures = f_figures.floats();
        update.scalars = f_scalars.floats();
        ASSERT_EQ(list_finish(nullptr, &update, {}), nullptr);
        ListAdam adam;
        AdamTensor* const tensors[] = {&adam.rows, &adam.columns, &adam.biases[0], &adam.biases[1]};
        for (int t = 0; t < 4; ++t)
            *tensors[t] = {f_weights[t].floats(), f_first[t].floats(), f_second[t].floats(), f_slopes[t].floats()};
        adam.m = m, adam.d = d;
        adam.scalars = f_scalars.floats();
        ASSERT_EQ(list_adam(adam, {}), nullptr);
        ASSERT_EQ(row_squares(f_slopes[0].floats(), m, d, f_squares_again.floats(), {}), nullptr);
        check(cudaDeviceSynchronize(), "running");

        const Floats told = f_figures.take<float>(), scalars = f_scalars.take<float>();
        const Index too_long = std::count_if(silent.begin(), silent.end(), [](Index x) { return x > 3500; });
        const double wanted[] = {totals[0] + 0.125,
                                 totals[0],
                                 0,
                                 0.125,
                                 1 - totals[1] / totals[2],
                                 totals[3] / (2.0 * kTokens),
                                 static_cast<double>(too_long) / static_cast<double>(m)};
        for (int f = 0; f < 7; ++f) EXPECT_NEAR(told[at(f)], wanted[f], 1e-5 * std::max(1.0, std::abs(wanted[f]))) << f;
        EXPECT_NEAR(scalars[0] / clip, 1, 1e-5);
        EXPECT_EQ(f_count.take<float>(), (Floats{6, 6, 6, 6}));
        const auto still = f_silent.take<Index>();
        for (Index r = 0; r < m; ++r)
            EXPECT_EQ(still[at(r)], r % 3 == 0 ? 0 : std::min<Index>(silent[at(r)] + 100, 5050)) << r;
        EXPECT_LE(relative(f_squares_again.take<float>(), {squares[0].begin(), squares[0].end()}), 1e-5);

        for (int t = 0; t < 4; ++t) {
            std::vector<double> moved, f, s;
            for (Index x = 0; x < sizes[t]; ++x) {
                const double slope = clip * (t == 1 ? slopes[1][at(x % m * d + x / m)] : slopes[t][at(x)]);
                f.push_back(kBeta1 * first[t][at(x)] + (1 - kBeta1) * slope);
                s.push_back(kBeta2 * second[t][at(x)] + (1 - kBeta2) * slope * slope);
                moved.push_back(weights[t][at(x)] - kRate / correction1 * f.back() /
                                                        (std::sqrt(s.back()) / std::sqrt(correction2) + kEpsilon));
            }
            if (t == 0)
                for (Index r = 0; r < m; ++r) {
                    double length = 0;
                    for (Index c = 0; c < d; ++c) length += moved[at(r * d + c)] * moved[at(r * d + c)];
                    for (Index c = 0; c < d; ++c) moved[at(r * d + c)] /= std::sqrt(length);
                }
            EXPECT_LE(relative(f_first[t].take<float>(), f), 1e-5) << t;
            EXPECT_LE(relative(f_second[t].take<float>(), s), 1e-5) << t;
            EXPECT_LE(relative(f_weights[t].take<float>(), moved), 1e-5) << t << " of " << m << " rows";
        }
    }
}

TEST(ListStep, RefusesWhatItHasNoKernelFor) {
    EXPECT_TRUE(list_step_takes(192));
    EXPECT_TRUE(list_step_takes(kWidestRow));
    EXPECT_FALSE(list_step_takes(190));
    EXPECT_FALSE(list_step_takes(kWidestRow + 4));
    EXPECT_NE(list_adam({}, {}), nullptr);
    EXPECT_NE(column_sums({}, {}), nullptr);
}

}  // namespace
}  // namespace vitrine::kernels::cuda
