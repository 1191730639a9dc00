// Packed pictures: a labelled folder of photographs as one file of equal squares, which trains fast and needs no
// decoder.
//
//     VITRINE_TRY(pack_folder({.folder = "photos", .size = 128, .out = "photos.safetensors"}));
//     Pack pack = VITRINE_TRY(read_pack("photos.safetensors"));
//
// The file is safetensors: `images` U8 [n, size, size, 3] (RGB, rows from the top), `labels` I64 [n], and the metadata
// `format` = "vitrine.pack", `classes` (a JSON list of names in index order) and `source` (the folder's name).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/resize.h>
#include <vitrine/base/result.h>
#include <vitrine/explainer.h>

namespace vitrine {

/// Labelled pictures of one size.
struct Pack {
    at::Tensor images;                 ///< uint8 [n, size, size, 3]
    at::Tensor labels;                 ///< int64 [n], each below classes.size()
    std::vector<std::string> classes;  ///< names in index order
    std::string source;                ///< where they came from, for the record

    std::int64_t count() const { return images.defined() ? images.size(0) : 0; }
    std::int64_t size() const { return images.defined() ? images.size(1) : 0; }
};

struct PackOptions {
    /// One folder per class, photographs inside (any depth). Folders are taken in alphabetical order.
    /// `classes.tsv` beside the class folders renames and orders them: `folder<TAB>class name` a line; folders it does
    /// not list are left out.
    std::filesystem::path folder;
    std::int64_t size = 128;  ///< side of the squares, 8 to 1024 pixels
    std::filesystem::path out;
    /// How a photograph becomes a square: "crop" (short side resized, centre kept) or "squash" (both sides resized).
    std::string fit = "crop";
    /// All pictures below the folder, at any depth, as one class: for training that needs no labels.
    bool unlabelled = false;
    Interpolation interpolation = Interpolation::Bicubic;
    int threads = 0;  ///< decoders; 0 takes what the machine has
    std::stop_token stop = {};
    std::function<void(const Progress&)> progress = {};  ///< called on the calling thread; unit "pictures"
};

struct PackSummary {
    std::int64_t pictures = 0;
    std::vector<std::string> classes;
    std::vector<std::string> skipped;  ///< one sentence for each file that could not be read
    std::int64_t size_bytes = 0;
};

/// Packs a folder into a file (written beside and renamed).
///
/// @error NotFound     no such folder
/// @error BadInput     no class folders, no readable picture, a size out of range
/// @error Unsupported  this build decodes none of the formats found
/// @error Cancelled    stop was requested; nothing is left behind
Result<PackSummary> pack_folder(const PackOptions& options);

/// The same into memory; `out` is not used.
Result<Pack> pack_in_memory(const PackOptions& options, PackSummary* summary = nullptr);

/// Reads a pack. @error BadInput  not a pack, tensors that disagree, a label without a class
Result<Pack> read_pack(const std::filesystem::path& file);

/// Writes a pack (beside and renamed).
Status write_pack(const std::filesystem::path& file, const Pack& pack);

}  // namespace vitrine
