// Whether a file is an autoencoder's, for what sorts files before any is opened.
#pragma once

#include <filesystem>

namespace vitrine {

/// By the names of its tensors or the format it states, never by its own name: a file of ours, of SAELens, ViT-Prisma,
/// saev or OpenAI, or a folder in which Autoencoder::load finds one. Reads headers alone. True says not that it is
/// whole; what cannot be read is none.
bool holds_autoencoder(const std::filesystem::path& path);

}  // namespace vitrine
