// What the methods of this folder share: activations by layer, runs that begin at a block, and the end of a model.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/explainer.h>
#include <vitrine/torch_errors.h>

namespace vitrine::plugin::views {

std::unique_ptr<Explainer> make_logit_lens();
std::unique_ptr<Explainer> make_direct_logit_attribution();
std::unique_ptr<Explainer> make_head_ablation();
std::unique_ptr<Explainer> make_activation_patching();
std::unique_ptr<Explainer> make_token_norms();
std::unique_ptr<Explainer> make_token_pca();

/// "blocks.3", "blocks.3.attn": the points of a layer.
std::string point_name(std::int64_t layer, const char* part = "");

/// A layer counted from 0, or from the end where it is negative.
/// @error BadInput  there is no such layer
Result<std::int64_t> layer_of(const Model& model, std::int64_t asked);
Parameter layer_parameter(std::int64_t standard, std::string meaning, std::string source);

/// One run without gradients that keeps these points; attention too where `mixings`.
/// @error Unsupported  the model did not pass one of them, named
Result<std::shared_ptr<const Capture>> look(ExplainContext& context, const at::Tensor& pixels,
                                            std::vector<std::string> points, bool mixings = false);

/// Why these methods cannot explain a region.
inline constexpr const char* kFromTheAnswer = "it starts from the model's answer";

/// The context's target as a number of an answer.
/// @error Unsupported  a region: these methods start from the answer
Result<Objective> answer_objective(const ExplainContext& context, const at::Tensor& answer);

/// Why blocks cannot be run one by one; empty when they can.
std::optional<std::string> needs_blocks(const Model& model);

/// A native model's blocks, and what goes into each on one picture.
class Blocks {
  public:
    /// @param seen  a run that kept every block's output
    static Result<Blocks> make(ExplainContext& context, const Capture& seen);

    std::int64_t count() const { return chain_.blocks; }
    /// What goes into a block. [1, tokens, width]
    const at::Tensor& input(std::int64_t block) const { return inputs_[static_cast<std::size_t>(block)]; }
    /// The answers of `count` copies of the picture that run from a block on, with one point's activation replaced.
    ///
    /// @param replace  [count, tokens, width] -> the same
    /// @return         [count, classes]
    /// @cost           `count` runs of the blocks from `block` on
    Result<at::Tensor> answers(ExplainContext& context, std::int64_t block, std::int64_t count,
                               const std::string& point,
                               const std::function<at::Tensor(const at::Tensor&)>& replace) const;
    /// What the end of the model says of a stream of tokens. [batch, tokens, width] -> [batch, classes]
    Result<at::Tensor> end(const at::Tensor& x) const;

  private:
    Chain chain_;
    std::vector<at::Tensor> inputs_;
};

/// Forward passes that runs of `blocks` blocks amount to, rounded up.
std::int64_t passes_of(std::int64_t blocks, std::int64_t depth);

/// A map over the patch grid from one number a token; prefix tokens are dropped.
/// @error Unsupported  the token layout is unknown, or of another number
Result<at::Tensor> patches_of(const at::Tensor& tokens, const TokenLayout& layout);

}  // namespace vitrine::plugin::views
