// Walks folders of pictures, and says what it could not look into.
#include "picture_files.h"

#include <algorithm>

#include <fmt/format.h>

#include <vitrine/base/image_file.h>
#include <vitrine/base/readers.h>

namespace vitrine {

namespace fs = std::filesystem;

Status is_there(const fs::path& place) {
    std::error_code failed;
    const fs::file_type type = fs::status(place, failed).type();
    if (type == fs::file_type::not_found) return fail(ErrorCode::NotFound, "there is nothing at {}", place.string());
    if (type == fs::file_type::none)
        return fail(ErrorCode::Io, "{} cannot be read: {}", place.string(), failed.message());
    return {};
}

Result<FilesBelow> files_below(const fs::path& folder, const std::function<bool(const fs::path&)>& wanted,
                               std::stop_token stop) {
    std::error_code failed;
    const fs::file_status status = fs::status(folder, failed);
    if (status.type() == fs::file_type::not_found)
        return fail(ErrorCode::NotFound, "there is no folder at {}", folder.string());
    const auto unreadable = [](const fs::path& place, const std::error_code& why) {
        return fail(ErrorCode::Io, "the folder {} cannot be read: {}", place.string(), why.message());
    };
    if (failed) return unreadable(folder, failed);
    if (!fs::is_directory(status))
        return fail(ErrorCode::BadInput, "{} is a {}, expected a folder of pictures", folder.string(),
                    is_picture_name(folder) ? "picture" : "file");
    FilesBelow out;
    std::int64_t locked = 0;
    fs::path first_locked;
    std::vector<fs::path> waiting{folder};
    for (bool first = true; !waiting.empty(); first = false) {
        const fs::path place = std::move(waiting.back());
        waiting.pop_back();
        fs::directory_iterator it(place, failed);
        if (failed == std::errc::permission_denied && !first) {
            if (locked++ == 0 || place < first_locked) first_locked = place;
            continue;
        }
        for (; !failed && it != fs::directory_iterator(); it.increment(failed)) {
            if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            std::error_code ignored;
            if (it->is_directory(ignored) && !it->is_symlink(ignored))
                waiting.push_back(it->path());
            else if (wanted(it->path()) && it->is_regular_file(ignored))
                out.files.push_back(it->path());
        }
        if (failed) return unreadable(place, failed);
    }
    std::sort(out.files.begin(), out.files.end());
    if (locked == 1)
        out.notes.push_back(fmt::format("the folder {} may not be read: it is left out", first_locked.string()));
    if (locked > 1)
        out.notes.push_back(fmt::format("{} folders below {} may not be read: they are left out (the first: {})",
                                        locked, folder.string(), first_locked.string()));
    return out;
}

std::string other_format_of_ours(const fs::path& file) {
    const auto read = read_safetensors(file);
    if (!read) return {};
    const auto format = read->metadata.find("format");
    if (format != read->metadata.end() && format->second.starts_with("vitrine."))
        return format->second == "vitrine.pack" ? std::string() : format->second;
    // A classifier is written as others write theirs, and says how it was trained.
    return read->metadata.contains("vitrine.settings") ? "vitrine.settings" : std::string();
}

Result<PicturesBelow> pictures_and_packs_below(const fs::path& folder) {
    const auto is_safetensors = [](const fs::path& file) { return file.extension() == ".safetensors"; };
    FilesBelow found = VITRINE_TRY(
        files_below(folder, [&](const fs::path& file) { return is_picture_name(file) || is_safetensors(file); }));
    PicturesBelow out;
    out.notes = std::move(found.notes);
    for (fs::path& file : found.files) {
        if (!is_safetensors(file)) {
            out.pictures.push_back(std::move(file));
        } else if (const std::string format = other_format_of_ours(file); format.empty()) {
            out.packs.push_back(std::move(file));
        } else {
            out.notes.push_back(fmt::format("{} holds no pictures but {}: it is passed over", file.string(), format));
        }
    }
    return out;
}

}  // namespace vitrine
