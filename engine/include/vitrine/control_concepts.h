// An autoencoder for a ladder's control: trained on the model with its weights shuffled, as another one was trained on
// the model as it is.
//
//     ControlConceptsOptions options{.sound = "concepts.safetensors", .pictures = &rest, .seed = 0};
//     Autoencoder control = VITRINE_TRY(control_concepts(model, concepts, options));
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>

#include <vitrine/autoencoder.h>
#include <vitrine/base/result.h>
#include <vitrine/explainer.h>
#include <vitrine/picture_set.h>

namespace vitrine {

struct ControlConceptsOptions {
    std::filesystem::path sound;           ///< the file of the concepts it stands beside
    const PictureSet* pictures = nullptr;  ///< to train on
    std::uint64_t seed = 0;                ///< by which the weights are shuffled
    std::int64_t steps = 500;              ///< the most; else as many as the sound one had, where its file says
    std::stop_token stop = {};
    std::function<void(const Progress&)> progress = {};
};

/// Where it lies: NAME.shuffled_SEED.safetensors beside the sound one, or among the person's own files where that
/// folder is read-only.
std::filesystem::path control_concepts_file(const std::filesystem::path& sound, std::uint64_t seed);

/// Which of a ladder's pictures the control is trained on: none that climbs, and at least the half that is drawn last,
/// so that more may climb later. All where every one climbs.
PictureSet control_pictures(const PictureSet& all, std::uint64_t seed, std::int64_t climbing);

/// The one that lies there, where it was trained by the same settings on these pictures and weights; else trains it,
/// with the settings that the sound one's file names (of another library's file: its kind, size and normalisation). A
/// stopped training goes on. The model is as before when this returns.
///
/// @error Unsupported  parameters that cannot be reached; a kind with a sparsity term whose file does not name settings
/// @error Cancelled    stop was requested
/// @error BadInput, Io  as train_concepts
Result<Autoencoder> control_concepts(Model& model, const Autoencoder& sound, const ControlConceptsOptions& options);

}  // namespace vitrine
