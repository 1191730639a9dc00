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
// constant there, as in the derivative of a maximum, and so is which codes of nmf are above zero.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/autoencoder.h>
#include <vitrine/base/result.h>
#include <vitrine/base/steered_file.h>
#include <vitrine/model.h>

namespace vitrine {

/// The same patches as boxes of one row each. @param patches  indices, row by row
std::vector<PatchBox> boxes_of(std::vector<std::int64_t> patches, std::int64_t cols);

struct Steering {
    using Tokens = SteeredTokens;
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

/// As read_tokens. @error BadInput  likewise
Status set_tokens(Steering& steering, const std::string& text);
/// The same text again.
std::string tokens_text(const Steering& steering);

/// The model with the edits in it. Without an autoencoder and edits it is the model as it was. It holds the one it was
/// made of and shares its weights: to() moves both.
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
/// What is changed of a model, that of the models it was made of among it; empty where it answers as it was opened.
std::string changes_of(const Model& model);
/// Of a steered model; no other has it or had it. 0: nothing is steered.
std::uint64_t steering_number(const Model& model);
/// The model that a steered one was made of; null when it is not steered.
std::shared_ptr<Model> unsteered(const Model& model);

// ---- on disk: NAME.steered.json, which open_model() opens like any other model
// --------------------------------------------------------------------------------------------------------------------

/// Whether a file of this name is one: "x.steered.json".
bool is_steered_name(const std::filesystem::path& file);
/// @error BadInput  no such file, or one that says something else: what is wrong with it
Result<SteeredFile> read_steered_file(const std::filesystem::path& file);
/// The model that is not steered itself, behind files that steer steered models. @error as read_steered_file
Result<std::string> innermost_model(const std::filesystem::path& file);

/// Writes a steered model, its model and autoencoder as paths relative to the file. Opened again it answers the same.
///
/// @param request  what its model was opened as: a path or a name
/// @error BadInput     not steered; a name that does not end in .steered.json
/// @error Unsupported  the autoencoder was never a file
Status save_steered(Model& model, const std::string& request, const std::filesystem::path& file);

// ---- how much a concept steers
// ------------------------------------------------------------------------------------------------------------------

/// The largest of each latent on these pictures, over the tokens that the autoencoder reads. float32 [latents]
Result<at::Tensor> largest_codes(Model& model, const at::Tensor& pixels, const Autoencoder& autoencoder,
                                 std::stop_token stop = {});

struct SteerabilityOptions {
    std::int64_t index = 0;  ///< the latent
    /// What a value of 1 sets the latent to: the largest f seen of it, in an index or on this picture (0: on this one).
    double unit = 0;
    std::vector<double> values = {-10, -8, -6, -4, -2, 0, 2, 4, 6, 8, 10};
    std::int64_t random_latents = 8, random_directions = 8;  ///< controls
    std::vector<double> units = {};  ///< [latents]: of the random latents; empty: the unit of the latent
    std::uint64_t seed = 0;
    std::stop_token stop = {};
    std::function<void(std::int64_t done, std::int64_t total)> progress = {};
};

/// What the model answers with a latent set to `value` units.
struct SteeredAnswer {
    double value = 0;
    double divergence = 0;     ///< KL(answer before, answer now), nats
    std::int64_t changed = 0;  ///< of the five likeliest classes before, how many are no longer among the five
    std::int64_t top = 0;      ///< the likeliest class now
    double probability = 0;    ///< of the class that was likeliest before
};
struct SteeringCurve {
    std::int64_t index = -1;  ///< the latent; -1: a direction
    std::vector<SteeredAnswer> points;
};
struct Steerability {
    double unit = 0;
    std::int64_t top = 0;    ///< the likeliest class before
    double probability = 0;  ///< of it
    SteeringCurve latent;
    std::vector<SteeringCurve> random_latents;     ///< other latents set to the same values
    std::vector<SteeringCurve> random_directions;  ///< each token moved as far, but in a random direction
};

/// Follows the answer to one picture while a latent is set to more and less, beside what chance does.
///
/// @param steering  the autoencoder and the tokens; its edits do not count
/// @error BadInput     no such latent; one that is silent on this picture where no unit was given
/// @error Unsupported  a model without classes
Result<Steerability> steerability(Model& model, const Steering& steering, const at::Tensor& pixels,
                                  const SteerabilityOptions& options);

}  // namespace vitrine
