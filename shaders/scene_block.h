// The push constants of the compute stages, shared by GLSL and C++: scalars only, so that both lay them out alike.
#ifndef VITRINE_SCENE_BLOCK_H
#define VITRINE_SCENE_BLOCK_H

#ifdef __cplusplus
#include <cstdint>
namespace vitrine::viz {
using uint = std::uint32_t;
#endif

// Colours are packed R, G, B, A from the lowest byte. `rect` is the part of the target a dispatch covers, in pixels.

// Room, soft shadow and hairline around the picture.
struct RoomBlock {
    int rect_x, rect_y, rect_w, rect_h;
    float box_x0, box_y0, box_x1, box_y1;  // the picture on the screen, pixels
    uint room, line;
    float shadow_px, shadow_alpha, line_px;
};

// The picture, and the hatching of what the model did not see.
struct PictureBlock {
    int rect_x, rect_y, rect_w, rect_h;
    int base_x, base_y;    // the whole texel below the left edge of the first pixel
    float frac_x, frac_y;  // and the rest, so that far away from the origin no digits are lost
    float step_x, step_y;  // texels of the level per pixel
    int level_w, level_h;
    float seen_x0, seen_y0, seen_x1, seen_y1;  // on the screen, pixels
    int level;
    uint room, hatch;
    float hatch_period, hatch_phase;
};

// One map of values.
struct LayerBlock {
    int rect_x, rect_y, rect_w, rect_h;
    float u0, v0, du, dv;  // cell coordinates of the first pixel's centre, and per pixel
    int rows, cols;
    uint first;         // index of the map's first value in the buffer
    uint first_texel;   // index of the colour map's first texel; with LAYER_HUE the one colour
    float scale, bias;  // t = value * scale + bias, of log2(value) when logarithmic
    float log_floor;    // smallest value whose logarithm is taken
    float gamma;
    float opacity;
    uint flags;  // LAYER_...
    uint room, hatch;
    float hatch_period, hatch_phase;
};
#define LAYER_SYMMETRIC 1u
#define LAYER_SOLID 2u
#define LAYER_HUE 4u

// Lines between cells.
struct GridBlock {
    int rect_x, rect_y, rect_w, rect_h;
    float u0, v0, du, dv;  // cell coordinates half a pixel before the first pixel's left edge, and per pixel
    uint light, dark;
    float light_alpha, dark_alpha;
    int rows, cols;
};

// The outline of one cell.
struct OutlineBlock {
    int rect_x, rect_y, rect_w, rect_h;
    int box_x0, box_y0, box_x1, box_y1;  // the cell on the screen, whole pixels
    uint colour, contour;
    int width, contour_width;  // pixels; the line lies inside from the edge less `inset`
    int inset;
};

#ifdef __cplusplus
// 128 bytes of push constants are all that Vulkan promises.
static_assert(sizeof(RoomBlock) == 52 && sizeof(PictureBlock) == 84 && sizeof(LayerBlock) == 88);
static_assert(sizeof(GridBlock) == 56 && sizeof(OutlineBlock) == 52);
}  // namespace vitrine::viz
#endif
#endif
