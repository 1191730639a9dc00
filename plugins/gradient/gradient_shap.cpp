// GradientSHAP: expected gradients at random places between baselines and the picture.
#include "gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace vitrine::plugin::gradient {
namespace {

class GradientShap final : public Explainer {
  public:
    explicit GradientShap(Draws draws) : draws_(std::move(draws)) {}

    Description description() const override {
        return {
            "gradient_shap",
            "GradientSHAP",
            "Expected gradients: gradients at random places between random baselines and the picture, times the way",
            "S. Lundberg, S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017; G. Erion et "
            "al., Improving performance of deep learning models with axiomatic attribution priors and expected "
            "gradients, Nature Machine Intelligence 2021",
            0,
            "Gradients",
            "mean over baselines x0 and places a of (x - x0) * df/dx at x0 + a (x - x0)",
            "Drawn at random, so that few samples waver, and the baselines decide as with integrated gradients "
            "(Sturmfels, "
            "Lundberg and Lee, Distill 2020)"};
    }
    std::vector<Parameter> parameters() const override {
        Parameter samples{
            "samples", std::int64_t{50}, "random places", "", "captum's is 5; more are steadier", 1, 100000, {}};
        Parameter noise{"noise",
                        0.0,
                        "standard deviation of noise added to the picture, as a share of its normalised range",
                        "",
                        "captum 0.9: stdevs=0",
                        0.0,
                        10.0,
                        {}};
        Parameter baseline = baseline_parameter();
        baseline.standard = std::string("noise_mean");
        baseline.source = "the paper draws from the training data, which is not here";
        return {samples, noise, baseline, reduce_parameter("sum")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        const std::int64_t samples = settings.integer("samples");
        return Passes{samples + 1 + ways_of(settings), samples};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        const at::Tensor x = context.input.pixels.to(at::kCPU, at::kFloat);
        const std::int64_t samples = settings.integer("samples");
        const double deviation = settings.number("noise") * (x.max() - x.min()).item<double>();
        const at::Tensor all = baselines(context, settings.text("baseline"));
        struct Sample {
            at::Tensor picture, baseline;
            double place = 0;
        };
        // Made twice, before and after the run, instead of being kept.
        const auto sample = [&](std::int64_t i) {
            Sample out;
            at::Tensor noise;
            if (draws_.noise)
                noise = draws_.noise(i);
            else if (deviation > 0)
                noise = at::randn(x.sizes(), generator_of(context.seed, 0, i)) * deviation;
            out.picture = noise.defined() ? x + noise : x;
            const at::Tensor two = at::rand({2}, generator_of(context.seed, 1, i), at::kDouble);
            out.place = draws_.place ? draws_.place(i) : two[0].item<double>();
            out.baseline =
                draws_.baseline
                    ? draws_.baseline(i)
                    : all.narrow(0, static_cast<std::int64_t>(two[1].item<double>() * static_cast<double>(all.size(0))),
                                 1);
            return out;
        };
        at::Tensor sum = at::zeros(x.sizes().slice(1), at::kDouble);
        VITRINE_CHECK(context.slopes(
            objective, samples,
            [&](std::int64_t first, std::int64_t count) {
                std::vector<at::Tensor> some;
                for (std::int64_t i = first; i < first + count; ++i) {
                    const Sample one = sample(i);
                    some.push_back(one.place * one.picture + (1 - one.place) * one.baseline);
                }
                return at::cat(some);
            },
            [&](std::int64_t i, double, const at::Tensor& gradient) {
                const Sample one = sample(i);
                sum += gradient.to(at::kDouble) * (one.picture - one.baseline)[0];
            }));
        const at::Tensor channels = sum / static_cast<double>(samples);
        const at::Tensor ends = VITRINE_TRY(context.scores(objective, at::cat({x, all})));
        const Gap gap{channels.sum().item<double>(), (ends[0] - ends.narrow(0, 1, all.size(0)).mean()).item<double>()};
        Attribution out = to_attribution(*this, settings, objective, channels);
        out.explained += fmt::format(", against the baseline {}", settings.text("baseline"));
        // Completeness holds in expectation only: told, not judged.
        out.notes.push_back(
            fmt::format("{} samples; completeness, which holds on average only: {}", samples, gap.check().finding));
        return out;
    }

  private:
    Draws draws_;
};

}  // namespace

std::unique_ptr<Explainer> make_gradient_shap(Draws draws) { return std::make_unique<GradientShap>(std::move(draws)); }

}  // namespace vitrine::plugin::gradient
