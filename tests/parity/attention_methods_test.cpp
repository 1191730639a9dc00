// Rollout, Chefer, LeGrad, attention distance and entropy against the published code and plain formulations that form
// every map (recipes/attention_methods.py).
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <vitrine/explainer.h>

#include "parity_case.h"

namespace vitrine {
namespace {

class AttentionMethods : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        auto built = build(given, checkpoint_of(given));
        ASSERT_TRUE(built.has_value()) << built.error().message;
        model = std::move(*built);
        input.pixels = draw("pixels", given.json.at("pixels").get<std::vector<std::int64_t>>(), 1.8, 0.0,
                            given.json.at("seed").get<std::uint64_t>())
                           .narrow(0, 0, 1);
    }
    Result<Attribution> explain(const char* method, std::vector<std::pair<const char*, std::string>> set = {},
                                Target target = {}) {
        const Explainer* explainer = registry().explainer(method).value();
        if (auto why = explainer->why_not(*model)) return fail(ErrorCode::Unsupported, "{}", *why);
        ExplainContext context(*model, input, target);
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return explainer->explain(context, settings);
    }
    /// Within 1e-4 of the largest value.
    void expect_map(const std::string& wanted, const Result<Attribution>& found) {
        SCOPED_TRACE(wanted);
        ASSERT_TRUE(found.has_value()) << found.error().message;
        const at::Tensor want = given.wanted.at(wanted).flatten(), have = found->map.flatten();
        ASSERT_EQ(have.numel(), want.numel());
        const double error = ((have - want).abs().max() / want.abs().max()).item<double>();
        EXPECT_LT(error, 1e-4);
        EXPECT_GT((want.max() - want.min()).item<double>(), 1e-2 * want.max().item<double>()) << "proves nothing";
        for (const Check& check : found->checks) EXPECT_TRUE(check.passed) << check.name << ": " << check.finding;
        worst = std::max(worst, error);
    }
    void TearDown() override { std::printf("%s: within %.1e of the largest value\n", given.name.c_str(), worst); }

    Case given = load(std::string("attention_methods/") + GetParam());
    std::unique_ptr<Model> model;
    Input input;
    double worst = 0;
};

TEST_P(AttentionMethods, RolloutIsVitExplainsOwn) {
    int compared = 0;
    for (const char* fusion : {"mean", "max", "min"})
        for (const char* ratio : {"0.0", "0.5", "0.9"}) {
            const std::string name = std::string("vit_explain.") + fusion + "." + ratio;
            if (given.wanted.count(name) == 0) continue;
            expect_map(name,
                       explain("rollout", {{"preset", "vit-explain"}, {"fusion", fusion}, {"discard_ratio", ratio}}));
            ++compared;
        }
    if (compared == 0) GTEST_SKIP() << "its code wants one prefix token, read as the class token, and a square grid";
    // Its standard settings, and that its normalisation and what it keeps make a difference.
    expect_map("vit_explain.mean.0.9", explain("rollout", {{"preset", "vit-explain"}}));
    const at::Tensor ours = explain("rollout", {{"discard_ratio", "0.9"}})->map.flatten();
    const at::Tensor theirs = given.wanted.at("vit_explain.mean.0.9").flatten();
    EXPECT_GT((ours / ours.max() - theirs).abs().max().item<double>(), 1e-2);
}

TEST_P(AttentionMethods, CheferIsTheNotebooksRules) {
    expect_map("chefer", explain("chefer", {}, {.index = 4, .versus = {}}));
    expect_map("chefer.versus", explain("chefer", {}, {.index = 4, .versus = 7}));
}

TEST_P(AttentionMethods, LeGradIsTheWrappersLoop) {
    expect_map("legrad.paper", explain("legrad", {}, {.index = 4, .versus = {}}));
    expect_map("legrad.package", explain("legrad", {{"preset", "package"}}, {.index = 4, .versus = {}}));
    expect_map("legrad.versus", explain("legrad", {}, {.index = 4, .versus = 7}));
}

TEST_P(AttentionMethods, DistanceAndEntropyAreThoseOfTheWholeMaps) {
    for (const auto& [method, name] : {std::pair{"attention_distance", "distance"}, {"attention_entropy", "entropy"}}) {
        const bool distance = std::string(name) == "distance";
        const auto found = explain(method, {{"layer", distance ? "all" : "-1"}});
        expect_map(std::string(name) + "_map", found);
        ASSERT_TRUE(found.has_value());
        const at::Tensor& want = given.wanted.at(name);
        const Table& table = found->tables.at(0);
        ASSERT_EQ(static_cast<std::int64_t>(table.rows.size()), want.size(0));
        ASSERT_EQ(static_cast<std::int64_t>(table.cols.size()), want.size(1));
        for (std::int64_t layer = 0; layer < want.size(0); ++layer)
            for (std::int64_t head = 0; head < want.size(1); ++head)
                EXPECT_NEAR(table.values.at(static_cast<std::size_t>(layer)).at(static_cast<std::size_t>(head)),
                            want[layer][head].item<double>(), 1e-4 * want.max().item<double>())
                    << name << " of layer " << layer << ", head " << head;
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, AttentionMethods,
                         testing::Values("class_token", "distilled", "mean_pooling", "registers", "clip",
                                         "pooling_head"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace vitrine
