// Extremal perturbation: the region of a given area through which the model answers most strongly.
#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "optimised.h"

namespace vitrine::plugin::optimised {

namespace {

std::int64_t up(double x) { return static_cast<std::int64_t>(std::ceil(x)); }

}  // namespace

SmoothMask::SmoothMask(std::int64_t height, std::int64_t width, std::int64_t step, double sigma,
                       at::TensorOptions options)
    : height_(height), width_(width) {
    const auto pitch = static_cast<double>(step);
    rows_ = (height + step - 1) / step;
    cols_ = (width + step - 1) / step;
    margin_ = std::llrint(sigma);  // halves to even, as TorchRay rounds
    // Parameters that reach a pixel stand at most `radius` to either side; beyond the picture there are none, which is
    // 0.
    const std::int64_t radius = 1 + up(sigma / pitch);
    padding_ = 1 + up(2 * sigma / pitch);
    reach_ = 2 * radius + 1;
    const auto axis = [&](std::int64_t cells) { return (cells + 2 * (padding_ - radius) - 1) * step + 1; };
    const std::int64_t out_y = axis(rows_), out_x = axis(cols_);
    const auto index = [&](std::int64_t size) {
        return at::arange(size, at::kLong).div(step, "floor").unsqueeze(1) + at::arange(reach_, at::kLong);
    };
    const at::Tensor y = index(out_y), x = index(out_x);
    const auto offset = [&](const at::Tensor& cell, std::int64_t size) {
        return at::arange(size, at::kDouble).unsqueeze(1) - (sigma + pitch * (cell - padding_).to(at::kDouble));
    };
    const at::Tensor dy = offset(y, out_y).reshape({out_y, reach_, 1, 1}),
                     dx = offset(x, out_x).reshape({1, 1, out_x, reach_});
    const at::Tensor z = (dy.square() + dx.square()).sqrt() / sigma;
    weight_ = (-2 * (z - 0.5).clamp_min(0).square()).exp().to(options);
    index_y_ = y.reshape({-1}).to(options.device());
    index_x_ = x.reshape({-1}).to(options.device());
}

at::Tensor SmoothMask::whole(const at::Tensor& parameters) const {
    constexpr double kColdness = 20;
    const at::Tensor around = at::constant_pad_nd(parameters, {padding_, padding_, padding_, padding_});
    const at::Tensor w = weight_ * around.index_select(0, index_y_).index_select(1, index_x_).reshape(weight_.sizes());
    // Weights are at most 1, so that the exponential cannot overflow.
    const at::Tensor e = (kColdness * w).exp();
    return ((w * e).sum({1, 3}) / e.sum({1, 3})).clamp(0, 1);
}

at::Tensor SmoothMask::inner(const at::Tensor& whole) const {
    return whole.narrow(0, margin_, height_).narrow(1, margin_, width_);
}

at::Tensor rank_penalty(const at::Tensor& mask, double area) {
    const at::Tensor sorted = std::get<0>(mask.reshape({-1}).sort());
    const auto zeros = static_cast<std::int64_t>(static_cast<double>(sorted.size(0)) * (1 - area));
    return (sorted.narrow(0, 0, zeros).square().sum() +
            (sorted.narrow(0, zeros, sorted.size(0) - zeros) - 1).square().sum()) /
           static_cast<double>(sorted.size(0));
}

at::Tensor blur_pyramid(const at::Tensor& pixels, std::int64_t levels, double sigma) {
    std::vector<at::Tensor> out;
    for (std::int64_t level = 0; level < levels; ++level)
        out.push_back(
            blurred(pixels, sigma * (1 - static_cast<double>(level) / static_cast<double>(levels - 1)), false));
    return at::cat(out);
}

at::Tensor look_into(const at::Tensor& pyramid, const at::Tensor& mask) {
    const std::int64_t last = pyramid.size(0) - 1;
    const at::Tensor depth = mask * static_cast<double>(last);
    const at::Tensor floor = depth.detach().floor().clamp(0, static_cast<double>(last));
    const auto level = [&](const at::Tensor& k) {
        return at::gather(pyramid, 0, k.to(at::kLong).expand({1, pyramid.size(1), mask.size(0), mask.size(1)}));
    };
    const at::Tensor share = depth - floor;
    return (1 - share) * level(floor) + share * level((floor + 1).clamp_max(static_cast<double>(last)));
}

namespace {

/// One mask and what it needs from step to step.
struct Search {
    double area = 0;
    at::Tensor parameters;
    Momentum descent{0.01, 0.9};
};

class Extremal final : public Explainer {
  public:
    Description description() const override {
        return {"extremal_perturbation",
                "Extremal perturbation",
                "The smooth region of a given area through which the model answers most strongly",
                "R. Fong, M. Patrick, A. Vedaldi, Understanding Deep Networks via Extremal Perturbations and Smooth "
                "Masks, ICCV 2019, arXiv 1910.08485; numbers and kernel of TorchRay",
                0,
                "Learned masks",
                "argmax over m of f(blur(x, m)) - lambda mean (sorted m - r_a)^2, m smooth by max-convolution, r_a the "
                "sorted mask of area a",
                "The area is chosen beforehand and each is a search of its own, so that several are needed to see how "
                "much is enough (Fong, Patrick and Vedaldi, ICCV 2019)"};
    }
    std::vector<Parameter> parameters() const override {
        return {
            {"preset",
             std::string("one"),
             "one: a mask of the area `area`; several: the mean of the masks of 2.5, 5, 10 and 20 % of the picture, "
             "which ranks pixels by how little is enough",
             "",
             "TorchRay's default",
             {},
             {},
             {"one", "several"}},
            {"area",
             0.1,
             "share of the mask, with its margin, that is kept",
             "",
             "TorchRay's default",
             0.001,
             0.999,
             {}},
            {"steps", std::int64_t{800}, "steps of gradient ascent with momentum 0.9", "", "TorchRay's", 1, 100000, {}},
            {"rate", 0.01, "learning rate", "", "TorchRay's", 1e-6, 10.0, {}},
            {"lambda",
             300.0,
             "weight of the area at the first step; grows by 0.35 % a step",
             "",
             "TorchRay's",
             0.0,
             1e6,
             {}},
            {"step",
             std::int64_t{7},
             "distance of the mask's parameters in a picture 224 a side",
             "pixels",
             "TorchRay's",
             1,
             64,
             {}},
            {"sigma",
             21.0,
             "radius of the mask's kernel in a picture 224 a side",
             "pixels",
             "TorchRay's",
             1.0,
             112.0,
             {}},
            {"blur", 20.0, "strongest blur in a picture 224 a side", "pixels", "TorchRay's", 0.1, 112.0, {}},
            {"flip", true, "shows the model the mirrored picture at every other step", "", "TorchRay's", {}, {}, {}}};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        const auto masks = static_cast<std::int64_t>(areas_of(settings).size());
        const std::int64_t steps = masks * settings.integer("steps");
        return Passes{steps + 2 + masks, steps};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        constexpr std::int64_t kLevels = 8;
        constexpr double kGrowth = 1.0035;
        const at::NoGradGuard no_grad;
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const Objective objective = VITRINE_TRY(context.objective(Scale::Logit));
        const at::Tensor x = context.input.pixels.to(context.model.device(), at::kFloat);
        const double unit = unit_of(x);
        const at::Tensor pyramid = blur_pyramid(x, kLevels, settings.number("blur") * unit);
        const std::int64_t pitch =
            std::max<std::int64_t>(1, std::llround(static_cast<double>(settings.integer("step")) * unit));
        const SmoothMask smooth(x.size(2), x.size(3), pitch, std::max(1.0, settings.number("sigma") * unit),
                                x.options());
        std::vector<Search> searches;
        for (const double area : areas_of(settings))
            searches.push_back(
                {area, at::ones({smooth.rows(), smooth.cols()}, x.options()), Momentum(settings.number("rate"), 0.9)});
        const auto masks = [&] {
            std::vector<at::Tensor> out;
            for (const Search& search : searches) out.push_back(smooth.inner(smooth.whole(search.parameters)));
            return at::stack(out);
        };
        const auto mapped = [&] {
            Attribution out;
            out.method = description().name;
            out.map = masks().mean(0).to(at::kCPU).contiguous();
            out.on_tokens = false;
            out.class_specific = true;
            out.explained = objective.explained;
            return out;
        };
        double weight = settings.number("lambda");
        const bool flip = settings.flag("flip");
        const std::int64_t steps = settings.integer("steps");
        VITRINE_CHECK(optimise(
            context, steps,
            [&](std::int64_t step) -> Status {
                for (Search& search : searches) {
                    const at::AutoGradMode with_graph(true);
                    const at::Tensor leaf = search.parameters.detach().clone().requires_grad_(true);
                    const at::Tensor whole = smooth.whole(leaf);
                    at::Tensor picture = look_into(pyramid, smooth.inner(whole));
                    if (flip && step % 2 == 0) picture = picture.flip({3});
                    const Slope slope = VITRINE_TRY(slope_at(context, objective, picture));
                    const at::Tensor loss =
                        weight * rank_penalty(whole, search.area) - (slope.gradient * picture).sum();
                    const auto gradient = VITRINE_TRY(gradients(loss, {leaf}, {"the mask"}));
                    const at::NoGradGuard without_graph;
                    search.descent.descend(search.parameters, gradient.front());
                    search.parameters.clamp_(0, 1);
                }
                weight *= kGrowth;
                return {};
            },
            mapped));
        Attribution out = mapped();
        out.implementation = fmt::format("{} steps on {} of {} x {} parameters", steps,
                                         searches.size() == 1 ? "a mask" : fmt::format("{} masks", searches.size()),
                                         smooth.rows(), smooth.cols());
        // The explained number through each mask, of the picture as it is and of its strongest blur.
        std::vector<at::Tensor> pictures{x, pyramid.narrow(0, 0, 1)};
        const at::Tensor found = masks();
        for (std::int64_t i = 0; i < found.size(0); ++i) pictures.push_back(look_into(pyramid, found[i]));
        const at::Tensor numbers = VITRINE_TRY(context.scores(objective, at::cat(pictures))).to(at::kDouble);
        const double as_is = numbers[0].item<double>(), without = numbers[1].item<double>();
        for (std::int64_t i = 0; i < found.size(0); ++i) {
            const double through = numbers[2 + i].item<double>();
            out.checks.push_back(
                {fmt::format("through the mask of area {:g}", searches[static_cast<std::size_t>(i)].area),
                 through > without,
                 fmt::format("{} {:.2f} of {:.2f} with {:.0f} % kept, {:.2f} with nothing kept", word_of(objective),
                             through, as_is, 100 * found[i].mean().item<double>(), without)});
        }
        return out;
    }

  private:
    static std::vector<double> areas_of(const Settings& settings) {
        if (settings.text("preset") == "several") return {0.025, 0.05, 0.1, 0.2};
        return {settings.number("area")};
    }
};

}  // namespace

std::unique_ptr<Explainer> make_extremal_perturbation() { return std::make_unique<Extremal>(); }

}  // namespace vitrine::plugin::optimised
