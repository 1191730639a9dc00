// Where what goes with a file is kept: names, an index. Beside it, or among the person's own files where its folder is
// read-only, as the program's own is once it is installed. All that read and write such files ask here.
#pragma once

#include <filesystem>

#include <vitrine/base/result.h>

namespace vitrine {

/// Where `file` is written: itself, or $XDG_DATA_HOME/vitrine/FOLDER-NAME where its folder cannot be written to.
std::filesystem::path kept_beside(const std::filesystem::path& file);
/// Where `file` is read: as above where that is there, else itself.
std::filesystem::path found_beside(const std::filesystem::path& file);
/// Makes the folder of a file that is to be written. @error Io
Status make_folder_of(const std::filesystem::path& file);

}  // namespace vitrine
