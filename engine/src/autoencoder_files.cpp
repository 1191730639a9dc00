// Autoencoders on disk: our own file, and those of SAELens, ViT-Prisma, saev and OpenAI.
#include "autoencoder_files.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <functional>
#include <memory>
#include <regex>

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>
#include <vitrine/engine.h>
#include <vitrine/torch_errors.h>

#include "tensor_io.h"

namespace vitrine {

std::filesystem::path built_in_concepts() {
    return resource("starter/concepts.safetensors").value_or(std::filesystem::path());
}

namespace {

constexpr const char* kFormat = "vitrine.autoencoder";

/// One entry of the configuration from its text.
Status set(AutoencoderConfig& config, const std::string& key, const std::string& text) {
    const auto flag = [&](bool& value) -> Status {
        if (text != "true" && text != "false")
            return fail(ErrorCode::BadInput, "{} is '{}', expected true or false", key, text);
        value = text == "true";
        return {};
    };
    if (key == "kind")
        config.kind = text;
    else if (key == "normalise")
        config.normalise = text;
    else if (key == "point")
        config.point = text;
    else if (key == "tokens")
        config.tokens = text;
    else if (key == "subtract_decoder_bias")
        return flag(config.subtract_decoder_bias);
    else if (key == "keep_negative")
        return flag(config.keep_negative);
    else if (key == "weigh_by_decoder")
        return flag(config.weigh_by_decoder);
    else if (key == "k") {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), config.k);
        if (error != std::errc() || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "k is '{}', expected a whole number", text);
    } else if (key == "scale" || key == "ridge") {
        double& value = key == "scale" ? config.scale : config.ridge;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "the {} is '{}', expected a number", key, text);
    } else {
        return fail(ErrorCode::BadInput, "an autoencoder has no setting '{}'", key);
    }
    return {};
}

const std::vector<std::string>& config_keys() {
    static const std::vector<std::string> keys = {
        "kind",  "k",      "normalise", "scale", "subtract_decoder_bias", "keep_negative", "weigh_by_decoder",
        "point", "tokens", "ridge"};
    return keys;
}

bool is_config_key(const std::string& key) {
    return std::find(config_keys().begin(), config_keys().end(), key) != config_keys().end();
}

}  // namespace

Status Autoencoder::save(const std::filesystem::path& file) const {
    std::map<std::string, std::string> metadata = facts;
    const auto word = [](bool value) { return value ? "true" : "false"; };
    metadata["format"] = kFormat;
    metadata["kind"] = config_.kind;
    metadata["k"] = std::to_string(config_.k);
    metadata["normalise"] = config_.normalise;
    metadata["scale"] = fmt::format("{}", config_.scale);  // the shortest text that reads back as the same number
    metadata["subtract_decoder_bias"] = word(config_.subtract_decoder_bias);
    metadata["keep_negative"] = word(config_.keep_negative);
    metadata["weigh_by_decoder"] = word(config_.weigh_by_decoder);
    if (config_.ridge != 0) metadata["ridge"] = fmt::format("{}", config_.ridge);
    metadata["point"] = config_.point;
    metadata["tokens"] = config_.tokens;
    NamedTensors tensors;
    for (const auto& [name, tensor] : tensors_) tensors.emplace_back(name, tensor.detach().to(at::kFloat));
    return write_tensors(file, tensors, metadata);
}

namespace {

/// What a file holds, in our names.
struct Found {
    AutoencoderConfig config;
    std::map<std::string, std::string> facts;
    std::map<std::string, TensorEntry> tensors;
    std::map<std::string, at::Tensor> made;  ///< those that had to be turned or computed
    std::string hook;                        ///< the library's name of what is read; empty: it does not say
    std::vector<std::string> asks;           ///< settings that the file leaves open
};

/// The library's names of points that are ours. The norms' (`hook_normalized`) are left out: with a norm's weights
/// folded into the next layer, as the libraries can do, they mean something else.
std::string point_of_hook(const std::string& hook) {
    static const std::regex block(R"(blocks\.(\d{1,4})\.(hook_resid_post|hook_resid_pre|hook_mlp_out|hook_attn_out))");
    std::smatch match;
    if (!std::regex_match(hook, match, block)) return {};
    const int layer = std::stoi(match[1]);
    const std::string what = match[2];
    if (what == "hook_resid_post") return fmt::format("blocks.{}", layer);
    if (what == "hook_resid_pre") return layer == 0 ? "" : fmt::format("blocks.{}", layer - 1);
    return fmt::format("blocks.{}.{}", layer, what == "hook_mlp_out" ? "mlp" : "attn");
}

nlohmann::json json_beside(const std::filesystem::path& file) {
    for (const char* name : {"cfg.json", "config.json"}) {
        std::error_code ignored;
        const auto path = file.parent_path() / name;
        const auto size = std::filesystem::file_size(path, ignored);
        if (ignored || size > 16'000'000) continue;
        std::ifstream in(path, std::ios::binary);
        auto read = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
        if (read.is_object()) return read;
    }
    return nlohmann::json::object();
}

/// A value of a JSON object or of a flattened dictionary, as text; empty where there is none.
std::string text_of(const nlohmann::json& object, const std::string& key) {
    const auto it = object.find(key);
    if (it == object.end() || it->is_null()) return {};
    if (it->is_string()) return it->get<std::string>();
    if (it->is_array()) return it->size() == 1 && it->front().is_number() ? it->front().dump() : std::string();
    return it->dump();
}

Status normalised_by(Found& found, const std::string& name) {
    if (name.empty() || name == "none") {
        found.config.normalise = "none";
    } else if (name == "layer_norm") {
        found.config.normalise = name;
    } else if (name == "constant_norm_rescale") {
        found.config.normalise = "constant_norm";
    } else if (name == "expected_average_only_in") {
        found.config.normalise = "expected_average";
        found.asks.push_back("scale");  // the libraries fold it into the weights or do not write it
    } else {
        return fail(ErrorCode::Unsupported, "it normalises its input by '{}', which is not known here", name);
    }
    return {};
}

/// SAELens and ViT-Prisma: tensors in our names, a configuration of theirs.
///
/// @param said  a value of the configuration as text, or empty
Status of_saelens_or_prisma(Found& found, const std::function<std::string(const std::string&)>& said) {
    const bool prisma = !said("activation_fn_str").empty() && !said("hook_point_layer").empty();
    std::string kind = said("architecture");
    const std::string activation = said("activation_fn_str");
    if (said("is_transcoder") == "true" || kind.find("transcoder") != std::string::npos)
        return fail(ErrorCode::Unsupported, "it is a transcoder, which reads one point and writes another");
    if (const std::string reshape = said("reshape_activations"); !reshape.empty() && reshape != "none")
        return fail(ErrorCode::Unsupported, "it reads activations reshaped by '{}', which is not done here", reshape);
    std::string k = said("k");
    if (k.empty()) k = said("activation_fn_kwargs.k");
    if (kind.empty() && activation.empty()) {
        found.asks = {"kind", "normalise"};
        if (found.tensors.count("b_gate") != 0) found.config.kind = "gated", found.asks = {"normalise"};
        if (found.tensors.count("threshold") != 0) found.config.kind = "jump_relu", found.asks = {"normalise"};
        return {};
    }
    if (kind.empty() || kind == "standard") {
        if (!activation.empty() && activation != "relu" && activation != "topk")
            return fail(ErrorCode::Unsupported, "its activation is '{}', which is not known here", activation);
        found.config.kind = activation == "topk" ? "top_k" : "relu";
    } else if (kind == "gated" && (activation.empty() || activation == "relu")) {
        found.config.kind = "gated";
    } else if (kind == "topk") {
        found.config.kind = "top_k";
    } else if (kind == "batchtopk" || kind == "matryoshka_batchtopk") {
        found.config.kind = "batch_top_k";
        if (const auto it = found.tensors.find("topk_threshold"); it != found.tensors.end())
            found.made["threshold"] = VITRINE_TRY(to_tensor(it->second)).reshape({-1});
    } else if (kind == "jumprelu") {
        found.config.kind = "jump_relu";
        if (const auto it = found.tensors.find("log_threshold"); it != found.tensors.end())
            found.made["threshold"] = VITRINE_TRY(to_tensor(it->second)).exp();
    } else {
        return fail(ErrorCode::Unsupported,
                    "its architecture is '{}' with the activation '{}', which is not known here", kind, activation);
    }
    if (found.config.kind == "top_k" || found.config.kind == "batch_top_k") {
        if (k.ends_with(".0")) k.resize(k.size() - 2);
        if (k.empty())
            found.asks.push_back("k");
        else
            VITRINE_CHECK(set(found.config, "k", k));
        found.config.weigh_by_decoder = said("rescale_acts_by_decoder_norm") == "true";
    }
    VITRINE_CHECK(normalised_by(found, said("normalize_activations")));
    found.config.subtract_decoder_bias = prisma || said("apply_b_dec_to_input") != "false";
    if (said("cls_token_only") == "true") found.config.tokens = "class";
    if (said("use_patches_only") == "true") found.config.tokens = "patches";
    found.hook = prisma ? fmt::format("blocks.{}.{}", said("hook_point_layer"), said("layer_subtype"))
                        : said("metadata.hook_name");
    if (found.hook.empty()) found.hook = said("hook_name");
    for (const char* name : {"metadata.model_name", "model_name"})
        if (const std::string model = said(name); !model.empty()) found.facts.emplace("model", model);
    return {};
}

/// OpenAI: matrices the other way round. What is chosen by size is read after a norm.
Status of_openai(Found& found, const std::map<std::string, std::string>& metadata) {
    const auto said = [&](const char* key) { return metadata.count(key) != 0 ? metadata.at(key) : std::string(); };
    const auto take = [&](const char* from, const char* to, bool turned) -> Status {
        const auto it = found.tensors.find(from);
        if (it == found.tensors.end()) return fail(ErrorCode::BadInput, "it lacks {}", from);
        at::Tensor tensor = VITRINE_TRY(to_tensor(it->second));
        if (turned && tensor.dim() != 2) return fail(ErrorCode::BadInput, "{} is no matrix", from);
        found.made[to] = turned ? tensor.t().contiguous() : tensor;
        return {};
    };
    VITRINE_CHECK(take("encoder.weight", "W_enc", true));
    VITRINE_CHECK(take("latent_bias", "b_enc", false));
    VITRINE_CHECK(take("pre_bias", "b_dec", false));
    const bool tied = found.tensors.count("decoder.weight") == 0 && found.tensors.count("decoder.linear.weight") != 0;
    VITRINE_CHECK(tied ? take("encoder.weight", "W_dec", false) : take("decoder.weight", "W_dec", true));
    const std::string activation = said("activation");
    if (activation.empty()) {
        found.asks = {"kind"};
    } else if (activation == "ReLU") {
        found.config.kind = "relu";
    } else if (activation == "TopK") {
        found.config.kind = "top_k";
        found.config.normalise = "layer_norm";
        found.config.keep_negative = said("activation_state_dict.postact_fn") == "Identity";
        if (const std::string k = said("activation_state_dict.k"); k.empty())
            found.asks.push_back("k");
        else
            VITRINE_CHECK(set(found.config, "k", k));
    } else {
        return fail(ErrorCode::Unsupported, "its activation is '{}', which is not known here", activation);
    }
    return {};
}

/// saev: a line of JSON, then a file of torch.save. Neither the decoder's bias is taken off nor ReLU put on the chosen.
Status of_saev(Found& found, const nlohmann::json& header) {
    const nlohmann::json& config = header.contains("cfg") && header["cfg"].is_object() ? header["cfg"] : header;
    std::string kind = text_of(header, "cls"), k = text_of(config, "top_k");
    if (const auto it = config.find("activation"); it != config.end() && it->is_object()) {
        kind = text_of(*it, "cls");
        if (const auto params = it->find("params"); params != it->end() && params->is_object())
            k = text_of(*params, "top_k");
    }
    if (kind.empty() && !header.contains("schema")) kind = "Relu";
    found.config.subtract_decoder_bias = false;
    if (kind == "Relu") {
        found.config.kind = "relu";
        return {};
    }
    if (kind != "TopK" && kind != "BatchTopK")
        return fail(ErrorCode::Unsupported, "its activation is '{}', which is not known here", kind);
    found.config.kind = kind == "TopK" ? "top_k" : "batch_top_k";
    found.config.keep_negative = true;
    if (k.empty())
        found.asks.push_back("k");
    else
        VITRINE_CHECK(set(found.config, "k", k));
    if (const auto it = found.tensors.find("activation.threshold"); it != found.tensors.end())
        found.made["threshold"] = VITRINE_TRY(to_tensor(it->second)).reshape({-1});
    return {};
}

Result<std::pair<nlohmann::json, TensorFile>> read_saev(const std::filesystem::path& file) {
    std::ifstream in(file, std::ios::binary);
    std::string line;
    constexpr std::size_t kLongestHeader = 1 << 20;
    for (int c = in.get(); c != std::char_traits<char>::eof() && c != '\n'; c = in.get()) {
        line.push_back(static_cast<char>(c));
        if (line.size() > kLongestHeader) break;
    }
    auto header = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!header.is_object())
        return fail(ErrorCode::BadInput, "{} is no autoencoder: JSON without the tensors that saev writes behind it",
                    file.string());
    const std::uintmax_t size = std::filesystem::file_size(file), from = line.size() + 1;
    if (size <= from) return fail(ErrorCode::BadInput, "{} ends after its header", file.string());
    auto bytes = std::make_shared<std::vector<std::byte>>(size - from);
    if (!in.read(reinterpret_cast<char*>(bytes->data()), static_cast<std::streamsize>(bytes->size())))
        return fail(ErrorCode::Io, "{} cannot be read to its end", file.string());
    auto read = VITRINE_TRY(parse_torch_save(*bytes, bytes));
    return std::pair{std::move(header), std::move(read)};
}

Result<Found> find_autoencoder(const std::filesystem::path& file) {
    const FileKind kind = VITRINE_TRY(sniff(file));
    Found found;
    if (kind == FileKind::Json) {
        auto [header, read] = VITRINE_TRY(read_saev(file));
        found.tensors = std::move(read.tensors);
        VITRINE_CHECK(of_saev(found, header));
        found.facts["format"] = "saev";
        return found;
    }
    const bool saved = kind == FileKind::TorchSaveZip || kind == FileKind::TorchSaveLegacy;
    if (!saved && kind != FileKind::Safetensors)
        return fail(ErrorCode::BadInput, "it is neither safetensors nor a file of torch.save");
    auto read = VITRINE_TRY(saved ? read_torch_save(file) : read_safetensors(file));
    const auto format = read.metadata.find("format");
    if (!saved && format != read.metadata.end() && format->second == kFormat) {
        found.tensors = std::move(read.tensors);
        for (const auto& [key, value] : read.metadata) {
            if (key == "format") continue;
            if (is_config_key(key))
                VITRINE_CHECK(set(found.config, key, value));
            else
                found.facts[key] = value;
        }
        return found;
    }
    if (!saved && format != read.metadata.end() && format->second.starts_with("vitrine."))
        return fail(ErrorCode::BadInput, "it is no autoencoder but a file of the format {}", format->second);
    for (auto& [name, entry] : read.tensors)
        found.tensors.emplace(name.starts_with("state_dict.") ? name.substr(11) : name, std::move(entry));
    if (found.tensors.count("encoder.weight") != 0 && found.tensors.count("latent_bias") != 0) {
        VITRINE_CHECK(of_openai(found, read.metadata));
        found.facts["format"] = "OpenAI";
        return found;
    }
    if (found.tensors.count("W_enc") == 0)
        return fail(ErrorCode::BadInput, "it has no W_enc [width, latents] and no encoder.weight [latents, width]");
    const nlohmann::json beside = json_beside(file);
    const bool own = std::any_of(read.metadata.begin(), read.metadata.end(),
                                 [](const auto& item) { return item.first.starts_with("cfg."); });
    VITRINE_CHECK(of_saelens_or_prisma(found, [&](const std::string& key) -> std::string {
        if (own) return read.metadata.count("cfg." + key) != 0 ? read.metadata.at("cfg." + key) : std::string();
        const std::size_t dot = key.find('.');
        if (dot == std::string::npos) return text_of(beside, key);
        const auto it = beside.find(key.substr(0, dot));
        return it != beside.end() && it->is_object() ? text_of(*it, key.substr(dot + 1)) : std::string();
    }));
    found.facts["format"] = own || beside.contains("hook_point_layer") ? "ViT-Prisma" : "SAELens";
    return found;
}

Result<Autoencoder> assembled(Found found, const std::map<std::string, std::string>& given) {
    for (const auto& [key, value] : given) VITRINE_CHECK(set(found.config, key, value));
    for (const std::string& ask : found.asks)
        if (given.count(ask) == 0) return fail(ErrorCode::BadInput, "it does not say its {0}; give {0}=VALUE", ask);
    if (found.config.point.empty() && !found.hook.empty()) {
        found.config.point = point_of_hook(found.hook);
        if (found.config.point.empty())
            return fail(ErrorCode::Unsupported,
                        "it reads '{}', which is no point here; known are blocks.N.hook_resid_post, hook_resid_pre (of "
                        "the second block on), hook_mlp_out and hook_attn_out; point=NAME names one of the model's own",
                        found.hook);
    }
    return Autoencoder::of(std::move(found.config), std::move(found.facts),
                           [&](const std::string& name) -> Result<at::Tensor> {
                               if (const auto made = found.made.find(name); made != found.made.end())
                                   return made->second;
                               if (const auto it = found.tensors.find(name); it != found.tensors.end())
                                   return to_tensor(it->second);
                               return fail(ErrorCode::BadInput, "it lacks {}", name);
                           });
}

}  // namespace

Result<Autoencoder> Autoencoder::of(AutoencoderConfig config, std::map<std::string, std::string> facts,
                                    const std::function<Result<at::Tensor>(const std::string&)>& tensor) {
    Autoencoder out;
    out.config_ = std::move(config);
    out.facts = std::move(facts);
    const at::Tensor encoder = VITRINE_TRY(tensor("W_enc"));
    if (encoder.dim() != 2)
        return fail(ErrorCode::BadInput, "W_enc has {} axes, expected [width, latents]", encoder.dim());
    out.config_.width = encoder.size(0);
    out.config_.latents = encoder.size(1);
    VITRINE_CHECK(check_config(out.config_));
    for (const auto& [name, shape] : autoencoder_shapes(out.config_)) {
        at::Tensor one = name == "W_enc" ? encoder : VITRINE_TRY(tensor(name));
        if (one.sizes() != at::IntArrayRef(shape))
            return fail(ErrorCode::BadInput, "{} is [{}], expected [{}]", name, fmt::join(one.sizes(), ", "),
                        fmt::join(shape, ", "));
        if (!at::isfinite(one).all().item<bool>())
            return fail(ErrorCode::BadInput, "{} has numbers that are not finite", name);
        if (out.config_.kind == "nmf" && name == "W_dec" && one.lt(0).any().item<bool>())
            return fail(ErrorCode::BadInput, "W_dec has negative numbers, which a dictionary of nmf has not");
        out.tensors_.emplace_back(name, std::move(one));
    }
    return out;
}

Result<Autoencoder> Autoencoder::load(const std::filesystem::path& given_path,
                                      const std::map<std::string, std::string>& given) {
    std::error_code ignored;
    std::filesystem::path file = given_path;
    if (std::filesystem::is_directory(file, ignored)) {
        for (const char* name : {"sae_weights.safetensors", "weights.pt"})
            if (std::filesystem::exists(given_path / name, ignored)) file = given_path / name;
        if (file == given_path)
            return fail(ErrorCode::NotFound, "{} holds neither sae_weights.safetensors nor weights.pt", file.string());
    }
    if (!std::filesystem::exists(file, ignored))
        return fail(ErrorCode::NotFound, "there is no autoencoder at {}", file.string());
    auto made = guarded([&]() -> Result<Autoencoder> {
        Found found = VITRINE_TRY(find_autoencoder(file));
        return assembled(std::move(found), given);
    });
    if (!made) return tl::make_unexpected(std::move(made.error()).with_context("reading " + file.string()));
    return made;
}

}  // namespace vitrine
