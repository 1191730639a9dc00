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
        CaptureOptions options;
        options.gradients = true;
        options.stop = context.stop;
        options.memory_budget = context.memory_budget;
        for (std::int64_t layer = first; layer < layers; ++layer)
            options.points.push_back(fmt::format("blocks.{}", layer));
        const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        const Flow& flow = capture->flow;
        const TargetScore target = VITRINE_TRY(score_of(context, capture->output));

        at::Tensor sum;
        std::string shown;
        for (std::int64_t layer = first; layer < layers; ++layer) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const FlowStep* step = flow.block(layer);
            const auto tokens = capture->points.find(fmt::format("blocks.{}", layer));
            if (step == nullptr || tokens == capture->points.end())
                return fail(ErrorCode::Unsupported, "layer {} of {} was not seen", layer, context.model.info().name);
            const Mixing& mixing = *step->mixing;
            at::Tensor score;
            {
                const at::AutoGradMode mode(true);
                score = target.of(tail.logits(tokens->second.select(0, 0)));
            }
            // Autograd walks only from the score to this layer's output: the block's tail. The graph is shared with the
            // layers after it, so it stays until all have been asked.
            const auto d_output = VITRINE_TRY(gradients(score, {mixing.output()}, {"the output of " + mixing.name},
                                                        /*keep_graph=*/layer + 1 < layers));
            const at::Tensor r = at::ones({mixing.queries}) / static_cast<double>(mixing.queries);
            const at::Tensor one = VITRINE_TRY(mixing.sensitivity(r, Sensitivity::ReluDP, d_output.front())).mean(0);
            sum = sum.defined() ? sum + one : one;
            shown = mixing.implementation();
            if (context.progress) context.progress({layer - first + 1, layers - first, "layers"});
        }
        if (!sum.defined()) return fail(ErrorCode::Unsupported, "{} has no layers", context.model.info().name);
        sum = sum / static_cast<double>(layers - first);
        Attribution out = VITRINE_TRY(to_attribution(sum, flow.block(first)->mixing->key_layout));
        const double all = sum.sum().item<double>();
        out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
        out.notes.clear();
        out.method = "legrad";
        out.explained = target.explained +
                        fmt::format(", read from the mean of the tokens after each of {} layers", layers - first);
        out.class_specific = true;
        out.implementation = shown;
        const Mixing& last = *flow.block(-1)->mixing;
        out.checks.push_back(as_check(last, VITRINE_TRY(last.check(context.seed))));
        out.notes.insert(out.notes.end(), capture->notes.begin(), capture->notes.end());
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_legrad() { return std::make_unique<LeGrad>(); }

}  // namespace vitrine::plugin::attention
