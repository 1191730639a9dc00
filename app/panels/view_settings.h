// How evidence is drawn: what the person set, apart from what the engine found.
#pragma once

#include <optional>
#include <utility>

#include <vitrine/viz/scene.h>

#include "jobs/workbench.h"

namespace vitrine::app {

struct ViewSettings {
    float opacity = 0.75F;
    viz::ColourMap colours = viz::ColourMap::Viridis;
    viz::Upsampling upsampling = viz::Upsampling::Nearest;
    bool solid = false;
    bool grid = false;
    bool logarithmic = false;
    std::optional<std::pair<float, float>> range;  ///< set by hand; nothing: the map's own default
};

/// The scale a map is drawn with: signed maps are symmetric and diverging whatever the chosen colours.
inline viz::ValueScale scale_of(const Plane& plane, const ViewSettings& settings) {
    viz::ValueScale scale;
    scale.low = settings.range ? settings.range->first : plane.shown_low;
    scale.high = settings.range ? settings.range->second : plane.shown_high;
    scale.logarithmic = settings.logarithmic;
    scale.symmetric = plane.is_signed;
    return scale;
}

inline viz::ColourMap colours_of(const Plane& plane, const ViewSettings& settings) {
    return plane.is_signed ? viz::ColourMap::Diverging : settings.colours;
}

}  // namespace vitrine::app
