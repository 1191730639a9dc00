// The engine's front door: opens models and pictures, and answers. Used by the command line and, inside jobs, by the window.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <vitrine/capture.h>
#include <vitrine/explainer.h>
#include <vitrine/model.h>
#include <vitrine/registry.h>

namespace vitrine {

struct OpenOptions {
    bool trust = false;                 ///< consent to run a TorchScript file
    std::string device = "cpu";         ///< "cpu", "cuda", "cuda:1"
    std::string dtype = "fp32";         ///< "fp32", "bf16", "fp16"
    std::map<std::string, std::string> preprocess;  ///< overrides: {"mean": "0.5,0.5,0.5"}
};

/// Opens a model by path or by name ("starter").
///
/// @error NotFound     nothing there; close names are given
/// @error BadInput     not a checkpoint, or a broken one
/// @error Unsupported  no architecture knows it (the closest and what it missed are named), TorchScript without consent, no such device
Result<std::shared_ptr<Model>> open_model(const std::string& name, const OpenOptions& options = {});

/// The folder of built-in things (starter model, photographs, label lists); found beside the program or in the source tree.
Result<std::filesystem::path> resource(const std::string& name);
/// The built-in photographs.
std::vector<std::filesystem::path> builtin_pictures();

struct Answer {
    std::int64_t index = 0;
    std::string label;
    double logit = 0, probability = 0;
};
/// The k highest logits with softmax probabilities. `logits` is [classes] or [1, classes].
std::vector<Answer> top(const at::Tensor& logits, const Labels& labels, std::int64_t k);

/// The version, "0.1.0".
std::string version();

}  // namespace vitrine
