// Measures that change a picture step by step in the map's order: insertion, deletion, AOPC with pixel flipping.
#include "measures.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace vitrine::plugin::measures {

namespace {

Parameter choice(std::string name, std::string standard, std::string meaning, std::string source,
                 std::vector<std::string> choices) {
    return {std::move(name),   std::move(standard), std::move(meaning), "", std::move(source), {}, {},
            std::move(choices)};
}

/// 0, step, 2 step, ..., all.
std::vector<std::int64_t> stops(std::int64_t first, std::int64_t step, std::int64_t last) {
    std::vector<std::int64_t> out;
    for (std::int64_t at = first; at < last; at += step) out.push_back(at);
    out.push_back(last);
    return out;
}

class Revealing : public Basic {
  public:
    explicit Revealing(bool insertion) : insertion_(insertion) {}

    Description description() const override {
        if (insertion_)
            return {
                "insertion",
                "Insertion",
                "How fast the answer comes back when what the map ranks first is shown first (area under the curve)",
                "V. Petsiuk et al., RISE, BMVC 2018",
                0,
                "Faithfulness",
                "area on [0, 1] under p(target) against the share shown, highest places of the map first; native map "
                "resized bilinearly (align_corners = false), ties drawn by seed; preset tokens: over patches in native "
                "order"};
        return {"deletion",
                "Deletion",
                "How fast the answer goes when what the map ranks first is taken away first (area under the curve)",
                "V. Petsiuk et al., RISE, BMVC 2018",
                0,
                "Faithfulness",
                "area on [0, 1] under p(target) against the share taken away, highest places of the map first; native "
                "map resized bilinearly (align_corners = false), ties drawn by seed; preset tokens: over patches in "
                "native order"};
    }

    std::vector<Parameter> parameters() const override {
        std::vector<std::string> fills = substitutes();
        fills.insert(fills.begin(), "preset");
        return {choice("preset", "rise",
                       "rise: as many pixels a step as the input is wide, deleted to the mean colour, inserted into a "
                       "blurred picture; torchcam: twenty steps, both to the mean colour; tis: 224 steps, both with a "
                       "blurred picture, the unchanged one not counted; tokens: as by=tokens",
                       "the papers' and the packages' code; tokens: ours", {"rise", "torchcam", "tis", "tokens"}),
                choice("by", "pixels",
                       "pixels are replaced; tokens are left out of the run, in the order of the map on the patch "
                       "grid, one a step",
                       "Petsiuk et al.; tokens: ours", {"pixels", "tokens"}),
                {"step",
                 std::int64_t{0},
                 "pixels or tokens a step; 0 takes the preset's number, or one token",
                 "",
                 "",
                 0.0,
                 1e9,
                 {}},
                choice("fill", "preset", "what pixels are replaced by", "", std::move(fills))};
    }

    std::optional<bool> higher_is_better() const override { return insertion_; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective(Scale::Probability));
        const bool tokens = settings.text("by") == "tokens" || settings.text("preset") == "tokens";
        const Curve curve = VITRINE_TRY(tokens ? by_tokens(context, subject, settings, objective)
                                               : by_pixels(context, subject, settings, objective));
        Score out;
        out.value = curve.area();
        out.steps = curve.share;
        out.curve = curve.score;
        out.notes.push_back(fmt::format("{}, {} points from {:.3g} to {:.3g} of the {}", objective.explained,
                                        curve.share.size(), curve.share.front(), curve.share.back(),
                                        tokens ? "patches" : "pixels"));
        return out;
    }

  private:
    Result<Curve> by_pixels(ExplainContext& context, const Subject& subject, const Settings& settings,
                            const Objective& objective) const {
        const at::Tensor map = VITRINE_TRY(pixel_map(context, subject.attribution));
        const std::string preset = settings.text("preset");
        const std::int64_t count = map.numel();
        std::int64_t step = settings.integer("step");
        if (step == 0)
            step = preset == "torchcam" ? (count + 19) / 20 : preset == "tis" ? (count + 223) / 224 : map.size(1);
        std::string fill = settings.text("fill");
        if (fill == "preset") fill = preset == "tis" ? "blur" : preset == "rise" && insertion_ ? "blur_rise" : "zero";
        const at::Tensor pixels = context.input.pixels.to(at::kCPU, at::kFloat);
        const at::Tensor other = substitute(context, fill, context.seed);
        return walk(context, objective, insertion_ ? other : pixels, insertion_ ? pixels : other,
                    ranks_of(ranked(map, context.seed)),
                    stops(preset == "tis" ? std::min(step, count) : 0, step, count));
    }

    Result<Curve> by_tokens(ExplainContext& context, const Subject& subject, const Settings& settings,
                            const Objective& objective) const {
        if (auto why = context.model.no_token_removal()) return fail(ErrorCode::Unsupported, "by=tokens: {}", *why);
        const at::Tensor map = VITRINE_TRY(patch_map(context, subject.attribution));
        const std::int64_t count = map.numel();
        const std::int64_t step = std::max<std::int64_t>(1, settings.integer("step"));
        // A model cannot run on no patch at all: insertion starts with one, deletion ends with one.
        const std::vector<std::int64_t> until =
            insertion_ ? stops(1, step, count) : stops(0, step, std::max<std::int64_t>(count - 1, 0));
        const at::Tensor rank = ranks_of(ranked(map, context.seed));
        std::vector<at::Tensor> kept;
        for (const std::int64_t places : until) kept.push_back(insertion_ ? rank < places : rank >= places);
        const at::Tensor numbers = VITRINE_TRY(context.scores_of_kept(objective, at::stack(kept)));
        Curve out;
        for (std::size_t i = 0; i < until.size(); ++i) {
            out.share.push_back(static_cast<double>(until[i]) / static_cast<double>(count));
            out.score.push_back(numbers[static_cast<std::int64_t>(i)].item<double>());
        }
        return out;
    }

    bool insertion_;
};

class Aopc final : public Basic {
  public:
    Description description() const override {
        return {"aopc",
                "AOPC, pixel flipping",
                "Mean loss of the answer while regions are replaced in the map's order (region=1: pixel flipping)",
                "W. Samek et al., IEEE TNNLS 2017; S. Bach et al., PLoS ONE 2015",
                0,
                "Faithfulness",
                "mean over k = 0..L of p(x) - p(x without the k highest regions); regions by the sum of the map "
                "resized bilinearly (align_corners = false), ties drawn by seed"};
    }

    std::vector<Parameter> parameters() const override {
        return {
            {"region",
             std::int64_t{9},
             "side of a region; those at the border may be smaller",
             "pixels",
             "Samek et al.",
             1.0,
             4096.0,
             {}},
            {"regions", std::int64_t{100}, "how many regions are replaced; 0 is all", "", "Samek et al.", 0.0, 1e9, {}},
            {"per_step",
             std::int64_t{1},
             "regions replaced between two looks at the answer",
             "",
             "Samek et al.",
             1.0,
             1e9,
             {}},
            choice("order", "most", "whether the most or the least relevant go first, or any", "Samek et al.",
                   {"most", "least", "random"}),
            choice("fill", "uniform", "what pixels are replaced by", "Samek et al.", substitutes())};
    }

    std::optional<bool> higher_is_better() const override { return true; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective(Scale::Probability));
        const at::Tensor map = VITRINE_TRY(pixel_map(context, subject.attribution));
        const std::int64_t side = settings.integer("region"), height = map.size(0), width = map.size(1);
        const std::int64_t rows = (height + side - 1) / side, cols = (width + side - 1) / side;
        const at::Tensor region = (at::arange(height).div(side, "floor") * cols).unsqueeze(1) +
                                  at::arange(width).div(side, "floor").unsqueeze(0);  // [height, width]
        // Relevance of a region is the sum over it, so that a region cut off at the border counts with what it has.
        const at::Tensor sums =
            at::zeros({rows * cols}, at::kDouble).index_add_(0, region.flatten(), map.flatten().to(at::kDouble));
        const std::string way = settings.text("order");
        std::vector<std::int64_t> order = ranked(way == "least" ? -sums : sums, context.seed);
        if (way == "random") order = ranked(at::zeros({rows * cols}), context.seed);
        const std::int64_t last = settings.integer("regions") == 0
                                      ? rows * cols
                                      : std::min<std::int64_t>(settings.integer("regions"), rows * cols);
        // Pixels in the order of their regions.
        const at::Tensor rank = ranks_of(order).index({region});  // [height, width]
        const std::vector<std::int64_t> until = stops(0, settings.integer("per_step"), last);
        const at::Tensor pixels = context.input.pixels.to(at::kCPU, at::kFloat);
        const at::Tensor other = substitute(context, settings.text("fill"), context.seed);
        const Curve curve = VITRINE_TRY(walk(context, objective, pixels, other, rank, until));
        Score out;
        for (std::size_t i = 0; i < until.size(); ++i) {
            out.steps.push_back(static_cast<double>(until[i]) / static_cast<double>(rows * cols));
            out.curve.push_back(curve.score[i]);
            out.value += (out.curve.front() - out.curve.back()) / static_cast<double>(until.size());
        }
        out.notes.push_back(
            fmt::format("{}, {} of {} regions of {} pixels a side", objective.explained, last, rows * cols, side));
        return out;
    }
};

}  // namespace

std::unique_ptr<Measure> make_insertion() { return std::make_unique<Revealing>(true); }
std::unique_ptr<Measure> make_deletion() { return std::make_unique<Revealing>(false); }
std::unique_ptr<Measure> make_aopc() { return std::make_unique<Aopc>(); }

}  // namespace vitrine::plugin::measures
