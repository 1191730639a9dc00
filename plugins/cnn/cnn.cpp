// Runs a convolutional network block by block.
#include "cnn.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/slice.h>

#include <algorithm>

#include <vitrine/capture.h>
#include <vitrine/training_mode.h>

namespace vitrine::plugin::cnn {

CnnModel::CnnModel(CnnConfig config, NamedTensors tensors) : config_(std::move(config)), tensors_(std::move(tensors)) {
    info_.architecture = "cnn";
    info_.layers = 0;
    info_.heads = 0;
    info_.width = config_.width;
    info_.classes = config_.classes;
    info_.readout = Readout::GlobalPool;
    info_.cam_point = "features";
    info_.relu_only = true;
    for (const Block& block : config_.blocks)
        for (const Convolution& c : block.path) info_.relu_only = info_.relu_only && c.activation != Activation::Relu6;
    count();
}

void CnnModel::count() {
    info_.parameters = 0;
    info_.size_bytes = 0;
    for (const auto& [name, tensor] : tensors_) {
        if (!name.ends_with("running_mean") && !name.ends_with("running_var")) info_.parameters += tensor.numel();
        info_.size_bytes += static_cast<std::int64_t>(tensor.nbytes());
    }
}

TokenLayout CnnModel::layout(std::int64_t, std::int64_t) const {
    TokenLayout out;
    out.unknown = "a convolutional network has no tokens";
    return out;
}

std::vector<NamedPoint> CnnModel::points() const {
    std::vector<NamedPoint> out;
    for (const Block& block : config_.blocks)
        if (!block.point.empty()) out.push_back({block.point, block.meaning + " [batch, channels, rows, cols]"});
    out.push_back({"features", "the last map before pooling [batch, channels, rows, cols]"});
    out.push_back({"head_input", "what the classifier is given [batch, width]"});
    return out;
}

std::vector<std::pair<std::string, at::Tensor>> CnnModel::parameters() {
    NamedTensors out;
    for (const auto& item : tensors_)
        if (!item.first.ends_with("running_mean") && !item.first.ends_with("running_var")) out.push_back(item);
    return out;
}

void CnnModel::to(at::Device device, at::ScalarType dtype) {
    for (auto& [name, tensor] : tensors_) tensor = tensor.detach().to(device, dtype);
    count();
}

/// "layer1.0.bn1"
std::string_view CnnModel::norm_name(const Convolution& c) const {
    std::string_view name = tensors_[static_cast<std::size_t>(c.norm_weight)].first;
    name.remove_suffix(std::string_view(".weight").size());
    return name;
}

at::Tensor CnnModel::convolve(const at::Tensor& x, const Convolution& c) const {
    const auto weight = tensor(c.weight);
    at::Tensor y = x;
    std::int64_t padding = c.padding;
    if (c.same) {
        const auto needed = [&](std::int64_t side, std::int64_t kernel) {
            return std::max<std::int64_t>(0, ((side + c.stride - 1) / c.stride - 1) * c.stride + kernel - side);
        };
        const std::int64_t rows = needed(x.size(2), weight.size(2)), cols = needed(x.size(3), weight.size(3));
        if (rows + cols > 0) y = at::constant_pad_nd(y, {cols / 2, cols - cols / 2, rows / 2, rows - rows / 2}, 0);
        padding = 0;
    }
    y = at::conv2d(y, weight, tensor(c.bias), {c.stride, c.stride}, {padding, padding}, {1, 1}, c.groups);
    if (c.norm_weight >= 0)
        y = batch_norm_as_run(norm_name(c), y, tensor(c.norm_weight), tensor(c.norm_bias), tensor(c.norm_mean),
                              tensor(c.norm_var), config_.norm_eps);
    if (c.activation == Activation::Relu) return at::relu(y);
    if (c.activation == Activation::Relu6) return at::clamp(y, 0, 6);
    return y;
}

at::Tensor CnnModel::forward(const at::Tensor& pixels) {
    TORCH_CHECK(pixels.dim() == 4 && pixels.size(1) == 3, "the input is ", pixels.sizes(),
                ", expected [batch, 3, height, width]");
    if (config_.folded) cannot_be_in_training_mode("its batch norms were folded into the weights");
    auto x = pixels.to(tensors_.front().second.device(), tensors_.front().second.scalar_type());
    for (const Block& block : config_.blocks) {
        auto y = x;
        for (const Convolution& c : block.path) y = convolve(y, c);
        switch (block.shortcut) {
            case Shortcut::None:
                break;
            case Shortcut::Identity:
                y = y + x;
                break;
            case Shortcut::Convolution:
                y = y + convolve(x, block.shortcut_convolution);
                break;
            case Shortcut::PadChannels: {
                const std::int64_t more = y.size(1) - x.size(1);
                const auto thinned = at::slice(at::slice(x, 2, 0, x.size(2), 2), 3, 0, x.size(3), 2);
                y = y + at::constant_pad_nd(thinned, {0, 0, 0, 0, more / 2, more - more / 2}, 0);
                break;
            }
        }
        if (block.relu_after) y = at::relu(y);
        if (block.max_pool == 2) y = at::max_pool2d(y, {2, 2}, {2, 2});
        if (block.max_pool == 3) y = at::max_pool2d(y, {3, 3}, {2, 2}, {1, 1});
        x = !block.point.empty() && points_wanted() ? point(block.point, y) : y;
    }
    if (points_wanted()) x = point("features", x);
    x = at::adaptive_avg_pool2d(x, {config_.pool, config_.pool}).flatten(1);
    if (points_wanted()) x = point("head_input", x);
    for (std::size_t i = 0; i < config_.classifier.size(); ++i) {
        if (i > 0) x = at::relu(x);
        if (i > 0 || config_.classifier.size() == 1) x = dropout_as_run(x, config_.dropout);
        x = at::linear(x, tensor(config_.classifier[i].first).flatten(1), tensor(config_.classifier[i].second));
    }
    return x.to(at::kFloat);
}

}  // namespace vitrine::plugin::cnn
