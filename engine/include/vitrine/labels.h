// Names of classes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

/// Class names in index order; empty when the model has none (then indices are shown).
struct Labels {
    std::vector<std::string> names;
    std::string source;    ///< "ImageNet-1k (bundled, chosen by class count)", "config.json id2label", "labels.txt"
    bool assumed = false;  ///< chosen by class count alone

    std::string name(std::int64_t index) const;  ///< the name, or "class 12"
    /// Finds a class by index ("281"), exact name, or unique case-insensitive part of a name.
    /// @error BadInput  nothing found, or several: all indices are listed ("crane: 134, 517")
    Result<std::int64_t> find(std::string_view text, std::int64_t classes) const;
};

/// The bundled ImageNet-1k names, in index order.
const std::vector<std::string>& imagenet1k_names();
/// The bundled CIFAR-10 names.
const std::vector<std::string>& cifar10_names();

}  // namespace vitrine
