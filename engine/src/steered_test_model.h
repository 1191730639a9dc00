// A model of a test with a concept steered in it, for tests that must tell such a model from the plain one.
#pragma once

#include <memory>
#include <utility>

#include <vitrine/steering.h>

namespace vitrine::test {

/// Concept 2 of 12 at the point "cells", which is `width` wide, is set to `value`. `model` outlives what is returned.
inline std::shared_ptr<Model> steered_at_cells(Model& model, std::int64_t width, double value) {
    Steering steering;
    AutoencoderConfig config;
    config.width = width;
    config.latents = 12;
    config.k = 4;
    config.point = "cells";
    steering.autoencoder = *Autoencoder::make(config, 1);
    steering.edits = {{2, ConceptEdit::Mode::Set, value}};
    return std::move(*steered(std::shared_ptr<Model>(&model, [](Model*) {}), steering));
}

}  // namespace vitrine::test
