// What pictures say of concepts, picture by picture: the journal from which an index of concepts is put together.
//
// Grows at its end, one block a picture, each with a checksum: what a run that was broken off had written is good, and
// a torn block at the end is cut off. Plain data, no torch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include <vitrine/base/concept_index.h>
#include <vitrine/base/result.h>

namespace vitrine {

/// A concept that is above 0 in a token of a picture.
struct ConceptValue {
    std::int64_t token = 0, latent = 0;
    float value = 0;
    float effect = 0;  ///< what the answer loses without it there; NaN: not known
};

/// Which of a picture's tokens are which, in the order in which the autoencoder reads them.
struct TokenPlaces {
    std::int64_t class_token = -1;  ///< -1: none is read
    std::int64_t first = 0;         ///< the first patch
    std::int64_t patches = 0;
    std::int64_t rows = 0, cols = 0;  ///< 0: patches lie on no grid, else rows * cols == patches
};

/// What a picture says of one concept. As it lies in the journal.
struct LatentRecord {
    std::uint32_t latent = 0;
    std::uint16_t cell =
        0xFFFF;                 ///< of the greatest patch value, the first of equal ones; 0xFFFF: no grid, or no patch
    std::uint16_t patches = 0;  ///< in which it is above 0
    float peak = 0, sum = 0;    ///< greatest and all patch values; 0 without any
    float in_class = 0;         ///< value in the class token
    float effect = 0;           ///< over all tokens
    float moran = 0;            ///< Moran's I over the grid; NaN where it is not defined
};
static_assert(sizeof(LatentRecord) == 28);
constexpr std::int64_t kMostCells = 0xFFFF;

/// @param values  by token, ascending
/// @return        by latent, ascending
std::vector<LatentRecord> latent_records(std::span<const ConceptValue> values, const TokenPlaces& places);

/// Moran's I of numbers on a grid, cells that share a side being neighbours with weight 1; NaN where all are equal.
/// Source: P. A. P. Moran, "Notes on continuous stochastic phenomena", Biometrika 37, 1950.
double morans_i(std::span<const float> cells, std::int64_t rows, std::int64_t cols);

struct PictureRecord {
    FolderPicture picture;
    std::string skipped;  ///< why it could not be read; empty: it was
    std::int32_t answer = -1;
    float probability = 0;
    std::uint32_t patches = 0;
    std::vector<float> embedding;
    std::vector<LatentRecord> latents;
};

class ConceptRecords {
  public:
    /// Opens the journal, or starts one; for this program alone while it lives.
    ///
    /// @param key  what the records depend on; a journal with another key is emptied
    /// @error BadInput  no journal of concepts (it is left alone)
    /// @error Io        not writable; another program builds this index
    static Result<ConceptRecords> open(const std::filesystem::path& file, const std::string& key);

    struct Entry {
        FolderPicture picture;
        std::string skipped;
        std::uint64_t offset = 0, length = 0;  ///< of the block
        std::uint64_t embedding = 0;           ///< where it lies
        std::uint32_t width = 0;               ///< its numbers
    };
    const std::vector<Entry>& entries() const { return entries_; }
    /// The entry of exactly this picture, name, size and time; -1: none.
    std::int64_t find(const FolderPicture& picture) const;
    bool was_emptied() const { return emptied_; }  ///< by open(), for its key
    std::uint64_t size_bytes() const { return size_; }

    Status append(const PictureRecord& record);
    Result<PictureRecord> read(std::int64_t entry) const;
    Status read_embedding(std::int64_t entry, std::span<float> out) const;
    /// Leaves the journal with these entries alone, written beside and renamed; nothing may follow.
    Status compact(std::span<const std::int64_t> entries);

    /// One block's bytes. @error BadInput  damaged
    static Result<PictureRecord> parse_block(std::span<const std::byte> bytes);
    /// Puts its checksum into a block of at least 8 bytes.
    static void seal_block(std::span<std::byte> bytes);

  private:
    struct Closer {
        int fd = -1;
        ~Closer();
    };
    Status scan(std::uint64_t from);
    Status read_at(std::uint64_t offset, std::span<std::byte> out) const;
    Status write_at_end(std::span<const std::byte> bytes);
    std::filesystem::path file_;
    std::shared_ptr<Closer> descriptor_;
    std::uint64_t size_ = 0;
    std::string header_;
    bool emptied_ = false;
    std::vector<Entry> entries_;
    std::map<std::string, std::int64_t> by_name_;
};

/// What an index holds beside what pictures say.
struct IndexFrame {
    std::int64_t latents = 0, rows = 0, cols = 0;
    bool class_token = false, classifier = false;  ///< one is read; there are answers that concepts have an effect on
    std::map<std::string, std::string> facts;
    std::span<const std::uint32_t> neighbours;  ///< [latents * kNeighbours]
    std::span<const float> cosines;             ///< the same; NaN: an empty place
    std::span<const float> map;                 ///< [latents * 2]
};

/// Writes the index of these pictures, beside and renamed.
///
/// Memory: some 700 bytes a concept and 400 a picture, whatever the pictures say.
///
/// @param entries   of the journal, sorted by name, each name once
/// @param progress  pictures done; may be empty
/// @error Cancelled  stop was requested; the file before stays
Status write_concept_index(const std::filesystem::path& file, const ConceptRecords& records,
                           std::span<const std::int64_t> entries, const IndexFrame& frame, std::stop_token stop = {},
                           const std::function<void(std::int64_t)>& progress = {});

}  // namespace vitrine
