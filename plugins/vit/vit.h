// The plain vision transformer in all its published forms, as one class over ATen operators.
//
//     auto model = VitModel::fresh({.image_height = 128, .image_width = 128, .patch_height = 8, .patch_width = 8,
//     .classes = 20}, seed); auto logits = (*model)->forward(pixels); for (auto& [name, tensor] :
//     (*model)->parameters()) tensor.requires_grad_(true);   // forward reads these very tensors
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include <vitrine/model.h>

namespace vitrine::plugin::vit {

enum class Activation : std::uint8_t { Gelu, GeluTanh, QuickGelu, Silu, Relu };
std::string_view name_of(Activation activation);

/// What the head reads after the last block.
enum class Pool : std::uint8_t {
    ClassToken,    ///< the class token
    MeanPatches,   ///< the mean of the patch tokens
    ClassAndMean,  ///< class token and mean of the patches side by side (DINOv2 classifiers of transformers)
    AttentionPool  ///< a learned query that attends once more (SigLIP)
};

/// How learned positions are carried to another grid, each as its package does.
enum class PositionResize : std::uint8_t {
    BicubicAntialias,  ///< timm.layers.resample_abs_pos_embed, OpenCLIP
    Bicubic,           ///< transformers interpolate_pos_encoding
    BicubicOffset,     ///< DINOv2's own code: the scale gets 0.1 of a cell more (its interpolate_offset)
    BicubicAligned     ///< torchvision.models.vision_transformer.interpolate_embeddings
};

/// Everything that tells one vision transformer from another.
struct VitConfig {
    std::int64_t image_height = 224, image_width = 224;  ///< the native input, in pixels
    std::int64_t patch_height = 16, patch_width = 16;    ///< pixels
    std::int64_t width = 192, depth = 12, heads = 3;
    std::int64_t mlp_hidden = 768;
    std::int64_t classes = 1000;  ///< 0: forward gives features
    std::int64_t features = 0;    ///< width of a final projection without classes (CLIP); 0: none
    bool class_token = true;
    bool distillation_token = false;
    bool distillation_head = false;  ///< two heads, answers averaged (DeiT)
    std::int64_t registers = 0;
    bool learned_positions = true;
    std::int64_t position_prefix = 1;  ///< how many prefix tokens, in order, have a learned position
    PositionResize position_resize = PositionResize::BicubicAntialias;
    std::optional<double> rope_theta;  ///< rotary positions on patch tokens, as DINOv3
    bool patch_bias = true;
    bool pre_norm = false;  ///< a norm before the first block (CLIP)
    bool final_norm = true;
    bool fc_norm = false;  ///< a norm after pooling
    bool qkv_bias = true, proj_bias = true, mlp_bias = true;
    bool qk_norm = false;  ///< LayerNorm on each head's q and k
    bool layer_scale = false;
    bool gated_mlp = false;  ///< activation(first half) * second half (SwiGLU)
    Activation activation = Activation::Gelu;
    Pool pool = Pool::ClassToken;
    std::int64_t attention_pool_hidden = 0;  ///< hidden width of the pooler's MLP
    bool head_bias = true;
    double norm_eps = 1e-6;

    std::int64_t prefix() const { return (class_token ? 1 : 0) + (distillation_token ? 1 : 0) + registers; }
    std::int64_t grid_height() const { return image_height / patch_height; }
    std::int64_t grid_width() const { return image_width / patch_width; }
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
using NamedShapes = std::vector<std::pair<std::string, std::vector<std::int64_t>>>;

/// The tensors a model of this configuration has, by timm's names, in timm's order (the pooler's query, key and value
/// weights are one tensor here, `attn_pool.qkv`).
NamedShapes expected_tensors(const VitConfig& config);

/// Lives on the engine thread. Attention runs as at::scaled_dot_product_attention inside a MixingScope.
class VitModel : public Model {
  public:
    /// @error BadInput  a tensor is missing or of another shape, sizes that do not divide; the first offending one is
    /// named
    static Result<std::unique_ptr<VitModel>> make(VitConfig config, NamedTensors tensors);
    /// Random weights as published for training from scratch: truncated normal 0.02, zero biases, unit norms, layer
    /// scale `layer_scale_init`. Equal seeds give equal weights, whatever the global generator did before.
    static Result<std::unique_ptr<VitModel>> fresh(VitConfig config, std::uint64_t seed,
                                                   double layer_scale_init = 1e-4);
    /// Random weights that are spread out: attention is peaked and logits differ, so that a test sees what a fault
    /// changes.
    static Result<std::unique_ptr<VitModel>> spread(VitConfig config, std::uint64_t seed);

    at::Tensor forward(const at::Tensor& pixels) override;
    std::optional<std::string> no_token_removal() const override { return std::nullopt; }
    at::Tensor forward_kept(const at::Tensor& pixels, const at::Tensor& kept) override;
    bool has_chain() const override { return true; }
    std::optional<Chain> chain(std::int64_t input_height, std::int64_t input_width) override;
    TokenLayout layout(std::int64_t input_height, std::int64_t input_width) const override;
    std::vector<NamedPoint> points() const override;
    std::optional<std::string> no_layer_answer() const override;
    at::Tensor layer_answer(const at::Tensor& tokens, const TokenLayout& layout) const override;
    /// The tensors that forward reads, by timm's names. Train them in place (requires_grad, optimiser steps under
    /// NoGradGuard).
    std::vector<std::pair<std::string, at::Tensor>> parameters() override { return tensors_; }
    void to(at::Device device, at::ScalarType dtype) override;

    const VitConfig& config() const { return config_; }

    /// Stochastic depth while training: blocks are skipped per sample with a probability that grows linearly to this at
    /// the last block. 0 (the default) for every use but training. Masks come from at::rand, so at::manual_seed governs
    /// them.
    double training_drop_path = 0;
    /// The type the computation runs in; undefined: that of the weights. Float weights with BFloat16 here are cast at
    /// each use, which is what mixed-precision training wants (the weights stay leaves in float32).
    std::optional<at::ScalarType> compute_dtype;

  private:
    struct Affine {
        at::Tensor weight, bias;
    };
    struct Block {
        Affine norm1, qkv, q_norm, k_norm, proj, norm2, fc1, fc2;
        at::Tensor scale1, scale2;
    };

    /// What all blocks of one run share: the tokens, and for rotary positions the turns of the patches.
    struct Place {
        TokenLayout tokens;
        at::Tensor cos, sin;  ///< [patches, head width], or [batch, 1, patches, head width] when each picture has its own
    };
    /// From the normed tokens to queries, keys and values; holds what it needs, so that a capture may outlive the
    /// model.
    struct Projection {
        Affine qkv, q_norm, k_norm;
        at::Tensor cos, sin;
        std::int64_t heads, prefix;
        double norm_eps;
        std::array<at::Tensor, 3> operator()(const at::Tensor& x) const;
    };

    VitModel(VitConfig config, NamedTensors tensors);
    void bind();
    void describe();
    at::Tensor cast(const at::Tensor& tensor) const;
    at::Tensor linear(const at::Tensor& x, const Affine& affine) const;
    at::Tensor norm(const at::Tensor& x, const Affine& affine, std::int64_t width) const;
    at::Tensor activate(const at::Tensor& x) const;
    at::Tensor positions(std::int64_t rows, std::int64_t cols) const;
    Place place_of(std::int64_t input_height, std::int64_t input_width) const;
    at::Tensor embed(const at::Tensor& pixels, const TokenLayout& tokens) const;
    at::Tensor run_block(std::int64_t index, at::Tensor x, const Place& place) const;
    at::Tensor answer(at::Tensor x, const TokenLayout& tokens) const;
    at::Tensor attend(std::int64_t index, const Block& block, const at::Tensor& x, const Place& place) const;
    at::Tensor mlp(const at::Tensor& x, const Affine& fc1, const Affine& fc2, bool gated) const;
    at::Tensor pool_by_attention(const at::Tensor& x, const TokenLayout& layout) const;
    at::Tensor drop_path(const at::Tensor& x, std::int64_t index) const;

    VitConfig config_;
    NamedTensors tensors_;
    at::Tensor class_token_, distillation_token_, register_tokens_, positions_;
    Affine patch_, pre_norm_, norm_, fc_norm_, head_, head_distillation_;
    at::Tensor pool_latent_;
    Affine pool_qkv_, pool_proj_, pool_norm_, pool_fc1_, pool_fc2_;
    std::vector<Block> blocks_;
};

/// config.json in timm's words, so that a model saved as safetensors under parameters()' names is opened again by this
/// program and, where timm can express it, by timm.
///
/// @param name  what the model is called; timm's `architecture`
nlohmann::json timm_config(const VitModel& model, const std::string& name);

}  // namespace vitrine::plugin::vit
