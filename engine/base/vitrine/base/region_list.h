// Regions of pictures as a text that people and programs write: a line `picture,ROW,COL-ROW,COL` each.
//
//     # cells 14 x 14
//     zebra.jpg,3,4-5,9
//     herd, far away.jpg,0,2
//
// A picture's name counts from the text's folder. Lines that begin with # are not read, but for the one of cells: it
// says of which grid the numbers are, so that they are not taken for cells of another one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

struct ListedRegion {
    std::filesystem::path picture;  ///< as it is opened
    std::string cells;              ///< "3,4" or "3,4-5,9", several with semicolons; not looked into here
    std::int64_t line = 0;          ///< of the text, from 1; not written
};

struct RegionList {
    std::int64_t rows = 0, cols = 0;  ///< of the grid; 0 where the text does not say
    std::vector<ListedRegion> regions;
};

/// @error Io        it cannot be read
/// @error BadInput  a line that names no picture or no cells, with its number
Result<RegionList> read_region_list(const std::filesystem::path& file);

/// Pictures below the text's folder by their names from there, others by their whole paths.
///
/// @error BadInput  a picture whose name has a line break
Status write_region_list(const std::filesystem::path& file, const RegionList& list);

}  // namespace vitrine
