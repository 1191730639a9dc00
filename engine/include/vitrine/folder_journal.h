// Where a measure of a folder keeps what it found of each picture, so that a run that was broken off goes on.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

class FolderJournal {
  public:
    virtual ~FolderJournal() = default;
    /// Called once, before the rest.
    ///
    /// @param made_with  what the bytes hang on beside the model, the seed and the settings, by name
    /// @param parts      of what is kept of each picture, by names in the plural: "pictures"
    /// @param pictures   of which it is
    /// @error BadInput   what is there was made with something else (named)
    virtual Status begin(const std::map<std::string, std::string>& made_with, const std::vector<std::string>& parts,
                         std::int64_t pictures) = 0;
    /// What an earlier run kept of this very picture, to the byte; nothing where there is none.
    virtual Result<std::optional<std::string>> found(std::int64_t picture, const std::string& part) = 0;
    /// Returns when it is on the disk.
    virtual Status keep(std::int64_t picture, const std::string& part, std::string_view bytes) = 0;
};

}  // namespace vitrine
