// Blur integrated gradients: the way goes from the picture blurred to nothing back to the picture.
#include "gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

namespace vitrine::plugin::gradient {
namespace {

/// How far the derivative along the blur looks, in pixels of sigma (PAIR saliency, grad_step).
constexpr double kStep = 0.01;

class BlurIg final : public Explainer {
  public:
    Description description() const override {
        return {"blur_ig",
                "Blur IG",
                "What each pixel added to the score while the picture came out of a blur: no baseline colour is needed",
                "S. Xu, S. Venugopalan, M. Sundararajan, Attribution in Scale and Space, CVPR 2020, arXiv 2004.03383",
                0,
                "Gradients",
                "integral over sigma of df/dx * dx/dsigma, x blurred by sigma",
                "Gradients on the way are noisy and gather where the picture does not matter (Kapishnikov et al., "
                "Guided Integrated Gradients, CVPR 2021, of paths that are fixed)"};
    }
    std::vector<Parameter> parameters() const override {
        Parameter sigma{"max_sigma", 50.0, "the widest blur", "input pixels", "PAIR saliency 0.2.1", 0.1, 1000, {}};
        Parameter steps{"steps", std::int64_t{100}, "blurs between", "", "PAIR saliency 0.2.1", 1, 10000, {}};
        Parameter spacing{"spacing",
                          std::string("linear"),
                          "how the blurs are spaced: evenly in sigma, or in its square",
                          "",
                          "PAIR saliency 0.2.1: linear; sqrt=True there is sqrt here",
                          {},
                          {},
                          {"linear", "sqrt"}};
        return {sigma, steps, spacing, reduce_parameter("sum")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        const std::int64_t steps = settings.integer("steps");
        return Passes{steps + 1, steps};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        const double widest = settings.number("max_sigma");
        const std::int64_t steps = settings.integer("steps");
        const bool root = settings.text("spacing") == "sqrt";
        const auto sigma = [&](std::int64_t i) {
            const double s = static_cast<double>(i) * widest / static_cast<double>(steps);
            return root ? std::sqrt(s) : s;
        };
        // Double: the derivative is a difference of two blurs that are almost the same.
        const at::Tensor x = context.input.pixels.to(at::kCPU, at::kDouble);
        at::Tensor channels = at::zeros_like(x[0]);
        std::vector<double> scores(static_cast<std::size_t>(steps));
        VITRINE_CHECK(context.slopes(
            objective, steps,
            [&](std::int64_t first, std::int64_t count) {
                std::vector<at::Tensor> some;
                for (std::int64_t i = first; i < first + count; ++i)
                    some.push_back(blurred(x, sigma(i)).to(at::kFloat));
                return at::cat(some);
            },
            [&](std::int64_t i, double score, const at::Tensor& gradient) {
                const at::Tensor change = (blurred(x[0], sigma(i) + kStep) - blurred(x[0], sigma(i))) / kStep;
                channels -= change * gradient.to(at::kDouble) * (sigma(i + 1) - sigma(i));
                scores[static_cast<std::size_t>(i)] = score;
            }));
        const at::Tensor end = VITRINE_TRY(context.scores(objective, blurred(x, sigma(steps)).to(at::kFloat)));
        Gap gap{channels.sum().item<double>(), scores[0] - end[0].item<double>()};
        Attribution out = to_attribution(*this, settings, objective, channels);
        out.explained += fmt::format(", against the picture blurred by {:.3g} pixels", sigma(steps));
        // The published sum takes the left end of each step, which is coarse where the blur begins: told, not judged.
        out.notes.push_back("completeness: " + gap.check().finding);
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_blur_ig() { return std::make_unique<BlurIg>(); }

}  // namespace vitrine::plugin::gradient
