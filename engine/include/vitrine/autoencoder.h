// Dictionaries that write a token's activation as a sum of few concepts: sparse autoencoders and plain factorisations.
//
//     Autoencoder concepts = VITRINE_TRY(Autoencoder::load("concepts.safetensors"));
//     VITRINE_CHECK(concepts.fits(model));
//     Codes codes = concepts.encode(tokens);                    // tokens [n, width], codes.active [n, latents]
//     at::Tensor again = concepts.decode(codes.active, codes);  // [n, width]
//
// Sources of the kinds: T. Bricken et al., "Towards Monosemanticity", 2023 (ReLU); S. Rajamanoharan et al., "Improving
// Dictionary Learning with Gated Sparse Autoencoders", 2024, and "Jumping Ahead", 2024 (JumpReLU); L. Gao et al.,
// "Scaling and evaluating sparse autoencoders", 2024 (top-k); B. Bussmann et al., "BatchTopK Sparse Autoencoders",
// 2024, and "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", 2025. Written from the definitions.
//
// Three kinds are fitted instead of trained (concept_factors.h), and code by the same products:
//   pca      two latents a component, what lies along it and against it, side by side: together the exact projection
//   k_means  1 for the nearest of the centroids, all others silent: b_dec and that latent's row are the centroid
//   nmf      the non-negative codes u that make |relu(x - b_dec) - u W_dec|^2 + ridge |u|^2 least, W_dec non-negative
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/model.h>

namespace vitrine {

struct AutoencoderConfig {
    /// "relu", "gated", "top_k", "batch_top_k", "jump_relu"; "pca", "k_means", "nmf".
    std::string kind = "top_k";
    std::int64_t width = 0, latents = 0;
    std::int64_t k = 32;  ///< of the two top-k kinds
    /// What is done to a token before it is encoded, and undone after it is decoded: "none"; "layer_norm" (its own mean
    /// and unbiased deviation, with 1e-5 on the way in); "constant_norm" (to the length sqrt(width));
    /// "expected_average" (one factor for all, `scale`).
    std::string normalise = "none";
    double scale = 1;
    bool subtract_decoder_bias = true;  ///< before encoding; saev does not
    bool keep_negative = false;         ///< top_k keeps the chosen numbers' sign, as saev does; else ReLU follows
    /// Latents compete for the k places by what they add: each is weighed by its decoder row's length before the
    /// choice, and `active` keeps that weight, which decoding takes off again (SAELens).
    bool weigh_by_decoder = false;
    double ridge = 0;            ///< of nmf, on the squares of its codes
    std::string point;           ///< the named point whose tokens are encoded: "blocks.9"
    std::string tokens = "all";  ///< "all", "class", "patches"
};
std::vector<std::string> autoencoder_kinds();
/// Those that are fitted instead of trained by steps: "pca", "k_means", "nmf". Not among the above.
std::vector<std::string> factor_kinds();
bool is_factor_kind(const std::string& kind);

/// What encoding found, and what undoing the normalisation needs.
struct Codes {
    at::Tensor before;  ///< [n, latents], before the activation (weighed, where the kind weighs); gated: of the gate
    at::Tensor active;  ///< [n, latents]: what decodes; zero where a latent is silent
    at::Tensor shift;   ///< [n, 1], added after decoding; undefined: nothing
    at::Tensor scale;   ///< [n, 1], multiplied after decoding, before the shift; undefined: 1
};

class Autoencoder {
  public:
    /// Fresh weights: rows of the decoder uniform, then of length 1; the encoder a copy of its transpose; biases 0.
    /// @error BadInput  an unknown kind or normalisation, no width, k beyond the latents
    static Result<Autoencoder> make(AutoencoderConfig config, std::uint64_t seed);
    /// One of the three fitted kinds; config's width and latents are taken from the rows.
    ///
    /// @param rows  [n, width]: pca's components, orthonormal (two latents each); k_means' centroids less the bias;
    ///              nmf's dictionary
    /// @param bias  [width]
    /// @error BadInput  another kind, numbers that are not finite, a dictionary for nmf with negative ones
    static Result<Autoencoder> of_rows(AutoencoderConfig config, const at::Tensor& rows, const at::Tensor& bias);

    /// @param tokens  [n, width], any floating type; coded in float32 (float64 when the weights are)
    /// @param batch   batch_top_k chooses over this whole batch, as in training, instead of by its threshold
    Codes encode(const at::Tensor& tokens, bool batch = false) const;
    /// What the encoder's product reads of these tokens: encode's first part, which fills in shift and scale. [n,
    /// width]
    at::Tensor prepared(const at::Tensor& tokens, Codes& codes) const;
    /// Codes of given numbers before the activation: encode is this after the product.
    at::Tensor activate(const at::Tensor& before, bool batch = false) const;
    /// What the concepts say of the tokens. [n, width]
    ///
    /// @param active   [n, latents]: of `codes`, or changed
    /// @param latents  only the first so many count (a Matryoshka prefix); 0: all
    at::Tensor decode(const at::Tensor& active, const Codes& codes, std::int64_t latents = 0) const;
    /// What a change of the codes adds to the tokens: x + this is exact for what the autoencoder does not explain.
    /// [n, width]
    at::Tensor difference(const at::Tensor& changed, const Codes& codes) const;

    const AutoencoderConfig& config() const { return config_; }
    /// "W_enc" [width, latents], "b_enc" [latents], "W_dec" [latents, width], "b_dec" [width]; gated: "b_gate",
    /// "r_mag", "b_mag" [latents] instead of b_enc; jump_relu: "threshold" [latents]; batch_top_k: "threshold" [1].
    /// Copies of an Autoencoder share them; training writes into them.
    const std::vector<std::pair<std::string, at::Tensor>>& tensors() const { return tensors_; }
    const at::Tensor& tensor(const std::string& name) const;
    void to(at::Device device);

    /// What the file says beside the weights: "model", "weights" (their hash), "tokens_seen", "explained_variance", ...
    std::map<std::string, std::string> facts;

    /// Why these concepts cannot be read from this model: no such point, another width, other weights. Runs it once.
    Status fits(Model& model) const;
    /// The last of it alone, without a run: trained on other weights.
    Status fits_weights(Model& model) const;

    Status save(const std::filesystem::path& file) const;
    /// Our own file, or one of SAELens, ViT-Prisma, saev or OpenAI (safetensors with cfg.json or config.json beside it,
    /// or torch.save through the restricted reader).
    ///
    /// @param given  what a file does not say itself, by AutoencoderConfig's names ("point", "kind", "k", ...); these
    ///               hold before what another library's file says
    /// @error BadInput  no autoencoder in it; tensors that are missing, of other shapes or not finite; a file of ours
    ///                  that says otherwise than what is given; a configuration beside it that cannot be read
    static Result<Autoencoder> load(const std::filesystem::path& file,
                                    const std::map<std::string, std::string>& given = {});

    /// One of given tensors, asked for by their names; width and latents are the encoder's.
    /// @error BadInput  shapes that do not fit, numbers that are not finite
    static Result<Autoencoder> of(AutoencoderConfig config, std::map<std::string, std::string> facts,
                                  const std::function<Result<at::Tensor>(const std::string&)>& tensor);

  private:
    friend Status fold_decoder_norms(Autoencoder& autoencoder);
    at::Tensor unweighed(const at::Tensor& active) const;
    std::optional<at::Tensor> decoded_sparsely(const at::Tensor& active, const Codes& codes) const;
    AutoencoderConfig config_;
    std::vector<std::pair<std::string, at::Tensor>> tensors_;
};

/// The file that came with the built-in model; empty where resources are missing. It fits no other model.
std::filesystem::path built_in_concepts();

/// All tokens of a point, and where the patches are among them.
struct PointTokens {
    at::Tensor tokens;                ///< [batch, tokens, width], in the model's type
    std::vector<std::string> prefix;  ///< names of those before the patches
    std::int64_t rows = 0, cols = 0;  ///< of the patches, row by row; 0: which are patches is not known
};
/// @error as concept_tokens
Result<PointTokens> point_tokens(Model& model, const at::Tensor& pixels, const AutoencoderConfig& config,
                                 std::stop_token stop = {});

/// What the autoencoder reads of pictures: the point's tokens, those of `config.tokens`. Maps of a convolution are
/// tokens row by row. [batch, tokens, width], in the model's type
///
/// @error BadInput     no such point, tokens of another width
/// @error Unsupported  the class token is asked for and there is none; the point is neither tokens nor a map
Result<at::Tensor> concept_tokens(Model& model, const at::Tensor& pixels, const AutoencoderConfig& config,
                                  std::stop_token stop = {});

/// Which k numbers of each row are largest; of equal ones the first are. int64 [n, k], a row in no order. Waits for a
/// device where our kernels have no form for it.
at::Tensor largest(const at::Tensor& rows, std::int64_t k);

/// Decoder rows brought to length 1, encoder and biases so that every reconstruction stays what it was.
/// @error Unsupported  top_k without weigh_by_decoder: other latents would be chosen
Status fold_decoder_norms(Autoencoder& autoencoder);

}  // namespace vitrine
