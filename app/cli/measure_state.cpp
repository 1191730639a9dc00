// Reads and writes the journal of a measurement.
#include "cli/measure_state.h"

#include <vitrine/base/file.h>
#include <vitrine/base/json_text.h>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace vitrine::cli {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kMark = "vitrine_measure";  ///< of a first line, with the format's number
constexpr int kFormat = 1;
constexpr std::string_view kSixtyFour = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

template <class T>
std::optional<T> take(const json& line, const char* key) {
    const auto found = line.find(key);
    if (found == line.end()) return std::nullopt;
    if constexpr (std::is_same_v<T, std::string>) {
        if (!found->is_string()) return std::nullopt;
    } else {
        if (!found->is_number()) return std::nullopt;
    }
    return found->get<T>();
}

/// Base64 (RFC 4648), as JSON has no bytes.
std::string text_of_bytes(std::string_view bytes) {
    std::string out;
    out.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const auto at = [&](std::size_t k) -> std::uint32_t {
            return i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0;
        };
        const std::uint32_t three = at(0) << 16 | at(1) << 8 | at(2);
        for (std::size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? kSixtyFour[three >> (18 - 6 * k) & 63] : '=';
    }
    return out;
}

/// Nothing where it is no such text.
std::optional<std::string> bytes_of_text(std::string_view text) {
    static const std::array<std::int8_t, 256> kValue = [] {
        std::array<std::int8_t, 256> out{};
        out.fill(-1);
        for (std::size_t i = 0; i < kSixtyFour.size(); ++i)
            out[static_cast<unsigned char>(kSixtyFour[i])] = static_cast<std::int8_t>(i);
        return out;
    }();
    if (text.size() % 4 != 0) return std::nullopt;
    std::string out;
    out.reserve(text.size() / 4 * 3);
    for (std::size_t i = 0; i < text.size(); i += 4) {
        const bool last = i + 4 == text.size();
        const std::size_t bytes = !last || text[i + 3] != '=' ? 3 : text[i + 2] != '=' ? 2 : 1;
        std::uint32_t three = 0;
        for (std::size_t k = 0; k < 4; ++k) {
            const int value = k <= bytes ? kValue[static_cast<unsigned char>(text[i + k])] : 0;
            if (value < 0) return std::nullopt;
            three = three << 6 | static_cast<std::uint32_t>(value);
        }
        for (std::size_t k = 0; k < bytes; ++k) out += static_cast<char>(three >> (16 - 8 * k) & 255);
    }
    return out;
}

/// What was read of a file.
struct Contents {
    std::vector<Finding> findings;
    std::vector<Piece> pieces;
    json made_with = json::object(), settings = json::object(), also_with = json::object();
    std::size_t whole = 0;  ///< bytes up to the end of the last whole line
    bool begun = false;     ///< it has a first line
};

/// Names of files may be no UTF-8; a journal of them is.
std::string line_of(const json& line) { return json_text(line) + "\n"; }

std::string first_line(const json& made_with) { return line_of({{kMark, kFormat}, {"made_with", made_with}}); }

Status same(const fs::path& file, const json& then, const json& now) {
    for (const auto& [name, value] : now.items()) {
        const json before = then.contains(name) ? then[name] : json();
        if (before == value) continue;
        return fail(ErrorCode::BadInput,
                    "{} was made with {} {}, and now it is {}: numbers of both do not belong in one table, so take "
                    "another file",
                    file.string(), name, json_text(before), json_text(value));
    }
    return {};
}

/// A whole file is looked at, not copied: pieces make it large.
Result<Contents> parse(const fs::path& file, const json& made_with, const json& settings) {
    const MappedFile mapped = VITRINE_TRY(map_file(file));
    const std::string_view text(reinterpret_cast<const char*>(mapped.bytes.data()), mapped.bytes.size());
    Contents out;
    std::size_t at = 0;
    for (std::size_t number = 1; at < text.size(); ++number) {
        const std::size_t end = text.find('\n', at);
        if (end == std::string::npos) {  // a run was cut off in the middle of this line
            if (!out.begun && !first_line(made_with).starts_with(text))
                return fail(ErrorCode::BadInput, "{} is no state of vitrine measure; it is left as it is",
                            file.string());
            break;
        }
        const json line = json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                                      text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
        const bool last = end + 1 == text.size();
        const std::size_t begin = std::exchange(at, end + 1);
        if (!out.begun && (!line.is_object() || !line.contains(kMark)))
            return fail(ErrorCode::BadInput, "{} is no state of vitrine measure; it is left as it is", file.string());
        if (!line.is_object()) {
            if (last) break;  // its pages reached the disk in another order
            return fail(ErrorCode::BadInput, "line {} of {} is broken; remove it and its picture is measured again",
                        number, file.string());
        }
        if (line.contains(kMark)) {  // also in the middle: files that were put together
            if (line[kMark] != kFormat)
                return fail(ErrorCode::BadInput, "{} is of format {}, and this program reads format {}", file.string(),
                            json_text(line[kMark]), kFormat);
            out.made_with = line.value("made_with", json::object());
            VITRINE_CHECK(same(file, out.made_with, made_with));
            out.begun = true;
        } else if (const auto of = take<std::string>(line, "settings_of"); of && line.contains("settings")) {
            if (settings.contains(*of)) {
                json then = json::object(), now = json::object();
                for (const auto& [key, value] : settings[*of].items()) {
                    now[*of + "." + key] = value;
                    if (line["settings"].contains(key)) then[*of + "." + key] = line["settings"][key];
                }
                VITRINE_CHECK(same(file, then, now));
            }
            out.settings[*of] = line["settings"];
        } else if (const auto also = line.find("made_also_with"); also != line.end() && also->is_object()) {
            out.also_with.update(*also);
        } else if (line.contains("bytes")) {
            const auto picture = take<std::string>(line, "picture"), content = take<std::string>(line, "content"),
                       measure = take<std::string>(line, "measure"), part = take<std::string>(line, "part");
            if (!picture || !content || !measure || !part)
                return fail(ErrorCode::BadInput,
                            "line {} of {} is broken: it names no picture, content, measure and part", number,
                            file.string());
            out.pieces.push_back({*picture, *content, *measure, *part, begin, end - begin});
        } else {
            auto finding = finding_of(line);
            if (!finding && last) break;
            if (!finding)
                return fail(ErrorCode::BadInput, "line {} of {} is broken: {}", number, file.string(),
                            finding.error().message);
            out.findings.push_back(std::move(*finding));
        }
        out.whole = at;
    }
    return out;
}

tl::unexpected<Error> cannot(const char* doing, const fs::path& file) {
    return fail(ErrorCode::Io, "{} cannot be {}: {}", file.string(), doing, std::strerror(errno));
}

}  // namespace

json to_json(const Finding& finding) {
    json out{{"picture", finding.picture}, {"content", finding.content},     {"method", finding.method},
             {"measure", finding.measure}, {"method_ms", finding.method_ms}, {"measure_ms", finding.measure_ms}};
    if (finding.value) out["value"] = *finding.value;
    if (!finding.left_out.empty()) out["left_out"] = finding.left_out;
    if (!finding.unit.empty()) out["unit"] = finding.unit;
    if (!finding.notes.empty()) out["notes"] = finding.notes;
    if (finding.method_bytes != 0) out["method_bytes"] = finding.method_bytes;
    if (finding.failed) {
        out["failed"] = finding.failed->message;
        out["code"] = static_cast<int>(finding.failed->code);
    }
    return out;
}

Result<Finding> finding_of(const json& line) {
    Finding out;
    const auto picture = take<std::string>(line, "picture"), content = take<std::string>(line, "content"),
               method = take<std::string>(line, "method"), measure = take<std::string>(line, "measure");
    if (!picture || !content || !method || !measure)
        return fail(ErrorCode::BadInput, "it names no picture, content, method and measure");
    out.picture = *picture;
    out.content = *content;
    out.method = *method;
    out.measure = *measure;
    out.value = take<double>(line, "value");
    out.left_out = take<std::string>(line, "left_out").value_or("");
    out.unit = take<std::string>(line, "unit").value_or("");
    out.method_ms = take<double>(line, "method_ms").value_or(0);
    out.measure_ms = take<double>(line, "measure_ms").value_or(0);
    out.method_bytes = take<std::int64_t>(line, "method_bytes").value_or(0);
    if (const auto notes = line.find("notes"); notes != line.end() && notes->is_array())
        for (const json& note : *notes)
            if (note.is_string()) out.notes.push_back(note.get<std::string>());
    if (auto failed = take<std::string>(line, "failed")) {
        const int code = take<int>(line, "code").value_or(static_cast<int>(ErrorCode::Internal));
        out.failed = Error{code >= 0 && code <= static_cast<int>(ErrorCode::Internal) ? static_cast<ErrorCode>(code)
                                                                                      : ErrorCode::Internal,
                           std::move(*failed)};
    }
    if (!out.value && out.left_out.empty() && !out.failed)
        return fail(ErrorCode::BadInput, "it holds neither a number nor a reason why there is none");
    return out;
}

Result<State> State::open(const fs::path& file, const json& made_with, const json& settings) {
    State out;
    out.file_ = file;
    out.made_with_ = made_with;
    out.settings_ = settings;
    out.fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0666);
    if (out.fd_ < 0) return cannot("opened", file);
    if (::flock(out.fd_, LOCK_EX | LOCK_NB) != 0)
        return fail(ErrorCode::Io, "{} is being written by another run; wait for it, or take another file",
                    file.string());
    Contents contents = VITRINE_TRY(parse(file, made_with, settings));
    if (::ftruncate(out.fd_, static_cast<off_t>(contents.whole)) != 0) return cannot("cut to its whole lines", file);
    std::string begin;
    if (!contents.begun) begin = first_line(made_with);
    for (const auto& [of, values] : settings.items())
        if (!contents.settings.contains(of)) begin += line_of({{"settings_of", of}, {"settings", values}});
    VITRINE_CHECK(out.write(begin));
    out.found_ = std::move(contents.findings);
    out.pieces_ = std::move(contents.pieces);
    out.also_with_ = std::move(contents.also_with);
    return out;
}

Result<State::Kept> State::read(const fs::path& file, const json& made_with, const json& settings) {
    Contents contents = VITRINE_TRY(parse(file, made_with, settings));
    return Kept{std::move(contents.findings), std::move(contents.made_with)};
}

State::State(State&& other) noexcept
    : file_(std::move(other.file_)),
      fd_(std::exchange(other.fd_, -1)),
      made_with_(std::move(other.made_with_)),
      settings_(std::move(other.settings_)),
      also_with_(std::move(other.also_with_)),
      found_(std::move(other.found_)),
      pieces_(std::move(other.pieces_)) {}

State::~State() {
    if (fd_ >= 0) ::close(fd_);
}

Status State::append(std::span<const Finding> findings) {
    std::string text;
    for (const Finding& finding : findings)
        if (!finding.failed) text += line_of(to_json(finding));
    return write(text);
}

Status State::made_also_with(const json& more) {
    json known = json::object(), new_ones = json::object();
    for (const auto& [name, value] : more.items()) (also_with_.contains(name) ? known : new_ones)[name] = value;
    VITRINE_CHECK(same(file_, also_with_, known));
    if (new_ones.empty()) return {};
    also_with_.update(new_ones);
    return write(line_of({{"made_also_with", new_ones}}));
}

Status State::append(const Piece& piece, std::string_view bytes) {
    return write(line_of({{"picture", piece.picture},
                          {"content", piece.content},
                          {"measure", piece.measure},
                          {"part", piece.part},
                          {"bytes", text_of_bytes(bytes)}}));
}

Result<std::string> State::bytes_of(const Piece& piece) const {
    std::string text(piece.size, '\0');
    for (std::size_t at = 0; at < text.size();) {
        const ssize_t got = ::pread(fd_, text.data() + at, text.size() - at, static_cast<off_t>(piece.from + at));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return cannot("read", file_);
        if (got == 0) break;  // somebody shortened it
        at += static_cast<std::size_t>(got);
    }
    const json line = json::parse(text, nullptr, false);
    const auto written = line.is_object() ? take<std::string>(line, "bytes") : std::nullopt;
    auto bytes = written ? bytes_of_text(*written) : std::nullopt;
    if (!bytes)
        return fail(ErrorCode::BadInput, "the line of {} in {} is broken; remove it and its picture is measured again",
                    piece.picture, file_.string());
    return std::move(*bytes);
}

Status State::take_parts() {
    std::vector<fs::path> parts;
    const fs::path folder = file_.has_parent_path() ? file_.parent_path() : fs::path(".");
    const std::string stem = file_.filename().string() + ".part";
    std::error_code failed;
    for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed)) {
        const std::string name = it->path().filename().string();
        if (!name.starts_with(stem) || name.size() == stem.size() ||
            name.find_first_not_of("0123456789", stem.size()) != std::string::npos)
            continue;
        parts.push_back(it->path());
    }
    if (failed) return fail(ErrorCode::Io, "the folder {} cannot be read: {}", folder.string(), failed.message());
    for (const fs::path& part : parts) {
        const auto findings = VITRINE_TRY(read(part, made_with_, settings_)).findings;
        VITRINE_CHECK(append(findings));
        found_.insert(found_.end(), findings.begin(), findings.end());
    }
    for (const fs::path& part : parts) fs::remove(part, failed);
    return {};
}

fs::path State::part_of(const fs::path& file, int process) { return file.string() + ".part" + std::to_string(process); }

Status State::write(const std::string& text) {
    std::string_view left = text;
    while (!left.empty()) {
        const ssize_t wrote = ::write(fd_, left.data(), left.size());
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return cannot("written", file_);
        left.remove_prefix(static_cast<std::size_t>(wrote));
    }
    if (!text.empty() && ::fdatasync(fd_) != 0) return cannot("flushed to the disk", file_);
    return {};
}

}  // namespace vitrine::cli
