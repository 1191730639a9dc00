// Sobol and HSIC: how much of the score's variation hangs on each cell of a grid.
#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_sobol_engine_draw.h>
#include <ATen/ops/_sobol_engine_initialize_state.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "perturbation.h"

namespace vitrine::plugin::perturbation {

Result<at::Tensor> sobol_points(std::int64_t count, std::int64_t dimensions) {
    constexpr std::int64_t kMost = 21201, kBits = 30;  // Joe and Kuo's table; torch's numbers of 30 bits
    if (dimensions > kMost)
        return fail(ErrorCode::BadInput,
                    "{} dimensions are wanted of the Sobol sequence, which has {} here; use fewer cells", dimensions,
                    kMost);
    at::Tensor state = at::zeros({dimensions, kBits}, at::kLong);
    at::_sobol_engine_initialize_state_(state, dimensions);
    return std::get<0>(
        at::_sobol_engine_draw(at::zeros({dimensions}, at::kLong), count, state, dimensions, 0, at::kFloat));
}

at::Tensor sobol_design(const at::Tensor& points, std::int64_t from, std::int64_t count) {
    const std::int64_t designs = points.size(0), features = points.size(1) / 2;
    at::Tensor out = at::empty({count, features});
    for (std::int64_t i = 0; i < count; ++i) {
        const at::Tensor point = points[(from + i) % designs];
        out[i].copy_(point.narrow(0, 0, features));
        const std::int64_t changed = (from + i) / designs - 1;
        if (changed >= 0) out[i][changed].copy_(point[features + changed]);
    }
    return out;
}

at::Tensor sobol_indices(const at::Tensor& scores, std::int64_t designs) {
    const at::Tensor f = scores.to(at::kDouble);
    const at::Tensor a = f.narrow(0, 0, designs);
    const at::Tensor c = f.narrow(0, designs, f.size(0) - designs).reshape({-1, designs});
    const at::Tensor variance = a.var().clamp_min(1e-12);
    return (a - c).square().sum(1) / (2 * static_cast<double>(designs) * variance);
}

at::Tensor hsic_scores(const at::Tensor& masks, const at::Tensor& scores) {
    const at::Tensor x = masks.to(at::kDouble), y = scores.to(at::kDouble);
    const std::int64_t n = y.size(0);
    const at::Tensor sorted = std::get<0>(y.sort());
    const at::Tensor width = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
    const at::Tensor l = (-(y.unsqueeze(1) - y).square() / (2 * width.square()).clamp_min(1e-30)).exp();
    // For features of 0 and 1 the centred Dirac kernel is 2 x x', x less its mean: one product instead of one matrix a
    // feature.
    const at::Tensor centred = x - x.mean(0);
    return 2 * (centred * l.matmul(centred)).sum(0) / static_cast<double>(n);
}

namespace {

/// Cells of the setting `grid`, which is never finer than the canvas; nothing where that is not known.
std::optional<std::int64_t> cells_of(const Model& model, const Settings& settings) {
    std::int64_t rows = model.preprocess().input_height, cols = model.preprocess().input_width;
    if (settings.text("fill") == "remove") {
        const TokenLayout layout = model.layout(rows, cols);
        if (!layout.known()) return std::nullopt;
        rows = layout.rows;
        cols = layout.cols;
    }
    return std::min(settings.integer("grid"), rows) * std::min(settings.integer("grid"), cols);
}

class Sobol final : public Explainer {
  public:
    Description description() const override {
        return {"sobol",
                "Sobol indices",
                "The share of the score's variance that a cell takes part in",
                "T. Fel et al., Look at the Variance! Efficient Black-box Explanations with Sobol-based Sensitivity "
                "Analysis, NeurIPS 2021, arXiv 2111.04138; Xplique's settings",
                0,
                "Perturbation",
                "1 - V(E[f | all cells but i]) / V(f) over random strengths of the cells",
                "Has no sign, so that what speaks for and against look alike, and no more detail than its grid (our "
                "observation)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"grid", std::int64_t{8}, "cells a side", "", "Xplique's", 1, 32, {}},
                {"designs",
                 std::int64_t{32},
                 "points of the sequence; (cells + 1) pictures each",
                 "",
                 "Xplique's",
                 2,
                 1024,
                 {}},
                fill_parameter("zero", "Xplique's inpainting")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model& model, const Settings& settings) const override {
        const auto cells = cells_of(model, settings);
        if (!cells) return std::nullopt;
        return Passes{settings.integer("designs") * (*cells + 1), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), 0));
        const Features features = grid_features(canvas, settings.integer("grid"), settings.integer("grid"));
        canvas.paint_means(features);
        const std::int64_t designs = settings.integer("designs");
        const at::Tensor points = VITRINE_TRY(sobol_points(designs, 2 * features.count));
        const std::int64_t count = designs * (features.count + 1);
        canvas.expect(count);
        const at::Tensor scores = VITRINE_TRY(canvas.scores(count, [&](std::int64_t from, std::int64_t some) {
            at::Tensor samples = sobol_design(points, from, some);
            if (canvas.removes()) {  // half a patch cannot be left out
                samples = samples.ge(0.5).to(at::kFloat);
                keep_one(samples);
            }
            return features.expand(samples);
        }));
        Attribution out = canvas.attribution(*this, features.map_of(sobol_indices(scores, designs)), true, false);
        out.explained = "variance of the " + out.explained;
        out.notes.push_back(
            fmt::format("{}, {} designs; Xplique's second matrix, which Jansen's estimator does not "
                        "read, is not run",
                        features.name, designs));
        return out;
    }
};

class Hsic final : public Explainer {
  public:
    Description description() const override {
        return {"hsic",
                "HSIC",
                "How strongly the score depends on whether a cell is there",
                "P. Novello, T. Fel, D. Vigouroux, Making Sense of Dependence: Efficient Black-box Explanations Using "
                "Dependence Measure, NeurIPS 2022, arXiv 2206.06219; Xplique's settings",
                0,
                "Perturbation",
                "HSIC(m_i, f(x * m)) over random masks m",
                "Has no sign, so that what speaks for and against look alike, and no more detail than its grid (our "
                "observation)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"grid", std::int64_t{8}, "cells a side", "", "Xplique's", 1, 32, {}},
                {"designs", std::int64_t{500}, "masks, points of the Sobol sequence", "", "Xplique's", 2, 20000, {}},
                fill_parameter("zero", "Xplique's inpainting")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        return Passes{settings.integer("designs"), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const std::int64_t designs = settings.integer("designs");
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), designs));
        const Features features = grid_features(canvas, settings.integer("grid"), settings.integer("grid"));
        canvas.paint_means(features);
        // Rounded as TensorFlow does: the half goes to 0.
        const at::Tensor samples = VITRINE_TRY(sobol_points(designs, features.count)).gt(0.5).to(at::kFloat);
        if (canvas.removes()) keep_one(samples);
        const at::Tensor scores = VITRINE_TRY(canvas.scores(features, samples));
        // The kernel is positive; what is below 0 is rounding.
        Attribution out =
            canvas.attribution(*this, features.map_of(hsic_scores(samples, scores).clamp_min(0)), true, false);
        out.explained = "dependence of the " + out.explained;
        out.notes.push_back(fmt::format("{}, {} masks", features.name, designs));
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_sobol() { return std::make_unique<Sobol>(); }
std::unique_ptr<Explainer> make_hsic() { return std::make_unique<Hsic>(); }

}  // namespace vitrine::plugin::perturbation
