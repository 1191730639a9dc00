// The class activation maps against pytorch-grad-cam and torchcam, before ReLU and min-max, on the native grid
// (tests/parity/recipes/cam.py), FullGrad also against its authors' code (recipes/gradient_authors.py).
#include <algorithm>
#include <cstdio>

#include <ATen/TensorOperators.h>
#include <ATen/ops/slice.h>
#include <gtest/gtest.h>

#include <vitrine/engine.h>

#include "../../plugins/cam/cam.h"
#include "parity_case.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

/// A model, the picture it is shown, and what the packages gave.
struct Reference {
    const char* name;
    const char* weights;  ///< a parity case whose weights are drawn, or a path below the shared data
    bool shared;
    std::vector<std::int64_t> pixels;
    const char* point;
    int masked;  ///< how many methods of a pass a channel it is compared with
};
const Reference kReferences[] = {
    {"vit", "attention_methods/class_token", false, {1, 3, 112, 112}, "blocks.3.norm1", 1},
    {"vit_mean", "attention_methods/mean_pooling", false, {1, 3, 64, 96}, "blocks.2", 4},
    {"resnet18", "torchvision_resnet18", false, {1, 3, 128, 128}, "features", 0},
    {"mobilenet_v2", "torchvision_mobilenet_v2", false, {1, 3, 96, 96}, "features", 0},
    {"vgg", "torchvision_vgg11_bn", false, {1, 3, 160, 128}, "features", 5},
    {"resnet56", "resnet_cifar10/resnet56.safetensors", true, {1, 3, 32, 32}, "features", 3},
    {"mobilenet", "mobilenet_v2_tf/model.safetensors", true, {1, 3, 224, 224}, "features", 0},
    {"vit_tiny", "vit_tiny_patch16_224", true, {1, 3, 224, 224}, "blocks.11.norm1", 0},
};

class CamParity : public testing::TestWithParam<Reference> {
  protected:
    void SetUp() override {
        const Reference& r = GetParam();
        if (r.shared) {
            const char* set = std::getenv("VITRINE_TEST_DATA");
            const fs::path data = set != nullptr ? fs::path(set) : fs::path(VITRINE_SOURCE_DIR) / "../shared/data";
            if (!fs::exists(data / r.weights)) GTEST_SKIP() << "no test data at " << data;
            auto opened = open_model((data / r.weights).string(), {});
            ASSERT_TRUE(opened.has_value()) << opened.error().message;
            model = std::move(*opened);
        } else {
            const Case given = load(r.weights);
            auto built = build(given, checkpoint_of(given));
            ASSERT_TRUE(built.has_value()) << built.error().message;
            model = std::move(*built);
        }
        input.pixels = draw("pixels", r.pixels, 1.8, 0.0, 5);
        const auto file = read_safetensors(kData / "cam" / (std::string(r.name) + ".safetensors")).value();
        for (const auto& [key, entry] : file.tensors) wanted[key] = to_tensor(entry).value();
        const auto theirs = read_safetensors(kData / "cam/full_grad_authors.safetensors").value();
        if (const auto found = theirs.tensors.find(r.name); found != theirs.tensors.end())
            wanted["full_grad.authors"] = to_tensor(found->second).value();
        ASSERT_EQ(model->info().cam_point, r.point);
    }
    Result<Attribution> explain(const std::string& method,
                                const std::vector<std::pair<std::string, std::string>>& set) {
        const Explainer* explainer = registry().explainer(method).value();
        if (auto why = explainer->why_not(*model)) return fail(ErrorCode::Unsupported, "{}", *why);
        ExplainContext context(*model, input, {.index = 4}, 5);
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return explainer->explain(context, settings);
    }
    /// Compares within 1e-4 of the range; nothing where this model has no such reference.
    void expect(const std::string& key, const std::string& method,
                std::vector<std::pair<std::string, std::string>> set = {}, bool up_to_sign = false) {
        if (wanted.count(key) == 0) return;
        SCOPED_TRACE(key);
        if (method != "full_grad") set.emplace_back("relu", "false");
        const auto found = explain(method, set);
        ASSERT_TRUE(found.has_value()) << found.error().message;
        const at::Tensor& want = wanted.at(key);
        at::Tensor have = found->map;
        if (method == "full_grad") have = at::slice(at::slice(have, 0, 0, have.size(0), 4), 1, 0, have.size(1), 4);
        ASSERT_EQ(have.sizes(), want.sizes());
        const double range = (want.max() - want.min()).item<double>();
        ASSERT_GT(range, 0);
        double error = (have - want).abs().max().item<double>() / range;
        if (up_to_sign) error = std::min(error, (have + want).abs().max().item<double>() / range);
        EXPECT_LT(error, 1e-4);
        for (const Check& check : found->checks) EXPECT_TRUE(check.passed) << check.name << ": " << check.finding;
        std::printf("%s %s: within %.1e of the range\n", GetParam().name, key.c_str(), error);
        ++compared;
    }

    std::shared_ptr<Model> model;
    Input input;
    std::map<std::string, at::Tensor> wanted;
    int compared = 0;
};

TEST_P(CamParity, GradientMethodsAreThePackages) {
    expect("grad_cam", "grad_cam");
    expect("grad_cam.torchcam", "grad_cam");
    expect("grad_cam_plus_plus.torchcam", "grad_cam_plus_plus", {{"preset", "torchcam"}});
    expect("xgrad_cam.pytorch-grad-cam", "xgrad_cam", {{"preset", "pytorch-grad-cam"}});
    expect("xgrad_cam.torchcam", "xgrad_cam", {{"preset", "torchcam"}});
    expect("hires_cam", "hires_cam");
    expect("layer_cam", "layer_cam");
    expect("layer_cam.torchcam", "layer_cam");
    expect("eigen_cam.pytorch-grad-cam", "eigen_cam", {{"preset", "pytorch-grad-cam"}}, true);
    expect("eigen_grad_cam", "eigen_grad_cam", {}, true);
    expect("finer_cam.pytorch-grad-cam", "finer_cam", {{"preset", "pytorch-grad-cam"}});
    expect("finer_cam.torchcam", "finer_cam");
    EXPECT_EQ(compared, 12);
    expect("random_cam", "random_cam");
    expect("cam", "cam");
    expect("full_grad.pytorch-grad-cam", "full_grad", {{"preset", "pytorch-grad-cam"}});
    expect("full_grad.paper", "full_grad");
    expect("full_grad.biases", "full_grad", {{"activations", "false"}});
    expect("full_grad.authors", "full_grad", {{"activations", "false"}});
}

// pytorch-grad-cam divides by 2 g^2 + sum(A) g^3 + 1e-6, which passes through zero where g and sum(A) differ in sign,
// as they may on tokens. Close to it the weight is what rounding leaves, and another processor gives another one, so
// that no bound on the whole map could hold. Compared are the channels whose denominator, in double, keeps at least a
// tenth of the size of its terms wherever g is above zero (elsewhere relu(g) takes the place out), against the
// package's own weights of them; the whole map too where these are all channels, as behind a ReLU.
TEST_P(CamParity, GradCamPlusPlusIsThePackageWhereItIsWellPosed) {
    namespace cam = plugin::cam;
    ExplainContext context(*model, input, {.index = 4}, 5);
    const auto logit = [](const at::Tensor&, std::optional<Objective>&) -> Result<cam::Number> {
        return cam::Number{[](const at::Tensor& answer) { return answer.select(1, 4); }, "class 4"};
    };
    auto seen = cam::look(context, {GetParam().point}, cam::Needs::Gradient, logit);
    ASSERT_TRUE(seen.has_value()) << seen.error().message;
    cam::Layer layer = seen->layers.front();
    const std::int64_t channels = layer.a.size(0);
    const at::Tensor squares = 2 * layer.g * layer.g, cubes = layer.a.sum({1, 2}, true) * layer.g * layer.g * layer.g;
    const at::Tensor well = (squares + cubes + 1e-6).abs() >= 0.1 * (squares + cubes.abs() + 1e-6);
    const at::Tensor kept = (layer.g <= 0).logical_or(well).flatten(1).all(1).nonzero().flatten();
    ASSERT_GE(2 * kept.numel(), channels) << "too little is left to compare";

    layer.a = layer.a.index_select(0, kept);
    layer.g = layer.g.index_select(0, kept);
    const auto& rules = cam::rules();
    const auto rule = std::find_if(rules.begin(), rules.end(),
                                   [](const cam::Rule& r) { return std::string("grad_cam_plus_plus") == r.name; });
    ASSERT_NE(rule, rules.end());
    Settings settings(registry().explainer(rule->name).value()->parameters());
    ASSERT_TRUE(settings.set("preset", "pytorch-grad-cam"));
    Attribution notes;
    const auto map = rule->map({context, settings, nullptr, &seen->number, layer, seen->score}, notes);
    ASSERT_TRUE(map.has_value()) << map.error().message;
    const at::Tensor weights = wanted.at("grad_cam_plus_plus.pytorch-grad-cam.weights");
    ASSERT_EQ(weights.numel(), channels);
    const at::Tensor want = (weights.to(at::kDouble).index_select(0, kept).reshape({-1, 1, 1}) * layer.a).sum(0);
    const double range = (want.max() - want.min()).item<double>();
    ASSERT_GT(range, 0);
    const double error = (*map - want).abs().max().item<double>() / range;
    EXPECT_LT(error, 1e-4);
    std::printf("%s: %lld of %lld channels, within %.1e of the range\n", GetParam().name,
                static_cast<long long>(kept.numel()), static_cast<long long>(channels), error);
    if (kept.numel() == channels)
        expect("grad_cam_plus_plus.pytorch-grad-cam", "grad_cam_plus_plus", {{"preset", "pytorch-grad-cam"}});
}

TEST_P(CamParity, ShapleyCamIsThePackage) {
    if (wanted.count("shapley_cam.rest") == 0) GTEST_SKIP() << "shown on the others";
    expect("shapley_cam.target", "shapley_cam", {{"utility", "target"}});
    expect("shapley_cam.rest", "shapley_cam");
    EXPECT_EQ(compared, 2);
}

TEST_P(CamParity, MaskedAndAblatedRunsAreThePackages) {
    expect("score_cam.pytorch-grad-cam", "score_cam", {{"preset", "pytorch-grad-cam"}});
    expect("score_cam.torchcam", "score_cam", {{"preset", "torchcam"}});
    expect("ss_cam", "ss_cam", {{"samples", "2"}});
    expect("is_cam", "is_cam", {{"samples", "3"}});
    expect("ablation_cam.pytorch-grad-cam", "ablation_cam", {{"preset", "pytorch-grad-cam"}});
    EXPECT_EQ(compared, GetParam().masked);
    if (compared == 0) GTEST_SKIP() << "a pass for each of so many channels is left to the smaller models";
}

TEST_P(CamParity, SeveralLayersAreFusedAsTorchcamDoes) {
    if (wanted.count("layer_cam.several") == 0) GTEST_SKIP() << "shown on one model";
    const auto found = explain("layer_cam", {{"layer", "layer3,layer4"}, {"fusion", "torchcam"}});
    ASSERT_TRUE(found.has_value()) << found.error().message;
    const at::Tensor& want = wanted.at("layer_cam.several");
    ASSERT_EQ(found->map.sizes(), want.sizes());
    EXPECT_LT((found->map - want).abs().max().item<double>(), 1e-4 * (want.max() - want.min()).item<double>());
}

INSTANTIATE_TEST_SUITE_P(Models, CamParity, testing::ValuesIn(kReferences),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vitrine
