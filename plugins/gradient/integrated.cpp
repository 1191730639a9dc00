// Integrated gradients: the gradient averaged over the straight way from a baseline to the picture, times that way.
#include "gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numbers>
#include <utility>

namespace vitrine::plugin::gradient {
namespace {

/// Where on the way from 0 to 1 gradients are taken, and what each counts.
struct Rule {
    std::vector<double> places, weights;
};

/// n nodes, exact for polynomials up to degree 2n - 1: the roots of the Legendre polynomial by Newton's method.
Rule gauss_legendre(std::int64_t n) {
    Rule out;
    for (std::int64_t i = n; i >= 1; --i) {
        double x = std::cos(std::numbers::pi * (static_cast<double>(i) - 0.25) / (static_cast<double>(n) + 0.5));
        double slope = 1;
        for (int turn = 0; turn < 100; ++turn) {
            double now = 1, before = 0;
            for (std::int64_t k = 1; k <= n; ++k) {
                const auto degree = static_cast<double>(k);
                before = std::exchange(now, ((2 * degree - 1) * x * now - (degree - 1) * before) / degree);
            }
            slope = static_cast<double>(n) * (x * now - before) / (x * x - 1);
            const double step = now / slope;
            x -= step;
            if (std::abs(step) < 1e-15) break;
        }
        out.places.push_back(0.5 * (1 + x));
        out.weights.push_back(1 / ((1 - x * x) * slope * slope));
    }
    return out;
}

/// captum's Riemann sums. Its trapezoid gives every inner node 1 / n on a grid of step 1 / (n - 1), so that its weights
/// sum to (n - 1) / n: kept, because this is what "riemann_trapezoid" means there.
Rule riemann(const std::string& name, std::int64_t n) {
    Rule out;
    const auto count = static_cast<double>(n);
    for (std::int64_t i = 0; i < n; ++i) {
        const auto at_ = static_cast<double>(i);
        double weight = 1 / count;
        if (name == "riemann_left") out.places.push_back(at_ / count);
        if (name == "riemann_right") out.places.push_back((at_ + 1) / count);
        if (name == "riemann_middle") out.places.push_back((at_ + 0.5) / count);
        if (name == "riemann_trapezoid") {
            out.places.push_back(n > 1 ? at_ / (count - 1) : 0);
            if (i == 0 || i == n - 1) weight /= 2;
        }
        out.weights.push_back(weight);
    }
    return out;
}

class IntegratedGradients final : public Explainer {
  public:
    Description description() const override {
        return {
            "integrated_gradients",
            "Integrated gradients",
            "What each pixel added to the score on the straight way from a baseline to the picture; sums to the "
            "change of the score",
            "M. Sundararajan, A. Taly, Q. Yan, Axiomatic Attribution for Deep Networks, ICML 2017, arXiv 1703.01365",
            0,
            "Gradients",
            "(x - x0) * mean over a of df/dx at x0 + a (x - x0)",
            "The baseline decides: what has its colour gets nothing (Sturmfels, Lundberg and Lee, Visualizing the "
            "Impact of Feature Attribution Baselines, Distill 2020)"};
    }
    std::vector<Parameter> parameters() const override {
        Parameter preset{
            "preset",
            std::string("adaptive"),
            "how the integral is taken: adaptive doubles Gauss-Legendre nodes from 12 until the "
            "completeness gap is below 1 %, at most to 400; the others take `steps` nodes, captum by "
            "Gauss-Legendre, riemann_* as captum's schemes of that name",
            "",
            "paper: 20 to 300 steps, checked by completeness; captum 0.9: gausslegendre, 50 steps",
            {},
            {},
            {"adaptive", "captum", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"}};
        Parameter steps{"steps", std::int64_t{50}, "nodes, except with preset adaptive", "", "captum 0.9", 2, 10000,
                        {}};
        return {preset, steps, baseline_parameter(), reduce_parameter("sum")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        if (settings.text("preset") == "adaptive") return std::nullopt;  // as many as the gap asks for
        const std::int64_t ways = ways_of(settings), slopes = ways * settings.integer("steps");
        return Passes{1 + ways + slopes, slopes};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        const std::string preset = settings.text("preset");
        const at::Tensor x = context.input.pixels.to(at::kCPU, at::kFloat);
        const at::Tensor from = baselines(context, settings.text("baseline"));
        const std::int64_t ways = from.size(0);
        const at::Tensor ends = VITRINE_TRY(context.scores(objective, at::cat({x, from})));
        Gap gap;
        gap.change = (ends[0] - ends.narrow(0, 1, ways).mean()).item<double>();
        at::Tensor channels;
        std::int64_t nodes = preset == "adaptive" ? 12 : settings.integer("steps"), passes = 0;
        const auto mapped = [&] {
            Attribution out = to_attribution(*this, settings, objective, channels);
            out.explained += fmt::format(", against the baseline {}", settings.text("baseline"));
            out.checks.push_back(gap.check());
            out.notes.push_back(fmt::format("{} nodes{}, {} gradients in all; completeness gap {:.2g} %", nodes,
                                            ways > 1 ? fmt::format(" for each of {} baselines", ways) : "", passes,
                                            100 * gap.share()));
            return out;
        };
        while (true) {
            const Rule rule =
                preset == "adaptive" || preset == "captum" ? gauss_legendre(nodes) : riemann(preset, nodes);
            const auto node = [&](std::int64_t i) { return static_cast<std::size_t>(i % nodes); };
            at::Tensor sum = at::zeros(x.sizes().slice(1), at::kDouble);
            VITRINE_CHECK(context.slopes(
                objective, nodes * ways,
                [&](std::int64_t first, std::int64_t count) {
                    std::vector<at::Tensor> some;
                    for (std::int64_t i = first; i < first + count; ++i) {
                        const at::Tensor base = from.narrow(0, i / nodes, 1);
                        some.push_back(base + rule.places[node(i)] * (x - base));
                    }
                    return at::cat(some);
                },
                [&](std::int64_t i, double, const at::Tensor& gradient) {
                    sum += gradient.to(at::kDouble) * (x[0] - from[i / nodes]) * rule.weights[node(i)];
                }));
            passes += nodes * ways;
            channels = sum / static_cast<double>(ways);
            gap.sum = channels.sum().item<double>();
            if (preset != "adaptive" || gap.share() < 0.01 || nodes * 2 > 400) break;
            if (context.refined) {
                Attribution so_far = mapped();
                so_far.partial = true;
                context.refined(so_far);
            }
            nodes *= 2;
        }
        return mapped();
    }
};

}  // namespace

std::unique_ptr<Explainer> make_integrated_gradients() { return std::make_unique<IntegratedGradients>(); }

}  // namespace vitrine::plugin::gradient
