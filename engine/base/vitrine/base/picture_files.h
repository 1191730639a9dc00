// What lies below a folder of pictures: the pictures, packs of them, and what is left out.
#pragma once

#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

/// Whether something lies at a place.
/// @error NotFound  nothing
/// @error Io        the folder above may not be looked into
Status is_there(const std::filesystem::path& place);

struct FilesBelow {
    std::vector<std::filesystem::path> files;  ///< sorted
    /// A sentence where folders below could not be read, which are left out.
    std::vector<std::string> notes;
};
/// The files at any depth that are wanted. Links to files are followed, links to folders are not.
/// @error NotFound   there is nothing
/// @error BadInput   it is a file
/// @error Io         it cannot be read
/// @error Cancelled  stopped
Result<FilesBelow> files_below(const std::filesystem::path& folder,
                               const std::function<bool(const std::filesystem::path&)>& wanted,
                               std::stop_token stop = {});

struct PicturesBelow {
    std::vector<std::filesystem::path> pictures, packs;  ///< sorted
    std::vector<std::string> notes;                      ///< what was left out
};
/// Pictures and packs at any depth. Other files of ours that lie among them, as concepts that were trained there, are
/// no packs: they are left out. Any other safetensors file counts as a pack, and is refused where it is read as one.
/// @error as files_below
Result<PicturesBelow> pictures_and_packs_below(const std::filesystem::path& folder);

/// The format of a safetensors file that is one of ours but no pack; empty for packs, for those of others and for what
/// cannot be read.
std::string other_format_of_ours(const std::filesystem::path& file);

}  // namespace vitrine
