// Numbers as text, and contrast.
#include "hud/style.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

namespace vitrine::viz {

namespace {

constexpr char kMinus[] = "\u2212";

double linear(std::uint8_t channel) {
    const double c = channel / 255.0;
    return c <= 0.04045 ? c / 12.92 : std::pow((c + 0.055) / 1.055, 2.4);
}

double luminance(Rgb c) { return 0.2126 * linear(c.r) + 0.7152 * linear(c.g) + 0.0722 * linear(c.b); }

}  // namespace

std::string format_value(double value) {
    if (std::isnan(value)) return "none";
    if (std::isinf(value)) return value > 0 ? "\u221e" : std::string(kMinus) + "\u221e";
    const double a = std::abs(value);
    std::string text;
    if (a == 0) {
        return "0";
    } else if (a >= 9.995e-4 && a < 99999.5) {
        // Rounded first, so that 0.9996 counts as 1.00 and not as 1.000.
        const double rounded = std::strtod(fmt::format("{:.2e}", a).c_str(), nullptr);
        const int decimals = std::max(0, 2 - static_cast<int>(std::floor(std::log10(rounded))));
        text = fmt::format("{:.{}f}", a, decimals);
        if (decimals > 0) {
            text.erase(text.find_last_not_of('0') + 1);
            if (text.back() == '.') text.pop_back();
        }
    } else {
        text = fmt::format("{:.1e}", a);
        const auto e = text.find('e');
        const int exponent = std::atoi(text.c_str() + e + 1);
        text = fmt::format("{}e{}{}", text.substr(0, e), exponent < 0 ? kMinus : "", std::abs(exponent));
    }
    if (value < 0) text.insert(0, kMinus);
    return text;
}

std::array<std::string, 3> bar_labels(const ValueScale& scale) {
    const std::array<double, 3> values = {value_at(0, scale), value_at(0.5, scale), value_at(1, scale)};
    double largest = 0;
    for (const double v : values) largest = std::max(largest, std::abs(v));
    std::array<std::string, 3> labels;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (scale.logarithmic || !std::isfinite(largest) || largest < 1e-3 || largest >= 1e5) {
            labels[i] = format_value(values[i]);
            continue;
        }
        const int decimals = std::max(0, 2 - static_cast<int>(std::floor(std::log10(largest))));
        labels[i] = fmt::format("{:.{}f}", std::abs(values[i]), decimals);
        const bool zero = labels[i].find_first_not_of("0.") == std::string::npos;
        if (zero)
            labels[i] = "0";
        else if (values[i] < 0)
            labels[i].insert(0, kMinus);
    }
    return labels;
}

double contrast(Rgb text, Rgb ground) {
    const double a = luminance(text), b = luminance(ground);
    return (std::max(a, b) + 0.05) / (std::min(a, b) + 0.05);
}

Rgb panel_over(const Palette& palette, Rgb below) {
    const auto mix = [](std::uint8_t panel, std::uint8_t under) {
        return static_cast<std::uint8_t>(
            std::lround(kPanelAlpha * static_cast<float>(panel) + (1 - kPanelAlpha) * static_cast<float>(under)));
    };
    return {mix(palette.panel.r, below.r), mix(palette.panel.g, below.g), mix(palette.panel.b, below.b)};
}

}  // namespace vitrine::viz
