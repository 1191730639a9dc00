// What sparse autoencoders are trained on: the losses of four libraries, dead latents' losses, JumpReLU's gradients.
//
//     Codes codes = training_codes(concepts, tokens, objective);
//     ConceptLoss loss = concept_loss(concepts, tokens, codes, objective, dead, prefix_lengths(latents, 10, seed));
//     loss.total.backward();
//
// Everything is in the tokens' own space (after the normalisation is undone) and differentiable by the autoencoder's
// tensors.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/autoencoder.h>
#include <vitrine/peers.h>

#include "sparse_codes.h"

namespace vitrine {

struct ConceptObjective {
    /// Whose losses: "prisma", "saelens", "openai", "saev".
    std::string convention = "openai";
    /// Weight of the sparsity term: of sum |f| in the convention's form (gated: of what the gate lets through), or of
    /// JumpReLU's. The top-k kinds have none.
    double sparsity = 0;
    /// Of jump_relu, in place of sum |f|: "step" counts active latents, "tanh" is tanh(4 f |W_dec row|); else "l1".
    std::string form = "l1";
    double band = 0.05;  ///< of JumpReLU's gradients, in the codes' unit
    /// Pulls dead JumpReLU thresholds towards their numbers (SAELens: 3e-6); 0: not.
    double pull = 0;
    /// Dead latents: "none", "aux" (openai's, in its form for every convention), "auxk_saelens" and "auxk_saev" (as
    /// these two have it), "ghost" (Prisma's).
    std::string revive = "aux";
    double revive_weight = 1.0 / 32;  ///< of "aux" and "auxk_saev"; SAELens' is 1
    /// Dead latents that try to explain the error, at most: of "aux" and "auxk_saev" (whose own are 512); SAELens' are
    /// half the width.
    std::int64_t revive_k = 256;
    /// openai's denominator of the main term, mean (x - mean x)^2 of a first sample; 0: mean x^2 of each token.
    double variance = 0;
};

/// Scalars, weighted: total is the sum of the others; those without a meaning here are 0.
struct ConceptLoss {
    at::Tensor total, reconstruction, sparsity, revival;
    at::Tensor gate;           ///< gated: the error of what the gate alone decodes to
    at::Tensor reconstructed;  ///< [n, width], all latents
};

/// Codes of a training step. Where few are active they are lists: then `before` has no graph and `active` is undefined.
struct TrainingCodes : Codes {
    TrainingCodes() = default;
    TrainingCodes(Codes codes) : Codes(std::move(codes)) {}
    CodeLists lists;    ///< undefined where the codes are whole
    at::Tensor values;  ///< the lists' after the activation, in the graph
    at::Tensor read;    ///< what the encoder's product read [n, width]
    bool listed() const { return values.defined(); }
};

/// Latents as training codes them: batch_top_k over the batch, jump_relu with gradients for its thresholds.
///
/// @param lists  the top-k kinds as lists, where kernels of ours take them
/// @param peers  the batch is the tokens of all these processes; batch_top_k's latents compete over all of it
TrainingCodes training_codes(const Autoencoder& autoencoder, const at::Tensor& tokens,
                             const ConceptObjective& objective, bool lists = false, Peers* peers = nullptr);

/// The encoder's product with `codes.read` and the lists chosen from it, without a graph; false where there are none.
bool choose_lists(const Autoencoder& autoencoder, TrainingCodes& codes, Peers* peers = nullptr);

/// @param tokens    [n, width]
/// @param dead      bool [latents]: silent for too long; undefined: none is
/// @param prefixes  Matryoshka: how many latents each reconstruction may use, rising, the last one all; empty: all
/// @param peers     with others: what the loss of dead latents is divided by is the whole batch's
ConceptLoss concept_loss(const Autoencoder& autoencoder, const at::Tensor& tokens, const TrainingCodes& codes,
                         const ConceptObjective& objective, const at::Tensor& dead = {},
                         const std::vector<std::int64_t>& prefixes = {}, Peers* peers = nullptr);

/// h where h > threshold, else 0. Its gradient to h is 1 where h > threshold; to threshold_i it is
/// -(threshold_i / band) K((h_i - threshold_i) / band), summed over the batch, K(u) = 1 for |u| < 1/2, else 0.
/// Source: S. Rajamanoharan et al., "Jumping Ahead", 2024, equation 11.
at::Tensor jump_relu(const at::Tensor& before, const at::Tensor& threshold, double band);
/// 1 where h > threshold, else 0. No gradient to h; to threshold_i -(1 / band) K((h_i - threshold_i) / band).
/// Source: the same, equation 12.
at::Tensor jump_step(const at::Tensor& before, const at::Tensor& threshold, double band);

/// What k dead latents, those with the largest numbers, make of the error: openai's AuxK, unweighted. 0 where none is
/// dead or the result is no number. Scalar.
///
/// @param reconstructed  [n, width]
at::Tensor auxiliary_loss(const Autoencoder& autoencoder, const at::Tensor& tokens, const TrainingCodes& codes,
                          const at::Tensor& reconstructed, const at::Tensor& dead, std::int64_t k,
                          Peers* peers = nullptr);
/// The same as SAELens 6.54 has it: min(dead / k, 1) times the mean over tokens of |said - error|^2, k half the width,
/// numbers below zero kept, no bias (6.18 added the decoder's). SAELens refuses to do it on normalised tokens; here
/// both sides are then in the tokens' own space. Scalar.
at::Tensor auxiliary_loss_saelens(const Autoencoder& autoencoder, const at::Tensor& tokens, const TrainingCodes& codes,
                                  const at::Tensor& reconstructed, const at::Tensor& dead);
/// The same as saev has it, unweighted: the mean of (said + bias - error)^2, numbers below zero kept; what is said has
/// the decoder's bias and the error has not. 0 where none is dead. Scalar.
at::Tensor auxiliary_loss_saev(const Autoencoder& autoencoder, const at::Tensor& tokens, const TrainingCodes& codes,
                               const at::Tensor& reconstructed, const at::Tensor& dead, std::int64_t k);
/// Prisma's ghost gradients: exp(h) of the dead latents, scaled to half the error's length, against the error, then to
/// the size of `reconstruction`. 0 where none is dead. Scalar.
at::Tensor ghost_loss(const Autoencoder& autoencoder, const at::Tensor& tokens, const Codes& codes,
                      const at::Tensor& reconstructed, const at::Tensor& dead, const at::Tensor& reconstruction);

/// `count` lengths of prefixes, rising, the last one all latents: the others are drawn without repetition with
/// probability in proportion to the increments of 1 - n^-0.5, which favours short ones (saev; 1 itself has none).
/// Fewer where there are not so many.
std::vector<std::int64_t> prefix_lengths(std::int64_t latents, std::int64_t count, std::uint64_t seed);

}  // namespace vitrine
