// The names under which people publish vision transformers, and how to tell one model from another by its tensors.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <vitrine/architecture.h>

#include "vit.h"

namespace vitrine::plugin::vit {

/// A checkpoint in our words.
struct Translation {
    VitConfig config;
    NamedTensors tensors;            ///< by the names of expected_tensors()
    std::string dialect;             ///< "timm"
    std::vector<std::string> notes;  ///< what was assumed, what was left unused
};

/// Which dialect the names speak, without reading a tensor.
Recognition recognise_dialect(const Checkpoint& checkpoint);

/// Infers the configuration, checks every shape and gathers the tensors.
///
/// @error BadInput     the first tensor that does not fit, under the name it has in the file
/// @error Unsupported  what cannot be told from the file or is no plain vision transformer, and what would help
Result<Translation> translate(const Checkpoint& checkpoint);

}  // namespace vitrine::plugin::vit
