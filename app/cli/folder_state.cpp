// Keeps pieces of pictures and gives back those whose pictures are what they were.
#include "cli/folder_state.h"

#include "cli/common.h"
#include "cli/fingerprint.h"

namespace vitrine::cli {

using nlohmann::json;

Result<FolderState> FolderState::open(const std::filesystem::path& file, const std::string& measure,
                                      const PictureSet& pictures, const json& made_with, const json& settings) {
    return FolderState(VITRINE_TRY(State::open(file, made_with, settings)), file.string(), measure, pictures);
}

/// Of a picture's file; in a pack, of its pixels.
Result<std::string> FolderState::content_of(std::int64_t picture) {
    if (const auto known = contents_.find(picture); known != contents_.end()) return known->second;
    const PictureSet::Picture& one = pictures_.picture(picture);
    std::uint64_t key = 0;
    if (one.file.empty()) {
        const at::Tensor pixels = VITRINE_TRY(pictures_.pixels(picture)).contiguous();
        key = fingerprint({static_cast<const std::byte*>(pixels.const_data_ptr()), pixels.nbytes()}, key);
    } else {
        key = VITRINE_TRY(fingerprint(one.file, key));
    }
    return contents_[picture] = fmt::format("{:016x}", key);
}

Status FolderState::begin(const std::map<std::string, std::string>& made_with, const std::vector<std::string>& parts,
                          std::int64_t pictures) {
    VITRINE_CHECK(state_.made_also_with(json(made_with)));
    std::map<std::string, std::int64_t> places;
    for (std::int64_t i = 0; i < pictures_.count(); ++i) places[pictures_.picture(i).name] = i;
    std::size_t stale = 0;
    for (const Piece& piece : state_.pieces()) {
        const auto place = places.find(piece.picture);
        if (piece.measure != measure_ || place == places.end()) continue;
        // A picture that cannot be read says so when it is measured.
        if (content_of(place->second).value_or("") == piece.content)
            pieces_[{piece.picture, piece.part}] = &piece;
        else
            ++stale;
    }
    if (stale > 0) say(fmt::format("{} lines of {} are of other pictures", stale, file_));
    for (const std::string& part : parts) {
        std::int64_t there = 0;
        for (const auto& [of, piece] : pieces_) there += of.second == part;
        if (there > 0) say(fmt::format("{} of {} {} are in {}", std::min(there, pictures), pictures, part, file_));
    }
    return {};
}

Result<std::optional<std::string>> FolderState::found(std::int64_t picture, const std::string& part) {
    const auto piece = pieces_.find({pictures_.picture(picture).name, part});
    if (piece == pieces_.end()) return std::nullopt;
    return VITRINE_TRY(state_.bytes_of(*piece->second));
}

Status FolderState::keep(std::int64_t picture, const std::string& part, std::string_view bytes) {
    return state_.append(Piece{pictures_.picture(picture).name, VITRINE_TRY(content_of(picture)), measure_, part},
                         bytes);
}

}  // namespace vitrine::cli
