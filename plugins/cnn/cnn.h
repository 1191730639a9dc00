// Convolutional networks that people still explain: ResNet, VGG, CIFAR ResNet and MobileNetV2, as one class over ATen
// operators.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/architecture.h>

namespace vitrine::plugin::cnn {

enum class Activation : std::uint8_t { None, Relu, Relu6 };

/// A convolution with its batch norm and activation; numbers index the model's tensors, -1 is
/// none.
struct Convolution {
    int weight = -1, bias = -1;
    int norm_weight = -1, norm_bias = -1, norm_mean = -1, norm_var = -1;
    std::int64_t stride = 1, padding = 0, groups = 1;
    bool same = false;  ///< TensorFlow's SAME: what stride 2 needs more is padded at the bottom and right
    Activation activation = Activation::Relu;
};

enum class Shortcut : std::uint8_t {
    None,
    Identity,
    Convolution,
    PadChannels  ///< every second pixel, zeros for the new channels on both sides (He et al. 2016, option A)
};

/// Convolutions in a row, perhaps with a shortcut around them.
struct Block {
    std::vector<Convolution> path;
    Shortcut shortcut = Shortcut::None;
    Convolution shortcut_convolution;
    bool relu_after = false;
    std::int64_t max_pool = 0;  ///< after the block: 2 is 2x2 stride 2, 3 is 3x3 stride 2 padding 1
    std::string point;          ///< the named point of its output; empty is none
    std::string meaning;
};

struct CnnConfig {
    std::vector<Block> blocks;
    std::int64_t pool = 1;                        ///< side of the adaptive average pooling before the classifier
    std::vector<std::pair<int, int>> classifier;  ///< weight and bias of linear layers, ReLU between
    double dropout = 0;   ///< in training mode, before the last linear layer and after every ReLU
    bool folded = false;  ///< its batch norms were folded into the convolutions before the file was written
    std::int64_t classes = 0;
    std::int64_t width = 0;  ///< channels of the last map
    double norm_eps = 1e-5;  ///< torch.nn.BatchNorm2d
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Lives on the engine thread.
class CnnModel : public Model {
  public:
    CnnModel(CnnConfig config, NamedTensors tensors);
    at::Tensor forward(const at::Tensor& pixels) override;
    /// Never known: a convolutional network has no tokens.
    TokenLayout layout(std::int64_t input_height, std::int64_t input_width) const override;
    std::vector<NamedPoint> points() const override;
    /// Weights and biases; the running statistics of batch norm are no parameters.
    std::vector<std::pair<std::string, at::Tensor>> parameters() override;
    void to(at::Device device, at::ScalarType dtype) override;
    /// All tensors, running statistics too.
    const NamedTensors& tensors() const { return tensors_; }

  private:
    void count();
    at::Tensor tensor(int index) const {
        return index < 0 ? at::Tensor{} : tensors_[static_cast<std::size_t>(index)].second;
    }
    std::string_view norm_name(const Convolution& c) const;
    at::Tensor convolve(const at::Tensor& x, const Convolution& c) const;

    CnnConfig config_;
    NamedTensors tensors_;
};

/// Which network the names are of, without reading a tensor.
Recognition recognise_names(const Checkpoint& checkpoint);

/// Builds the model; info, preprocessing and labels are filled.
///
/// @error BadInput     the first tensor that does not fit, by name
/// @error Unsupported  a relative that computes something else, with the tensor that gave it away
Result<std::unique_ptr<CnnModel>> build_cnn(const Checkpoint& checkpoint);

/// A checkpoint in memory from tensors, as if it had been read.
Checkpoint checkpoint_of(const NamedTensors& tensors);

}  // namespace vitrine::plugin::cnn
