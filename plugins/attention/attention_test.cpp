// Tests of raw attention, rollout and the statistics of heads against the same sums written out with whole maps.
#include "attention.h"

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
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

/// The smallest entries of a map set to zero, by sorting all of them; equal ones in row-major order.
at::Tensor discarded(const at::Tensor& map, double ratio, bool published, bool has_class_token) {
    const auto count = static_cast<std::int64_t>(static_cast<double>(map.numel()) * ratio);
    at::Tensor kept = map.flatten().clone();
    kept.index_fill_(0, at::argsort(map.flatten(), /*stable=*/true, 0, false).slice(0, 0, count), 0);
    kept = kept.reshape(map.sizes());
    if (published)
        kept[0][0].copy_(map[0][0]);
    else if (has_class_token)
        kept.select(1, 0).copy_(map.select(1, 0));
    return kept;
}

/// Rollout by the product of whole maps, in double precision.
at::Tensor roll_out_dense(const Flow& flow, const RolloutSettings& settings, const at::Tensor& start,
                          std::size_t steps) {
    at::Tensor r = start.to(at::kDouble).reshape({1, -1});
    for (std::size_t at = steps; at-- > 0;) {
        const FlowStep& step = flow.steps[at];
        const Mixing& mixing = *step.mixing;
        // The entries that are dropped are those of the very numbers the mixing has.
        at::Tensor map = mixing.fused_rows(settings.fusion, {}).value();
        EXPECT_LT(largest(map - (settings.fusion == HeadFusion::Mean  ? mixing.rows({}, {}).value().mean(0)
                                 : settings.fusion == HeadFusion::Max ? mixing.rows({}, {}).value().amax(0)
                                                                      : mixing.rows({}, {}).value().amin(0))),
                  1e-6);
        if (step.layer >= 0)
            map = discarded(map, settings.discard_ratio, settings.as_vit_explain, !mixing.key_layout.prefix.empty());
        map = map.to(at::kDouble);
        if (step.residual && settings.residual) map = map + at::eye(mixing.queries, at::kDouble);
        const at::Tensor sums = map.sum(-1).clamp_min(1e-30);
        map = settings.as_vit_explain && mixing.queries == mixing.keys ? map / sums.unsqueeze(0)
                                                                       : map / sums.unsqueeze(1);
        r = r.matmul(map);
    }
    return r.reshape({-1});
}

/// A map that was kept whole, to be walked by the ways that every Mixing has.
class Kept final : public Mixing {
  public:
    explicit Kept(at::Tensor p) : p_(std::move(p)) {
        name = "kept";
        heads = p_.size(0);
        queries = p_.size(1);
        keys = p_.size(2);
    }
    explicit Kept(const Mixing& of) : Kept(of.rows({}, {}).value()) {
        name = of.name;
        query_layout = of.query_layout;
        key_layout = of.key_layout;
    }
    std::string kind() const override { return "kept"; }
    std::string implementation() const override { return "kept"; }
    std::int64_t size_bytes() const override { return 0; }
    Result<at::Tensor> rows(std::span<const std::int64_t>, std::span<const std::int64_t> wanted) const override {
        return wanted.empty() ? p_ : p_.slice(1, wanted.front(), wanted.back() + 1);
    }
    Result<at::Tensor> left(const at::Tensor& r) const override {
        return r.reshape({1, 1, -1}).expand({heads, 1, queries}).matmul(p_).squeeze(1);
    }
    Result<at::Tensor> right(const at::Tensor& v) const override { return p_.matmul(v); }
    Result<at::Tensor> columns(std::span<const std::int64_t>, std::span<const std::int64_t>) const override {
        return unasked();
    }
    Result<at::Tensor> tile(std::span<const std::int64_t>, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                            std::int64_t, Pooling) const override {
        return unasked();
    }
    Result<MixingCheck> check(std::uint64_t) const override { return MixingCheck{}; }

  private:
    static Result<at::Tensor> unasked() { return fail(ErrorCode::Internal, "no walk needs this"); }
    at::Tensor p_;
};

TEST(Rollout, BySweepsIsTheDenseProduct) {
    for (const Readout readout : {Readout::ClassToken, Readout::MeanPatches, Readout::AttentionPool}) {
        Case it(readout);
        const auto capture = run_captured(it.model, it.input.pixels).value();
        Flow kept = capture->flow;
        for (FlowStep& step : kept.steps) step.mixing = std::make_shared<Kept>(*step.mixing);
        const std::vector<std::string> starts = readout == Readout::ClassToken
                                                    ? std::vector<std::string>{"readout", "cls", "1,2", "-1"}
                                                    : std::vector<std::string>{"readout", "0,1", "3"};
        for (const HeadFusion fusion : {HeadFusion::Mean, HeadFusion::Max, HeadFusion::Min})
            for (const double ratio : {0.0, 0.1, 0.5, 0.9})
                for (const bool as_vit_explain : {false, true})
                    for (const bool residual : {true, false})
                        for (const std::string& words : starts)
                            for (const Flow* flow : {&capture->flow, static_cast<const Flow*>(&kept)}) {
                                SCOPED_TRACE(fmt::format("{} {} {} {} {} {}", kernels::name_of(fusion), ratio,
                                                         as_vit_explain, residual, words, flow == &kept));
                                const RolloutSettings settings{fusion, ratio, residual, as_vit_explain};
                                const Start start = start_of(*flow, words).value();
                                EXPECT_NEAR(start.weights.sum().item<double>(), 1, 1e-6);
                                std::string shown;
                                const at::Tensor swept =
                                    roll_out(*flow, settings, start.weights, start.steps, {}, {}, &shown).value();
                                const at::Tensor dense = roll_out_dense(*flow, settings, start.weights, start.steps);
                                EXPECT_LT(largest(swept - dense), 2e-6 * std::max(1.0, largest(dense)));
                                // Without a residual path, a start that lost all its keys leads nowhere.
                                if (residual) {
                                    EXPECT_GT(largest(dense), 1e-3);
                                }
                                if (!as_vit_explain && residual) {
                                    EXPECT_NEAR(swept.sum().item<double>(), 1, 1e-5);
                                }
                                if (flow != &kept) {
                                    const bool plain = fusion == HeadFusion::Mean && ratio == 0;
                                    EXPECT_EQ(shown.rfind(plain ? "map_sweep " : "fused_sweep ", 0), 0U) << shown;
                                }
                            }
    }
}

TEST(Rollout, DropsTheExactNumberOfEntriesWithTiesInRowMajorOrder) {
    // A map of few different numbers: most thresholds lie among equals.
    // More queries than the search for a tie looks at in one go.
    at::Tensor p = at::zeros({2, 300, 300});
    for (std::int64_t i = 0; i < 300; ++i)
        for (std::int64_t j = 0; j < 300; ++j)
            for (std::int64_t h = 0; h < 2; ++h)
                p.data_ptr<float>()[(h * 300 + i) * 300 + j] = 0.1F * static_cast<float>((i * 7 + j * 3) % 5);
    const Kept mixing(p);
    const at::Tensor map = mixing.fused_rows(HeadFusion::Max, {}).value();
    // A fifth of the 90,000 entries has each value, 0 among them.
    for (const std::int64_t count : {18001, 20000, 36000, 36001, 89999, 90000}) {
        const kernels::Dropped dropped = smallest_entries(mixing, HeadFusion::Max, count).value();
        const at::Tensor wanted = discarded(map, static_cast<double>(count) / 90000, false, false);
        const at::Tensor sums = mixing.fused_row_sums(HeadFusion::Max, dropped).value();
        EXPECT_LT(largest(sums - wanted.sum(-1)), 1e-4) << count;
        EXPECT_EQ((wanted != 0).sum().item<std::int64_t>(), 90000 - count);
    }
    EXPECT_EQ(smallest_entries(mixing, HeadFusion::Max, 90001).error().code, ErrorCode::Unsupported);
    EXPECT_EQ(smallest_entries(mixing, HeadFusion::Max, 0).value().tie_end, 0);
    std::stop_source source;
    source.request_stop();
    EXPECT_EQ(smallest_entries(mixing, HeadFusion::Max, 7, source.get_token()).error().code, ErrorCode::Cancelled);
}

TEST(Rollout, StartsWhereItIsTold) {
    Case it(Readout::ClassToken);
    const auto method = make_rollout();
    const Attribution readout = it.explain(*method).value();
    EXPECT_TRUE(it.explain(*method, {{"start", "cls"}})->map.equal(readout.map));
    const Attribution patch = it.explain(*method, {{"start", "1,2"}}).value();
    EXPECT_TRUE(it.explain(*method, {{"start", "6"}})->map.equal(patch.map));
    // Half of the last step stays where it began.
    EXPECT_GT(patch.map[1][2].item<double>(), readout.map[1][2].item<double>() + 0.1);
    EXPECT_NE(patch.explained.find("patch 1, 2"), std::string::npos) << patch.explained;
    for (const char* words : {"2,0", "0,3", "-1,0", "7", "-8", "1,", ",1", "1,2,3", "here", ""})
        EXPECT_EQ(it.explain(*method, {{"start", words}}).error().code, ErrorCode::BadInput) << words;
    Case pooled(Readout::MeanPatches);
    EXPECT_EQ(pooled.explain(*method, {{"start", "cls"}}).error().code, ErrorCode::Unsupported);
    EXPECT_EQ(pooled.explain(*method, {{"preset", "vit-explain"}}).error().code, ErrorCode::Unsupported);
    // A token of the last block, not of the pooling head behind it.
    Case latent(Readout::AttentionPool);
    EXPECT_TRUE(latent.explain(*method, {{"start", "1,1"}}));
}

TEST(HeadStatistics, AreThoseOfTheWholeMap) {
    for (const Readout readout : {Readout::ClassToken, Readout::AttentionPool}) {
        Case it(readout);
        const std::int64_t prefix = it.model.layout(0, 0).prefix_count();
        const Attribution distance = it.explain(*make_attention_distance(), {{"layer", "1"}}).value();
        const Attribution entropy = it.explain(*make_attention_entropy()).value();
        // The log-sum-exp identity takes the difference of two numbers as large as the scores, which reach hundreds
        // here: 16 roundings of the largest.
        const auto capture = run_captured(it.model, it.input.pixels).value();
        double score = 1;
        for (const FlowStep& step : capture->flow.steps)
            score = std::max(score, largest(step.mixing->q().matmul(step.mixing->k().transpose(-2, -1))) / 2);
        const double rounding = std::ldexp(score, -20);
        at::Tensor entropies;
        for (std::int64_t layer = 0; layer < 2; ++layer) {
            const at::Tensor p = it.map(layer).to(at::kDouble);
            // Patches of 2 x 2 pixels on a grid of 2 x 3.
            at::Tensor wanted = at::zeros({2, 6}, at::kDouble);
            for (std::int64_t h = 0; h < 2; ++h)
                for (std::int64_t i = 0; i < 6; ++i) {
                    double sum = 0, all = 0;
                    for (std::int64_t j = 0; j < 6; ++j) {
                        const double weight = p[h][prefix + i][prefix + j].item<double>();
                        sum += weight * std::hypot(2.0 * static_cast<double>(i / 3 - j / 3),
                                                   2.0 * static_cast<double>(i % 3 - j % 3));
                        all += weight;
                    }
                    wanted[h][i].fill_(sum / all);
                }
            if (layer == 1) {
                EXPECT_LT(largest(distance.map.reshape({-1}) - wanted.mean(0)), 1e-5);
            }
            const at::Tensor h = -(p * p.log()).sum(-1).slice(1, prefix);
            entropies = entropies.defined() ? entropies + h : h;
            for (std::size_t head = 0; head < 2; ++head) {
                const auto at = static_cast<std::size_t>(layer);
                EXPECT_NEAR(distance.tables.at(0).values.at(at).at(head),
                            wanted[static_cast<std::int64_t>(head)].mean().item<double>(), 1e-5);
                EXPECT_NEAR(entropy.tables.at(0).values.at(at).at(head),
                            h[static_cast<std::int64_t>(head)].mean().item<double>(), rounding);
            }
        }
        EXPECT_LT(largest(entropy.map.reshape({-1}) - entropies.mean(0) / 2), rounding);
        EXPECT_EQ(entropy.tables[0].rows, (std::vector<std::string>{"blocks.0", "blocks.1"}));
        EXPECT_EQ(entropy.tables[0].cols, (std::vector<std::string>{"head 0", "head 1"}));
        EXPECT_EQ(it.explain(*make_attention_entropy(), {{"layer", "2"}}).error().code, ErrorCode::BadInput);
        EXPECT_EQ(it.explain(*make_attention_distance(), {{"layer", "last"}}).error().code, ErrorCode::BadInput);
        // The general way, from rows, and the way of softmax attention, from the log-sum-exp.
        for (const FlowStep& step : capture->flow.steps)
            EXPECT_LT(largest(step.mixing->entropy().value() - Kept(*step.mixing).entropy().value()), rounding);
    }
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
    const auto refused = roll_out(flow, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
    EXPECT_NE(refused.error().message.find("blocks.1 was not seen"), std::string::npos);
    EXPECT_EQ(start_of(flow, "cls").error().code, ErrorCode::Unsupported);
    flow.unknown.clear();
    std::stop_source source;
    source.request_stop();
    EXPECT_EQ(roll_out(flow, {}, {}, 0, source.get_token()).error().code, ErrorCode::Cancelled);
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
