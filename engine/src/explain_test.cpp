// Tests of what explainers share: targets, the explained number of many pictures, its slopes, patches left out.
#include <vitrine/explainer.h>

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/registry.h>

namespace vitrine {
namespace {

using testing::HasSubstr;

class Explaining : public testing::Test {
  protected:
    void SetUp() override {
        model_ = registry().architecture("vit").value()->tiny(3).value();
        const Preprocess& p = model_->preprocess();
        auto random = at::make_generator<at::CPUGeneratorImpl>(1);
        pictures_ = at::randn({5, 3, p.input_height, p.input_width}, random);
        input_.pixels = pictures_.narrow(0, 0, 1);
        const at::NoGradGuard no_grad;
        answers_ = model_->forward(pictures_);
    }
    std::unique_ptr<Model> model_;
    Input input_;
    at::Tensor pictures_, answers_;
};

TEST_F(Explaining, TheNumberIsWhatWasAskedFor) {
    const at::Tensor p = at::softmax(answers_, 1);
    const auto of = [&](const Target& target, Scale standard = Scale::Logit) {
        return objective_of(*model_, target, answers_.narrow(0, 0, 1), standard).value().of(answers_);
    };
    EXPECT_TRUE(of({.index = 2}).equal(answers_.select(1, 2)));
    EXPECT_TRUE(of({.index = 2, .versus = 1}).equal(answers_.select(1, 2) - answers_.select(1, 1)));
    EXPECT_TRUE(
        of({.index = 2, .also = {0, 1}}).equal(answers_.select(1, 2) + answers_.select(1, 0) + answers_.select(1, 1)));
    EXPECT_TRUE(of({.index = 2}, Scale::Probability).equal(p.select(1, 2)));
    EXPECT_TRUE(of({.index = 2, .scale = Scale::Logit}, Scale::Probability).equal(answers_.select(1, 2)));
    const Objective predicted = objective_of(*model_, {}, answers_.narrow(0, 0, 1)).value();
    EXPECT_EQ(predicted.index, answers_[0].argmax().item<std::int64_t>());
    EXPECT_EQ(objective_of(*model_, {.index = 2, .versus = 1}, {}, Scale::Probability).value().explained,
              "probability of class 2 minus that of class 1");
}

TEST_F(Explaining, WhatIsNotThereIsRefusedInWords) {
    const std::int64_t classes = model_->info().classes;
    EXPECT_THAT(objective_of(*model_, {.index = classes}, {}).error().message, HasSubstr("from 0 to"));
    EXPECT_THAT(objective_of(*model_, {.index = 0, .also = {-1}}, {}).error().message, HasSubstr("class -1"));
    EXPECT_EQ(objective_of(*model_, {}, {}).error().code, ErrorCode::Internal);
    model_->info().classes = 0;  // as a tower without a head
    EXPECT_EQ(objective_of(*model_, {}, answers_.narrow(0, 0, 1)).error().code, ErrorCode::Unsupported);
    const at::Tensor own = answers_[0].clone();
    EXPECT_THAT(objective_of(*model_, {.reference = own}, answers_.narrow(0, 0, 1)).error().message,
                HasSubstr("the picture itself"));
    EXPECT_THAT(objective_of(*model_, {.reference = at::ones({3000})}, answers_.narrow(0, 0, 1)).error().message,
                HasSubstr("3000 features"));
    const auto similar = objective_of(*model_, {.reference = answers_[1]}, answers_.narrow(0, 0, 1)).value();
    const double cosine = (answers_[0].dot(answers_[1]) / (answers_[0].norm() * answers_[1].norm())).item<double>();
    EXPECT_NEAR(similar.of(answers_)[0].item<double>(), cosine, 1e-5);
    EXPECT_NEAR(similar.of(answers_)[1].item<double>(), 1.0, 1e-5);
}

TEST_F(Explaining, ScoresAndSlopesDoNotDependOnTheBatch) {
    for (const std::int64_t batch : {1, 2, 5}) {
        ExplainContext context(*model_, input_, {.index = 1}, 0);
        context.batch = batch;
        const Objective objective = context.objective().value();
        const at::Tensor scores = context.scores(objective, pictures_).value();
        EXPECT_LT((scores - answers_.select(1, 1)).abs().max().item<double>(), 1e-5);
        const auto slopes = context.slopes(objective, pictures_).value();
        EXPECT_LT((slopes.scores - scores).abs().max().item<double>(), 1e-5);
        // Against finite differences in a random direction.
        auto random = at::make_generator<at::CPUGeneratorImpl>(9);
        const at::Tensor way = at::randn(pictures_.sizes(), random), step = 1e-2 * way / way.norm();
        const at::Tensor up = context.scores(objective, pictures_ + step).value();
        const at::Tensor down = context.scores(objective, pictures_ - step).value();
        const at::Tensor expected = (slopes.gradients * step).flatten(1).sum(1) * 2;
        EXPECT_LT((up - down - expected).abs().max().item<double>(), 0.02 * expected.abs().max().item<double>() + 1e-5);
    }
}

TEST_F(Explaining, ARegionsActivationIsANumberToo) {
    ExplainContext context(*model_, input_, {}, 0);
    context.target.region = {1, 3};
    context.target.point = "blocks.0";
    const Objective objective = context.objective().value();
    const at::Tensor scores = context.scores(objective, pictures_).value();
    CaptureOptions options;
    options.mixings = false;
    options.points = {"blocks.0"};
    const at::Tensor x = run_captured(*model_, pictures_, options).value()->points.at("blocks.0");
    const at::Tensor expected = (x.select(1, 1).norm(2, 1) + x.select(1, 3).norm(2, 1)) / 2;
    EXPECT_LT((scores - expected).abs().max().item<double>(), 1e-4 * expected.abs().max().item<double>());
    context.target.region = {100000};
    EXPECT_THAT(context.scores(context.objective().value(), pictures_).error().message, HasSubstr("token 100000"));
}

TEST_F(Explaining, RowsOfKeptPatchesGoInBatchesOfEqualLength) {
    const TokenLayout layout = model_->layout(input_.pixels.size(2), input_.pixels.size(3));
    auto random = at::make_generator<at::CPUGeneratorImpl>(5);
    at::Tensor kept = at::rand({9, layout.rows * layout.cols}, random) > 0.5;
    kept.select(1, 0).fill_(true);
    ExplainContext context(*model_, input_, {.index = 1}, 0);
    context.batch = 3;
    const Objective objective = context.objective().value();
    const at::Tensor scores = context.scores_of_kept(objective, kept).value();
    const at::NoGradGuard no_grad;
    for (std::int64_t i = 0; i < 9; ++i) {
        const at::Tensor one = model_->forward_kept(input_.pixels, kept[i].nonzero().reshape({1, -1}));
        EXPECT_NEAR(scores[i].item<double>(), one[0][1].item<double>(), 1e-4);
    }
    EXPECT_THAT(context.scores_of_kept(objective, at::ones({1, 2}).to(at::kBool)).error().message,
                HasSubstr("expected"));
    EXPECT_THAT(context.scores_of_kept(objective, at::zeros_like(kept)).error().message, HasSubstr("left out"));
}

TEST_F(Explaining, AStopEndsAllOfThem) {
    ExplainContext context(*model_, input_, {.index = 1}, 0);
    const Objective objective = context.objective().value();
    std::stop_source source;
    source.request_stop();
    context.stop = source.get_token();
    EXPECT_EQ(context.scores(objective, pictures_).error().code, ErrorCode::Cancelled);
    EXPECT_EQ(context.slopes(objective, pictures_).error().code, ErrorCode::Cancelled);
}

TEST(AsGrid, TokensLoseTheirPrefix) {
    TokenLayout layout;
    layout.prefix = {"cls"};
    layout.rows = 2;
    layout.cols = 3;
    const at::Tensor tokens = at::randn({1, 7, 4});
    const at::Tensor grid = as_grid(tokens, layout).value();
    EXPECT_EQ(grid.sizes(), (at::IntArrayRef{1, 4, 2, 3}));
    EXPECT_TRUE(grid[0].select(1, 1).select(1, 2).equal(tokens[0][6]));
    EXPECT_EQ(as_grid(at::randn({1, 9, 4}), layout).error().code, ErrorCode::Unsupported);
    EXPECT_EQ(as_grid(at::randn({1, 5, 4, 4}), layout).value().size(1), 5);
}

}  // namespace
}  // namespace vitrine
