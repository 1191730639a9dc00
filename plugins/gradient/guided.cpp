// Guided backprop, and its product with Grad-CAM.
#include "gradient.h"
#include "rectifiers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_nearest2d.h>

namespace vitrine::plugin::gradient {
namespace {

constexpr const char* kWarning =
    "fails randomisation checks: the map hardly changes when the upper layers' weights are drawn anew (Adebayo et al., "
    "Sanity Checks for Saliency Maps, NeurIPS 2018)";

std::string weakness() {
    std::string out = kWarning;
    out.front() = 'F';
    return out;
}

std::optional<std::string> needs_relu(const Model& model) {
    const ModelInfo& info = model.info();
    if (info.layers > 0) return info.name + " has attention, and guided backprop is for networks of ReLUs only";
    // What a traced model runs is seen when it runs.
    if (model.is_native() && !info.relu_only)
        return info.name + " has other activations than ReLU, for which guided backprop is not defined";
    return std::nullopt;
}

/// @return  [3, H, W]
Result<at::Tensor> guided(ExplainContext& context, const Objective& objective) {
    const Run run = VITRINE_TRY(run_under(PassRule::Guided, context, objective, context.input.pixels));
    const at::AutoGradMode with_graph(true);
    return VITRINE_TRY(gradients(run.scores.sum(), {run.capture->input}, {"the picture"})).front()[0].to(at::kCPU);
}

class GuidedBackprop final : public Explainer {
  public:
    Description description() const override {
        return {"guided_backprop",
                "Guided backprop",
                "The gradient with negative parts dropped at each ReLU; sharp, but fails randomisation checks",
                "J. T. Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR 2015 workshop, "
                "arXiv 1412.6806",
                0,
                "Gradients",
                "df/dx, at each ReLU without what is negative",
                weakness()};
    }
    std::vector<Parameter> parameters() const override { return {reduce_parameter("max_abs")}; }
    std::optional<std::string> why_not(const Model& model) const override { return needs_relu(model); }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 1}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        Attribution out = to_attribution(*this, settings, objective, VITRINE_TRY(guided(context, objective)));
        out.notes.emplace_back(kWarning);
        return out;
    }
};

class GuidedGradCam final : public Explainer {
  public:
    Description description() const override {
        return {
            "guided_grad_cam",
            "Guided Grad-CAM",
            "Guided backprop where Grad-CAM sees the class; sharp, but fails randomisation checks",
            "R. R. Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, "
            "ICCV 2017, arXiv 1610.02391",
            0,
            "Gradients",
            "guided backprop * Grad-CAM, enlarged",
            weakness()};
    }
    std::vector<Parameter> parameters() const override {
        Parameter preset{"preset",
                         std::string("paper"),
                         "how the coarse map is enlarged: bilinear as in the paper, or nearest as captum does",
                         "",
                         "paper: bilinear; captum 0.9: interpolate_mode=\"nearest\"",
                         {},
                         {},
                         {"paper", "captum"}};
        return {preset, reduce_parameter("sum")};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (auto why = needs_relu(model)) return why;
        if (model.info().cam_point.empty()) return model.info().name + " has no named map that Grad-CAM could read";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{2, 2}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        const std::string& point = context.model.info().cam_point;
        const Run run = VITRINE_TRY(run_with_graph(context, objective, context.input.pixels, point));
        const at::Tensor features = run.capture->points.at(point);  // [1, channels, rows, cols]
        if (features.dim() != 4)
            return fail(ErrorCode::Unsupported, "{} is no map of rows and columns, which Grad-CAM reads", point);
        at::Tensor cam;
        {
            const at::AutoGradMode with_graph(true);
            const auto slope = VITRINE_TRY(gradients(run.scores.sum(), {features}, {"the activation at " + point}));
            // Grad-CAM, equations 1 and 2.
            cam = (features.detach() * slope.front().mean({2, 3}, true))
                      .sum(1, true)
                      .clamp_min(0)
                      .to(at::kCPU, at::kFloat);
        }
        const auto size = context.input.pixels.sizes().slice(2);
        cam = settings.text("preset") == "captum" ? at::upsample_nearest2d(cam, size)
                                                  : at::upsample_bilinear2d(cam, size, /*align_corners=*/false);
        const at::Tensor channels = VITRINE_TRY(guided(context, objective)) * cam[0];
        Attribution out = to_attribution(*this, settings, objective, channels);
        out.explained += ", at " + point;
        out.notes.emplace_back(kWarning);
        if (cam.max().item<double>() <= 0)
            out.notes.emplace_back("the map is zero: Grad-CAM sees nothing that speaks for the class");
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_guided_backprop() { return std::make_unique<GuidedBackprop>(); }
std::unique_ptr<Explainer> make_guided_grad_cam() { return std::make_unique<GuidedGradCam>(); }

}  // namespace vitrine::plugin::gradient
