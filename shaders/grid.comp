// Draws the lines between cells: a light pixel and a dark one beside it, so that one of them shows on any ground.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "target.glsl"

layout(push_constant, std430) uniform Push { GridBlock p; };

void main() {
    ivec2 at = ivec2(gl_GlobalInvocationID.xy);
    if (at.x >= p.rect_w || at.y >= p.rect_h) return;
    ivec2 pixel = at + ivec2(p.rect_x, p.rect_y);
    // A line falls on the pixel whose edge is nearest to a boundary: the cells half a pixel before and after it differ.
    // Its dark neighbour follows to the right and below.
    vec2 step = vec2(p.du, p.dv);
    vec2 before = vec2(p.u0, p.v0) + vec2(at) * step;
    vec2 here = floor(before + step), earlier = floor(before), last = floor(before - step);
    vec2 end = vec2(p.cols, p.rows) - 0.5;
    bvec2 light = bvec2(here.x != earlier.x && here.x > 0.5 && here.x < end.x, here.y != earlier.y && here.y > 0.5 && here.y < end.y);
    bvec2 dark = bvec2(earlier.x != last.x && earlier.x > 0.5 && earlier.x < end.x, earlier.y != last.y && earlier.y > 0.5 && earlier.y < end.y);
    vec3 below = load_target(pixel);
    vec3 shaded = mix(below, unpack_colour(p.dark), any(dark) ? p.dark_alpha : 0.0);
    store_target(pixel, any(light) ? mix(below, unpack_colour(p.light), p.light_alpha) : shaded);
}
