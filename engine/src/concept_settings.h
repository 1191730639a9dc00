// What training a sparse autoencoder is told: the settings, the libraries' own, and what follows from the kind.
#pragma once

#include <cstdint>
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
/// @error BadInput  a setting that is unknown, out of range, or that the kind does not read
Result<Settings> concept_settings(const std::vector<std::pair<std::string, std::string>>& given,
                                  std::vector<std::string>& notes);

/// After how many steps the pictures held out are looked at, of `held_every`; 0: never.
std::int64_t steps_between_looks(std::int64_t held_every, std::int64_t steps);
/// Whether looks that nobody asked for stay a small share of the time.
///
/// @param spent     seconds of the run so far, without looks
/// @param looked    seconds of its looks
/// @param expected  seconds that the next one will take
bool has_time_to_look(double spent, double looked, double expected);

}  // namespace vitrine
