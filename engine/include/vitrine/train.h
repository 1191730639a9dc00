// Training a classifier from scratch: what `vitrine train-classifier` does, and what made the built-in model.
//
//     TrainOptions options{.architecture = "vit", .data = "packs", .out = "mine.safetensors", .device = "cuda", .dtype
//     = "bf16"}; options.settings = {{"epochs", "100"}, {"width", "192"}}; TrainSummary summary =
//     VITRINE_TRY(train_classifier(options));
//
// The data is a pack (see pack.h), a folder of packs, or a folder of class folders (packed in memory, which needs a
// decoder). Several packs are several sets: each keeps its own picture size, equal class names are one class, and
// `share` says how often each is drawn. Pictures stay 8 bit on the device; augmentation is batched there. Every random
// choice follows from the seed and the step, so a resumed run repeats the run that was not interrupted (bit for bit on
// the CPU with the same number of threads).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/base/result.h>
#include <vitrine/settings.h>

namespace vitrine {

/// Where a training run is.
struct TrainProgress {
    std::int64_t step = 0, steps = 0;  ///< optimiser steps done and in all
    double epoch = 0;                  ///< passes over all pictures so far
    double loss = 0;                   ///< mean since the report before
    double learning_rate = 0;
    double pictures_per_second = 0;  ///< since the report before
    double seconds = 0;              ///< since the call
    double seconds_left = 0;         ///< estimated
    double accuracy = -1;            ///< top-1 on the validation set when it was just measured (0 to 1), else -1
    std::string note;                ///< "resumed at step 1200", "checkpoint written", or empty
};

struct TrainOptions {
    std::string architecture = "vit";  ///< a plugin that can create() a model
    std::filesystem::path data;
    /// The model file, safetensors. Its configuration and labels go beside it: config.json for a file named
    /// model.safetensors, else NAME.json. While training runs, `OUT.checkpoint` holds everything needed to go on; it is
    /// removed at the end.
    std::filesystem::path out;
    std::string device = "cpu";  ///< "cpu", "cuda", "cuda:N"
    std::string dtype = "fp32";  ///< "fp32", or "bf16" for the passes; weights and optimiser stay fp32
    std::uint64_t seed = 0;      ///< also `seed` in settings, which wins
    /// `--set` in order: names of train_parameters() and, beside them, of the architecture's parameters().
    std::vector<std::pair<std::string, std::string>> settings;
    std::stop_token stop =
        {};  ///< looked at on every step: a checkpoint is written and the call returns with `finished` false
    std::function<void(const TrainProgress&)> progress = {};  ///< about once a second, on the calling thread
};

struct TrainSummary {
    bool finished = false;  ///< false after a stop request: the checkpoint lies beside `out`
    std::int64_t steps = 0;
    double seconds = 0;    ///< of this call
    double loss = 0;       ///< mean of the last reported stretch
    double accuracy = -1;  ///< top-1 on the validation set with the weights written; -1 without a set
    std::vector<std::pair<std::string, double>> accuracy_of_set;  ///< by validation pack
    std::int64_t parameters = 0;
    std::int64_t size_bytes = 0;     ///< of the model file
    std::vector<std::string> notes;  ///< one sentence each: what was resumed, what was left out
};

/// What can be set, with defaults, ranges and meanings, the architecture's own excluded.
std::vector<Parameter> train_parameters();

/// Trains, or goes on where `OUT.checkpoint` stopped.
///
/// @error NotFound     no such architecture, data or teacher
/// @error BadInput     an unknown setting, data that is no pack, a checkpoint of other settings (the first difference
/// is named)
/// @error Unsupported  the architecture cannot be trained, no such device, bf16 on the CPU
Result<TrainSummary> train_classifier(const TrainOptions& options);

}  // namespace vitrine
