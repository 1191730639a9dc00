// Fills the room and lifts the picture off it by a soft shadow and a hairline.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "target.glsl"

layout(push_constant, std430) uniform Push { RoomBlock p; };

void main() {
    ivec2 at = ivec2(gl_GlobalInvocationID.xy);
    if (at.x >= p.rect_w || at.y >= p.rect_h) return;
    ivec2 pixel = at + ivec2(p.rect_x, p.rect_y);
    vec2 centre = vec2(pixel) + 0.5;
    vec2 outside = max(max(vec2(p.box_x0, p.box_y0) - centre, centre - vec2(p.box_x1, p.box_y1)), 0.0);
    float distance_px = length(outside);
    float shade = max(1.0 - distance_px / p.shadow_px, 0.0);
    vec3 colour = unpack_colour(p.room) * (1.0 - p.shadow_alpha * shade * shade);
    // Chebyshev distance: the hairline has square corners as the picture has.
    float hairline = max(outside.x, outside.y) <= p.line_px ? 1.0 : 0.0;
    store_target(pixel, mix(colour, unpack_colour(p.line), hairline));
}
