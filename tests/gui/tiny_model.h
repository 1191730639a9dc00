// A small model on disk for tests of the window, where the real one is not at hand.
#pragma once

#include <filesystem>
#include <string>

#include <vitrine/base/result.h>

namespace vitrine::test {

/// Writes the registry's tiny ViT as a hub folder: model.safetensors and config.json.
Status write_tiny_model(const std::filesystem::path& folder);
/// The tiny one without its head: its answer is features.
Status write_headless_model(const std::filesystem::path& folder);
/// One layer of width 64 with one head, random weights, that takes pictures of side x side in patches of 16.
Status write_wide_model(const std::filesystem::path& folder, std::int64_t side);

/// A random autoencoder that reads the tiny ViT: 64 concepts, of which a token has 3.
/// @param says_point  false: the file does not say which activations it reads
Status write_tiny_concepts(const std::filesystem::path& file, bool says_point = true);
/// A random autoencoder that reads the wide one.
/// @param k  concepts of a token
Status write_wide_concepts(const std::filesystem::path& file, std::int64_t latents, std::int64_t k);
/// As many concepts as speak, of one layer.
Status write_free_concepts(const std::filesystem::path& file, std::int64_t layer);
/// Some of the kind relu as OpenAI's class saves them: their point is not said.
Status write_foreign_concepts(const std::filesystem::path& file, const std::string& activation = "ReLU");

}  // namespace vitrine::test
