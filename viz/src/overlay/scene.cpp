// The arithmetic of a scene that needs no device: where things fall on the screen and on a colour map.
#include <vitrine/viz/scene.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "overlay/normalisation.h"

namespace vitrine::viz {

namespace {

constexpr std::array<std::string_view, kColourMaps> kColourMapNames = {"viridis", "cividis",   "magma", "inferno",
                                                                       "turbo",   "diverging", "grey",  "jet"};

double magnitude_of(const ValueScale& scale) { return std::max(std::abs(scale.low), std::abs(scale.high)); }

double gamma_of(const ValueScale& scale) { return scale.gamma > 0 ? scale.gamma : 1.0; }

// The lower end of a logarithmic scale, or 0 where there is none.
double log_floor(const ValueScale& scale) {
    if (!(scale.high > 0)) return 0;
    return std::max(static_cast<double>(scale.low), scale.high / kLogDecades);
}

}  // namespace

std::string_view name_of(ColourMap map) { return kColourMapNames[static_cast<std::size_t>(map)]; }

std::optional<ColourMap> colour_map_named(std::string_view name) {
    const auto found = std::find(kColourMapNames.begin(), kColourMapNames.end(), name);
    if (found == kColourMapNames.end()) return std::nullopt;
    return static_cast<ColourMap>(found - kColourMapNames.begin());
}

std::string_view name_of(Upsampling upsampling) {
    switch (upsampling) {
        case Upsampling::Nearest:
            return "nearest";
        case Upsampling::Bilinear:
            return "bilinear";
        case Upsampling::Bicubic:
            return "bicubic";
    }
    return "nearest";
}

double position_of(double value, const ValueScale& scale) {
    if (std::isnan(value)) return value;
    if (scale.symmetric) {
        const double m = magnitude_of(scale);
        if (!(m > 0)) return 0.5;
        double s = std::min(std::abs(value) / m, 1.0);
        if (scale.logarithmic) s = std::log1p(kLogDecades * s) / std::log1p(kLogDecades);
        return 0.5 + std::copysign(0.5 * std::pow(s, gamma_of(scale)), value);
    }
    double t;
    if (const double floor = log_floor(scale); scale.logarithmic && floor > 0) {
        if (!(scale.high > floor)) return 0.5;
        t = std::log(std::max(value, floor) / floor) / std::log(scale.high / floor);
    } else {
        if (!(scale.high > scale.low)) return 0.5;
        t = (value - scale.low) / (static_cast<double>(scale.high) - scale.low);
    }
    return std::pow(std::clamp(t, 0.0, 1.0), gamma_of(scale));
}

double value_at(double position, const ValueScale& scale) {
    const double p = std::clamp(position, 0.0, 1.0);
    const double inverse_gamma = 1 / gamma_of(scale);
    if (scale.symmetric) {
        const double m = magnitude_of(scale);
        double s = std::pow(std::abs(2 * p - 1), inverse_gamma);
        if (scale.logarithmic) s = std::expm1(s * std::log1p(kLogDecades)) / kLogDecades;
        return std::copysign(s * m, p - 0.5);
    }
    const double t = std::pow(p, inverse_gamma);
    if (const double floor = log_floor(scale); scale.logarithmic && floor > 0) {
        return floor * std::pow(std::max<double>(scale.high, floor) / floor, t);
    }
    return scale.low + t * (static_cast<double>(scale.high) - scale.low);
}

Normalisation normalisation(const ValueScale& scale) {
    Normalisation n;
    n.gamma = gamma_of(scale) != 1;
    if (scale.symmetric) {
        const double m = magnitude_of(scale);
        n.logarithmic = scale.logarithmic && m > 0;
        n.log_floor = m > 0 ? static_cast<float>(kLogDecades / m) : 0;
        n.scale = m > 0 ? static_cast<float>(n.logarithmic ? 1 / std::log2(1 + kLogDecades) : 1 / m) : 0;
        return n;
    }
    if (const double floor = log_floor(scale); scale.logarithmic && floor > 0) {
        n.logarithmic = true;
        n.log_floor = static_cast<float>(floor);
        if (scale.high > floor) {
            const double per_octave = 1 / std::log2(scale.high / floor);
            n.scale = static_cast<float>(per_octave);
            n.bias = static_cast<float>(-std::log2(floor) * per_octave);
            return n;
        }
    } else if (scale.high > scale.low) {
        const double range = static_cast<double>(scale.high) - scale.low;
        n.scale = static_cast<float>(1 / range);
        n.bias = static_cast<float>(-scale.low / range);
        return n;
    }
    // An empty range has no ends: everything lies in the middle, whatever gamma says.
    n.scale = 0;
    n.bias = 0.5f;
    n.gamma = false;
    return n;
}

namespace {

constexpr double kMinZoom = 1.0 / 64, kMaxZoom = 64;

}  // namespace

ViewTransform ViewTransform::fit(std::int64_t photo_w, std::int64_t photo_h, std::int64_t screen_w,
                                 std::int64_t screen_h, double margin_px) {
    ViewTransform view;
    view.centre = {static_cast<double>(photo_w) / 2, static_cast<double>(photo_h) / 2};
    if (photo_w < 1 || photo_h < 1 || screen_w < 1 || screen_h < 1) return view;
    // A margin never takes more than half of a tiny screen.
    const double margin_x = std::min(margin_px, static_cast<double>(screen_w) / 4);
    const double margin_y = std::min(margin_px, static_cast<double>(screen_h) / 4);
    const double zoom = std::min((static_cast<double>(screen_w) - 2 * margin_x) / static_cast<double>(photo_w),
                                 (static_cast<double>(screen_h) - 2 * margin_y) / static_cast<double>(photo_h));
    // A 32-pixel picture is enlarged so that it can be seen, not so far that it becomes a mosaic on a large screen.
    view.zoom = std::clamp(std::min(zoom, 16.0), kMinZoom, kMaxZoom);
    return view;
}

Point ViewTransform::to_photo(Point screen, std::int64_t screen_w, std::int64_t screen_h) const {
    return {(screen.x - static_cast<double>(screen_w) / 2) / zoom + centre.x,
            (screen.y - static_cast<double>(screen_h) / 2) / zoom + centre.y};
}

Point ViewTransform::to_screen(Point photo, std::int64_t screen_w, std::int64_t screen_h) const {
    return {(photo.x - centre.x) * zoom + static_cast<double>(screen_w) / 2,
            (photo.y - centre.y) * zoom + static_cast<double>(screen_h) / 2};
}

ViewTransform ViewTransform::zoomed_at(Point cursor, double factor, std::int64_t screen_w,
                                       std::int64_t screen_h) const {
    const Point held = to_photo(cursor, screen_w, screen_h);
    ViewTransform view = *this;
    view.zoom = std::clamp(zoom * factor, kMinZoom, kMaxZoom);
    view.centre.x = held.x - (cursor.x - static_cast<double>(screen_w) / 2) / view.zoom;
    view.centre.y = held.y - (cursor.y - static_cast<double>(screen_h) / 2) / view.zoom;
    return view;
}

Palette Palette::dark() { return {}; }

Palette Palette::light() {
    Palette p;
    p.room = {0xF4, 0xF5, 0xF7};
    p.text = {0x1B, 0x1F, 0x24};
    p.secondary = {0x5B, 0x65, 0x70};
    p.panel = {0xFF, 0xFF, 0xFF};
    p.line = {0xD9, 0xDD, 0xE3};
    // The pinned and the hovered cell keep their colours in both themes: they lie on photographs, not on the room.
    return p;
}

}  // namespace vitrine::viz
