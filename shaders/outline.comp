// Outlines one cell: a line of whole pixels with a thin dark contour on both sides, visible on any ground.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "target.glsl"

layout(push_constant, std430) uniform Push { OutlineBlock p; };

void main() {
    ivec2 at = ivec2(gl_GlobalInvocationID.xy);
    if (at.x >= p.rect_w || at.y >= p.rect_h) return;
    ivec2 pixel = at + ivec2(p.rect_x, p.rect_y);
    // Pixels inwards from the edge; 0 is the first pixel inside, -1 the first outside.
    ivec2 nearest = min(pixel - ivec2(p.box_x0, p.box_y0), ivec2(p.box_x1, p.box_y1) - 1 - pixel);
    int inwards = min(nearest.x, nearest.y) - p.inset;
    bool line = inwards >= 0 && inwards < p.width;
    bool contour = !line && inwards >= -p.contour_width && inwards < p.width + p.contour_width;
    vec3 below = load_target(pixel);
    vec3 contoured = mix(below, unpack_colour(p.contour), contour ? 0.65 : 0.0);
    store_target(pixel, line ? unpack_colour(p.colour) : contoured);
}
