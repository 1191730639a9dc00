// Pillow's resize, pixel for pixel: two passes in 8-bit fixed point.
//
// timm's and torchvision's preprocessing runs on Pillow pictures, so logits agree only if the resize does.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include <vitrine/base/geometry.h>
#include <vitrine/base/image.h>
#include <vitrine/base/result.h>

namespace vitrine {

enum class Interpolation : std::uint8_t { Nearest, Box, Bilinear, Hamming, Bicubic, Lanczos };

std::string_view name_of(Interpolation interpolation);                    ///< "bicubic"
std::optional<Interpolation> interpolation_named(std::string_view name);  ///< nullopt when unknown

/// Resizes to width x height, equal to `PIL.Image.resize((width, height), filter)` for RGB.
///
/// @error BadInput  an empty picture or a size below 1 or above 65,500 a side
/// @source          Pillow 13, src/libImaging/Resample.c and Geometry.c (HPND licence; written anew from its description). Pillow 12
///                  and older differ by a level here and there where a height shrinks far more than the width does.
Result<Image> resize(const Image& image, std::int64_t width, std::int64_t height, Interpolation interpolation);

/// Cuts a box out; what lies outside is filled with `fill`.
Image crop(const Image& image, std::int64_t left, std::int64_t top, std::int64_t width, std::int64_t height,
           std::array<std::uint8_t, 3> fill = {});

/// Turns a picture upright by its EXIF orientation (1 to 8).
Image upright(Image image, Orientation orientation);

}  // namespace vitrine
