// Activation patching: what the explained number becomes when a part of this picture's run is that of another picture.
#include "views.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace vitrine::plugin::views {
namespace {

class ActivationPatching final : public Explainer {
  public:
    Description description() const override {
        return {
            "activation_patching",
            "Activation patching",
            "How the score changes when one patch's activation comes from a second picture, and which layers carry "
            "the difference",
            "J. Vig et al., Investigating Gender Bias in Language Models Using Causal Mediation Analysis, NeurIPS "
            "2020; K. Meng et al., Locating and Editing Factual Associations in GPT, NeurIPS 2022, arXiv 2202.05262",
            0,
            "Inner views",
            "f(x with activation[layer, patch] taken from x') - f(x)",
            "What is found depends on the second picture and on how the change is counted (Zhang and Nanda, Towards "
            "Best Practices of Activation Patching in Language Models, ICLR 2024), and what other parts hold too goes "
            "unseen"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"layer",
                 std::string("middle"),
                 "the layer that is patched, from 0 (negative counts from the end), or middle; behind the last one the "
                 "patches may no longer reach the answer",
                 "",
                 "",
                 {},
                 {},
                 {}},
                {"part",
                 std::string("block"),
                 "what is taken from the other picture, one patch at a time: the tokens behind the block, or what its "
                 "attention or its MLP adds to them",
                 "",
                 "Meng et al., figure 1",
                 {},
                 {},
                 {"block", "attention", "mlp"}},
                {"table",
                 true,
                 "also all tokens of each layer's attention, and of its MLP, at once: two runs a layer",
                 "",
                 "",
                 {},
                 {},
                 {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_blocks(model); }
    bool class_specific() const override { return true; }
    bool reads_other(const Settings&) const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    std::optional<Passes> passes(const Model& model, const Settings& settings) const override {
        const std::int64_t layers = model.info().layers;
        const auto layer = layer_of_text(model, settings.text("layer"));
        const TokenLayout layout = model.layout(model.preprocess().input_height, model.preprocess().input_width);
        if (!layer || !layout.known()) return std::nullopt;
        std::int64_t blocks = (layout.rows * layout.cols + 1) * (layers - *layer);
        if (settings.flag("table")) blocks += layers * (layers + 1);
        return Passes{2 + passes_of(blocks, layers), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        if (context.other == nullptr)
            return fail(ErrorCode::Unsupported,
                        "activation patching takes activations from a second picture, and none is given");
        const at::Tensor &pixels = context.input.pixels, &others = context.other->pixels;
        if (!others.defined() || others.sizes() != pixels.sizes())
            return fail(ErrorCode::BadInput, "the second picture is [{}], expected [{}]",
                        others.defined() ? fmt::format("{}", fmt::join(others.sizes(), ", ")) : "undefined",
                        fmt::join(pixels.sizes(), ", "));
        Model& model = context.model;
        const std::int64_t layers = model.info().layers;
        const std::int64_t layer = VITRINE_TRY(layer_of_text(model, settings.text("layer")));
        const std::string part = settings.text("part"), point = point_of(layer, part);
        const bool with_table = settings.flag("table");

        std::vector<std::string> here, there{point};
        for (std::int64_t i = 0; i < layers; ++i) {
            here.push_back(point_name(i));
            if (!with_table) continue;
            there.push_back(point_of(i, "attention"));
            there.push_back(point_of(i, "mlp"));
        }
        const auto seen = VITRINE_TRY(look(context, pixels, here)), other = VITRINE_TRY(look(context, others, there));
        const Objective objective = VITRINE_TRY(answer_objective(context, seen->output));
        const TokenLayout layout = model.layout(pixels.size(2), pixels.size(3));
        const at::Tensor source = other->points.at(point);  // [1, tokens, width]
        const std::int64_t patches = layout.rows * layout.cols, prefix = layout.prefix_count();
        if (!layout.known() || source.dim() != 3 || source.size(1) != patches + prefix)
            return fail(ErrorCode::Unsupported, "there is no map: {}",
                        layout.known() ? "the tokens at " + point + " are no grid" : layout.unknown);
        const Blocks blocks = VITRINE_TRY(Blocks::make(context, *seen));
        const double own = objective.of(seen->output).item<double>(),
                     theirs = objective.of(other->output).item<double>();

        const std::int64_t total = patches + 1 + (with_table ? 2 * layers : 0);
        std::int64_t done = 0;
        const auto tick = [&](std::int64_t count) {
            done += count;
            if (context.progress) context.progress({done, total, "runs"});
        };
        std::vector<at::Tensor> changes;
        const std::int64_t step = context.batch_size();
        for (std::int64_t from = 0; from < patches; from += step) {
            const std::int64_t count = std::min(step, patches - from);
            const at::Tensor answers =
                VITRINE_TRY(blocks.answers(context, layer, count, point, [&](const at::Tensor& x) {
                    at::Tensor changed = x.clone();
                    for (std::int64_t i = 0; i < count; ++i) {
                        const std::int64_t token = prefix + from + i;
                        changed[i][token].copy_(source[0][token]);
                    }
                    return changed;
                }));
            changes.push_back(objective.of(answers).to(at::kCPU, at::kDouble) - own);
            tick(count);
        }
        const auto all_of = [&](std::int64_t at, const std::string& where, const at::Tensor& tokens) -> Result<double> {
            const at::Tensor answer = VITRINE_TRY(blocks.answers(
                context, at, 1, where, [&](const at::Tensor& x) { return tokens.expand_as(x).clone(); }));
            tick(1);
            return objective.of(answer).item<double>();
        };
        Attribution out;
        const double whole = VITRINE_TRY(all_of(layer, point, source));
        if (part == "block") {
            const double gap = std::abs(whole - theirs);
            out.checks.push_back(
                {"all tokens", gap <= 1e-4 * std::max(1.0, std::abs(theirs)),
                 fmt::format("with all tokens patched the other picture's number comes out within {:.0e}", gap)});
        }
        const at::Tensor map = at::cat(changes).reshape({layout.rows, layout.cols});
        if (map.abs().max().item<double>() == 0)
            return fail(ErrorCode::Unsupported,
                        "no patch at {} changes {}: choose an earlier layer, or another second picture", point,
                        objective.explained);
        if (with_table) {
            Table table{"activation_patching", "change of the number", {}, {"attention", "mlp"}, {}};
            for (std::int64_t i = 0; i < layers; ++i) {
                std::vector<double> values;
                for (const char* of : {"attention", "mlp"}) {
                    const std::string where = point_of(i, of);
                    values.push_back(VITRINE_TRY(all_of(i, where, other->points.at(where))) - own);
                }
                // The attention step's own name, so that the window knows the layer.
                table.rows.push_back(point_of(i, "attention"));
                table.values.push_back(std::move(values));
            }
            out.tables.push_back(std::move(table));
        }
        out.method = "activation_patching";
        out.map = map.to(at::kFloat).contiguous();
        out.is_signed = true;
        out.class_specific = true;
        out.explained =
            fmt::format("change of {} when one patch at {} is the other picture's", objective.explained, point);
        out.implementation = fmt::format("{} runs of the last {} blocks", patches, layers - layer);
        out.notes.push_back(
            fmt::format("{:.4g} here, {:.4g} on the other picture{}, {:.4g} with all tokens at {} patched", own, theirs,
                        context.other->name.empty() ? "" : " (" + context.other->name + ")", whole, point));
        return out;
    }

  private:
    static std::string point_of(std::int64_t layer, const std::string& part) {
        return point_name(layer, part == "block" ? "" : part == "attention" ? "attn" : "mlp");
    }

    static Result<std::int64_t> layer_of_text(const Model& model, const std::string& text) {
        if (text == "middle") return (model.info().layers - 1) / 2;
        std::int64_t layer = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
        if (error != std::errc{} || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "the layer is '{}', expected a number or middle", text);
        return layer_of(model, layer);
    }
};

}  // namespace

std::unique_ptr<Explainer> make_activation_patching() { return std::make_unique<ActivationPatching>(); }

}  // namespace vitrine::plugin::views
