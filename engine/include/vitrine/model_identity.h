// Which model something on disk was computed with: a number for what a model computes, the same in every run.
#pragma once

#include <string>

#include <vitrine/model.h>

namespace vitrine {

/// What is steered in a model, as 16 hexadecimal digits; empty where it answers as it was opened. Edits that do the
/// same have the same number, whichever file they are in: a concept that is suppressed and one that is set to 0, and
/// edits that change nothing do not count.
std::string steering_identity(const Model& model);

/// weights_hash() and what is steered, in one number: what indexes and checkpoints are compared by. It is
/// weights_hash() itself where nothing is steered. Empty where the weights cannot be reached and nothing is steered.
/// Within one run and without reading weights, ModelMark (model_mark.h) says as much.
std::string model_identity(Model& model);

}  // namespace vitrine
