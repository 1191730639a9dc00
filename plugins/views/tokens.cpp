// Token norms, which show artifacts, and the first principal components of the tokens, drawn as colour.
#include "views.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace vitrine::plugin::views {
namespace {

std::optional<std::string> needs_activations(const Model& model) {
    if (model.info().cam_point.empty() && (model.info().layers == 0 || !model.is_native()))
        return model.info().name + " names no activation that could be read";
    return std::nullopt;
}

/// Where tokens can be read layer by layer; elsewhere the model's own last map is the only layer.
bool by_layers(const Model& model) { return model.info().layers > 0 && model.is_native(); }

/// What a point kept, as a map of channels. [channels, rows, cols], float64, on the CPU
/// @error Unsupported  no map, or one of a traced model, whose axes cannot be told apart
Result<at::Tensor> grid_at(const Model& model, const Capture& seen, const std::string& point,
                           const TokenLayout& layout) {
    const at::Tensor& x = seen.points.at(point);
    if (x.dim() == 4 && !model.is_native())
        return fail(ErrorCode::Unsupported, "which axis of {} holds the channels is not known of a traced model",
                    point);
    return VITRINE_TRY(as_grid(x, layout))[0].to(at::kCPU, at::kDouble);
}

class TokenNorms final : public Explainer {
  public:
    Description description() const override {
        return {"token_norms",
                "Token norms",
                "The length of each patch's token after a layer; a few far longer ones are artifacts that hold no part "
                "of the picture",
                "T. Darcet et al., Vision Transformers Need Registers, ICLR 2024, arXiv 2309.16588, section 2; the "
                "threshold by the median is ours",
                0,
                "Inner views",
                "|x_l[patch]|; artifact score = share of patches with |x_l| above the threshold",
                "Says how long a token is, not what it does for the answer, and where lengths fall off smoothly the "
                "threshold decides what is an artifact (Darcet et al. take 150 for DINOv2)"};
    }
    std::vector<Parameter> parameters() const override {
        return {layer_parameter(-1, "the layer that is drawn, from 0; negative counts from the end", "the last"),
                {"threshold",
                 0.0,
                 "length beyond which a token is an artifact; 0: `times` the median of the layer's patches",
                 "",
                 "Darcet et al.: 150 for DINOv2 ViT-g",
                 0.0,
                 1e9,
                 {}},
                {"times", 3.0, "the threshold in medians, where none is given", "", "ours", 1.0, 1e6, {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_activations(model); }
    bool class_specific() const override { return false; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        Model& model = context.model;
        std::vector<std::string> points;
        std::int64_t wanted = 0;
        if (by_layers(model)) {
            wanted = VITRINE_TRY(layer_of(model, settings.integer("layer")));
            for (std::int64_t layer = 0; layer < model.info().layers; ++layer) points.push_back(point_name(layer));
        } else {
            if (!settings.is_default("layer"))
                return fail(ErrorCode::BadInput, "the layers of {} cannot be told apart: only {} is read",
                            model.info().name, model.info().cam_point);
            points.push_back(model.info().cam_point);
        }
        const auto seen = VITRINE_TRY(look(context, context.input.pixels, points));
        const TokenLayout layout = model.layout(context.input.pixels.size(2), context.input.pixels.size(3));
        Attribution out;
        Table table{"token_norms",
                    "",
                    points,
                    {"median", "largest", "threshold", "artifacts", "share of patches", "longest prefix token"},
                    {}};
        for (std::size_t i = 0; i < points.size(); ++i) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const at::Tensor& x = seen->points.at(points[i]);
            const at::Tensor norms = VITRINE_TRY(grid_at(model, *seen, points[i], layout)).norm(2, 0);
            const at::Tensor sorted = std::get<0>(norms.flatten().sort());
            const std::int64_t count = sorted.numel();
            // Of an even number the mean of the two in the middle, as numpy has it.
            const double median = (sorted[(count - 1) / 2].item<double>() + sorted[count / 2].item<double>()) / 2;
            const double given = settings.number("threshold"),
                         threshold = given > 0 ? given : settings.number("times") * median;
            const auto artifacts = (norms > threshold).sum().item<std::int64_t>();
            const double share = static_cast<double>(artifacts) / static_cast<double>(count);
            table.values.push_back(
                {median, sorted[count - 1].item<double>(), threshold, static_cast<double>(artifacts), share});
            if (x.dim() == 3 && x.size(1) > count)
                table.values.back().push_back(
                    x[0].narrow(0, 0, x.size(1) - count).to(at::kCPU, at::kDouble).norm(2, 1).max().item<double>());
            if (static_cast<std::int64_t>(i) != wanted) continue;
            out.map = norms.to(at::kFloat).contiguous();
            out.notes.push_back(
                fmt::format("artifact score {:.2g} %: {} of {} patches are longer than {:.4g} ({}), the "
                            "longest is {:.3g} medians",
                            100 * share, artifacts, count, threshold,
                            given > 0 ? "as given" : fmt::format("{:g} medians", settings.number("times")),
                            sorted[count - 1].item<double>() / std::max(median, 1e-30)));
        }
        out.method = "token_norms";
        out.explained = "length of each token after " + points[static_cast<std::size_t>(wanted)];
        out.implementation = "one pass";
        out.tables.push_back(std::move(table));
        if (context.progress) context.progress({1, 1, "maps"});
        return out;
    }
};

/// The first `most` principal axes of the rows of x: their projections, and the share of the variance of each.
struct Components {
    at::Tensor projections;  ///< [rows, most], float64; of each the entry of largest size is positive
    std::vector<double> shares;
};

Components principal(const at::Tensor& rows, std::int64_t most) {
    const at::Tensor x = rows - rows.mean(0, /*keepdim=*/true);
    // The smaller of the two Gram matrices has the same axes.
    const bool by_rows = x.size(0) <= x.size(1);
    const auto [values, vectors] = at::linalg_eigh(by_rows ? x.mm(x.t()) : x.t().mm(x));  // ascending
    const double all = std::max(values.clamp_min(0).sum().item<double>(), 1e-30);
    Components out{at::zeros({x.size(0), most}, at::kDouble), std::vector<double>(static_cast<std::size_t>(most), 0.0)};
    for (std::int64_t k = 0; k < std::min(most, values.numel()); ++k) {
        const std::int64_t at = values.numel() - 1 - k;
        const double variance = std::max(values[at].item<double>(), 0.0);
        // What is left of an axis without variance is rounding.
        if (variance <= 1e-14 * all) break;
        at::Tensor along = vectors.select(1, at);
        along = by_rows ? along * std::sqrt(variance) : x.mv(along);
        const at::Tensor largest = along[along.abs().argmax()];
        out.projections.select(1, k).copy_(largest.item<double>() < 0 ? -along : along);
        out.shares[static_cast<std::size_t>(k)] = variance / all;
    }
    return out;
}

/// From 0 at the least to 1 at the largest; 0 where all are the same.
at::Tensor scaled(const at::Tensor& x) {
    const at::Tensor moved = x - x.min();
    return moved / moved.max().clamp_min(1e-30);
}

class TokenPca final : public Explainer {
  public:
    Description description() const override {
        return {"token_pca",
                "Token PCA",
                "The first three principal components of the patch tokens as red, green and blue: alike tokens have "
                "alike colours",
                "M. Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024, arXiv "
                "2304.07193, figure 1",
                0,
                "Inner views",
                "colour_k = ((x - mean) v_k) scaled to 0 to 1, v_k the k-th principal axis of the patch tokens",
                "Shows what varies most over this picture, not what the answer uses; signs and colours are arbitrary, "
                "and a few long tokens can take a component for themselves (our observation)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"layer",
                 std::string("-1"),
                 "the layer whose tokens are read, from 0 (negative counts from the end), or norm: after the model's "
                 "last norm",
                 "",
                 "DINOv2 reads them after the norm",
                 {},
                 {},
                 {}},
                {"foreground",
                 std::string("off"),
                 "off: all patches; above, below: the components are found anew among the patches whose first "
                 "component, scaled to 0 to 1, lies on that side of `threshold`, the others are black",
                 "",
                 "above and below: DINOv2, figure 1",
                 {},
                 {},
                 {"off", "above", "below"}},
                {"threshold", 0.5, "where the foreground ends", "", "DINOv2 chooses it by eye", 0.0, 1.0, {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_activations(model); }
    bool class_specific() const override { return false; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        Model& model = context.model;
        const std::string point = VITRINE_TRY(point_of(model, settings));
        const auto seen = VITRINE_TRY(look(context, context.input.pixels, {point}));
        const TokenLayout layout = model.layout(context.input.pixels.size(2), context.input.pixels.size(3));
        const at::Tensor grid = VITRINE_TRY(grid_at(model, *seen, point, layout));
        const std::int64_t rows = grid.size(1), cols = grid.size(2);
        if (rows * cols < 2) return fail(ErrorCode::Unsupported, "one place alone has no components");
        return guarded([&]() -> Result<Attribution> {
            const at::Tensor x = grid.flatten(1).t().contiguous();  // [patches, width]
            Components found = principal(x, 3);
            Attribution out;
            out.map = found.projections.select(1, 0).reshape({rows, cols}).to(at::kFloat).contiguous();
            if (out.map.abs().max().item<double>() == 0)
                return fail(ErrorCode::Unsupported, "all tokens at {} are the same", point);
            at::Tensor colours = at::zeros({3, rows * cols}, at::kDouble);
            const std::string side = settings.text("foreground");
            at::Tensor chosen;
            if (side != "off") {
                const at::Tensor first = scaled(found.projections.select(1, 0));
                const double threshold = settings.number("threshold");
                chosen = (side == "above" ? first > threshold : first < threshold).nonzero().reshape({-1});
                if (chosen.numel() < 2)
                    return fail(ErrorCode::BadInput, "{} patch{} lie{} {} the threshold {:g}: no foreground to look at",
                                chosen.numel(), chosen.numel() == 1 ? "" : "es", chosen.numel() == 1 ? "s" : "", side,
                                threshold);
                found = principal(x.index_select(0, chosen), 3);
                out.notes.push_back(
                    fmt::format("colours of the {} patches {} the threshold; the map is the first "
                                "component of all",
                                chosen.numel(), side));
            }
            Table table{"token_pca", "share of the variance", {}, {"share"}, {}};
            for (std::int64_t k = 0; k < 3; ++k) {
                const at::Tensor one = scaled(found.projections.select(1, k));
                if (chosen.defined())
                    colours[k].index_copy_(0, chosen, one);
                else
                    colours[k].copy_(one);
                table.rows.push_back(fmt::format("component {}", k + 1));
                table.values.push_back({found.shares[static_cast<std::size_t>(k)]});
            }
            out.colours = colours.reshape({3, rows, cols}).to(at::kFloat).contiguous();
            out.method = "token_pca";
            out.is_signed = true;
            out.explained = "first principal component of the tokens at " + point;
            out.implementation = "one pass";
            out.notes.push_back("signs are a convention: of each component the patch of largest size is positive");
            out.tables.push_back(std::move(table));
            if (context.progress) context.progress({1, 1, "maps"});
            return out;
        });
    }

  private:
    static Result<std::string> point_of(const Model& model, const Settings& settings) {
        const std::string text = settings.text("layer");
        if (!by_layers(model)) {
            if (settings.is_default("layer")) return model.info().cam_point;
            return fail(ErrorCode::BadInput, "the layers of {} cannot be told apart: only {} is read",
                        model.info().name, model.info().cam_point);
        }
        if (text == "norm") {
            const auto points = model.points();
            if (std::none_of(points.begin(), points.end(), [](const NamedPoint& p) { return p.name == "norm"; }))
                return fail(ErrorCode::Unsupported, "{} has no norm behind its last block", model.info().name);
            return text;
        }
        std::int64_t layer = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
        if (error != std::errc{} || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "the layer is '{}', expected a number or norm", text);
        return point_name(VITRINE_TRY(layer_of(model, layer)));
    }
};

}  // namespace

std::unique_ptr<Explainer> make_token_norms() { return std::make_unique<TokenNorms>(); }
std::unique_ptr<Explainer> make_token_pca() { return std::make_unique<TokenPca>(); }

}  // namespace vitrine::plugin::views
