// The journal of a measure of a folder: its pieces in a file, each held to the picture that it is of.
#pragma once

#include <map>
#include <string>
#include <utility>

#include <vitrine/folder_journal.h>
#include <vitrine/picture_set.h>

#include "cli/measure_state.h"

namespace vitrine::cli {

class FolderState final : public FolderJournal {
  public:
    /// @param pictures   of the measure, by whose places it is asked; outlives this
    /// @param made_with  as of State; further settings are told when the measure begins
    /// @error as State::open
    static Result<FolderState> open(const std::filesystem::path& file, const std::string& measure,
                                    const PictureSet& pictures, const nlohmann::json& made_with,
                                    const nlohmann::json& settings);

    Status begin(const std::map<std::string, std::string>& made_with, const std::vector<std::string>& parts,
                 std::int64_t pictures) override;
    Result<std::optional<std::string>> found(std::int64_t picture, const std::string& part) override;
    Status keep(std::int64_t picture, const std::string& part, std::string_view bytes) override;

  private:
    FolderState(State state, std::string file, std::string measure, const PictureSet& pictures)
        : state_(std::move(state)), file_(std::move(file)), measure_(std::move(measure)), pictures_(pictures) {}
    Result<std::string> content_of(std::int64_t picture);

    State state_;
    std::string file_, measure_;
    const PictureSet& pictures_;
    std::map<std::int64_t, std::string> contents_;
    std::map<std::pair<std::string, std::string>, const Piece*> pieces_;  ///< by picture and part
};

}  // namespace vitrine::cli
