// DeepLIFT with the rescale rule: activations pass on what changed behind them over what changed in front of them.
#include "gradient.h"
#include "rectifiers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

namespace vitrine::plugin::gradient {
namespace {

class DeepLift final : public Explainer {
  public:
    Description description() const override {
        return {
            "deep_lift",
            "DeepLIFT",
            "What each pixel's difference from a baseline added to the difference of the score; sums to it",
            "A. Shrikumar, P. Greenside, A. Kundaje, Learning Important Features Through Propagating Activation "
            "Differences, ICML 2017, arXiv 1704.02685 (rescale rule)",
            0,
            "Gradients",
            "(x - x0) * m, m the gradient with each slope replaced by change behind over change in front",
            "Two networks that are the same function can get different maps (Sundararajan, Taly and Yan, ICML 2017)"};
    }
    std::vector<Parameter> parameters() const override { return {baseline_parameter(), reduce_parameter("sum")}; }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.info().layers > 0)
            return model.info().name +
                   " has attention, which the rescale rule does not cover: it is for convolutional networks with ReLU, "
                   "ReLU6 and max pooling";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override {
        return "the rescale rule covers the logit of a class only";
    }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        return Passes{2 * ways_of(settings), 2 * ways_of(settings)};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        if (objective.probability || objective.reference.defined() || !objective.region.empty())
            return fail(ErrorCode::Unsupported,
                        "the rescale rule does not cover the {}: give a class, whose logit is explained",
                        objective.probability ? "softmax of a probability" : objective.explained);
        const at::Tensor x = context.input.pixels.to(at::kCPU, at::kFloat);
        const at::Tensor all = baselines(context, settings.text("baseline"));
        at::Tensor channels = at::zeros(x.sizes().slice(1), at::kDouble);
        Gap gap;
        for (std::int64_t i = 0; i < all.size(0); ++i) {
            const at::Tensor baseline = all.narrow(0, i, 1);
            const Run run = VITRINE_TRY(run_under(PassRule::Rescale, context, objective, at::cat({x, baseline})));
            const at::AutoGradMode with_graph(true);
            // Both halves start alike, so that both carry the multipliers.
            const auto found =
                VITRINE_TRY(gradients(run.scores.sum(), {run.capture->input}, {"the picture"})).front().to(at::kCPU);
            channels += found[0].to(at::kDouble) * (x - baseline)[0];
            gap.change += (run.scores[0] - run.scores[1]).item<double>();
            if (context.progress) context.progress({i + 1, all.size(0), "baselines"});
        }
        channels = channels / static_cast<double>(all.size(0));
        gap.change /= static_cast<double>(all.size(0));
        gap.sum = channels.sum().item<double>();
        Attribution out = to_attribution(*this, settings, objective, channels);
        out.explained += fmt::format(", against the baseline {}", settings.text("baseline"));
        out.checks.push_back(gap.check());
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_deep_lift() { return std::make_unique<DeepLift>(); }

}  // namespace vitrine::plugin::gradient
