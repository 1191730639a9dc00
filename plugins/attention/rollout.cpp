// Attention rollout, by the dense product of all maps: the reference that matrix-free rollouts are held to.
#include "attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>

#include <cmath>

namespace vitrine::plugin::attention {
namespace {

at::Tensor fuse(const at::Tensor& map, Fusion fusion) {
    switch (fusion) {
        case Fusion::Mean:
            return map.mean(0);
        case Fusion::Max:
            return std::get<0>(map.max(0));
        case Fusion::Min:
            return std::get<0>(map.min(0));
    }
    return {};
}

/// Sets the smallest entries of the whole map to zero. The published code keeps flat index 0 only, "the class token":
/// we keep what it meant, the class token's column, so that patches cannot lose their way to it.
at::Tensor discard(at::Tensor map, double ratio, bool has_class_token) {
    const auto count = static_cast<std::int64_t>(static_cast<double>(map.numel()) * ratio);
    if (count < 1) return map;
    const at::Tensor flat = map.flatten();
    const at::Tensor smallest = std::get<1>(flat.topk(count, 0, /*largest=*/false));
    at::Tensor kept = flat.clone();
    kept.index_fill_(0, smallest, 0);
    kept = kept.reshape(map.sizes());
    if (has_class_token) kept.select(1, 0).copy_(map.select(1, 0));
    return kept;
}

class Rollout final : public Explainer {
  public:
    Description description() const override {
        return {"rollout", "Attention rollout",
                "Follows attention from the readout through all layers back to the patches",
                "S. Abnar, W. Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, arXiv 2005.00928", 0};
    }

    std::vector<Parameter> parameters() const override {
        Parameter fusion{"fusion", std::string("mean"),   "how the heads of a layer become one map",
                         "",       "the paper: mean",     {},
                         {},       {"mean", "max", "min"}};
        Parameter discard_ratio{"discard_ratio",
                                0.0,
                                "share of each map's smallest entries that is set to zero",
                                "",
                                "the paper: none",
                                0.0,
                                0.99,
                                {}};
        Parameter residual{"residual",
                           true,
                           "count the residual path as half of each block, (A + I) / 2",
                           "",
                           "the paper, section 3",
                           {},
                           {},
                           {}};
        return {fusion, discard_ratio, residual};
    }

    std::optional<std::string> why_not(const Model& model) const override { return needs_attention(model); }
    bool class_specific() const override { return false; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const auto capture = VITRINE_TRY(context.capture());
        const Flow& flow = capture->flow;
        RolloutSettings wanted;
        const std::string fusion = settings.text("fusion");
        wanted.fusion = fusion == "max" ? Fusion::Max : fusion == "min" ? Fusion::Min : Fusion::Mean;
        wanted.discard_ratio = settings.number("discard_ratio");
        wanted.residual = settings.flag("residual");
        std::string shown = "dense product reference";
        const at::Tensor tokens =
            VITRINE_TRY(can_sweep(wanted) ? roll_out(flow, wanted, context.stop, context.progress, &shown)
                                          : roll_out_dense(flow, wanted, context.stop, context.progress));
        Attribution out = VITRINE_TRY(to_attribution(tokens, flow.steps.front().mixing->key_layout));
        out.method = "rollout";
        out.explained = fmt::format("attention from the readout through {} layers", flow.layers());
        out.implementation = shown;
        const double mass = std::abs(tokens.sum().item<double>() - 1);
        out.checks.push_back({"mass", mass < 1e-4, fmt::format("sums to 1 within {:.0e}", mass)});
        for (const FlowStep& step : flow.steps) {
            const MixingCheck found = VITRINE_TRY(step.mixing->check(context.seed));
            if (!found.passed || &step == &flow.steps.back()) out.checks.push_back(as_check(*step.mixing, found));
        }
        out.notes.insert(out.notes.end(), capture->notes.begin(), capture->notes.end());
        return out;
    }
};

}  // namespace

Result<at::Tensor> roll_out_dense(const Flow& flow, const RolloutSettings& settings, std::stop_token stop,
                                  const std::function<void(const Progress&)>& progress) {
    if (flow.steps.empty() || !flow.known())
        return fail(ErrorCode::Unsupported, "rollout needs to know how the layers are joined: {}",
                    flow.unknown.empty() ? "no attention was seen in this model" : flow.unknown);
    if (!flow.readout.defined())
        return fail(ErrorCode::Unsupported, "rollout needs to know from which tokens this model reads its answer");
    try {
        at::Tensor r = flow.readout.to(at::kFloat).reshape({1, -1});
        const auto total = static_cast<std::int64_t>(flow.steps.size());
        for (std::int64_t at = total - 1; at >= 0; --at) {
            if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const FlowStep& step = flow.steps[static_cast<std::size_t>(at)];
            const Mixing& mixing = *step.mixing;
            if (!mixing.row_stochastic())
                return fail(ErrorCode::Unsupported, "rollout needs rows that sum to 1, and those of {} do not",
                            mixing.name);
            const bool residual = step.residual && settings.residual;
            if (residual && mixing.queries != mixing.keys)
                return fail(ErrorCode::Unsupported,
                            "rollout needs as many keys as queries beside a residual path, and {} has {} and {}",
                            mixing.name, mixing.keys, mixing.queries);
            at::Tensor map = fuse(VITRINE_TRY(mixing.rows({}, {})), settings.fusion);
            if (step.layer >= 0)
                map = discard(map, settings.discard_ratio,
                              !mixing.key_layout.prefix.empty() && mixing.key_layout.prefix.front() == "cls");
            if (residual) map = map + at::eye(mixing.queries);
            // For the mean of all heads the rows sum to 1 or 2 already; for other fusions the published code divides as
            // here.
            map = map / map.sum(-1, true).clamp_min(1e-30);
            r = at::matmul(r, map);
            if (step.before) r = step.before->back(r.reshape({-1})).reshape({1, -1});
            if (progress) progress({total - at, total, "layers"});
        }
        return r.reshape({-1}).contiguous();
    } catch (const c10::Error& error) {
        return fail(ErrorCode::Internal, "{}", error.what_without_backtrace());
    }
}

std::unique_ptr<Explainer> make_rollout() { return std::make_unique<Rollout>(); }

}  // namespace vitrine::plugin::attention
