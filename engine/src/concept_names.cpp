// Names of concepts: reads, changes and writes the text file beside an autoencoder.
#include <vitrine/concept_names.h>

#include <algorithm>
#include <charconv>

#include <ATen/core/Tensor.h>
#include <fmt/ranges.h>

#include <vitrine/autoencoder.h>
#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/hash_bytes.h>
#include <vitrine/base/random.h>
#include <vitrine/beside.h>

namespace vitrine {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMostBytes = 16U << 20, kMostText = 1000;
constexpr std::string_view kMark = "# concepts of ";

std::string_view trimmed(std::string_view text) {
    const auto from = text.find_first_not_of(' ');
    if (from == std::string_view::npos) return {};
    return text.substr(from, text.find_last_not_of(' ') - from + 1);
}

bool has_control(std::string_view text) {
    return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; });
}

std::vector<std::string_view> split(std::string_view text, char at) {
    std::vector<std::string_view> out;
    for (;;) {
        const auto end = text.find(at);
        out.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return out;
        text.remove_prefix(end + 1);
    }
}

void tidy(std::vector<std::string>& tags) {
    std::sort(tags.begin(), tags.end());
    tags.erase(std::unique(tags.begin(), tags.end()), tags.end());
}

Result<std::string> checked(std::string_view text, const char* what) {
    text = trimmed(text);
    if (text.size() > kMostText)
        return fail(ErrorCode::BadInput, "the {} has {} bytes, at most {} are kept", what, text.size(), kMostText);
    if (has_control(text))
        return fail(ErrorCode::BadInput, "the {} {} has a tab, a line end or another control character in it", what,
                    bytes::printable(text));
    if (!bytes::valid_utf8(text))
        return fail(ErrorCode::BadInput, "the {} {} is no UTF-8", what, bytes::printable(text));
    return std::string(text);
}

/// The number a line begins with, before a tab or the line's end.
bool number_of(std::string_view field, std::int64_t& latent) {
    const auto [end, code] = std::from_chars(field.data(), field.data() + field.size(), latent);
    // "007" and "+7" would be written back as 7: such lines are nobody's.
    return code == std::errc() && end == field.data() + field.size() && latent >= 0 && std::to_string(latent) == field;
}

}  // namespace

fs::path concept_names_file(const fs::path& autoencoder) {
    fs::path out = autoencoder;
    out += ".names";
    return out;
}

Result<fs::path> put_names_aside(const fs::path& names) {
    std::error_code failed;
    fs::path aside = names;
    for (int i = 1; fs::exists(fs::symlink_status(aside, failed)); ++i)
        (aside = names) += fmt::format(".before{}", i);  // what was put aside before stays too
    fs::rename(names, aside, failed);
    if (failed)
        return fail(ErrorCode::Io, "the names in {} cannot be put aside: {}", bytes::printable(names.string()),
                    failed.message());
    return aside;
}

Result<ConceptNames> ConceptNames::load(const fs::path& file) {
    std::error_code ignored;
    if (fs::symlink_status(file, ignored).type() == fs::file_type::not_found) return ConceptNames();
    const std::string text = VITRINE_TRY(read_text(file, kMostBytes));
    auto names = parse(text);
    if (!names) return tl::make_unexpected(std::move(names).error().with_context(file.filename().string()));
    return names;
}

std::string concepts_mark(const Autoencoder& autoencoder) {
    const at::Tensor rows = autoencoder.tensor("W_dec").detach().to(at::kCPU, at::kFloat).contiguous();
    return fmt::format("{:016x}", hash_bytes(hash_of("W_dec"), rows.const_data_ptr(), rows.nbytes())).substr(0, 12);
}

Result<ConceptNames> ConceptNames::of(const fs::path& autoencoder, const std::string& mark) {
    const auto file = found_beside(concept_names_file(autoencoder));
    auto names = VITRINE_TRY(load(file));
    const std::string other = names.given_to_another(mark), name = file.filename().string();
    if (other.empty()) return names;
    return fail(ErrorCode::BadInput,
                "the names in {} were given to another autoencoder, so they are not shown; to use them for this one "
                "take the line '{}{}' out of that file, or name concepts anew, which puts it aside",
                bytes::printable(name), kMark, other);
}

Result<ConceptNames> ConceptNames::to_change(const fs::path& autoencoder, const std::string& mark) {
    const auto file = concept_names_file(autoencoder), kept = kept_beside(file), found = found_beside(file);
    auto names = VITRINE_TRY(load(found));
    if (!names.given_to_another(mark).empty()) {
        names = {};
        // Those in a folder that cannot be written to stay where they are.
        if (found == kept) VITRINE_CHECK(put_names_aside(kept));
    }
    names.set_mark(mark);
    return names;
}

Status ConceptNames::adopt(const fs::path& autoencoder, const std::string& mark) {
    const auto file = concept_names_file(autoencoder), kept = kept_beside(file);
    auto names = VITRINE_TRY(load(found_beside(file)));
    names.set_mark(mark);
    VITRINE_CHECK(make_folder_of(kept));
    return names.save(kept);
}

std::string ConceptNames::given_to_another(const std::string& mark) const {
    if (mark.empty()) return {};
    for (const auto& line : kept_)
        if (line.starts_with(kMark))
            if (std::string other(trimmed(std::string_view(line).substr(kMark.size()))); other != mark) return other;
    return {};
}

void ConceptNames::set_mark(const std::string& mark) {
    if (mark.empty()) return;
    std::erase_if(kept_, [](const std::string& line) { return line.starts_with(kMark); });
    kept_.insert(kept_.begin(), std::string(kMark) + mark);
}

Result<ConceptNames> ConceptNames::parse(std::string_view text) {
    if (text.size() > kMostBytes)
        return fail(ErrorCode::BadInput, "the names take {} bytes, at most {} are read", text.size(), kMostBytes);
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    if (!bytes::valid_utf8(text))
        return fail(ErrorCode::BadInput, "the names of concepts are no UTF-8; save them as UTF-8");
    ConceptNames out;
    std::map<std::int64_t, std::size_t> line_of;
    std::size_t number = 0;
    for (std::string_view line : split(text, '\n')) {
        ++number;
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line.empty()) continue;
        if (line.starts_with("<<<<<<<") || line.starts_with("=======") || line.starts_with(">>>>>>>") ||
            line.starts_with("|||||||"))
            return fail(ErrorCode::BadInput, "line {} is of a merge that was not settled; choose one side first",
                        number);
        std::string_view plain = line;
        const auto fields = split(plain, '\t');
        if (std::any_of(fields.begin(), fields.end(), has_control))
            return fail(ErrorCode::BadInput, "line {} has a control character in it, expected text between tabs",
                        number);
        std::int64_t latent = 0;
        if (!number_of(fields[0], latent)) {
            out.kept_.emplace_back(line);
            continue;
        }
        if (const auto [at, fresh] = line_of.emplace(latent, number); !fresh)
            return fail(ErrorCode::BadInput, "concept {} is named by lines {} and {}; keep one of them", latent,
                        at->second, number);
        ConceptName one;
        if (fields.size() > 1) one.name = trimmed(fields[1]);
        if (fields.size() > 2)
            for (const std::string_view tag : split(fields[2], ','))
                if (!trimmed(tag).empty()) one.tags.emplace_back(trimmed(tag));
        tidy(one.tags);
        if (fields.size() > 3) one.note = trimmed(fields[3]);
        for (std::size_t i = 4; i < fields.size(); ++i) one.rest += (i > 4 ? "\t" : "") + std::string(fields[i]);
        if (!one.empty()) out.names_.emplace(latent, std::move(one));
    }
    return out;
}

std::string ConceptNames::text() const {
    std::string out;
    for (const auto& line : kept_) out += line + '\n';
    for (const auto& [latent, one] : names_) {
        std::string line = fmt::format("{}\t{}\t{}\t{}", latent, one.name, fmt::join(one.tags, ", "), one.note);
        if (!one.rest.empty())
            line += '\t' + one.rest;
        else
            line.erase(line.find_last_not_of('\t') + 1);
        out += line + '\n';
    }
    return out;
}

Status ConceptNames::save(const fs::path& file) const { return write_text(file, text()); }

const ConceptName* ConceptNames::find(std::int64_t latent) const {
    const auto found = names_.find(latent);
    return found == names_.end() ? nullptr : &found->second;
}

std::string ConceptNames::called(std::int64_t latent) const {
    const ConceptName* found = find(latent);
    return found == nullptr || found->name.empty() ? fmt::format("concept {}", latent)
                                                   : fmt::format("concept {} ({})", latent, found->name);
}

std::map<std::string, std::int64_t> ConceptNames::tags() const {
    std::map<std::string, std::int64_t> out;
    for (const auto& [latent, one] : names_)
        for (const auto& tag : one.tags) ++out[tag];
    return out;
}

Status ConceptNames::change(std::int64_t latent, const std::function<void(ConceptName&)>& how) {
    if (latent < 0) return fail(ErrorCode::BadInput, "concepts are numbered from 0, the number is {}", latent);
    ConceptName& one = names_[latent];
    how(one);
    tidy(one.tags);
    if (one.empty()) names_.erase(latent);
    return {};
}

Status ConceptNames::rename(std::int64_t latent, std::string_view name) {
    std::string text = VITRINE_TRY(checked(name, "name"));
    return change(latent, [&](ConceptName& one) { one.name = std::move(text); });
}

Status ConceptNames::set_note(std::int64_t latent, std::string_view note) {
    std::string text = VITRINE_TRY(checked(note, "note"));
    return change(latent, [&](ConceptName& one) { one.note = std::move(text); });
}

Status ConceptNames::set_tags(std::int64_t latent, const std::vector<std::string>& tags) {
    std::vector<std::string> texts;
    for (const auto& tag : tags) {
        std::string text = VITRINE_TRY(checked(tag, "tag"));
        if (text.find(',') != std::string::npos)
            return fail(ErrorCode::BadInput, "the tag {} has a comma in it, which parts tags", bytes::printable(text));
        if (!text.empty()) texts.push_back(std::move(text));
    }
    return change(latent, [&](ConceptName& one) { one.tags = std::move(texts); });
}

Status ConceptNames::tag(std::int64_t latent, std::string_view tag) {
    const ConceptName* one = find(latent);
    std::vector<std::string> tags = one == nullptr ? std::vector<std::string>() : one->tags;
    tags.emplace_back(tag);
    return set_tags(latent, tags);
}

Status ConceptNames::untag(std::int64_t latent, std::string_view tag) {
    const ConceptName* one = find(latent);
    if (one == nullptr) return {};
    std::vector<std::string> tags = one->tags;
    tags.erase(std::remove(tags.begin(), tags.end(), trimmed(tag)), tags.end());
    return set_tags(latent, tags);
}

}  // namespace vitrine
