// Where the object is in a picture and what it is: tables of boxes beside pictures, or folders of masks.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <vitrine/base/geometry.h>
#include <vitrine/base/image.h>
#include <vitrine/base/result.h>

namespace vitrine::cli {

/// What is known of one picture.
struct Boxed {
    std::vector<Box> boxes;
    std::optional<std::int64_t> label;
    std::int64_t mask_width = 0, mask_height = 0;  ///< of the mask that `boxes` are the pieces of; 0 without one
};
using BoxTable = std::map<std::string, Boxed>;

/// A mask as boxes that do not overlap, in its pixels: runs of a row that are not black, joined with equal ones below.
///
/// A pixel of the model's input then lies in a box exactly when the mask's pixel under its centre is not black, which
/// is the mask resized by nearest through the photograph's own resize and crop.
///
/// @error BadInput  more than a million pieces: noise, not an object
Result<std::vector<Box>> pieces_of(const Image& mask);

/// The boxes in the photograph's pixels: those of a mask of another size are scaled.
///
/// @error BadInput  the mask has not the photograph's shape, within one of its pixels
Result<std::vector<Box>> boxes_in_photo(const Boxed& known, const InputGeometry& geometry);

class Boxes {
  public:
    /// @param file   a table, for all pictures; empty: boxes.tsv beside each, or above its folder
    /// @param masks  a folder of masks, which then stand for the boxes: NAME.* or CLASS/NAME.* for CLASS/NAME.jpg;
    ///               empty: none
    /// @error NotFound  no such folder
    static Result<Boxes> make(const std::string& file, const std::string& masks = {});
    /// @return  nothing where neither table nor mask is of the picture
    /// @error BadInput  a mask whose zeros cannot be told: JPEG, 16 bit, or partly transparent
    Result<std::optional<Boxed>> of(const std::filesystem::path& picture);

  private:
    Result<const Boxed*> listed(const std::filesystem::path& picture);

    std::optional<BoxTable> given_;
    std::filesystem::path masks_;
    std::map<std::filesystem::path, BoxTable> tables_;  ///< found so far, by folder
};

}  // namespace vitrine::cli
