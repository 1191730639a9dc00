// Compares a file that is to be written with what a command reads.
#include "cli/may_write.h"

#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/picture_files.h>
#include <vitrine/engine.h>
#include <vitrine/steering.h>

#include <sstream>

namespace vitrine::cli {

namespace fs = std::filesystem;

namespace {

/// Whether a file is read with a folder. What we wrote may lie there too: maps, concepts, masks, indexes.
bool is_read_with(const fs::path& folder, const fs::path& file, bool pictures) {
    std::error_code failed;
    const std::string ending = file.extension().string();
    if (pictures) {
        const fs::path inside = fs::relative(file, folder, failed);  // links resolved
        if (failed || inside.empty() || *inside.begin() == "..") return false;
        return is_picture_name(file) || ending == ".tsv" ||
               (ending == ".safetensors" && other_format_of_ours(file).empty());
    }
    if (!fs::equivalent(fs::absolute(file).parent_path(), folder, failed)) return false;
    if (ending == ".json") return !is_steered_name(file);
    if (ending == ".bin" || ending == ".pt" || ending == ".pth") return true;
    const std::string format = ending == ".safetensors" ? other_format_of_ours(file) : "none";
    return format.empty() || format == "vitrine.settings";  // of a classifier that was trained here
}

/// A steered model's own model and concepts, theirs too.
void add_chain(std::vector<fs::path>& places) {
    constexpr std::size_t kMost = 32;
    for (std::size_t i = 0; i < places.size() && i < kMost; ++i) {
        if (!is_steered_name(places[i])) continue;
        const auto said = read_steered_file(places[i]);
        if (!said) continue;  // opening it says what is wrong
        places.emplace_back(said->model);
        places.push_back(said->file);
    }
}

}  // namespace

Status spares_what_is_read(const fs::path& out, const std::vector<ReadPlace>& reads) {
    std::error_code ignored;
    if (!fs::exists(out, ignored)) return {};
    for (const ReadPlace& read : reads) {
        std::vector<fs::path> places{read.place};
        add_chain(places);
        for (std::size_t i = 0; i < places.size(); ++i) {
            if (places[i].empty()) continue;
            const fs::path place =
                places[i] == "starter" && !read.pictures ? resource("starter").value_or(places[i]) : places[i];
            const bool folder = fs::is_directory(place, ignored);
            if (folder ? is_read_with(place, out, read.pictures) : fs::equivalent(out, place, ignored))
                return fail(ErrorCode::BadInput, "{} {} {} that this command reads: give another --out", out.string(),
                            folder   ? "belongs to"
                            : i == 0 ? "is"
                                     : "is part of",
                            read.as);
        }
    }
    return {};
}

Status may_write(const fs::path& out, bool overwrite, const std::vector<ReadPlace>& reads, const char* anew) {
    VITRINE_CHECK(spares_what_is_read(out, reads));
    std::error_code ignored;
    if (overwrite || !fs::is_regular_file(out, ignored)) return {};
    return fail(ErrorCode::BadInput, "{} is there already; give another --out, or --overwrite to {}", out.string(),
                anew);
}

Status may_replace(const fs::path& out, std::string_view begins, const char* kind,
                   const std::vector<ReadPlace>& reads) {
    VITRINE_CHECK(spares_what_is_read(out, reads));
    std::error_code ignored;
    if (!fs::is_regular_file(out, ignored) || fs::file_size(out, ignored) == 0) return {};
    const MappedFile there = VITRINE_TRY(map_file(out));
    if (bytes::text(there.bytes).starts_with(begins)) return {};
    return fail(ErrorCode::BadInput, "{} is there already and is no {}; give another --out", out.string(), kind);
}

std::vector<ReadPlace> places_in_settings(const std::vector<std::string>& settings) {
    std::vector<ReadPlace> out;
    std::error_code ignored;
    for (const std::string& text : settings) {
        const auto equals = text.find('=');
        if (equals == std::string::npos) continue;
        std::istringstream parts(text.substr(equals + 1));
        for (std::string part; std::getline(parts, part, ',');)
            if (!part.empty() && fs::exists(part, ignored)) out.push_back({part, "the files of --set", true});
    }
    return out;
}

}  // namespace vitrine::cli
