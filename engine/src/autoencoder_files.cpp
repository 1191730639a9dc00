// Autoencoders on disk: our own file.
#include "autoencoder_files.h"

#include <algorithm>
#include <charconv>

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <fmt/ranges.h>

#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>

#include "tensor_io.h"

namespace vitrine {

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
    } else if (key == "scale") {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), config.scale);
        if (error != std::errc() || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "the scale is '{}', expected a number", text);
    } else {
        return fail(ErrorCode::BadInput, "an autoencoder has no setting '{}'", key);
    }
    return {};
}

const std::vector<std::string>& config_keys() {
    static const std::vector<std::string> keys = {
        "kind",  "k",     "normalise", "scale", "subtract_decoder_bias", "keep_negative", "weigh_by_decoder",
        "point", "tokens"};
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
    metadata["point"] = config_.point;
    metadata["tokens"] = config_.tokens;
    NamedTensors tensors;
    for (const auto& [name, tensor] : tensors_) tensors.emplace_back(name, tensor.detach().to(at::kFloat));
    return write_tensors(file, tensors, metadata);
}

Result<Autoencoder> Autoencoder::load(const std::filesystem::path& file,
                                      const std::map<std::string, std::string>& given) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored))
        return fail(ErrorCode::NotFound, "there is no autoencoder at {}", file.string());
    const FileKind kind = VITRINE_TRY(sniff(file));
    if (kind != FileKind::Safetensors)
        return fail(ErrorCode::BadInput, "{} is no autoencoder: not a safetensors file", file.string());
    auto read = read_safetensors(file);
    if (!read) return tl::make_unexpected(std::move(read.error()).with_context("reading " + file.string()));
    const auto named = [&](Error error) {
        return tl::make_unexpected(std::move(error).with_context("reading " + file.string()));
    };
    const auto format = read->metadata.find("format");
    if (format == read->metadata.end() || format->second != kFormat)
        return fail(ErrorCode::BadInput, "{} is a safetensors file but no autoencoder of Vitrine", file.string());

    Autoencoder out;
    for (const auto& [key, value] : read->metadata) {
        if (key == "format") continue;
        if (!is_config_key(key)) {
            out.facts[key] = value;
        } else if (Status done = set(out.config_, key, value); !done) {
            return named(std::move(done.error()));
        }
    }
    for (const auto& [key, value] : given) VITRINE_CHECK(set(out.config_, key, value));
    const auto encoder = read->tensors.find("W_enc");
    if (encoder == read->tensors.end() || encoder->second.shape.size() != 2)
        return fail(ErrorCode::BadInput, "{} has no W_enc [width, latents]", file.string());
    out.config_.width = encoder->second.shape[0];
    out.config_.latents = encoder->second.shape[1];
    if (Status checked = check_config(out.config_); !checked) return named(std::move(checked.error()));
    for (const auto& [name, shape] : autoencoder_shapes(out.config_)) {
        const auto it = read->tensors.find(name);
        if (it == read->tensors.end()) return fail(ErrorCode::BadInput, "{} lacks {}", file.string(), name);
        if (it->second.shape != shape)
            return fail(ErrorCode::BadInput, "{}: {} is [{}], expected [{}]", file.string(), name,
                        fmt::join(it->second.shape, ", "), fmt::join(shape, ", "));
        at::Tensor tensor = VITRINE_TRY(to_tensor(it->second));
        if (!at::isfinite(tensor).all().item<bool>())
            return fail(ErrorCode::BadInput, "{}: {} has numbers that are not finite", file.string(), name);
        out.tensors_.emplace_back(name, std::move(tensor));
    }
    return out;
}

}  // namespace vitrine
