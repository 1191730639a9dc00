// A picture with its halvings, as it is uploaded: each level is the area average of the one before.
#pragma once

#include <cstdint>
#include <vector>

#include <vitrine/base/image.h>

namespace vitrine::viz {

struct Pyramid {
    struct Level {
        std::int64_t width = 0, height = 0;
        std::size_t offset = 0;  ///< bytes
    };
    std::vector<Level> levels;         ///< the first is the picture itself, the last one pixel
    std::vector<std::uint8_t> pixels;  ///< RGBA, alpha 255
};

/// Builds all levels. A picture beyond `max_side` or `max_pixels` is first reduced by a whole factor.
/// Alpha is ignored, as `convert("RGB")` does before the model sees the picture.
Pyramid build_pyramid(const ImageView& picture, std::int64_t max_side, std::int64_t max_pixels);

}  // namespace vitrine::viz
