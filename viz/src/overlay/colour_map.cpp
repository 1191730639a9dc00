// The texels of the colour maps and how a position picks one.
#include "overlay/colour_map.h"

#include <algorithm>

namespace vitrine::viz {

const std::array<std::uint32_t, kColourMaps* kTexels> kColourMapTexels = {
#include <colour_maps/colour_maps.inc>
};

Rgb colour_at(ColourMap map, double position) {
    // As matplotlib does: the texel whose interval holds the position. The negated comparison also catches NaN.
    const int index = !(position > 0) ? 0 : static_cast<int>(std::min(position * kTexels, kTexels - 1.0));
    const std::uint32_t texel = kColourMapTexels[static_cast<std::size_t>(static_cast<int>(map) * kTexels + index)];
    return {static_cast<std::uint8_t>(texel >> 16), static_cast<std::uint8_t>(texel >> 8),
            static_cast<std::uint8_t>(texel)};
}

}  // namespace vitrine::viz
