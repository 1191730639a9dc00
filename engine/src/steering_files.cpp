// Steered models on disk and in words: NAME.steered.json, and what people write for edits and tokens.
#include "steering_model.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/file.h>
#include <vitrine/base/random.h>
#include <vitrine/engine.h>
#include <vitrine/mask_module.h>

namespace vitrine {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Mode = ConceptEdit::Mode;
using Tokens = Steering::Tokens;

constexpr const char* kFormat = "vitrine.steered";
constexpr std::string_view kEnding = ".steered.json";
/// A steered model may be steered again; a file that names itself must end somewhere.
constexpr int kMostLayers = 8;
thread_local int t_layers = 0;

template <class Number>
std::optional<Number> number_of(std::string_view text) {
    Number value{};
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::uint64_t hash_bytes(std::uint64_t key, const std::byte* bytes, std::size_t count) {
    std::size_t at = 0;
    for (; at + 8 <= count; at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes + at, 8);
        key = mix64(key ^ word);
    }
    return mix64(key ^ hash_of({reinterpret_cast<const char*>(bytes) + at, count - at}));
}

/// What an autoencoder computes, whichever file it was read from.
std::string hash_of_autoencoder(const Autoencoder& autoencoder) {
    const AutoencoderConfig& c = autoencoder.config();
    std::uint64_t key =
        hash_of(fmt::format("{} {} {} {} {} {} {} {} {} {}", c.kind, c.k, c.normalise, c.scale, c.subtract_decoder_bias,
                            c.keep_negative, c.weigh_by_decoder, c.ridge, c.point, c.tokens));
    for (const auto& [name, tensor] : autoencoder.tensors()) {
        const at::Tensor plain = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
        key = hash_bytes(mix64(key ^ hash_of(name)), static_cast<const std::byte*>(plain.const_data_ptr()),
                         plain.nbytes());
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
    return relative.generic_string();
}

/// A member of a file's objects, or the sentence that says what is wrong with it.
class Reader {
  public:
    Reader(const json& object, std::string name) : object_(object), name_(std::move(name)) {}

    Result<std::string> text(const char* key, bool needed = true) const {
        const auto found = object_.find(key);
        if (found == object_.end() && !needed) return std::string();
        if (found == object_.end() || !found->is_string() || found->get_ref<const std::string&>().size() > 4096)
            return wrong(key, "a text");
        return found->get<std::string>();
    }
    Result<std::int64_t> whole(const char* key) const {
        const auto found = object_.find(key);
        if (found == object_.end() || !found->is_number_integer()) return wrong(key, "a whole number");
        return found->get<std::int64_t>();
    }
    Result<double> number(const char* key) const {
        const auto found = object_.find(key);
        if (found == object_.end() || !found->is_number()) return wrong(key, "a number");
        return found->get<double>();
    }
    Result<Reader> object(const char* key) const {
        const auto found = object_.find(key);
        if (found == object_.end() || !found->is_object()) return wrong(key, "an object");
        return Reader(*found, name_);
    }
    const json& get() const { return object_; }

  private:
    tl::unexpected<Error> wrong(const char* key, const char* wanted) const {
        const auto found = object_.find(key);
        std::string is =
            found == object_.end() ? "missing" : found->dump(-1, ' ', true, json::error_handler_t::replace);
        if (is.size() > 60) is = is.substr(0, 57) + "...";
        return fail(ErrorCode::BadInput, "{}: {} is {}, expected {}", name_, key, is, wanted);
    }
    const json& object_;
    std::string name_;
};

tl::unexpected<Error> too_deep(const std::string& name) {
    return fail(ErrorCode::BadInput, "{} is steered more than {} times over: does a file name itself?", name,
                kMostLayers);
}

/// A place that a file names: relative to it, never absolute.
Result<fs::path> place_of(const std::string& text, const fs::path& file) {
    if (text.empty() || text.find('\0') != std::string::npos || fs::path(text).is_absolute())
        return fail(ErrorCode::BadInput, "{}: it names the file '{}', expected a path relative to itself",
                    file.filename().string(), text.substr(0, text.find('\0')));
    return (file.parent_path() / text).lexically_normal();
}

}  // namespace

Status set_tokens(Steering& steering, const std::string& text) {
    steering.boxes.clear();
    steering.rows = steering.cols = 0;
    if (text == "all" || text == "class" || text == "patches") {
        steering.tokens = text == "all" ? Tokens::All : text == "class" ? Tokens::Class : Tokens::Patches;
        return {};
    }
    steering.tokens = Tokens::Chosen;
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ';');) {
        PatchBox box;
        const auto corner = [](std::string_view from, std::int64_t& row, std::int64_t& col) {
            const auto comma = from.find(',');
            if (comma == std::string_view::npos) return false;
            const auto first = number_of<std::int64_t>(from.substr(0, comma)),
                       second = number_of<std::int64_t>(from.substr(comma + 1));
            if (!first || !second || *first < 0 || *second < 0) return false;
            row = *first, col = *second;
            return true;
        };
        const std::string_view whole = part;
        const auto dash = whole.find('-');
        const bool read = corner(whole.substr(0, dash), box.row0, box.col0) &&
                          corner(dash == std::string_view::npos ? whole : whole.substr(dash + 1), box.row1, box.col1);
        if (!read || box.row1 < box.row0 || box.col1 < box.col0)
            return fail(ErrorCode::BadInput,
                        "the tokens are '{}', expected all, class, patches, or ROW,COL-ROW,COL, several with "
                        "semicolons",
                        text.substr(0, 80));
        steering.boxes.push_back(box);
    }
    if (steering.boxes.empty()) return fail(ErrorCode::BadInput, "the tokens to steer name no place");
    return {};
}

std::string tokens_text(const Steering& steering) {
    if (steering.tokens == Tokens::All) return "all";
    if (steering.tokens == Tokens::Class) return "class";
    if (steering.tokens == Tokens::Patches) return "patches";
    std::vector<std::string> parts;
    for (const PatchBox& box : steering.boxes)
        parts.push_back(box.row0 == box.row1 && box.col0 == box.col1
                            ? fmt::format("{},{}", box.row0, box.col0)
                            : fmt::format("{},{}-{},{}", box.row0, box.col0, box.row1, box.col1));
    return fmt::format("{}", fmt::join(parts, ";"));
}

Result<std::vector<ConceptEdit>> concept_edits(Mode mode, const std::string& text) {
    std::vector<ConceptEdit> out;
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
        const auto equals = part.find('=');
        const auto index = number_of<std::int64_t>(std::string_view(part).substr(0, equals));
        std::optional<double> value = 0.0;
        if (mode != Mode::Suppress)
            value = equals == std::string::npos ? std::nullopt
                                                : number_of<double>(std::string_view(part).substr(equals + 1));
        if (!index || !value || (mode == Mode::Suppress && equals != std::string::npos))
            return fail(ErrorCode::BadInput, "'{}' is no edit, expected {}", part.substr(0, 80),
                        mode == Mode::Suppress ? "the number of a concept" : "CONCEPT=VALUE, such as 12=2.5");
        out.push_back({*index, mode, *value});
    }
    return out;
}

bool is_steered_name(const fs::path& file) {
    const std::string name = file.filename().string();
    return name.size() > kEnding.size() && name.ends_with(kEnding);
}

Result<SteeredFile> read_steered_file(const fs::path& file) {
    const std::string name = file.filename().string();
    std::error_code ignored;
    if (!fs::is_regular_file(file, ignored))
        return fail(ErrorCode::BadInput, "{} is no file of a steered model", file.string());
    const std::string text = VITRINE_TRY(read_text(file, 4u << 20));
    // nlohmann's parser recurses; nothing here is deeper than this.
    bool deep = false;
    const json parsed = json::parse(
        text,
        [&](int depth, json::parse_event_t, json&) {
            deep = deep || depth > 16;
            return !deep;
        },
        false);
    if (deep || parsed.is_discarded() || !parsed.is_object())
        return fail(ErrorCode::BadInput, "{} is no JSON object of a steered model", name);
    const Reader whole(parsed, name);
    if (const auto format = whole.text("format"); !format || *format != kFormat)
        return fail(ErrorCode::BadInput, "{} is no file of a steered model: its format is not {}", name, kFormat);
    if (const std::int64_t version = VITRINE_TRY(whole.whole("version")); version != 1)
        return fail(ErrorCode::Unsupported, "{} is of version {}, expected 1: a newer Vitrine wrote it", name, version);

    SteeredFile out;
    const Reader model = VITRINE_TRY(whole.object("model"));
    out.weights = VITRINE_TRY(model.text("weights", false));
    if (model.get().contains("name")) {
        out.model = VITRINE_TRY(model.text("name"));
        if (!stays_inside(out.model))
            return fail(ErrorCode::BadInput, "{}: '{}' is no name of a model", name, out.model);
    } else {
        out.model = VITRINE_TRY(place_of(VITRINE_TRY(model.text("file")), file)).string();
    }

    const Reader concepts = VITRINE_TRY(whole.object("autoencoder"));
    out.hash = VITRINE_TRY(concepts.text("hash"));
    if (concepts.get().contains("built_in")) {
        const std::string inside = VITRINE_TRY(concepts.text("built_in"));
        if (!stays_inside(inside))
            return fail(ErrorCode::BadInput, "{}: '{}' is no name of something built in", name, inside);
        out.file = VITRINE_TRY(resource(inside));
    } else {
        out.file = VITRINE_TRY(place_of(VITRINE_TRY(concepts.text("file")), file));
    }
    if (concepts.get().contains("given")) {
        const Reader given = VITRINE_TRY(concepts.object("given"));
        for (const auto& item : given.get().items())
            out.given[item.key()] = VITRINE_TRY(given.text(item.key().c_str()));
    }

    const auto edits = parsed.find("edits");
    if (edits == parsed.end() || !edits->is_array()) return fail(ErrorCode::BadInput, "{}: edits is no list", name);
    for (const json& entry : *edits) {
        if (!entry.is_object()) return fail(ErrorCode::BadInput, "{}: an edit is no object", name);
        const Reader edit(entry, name);
        ConceptEdit made;
        made.index = VITRINE_TRY(edit.whole("concept"));
        const std::string mode = VITRINE_TRY(edit.text("mode"));
        bool known = false;
        for (const Mode each : {Mode::Set, Mode::Add, Mode::Scale, Mode::Suppress})
            if (name_of(each) == mode) made.mode = each, known = true;
        if (!known)
            return fail(ErrorCode::BadInput, "{}: the mode is '{}', expected set, add, scale or suppress", name,
                        mode.substr(0, 80));
        if (made.mode != Mode::Suppress) made.value = VITRINE_TRY(edit.number("value"));
        out.edits.push_back(made);
    }
    Steering read;
    if (const Status tokens = set_tokens(read, VITRINE_TRY(whole.text("tokens"))); !tokens)
        return tl::make_unexpected(Error(tokens.error()).with_context(name));
    out.tokens = read.tokens;
    out.boxes = read.boxes;
    if (out.tokens == Tokens::Chosen) {
        const Reader grid = VITRINE_TRY(whole.object("grid"));
        out.rows = VITRINE_TRY(grid.whole("rows"));
        out.cols = VITRINE_TRY(grid.whole("cols"));
    }
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
    const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
    json out{{"format", kFormat}, {"version", 1}};
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
