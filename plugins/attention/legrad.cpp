// LeGrad: how much each layer's own score grows with what is attended, layer by layer, no gradient between layers.
#include "attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>

namespace vitrine::plugin::attention {
namespace {

/// What turns the mean of a layer's tokens into logits: the final norm and the head, by timm's names.
struct Tail {
    at::Tensor norm_weight, norm_bias, head_weight, head_bias;

    static Result<Tail> of(Model& model) {
        Tail tail;
        for (const auto& [name, tensor] : model.parameters()) {
            if (name == "norm.weight" || (name == "fc_norm.weight" && !tail.norm_weight.defined()))
                tail.norm_weight = tensor;
            if (name == "norm.bias" || (name == "fc_norm.bias" && !tail.norm_bias.defined())) tail.norm_bias = tensor;
            if (name == "head.weight") tail.head_weight = tensor;
            if (name == "head.bias") tail.head_bias = tensor;
        }
        if (!tail.norm_weight.defined() || !tail.head_weight.defined() ||
            tail.head_weight.size(1) != tail.norm_weight.numel())
            return fail(ErrorCode::Unsupported,
                        "{} has no final norm and linear head of one width, by which LeGrad scores a layer",
                        model.info().name);
        return tail;
    }
    /// [tokens, width] -> [classes]
    at::Tensor logits(const at::Tensor& tokens) const {
        const at::Tensor mean = tokens.mean(0, true).to(norm_weight.scalar_type());
        const at::Tensor normed = at::layer_norm(mean, {norm_weight.numel()}, norm_weight, norm_bias, 1e-6);
        return at::linear(normed, head_weight, head_bias).to(at::kFloat).select(0, 0);
    }
};

class LeGrad final : public Explainer {
  public:
    Description description() const override {
        return {"legrad", "LeGrad", "Positive gradients of each layer's own score with respect to its attention",
                "W. Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation "
                "Sensitivity, ICCV 2025, arXiv 2404.03214",
                0};
    }
    std::vector<Parameter> parameters() const override {
        Parameter preset{"preset",
                         std::string("paper"),
                         "which layers are averaged: all of them, or the last two",
                         "",
                         "paper: all layers; package: the last two, as legrad_torch does",
                         {},
                         {},
                         {"paper", "package"}};
        return {preset};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (auto why = needs_attention(model)) return why;
        if (model.info().classes == 0) return model.info().name + " has no classes, and this method explains a class";
        if (!model.is_native()) return "the final norm and head of a traced model cannot be reached";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Tail tail = VITRINE_TRY(Tail::of(context.model));
        const std::int64_t layers = context.model.info().layers;
        const std::int64_t first = settings.text("preset") == "package" ? std::max<std::int64_t>(layers - 2, 0) : 0;
        // No gradient goes from layer to layer: each is done with as the run passes it, and only one graph exists.
        std::optional<TargetScore> target;
        if (!context.target.index)
            target =
                VITRINE_TRY(score_of(context, VITRINE_TRY(run(context.model, context.input.pixels, context.stop))));
        at::Tensor sum;
        std::string shown;
        TokenLayout key_layout;
        std::optional<Check> check;
        CaptureOptions options;
        options.gradients = true;
        options.stop = context.stop;
        for (std::int64_t layer = first; layer < layers; ++layer)
            options.points.push_back(fmt::format("blocks.{}", layer));
        options.visit = [&](const std::string& point, const at::Tensor& x, const FlowStep* step) -> Status {
            const std::int64_t layer = step != nullptr ? step->layer : -1;
            if (point != fmt::format("blocks.{}", layer))
                return fail(ErrorCode::Unsupported, "the attention before {} of {} was not seen", point,
                            context.model.info().name);
            const Mixing& mixing = *step->mixing;
            at::Tensor score;
            {
                const at::AutoGradMode mode(true);
                const at::Tensor logits = tail.logits(x.select(0, 0));
                if (!target) target = VITRINE_TRY(score_of(context, logits.unsqueeze(0)));
                score = target->of(logits);
            }
            // Autograd walks from the score to this layer's attention: the block's tail.
            const auto d_output = VITRINE_TRY(gradients(score, {mixing.output()}, {"the output of " + mixing.name}));
            const at::Tensor r = at::ones({mixing.queries}, at::TensorOptions().device(mixing.device())) /
                                 static_cast<double>(mixing.queries);
            const at::Tensor one = VITRINE_TRY(mixing.sensitivity(r, Sensitivity::ReluDP, d_output.front())).mean(0);
            sum = sum.defined() ? sum + one : one;
            shown = mixing.implementation();
            if (layer == first) key_layout = mixing.key_layout;
            if (layer + 1 == layers) check = as_check(mixing, VITRINE_TRY(mixing.check(context.seed)));
            if (context.progress) context.progress({layer - first + 1, layers - first, "layers"});
            return {};
        };
        const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        if (!sum.defined()) return fail(ErrorCode::Unsupported, "{} has no layers", context.model.info().name);
        sum = sum.to(at::kCPU) / static_cast<double>(layers - first);
        Attribution out = VITRINE_TRY(to_attribution(sum, key_layout));
        const double all = sum.sum().item<double>();
        out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
        out.notes.clear();
        out.method = "legrad";
        out.explained = target->explained +
                        fmt::format(", read from the mean of the tokens after each of {} layers", layers - first);
        out.class_specific = true;
        out.implementation = shown;
        if (check) out.checks.push_back(*check);
        out.notes.insert(out.notes.end(), capture->notes.begin(), capture->notes.end());
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_legrad() { return std::make_unique<LeGrad>(); }

}  // namespace vitrine::plugin::attention
