// The texels of the colour maps, as the GPU gets them.
#pragma once

#include <array>
#include <cstdint>

#include <vitrine/viz/scene.h>

namespace vitrine::viz {

inline constexpr int kTexels = 256;

/// kColourMaps times 256 texels, 0xRRGGBB, in the order of ColourMap.
extern const std::array<std::uint32_t, kColourMaps * kTexels> kColourMapTexels;

}  // namespace vitrine::viz
