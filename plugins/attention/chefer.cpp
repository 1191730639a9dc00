// Generic attention explainability: relevance carried back through the layers by attention weighted with its positive
// gradient.
#include "attention.h"

#include <ATen/TensorOperators.h>

namespace vitrine::plugin::attention {

Result<TargetScore> score_of(const ExplainContext& context, const at::Tensor& output) {
    if (output.dim() != 2 || output.size(0) != 1 || context.model.info().classes == 0)
        return fail(ErrorCode::Unsupported, "{} has no classes, and this method explains a class",
                    context.model.info().name);
    const std::int64_t classes = output.size(1);
    for (const auto& index : {context.target.index, context.target.versus})
        if (index && (*index < 0 || *index >= classes))
            return fail(ErrorCode::BadInput, "class {} is not there: {} has {}, from 0 to {}", *index,
                        context.model.info().name, classes, classes - 1);
    TargetScore found;
    found.index = context.target.index ? *context.target.index : output[0].argmax().item<std::int64_t>();
    found.versus = context.target.versus;
    found.explained = fmt::format("logit of class {}", found.index);
    if (found.versus) found.explained += fmt::format(" minus that of class {}", *found.versus);
    return found;
}

at::Tensor TargetScore::of(const at::Tensor& logits) const {
    return versus ? logits[index] - logits[*versus] : logits[index];
}

namespace {

class Chefer final : public Explainer {
  public:
    Description description() const override {
        return {"chefer", "Generic attention explainability",
                "Carries relevance back from the readout by attention times its positive gradient",
                "H. Chefer, S. Gur, L. Wolf, Generic Attention-model Explainability, ICCV 2021, arXiv 2103.15679", 0};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.info().classes == 0) return model.info().name + " has no classes, and this method explains a class";
        return needs_attention(model);
    }
    bool class_specific() const override { return true; }

    Result<Attribution> explain(ExplainContext& context, const Settings&) const override {
        CaptureOptions options;
        options.gradients = true;
        options.stop = context.stop;
        options.memory_budget = context.memory_budget;
        const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        const Flow& flow = capture->flow;
        if (flow.steps.empty() || !flow.known())
            return fail(ErrorCode::Unsupported, "chefer needs to know how the layers are joined: {}",
                        flow.unknown.empty() ? "no attention was seen in this model" : flow.unknown);
        if (!flow.readout.defined())
            return fail(ErrorCode::Unsupported, "chefer needs to know from which tokens this model reads its answer");
        const TargetScore target = VITRINE_TRY(score_of(context, capture->output));
        std::vector<at::Tensor> outputs;
        std::vector<std::string> names;
        for (const FlowStep& step : flow.steps) {
            outputs.push_back(step.mixing->output());
            names.push_back("the output of " + step.mixing->name);
        }
        const auto d_outputs = VITRINE_TRY(gradients(target.of(capture->output[0]), outputs, names));

        at::Tensor r = flow.readout.to(at::kFloat).reshape({-1});
        std::string shown;
        for (std::size_t at = flow.steps.size(); at-- > 0;) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const FlowStep& step = flow.steps[at];
            // Equations 5 and 6: R becomes R + mean_h relu(A dA) R, here from the left, one row at a time.
            const at::Tensor through =
                VITRINE_TRY(step.mixing->sensitivity(r, Sensitivity::ReluPdP, d_outputs[at])).mean(0);
            if (step.residual && through.numel() != r.numel())
                return fail(ErrorCode::Unsupported, "{} has a residual path between {} queries and {} keys",
                            step.mixing->name, r.numel(), through.numel());
            r = step.residual ? r + through : through;
            shown = step.mixing->implementation();
            if (step.before) r = step.before->back(r);
            if (context.progress)
                context.progress({static_cast<std::int64_t>(flow.steps.size() - at),
                                  static_cast<std::int64_t>(flow.steps.size()), "layers"});
        }
        Attribution out = VITRINE_TRY(to_attribution(r, flow.steps.front().mixing->key_layout));
        const double all = r.sum().item<double>();
        out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
        out.notes.clear();  // the share of the prefix holds the start itself, which is no finding
        out.method = "chefer";
        out.explained = target.explained;
        out.class_specific = true;
        out.implementation = shown;
        const Mixing& last = *flow.steps.back().mixing;
        out.checks.push_back(as_check(last, VITRINE_TRY(last.check(context.seed))));
        out.notes.insert(out.notes.end(), capture->notes.begin(), capture->notes.end());
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_chefer() { return std::make_unique<Chefer>(); }

}  // namespace vitrine::plugin::attention
