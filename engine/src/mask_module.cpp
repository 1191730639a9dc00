// T-TAME's attention module: its layers' branches, the fuser, its file.
#include <vitrine/mask_module.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_trilinear3d.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/hash_bytes.h>
#include <vitrine/base/random.h>
#include <vitrine/base/readers.h>
#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/explainer.h>
#include <vitrine/model_identity.h>
#include <vitrine/steering.h>
#include <vitrine/torch_errors.h>

#include "shared_sums.h"
#include "tensor_io.h"
#include "text.h"

namespace vitrine {

namespace {

constexpr const char* kFormat = "vitrine.mask";
constexpr std::int64_t kLargestSide = 56;
constexpr double kNormMomentum = 0.1, kNormEpsilon = 1e-5;
constexpr double kLayerNormEpsilon = 1e-6;            // of the versions over tokens
constexpr std::int64_t kHeads = 12, kHeadWidth = 64;  // attention_v1 and _v2; attention_v3

bool has_layer(const std::vector<NamedPoint>& points, const std::string& name) {
    return std::any_of(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == name; });
}

/// 0 where the number is no square.
std::int64_t square_root(std::int64_t n) {
    const std::int64_t root = std::llround(std::sqrt(static_cast<double>(std::max<std::int64_t>(n, 0))));
    return root * root == n ? root : 0;
}

/// [batch, prefix + rows * rows, channels] -> [batch, channels, rows, rows]
at::Tensor grid_of(const at::Tensor& tokens, std::int64_t prefix) {
    const std::int64_t patches = tokens.size(1) - prefix, side = square_root(patches);
    TORCH_CHECK(side > 0, patches, " tokens are no square grid");
    return tokens.narrow(1, prefix, patches).transpose(1, 2).reshape({tokens.size(0), tokens.size(2), side, side});
}

/// Of the authors' names; empty for one that is not among them.
std::string version_of(const std::string& authors) {
    static const std::map<std::string, std::string> ours{{"TAME", "tame"},
                                                         {"TTAME", "ttame"},
                                                         {"3D-TAME", "volume"},
                                                         {"Noskipconnection", "no_skip"},
                                                         {"NoskipNobatchnorm", "no_skip_no_norm"},
                                                         {"Sigmoidinfeaturebranch", "sigmoid"},
                                                         {"TAttentionV1", "attention_v1"},
                                                         {"TAttentionV1_1", "attention_v1_1"},
                                                         {"TAttentionV1_2", "attention_v1_2"},
                                                         {"TAttentionV2", "attention_v2"},
                                                         {"TAttentionV2_1", "attention_v2_1"},
                                                         {"TAttentionV2_2", "attention_v2_2"},
                                                         {"TAttentionV3", "attention_v3"}};
    const auto found = ours.find(authors);
    return found == ours.end() ? std::string() : found->second;
}

/// A point of ours by torchvision's name of the node: convolutional networks use the same names, vision transformers do
/// not. `.ln` is what the published script asks for; torchvision has ln_1 and ln_2, and which was meant is not known.
std::string point_of(const std::string& node) {
    constexpr std::string_view kBlock = "encoder.layers.encoder_layer_";
    if (!node.starts_with(kBlock)) return node;
    const std::size_t dot = node.find('.', kBlock.size());
    const std::string block = "blocks." + node.substr(kBlock.size(), dot - kBlock.size());
    if (dot == std::string::npos) return block;
    const std::string part = node.substr(dot + 1);
    if (part == "ln_1" || part == "ln") return block + ".norm1";
    if (part == "ln_2") return block + ".norm2";
    return part == "add_1" ? block : node;
}

at::Tensor convolved(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return x.dim() == 5 ? at::conv3d(x, weight, bias) : at::conv2d(x, weight, bias);
}

at::Tensor resized_to(const at::Tensor& x, at::IntArrayRef size) {
    if (x.sizes().slice(2) == size) return x;
    return size.size() == 3 ? at::upsample_trilinear3d(x, size, /*align_corners=*/false)
                            : at::upsample_bilinear2d(x, size, /*align_corners=*/false);
}

/// [batch, tokens, channels] of a layer that a version over tokens can read.
Result<at::Tensor> square_tokens(const at::Tensor& x, const std::string& layer, const TokenLayout& layout,
                                 const MaskConfig& config) {
    const bool map = x.dim() == 4;
    if (map && config.version != "attention_v3")
        return fail(ErrorCode::Unsupported,
                    "version {} reads tokens, and {} is a map; use version=attention_v3 or tame", config.version,
                    layer);
    const std::int64_t patches =
        map ? x.size(2) * x.size(3) : x.size(1) - static_cast<std::int64_t>(layout.prefix.size());
    if (square_root(patches) == 0 || (map && x.size(2) != x.size(3)))
        return fail(ErrorCode::Unsupported, "version {} reads a square grid, and {} has {} patches; use version=tame",
                    config.version, layer, patches);
    return (map ? x.flatten(2).transpose(1, 2) : x).to(at::kFloat).contiguous();
}

}  // namespace

std::vector<std::string> mask_versions() {
    return {"tame",           "ttame",          "sigmoid",        "no_skip",        "no_skip_no_norm",
            "l_cam",          "attention_v1",   "attention_v1_1", "attention_v1_2", "attention_v2",
            "attention_v2_1", "attention_v2_2", "attention_v3",   "volume"};
}

Result<MaskFeatures> mask_features(Model& model, const at::Tensor& pixels, const MaskConfig& config,
                                   std::stop_token stop) {
    const auto points = model.points();
    for (const std::string& layer : config.layers) {
        if (has_layer(points, layer)) continue;
        std::vector<std::string> names;
        for (const NamedPoint& p : points) names.push_back(p.name);
        return fail(ErrorCode::BadInput, "{} has no layer '{}'{}; its named points are what can be read",
                    model.info().name, layer, suggest(layer, names));
    }
    const at::NoGradGuard no_grad;
    CaptureOptions options;
    options.mixings = false;
    options.points = config.layers;
    options.stop = std::move(stop);
    const auto seen = VITRINE_TRY(run_captured(model, pixels, options));
    MaskFeatures out;
    out.answer = seen->output.to(at::kFloat);
    const TokenLayout layout = model.layout(pixels.size(2), pixels.size(3));
    for (const std::string& layer : config.layers) {
        const auto found = seen->points.find(layer);
        if (found == seen->points.end())
            return fail(ErrorCode::Unsupported, "{} did not pass its layer {} on this picture", model.info().name,
                        layer);
        const at::Tensor& x = found->second;
        if (x.dim() != 3 && x.dim() != 4)
            return fail(ErrorCode::Unsupported, "{} is no map and no row of tokens, it has {} axes", layer, x.dim());
        if (config.reads_tokens()) {
            out.maps.push_back(VITRINE_TRY(square_tokens(x, layer, layout, config)));
            continue;
        }
        if (config.version == "volume")
            return fail(ErrorCode::Unsupported, "version volume reads maps with a depth, which {} of {} has not", layer,
                        model.info().name);
        at::Tensor grid = VITRINE_TRY(as_grid(x, layout));
        if (config.version == "ttame") {
            if (x.dim() != 3 || layout.prefix.empty() || layout.prefix.front() != "cls")
                return fail(ErrorCode::Unsupported,
                            "version ttame multiplies patches by the class token, which {} has not; use version=tame",
                            model.info().name);
            grid = grid * x.select(1, 0).unsqueeze(-1).unsqueeze(-1);
        }
        out.maps.push_back(grid.to(at::kFloat));
    }
    return out;
}

Result<std::vector<std::string>> mask_layers(Model& model, const std::string& version) {
    std::vector<std::string> out;
    const auto points = model.points();
    if (model.info().layers > 0) {
        for (const NamedPoint& p : points)
            if (p.name.ends_with(".norm1") || p.name.ends_with(".ln_1")) out.push_back(p.name);
    } else {
        // One run tells each map's size; of those that share one the last is taken, and of all resolutions the last
        // three.
        CaptureOptions options;
        options.mixings = false;
        options.points = {"*"};
        const auto& p = model.preprocess();
        const at::Tensor nothing = at::zeros({1, 3, p.input_height, p.input_width});
        const at::NoGradGuard no_grad;
        const auto seen = VITRINE_TRY(run_captured(model, nothing, options));
        // Ends of stages where the architecture names them, outputs of poolings for VGG.
        const auto named = [&](const char* word) {
            return std::count_if(points.begin(), points.end(),
                                 [&](const NamedPoint& q) { return q.meaning.find(word) != std::string::npos; }) >= 3;
        };
        const char* word = named("the stage's output") ? "the stage's output"
                           : named("and pooling")      ? "and pooling"
                                                       : "";
        std::int64_t side = -1;
        for (const NamedPoint& q : points) {
            const auto found = seen->points.find(q.name);
            if (found == seen->points.end() || found->second.dim() != 4 || q.meaning.find(word) == std::string::npos)
                continue;
            if (q.name == "features" && !out.empty() && found->second.size(2) == side) continue;
            if (found->second.size(2) == side)
                out.back() = q.name;
            else
                out.push_back(q.name);
            side = found->second.size(2);
        }
    }
    const std::size_t wanted = version == "l_cam" ? 1 : 3;
    if (out.size() > wanted) out.erase(out.begin(), out.end() - static_cast<std::ptrdiff_t>(wanted));
    if (out.empty())
        return fail(ErrorCode::Unsupported,
                    "which layers of {} a mask should read could not be told; name some of its named points "
                    "as layers, with commas between",
                    model.info().name);
    return out;
}

namespace {

/// The same for fp32 and bf16.
std::uint64_t hash_with(std::uint64_t key, const std::string& name, const at::Tensor& tensor) {
    const at::Tensor plain = tensor.detach().to(at::kBFloat16).to(at::kCPU).contiguous();
    return hash_bytes(mix64(key ^ hash_of(name)), plain.const_data_ptr(), plain.nbytes());
}

}  // namespace

std::string weights_hash(Model& model) {
    std::uint64_t key = 0;
    const auto parameters = model.parameters();
    if (parameters.empty()) return {};
    for (const auto& [name, tensor] : parameters) key = hash_with(key, name, tensor);
    return fmt::format("{:016x}", key);
}

bool MaskModule::has_norms() const {
    return config_.version != "no_skip_no_norm" && config_.version != "l_cam" && !config_.reads_tokens();
}

std::int64_t MaskModule::branch_width(std::size_t s) const {
    return config_.version == "no_skip" ? config_.classes : config_.channels[s];
}

Result<MaskModule> MaskModule::make(MaskConfig config, std::uint64_t seed) {
    const auto versions = mask_versions();
    if (std::find(versions.begin(), versions.end(), config.version) == versions.end())
        return fail(ErrorCode::BadInput, "the version is '{}', expected one of {}", config.version,
                    fmt::join(versions, ", "));
    if (config.layers.empty() || config.channels.size() != config.layers.size())
        return fail(ErrorCode::BadInput, "a mask needs a number of channels for each of its layers, found {} for {}",
                    config.channels.size(), config.layers.size());
    if (config.version == "l_cam" && config.layers.size() != 1)
        return fail(ErrorCode::BadInput, "L-CAM reads one layer, found {}: {}", config.layers.size(),
                    fmt::join(config.layers, ", "));
    if (config.version.starts_with("attention_v1") || config.version.starts_with("attention_v2"))
        for (const std::int64_t channels : config.channels)
            if (channels % kHeads != 0 || channels != config.channels.front())
                return fail(ErrorCode::Unsupported,
                            "version {} has {} heads over layers of one width, which {} channels are not; use "
                            "version=attention_v3 or tame",
                            config.version, kHeads, fmt::join(config.channels, ", "));
    if (config.version == "attention_v3")
        for (const std::int64_t channels : config.channels)
            if (channels % kHeadWidth != 0)
                return fail(ErrorCode::Unsupported, "version attention_v3 has heads of {} channels, and a layer has {}",
                            kHeadWidth, channels);
    if (config.classes < 1) return fail(ErrorCode::BadInput, "a mask explains classes, and there are none");
    MaskModule out;
    out.config_ = std::move(config);
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    // Kaiming uniform with a = sqrt 5 is uniform within 1 / sqrt(fan in), and so is the bias.
    const auto convolution = [&](const std::string& name, std::int64_t to, std::int64_t from) {
        const double bound = 1 / std::sqrt(static_cast<double>(from));
        std::vector<std::int64_t> shape{to, from, 1, 1};
        if (out.config_.version == "volume") shape.push_back(1);
        out.parameters_.emplace_back(name + ".weight", at::empty(shape).uniform_(-bound, bound, generator));
        out.parameters_.emplace_back(name + ".bias", at::empty({to}).uniform_(-bound, bound, generator));
    };
    // As torch.nn.MultiheadAttention draws them.
    const auto attention = [&](const std::string& name, std::int64_t channels) {
        const double wide = std::sqrt(6.0 / (4.0 * static_cast<double>(channels))),
                     bound = 1 / std::sqrt(static_cast<double>(channels));
        out.parameters_.emplace_back(name + ".in_proj_weight",
                                     at::empty({3 * channels, channels}).uniform_(-wide, wide, generator));
        out.parameters_.emplace_back(name + ".in_proj_bias", at::zeros({3 * channels}));
        out.parameters_.emplace_back(name + ".out_proj.weight",
                                     at::empty({channels, channels}).uniform_(-bound, bound, generator));
        out.parameters_.emplace_back(name + ".out_proj.bias", at::zeros({channels}));
    };
    const auto layer_norm = [&](const std::string& name, std::int64_t channels) {
        out.parameters_.emplace_back(name + ".weight", at::ones({channels}));
        out.parameters_.emplace_back(name + ".bias", at::zeros({channels}));
    };
    std::int64_t width = 0;
    for (std::size_t s = 0; s < out.config_.layers.size(); ++s) {
        const std::int64_t channels = out.config_.channels[s], wide = out.branch_width(s);
        width += wide;
        if (out.config_.version == "l_cam") continue;
        if (out.config_.reads_tokens()) {
            attention(fmt::format("mhas.{}", s), channels);
            if (out.config_.version != "attention_v3") {
                layer_norm(fmt::format("lns.{}", s), channels);
                continue;
            }
            // The authors' module has a second norm, lns_2, which its forward does not use.
            layer_norm(fmt::format("lns_1.{}", s), channels);
            for (const auto& [part, to, from] :
                 {std::tuple{0, 4 * channels, channels}, std::tuple{3, channels, 4 * channels}}) {
                const double bound = std::sqrt(6.0 / (5.0 * static_cast<double>(channels)));
                const std::string name = fmt::format("mlps.{}.{}", s, part);
                out.parameters_.emplace_back(name + ".weight",
                                             at::empty({to, from}).uniform_(-bound, bound, generator));
                out.parameters_.emplace_back(name + ".bias", at::empty({to}).normal_(0, 1e-6, generator));
            }
            continue;
        }
        convolution(fmt::format("convs.{}", s), wide, channels);
        if (!out.has_norms()) continue;
        const std::string norm = fmt::format("bns.{}", s);
        out.parameters_.emplace_back(norm + ".weight", at::ones({wide}));
        out.parameters_.emplace_back(norm + ".bias", at::zeros({wide}));
        out.statistics_.emplace_back(norm + ".running_mean", at::zeros({wide}));
        out.statistics_.emplace_back(norm + ".running_var", at::ones({wide}));
    }
    if (out.config_.mixes_layers()) attention("mha_fuser", width);
    convolution("fuser", out.config_.classes, width);
    return out;
}

const at::Tensor& MaskModule::tensor(const std::string& name) const {
    for (const auto* list : {&parameters_, &statistics_})
        for (const auto& [key, value] : *list)
            if (key == name) return value;
    static const at::Tensor none;
    return none;
}

std::int64_t MaskModule::size() const {
    std::int64_t count = 0;
    for (const auto& [name, tensor] : parameters_) count += tensor.numel();
    return count;
}

void MaskModule::to(at::Device device) {
    for (auto* list : {&parameters_, &statistics_})
        for (auto& [name, tensor] : *list) tensor = tensor.detach().to(device);
    for (auto& [name, tensor] : backbone) tensor = tensor.to(device);
}

at::Tensor MaskModule::attended(const at::Tensor& x, const std::string& name, std::int64_t heads) const {
    const std::int64_t batch = x.size(0), tokens = x.size(1), width = x.size(2);
    const at::Tensor qkv = at::linear(x, tensor(name + ".in_proj_weight"), tensor(name + ".in_proj_bias"))
                               .view({batch, tokens, 3, heads, width / heads})
                               .permute({2, 0, 3, 1, 4});
    const at::Tensor y = at::scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2);
    return at::linear(y.reshape({batch, tokens, width}), tensor(name + ".out_proj.weight"),
                      tensor(name + ".out_proj.bias"));
}

at::Tensor MaskModule::tokens_branch(std::size_t s, const at::Tensor& x) const {
    const std::int64_t width = x.size(2);
    const auto normed = [&](const at::Tensor& y, const std::string& name) {
        return at::layer_norm(y, {width}, tensor(name + ".weight"), tensor(name + ".bias"), kLayerNormEpsilon);
    };
    const std::string mha = fmt::format("mhas.{}", s), norm = fmt::format("lns.{}", s);
    const std::string& version = config_.version;
    if (version == "attention_v3") {
        // The published forward applies the first norm twice and never the second.
        const std::string first = fmt::format("lns_1.{}", s), mlp = fmt::format("mlps.{}", s);
        const at::Tensor y = x + attended(normed(x, first), mha, width / kHeadWidth);
        const at::Tensor hidden =
            at::gelu(at::linear(normed(y, first), tensor(mlp + ".0.weight"), tensor(mlp + ".0.bias")));
        return y + at::linear(hidden, tensor(mlp + ".3.weight"), tensor(mlp + ".3.bias"));
    }
    if (version.ends_with("_2")) return at::gelu(x + attended(normed(x, norm), mha, kHeads));
    const at::Tensor y = x + normed(attended(x, mha, kHeads), norm);
    return version.ends_with("_1") ? at::gelu(y) : at::relu(y);
}

/// Of the map that comes out, by what the layers show.
std::vector<std::int64_t> MaskModule::map_size(const std::vector<at::Tensor>& features) const {
    const at::Tensor& first = features.front();
    if (config_.version == "volume") return {first.size(2), first.size(3), first.size(4)};
    if (!config_.reads_tokens()) return {std::min(first.size(2), kLargestSide), std::min(first.size(3), kLargestSide)};
    // As published: grids that agree are left as they are, however large.
    const bool alike =
        std::all_of(features.begin(), features.end(), [&](const at::Tensor& x) { return x.size(1) == first.size(1); });
    const std::int64_t side = square_root(first.size(1) - config_.prefix);
    return std::vector<std::int64_t>(2, alike ? side : std::min(side, kLargestSide));
}

at::Tensor MaskModule::branch(std::size_t s, const at::Tensor& features, bool training, Peers* peers) const {
    if (config_.version == "l_cam") return features;
    if (config_.reads_tokens()) return grid_of(tokens_branch(s, features), config_.prefix);
    const std::string conv = fmt::format("convs.{}", s), norm = fmt::format("bns.{}", s);
    at::Tensor u = convolved(features, tensor(conv + ".weight"), tensor(conv + ".bias"));
    if (has_norms() && training && peers != nullptr && peers->count() > 1)
        u = shared_batch_norm(u, tensor(norm + ".weight"), tensor(norm + ".bias"), tensor(norm + ".running_mean"),
                              tensor(norm + ".running_var"), kNormMomentum, kNormEpsilon, *peers);
    else if (has_norms())
        u = at::batch_norm(u, tensor(norm + ".weight"), tensor(norm + ".bias"), tensor(norm + ".running_mean"),
                           tensor(norm + ".running_var"), training, kNormMomentum, kNormEpsilon,
                           /*cudnn_enabled=*/false);
    if (config_.version == "sigmoid") return at::sigmoid(u + features);
    if (config_.version == "no_skip" || config_.version == "no_skip_no_norm") return at::relu(u);
    return at::relu(u + features);
}

at::Tensor MaskModule::logits(const std::vector<at::Tensor>& features, const at::Tensor& classes, bool training,
                              Peers* peers) const {
    at::Tensor weight = tensor("fuser.weight"), bias = tensor("fuser.bias");
    if (classes.defined()) {
        weight = weight.index_select(0, classes);
        bias = bias.index_select(0, classes);
    }
    if (config_.mixes_layers()) {
        std::vector<at::Tensor> branches;
        for (std::size_t s = 0; s < features.size(); ++s) branches.push_back(tokens_branch(s, features[s]));
        return at::conv2d(grid_of(attended(at::cat(branches, 2), "mha_fuser", kHeads), config_.prefix), weight, bias);
    }
    // The definition resizes every channel, then weighs them. Both are linear and act on other axes: the other way
    // round it is the same, with the few wanted classes to resize instead of all channels.
    const auto size = map_size(features);
    at::Tensor sum;
    for (std::size_t s = 0; s < features.size(); ++s) {
        const at::Tensor part = weighed(s, branch(s, features[s], training, peers), weight, size);
        sum = s == 0 ? part : sum + part;
    }
    return sum + (size.size() == 3 ? bias.view({1, -1, 1, 1, 1}) : bias.view({1, -1, 1, 1}));
}

at::Tensor MaskModule::weighed(std::size_t s, const at::Tensor& u, const at::Tensor& weight,
                               const std::vector<std::int64_t>& size) const {
    std::int64_t from = 0;
    for (std::size_t before = 0; before < s; ++before) from += branch_width(before);
    return resized_to(convolved(u, weight.narrow(1, from, branch_width(s)), {}), size);
}

at::Tensor MaskModule::contributions(const std::vector<at::Tensor>& features, std::int64_t index) const {
    if (config_.mixes_layers()) return {};
    const at::Tensor weight = tensor("fuser.weight").narrow(0, index, 1);
    const auto size = map_size(features);
    std::vector<at::Tensor> out;
    for (std::size_t s = 0; s < features.size(); ++s)
        out.push_back(weighed(s, branch(s, features[s], false, nullptr), weight, size));
    return at::cat(out, 1);
}

Status MaskModule::fits(Model& model) const {
    const std::string ours = facts.count("model") != 0 ? facts.at("model") : "another model";
    if (model.info().classes != config_.classes)
        return fail(ErrorCode::BadInput, "the mask was trained for {} with {} classes, {} has {}", ours,
                    config_.classes, model.info().name, model.info().classes);
    const auto points = model.points();
    for (const std::string& layer : config_.layers)
        if (!has_layer(points, layer))
            return fail(ErrorCode::BadInput, "the mask reads the layer {} of {}, which {} has not", layer, ours,
                        model.info().name);
    if (config_.reads_tokens()) {
        const auto& p = model.preprocess();
        const auto prefix = static_cast<std::int64_t>(model.layout(p.input_height, p.input_width).prefix.size());
        if (prefix != config_.prefix)
            return fail(ErrorCode::BadInput, "the mask was trained with {} tokens before the patches, {} has {}",
                        config_.prefix, model.info().name, prefix);
    }
    // fp16 rounds otherwise than bf16, of which the hash is made.
    const auto parameters = model.parameters();
    if (parameters.empty() || parameters.front().second.scalar_type() == at::kHalf) return {};
    for (const auto& [name, tensor] : parameters)
        if (const auto one = published_.find(name);
            one != published_.end() && one->second != hash_with(0, name, tensor))
            return fail(ErrorCode::BadInput, "the checkpoint's frozen model has another {} than {}; open its own model",
                        name, model.info().name);
    const auto trained = facts.find("weights");
    if (trained == facts.end() || trained->second.empty()) return {};
    if (const std::string now = weights_hash(model); now != trained->second)
        return fail(ErrorCode::BadInput,
                    "the mask was trained for {} with weights {}, and {} has weights {}; train one for this model",
                    ours, trained->second, model.info().name, now);
    return {};
}

std::string MaskModule::doubt(Model& model) const {
    // The weights are those it learned, what they are made to say is not.
    const auto steering = facts.find("steering");
    const std::string changes = changes_of(model);
    if (steering != facts.end() && steering->second != steering_identity(model))
        return fmt::format(
            "the mask was trained while concepts were steered otherwise ({}; now: {}): how well it does here was never "
            "learned",
            facts.count("steered") != 0 ? facts.at("steered") : "how is not said",
            changes.empty() ? "none is" : changes);
    if (steering == facts.end() && !changes.empty())
        return fmt::format(
            "the mask was trained while no concept was steered ({}): it follows the steered model's layers, and how "
            "well it does was never learned",
            changes);
    const auto parameters = model.parameters();
    const bool compared = std::any_of(parameters.begin(), parameters.end(),
                                      [&](const auto& item) { return published_.count(item.first) != 0; });
    if (const auto unsure = facts.find("unsure"); unsure != facts.end()) return unsure->second;
    if (facts.count("weights") == 0 && !compared)
        return "which weights the mask was trained for cannot be told from its file";
    if (parameters.empty()) return "the weights of this model cannot be compared with those the mask was trained for";
    return {};
}

Status MaskModule::save(const std::filesystem::path& file, at::ScalarType precision) const {
    std::map<std::string, std::string> metadata = facts;
    metadata["format"] = kFormat;
    metadata["version"] = config_.version;
    metadata["layers"] = nlohmann::json(config_.layers).dump();
    metadata["classes"] = std::to_string(config_.classes);
    if (config_.prefix > 0) metadata["prefix"] = std::to_string(config_.prefix);
    NamedTensors tensors;
    for (const auto& [name, tensor] : parameters_) tensors.emplace_back(name, tensor.detach().to(precision));
    for (const auto& item : statistics_) tensors.push_back(item);
    for (const auto& [name, tensor] : backbone) tensors.emplace_back("backbone." + name, tensor);
    return write_tensors(file, tensors, metadata);
}

Result<MaskModule> MaskModule::load(const std::filesystem::path& file, std::vector<std::string> layers) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored))
        return fail(ErrorCode::NotFound, "there is no mask at {}", file.string());
    const FileKind kind = VITRINE_TRY(sniff(file));
    const bool saved = kind == FileKind::TorchSaveZip || kind == FileKind::TorchSaveLegacy;
    if (!saved && kind != FileKind::Safetensors)
        return fail(ErrorCode::BadInput, "{} is no mask: neither safetensors nor a checkpoint of torch.save",
                    file.string());
    auto read = saved ? read_torch_save(file) : read_safetensors(file);
    if (!read) return tl::make_unexpected(std::move(read.error()).with_context("reading " + file.string()));
    const auto& metadata = read->metadata;
    const auto fact = [&](const char* key) { return metadata.count(key) != 0 ? metadata.at(key) : std::string(); };

    MaskConfig config;
    std::map<std::string, at::Tensor> found;
    NormStatistics backbone;
    std::map<std::string, std::uint64_t> published;
    std::map<std::string, std::string> told;
    if (saved) {
        // generic.attn_mech.[1.]convs.0.weight in the authors' files, attn_mech.convs.0.weight in older ones; L-CAM's
        // one convolution is called `op`.
        for (const auto& [name, entry] : read->tensors) {
            // The frozen model, which the training mode has changed in its running statistics; it is there twice.
            if (const std::size_t body = name.find("generic.body."); body != std::string::npos) {
                const std::string own = name.substr(body + 13);
                if (own.ends_with("num_batches_tracked")) continue;
                const at::Tensor tensor = VITRINE_TRY(to_tensor(entry));
                if (own.ends_with(".running_mean") || own.ends_with(".running_var")) {
                    if (!at::isfinite(tensor).all().item<bool>() ||
                        (own.ends_with("var") && tensor.lt(0).any().item<bool>()))
                        return fail(ErrorCode::BadInput, "{}: {} has numbers that no running statistic has",
                                    file.string(), name);
                    backbone.emplace(own, tensor);
                } else {
                    published.emplace(own, hash_with(0, own, tensor));
                }
                continue;
            }
            const std::size_t at = name.find("attn_mech.");
            if (at == std::string::npos || name.find("optimizer") != std::string::npos) continue;
            std::string rest = name.substr(at + 10);
            if (rest.starts_with("1.")) rest.erase(0, 2);
            if (rest.starts_with("op.")) rest = "fuser" + rest.substr(2);
            if (rest.starts_with("cnn_fuser.")) rest.erase(0, 4);
            if (!rest.ends_with("num_batches_tracked")) found.emplace(rest, VITRINE_TRY(to_tensor(entry)));
        }
        if (found.count("fuser.weight") == 0)
            return fail(ErrorCode::BadInput, "{} holds no attention module (no attn_mech tensors)", file.string());
        if (layers.empty())
            for (int i = 0; i < 64; ++i) {
                const auto node = metadata.find(fmt::format("hyper_parameters.layers.{}", i));
                if (node == metadata.end()) break;
                layers.push_back(point_of(node->second));
                if (node->second.ends_with(".ln"))
                    told["unsure"] = fmt::format(
                        "the checkpoint names {}, which torchvision does not have; {} was taken, ttame.layers= takes "
                        "others",
                        node->second, layers.back());
            }
        if (layers.empty())
            return fail(ErrorCode::BadInput,
                        "{} does not say which layers it reads in our names; give them with layers=A,B,C",
                        file.string());
        config.layers = std::move(layers);
        const bool plain = found.count("convs.0.weight") == 0;
        const bool norms = found.count("bns.0.weight") != 0;
        const std::string authors = fact("hyper_parameters.attention_version");
        config.version = version_of(authors);
        if (!authors.empty() && config.version.empty() && found.count("fuser.weight") != 0 && !plain)
            return fail(ErrorCode::Unsupported, "{} holds the version '{}', which is not known here", file.string(),
                        authors);
        if (config.version.empty() && found.count("mhas.0.in_proj_weight") != 0)
            return fail(ErrorCode::BadInput,
                        "{} holds one of the attention versions and does not say which; their tensors are alike",
                        file.string());
        if (config.version.empty() || (plain && !config.reads_tokens()))
            config.version = plain ? "l_cam" : norms ? "tame" : "no_skip_no_norm";
        config.prefix = config.reads_tokens() ? 1 : 0;  // the class token of the authors' vision transformers
        if (const std::string name = fact("hyper_parameters.model_name"); !name.empty()) told["model"] = name;
        // The stored method of the published networks may be `new`; the authors' own script overrides it.
        if (const std::string method = fact("hyper_parameters.train_method"); !method.empty())
            told["policy"] =
                method == "new" && told["model"] != "vgg16" && told["model"] != "resnet50" ? "mean" : "black";
    } else {
        if (fact("format") != kFormat)
            return fail(ErrorCode::BadInput, "{} is a safetensors file but no mask; vitrine train-mask makes one",
                        file.string());
        const auto names = nlohmann::json::parse(fact("layers"), nullptr, false);
        if (!names.is_array() || names.empty() || names.size() > 64 ||
            !std::all_of(names.begin(), names.end(), [](const auto& name) { return name.is_string(); }))
            return fail(ErrorCode::BadInput, "{} does not say which layers it reads", file.string());
        config.layers = names.get<std::vector<std::string>>();
        config.version = fact("version");
        const std::string prefix = fact("prefix");
        std::from_chars(prefix.data(), prefix.data() + prefix.size(), config.prefix);
        if (config.prefix < 0 || config.prefix > 4096)
            return fail(ErrorCode::BadInput, "{} says {} tokens before the patches", file.string(), config.prefix);
        for (const auto& [name, entry] : read->tensors) {
            const at::Tensor tensor = VITRINE_TRY(to_tensor(entry));
            if (!name.starts_with("backbone.")) {
                found.emplace(name, tensor);
                continue;
            }
            if (!at::isfinite(tensor).all().item<bool>())
                return fail(ErrorCode::BadInput, "{}: {} has numbers that are not finite", file.string(), name);
            backbone.emplace(name.substr(9), tensor);
        }
    }
    const auto fuser = found.find("fuser.weight");
    if (fuser == found.end() || fuser->second.dim() != (config.version == "volume" ? 5 : 4) ||
        fuser->second.numel() == 0)
        return fail(ErrorCode::BadInput, "{} has no fuser.weight [classes, channels, 1, 1]", file.string());
    config.classes = fuser->second.size(0);
    for (std::size_t s = 0; s < config.layers.size(); ++s) {
        if (config.version == "l_cam") {
            config.channels.push_back(fuser->second.size(1));
            continue;
        }
        const std::string name =
            config.reads_tokens() ? fmt::format("mhas.{}.in_proj_weight", s) : fmt::format("convs.{}.weight", s);
        const auto weight = found.find(name);
        if (weight == found.end() || weight->second.dim() < 2)
            return fail(ErrorCode::BadInput, "{} has no {} for its layer {}", file.string(), name, config.layers[s]);
        config.channels.push_back(weight->second.size(1));
    }
    auto made = make(std::move(config), 0);
    if (!made) return tl::make_unexpected(std::move(made.error()).with_context("reading " + file.string()));
    for (auto* list : {&made->parameters_, &made->statistics_})
        for (auto& [name, tensor] : *list) {
            const auto it = found.find(name);
            if (it == found.end()) return fail(ErrorCode::BadInput, "{} lacks {}", file.string(), name);
            if (it->second.sizes() != tensor.sizes())
                return fail(ErrorCode::BadInput, "{}: {} is [{}], expected [{}]", file.string(), name,
                            fmt::join(it->second.sizes(), ", "), fmt::join(tensor.sizes(), ", "));
            if (!at::isfinite(it->second).all().item<bool>())
                return fail(ErrorCode::BadInput, "{}: {} has numbers that are not finite", file.string(), name);
            tensor = it->second;
        }
    if (!saved)
        for (const auto& [key, value] : metadata)
            if (key != "format" && key != "version" && key != "layers" && key != "classes" && key != "prefix")
                made->facts[key] = value;
    made->facts.merge(told);
    made->backbone = std::move(backbone);
    made->published_ = std::move(published);
    return std::move(*made);
}

at::Tensor masked(const at::Tensor& pixels, const at::Tensor& mask, MaskPolicy policy, const Preprocess& preprocess) {
    const at::Tensor m = resized_to(mask, {pixels.size(2), pixels.size(3)});
    if (policy == MaskPolicy::Mean) return m * pixels;
    // normalise(m * colours) = m * normalised + (1 - m) * normalise(black)
    at::Tensor black = at::empty({1, 3, 1, 1}, pixels.options());
    for (std::size_t c = 0; c < 3; ++c)  // filled where it is: a copy would wait for the device
        black.select(1, static_cast<std::int64_t>(c)).fill_(-preprocess.mean[c] / preprocess.std[c]);
    return black + m * (pixels - black);
}

at::Tensor min_max(const at::Tensor& maps) {
    const at::Tensor low = maps.amin({-2, -1}, true);
    return (maps - low) / (maps.amax({-2, -1}, true) - low + 1e-10);
}

}  // namespace vitrine
