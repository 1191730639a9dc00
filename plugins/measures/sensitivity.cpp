// Measures of what a map promises under changes: infidelity, max-sensitivity, completeness.
#include "measures.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

namespace vitrine::plugin::measures {

namespace {

/// What the map gives each number of the input: [3, height, width], or [1, height, width] that all three share.
Result<at::Tensor> share_of_inputs(const ExplainContext& context, const Attribution& attribution) {
    if (attribution.channels.defined() && attribution.channels.dim() == 3 &&
        attribution.channels.size(1) == context.input.pixels.size(2) &&
        attribution.channels.size(2) == context.input.pixels.size(3))
        return attribution.channels.detach().to(at::kCPU, at::kFloat);
    return VITRINE_TRY(pixel_map(context, attribution)).unsqueeze(0);
}

class Infidelity final : public Basic {
  public:
    Description description() const override {
        return {
            "infidelity",
            "Infidelity",
            "Mean squared error of the map as a linear prediction of what a change of the picture does",
            "C. Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, definition 2.1",
            0,
            "Faithfulness",
            "mean over changes I of (I . map - (f(x) - f(x - I)))^2; map resized bilinearly (align_corners = false)"};
    }

    std::vector<Parameter> parameters() const override {
        return {{"change",
                 std::string("square"),
                 "square: one square, somewhere, becomes the mean colour; noisy_baseline: the whole picture becomes "
                 "the mean colour and noise; blocks: squares from the top left on, one after the other and staying "
                 "so, become the picture's smallest number (quantus)",
                 "",
                 "Yeh et al., section 2.3; quantus 0.6",
                 {},
                 {},
                 {"square", "noisy_baseline", "blocks"}},
                {"samples",
                 std::int64_t{64},
                 "changed pictures; blocks: as many as there are squares",
                 "",
                 "ours",
                 2.0,
                 1e6,
                 {}},
                {"side",
                 std::int64_t{0},
                 "side of a square; 0: an eighth of the input's shorter side",
                 "pixels",
                 "ours; quantus: 4",
                 0.0,
                 4096.0,
                 {}},
                {"deviation", 0.2, "of the noise, in normalised units", "", "Yeh et al.", 0.0, 100.0, {}},
                {"scale",
                 true,
                 "takes the map in the unit that fits best, since methods differ in unit; false is definition 2.1",
                 "",
                 "ours; captum's normalize",
                 {},
                 {},
                 {}}};
    }

    std::optional<bool> higher_is_better() const override { return false; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective(Scale::Logit));
        const at::Tensor relevance = VITRINE_TRY(share_of_inputs(context, subject.attribution));
        const at::Tensor pixels = context.input.pixels.to(at::kCPU, at::kFloat)[0];  // [3, height, width]
        const std::int64_t height = pixels.size(1), width = pixels.size(2);
        const std::string change = settings.text("change");
        std::int64_t side = settings.integer("side");
        if (side == 0) side = std::max<std::int64_t>(1, std::min(height, width) / 8);
        side = std::min({side, height, width});

        std::int64_t count = settings.integer("samples");
        std::function<at::Tensor(std::int64_t)> changed;
        const at::Tensor y = at::arange(height).unsqueeze(1), x = at::arange(width).unsqueeze(0);
        if (change == "blocks") {
            const std::int64_t across = (width + side - 1) / side;
            count = (height + side - 1) / side * across;
            changed = [&, block = y.div(side, "floor") * across + x.div(side, "floor"),
                       least = at::full_like(pixels, pixels.min().item())](std::int64_t i) {
                return at::where(block <= i, least, pixels);
            };
        } else if (change == "square") {
            at::Generator random = generator(context.seed, 0x54A2);
            const at::Tensor top = at::randint(0, height - side + 1, {count}, random, at::kLong);
            const at::Tensor left = at::randint(0, width - side + 1, {count}, random, at::kLong);
            changed = [&, top, left](std::int64_t i) {
                return at::where((y >= top[i]) & (y < top[i] + side) & (x >= left[i]) & (x < left[i] + side),
                                 at::full_like(pixels, 0), pixels);
            };
        } else {
            changed = [&](std::int64_t i) {
                return at::randn(pixels.sizes(), generator(context.seed, 0x0159 + static_cast<std::uint64_t>(i)),
                                 at::kFloat) *
                       settings.number("deviation");
            };
        }
        std::vector<double> promised;
        const at::Tensor numbers =
            VITRINE_TRY(context.scores(objective, count + 1, [&](std::int64_t from, std::int64_t some) {
                std::vector<at::Tensor> pictures;
                for (std::int64_t i = from; i < from + some; ++i) {
                    // The first is the picture itself.
                    pictures.push_back(i == 0 ? pixels : changed(i - 1));
                    if (i > 0)
                        promised.push_back(((pixels - pictures.back()) * relevance).sum(at::kDouble).item<double>());
                }
                return at::stack(pictures);
            }));
        const double whole = numbers[0].item<double>();
        double both = 0, square = 0;
        std::vector<double> lost;
        for (std::int64_t i = 0; i < count; ++i) {
            lost.push_back(whole - numbers[i + 1].item<double>());
            both += promised[static_cast<std::size_t>(i)] * lost.back();
            square += promised[static_cast<std::size_t>(i)] * promised[static_cast<std::size_t>(i)];
        }
        const double factor = !settings.flag("scale") ? 1 : square > 0 ? both / square : 0;
        Score out;
        for (std::size_t i = 0; i < lost.size(); ++i)
            out.value += std::pow(factor * promised[i] - lost[i], 2) / static_cast<double>(count);
        out.notes.push_back(fmt::format("{}, {} changes ({})", objective.explained, count, change));
        if (settings.flag("scale")) out.notes.push_back(fmt::format("the map times {:.4g} fits best", factor));
        return out;
    }
};

class MaxSensitivity final : public Basic {
  public:
    Description description() const override {
        return {"max_sensitivity",
                "Max-sensitivity",
                "The largest change of the map under little noise in the picture",
                "C. Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, the definition of "
                "SENS_MAX",
                0,
                "Stability",
                "max over noise e of |map(x + e) - map(x)| / |map(x)|; native map"};
    }

    std::vector<Parameter> parameters() const override {
        return {{"samples", std::int64_t{10}, "noisy pictures", "", "captum; quantus: 200", 1.0, 1e6, {}},
                {"radius",
                 0.2,
                 "largest change of a number of the input, drawn uniformly, in normalised units",
                 "",
                 "quantus; captum: 0.02",
                 0.0,
                 100.0,
                 {}},
                {"relative",
                 true,
                 "divides by the map's own length, as captum and quantus do; false is the paper's",
                 "",
                 "captum, quantus",
                 {},
                 {},
                 {}}};
    }

    std::optional<bool> higher_is_better() const override { return false; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        const double radius = settings.number("radius");
        const at::Tensor own = VITRINE_TRY(native_map(subject.attribution));
        Score out;
        if (settings.flag("relative") && !(own.norm().item<double>() > 0)) {
            out.left_out = "the map is zero everywhere: its change has nothing to be compared with";
            return out;
        }
        out.value = VITRINE_TRY(max_sensitivity(
            context, subject, settings.integer("samples"), settings.flag("relative"), [&](std::int64_t i) {
                return (at::rand(context.input.pixels.sizes(),
                                 generator(context.seed, 0x5E45 + static_cast<std::uint64_t>(i)), at::kFloat) *
                            2 -
                        1) *
                       radius;
            }));
        return out;
    }
};

class Completeness final : public Basic {
  public:
    Description description() const override {
        return {
            "completeness",
            "Completeness gap",
            "How far the map's sum is from the change of the answer between a baseline and the picture, as a share "
            "of that change",
            "M. Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017",
            0,
            "Faithfulness",
            "|sum of the map - (f(x) - f(baseline))| / |f(x) - f(baseline)|; native map; green to 1 %, amber to 5 %"};
    }

    std::vector<Parameter> parameters() const override {
        return {{"baseline",
                 std::string("zero"),
                 "the picture that stands for nothing: give the method's own",
                 "",
                 "zero is the mean colour",
                 {},
                 {},
                 substitutes()}};
    }

    std::optional<bool> higher_is_better() const override { return false; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective(Scale::Logit));
        const at::Tensor map = VITRINE_TRY(native_map(subject.attribution));
        const at::Tensor& channels = subject.attribution.channels;
        const double sum = (channels.defined() ? channels.to(at::kCPU) : map).sum(at::kDouble).item<double>();
        const at::Tensor pixels = context.input.pixels.to(at::kCPU, at::kFloat);
        const at::Tensor pictures =
            at::stack({pixels[0], substitute(context, settings.text("baseline"), context.seed)[0]});
        const at::Tensor numbers = VITRINE_TRY(context.scores(objective, pictures));
        const double change = numbers[0].item<double>() - numbers[1].item<double>();
        Score out;
        if (change == 0) {
            out.left_out = "the baseline is answered like the picture: there is nothing to share out";
            return out;
        }
        out.value = std::abs(sum - change) / std::abs(change);
        out.notes.push_back(
            fmt::format("{} changes by {:.4g}, the map sums to {:.4g}", objective.explained, change, sum));
        out.notes.push_back(out.value <= 0.01   ? "green: within 1 %"
                            : out.value <= 0.05 ? "amber: within 5 %"
                                                : "red: more than 5 % is missing");
        if (!subject.attribution.is_signed)
            out.notes.push_back("an unsigned map shares nothing out; this gap says only how far its unit is away");
        return out;
    }
};

}  // namespace

Result<double> max_sensitivity(ExplainContext& context, const Subject& subject, std::int64_t samples, bool relative,
                               const std::function<at::Tensor(std::int64_t)>& noise) {
    const at::Tensor own = VITRINE_TRY(native_map(subject.attribution));
    const Target target = VITRINE_TRY(settled(context));
    double worst = 0;
    for (std::int64_t i = 0; i < samples; ++i) {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        Input input = context.input;
        input.pixels = context.input.pixels + noise(i).to(context.input.pixels.device());
        ExplainContext changed(context.model, input, target, context.seed);
        changed.stop = context.stop;
        changed.memory_budget = context.memory_budget;
        changed.batch = context.batch;
        changed.boxes = context.boxes;
        changed.other = context.other;
        const Attribution again = VITRINE_TRY(subject.explainer.explain(changed, subject.settings));
        const at::Tensor map = VITRINE_TRY(native_map(again));
        if (map.sizes() != own.sizes())
            return fail(ErrorCode::Internal, "the map of the noisy picture has another size");
        worst = std::max(worst, (map - own).norm().item<double>());
        if (context.progress) context.progress({i + 1, samples, "noisy pictures"});
    }
    return relative ? worst / own.norm().item<double>() : worst;
}

std::unique_ptr<Measure> make_infidelity() { return std::make_unique<Infidelity>(); }
std::unique_ptr<Measure> make_max_sensitivity() { return std::make_unique<MaxSensitivity>(); }
std::unique_ptr<Measure> make_completeness() { return std::make_unique<Completeness>(); }

}  // namespace vitrine::plugin::measures
