// The class activation maps against formulas written out here, what they refuse, and traced models.
#include "cam.h"

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/engine.h>

#include "../../tests/contract/counting_model.h"
#include "../../tests/parity/parity_case.h"

namespace vitrine::plugin::cam {
namespace {

using testing::HasSubstr;
using Set = std::vector<std::pair<std::string, std::string>>;

Result<Attribution> explain(Model& model, const at::Tensor& pixels, const std::string& method, const Set& set = {},
                            const Target& target = {.index = 2}, std::int64_t batch = 0) {
    const Explainer* explainer = registry().explainer(method).value();
    Input input;
    input.pixels = pixels;
    ExplainContext context(model, input, target, 5);
    context.batch = batch;
    Settings settings(explainer->parameters());
    for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
    return explainer->explain(context, settings);
}

at::Tensor picture(const Model& model, std::uint64_t seed = 1) {
    const Preprocess& p = model.preprocess();
    return at::randn({1, 3, p.input_height, p.input_width}, at::make_generator<at::CPUGeneratorImpl>(seed));
}

/// A and G on the grid by the engine alone, float64: [channels, rows, cols].
struct Seen {
    at::Tensor a, g;
};
Seen seen_at(Model& model, const at::Tensor& pixels, const std::string& point, std::int64_t index) {
    CaptureOptions options;
    options.mixings = false;
    options.gradients = true;
    options.points = {point};
    const auto capture = run_captured(model, pixels, options).value();
    const at::AutoGradMode mode(true);
    const at::Tensor x = capture->points.at(point);
    const at::Tensor g = gradients(capture->output[0][index], {x}, {point}).value().front();
    const TokenLayout layout = model.layout(pixels.size(2), pixels.size(3));
    return {as_grid(x, layout).value()[0].detach().to(at::kDouble), as_grid(g, layout).value()[0].to(at::kDouble)};
}

void expect_close(const at::Tensor& have, const at::Tensor& want, double share = 1e-4) {
    ASSERT_EQ(have.sizes(), want.sizes());
    const double range = (want.max() - want.min()).item<double>();
    ASSERT_GT(range, 0);
    EXPECT_LT((have.to(at::kDouble) - want.to(at::kDouble)).abs().max().item<double>(), share * range);
}

/// The tiny model of an architecture.
class Cams : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        model = registry().architecture(GetParam()).value()->tiny(3).value();
        pixels = picture(*model);
        seen = seen_at(*model, pixels, model->info().cam_point, 2);
        channels = seen.a.size(0);
        rows = seen.a.size(1);
        cols = seen.a.size(2);
    }
    /// sum over channels of weight(k) * A, by loops.
    template <class Weight>
    at::Tensor by_loops(const Weight& weight) const {
        at::Tensor out = at::zeros({rows, cols}, at::kDouble);
        const auto a = seen.a.accessor<double, 3>();
        auto o = out.accessor<double, 2>();
        for (std::int64_t k = 0; k < channels; ++k) {
            const double w = weight(k);
            for (std::int64_t i = 0; i < rows; ++i)
                for (std::int64_t j = 0; j < cols; ++j) o[i][j] += w * a[k][i][j];
        }
        return out;
    }
    /// sum over the places of a channel of term(a, g).
    template <class Term>
    double over_places(std::int64_t k, const Term& term) const {
        const auto a = seen.a.accessor<double, 3>(), g = seen.g.accessor<double, 3>();
        double sum = 0;
        for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t j = 0; j < cols; ++j) sum += term(a[k][i][j], g[k][i][j]);
        return sum;
    }
    at::Tensor map(const std::string& method, Set set = {}) {
        auto found = explain(*model, pixels, method, set);
        EXPECT_TRUE(found.has_value()) << method << ": " << found.error().message;
        return found ? found->map : at::Tensor{};
    }
    double logit(const at::Tensor& x) {
        const at::NoGradGuard no_grad;
        return model->forward(x)[0][2].item<double>();
    }

    std::unique_ptr<Model> model;
    at::Tensor pixels;
    Seen seen;
    std::int64_t channels = 0, rows = 0, cols = 0;
};

TEST_P(Cams, GradCamIsItsFormula) {
    const double cells = static_cast<double>(rows * cols);
    const at::Tensor want =
        by_loops([&](auto k) { return over_places(k, [](double, double g) { return g; }) / cells; });
    expect_close(map("grad_cam", {{"relu", "false"}}), want);
    expect_close(map("grad_cam"), want.clamp_min(0));
}

TEST_P(Cams, LayerCamIsItsFormula) {
    at::Tensor want = at::zeros({rows, cols}, at::kDouble);
    const auto a = seen.a.accessor<double, 3>(), g = seen.g.accessor<double, 3>();
    for (std::int64_t k = 0; k < channels; ++k)
        for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t j = 0; j < cols; ++j) want[i][j] += std::max(g[k][i][j], 0.0) * a[k][i][j];
    expect_close(map("layer_cam"), want.clamp_min(0));
}

TEST_P(Cams, ScoreCamIsItsFormula) {
    std::vector<double> scores;
    for (std::int64_t k = 0; k < channels; ++k) {
        at::Tensor mask =
            at::upsample_bilinear2d(seen.a[k].unsqueeze(0).unsqueeze(0), {pixels.size(2), pixels.size(3)}, false);
        mask = mask - mask.min();
        const double largest = mask.max().item<double>();
        if (largest > 0) mask = mask / largest;
        scores.push_back(logit(pixels * mask.to(at::kFloat)));
    }
    double sum = 0;
    for (const double s : scores) sum += std::exp(s);
    const at::Tensor want = by_loops([&](auto k) { return std::exp(scores[static_cast<std::size_t>(k)]) / sum; });
    expect_close(map("score_cam", {{"relu", "false"}}), want, 2e-4);
}

TEST_P(Cams, PaperPresetsAreTheirFormulas) {
    // Grad-CAM++, equation 19: 2 g^2 + (sum of A) g^3 below g^2.
    expect_close(map("grad_cam_plus_plus", {{"relu", "false"}}), by_loops([&](auto k) {
                     const double sum = over_places(k, [](double a, double) { return a; });
                     return over_places(k, [&](double, double g) {
                         const double below = 2 * g * g + sum * g * g * g;
                         return g > 0 && below != 0 ? g * g / below * g : 0.0;
                     });
                 }));
    expect_close(map("xgrad_cam", {{"relu", "false"}}), by_loops([&](auto k) {
                     const double sum = over_places(k, [](double a, double) { return a; });
                     return sum != 0 ? over_places(k, [](double a, double g) { return a * g; }) / sum : 0.0;
                 }));
    expect_close(map("hires_cam"), (seen.a * seen.g).sum(0));
}

TEST_P(Cams, AblationCamLeavesEachChannelOut) {
    const double whole = logit(pixels);
    const bool tokens = model->info().layers > 0;
    const at::Tensor want = by_loops([&](auto k) {
        CaptureOptions options;
        options.mixings = false;
        options.edits.push_back({Edit::Kind::ReplacePoint, model->info().cam_point, 0, 0, [&](const at::Tensor& x) {
                                     at::Tensor y = x.clone();
                                     y.select(tokens ? 2 : 1, k).zero_();
                                     return y;
                                 }});
        const double without = run_captured(*model, pixels, options).value()->output[0][2].item<double>();
        return (whole - without) / whole;
    });
    expect_close(map("ablation_cam", {{"relu", "false"}}), want);
    // A layer in front of the last block: more than one block runs again.
    if (tokens) {
        const auto found = explain(*model, pixels, "ablation_cam", {{"layer", "blocks.0"}});
        ASSERT_TRUE(found.has_value()) << found.error().message;
        EXPECT_THAT(found->implementation, HasSubstr("last 3 blocks"));
    }
    // What is in front of the layer runs once for all channels, beside the run that gives the layer.
    CountingModel counted(*model);
    const auto again = explain(counted, pixels, "ablation_cam", {{"relu", "false"}});
    ASSERT_TRUE(again.has_value()) << again.error().message;
    expect_close(again->map, want);
    // So it does for a layer in the middle, whose channels go through shortcuts and pooling.
    if (!tokens) {
        EXPECT_EQ(counted.forwards(), 2);
        const std::string middle = model->points()[model->points().size() / 2].name;
        const auto batched = explain(*model, pixels, "ablation_cam", {{"layer", middle}, {"relu", "false"}});
        ASSERT_TRUE(batched.has_value()) << batched.error().message;
        double largest = 0;
        const auto look_at = [&](std::int64_t channel) {
            CaptureOptions options;
            options.mixings = false;
            options.edits.push_back({Edit::Kind::ReplacePoint, middle, 0, 0, [&](const at::Tensor& x) {
                                         at::Tensor y = x.clone();
                                         y.select(1, channel).zero_();
                                         return y;
                                     }});
            return (whole - run_captured(*model, pixels, options).value()->output[0][2].item<double>()) / whole;
        };
        CaptureOptions options;
        options.mixings = false;
        options.points = {middle};
        const at::Tensor a = run_captured(*model, pixels, options).value()->points.at(middle)[0].to(at::kDouble);
        at::Tensor sum = at::zeros({a.size(1), a.size(2)}, at::kDouble);
        for (std::int64_t k = 0; k < a.size(0); ++k) {
            largest = std::max(largest, std::abs(look_at(k)));
            sum += look_at(k) * a[k];
        }
        EXPECT_GT(largest, 1e-3) << "proves nothing";
        expect_close(batched->map, sum);
    }
}

TEST_P(Cams, EigenCamIsTheFirstPrincipalProjection) {
    const at::Tensor x = seen.a.flatten(1).t();
    const auto [u, s, v] = at::linalg_svd(x, false);
    at::Tensor want = x.mv(v[0]);
    const at::Tensor length = (x * x).sum(1).sqrt();
    if (((want - want.mean()) * (length - length.mean())).sum().item<double>() < 0) want = -want;
    expect_close(map("eigen_cam"), want.reshape({rows, cols}));
    // Of an activation turned into its opposite the projection is the same: the sign is ours, not the solver's.
    double agreement = 0;
    const at::Tensor one = principal_projection(x, length, true, agreement);
    expect_close(principal_projection(-x, length, true, agreement), one);
    EXPECT_GE(agreement, 0);
}

TEST_P(Cams, ShapleyCamHasTheSecondOrderTerm) {
    // The Hessian times the activation by differences of the gradient along it.
    const std::string point = model->info().cam_point;
    const auto slope = [&](double by) {
        CaptureOptions options;
        options.mixings = false;
        options.gradients = true;
        options.points = {point};
        options.edits.push_back({Edit::Kind::ReplacePoint, point, 0, 0, [=](const at::Tensor& x) { return x * by; }});
        const auto capture = run_captured(*model, pixels, options).value();
        const at::AutoGradMode mode(true);
        const at::Tensor number = capture->output[0][2] + at::softmax(capture->output, 1)[0][2].log();
        const at::Tensor g = gradients(number, {capture->points.at(point)}, {point}).value().front();
        return as_grid(g, model->layout(pixels.size(2), pixels.size(3))).value()[0].to(at::kDouble);
    };
    const double h = 1e-2;
    const at::Tensor ha = (slope(1 + h) - slope(1 - h)) / (2 * h), w = (slope(1) - 0.5 * ha).mean({1, 2});
    const bool flash = at::globalContext().userEnabledFlashSDP();
    expect_close(map("shapley_cam", {{"relu", "false"}}),
                 by_loops([&](auto k) { return w[k].template item<double>(); }), 2e-2);
    EXPECT_EQ(at::globalContext().userEnabledFlashSDP(), flash);
    EXPECT_GT(ha.abs().max().item<double>(), 1e-6);
}

TEST_P(Cams, TheBatchDoesNotMatter) {
    for (const char* method : {"score_cam", "ss_cam", "is_cam", "ablation_cam"}) {
        SCOPED_TRACE(method);
        Set set;
        if (method[0] != 'a' && method[1] != 'c') set = {{"samples", "2"}};
        const auto one = explain(*model, pixels, method, set, {.index = 2}, 1);
        const auto some = explain(*model, pixels, method, set, {.index = 2}, 5);
        ASSERT_TRUE(one.has_value() && some.has_value());
        expect_close(some->map, one->map);
    }
}

TEST_P(Cams, EveryTargetHasItsNumber) {
    const at::Tensor two = map("grad_cam", {{"relu", "false"}});
    const auto versus = explain(*model, pixels, "grad_cam", {{"relu", "false"}}, {.index = 2, .versus = 1});
    const auto other = explain(*model, pixels, "grad_cam", {{"relu", "false"}}, {.index = 1});
    ASSERT_TRUE(versus.has_value() && other.has_value());
    expect_close(versus->map, two - other->map);
    EXPECT_THAT(versus->explained, HasSubstr("minus"));
    Target region;
    region.region = {1, 2};
    const auto place = explain(*model, pixels, "layer_cam", {}, region);
    ASSERT_TRUE(place.has_value()) << place.error().message;
    EXPECT_THAT(place->explained, HasSubstr("activation of 2 tokens"));
    region.region = {100000};
    EXPECT_EQ(explain(*model, pixels, "layer_cam", {}, region).error().code, ErrorCode::BadInput);
    // Finer-CAM against one class is Grad-CAM of the difference.
    const auto finer =
        explain(*model, pixels, "finer_cam", {{"relu", "false"}, {"strength", "1"}}, {.index = 2, .versus = 1});
    ASSERT_TRUE(finer.has_value()) << finer.error().message;
    expect_close(finer->map, versus->map);
}

TEST_P(Cams, SeveralLayersAreFusedOnTheFinestGrid) {
    const std::string own = model->info().cam_point, early = model->info().layers > 0 ? "blocks.0" : "layer1";
    const at::Tensor a = map("layer_cam", {{"layer", early}}), b = map("layer_cam");
    const auto scaled = [&](const at::Tensor& m, bool mean) {
        const at::Tensor one = mean ? (m - m.min()) / (m - m.min()).max() : (2 * m / m.max()).tanh();
        return at::upsample_bilinear2d(one.unsqueeze(0).unsqueeze(0), {a.size(0), a.size(1)}, false)[0][0];
    };
    expect_close(map("layer_cam", {{"layer", early + ", " + own}}), scaled(a, false).maximum(scaled(b, false)));
    expect_close(map("layer_cam", {{"layer", own + "," + early}, {"fusion", "mean"}}),
                 (scaled(a, true) + scaled(b, true)) / 2);
}

TEST_P(Cams, WhatHasNoMapIsRefusedInWords) {
    const auto says = [&](const char* method, const char* layer) {
        const auto found = explain(*model, pixels, method, {{"layer", layer}});
        EXPECT_FALSE(found.has_value()) << method << " at " << layer;
        return found ? std::string() : found.error().message;
    };
    EXPECT_THAT(says("grad_cam", "blocks.99"), HasSubstr("no point named blocks.99"));
    EXPECT_THAT(says("grad_cam", "head_input"), HasSubstr("is no map"));
    const std::string both = model->info().cam_point + "," + model->info().cam_point;
    EXPECT_THAT(says("score_cam", both.c_str()), HasSubstr("reads one layer"));
    const std::string own = model->info().cam_point;
    model->info().cam_point.clear();
    EXPECT_THAT(says("grad_cam", ""), HasSubstr("give one of its named points as layer"));
    model->info().cam_point = own;
    model->info().classes = 0;
    for (const char* method : {"cam", "finer_cam", "full_grad"})
        EXPECT_TRUE(registry().explainer(method).value()->why_not(*model)) << method;
}

TEST_P(Cams, HalfPrecisionGivesNearlyTheSame) {
    const at::Tensor full = map("grad_cam", {{"relu", "false"}});
    model->to(at::kCPU, at::kBFloat16);
    const auto half = explain(*model, pixels, "grad_cam", {{"relu", "false"}});
    ASSERT_TRUE(half.has_value()) << half.error().message;
    expect_close(half->map, full, 0.15);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Cams, testing::Values("vit", "cnn"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Cam, NeedsPoolingAndOneLinearLayer) {
    const auto cnn = registry().architecture("cnn").value()->tiny(3).value();
    const at::Tensor pixels = picture(*cnn);
    const auto found = explain(*cnn, pixels, "cam");
    ASSERT_TRUE(found.has_value()) << found.error().message;
    // The weights of the linear layer, as they lie in the model.
    const Seen seen = seen_at(*cnn, pixels, "features", 2);
    at::Tensor weight;
    for (const auto& [name, tensor] : cnn->parameters())
        if (name == "linear.weight") weight = tensor[2].to(at::kDouble);
    ASSERT_TRUE(weight.defined());
    expect_close(found->map, (weight.reshape({-1, 1, 1}) * seen.a).sum(0));
    EXPECT_TRUE(found->is_signed);

    EXPECT_THAT(explain(*cnn, pixels, "cam", {{"layer", "layer1"}}).error().message, HasSubstr("grad_cam"));
    EXPECT_EQ(explain(*cnn, pixels, "cam", {}, {.index = 2, .scale = Scale::Probability}).error().code,
              ErrorCode::BadInput);
    const auto vit = registry().architecture("vit").value()->tiny(3).value();
    EXPECT_THAT(registry().explainer("cam").value()->why_not(*vit).value_or(""), HasSubstr("class token"));
    // Three linear layers with ReLUs between them.
    const Case given = load("torchvision_vgg11");
    const auto vgg = build(given, checkpoint_of(given)).value();
    const auto refused = explain(*vgg, draw("pixels", {1, 3, 64, 64}, 1.8, 0, 5), "cam");
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
    EXPECT_THAT(refused.error().message, HasSubstr("one linear layer"));
}

TEST(Cam, PlacesThatDoNotReachTheAnswerAreRefused) {
    const auto vit = registry().architecture("vit").value()->tiny(3).value();
    const auto found = explain(*vit, picture(*vit), "grad_cam", {{"layer", "norm"}});
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().code, ErrorCode::Unsupported);
    EXPECT_THAT(found.error().message, HasSubstr("such as blocks.2.norm1"));
}

TEST(FullGrad, IsCompleteAndLeavesTheModelAsItWas) {
    const auto cnn = registry().architecture("cnn").value()->tiny(3).value();
    const at::Tensor pixels = picture(*cnn);
    const auto found = explain(*cnn, pixels, "full_grad");
    ASSERT_TRUE(found.has_value()) << found.error().message;
    ASSERT_EQ(found->checks.size(), 1U);
    EXPECT_TRUE(found->checks[0].passed) << found->checks[0].finding;
    EXPECT_EQ(found->map.size(0), pixels.size(2));
    EXPECT_EQ(found->map.size(1), pixels.size(3));
    for (const auto& [name, tensor] : cnn->parameters()) EXPECT_FALSE(tensor.requires_grad()) << name;
    // Activations that are clipped above have constant parts: without them the sum would not be the score.
    const Case given = load("torchvision_mobilenet_v2");
    const auto mobile = build(given, checkpoint_of(given)).value();
    const auto clipped = explain(*mobile, draw("pixels", {1, 3, 96, 96}, 1.8, 0, 5), "full_grad");
    ASSERT_TRUE(clipped.has_value()) << clipped.error().message;
    EXPECT_TRUE(clipped->checks.at(0).passed) << clipped->checks.at(0).finding;
    EXPECT_THAT(clipped->notes.at(0), HasSubstr("constant parts"));
    const auto vit = registry().architecture("vit").value()->tiny(3).value();
    EXPECT_TRUE(registry().explainer("full_grad").value()->why_not(*vit));
}

class Traced : public testing::Test {
  protected:
    static std::shared_ptr<Model> open(const std::string& file) {
        OpenOptions trusted;
        trusted.trust = true;
        auto opened = open_model((kData / file).string(), trusted);
        EXPECT_TRUE(opened.has_value()) << opened.error().message;
        return opened ? *opened : nullptr;
    }
};

TEST_F(Traced, GivesTheMapsOfTheNativeModel) {
    const auto native = open("capture_timm_fused_native.safetensors"), traced = open("capture_timm_fused_traced.pt");
    ASSERT_TRUE(native && traced);
    const TensorFile data = read_safetensors(kData / "capture_timm_fused.safetensors").value();
    const at::Tensor pixels = to_tensor(data.tensors.at("pixels")).value().clone();
    ASSERT_EQ(native->info().cam_point, traced->info().cam_point);
    for (const Rule& rule : rules()) {
        const std::string method = rule.name;
        if (method == "cam" || method == "ss_cam" || method == "is_cam") continue;
        SCOPED_TRACE(method);
        EXPECT_FALSE(registry().explainer(method).value()->why_not(*traced));
        const auto a = explain(*native, pixels, method, {{"relu", "false"}});
        const auto b = explain(*traced, pixels, method, {{"relu", "false"}});
        ASSERT_TRUE(a.has_value()) << a.error().message;
        ASSERT_TRUE(b.has_value()) << b.error().message;
        expect_close(b->map, a->map, 1e-3);
    }
    EXPECT_TRUE(registry().explainer("full_grad").value()->why_not(*traced));
}

TEST_F(Traced, ConvolutionsInPlaceAndChannelsLast) {
    for (const auto& [name, layer] : {std::pair{"traced_cnn", ""}, {"traced_channels_last", "mix"}}) {
        SCOPED_TRACE(name);
        const auto model = open(std::string("cam/") + name + ".pt");
        ASSERT_TRUE(model);
        const auto wanted = read_safetensors(kData / "cam" / (std::string(name) + ".safetensors")).value();
        const at::Tensor pixels = draw("pixels", {1, 3, 32, 48}, 1.8, 0.0, 5);
        for (const char* method : {"grad_cam", "hires_cam"}) {
            const auto found = explain(*model, pixels, method, {{"relu", "false"}, {"layer", layer}}, {.index = 4});
            ASSERT_TRUE(found.has_value()) << found.error().message;
            expect_close(found->map, to_tensor(wanted.tensors.at(method)).value());
        }
    }
}

}  // namespace
}  // namespace vitrine::plugin::cam
