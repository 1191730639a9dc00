// Recognises ResNet, VGG, CIFAR ResNet and MobileNetV2 by their tensors and lays out their blocks.
#include <algorithm>
#include <array>
#include <set>

#include <vitrine/configure.h>

#include "cnn.h"

namespace vitrine::plugin::cnn {

namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

enum class Family : std::uint8_t { None, ResNet, CifarResNet, Vgg, MobileNetV2, MobileNetV2Tf };

Family family_of(const Checkpoint& c) {
    const auto stem = c.shape("conv1.weight");
    if (stem.size() == 4 && c.has("layer1.0.conv1.weight") && c.has("bn1.running_mean")) {
        if (c.has("fc.weight") && c.has("layer4.0.conv1.weight") && stem[2] == 7) return Family::ResNet;
        if ((c.has("linear.weight") || c.has("fc.weight")) && !c.has("layer4.0.conv1.weight") && stem[2] == 3)
            return Family::CifarResNet;
    }
    if (c.has("features.0.weight") && c.has("classifier.0.weight") && c.shape("features.0.weight").size() == 4 &&
        c.shape("features.0.weight")[2] == 3)
        return Family::Vgg;
    if (c.has("features.0.0.weight") && c.has("features.1.conv.0.0.weight") && c.has("classifier.1.weight"))
        return Family::MobileNetV2;
    if (c.has("stem.weight") && c.has("block1.depthwise.weight") && c.has("block2.expand.weight"))
        return Family::MobileNetV2Tf;
    return Family::None;
}

/// Takes tensors out of a checkpoint, checking every shape; the first that does not fit ends it.
class Taker {
  public:
    explicit Taker(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

    bool has(const std::string& name) const { return checkpoint_.has(name); }

    Result<int> take(const std::string& name, const std::vector<std::int64_t>& shape) {
        if (!has(name))
            return fail(ErrorCode::BadInput, "{}{} is missing, expected {}", checkpoint_.stripped_prefix, name,
                        shape_text(shape));
        tensors_.emplace_back(name, VITRINE_TRY(checkpoint_.tensor(name, shape)));
        return static_cast<int>(tensors_.size()) - 1;
    }

    /// A matrix or kernel of any size but this rank; its shape is looked at afterwards.
    Result<std::vector<std::int64_t>> shape(const std::string& name, std::size_t rank) const {
        if (!has(name)) return fail(ErrorCode::BadInput, "{}{} is missing", checkpoint_.stripped_prefix, name);
        auto shape = checkpoint_.shape(name);
        if (shape.size() != rank)
            return fail(ErrorCode::BadInput, "{}{} is {}, expected {} axes", checkpoint_.stripped_prefix, name,
                        shape_text(shape), rank);
        if (std::any_of(shape.begin(), shape.end(), [](std::int64_t v) { return v < 1; }))
            return fail(ErrorCode::BadInput, "{}{} is {}, which is empty", checkpoint_.stripped_prefix, name,
                        shape_text(shape));
        return shape;
    }

    Status norm(Convolution& c, const std::string& name, std::int64_t channels) {
        c.norm_weight = VITRINE_TRY(take(name + ".weight", {channels}));
        c.norm_bias = VITRINE_TRY(take(name + ".bias", {channels}));
        c.norm_mean = VITRINE_TRY(take(name + ".running_mean", {channels}));
        c.norm_var = VITRINE_TRY(take(name + ".running_var", {channels}));
        return {};
    }

    /// A convolution from `in` channels with a square kernel; groups come from the shape. `norm` may be empty.
    Result<Convolution> convolution(const std::string& name, const std::string& norm_name, std::int64_t in,
                                    std::int64_t kernel, std::int64_t stride, Activation activation,
                                    std::int64_t* out = nullptr) {
        const auto have = VITRINE_TRY(shape(name + ".weight", 4));
        Convolution c;
        c.stride = stride;
        c.padding = kernel / 2;
        c.activation = activation;
        if (have[1] < 1 || in % have[1] != 0 || have[0] % (in / have[1]) != 0 || have[2] != kernel || have[3] != kernel)
            return fail(ErrorCode::BadInput, "{}{}.weight is {}, expected [{}, {}, {}, {}]",
                        checkpoint_.stripped_prefix, name, shape_text(have), have[0], in, kernel, kernel);
        c.groups = in / have[1];
        c.weight = VITRINE_TRY(take(name + ".weight", have));
        if (has(name + ".bias")) c.bias = VITRINE_TRY(take(name + ".bias", {have[0]}));
        if (!norm_name.empty()) VITRINE_CHECK(norm(c, norm_name, have[0]));
        if (out != nullptr) *out = have[0];
        return c;
    }

    /// Tensors that nothing took.
    std::vector<std::string> left() const {
        std::set<std::string> used;
        for (const auto& [name, tensor] : tensors_) used.insert(name);
        std::vector<std::string> out;
        for (const auto& [name, entry] : checkpoint_.file.tensors)
            if (used.count(name) == 0 && !name.ends_with("num_batches_tracked")) out.push_back(name);
        return out;
    }

    NamedTensors tensors() && { return std::move(tensors_); }

  private:
    const Checkpoint& checkpoint_;
    NamedTensors tensors_;
};

Result<std::pair<int, int>> linear(Taker& taker, const std::string& name, std::int64_t from, std::int64_t* to) {
    const auto have = VITRINE_TRY(taker.shape(name + ".weight", 2));
    *to = have[0];
    const int weight = VITRINE_TRY(taker.take(name + ".weight", {have[0], from}));
    const int bias = taker.has(name + ".bias") ? VITRINE_TRY(taker.take(name + ".bias", {have[0]})) : -1;
    return std::pair{weight, bias};
}

Result<CnnConfig> resnet(Taker& taker, bool cifar, std::string& title) {
    CnnConfig config;
    std::int64_t channels = 0;
    Block stem;
    stem.path.push_back(
        VITRINE_TRY(taker.convolution("conv1", "bn1", 3, cifar ? 3 : 7, cifar ? 1 : 2, Activation::Relu, &channels)));
    stem.max_pool = cifar ? 0 : 3;
    stem.point = "stem";
    stem.meaning = "after the first convolution";
    config.blocks.push_back(stem);
    int convolutions = 1;
    std::int64_t groups = 1;
    for (int layer = 1; layer <= (cifar ? 3 : 4); ++layer) {
        int index = 0;
        for (; index < 512 && taker.has(fmt::format("layer{}.{}.conv1.weight", layer, index)); ++index) {
            const std::string name = fmt::format("layer{}.{}.", layer, index);
            const std::int64_t stride = index == 0 && layer > 1 ? 2 : 1;
            const std::int64_t in = channels;
            Block block;
            if (taker.has(name + "conv3.weight")) {
                // torchvision's ResNet strides in the 3x3 convolution (V1.5), not in the first 1x1.
                std::int64_t middle = 0;
                block.path.push_back(
                    VITRINE_TRY(taker.convolution(name + "conv1", name + "bn1", in, 1, 1, Activation::Relu, &middle)));
                block.path.push_back(VITRINE_TRY(
                    taker.convolution(name + "conv2", name + "bn2", middle, 3, stride, Activation::Relu, &middle)));
                groups = std::max(groups, block.path.back().groups);
                block.path.push_back(VITRINE_TRY(
                    taker.convolution(name + "conv3", name + "bn3", middle, 1, 1, Activation::None, &channels)));
                convolutions += 3;
            } else {
                std::int64_t middle = 0;
                block.path.push_back(VITRINE_TRY(
                    taker.convolution(name + "conv1", name + "bn1", in, 3, stride, Activation::Relu, &middle)));
                block.path.push_back(VITRINE_TRY(
                    taker.convolution(name + "conv2", name + "bn2", middle, 3, 1, Activation::None, &channels)));
                convolutions += 2;
            }
            const std::string conv =
                taker.has(name + "downsample.0.weight") ? name + "downsample." : name + "shortcut.";
            if (taker.has(conv + "0.weight")) {
                block.shortcut = Shortcut::Convolution;
                std::int64_t out = 0;
                block.shortcut_convolution =
                    VITRINE_TRY(taker.convolution(conv + "0", conv + "1", in, 1, stride, Activation::None, &out));
                if (out != channels)
                    return fail(ErrorCode::BadInput, "{}0.weight gives {} channels, expected {}", conv, out, channels);
            } else if (stride == 1 && in == channels) {
                block.shortcut = Shortcut::Identity;
            } else if (cifar && stride == 2 && channels > in) {
                block.shortcut = Shortcut::PadChannels;
            } else {
                return fail(ErrorCode::BadInput, "{}downsample.0.weight is missing, expected [{}, {}, 1, 1]", name,
                            channels, in);
            }
            block.relu_after = true;
            block.point = fmt::format("layer{}.{}", layer, index);
            block.meaning = "the block's output";
            config.blocks.push_back(std::move(block));
        }
        if (index == 0) return fail(ErrorCode::BadInput, "layer{}.0.conv1.weight is missing", layer);
        config.blocks.back().point = fmt::format("layer{}", layer);
        config.blocks.back().meaning = "the stage's output";
    }
    config.width = channels;
    config.classifier.push_back(
        VITRINE_TRY(linear(taker, taker.has("linear.weight") ? "linear" : "fc", channels, &config.classes)));
    title = fmt::format("{}-{}{}", groups > 1 ? "ResNeXt" : "ResNet", convolutions + 1, cifar ? " (CIFAR)" : "");
    if (groups > 1) title += fmt::format(" {} groups", groups);
    return config;
}

Result<CnnConfig> vgg(Taker& taker, std::string& title) {
    CnnConfig config;
    std::int64_t channels = 3;
    int index = 0, convolutions = 0;
    bool normed = false;
    while (true) {
        const std::string name = fmt::format("features.{}", index);
        if (!taker.has(name + ".weight")) break;
        Block block;
        const std::string norm = fmt::format("features.{}", index + 1);
        const bool has_norm = taker.has(norm + ".running_mean");
        normed = normed || has_norm;
        block.path.push_back(
            VITRINE_TRY(taker.convolution(name, has_norm ? norm : "", channels, 3, 1, Activation::Relu, &channels)));
        ++convolutions;
        const int step = has_norm ? 3 : 2;  // convolution, perhaps norm, ReLU; then the next one or a pooling
        if (taker.has(fmt::format("features.{}.weight", index + step))) {
            index += step;
        } else {
            block.max_pool = 2;
            index += step + 1;
        }
        block.point = fmt::format("features.{}", index - 1);
        block.meaning = block.max_pool != 0 ? "after convolution, ReLU and pooling" : "after convolution and ReLU";
        config.blocks.push_back(std::move(block));
    }
    config.width = channels;
    const auto first = VITRINE_TRY(taker.shape("classifier.0.weight", 2));
    std::int64_t side = 1;
    while (side < 64 && side * side * channels < first[1]) ++side;
    config.pool = side;
    std::int64_t from = side * side * channels;
    int linears = 0;
    for (int i = 0; i < 32; ++i) {
        const std::string name = fmt::format("classifier.{}", i);
        if (!taker.has(name + ".weight")) continue;
        config.classifier.push_back(VITRINE_TRY(linear(taker, name, from, &config.classes)));
        from = config.classes;
        ++linears;
    }
    config.dropout = 0.5;  // torchvision.models.vgg
    title = fmt::format("VGG-{}{}", convolutions + linears, normed ? " BN" : "");
    return config;
}

/// Strides of MobileNetV2's 17 blocks: in no tensor (Sandler et al., CVPR 2018, table 2).
constexpr std::array<int, 17> kMobileStrides{1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1};

Result<CnnConfig> mobilenet_v2(Taker& taker, std::string& title) {
    CnnConfig config;
    std::int64_t channels = 0;
    Block stem;
    stem.path.push_back(
        VITRINE_TRY(taker.convolution("features.0.0", "features.0.1", 3, 3, 2, Activation::Relu6, &channels)));
    stem.point = "features.0";
    stem.meaning = "after the first convolution";
    config.blocks.push_back(stem);
    for (int i = 1; i <= 17; ++i) {
        const std::string name = fmt::format("features.{}.conv.", i);
        const std::int64_t in = channels, stride = kMobileStrides[static_cast<std::size_t>(i - 1)];
        Block block;
        std::int64_t middle = in;
        const bool expands = taker.has(name + "1.0.weight");
        if (expands)
            block.path.push_back(
                VITRINE_TRY(taker.convolution(name + "0.0", name + "0.1", in, 1, 1, Activation::Relu6, &middle)));
        const std::string depthwise = name + (expands ? "1" : "0");
        block.path.push_back(VITRINE_TRY(
            taker.convolution(depthwise + ".0", depthwise + ".1", middle, 3, stride, Activation::Relu6, &middle)));
        const int project = expands ? 2 : 1;
        block.path.push_back(
            VITRINE_TRY(taker.convolution(fmt::format("{}{}", name, project), fmt::format("{}{}", name, project + 1),
                                          middle, 1, 1, Activation::None, &channels)));
        block.shortcut = stride == 1 && in == channels ? Shortcut::Identity : Shortcut::None;
        block.point = fmt::format("features.{}", i);
        block.meaning = "the inverted residual's output";
        config.blocks.push_back(std::move(block));
    }
    if (taker.has("features.19.conv.0.0.weight"))
        return fail(ErrorCode::Unsupported,
                    "features.19 is there: MobileNetV2 has 17 blocks, and the strides of another number cannot be told "
                    "from the file");
    Block last;
    last.path.push_back(
        VITRINE_TRY(taker.convolution("features.18.0", "features.18.1", channels, 1, 1, Activation::Relu6, &channels)));
    last.point = "features.18";
    last.meaning = "after the last convolution";
    config.blocks.push_back(std::move(last));
    config.width = channels;
    config.classifier.push_back(VITRINE_TRY(linear(taker, "classifier.1", channels, &config.classes)));
    config.dropout = 0.2;  // torchvision.models.mobilenet_v2
    title = "MobileNetV2";
    return config;
}

Result<CnnConfig> mobilenet_v2_tf(Taker& taker, std::string& title) {
    CnnConfig config;
    std::int64_t channels = 0;
    const auto same = [](Convolution c) {
        c.same = true;
        return c;
    };
    Block stem;
    stem.path.push_back(same(VITRINE_TRY(taker.convolution("stem", "", 3, 3, 2, Activation::Relu6, &channels))));
    stem.point = "stem";
    stem.meaning = "after the first convolution";
    config.blocks.push_back(stem);
    for (int i = 1; i <= 17; ++i) {
        const std::string name = fmt::format("block{}.", i);
        const std::int64_t in = channels, stride = kMobileStrides[static_cast<std::size_t>(i - 1)];
        Block block;
        std::int64_t middle = in;
        if (taker.has(name + "expand.weight"))
            block.path.push_back(
                same(VITRINE_TRY(taker.convolution(name + "expand", "", in, 1, 1, Activation::Relu6, &middle))));
        block.path.push_back(same(
            VITRINE_TRY(taker.convolution(name + "depthwise", "", middle, 3, stride, Activation::Relu6, &middle))));
        block.path.push_back(
            same(VITRINE_TRY(taker.convolution(name + "project", "", middle, 1, 1, Activation::None, &channels))));
        block.shortcut = stride == 1 && in == channels ? Shortcut::Identity : Shortcut::None;
        block.point = fmt::format("block{}", i);
        block.meaning = "the inverted residual's output";
        config.blocks.push_back(std::move(block));
    }
    Block last;
    last.path.push_back(same(VITRINE_TRY(taker.convolution("head", "", channels, 1, 1, Activation::Relu6, &channels))));
    last.point = "head";
    last.meaning = "after the last convolution";
    config.blocks.push_back(std::move(last));
    config.width = channels;
    const auto shape = VITRINE_TRY(taker.shape("classifier.weight", 4));
    config.classes = shape[0];
    const int weight = VITRINE_TRY(taker.take("classifier.weight", {shape[0], channels, 1, 1}));
    config.classifier.emplace_back(weight, VITRINE_TRY(taker.take("classifier.bias", {shape[0]})));
    config.folded = true;
    title = "MobileNetV2 (TensorFlow)";
    return config;
}

/// What each family's published weights are fed with.
Preprocess usual_preprocess(Family family) {
    Preprocess p;
    p.interpolation = Interpolation::Bilinear;
    p.resize_to = 256;
    p.source = "torchvision preset";  // IMAGENET1K_V1 weights: resize 256 bilinear, centre crop 224
    if (family == Family::CifarResNet) {
        p.resize_to = p.input_height = p.input_width = 32;
        p.source = "assumed";
    } else if (family == Family::MobileNetV2Tf) {
        p.mean = p.std = {0.5, 0.5, 0.5};
        p.source = "assumed";
    }
    return p;
}

}  // namespace

Recognition recognise_names(const Checkpoint& checkpoint) {
    switch (family_of(checkpoint)) {
        case Family::ResNet:
            return {0.9, "torchvision names of a ResNet: conv1, layer1 to layer4, fc"};
        case Family::CifarResNet:
            return {0.9, "names of a CIFAR ResNet: conv1 3x3, layer1 to layer3, linear"};
        case Family::Vgg:
            return {0.9, "torchvision names of a VGG: features.0 3x3, classifier.0"};
        case Family::MobileNetV2:
            return {0.9, "torchvision names of MobileNetV2: features.0.0, features.1.conv, classifier.1"};
        case Family::MobileNetV2Tf:
            return {0.9, "names of a folded TensorFlow MobileNetV2: stem, block1.depthwise, head, classifier"};
        case Family::None:
            break;
    }
    return {0, "no ResNet, VGG or MobileNetV2 under known names"};
}

Result<std::unique_ptr<CnnModel>> build_cnn(const Checkpoint& checkpoint) {
    const Family family = family_of(checkpoint);
    Taker taker(checkpoint);
    std::string title;
    CnnConfig config;
    switch (family) {
        case Family::ResNet:
            config = VITRINE_TRY(resnet(taker, false, title));
            break;
        case Family::CifarResNet:
            config = VITRINE_TRY(resnet(taker, true, title));
            break;
        case Family::Vgg:
            config = VITRINE_TRY(vgg(taker, title));
            break;
        case Family::MobileNetV2:
            config = VITRINE_TRY(mobilenet_v2(taker, title));
            break;
        case Family::MobileNetV2Tf:
            config = VITRINE_TRY(mobilenet_v2_tf(taker, title));
            break;
        case Family::None:
            return fail(ErrorCode::Unsupported, "this is no convolutional network known here: {}",
                        recognise_names(checkpoint).why);
    }
    // A tensor without a place is a computation left out: a squeeze-and-excitation, another stem.
    const auto left = taker.left();
    if (!left.empty())
        return fail(ErrorCode::Unsupported, "{}{} has no place in a {}; what it does is not known here",
                    checkpoint.stripped_prefix, left.front(), title);
    const std::int64_t classes = config.classes;
    auto model = std::make_unique<CnnModel>(std::move(config), std::move(taker).tensors());
    ModelInfo& info = model->info();
    const auto path = checkpoint.path.filename().empty() ? checkpoint.path.parent_path() : checkpoint.path;
    info.name = path.stem().string();
    if (const auto named = checkpoint.config.find("architecture");
        named != checkpoint.config.end() && named->is_string())
        info.name = named->get<std::string>();
    info.title = title;
    info.dialect = family == Family::MobileNetV2Tf ? "tensorflow"
                   : family == Family::CifarResNet ? "akamaster"
                                                   : "torchvision";
    info.why = recognise_names(checkpoint).why;
    model->preprocess() = VITRINE_TRY(preprocess_for(checkpoint, usual_preprocess(family)));
    model->labels() = VITRINE_TRY(labels_for(checkpoint, classes));
    return model;
}

Checkpoint checkpoint_of(const NamedTensors& tensors) {
    Checkpoint checkpoint;
    checkpoint.kind = FileKind::Safetensors;
    checkpoint.config = nlohmann::json::object();
    checkpoint.preprocessor = nlohmann::json::object();
    checkpoint.file.format = "memory";
    for (const auto& [name, tensor] : tensors) {
        auto kept = std::make_shared<at::Tensor>(tensor.to(at::kFloat).contiguous());
        TensorEntry entry;
        entry.shape = kept->sizes().vec();
        entry.strides = kept->strides().vec();
        entry.data = static_cast<const std::byte*>(kept->const_data_ptr());
        entry.keep_alive = kept;
        checkpoint.file.tensors.emplace(name, std::move(entry));
    }
    return checkpoint;
}

}  // namespace vitrine::plugin::cnn
