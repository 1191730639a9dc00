// A model that was opened: how to feed it, what its tokens are, what it answers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/labels.h>
#include <vitrine/layout.h>
#include <vitrine/preprocess.h>

namespace vitrine {

/// Where a model reads its answer.
enum class Readout : std::uint8_t { ClassToken, MeanPatches, AttentionPool, GlobalPool, Unknown };
std::string_view name_of(Readout readout);

struct ModelInfo {
    std::string name;          ///< "vit_tiny_patch16_224", from the configuration or the file's name
    std::string title;         ///< short, for people: "ViT-Ti/16"
    std::string architecture;  ///< the plugin's name: "vit", "cnn", "torchscript"
    std::string dialect;       ///< "timm", "transformers", "torchvision", "openclip", "dinov2", ...
    std::string why;           ///< why it was recognised, one sentence
    std::int64_t layers = 0;   ///< attention layers (0 for a CNN)
    std::int64_t heads = 0;
    std::int64_t width = 0;
    std::int64_t classes = 0;  ///< 0 when there is no classifier
    std::int64_t parameters = 0;
    std::int64_t size_bytes = 0;
    std::int64_t patch_height = 0, patch_width = 0;
    Readout readout = Readout::Unknown;
    bool relu_only = false;    ///< every nonlinearity is a ReLU (guided backprop has a meaning)
    std::int64_t kept_widths = 4;  ///< what a capture keeps of a token in a layer, in widths: queries, keys, values and output, and copies
    std::string cam_point;     ///< the named point the CAM family reads by default
    std::vector<std::string> notes;  ///< what was assumed, what was left unused
};

/// A place where an activation can be read, replaced and differentiated.
struct NamedPoint {
    std::string name;     ///< "blocks.9.norm1"
    std::string meaning;  ///< "tokens after the first norm [batch, tokens, width]"
};

/// A model as a row of blocks over one stream of tokens, so that a block can be run again on its own:
/// forward(pixels) is end(block(n - 1, ... block(0, begin(pixels)))). Reports its mixings and points as forward does.
struct Chain {
    std::int64_t blocks = 0;
    std::function<at::Tensor(const at::Tensor& pixels)> begin;                ///< -> [1, tokens, width]
    std::function<at::Tensor(std::int64_t block, const at::Tensor& x)> block; ///< -> [1, tokens, width]
    std::function<at::Tensor(const at::Tensor& x)> end;                       ///< -> [1, classes]
};

/// A model. Lives on the engine thread. Functions that compute may throw c10::Error; `run` in capture.h is the edge.
class Model {
  public:
    virtual ~Model() = default;

    /// [batch, 3, height, width] float32, normalised -> [batch, classes]; features [batch, width] when classes is 0.
    /// Takes pixels from any device to its own. Reports its mixings by MixingScope and its activations by point() (see capture.h).
    virtual at::Tensor forward(const at::Tensor& pixels) = 0;

    /// The tokens of the attention layers for an input of this size.
    virtual TokenLayout layout(std::int64_t input_height, std::int64_t input_width) const = 0;
    virtual std::vector<NamedPoint> points() const { return {}; }
    /// Block by block, for a picture of this size; nothing where the model is no such row. Valid while the model lives and stays where
    /// it is. A model that has one also gives recipes (report_recipe in capture.h).
    virtual bool has_chain() const { return false; }
    virtual std::optional<Chain> chain(std::int64_t /*input_height*/, std::int64_t /*input_width*/) { return std::nullopt; }
    /// Why no answer can be read from an earlier layer's tokens; empty when layer_answer() gives one.
    virtual std::optional<std::string> no_layer_answer() const { return "the final norm and head of this architecture cannot be run alone"; }
    /// What the end of the model (final norm, head) says of a block's output, read from the mean of all its tokens, or by the pooling head
    /// where there is one, which reports its mixing. [1, tokens, width] -> [1, classes], with the graph.
    virtual at::Tensor layer_answer(const at::Tensor& /*tokens*/, const TokenLayout& /*layout*/) const { return {}; }
    /// Why patches cannot be left out of a run; empty when forward_kept() does.
    virtual std::optional<std::string> no_token_removal() const { return "this architecture cannot run on some of its patches"; }
    /// forward() on some patches only: the others are no tokens at all. Prefix tokens stay; patches keep their positions.
    ///
    /// @param kept  [batch, count] int64, each row ascending indices of the patch grid in row-major order
    virtual at::Tensor forward_kept(const at::Tensor& pixels, const at::Tensor& kept);
    /// Trainable tensors by name (the model's own storage); empty where they cannot be reached.
    virtual std::vector<std::pair<std::string, at::Tensor>> parameters() { return {}; }
    /// Where the weights lie; the CPU where they cannot be reached.
    at::Device device();
    /// Moves weights to a device and type.
    virtual void to(at::Device device, at::ScalarType dtype) = 0;
    /// False for TorchScript: it is run by libtorch's interpreter, optimiser off.
    virtual bool is_native() const { return true; }

    const ModelInfo& info() const { return info_; }
    const Preprocess& preprocess() const { return preprocess_; }
    const Labels& labels() const { return labels_; }
    ModelInfo& info() { return info_; }
    Preprocess& preprocess() { return preprocess_; }
    Labels& labels() { return labels_; }

    /// What `replayed` recorded of this model's work last (replay.h); goes with the model.
    std::shared_ptr<void> remembered;

  protected:
    ModelInfo info_;
    Preprocess preprocess_;
    Labels labels_;
};

}  // namespace vitrine
