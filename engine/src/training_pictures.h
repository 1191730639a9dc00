// The pictures that concepts are trained on: what they are, which of them are known again, and their pixels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/ladder.h>
#include <vitrine/picture_set.h>
#include <vitrine/preprocess.h>

namespace vitrine {

/// Those of a folder, decoded when they are asked for, and of packs. The order is that of packs, then of files, by
/// name.
class TrainingPictures {
  public:
    /// @param set  in the place of `data`; it outlives this. Null: none
    /// @error NotFound  nothing there
    /// @error BadInput  no pictures there, a pack whose pictures are smaller than the model's
    static Result<TrainingPictures> open(const std::filesystem::path& data, const PictureSet* set,
                                         const Preprocess& preprocess);

    std::int64_t count() const { return static_cast<std::int64_t>(keys_.size()); }
    /// What every picture becomes before it is seen, drawn anew on every pass.
    void set_rung(Rung rung, std::uint64_t seed);
    /// float32 [1, 3, height, width], normalised, on the CPU
    /// @param pass  how often all pictures were seen before
    Result<at::Tensor> pixels(std::int64_t index, std::int64_t pass = 0) const;
    /// Each by its place in the folder and its size, as float32 [2, count]: 24 bits each. What a checkpoint keeps.
    const at::Tensor& identities() const { return identities_; }
    /// Each by its own name and size: the same in another folder.
    const std::vector<std::uint64_t>& keys() const { return keys_; }
    /// What of the folder was left out.
    const std::vector<std::string>& notes() const { return notes_; }
    /// How the pictures differ from those of `then`: "of 40 pictures 1 is gone and 2 are new (the first: b.png)". Empty
    /// where they do not.
    std::string changes_since(const at::Tensor& then) const;

  private:
    explicit TrainingPictures(Preprocess preprocess) : preprocess_(std::move(preprocess)) {}
    std::string name(std::int64_t index) const;
    Result<at::Tensor> as_it_is(std::int64_t index) const;
    const PictureSet* set_ = nullptr;
    Preprocess preprocess_;
    Rung rung_;
    std::uint64_t seed_ = 0;
    std::filesystem::path data_;
    std::vector<at::Tensor> packs_;
    std::vector<std::filesystem::path> pack_files_, files_;
    at::Tensor identities_;
    std::vector<std::uint64_t> keys_;
    std::vector<std::string> notes_;
};

/// What each is known by wherever it lies: its file's name and size, or its pack's name and its number there.
std::vector<std::uint64_t> keys_of(const PictureSet& pictures);

/// Of a whole set of pictures, in any order.
std::string fingerprint_of(std::vector<std::uint64_t> keys);

}  // namespace vitrine
