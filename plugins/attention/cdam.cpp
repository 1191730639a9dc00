// Class-discriminative attention maps: gradient times token where the tokens enter the last attention.
#include "attention.h"

#include <vitrine/torch_errors.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <functional>

namespace vitrine::plugin::attention {
namespace {

class Cdam final : public Explainer {
  public:
    Description description() const override {
        return {"cdam",
                "Class-discriminative attention map",
                "How much each token that enters the last attention adds to the class: gradient times token",
                "L. Brocki, J. Binda, N. C. Chung, Class-Discriminative Attention Maps for Vision Transformers, TMLR "
                "2024, arXiv 2312.02364; github.com/lenbrocki/CDAM (2c502d5)",
                0,
                "Attention",
                "S_i = sum over channels of T_i df/dT_i, T the normed tokens that enter the last attention; smooth "
                "forms: the mean of S at altered T",
                "Reads the last layer only, whose tokens are mixtures already: it says which token counts, not which "
                "pixels made it so (our observation)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"score",
                 std::string("target"),
                 "target: the explained number; similarity: the inner product of the features with those of a second "
                 "picture, a concept",
                 "",
                 "the paper has both",
                 {},
                 {},
                 {"target", "similarity"}},
                {"smooth",
                 std::string("none"),
                 "maps of altered tokens, averaged: noise: Smooth CDAM, noise on the tokens; integrated: Integrated "
                 "CDAM, the tokens times k / samples for k = 0 to samples, with noise",
                 "",
                 "the paper names the three; noise, steps and baseline zero as Obz AI has them (arXiv 2508.18188)",
                 {},
                 {},
                 {"none", "noise", "integrated"}},
                {"samples", std::int64_t{50}, "maps that are averaged", "", "Obz AI", 1.0, 10000.0, {}},
                {"noise", 0.05, "deviation of the noise", "range of the tokens", "Obz AI", 0.0, 10.0, {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (auto why = needs_attention(model)) return why;
        if (point_of(model).empty())
            return "no point of " + model.info().name + " gives the tokens that enter the last attention";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    bool reads_other(const Settings& settings) const override { return settings.text("score") == "similarity"; }
    std::optional<std::string> no_region(const Settings& settings) const override {
        if (settings.text("score") == "similarity") return "it explains similarity to a second picture";
        return std::nullopt;
    }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        if (settings.text("smooth") != "none") return std::nullopt;  // parts of the model, by batch
        return settings.text("score") == "similarity" ? Passes{2, 1} : Passes{1, 1};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        Model& model = context.model;
        const std::string point = point_of(model), features = "head_input";
        const bool similarity = settings.text("score") == "similarity";
        CaptureOptions options;
        options.mixings = false;
        options.stop = context.stop;
        options.memory_budget = context.memory_budget;
        at::Tensor concept_vector;
        if (similarity) {
            if (context.other == nullptr)
                return fail(ErrorCode::Unsupported, "similarity is to a second picture, and none is given");
            if (model.info().classes > 0) options.points = {features};
            const auto run = VITRINE_TRY(run_captured(model, context.other->pixels, options));
            concept_vector = VITRINE_TRY(features_of(model, *run, features)).detach();
        }
        options.gradients = true;
        options.points.push_back(point);
        std::optional<Objective> objective;
        if (!similarity && !context.target.region.empty()) {
            objective = VITRINE_TRY(context.objective());
            if (objective->point != point) options.points.push_back(objective->point);
        }
        std::string explained;
        /// Gradient times token, summed over channels: [copies, tokens], float64.
        const auto terms = [&](const Capture& capture) -> Result<at::Tensor> {
            const auto found = capture.points.find(point);
            if (found == capture.points.end())
                return fail(ErrorCode::Unsupported, "{} did not pass {}", model.info().name, point);
            const at::Tensor& tokens = found->second;
            const at::Tensor score = VITRINE_TRY(guarded([&]() -> Result<at::Tensor> {
                const at::AutoGradMode with_graph(true);
                if (similarity) {
                    explained = "similarity to " +
                                (context.other->name.empty() ? std::string("the second picture") : context.other->name);
                    return (VITRINE_TRY(features_of(model, capture, features)) * concept_vector).sum();
                }
                if (!objective) objective = VITRINE_TRY(objective_of(model, context.target, capture.output.detach()));
                explained = objective->explained;
                return objective->of(VITRINE_TRY(answer_of(capture, *objective, model))).sum();
            }));
            auto given = gradients(score, {tokens}, {"the tokens at " + point});
            if (!given && given.error().code == ErrorCode::Internal)
                return fail(ErrorCode::Unsupported, "{}", given.error().message);
            const at::Tensor slope = VITRINE_TRY(std::move(given)).front();
            if (tokens.dim() != 3)
                return fail(ErrorCode::Unsupported, "the activation at {} is no row of tokens", point);
            const at::NoGradGuard no_grad;
            return (tokens.detach().to(at::kDouble) * slope.to(at::kDouble)).sum(2);
        };
        at::Tensor all_terms;
        if (const std::string smooth = settings.text("smooth"); smooth == "none") {
            all_terms = VITRINE_TRY(terms(*VITRINE_TRY(run_captured(model, context.input.pixels, options))));
        } else {
            // The class is the picture's, not that of a copy whose tokens were altered.
            if (!similarity && !objective) objective = VITRINE_TRY(context.objective());
            all_terms = VITRINE_TRY(averaged(context, settings, point, smooth == "integrated", options, terms));
        }
        const at::NoGradGuard no_grad;
        const TokenLayout layout = model.layout(context.input.pixels.size(2), context.input.pixels.size(3));
        const at::Tensor each = all_terms.unsqueeze(2);  // [1, tokens, 1]
        Attribution out;
        out.map = VITRINE_TRY(as_grid(each, layout))[0][0].to(at::kCPU, at::kFloat).contiguous();
        if (out.map.abs().max().item<double>() == 0)
            return fail(ErrorCode::Unsupported, "{} does not depend on any patch at {}", explained, point);
        const double all = each.abs().sum().item<double>(), drawn = out.map.abs().sum().item<double>();
        out.prefix_mass = all > 0 ? std::max(0.0, 1 - drawn / all) : 0;
        out.method = "cdam";
        out.is_signed = true;
        out.class_specific = true;
        out.explained = fmt::format("{}, by the tokens at {}", explained, point);
        out.implementation = settings.text("smooth") == "none"
                                 ? "one pass and its gradient"
                                 : fmt::format("{} runs of altered tokens", settings.text("smooth") == "integrated"
                                                                                ? settings.integer("samples") + 1
                                                                                : settings.integer("samples"));
        if (context.progress && settings.text("smooth") == "none") context.progress({1, 1, "maps"});
        return out;
    }

  private:
    /// The mean of the terms at altered tokens. [1, tokens], float64
    ///
    /// In a row of blocks what is in front of the point runs on one picture and what is behind it on a batch of copies.
    static Result<at::Tensor> averaged(ExplainContext& context, const Settings& settings, const std::string& point,
                                       bool integrated, CaptureOptions options,
                                       const std::function<Result<at::Tensor>(const Capture&)>& terms) {
        const std::int64_t samples = settings.integer("samples"), maps = integrated ? samples + 1 : samples;
        const bool shared = context.model.is_native() && point.starts_with("blocks.");
        auto generator = at::make_generator<at::CPUGeneratorImpl>(context.seed);
        const std::int64_t step = std::min(maps, context.batch_size());
        at::Tensor sum;
        for (std::int64_t from = 0; from < maps; from += step) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const std::int64_t count = std::min(step, maps - from);
            Edit edit;
            edit.kind = Edit::Kind::ReplacePoint;
            edit.where = point;
            edit.replace = [&](const at::Tensor& x) {
                const at::NoGradGuard no_grad;
                const at::Tensor tokens = x.detach().narrow(0, 0, 1);
                const double deviation = settings.number("noise") * (tokens.max() - tokens.min()).item<double>();
                std::vector<at::Tensor> altered;
                for (std::int64_t i = from; i < from + count; ++i) {
                    // One draw a copy, in order, so that the noise does not depend on the batch.
                    const at::Tensor noise = at::randn(tokens.sizes(), generator, at::kFloat).to(tokens.options());
                    const double share = integrated ? static_cast<double>(i) / static_cast<double>(samples) : 1;
                    altered.push_back(tokens * share + noise * deviation);
                }
                return at::cat(altered).requires_grad_(true);
            };
            options.edits = {edit};
            const auto capture = VITRINE_TRY(
                run_captured(context.model, context.input.pixels.expand({shared ? 1 : count, -1, -1, -1}), options));
            const at::Tensor some = VITRINE_TRY(terms(*capture)).sum(0, /*keepdim=*/true);
            sum = sum.defined() ? sum + some : some;
            if (context.progress) context.progress({from + count, maps, "maps"});
        }
        return sum / static_cast<double>(maps);
    }

    /// What the last attention is given; a traced model's own point of that kind.
    static std::string point_of(const Model& model) {
        const std::string name = fmt::format("blocks.{}.norm1", model.info().layers - 1);
        const auto points = model.points();
        const bool there =
            std::any_of(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == name; });
        return there ? name : model.info().cam_point;
    }

    /// What the head is given, or the answer of a model without one. [1, width]
    static Result<at::Tensor> features_of(const Model& model, const Capture& run, const std::string& point) {
        if (model.info().classes == 0) return run.output;
        const auto found = run.points.find(point);
        if (found == run.points.end())
            return fail(ErrorCode::Unsupported, "the features in front of the head of {} cannot be reached",
                        model.info().name);
        return found->second;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_cdam() { return std::make_unique<Cdam>(); }

}  // namespace vitrine::plugin::attention
