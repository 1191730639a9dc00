// Steering: a model with some of its concepts set, added to, scaled or silenced while it runs.
//
//     auto made = steered(model, {.autoencoder = concepts, .edits = {{12, ConceptEdit::Mode::Suppress}}});
//     auto answer = run(**made, pixels);           // as every explainer, measure and view sees it
//
// A steered model is a model: its forward, its chain of blocks and its captures have the edit in them, at the point
// that the autoencoder reads, before anything else sees that point. A token x becomes x + difference(f', codes): what
// the autoencoder does not explain of it stays, so an edit that changes no code changes no number.
//
// Gradients go through the edit as it is: codes are functions of the token, so with f_i = act(x w_i + b_i) set to v the
// derivative of x' = x + c (v - f_i) d_i is I - d_i df_i/dx. Which latents a top-k chooses and which gates are open is
// constant there, as in the derivative of a maximum.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <vitrine/autoencoder.h>
#include <vitrine/base/result.h>
#include <vitrine/model.h>

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
};
std::string_view name_of(ConceptEdit::Mode mode);

/// Patches from one corner to the other, both among them.
struct PatchBox {
    std::int64_t row0 = 0, col0 = 0, row1 = 0, col1 = 0;
    bool operator==(const PatchBox&) const = default;
};
/// The same patches as boxes of one row each. @param patches  indices, row by row
std::vector<PatchBox> boxes_of(std::vector<std::int64_t> patches, std::int64_t cols);

struct Steering {
    enum class Tokens : std::uint8_t {
        All,      ///< those that the autoencoder reads
        Class,    ///< the class token
        Patches,  ///< all patches, or all places of a map
        Chosen    ///< the patches of `boxes`
    };
    Autoencoder autoencoder;
    /// One after the other where they name the same latent. Edits that change nothing may be among them.
    std::vector<ConceptEdit> edits = {};
    Tokens tokens = Tokens::All;
    std::vector<PatchBox> boxes = {};
    /// The grid that the boxes are of; 0: the model's at its usual input. An input with another grid is refused.
    std::int64_t rows = 0, cols = 0;
    /// Where the autoencoder came from, and what was said of it on loading: what a saved file names. Empty: it cannot
    /// be saved.
    std::filesystem::path file = {};
    std::map<std::string, std::string> given = {};
};
/// "concept 3 set to 2.5, concept 7 suppressed, on the class token"
std::string sentence_of(const Steering& steering);

/// The model with the edits in it. It holds the one it was made of and shares its weights: to() moves both.
///
/// @error BadInput     no such latent or point, a value that is not finite, boxes outside the grid; tokens of another
///                     width or another model's concepts, as Autoencoder::fits says it
/// @error Unsupported  tokens that this point or this autoencoder has not
Result<std::unique_ptr<Model>> steered(std::shared_ptr<Model> model, Steering steering);

/// Other edits and tokens on a model that was steered; what `steered` checks once (that the concepts fit) is not looked
/// at again, so a slider may ask for it at every move. `autoencoder`, `file` and `given` of the first stay.
///
/// @error BadInput  `model` is not steered, and as above
Result<std::unique_ptr<Model>> steered_again(const Model& model, std::vector<ConceptEdit> edits,
                                             Steering::Tokens tokens = Steering::Tokens::All,
                                             std::vector<PatchBox> boxes = {});

/// How a model is steered; null when it is not.
const Steering* steering_of(const Model& model);
/// The model that a steered one was made of; null when it is not steered.
std::shared_ptr<Model> unsteered(const Model& model);

}  // namespace vitrine
