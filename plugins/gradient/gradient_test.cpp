// Tests of the gradient methods without a reference: completeness, batches and seeds, which operators the rules cover.
#include "gradient.h"
#include "rectifiers.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/registry.h>

namespace vitrine::plugin::gradient {
namespace {

using testing::HasSubstr;

/// Convolution, activation, overlapping max pooling, activation in place, classes.
struct Small final : Model {
    enum class Kind { Relu, Relu6, Gelu, None } kind;
    at::Tensor first, second, head;

    explicit Small(Kind kind_) : kind(kind_) {
        auto random = at::make_generator<at::CPUGeneratorImpl>(5);
        first = at::randn({6, 3, 3, 3}, random) * 0.4;
        second = at::randn({8, 6, 3, 3}, random) * 0.3;
        head = at::randn({5, 8}, random);
        info_.name = "small";
        info_.classes = 5;
        info_.cam_point = "map";
        info_.relu_only = kind == Kind::Relu;
    }
    at::Tensor activate(const at::Tensor& x) const {
        if (kind == Kind::Relu) return at::relu(x);
        if (kind == Kind::Relu6) return at::hardtanh(x, 0, 6);
        return kind == Kind::Gelu ? at::gelu(x) : x;
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        at::Tensor x = activate(at::conv2d(pixels, first, {}, {1, 1}, {1, 1}));
        x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1});
        x = at::conv2d(x, second, {}, {1, 1}, {1, 1});
        if (kind == Kind::Relu)
            x.relu_();
        else
            x = activate(x);
        x = point("map", x);
        return at::linear(x.mean({2, 3}), head);
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        TokenLayout out;
        out.unknown = "no tokens";
        return out;
    }
    void to(at::Device, at::ScalarType) override {}
    bool is_native() const override { return native; }
    bool native = true;
};

Input picture(std::int64_t height, std::int64_t width) {
    auto random = at::make_generator<at::CPUGeneratorImpl>(9);
    Input out;
    out.pixels = at::randn({1, 3, height, width}, random);
    return out;
}

Result<Attribution> explain(Model& model, const Input& input, const Explainer& method,
                            const std::map<std::string, std::string>& set = {}, Target target = {.index = 2},
                            std::int64_t batch = 0, std::uint64_t seed = 1) {
    ExplainContext context(model, input, std::move(target), seed);
    context.batch = batch;
    Settings settings(method.parameters());
    for (const auto& [key, value] : set) VITRINE_CHECK(settings.set(key, value));
    return method.explain(context, settings);
}

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

TEST(Gradient, DeepLiftLosesNothingWherePoolingWindowsOverlap) {
    for (const auto kind : {Small::Kind::Relu, Small::Kind::Relu6}) {
        Small model(kind);
        const Input input = picture(12, 10);
        for (const char* baseline : {"zero", "white", "noise_mean"}) {
            const auto found = explain(model, input, *make_deep_lift(), {{"baseline", baseline}});
            ASSERT_TRUE(found) << found.error().message;
            ASSERT_EQ(found->checks.size(), 1U);
            EXPECT_TRUE(found->checks[0].passed) << found->checks[0].finding;
            EXPECT_EQ(found->checks[0].finding.find("above"), std::string::npos) << found->checks[0].finding;
            EXPECT_GT(largest(found->channels), 1e-3);
        }
    }
}

TEST(Gradient, DeepLiftOfALinearModelIsTheGradientTimesTheDifference) {
    // No input comes near the bend of the activation.
    struct Linear final : Model {
        at::Tensor weight = at::randn({3, 3 * 4 * 4}, at::make_generator<at::CPUGeneratorImpl>(3));
        Linear() { info_.classes = 3; }
        at::Tensor forward(const at::Tensor& x) override { return at::linear(at::relu(x + 100).flatten(1), weight); }
        TokenLayout layout(std::int64_t, std::int64_t) const override { return {}; }
        void to(at::Device, at::ScalarType) override {}
    } model;
    const Input input = picture(4, 4);
    const auto found = explain(model, input, *make_deep_lift());
    ASSERT_TRUE(found) << found.error().message;
    const at::Tensor expected = model.weight[2].reshape({3, 4, 4}) * input.pixels[0];
    EXPECT_LT(largest(found->channels - expected), 1e-3 * largest(expected));
}

TEST(Gradient, GuidedBackpropIsTheRuleWrittenOut) {
    struct One final : Model {
        at::Tensor weight, head;
        One() {
            auto random = at::make_generator<at::CPUGeneratorImpl>(4);
            weight = at::randn({6, 12}, random);
            head = at::randn({2, 6}, random);
            info_.classes = 2;
            info_.relu_only = true;
        }
        at::Tensor forward(const at::Tensor& x) override {
            return at::linear(at::relu(at::linear(x.flatten(1), weight)), head);
        }
        TokenLayout layout(std::int64_t, std::int64_t) const override { return {}; }
        void to(at::Device, at::ScalarType) override {}
    } one;
    const Input input = picture(2, 2);
    const auto found = explain(one, input, *make_guided_backprop(), {}, {.index = 1});
    ASSERT_TRUE(found) << found.error().message;
    const at::Tensor hidden = at::linear(input.pixels.flatten(1), one.weight)[0];
    const at::Tensor expected = at::linear((one.head[1].clamp_min(0) * (hidden > 0)).unsqueeze(0), one.weight.t());
    EXPECT_LT(largest(found->channels.reshape({-1}) - expected[0]), 1e-5);
    // and is not the gradient
    const auto plain = explain(one, input, *make_saliency(), {}, {.index = 1});
    EXPECT_GT(largest(plain->channels - found->channels), 1e-3);
}

TEST(Gradient, WhatTheRulesDoNotCoverIsRefusedByName) {
    Small relu6(Small::Kind::Relu6), gelu(Small::Kind::Gelu), none(Small::Kind::None);
    const Input input = picture(12, 10);
    for (const auto& method : {make_guided_backprop(), make_guided_grad_cam()}) {
        relu6.native = true;
        EXPECT_THAT(method->why_not(relu6).value_or(""), HasSubstr("other activations than ReLU"));
        // A program that cannot be looked into beforehand is seen to run them.
        for (Small* model : {&relu6, &gelu, &none}) {
            model->native = false;
            EXPECT_FALSE(method->why_not(*model));
            const auto found = explain(*model, input, *method);
            ASSERT_FALSE(found);
            EXPECT_EQ(found.error().code, ErrorCode::Unsupported);
            EXPECT_THAT(found.error().message, HasSubstr(model == &relu6  ? "runs relu6"
                                                         : model == &gelu ? "runs gelu"
                                                                          : "no activation"));
        }
    }
    const auto lifted = explain(gelu, input, *make_deep_lift());
    ASSERT_FALSE(lifted);
    EXPECT_THAT(lifted.error().message, HasSubstr("runs gelu, which the rescale rule does not cover"));
    EXPECT_THAT(explain(relu6, input, *make_deep_lift(), {}, {.index = 1, .scale = Scale::Probability}).error().message,
                HasSubstr("softmax"));
    auto vit = registry().architecture("vit").value()->tiny(3).value();
    for (const auto& method : {make_deep_lift(), make_guided_backprop(), make_guided_grad_cam()})
        EXPECT_THAT(method->why_not(*vit).value_or(""), HasSubstr("attention"));
}

TEST(Gradient, TheRulesEndWithTheirRun) {
    Small model(Small::Kind::Relu);
    const Input input = picture(12, 10);
    const auto before = explain(model, input, *make_saliency());
    ASSERT_TRUE(explain(model, input, *make_guided_grad_cam()));
    ASSERT_TRUE(explain(model, input, *make_deep_lift()));
    EXPECT_TRUE(explain(model, input, *make_saliency())->map.equal(before->map));
}

TEST(Gradient, IntegratedGradientsDoubleTheirNodesUntilTheySumUp) {
    auto model = registry().architecture("vit").value()->tiny(3).value();
    const Input input = picture(model->preprocess().input_height, model->preprocess().input_width);
    for (const char* baseline : {"zero", "black", "blur", "noise_mean"}) {
        SCOPED_TRACE(baseline);
        const auto found = explain(*model, input, *make_integrated_gradients(), {{"baseline", baseline}}, {.index = 1});
        ASSERT_TRUE(found) << found.error().message;
        ASSERT_EQ(found->checks.size(), 1U);
        EXPECT_TRUE(found->checks[0].passed) << found->checks[0].finding;
        ASSERT_FALSE(found->notes.empty());
        EXPECT_THAT(found->notes[0], HasSubstr("nodes"));
    }
    // Two nodes of a coarse scheme do not sum up, and the badge says so.
    const auto coarse = explain(*model, input, *make_integrated_gradients(),
                                {{"preset", "riemann_left"}, {"steps", "2"}}, {.index = 1});
    ASSERT_TRUE(coarse);
    EXPECT_FALSE(coarse->checks[0].passed) << coarse->checks[0].finding;
}

TEST(Gradient, NoiseHangsOnTheSeedAndNotOnBatches) {
    Small model(Small::Kind::Relu);
    const Input input = picture(12, 10);
    for (const auto& method : {make_smooth_grad(), make_square_grad(), make_var_grad(), make_gradient_shap()}) {
        SCOPED_TRACE(method->description().name);
        const auto map = [&](std::int64_t batch, std::uint64_t seed) {
            return explain(model, input, *method, {{"samples", "9"}}, {.index = 2}, batch, seed)->channels;
        };
        const at::Tensor one = map(1, 7);
        EXPECT_LT(largest(map(4, 7) - one), 1e-5 * largest(one));
        EXPECT_GT(largest(map(4, 8) - one), 1e-2 * largest(one));
    }
}

TEST(Gradient, BaselinesAreWhatTheySay) {
    Small model(Small::Kind::Relu);
    model.preprocess().mean = {0.5, 0.4, 0.3};
    model.preprocess().std = {0.5, 0.2, 0.1};
    const Input input = picture(12, 10);
    ExplainContext context(model, input, {}, 3);
    EXPECT_EQ(largest(baselines(context, "zero")), 0);
    const auto first = [&](const char* name, std::int64_t channel) {
        return baselines(context, name)[0][channel][5][5].item<double>();
    };
    EXPECT_NEAR(first("black", 0), -1, 1e-6);
    EXPECT_NEAR(first("black", 2), -3, 1e-6);
    EXPECT_NEAR(first("white", 1), 3, 1e-6);
    const at::Tensor noise = baselines(context, "noise_mean");
    EXPECT_EQ(noise.size(0), 5);
    EXPECT_GE(noise.select(1, 2).min().item<double>(), -3);
    EXPECT_LE(noise.select(1, 2).max().item<double>(), 7);
    EXPECT_GT(largest(noise[0] - noise[1]), 0.1);
    // A point spreads to a Gaussian that sums to 1 inside.
    at::Tensor point = at::zeros({41, 41}, at::kDouble);
    point[20][20] = 1.0;
    const at::Tensor spread = blurred(point, 2);
    EXPECT_NEAR(spread.sum().item<double>(), 1, 1e-12);
    EXPECT_NEAR((spread[20][22] / spread[20][20]).item<double>(), std::exp(-0.5), 1e-12);
    EXPECT_EQ(spread[20][29].item<double>(), 0) << "cut at 4 sigma";
}

TEST(Gradient, ARegionAndOneClassAgainstAnotherAreExplainedToo) {
    Small model(Small::Kind::Relu);
    const Input input = picture(12, 10);
    Target region;
    region.region = {0, 7};
    for (const auto& method :
         {make_saliency(), make_integrated_gradients(), make_guided_backprop(), make_guided_grad_cam()}) {
        const auto found = explain(model, input, *method, {}, region);
        ASSERT_TRUE(found) << method->description().name << ": " << found.error().message;
        EXPECT_THAT(found->explained, HasSubstr("activation of 2 tokens"));
    }
    region.region = {1000};
    EXPECT_EQ(explain(model, input, *make_guided_backprop(), {}, region).error().code, ErrorCode::BadInput);
    const auto a = explain(model, input, *make_saliency(), {}, {.index = 1}),
               b = explain(model, input, *make_saliency(), {}, {.index = 3}),
               both = explain(model, input, *make_saliency(), {}, {.index = 1, .versus = 3});
    EXPECT_LT(largest(a->channels - b->channels - both->channels), 1e-5);
}

}  // namespace
}  // namespace vitrine::plugin::gradient
