// What is asked of a person about an autoencoder whose file does not say it: the lines of the form.
#pragma once

#include <string>
#include <vector>

#include "jobs/session.h"

namespace vitrine::app {

/// Lines named as AutoencoderConfig's. A choice of the file's own words (kAsFile) where one says nothing.
/// @param points  of the model
std::vector<SettingFacts> given_settings(const std::vector<std::string>& points);
constexpr const char* kAsFile = "as the file says";

}  // namespace vitrine::app
