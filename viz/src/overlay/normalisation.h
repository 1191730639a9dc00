// A value scale as the numbers the shader works with.
#pragma once

#include <vitrine/viz/scene.h>

namespace vitrine::viz {

// Four decades: attention below a ten thousandth of the largest is noise to the eye, and log(0) must not be reached.
inline constexpr double kLogDecades = 1e4;

/// t = scale * x + bias, clamped to [0, 1], to the power gamma. x is the value, its magnitude when symmetric,
/// log2(max(value, log_floor)) when logarithmic, log2(1 + magnitude * log_floor) when both.
struct Normalisation {
    float scale = 1, bias = 0, log_floor = 0;
    bool logarithmic = false;  ///< false where a logarithm was asked for but the range has no positive part
    bool gamma = false;        ///< an exponent other than 1 applies
};
Normalisation normalisation(const ValueScale& scale);

}  // namespace vitrine::viz
