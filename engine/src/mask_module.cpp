// T-TAME's attention module: its layers' branches, the fuser, its file.
#include <vitrine/mask_module.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/random.h>
#include <vitrine/base/readers.h>
#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/explainer.h>
#include <vitrine/torch_errors.h>

#include "shared_sums.h"
#include "tensor_io.h"
#include "text.h"

namespace vitrine {

namespace {

constexpr const char* kFormat = "vitrine.mask";
constexpr std::int64_t kLargestSide = 56;
constexpr double kNormMomentum = 0.1, kNormEpsilon = 1e-5;

bool has_layer(const std::vector<NamedPoint>& points, const std::string& name) {
    return std::any_of(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == name; });
}

at::Tensor resized_to(const at::Tensor& x, std::int64_t rows, std::int64_t cols) {
    if (x.size(2) == rows && x.size(3) == cols) return x;
    return at::upsample_bilinear2d(x, {rows, cols}, /*align_corners=*/false);
}

}  // namespace

std::vector<std::string> mask_versions() { return {"tame", "ttame", "sigmoid", "no_skip", "no_skip_no_norm", "l_cam"}; }

Result<MaskFeatures> mask_features(Model& model, const at::Tensor& pixels, const MaskConfig& config,
                                   std::stop_token stop) {
    const auto points = model.points();
    for (const std::string& layer : config.layers) {
        if (has_layer(points, layer)) continue;
        std::vector<std::string> names;
        for (const NamedPoint& p : points) names.push_back(p.name);
        return fail(ErrorCode::BadInput, "{} has no layer '{}'{} (vitrine info MODEL --points lists them)",
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
                    "which layers of {} a mask should read could not be told; name them with layers=A,B,C "
                    "(vitrine info MODEL --points lists them)",
                    model.info().name);
    return out;
}

std::string weights_hash(Model& model) {
    std::uint64_t key = 0;
    const auto parameters = model.parameters();
    if (parameters.empty()) return {};
    for (const auto& [name, tensor] : parameters) {
        const at::Tensor plain = tensor.detach().to(at::kBFloat16).to(at::kCPU).contiguous();
        const auto* bytes = static_cast<const std::byte*>(plain.const_data_ptr());
        key = mix64(key ^ hash_of(name));
        std::size_t at = 0;
        for (; at + 8 <= plain.nbytes(); at += 8) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes + at, 8);
            key = mix64(key ^ word);
        }
        key = mix64(key ^ hash_of({reinterpret_cast<const char*>(bytes) + at, plain.nbytes() - at}));
    }
    return fmt::format("{:016x}", key);
}

bool MaskModule::has_norms() const { return config_.version != "no_skip_no_norm" && config_.version != "l_cam"; }

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
    if (config.classes < 1) return fail(ErrorCode::BadInput, "a mask explains classes, and there are none");
    MaskModule out;
    out.config_ = std::move(config);
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    // Kaiming uniform with a = sqrt 5 is uniform within 1 / sqrt(fan in), and so is the bias.
    const auto convolution = [&](const std::string& name, std::int64_t to, std::int64_t from) {
        const double bound = 1 / std::sqrt(static_cast<double>(from));
        out.parameters_.emplace_back(name + ".weight", at::empty({to, from, 1, 1}).uniform_(-bound, bound, generator));
        out.parameters_.emplace_back(name + ".bias", at::empty({to}).uniform_(-bound, bound, generator));
    };
    std::int64_t width = 0;
    for (std::size_t s = 0; s < out.config_.layers.size(); ++s) {
        const std::int64_t channels = out.config_.channels[s], wide = out.branch_width(s);
        width += wide;
        if (out.config_.version == "l_cam") continue;
        convolution(fmt::format("convs.{}", s), wide, channels);
        if (!out.has_norms()) continue;
        const std::string norm = fmt::format("bns.{}", s);
        out.parameters_.emplace_back(norm + ".weight", at::ones({wide}));
        out.parameters_.emplace_back(norm + ".bias", at::zeros({wide}));
        out.statistics_.emplace_back(norm + ".running_mean", at::zeros({wide}));
        out.statistics_.emplace_back(norm + ".running_var", at::ones({wide}));
    }
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
}

at::Tensor MaskModule::branch(std::size_t s, const at::Tensor& features, bool training, Peers* peers) const {
    if (config_.version == "l_cam") return features;
    const std::string conv = fmt::format("convs.{}", s), norm = fmt::format("bns.{}", s);
    at::Tensor u = at::conv2d(features, tensor(conv + ".weight"), tensor(conv + ".bias"));
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
    // The definition resizes every channel, then weighs them. Both are linear and act on other axes: the other way
    // round it is the same, with the few wanted classes to resize instead of all channels.
    at::Tensor sum;
    for (std::size_t s = 0; s < features.size(); ++s) {
        const at::Tensor part = weighed(s, branch(s, features[s], training, peers), weight, features.front());
        sum = s == 0 ? part : sum + part;
    }
    return sum + bias.view({1, -1, 1, 1});
}

at::Tensor MaskModule::weighed(std::size_t s, const at::Tensor& u, const at::Tensor& weight,
                               const at::Tensor& shallowest) const {
    std::int64_t from = 0;
    for (std::size_t before = 0; before < s; ++before) from += branch_width(before);
    return resized_to(at::conv2d(u, weight.narrow(1, from, branch_width(s))),
                      std::min(shallowest.size(2), kLargestSide), std::min(shallowest.size(3), kLargestSide));
}

at::Tensor MaskModule::contributions(const std::vector<at::Tensor>& features, std::int64_t index) const {
    const at::Tensor weight = tensor("fuser.weight").narrow(0, index, 1);
    std::vector<at::Tensor> out;
    for (std::size_t s = 0; s < features.size(); ++s)
        out.push_back(weighed(s, branch(s, features[s], false, nullptr), weight, features.front()));
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
    const auto trained = facts.find("weights");
    if (trained == facts.end() || trained->second.empty()) return {};
    // fp16 rounds otherwise than bf16, of which the hash is made.
    const auto parameters = model.parameters();
    if (parameters.empty() || parameters.front().second.scalar_type() == at::kHalf) return {};
    if (const std::string now = weights_hash(model); now != trained->second)
        return fail(ErrorCode::BadInput,
                    "the mask was trained for {} with weights {}, and {} has weights {}; train one for this model",
                    ours, trained->second, model.info().name, now);
    return {};
}

std::string MaskModule::doubt(Model& model) const {
    if (facts.count("weights") == 0) return "the file does not say which weights the mask was trained for";
    const auto parameters = model.parameters();
    if (parameters.empty()) return "the weights of this model cannot be compared with those the mask was trained for";
    return {};
}

Status MaskModule::save(const std::filesystem::path& file, at::ScalarType precision) const {
    std::map<std::string, std::string> metadata = facts;
    metadata["format"] = kFormat;
    metadata["version"] = config_.version;
    metadata["layers"] = nlohmann::json(config_.layers).dump();
    metadata["classes"] = std::to_string(config_.classes);
    NamedTensors tensors;
    for (const auto& [name, tensor] : parameters_) tensors.emplace_back(name, tensor.detach().to(precision));
    for (const auto& item : statistics_) tensors.push_back(item);
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
    if (saved) {
        // generic.attn_mech.[1.]convs.0.weight in the authors' files, attn_mech.convs.0.weight in older ones; L-CAM's
        // one convolution is called `op`.
        for (const auto& [name, entry] : read->tensors) {
            const std::size_t at = name.find("attn_mech.");
            if (at == std::string::npos || name.find("optimizer") != std::string::npos) continue;
            std::string rest = name.substr(at + 10);
            if (rest.starts_with("1.")) rest.erase(0, 2);
            if (rest.starts_with("op.")) rest = "fuser" + rest.substr(2);
            if (!rest.ends_with("num_batches_tracked")) found.emplace(rest, VITRINE_TRY(to_tensor(entry)));
        }
        if (found.count("fuser.weight") == 0)
            return fail(ErrorCode::BadInput, "{} holds no attention module (no attn_mech tensors)", file.string());
        if (layers.empty())
            return fail(ErrorCode::BadInput,
                        "{} does not say which layers it reads in our names; give them with layers=A,B,C",
                        file.string());
        config.layers = std::move(layers);
        const bool plain = found.count("convs.0.weight") == 0;
        const bool norms = found.count("bns.0.weight") != 0;
        config.version = plain ? "l_cam" : norms ? "tame" : "no_skip_no_norm";
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
        for (const auto& [name, entry] : read->tensors)
            if (name.starts_with("convs.") || name.starts_with("bns.") || name.starts_with("fuser."))
                found.emplace(name, VITRINE_TRY(to_tensor(entry)));
    }
    const auto fuser = found.find("fuser.weight");
    if (fuser == found.end() || fuser->second.dim() != 4 || fuser->second.numel() == 0)
        return fail(ErrorCode::BadInput, "{} has no fuser.weight [classes, channels, 1, 1]", file.string());
    config.classes = fuser->second.size(0);
    for (std::size_t s = 0; s < config.layers.size(); ++s) {
        if (config.version == "l_cam") {
            config.channels.push_back(fuser->second.size(1));
            continue;
        }
        const auto weight = found.find(fmt::format("convs.{}.weight", s));
        if (weight == found.end() || weight->second.dim() != 4)
            return fail(ErrorCode::BadInput, "{} has no convs.{}.weight for its layer {}", file.string(), s,
                        config.layers[s]);
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
            if (key != "format" && key != "version" && key != "layers" && key != "classes") made->facts[key] = value;
    return std::move(*made);
}

at::Tensor masked(const at::Tensor& pixels, const at::Tensor& mask, MaskPolicy policy, const Preprocess& preprocess) {
    const at::Tensor m = resized_to(mask, pixels.size(2), pixels.size(3));
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
