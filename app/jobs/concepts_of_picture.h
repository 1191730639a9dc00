// The concepts of one picture, kept sparse both ways: which are active in a patch, and where a concept is active.
//
//     ConceptsOfPicture found(16, 16, 2304, starts, entries);
//     for (const auto& one : found.at(found.cell(7, 9))) ...    // its concepts, strongest first
//     const auto map = found.map(12);                           // 16 x 16
//
// Plain numbers, without torch and without Qt: what the cursor asks is answered from here, on the interface thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace vitrine::app {

/// How strong a concept is in a patch. Which of the two `id` names goes by the list that holds it.
struct ConceptValue {
    std::int32_t id = 0;
    float value = 0;
    bool operator==(const ConceptValue&) const = default;
};

/// A concept over the whole picture.
struct ConceptSummary {
    std::int32_t concept_id = 0;
    std::int32_t patches = 0;  ///< in which it is active
    float strongest = 0;       ///< the value of largest size
    double sum = 0;
};

/// Largest first, of equal ones the lower number.
void sort_concepts(std::span<ConceptValue> some);

enum class ConceptOrder : std::uint8_t { Sum, Strongest, Patches };

class ConceptsOfPicture {
  public:
    ConceptsOfPicture() = default;
    /// @param rows, cols  of the patches; 0 where there is no grid and the lists are of tokens
    /// @param starts      where the list of each patch begins in `entries`, and the end: patches + 1 numbers
    /// @param entries     the concepts of each patch that are not zero, in any order; ids below `concepts`
    ConceptsOfPicture(std::int64_t rows, std::int64_t cols, std::int64_t concepts, std::vector<std::int64_t> starts,
                      std::vector<ConceptValue> entries);

    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    std::int64_t concepts() const { return concepts_; }
    std::int64_t patches() const { return static_cast<std::int64_t>(patch_starts_.size()) - 1; }
    bool has_grid() const { return rows_ > 0 && cols_ > 0; }
    std::int64_t cell(std::int64_t row, std::int64_t col) const { return row * cols_ + col; }

    /// The concepts of a patch, largest first, of equal ones the lower number. Empty out of range.
    std::span<const ConceptValue> at(std::int64_t patch) const;
    /// The patches of a concept, the first first. Empty where it is silent.
    std::span<const ConceptValue> where(std::int64_t concept_id) const;
    /// [rows, cols], zero where the concept is silent.
    std::vector<float> map(std::int64_t concept_id) const;
    /// Of a concept that is silent: zeros.
    ConceptSummary summary(std::int64_t concept_id) const;

    /// All that are active somewhere, by their number.
    const std::vector<ConceptSummary>& heard() const { return heard_; }
    /// The same, largest first; equal ones by their number.
    std::vector<std::int32_t> ranked(ConceptOrder order) const;

  private:
    std::int64_t rows_ = 0, cols_ = 0, concepts_ = 0;
    std::vector<std::int64_t> patch_starts_{0}, concept_starts_{0};
    std::vector<ConceptValue> of_patches_, of_concepts_;
    std::vector<ConceptSummary> heard_;
};

/// Which autoencoder, and what its file does not say of itself.
struct ConceptSource {
    std::filesystem::path file;                ///< empty: the one that came with the model
    std::map<std::string, std::string> given;  ///< by AutoencoderConfig's names: "point", "kind", "k", ...
    bool operator==(const ConceptSource&) const = default;
};

/// What a person called a concept.
struct ConceptName {
    std::string name, tags, note;
};

/// What an autoencoder is, and what it makes of the picture.
struct ConceptFacts {
    std::string kind, point, tokens, format;  ///< format: whose file it is, "" for ours
    std::int64_t concepts = 0, width = 0, k = 0;
    double active = 0;                ///< concepts in a token, the mean
    std::optional<double> explained;  ///< share of this picture's variance
    /// The share of the class token's own distance from the mean of all its tokens, where it is read among others.
    std::optional<double> explained_class;
    std::map<std::int32_t, ConceptName> names;
    std::string names_trouble;   ///< why there are none; empty where nothing is wrong with them
    std::vector<float> largest;  ///< of each concept over the pictures of the index; empty where there is none
    std::string no_map;          ///< why there are no maps; empty when there are
    std::vector<std::string> notes;
};

/// A token that is no patch, and its concepts.
struct TokenConcepts {
    std::string token;                        ///< "cls", "reg0"
    std::vector<ConceptValue> concepts;       ///< largest first, of equal ones the lower number
    float at(std::int64_t concept_id) const;  ///< 0 where it is silent
};

struct ConceptsFound {
    ConceptFacts facts;
    std::shared_ptr<const ConceptsOfPicture> picture;
    /// The tokens before the patches, where the autoencoder reads them: what they say is in none of the picture's
    /// lists, since class token and patches are active in different ways.
    std::vector<TokenConcepts> apart;
    double milliseconds = 0;
};

/// The same concepts, read by the same autoencoder at the points of all layers that are alike to its own. Away from
/// that it reads what it was not trained on, so how much it explains goes with every layer.
struct ConceptLayers {
    std::vector<std::string> points;  ///< from the first layer to the last
    int own = 0;                      ///< of `points`: what it was trained on
    std::vector<double> explained;    ///< share of the variance of each layer's tokens; may be negative
    std::vector<float> strongest;     ///< [layers, concepts]: in the patch where it is largest
    std::int64_t concepts = 0;
    float at(int layer, std::int64_t id) const { return strongest[static_cast<std::size_t>(layer * concepts + id)]; }
};

}  // namespace vitrine::app
