// What to draw: a picture, the evidence on it, and where we look. Plain data, shared by window, exports and tests.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/geometry.h>
#include <vitrine/base/image.h>

namespace vitrine::viz {

enum class ColourMap : std::uint8_t { Viridis, Cividis, Magma, Inferno, Turbo, Diverging, Grey, Jet };
std::string_view name_of(ColourMap map);
std::optional<ColourMap> colour_map_named(std::string_view name);
inline constexpr int kColourMaps = 8;

/// The colour of a position in [0, 1] on a map; the same 256 texels the GPU reads. RGB, 0 to 255.
struct Rgb {
    std::uint8_t r = 0, g = 0, b = 0;
};
Rgb colour_at(ColourMap map, double position);

enum class Upsampling : std::uint8_t { Nearest, Bilinear, Bicubic };
std::string_view name_of(Upsampling upsampling);

/// How a value becomes a colour. Moving any of these recomputes nothing: they are push constants.
struct ValueScale {
    float low = 0, high = 1;  ///< values at the two ends of the colour map
    float gamma = 1;
    bool logarithmic = false;
    bool symmetric = false;  ///< low = -high, zero in the middle (diverging maps)
};

/// Where a value falls on the colour map, in [0, 1]; the same arithmetic as the shader's.
///
/// Linear: (v - low) / (high - low), clamped, then to the power gamma. Logarithmic: the same between log(low) and
/// log(high), low being at least high / 10,000 (linear when high is not positive). Symmetric: m = max(|low|, |high|),
/// 0.5 + 0.5 sign(v) s^gamma with s = |v| / m, or log(1 + 10,000 s) / log(10,001) when logarithmic. An empty range
/// gives 0.5; NaN gives NaN.
double position_of(double value, const ValueScale& scale);
/// The value at a position: what the colour bar writes beside it. The inverse of `position_of` within the range.
double value_at(double position, const ValueScale& scale);

/// One map over a part of the photograph.
struct MapLayer {
    /// One head: shape {1, rows, cols}. A map that is itself a picture: {3, rows, cols}, red, green and blue from 0 to
    /// 1; then scale, colours, upsampling and `solid` say nothing: cells are drawn as they are, all by the opacity.
    MapView map;
    Box area;     ///< where the map lies, in photo pixels (what the model saw)
    ValueScale scale;
    ColourMap colours = ColourMap::Viridis;
    /// One colour in place of `colours`, so that several maps are told apart; then the opacity alone says the value,
    /// whatever `solid` says.
    std::optional<Rgb> hue{};
    Upsampling upsampling = Upsampling::Nearest;
    float opacity = 0.75f;
    bool solid = false;  ///< false: opacity follows the value, so that the photo stays visible
};

/// A cell of the patch grid.
struct Cell {
    std::int64_t row = 0, col = 0;
    bool operator==(const Cell&) const = default;
};

/// The part of the plane that is looked at: screen = (photo - centre) * zoom + screen / 2.
struct ViewTransform {
    Point centre;     ///< photo pixels
    double zoom = 1;  ///< screen pixels per photo pixel

    /// Centres the photo with a margin; a photo smaller than the screen is enlarged at most sixteenfold.
    static ViewTransform fit(std::int64_t photo_w, std::int64_t photo_h, std::int64_t screen_w, std::int64_t screen_h,
                             double margin_px = 24);
    Point to_photo(Point screen, std::int64_t screen_w, std::int64_t screen_h) const;
    Point to_screen(Point photo, std::int64_t screen_w, std::int64_t screen_h) const;
    /// Zooms by a factor and keeps the photo point under the cursor where it is; zoom stays within [1/64, 64].
    ViewTransform zoomed_at(Point cursor, double factor, std::int64_t screen_w, std::int64_t screen_h) const;
};

struct Palette {
    Rgb room{0x12, 0x14, 0x17}, text{0xE7, 0xEA, 0xEE}, secondary{0x9B, 0xA4, 0xAF}, panel{0x19, 0x1C, 0x20},
        line{0x2D, 0x32, 0x3A};
    Rgb pinned{0xE8, 0xB4, 0x54}, hovered{0x6A, 0xB0, 0xF3}, region{0xFF, 0xFF, 0xFF};
    static Palette dark();
    static Palette light();
};

struct Scene {
    ImageView picture;                          ///< the upright photograph; may be empty
    std::uint64_t picture_id = 0;               ///< changes when the pixels change, so that they are uploaded once
    std::optional<Box> seen;                    ///< what the model saw; the rest is hatched "not seen"
    std::vector<MapLayer> layers;               ///< drawn in order
    std::int64_t grid_rows = 0, grid_cols = 0;  ///< the patch grid over `seen`; 0 for none
    bool show_grid = false;
    std::optional<Cell> hovered, pinned;
    std::optional<Box> region;  ///< a part of the picture that is explained, in photo pixels: outlined
    bool bare = false;  ///< the picture alone (holding X)
    ViewTransform view;
    Palette palette;
    float display_scale = 1;  ///< device pixels per logical pixel: the width of outlines and hatching
};

/// What the HUD says. Everything is optional text or a range; the HUD reserves its space.
struct Hud {
    std::string value;       ///< "0.0413"
    std::string where;       ///< "patch 7, 9" or "class token"
    std::string what;        ///< "layer 9 head 2"
    std::string upsampling;  ///< "nearest"
    std::string unit;        ///< "attention"
    std::string timing;      ///< "map_rows reference 0.4 ms"
    std::string notice;      ///< a state: "loading...", an error sentence
    bool show_colour_bar = false;
    ValueScale scale;
    ColourMap colours = ColourMap::Viridis;
    float display_scale = 1;  ///< device pixels per logical pixel
};

}  // namespace vitrine::viz
