// LeGrad: how much each layer's own score grows with what is attended, layer by layer, no gradient between layers.
#include "attention.h"

#include <array>

#include <vitrine/replay.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>

namespace vitrine::plugin::attention {
namespace {

class LeGrad final : public Explainer {
  public:
    Description description() const override {
        return {
            "legrad",
            "LeGrad",
            "Positive gradients of each layer's own score with respect to its attention",
            "W. Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation "
            "Sensitivity, ICCV 2025, arXiv 2404.03214",
            0,
            "Attention",
            "mean over layers, heads and queries of relu(ds_l/dA_l), s_l the class read from layer l",
            "Reads each layer by the last norm and head, which need not fit the tokens of early layers (for language "
            "models: Belrose et al., Eliciting Latent Predictions from Transformers with the Tuned Lens, 2023)"};
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
        if (auto why = needs_attention_and_classes(model)) return why;
        if (!model.is_native()) return "the final norm and head of a traced model cannot be reached";
        return model.no_layer_answer();
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    /// A backward pass of each layer's own score goes no further than that layer: together less than one.
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 1}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::Tensor& pixels = context.input.pixels;
        const std::int64_t layers = context.model.info().layers;
        const std::int64_t first = settings.text("preset") == "package" ? std::max<std::int64_t>(layers - 2, 0) : 0;
        // The class counts only at the end, so that one recording serves all of them.
        const Objective target = VITRINE_TRY([&]() -> Result<Objective> {
            if (context.target.index) return answer_objective(context, {});
            return answer_objective(context, VITRINE_TRY(run(context.model, pixels, context.stop)));
        }());
        const CaptureCost cost =
            capture_cost(context.model, pixels.size(2), pixels.size(3), context.memory_budget, false);
        const auto walk = [&](const std::vector<at::Tensor>& inputs, const Found&) -> Result<Found> {
            auto found = std::make_shared<Walk>(layers - first, target.probability);
            VITRINE_CHECK(found->go(context, first, cost, inputs[0], inputs[1]));
            return found;
        };
        const at::Device device = context.model.device();
        const std::vector<at::Tensor> inputs{pixels.to(device),
                                             class_weights(target, context.model.info().classes, device)};
        const std::string key = fmt::format("legrad {} {} {}", first, cost.graph <= cost.budget, target.probability);
        const auto result =
            VITRINE_TRY(worth_recording(cost) ? replayed(context.model, key, inputs, walk) : walk(inputs, nullptr));
        const Walk& walked = *static_cast<const Walk*>(result.get());
        const Check check = as_check(*walked.last, VITRINE_TRY(walked.last->check(context.seed)));
        const at::Tensor map = walked.sum.to(at::kCPU) / static_cast<double>(layers - first);
        Attribution out = VITRINE_TRY(to_attribution(map, walked.last->key_layout));
        const double all = map.sum().item<double>();
        out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
        out.notes.clear();
        out.method = "legrad";
        out.explained = target.explained +
                        fmt::format(", read {} each of {} layers",
                                    walked.pooler ? "by the pooling head after" : "from the mean of the tokens after",
                                    layers - first);
        out.class_specific = true;
        out.implementation = walked.shown;
        out.checks.push_back(check);
        out.notes.insert(out.notes.end(), walked.notes.begin(), walked.notes.end());
        return out;
    }

  private:
    /// Bytes of the graphs of layers that are done with in one walk of autograd.
    static constexpr std::int64_t kMostTogether = std::int64_t{2} << 30;

    /// No gradient goes from layer to layer. Layers are done with as the run passes them, some at a time: as many as
    /// have graphs that fit, because one walk of autograd over several costs little more than over one.
    struct Walk {
        Walk(std::int64_t layers_, bool probability_) : layers(layers_), probability(probability_) {}

        std::int64_t layers, done = 0;
        bool probability;  ///< of the classes, else their logits
        bool pooler = false;
        at::Tensor sum;                      ///< [tokens]
        std::shared_ptr<const Mixing> last;  ///< of the layers that were added
        std::string shown;
        std::vector<std::string> notes;

        /// A layer's attention, and what its score is read from: the mean of its tokens, times `parts`, [1, 1, width],
        /// or, with a pooling head, the head's answer [1, classes].
        struct Layer {
            std::shared_ptr<const Mixing> mixing;
            at::Tensor read;
            double parts = 1;
        };
        std::vector<Layer> waiting;

        Status go(const ExplainContext& context, std::int64_t first, const CaptureCost& cost, const at::Tensor& pixels,
                  const at::Tensor& weights) {
            Model& model = context.model;
            const std::int64_t each = std::max<std::int64_t>(1, cost.graph / std::max<std::int64_t>(1, layers + first));
            const auto together = static_cast<std::size_t>(
                std::max<std::int64_t>(1, std::min(cost.budget - cost.inputs, kMostTogether) / each));
            // A pooling head is run again on each layer's tokens, after the run, and is all of the tail.
            pooler = model.info().readout == Readout::AttentionPool;
            std::vector<std::pair<at::Tensor, TokenLayout>> tokens;
            CaptureOptions options;
            options.gradients = !pooler;
            options.stop = context.stop;
            for (std::int64_t layer = first; layer < first + layers; ++layer)
                options.points.push_back(fmt::format("blocks.{}", layer));
            options.visit = [&](const std::string& point, const at::Tensor& x, const FlowStep* step) -> Status {
                if (point != fmt::format("blocks.{}", step != nullptr ? step->layer : -1))
                    return fail(ErrorCode::Unsupported, "the attention before {} of {} was not seen", point,
                                model.info().name);
                if (pooler) {
                    tokens.emplace_back(x, step->mixing->query_layout);
                    return {};
                }
                {
                    const at::AutoGradMode with_graph(true);
                    // Of a sum all tokens have one gradient, not one each: what comes before gains by it. In fp16 the
                    // sum could overflow.
                    const std::array<std::int64_t, 1> axis{1};
                    const bool summed = x.scalar_type() != at::kHalf;
                    waiting.push_back({step->mixing, summed ? x.sum(axis, true) : x.mean(axis, true),
                                       summed ? static_cast<double>(x.size(1)) : 1});
                }
                return waiting.size() < together ? Status() : add(context, weights);
            };
            const auto capture = VITRINE_TRY(run_captured(model, pixels, options));
            for (const auto& [x, of_block] : tokens) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                CaptureOptions of_end;
                of_end.gradients = true;
                of_end.stop = context.stop;
                const auto pooled = VITRINE_TRY(run_captured(
                    [&](const at::Tensor& leaf) { return model.layer_answer(leaf, of_block); }, x, of_end));
                if (pooled->flow.steps.empty())
                    return fail(ErrorCode::Unsupported, "the pooling head of {} was not seen", model.info().name);
                waiting.push_back({pooled->flow.steps.back().mixing, pooled->output});
                if (waiting.size() >= together) VITRINE_CHECK(add(context, weights));
            }
            VITRINE_CHECK(add(context, weights));
            notes = capture->notes;
            return sum.defined() ? Status() : fail(ErrorCode::Unsupported, "{} has no layers", model.info().name);
        }

        /// Adds what the scores of the waiting layers say of their attentions.
        Status add(const ExplainContext& context, const at::Tensor& weights) {
            if (waiting.empty()) return {};
            std::vector<at::Tensor> read, outputs;
            std::vector<std::string> names;
            for (const Layer& layer : waiting) {
                read.push_back(layer.read);
                outputs.push_back(layer.mixing->output());
                names.push_back("the output of " + layer.mixing->name);
            }
            at::Tensor score;
            {
                const at::AutoGradMode with_graph(true);
                at::Tensor answers = at::cat(read);
                // One token each, and so its own mean.
                if (!pooler)
                    answers = context.model.layer_answer(answers / waiting.front().parts,
                                                         waiting.front().mixing->query_layout);
                if (answers.size(1) != context.model.info().classes)
                    return fail(ErrorCode::Internal, "{} of {} classes were answered", answers.size(1),
                                context.model.info().classes);
                score = weighted_score(answers, weights, probability);
            }
            // Autograd walks from the score of each layer to its attention only.
            const auto d_outputs = VITRINE_TRY(gradients(score, outputs, names));
            std::vector<at::Tensor> found;
            at::Tensor r;
            for (std::size_t i = 0; i < waiting.size(); ++i) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                const Mixing& mixing = *waiting[i].mixing;
                if (!r.defined() || r.numel() != mixing.queries)
                    r = at::full({mixing.queries}, 1 / static_cast<double>(mixing.queries),
                                 at::TensorOptions().device(mixing.device()));
                found.push_back(VITRINE_TRY(mixing.sensitivity(r, Sensitivity::ReluDP, d_outputs[i])));
                if (context.progress) context.progress({++done, layers, "layers"});
            }
            const at::Tensor all = at::stack(found).sum(0).mean(0);
            sum = sum.defined() ? sum + all : all;
            last = waiting.back().mixing;
            shown = last->implementation();
            waiting.clear();
            return {};
        }
    };
};

}  // namespace

std::unique_ptr<Explainer> make_legrad() { return std::make_unique<LeGrad>(); }

}  // namespace vitrine::plugin::attention
