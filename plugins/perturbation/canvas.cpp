// Scores of masked pictures: pixels painted over, or patches left out.
#include <algorithm>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "perturbation.h"

namespace vitrine::plugin::perturbation {

double uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    return static_cast<double>(random_bits(seed, stream, index) >> 11) / 9007199254740992.0;
}

Parameter fill_parameter(const std::string& standard, const std::string& source) {
    return {"fill",
            standard,
            "what replaces a hidden part: the training mean (zero), a colour, the picture's or the segment's mean "
            "colour, its blur (11 pixels, sigma 5), noise; or remove: its patches are left out",
            "",
            source,
            {},
            {},
            {"zero", "black", "white", "mean", "segment", "blur", "noise", "remove"}};
}

std::optional<std::string> no_region_for(const Settings& settings) {
    if (settings.text("fill") != "remove") return std::nullopt;
    return "where patches are left out (fill=remove), a region has no place to be read from";
}

namespace {

/// The matrix that blurs an axis: 11 taps of sigma 5, borders mirrored.
at::Tensor blur_axis(std::int64_t size) {
    constexpr int kReach = 5;
    constexpr double kSigma = 5;
    at::Tensor out = at::zeros({size, size});
    auto* w = out.mutable_data_ptr<float>();
    double sum = 0;
    for (int k = -kReach; k <= kReach; ++k) sum += std::exp(-0.5 * k * k / (kSigma * kSigma));
    for (std::int64_t i = 0; i < size; ++i)
        for (int k = -kReach; k <= kReach; ++k) {
            const std::int64_t period = 2 * size;
            std::int64_t j = (((i + k) % period) + period) % period;
            if (j >= size) j = period - 1 - j;
            w[i * size + j] += static_cast<float>(std::exp(-0.5 * k * k / (kSigma * kSigma)) / sum);
        }
    return out;
}

}  // namespace

Result<Canvas> Canvas::make(ExplainContext& context, const std::string& fill, std::int64_t expected) {
    Canvas out;
    out.context_ = &context;
    out.fill_name_ = fill;
    out.expected_ = expected;
    if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    out.objective_ = VITRINE_TRY(context.objective(Scale::Probability));
    const at::Tensor x = out.picture();
    out.rows_ = x.size(1);
    out.cols_ = x.size(2);
    const auto colour = [&](double level) {
        return normalise(at::full({1, 3, 1, 1}, level), context.model.preprocess())[0].expand_as(x).contiguous();
    };
    if (fill == "remove") {
        if (auto why = context.model.no_token_removal()) return fail(ErrorCode::Unsupported, "{}", *why);
        const TokenLayout layout = context.model.layout(out.rows_, out.cols_);
        if (!layout.known()) return fail(ErrorCode::Unsupported, "patches cannot be left out: {}", layout.unknown);
        out.rows_ = layout.rows;
        out.cols_ = layout.cols;
    } else if (fill == "black") {
        out.fill_ = colour(0);
    } else if (fill == "white") {
        out.fill_ = colour(1);
    } else if (fill == "mean" || fill == "segment") {
        out.fill_ = x.mean({1, 2}, true).expand_as(x).contiguous();
    } else if (fill == "blur") {
        out.fill_ = blur_axis(out.rows_).matmul(x).matmul(blur_axis(out.cols_).t());
    } else if (fill == "noise") {
        out.fill_ =
            at::randn(x.sizes(), at::make_generator<at::CPUGeneratorImpl>(random_bits(context.seed, 0xF111, 0)));
    }
    return out;
}

void Canvas::paint_means(const Features& features) {
    if (fill_name_ != "segment") return;
    const at::Tensor x = picture().reshape({3, -1}).to(at::kDouble);
    const at::Tensor size = at::zeros({features.count}, at::kDouble).index_add_(0, features.of, at::ones_like(x[0]));
    const at::Tensor mean = at::zeros({3, features.count}, at::kDouble).index_add_(1, features.of, x) / size;
    fill_ = mean.index_select(1, features.of).reshape(picture().sizes()).to(at::kFloat);
}

Result<at::Tensor> Canvas::counted(std::int64_t count, const std::function<Result<at::Tensor>()>& work) {
    const auto outer = context_->progress;
    if (outer)
        context_->progress = [this, outer](const Progress& p) {
            outer({spent_ + p.done, std::max(expected_, spent_ + p.total), p.unit});
        };
    auto found = work();
    context_->progress = outer;
    spent_ += count;
    return VITRINE_TRY(std::move(found)).to(at::kDouble);
}

Result<at::Tensor> Canvas::scores(std::int64_t count, const Masks& masks) {
    const at::NoGradGuard no_grad;
    if (removes()) return counted(count, [&] { return context_->scores_of_kept(objective_, masks(0, count) >= 0.5); });
    const at::Tensor x = context_->input.pixels;
    return scores_of(count, [&](std::int64_t from, std::int64_t some) {
        const at::Tensor m = masks(from, some).reshape({some, 1, rows_, cols_});
        return fill_.defined() ? x * m + fill_ * (1 - m) : x * m;
    });
}

Result<at::Tensor> Canvas::scores(const Features& features, const at::Tensor& samples) {
    return scores(samples.size(0),
                  [&](std::int64_t from, std::int64_t some) { return features.expand(samples.narrow(0, from, some)); });
}

Result<at::Tensor> Canvas::scores_of(std::int64_t count, const Masks& make) {
    return counted(count, [&] { return context_->scores(objective_, count, make); });
}

Result<double> Canvas::whole() {
    if (!whole_)
        whole_ = VITRINE_TRY(scores_of(1, [&](std::int64_t, std::int64_t) {
                     return context_->input.pixels;
                 })).item<double>();
    return *whole_;
}

Attribution Canvas::attribution(const Explainer& method, const at::Tensor& map, bool on_tokens, bool is_signed) const {
    Attribution out;
    out.method = method.description().name;
    out.map = map.to(at::kFloat).contiguous();
    out.on_tokens = on_tokens;
    out.is_signed = is_signed;
    out.class_specific = true;
    out.explained = objective_.explained;
    out.implementation = removes() ? fmt::format("{} passes, patches left out", spent_)
                                   : fmt::format("{} passes, pixels painted ({})", spent_, fill_name_);
    return out;
}

}  // namespace vitrine::plugin::perturbation
