// The pictures of folders and packs, each decoded when it is asked for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/preprocess.h>

namespace vitrine {

class PictureSet {
  public:
    struct Picture {
        std::string name;            ///< "tench/1.jpg", "photos#12": another for each
        std::filesystem::path file;  ///< empty for those of a pack
        std::string label;           ///< the class's name, where a pack gives one
        std::size_t pack = 0;
        std::int64_t index = 0;  ///< in its pack
    };
    /// @param places  pictures, packs, and folders of them at any depth; in the order given, folders by name
    /// @error NotFound  nothing at a place, or no picture in it
    /// @error BadInput  a pack whose pictures are smaller than the model's input
    static Result<PictureSet> open(const std::vector<std::filesystem::path>& places, const Preprocess& preprocess);

    std::int64_t count() const { return static_cast<std::int64_t>(pictures_.size()); }
    const Picture& picture(std::int64_t i) const { return pictures_[static_cast<std::size_t>(i)]; }
    /// What of folders was left out: other files of ours, folders that may not be read.
    const std::vector<std::string>& notes() const { return notes_; }
    /// Leaves out those for which this is false.
    template <class Keep>
    void keep(const Keep& which) {
        std::erase_if(pictures_, [&](const Picture& one) { return !which(one); });
    }
    /// As the model is fed: float32 [1, 3, height, width], normalised, on the CPU; of a pack the middle. From any
    /// thread.
    Result<at::Tensor> pixels(std::int64_t i) const;

  private:
    Status add(const std::filesystem::path& file);

    Preprocess preprocess_;
    std::vector<Picture> pictures_;
    std::vector<std::string> notes_;
    std::vector<at::Tensor> packs_;  // uint8 [n, size, size, 3]
};

}  // namespace vitrine
