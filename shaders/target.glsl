// What all compute stages share: the target image, its size of work, and blending.
#extension GL_GOOGLE_include_directive : require
#include "scene_block.h"

layout(local_size_x_id = 0, local_size_y_id = 1) in;
layout(constant_id = 2) const bool kSwapRedBlue = false;  // the window wants blue first; the bytes are then copied as they are

layout(set = 0, binding = 0, rgba8) uniform image2D target;

vec3 unpack_colour(uint packed) { return unpackUnorm4x8(packed).rgb; }

vec3 load_target(ivec2 pixel) {
    vec3 colour = imageLoad(target, pixel).rgb;
    return kSwapRedBlue ? colour.bgr : colour;
}

void store_target(ivec2 pixel, vec3 colour) { imageStore(target, pixel, vec4(kSwapRedBlue ? colour.bgr : colour, 1.0)); }

// "Not seen": stepped back towards the room, with thin diagonal lines.
vec3 not_seen(vec3 colour, vec2 centre, vec3 room, vec3 hatch, float period, float phase) {
    float along = (centre.x + centre.y - phase) / period;
    float distance_px = abs(fract(along) - 0.5) * period * 0.70711;
    float line = clamp(0.07 * period + 0.5 - distance_px, 0.0, 1.0);
    return mix(mix(colour, room, 0.6), hatch, 0.24 * line);
}
