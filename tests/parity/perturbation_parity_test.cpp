// Perturbation methods against captum, lime and the RISE authors' formulas, with their samples and masks injected
// (recipes/perturbation.py), and against what the authors' own programs and Xplique give
// (recipes/perturbation_authors.py), on a vision transformer and a convolutional network.
#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include "../../plugins/perturbation/perturbation.h"
#include "stored_case.h"

namespace vitrine::plugin::perturbation {
namespace {

class PerturbationParity : public StoredParity {
  protected:
    PerturbationParity() : StoredParity("perturbation") {}
    void SetUp() override {
        StoredParity::SetUp();
        if (HasFatalFailure()) return;
        ASSERT_EQ(read(std::string(GetParam().name) + "_authors", "authors."), target.index);
    }
    Result<Attribution> explain(const char* method, std::vector<std::pair<const char*, std::string>> set,
                                std::uint64_t seed = 0) {
        const Explainer* explainer = registry().explainer(method).value();
        ExplainContext context(*model, input, target, seed);
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return explainer->explain(context, settings);
    }
    /// Within 1e-4 of the range.
    void expect(const std::string& name, const at::Tensor& found) {
        const at::Tensor want = wanted.at(name).to(at::kDouble).flatten(), have = found.to(at::kDouble).flatten();
        ASSERT_EQ(have.numel(), want.numel()) << name;
        const double range = (want.max() - want.min()).item<double>();
        ASSERT_GT(range, 1e-4) << name << " proves nothing";
        const double error = (have - want).abs().max().item<double>() / range;
        EXPECT_LT(error, 1e-4) << name;
        worst = std::max(worst, error);
    }
    void TearDown() override { std::printf("%s: within %.1e of the range\n", GetParam().name, worst); }
    /// What a surrogate of captum or lime is fitted to, with its own samples.
    at::Tensor scores(const char* fill, const at::Tensor& samples) {
        ExplainContext context(*model, input, target);
        Canvas canvas = Canvas::make(context, fill, samples.size(0)).value();
        const Features features = grid_features(canvas, 4, 4);
        canvas.paint_means(features);
        return canvas
            .scores(samples.size(0), [&](std::int64_t from,
                                         std::int64_t some) { return features.expand(samples.narrow(0, from, some)); })
            .value();
    }

    double worst = 0;
};

TEST_P(PerturbationParity, OcclusionIsCaptums) {
    for (const auto& [window, stride] : {std::pair{"15", "8"}, {"20", "13"}}) {
        const auto found = explain("occlusion", {{"window", window}, {"stride", stride}});
        ASSERT_TRUE(found.has_value()) << found.error().message;
        expect(fmt::format("occlusion.{}.{}", window, stride), every(2, found->map));
    }
}

TEST_P(PerturbationParity, FeatureAblationIsCaptums) {
    expect("feature_ablation.patches", explain("feature_ablation", {})->map);
    expect("feature_ablation.grid",
           explain("feature_ablation", {{"features", "grid"}, {"grid", "5"}, {"fill", "mean"}})->map);
}

TEST_P(PerturbationParity, LimeIsLimeImagesOwn) {
    const at::Tensor& samples = wanted.at("lime.samples");
    expect("lime.values", ridge(samples, scores("segment", samples), lime_weights(samples, 0.25), 1));
}

TEST_P(PerturbationParity, KernelShapIsCaptums) {
    const at::Tensor& samples = wanted.at("kernel_shap.samples");
    EXPECT_EQ(samples[0].sum().item<double>(), 16);
    EXPECT_EQ(samples[1].sum().item<double>(), 0);
    expect("kernel_shap.values", shap_values(samples, scores("zero", samples)));
}

TEST_P(PerturbationParity, RiseIsTheAuthorsFormula) {
    const std::int64_t height = input.pixels.size(2), width = input.pixels.size(3);
    const at::Tensor &grids = wanted.at("rise.grids"), &shifts = wanted.at("rise.shifts");
    std::vector<at::Tensor> made;
    for (std::int64_t i = 0; i < grids.size(0); ++i)
        made.push_back(
            rise_mask(grids[i], shifts[i][0].item<std::int64_t>(), shifts[i][1].item<std::int64_t>(), height, width)
                .reshape({-1}));
    const at::Tensor masks = at::stack(made);
    expect("rise.projections", masks.matmul(draw("ramp", {height * width, 3}, 1, 0, 0)));
    ExplainContext context(*model, input, target);
    Canvas canvas = Canvas::make(context, "zero", masks.size(0)).value();
    const at::Tensor found =
        canvas.scores(masks.size(0), [&](std::int64_t from, std::int64_t some) { return masks.narrow(0, from, some); })
            .value();
    RiseSum sum(0.5, false);
    sum.add(masks.narrow(0, 0, 25), found.narrow(0, 0, 25));
    sum.add(masks.narrow(0, 25, 35), found.narrow(0, 25, 35));
    const at::Tensor map = every(4, sum.map().reshape({height, width}));
    expect("rise.map", map);
    expect("authors.rise", map);
}

TEST_P(PerturbationParity, SobolAndHsicAreXpliques) {
    expect("authors.sobol", explain("sobol", {{"grid", "4"}, {"designs", "16"}})->map);
    expect("authors.hsic", explain("hsic", {{"grid", "5"}, {"designs", "150"}})->map);
}

TEST_P(PerturbationParity, MasksOfTokensAreTheirAuthors) {
    if (wanted.count("authors.tis") == 0) {
        for (const char* method : {"tis", "vit_cx"})
            EXPECT_TRUE(registry().explainer(method).value()->why_not(*model)) << method;
        return;
    }
    const auto tis = explain("tis", {{"masks", "60"}}, 9), vit_cx = explain("vit_cx", {}, 9);
    ASSERT_TRUE(tis && vit_cx);
    expect("authors.tis", tis->map);
    expect("authors.vit_cx", every(2, vit_cx->map));
}

TEST_P(PerturbationParity, SobolPointsAreThoseOfScipy) { expect("sobol.points", sobol_points(32, 20).value()); }

INSTANTIATE_TEST_SUITE_P(Models, PerturbationParity, testing::ValuesIn(kStoredModels), stored_name);

}  // namespace
}  // namespace vitrine::plugin::perturbation
