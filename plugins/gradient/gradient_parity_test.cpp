// Every method against captum 0.9 and PAIR's saliency 0.2.1 on the same weights, picture and noise
// (tests/parity/recipes/gradient.py, gradient_authors.py): one ViT, ResNet-56 as it was trained, and a small VGG,
// native and traced in place.
#include "gradient.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include <ATen/TensorOperators.h>
#include <vitrine/base/readers.h>
#include <vitrine/engine.h>

#include "../../tests/parity/parity_case.h"

namespace vitrine::plugin::gradient {
namespace {

struct Named {
    std::string file;    ///< of the outputs
    std::string model;   ///< below tests/parity/data, or below the test data where it starts with "/"
    bool relu = false;   ///< ReLU and max pooling only
    std::string pixels;  ///< where the picture comes from: a file's tensor, or drawn by seed
    std::int64_t height = 32, width = 48;
    std::uint64_t seed = 0;
};

void PrintTo(const Named& named, std::ostream* out) { *out << named.model; }

class Parity : public testing::TestWithParam<Named> {
  protected:
    void SetUp() override {
        const Named& named = GetParam();
        std::filesystem::path file = kData / named.model;
        if (named.model.starts_with("/")) {
            const char* set = std::getenv("VITRINE_TEST_DATA");
            if (set == nullptr) GTEST_SKIP() << "VITRINE_TEST_DATA is not set";
            file = set + named.model;
            if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " is not there";
        }
        OpenOptions options;
        options.trust = true;
        options.preprocess = {{"mean", "0.5,0.5,0.5"}, {"std", "0.5,0.5,0.5"}};
        auto opened = open_model(file.string(), options);
        ASSERT_TRUE(opened) << opened.error().message;
        model = std::move(*opened);
        const TensorFile stored = read_safetensors(kData / "gradient" / (named.file + ".safetensors")).value();
        for (const auto& [key, entry] : stored.tensors) wanted[key] = to_tensor(entry).value().clone();
        if (!named.pixels.empty()) {
            const TensorFile data = read_safetensors(kData / named.pixels).value();
            input.pixels = to_tensor(data.tensors.at("pixels")).value().clone();
        } else {
            input.pixels = draw("pixels", {1, 3, named.height, named.width}, 1.8, 0, named.seed);
        }
        const auto answer = run(*model, input.pixels);
        ASSERT_TRUE(answer) << answer.error().message;
        ASSERT_LT((*answer - wanted.at("logits")).abs().max().item<double>(), 1e-4);
    }

    Result<Attribution> explain(const Explainer& method, const std::map<std::string, std::string>& set = {},
                                Target target = {.index = 4}) {
        if (auto why = method.why_not(*model)) return fail(ErrorCode::Unsupported, "{}", *why);
        ExplainContext context(*model, input, std::move(target));
        context.batch = 3;  // divides none of the counts
        Settings settings(method.parameters());
        for (const auto& [key, value] : set) VITRINE_CHECK(settings.set(key, value));
        return method.explain(context, settings);
    }
    /// The channels at every second row and column, within 1e-4 of their range.
    void expect(const std::string& name, const Result<Attribution>& found) {
        SCOPED_TRACE(name);
        ASSERT_TRUE(found) << found.error().message;
        const at::Tensor& reference = wanted.at(name);
        const at::Tensor ours = found->channels.slice(1, 0, {}, 2).slice(2, 0, {}, 2);
        ASSERT_EQ(ours.sizes(), reference.sizes());
        const double range = (reference.max() - reference.min()).item<double>();
        const double off = (ours - reference).abs().max().item<double>();
        EXPECT_LT(off, 1e-4 * range);
        RecordProperty(name, fmt::format("{:.1e}", off / range));
        ASSERT_EQ(found->map.sizes(), found->channels.sizes().slice(1));
        EXPECT_FALSE(found->on_tokens);
    }
    /// The draws that the recipe gave captum.
    Draws given() const {
        const auto shape = input.pixels.sizes().vec();
        Draws out;
        out.noise = [shape](std::int64_t i) { return draw(fmt::format("noise.{}", i), shape, 0.5, 0, 0); };
        out.baseline = [shape](std::int64_t i) { return draw(fmt::format("baseline.{}", i), shape, 1.0, 0, 0); };
        out.place = [](std::int64_t i) {
            return 0.5 + 0.5 * draw(fmt::format("place.{}", i), {1}, 1.0, 0, 0).item<double>();
        };
        return out;
    }

    std::shared_ptr<Model> model;
    Input input;
    std::map<std::string, at::Tensor> wanted;
};

TEST_P(Parity, PlainGradientsAreCaptums) {
    expect("saliency", explain(*make_saliency()));
    expect("input_x_gradient", explain(*make_input_x_gradient()));
    expect("input_x_gradient_versus", explain(*make_input_x_gradient(), {}, {.index = 4, .versus = 7}));
}

TEST_P(Parity, IntegratedGradientsAreCaptumsInEveryScheme) {
    const auto method = make_integrated_gradients();
    expect("ig_captum", explain(*method, {{"preset", "captum"}, {"steps", "20"}}));
    expect("ig_white", explain(*method, {{"preset", "captum"}, {"steps", "20"}, {"baseline", "white"}}));
    for (const char* scheme : {"riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"})
        expect(std::string("ig_") + scheme, explain(*method, {{"preset", scheme}, {"steps", "9"}}));
}

TEST_P(Parity, NoiseTunnelsAndGradientShapAreCaptumsUnderTheSameNoise) {
    const std::map<std::string, std::string> six{{"samples", "6"}};
    expect("smoothgrad", explain(*make_smooth_grad(given()), six));
    expect("smoothgrad_sq", explain(*make_square_grad(given()), six));
    expect("vargrad", explain(*make_var_grad(given()), six));
    expect("gradient_shap", explain(*make_gradient_shap(given()), {{"samples", "4"}}));
}

TEST_P(Parity, SmoothGradAndItsSquareArePairsUnderTheSameSeed) {
    if (GetParam().file != "vit") GTEST_SKIP() << "shown on one model";
    const TensorFile stored = read_safetensors(kData / "gradient/authors.safetensors").value();
    for (const auto& [key, entry] : stored.tensors) wanted["pair." + key] = to_tensor(entry).value().clone();
    const auto under_seed = [&](const Explainer& method) -> Result<Attribution> {
        ExplainContext context(*model, input, {.index = 4}, 5);
        Settings settings(method.parameters());
        VITRINE_CHECK(settings.set("samples", "7"));
        return method.explain(context, settings);
    };
    expect("pair.smooth_grad", under_seed(*make_smooth_grad()));
    expect("pair.square_grad", under_seed(*make_square_grad()));
}

TEST_P(Parity, BlurIgIsPairs) {
    expect("blur_ig", explain(*make_blur_ig(), {{"max_sigma", "8"}, {"steps", "10"}}));
    expect("blur_ig_sqrt", explain(*make_blur_ig(), {{"max_sigma", "50"}, {"steps", "7"}, {"spacing", "sqrt"}}));
}

TEST_P(Parity, DeepLiftAndGuidedMethodsAreCaptums) {
    if (!GetParam().relu) {
        for (const auto& method : {make_deep_lift(), make_guided_backprop(), make_guided_grad_cam()})
            EXPECT_TRUE(method->why_not(*model)) << method->description().name;
        return;
    }
    expect("deep_lift", explain(*make_deep_lift()));
    expect("deep_lift_white", explain(*make_deep_lift(), {{"baseline", "white"}}));
    expect("guided_backprop", explain(*make_guided_backprop()));
    expect("guided_grad_cam", explain(*make_guided_grad_cam(), {{"preset", "captum"}}));
    // The rules hold for their own runs only.
    expect("saliency", explain(*make_saliency()));
}

INSTANTIATE_TEST_SUITE_P(
    Models, Parity,
    testing::Values(Named{"vit", "capture_timm_fused_native.safetensors", false, "capture_timm_fused.safetensors"},
                    Named{"resnet56", "/resnet_cifar10/resnet56.safetensors", true, "", 32, 32, 3},
                    Named{"vgg", "gradient/vgg_model.safetensors", true, "", 32, 48, 4},
                    Named{"vgg", "gradient/vgg_traced.pt", true, "", 32, 48, 4}),
    [](const auto& info) { return info.param.file + (info.param.model.ends_with(".pt") ? "Traced" : "Native"); });

}  // namespace
}  // namespace vitrine::plugin::gradient
