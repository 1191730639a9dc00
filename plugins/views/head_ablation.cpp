// Head ablation: what the explained number loses when one head gives nothing, or only its mean.
#include "views.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>

#include <algorithm>
#include <cmath>

namespace vitrine::plugin::views {
namespace {

class HeadAblation final : public Explainer {
  public:
    Description description() const override {
        return {"head_ablation",
                "Head ablation",
                "What the score loses without each head; the map is what the heads read, weighed by that",
                "P. Michel, O. Levy, G. Neubig, Are Sixteen Heads Really Better than One?, NeurIPS 2019, arXiv "
                "1905.10650; the map is ours",
                0,
                "Inner views",
                "drop_lh = f(x) - f(x without head h of layer l); map = sum of drop_lh a_lh / sum of |drop_lh|",
                "One head at a time: heads that stand in for one another each seem needless (most can be taken alone: "
                "Michel et al., NeurIPS 2019), and zero is an output the later layers never saw"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"by",
                 std::string("zero"),
                 "what a head's output becomes: zero, or its mean over the tokens of this picture",
                 "",
                 "zero: Michel et al.",
                 {},
                 {},
                 {"zero", "mean"}}};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.info().layers == 0) return model.info().name + " has no attention layers";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    std::optional<Passes> passes(const Model& model, const Settings&) const override {
        const std::int64_t layers = model.info().layers, heads = model.info().heads;
        if (!model.has_chain()) return Passes{1 + layers * heads, 0};
        return Passes{1 + passes_of(heads * layers * (layers + 1) / 2, layers), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        Model& model = context.model;
        const bool by_mean = settings.text("by") == "mean";
        const bool own_blocks = !needs_blocks(model) && has_weights(model);
        if (by_mean && !own_blocks)
            return fail(ErrorCode::Unsupported,
                        "a head's mean can be put in its place only where the model's weights are known; use by=zero");
        std::vector<std::string> points;
        for (std::int64_t layer = 0; own_blocks && layer < model.info().layers; ++layer) {
            points.push_back(point_name(layer));
            points.push_back(point_name(layer, "attn"));
        }
        const auto seen = VITRINE_TRY(look(context, context.input.pixels, points, /*mixings=*/true));
        const Objective objective = VITRINE_TRY(answer_objective(context, seen->output));
        const Flow& flow = seen->flow;
        const std::int64_t layers = flow.layers();
        if (layers == 0) return fail(ErrorCode::Unsupported, "no attention was seen while {} ran", model.info().name);
        const at::Tensor readout = VITRINE_TRY(readout_of_blocks(flow));
        std::optional<Blocks> blocks;
        if (own_blocks) blocks = VITRINE_TRY(Blocks::make(context, *seen));

        Attribution out;
        Table table{"head_ablation", objective.probability ? "" : "change of the number", {}, {}, {}};
        const double whole = objective.of(seen->output).item<double>();
        std::int64_t most = 0, all = 0, done = 0;
        for (std::int64_t layer = 0; layer < layers; ++layer) all += flow.block(layer)->mixing->heads;
        at::Tensor map;
        double weight = 0;
        for (std::int64_t layer = 0; layer < layers; ++layer) {
            const Mixing& mixing = *flow.block(layer)->mixing;
            if (readout.numel() != mixing.queries || (map.defined() && map.numel() != mixing.keys))
                return fail(ErrorCode::Unsupported,
                            "the layers have different tokens, so that their heads' reading makes no map");
            const at::Tensor reads = VITRINE_TRY(mixing.left(readout));  // [heads, keys]
            const at::Tensor writes = blocks ? VITRINE_TRY(written(model, mixing, layer)) : at::Tensor{};
            std::vector<double> drops;
            const std::int64_t step = blocks ? context.batch_size() : 1;
            for (std::int64_t from = 0; from < mixing.heads; from += step) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                const std::int64_t count = std::min(step, mixing.heads - from);
                at::Tensor answers;
                if (blocks) {
                    at::Tensor lost = writes.narrow(0, from, count);  // [count, tokens, width]
                    if (by_mean) lost = lost - lost.mean(1, /*keepdim=*/true);
                    answers = VITRINE_TRY(
                        blocks->answers(context, layer, count, point_name(layer, "attn"),
                                        [&](const at::Tensor& x) { return (x - lost).to(x.scalar_type()); }));
                } else {
                    answers = VITRINE_TRY(without(context, mixing.name, from));
                }
                const at::Tensor numbers = objective.of(answers).to(at::kCPU);
                for (std::int64_t i = 0; i < count; ++i) drops.push_back(whole - numbers[i].item<double>());
                done += count;
                if (context.progress) context.progress({done, all, "heads"});
            }
            for (std::int64_t head = 0; head < mixing.heads; ++head) {
                const double drop = drops[static_cast<std::size_t>(head)];
                const at::Tensor part = reads[head].to(at::kCPU) * drop;
                map = map.defined() ? map + part : part;
                weight += std::abs(drop);
            }
            most = std::max(most, mixing.heads);
            table.rows.push_back(mixing.name);
            table.values.push_back(std::move(drops));
            out.implementation = mixing.implementation();
        }
        for (std::int64_t head = 0; head < most; ++head) table.cols.push_back(fmt::format("head {}", head));
        if (weight == 0)
            return fail(ErrorCode::Unsupported, "{} does not change without any of the heads", objective.explained);
        const TokenLayout& layout = flow.block(0)->mixing->key_layout;
        out.map = VITRINE_TRY(patches_of(map / weight, layout));
        const double size = map.abs().sum().item<double>();
        if (const std::int64_t prefix = layout.prefix_count(); prefix > 0 && size > 0)
            out.prefix_mass = map.narrow(0, 0, prefix).abs().sum().item<double>() / size;
        out.method = "head_ablation";
        out.is_signed = true;
        out.class_specific = true;
        out.explained = fmt::format("attention of the heads from the readout, each weighed by what {} loses without it",
                                    objective.explained);
        out.tables.push_back(std::move(table));
        out.notes.push_back(fmt::format("{} heads, each {}, {}", all,
                                        by_mean ? "made its mean over the tokens" : "made zero",
                                        blocks ? "run again from its own block on" : "with a run of the whole model"));
        return out;
    }

  private:
    static bool has_weights(Model& model) {
        const auto all = model.parameters();
        return std::any_of(all.begin(), all.end(),
                           [](const auto& weight) { return weight.first == "blocks.0.attn.proj.weight"; });
    }

    /// What each head of a layer adds to the stream, before layer scale. [heads, tokens, width]
    static Result<at::Tensor> written(Model& model, const Mixing& mixing, std::int64_t layer) {
        const std::string name = fmt::format("blocks.{}.attn.proj.weight", layer);
        const auto all = model.parameters();
        const auto found =
            std::find_if(all.begin(), all.end(), [&](const auto& weight) { return weight.first == name; });
        const at::Tensor output = mixing.output();
        if (found == all.end()) return fail(ErrorCode::Unsupported, "{} is missing", name);
        if (!output.defined())
            return fail(ErrorCode::OutOfMemory, "what the heads of {} gave was not kept: allow more memory",
                        mixing.name);
        return guarded([&]() -> Result<at::Tensor> {
            const at::Tensor weight = found->second.detach();  // [width, heads * dim]
            const at::Tensor of_heads =
                weight.reshape({weight.size(0), mixing.heads, -1}).permute({1, 2, 0}).to(at::kFloat);
            return at::bmm(output.to(at::kFloat), of_heads);
        });
    }

    /// The answer of the whole model without one head.
    static Result<at::Tensor> without(ExplainContext& context, const std::string& where, std::int64_t head) {
        Edit edit;
        edit.kind = Edit::Kind::ScaleHead;
        edit.where = where;
        edit.head = head;
        edit.factor = 0;
        CaptureOptions options;
        options.mixings = false;
        options.stop = context.stop;
        options.edits = {edit};
        const auto run = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        return run->output;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_head_ablation() { return std::make_unique<HeadAblation>(); }

}  // namespace vitrine::plugin::views
