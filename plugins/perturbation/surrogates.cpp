// LIME and KernelSHAP: a linear model of the score over features that are there or not.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_lstsq.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "perturbation.h"

namespace vitrine::plugin::perturbation {

namespace {
constexpr std::uint64_t kLime = 0x117E, kSize = 0x5AB0, kSubset = 0x5AB1;

/// Samples and scores less their weighted means: an intercept without a column.
struct Centred {
    at::Tensor x, y;
};
Centred centred(const at::Tensor& samples, const at::Tensor& scores, const at::Tensor& weights) {
    const at::Tensor x = samples.to(at::kDouble), y = scores.to(at::kDouble),
                     w = weights.to(at::kDouble) / weights.sum();
    return {x - w.matmul(x), y - w.dot(y)};
}
}  // namespace

void keep_one(const at::Tensor& samples) {
    const at::Tensor empty = (samples.sum(1) == 0).contiguous();
    for (std::int64_t i = 0; i < samples.size(0); ++i)
        if (empty.const_data_ptr<bool>()[i]) samples[i][i % samples.size(1)].fill_(1);
}

at::Tensor lime_samples(std::uint64_t seed, std::int64_t samples, std::int64_t features) {
    at::Tensor out = at::empty({samples, features});
    auto* value = out.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < samples * features; ++i)
        value[i] = i < features || (random_bits(seed, kLime, static_cast<std::uint64_t>(i)) >> 63) != 0 ? 1.0F : 0.0F;
    return out;
}

at::Tensor lime_weights(const at::Tensor& samples, double kernel_width) {
    // The cosine to a row of ones; of an empty row it is taken as 0.
    const at::Tensor kept = samples.to(at::kDouble).mean(1);
    const at::Tensor distance = 1 - kept.sqrt();
    return (-(distance * distance) / (kernel_width * kernel_width)).exp().sqrt();
}

at::Tensor ridge(const at::Tensor& samples, const at::Tensor& scores, const at::Tensor& weights, double alpha) {
    const Centred c = centred(samples, scores, weights);
    const at::Tensor wx = c.x * weights.to(at::kDouble).unsqueeze(1);
    const at::Tensor left = wx.t().matmul(c.x) + alpha * at::eye(samples.size(1), at::kDouble);
    return at::linalg_solve(left, wx.t().matmul(c.y));
}

at::Tensor shap_samples(std::uint64_t seed, std::int64_t samples, std::int64_t features, bool none) {
    at::Tensor out = at::zeros({samples, features});
    auto* value = out.mutable_data_ptr<float>();
    std::fill(value, value + features, 1.0F);
    std::vector<double> upto(static_cast<std::size_t>(std::max<std::int64_t>(features, 1)), 0);
    for (std::int64_t k = 1; k < features; ++k)
        upto[static_cast<std::size_t>(k)] = upto[static_cast<std::size_t>(k - 1)] +
                                            static_cast<double>(features - 1) / static_cast<double>(k * (features - k));
    std::vector<std::int64_t> order(static_cast<std::size_t>(features));
    for (std::int64_t i = none ? 2 : 1; i < samples; ++i) {
        const auto sample = static_cast<std::uint64_t>(i);
        const double drawn = uniform(seed, kSize, sample) * upto.back();
        // upto[k - 1] <= drawn < upto[k] draws k; upto[0] is 0.
        const auto size = std::clamp<std::int64_t>(std::upper_bound(upto.begin(), upto.end(), drawn) - upto.begin(), 1,
                                                   std::max<std::int64_t>(features - 1, 1));
        std::iota(order.begin(), order.end(), 0);
        for (std::int64_t k = 0; k < size; ++k) {  // the first places of a Fisher-Yates shuffle
            const std::uint64_t index = sample * static_cast<std::uint64_t>(features) + static_cast<std::uint64_t>(k);
            const auto other = k + static_cast<std::int64_t>(random_bits(seed, kSubset, index) %
                                                             static_cast<std::uint64_t>(features - k));
            std::swap(order[static_cast<std::size_t>(k)], order[static_cast<std::size_t>(other)]);
            value[i * features + order[static_cast<std::size_t>(k)]] = 1;
        }
    }
    return out;
}

at::Tensor shap_values(const at::Tensor& samples, const at::Tensor& scores) {
    const at::Tensor kept = samples.to(at::kDouble).sum(1);
    const at::Tensor ends = (kept == 0).logical_or(kept == static_cast<double>(samples.size(1)));
    const at::Tensor weights = at::where(ends, 1e6 * at::ones_like(kept), at::ones_like(kept));
    const Centred c = centred(samples, scores, weights);
    const at::Tensor root = weights.sqrt();
    return std::get<0>(at::linalg_lstsq(c.x * root.unsqueeze(1), (c.y * root).unsqueeze(1), std::nullopt, "gelsd"))
        .squeeze(1);
}

namespace {

/// The scores of all samples. Where somebody watches they come in blocks of whole batches, and `fit` makes the map that
/// follows from those so far.
Result<at::Tensor> watched_scores(
    Canvas& canvas, const Features& features, const at::Tensor& samples,
    const std::function<Attribution(const at::Tensor& samples, const at::Tensor& scores)>& fit) {
    const std::int64_t count = samples.size(0), batch = canvas.context().batch_size();
    // Where patches are left out only pictures with equally many make a batch, so a block has more of them.
    const std::int64_t least = canvas.removes() ? 512 : 100, block = (least + batch - 1) / batch * batch;
    if (!canvas.context().refined || count <= block) return canvas.scores(features, samples);
    std::vector<at::Tensor> scores;
    for (std::int64_t from = 0; from < count; from += block) {
        const std::int64_t some = std::min(block, count - from);
        scores.push_back(VITRINE_TRY(canvas.scores(features, samples.narrow(0, from, some))));
        if (from + some == count) break;
        Attribution so_far = fit(samples.narrow(0, 0, from + some), at::cat(scores));
        so_far.partial = true;
        canvas.context().refined(so_far);
    }
    return at::cat(scores);
}

class Lime final : public Explainer {
  public:
    Description description() const override {
        return {
            "lime",
            "LIME",
            "A weighted ridge regression of the score on which superpixels are there",
            "M. T. Ribeiro, S. Singh, C. Guestrin, \"Why Should I Trust You?\": Explaining the Predictions of Any "
            "Classifier, KDD 2016, arXiv 1602.04938; lime_image's settings",
            0,
            "Perturbation",
            "w = argmin of sum over samples z of k(z) (f(z) - w z)^2 + alpha |w|^2",
            "A picture that hardly differs can get quite another map (Alvarez-Melis and Jaakkola, On the Robustness of "
            "Interpretability Methods, 2018), and so can other samples of the same picture (our observation)"};
    }
    std::vector<Parameter> parameters() const override {
        auto out = feature_parameters("quickshift", "lime_image's: kernel 4, distance 200, ratio 0.2");
        out.push_back(
            {"samples", std::int64_t{1000}, "random subsets of the features", "", "lime_image's", 2, 1000000, {}});
        out.push_back(
            {"kernel_width", 0.25, "width of the weight over the cosine distance", "", "lime_image's", 1e-3, 1e3, {}});
        out.push_back({"alpha", 1.0, "strength of the ridge", "", "lime_base's: Ridge(alpha=1)", 0.0, 1e9, {}});
        out.push_back(fill_parameter("segment", "lime_image's: each superpixel's mean colour"));
        return out;
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        return Passes{settings.integer("samples"), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const std::int64_t count = settings.integer("samples");
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), count));
        const Features features = VITRINE_TRY(features_of(canvas, settings));
        canvas.paint_means(features);
        const at::Tensor samples = lime_samples(context.seed, count, features.count);
        if (canvas.removes()) keep_one(samples);
        const double width = settings.number("kernel_width"), alpha = settings.number("alpha");
        const auto mapped = [&](const at::Tensor& values) {
            return canvas.attribution(*this, features.map_of(values), features.is_grid() || canvas.removes(), true);
        };
        const at::Tensor scores =
            VITRINE_TRY(watched_scores(canvas, features, samples, [&](const at::Tensor& some, const at::Tensor& known) {
                return mapped(ridge(some, known, lime_weights(some, width), alpha));
            }));
        const at::Tensor weights = lime_weights(samples, width);
        const at::Tensor values = ridge(samples, scores, weights, alpha);
        Attribution out = mapped(values);
        const Centred c = centred(samples, scores, weights);
        const at::Tensor off = c.y - c.x.matmul(values);
        const double all = weights.dot(c.y * c.y).item<double>();
        out.notes.push_back(fmt::format("{}, {} samples, the linear model explains {:.0f} % of the score's variance",
                                        features.name, count,
                                        all > 0 ? 100 * (1 - weights.dot(off * off).item<double>() / all) : 0.0));
        return out;
    }
};

class KernelShap final : public Explainer {
  public:
    Description description() const override {
        return {"kernel_shap",
                "KernelSHAP",
                "Shapley values of patches or superpixels by weighted regression",
                "S. M. Lundberg, S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, "
                "arXiv 1705.07874; captum's weighting",
                0,
                "Perturbation",
                "phi_i = mean over orders of f(with feature i) - f(without it), by weighted regression on samples",
                "Features are left out as if they were independent, so that pictures arise that cannot be (Aas, Jullum "
                "and Løland, Explaining individual predictions when features are dependent: More accurate "
                "approximations to Shapley values, Artificial Intelligence 2021)"};
    }
    std::vector<Parameter> parameters() const override {
        auto out = feature_parameters("slic", "");
        out.push_back({"samples",
                       std::int64_t{1000},
                       "subsets of the features, all and none among them (captum's standard is 25)",
                       "",
                       "",
                       3,
                       1000000,
                       {}});
        out.push_back(fill_parameter("zero", "captum's standard"));
        return out;
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        return Passes{settings.integer("samples"), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const std::int64_t count = settings.integer("samples");
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), count));
        const Features features = VITRINE_TRY(features_of(canvas, settings));
        if (features.count < 2) return fail(ErrorCode::BadInput, "there is one feature only, and nothing to share out");
        canvas.paint_means(features);
        const at::Tensor samples = shap_samples(context.seed, count, features.count, !canvas.removes());
        const auto mapped = [&](const at::Tensor& values) {
            return canvas.attribution(*this, features.map_of(values), features.is_grid() || canvas.removes(), true);
        };
        const at::Tensor scores =
            VITRINE_TRY(watched_scores(canvas, features, samples, [&](const at::Tensor& some, const at::Tensor& known) {
                return mapped(shap_values(some, known));
            }));
        const at::Tensor values = shap_values(samples, scores);
        Attribution out = mapped(values);
        out.notes.push_back(fmt::format("{}, {} samples", features.name, count));
        if (count < features.count + 2)
            out.notes.push_back("fewer samples than features: of all solutions the smallest is shown");
        if (canvas.removes()) {
            out.notes.push_back("a picture without patches cannot be asked: the empty sample is left out");
        } else {
            const double change = (scores[0] - scores[1]).item<double>(), sum = values.sum().item<double>();
            const double gap = std::abs(sum - change) / std::max(std::abs(change), 1e-12);
            out.checks.push_back({"completeness", gap <= 0.01,
                                  fmt::format("the values sum to {:.4g}, the score changes by {:.4g}", sum, change)});
        }
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_lime() { return std::make_unique<Lime>(); }
std::unique_ptr<Explainer> make_kernel_shap() { return std::make_unique<KernelShap>(); }

}  // namespace vitrine::plugin::perturbation
