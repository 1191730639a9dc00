// The steps of training a sparse autoencoder on batches of tokens, wherever these come from.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/autoencoder.h>
#include <vitrine/peers.h>

#include "autoencoder_objective.h"
#include "device_graph.h"
#include "optimizer.h"

namespace vitrine {

struct ConceptStepsOptions {
    ConceptObjective objective;
    double learning_rate = 4e-4, epsilon = 1e-8;
    double last_share = 0;  ///< of the rate, that is left after the last step
    double clip = 1;        ///< the largest length of all gradients together; 0: any
    /// What a fresh autoencoder is given: "median", "mean", "openai", "prisma", "saelens", "saev" (see make).
    std::string start = "median";
    bool unit_rows = true;  ///< the decoder's rows are kept at length 1, and gradients along them are taken away
    std::int64_t steps = 1, warmup = 0;
    std::int64_t prefixes = 0;     ///< Matryoshka: how many; 0 or 1: one, all latents
    std::int64_t dead_window = 0;  ///< tokens without a sound after which a latent counts as dead
    double threshold_rate = 0.01;  ///< how fast batch_top_k's threshold follows
    std::uint64_t seed = 0;
    /// Others that step on the same tokens, each on its part of every batch: their gradients are added up.
    Peers* peers = nullptr;
};

/// Sources of the recipe: L. Gao et al., "Scaling and evaluating sparse autoencoders", 2024 (decoder rows of length 1,
/// gradients along them removed, AuxK, the decoder's bias at the geometric median); T. Bricken et al., 2023.
class ConceptSteps {
  public:
    /// A fresh autoencoder for tokens like these: openai's denominator is their variance, "expected_average"'s factor
    /// that of their mean length. The encoder is the decoder's transpose, and `start` says the rest:
    ///   median, mean  the bias is the tokens' geometric median or their mean
    ///   openai        median, and the encoder is divided by the mean length of what unit vectors are decoded to
    ///   prisma        median, and the encoder is drawn for itself, a row of latents of length 1 for each number
    ///   saelens       no bias, decoder rows of length 0.1
    ///   saev          no bias, decoder rows of 0.8 tokens less their mean and 0.2 drawn uniformly, then of length 1
    ///
    /// @param sample  float32 [n, width], at least one
    static constexpr std::int64_t kMostOfStart = 32768;  ///< tokens that say enough; openai, init_from_data_
    static Result<ConceptSteps> make(AutoencoderConfig config, ConceptStepsOptions options, const at::Tensor& sample);

    /// One step. What comes back lies on the tokens' device: total, reconstruction, sparsity, revival, explained
    /// variance of the batch, active latents a token, share of dead latents. float32 [7]
    ///
    /// On a device the third step is recorded, and later ones of the same shape are one launch; nothing is read back
    /// but, every kLookEvery steps, whether any latent is dead: only then is their loss a part of the step.
    /// With peers `tokens` is the whole batch in every process. Raises a c10::Error where they cannot be reached.
    at::Tensor step(const at::Tensor& tokens);
    static constexpr std::int64_t kLookEvery = 32;
    /// Whether steps are launched as a recorded graph by now.
    bool recorded() const { return !graphs_.empty(); }
    /// Whether codes are lists in these steps, so that only the product of the encoder is a whole one.
    bool listed() const;

    const Autoencoder& autoencoder() const { return autoencoder_; }
    Autoencoder& autoencoder() { return autoencoder_; }
    std::int64_t steps_taken() const { return taken_; }

    /// All that going on needs, by name.
    std::vector<std::pair<std::string, at::Tensor>> state() const;
    /// @error BadInput  a tensor is missing or has another shape
    Status restore(const std::vector<std::pair<std::string, at::Tensor>>& state, std::int64_t steps);

  private:
    ConceptSteps(Autoencoder autoencoder, ConceptStepsOptions options);
    void follow_threshold(const at::Tensor& active);
    void unit_rows();
    bool on_lists() const;
    at::Tensor pass_on_lists(const at::Tensor& tokens, double rate, const at::Tensor& rate_there);
    void look_for_dead();
    at::Tensor pass(const at::Tensor& tokens, double rate, const at::Tensor& rate_there);
    std::pair<at::Tensor, double> own_share(const at::Tensor& batch) const;
    at::Tensor recorded_pass(const at::Tensor& tokens, double rate);
    void share_gradients(at::Tensor& figures, at::Tensor& heard);
    bool several() const { return options_.peers != nullptr && options_.peers->count() > 1; }

    Autoencoder autoencoder_;
    ConceptStepsOptions options_;
    /// JumpReLU's thresholds are trained by their logarithms, so that they stay above 0.
    at::Tensor log_threshold_;
    std::unique_ptr<Optimizer> optimizer_;
    at::Tensor silent_;                  // int64 [latents]: tokens since a latent was heard
    at::Tensor threshold_;               // float64 [1], batch_top_k's
    std::int64_t taken_ = 0, here_ = 0;  // steps, and those of this object
    bool any_dead_ = false,
         unit_ = false;  // unit_: the last step was one on lists, which leaves the decoder's rows at length 1
    /// A step without and one with the loss of dead latents: what it reads and gives lies in its memory.
    struct Recording {
        bool with_dead = false;
        std::optional<DeviceGraph> graph;  // before what lies in its memory
        at::Tensor tokens, rate, figures;
    };
    std::vector<Recording> graphs_;
    bool not_recorded_ = false;
};

/// Where the summed distance to the points is least, by Weiszfeld's iteration. [width]
///
/// @param points  [n, width]
at::Tensor geometric_median(const at::Tensor& points, int iterations = 100);

}  // namespace vitrine
