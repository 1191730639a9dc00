// LeGrad: how much each layer's own score grows with what is attended, layer by layer, no gradient between layers.
#include "attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>

namespace vitrine::plugin::attention {
namespace {

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
        return model.no_layer_answer();
    }
    bool class_specific() const override { return true; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const std::int64_t layers = context.model.info().layers;
        const std::int64_t first = settings.text("preset") == "package" ? std::max<std::int64_t>(layers - 2, 0) : 0;
        // No gradient goes from layer to layer: each is done with as the run passes it, and only one graph exists.
        std::optional<Objective> target;
        if (!context.target.index)
            target = VITRINE_TRY(
                answer_objective(context, VITRINE_TRY(run(context.model, context.input.pixels, context.stop))));
        at::Tensor sum;
        std::string shown;
        TokenLayout layout;
        std::optional<Check> check;
        std::int64_t done = 0;
        /// Adds what the layer's score says of this attention: the block's own, or that of the pooling head reading it.
        const auto add = [&](const Mixing& mixing, const at::Tensor& answer) -> Status {
            if (!target) target = VITRINE_TRY(answer_objective(context, answer));
            at::Tensor score;
            {
                const at::AutoGradMode mode(true);
                score = target->of(answer);
            }
            // Autograd walks from the score to this attention only.
            const auto d_output = VITRINE_TRY(gradients(score, {mixing.output()}, {"the output of " + mixing.name}));
            const at::Tensor r = at::ones({mixing.queries}, at::TensorOptions().device(mixing.device())) /
                                 static_cast<double>(mixing.queries);
            const at::Tensor one = VITRINE_TRY(mixing.sensitivity(r, Sensitivity::ReluDP, d_output.front())).mean(0);
            sum = sum.defined() ? sum + one : one;
            shown = mixing.implementation();
            layout = mixing.key_layout;
            if (++done == layers - first) check = as_check(mixing, VITRINE_TRY(mixing.check(context.seed)));
            if (context.progress) context.progress({done, layers - first, "layers"});
            return {};
        };
        // A pooling head is run again on each layer's tokens, after the run, and is all of the tail.
        const bool pooler = context.model.info().readout == Readout::AttentionPool;
        std::vector<std::pair<at::Tensor, TokenLayout>> tokens;
        CaptureOptions options;
        options.gradients = !pooler;
        options.stop = context.stop;
        for (std::int64_t layer = first; layer < layers; ++layer)
            options.points.push_back(fmt::format("blocks.{}", layer));
        options.visit = [&](const std::string& point, const at::Tensor& x, const FlowStep* step) -> Status {
            if (point != fmt::format("blocks.{}", step != nullptr ? step->layer : -1))
                return fail(ErrorCode::Unsupported, "the attention before {} of {} was not seen", point,
                            context.model.info().name);
            if (pooler) {
                tokens.emplace_back(x, step->mixing->query_layout);
                return {};
            }
            at::Tensor answer;
            {
                const at::AutoGradMode mode(true);
                answer = context.model.layer_answer(x, step->mixing->query_layout);
            }
            return add(*step->mixing, answer);
        };
        const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        for (const auto& [x, of_block] : tokens) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            CaptureOptions of_end;
            of_end.gradients = true;
            of_end.stop = context.stop;
            const auto pooled = VITRINE_TRY(run_captured(
                [&](const at::Tensor& leaf) { return context.model.layer_answer(leaf, of_block); }, x, of_end));
            if (pooled->flow.steps.empty())
                return fail(ErrorCode::Unsupported, "the pooling head of {} was not seen", context.model.info().name);
            VITRINE_CHECK(add(*pooled->flow.steps.back().mixing, pooled->output));
        }
        if (!sum.defined()) return fail(ErrorCode::Unsupported, "{} has no layers", context.model.info().name);
        sum = sum.to(at::kCPU) / static_cast<double>(layers - first);
        Attribution out = VITRINE_TRY(to_attribution(sum, layout));
        const double all = sum.sum().item<double>();
        out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
        out.notes.clear();
        out.method = "legrad";
        out.explained =
            target->explained + fmt::format(", read {} each of {} layers",
                                            pooler ? "by the pooling head after" : "from the mean of the tokens after",
                                            layers - first);
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
