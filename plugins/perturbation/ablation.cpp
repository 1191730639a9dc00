// Occlusion and feature ablation: what the score loses when one part is hidden.
#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "perturbation.h"

namespace vitrine::plugin::perturbation {
namespace {

class Occlusion final : public Explainer {
  public:
    Description description() const override {
        return {
            "occlusion",
            "Occlusion",
            "What the score loses when a window slides over the picture",
            "M. D. Zeiler, R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014; captum's form",
            0,
            "Perturbation",
            "mean over the windows on a pixel of f(x) - f(x with the window hidden)",
            "Size and colour of the window decide (our observation), and pictures with a hole are unlike what the "
            "model was trained on (as Hooker et al., NeurIPS 2019, say of all removal)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"window", std::int64_t{15}, "side of the window", "pixels", "captum's tutorial", 1, 4096, {}},
                {"stride", std::int64_t{8}, "how far it moves", "pixels", "captum's tutorial", 1, 4096, {}},
                fill_parameter("zero", "captum's tutorial")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model& model, const Settings& settings) const override {
        const Preprocess& p = model.preprocess();
        const bool removes = settings.text("fill") == "remove";
        const TokenLayout layout = model.layout(p.input_height, p.input_width);
        if (removes && !layout.known()) return std::nullopt;
        const Axis y = axis_of(settings, removes ? layout.rows : p.input_height, p.input_height);
        const Axis x = axis_of(settings, removes ? layout.cols : p.input_width, p.input_width);
        return Passes{1 + y.steps * x.steps, 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), 0));
        const Axis y = axis_of(settings, canvas.rows(), context.input.pixels.size(2));
        const Axis x = axis_of(settings, canvas.cols(), context.input.pixels.size(3));
        if (canvas.removes() && y.window == y.size && x.window == x.size)
            return fail(ErrorCode::BadInput, "a window of {} x {} patches leaves none", y.size, x.size);
        const std::int64_t count = y.steps * x.steps;
        canvas.expect(count + 1);
        /// The part of `map` under window i; at the end of an axis the window is cut off.
        const auto under = [&](const at::Tensor& map, std::int64_t i) {
            const std::int64_t top = i / x.steps * y.stride, left = i % x.steps * x.stride;
            return map.narrow(0, top, std::min(y.window, y.size - top))
                .narrow(1, left, std::min(x.window, x.size - left));
        };
        // The picture as it is comes last, so that it needs no pass of its own.
        const at::Tensor scores = VITRINE_TRY(canvas.scores(count + 1, [&](std::int64_t from, std::int64_t some) {
            at::Tensor masks = at::ones({some, y.size, x.size});
            for (std::int64_t i = 0; i < some && from + i < count; ++i) under(masks[i], from + i).fill_(0);
            return masks.reshape({some, -1});
        }));
        const double whole = scores[count].item<double>();
        at::Tensor sum = at::zeros({y.size, x.size}, at::kDouble), times = at::zeros_like(sum);
        const auto* score = scores.const_data_ptr<double>();
        for (std::int64_t i = 0; i < count; ++i) {
            under(sum, i).add_(whole - score[i]);
            under(times, i).add_(1);
        }
        // A stride beyond the window leaves pixels that were never hidden.
        Attribution out = canvas.attribution(*this, sum / times.clamp_min(1), canvas.removes(), true);
        out.notes.push_back(fmt::format("{} windows of {} x {} {}", count, y.window, x.window,
                                        canvas.removes() ? "patches" : "pixels"));
        return out;
    }

  private:
    struct Axis {
        std::int64_t size, window, stride, steps;
    };
    /// Where patches are left out the window is counted in patches, one at least.
    static Axis axis_of(const Settings& settings, std::int64_t size, std::int64_t pixels) {
        const double cell = static_cast<double>(pixels) / static_cast<double>(size);
        const auto cells = [&](const char* name) {
            return std::max<std::int64_t>(1, std::llround(static_cast<double>(settings.integer(name)) / cell));
        };
        Axis out{size, std::min(cells("window"), size), cells("stride"), 0};
        out.steps = (size - out.window + out.stride - 1) / out.stride + 1;
        return out;
    }
};

class FeatureAblation final : public Explainer {
  public:
    Description description() const override {
        return {"feature_ablation",
                "Feature ablation",
                "What the score loses when one patch or superpixel is hidden",
                "captum, FeatureAblation",
                0,
                "Perturbation",
                "f(x) - f(x without feature i)",
                "One feature at a time: two that stand in for each other both seem needless (our observation)"};
    }
    std::vector<Parameter> parameters() const override {
        auto out = feature_parameters("patches", "the model's own parts");
        out.push_back(fill_parameter("zero", "captum's standard"));
        return out;
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model& model, const Settings& settings) const override {
        const TokenLayout layout = model.layout(model.preprocess().input_height, model.preprocess().input_width);
        // How many superpixels there are is the picture's to say; a grid is never finer than the canvas.
        if (settings.text("features") != "patches" || model.info().layers == 0 || !layout.known()) return std::nullopt;
        return Passes{1 + layout.rows * layout.cols, 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), 0));
        const Features features = VITRINE_TRY(features_of(canvas, settings));
        if (canvas.removes() && features.count < 2)
            return fail(ErrorCode::BadInput, "there is one feature only, and without it nothing is left");
        canvas.paint_means(features);
        canvas.expect(features.count + 1);
        // The picture as it is comes last, so that it needs no pass of its own.
        const std::int64_t count = features.count;
        const at::Tensor scores = VITRINE_TRY(canvas.scores(count + 1, [&](std::int64_t from, std::int64_t some) {
            at::Tensor masks = at::ones({some, count});
            for (std::int64_t i = 0; i < some && from + i < count; ++i) masks[i][from + i].fill_(0);
            return features.expand(masks);
        }));
        const at::Tensor lost = scores[count] - scores.narrow(0, 0, count);
        Attribution out =
            canvas.attribution(*this, features.map_of(lost), features.is_grid() || canvas.removes(), true);
        out.notes.push_back(features.name);
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_occlusion() { return std::make_unique<Occlusion>(); }
std::unique_ptr<Explainer> make_feature_ablation() { return std::make_unique<FeatureAblation>(); }

}  // namespace vitrine::plugin::perturbation
