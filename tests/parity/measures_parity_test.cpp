// Measures against what torchcam, pytorch-grad-cam, quantus, scikit-image and SciPy say of the same map, picture and
// weights (recipes/measures.py).
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

#include <vitrine/explainer.h>
#include <vitrine/measure.h>

#include "parity_case.h"
// The functions below the measures: a hole filled in, noise that is given, likeness.
#include "../../plugins/measures/measures.h"

namespace vitrine {
namespace {

/// The gradient of the logit, summed over the channels.
class Gradient final : public Explainer {
  public:
    Description description() const override { return {"gradient", "Gradient", "d logit / d pixels", "the test", 0}; }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    Result<Attribution> explain(ExplainContext& context, const Settings&) const override {
        const Objective objective = VITRINE_TRY(context.objective(Scale::Logit));
        const auto slopes = VITRINE_TRY(context.slopes(objective, context.input.pixels));
        Attribution out;
        out.method = "gradient";
        out.map = slopes.gradients[0].sum(0);
        out.is_signed = true;
        return out;
    }
};

class MeasuresParity : public testing::TestWithParam<std::pair<const char*, const char*>> {
  protected:
    void SetUp() override {
        given = load(GetParam().second);
        auto built = build(given, checkpoint_of(given));
        ASSERT_TRUE(built.has_value()) << built.error().message;
        model = std::move(*built);
        const auto file =
            read_safetensors(kData / "measures" / (std::string(GetParam().first) + ".safetensors")).value();
        for (const auto& [key, entry] : file.tensors) wanted[key] = to_tensor(entry).value();
        input.pixels = draw("pixels", given.json.at("pixels").get<std::vector<std::int64_t>>(), 1.8, 0.0,
                            given.json.at("seed").get<std::uint64_t>())
                           .narrow(0, 0, 1);
        side = input.pixels.size(3);
        input.geometry = {side, side, side, side, 1, 1, 0, 0, 1};
        const at::Tensor drawn = draw("map", {1, 7, 7}, 1.0, 0.0, 1)[0];
        attribution.method = "drawn";
        attribution.map = (drawn - drawn.min()) / (drawn.max() - drawn.min());
        target.index = wanted.at("class").item<std::int64_t>();
        const at::NoGradGuard no_grad;
        ASSERT_NEAR(model->forward(input.pixels).softmax(1)[0][*target.index].item<double>(), number("probability"),
                    1e-5);
    }
    double number(const std::string& name, std::int64_t i = 0) const {
        return wanted.at(name).flatten()[i].item<double>();
    }

    Result<Score> measure(const std::string& name, std::vector<std::pair<const char*, std::string>> set = {}) {
        for (const auto& one : registry().measures()) {
            if (one->description().name != name) continue;
            Settings settings(one->parameters());
            for (const auto& [key, value] : set) VITRINE_CHECK(settings.set(key, value));
            ExplainContext context(*model, input, target, 0);
            context.boxes = boxes;
            const Settings none;
            return one->measure(context, {gradient, none, attribution}, settings);
        }
        return fail(ErrorCode::NotFound, "there is no measure {}", name);
    }
    void expect(const std::string& wanted_name, const Result<Score>& found, double bound = 1e-4, double factor = 1) {
        ASSERT_TRUE(found.has_value()) << found.error().message;
        ASSERT_FALSE(found->left_out) << *found->left_out;
        const double want = number(wanted_name) * factor;
        const double error = std::abs(found->value - want) / std::max(1.0, std::abs(want));
        EXPECT_LT(error, bound) << wanted_name << ": " << found->value << ", expected " << want;
        std::printf("%s %s: %.6g, off by %.1e\n", GetParam().first, wanted_name.c_str(), found->value, error);
    }

    Case given;
    std::unique_ptr<Model> model;
    std::map<std::string, at::Tensor> wanted;
    Input input;
    Attribution attribution;
    Gradient gradient;
    Target target;
    std::vector<Box> boxes;
    std::int64_t side = 0;
};

TEST_P(MeasuresParity, TorchcamsNumbers) {
    const at::Tensor coarse = attribution.map;
    attribution.map = wanted.at("map");
    expect("torchcam.deletion", measure("deletion", {{"preset", "torchcam"}}));
    expect("torchcam.insertion", measure("insertion", {{"preset", "torchcam"}}));
    attribution.map = coarse;
    expect("torchcam.drop", measure("average_drop", {{"preset", "torchcam"}}), 1e-4, 100);
    expect("torchcam.increase", measure("increase_in_confidence", {{"preset", "torchcam"}}), 1e-4, 100);
}

TEST_P(MeasuresParity, RoadOfPytorchGradCam) {
    attribution.map = wanted.at("map");
    for (const auto& [order, sign] : {std::pair{"most", -1.0}, {"least", 1.0}}) {
        const auto found = measure("road", {{"order", order}, {"noise", "0"}, {"shares", "10,50,80"}});
        if (!found && found.error().code == ErrorCode::NotFound) GTEST_SKIP() << "built without Eigen";
        ASSERT_TRUE(found.has_value()) << found.error().message;
        ASSERT_EQ(found->curve.size(), 3u);
        // Its percentiles 20, 50, 90 remove 80, 50 and 10 % of the pixels.
        for (std::int64_t i = 0; i < 3; ++i) {
            const double want = number(std::string("road.") + order, 2 - i) * sign;
            EXPECT_NEAR(found->curve[static_cast<std::size_t>(i)], want, 1e-5) << order << " " << i;
            std::printf("%s road %s %.0f %%: %.6f, off by %.1e\n", GetParam().first, order,
                        100 * found->steps[static_cast<std::size_t>(i)], found->curve[static_cast<std::size_t>(i)],
                        std::abs(found->curve[static_cast<std::size_t>(i)] - want));
        }
    }
}

TEST_P(MeasuresParity, QuantusNumbersOfTheMapAlone) {
    // It adds 1e-7 to the map before the one, and 1e-12 to a logarithm's argument in the other.
    expect("quantus.sparseness", measure("sparseness", {{"on", "pixels"}}));
    expect("quantus.complexity", measure("complexity", {{"on", "pixels"}}));
}

TEST_P(MeasuresParity, QuantusFaithfulness) {
    target.scale = Scale::Probability;
    const at::Tensor kept = attribution.map;
    attribution.map = kept * 1e-4;
    expect("quantus.infidelity", measure("infidelity", {{"change", "blocks"}, {"side", "16"}, {"scale", "false"}}));
    attribution.map = kept;
    const auto compare = [&](const std::string& name, const Result<Score>& found, bool losses) {
        ASSERT_TRUE(found.has_value()) << found.error().message;
        const at::Tensor& want = wanted.at(name);
        // It leaves out the unchanged picture.
        ASSERT_EQ(found->curve.size(), static_cast<std::size_t>(want.numel() + 1));
        double worst = 0;
        for (std::int64_t i = 0; i < want.numel(); ++i) {
            const double have = found->curve[static_cast<std::size_t>(i + 1)];
            worst = std::max(worst, std::abs((losses ? found->curve.front() - have : have) - number(name, i)));
        }
        EXPECT_LT(worst, 1e-4) << name;
        std::printf("%s %s: off by %.1e at most\n", GetParam().first, name.c_str(), worst);
    };
    compare("quantus.region_perturbation", measure("aopc", {{"region", "16"}, {"regions", "12"}, {"fill", "zero"}}),
            true);
    attribution.map = wanted.at("map");
    compare(
        "quantus.pixel_flipping",
        measure("aopc",
                {{"region", "1"}, {"regions", "0"}, {"per_step", std::to_string(side * side / 8)}, {"fill", "zero"}}),
        false);
}

TEST_P(MeasuresParity, QuantusMaxSensitivity) {
    ExplainContext context(*model, input, target, 0);
    const Settings none;
    const Attribution own = gradient.explain(context, none).value();
    const auto found = plugin::measures::max_sensitivity(context, {gradient, none, own}, 3, true, [&](std::int64_t i) {
        return draw("noise." + std::to_string(i), {1, 3 * side * side}, 0.2, 0.0, 2).reshape(input.pixels.sizes());
    });
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_NEAR(*found, number("quantus.max_sensitivity"), 1e-4);
    std::printf("%s quantus.max_sensitivity: off by %.1e\n", GetParam().first,
                std::abs(*found - number("quantus.max_sensitivity")));
}

TEST_P(MeasuresParity, QuantusLocalisation) {
    attribution.map = wanted.at("map");
    for (const std::string which : {"far", "near"}) {
        const at::Tensor& box = wanted.at("box." + which);
        boxes = {{box[0].item<double>(), box[1].item<double>(), box[2].item<double>(), box[3].item<double>()}};
        expect("quantus.pointing_game." + which, measure("pointing_game"));
        expect("quantus.top_k." + which, measure("topk_localisation", {{"k", "200"}}));
        expect("quantus.rank." + which, measure("topk_localisation", {{"k", "0"}}));
        expect("quantus.mass." + which, measure("localisation_mass"));
        expect("quantus.mass." + which, measure("energy_pointing_game"));  // this map goes from 0 to 1 as it is
        expect("quantus.attribution_localisation." + which, measure("localisation_mass"));
    }
}

INSTANTIATE_TEST_SUITE_P(Models, MeasuresParity,
                         testing::Values(std::pair{"cnn", "torchvision_resnet18"},
                                         std::pair{"vit", "attention_methods/class_token"}),
                         [](const auto& info) { return info.param.first; });

TEST(MeasuresBeside, AFilledHoleIsThatOfPytorchGradCam) {
    const auto file = read_safetensors(kData / "measures/cnn.safetensors").value();
    const at::Tensor want = to_tensor(file.tensors.at("road.picture")).value();
    const at::Tensor pixels = draw("pixels", {2, 3, 64, 64}, 1.8, 0.0, 5).narrow(0, 0, 1);
    const auto order = plugin::measures::ranked(to_tensor(file.tensors.at("map")).value(), 0);
    // Its 20th percentile of 4096 values lies between the 819th and the 820th: 820 ... 4095 are removed.
    const at::Tensor known = plugin::measures::ranks_of(order).reshape({64, 64}) >= 4096 - 819;
    const auto found = plugin::measures::impute(pixels, known, 0, 0);
    ASSERT_TRUE(found.has_value()) << found.error().message;
    const double worst = ((*found)[0] - want).abs().max().item<double>();
    EXPECT_LT(worst, 1e-5);
    EXPECT_GT((want - pixels[0]).abs().max().item<double>(), 0.1) << "nothing was filled in";
    std::printf("the filled picture: off by %.1e at most\n", worst);
}

TEST(MeasuresBeside, LikenessIsThatOfScipyAndScikitImage) {
    const auto file = read_safetensors(kData / "measures/cnn.safetensors").value();
    const auto number = [&](const char* name, std::int64_t i) {
        return to_tensor(file.tensors.at(name)).value()[i].item<double>();
    };
    const at::Tensor other = draw("other", {14, 14}, 1.0, 0.0, 1);
    const at::Tensor mine = draw("mine", {14, 14}, 1.0, 0.0, 1) * 0.5 + other;
    EXPECT_NEAR(*plugin::measures::spearman(mine, other), number("scipy.spearman", 0), 1e-6);
    EXPECT_NEAR(*plugin::measures::spearman((mine * 4).round(), other), number("scipy.spearman", 1), 1e-6);
    EXPECT_NEAR(*plugin::measures::ssim(mine, other), number("skimage.ssim", 0), 1e-6);
}

}  // namespace
}  // namespace vitrine
