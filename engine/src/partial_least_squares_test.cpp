// Partial least squares against its own definitions; parity with scikit-learn is in tests/parity.
#include <vitrine/partial_least_squares.h>

#include <gmock/gmock.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {
namespace {

using testing::HasSubstr;

struct Data {
    at::Tensor x, y;
};
Data data(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(seed);
    const at::Tensor hidden = at::randn({rows, 6}, g, at::kDouble), mix = at::randn({6, columns}, g, at::kDouble);
    at::Tensor x = at::matmul(hidden, mix) + at::randn({rows, columns}, g, at::kDouble);
    at::Tensor y = hidden.select(1, 0) - 0.5 * hidden.select(1, 1) + 0.3 * at::randn({rows}, g, at::kDouble);
    return {x - x.mean(0, true), y - y.mean()};
}
double largest_of(const at::Tensor& x) { return x.abs().max().item<double>(); }

TEST(PartialLeastSquares, WhatIsLeftIsTheTargetLessThePrediction) {
    const auto [x, y] = data(50, 200, 1);
    const auto fit = partial_least_squares(x, y, 8);
    ASSERT_TRUE(fit.has_value()) << fit.error().message;
    ASSERT_EQ(fit->components(), 8);
    EXPECT_LT(largest_of(y - at::matmul(x, fit->beta()) - fit->left), 1e-12);
    EXPECT_LT(fit->left.norm().item<double>(), 0.3 * y.norm().item<double>());
    EXPECT_GT(fit->left.norm().item<double>(), 1e-6);
}

TEST(PartialLeastSquares, FewerComponentsAreTheFirstOfMore) {
    const auto [x, y] = data(50, 200, 2);
    const auto more = partial_least_squares(x, y, 6), fewer = partial_least_squares(x, y, 2);
    EXPECT_LT(largest_of(more->beta(2) - fewer->beta()), 1e-14);
    EXPECT_LT(largest_of(more->vip(2) - fewer->vip()), 1e-14);
    EXPECT_GT(largest_of(more->beta() - fewer->beta()), 1e-4);
}

TEST(PartialLeastSquares, ScoresAreOrthogonalWeightsOfLengthOneAndImportancesOfMeanSquareOne) {
    const auto [x, y] = data(50, 200, 3);
    const auto fit = partial_least_squares(x, y, 5);
    const at::Tensor unit = fit->scores / fit->scores.square().sum(0).sqrt();
    EXPECT_LT(largest_of(at::matmul(unit.t(), unit) - at::eye(5, at::kDouble)), 1e-12);
    EXPECT_LT(largest_of(at::matmul(fit->weights.t(), fit->weights) - at::eye(5, at::kDouble)), 1e-12);
    for (const std::int64_t count : {1, 3, 5}) EXPECT_NEAR(fit->vip(count).square().mean().item<double>(), 1, 1e-13);
    EXPECT_GT(fit->vip().max().item<double>(), 1.2);
}

TEST(PartialLeastSquares, AsManyComponentsAsColumnsAreOrdinaryLeastSquares) {
    const auto [x, y] = data(60, 5, 4);
    const auto fit = partial_least_squares(x, y, 5);
    const at::Tensor slopes = at::matmul(x.t(), y - at::matmul(x, fit->beta()));
    EXPECT_LT(largest_of(slopes), 1e-9);
}

TEST(PartialLeastSquares, EndsWhereNothingIsLeft) {
    const auto [x, y] = data(60, 1, 5);
    const auto fit = partial_least_squares(x, y, 7);
    ASSERT_TRUE(fit.has_value());
    EXPECT_EQ(fit->components(), 1);
}

TEST(PartialLeastSquares, RefusesWhatItCannotFit) {
    const auto [x, y] = data(20, 4, 6);
    const auto refusal = [](const auto& fit) { return fit ? std::string("fitted") : fit.error().message; };
    EXPECT_THAT(refusal(partial_least_squares(x, y.narrow(0, 0, 19), 1)), HasSubstr("20 rows, 19 targets"));
    EXPECT_THAT(refusal(partial_least_squares(x, at::zeros_like(y), 1)), HasSubstr("nothing to predict"));
    EXPECT_THAT(refusal(partial_least_squares(x / 0.0, y, 1)), HasSubstr("not finite"));
    EXPECT_THAT(refusal(partial_least_squares(x, y, 0)), HasSubstr("0 components"));
}

TEST(PartialLeastSquares, FromProductsOfRowsManyTargetsArePredictedAsEachAlone) {
    const auto [x, y] = data(40, 300, 7);
    auto g = at::make_generator<at::CPUGeneratorImpl>(8);
    const at::Tensor others = at::randn({9, 300}, g, at::kDouble);
    at::Tensor targets = at::randn({40, 3}, g, at::kDouble);
    targets.select(1, 0).copy_(y);
    targets -= targets.mean(0, true);
    const at::Tensor found =
        partial_least_squares_predictions(at::matmul(x, x.t()), at::matmul(others, x.t()), targets, 10);
    ASSERT_EQ(found.sizes(), (std::vector<std::int64_t>{10, 9, 3}));
    for (std::int64_t k = 0; k < 3; ++k) {
        const auto fit = partial_least_squares(x, targets.select(1, k), 10);
        ASSERT_EQ(fit->components(), 10);
        for (const std::int64_t count : {1, 2, 5, 10})
            EXPECT_LT(largest_of(found[count - 1].select(1, k) - at::matmul(others, fit->beta(count))), 1e-9)
                << count << " components";
    }
}

TEST(PartialLeastSquares, FromProductsOfRowsNothingIsAddedWhereNothingIsLeft) {
    const auto [x, y] = data(40, 2, 9);
    const at::Tensor found =
        partial_least_squares_predictions(at::matmul(x, x.t()), at::matmul(x, x.t()), y.unsqueeze(1), 6);
    EXPECT_LT(largest_of(found[5] - found[1]), 1e-9);
    EXPECT_LT(largest_of(found[1].select(1, 0) - at::matmul(x, partial_least_squares(x, y, 2)->beta())), 1e-9);
}

}  // namespace
}  // namespace vitrine
