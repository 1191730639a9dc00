// An index of a folder's pictures by the concepts of an autoencoder: a file that is mapped and never loaded whole.
//
//     ConceptIndex index = VITRINE_TRY(ConceptIndex::open("concepts.safetensors.index"));
//     for (std::uint32_t latent : index.order("effect"))
//         for (ConceptTop top : index.tops(latent)) show(index.picture(top.picture).name, top.cell);
//
// The file is safetensors: one tensor a column, facts in its metadata, so that other programs read it too. Opening
// looks at shapes alone. What is inside may be anything: whatever is handed out is within bounds, and numbers that
// point nowhere are left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

constexpr std::uint32_t kNoCell = 0xFFFFFFFFU;

/// A picture in which a concept is strong.
struct ConceptTop {
    std::uint32_t picture = 0;     ///< below pictures()
    std::uint32_t cell = kNoCell;  ///< its strongest patch, row by row, below rows() * cols(); kNoCell: no patch
    float value = 0;               ///< the concept there, above 0
};

struct ConceptNeighbour {
    std::uint32_t latent = 0;
    float cosine = 0;  ///< of the decoder's rows
};

/// A concept of a picture.
struct PictureConcept {
    std::uint32_t latent = 0;
    float value = 0;  ///< on its strongest patch
};

struct IndexedPicture {
    std::string_view name;        ///< path relative to the folder, with '/'
    std::int64_t size_bytes = 0;  ///< of the file when it was indexed
    std::int64_t time_ns = 0;     ///< its last change then, in ns since 1970
    std::int32_t answer = -1;     ///< the model's most likely class; -1: none
    float probability = 0;        ///< of that class
    bool skipped = false;         ///< it could not be read and counts nowhere
};

class ConceptIndex {
  public:
    static constexpr std::int64_t kTops = 16, kNeighbours = 8, kBins = 48, kStrongest = 32;
    static constexpr int kVersion = 1;

    /// @error NotFound, Io  the file is missing or unreadable
    /// @error BadInput      no index of concepts, another version, cut short, tensors that do not fit each other
    static Result<ConceptIndex> open(const std::filesystem::path& file);
    static Result<ConceptIndex> parse(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive);

    std::int64_t latents() const { return latents_; }
    std::int64_t pictures() const { return pictures_; }
    std::int64_t rows() const { return rows_; }  ///< of the patch grid; 0: no grid
    std::int64_t cols() const { return cols_; }
    /// "model", "weights", "autoencoder" (hashes), "point", "tokens", "preprocess", "embedding"; "folder", and
    /// "folder_from_here" as it lies from the index, either also with "_bytes" behind its name where it is no UTF-8
    /// (json_bytes); "value": "closeness" where the autoencoder is k_means, see below; "given": what its file did not
    /// say, NAME=VALUE with commas between
    const std::map<std::string, std::string>& facts() const { return facts_; }
    std::string fact(const std::string& name) const;
    /// Where its pictures are: as they lie from the opened file, where they are there, else where they were when it was
    /// built. Of a folder that is nowhere, the latter.
    std::filesystem::path folder() const;

    /// One number a concept; NaN where it is not defined. "Patches": tokens of the grid; an autoencoder of the class
    /// token alone has that as its only patch. Values are the autoencoder's codes; those of k_means are all 1, and in
    /// their place stands how close the token is to its centroid (concept_strength): 1 in the middle, above 0.
    ///
    ///   frequency          share of all patches in which it is above 0
    ///   picture_frequency  share of pictures with such a patch
    ///   class_frequency    share of pictures with it in the class token
    ///   mean               over the patches in which it is above 0
    ///   maximum            over all patches
    ///   class_maximum      over all class tokens
    ///   effect             mean over its top pictures of what the logit of the picture's own answer loses, to first
    ///                      order, when the concept is taken out of all tokens: sum over tokens of value * <decoder
    ///                      row, gradient of the logit>. Above 0: it speaks for the answers. NaN without a classifier
    ///   monosemanticity    how alike its top pictures are: mean cosine of pairs of their embeddings (what the head is
    ///                      given, less the mean over all pictures), each pair weighed by both values. 1: all alike;
    ///                      0: no more than any two pictures. After M. Pach et al., "Sparse Autoencoders Learn
    ///                      Monosemantic Features in Vision-Language Models", 2025, who take all pictures, another
    ///                      model's embeddings, and do not centre
    ///   localisation       mean over its top pictures of Moran's I of its values over the patch grid, cells that share
    ///                      a side being neighbours: 1 one blob, about 0 scattered, below 0 a chequerboard. P. A. P.
    ///                      Moran, "Notes on continuous stochastic phenomena", 1950
    static const std::vector<std::string>& column_names();
    /// [latents]; empty for a name that is none of these
    std::span<const float> column(std::string_view name) const;
    /// All concepts by a column, NaN last, equal ones by number. @cost touches that column alone
    std::vector<std::uint32_t> order(std::string_view column, bool descending = true) const;

    /// Pictures by the concept's greatest patch value, at most kTops; of equal ones the first by name.
    std::vector<ConceptTop> tops(std::int64_t latent) const;
    /// The same by the class token's value, where the model has one and it is read.
    std::vector<ConceptTop> class_tops(std::int64_t latent) const;
    /// How many pictures have their greatest patch value in each bin. [kBins]
    std::span<const std::uint32_t> histogram(std::int64_t latent) const;
    /// The lower edge of a bin, 2^(bin / 2 - 12); smaller values are in the first, larger ones in the last.
    static double bin_edge(std::int64_t bin);
    std::vector<ConceptNeighbour> neighbours(std::int64_t latent) const;
    /// Where each concept lies on the map of all by the directions of their decoder rows: x, y. [latents * 2]
    std::span<const float> map() const { return map_; }

    /// Pictures are sorted by name. @param picture  0 to pictures() - 1; else an empty one is given
    IndexedPicture picture(std::int64_t picture) const;
    /// The picture of this name, or -1. @cost a binary search
    std::int64_t find(std::string_view name) const;
    /// At most kStrongest, the strongest first.
    std::vector<PictureConcept> strongest(std::int64_t picture) const;

  private:
    std::vector<ConceptTop> tops_of(std::int64_t latent, const std::uint32_t* pictures, const std::uint32_t* cells,
                                    const float* values) const;
    std::int64_t latents_ = 0, pictures_ = 0, rows_ = 0, cols_ = 0;
    std::map<std::string, std::string> facts_;
    std::filesystem::path file_;  // empty: it was parsed from memory
    std::vector<std::span<const float>> columns_;
    std::span<const float> map_, top_value_, class_value_, cosine_, strongest_value_, probability_;
    std::span<const std::uint32_t> top_picture_, top_cell_, class_picture_, histogram_, neighbour_, strongest_;
    std::span<const std::uint64_t> name_end_;
    std::span<const std::int64_t> size_, time_;
    std::span<const std::int32_t> answer_;
    std::span<const std::uint8_t> skipped_;
    std::string_view names_;
    std::vector<std::shared_ptr<const void>> keep_alive_;
};

/// A picture file below a folder.
struct FolderPicture {
    std::string name;  ///< relative, with '/'
    std::int64_t size_bytes = 0, time_ns = 0;
};
/// All picture files at any depth, sorted by name.
/// @param notes  takes a sentence about folders that may not be read, where it is given
/// @error as files_below
Result<std::vector<FolderPicture>> pictures_below(const std::filesystem::path& folder,
                                                  std::vector<std::string>* notes = nullptr);

/// How a folder differs from what was indexed: names, sorted.
struct FolderChanges {
    std::vector<std::string> added, removed;
    std::vector<std::string> changed;  ///< another size or time
    bool none() const { return added.empty() && removed.empty() && changed.empty(); }
    /// "3 pictures were added and 1 changed since the index was built"; empty when none
    std::string sentence() const;
};
/// @param folder  empty: index.folder(). Looks at names, sizes and times, not into the files
Result<FolderChanges> changes_since(const ConceptIndex& index, const std::filesystem::path& folder = {});

}  // namespace vitrine
