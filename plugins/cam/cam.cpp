// The mechanism behind the class activation maps: one run that keeps some layers, their gradients, one rule's map of
// each, and how the maps of several layers become one.
#include "cam.h"

#include <algorithm>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>

namespace vitrine::plugin::cam {
namespace {

/// Fused attention has no second derivative: while this lives, attention is computed by plain matrix products.
class MathAttention {
  public:
    MathAttention() {
        auto& context = at::globalContext();
        context.setSDPUseFlash(false);
        context.setSDPUseMemEfficient(false);
        context.setSDPUseCuDNN(false);
        context.setSDPUseMath(true);
    }
    ~MathAttention() {
        auto& context = at::globalContext();
        context.setSDPUseFlash(flash_);
        context.setSDPUseMemEfficient(efficient_);
        context.setSDPUseCuDNN(cudnn_);
        context.setSDPUseMath(math_);
    }
    MathAttention(const MathAttention&) = delete;
    MathAttention& operator=(const MathAttention&) = delete;

  private:
    bool flash_ = at::globalContext().userEnabledFlashSDP(),
         efficient_ = at::globalContext().userEnabledMemEfficientSDP(),
         cudnn_ = at::globalContext().userEnabledCuDNNSDP(), math_ = at::globalContext().userEnabledMathSDP();
};

/// The layers that a setting names; the model's own where it names none.
Result<std::vector<std::string>> layers_of(const Model& model, const std::string& text, bool several) {
    const std::string& own = model.info().cam_point;
    std::vector<std::string> out;
    for (std::size_t from = 0; from <= text.size();) {
        const std::size_t comma = std::min(text.find(',', from), text.size());
        std::string name = text.substr(from, comma - from);
        name.erase(0, name.find_first_not_of(' '));
        name.erase(name.find_last_not_of(' ') + 1);
        if (!name.empty()) out.push_back(name);
        from = comma + 1;
    }
    if (out.empty() && own.empty())
        return fail(ErrorCode::Unsupported,
                    "which activation of {} these methods should read could not be told: give one of its named points "
                    "as layer",
                    model.info().name);
    if (out.empty()) out.push_back(own);
    if (out.size() > 1 && !several)
        return fail(ErrorCode::BadInput, "this method reads one layer, found {}: {}", out.size(), fmt::join(out, ", "));
    const auto points = model.points();
    for (const std::string& name : out)
        if (std::none_of(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == name; }))
            return fail(ErrorCode::BadInput, "{} has no point named {}", model.info().name, name);
    return out;
}

/// The operator that gave a traced model's point, and how many axes it has: "result of layer_norm [1, 7, 7, 96]".
std::pair<std::string, std::int64_t> result_of(const NamedPoint& point) {
    const std::string start = "result of ";
    if (!point.meaning.starts_with(start)) return {};
    const std::size_t bracket = point.meaning.find(" [");
    if (bracket == std::string::npos) return {};
    return {point.meaning.substr(start.size(), bracket - start.size()),
            1 + std::count(point.meaning.begin() + static_cast<std::ptrdiff_t>(bracket), point.meaning.end(), ',')};
}

/// Which axis of an activation holds the channels. A traced model may have them last in a map of four axes; the
/// operator tells, or the point is refused.
Result<std::int64_t> channel_axis_of(const Model& model, const std::string& name, const at::Tensor& x) {
    if (x.dim() == 3) return std::int64_t{2};
    if (x.dim() == 4 && !model.is_native()) {
        const auto last = [](const std::string& op) { return op == "layer_norm" || op == "linear" || op == "addmm"; };
        std::string own;
        bool any_last = false;
        for (const NamedPoint& point : model.points()) {
            const auto [op, axes] = result_of(point);
            if (point.name == name) own = op;
            any_last = any_last || (axes == 4 && last(op));
        }
        const bool first = own.find("conv") != std::string::npos || own.find("pool") != std::string::npos ||
                           own == "batch_norm" || own == "group_norm";
        if (last(own)) return std::int64_t{3};
        if (!first && any_last)
            return fail(ErrorCode::Unsupported,
                        "which axis of {} holds the channels is not known: give a layer that is the result of a norm, "
                        "a linear layer or a convolution",
                        name);
    }
    return std::int64_t{1};
}

/// [channels, rows, cols], float64, on the CPU.
Result<at::Tensor> grid_of(const Layer& layer, const at::Tensor& x, const TokenLayout& layout) {
    if (x.dim() < 1 || x.size(0) != 1)
        return fail(ErrorCode::Unsupported, "the activation at {} is [{}], not that of one picture", layer.name,
                    fmt::join(x.sizes(), ", "));
    const at::Tensor grid = VITRINE_TRY(as_grid(x, layout));
    return (layer.channel_axis == 3 ? grid.permute({0, 3, 1, 2}) : grid)[0].detach().to(at::kCPU, at::kDouble);
}

at::Tensor resized(const at::Tensor& map, std::int64_t rows, std::int64_t cols) {
    if (map.size(0) == rows && map.size(1) == cols) return map;
    return at::upsample_bilinear2d(map.unsqueeze(0).unsqueeze(0), {rows, cols}, /*align_corners=*/false)[0][0];
}

/// The maps of several layers as one, on the finest grid.
at::Tensor fuse(std::vector<at::Tensor> maps, const std::string& how) {
    if (maps.size() == 1) return maps.front();
    std::int64_t rows = 0, cols = 0;
    for (const at::Tensor& map : maps) {
        rows = std::max(rows, map.size(0));
        cols = std::max(cols, map.size(1));
    }
    at::Tensor out;
    for (at::Tensor map : maps) {
        map = map.clamp_min(0);
        const double largest = map.max().item<double>();
        if (how == "max") {
            // LayerCAM, equations 9 and 10: gamma is 2.
            map = resized(largest > 0 ? (2.0 / largest * map).tanh() : map, rows, cols);
            out = out.defined() ? at::maximum(out, map) : map;
        } else if (how == "torchcam") {
            map = map - map.min();
            map = resized((2.0 * map / (1e-8 + map.max())).tanh(), rows, cols);
            out = out.defined() ? at::maximum(out, map) : map;
        } else {
            map = map - map.min();
            map = resized(map / (1e-7 + map.max()), rows, cols) / static_cast<double>(maps.size());
            out = out.defined() ? out + map : map;
        }
    }
    return out;
}

class Cam final : public Explainer {
  public:
    explicit Cam(const Rule& rule) : rule_(rule) {}

    Description description() const override {
        return {rule_.name, rule_.title,        rule_.summary, rule_.source,
                0,          "Class activation", rule_.formula, rule_.weakness};
    }
    std::vector<Parameter> parameters() const override {
        std::vector<Parameter> out = rule_.parameters;
        out.push_back({"layer",
                       std::string(),
                       rule_.several ? "the named points that are read, separated by commas; empty: the model's own, "
                                       "the last at which patches still reach the answer"
                                     : "the named point that is read; empty: the model's own",
                       "",
                       "",
                       {},
                       {},
                       {}});
        if (rule_.several)
            out.push_back({"fusion",
                           std::string("max"),
                           "how the maps of several layers, without what is negative, become one on the finest grid: "
                           "max: the largest of tanh(2 map / its maximum), as LayerCAM has it; torchcam: each map's "
                           "least value is taken away first; mean: of the maps scaled to 0 to 1, as pytorch-grad-cam "
                           "has it",
                           "",
                           "Jiang et al., LayerCAM, IEEE TIP 2021, equations 9 and 10",
                           {},
                           {},
                           {"max", "torchcam", "mean"}});
        out.push_back({"relu",
                       rule_.relu,
                       "what is negative becomes zero; pytorch-grad-cam does so for every method",
                       "",
                       rule_.relu ? "the method's own" : "the method keeps its sign",
                       {},
                       {},
                       {}});
        return out;
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (auto why = needs_activations(model)) return why;
        return rule_.why_not != nullptr ? rule_.why_not(model) : std::nullopt;
    }
    bool class_specific() const override { return rule_.class_specific; }
    std::optional<std::string> no_region(const Settings& settings) const override {
        return rule_.no_region != nullptr ? rule_.no_region(settings) : std::nullopt;
    }
    std::optional<Passes> passes(const Model& model, const Settings& settings) const override {
        if (rule_.passes != nullptr) return rule_.passes(model, settings);
        return Passes{1, rule_.needs == Needs::Activation ? 0 : rule_.needs == Needs::Gradient ? 1 : 2};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const auto names = VITRINE_TRY(layers_of(context.model, settings.text("layer"), rule_.several));
        NumberOf number_of;
        if (rule_.class_specific)
            number_of = [&](const at::Tensor& answer, std::optional<Objective>& objective) -> Result<Number> {
                if (!objective) objective = VITRINE_TRY(objective_of(context.model, context.target, answer));
                if (rule_.number != nullptr) return rule_.number(*objective, answer, settings);
                return Number{[o = *objective](const at::Tensor& x) { return o.of(x); }, objective->explained};
            };
        const Look seen = VITRINE_TRY(look(context, names, rule_.needs, number_of));

        Attribution out;
        out.implementation = rule_.needs == Needs::Hessian    ? "one pass, differentiated twice, by plain attention"
                             : rule_.needs == Needs::Gradient ? "one pass and its gradient"
                                                              : "one pass";
        std::vector<at::Tensor> maps;
        for (const Layer& layer : seen.layers) {
            const Work work{context,
                            settings,
                            seen.objective ? &*seen.objective : nullptr,
                            rule_.class_specific ? &seen.number : nullptr,
                            layer,
                            seen.score};
            at::Tensor map = VITRINE_TRY(guarded([&] { return rule_.map(work, out); }));
            if (!at::isfinite(map).all().item<bool>())
                return fail(ErrorCode::Unsupported, "the map of {} holds numbers that are not finite", layer.name);
            maps.push_back(settings.flag("relu") ? map.clamp_min(0) : map);
        }
        out.map = fuse(maps, rule_.several ? settings.text("fusion") : "").to(at::kFloat).contiguous();
        out.method = rule_.name;
        out.is_signed = !settings.flag("relu") && maps.size() == 1;
        out.class_specific = rule_.class_specific;
        out.explained = fmt::format("{} at {}", rule_.class_specific ? seen.number.explained : "activation",
                                    fmt::join(names, ", "));
        if (rule_.needs == Needs::Hessian)
            out.notes.push_back(
                "attention was computed by plain matrix products: fused attention has no second "
                "derivative");
        if (out.map.abs().max().item<double>() == 0)
            out.notes.push_back(
                "the map is zero: no place speaks for it, and what speaks against it is dropped "
                "(relu=false shows it)");
        if (context.progress) context.progress({1, 1, "maps"});
        return out;
    }

  private:
    const Rule& rule_;
};

}  // namespace

std::optional<std::string> needs_activations(const Model& model) {
    if (model.info().cam_point.empty() && model.points().empty())
        return model.info().name + " names no activation that could be read";
    return std::nullopt;
}

Result<Look> look(ExplainContext& context, const std::vector<std::string>& layers, Needs needs,
                  const NumberOf& number_of, std::vector<Edit> edits) {
    std::optional<MathAttention> plain;
    if (needs == Needs::Hessian) plain.emplace();
    Look out;
    CaptureOptions options;
    options.mixings = false;
    options.gradients = needs != Needs::Activation;
    options.stop = context.stop;
    options.memory_budget = context.memory_budget;
    options.points = layers;
    options.edits = std::move(edits);
    // A region is read at a point, which must be kept too; what it is needs no answer.
    if (number_of && !context.target.region.empty()) {
        out.objective = VITRINE_TRY(context.objective());
        options.points.push_back(out.objective->point);
    }
    const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
    for (const std::string& name : layers) {
        const auto found = capture->points.find(name);
        if (found == capture->points.end())
            return fail(ErrorCode::Unsupported, "{} did not pass {}", context.model.info().name, name);
        out.layers.push_back({name, found->second, {}, {}, {}, 1});
    }
    const TokenLayout layout = context.model.layout(context.input.pixels.size(2), context.input.pixels.size(3));
    const auto on_grid = [&](const Layer& layer, const at::Tensor& x) {
        return guarded([&] { return grid_of(layer, x, layout); });
    };
    for (Layer& layer : out.layers) {
        layer.channel_axis = VITRINE_TRY(channel_axis_of(context.model, layer.name, layer.raw));
        layer.a = VITRINE_TRY(on_grid(layer, layer.raw));
    }
    if (number_of) out.number = VITRINE_TRY(number_of(capture->output.detach(), out.objective));
    at::Tensor number;
    if (number_of) {
        const at::Tensor answer =
            out.objective ? VITRINE_TRY(answer_of(*capture, *out.objective, context.model)) : capture->output;
        const at::AutoGradMode mode(options.gradients);
        number = VITRINE_TRY(guarded([&]() -> Result<at::Tensor> { return out.number.of(answer).sum(); }));
        out.score = number.item<double>();
    }
    if (needs == Needs::Activation) return out;

    std::vector<at::Tensor> wanted, found;
    std::vector<std::string> names;
    for (const Layer& layer : out.layers) {
        wanted.push_back(layer.raw);
        names.push_back("the activation at " + layer.name);
    }
    if (needs == Needs::Gradient) {
        auto given = gradients(number, wanted, names);
        if (!given && given.error().code == ErrorCode::Internal)
            return fail(ErrorCode::Unsupported, "{}", given.error().message);
        found = VITRINE_TRY(std::move(given));
    } else {
        found = VITRINE_TRY(guarded([&]() -> Result<std::vector<at::Tensor>> {
            const at::AutoGradMode mode(true);
            return torch::autograd::grad({number}, wanted, {}, true, /*create_graph=*/true, /*allow_unused=*/true);
        }));
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
        Layer& layer = out.layers[i];
        if (!found[i].defined())
            return fail(ErrorCode::Unsupported, "the number does not depend on the activation at {}", layer.name);
        layer.g = VITRINE_TRY(on_grid(layer, found[i]));
        if (layer.g.abs().max().item<double>() == 0)
            return fail(ErrorCode::Unsupported, "{} does not depend on any place of {}: give an earlier layer{}",
                        out.number.explained, layer.name,
                        context.model.info().cam_point.empty() || context.model.info().cam_point == layer.name
                            ? ""
                            : ", such as " + context.model.info().cam_point);
        layer.constant = needs == Needs::Linear && !found[i].requires_grad();
        if (needs != Needs::Hessian) continue;
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        at::Tensor second;
        // A gradient without a graph, or one that the activation is not in, is constant: its derivative is zero.
        if (found[i].requires_grad())
            second = VITRINE_TRY(guarded([&]() -> Result<at::Tensor> {
                const at::AutoGradMode mode(true);
                return torch::autograd::grad({found[i]}, {layer.raw}, {layer.raw.detach()}, true, false,
                                             /*allow_unused=*/true)
                    .front();
            }));
        layer.ha = second.defined() ? VITRINE_TRY(on_grid(layer, second)) : at::zeros_like(layer.g);
    }
    return out;
}

std::unique_ptr<Explainer> make_cam(const Rule& rule) { return std::make_unique<Cam>(rule); }

}  // namespace vitrine::plugin::cam
