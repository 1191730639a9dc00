// Partial least squares against scikit-learn's PLSRegression in double precision (recipes/partial_least_squares.py).
#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <vitrine/partial_least_squares.h>

#include "parity_case.h"

namespace vitrine {
namespace {

TEST(PartialLeastSquaresParity, AgreesWithScikitLearnOn50RowsOf200Columns) {
    const auto drawn = [](const char* name, const std::vector<std::int64_t>& shape, double scale) {
        return draw(name, shape, scale, 0, 7).to(at::kDouble);
    };
    const at::Tensor hidden = drawn("hidden", {50, 5}, 1);
    at::Tensor x = at::matmul(hidden, drawn("mix", {5, 200}, 1)) + drawn("noise", {50, 200}, 0.5);
    at::Tensor y =
        at::matmul(hidden, at::tensor({1.0, -0.5, 0.25, 0.0, 0.0}, at::kDouble)) + drawn("of the target", {50}, 0.2);
    x -= x.mean(0);
    y -= y.mean();

    const auto wanted = nlohmann::json::parse(std::ifstream(kData / "partial_least_squares.json"));
    const auto error = [&](const char* name, const at::Tensor& found) {
        const at::Tensor want = at::tensor(wanted.at(name).get<std::vector<double>>(), at::kDouble);
        EXPECT_EQ(want.sizes(), found.sizes()) << name;
        EXPECT_GT(want.abs().max().item<double>(), 1e-3) << name << " proves nothing";
        return (found - want).abs().max().item<double>();
    };
    const auto fit = partial_least_squares(x, y, 10);
    ASSERT_TRUE(fit.has_value()) << fit.error().message;
    EXPECT_LT(error("beta_1", fit->beta(1)), 1e-8);
    EXPECT_LT(error("beta_3", fit->beta(3)), 1e-8);
    EXPECT_LT(error("beta_10", fit->beta()), 1e-8);
    EXPECT_LT(error("vip", fit->vip()), 1e-8);
    EXPECT_LT(error("left", fit->left), 1e-8);
    // The sign of a component is free.
    const auto up_to_sign = [&](const char* name, const at::Tensor& found) {
        return wanted.at(name)[0].get<double>() * found[0].item<double>() < 0 ? -found : found;
    };
    EXPECT_LT(error("weights_of_the_last", up_to_sign("weights_of_the_last", fit->weights.select(1, 9).contiguous())),
              1e-8);
    EXPECT_LT(error("scores_of_the_first", up_to_sign("scores_of_the_first", fit->scores.select(1, 0).contiguous())),
              1e-8);
    // From products of rows alone the predictions are the same.
    const at::Tensor predicted =
        partial_least_squares_predictions(at::matmul(x, x.t()), at::matmul(x, x.t()), y.unsqueeze(1), 10);
    EXPECT_LT(error("left", y - predicted[9].select(1, 0)), 1e-8);
}

}  // namespace
}  // namespace vitrine
