// The picture that contract tests show to every tiny model.
#pragma once

#include <cstdint>
#include <utility>

#include <vitrine/model.h>

namespace vitrine {

/// Noise that is a little larger than the model's input, resized and cropped as the model wants it.
inline Input made_input(const Model& model, std::uint32_t seed = 7) {
    Image photo(model.preprocess().input_width + 9, model.preprocess().input_height + 5);
    std::uint32_t state = seed;
    for (auto& value : photo.pixels) value = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
    return *prepare(std::move(photo), model.preprocess());
}

}  // namespace vitrine
