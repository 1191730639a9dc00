// Training a sparse autoencoder on what a model's layer says of a folder of pictures: `vitrine train-concepts`.
//
//     TrainConceptsOptions options{.data = "photographs", .out = "concepts.safetensors"};
//     TrainConceptsSummary summary = VITRINE_TRY(train_concepts(*model, options));
//
// Pictures are run as they are needed and their tokens mixed in a buffer of bounded size, so a folder may be far larger
// than memory. Every random choice follows from (seed, step), and the buffer is kept with the checkpoint, so a resumed
// run repeats the run that was not interrupted, bit for bit on the CPU with the same number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/autoencoder.h>
#include <vitrine/base/result.h>
#include <vitrine/explainer.h>
#include <vitrine/peers.h>
#include <vitrine/picture_set.h>
#include <vitrine/settings.h>

namespace vitrine {

/// One kind of token, which the figures of all together would hide.
struct ConceptTokens {
    std::string name;  ///< "class", "registers", "patches"
    std::int64_t tokens = 0;
    double explained_variance = 0;  ///< the mean over the tokens of this kind
    double active = 0;              ///< latents a token
};

/// What an autoencoder does on pictures that it was not trained on.
struct ConceptFigures {
    std::int64_t pictures = 0, tokens = 0;
    double explained_variance = 0;                  ///< 1 - sum |x - x^|^2 / sum |x - mean|^2 over all these tokens
    double cosine = 0;                              ///< mean of cos(x, x^)
    double active = 0;                              ///< latents a token
    double active_class = -1, active_patches = -1;  ///< the same by kind of token; -1: unknown, or only one is read
    std::vector<ConceptTokens> kinds;               ///< of tokens, where several are read
    double distinct = 0;                            ///< latents a picture
    double never = 0, rare = 0, dense = 0;  ///< shares of latents: no token, under 1e-5, over 1e-2 of all tokens
    bool answers = false;                   ///< whether the model has answers, which the next three are of
    double agreement = 0;                   ///< share of pictures answered alike with x^ in the place of x
    double divergence = 0;                  ///< mean KL(answer, answer with x^), nats
    double substitution = 0;                ///< 1 - divergence / the divergence with zeros in the place of x
    std::vector<std::string> skipped;       ///< one sentence for each picture that could not be read
};

/// Figures of training, means since the report before.
struct ConceptStep {
    std::int64_t step = 0, steps = 0, tokens = 0;
    double total = 0, reconstruction = 0, sparsity = 0, revival = 0;
    double explained_variance = 0;  ///< of a batch
    double active = 0;              ///< latents a token (L0)
    double dead = 0;                ///< share of latents
    double learning_rate = 0, tokens_per_second = 0, seconds_left = 0;
    std::string note;
    /// The last look at some of the pictures held out (held_every), and after which step.
    std::optional<ConceptFigures> held;
    std::int64_t held_step = 0;
};

struct TrainConceptsOptions {
    std::filesystem::path data, out;
    const PictureSet* pictures = nullptr;  ///< in the place of `data`
    std::uint64_t seed = 0;
    std::vector<std::pair<std::string, std::string>> settings;  ///< names of concept_parameters()
    std::stop_token stop = {};  ///< looked at on every step: a checkpoint is written and the call returns
    std::function<void(const ConceptStep&)> progress = {};  ///< about once a second, on the calling thread
    /// Others that train together: each runs a part of the pictures and steps on a part of every batch, and the result
    /// is that of one process, within rounding. Process 0 writes the files and reports; the others read none but the
    /// checkpoint.
    Peers* peers = nullptr;
};

struct TrainConceptsSummary {
    bool finished = false;  ///< false after a stop: OUT.checkpoint lies beside
    std::int64_t steps = 0, tokens = 0, latents = 0, size_bytes = 0;
    std::int64_t pictures = 0;      ///< that are trained on: neither held out nor skipped
    std::int64_t buffer_bytes = 0;  ///< the most that the mixed tokens took
    std::string point;
    ConceptFigures held;  ///< of the pictures held out that could be read; pictures == 0 without any
    /// total, reconstruction, sparsity, revival, explained variance, active, dead of every step
    std::vector<std::array<float, 7>> curve;
    double tokens_per_second = 0;       ///< of this call, the model's runs included
    double step_tokens_per_second = 0;  ///< of the steps alone; on a device by its events
    /// What steps cannot exceed: the whole matrix products of this kind at the rate of these shapes, and the codes
    /// before the activation once, where codes are whole twice, by way of a copy. 0: not measured. Adam's reading and
    /// writing of the weights and the gathered rows are not in it.
    double floor_tokens_per_second = 0;
    std::int64_t floor_products = 0;   ///< of a step: 1 where codes are lists, 8 of gated, else 5
    std::string products;              ///< "fp32" or "tf32"
    bool recorded = false;             ///< steps were launched as a recorded graph
    std::vector<std::string> skipped;  ///< one sentence for each picture that could not be read, held out or not
    std::vector<std::string> notes;
};

/// What can be set, with defaults, ranges, meanings and sources.
std::vector<Parameter> concept_parameters();
/// Names of those that a training with these settings does not read, as k where the kind is relu. It refuses them.
std::vector<std::string> unread_concept_settings(const std::vector<std::pair<std::string, std::string>>& settings);

/// Trains, or goes on where OUT.checkpoint stopped. The model is not changed.
///
/// @error NotFound     nothing at that place
/// @error BadInput     no readable picture, an unknown setting or point, a setting that the others leave unread, a
///                     buffer too small, a checkpoint of other settings or pictures, a loss that is no number
/// @error Unsupported  a point that is neither tokens nor a map
/// @error Io           OUT cannot be written, said before the first step; the disk is full: the checkpoint before stays
Result<TrainConceptsSummary> train_concepts(Model& model, const TrainConceptsOptions& options);

/// How many of these pictures the autoencoder was trained on, as its file says: a sentence. Empty where it does not
/// say.
std::string trained_on(const Autoencoder& autoencoder, const PictureSet& pictures);

/// The figures of autoencoder_fidelity.h that a training tells, without intervals; all 0 where no picture can be read.
///
/// @param pixels  a picture, normalised: float32 [1, 3, height, width]; called from several threads at once
Result<ConceptFigures> concept_figures(Model& model, const Autoencoder& autoencoder, std::int64_t count,
                                       const std::function<Result<at::Tensor>(std::int64_t picture)>& pixels);

/// The activation with those of its tokens changed that `config` reads.
///
/// @param x       [batch, tokens, width] or [batch, channels, rows, cols]
/// @param change  [n, width] -> [n, width]
at::Tensor with_changed_tokens(const at::Tensor& x, const TokenLayout& layout, const AutoencoderConfig& config,
                               const std::function<at::Tensor(const at::Tensor&)>& change);

}  // namespace vitrine
