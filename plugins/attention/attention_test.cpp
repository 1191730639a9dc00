// Tests of raw attention and rollout against the same sums written out by hand.
#include "attention.h"

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>

namespace vitrine::plugin::attention {
namespace {

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

/// Two blocks over a class token and 2 x 3 patches, and, when asked, a pooling head with one query of its own.
class Blocks final : public Model {
  public:
    explicit Blocks(Readout readout) {
        info_.name = "blocks";
        info_.layers = 2;
        info_.heads = 2;
        info_.width = 8;
        info_.readout = readout;
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        return info_.readout == Readout::ClassToken ? TokenLayout{{"cls"}, 2, 3, ""} : TokenLayout{{}, 2, 3, ""};
    }
    void to(at::Device, at::ScalarType) override {}

    at::Tensor forward(const at::Tensor& pixels) override {
        const auto random = at::make_generator<at::CPUGeneratorImpl>(11);
        const TokenLayout tokens = layout(0, 0);
        const std::int64_t n = tokens.tokens();
        at::Tensor x = at::randn({n, 8}, random) + pixels.mean();
        const auto split = [](const at::Tensor& t) { return t.reshape({1, t.size(0), 2, 4}).transpose(1, 2); };
        for (std::int64_t layer = 0; layer < 2; ++layer) {
            const at::Tensor w = at::randn({3, 8, 8}, random) * 0.7;
            const MixingScope scope([&] {
                return MixingScope::Facts{"blocks." + std::to_string(layer), layer, true, tokens, tokens};
            });
            const at::Tensor y =
                at::scaled_dot_product_attention(split(x.matmul(w[0])), split(x.matmul(w[1])), split(x.matmul(w[2])));
            x = x + y.transpose(1, 2).reshape({n, 8});
        }
        if (info_.readout == Readout::AttentionPool) {
            const MixingScope scope([&] {
                return MixingScope::Facts{"pool", -1, false, {{"latent"}, 0, 0, ""}, tokens};
            });
            const at::Tensor latent = at::randn({1, 8}, random) * 2;
            x = at::scaled_dot_product_attention(split(latent), split(x), split(x)).transpose(1, 2).reshape({1, 8});
            report_readout([] { return at::zeros({1}).fill_(1); });
            return x;
        }
        report_readout([&] {
            at::Tensor r = at::zeros({n});
            if (info_.readout == Readout::ClassToken)
                r[0].fill_(1);
            else
                r.fill_(1.0 / static_cast<double>(n));
            return r;
        });
        return x.mean(0, true);
    }
};

struct Case {
    Blocks model;
    Input input;
    explicit Case(Readout readout) : model(readout) {
        input.pixels = at::randn({1, 3, 4, 6}, at::make_generator<at::CPUGeneratorImpl>(2));
    }

    Result<Attribution> explain(const Explainer& method,
                                std::initializer_list<std::pair<const char*, const char*>> set = {}) {
        ExplainContext context(model, input, {});
        Settings settings(method.parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return method.explain(context, settings);
    }
    at::Tensor map(std::int64_t step) {
        return run_captured(model, input.pixels)
            .value()
            ->flow.steps.at(static_cast<std::size_t>(step))
            .mixing->rows({}, {})
            .value();
    }
};

TEST(RawAttention, IsTheClassTokensRowWithoutThePrefix) {
    Case it(Readout::ClassToken);
    const auto method = make_raw_attention();
    const Attribution mean = it.explain(*method).value();
    const at::Tensor row = it.map(1).mean(0)[0];
    ASSERT_EQ(mean.map.sizes(), at::IntArrayRef({2, 3}));
    EXPECT_LT(largest(mean.map.reshape({-1}) - row.slice(0, 1)), 1e-6);
    EXPECT_NEAR(mean.prefix_mass, row[0].item<double>(), 1e-6);
    EXPECT_NEAR(mean.map.sum().item<double>() + mean.prefix_mass, 1, 1e-5);
    ASSERT_EQ(mean.checks.size(), 1U);
    EXPECT_TRUE(mean.checks[0].passed);
    const Attribution head = it.explain(*method, {{"layer", "0"}, {"head", "-1"}, {"query", "cls"}}).value();
    EXPECT_LT(largest(head.map.reshape({-1}) - it.map(0)[1][0].slice(0, 1)), 1e-6);
    EXPECT_EQ(it.explain(*method, {{"layer", "2"}}).error().code, ErrorCode::BadInput);
    EXPECT_EQ(it.explain(*method, {{"head", "2"}}).error().code, ErrorCode::BadInput);
    EXPECT_EQ(it.explain(*method, {{"head", "all of them"}}).error().code, ErrorCode::BadInput);
}

TEST(RawAttention, OfAMeanIsTheMeanOfThePatchesRows) {
    Case it(Readout::MeanPatches);
    const Attribution out = it.explain(*make_raw_attention()).value();
    EXPECT_LT(largest(out.map.reshape({-1}) - it.map(1).mean(0).mean(0)), 1e-6);
    EXPECT_EQ(out.prefix_mass, 0);
    EXPECT_EQ(it.explain(*make_raw_attention(), {{"query", "cls"}}).error().code, ErrorCode::Unsupported);
}

TEST(RawAttention, WithAPoolingHeadComposesItsRowWithTheBlock) {
    Case it(Readout::AttentionPool);
    const Attribution out = it.explain(*make_raw_attention()).value();
    const at::Tensor pooled = it.map(2).mean(0);  // [1, 6]
    EXPECT_LT(largest(out.map.reshape({1, -1}) - pooled.matmul(it.map(1).mean(0))), 1e-6);
}

TEST(Rollout, IsTheProductOfTheLayersWithTheirResiduals) {
    for (const Readout readout : {Readout::ClassToken, Readout::MeanPatches, Readout::AttentionPool}) {
        Case it(readout);
        const Attribution out = it.explain(*make_rollout()).value();
        const std::int64_t n = it.model.layout(0, 0).tokens();
        const auto step = [&](std::int64_t layer) { return (it.map(layer).mean(0) + at::eye(n)) / 2; };
        at::Tensor r = readout == Readout::ClassToken    ? at::eye(n).slice(0, 0, 1)
                       : readout == Readout::MeanPatches ? at::zeros({1, n}).fill_(1.0 / static_cast<double>(n))
                                                         : it.map(2).mean(0);
        r = r.matmul(step(1)).matmul(step(0)).reshape({-1});
        EXPECT_LT(largest(out.map.reshape({-1}) - r.slice(0, n - 6)), 1e-6);
        EXPECT_NEAR(out.map.sum().item<double>() + out.prefix_mass, 1, 1e-5);
        for (const Check& check : out.checks) EXPECT_TRUE(check.passed) << check.name << ": " << check.finding;
    }
}

TEST(Rollout, BySweepsIsTheDenseProduct) {
    for (const Readout readout : {Readout::ClassToken, Readout::MeanPatches, Readout::AttentionPool}) {
        Case it(readout);
        const auto capture = run_captured(it.model, it.input.pixels).value();
        for (const bool residual : {true, false}) {
            RolloutSettings settings;
            settings.residual = residual;
            std::string shown;
            const at::Tensor swept = roll_out(capture->flow, settings, {}, {}, &shown).value();
            const at::Tensor dense = roll_out_dense(capture->flow, settings).value();
            EXPECT_LT(largest(swept - dense), 1e-6);
            EXPECT_NEAR(swept.sum().item<double>(), 1, 1e-5);
            EXPECT_EQ(shown.rfind("map_sweep ", 0), 0U) << shown;
        }
    }
    RolloutSettings other;
    other.fusion = Fusion::Max;
    Case it(Readout::ClassToken);
    EXPECT_EQ(roll_out(run_captured(it.model, it.input.pixels).value()->flow, other).error().code,
              ErrorCode::Unsupported);
}

TEST(Rollout, FusionAndDiscardChangeTheMapAndKeepItsMass) {
    Case it(Readout::ClassToken);
    const auto method = make_rollout();
    const Attribution mean = it.explain(*method).value();
    for (const auto& [name, value] :
         {std::pair{"fusion", "max"}, {"fusion", "min"}, {"discard_ratio", "0.5"}, {"residual", "false"}}) {
        const Attribution other = it.explain(*method, {{name, value}}).value();
        EXPECT_GT(largest(other.map - mean.map), 1e-4) << name;
        EXPECT_NEAR(other.map.sum().item<double>() + other.prefix_mass, 1, 1e-5) << name;
    }
    EXPECT_FALSE(it.explain(*method, {{"discard_ratio", "1.5"}}));
    EXPECT_FALSE(it.explain(*method, {{"fusion", "median"}}));
}

TEST(Rollout, IsRefusedWhereTheFlowIsUnknown) {
    Case it(Readout::ClassToken);
    Flow flow = run_captured(it.model, it.input.pixels).value()->flow;
    flow.unknown = "blocks.1 was not seen";
    const auto refused = roll_out_dense(flow, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
    EXPECT_NE(refused.error().message.find("blocks.1 was not seen"), std::string::npos);
    EXPECT_EQ(roll_out(flow, {}).error().code, ErrorCode::Unsupported);
    flow.unknown.clear();
    std::stop_source source;
    source.request_stop();
    EXPECT_EQ(roll_out_dense(flow, {}, source.get_token()).error().code, ErrorCode::Cancelled);
    EXPECT_EQ(roll_out(flow, {}, source.get_token()).error().code, ErrorCode::Cancelled);
}

TEST(AttentionMethods, AreRefusedWithoutAttention) {
    Blocks model(Readout::ClassToken);
    EXPECT_FALSE(make_rollout()->why_not(model));
    model.info().layers = 0;
    EXPECT_TRUE(make_rollout()->why_not(model));
    EXPECT_TRUE(make_raw_attention()->why_not(model));
}

}  // namespace
}  // namespace vitrine::plugin::attention
