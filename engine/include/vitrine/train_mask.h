// Training an explanation mask beside a frozen classifier: what `vitrine train-mask` does. No labels are needed.
//
//     TrainMaskOptions options{.data = "photographs", .out = "mask.safetensors"};
//     TrainMaskSummary summary = VITRINE_TRY(train_mask(*model, options));
//
// The pictures are a folder (any depth), or packs (see pack.h); a folder is decoded once, into OUT.pictures, which is
// kept until the training has ended. Every random choice follows from (seed, round, picture), so a resumed run repeats
// the run that was not interrupted, bit for bit on the CPU with the same number of threads. Several processes that
// share the batches (peers.h) find what one finds, but for rounding, and any number of them goes on where others
// stopped.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/base/result.h>
#include <vitrine/explainer.h>
#include <vitrine/mask_module.h>
#include <vitrine/peers.h>
#include <vitrine/settings.h>

namespace vitrine {

/// One step's figures, as they enter the loss.
struct MaskStep {
    std::int64_t step = 0, steps = 0;
    double total = 0, cross_entropy = 0, area = 0, smooth = 0;  ///< means since the report before
    double coverage = 0;                                        ///< mean of the own classes' masks
    double agreement = 0;  ///< share of masked pictures that are answered as the whole ones
    double learning_rate = 0, pictures_per_second = 0, seconds_left = 0;
    std::string note;
};

/// What the mask does to pictures it was not trained on.
struct MaskFigures {
    std::int64_t pictures = 0;
    double agreement = 0, coverage = 0;
    std::array<double, 3> average_drop{}, increase{};  ///< in %, at 100, 50 and 15 % of the map kept
};

struct TrainMaskOptions {
    std::filesystem::path data, out;
    std::uint64_t seed = 0;
    std::vector<std::pair<std::string, std::string>> settings;  ///< names of mask_parameters()
    std::stop_token stop = {};  ///< looked at on every step: a checkpoint is written and the call returns
    std::function<void(const MaskStep&)> progress = {};  ///< about once a second, on the calling thread
    std::function<void(const Progress&)> decoding = {};  ///< while pictures are decoded
    /// Shown the module every `preview_every` steps: for a live preview. It may be used on the calling thread only.
    std::function<void(const MaskModule&, std::int64_t step)> preview = {};
    /// The processes that share every batch; null: this one alone. `data` and `out` lie on a disk that all of them see.
    /// Process 0 writes the files and reports, the others keep silent. A stop of one stops all.
    Peers* peers = nullptr;
};

struct TrainMaskSummary {
    bool finished = false;  ///< false after a stop: OUT.checkpoint lies beside
    std::int64_t steps = 0, pictures = 0, parameters = 0, size_bytes = 0;
    std::vector<std::string> layers;
    MaskFigures held;                         ///< of the pictures held out; pictures == 0 without any
    std::int64_t best_step = 0;               ///< whose mask was written, where best_every asked for it; 0: the last
    std::vector<std::array<float, 5>> curve;  ///< total, cross-entropy, area, smoothness, coverage of every step
    double pictures_per_second = 0;           ///< of the steps of this call
    double floor_pictures_per_second = 0;     ///< two forwards and one backward to the input alone; 0: not measured
    double recorded_floor_pictures_per_second = 0;  ///< the same passes recorded on the device, as its steps are
    std::vector<std::string> skipped;               ///< one sentence for each picture that could not be read
    std::vector<std::string> notes;
};

/// What can be set, with defaults, ranges, meanings and sources.
std::vector<Parameter> mask_parameters();

/// Trains, or goes on where OUT.checkpoint stopped. The model's weights are not changed, its running statistics
/// neither: with mode=reference the run has its own, which its file keeps (MaskModule::backbone). AD, IC and agreement
/// are the opened model's in either mode.
///
/// @error NotFound     no such folder
/// @error BadInput     no readable picture, an unknown setting or layer, a checkpoint of other settings, a loss that is
/// no
///                     number, masks that have all become black or white
/// @error Unsupported  a model without classes or without fitting layers; mode=reference on a program of TorchScript or
/// a
///                     model whose batch norms were folded
/// @error Io           the disk is full: the checkpoint before stays
Result<TrainMaskSummary> train_mask(Model& model, const TrainMaskOptions& options);

/// AD and IC (as plugins/measures does, masks of the predicted class, hidden pixels black) and the agreement.
///
/// @param pixels  makes the normalised pictures [count, 3, height, width] from a first one
Result<MaskFigures> mask_figures(Model& model, const MaskModule& mask, MaskPolicy policy, std::int64_t count,
                                 const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& pixels);

}  // namespace vitrine
