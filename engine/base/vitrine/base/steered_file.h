// What a file of a steered model says (NAME.steered.json), and what people write for edits of concepts and for tokens.
//
// Plain words and numbers: whether they fit a model and its concepts is looked at where these are (steering.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

struct ConceptEdit {
    enum class Mode : std::uint8_t {
        Set,      ///< f = value
        Add,      ///< f + value
        Scale,    ///< f * value
        Suppress  ///< f = 0
    };
    std::int64_t index = 0;  ///< which latent
    Mode mode = Mode::Set;
    /// In the unit of Codes::active (weighed, where the kind weighs). A slider sets v times the largest f seen.
    double value = 0;
    bool operator==(const ConceptEdit&) const = default;
};
std::string_view name_of(ConceptEdit::Mode mode);

/// Patches from one corner to the other, both among them.
struct PatchBox {
    std::int64_t row0 = 0, col0 = 0, row1 = 0, col1 = 0;
    bool operator==(const PatchBox&) const = default;
};

enum class SteeredTokens : std::uint8_t {
    All,      ///< those that the autoencoder reads
    Class,    ///< the class token
    Patches,  ///< all patches, or all places of a map
    Chosen    ///< the patches of the boxes
};

/// Reads "all", "class", "patches", or chosen patches: "ROW,COL" or "ROW,COL-ROW,COL", several with semicolons.
/// @error BadInput  anything else
Result<std::pair<SteeredTokens, std::vector<PatchBox>>> read_tokens(const std::string& text);
/// The same text again.
std::string tokens_text(SteeredTokens tokens, const std::vector<PatchBox>& boxes);
/// Reads "3=2.5,7=-1"; for Suppress "3,7".
/// @error BadInput  anything else
Result<std::vector<ConceptEdit>> concept_edits(ConceptEdit::Mode mode, const std::string& text);

struct SteeredFile {
    std::string model;           ///< what to open: a path, or a name such as "starter"
    std::string weights;         ///< weights_hash() of it, or a hash of the file where the weights cannot be reached
    std::filesystem::path file;  ///< the autoencoder; empty where it is built in
    std::string built_in;        ///< its name among what Vitrine brings along
    std::string hash;            ///< of its tensors and settings
    std::map<std::string, std::string> given;
    std::vector<ConceptEdit> edits;
    SteeredTokens tokens = SteeredTokens::All;
    std::vector<PatchBox> boxes;
    std::int64_t rows = 0, cols = 0;
};
/// What a file of this place holds; paths in it are relative to the place.
/// @error BadInput  it says something else: what is wrong with it
Result<SteeredFile> parse_steered_file(const std::string& text, const std::filesystem::path& file);

}  // namespace vitrine
