// Chefer and LeGrad against plain PyTorch formulations that form every map (tests/parity/recipes/kernels_gradients.py).
#include "attention.h"

#include <gtest/gtest.h>

#include <filesystem>

#include <ATen/TensorOperators.h>

#include <vitrine/base/readers.h>
#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/engine.h>

namespace vitrine::plugin::attention {
namespace {

const std::filesystem::path kData = std::filesystem::path(VITRINE_SOURCE_DIR) / "tests/parity/data";

class GradientMethods : public testing::Test {
  protected:
    void SetUp() override {
        auto opened = open_model((kData / "capture_timm_fused_native.safetensors").string(), {});
        ASSERT_TRUE(opened) << opened.error().message;
        model = std::move(*opened);
        input.pixels = tensor("capture_timm_fused.safetensors", "pixels");
    }
    static at::Tensor tensor(const char* file, const std::string& name) {
        const TensorFile data = read_safetensors(kData / file).value();
        return to_tensor(data.tensors.at(name)).value().clone();
    }
    static at::Tensor wanted(const std::string& name) { return tensor("kernels_gradients.safetensors", name); }
    Result<Attribution> explain(const Explainer& method, Target target, const char* preset = nullptr,
                                std::int64_t budget = 0) {
        ExplainContext context(*model, input, target);
        context.memory_budget = budget;
        Settings settings(method.parameters());
        if (preset != nullptr) VITRINE_CHECK(settings.set("preset", preset));
        return method.explain(context, settings);
    }
    static void expect_map(const Result<Attribution>& found, const at::Tensor& map) {
        ASSERT_TRUE(found) << found.error().message;
        ASSERT_EQ(found->map.sizes(), at::IntArrayRef({4, 6}));
        EXPECT_LT((found->map.reshape({-1}) - map).abs().max().item<double>(), 1e-4 * map.max().item<double>());
        EXPECT_TRUE(found->class_specific);
        EXPECT_EQ(found->implementation.rfind("map_sweep_gradient ", 0), 0U) << found->implementation;
        for (const Check& check : found->checks) EXPECT_TRUE(check.passed) << check.finding;
    }

    std::shared_ptr<Model> model;
    Input input;
};

TEST_F(GradientMethods, CheferIsThePlainFormulation) {
    const auto method = make_chefer();
    expect_map(explain(*method, {.index = 4, .versus = {}}), wanted("chefer"));
    expect_map(explain(*method, {.index = 4, .versus = 7}), wanted("chefer_versus"));
    // Another class has another map, or the target would not matter.
    EXPECT_GT(
        (explain(*method, {.index = 5, .versus = {}})->map.reshape({-1}) - wanted("chefer")).abs().max().item<double>(),
        1e-2 * wanted("chefer").max().item<double>());
}

TEST_F(GradientMethods, CheferBlockByBlockIsThePlainFormulation) {
    const CaptureCost cost = capture_cost(*model, input.pixels.size(2), input.pixels.size(3));
    const std::int64_t least = cost.inputs + cost.graph / model->info().layers;
    ASSERT_LT(least, cost.graph) << "the graph of all layers fits into what one block needs";
    const auto method = make_chefer();
    for (const auto& [target, name] : {std::pair{Target{.index = 4, .versus = {}}, "chefer"},
                                       std::pair{Target{.index = 4, .versus = 7}, "chefer_versus"}}) {
        const auto found = explain(*method, target, nullptr, least);
        expect_map(found, wanted(name));
        ASSERT_FALSE(found->notes.empty());
        EXPECT_NE(found->notes.back().find("each block ran a second time"), std::string::npos) << found->notes.back();
        // The same numbers as with one graph, up to the order in which gradients are added.
        const auto whole = explain(*method, target);
        EXPECT_TRUE(whole->notes.empty());
        EXPECT_NEAR(found->prefix_mass, whole->prefix_mass, 1e-5);
    }
    const auto refused = explain(*method, {.index = 4, .versus = {}}, nullptr, least / 4);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::OutOfMemory);
    EXPECT_NE(refused.error().message.find("the inputs of"), std::string::npos) << refused.error().message;
}

TEST_F(GradientMethods, LeGradKeepsNothingOfTheLayersBehindIt) {
    // No capture of this size would be allowed: what a layer kept is gone when the next one runs.
    const CaptureCost cost = capture_cost(*model, input.pixels.size(2), input.pixels.size(3));
    expect_map(explain(*make_legrad(), {.index = 4, .versus = {}}, nullptr, cost.inputs / 2), wanted("legrad_paper"));
}

TEST_F(GradientMethods, LeGradIsThePlainFormulation) {
    const auto method = make_legrad();
    expect_map(explain(*method, {.index = 4, .versus = {}}), wanted("legrad_paper"));
    expect_map(explain(*method, {.index = 4, .versus = {}}, "package"), wanted("legrad_package"));
    expect_map(explain(*method, {.index = 4, .versus = 7}), wanted("legrad_versus"));
}

TEST_F(GradientMethods, RefuseAClassThatIsNotThere) {
    for (const auto& method : {make_chefer(), make_legrad()}) {
        EXPECT_EQ(explain(*method, {.index = 11, .versus = {}}).error().code, ErrorCode::BadInput);
        EXPECT_EQ(explain(*method, {.index = 1, .versus = -1}).error().code, ErrorCode::BadInput);
        EXPECT_TRUE(explain(*method, {})) << "the predicted class";
    }
    model->info().classes = 0;
    EXPECT_TRUE(make_chefer()->why_not(*model));
    EXPECT_TRUE(make_legrad()->why_not(*model));
}

TEST_F(GradientMethods, SayInWordsWhereTheEndOfTheModelCannotBeReached) {
    const auto legrad = make_legrad();
    EXPECT_FALSE(legrad->why_not(*model));
    OpenOptions trusted;
    trusted.trust = true;
    auto traced = open_model((kData / "capture_timm_fused_traced.pt").string(), trusted);
    ASSERT_TRUE(traced) << traced.error().message;
    (*traced)->info().classes = 11;
    ASSERT_TRUE(legrad->why_not(**traced));
    EXPECT_NE(legrad->why_not(**traced)->find("traced"), std::string::npos) << *legrad->why_not(**traced);
    EXPECT_FALSE(make_chefer()->why_not(**traced));
    // An architecture that does not say how its end is run alone.
    struct Other final : Model {
        at::Tensor forward(const at::Tensor& pixels) override { return pixels; }
        TokenLayout layout(std::int64_t, std::int64_t) const override { return {}; }
        void to(at::Device, at::ScalarType) override {}
    } other;
    other.info().layers = 2;
    other.info().classes = 3;
    ASSERT_TRUE(legrad->why_not(other));
    EXPECT_NE(legrad->why_not(other)->find("final norm and head"), std::string::npos);
}

TEST_F(GradientMethods, StopWhenAsked) {
    for (const auto& method : {make_chefer(), make_legrad()}) {
        ExplainContext context(*model, input, {});
        std::stop_source source;
        source.request_stop();
        context.stop = source.get_token();
        const auto found = method->explain(context, Settings(method->parameters()));
        ASSERT_FALSE(found);
        EXPECT_EQ(found.error().code, ErrorCode::Cancelled);
    }
}

}  // namespace
}  // namespace vitrine::plugin::attention
