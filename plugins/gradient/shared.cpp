// Baselines, noise, reductions and sums that the gradient methods share.
#include "gradient.h"

#include <vitrine/base/random.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace vitrine::plugin::gradient {

Parameter reduce_parameter(std::string standard) {
    return {"reduce",
            std::move(standard),
            "how the three colour channels become one map: their sum, with its sign, or the largest absolute value",
            "",
            "max_abs: Simonyan et al. 2014, section 3.1; sum: keeps completeness",
            {},
            {},
            {"sum", "max_abs"}};
}

Parameter baseline_parameter() {
    return {
        "baseline",
        std::string("zero"),
        "the picture in which nothing is to be seen: zero is the mean colour the model was normalised with, blur is "
        "this picture blurred, noise_mean averages over five pictures of uniform noise",
        "",
        "zero: captum's default; blur: P. Sturmfels, S. Lundberg, S.-I. Lee, Distill 2020",
        {},
        {},
        {"zero", "black", "white", "blur", "noise_mean"}};
}

namespace {
constexpr std::int64_t kNoises = 5;
}

std::int64_t ways_of(const Settings& settings) { return settings.text("baseline") == "noise_mean" ? kNoises : 1; }

at::Tensor baselines(const ExplainContext& context, const std::string& name) {
    const at::Tensor x = context.input.pixels.to(at::kCPU, at::kFloat);
    const Preprocess& preprocess = context.model.preprocess();
    if (name == "black") return normalise(at::zeros_like(x), preprocess);
    if (name == "white") return normalise(at::ones_like(x), preprocess);
    if (name == "blur") {
        // The mean colour lies outside, so that the border fades to what "zero" is. 20 pixels of 224.
        const double sigma = 20.0 / 224.0 * static_cast<double>(std::min(x.size(2), x.size(3)));
        return blurred(x.to(at::kDouble), sigma).to(at::kFloat);
    }
    if (name == "noise_mean") {
        std::vector<at::Tensor> all;
        for (std::int64_t i = 0; i < kNoises; ++i) all.push_back(at::rand(x.sizes(), generator_of(context.seed, 2, i)));
        return normalise(at::cat(all), preprocess);
    }
    return at::zeros_like(x);
}

at::Tensor blurred(const at::Tensor& picture, double sigma) {
    const auto radius = static_cast<std::int64_t>(4.0 * sigma + 0.5);
    if (radius < 1) return picture;
    double total = 0;
    for (std::int64_t i = -radius; i <= radius; ++i)
        total += std::exp(-0.5 * static_cast<double>(i * i) / (sigma * sigma));
    // Zeros outside make a blur along one axis the product with a banded matrix.
    const auto matrix = [&](std::int64_t side) {
        const at::Tensor at_ = at::arange(side, at::kDouble);
        const at::Tensor away = (at_.unsqueeze(1) - at_.unsqueeze(0)).abs();
        const at::Tensor weight = at::exp(away * away * (-0.5 / (sigma * sigma))) / total;
        return at::where(away <= static_cast<double>(radius), weight, at::zeros_like(weight));
    };
    return at::matmul(at::matmul(matrix(picture.size(-2)), picture), matrix(picture.size(-1)));
}

at::Generator generator_of(std::uint64_t seed, std::uint64_t stream, std::int64_t sample) {
    return at::make_generator<at::CPUGeneratorImpl>(random_bits(seed, stream, static_cast<std::uint64_t>(sample)));
}

Attribution to_attribution(const Explainer& method, const Settings& settings, const Objective& objective,
                           const at::Tensor& channels) {
    Attribution out;
    out.method = method.description().name;
    out.channels = channels.detach().to(at::kCPU, at::kFloat).contiguous();
    const bool sum = settings.text("reduce") == "sum";
    out.map = sum ? out.channels.sum(0) : out.channels.abs().amax(0);
    out.on_tokens = false;
    out.is_signed = sum;
    out.class_specific = true;
    out.explained = objective.explained;
    out.implementation = "autograd";
    return out;
}

double Gap::share() const {
    // Nothing changed: what is left of the sum is measured against the smallest change that float32 can tell.
    return std::abs(sum - change) / std::max(std::abs(change), 1e-6);
}

Check Gap::check() const {
    Check out;
    out.name = "completeness";
    out.passed = share() <= 0.05;
    out.finding = fmt::format("the map sums to {:.4g} and the number changed by {:.4g}: {:.2g} % off{}", sum, change,
                              100 * share(), share() > 0.01 ? ", above 1 %" : "");
    return out;
}

Result<Run> run_with_graph(ExplainContext& context, const Objective& objective, const at::Tensor& pixels,
                           const std::string& point) {
    CaptureOptions options;
    options.mixings = false;
    options.gradients = true;
    options.stop = context.stop;
    if (!point.empty()) options.points.push_back(point);
    if (!objective.point.empty() && objective.point != point) options.points.push_back(objective.point);
    if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    Run out;
    out.capture = VITRINE_TRY(run_captured(context.model, pixels, options));
    const at::Tensor answer = VITRINE_TRY(answer_of(*out.capture, objective, context.model));
    const at::AutoGradMode with_graph(true);
    out.scores = objective.of(answer);
    return out;
}

}  // namespace vitrine::plugin::gradient
