// Reads files of steered models, which may say anything.
#include "steered_file.h"

#include <charconv>
#include <limits>
#include <optional>
#include <sstream>
#include <tuple>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/file.h>

namespace vitrine {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Mode = ConceptEdit::Mode;
using Tokens = SteeredTokens;

constexpr const char* kFormat = "vitrine.steered";

/// The beginning of what someone wrote, for a sentence about it; never half a character.
std::string beginning(const std::string& text) {
    constexpr std::size_t kMost = 80;
    if (text.size() <= kMost) return text;
    std::size_t end = kMost;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    return text.substr(0, end) + "...";
}

template <class Number>
std::optional<Number> number_of(std::string_view text) {
    Number value{};
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
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
        if (found->is_number_unsigned() && found->get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
            return wrong(key, "a whole number below 2^63");
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

/// A place that a file names: relative to it, never absolute.
Result<fs::path> place_of(const std::string& text, const fs::path& file) {
    if (text.empty() || text.find('\0') != std::string::npos || fs::path(text).is_absolute())
        return fail(ErrorCode::BadInput, "{}: it names the file '{}', expected a path relative to itself",
                    file.filename().string(), beginning(text.substr(0, text.find('\0'))));
    return (file.parent_path() / text).lexically_normal();
}

}  // namespace

std::string_view name_of(Mode mode) {
    switch (mode) {
        case Mode::Set:
            return "set";
        case Mode::Add:
            return "add";
        case Mode::Scale:
            return "scale";
        case Mode::Suppress:
            break;
    }
    return "suppress";
}

Result<std::pair<Tokens, std::vector<PatchBox>>> read_tokens(const std::string& text) {
    std::vector<PatchBox> boxes;
    if (text == "all") return std::pair(Tokens::All, boxes);
    if (text == "class") return std::pair(Tokens::Class, boxes);
    if (text == "patches") return std::pair(Tokens::Patches, boxes);
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
                        beginning(text));
        boxes.push_back(box);
    }
    if (boxes.empty()) return fail(ErrorCode::BadInput, "the tokens to steer name no place");
    return std::pair(Tokens::Chosen, std::move(boxes));
}

std::string tokens_text(Tokens tokens, const std::vector<PatchBox>& boxes) {
    if (tokens == Tokens::All) return "all";
    if (tokens == Tokens::Class) return "class";
    if (tokens == Tokens::Patches) return "patches";
    std::vector<std::string> parts;
    for (const PatchBox& box : boxes)
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
            return fail(ErrorCode::BadInput, "'{}' is no edit, expected {}", beginning(part),
                        mode == Mode::Suppress ? "the number of a concept" : "CONCEPT=VALUE, such as 12=2.5");
        out.push_back({*index, mode, *value});
    }
    return out;
}

Result<SteeredFile> parse_steered_file(const std::string& text, const fs::path& file) {
    const std::string name = file.filename().string();
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
            return fail(ErrorCode::BadInput, "{}: '{}' is no name of a model", name, beginning(out.model));
    } else {
        out.model = VITRINE_TRY(place_of(VITRINE_TRY(model.text("file")), file)).string();
    }

    const Reader concepts = VITRINE_TRY(whole.object("autoencoder"));
    out.hash = VITRINE_TRY(concepts.text("hash"));
    if (concepts.get().contains("built_in")) {
        out.built_in = VITRINE_TRY(concepts.text("built_in"));
        if (!stays_inside(out.built_in))
            return fail(ErrorCode::BadInput, "{}: '{}' is no name of something built in", name,
                        beginning(out.built_in));
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
                        beginning(mode));
        if (made.mode != Mode::Suppress) made.value = VITRINE_TRY(edit.number("value"));
        out.edits.push_back(made);
    }
    auto tokens = read_tokens(VITRINE_TRY(whole.text("tokens")));
    if (!tokens) return tl::make_unexpected(std::move(tokens.error()).with_context(name));
    std::tie(out.tokens, out.boxes) = std::move(*tokens);
    if (out.tokens == Tokens::Chosen) {
        const Reader grid = VITRINE_TRY(whole.object("grid"));
        out.rows = VITRINE_TRY(grid.whole("rows"));
        out.cols = VITRINE_TRY(grid.whole("cols"));
    }
    return out;
}

}  // namespace vitrine
