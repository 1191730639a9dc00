// Resamples the picture: area average where it is made smaller, two taps where it is enlarged.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "target.glsl"

layout(constant_id = 3) const int kTaps = 3;               // along each axis
layout(constant_id = 4) const bool kInterpolate = false;   // bilinear between texel centres; else the area under the pixel

layout(set = 0, binding = 1) uniform sampler2D picture;
layout(push_constant, std430) uniform Push { PictureBlock p; };

// Weights of the texels first, first + 1, first + 2 for a pixel that starts at `edge` and is `extent` texels wide.
vec3 weights(float edge, float extent, out float first) {
    if (kInterpolate) {
        float centre = edge + 0.5 * extent - 0.5;
        first = floor(centre);
        float f = centre - first;
        return vec3(1.0 - f, f, 0.0);
    }
    first = floor(edge);
    float start = edge - first;
    float end = start + extent;
    vec3 w = vec3(min(end, 1.0) - start, clamp(end - 1.0, 0.0, 1.0), kTaps > 2 ? clamp(end - 2.0, 0.0, 1.0) : 0.0);
    return w / (w.x + w.y + w.z);
}

void main() {
    ivec2 at = ivec2(gl_GlobalInvocationID.xy);
    if (at.x >= p.rect_w || at.y >= p.rect_h) return;
    ivec2 pixel = at + ivec2(p.rect_x, p.rect_y);
    vec2 first;
    vec3 wx = weights(p.frac_x + float(at.x) * p.step_x, p.step_x, first.x);
    vec3 wy = weights(p.frac_y + float(at.y) * p.step_y, p.step_y, first.y);
    ivec2 texel = ivec2(first) + ivec2(p.base_x, p.base_y);
    ivec2 last = ivec2(p.level_w, p.level_h) - 1;
    vec3 colour = vec3(0.0);
    for (int j = 0; j < kTaps; ++j) {
        int y = clamp(texel.y + j, 0, last.y);
        vec3 row = vec3(0.0);
        for (int i = 0; i < kTaps; ++i) row += wx[i] * texelFetch(picture, ivec2(clamp(texel.x + i, 0, last.x), y), p.level).rgb;
        colour += wy[j] * row;
    }
    vec2 centre = vec2(pixel) + 0.5;
    bool seen = centre.x >= p.seen_x0 && centre.x < p.seen_x1 && centre.y >= p.seen_y0 && centre.y < p.seen_y1;
    vec3 hatched = not_seen(colour, centre, unpack_colour(p.room), unpack_colour(p.hatch), p.hatch_period, p.hatch_phase);
    store_target(pixel, seen ? colour : hatched);
}
