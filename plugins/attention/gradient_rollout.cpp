// Gradient rollout and Grad-SAM: attention times its gradient, followed back through the layers or averaged over them.
#include "attention.h"

#include <vitrine/torch_errors.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace vitrine::plugin::attention {
namespace {

/// A run under gradients, and what each attention's output is worth to the explained number.
struct Differentiated {
    std::shared_ptr<const Capture> capture;
    std::vector<at::Tensor> d_outputs;  ///< one a step of the flow: [heads, queries, dim], on the CPU
    std::vector<at::Tensor> values;     ///< [heads, keys, dim], on the CPU
    std::string explained;
};

Result<Differentiated> differentiate(ExplainContext& context, const char* method) {
    const at::Tensor& pixels = context.input.pixels;
    const CaptureCost cost = capture_cost(context.model, pixels.size(2), pixels.size(3), context.memory_budget, false);
    if (cost.graph > cost.budget)
        return fail(ErrorCode::OutOfMemory,
                    "{} over {} tokens needs the graph of all layers, {:.1f} GB, and {:.1f} GB are allowed", method,
                    cost.tokens, static_cast<double>(cost.graph) / 1e9, static_cast<double>(cost.budget) / 1e9);
    CaptureOptions options;
    options.gradients = true;
    options.stop = context.stop;
    options.memory_budget = context.memory_budget;
    Differentiated out;
    out.capture = VITRINE_TRY(run_captured(context.model, pixels, options));
    const Flow& flow = out.capture->flow;
    if (flow.steps.empty() || !flow.known())
        return fail(ErrorCode::Unsupported, "{} needs to know how the layers are joined: {}", method,
                    flow.unknown.empty() ? "no attention was seen in this model" : flow.unknown);
    const Objective target = VITRINE_TRY(answer_objective(context, out.capture->output));
    out.explained = target.explained;
    at::Tensor score;
    {
        const at::AutoGradMode with_graph(true);
        score = target.of(out.capture->output);
    }
    std::vector<at::Tensor> outputs;
    std::vector<std::string> names;
    for (const FlowStep& step : flow.steps) {
        if (!step.mixing->v().defined())
            return fail(ErrorCode::Unsupported, "{} needs the values of {}, which were not kept", method,
                        step.mixing->name);
        outputs.push_back(step.mixing->output());
        names.push_back("the output of " + step.mixing->name);
        out.values.push_back(step.mixing->v().detach().to(at::kCPU, at::kFloat));
    }
    for (at::Tensor& one : VITRINE_TRY(gradients(score, outputs, names)))
        out.d_outputs.push_back(one.to(at::kCPU, at::kFloat));
    return out;
}

/// Queries whose rows of all heads fill 16 MB.
std::int64_t rows_together(const Mixing& mixing) {
    return std::clamp<std::int64_t>((std::int64_t{1} << 22) / (mixing.heads * mixing.keys), 1, 1024);
}

/// Rows of the map and of its gradient, for some queries: [heads, count, keys] each.
struct RowsWithGradient {
    at::Tensor p, dp;
};
Result<RowsWithGradient> rows_of(const Mixing& mixing, const at::Tensor& d_output, const at::Tensor& values,
                                 std::int64_t from, std::int64_t count) {
    std::vector<std::int64_t> queries(static_cast<std::size_t>(count));
    std::iota(queries.begin(), queries.end(), from);
    return RowsWithGradient{VITRINE_TRY(mixing.rows({}, queries)),
                            at::matmul(d_output.narrow(1, from, count), values.transpose(1, 2))};
}

/// Where the gradient of a layer's map comes from.
struct Slope {
    const Mixing& mixing;
    const at::Tensor &d_output, &values;
};

/// relu(mean over heads of A dA), A the map of `mixing`, some rows at a time; a small one is made once.
class FusedGradient {
  public:
    /// @param of_scores  the gradient is that of the scores in front of the softmax
    FusedGradient(const Mixing& mixing, const Slope& slope, bool of_scores, std::int64_t most_kept,
                  std::stop_token stop)
        : mixing_(mixing), slope_(slope), of_scores_(of_scores), most_kept_(most_kept), stop_(std::move(stop)) {}

    /// Calls `use(from, rows [count, keys])` on all rows in order; `use` may write into them.
    template <class Use>
    Status each(const Use& use) {
        const bool keep = mixing_.queries * mixing_.keys <= most_kept_;
        std::vector<at::Tensor> parts;
        for (std::int64_t from = 0; from < mixing_.queries;) {
            if (stop_.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            if (kept_.defined()) {
                use(std::int64_t{0}, kept_);
                return {};
            }
            const std::int64_t count = std::min(rows_together(mixing_), mixing_.queries - from);
            const RowsWithGradient of =
                VITRINE_TRY(rows_of(slope_.mixing, slope_.d_output, slope_.values, from, count));
            at::Tensor p = of.p;
            if (&slope_.mixing != &mixing_)
                p = VITRINE_TRY(rows_of(mixing_, slope_.d_output, slope_.values, from, count)).p;
            const at::Tensor slope = of_scores_ ? of.p * (of.dp - (of.p * of.dp).sum(2, true)) : of.dp;
            const at::Tensor fused = (p * slope).mean(0).clamp_min(0).contiguous();
            if (keep)
                parts.push_back(fused);
            else
                use(from, fused);
            from += count;
        }
        if (!keep) return {};
        kept_ = at::cat(parts).contiguous();
        use(std::int64_t{0}, kept_);
        return {};
    }

  private:
    const Mixing& mixing_;
    Slope slope_;
    bool of_scores_;
    std::int64_t most_kept_;
    std::stop_token stop_;
    at::Tensor kept_;
};

/// What makes the `count` smallest entries zero: those whose bits are below `bits`, and the first `ties` that equal it.
struct Threshold {
    std::uint32_t bits = 0;
    std::int64_t ties = 0;
};

/// Non-negative floats are in the order of their bits: their upper half is counted first, then the lower half of those
/// in the bin that holds the count-th.
Result<Threshold> threshold_of(FusedGradient& map, std::int64_t count) {
    Threshold out;
    if (count <= 0) return out;
    constexpr std::size_t kBins = std::size_t{1} << 16;
    std::int64_t below = 0;
    for (const bool lower : {false, true}) {
        std::vector<std::int64_t> bins(kBins, 0);
        VITRINE_CHECK(map.each([&](std::int64_t, const at::Tensor& rows) {
            const auto* values = rows.const_data_ptr<float>();
            for (std::int64_t i = 0; i < rows.numel(); ++i) {
                const auto bits = std::bit_cast<std::uint32_t>(values[i] + 0.0F);  // no negative zero
                if (!lower)
                    ++bins[bits >> 16];
                else if (bits >> 16 == out.bits >> 16)
                    ++bins[bits & 0xFFFFU];
            }
        }));
        std::size_t bin = 0;
        while (bin + 1 < kBins && below + bins[bin] < count) below += bins[bin++];
        out.bits |= static_cast<std::uint32_t>(bin) << (lower ? 0 : 16);
    }
    out.ties = count - below;
    return out;
}

class GradientRollout final : public Explainer {
  public:
    explicit GradientRollout(std::int64_t most_kept) : most_kept_(most_kept) {}

    Description description() const override {
        return {
            "gradient_rollout",
            "Gradient rollout",
            "Attention rollout whose heads are weighed by the gradient of the class",
            "J. Gildenblat, vit-explain, vit_grad_rollout.py (d6e863e); no paper",
            0,
            "Attention",
            "r = r norm(F_l + I) from the last layer to the first, F = relu(mean over heads of A * dA), its smallest "
            "entries zero",
            "Gradients are far smaller than the identity beside them, so that most of the walk stays on the start; "
            "the published code pairs each layer's attention with another layer's gradient (found by running it, "
            "preset "
            "vit-explain)"};
    }
    std::vector<Parameter> parameters() const override {
        return {
            {"preset",
             std::string("described"),
             "described: each layer with its own gradient, rows divided by their own sums, from the readout; "
             "vit-explain: as its code does, which takes the gradient of the scores in front of the softmax, pairs the "
             "last layer's with the first layer's attention and so on, divides by other rows' sums and by the largest "
             "patch, and starts at the class token",
             "",
             "described: the author's article; vit-explain: his code",
             {},
             {},
             {"described", "vit-explain"}},
            {"discard_ratio",
             0.9,
             "share of each map's smallest entries that is set to zero",
             "",
             "vit-explain",
             0.0,
             0.999,
             {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_attention_and_classes(model); }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 1}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Differentiated run = VITRINE_TRY(differentiate(context, "gradient rollout"));
        const Flow& flow = run.capture->flow;
        const bool theirs = settings.text("preset") == "vit-explain";
        const double ratio = settings.number("discard_ratio");
        const Start start = VITRINE_TRY(start_of(flow, theirs ? "cls" : "readout"));
        const at::NoGradGuard no_grad;
        return guarded([&]() -> Result<Attribution> {
            at::Tensor r = start.weights.to(at::kCPU, at::kFloat).reshape({-1});
            const auto total = static_cast<std::int64_t>(start.steps);
            for (std::int64_t at = total; at-- > 0;) {
                const FlowStep& step = flow.steps[static_cast<std::size_t>(at)];
                const Mixing& mixing = *step.mixing;
                // vit-explain's backward hooks append last layer first, its forward hooks first layer first. They hang
                // on a dropout that does nothing when the model is evaluated, so that what they are given is the
                // gradient in front of the softmax.
                const auto from = static_cast<std::size_t>(theirs ? total - 1 - at : at);
                const Slope slope{*flow.steps[from].mixing, run.d_outputs[from], run.values[from]};
                if (slope.mixing.queries != mixing.queries || slope.mixing.keys != mixing.keys ||
                    slope.mixing.heads != mixing.heads || (step.residual && mixing.queries != mixing.keys))
                    return fail(ErrorCode::Unsupported,
                                "{} has other tokens or heads than the layers it is joined with", mixing.name);
                r = VITRINE_TRY(step_back(context, step, slope, r, ratio, theirs));
                if (step.before) r = step.before->back(r);
                if (context.progress) context.progress({total - at, total, "layers"});
            }
            Attribution out = VITRINE_TRY(to_attribution(r, flow.steps.front().mixing->key_layout));
            const double all = r.sum().item<double>();
            if (theirs) {
                out.map = out.map / out.map.max().clamp_min(1e-30);
                out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
                out.notes.clear();
                out.notes.emplace_back(
                    "each layer's attention met another layer's gradient, that of the scores, as the published code "
                    "has it; "
                    "divided by the largest patch, and by the row sums of keys instead of queries");
            } else {
                out.checks.push_back(
                    {"mass", std::abs(all - 1) < 1e-4, fmt::format("sums to 1 within {:.0e}", std::abs(all - 1))});
            }
            const Mixing& last = *flow.steps[static_cast<std::size_t>(total - 1)].mixing;
            out.method = "gradient_rollout";
            out.explained = fmt::format("attention from {} through {} layers, weighed by the gradient of {}",
                                        start.name, flow.layers(), run.explained);
            out.class_specific = true;
            out.implementation = last.implementation() + ", rows in parts";
            out.checks.push_back(as_check(last, VITRINE_TRY(last.check(context.seed))));
            out.notes.insert(out.notes.end(), run.capture->notes.begin(), run.capture->notes.end());
            return out;
        });
    }

  private:
    Result<at::Tensor> step_back(const ExplainContext& context, const FlowStep& step, const Slope& slope,
                                 const at::Tensor& r, double ratio, bool theirs) const {
        const Mixing& mixing = *step.mixing;
        FusedGradient map(mixing, slope, theirs, most_kept_, context.stop);
        // Nothing is dropped at a pooling head: it has one row.
        const auto count = step.layer < 0
                               ? std::int64_t{0}
                               : static_cast<std::int64_t>(static_cast<double>(mixing.queries * mixing.keys) * ratio);
        Threshold drop = VITRINE_TRY(threshold_of(map, count));
        const double own = step.residual ? 1.0 : 0.0;
        at::Tensor through = at::zeros({mixing.keys}), sums = at::zeros({mixing.queries}), carried = r.clone();
        VITRINE_CHECK(map.each([&](std::int64_t from, const at::Tensor& rows) {
            if (count > 0) {
                auto* value = rows.mutable_data_ptr<float>();
                for (std::int64_t i = 0; i < rows.numel(); ++i) {
                    const auto bits = std::bit_cast<std::uint32_t>(value[i] + 0.0F);
                    if (bits < drop.bits || (bits == drop.bits && drop.ties-- > 0)) value[i] = 0;
                }
            }
            const std::int64_t some = rows.size(0);
            const at::Tensor sum = rows.sum(1) + own;
            sums.narrow(0, from, some).copy_(sum);
            at::Tensor weights = carried.narrow(0, from, some);
            if (!theirs) weights.div_(sum.clamp_min(1e-30));  // a row with nothing left stays empty
            through += at::matmul(weights, rows);
        }));
        if (step.residual) through = through + carried;
        // a / a.sum(-1) of a [1, N, N] tensor divides by a [1, N] one, and that is broadcast along the columns.
        return theirs ? through / sums : through;
    }

    std::int64_t most_kept_;
};

class GradSam final : public Explainer {
  public:
    Description description() const override {
        return {
            "grad_sam",
            "Grad-SAM",
            "Attention times its positive gradient, averaged over all layers and heads",
            "O. Barkan et al., Grad-SAM: Explaining Transformers via Gradient Self-Attention Maps, CIKM 2021, arXiv "
            "2204.11073",
            0,
            "Attention",
            "r_i = mean over layers and heads of sum_j A_ij relu(dA_ij), divided by the tokens",
            "Adds layers up as if each spoke of the input itself, though later layers read tokens that are mixed "
            "already (Abnar and Zuidema, ACL 2020)"};
    }
    std::vector<Parameter> parameters() const override {
        return {
            {"sum",
             std::string("rows"),
             "rows: what a token reads, summed over what it reads; columns: what is read of a token, summed over its "
             "readers; readout: what the readout reads of it",
             "",
             "rows: the paper; columns: as other code has it",
             {},
             {},
             {"rows", "columns", "readout"}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_attention_and_classes(model); }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 1}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Differentiated run = VITRINE_TRY(differentiate(context, "Grad-SAM"));
        const Flow& flow = run.capture->flow;
        const std::string how = settings.text("sum");
        const at::NoGradGuard no_grad;
        return guarded([&]() -> Result<Attribution> {
            at::Tensor sum;
            TokenLayout layout;
            std::int64_t done = 0;
            const at::Tensor readout = how == "readout" ? VITRINE_TRY(readout_of_blocks(flow)) : at::Tensor{};
            std::shared_ptr<const Mixing> last;
            for (std::size_t i = 0; i < flow.steps.size(); ++i) {
                if (flow.steps[i].layer < 0) continue;  // a pooling head is no self-attention
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                const Mixing& mixing = *flow.steps[i].mixing;
                const TokenLayout& here = how == "rows" ? mixing.query_layout : mixing.key_layout;
                if (sum.defined() && here != layout)
                    return fail(ErrorCode::Unsupported,
                                "the layers have different tokens, so that there is no mean of all");
                layout = here;
                const at::Tensor found =
                    VITRINE_TRY(one_layer(context, mixing, run.d_outputs[i], run.values[i], how, readout));
                sum = sum.defined() ? sum + found : found;
                last = flow.steps[i].mixing;
                if (context.progress) context.progress({++done, flow.layers(), "layers"});
            }
            if (!last) return fail(ErrorCode::Unsupported, "no layer was seen");
            const at::Tensor tokens = sum / static_cast<double>(flow.layers());
            Attribution out = VITRINE_TRY(to_attribution(tokens, layout));
            const double all = tokens.sum().item<double>();
            out.prefix_mass = all > 0 ? out.prefix_mass / all : 0;
            out.notes.clear();
            out.method = "grad_sam";
            out.class_specific = true;
            out.explained = fmt::format(
                "attention times positive gradient of {}, {}, mean of {} layers and their heads", run.explained,
                how == "rows"      ? "by the token that reads"
                : how == "columns" ? "by the token that is read"
                                   : "read by the readout",
                flow.layers());
            out.implementation = last->implementation();
            out.checks.push_back(as_check(*last, VITRINE_TRY(last->check(context.seed))));
            out.notes.insert(out.notes.end(), run.capture->notes.begin(), run.capture->notes.end());
            return out;
        });
    }

  private:
    /// [tokens]: the mean over the heads.
    static Result<at::Tensor> one_layer(const ExplainContext& context, const Mixing& mixing, const at::Tensor& d_output,
                                        const at::Tensor& values, const std::string& how, const at::Tensor& readout) {
        if (how != "rows") {
            const bool all = how == "columns";
            if (!all && readout.numel() != mixing.queries)
                return fail(ErrorCode::Unsupported, "the readout is over {} tokens and {} has {} queries",
                            readout.numel(), mixing.name, mixing.queries);
            // A is not negative, so that A relu(dA) is relu(A dA), which is swept without a map.
            const at::Tensor r =
                (all ? at::ones({mixing.queries}) / static_cast<double>(mixing.queries) : readout).to(mixing.device());
            return VITRINE_TRY(mixing.sensitivity(r, Sensitivity::ReluPdP, d_output.to(mixing.device())))
                .mean(0)
                .to(at::kCPU);
        }
        at::Tensor out = at::zeros({mixing.queries});
        for (std::int64_t from = 0; from < mixing.queries;) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const std::int64_t count = std::min(rows_together(mixing), mixing.queries - from);
            const RowsWithGradient rows = VITRINE_TRY(rows_of(mixing, d_output, values, from, count));
            out.narrow(0, from, count).copy_((rows.p * rows.dp.clamp_min(0)).sum(2).mean(0));
            from += count;
        }
        return out / static_cast<double>(mixing.keys);
    }
};

}  // namespace

std::unique_ptr<Explainer> make_gradient_rollout(std::int64_t most_kept) {
    return std::make_unique<GradientRollout>(most_kept);
}
std::unique_ptr<Explainer> make_grad_sam() { return std::make_unique<GradSam>(); }

}  // namespace vitrine::plugin::attention
