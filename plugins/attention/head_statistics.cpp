// Attention distance and entropy: how far, and how widely, each head looks. No map is formed.
#include "attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <charconv>
#include <numeric>

namespace vitrine::plugin::attention {
namespace {

/// Centres of the patches of one side in input pixels. [patches, 2]
at::Tensor centres(const TokenLayout& layout, const at::Tensor& pixels) {
    const auto along = [](std::int64_t count, std::int64_t size) {
        return (at::arange(count, at::kFloat) + 0.5) * (static_cast<double>(size) / static_cast<double>(count));
    };
    const at::Tensor y = along(layout.rows, pixels.size(2)).reshape({-1, 1}).expand({layout.rows, layout.cols});
    const at::Tensor x = along(layout.cols, pixels.size(3)).reshape({1, -1}).expand({layout.rows, layout.cols});
    return at::stack({y, x}, -1).reshape({-1, 2});
}

Result<at::Tensor> mean_distance(const Mixing& mixing, const at::Tensor& pixels, const std::stop_token& stop) {
    const at::Tensor from = centres(mixing.query_layout, pixels), to = centres(mixing.key_layout, pixels);
    const std::int64_t prefix = mixing.query_layout.prefix_count(), patches = from.size(0);
    // Rows of all heads in 16 MB.
    const std::int64_t chunk =
        std::clamp<std::int64_t>((std::int64_t{1} << 22) / (mixing.heads * mixing.keys), 1, 1024);
    std::vector<at::Tensor> parts;
    for (std::int64_t first = 0; first < patches; first += chunk) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        std::vector<std::int64_t> queries(static_cast<std::size_t>(std::min(chunk, patches - first)));
        std::iota(queries.begin(), queries.end(), prefix + first);
        const at::Tensor p = VITRINE_TRY(mixing.rows({}, queries)).slice(2, mixing.key_layout.prefix_count());
        const at::Tensor apart = from.slice(0, first, first + p.size(1)).unsqueeze(1) - to.unsqueeze(0);
        // A query that reads prefix tokens only looks nowhere: 0.
        parts.push_back((p * apart.square().sum(-1).sqrt()).sum(-1) / p.sum(-1).clamp_min(1e-30));
    }
    return at::cat(parts, 1);
}

/// One number for each head and query of every layer: the mean over patch queries is the table, over heads the map.
class HeadStatistic final : public Explainer {
  public:
    explicit HeadStatistic(bool distance) : distance_(distance) {}

    Description description() const override {
        if (distance_)
            return {"attention_distance",
                    "Attention distance",
                    "How far the patches look: the mean distance of what each head reads, in input pixels",
                    "A. Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929, figure 7",
                    0,
                    "Attention",
                    "d_i = sum_j a_ij |place_i - place_j| / sum_j a_ij over the patches j",
                    "Says where heads look, not what they use: attention is no measure of influence (Jain and Wallace, "
                    "NAACL 2019)"};
        return {
            "attention_entropy",
            "Attention entropy",
            "How widely the patches look: the entropy of what each head reads, in nats",
            "H. Ghader and C. Monz, What does Attention in Neural Machine Translation Pay Attention to?, IJCNLP 2017, "
            "arXiv 1710.03348",
            0,
            "Attention",
            "H_i = -sum_j a_ij ln a_ij",
            "Says how widely heads look, not what they use (Jain and Wallace, NAACL 2019), and grows with the number "
            "of tokens"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"layer",
                 std::string("all"),
                 "the layer that is drawn, from 0 (negative counts from the end), or the mean of all; the table has "
                 "them all",
                 "",
                 "",
                 {},
                 {},
                 {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return needs_attention(model); }
    bool class_specific() const override { return false; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{0, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const auto capture = VITRINE_TRY(context.capture(distance_));  // the distance reads every row
        const Flow& flow = capture->flow;
        const std::int64_t layers = flow.layers();
        if (layers == 0)
            return fail(ErrorCode::Unsupported, "no attention was seen while {} ran", context.model.info().name);
        const std::int64_t wanted = VITRINE_TRY(layer_of(settings.text("layer"), layers));
        Table table;
        table.name = description().name;
        table.unit = distance_ ? "input pixels" : "nats";
        at::Tensor drawn;
        TokenLayout layout;
        for (std::int64_t layer = 0; layer < layers; ++layer) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const Mixing& mixing = *flow.block(layer)->mixing;
            const TokenLayout& from = mixing.query_layout;
            for (const TokenLayout* side : {&from, &mixing.key_layout})
                if (!side->known() || side->rows * side->cols == 0)
                    return fail(ErrorCode::Unsupported, "the patches of {} are not known: {}", mixing.name,
                                side->known() ? "it has none" : side->unknown);
            if (!mixing.row_stochastic())
                return fail(ErrorCode::Unsupported, "the rows of {} do not sum to 1", mixing.name);
            const at::Tensor values =  // [heads, patches]
                distance_ ? VITRINE_TRY(mean_distance(mixing, context.input.pixels, context.stop))
                          : VITRINE_TRY(mixing.entropy()).slice(1, from.prefix_count());
            const at::Tensor means = values.mean(1, false, at::kDouble).contiguous();
            table.rows.push_back(mixing.name);
            table.values.emplace_back(means.data_ptr<double>(), means.data_ptr<double>() + means.numel());
            if (wanted < 0 || wanted == layer) {
                if (drawn.defined() && from != layout)
                    return fail(ErrorCode::Unsupported,
                                "the layers have different patches, so that there is no mean of all; choose a layer");
                layout = from;
                drawn = drawn.defined() ? drawn + values.mean(0) : values.mean(0);
            }
            if (context.progress) context.progress({layer + 1, layers, "layers"});
        }
        std::size_t heads = 0;
        for (const auto& row : table.values) heads = std::max(heads, row.size());
        for (std::size_t head = 0; head < heads; ++head) table.cols.push_back(fmt::format("head {}", head));

        Attribution out;
        out.method = description().name;
        out.map =
            (wanted < 0 ? drawn / static_cast<double>(layers) : drawn).reshape({layout.rows, layout.cols}).contiguous();
        out.on_tokens = true;
        out.explained = fmt::format(
            "{} of each patch, mean of the heads{}, in {}", distance_ ? "attention distance" : "attention entropy",
            wanted < 0 ? " of all layers" : ", " + table.rows[static_cast<std::size_t>(wanted)], table.unit);
        out.tables.push_back(std::move(table));
        const Mixing& last = *flow.block(wanted < 0 ? -1 : wanted)->mixing;
        out.implementation = last.implementation();
        out.checks.push_back(as_check(last, VITRINE_TRY(last.check(context.seed))));
        out.notes.insert(out.notes.end(), capture->notes.begin(), capture->notes.end());
        return out;
    }

  private:
    /// -1 for all.
    static Result<std::int64_t> layer_of(const std::string& text, std::int64_t layers) {
        if (text == "all") return std::int64_t{-1};
        std::int64_t layer = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
        if (error != std::errc{} || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "the layer is '{}', expected a number or all", text);
        if (layer < -layers || layer >= layers)
            return fail(ErrorCode::BadInput, "layer {} is not there: {} attention layers were seen", layer, layers);
        return layer < 0 ? layer + layers : layer;
    }

    bool distance_;
};

}  // namespace

std::unique_ptr<Explainer> make_attention_distance() { return std::make_unique<HeadStatistic>(true); }
std::unique_ptr<Explainer> make_attention_entropy() { return std::make_unique<HeadStatistic>(false); }

}  // namespace vitrine::plugin::attention
