// What is not certain of concepts that may be read from a model: whether they are of it at all.
#pragma once

#include <string>

#include <vitrine/autoencoder.h>
#include <vitrine/model.h>

namespace vitrine {

/// One sentence; empty where the file says the weights that it was trained on and they were compared. Everything that
/// works with concepts notes it. What is wrong for certain is Autoencoder::fits' to refuse.
std::string doubt_of(const Autoencoder& autoencoder, Model& model);

}  // namespace vitrine
