// How well an autoencoder stands for what a model says of pictures: the usual figures of sparse autoencoders.
//
//     FidelityOptions options{.pictures = 1000, .pixels = load};
//     Fidelity found = VITRINE_TRY(autoencoder_fidelity(model, concepts, options));
//
// Sources: explained variance, L0 and loss recovered as in A. Karvonen et al., "SAEBench", 2025, and L. Gao et al.,
// "Scaling and evaluating sparse autoencoders", 2024; the variance token by token and cross entropy without a scale as
// ViT-Prisma logs them (S. Joseph et al., 2025). Intervals: each picture weighs Poisson(1) in each resample, which
// needs no list of pictures (N. Chamandy et al., "Estimating Uncertainty for Massive Data Streams", 2012).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/autoencoder.h>
#include <vitrine/base/result.h>
#include <vitrine/explainer.h>

namespace vitrine {

struct FidelityOptions {
    std::int64_t pictures = 0;
    /// A picture, normalised: float32 [1, 3, height, width], all of one size.
    std::function<Result<at::Tensor>(std::int64_t picture)> pixels;
    std::vector<std::int64_t> labels;  ///< the class of each picture, -1: not known; empty: of none
    /// For a model that answers with features: one row a class, [classes, features]. Rows and features are brought to
    /// length 1, and their products are the logits.
    at::Tensor class_rows;
    double logit_scale = 1;  ///< of these logits: CLIP's own is near 100, ViT-Prisma leaves it out

    std::int64_t batch = 0;  ///< pictures that the model runs at once; 0: 32, or as many as their codes leave room for
    std::int64_t resamples = 1000;  ///< 0: no intervals
    std::uint64_t seed = 0;
    std::stop_token stop = {};
    std::function<void(const Progress&)> progress = {};
};

/// A figure over all pictures, and the middle 95 % over resampled pictures; NaN: not known.
struct Measured {
    double value = std::numeric_limits<double>::quiet_NaN(), low = value, high = value;
};

/// One kind of token; kinds are never pooled but in "all".
struct FidelityOfTokens {
    std::string name;  ///< "all", "class", "registers", "patches"
    std::int64_t tokens = 0;
    Measured active;              ///< latents a token (L0)
    Measured explained_variance;  ///< 1 - sum |x - x^|^2 / sum |x - mean|^2, the mean over all tokens of this kind
    Measured token_variance;      ///< mean of 1 - |x - x^|^2 / |x - mean|^2, the mean over a batch, as ViT-Prisma
    Measured cosine;              ///< mean of cos(x, x^)
    double norm = 0;              ///< mean length of x
};

struct Fidelity {
    std::int64_t pictures = 0, batch = 0;
    std::vector<FidelityOfTokens> tokens;  ///< "all" first, then each kind where there are several
    Measured distinct;                     ///< latents a picture

    /// With x^ in the place of x, and with zeros there. Of models with classes, or with class rows.
    Measured agreement;     ///< share of pictures answered alike
    Measured divergence;    ///< mean KL(answer, answer with x^), nats
    Measured zeroed;        ///< the same with zeros
    Measured substitution;  ///< 1 - divergence / zeroed
    /// Where labels are known: cross entropy as the model is, with x^, with zeros, and (zeros - x^) / (zeros - as is).
    std::int64_t labelled = 0;
    Measured loss, loss_substituted, loss_zeroed, loss_recovered;

    std::int64_t latents = 0;
    double never = 0, rare = 0, rarer = 0, dense = 0;  ///< shares of latents: no token; under 1e-5, 1e-6; over 1e-2
    /// Latents by log10 of their share of tokens, half a decade each: [-7, -6.5), ..., [-0.5, 0]; the first takes what
    /// is rarer. Without those that are never heard.
    std::vector<std::int64_t> densities;
    std::vector<std::string> skipped;  ///< one sentence for each picture that could not be read
    std::vector<std::string> notes;
};
/// Where the first of `densities` begins, and how wide each is.
constexpr double kLeastDensity = -7, kDensityStep = 0.5;

/// Memory: codes of one batch, and some thousand numbers a resample, however many pictures there are.
///
/// @error BadInput     no picture that can be read, an autoencoder that does not fit, class rows of another width
/// @error Unsupported  tokens that the autoencoder wants and the point has not
/// @error Cancelled    stop was requested
Result<Fidelity> autoencoder_fidelity(Model& model, const Autoencoder& autoencoder, const FidelityOptions& options);

/// The one matrix in a safetensors file or a torch.save: class embeddings, a row a class. float32 [classes, features]
/// @error BadInput  none or several, or numbers that are not finite
Result<at::Tensor> class_rows_in(const std::filesystem::path& file);

}  // namespace vitrine
