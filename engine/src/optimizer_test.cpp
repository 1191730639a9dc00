// The optimiser against torch's own numbers, its schedule, its running average and its state.
#include "optimizer.h"

#include <gmock/gmock.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

namespace vitrine {
namespace {

void set_gradients(at::Tensor& w, at::Tensor& b, int step) {
    const at::NoGradGuard no_grad;
    w.mutable_grad() = at::tensor({0.3F, -0.1F, 0.02F, 0.4F}).view({2, 2}) * static_cast<float>(step + 1);
    b.mutable_grad() = at::tensor({0.05F, -0.5F}) / static_cast<float>(step + 1);
}

struct Pair {
    at::Tensor w = at::tensor({0.5F, -0.25F, 1.0F, 0.125F}).view({2, 2});
    at::Tensor b = at::tensor({0.1F, -0.2F});
    Optimizer make(OptimizerOptions options) { return Optimizer({{"w", w}, {"b", b}}, options); }
};

// The expected numbers are torch.optim.AdamW's (2.11) after three steps with clip_grad_norm_ 0.4, decay 0.1 on w and 0
// on b.
TEST(Optimizer, StepsAsTorchDoes) {
    Pair pair;
    auto optimizer = pair.make({.weight_decay = 0.1, .clip = 0.4, .average = 0});
    for (int step = 0; step < 3; ++step) {
        set_gradients(pair.w, pair.b, step);
        optimizer.step(0.01);
    }
    const double w[] = {0.4685620069503784, -0.21931125223636627, 0.9670635461807251, 0.094685859978199};
    const double b[] = {0.07364194095134735, -0.17364193499088287};
    for (int i = 0; i < 4; ++i) EXPECT_NEAR(pair.w.detach().flatten()[i].item<double>(), w[i], 2e-6);
    for (int i = 0; i < 2; ++i) EXPECT_NEAR(pair.b.detach()[i].item<double>(), b[i], 2e-6);
    EXPECT_FALSE(pair.w.grad().defined()) << "gradients are dropped after the step";
}

TEST(Optimizer, LearningRateRisesThenFallsToItsFloor) {
    EXPECT_DOUBLE_EQ(learning_rate_at(0, 100, 10, 1.0, 0.1), 0.1);
    EXPECT_DOUBLE_EQ(learning_rate_at(9, 100, 10, 1.0, 0.1), 1.0);
    EXPECT_NEAR(learning_rate_at(55, 100, 10, 1.0, 0.1), 0.55, 1e-12);
    EXPECT_NEAR(learning_rate_at(100, 100, 10, 1.0, 0.1), 0.1, 1e-12);
}

TEST(Optimizer, ShowsTheAverageAndGivesTheWeightsBack) {
    Pair pair;
    auto optimizer = pair.make({.average = 0.5});
    const at::Tensor start = pair.w.detach().clone();
    set_gradients(pair.w, pair.b, 0);
    optimizer.step(0.1);
    const at::Tensor trained = pair.w.detach().clone();
    optimizer.show_average();
    // The first step keeps 2/11 of the start (a young average forgets faster than asked).
    const at::Tensor expected = start * (2.0 / 11.0) + trained * (9.0 / 11.0);
    EXPECT_LT((pair.w.detach() - expected).abs().max().item<double>(), 1e-6);
    optimizer.show_weights();
    EXPECT_TRUE(pair.w.detach().equal(trained));
    set_gradients(pair.w, pair.b, 1);
    optimizer.step(0.1);
    EXPECT_FALSE(pair.w.detach().equal(trained)) << "steps must reach the model after its weights were shown again";
}

TEST(Optimizer, GoesOnFromItsState) {
    Pair first, second;
    auto a = first.make({});
    auto b = second.make({});
    set_gradients(first.w, first.b, 0);
    a.step(0.01);
    std::vector<std::pair<std::string, at::Tensor>> kept;
    for (const auto& [name, tensor] : a.state()) kept.emplace_back(name, tensor.clone());
    ASSERT_TRUE(b.restore(kept, a.steps()).has_value());
    set_gradients(first.w, first.b, 1);
    set_gradients(second.w, second.b, 1);
    a.step(0.01);
    b.step(0.01);
    EXPECT_TRUE(first.w.detach().equal(second.w.detach()));
    kept.pop_back();
    EXPECT_THAT(b.restore(kept, 1).error().message, testing::HasSubstr("lacks"));
}

TEST(Optimizer, OrthogonalisesMatrices) {
    const at::Tensor tall = at::tensor({3.0F, 0.1F, 0.0F, 0.5F, 0.2F, -0.4F}).view({1, 3, 2});
    const at::Tensor made = orthogonalised(tall);
    const at::Tensor gram = at::bmm(made.transpose(1, 2), made).squeeze(0);
    // The iteration brings singular values near 1, between 0.7 and 1.2 (Jordan et al. 2024), so their squares between
    // 0.45 and 1.5.
    EXPECT_LT((gram - at::eye(2)).abs().max().item<double>(), 0.56);
    EXPECT_GT(gram[0][0].item<double>(), 0.4);
    EXPECT_GT(gram[1][1].item<double>(), 0.4);
}

}  // namespace
}  // namespace vitrine
