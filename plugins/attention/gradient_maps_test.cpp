// Gradient rollout, Grad-SAM and CDAM against whole maps and their gradients in double precision.
#include "attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <vitrine/registry.h>

#include "../../tests/cases/plain_vit.h"

namespace vitrine::plugin::attention {
namespace {

using Set = std::vector<std::pair<std::string, std::string>>;
constexpr std::int64_t kClass = 3, kVersus = 7;

class GradientMaps : public testing::Test {
  protected:
    void SetUp() override {
        model = registry().architecture("vit").value()->tiny(2).value();
        input.pixels = at::randn({1, 3, 32, 32}, at::make_generator<at::CPUGeneratorImpl>(1));
        other.pixels = at::randn({1, 3, 32, 32}, at::make_generator<at::CPUGeneratorImpl>(2));
        plain = std::make_unique<PlainVit>(*model);
        layout = model->layout(32, 32);
        differentiate([](const PlainVit::Run& run) { return run.logits[kClass]; });
    }
    /// Maps, and gradients of a score with respect to the maps and the normed tokens.
    void differentiate(const std::function<at::Tensor(const PlainVit::Run&)>& score) {
        const at::AutoGradMode with_graph(true);
        const auto run = plain->run(input.pixels.clone().requires_grad_(true));
        std::vector<at::Tensor> wanted = run.maps;
        wanted.push_back(run.normed.back());
        auto found = gradients(score(run), wanted, {}).value();
        slope = found.back();
        found.pop_back();
        d_maps = found;
        maps.clear();
        for (const at::Tensor& map : run.maps) maps.push_back(map.detach());
        normed = run.normed.back().detach();
    }
    Result<Attribution> explain(const Explainer& method, const Set& set = {}, Target target = {.index = kClass}) {
        ExplainContext context(*model, input, std::move(target));
        context.other = &other;
        Settings settings(method.parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return method.explain(context, settings);
    }
    at::Tensor grid(const at::Tensor& tokens) const {
        return tokens.slice(0, layout.prefix_count()).reshape({layout.rows, layout.cols});
    }
    static void expect_map(const Result<Attribution>& found, const at::Tensor& wanted) {
        ASSERT_TRUE(found) << found.error().message;
        const double size = wanted.abs().max().item<double>();
        EXPECT_GT((wanted.max() - wanted.min()).item<double>(), 1e-3 * size) << "proves nothing";
        EXPECT_LT((found->map - wanted).abs().max().item<double>(), 1e-5 * size);
        EXPECT_TRUE(found->class_specific);
        for (const Check& check : found->checks) EXPECT_TRUE(check.passed) << check.name << ": " << check.finding;
    }
    /// Whole maps, a full sort, products; `theirs` as vit_grad_rollout.py has it.
    at::Tensor rolled(double ratio, bool theirs) const {
        const std::int64_t n = layout.tokens();
        at::Tensor result = at::eye(n, at::kDouble);
        for (std::size_t layer = 0; layer < maps.size(); ++layer) {
            const std::size_t from = theirs ? maps.size() - 1 - layer : layer;
            // Its gradients are those of the scores, by the softmax's Jacobian.
            const at::Tensor gradient =
                theirs ? maps[from] * (d_maps[from] - (maps[from] * d_maps[from]).sum(-1, true)) : d_maps[from];
            at::Tensor fused = (maps[layer] * gradient).mean(0).clamp_min(0);
            const auto count = static_cast<std::int64_t>(static_cast<double>(n * n) * ratio);
            at::Tensor flat = fused.reshape({-1});
            // In float32, as the kernels have it: which of two that are equal there goes is the first in order.
            const at::Tensor order = at::argsort(flat.to(at::kFloat), /*stable=*/true, 0, false);
            flat.index_fill_(0, order.slice(0, 0, count), 0);
            at::Tensor a = flat.reshape({n, n}) + at::eye(n, at::kDouble);
            a = theirs ? a / a.sum(1).unsqueeze(0) : a / a.sum(1, true);
            result = a.matmul(result);
        }
        return result[0];
    }

    std::unique_ptr<Model> model;
    Input input, other;
    std::unique_ptr<PlainVit> plain;
    TokenLayout layout;
    std::vector<at::Tensor> maps, d_maps;
    at::Tensor normed, slope;
};

TEST_F(GradientMaps, GradientRolloutIsTheProductOfWeighedMaps) {
    const auto method = make_gradient_rollout();
    for (const char* ratio : {"0", "0.5", "0.9"}) {
        SCOPED_TRACE(ratio);
        expect_map(explain(*method, {{"discard_ratio", ratio}}), grid(rolled(std::atof(ratio), false)));
        const at::Tensor theirs = grid(rolled(std::atof(ratio), true));
        expect_map(explain(*method, {{"discard_ratio", ratio}, {"preset", "vit-explain"}}), theirs / theirs.max());
    }
    // The published pairing is another thing.
    const at::Tensor ours = grid(rolled(0.9, false)), theirs = grid(rolled(0.9, true));
    EXPECT_GT((ours / ours.max() - theirs / theirs.max()).abs().max().item<double>(), 1e-2);
    const auto found = explain(*method);
    EXPECT_NEAR(found->map.sum().item<double>() + found->prefix_mass, 1, 1e-5);
}

TEST_F(GradientMaps, AMapThatIsMadeAgainForEachLookIsTheSame) {
    // Of 33 x 33 patches rows come in two parts, and the threshold and its ties are found across them.
    const Architecture* vit = registry().architecture("vit").value();
    Settings settings(vit->parameters());
    for (const auto& [name, value] : std::vector<std::pair<const char*, const char*>>{{"image_size", "264"},
                                                                                      {"patch", "8"},
                                                                                      {"width", "16"},
                                                                                      {"depth", "2"},
                                                                                      {"heads", "2"},
                                                                                      {"layer_scale", "0"}})
        ASSERT_TRUE(settings.set(name, value)) << name;
    const auto large = vit->create(settings, 3).value();
    Input seen;
    seen.pixels = at::randn({1, 3, 264, 264}, at::make_generator<at::CPUGeneratorImpl>(4));
    for (const char* preset : {"described", "vit-explain"})
        for (const char* ratio : {"0.5", "0.9"}) {
            const auto map = [&](std::int64_t most_kept) {
                const auto method = make_gradient_rollout(most_kept);
                ExplainContext context(*large, seen, {.index = 1});
                Settings chosen(method->parameters());
                EXPECT_TRUE(chosen.set("preset", preset));
                EXPECT_TRUE(chosen.set("discard_ratio", ratio));
                const auto found = method->explain(context, chosen);
                EXPECT_TRUE(found) << found.error().message;
                return found->map;
            };
            const at::Tensor kept = map(std::int64_t{1} << 24), again = map(0);
            ASSERT_EQ(kept.numel(), 33 * 33);
            EXPECT_GT((kept.max() - kept.min()).item<double>(), 0);
            EXPECT_LT((kept - again).abs().max().item<double>(), 1e-5 * kept.max().item<double>());
        }
}

TEST_F(GradientMaps, GradSamSumsRowsColumnsOrTheReadoutsRow) {
    const auto method = make_grad_sam();
    const std::int64_t n = layout.tokens();
    at::Tensor weighed = at::zeros({n, n}, at::kDouble);
    for (std::size_t layer = 0; layer < maps.size(); ++layer)
        weighed += (maps[layer] * d_maps[layer].clamp_min(0)).mean(0) / static_cast<double>(maps.size());
    const auto tokens = static_cast<double>(n);
    expect_map(explain(*method), grid(weighed.sum(1) / tokens));
    expect_map(explain(*method, {{"sum", "columns"}}), grid(weighed.sum(0) / tokens));
    expect_map(explain(*method, {{"sum", "readout"}}), grid(weighed[0]));
}

TEST_F(GradientMaps, CdamIsGradientTimesToken) {
    const auto method = make_cdam();
    expect_map(explain(*method), grid((normed * slope).sum(1)));
    differentiate([](const PlainVit::Run& run) { return run.logits[kClass] - run.logits[kVersus]; });
    expect_map(explain(*method, {}, {.index = kClass, .versus = kVersus}), grid((normed * slope).sum(1)));
    const at::Tensor concept_vector = plain->run(other.pixels).features;
    differentiate([&](const PlainVit::Run& run) { return (run.features * concept_vector).sum(); });
    const auto similar = explain(*method, {{"score", "similarity"}});
    expect_map(similar, grid((normed * slope).sum(1)));
    EXPECT_THAT(similar->explained, testing::HasSubstr("similarity to the second picture"));
    ExplainContext alone(*model, input, {.index = kClass});
    Settings settings(method->parameters());
    ASSERT_TRUE(settings.set("score", "similarity"));
    EXPECT_EQ(method->explain(alone, settings).error().code, ErrorCode::Unsupported);
}

TEST_F(GradientMaps, SmoothFormsOfCdamAreMeansAtAlteredTokens) {
    const auto method = make_cdam();
    const std::string point = "blocks." + std::to_string(model->info().layers - 1) + ".norm1";
    const at::Tensor clean = normed.clone();
    constexpr std::int64_t kSamples = 11;  // more than one batch, and none that is full
    // The same draws, then each map by itself in double precision.
    const auto mean = [&](bool integrated, double noise, const auto& score) {
        auto generator = at::make_generator<at::CPUGeneratorImpl>(0);
        const double deviation = noise * (clean.max() - clean.min()).item<double>();
        at::Tensor sum = at::zeros({clean.size(0)}, at::kDouble);
        const std::int64_t maps = integrated ? kSamples + 1 : kSamples;
        for (std::int64_t i = 0; i < maps; ++i) {
            const at::AutoGradMode with_graph(true);
            const at::Tensor drawn =
                at::randn({1, clean.size(0), clean.size(1)}, generator, at::kFloat)[0].to(at::kDouble);
            const double share = integrated ? static_cast<double>(i) / kSamples : 1;
            const at::Tensor altered = (clean * share + drawn * deviation).requires_grad_(true);
            const auto run = plain->run(input.pixels, [&](const std::string& name, const at::Tensor& x) {
                return name == point ? altered : x;
            });
            sum += (altered * gradients(score(run), {altered}, {"tokens"}).value().front()).sum(1).detach();
        }
        return sum / static_cast<double>(maps);
    };
    const auto logit = [](const PlainVit::Run& run) { return run.logits[kClass]; };
    for (const char* batch : {"0", "1"}) {
        SCOPED_TRACE(batch);
        for (const bool integrated : {false, true}) {
            const Set set{{"smooth", integrated ? "integrated" : "noise"}, {"samples", "11"}, {"noise", "0.2"}};
            ExplainContext context(*model, input, {.index = kClass});
            context.batch = std::atoi(batch);
            Settings settings(method->parameters());
            for (const auto& [name, value] : set) ASSERT_TRUE(settings.set(name, value));
            const at::Tensor wanted = grid(mean(integrated, 0.2, logit));
            expect_map(method->explain(context, settings), wanted);
            // It is not the plain form in another guise.
            EXPECT_GT((wanted - grid((clean * slope).sum(1))).abs().max().item<double>(),
                      1e-2 * wanted.abs().max().item<double>());
        }
    }
    // Without noise the copies are the tokens themselves.
    expect_map(explain(*method, {{"smooth", "noise"}, {"samples", "3"}, {"noise", "0"}}), grid((clean * slope).sum(1)));
    const at::Tensor concept_vector = plain->run(other.pixels).features;
    expect_map(
        explain(*method, {{"smooth", "noise"}, {"samples", "11"}, {"score", "similarity"}}),
        grid(mean(false, 0.05, [&](const PlainVit::Run& run) { return (run.features * concept_vector).sum(); })));
    // The predicted class is the picture's.
    const auto predicted = explain(*method, {{"smooth", "noise"}, {"noise", "10"}, {"samples", "4"}}, {});
    ASSERT_TRUE(predicted) << predicted.error().message;
    EXPECT_EQ(predicted->explained, explain(*method, {}, {})->explained);
}

TEST_F(GradientMaps, RefuseWhatHasNoGraphOrClasses) {
    for (const auto& method : {make_gradient_rollout(), make_grad_sam()}) {
        EXPECT_EQ(explain(*method, {}, {.index = 11}).error().code, ErrorCode::BadInput);
        EXPECT_EQ(explain(*method, {}, {.region = {0}}).error().code, ErrorCode::Unsupported);
        ExplainContext context(*model, input, {.index = kClass});
        context.memory_budget = 1000;
        EXPECT_EQ(method->explain(context, Settings(method->parameters())).error().code, ErrorCode::OutOfMemory);
    }
    model->info().classes = 0;
    EXPECT_TRUE(make_gradient_rollout()->why_not(*model));
    EXPECT_TRUE(make_grad_sam()->why_not(*model));
    EXPECT_FALSE(make_cdam()->why_not(*model));
}

}  // namespace
}  // namespace vitrine::plugin::attention
