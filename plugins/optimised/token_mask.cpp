// Token mask: for each patch the probability that it is kept, learnt on the one picture while patches are really left
// out.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <vitrine/base/random.h>

#include "optimised.h"

namespace vitrine::plugin::optimised {

at::Tensor leave_one_out(const at::Tensor& kept, const at::Tensor& rewards, const at::Tensor& p) {
    return at::matmul(rewards - rewards.mean(), kept - p) / static_cast<double>(rewards.size(0) - 1);
}

namespace {

constexpr std::uint64_t kDraw = 0x70CE, kChance = 0x70CF;
constexpr std::int64_t kRandomSets = 8;

class TokenMask final : public Explainer {
  public:
    Description description() const override {
        return {
            "token_mask",
            "Token mask",
            "The fewest patches with which the answer stays, the others left out of the model, not painted over",
            "the score-function estimate of W. Kool, H. van Hoof, M. Welling, Buy 4 REINFORCE Samples, Get a Baseline "
            "for Free!, ICLR 2019 workshop; the objective is ours",
            0,
            "Learned masks",
            "argmax over p of E[f(kept) / |f(all)|] - lambda mean p, kept drawn by p; leave-one-out REINFORCE: "
            "sum of (r - mean r)(kept - p) / (S - 1)",
            "Finds one set that is enough where there may be many, and a model may be sure of a few pixels that mean "
            "nothing to a person (Carter et al., NeurIPS 2021)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"steps", std::int64_t{200}, "steps of Adam", "", "", 1, 100000, {}},
                {"samples", std::int64_t{16}, "sets of patches drawn a step", "", "", 2, 4096, {}},
                {"rate", 0.15, "learning rate of the logits", "", "", 1e-6, 10.0, {}},
                {"lambda",
                 0.5,
                 "price of keeping all patches, as a share of the whole picture's number",
                 "",
                 "",
                 0.0,
                 100.0,
                 {}},
                {"start", 0.5, "probability that a patch is kept at first", "", "", 0.01, 0.99, {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override { return model.no_token_removal(); }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override {
        return "where patches are left out, a region has no place to be read from";
    }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        return Passes{1 + settings.integer("steps") * settings.integer("samples") + 1 + kRandomSets, 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const TokenLayout layout = context.model.layout(context.input.pixels.size(2), context.input.pixels.size(3));
        if (!layout.known()) return fail(ErrorCode::Unsupported, "patches cannot be left out: {}", layout.unknown);
        const Objective objective = VITRINE_TRY(context.objective(Scale::Probability));
        const std::int64_t patches = layout.rows * layout.cols, samples = settings.integer("samples");
        const auto all = at::ones({1, patches}, at::kBool);
        const double whole = VITRINE_TRY(context.scores_of_kept(objective, all)).item<double>();
        const double scale = std::max(std::abs(whole), 1e-12), lambda = settings.number("lambda");
        const double start = settings.number("start");
        at::Tensor logits = at::full({patches}, std::log(start / (1 - start)), at::kDouble);
        const auto mapped = [&] {
            Attribution out;
            out.method = description().name;
            out.map = at::sigmoid(logits).reshape({layout.rows, layout.cols}).to(at::kFloat).contiguous();
            out.class_specific = true;
            out.explained = objective.explained;
            return out;
        };
        Adam adam(settings.number("rate"));
        const std::int64_t steps = settings.integer("steps");
        VITRINE_CHECK(optimise(
            context, steps,
            [&](std::int64_t step) -> Status {
                const at::Tensor p = at::sigmoid(logits);
                const auto* chance = p.const_data_ptr<double>();
                at::Tensor drawn = at::zeros({samples, patches}, at::kBool);
                auto* bit = drawn.mutable_data_ptr<bool>();
                auto index = static_cast<std::uint64_t>(step * samples * patches);
                for (std::int64_t s = 0; s < samples; ++s)
                    for (std::int64_t i = 0; i < patches; ++i)
                        *bit++ = uniform(context.seed, kDraw, index++) < chance[i];
                // A model needs a patch to read: where none was drawn, it sees the likeliest one.
                at::Tensor seen = drawn;
                const at::Tensor none = drawn.any(1).logical_not();
                if (none.any().item<bool>()) {
                    seen = drawn.clone();
                    seen.select(1, p.argmax().item<std::int64_t>()).logical_or_(none);
                }
                const at::Tensor rewards = VITRINE_TRY(context.scores_of_kept(objective, seen)).to(at::kDouble) / scale;
                // The price is known without drawing, and so is its gradient.
                const at::Tensor price = lambda * p * (1 - p) / static_cast<double>(patches);
                adam.descend(logits, price - leave_one_out(drawn.to(at::kDouble), rewards, p));
                // No patch becomes so sure that it is never tried again.
                constexpr double kMost = 5;
                logits.clamp_(-kMost, kMost);
                return {};
            },
            mapped));
        Attribution out = mapped();
        out.implementation = fmt::format("{} steps of {} sets, patches left out", steps, samples);
        // The set that is more likely kept than not, and as many patches at random.
        at::Tensor sets = at::zeros({1 + kRandomSets, patches}, at::kBool);
        sets[0].copy_(logits > 0);
        if (!sets[0].any().item<bool>()) sets[0][logits.argmax().item<std::int64_t>()].fill_(true);
        const auto kept = sets[0].sum().item<std::int64_t>();
        for (std::int64_t s = 1; s <= kRandomSets; ++s) {
            std::vector<std::int64_t> order(static_cast<std::size_t>(patches));
            std::iota(order.begin(), order.end(), 0);
            for (std::int64_t i = 0; i < kept; ++i) {
                const auto rest = static_cast<std::uint64_t>(patches - i);
                const auto index = static_cast<std::uint64_t>(s * patches + i);
                const auto other = i + static_cast<std::int64_t>(random_bits(context.seed, kChance, index) % rest);
                std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(other)]);
                sets[s][order[static_cast<std::size_t>(i)]].fill_(true);
            }
        }
        const at::Tensor numbers = VITRINE_TRY(context.scores_of_kept(objective, sets)).to(at::kDouble);
        const double with = numbers[0].item<double>(), chance = numbers.narrow(0, 1, kRandomSets).mean().item<double>();
        out.checks.push_back(
            {"with the kept patches alone", with >= chance,
             fmt::format("{} {:.2f} of {:.2f} with {} of {} patches ({:.0f} %), {:.2f} with as many at random",
                         word_of(objective), with, whole, kept, patches,
                         100.0 * static_cast<double>(kept) / static_cast<double>(patches), chance)});
        const auto open = ((logits > -1.4) & (logits < 1.4)).sum().item<std::int64_t>();
        if (open > 0) out.notes.push_back(fmt::format("{} patches are undecided (kept with 20 to 80 %)", open));
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_token_mask() { return std::make_unique<TokenMask>(); }

}  // namespace vitrine::plugin::optimised
