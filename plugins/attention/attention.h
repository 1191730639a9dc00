// What the methods of this folder share, and the dense reference of rollout that other rollouts are held to.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include <vitrine/explainer.h>

namespace vitrine::plugin::attention {

std::unique_ptr<Explainer> make_raw_attention();
std::unique_ptr<Explainer> make_rollout();
std::unique_ptr<Explainer> make_chefer();
std::unique_ptr<Explainer> make_legrad();

/// The scalar that gradient methods explain: a logit, or the difference of two.
struct TargetScore {
    std::int64_t index = 0;
    std::optional<std::int64_t> versus;
    std::string explained;                          ///< "logit of class 281"
    at::Tensor of(const at::Tensor& logits) const;  ///< logits [classes] -> a number, with its graph
};
/// The context's target, the predicted class without one.
/// @error BadInput     a class that is not there
/// @error Unsupported  the model has no classes
Result<TargetScore> score_of(const ExplainContext& context, const at::Tensor& output);

/// How heads become one map.
enum class Fusion : std::uint8_t { Mean, Max, Min };

struct RolloutSettings {
    Fusion fusion = Fusion::Mean;
    double discard_ratio =
        0;  ///< share of the smallest entries of each fused map that is set to zero, the class token's column kept
    bool residual = true;  ///< (A + I) / 2 where a block has a residual path; false: A alone
};

/// Attention rollout by the dense product of all maps: exact, and slow for many tokens.
///
/// Takes the readout back through the steps of the flow, last to first: r becomes r A', A' = rows of (A + I) made to
/// sum to 1, A the fused heads; r A at a step without a residual path, such as a pooling head.
///
/// @param flow   known, row-stochastic Mixings
/// @return       [input tokens], float32, non-negative, sums to 1 within 1e-5
/// @error Unsupported  the flow or its readout is unknown, a Mixing whose rows do not sum to 1, named
/// @error Cancelled    stop was requested
/// @cost         layers * heads * tokens^2 for the maps, tokens^2 memory a head
/// @source       S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928,
/// section 3;
///               fusion and discard ratio as in J. Gildenblat's vit-explain (vit_rollout.py)
Result<at::Tensor> roll_out_dense(const Flow& flow, const RolloutSettings& settings, std::stop_token stop = {},
                                  const std::function<void(const Progress&)>& progress = {});

/// The same by sweeps: a step costs one sum over the rows of each head, and no map is formed.
///
/// The mean over heads only, without discarding: other fusions and the discard threshold look at whole maps.
///
/// @param shown  set to the implementation that ran, "map_sweep avx512"; may be null
/// @return       as roll_out_dense; within 1e-5 of it
/// @error        as roll_out_dense; Unsupported for other settings, named
/// @cost         one sweep a step, tokens^2 width multiply-adds; memory of one row a head
Result<at::Tensor> roll_out(const Flow& flow, const RolloutSettings& settings, std::stop_token stop = {},
                            const std::function<void(const Progress&)>& progress = {}, std::string* shown = nullptr);
/// Whether roll_out() can do these settings.
bool can_sweep(const RolloutSettings& settings);

/// A distribution over the input tokens as a map over the patch grid: prefix columns are dropped without renormalising.
///
/// @error Unsupported  the token layout is unknown (with the reason)
Result<Attribution> to_attribution(const at::Tensor& tokens, const TokenLayout& layout);

/// Why a model has no attention to read; empty when it has.
std::optional<std::string> needs_attention(const Model& model);

/// The badge of a Mixing's self-check.
Check as_check(const Mixing& mixing, const MixingCheck& found);

}  // namespace vitrine::plugin::attention
