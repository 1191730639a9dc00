// Tables of boxes beside pictures: where the object is and what it is.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <vitrine/base/geometry.h>
#include <vitrine/base/result.h>

namespace vitrine::cli {

/// What a table of boxes says of one picture.
struct Boxed {
    std::vector<Box> boxes;
    std::optional<std::int64_t> label;
};
using BoxTable = std::map<std::string, Boxed>;

/// Tables found so far, by folder.
class Boxes {
  public:
    /// @param file  a table, for all pictures; empty: boxes.tsv beside each, or above its folder
    static Result<Boxes> make(const std::string& file);
    /// @return  null where no table lists the picture
    Result<const Boxed*> of(const std::filesystem::path& picture);

  private:
    std::optional<BoxTable> given_;
    std::map<std::filesystem::path, BoxTable> tables_;
};

}  // namespace vitrine::cli
