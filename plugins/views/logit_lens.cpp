// The logit lens: what the end of the model says of each token of an earlier layer.
#include "views.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <cmath>

namespace vitrine::plugin::views {
namespace {

class LogitLens final : public Explainer {
  public:
    Description description() const override {
        return {"logit_lens",
                "Logit lens",
                "What the last norm and head say of each patch's token after a layer; the head was not trained for it",
                "nostalgebraist, interpreting GPT: the logit lens, 2020; for vision transformers M. G. Vilas, T. "
                "Schaumloeffel, G. Roig, Analyzing Vision Transformers for Image Classification in Class Embedding "
                "Space, NeurIPS 2023, arXiv 2310.18969",
                0,
                "Inner views",
                "head(norm(x_l[patch])), x_l the tokens after layer l",
                "Tokens of early layers do not yet lie in the space that the head reads, so that it may say nothing or "
                "mislead there (for language models: Belrose et al., Eliciting Latent Predictions from Transformers "
                "with the Tuned Lens, 2023)"};
    }
    std::vector<Parameter> parameters() const override {
        return {layer_parameter(-1, "the layer whose patches are drawn, from 0; negative counts from the end",
                                "the last; the table has them all")};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.info().layers == 0) return model.info().name + " has no attention layers";
        if (model.info().classes == 0) return model.info().name + " has no classes that its tokens could answer";
        if (!model.is_native()) return "the final norm and head of a traced model cannot be reached";
        if (auto why = model.no_layer_answer()) return why;
        return needs_blocks(model);
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        Model& model = context.model;
        const at::NoGradGuard no_grad;
        const std::int64_t wanted = VITRINE_TRY(layer_of(model, settings.integer("layer")));
        const std::int64_t layers = model.info().layers;
        std::vector<std::string> points;
        for (std::int64_t layer = 0; layer < layers; ++layer) points.push_back(point_name(layer));
        const auto seen = VITRINE_TRY(look(context, context.input.pixels, points));
        const Objective objective = VITRINE_TRY(answer_objective(context, seen->output));
        const TokenLayout layout = model.layout(context.input.pixels.size(2), context.input.pixels.size(3));
        if (!layout.known()) return fail(ErrorCode::Unsupported, "there is no map: {}", layout.unknown);
        const Blocks blocks = VITRINE_TRY(Blocks::make(context, *seen));

        Attribution out;
        Table table{"logit_lens",
                    objective.probability ? "" : "logit",
                    points,
                    {"the answer read here", "mean of the patches", "largest patch"},
                    {}};
        // Whether a patch answers the class can be said of one class only.
        const bool one = objective.index >= 0 && !objective.versus && objective.also.empty();
        if (one) table.cols.emplace_back("share of patches that answer it");
        for (std::int64_t layer = 0; layer < layers; ++layer) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const at::Tensor& x = seen->points.at(points[static_cast<std::size_t>(layer)]);
            const std::int64_t first = layout.prefix_count(), count = layout.rows * layout.cols;
            if (x.size(1) != first + count)
                return fail(ErrorCode::Unsupported, "{} has {} tokens, and the grid {}", points.back(), x.size(1),
                            first + count);
            // One token each: the end of the model reads its mean, which is the token itself.
            const at::Tensor patches = x[0].narrow(0, first, count).unsqueeze(1);
            std::vector<at::Tensor> numbers;
            std::int64_t answered = 0;
            constexpr std::int64_t kPart = 4096;
            for (std::int64_t from = 0; from < count; from += kPart) {
                const at::Tensor answers = VITRINE_TRY(guarded([&]() -> Result<at::Tensor> {
                    return model.layer_answer(patches.narrow(0, from, std::min(kPart, count - from)), layout);
                }));
                numbers.push_back(objective.of(answers));
                if (one) answered += (answers.argmax(1) == objective.index).sum().item<std::int64_t>();
            }
            const at::Tensor map = at::cat(numbers).to(at::kCPU, at::kFloat);
            const double here = objective.of(VITRINE_TRY(blocks.end(x))).item<double>();
            table.values.push_back({here, map.mean().item<double>(), map.max().item<double>()});
            if (one) table.values.back().push_back(static_cast<double>(answered) / static_cast<double>(count));
            if (layer == wanted) out.map = map.reshape({layout.rows, layout.cols}).contiguous();
            if (context.progress) context.progress({layer + 1, layers, "layers"});
        }
        const double answer = objective.of(seen->output).item<double>();
        const double gap = std::abs(table.values.back().front() - answer);
        out.checks.push_back(
            {"last layer", gap <= 1e-4 * std::max(1.0, std::abs(answer)),
             fmt::format("read behind the last layer it is the model's own answer within {:.0e}", gap)});
        out.method = "logit_lens";
        out.is_signed = !objective.probability;
        out.class_specific = true;
        out.explained = fmt::format("{}, read from each patch after {}", objective.explained,
                                    points[static_cast<std::size_t>(wanted)]);
        out.implementation = "final norm and head on each patch";
        out.tables.push_back(std::move(table));
        out.notes.push_back(fmt::format("head not trained for this token: it reads {}",
                                        model.info().readout == Readout::ClassToken    ? "the class token"
                                        : model.info().readout == Readout::MeanPatches ? "the mean of the patches"
                                        : model.info().readout == Readout::AttentionPool
                                            ? "all patches by a pooling head, which here sees one"
                                            : "something else"));
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_logit_lens() { return std::make_unique<LogitLens>(); }

}  // namespace vitrine::plugin::views
