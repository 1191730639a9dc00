// Whether a command may write a file: never over what it reads, and not unasked over what is finished.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine::cli {

/// A file or folder that a command reads.
struct ReadPlace {
    std::string place;      ///< a path, or "starter"; empty: nothing
    const char* as;         ///< "the model"
    bool pictures = false;  ///< a folder is one of pictures or packs at any depth, else of a model
};

/// Refuses a file that the command reads: one of these, by whatever name or link, a steered model's own model and
/// concepts, or what is read of one of these folders.
Status spares_what_is_read(const std::filesystem::path& out, const std::vector<ReadPlace>& reads);

/// The same, and what is there is not written over unasked.
/// @param anew  what --overwrite does: "train it anew"
Status may_write(const std::filesystem::path& out, bool overwrite, const std::vector<ReadPlace>& reads,
                 const char* anew);

/// For what is written again and again: only over files that begin as those of this kind do.
/// @param kind  "array of NumPy"
Status may_replace(const std::filesystem::path& out, std::string_view begins, const char* kind,
                   const std::vector<ReadPlace>& reads);

/// Files and folders among the values of settings, as packs that a training is checked by.
/// @param settings  "validate=a.safetensors,b"
std::vector<ReadPlace> places_in_settings(const std::vector<std::string>& settings);

}  // namespace vitrine::cli
