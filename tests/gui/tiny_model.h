// A small model on disk for tests of the window, where the real one is not at hand.
#pragma once

#include <filesystem>

#include <vitrine/base/result.h>

namespace vitrine::test {

/// Writes the registry's tiny ViT as a hub folder: model.safetensors and config.json.
Status write_tiny_model(const std::filesystem::path& folder);

}  // namespace vitrine::test
