// Generic attention explainability: relevance carried back through the layers by attention weighted with its positive
// gradient.
#include "attention.h"

#include <algorithm>

#include <vitrine/replay.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

namespace vitrine::plugin::attention {

Result<Objective> answer_objective(const ExplainContext& context, const at::Tensor& answer) {
    if (!context.target.region.empty())
        return fail(ErrorCode::Unsupported, "this method cannot explain a region: {}", kFromTheAnswer);
    return objective_of(context.model, context.target, answer);
}

at::Tensor class_weights(const Objective& objective, std::int64_t classes, at::Device device) {
    std::vector<float> weights(static_cast<std::size_t>(classes));
    weights[static_cast<std::size_t>(objective.index)] += 1;
    for (const std::int64_t other : objective.also) weights[static_cast<std::size_t>(other)] += 1;
    if (objective.versus) weights[static_cast<std::size_t>(*objective.versus)] -= 1;
    return at::tensor(weights).to(device, at::kFloat, /*non_blocking=*/true);
}

at::Tensor weighted_score(const at::Tensor& logits, const at::Tensor& weights, bool probability) {
    const at::Tensor numbers = logits.to(at::kFloat);
    return ((probability ? at::softmax(numbers, 1) : numbers) * weights).sum();
}

bool worth_recording(const CaptureCost& cost) {
    constexpr std::int64_t kSmall = std::int64_t{256} << 20, kMost = std::int64_t{2} << 30;
    return cost.tokens > 0 && cost.tokens <= 4096 && cost.graph <= std::max(kSmall, std::min(kMost, cost.budget / 4));
}

namespace {

class Chefer final : public Explainer {
  public:
    Description description() const override {
        return {"chefer",
                "Generic attention explainability",
                "Carries relevance back from the readout by attention times its positive gradient",
                "H. Chefer, S. Gur, L. Wolf, Generic Attention-model Explainability, ICCV 2021, arXiv 2103.15679",
                0,
                "Attention",
                "R = R + mean over heads of relu(A_l * dA_l) R, layer by layer",
                "Drops what speaks against the class and passes MLPs as if they were the identity; Achtibat et al. "
                "(AttnLRP, ICML 2024) report more faithful maps from rules that do not"};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_attention_and_classes(model); }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 1}; }

    Result<Attribution> explain(ExplainContext& context, const Settings&) const override {
        const at::Tensor& pixels = context.input.pixels;
        const CaptureCost cost =
            capture_cost(context.model, pixels.size(2), pixels.size(3), context.memory_budget, false);
        std::shared_ptr<const Walk> walk;
        std::string explained;
        // A graph of all layers is fastest. Where it does not fit, block after block is run once more on the way back.
        if (cost.graph > cost.budget && context.model.has_chain()) {
            const auto here = std::make_shared<Walk>();
            VITRINE_CHECK(block_by_block(context, *here, cost));
            explained = here->explained;
            walk = here;
        } else if (context.target.index && context.model.is_native() && worth_recording(cost)) {
            // The class counts only as an index, so that one recording serves all of them.
            const Objective target = VITRINE_TRY(answer_objective(context, {}));
            explained = target.explained;
            const at::Device device = context.model.device();
            const auto work = [&](const std::vector<at::Tensor>& inputs, const Found& before) -> Result<Found> {
                auto made = std::make_shared<Walk>();
                VITRINE_CHECK(by_one_graph(context, *made, inputs[0], {inputs[1], target.probability},
                                           before ? static_cast<const Walk*>(before.get())->readout : at::Tensor()));
                return made;
            };
            walk = std::static_pointer_cast<const Walk>(VITRINE_TRY(
                replayed(context.model, target.probability ? "chefer of probability" : "chefer",
                         {pixels.to(device), class_weights(target, context.model.info().classes, device)}, work)));
        } else {
            const auto here = std::make_shared<Walk>();
            VITRINE_CHECK(by_one_graph(context, *here, pixels, {}, {}));
            explained = here->explained;
            walk = here;
        }
        const Check check =
            walk->check ? *walk->check : as_check(*walk->last, VITRINE_TRY(walk->last->check(context.seed)));
        const at::Tensor r = walk->r.to(at::kCPU);
        Attribution out = VITRINE_TRY(to_attribution(r, walk->first_layout));
        const double all = r.sum().item<double>();
        out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
        out.notes.clear();  // the share of the prefix holds the start itself, which is no finding
        out.method = "chefer";
        out.explained = explained;
        out.class_specific = true;
        out.implementation = walk->shown;
        out.checks.push_back(check);
        out.notes.insert(out.notes.end(), walk->notes.begin(), walk->notes.end());
        return out;
    }

  private:
    struct Weighted {
        at::Tensor weights;
        bool probability = false;
    };

    /// The relevance on its way back, and what is said about it at the end.
    struct Walk {
        at::Tensor r;        ///< [tokens], on the device of the layers
        at::Tensor readout;  ///< where it started, there
        std::string explained, shown;
        std::shared_ptr<const Mixing> last;  ///< the layer that is checked
        std::optional<Check> check;          ///< where it could not wait for the end
        std::vector<std::string> notes;
        TokenLayout first_layout;

        Status start(const at::Tensor& from) {
            if (!from.defined())
                return fail(ErrorCode::Unsupported,
                            "chefer needs to know from which tokens this model reads its answer");
            r = readout = from.to(at::kFloat).reshape({-1});
            return {};
        }
        /// Equations 5 and 6: R becomes R + mean_h relu(A dA) R, here from the left, one row at a time.
        Status step(const ExplainContext& context, const FlowStep& step, const at::Tensor& d_output, std::int64_t done,
                    std::int64_t total) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const Mixing& mixing = *step.mixing;
            r = r.to(mixing.device());
            if (!last) readout = r;
            const at::Tensor through = VITRINE_TRY(mixing.sensitivity(r, Sensitivity::ReluPdP, d_output)).mean(0);
            if (step.residual && through.numel() != r.numel())
                return fail(ErrorCode::Unsupported, "{} has a residual path between {} queries and {} keys",
                            mixing.name, r.numel(), through.numel());
            r = step.residual ? r + through : through;
            shown = mixing.implementation();
            if (!last) last = step.mixing;
            if (step.before) r = step.before->back(r);
            first_layout = mixing.key_layout;
            if (context.progress) context.progress({done, total, "layers"});
            return {};
        }
    };

    static CaptureOptions options_for(const ExplainContext& context) {
        CaptureOptions options;
        options.gradients = true;
        options.stop = context.stop;
        options.memory_budget = context.memory_budget;
        return options;
    }

    /// What the attentions of a run gave, whose gradients are asked for.
    static void outputs_of(const Flow& flow, std::vector<at::Tensor>& outputs, std::vector<std::string>& names) {
        for (const FlowStep& step : flow.steps) {
            outputs.push_back(step.mixing->output());
            names.push_back("the output of " + step.mixing->name);
        }
    }

    /// `weighted` is the score over the classes, on the device; empty: the context's target. `readout` is where the
    /// walk starts, undefined: what the model says.
    static Status by_one_graph(ExplainContext& context, Walk& walk, const at::Tensor& pixels, const Weighted& weighted,
                               const at::Tensor& readout) {
        const auto capture = VITRINE_TRY(run_captured(context.model, pixels, options_for(context)));
        const Flow& flow = capture->flow;
        if (flow.steps.empty() || !flow.known())
            return fail(ErrorCode::Unsupported, "chefer needs to know how the layers are joined: {}",
                        flow.unknown.empty() ? "no attention was seen in this model" : flow.unknown);
        VITRINE_CHECK(walk.start(readout.defined() ? readout : flow.readout));
        at::Tensor score;
        if (weighted.weights.defined()) {
            if (capture->output.size(-1) != context.model.info().classes)
                return fail(ErrorCode::Internal, "{} of {} classes were answered", capture->output.size(-1),
                            context.model.info().classes);
            const at::AutoGradMode with_graph(true);
            score = weighted_score(capture->output, weighted.weights, weighted.probability);
        } else {
            const Objective target = VITRINE_TRY(answer_objective(context, capture->output));
            walk.explained = target.explained;
            const at::AutoGradMode with_graph(true);  // also for a caller who has gradients off
            score = target.of(capture->output);
        }
        std::vector<at::Tensor> outputs;
        std::vector<std::string> names;
        outputs_of(flow, outputs, names);
        const auto d_outputs = VITRINE_TRY(gradients(score, outputs, names));
        const auto total = static_cast<std::int64_t>(flow.steps.size());
        for (std::int64_t at = total; at-- > 0;)
            VITRINE_CHECK(walk.step(context, flow.steps[static_cast<std::size_t>(at)],
                                    d_outputs[static_cast<std::size_t>(at)], total - at, total));
        walk.notes = capture->notes;
        return {};
    }

    /// Keeps what goes into each block, and on the way back runs one block at a time under gradients: one more forward
    /// pass in all, and the graph of one block.
    static Status block_by_block(ExplainContext& context, Walk& walk, const CaptureCost& cost) {
        const at::Tensor& pixels = context.input.pixels;
        const auto chain = context.model.chain(pixels.size(2), pixels.size(3));
        if (!chain) return fail(ErrorCode::Internal, "{} has no chain of blocks", context.model.info().name);
        const std::int64_t one_graph = cost.graph / std::max<std::int64_t>(1, chain->blocks);
        if (cost.inputs + one_graph > cost.budget)
            return fail(
                ErrorCode::OutOfMemory,
                "chefer over {} tokens needs {:.1f} GB: the inputs of {} blocks and the graph of one; {:.1f} GB "
                "are allowed",
                cost.tokens, static_cast<double>(cost.inputs + one_graph) / 1e9, chain->blocks,
                static_cast<double>(cost.budget) / 1e9);
        std::vector<at::Tensor> inputs;
        {
            const at::AutoGradMode no_graph(false);
            inputs.push_back(chain->begin(pixels));
            for (std::int64_t block = 0; block < chain->blocks; ++block) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                inputs.push_back(chain->block(block, inputs.back()));
            }
        }
        at::Tensor d_next;  // with respect to what the block gives
        const auto go_back = [&](const std::function<at::Tensor(const at::Tensor&)>& part, std::int64_t block,
                                 bool first_of_all) -> Status {
            const auto capture = VITRINE_TRY(run_captured(part, inputs.back(), options_for(context)));
            inputs.pop_back();
            at::Tensor score;
            if (first_of_all) {
                const Objective target = VITRINE_TRY(answer_objective(context, capture->output));
                VITRINE_CHECK(walk.start(capture->flow.readout));
                walk.explained = target.explained;
                const at::AutoGradMode with_graph(true);
                score = target.of(capture->output);
            } else {
                if (!capture->flow.known()) return fail(ErrorCode::Unsupported, "{}", capture->flow.unknown);
                const at::AutoGradMode mode(true);
                score = (capture->output * d_next).sum();  // its gradient at the output is d_next itself
            }
            std::vector<at::Tensor> wanted;
            std::vector<std::string> names;
            outputs_of(capture->flow, wanted, names);
            wanted.push_back(capture->input);
            names.push_back("what goes into block " + std::to_string(block));
            // Before the first block nothing is asked for any more.
            if (block == 0) wanted.pop_back();
            const auto found = VITRINE_TRY(gradients(score, wanted, names));
            if (block > 0) d_next = found.back();
            const auto& steps = capture->flow.steps;
            for (std::size_t at = steps.size(); at-- > 0;)
                VITRINE_CHECK(walk.step(context, steps[at], found[at], chain->blocks - block, chain->blocks));
            // Only this block exists now.
            if (walk.last && !walk.check)
                walk.check = as_check(*walk.last, VITRINE_TRY(walk.last->check(context.seed)));
            return {};
        };
        VITRINE_CHECK(go_back(chain->end, chain->blocks, true));
        for (std::int64_t block = chain->blocks; block-- > 0;)
            VITRINE_CHECK(go_back([&](const at::Tensor& x) { return chain->block(block, x); }, block, false));
        walk.notes.push_back("each block ran a second time, because a graph of all layers does not fit into memory");
        return {};
    }
};

}  // namespace

std::unique_ptr<Explainer> make_chefer() { return std::make_unique<Chefer>(); }

}  // namespace vitrine::plugin::attention
