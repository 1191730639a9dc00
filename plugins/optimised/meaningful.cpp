// Meaningful perturbation: the least blur that takes the answer away, optimised on the one picture.
#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/replication_pad2d.h>

#include <vitrine/base/random.h>

#include "optimised.h"

namespace vitrine::plugin::optimised {

at::Tensor hidden_area(const at::Tensor& m, bool mean) {
    const at::Tensor hidden = (1 - m).abs();
    return mean ? hidden.mean() : hidden.sum();
}

at::Tensor roughness(const at::Tensor& m, double beta, bool mean) {
    const at::Tensor y = m.diff(1, 0).abs().pow(beta), x = m.diff(1, 1).abs().pow(beta);
    return mean ? y.mean() + x.mean() : y.sum() + x.sum();
}

namespace {

constexpr std::uint64_t kJitter = 0x0B11;
/// Lengths in pixels of a picture 224 a side (the paper's networks see 224 or 227).
constexpr double kBlur = 10, kMaskBlur = 5, kCircleBlur = 10, kCircleStep = 5;
constexpr std::int64_t kCircles = 35, kShift = 4;

/// 1 but for a disc of radius `radius` in the middle, with a soft edge. [height, width]
at::Tensor without_disc(std::int64_t height, std::int64_t width, double radius, double unit) {
    const at::Tensor y = at::arange(height, at::kDouble) - static_cast<double>(height / 2);
    const at::Tensor x = at::arange(width, at::kDouble) - static_cast<double>(width / 2);
    const at::Tensor disc = (y.square().unsqueeze(1) + x.square() <= radius * radius).to(at::kDouble);
    return 1 - blurred(disc, kCircleBlur * unit, true);
}

class Meaningful final : public Explainer {
  public:
    Description description() const override {
        return {"meaningful_perturbation",
                "Meaningful perturbation",
                "The smallest smooth region whose blur takes the answer away, optimised on the picture",
                "R. Fong, A. Vedaldi, Interpretable Explanations of Black Boxes by Meaningful Perturbation, ICCV 2017, "
                "arXiv 1704.03296; numbers of the authors' code",
                0,
                "Learned masks",
                "1 - argmin over m of lambda1 |1 - m| + lambda2 |grad m|^beta + f(m x + (1 - m) blur(x))",
                "What comes out hangs on the balance of the three terms, whose meaning is unclear, so that maps of "
                "different settings cannot be compared (Fong, Patrick and Vedaldi, ICCV 2019)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"preset",
                 std::string("paper"),
                 "paper: sums over the mask, Gaussian enlargement, shifts by 0 to 3 pixels of 224, starts from the "
                 "smallest disc whose blur takes the score away; means: means over the mask, linear enlargement, no "
                 "shifts, "
                 "starts from the whole picture, as the PyTorch version that is widely used",
                 "",
                 "the authors' code; jacobgil/pytorch-explain-black-box",
                 {},
                 {},
                 {"paper", "means"}},
                {"steps", std::int64_t{300}, "steps of Adam", "", "the authors'", 1, 100000, {}},
                {"rate", 0.1, "learning rate", "", "the authors'", 1e-6, 10.0, {}},
                {"lambda1", 1e-4, "weight of the hidden area", "", "the authors'", 0.0, 1e6, {}},
                {"lambda2", 1e-2, "weight of the mask's roughness", "", "the authors'", 0.0, 1e6, {}},
                {"beta", 3.0, "power of the roughness", "", "the authors'", 1.0, 10.0, {}},
                {"cells", std::int64_t{28}, "cells a side of the mask", "", "the authors': 224 / 8", 2, 1024, {}}};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        const std::int64_t steps = settings.integer("steps");
        // The picture, its blur, the discs, the steps, and what the mask leaves.
        return Passes{2 + (settings.text("preset") == "paper" ? kCircles : 0) + steps + 1, steps};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const bool paper = settings.text("preset") == "paper";
        const double lambda1 = settings.number("lambda1"), lambda2 = settings.number("lambda2");
        const double beta = settings.number("beta");
        const Objective objective = VITRINE_TRY(context.objective(Scale::Probability));
        const at::Tensor x = context.input.pixels.to(context.model.device(), at::kFloat);
        const std::int64_t height = x.size(2), width = x.size(3);
        const std::int64_t rows = std::min(settings.integer("cells"), height);
        const std::int64_t cols = std::min(settings.integer("cells"), width);
        const double unit = unit_of(x);
        const at::Tensor blur = blurred(x, kBlur * unit, true);
        const auto enlarging = [&](std::int64_t cells, std::int64_t size) {
            return (paper ? gaussian_enlargement(cells, size, kMaskBlur * unit) : linear_enlargement(cells, size))
                .to(x.options());
        };
        const at::Tensor along_y = enlarging(rows, height), along_x = enlarging(cols, width).t().contiguous();
        const auto enlarged = [&](const at::Tensor& m) { return at::matmul(at::matmul(along_y, m), along_x); };
        const auto mixed = [&](const at::Tensor& m) { return x * m + blur * (1 - m); };

        // The picture, its blur and the discs go through the model before the first step.
        const std::int64_t circles = paper ? kCircles : 0;
        const auto disc = [&](std::int64_t i) {
            return without_disc(height, width, kCircleStep * unit * static_cast<double>(i), unit).to(x.options());
        };
        const at::Tensor before =
            VITRINE_TRY(context.scores(objective, 2 + circles, [&](std::int64_t from, std::int64_t count) {
                std::vector<at::Tensor> some;
                for (std::int64_t i = from; i < from + count; ++i)
                    some.push_back(i == 0 ? x : i == 1 ? blur : mixed(disc(i - 2)));
                return at::cat(some);
            })).to(at::kDouble);
        const double as_is = before[0].item<double>(), without = before[1].item<double>();
        at::Tensor m = at::ones({rows, cols}, x.options());
        if (paper) {
            // The smallest disc that takes 99 % of what the largest takes (the authors' test_circular_masks).
            const double least = before[1 + circles].item<double>();
            std::int64_t chosen = circles - 1;
            for (std::int64_t i = circles - 1; i >= 0; --i)
                if ((before[2 + i].item<double>() - least) / (as_is - least) < 0.01) chosen = i;
            const at::Tensor start = disc(chosen);
            const auto centres = [&](std::int64_t cells, std::int64_t size) {
                return ((at::arange(cells, at::kDouble) + 0.5) * static_cast<double>(size) / static_cast<double>(cells))
                    .to(at::kLong)
                    .to(x.device());
            };
            m = start.index_select(0, centres(rows, height)).index_select(1, centres(cols, width)).clamp(0, 1);
        }

        const auto shifts = paper ? static_cast<std::uint64_t>(std::llround(kShift * unit)) : 0;
        const auto reach = static_cast<std::int64_t>(shifts);
        const auto shifted = [&](const at::Tensor& picture, std::int64_t y, std::int64_t along) {
            if (y == 0 && along == 0) return picture;
            return at::replication_pad2d(picture, {0, reach, 0, reach}).narrow(2, y, height).narrow(3, along, width);
        };
        const auto mapped = [&] {
            Attribution out;
            out.method = description().name;
            out.map = (1 - enlarged(m)).clamp(0, 1).to(at::kCPU).contiguous();
            out.on_tokens = false;
            out.class_specific = true;
            out.explained = "what takes away the " + objective.explained;
            return out;
        };
        Adam adam(settings.number("rate"));
        const std::int64_t steps = settings.integer("steps");
        VITRINE_CHECK(optimise(
            context, steps,
            [&](std::int64_t step) -> Status {
                const auto draw = [&](std::uint64_t axis) {
                    const auto index = 2 * static_cast<std::uint64_t>(step) + axis;
                    return shifts < 2 ? 0
                                      : static_cast<std::int64_t>(random_bits(context.seed, kJitter, index) % shifts);
                };
                const std::int64_t y = draw(0), along = draw(1);
                const at::Tensor clear = shifted(x, y, along), hidden = shifted(blur, y, along);
                const at::AutoGradMode with_graph(true);
                const at::Tensor leaf = m.detach().clone().requires_grad_(true);
                const at::Tensor mask = enlarged(leaf), picture = clear * mask + hidden * (1 - mask);
                const Slope slope = VITRINE_TRY(slope_at(context, objective, picture));
                // The model's part is linear about this picture: its gradient is all that the mask needs of it.
                const at::Tensor loss = lambda1 * hidden_area(leaf, !paper) + lambda2 * roughness(leaf, beta, !paper) +
                                        (slope.gradient * picture).sum();
                const auto gradient = VITRINE_TRY(gradients(loss, {leaf}, {"the mask"}));
                const at::NoGradGuard without_graph;
                adam.descend(m, gradient.front());
                m.clamp_(0, 1);
                return {};
            },
            mapped));
        Attribution out = mapped();
        out.implementation = fmt::format("{} steps of Adam on a mask of {} x {}", steps, rows, cols);
        const double left = VITRINE_TRY(context.scores(objective, mixed(enlarged(m)))).item<double>();
        out.checks.push_back(
            {"what the mask takes away", left < as_is,
             fmt::format("{} {:.2f} of {:.2f} with {:.0f} % hidden, {:.2f} with all hidden", word_of(objective), left,
                         as_is, 100 * out.map.mean().item<double>(), without)});
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_meaningful_perturbation() { return std::make_unique<Meaningful>(); }

}  // namespace vitrine::plugin::optimised
