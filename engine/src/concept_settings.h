// What training a sparse autoencoder is told: the settings, the libraries' own, and what follows from the kind.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <vitrine/base/result.h>
#include <vitrine/settings.h>

namespace vitrine {

/// Values for concept_parameters(): the preset's, then what is given; what is left to the kind (sparsity) is
/// filled in.
///
/// @param notes  what was filled in that the outcome hangs on, in sentences
/// @error BadInput  a setting that is unknown, out of range, or of another kind
Result<Settings> concept_settings(const std::vector<std::pair<std::string, std::string>>& given,
                                  std::vector<std::string>& notes);

}  // namespace vitrine
