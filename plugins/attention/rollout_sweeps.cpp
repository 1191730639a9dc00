// Attention rollout by sweeps: the readout's distribution is carried back through the layers, and no map is formed.
#include "attention.h"

#include <ATen/TensorOperators.h>

namespace vitrine::plugin::attention {

bool can_sweep(const RolloutSettings& settings) {
    return settings.fusion == Fusion::Mean && settings.discard_ratio == 0;
}

Result<at::Tensor> roll_out(const Flow& flow, const RolloutSettings& settings, std::stop_token stop,
                            const std::function<void(const Progress&)>& progress, std::string* shown) {
    if (!can_sweep(settings))
        return fail(ErrorCode::Unsupported, "rollout by sweeps takes the mean over heads and discards nothing");
    if (flow.steps.empty() || !flow.known())
        return fail(ErrorCode::Unsupported, "rollout needs to know how the layers are joined: {}",
                    flow.unknown.empty() ? "no attention was seen in this model" : flow.unknown);
    if (!flow.readout.defined())
        return fail(ErrorCode::Unsupported, "rollout needs to know from which tokens this model reads its answer");
    try {
        // From layer to layer it stays where the layers are; only the answer comes back.
        at::Tensor r = flow.readout.to(at::kFloat).reshape({-1});
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
            r = r.to(mixing.device());
            const at::Tensor through = VITRINE_TRY(mixing.left(r)).mean(0);
            // Rows of the mean map sum to 1, so that those of A + I sum to 2.
            r = residual ? (through + r) / 2 : through;
            if (shown != nullptr) *shown = mixing.implementation();
            if (step.before) r = step.before->back(r);
            if (progress) progress({total - at, total, "layers"});
        }
        return r.to(at::kCPU).contiguous();
    } catch (const c10::Error& error) {
        return fail(ErrorCode::Internal, "{}", error.what_without_backtrace());
    }
}

}  // namespace vitrine::plugin::attention
