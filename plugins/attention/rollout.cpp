// Attention rollout by sweeps: the start is carried back through the layers, and no map is formed.
#include "attention.h"

#include <vitrine/torch_errors.h>
#include <vitrine/walk.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <charconv>
#include <cmath>
#include <span>

namespace vitrine::plugin::attention {
namespace {

bool has_class_token(const TokenLayout& layout) {
    return layout.known() && !layout.prefix.empty() && layout.prefix.front() == "cls";
}

class Rollout final : public Explainer {
  public:
    Description description() const override {
        return {"rollout",
                "Attention rollout",
                "Follows attention from the readout, or from a token, through all layers back to the patches",
                "S. Abnar, W. Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, arXiv 2005.00928",
                0,
                "Attention",
                "r = r (A_l + I) / 2 from the last layer to the first, A_l the mean over heads",
                "The same for every class (Chefer, Gur and Wolf, Transformer Interpretability Beyond Attention "
                "Visualization, CVPR 2021), and blind to values and MLPs"};
    }

    std::vector<Parameter> parameters() const override {
        return {{"preset",
                 std::string("paper"),
                 "whose details hold: vit-explain keeps one entry when it discards, divides by other rows' sums and by "
                 "the largest patch, and starts at the class token",
                 "",
                 "paper: Abnar and Zuidema, section 3; vit-explain: J. Gildenblat's vit_rollout.py",
                 {},
                 {},
                 {"paper", "vit-explain"}},
                {"fusion",
                 std::string("mean"),
                 "how the heads of a layer become one map",
                 "",
                 "paper and vit-explain: mean",
                 {},
                 {},
                 {"mean", "max", "min"}},
                {"discard_ratio",
                 -1.0,
                 "share of each map's smallest entries that is set to zero; below 0: as the preset has it",
                 "",
                 "paper: 0; vit-explain: 0.9",
                 -1.0,
                 0.999,
                 {}},
                {"residual",
                 true,
                 "count the residual path as half of each block, (A + I) / 2",
                 "",
                 "paper, section 3",
                 {},
                 {},
                 {}},
                {"start",
                 std::string("readout"),
                 "where the walk begins: readout, cls, ROW,COL of the patch grid, or a token's index",
                 "",
                 "where the model reads its answer",
                 {},
                 {},
                 {}}};
    }

    std::optional<std::string> why_not(const Model& model) const override { return needs_attention(model); }
    bool class_specific() const override { return false; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{0, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        RolloutSettings wanted;
        const std::string fusion = settings.text("fusion");
        wanted.fusion = fusion == "max" ? HeadFusion::Max : fusion == "min" ? HeadFusion::Min : HeadFusion::Mean;
        wanted.as_vit_explain = settings.text("preset") == "vit-explain";
        wanted.discard_ratio = settings.number("discard_ratio");
        if (wanted.discard_ratio < 0) wanted.discard_ratio = wanted.as_vit_explain ? 0.9 : 0;
        wanted.residual = settings.flag("residual");
        // The plain form is one product with each map; the others sweep.
        const auto capture =
            VITRINE_TRY(context.capture(wanted.fusion == HeadFusion::Mean && wanted.discard_ratio == 0));
        const Flow& flow = capture->flow;
        std::string words = settings.text("start");
        if (wanted.as_vit_explain && words == "readout") words = "cls";
        const Start start = VITRINE_TRY(start_of(flow, words));
        std::string shown;
        const at::Tensor tokens =
            VITRINE_TRY(roll_out(flow, wanted, start.weights, start.steps, context.stop, context.progress, &shown));
        Attribution out = VITRINE_TRY(to_attribution(tokens, flow.steps.front().mixing->key_layout));
        const double all = tokens.sum().item<double>();
        if (wanted.as_vit_explain) {
            // vit_rollout.py ends with the division by the largest value of its mask.
            out.map = out.map / out.map.max().clamp_min(1e-30);
            out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
            out.notes.clear();
            out.notes.push_back("divided by the largest patch, and by the row sums of keys instead of queries");
        } else {
            const double mass = std::abs(all - 1);
            out.checks.push_back({"mass", mass < 1e-4, fmt::format("sums to 1 within {:.0e}", mass)});
        }
        out.method = "rollout";
        out.explained = fmt::format("attention from {} through {} layers", start.name, flow.layers());
        out.implementation = shown;
        for (const FlowStep& step : flow.steps) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const MixingCheck found = VITRINE_TRY(step.mixing->check(context.seed));
            if (!found.passed || &step == &flow.steps.back()) out.checks.push_back(as_check(*step.mixing, found));
        }
        out.notes.insert(out.notes.end(), capture->notes.begin(), capture->notes.end());
        return out;
    }
};

/// Entries of a whole map of 4096 tokens: a sweep takes less than a frame.
constexpr std::int64_t kSmallMap = std::int64_t{1} << 24;

/// How many of the smallest entries of this step's fused map become zero.
std::int64_t dropped_entries(const FlowStep& step, const RolloutSettings& settings) {
    const auto entries = static_cast<double>(step.mixing->queries * step.mixing->keys);
    return step.layer >= 0 ? static_cast<std::int64_t>(entries * settings.discard_ratio) : 0;
}

/// Rows of the mean map sum to 1, so that those of F + I sum to 2: one sweep.
bool is_plain(const FlowStep& step, const RolloutSettings& settings) {
    return settings.fusion == HeadFusion::Mean && dropped_entries(step, settings) < 1;
}

/// One step that is not plain, without its token map. r is over its queries.
Result<at::Tensor> step_back(const FlowStep& step, const RolloutSettings& settings, const at::Tensor& r,
                             const std::stop_token& stop) {
    const Mixing& mixing = *step.mixing;
    const bool residual = step.residual && settings.residual;
    const std::int64_t count = dropped_entries(step, settings);
    kernels::Dropped dropped = VITRINE_TRY(smallest_entries(mixing, settings.fusion, count, stop));
    if (settings.as_vit_explain) {
        dropped.kept_key = 0;
        dropped.kept_queries = 1;
    } else if (has_class_token(mixing.key_layout)) {
        // What its comment means: no patch loses its way to the class token.
        dropped.kept_key = 0;
        dropped.kept_queries = mixing.queries;
    }
    const at::Tensor sums = VITRINE_TRY(mixing.fused_row_sums(settings.fusion, dropped)) + (residual ? 1.0 : 0.0);
    const at::Tensor share = sums.clamp_min(1e-30).reciprocal();  // a row with nothing left stays empty
    if (settings.as_vit_explain && mixing.queries == mixing.keys) {
        // a / a.sum(-1) of a [1, N, N] tensor divides by a [1, N] one, and that is broadcast along the columns.
        const at::Tensor here = r.to(share.device());
        const at::Tensor through = VITRINE_TRY(mixing.fused_left(settings.fusion, here, dropped));
        return at::Tensor((residual ? at::Tensor(through + here) : through) * share);
    }
    const at::Tensor weights = r.to(share.device()) * share;
    const at::Tensor through = VITRINE_TRY(mixing.fused_left(settings.fusion, weights, dropped));
    return residual ? at::Tensor(through + weights) : through;
}

Status check_flow(const Flow& flow) {
    if (flow.steps.empty() || !flow.known())
        return fail(ErrorCode::Unsupported, "rollout needs to know how the layers are joined: {}",
                    flow.unknown.empty() ? "no attention was seen in this model" : flow.unknown);
    return {};
}

}  // namespace

Result<Start> start_of(const Flow& flow, const std::string& words) {
    VITRINE_CHECK(check_flow(flow));
    Start start;
    start.steps = flow.steps.size();
    if (words == "readout") {
        if (!flow.readout.defined())
            return fail(ErrorCode::Unsupported,
                        "it is not known from which tokens this model reads its answer; start from a token");
        start.weights = flow.readout.to(at::kFloat).reshape({-1});
        start.name = "the readout";
        return start;
    }
    while (start.steps > 0 && flow.steps[start.steps - 1].layer < 0) --start.steps;
    if (start.steps == 0) return fail(ErrorCode::Unsupported, "there is no block to start from");
    const Mixing& mixing = *flow.steps[start.steps - 1].mixing;
    const TokenLayout& layout = mixing.query_layout;
    std::int64_t token = 0;
    if (words == "cls") {
        if (!has_class_token(layout))
            return fail(ErrorCode::Unsupported, "{} has no class token to start from; use readout, ROW,COL or a token",
                        mixing.name);
        start.name = "the class token";
    } else {
        const char* const end = words.data() + words.size();
        auto parsed = std::from_chars(words.data(), end, token);
        bool good = parsed.ec == std::errc{};
        if (good && parsed.ptr != end && *parsed.ptr == ',') {
            const std::int64_t row = token;
            std::int64_t col = 0;
            parsed = std::from_chars(parsed.ptr + 1, end, col);
            good = parsed.ec == std::errc{} && parsed.ptr == end;
            if (good && !layout.known())
                return fail(ErrorCode::Unsupported, "patches cannot be named here: {}; give a token's index",
                            layout.unknown);
            if (good && (row < 0 || row >= layout.rows || col < 0 || col >= layout.cols))
                return fail(ErrorCode::BadInput, "patch {}, {} is not there: the grid is {} x {}", row, col,
                            layout.rows, layout.cols);
            token = layout.token_at(row, col);
        }
        if (!good || parsed.ptr != end)
            return fail(ErrorCode::BadInput, "the start is '{}', expected readout, cls, ROW,COL or a token's index",
                        words);
        if (token < 0) token += mixing.queries;
        if (token < 0 || token >= mixing.queries)
            return fail(ErrorCode::BadInput, "token {} is not there: {} has {}, from 0 to {}", words, mixing.name,
                        mixing.queries, mixing.queries - 1);
        start.name = layout.name_of(token);
    }
    start.weights = at::zeros({mixing.queries});
    start.weights[token].fill_(1);
    return start;
}

Result<at::Tensor> roll_out(const Flow& flow, const RolloutSettings& settings, const at::Tensor& start,
                            std::size_t steps, std::stop_token stop,
                            const std::function<void(const Progress&)>& progress, std::string* shown) {
    VITRINE_CHECK(check_flow(flow));
    if (steps == 0) steps = flow.steps.size();
    if (!start.defined() && !flow.readout.defined())
        return fail(ErrorCode::Unsupported, "rollout needs to know from which tokens this model reads its answer");
    return guarded([&]() -> Result<at::Tensor> {
        at::Tensor r = (start.defined() ? start : flow.readout).to(at::kFloat).reshape({-1});
        const auto total = static_cast<std::int64_t>(steps);
        for (std::int64_t at = total - 1; at >= 0; --at) {
            const FlowStep& step = flow.steps[static_cast<std::size_t>(at)];
            const Mixing& mixing = *step.mixing;
            if (!mixing.row_stochastic())
                return fail(ErrorCode::Unsupported, "rollout needs rows that sum to 1, and those of {} do not",
                            mixing.name);
            if (step.residual && settings.residual && mixing.queries != mixing.keys)
                return fail(ErrorCode::Unsupported,
                            "rollout needs as many keys as queries beside a residual path, and {} has {} and {}",
                            mixing.name, mixing.keys, mixing.queries);
        }
        const std::span<const FlowStep> all(flow.steps);
        for (std::int64_t at = total - 1; at >= 0; --at) {
            if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const FlowStep& step = flow.steps[static_cast<std::size_t>(at)];
            if (is_plain(step, settings)) {
                // Small layers together: the walk is over before anyone could ask how far it got.
                std::int64_t first = at;
                const auto small = [&](std::int64_t i) {
                    const FlowStep& it = all[static_cast<std::size_t>(i)];
                    return is_plain(it, settings) && it.mixing->queries * it.mixing->keys <= kSmallMap;
                };
                while (small(first) && first > 0 && small(first - 1)) --first;
                r = VITRINE_TRY(
                    left_mean(all.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(at - first + 1)), r,
                              settings.residual));
                at = first;
            } else {
                r = VITRINE_TRY(step_back(step, settings, r, stop));
                if (step.before) r = step.before->back(r);
            }
            if (shown != nullptr) *shown = step.mixing->implementation();
            if (progress) progress({total - at, total, "layers"});
        }
        return r.to(at::kCPU).contiguous();
    });
}

std::unique_ptr<Explainer> make_rollout() { return std::make_unique<Rollout>(); }

}  // namespace vitrine::plugin::attention
