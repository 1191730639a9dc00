// SmoothGrad, SmoothGrad squared and VarGrad: mean, mean square and variance of the gradient under noise.
#include "gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace vitrine::plugin::gradient {
namespace {

enum class Form : std::uint8_t { Mean, Square, Variance };

class Noisy final : public Explainer {
  public:
    Noisy(Form form, Draws draws) : form_(form), draws_(std::move(draws)) {}

    Description description() const override {
        switch (form_) {
            case Form::Square:
                return {"square_grad",
                        "SmoothGrad squared",
                        "The mean square of the gradient over noisy copies",
                        "S. Hooker et al., A Benchmark for Interpretability Methods in Deep Neural Networks, NeurIPS "
                        "2019, arXiv 1806.10758",
                        0,
                        "Gradients",
                        "mean over noise of (df/dx)^2",
                        "Has no sign: what speaks for and what speaks against look alike, and the strength of the "
                        "noise decides (our observation)"};
            case Form::Variance:
                return {"var_grad",
                        "VarGrad",
                        "The variance of the gradient over noisy copies",
                        "J. Adebayo et al., Local Explanation Methods for Deep Neural Networks Lack Sensitivity to "
                        "Parameter Values, 2018, arXiv 1810.03307",
                        0,
                        "Gradients",
                        "variance over noise of df/dx",
                        "Does not hold the gradient itself, only how it wavers: higher derivatives (Seo et al., "
                        "Noise-adding Methods of Saliency Map as Series of Higher Order Partial Derivative, 2018)"};
            case Form::Mean:
                break;
        }
        return {"smooth_grad",
                "SmoothGrad",
                "The mean gradient over noisy copies of the picture",
                "D. Smilkov et al., SmoothGrad: removing noise by adding noise, 2017, arXiv 1706.03825",
                0,
                "Gradients",
                "mean over noise of df/dx",
                "Smoother, but when models were trained again without what it marks it did no better than chance "
                "(Hooker et al., NeurIPS 2019)"};
    }
    std::vector<Parameter> parameters() const override {
        Parameter samples{"samples", std::int64_t{50}, "noisy copies", "", "Smilkov et al., section 3.2", 1, 100000,
                          {}};
        Parameter noise{"noise",
                        0.15,
                        "standard deviation of the noise, as a share of the normalised picture's range",
                        "",
                        "Smilkov et al., section 3.1: 10 to 20 %",
                        0.0,
                        10.0,
                        {}};
        return {samples, noise, reduce_parameter(form_ == Form::Mean ? "max_abs" : "sum")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        return Passes{settings.integer("samples"), settings.integer("samples")};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        const at::Tensor x = context.input.pixels.to(at::kCPU, at::kFloat);
        const std::int64_t samples = settings.integer("samples");
        const double deviation = settings.number("noise") * (x.max() - x.min()).item<double>();
        const auto noise = [&](std::int64_t i) {
            return draws_.noise ? draws_.noise(i) : at::randn(x.sizes(), generator_of(context.seed, 0, i)) * deviation;
        };
        at::Tensor sum = at::zeros(x.sizes().slice(1), at::kDouble), squares = sum.clone();
        const auto mapped = [&](std::int64_t count) {
            const at::Tensor mean = sum / static_cast<double>(count), square = squares / static_cast<double>(count);
            // Divided by the number of copies, not by one less, as captum does.
            const at::Tensor channels = form_ == Form::Mean     ? mean
                                        : form_ == Form::Square ? square
                                                                : (square - mean * mean).clamp_min(0);
            Attribution out = to_attribution(*this, settings, objective, channels);
            out.is_signed = out.is_signed && form_ == Form::Mean;
            if (!draws_.noise)
                out.notes.push_back(fmt::format("{} noisy copies, standard deviation {:.3g}", count, deviation));
            return out;
        };
        constexpr std::int64_t kShown = 8;  // copies from one look at the map to the next
        VITRINE_CHECK(context.slopes(
            objective, samples,
            [&](std::int64_t first, std::int64_t count) {
                std::vector<at::Tensor> some;
                for (std::int64_t i = first; i < first + count; ++i) some.push_back(x + noise(i));
                return at::cat(some);
            },
            [&](std::int64_t i, double, const at::Tensor& gradient) {
                const at::Tensor g = gradient.to(at::kDouble);
                sum += g;
                squares += g * g;
                if (!context.refined || (i + 1) % kShown != 0 || i + 1 == samples) return;
                Attribution so_far = mapped(i + 1);
                so_far.partial = true;
                context.refined(so_far);
            }));
        return mapped(samples);
    }

  private:
    Form form_;
    Draws draws_;
};

}  // namespace

std::unique_ptr<Explainer> make_smooth_grad(Draws draws) {
    return std::make_unique<Noisy>(Form::Mean, std::move(draws));
}
std::unique_ptr<Explainer> make_square_grad(Draws draws) {
    return std::make_unique<Noisy>(Form::Square, std::move(draws));
}
std::unique_ptr<Explainer> make_var_grad(Draws draws) {
    return std::make_unique<Noisy>(Form::Variance, std::move(draws));
}

}  // namespace vitrine::plugin::gradient
