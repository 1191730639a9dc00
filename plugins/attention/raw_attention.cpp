// Raw attention: what the readout's query reads in one layer, one head or their mean.
#include "attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <charconv>

namespace vitrine::plugin::attention {

Result<Attribution> to_attribution(const at::Tensor& tokens, const TokenLayout& layout) {
    if (!layout.known()) return fail(ErrorCode::Unsupported, "there is no map over the picture: {}", layout.unknown);
    if (tokens.dim() != 1 || tokens.numel() != layout.tokens() || layout.rows * layout.cols == 0)
        return fail(ErrorCode::Unsupported, "there is no map over the picture: {} tokens for a layout of {}",
                    tokens.numel(), layout.tokens());
    Attribution out;
    const std::int64_t prefix = layout.prefix_count();
    out.map = tokens.slice(0, prefix).reshape({layout.rows, layout.cols}).contiguous();
    out.prefix_mass = prefix > 0 ? tokens.slice(0, 0, prefix).sum().item<double>() : 0;
    out.on_tokens = true;
    if (prefix > 0)
        out.notes.push_back(fmt::format("{:.0f} % of the mass lies on {} prefix token{} and is not drawn",
                                        100 * out.prefix_mass, prefix, prefix == 1 ? "" : "s"));
    return out;
}

std::optional<std::string> needs_attention(const Model& model) {
    if (model.info().layers == 0) return model.info().name + " has no attention layers";
    return std::nullopt;
}

std::optional<std::string> needs_attention_and_classes(const Model& model) {
    if (model.info().classes == 0) return model.info().name + " has no classes, and this method explains a class";
    return needs_attention(model);
}

Check as_check(const Mixing& mixing, const MixingCheck& found) { return {mixing.name, found.passed, found.sentence}; }

namespace {

class RawAttention final : public Explainer {
  public:
    Description description() const override {
        return {
            "raw_attention",
            "Raw attention",
            "What the readout's query reads in one layer, one head or their mean",
            "D. Bahdanau et al., ICLR 2015; for transformers A. Vaswani et al., NeurIPS 2017",
            0,
            "Attention",
            "a_j = sum over queries of r_i A_ij in one layer, r where the answer is read",
            "Attention need not follow what the answer depends on: quite other weights can give the same answer (Jain "
            "and Wallace, Attention is not Explanation, NAACL 2019)"};
    }

    std::vector<Parameter> parameters() const override {
        Parameter layer{"layer",
                        std::int64_t{-1},
                        "the attention layer, from 0; negative counts from the end",
                        "",
                        "the usual choice: the last",
                        {},
                        {},
                        {}};
        Parameter head{"head",
                       std::string("mean"),
                       "a head, from 0 (negative counts from the end), or mean",
                       "",
                       "the usual choice: the mean",
                       {},
                       {},
                       {}};
        Parameter query{"query",
                        std::string("readout"),
                        "whose row is shown: where the model reads its answer, or the class token",
                        "",
                        "",
                        {},
                        {},
                        {"readout", "cls"}};
        return {layer, head, query};
    }

    std::optional<std::string> why_not(const Model& model) const override { return needs_attention(model); }
    bool class_specific() const override { return false; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{0, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const auto capture = VITRINE_TRY(context.capture());
        const Flow& flow = capture->flow;
        const FlowStep* step = flow.block(settings.integer("layer"));
        if (step == nullptr)
            return fail(ErrorCode::BadInput, "layer {} is not there: {} attention layers were seen",
                        settings.integer("layer"), flow.layers());
        const Mixing& mixing = *step->mixing;
        const std::string head = settings.text("head");
        std::int64_t index = 0;
        if (head != "mean") {
            const auto [end, error] = std::from_chars(head.data(), head.data() + head.size(), index);
            if (error != std::errc{} || end != head.data() + head.size())
                return fail(ErrorCode::BadInput, "the head is '{}', expected a number or mean", head);
            const std::int64_t wanted = index;
            if (index < 0) index += mixing.heads;
            if (index < 0 || index >= mixing.heads)
                return fail(ErrorCode::BadInput, "head {} is not there: {} has {}", wanted, mixing.name, mixing.heads);
        }

        at::Tensor start;
        std::string explained;
        const auto& prefix = mixing.query_layout.prefix;
        if (settings.text("query") == "cls") {
            if (!mixing.query_layout.known() || prefix.empty() || prefix.front() != "cls")
                return fail(ErrorCode::Unsupported, "{} has no class token to ask; use query=readout",
                            context.model.info().name);
            start = at::zeros({mixing.queries});
            start[0].fill_(1);
            explained = "attention of the class token";
        } else {
            start = VITRINE_TRY(readout_of_blocks(flow));
            if (start.numel() != mixing.queries)
                return fail(ErrorCode::Unsupported, "the readout is over {} tokens and {} has {} queries",
                            start.numel(), mixing.name, mixing.queries);
            explained = context.model.info().readout == Readout::ClassToken      ? "attention of the class token"
                        : context.model.info().readout == Readout::MeanPatches   ? "mean attention of the patches"
                        : context.model.info().readout == Readout::AttentionPool ? "attention of the pooled tokens"
                                                                                 : "attention of the readout";
        }
        const at::Tensor all = VITRINE_TRY(mixing.left(start));  // [heads, keys]
        const at::Tensor row = head == "mean" ? all.mean(0) : all.select(0, index);
        Attribution out = VITRINE_TRY(to_attribution(row, mixing.key_layout));
        out.method = "raw_attention";
        out.explained = fmt::format("{}, {}, {}", explained, mixing.name,
                                    head == "mean" ? "mean of the heads" : "head " + std::to_string(index));
        out.implementation = mixing.implementation();
        out.checks.push_back(as_check(mixing, VITRINE_TRY(mixing.check(context.seed))));
        out.notes.insert(out.notes.end(), capture->notes.begin(), capture->notes.end());
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_raw_attention() { return std::make_unique<RawAttention>(); }

}  // namespace vitrine::plugin::attention
