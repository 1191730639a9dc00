// Cross-validated partial least squares from concepts to a score, beside permutations of the scores.
#include <vitrine/output_risk.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <span>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmin.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vitrine/base/random.h>
#include <vitrine/partial_least_squares.h>
#include <vitrine/torch_errors.h>

#include "dataset.h"
#include "statistics.h"

namespace vitrine {

namespace {

constexpr std::uint64_t kOuter = 0x6F757472, kInner = 0x696E6E72, kAll = 0x616C6C, kPermute = 0x7065726D,
                        kJudges = 0x6A756467;
constexpr std::int64_t kColumnsAtOnce = 2048;

using Inputs = std::vector<std::int64_t>;

at::Tensor index_of(const Inputs& inputs, at::Device device) { return at::tensor(inputs, at::kLong).to(device); }

/// Which fold each of these inputs is in: groups in an order drawn anew are dealt out in turn.
std::vector<Inputs> folds_of(const Inputs& inputs, const std::vector<std::int64_t>& groups, std::int64_t folds,
                             StepRandom random) {
    std::map<std::int64_t, Inputs> members;
    for (const std::int64_t i : inputs) members[groups[static_cast<std::size_t>(i)]].push_back(i);
    std::vector<const Inputs*> each;
    for (const auto& [group, list] : members) each.push_back(&list);
    const auto order = random.permutation(std::ssize(each));
    std::vector<Inputs> out(static_cast<std::size_t>(std::min(folds, static_cast<std::int64_t>(each.size()))));
    for (std::size_t k = 0; k < order.size(); ++k) {
        Inputs& fold = out[k % out.size()];
        const Inputs& list = *each[static_cast<std::size_t>(order[k])];
        fold.insert(fold.end(), list.begin(), list.end());
    }
    for (Inputs& fold : out) std::sort(fold.begin(), fold.end());
    return out;
}

Inputs without(const Inputs& all, const Inputs& held) {
    Inputs out;
    std::set_difference(all.begin(), all.end(), held.begin(), held.end(), std::back_inserter(out));
    return out;
}

/// Orders of the inputs in which groups of one size have changed places.
std::vector<Inputs> permutations_of(const std::vector<std::int64_t>& groups, std::int64_t count, std::uint64_t seed) {
    std::map<std::int64_t, Inputs> members;
    for (std::size_t i = 0; i < groups.size(); ++i) members[groups[i]].push_back(static_cast<std::int64_t>(i));
    std::map<std::size_t, std::vector<const Inputs*>> by_size;
    for (const auto& [group, list] : members) by_size[list.size()].push_back(&list);
    std::vector<Inputs> out;
    for (std::int64_t c = 0; c < count; ++c) {
        StepRandom random(seed, static_cast<std::uint64_t>(c), kPermute);
        Inputs from(groups.size());
        for (const auto& [size, lists] : by_size) {
            const auto order = random.permutation(std::ssize(lists));
            for (std::size_t k = 0; k < lists.size(); ++k) {
                const Inputs& other = *lists[static_cast<std::size_t>(order[k])];
                for (std::size_t j = 0; j < size; ++j) from[static_cast<std::size_t>((*lists[k])[j])] = other[j];
            }
        }
        out.push_back(std::move(from));
    }
    return out;
}

/// Mean and deviation of the columns of some rows; a column without deviation counts nothing.
struct Standard {
    at::Tensor mean, factor;  // float64 [columns]
    Standard(const at::Tensor& rows) {
        mean = rows.mean(0, false, at::kDouble);
        const at::Tensor variance = (rows.square().mean(0, false, at::kDouble) - mean.square()).clamp_min(0);
        // What float32 leaves of a constant column's variance is rounding.
        const at::Tensor alive = variance > 1e-12 * mean.square();
        factor = at::where(alive, variance.sqrt().reciprocal(), at::zeros_like(variance));
    }
    at::Tensor of(const at::Tensor& rows, std::int64_t from, std::int64_t count) const {
        return (rows.narrow(1, from, count).to(at::kDouble) - mean.narrow(0, from, count)) *
               factor.narrow(0, from, count);
    }
};

class Validation {
  public:
    Validation(at::Tensor codes, at::Tensor targets, std::int64_t components)
        : codes_(std::move(codes)), targets_(std::move(targets)), components_(components) {}

    /// What a fit on some inputs says of others, for every target and number of components. [components, held, targets]
    at::Tensor predicted(const Inputs& train, const Inputs& held) const {
        const at::Device device = codes_.device();
        const at::Tensor rows = codes_.index_select(0, index_of(train, device)),
                         others = codes_.index_select(0, index_of(held, device));
        const Standard standard(rows);
        const auto options = codes_.options().dtype(at::kDouble);
        at::Tensor gram = at::zeros({rows.size(0), rows.size(0)}, options),
                   cross = at::zeros({others.size(0), rows.size(0)}, options);
        for (std::int64_t from = 0; from < codes_.size(1); from += kColumnsAtOnce) {
            const std::int64_t count = std::min(kColumnsAtOnce, codes_.size(1) - from);
            const at::Tensor some = standard.of(rows, from, count);
            gram.addmm_(some, some.t());
            cross.addmm_(standard.of(others, from, count), some.t());
        }
        const at::Tensor wanted = targets_.index_select(0, index_of(train, device)), mean = wanted.mean(0, true);
        return partial_least_squares_predictions(gram, cross, wanted - mean, components_) + mean;
    }
    /// Squared errors in all for every number of components and target. [components, targets]
    at::Tensor errors(const Inputs& inputs, const std::vector<Inputs>& folds) const {
        at::Tensor out = at::zeros({components_, targets_.size(1)}, targets_.options());
        for (const Inputs& held : folds) {
            const at::Tensor truth = targets_.index_select(0, index_of(held, targets_.device()));
            out += (predicted(without(inputs, held), held) - truth).square().sum(1);
        }
        return out;
    }

  private:
    const at::Tensor codes_, targets_;
    std::int64_t components_;
};

std::vector<double> values_of(const at::Tensor& x) {
    const at::Tensor host = x.to(at::kCPU, at::kDouble).contiguous();
    return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

/// @param all    the inputs that count, some perhaps more than once
/// @param folds  the same, fold by fold
RiskFigures figures_of(const std::vector<double>& predicted, const std::vector<double>& truth, double bound,
                       const Inputs& all, const std::vector<Inputs>& folds) {
    RiskFigures out;
    double mean = 0, errors = 0, spread = 0;
    for (const std::int64_t i : all) mean += truth[static_cast<std::size_t>(i)];
    mean /= static_cast<double>(all.size());
    for (const std::int64_t input : all) {
        const auto i = static_cast<std::size_t>(input);
        errors += (truth[i] - predicted[i]) * (truth[i] - predicted[i]);
        spread += (truth[i] - mean) * (truth[i] - mean);
    }
    out.r2 = 1 - errors / spread;
    // Over all folds at once, a fold whose scores lie high was predicted low by the others' mean: ranks would show less
    // than there is, and below chance where there is nothing.
    double spearman = 0, inputs = 0, auroc = 0, pairs = 0;
    for (const Inputs& fold : folds) {
        std::vector<double> said, is;
        std::vector<bool> above;
        for (const std::int64_t i : fold) {
            said.push_back(predicted[static_cast<std::size_t>(i)]);
            is.push_back(truth[static_cast<std::size_t>(i)]);
            above.push_back(is.back() > bound);
        }
        const auto count = static_cast<double>(std::count(above.begin(), above.end(), true)),
                   size = static_cast<double>(above.size());
        if (const auto one = auroc_of(said, above)) {
            auroc += *one * count * (size - count);
            pairs += count * (size - count);
        }
        if (const auto one = spearman_of(said, is)) {
            spearman += *one * size;
            inputs += size;
        }
    }
    if (inputs > 0) out.spearman = spearman / inputs;
    if (pairs > 0) out.auroc = auroc / pairs;
    return out;
}

/// Sets out.low and out.high.
Status resample(OutputRisk& out, const std::vector<double>& predicted, const std::vector<double>& truth, double bound,
                const std::vector<std::int64_t>& groups, const std::vector<Inputs>& folds, const RiskOptions& options) {
    const double nothing = std::numeric_limits<double>::quiet_NaN();
    out.low.r2 = out.high.r2 = nothing;
    if (options.resamples < 1) return {};
    std::map<std::int64_t, std::int64_t> place;
    for (const std::int64_t group : groups) place.try_emplace(group, std::ssize(place));
    const PictureResampling resampling(std::ssize(place), options.resamples, random_bits(options.seed, kJudges, 0));
    std::vector<double> r2, spearman, auroc;
    for (std::int64_t r = 0; r < options.resamples; ++r) {
        if (options.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const std::span<const double> times = resampling.times(r);
        Inputs all;
        std::vector<Inputs> some(folds.size());
        for (std::size_t f = 0; f < folds.size(); ++f) {
            for (const std::int64_t i : folds[f])
                some[f].insert(some[f].end(),
                               static_cast<std::size_t>(
                                   times[static_cast<std::size_t>(place.at(groups[static_cast<std::size_t>(i)]))]),
                               i);
            all.insert(all.end(), some[f].begin(), some[f].end());
        }
        const RiskFigures one = figures_of(predicted, truth, bound, all, some);
        if (std::isfinite(one.r2)) r2.push_back(one.r2);  // else its scores are all alike
        if (one.spearman) spearman.push_back(*one.spearman);
        if (one.auroc) auroc.push_back(*one.auroc);
    }
    if (!r2.empty()) out.low.r2 = quantile_of(r2, 0.025), out.high.r2 = quantile_of(r2, 0.975);
    if (!spearman.empty())
        out.low.spearman = quantile_of(spearman, 0.025), out.high.spearman = quantile_of(spearman, 0.975);
    if (!auroc.empty()) out.low.auroc = quantile_of(auroc, 0.025), out.high.auroc = quantile_of(auroc, 0.975);
    return {};
}

Result<OutputRisk> predicted_risk(const at::Tensor& codes, const at::Tensor& scores,
                                  const std::vector<std::int64_t>& groups, const RiskOptions& options) {
    const at::NoGradGuard no_grad;
    const std::int64_t inputs = codes.size(0), latents = codes.size(1);
    const std::vector<double> truth = values_of(scores);
    if (std::ssize(truth) != inputs || std::ssize(groups) != inputs)
        return fail(ErrorCode::BadInput, "{} inputs have {} scores and {} groups", inputs, truth.size(), groups.size());
    if (inputs > kMostRiskInputs)
        return fail(ErrorCode::BadInput, "{} inputs are more than {}, whose products fit into memory", inputs,
                    kMostRiskInputs);
    const std::set<std::int64_t> distinct(groups.begin(), groups.end());
    const auto group_count = static_cast<std::int64_t>(distinct.size());
    if (options.folds < 2 || options.inner_folds < 2 || group_count < 2 * options.folds)
        return fail(ErrorCode::BadInput, "{} pictures are too few for {} folds; {} or more are needed", group_count,
                    options.folds, 2 * std::max<std::int64_t>(2, options.folds));
    for (const double score : truth)
        if (!std::isfinite(score)) return fail(ErrorCode::BadInput, "a score is {}, expected a number", score);
    if (*std::max_element(truth.begin(), truth.end()) == *std::min_element(truth.begin(), truth.end()))
        return fail(ErrorCode::BadInput, "all {} scores are {}: there is nothing to predict", truth.size(), truth[0]);

    const at::Device device = codes.device();
    const at::Tensor share = codes.ne(0).sum(0).to(at::kDouble) / static_cast<double>(inputs);
    const at::Tensor kept = share.ge(options.rarest).nonzero().squeeze(1);
    if (kept.size(0) == 0)
        return fail(ErrorCode::BadInput, "no concept is active in {:g} % of the inputs or more", 100 * options.rarest);
    const at::Tensor used = codes.index_select(1, kept);

    OutputRisk out;
    out.inputs = inputs;
    out.groups = group_count;
    out.used = kept.size(0);

    // Column 0 is what was found, the others are permutations of it.
    Inputs order(static_cast<std::size_t>(inputs));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    const Inputs all = order;
    for (const Inputs& from : permutations_of(groups, options.permutations, options.seed))
        order.insert(order.end(), from.begin(), from.end());
    const std::int64_t targets_count = options.permutations + 1;
    const at::Tensor column = at::tensor(truth, at::kDouble);
    const at::Tensor targets =
        column.index_select(0, at::tensor(order, at::kLong)).view({targets_count, inputs}).t().contiguous().to(device);
    const Validation validation(used, targets, options.components);

    std::int64_t done = 0;
    const std::int64_t steps = options.folds * 2 + 1;
    const auto step = [&]() -> Status {
        if (options.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        if (options.progress) options.progress({done, steps, "fits"});
        ++done;
        return {};
    };
    const auto fit_on = [&](const Inputs& train, std::int64_t components) -> Result<std::pair<at::Tensor, at::Tensor>> {
        const at::Tensor rows = used.index_select(0, index_of(train, device));
        const Standard standard(rows);
        const at::Tensor wanted = targets.select(1, 0).index_select(0, index_of(train, device));
        const auto fit =
            VITRINE_TRY(partial_least_squares(standard.of(rows, 0, used.size(1)), wanted - wanted.mean(), components));
        const auto spread = [&](const at::Tensor& values) {
            at::Tensor whole = at::zeros({latents}, at::kDouble);
            whole.index_copy_(0, kept.to(at::kCPU), values.to(at::kCPU));
            return whole;
        };
        return std::pair{spread(fit.beta()), spread(fit.vip())};
    };
    const auto best_of = [](const at::Tensor& errors) { return at::argmin(errors, 0); };  // of equal ones the fewest

    at::Tensor predicted = at::zeros({inputs, targets_count}, targets.options());
    const auto folds = folds_of(all, groups, options.folds, StepRandom(options.seed, 0, kOuter));
    for (std::size_t f = 0; f < folds.size(); ++f) {
        VITRINE_CHECK(step());
        const Inputs train = without(all, folds[f]);
        const auto inner = folds_of(train, groups, options.inner_folds, StepRandom(options.seed, f, kInner));
        const at::Tensor best = best_of(validation.errors(train, inner));  // [targets]
        VITRINE_CHECK(step());
        const at::Tensor said = validation.predicted(train, folds[f]);
        const at::Tensor chosen =
            said.gather(0, best.view({1, 1, -1}).expand({1, said.size(1), said.size(2)})).squeeze(0);
        predicted.index_copy_(0, index_of(folds[f], device), chosen);
        RiskFold fold;
        fold.held = folds[f];
        fold.components = best[0].item<std::int64_t>() + 1;
        fold.beta = VITRINE_TRY(fit_on(train, fold.components)).first;
        out.folds.push_back(std::move(fold));
    }
    VITRINE_CHECK(step());
    const auto whole = folds_of(all, groups, options.inner_folds, StepRandom(options.seed, 0, kAll));
    const Validation alone(used, targets.narrow(1, 0, 1), options.components);
    out.components = best_of(alone.errors(all, whole))[0].item<std::int64_t>() + 1;
    std::tie(out.beta, out.vip) = VITRINE_TRY(fit_on(all, out.components));

    const double bound = quantile_of(truth, 0.75);
    const at::Tensor host = predicted.t().to(at::kCPU).contiguous(), wanted = targets.t().to(at::kCPU).contiguous();
    out.predicted = host[0];
    out.found = figures_of(values_of(host[0]), truth, bound, all, folds);
    VITRINE_CHECK(resample(out, values_of(host[0]), truth, bound, groups, folds, options));
    double better_r2 = 1, better_spearman = 1, better_auroc = 1, auroc = 0, spearman = 0;
    const double nothing = -1e300;
    for (std::int64_t c = 1; c < targets_count; ++c) {
        const RiskFigures one = figures_of(values_of(host[c]), values_of(wanted[c]), bound, all, folds);
        better_r2 += one.r2 >= out.found.r2;
        better_spearman += one.spearman.value_or(nothing) >= out.found.spearman.value_or(nothing);
        better_auroc += one.auroc.value_or(nothing) >= out.found.auroc.value_or(nothing);
        out.null.r2 += one.r2 / static_cast<double>(options.permutations);
        spearman += one.spearman.value_or(0) / static_cast<double>(options.permutations);
        auroc += one.auroc.value_or(0.5) / static_cast<double>(options.permutations);
    }
    if (options.permutations > 0) out.null.spearman = spearman, out.null.auroc = auroc;
    out.p_r2 = better_r2 / static_cast<double>(targets_count);
    out.p_spearman = better_spearman / static_cast<double>(targets_count);
    out.p_auroc = better_auroc / static_cast<double>(targets_count);
    if (options.progress) options.progress({steps, steps, "fits"});
    return out;
}

}  // namespace

Result<OutputRisk> output_risk(const at::Tensor& codes, const at::Tensor& scores,
                               const std::vector<std::int64_t>& groups, const RiskOptions& options) {
    return guarded([&] { return predicted_risk(codes, scores, groups, options); });
}

}  // namespace vitrine
