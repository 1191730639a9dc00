// What the methods of this folder share.
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
/// @param most_kept  entries of a layer's fused map up to which it is made once and kept, instead of again for each
/// look
std::unique_ptr<Explainer> make_gradient_rollout(std::int64_t most_kept = std::int64_t{1} << 24);
std::unique_ptr<Explainer> make_grad_sam();
std::unique_ptr<Explainer> make_cdam();
std::unique_ptr<Explainer> make_attention_distance();
std::unique_ptr<Explainer> make_attention_entropy();

/// Why these methods cannot explain a region.
inline constexpr const char* kFromTheAnswer = "it starts from the model's answer";

/// The context's target as a number of the answer; the predicted class without one.
/// @param answer  may be undefined when the target names a class
/// @error Unsupported  a region: these methods start from the answer
Result<Objective> answer_objective(const ExplainContext& context, const at::Tensor& answer);
/// What an objective adds up, float32 [classes] on this device: what is recorded for any class reads it there.
at::Tensor class_weights(const Objective& objective, std::int64_t classes, at::Device device);
/// What Objective::of gives, summed over the rows of logits [rows, classes], from those weights.
at::Tensor weighted_score(const at::Tensor& logits, const at::Tensor& weights, bool probability);
/// Whether what is asked again is worth a recording: of many tokens launches cost nothing beside the work, and a
/// recording holds the memory of a graph of all layers.
bool worth_recording(const CaptureCost& cost);

using kernels::HeadFusion;

struct RolloutSettings {
    HeadFusion fusion = HeadFusion::Mean;
    /// Share of the smallest entries of each fused map that is set to zero: as many as the ratio of all entries rounded
    /// down, those of smallest_entries().
    double discard_ratio = 0;
    bool residual = true;  ///< (A + I) / 2 where a block has a residual path; false: A alone
    /// As vit-explain's code does, not as its comments say: the entry at row 0 and column 0 is never dropped
    /// (otherwise: none of the class token's column), and the entry at row i and column j is divided by the sum of row
    /// j (otherwise: of row i), so that the result is no distribution where rows do not all have the same sum.
    bool as_vit_explain = false;
};

/// Attention rollout by sweeps: no map is formed.
///
/// Takes the start back through the steps of the flow, last to first: r becomes r A', A' the rows of (F + I) made to
/// sum to 1, F the fused heads; r F' at a step without a residual path, such as a pooling head (nothing is dropped
/// there).
///
/// @param flow   known, row-stochastic Mixings
/// @param start  over the queries of the last step, or, with fewer `steps`, of that one; undefined: the flow's readout
/// @param steps  how many steps of the flow are walked, from the first; 0 is all
/// @param shown  set to the implementation that ran, "map_sweep avx512"; may be null
/// @return       [input tokens], float32, non-negative; sums to what the start sums to within 1e-5, unless
///               `as_vit_explain` or a row of a step without a residual path has nothing left
/// @error Unsupported  the flow or its readout is unknown, a Mixing whose rows do not sum to 1, named
/// @error Cancelled    stop was requested
/// @cost         a step: one sweep for the mean of heads; two for their maximum or minimum; four when entries are
///               dropped. Memory of one row a head, and the queries once more.
/// @source       S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928,
///               section 3; fusion and discard ratio: J. Gildenblat, vit-explain, vit_rollout.py (1d68f22)
Result<at::Tensor> roll_out(const Flow& flow, const RolloutSettings& settings, const at::Tensor& start = {},
                            std::size_t steps = 0, std::stop_token stop = {},
                            const std::function<void(const Progress&)>& progress = {}, std::string* shown = nullptr);

/// Where a walk back begins, in the command line's words: "readout", "cls", "ROW,COL" of the patch grid, or a token's
/// index.
struct Start {
    at::Tensor weights;     ///< over the queries of step `steps` - 1; [tokens], sums to 1
    std::size_t steps = 0;  ///< how many steps of the flow it lies behind: a token is one of the last block's
    std::string name;       ///< "the readout", "the class token", "patch 3, 7"
};
/// @error BadInput     no such word or token
/// @error Unsupported  no class token, no known grid, an unknown readout
Result<Start> start_of(const Flow& flow, const std::string& words);

/// A distribution over the input tokens as a map over the patch grid: prefix columns are dropped without renormalising.
///
/// @error Unsupported  the token layout is unknown (with the reason)
Result<Attribution> to_attribution(const at::Tensor& tokens, const TokenLayout& layout);

/// Why a model has no attention to read; empty when it has.
std::optional<std::string> needs_attention(const Model& model);
/// The same of a method that explains a class.
std::optional<std::string> needs_attention_and_classes(const Model& model);

/// The badge of a Mixing's self-check.
Check as_check(const Mixing& mixing, const MixingCheck& found);

}  // namespace vitrine::plugin::attention
