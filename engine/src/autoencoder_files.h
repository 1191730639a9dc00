// What readers of autoencoders' files share with the class.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/autoencoder.h>

namespace vitrine {

/// Whether an autoencoder can be so. @error BadInput  the first thing that is wrong
Status check_config(const AutoencoderConfig& config);
/// Its tensors' names and shapes, in the order of Autoencoder::tensors().
std::vector<std::pair<std::string, std::vector<std::int64_t>>> autoencoder_shapes(const AutoencoderConfig& config);

}  // namespace vitrine
