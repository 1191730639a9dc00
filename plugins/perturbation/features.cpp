// Sets of features: patches, a grid, superpixels.
#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <vitrine/base/segments.h>

#include "perturbation.h"

namespace vitrine::plugin::perturbation {

at::Tensor Features::map_of(const at::Tensor& values) const {
    return is_grid() ? values.reshape({grid_rows, grid_cols})
                     : values.index_select(0, of).reshape({canvas_rows, canvas_cols});
}

Features grid_features(const Canvas& canvas, std::int64_t rows, std::int64_t cols) {
    Features out;
    out.canvas_rows = canvas.rows();
    out.canvas_cols = canvas.cols();
    out.grid_rows = std::clamp<std::int64_t>(rows, 1, canvas.rows());
    out.grid_cols = std::clamp<std::int64_t>(cols, 1, canvas.cols());
    out.count = out.grid_rows * out.grid_cols;
    out.name = fmt::format("a grid of {} x {}", out.grid_rows, out.grid_cols);
    out.of = at::empty({canvas.rows() * canvas.cols()}, at::kLong);
    auto* of = out.of.mutable_data_ptr<std::int64_t>();
    for (std::int64_t y = 0; y < canvas.rows(); ++y)
        for (std::int64_t x = 0; x < canvas.cols(); ++x)
            *of++ = (2 * y + 1) * out.grid_rows / (2 * canvas.rows()) * out.grid_cols +
                    (2 * x + 1) * out.grid_cols / (2 * canvas.cols());
    return out;
}

std::vector<Parameter> feature_parameters(const std::string& standard, const std::string& source) {
    return {{"features",
             standard,
             "what is hidden as one: the model's patches (a grid where it has none), a grid, or superpixels",
             "",
             source,
             {},
             {},
             {"patches", "grid", "slic", "quickshift", "felzenszwalb"}},
            {"grid", std::int64_t{8}, "cells a side of the grid", "", "Xplique's standard", 1, 64, {}},
            {"segments", std::int64_t{50}, "superpixels that slic is asked for", "", "", 2, 2000, {}}};
}

namespace {

/// What the model sees, in [0, 1].
Field shown(const Canvas& canvas) {
    const at::Tensor x = canvas.picture().to(at::kDouble);
    const Preprocess& p = canvas.context().model.preprocess();
    Field out{x.size(2), x.size(1), 3, std::vector<double>(static_cast<std::size_t>(x.numel()))};
    const at::Tensor rows = x.permute({1, 2, 0}).contiguous();
    const auto* in = rows.const_data_ptr<double>();
    for (std::size_t i = 0; i < out.values.size(); ++i)
        out.values[i] = std::clamp(in[i] * p.std[i % 3] + p.mean[i % 3], 0.0, 1.0);
    return out;
}

Features of_segments(const Canvas& canvas, const Segments& segments, const std::string& name) {
    Features out;
    out.canvas_rows = canvas.rows();
    out.canvas_cols = canvas.cols();
    out.of = at::empty({canvas.rows() * canvas.cols()}, at::kLong);
    auto* of = out.of.mutable_data_ptr<std::int64_t>();
    if (!canvas.removes()) {
        std::copy(segments.labels.begin(), segments.labels.end(), of);
        out.count = segments.count;
    } else {
        // Votes of each patch's pixels; of equal ones the lower label.
        const auto count = static_cast<std::size_t>(segments.count);
        std::vector<std::int64_t> votes(static_cast<std::size_t>(out.of.numel()) * count);
        for (std::int64_t y = 0; y < segments.height; ++y)
            for (std::int64_t x = 0; x < segments.width; ++x) {
                const std::int64_t patch =
                    y * canvas.rows() / segments.height * canvas.cols() + x * canvas.cols() / segments.width;
                ++votes[static_cast<std::size_t>(patch) * count +
                        static_cast<std::size_t>(segments.labels[static_cast<std::size_t>(y * segments.width + x)])];
            }
        std::vector<std::int64_t> label(count, -1);
        for (std::int64_t patch = 0; patch < out.of.numel(); ++patch) {
            const auto first = votes.begin() + patch * segments.count;
            auto& found = label[static_cast<std::size_t>(std::max_element(first, first + segments.count) - first)];
            if (found < 0) found = out.count++;
            of[patch] = found;
        }
    }
    out.name = fmt::format("{} superpixels ({})", out.count, name);
    return out;
}

}  // namespace

Result<Features> features_of(const Canvas& canvas, const Settings& settings) {
    const std::string kind = settings.text("features");
    const std::int64_t grid = settings.integer("grid");
    if (kind == "grid") return grid_features(canvas, grid, grid);
    if (kind == "patches") {
        const at::Tensor x = canvas.picture();
        const Model& model = canvas.context().model;
        const TokenLayout layout = model.info().layers > 0 ? model.layout(x.size(1), x.size(2)) : TokenLayout{};
        if (!layout.known() || layout.rows * layout.cols == 0) return grid_features(canvas, grid, grid);
        return grid_features(canvas, layout.rows, layout.cols);
    }
    const Field field = shown(canvas);
    std::string name = kind;
    // lime_image's quickshift; scikit-image's example for Felzenszwalb.
    Segments found;
    if (kind == "quickshift") {
        Quickshift of_lime;
        of_lime.ratio = 0.2;
        of_lime.kernel_size = 4;
        of_lime.max_distance = 200;
        of_lime.seed = canvas.context().seed;
        found = VITRINE_TRY(quickshift(field, of_lime));
    } else if (kind == "felzenszwalb") {
        found = VITRINE_TRY(felzenszwalb(field, {100, 0.5, 50}));
    }
    if (found.count < 2) {
        Slic wanted;
        wanted.segments = settings.integer("segments");
        found = VITRINE_TRY(slic(field, wanted));
        if (kind != "slic") name = fmt::format("slic, because {} found one", kind);
    }
    Features out = of_segments(canvas, found, name);
    if (out.count < 2) return grid_features(canvas, grid, grid);
    return out;
}

}  // namespace vitrine::plugin::perturbation
