// The loop of steps, two optimisers, matrices that enlarge and blur.
#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vitrine/base/random.h>

#include "optimised.h"

namespace vitrine::plugin::optimised {

double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    return static_cast<double>(random_bits(seed, stream, index) >> 11) / 9007199254740992.0;
}

Status optimise(ExplainContext& context, std::int64_t steps, const std::function<Status(std::int64_t step)>& step,
                const std::function<Attribution()>& so_far) {
    constexpr std::int64_t kShown = 10;
    // Passes within a step are no progress that a person can read; steps are.
    const auto progress = std::exchange(context.progress, {});
    const auto show = [&](const std::string& note) {
        Attribution shown = so_far();
        shown.partial = true;
        shown.notes.push_back(note);
        context.refined(shown);
    };
    std::int64_t done = 0;
    Status ended;
    while (done < steps) {
        ended = context.stop.stop_requested() ? fail(ErrorCode::Cancelled, "stopped") : step(done);
        if (!ended) break;
        ++done;
        if (progress) progress({done, steps, "steps"});
        if (context.refined && done % kShown == 0 && done < steps)
            show(fmt::format("after {} of {} steps", done, steps));
    }
    context.progress = progress;
    if (!ended && ended.error().code == ErrorCode::Cancelled && done > 0 && context.refined)
        show(fmt::format("stopped after {} of {} steps", done, steps));
    return ended;
}

void Adam::descend(at::Tensor& x, const at::Tensor& gradient) {
    constexpr double kFirst = 0.9, kSecond = 0.999, kEpsilon = 1e-8;
    if (!first_.defined()) {
        first_ = at::zeros_like(x);
        second_ = at::zeros_like(x);
    }
    ++steps_;
    const auto n = static_cast<double>(steps_);
    first_ = kFirst * first_ + (1 - kFirst) * gradient;
    second_ = kSecond * second_ + (1 - kSecond) * gradient * gradient;
    const at::Tensor mean = first_ / (1 - std::pow(kFirst, n)), square = second_ / (1 - std::pow(kSecond, n));
    x.sub_(rate_ * mean / (square.sqrt() + kEpsilon));
}

void Momentum::descend(at::Tensor& x, const at::Tensor& gradient) {
    velocity_ = velocity_.defined() ? momentum_ * velocity_ + (1 - momentum_) * gradient : gradient.clone();
    x.sub_(rate_ * velocity_);
}

Result<Slope> slope_at(ExplainContext& context, const Objective& objective, const at::Tensor& picture) {
    Slope out;
    const at::Tensor pixels = picture.detach();
    VITRINE_CHECK(context.slopes(
        objective, 1, [&](std::int64_t, std::int64_t) { return pixels; },
        [&](std::int64_t, double score, const at::Tensor& gradient) {
            out.score = score;
            out.gradient = gradient.unsqueeze(0).to(pixels.device());
        }));
    return out;
}

const char* word_of(const Objective& objective) {
    return objective.probability ? "probability" : objective.index >= 0 ? "logit" : "number";
}

double unit_of(const at::Tensor& pixels) {
    return static_cast<double>(std::min(pixels.size(2), pixels.size(3))) / 224.0;
}

at::Tensor gaussian_enlargement(std::int64_t cells, std::int64_t size, double sigma) {
    const double pitch = static_cast<double>(size) / static_cast<double>(cells);
    const at::Tensor pixel = at::arange(size, at::kDouble).unsqueeze(1) + 0.5;
    const at::Tensor centre = (at::arange(cells, at::kDouble) + 0.5) * pitch;
    const at::Tensor square = (pixel - centre).square();
    // Less the nearest one's, which cancels, so that a narrow Gaussian does not vanish everywhere.
    const at::Tensor w = (-0.5 * (square - square.amin({1}, true)) / (sigma * sigma)).exp();
    return w / w.sum(1, true);
}

at::Tensor linear_enlargement(std::int64_t cells, std::int64_t size) {
    at::Tensor out = at::zeros({size, cells}, at::kDouble);
    auto* w = out.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < size; ++i, w += cells) {
        const double at = size > 1 ? static_cast<double>(i * (cells - 1)) / static_cast<double>(size - 1) : 0;
        const auto low = std::min(static_cast<std::int64_t>(at), cells - 1);
        const double share = at - static_cast<double>(low);
        w[low] += 1 - share;
        if (low + 1 < cells) w[low + 1] += share;
    }
    return out;
}

at::Tensor blur_axis(std::int64_t size, double sigma, bool mirrored) {
    at::Tensor out = at::zeros({size, size}, at::kDouble);
    auto* w = out.mutable_data_ptr<double>();
    const auto reach = static_cast<std::int64_t>(std::ceil(4 * sigma));
    double sum = 0;
    std::vector<double> taps;
    for (std::int64_t k = -reach; k <= reach; ++k) {
        const auto d = static_cast<double>(k);
        taps.push_back(sigma > 0 ? std::exp(-0.5 * d * d / (sigma * sigma)) : 1.0);
        sum += taps.back();
    }
    for (std::int64_t i = 0; i < size; ++i)
        for (std::int64_t k = -reach; k <= reach; ++k) {
            std::int64_t j = i + k;
            if (mirrored) {
                j = ((j % (2 * size)) + 2 * size) % (2 * size);
                j = std::min(j, 2 * size - 1 - j);
            } else if (j < 0 || j >= size) {
                continue;
            }
            w[i * size + j] += taps[static_cast<std::size_t>(k + reach)] / sum;
        }
    return out;
}

at::Tensor blurred(const at::Tensor& picture, double sigma, bool mirrored) {
    const at::Tensor y = blur_axis(picture.size(-2), sigma, mirrored).to(picture.options());
    const at::Tensor x = blur_axis(picture.size(-1), sigma, mirrored).to(picture.options());
    return at::matmul(at::matmul(y, picture), x.t());
}

}  // namespace vitrine::plugin::optimised
