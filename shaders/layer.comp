// Lays one map of values over the picture: normalise, colour, blend.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "target.glsl"

layout(constant_id = 3) const int kTaps = 1;             // along each axis: 1 nearest, 2 bilinear, 4 bicubic; 0: colours, nearest
layout(constant_id = 4) const bool kLogarithmic = false;
layout(constant_id = 5) const bool kGamma = false;       // other than 1

layout(set = 0, binding = 2, std430) readonly buffer Values { float values[]; };
layout(set = 0, binding = 3, std430) readonly buffer Texels { uint texels[]; };
layout(push_constant, std430) uniform Push { LayerBlock p; };

// By its bits: compilers may take a comparison with itself for true.
bool is_nan(float v) { return (floatBitsToUint(v) & 0x7fffffffu) > 0x7f800000u; }

vec4 tap_weights(float f) {
    if (kTaps == 2) return vec4(1.0 - f, f, 0.0, 0.0);
    // Catmull-Rom, the cubic through the values (Keys, 1981, a = -1/2).
    float f2 = f * f, f3 = f2 * f;
    return vec4(-0.5 * f + f2 - 0.5 * f3, 1.0 - 2.5 * f2 + 1.5 * f3, 0.5 * f + 2.0 * f2 - 1.5 * f3, -0.5 * f2 + 0.5 * f3);
}

float cell_value(ivec2 cell) {
    ivec2 inside = clamp(cell, ivec2(0), ivec2(p.cols, p.rows) - 1);
    return values[p.first + uint(inside.y * p.cols + inside.x)];
}

vec3 unseen_at(ivec2 pixel, vec3 below) {
    return not_seen(below, vec2(pixel) + 0.5, unpack_colour(p.room), unpack_colour(p.hatch), p.hatch_period, p.hatch_phase);
}

// A map that is a picture: a plane of values each for red, green and blue.
void lay_colours(ivec2 pixel, vec2 cell) {
    ivec2 inside = clamp(ivec2(floor(cell)), ivec2(0), ivec2(p.cols, p.rows) - 1);
    uint at = p.first + uint(inside.y * p.cols + inside.x);
    uint plane = uint(p.rows * p.cols);
    vec3 colour = vec3(values[at], values[at + plane], values[at + 2u * plane]);
    bool unseen = is_nan(colour.r) || is_nan(colour.g) || is_nan(colour.b);
    vec3 below = load_target(pixel);
    store_target(pixel, unseen ? unseen_at(pixel, below) : mix(below, clamp(colour, 0.0, 1.0), p.opacity));
}

void main() {
    ivec2 at = ivec2(gl_GlobalInvocationID.xy);
    if (at.x >= p.rect_w || at.y >= p.rect_h) return;
    ivec2 pixel = at + ivec2(p.rect_x, p.rect_y);
    vec2 cell = vec2(p.u0, p.v0) + vec2(at) * vec2(p.du, p.dv);
    if (kTaps == 0) {
        lay_colours(pixel, cell);
        return;
    }

    float value = cell_value(ivec2(floor(cell)));
    bool unseen = is_nan(value);
    if (kTaps > 1) {
        // Values lie at cell centres. Cells without a value take no part; a pixel nearest to one shows none.
        vec2 corner = floor(cell - 0.5);
        vec4 wx = tap_weights(cell.x - 0.5 - corner.x);
        vec4 wy = tap_weights(cell.y - 0.5 - corner.y);
        ivec2 first = ivec2(corner) - (kTaps == 4 ? 1 : 0);
        float sum = 0.0, weight = 0.0;
        for (int j = 0; j < kTaps; ++j) {
            for (int i = 0; i < kTaps; ++i) {
                float v = cell_value(first + ivec2(i, j));
                float w = is_nan(v) ? 0.0 : wx[i] * wy[j];
                sum += w * (is_nan(v) ? 0.0 : v);
                weight += w;
            }
        }
        value = sum / max(weight, 1e-6);
    }

    bool symmetric = (p.flags & LAYER_SYMMETRIC) != 0u;
    float magnitude = symmetric ? abs(value) : value;
    if (kLogarithmic) magnitude = log2(symmetric ? 1.0 + magnitude * p.log_floor : max(magnitude, p.log_floor));
    float t = clamp(magnitude * p.scale + p.bias, 0.0, 1.0);
    if (kGamma) t = t > 0.0 ? pow(t, p.gamma) : 0.0;
    float position = symmetric ? 0.5 + (value < 0.0 ? -0.5 : 0.5) * t : t;
    float alpha = p.opacity * ((p.flags & LAYER_SOLID) != 0u ? 1.0 : t);

    uint texel = p.first_texel;
    if ((p.flags & LAYER_HUE) == 0u) texel = texels[p.first_texel + uint(min(position * 256.0, 255.0))];
    vec3 below = load_target(pixel);
    store_target(pixel, unseen ? unseen_at(pixel, below) : mix(below, unpack_colour(texel), alpha));
}
