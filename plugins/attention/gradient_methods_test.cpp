// Chefer and LeGrad against plain PyTorch formulations that form every map (tests/parity/recipes/kernels_gradients.py).
#include "attention.h"

#include <gtest/gtest.h>

#include <filesystem>

#include <ATen/TensorOperators.h>

#include <vitrine/base/readers.h>
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
    Result<Attribution> explain(const Explainer& method, Target target, const char* preset = nullptr) {
        ExplainContext context(*model, input, target);
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
