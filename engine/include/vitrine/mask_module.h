// T-TAME's attention module: from feature maps of a few layers of a frozen classifier to one mask for every class.
//
//     MaskModule mask = VITRINE_TRY(MaskModule::load("mine.safetensors"));
//     VITRINE_CHECK(mask.fits(model));
//     MaskFeatures seen = VITRINE_TRY(mask_features(model, pixels, mask.config()));
//     at::Tensor c = mask.logits(seen.maps);                    // [batch, classes, rows, cols]
//
// Source: M. Ntrougkas, N. Gkalelis, V. Mezaris, "T-TAME: Trainable Attention Mechanism for Explaining Convolutional
// Networks and Vision Transformers", IEEE Access 2024. Written from the definition.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/model.h>
#include <vitrine/training_mode.h>

namespace vitrine {

class Peers;

struct MaskConfig {
    /// "tame"; "ttame", which multiplies each patch token by the class token first; "sigmoid", "no_skip" and
    /// "no_skip_no_norm", the paper's ablations; "l_cam", one convolution on the last layer (I. Gkartzonika et al.,
    /// 2022); the authors' "attention_v1", "_v1_1", "_v1_2", "_v2", "_v2_1", "_v2_2" and "_v3", where each branch is
    /// multi-head attention over its layer's tokens, prefix tokens included; "volume" (3D-TAME), on maps with a depth,
    /// which no model of this program has.
    std::string version = "tame";
    std::vector<std::string> layers;     ///< named points, shallow to deep
    std::vector<std::int64_t> channels;  ///< of each layer
    std::int64_t classes = 0;
    std::int64_t prefix = 0;  ///< tokens before the patches, which the versions over tokens see and then drop
    /// True for the versions over tokens.
    bool reads_tokens() const { return version.starts_with("attention_"); }
    /// True where the layers are mixed before the last convolution, so that their shares cannot be told.
    bool mixes_layers() const { return version.starts_with("attention_v1"); }
    /// Of what mask_features gives of a layer.
    std::int64_t channels_of(const at::Tensor& map) const { return map.size(reads_tokens() ? 2 : 1); }
};
std::vector<std::string> mask_versions();

/// What the layers showed of a batch.
struct MaskFeatures {
    /// float32 [batch, channels, rows, cols] each, prefix tokens dropped; for versions over tokens [batch, tokens,
    /// channels]
    std::vector<at::Tensor> maps;
    at::Tensor answer;  ///< float32 [batch, classes]
};

/// One run of the model without gradients.
///
/// @param pixels  [batch, 3, height, width], normalised
/// @error BadInput     a layer that the model has not
/// @error Unsupported  a layer that is no map and no token grid, "ttame" on a model without a class token, versions
/// over
///                     tokens on a grid that is not square
/// @error Cancelled    stop was requested
Result<MaskFeatures> mask_features(Model& model, const at::Tensor& pixels, const MaskConfig& config,
                                   std::stop_token stop = {});

/// Layers that are read where nobody says: the last three blocks' first norm of a vision transformer, the last three
/// resolutions of a convolutional network.
///
/// @error Unsupported  no such points
Result<std::vector<std::string>> mask_layers(Model& model, const std::string& version);

/// A number for a model's weights, the same on every device and for fp32 and bf16: 16 hexadecimal digits.
/// Empty where the weights cannot be reached.
std::string weights_hash(Model& model);

class MaskModule {
  public:
    /// Fresh weights as the framework draws them: uniform within 1 / sqrt(channels).
    /// @error BadInput  an unknown version, no layers, another number of channels than of layers
    static Result<MaskModule> make(MaskConfig config, std::uint64_t seed);

    /// c, before the sigmoid. Masks are sigmoid(c), the map shown is c scaled to 0 to 1.
    ///
    /// @param features  as mask_features gives them
    /// @param classes   int64 [n], the rows that are wanted; undefined: all
    /// @param training  the norms use and keep the batch's statistics
    /// @param peers     in training, the processes whose pictures together are the batch; null: this one alone
    /// @return          [batch, n, rows, cols] at the shallowest layer's size, 56 at the most
    at::Tensor logits(const std::vector<at::Tensor>& features, const at::Tensor& classes = {}, bool training = false,
                      Peers* peers = nullptr) const;
    /// What each layer adds to the logits of a class; with the bias they are its logits. [batch, layers, rows, cols];
    /// undefined for attention_v1*, which mix the layers before the last convolution.
    at::Tensor contributions(const std::vector<at::Tensor>& features, std::int64_t index) const;

    const MaskConfig& config() const { return config_; }
    /// Trained tensors by name: "convs.0.weight", "bns.0.bias", "fuser.weight", ...
    const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }
    /// The norms' running statistics: "bns.0.running_mean", ...
    const std::vector<std::pair<std::string, at::Tensor>>& statistics() const { return statistics_; }
    std::int64_t size() const;  ///< trained numbers
    void to(at::Device device);

    /// What the file says beside the weights: "model", "weights" (their hash), "policy", "settings", ...
    std::map<std::string, std::string> facts;
    /// Running statistics of the frozen model's batch norms as they were when training ended, where it was in training
    /// mode: the features are to be made with them (WithStatistics). Empty: the model's own.
    NormStatistics backbone;

    /// Why this module cannot explain this model: other classes, missing layers, other channels.
    Status fits(Model& model) const;
    /// What the user should know: trained beside other weights, say. Empty when all is well.
    std::string doubt(Model& model) const;

    /// @param precision  of the written weights: at::kHalf or at::kFloat
    Status save(const std::filesystem::path& file, at::ScalarType precision) const;
    /// Reads our own file, or a checkpoint of the authors' (`.ckpt`, `.pt`): the attention module, the layers, the
    /// version and the policy that its hyper_parameters tell, and the frozen model's running statistics. Its other
    /// weights are not kept but compared with the model's (fits). `layers`, where given, are taken in place of the
    /// file's.
    ///
    /// @error BadInput  no mask in it; tensors that are missing, of other shapes or not finite
    static Result<MaskModule> load(const std::filesystem::path& file, std::vector<std::string> layers = {});

  private:
    at::Tensor weighed(std::size_t s, const at::Tensor& u, const at::Tensor& weight,
                       const std::vector<std::int64_t>& size) const;
    at::Tensor branch(std::size_t s, const at::Tensor& features, bool training, Peers* peers) const;
    const at::Tensor& tensor(const std::string& name) const;
    bool has_norms() const;
    std::int64_t branch_width(std::size_t s) const;
    at::Tensor attended(const at::Tensor& x, const std::string& name, std::int64_t heads) const;
    at::Tensor tokens_branch(std::size_t s, const at::Tensor& x) const;
    std::vector<std::int64_t> map_size(const std::vector<at::Tensor>& features) const;

    MaskConfig config_;
    std::map<std::string, std::uint64_t> published_;  // hashes of a checkpoint's frozen weights by torchvision's names
    std::vector<std::pair<std::string, at::Tensor>> parameters_, statistics_;
};

/// How a mask is laid over a picture.
enum class MaskPolicy : std::uint8_t {
    Black,  ///< over the colours, before they are normalised: hidden pixels are black ("raw_normalize", "renormalize")
    Mean    ///< over the normalised pixels: hidden pixels have the mean colour ("new")
};

/// The one way a masked picture is made, in training, in measures and in what is shown.
///
/// @param pixels  [batch, 3, height, width], normalised
/// @param mask    [batch, 1, rows, cols], 0 to 1; resized bilinearly (align_corners = false)
at::Tensor masked(const at::Tensor& pixels, const at::Tensor& mask, MaskPolicy policy, const Preprocess& preprocess);

/// Scaled from 0 to 1 over the last two axes: (c - min) / (max - min + 1e-10); zero where the map is flat.
at::Tensor min_max(const at::Tensor& maps);

}  // namespace vitrine
