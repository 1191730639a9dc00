// Whether a file, a picture or a model is the one that an earlier run had.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include <nlohmann/json.hpp>

#include "cli/common.h"

namespace vitrine::cli {

/// Of bytes, eight at a time: a gigabyte of weights in a fraction of a second.
std::uint64_t fingerprint(std::span<const std::byte> bytes, std::uint64_t key);
Result<std::uint64_t> fingerprint(const std::filesystem::path& file, std::uint64_t key);
/// What every number of a run hangs on, by name: program, model, preprocessing, precision, device, seed.
Result<nlohmann::json> all_hangs_on(const Common& common, Model& model);

}  // namespace vitrine::cli
