// The first picture of a GIF, which the decoder library of this program does not read.
#pragma once

#include <cstddef>
#include <span>

#include <vitrine/base/image.h>
#include <vitrine/base/result.h>

namespace vitrine {

struct GifFrame {
    Image image;               ///< the whole canvas; what the frame does not cover or leaves transparent is white
    bool transparent = false;  ///< something was left to the white ground
};

/// Decodes the first frame of a GIF87a or GIF89a.
///
/// @error BadInput  damaged or truncated data
/// @source          W3C, "Graphics Interchange Format, Version 89a"
Result<GifFrame> read_gif(std::span<const std::byte> bytes);

}  // namespace vitrine
