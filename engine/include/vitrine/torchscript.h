// Opens TorchScript files: programs, so only with consent, and only after a child process ran them once within limits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include <nlohmann/json.hpp>

#include <vitrine/base/result.h>
#include <vitrine/model.h>

namespace vitrine {

/// Opens a TorchScript file.
///
/// The container is checked first; then a child process with limits on memory, time and files loads it and runs it
/// once; only then is it loaded here. What its attention layers are joined to and what their tokens are is probed, and
/// stays unknown where the answer is inconsistent.
///
/// @param trust   consent to run the program inside; without it the file is refused
/// @param config  NAME.json beside it, in timm's words: input_size, mean, std, interpolation, crop_pct, labels
/// @error Unsupported  no consent, a quantised program
/// @error BadInput     a broken container, a program that fails on a picture
Result<std::unique_ptr<Model>> open_torchscript(const std::filesystem::path& file, bool trust,
                                                const nlohmann::json& config);

/// A small scripted model compiled here from source, with random, spread-out weights: for the contract suite. Equal
/// seeds, equal weights.
Result<std::unique_ptr<Model>> tiny_torchscript(std::uint64_t seed);

/// Where the child program that meets a TorchScript file first stands: VITRINE_PROBE_PROGRAM, or beside this program.
std::filesystem::path probe_program();

}  // namespace vitrine
