// Steered models on disk and in words: NAME.steered.json, and what people write for edits and tokens.
#include "steering_model.h"

#include <cmath>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/hash_bytes.h>
#include <vitrine/base/random.h>
#include <vitrine/engine.h>
#include <vitrine/mask_module.h>

namespace vitrine {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Mode = ConceptEdit::Mode;
using Tokens = Steering::Tokens;

constexpr std::string_view kEnding = ".steered.json";
/// A steered model may be steered again; a file that names itself must end somewhere.
constexpr int kMostLayers = 8;
thread_local int t_layers = 0;

/// What an autoencoder computes, whichever file it was read from.
std::string hash_of_autoencoder(const Autoencoder& autoencoder) {
    const AutoencoderConfig& c = autoencoder.config();
    std::uint64_t key =
        hash_of(fmt::format("{} {} {} {} {} {} {} {} {} {}", c.kind, c.k, c.normalise, c.scale, c.subtract_decoder_bias,
                            c.keep_negative, c.weigh_by_decoder, c.ridge, c.point, c.tokens));
    for (const auto& [name, tensor] : autoencoder.tensors()) {
        const at::Tensor plain = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
        key = hash_bytes(mix64(key ^ hash_of(name)), plain.const_data_ptr(), plain.nbytes());
    }
    return fmt::format("{:016x}", key);
}

/// Of the weights, or of the file where the weights cannot be reached; empty where neither can be told.
Result<std::string> hash_of_model(Model& model, const std::string& request) {
    std::error_code ignored;
    const bool steered = is_steered_name(request);  // its edits are in the file, not in the weights
    const auto parameters = model.parameters();
    // fp16 rounds otherwise than bf16, of which the hash is made.
    if (!parameters.empty() && !steered)
        return parameters.front().second.scalar_type() == at::kHalf ? std::string() : weights_hash(model);
    if (!fs::is_regular_file(request, ignored)) return std::string();
    const MappedFile file = VITRINE_TRY(map_file(request));
    return fmt::format("{:016x}", hash_bytes(0, file.bytes.data(), file.bytes.size()));
}

/// Of what Vitrine brings along: the name it has there.
std::optional<std::string> built_in(const fs::path& file) {
    const auto starter = resource("starter");
    if (!starter) return std::nullopt;
    std::error_code failed;
    const fs::path inside = fs::relative(file, starter->parent_path(), failed);
    if (failed || !stays_inside(inside.generic_string())) return std::nullopt;
    return inside.generic_string();
}

/// A path as it is written into a file of this folder.
Result<std::string> from_folder(const fs::path& target, const fs::path& folder) {
    std::error_code failed;
    const fs::path whole = fs::weakly_canonical(fs::absolute(folder), failed);
    const fs::path relative = failed ? fs::path() : fs::relative(target, whole, failed);
    if (failed || relative.empty())
        return fail(ErrorCode::Io, "{} cannot be named from {}", target.string(), folder.string());
    if (!bytes::valid_utf8(relative.generic_string()))
        return fail(ErrorCode::BadInput,
                    "the path {} is no UTF-8, which a file of a steered model cannot hold: rename it",
                    relative.string());
    return relative.generic_string();
}

/// Refuses to write over what the saved model is made of: it would be gone, and a file that names itself opens never
/// again.
Status spares(const fs::path& file, const Steering& steering, const std::string& request) {
    std::error_code ignored;
    const auto same = [&](const fs::path& other) { return fs::equivalent(file, other, ignored); };
    if (same(steering.file))
        return fail(ErrorCode::BadInput, "{} holds the concepts that are steered; give the file another name",
                    file.string());
    std::string model = request;
    for (int i = 0; i <= kMostLayers; ++i) {
        if (same(model))
            return fail(ErrorCode::BadInput,
                        "{} is what the steered model is made of, and the file only says what is changed of it; give "
                        "the file another name",
                        file.string());
        if (!is_steered_name(model) || !fs::exists(model, ignored)) break;
        const SteeredFile inner = VITRINE_TRY(read_steered_file(model));
        if (same(inner.file))
            return fail(ErrorCode::BadInput, "{} holds concepts that are steered in {}; give the file another name",
                        file.string(), model);
        model = inner.model;
    }
    return {};
}

tl::unexpected<Error> too_deep(const std::string& name) {
    return fail(ErrorCode::BadInput, "{} is steered more than {} times over: does a file name itself?", name,
                kMostLayers);
}

}  // namespace

Status set_tokens(Steering& steering, const std::string& text) {
    std::tie(steering.tokens, steering.boxes) = VITRINE_TRY(read_tokens(text));
    steering.rows = steering.cols = 0;
    return {};
}

std::string tokens_text(const Steering& steering) { return tokens_text(steering.tokens, steering.boxes); }

bool is_steered_name(const fs::path& file) {
    const std::string name = file.filename().string();
    return name.size() > kEnding.size() && name.ends_with(kEnding);
}

Result<SteeredFile> read_steered_file(const fs::path& file) {
    std::error_code ignored;
    if (!fs::is_regular_file(file, ignored))
        return fail(ErrorCode::BadInput, "{} is no file of a steered model", file.string());
    SteeredFile out = VITRINE_TRY(parse_steered_file(VITRINE_TRY(read_text(file, 4u << 20)), file));
    if (!out.built_in.empty()) out.file = VITRINE_TRY(resource(out.built_in));
    return out;
}

Result<std::string> innermost_model(const fs::path& file) {
    std::string model = file.string();
    for (int i = 0; i <= kMostLayers; ++i) {
        if (!is_steered_name(model)) return model;
        model = VITRINE_TRY(read_steered_file(model)).model;
    }
    return too_deep(file.filename().string());
}

Result<std::shared_ptr<Model>> open_steered(const fs::path& file, const OpenOptions& options) {
    const std::string name = file.filename().string();
    const SteeredFile said = VITRINE_TRY(read_steered_file(file));
    struct Layer {
        Layer() { ++t_layers; }
        ~Layer() { --t_layers; }
    } const layer;
    if (t_layers > kMostLayers) return too_deep(name);
    // Seen before anything is opened, so that the sentence is not told once for every layer.
    if (t_layers == 1) VITRINE_TRY(innermost_model(file));
    std::shared_ptr<Model> model = VITRINE_TRY(open_model(said.model, options));
    if (const std::string now = VITRINE_TRY(hash_of_model(*model, said.model));
        !said.weights.empty() && !now.empty() && now != said.weights)
        return fail(ErrorCode::BadInput, "{} was made of a model with weights {}, and {} has weights {}", name,
                    said.weights, said.model, now);
    // A device or a pipe would be read for ever.
    std::error_code ignored;
    if (!fs::is_regular_file(said.file, ignored) && !fs::is_directory(said.file, ignored))
        return fail(ErrorCode::NotFound, "{} names the concepts {}, and there is no such file", name,
                    said.file.string());
    Steering steering;
    steering.autoencoder = VITRINE_TRY(Autoencoder::load(said.file, said.given));
    if (const std::string now = hash_of_autoencoder(steering.autoencoder); now != said.hash)
        return fail(ErrorCode::BadInput, "{} was made with concepts {}, and those of {} are {}", name, said.hash,
                    said.file.filename().string(), now);
    steering.edits = said.edits;
    steering.tokens = said.tokens;
    steering.boxes = said.boxes;
    steering.rows = said.rows;
    steering.cols = said.cols;
    steering.file = said.file;
    steering.given = said.given;
    std::shared_ptr<Model> out = VITRINE_TRY(steered(std::move(model), std::move(steering)));
    out->info().name = name.substr(0, name.size() - std::string_view(".json").size());
    return out;
}

Status save_steered(Model& model, const std::string& request, const fs::path& file) {
    const Steering* steering = steering_of(model);
    if (steering == nullptr) return fail(ErrorCode::BadInput, "{} is not steered", model.info().name);
    if (!is_steered_name(file))
        return fail(ErrorCode::BadInput, "the file is named {}, expected a name that ends in {}",
                    file.filename().string(), kEnding);
    if (steering->file.empty())
        return fail(ErrorCode::Unsupported, "these concepts are in no file that a saved model could name");
    VITRINE_CHECK(spares(file, *steering, request));
    const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
    json out{{"format", "vitrine.steered"}, {"version", 1}};
    std::error_code ignored;
    if (request != "starter" && fs::exists(request, ignored))
        out["model"]["file"] = VITRINE_TRY(from_folder(request, folder));
    else
        out["model"]["name"] = request;
    if (const std::string weights = VITRINE_TRY(hash_of_model(*unsteered(model), request)); !weights.empty())
        out["model"]["weights"] = weights;
    if (const auto inside = built_in(steering->file))
        out["autoencoder"]["built_in"] = *inside;
    else
        out["autoencoder"]["file"] = VITRINE_TRY(from_folder(steering->file, folder));
    out["autoencoder"]["hash"] = hash_of_autoencoder(steering->autoencoder);
    if (!steering->given.empty()) out["autoencoder"]["given"] = steering->given;
    out["edits"] = json::array();
    for (const ConceptEdit& edit : steering->edits) {
        json entry{{"concept", edit.index}, {"mode", name_of(edit.mode)}};
        if (edit.mode != Mode::Suppress) entry["value"] = edit.value;
        out["edits"].push_back(std::move(entry));
    }
    out["tokens"] = tokens_text(*steering);
    if (steering->tokens == Tokens::Chosen) out["grid"] = {{"rows", steering->rows}, {"cols", steering->cols}};
    return write_text(file, out.dump(2) + "\n");
}

}  // namespace vitrine
