// The HUD's measures and colours, and how it writes numbers. Free of ImGui, so that they can be tested without a
// device.
#pragma once

#include <array>
#include <string>

#include <vitrine/viz/scene.h>

namespace vitrine::viz {

/// Panels let a little of the photograph through; more would cost contrast on bright or dark ground.
inline constexpr float kPanelAlpha = 0.92f;

/// All in logical pixels, in steps of 4 but for hairlines.
inline constexpr float kMargin = 16, kPadding = 12, kGap = 12, kCorner = 6, kPillHeight = 36;
inline constexpr float kBarPanelWidth = 224, kBarPanelLeast = 128, kBarHeight = 8, kNoticeWidth = 560;

/// "0.0413", "−1.2", "3.1e−5": at most three digits, which is more than a colour can show.
std::string format_value(double value);

/// What the colour bar writes at its low end, middle and high end. On a linear scale all three have the decimals of the
/// largest, so that they read as one row of numbers; on a logarithmic one each has its own.
std::array<std::string, 3> bar_labels(const ValueScale& scale);

/// Contrast of text on ground as WCAG 2.1 defines it, 1 to 21.
double contrast(Rgb text, Rgb ground);
/// A panel's colour as seen when it lies on `below`.
Rgb panel_over(const Palette& palette, Rgb below);

}  // namespace vitrine::viz
