// What an autoencoder's file leaves open, for whoever asks a person for it.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace vitrine {

/// What has to be given beside `given` before Autoencoder::load opens the file and there is a point to read, by
/// AutoencoderConfig's names: what the file does not say, or says in words that are not known here. Empty where nothing
/// is missing, and where the file is refused for what nothing that is given would mend. Reads the file.
std::vector<std::string> asked_by_autoencoder(const std::filesystem::path& file,
                                              const std::map<std::string, std::string>& given);

}  // namespace vitrine
