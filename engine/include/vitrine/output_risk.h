// How well the concepts of an input foretell how risky the answer is: partial least squares, cross-validated.
//
// Source: P. Suresh et al., "From Noise to Narrative", 2025, which foretells a hallucination score of a language
// model's summaries from its concepts; any score of an answer in that place is ours.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/explainer.h>

namespace vitrine {

/// Products of all pairs of inputs are held, three times: 2 GB here.
constexpr std::int64_t kMostRiskInputs = 12000;

struct RiskOptions {
    std::int64_t folds = 5, inner_folds = 5;
    std::int64_t components = 10;  ///< the most that the inner folds may choose
    std::int64_t permutations = 200;
    std::int64_t resamples = 2000;  ///< of the groups, for the intervals; 0: none
    double rarest = 0.01;  ///< concepts active in a smaller share of the inputs are dropped
    std::uint64_t seed = 0;
    std::stop_token stop = {};
    std::function<void(const Progress&)> progress = {};
};

/// How far predictions made for inputs that were not trained on are right.
struct RiskFigures {
    double r2 = 0;                          ///< 1 - sum of squared errors / that of the mean score, over all inputs
    std::optional<double> spearman, auroc;  ///< within folds, averaged: of the inputs above the 75 % quantile
};

struct RiskFold {
    std::vector<std::int64_t> held;  ///< inputs
    std::int64_t components = 0;
    at::Tensor beta;  ///< float64 [latents], of the inputs not held, in deviations of each latent; 0 where dropped
};

struct OutputRisk {
    std::int64_t inputs = 0, groups = 0, used = 0;  ///< `used`: latents that were not dropped
    RiskFigures found;
    /// The middle 95 % of `found` over resampled groups, each with all its inputs. The predictions stay: it is how far
    /// the figures hang on which held-out pictures they were judged by, not on those that were fitted.
    RiskFigures low, high;
    double p_r2 = 1, p_spearman = 1, p_auroc = 1;  ///< share of permutations at least as good, the real one counted
    RiskFigures null;                              ///< means over the permutations
    std::vector<RiskFold> folds;
    at::Tensor predicted;         ///< float64 [inputs], on the CPU
    std::int64_t components = 0;  ///< of the fit on all inputs, chosen by cross-validation
    at::Tensor beta, vip;         ///< float64 [latents], of that fit, on the CPU; 0 where dropped
};

/// Inputs of a group (variants of one picture) are never on both sides of a fold, and permutations keep them together.
/// Columns are centred and divided by their deviation inside each training fold.
///
/// @param codes   float32 [inputs, latents], on any device: the work is done there, in float64
/// @param scores  [inputs]
/// @param groups  of each input, any numbers
/// @error BadInput  fewer groups than folds, more inputs than kMostRiskInputs, scores that are all alike or not finite,
/// no latent that is active
/// @error Cancelled  stop was requested
Result<OutputRisk> output_risk(const at::Tensor& codes, const at::Tensor& scores,
                               const std::vector<std::int64_t>& groups, const RiskOptions& options);

}  // namespace vitrine
