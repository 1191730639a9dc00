// Sixteen floats at once: the vector type of the AVX-512 kernels. Included inside a region compiled for AVX-512 only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace vitrine::kernels {
namespace {

struct Avx512 {
    using Float = __m512;
    using Mask = __mmask16;
    static constexpr int kLanes = 16;
    /// The register tile: 8 rows x 3 vectors are 24 of the 32 registers, and 11 loads feed 24 multiply-adds.
    static constexpr int kRows = 8;
    static constexpr int kVectors = 3;

    static Float zero() { return _mm512_setzero_ps(); }
    static Float all(float x) { return _mm512_set1_ps(x); }
    static Float load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
    static Mask first(std::int64_t n) { return static_cast<Mask>(n >= 16 ? 0xFFFFU : (1U << n) - 1U); }
    static Float load(const float* p, Mask m) { return _mm512_maskz_loadu_ps(m, p); }
    static void store(float* p, Float x, Mask m) { _mm512_mask_storeu_ps(p, m, x); }
    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Float negated_fma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }
    static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
    /// A bit for each lane where a > b.
    static unsigned greater(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
    static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
    /// a where |x| < limit, else b with the sign of x.
    static Float small_or_signed(Float x, float limit, Float a, Float b) {
        const __mmask16 small = _mm512_cmp_ps_mask(_mm512_abs_ps(x), all(limit), _CMP_LT_OQ);
        return _mm512_mask_mov_ps(_mm512_or_ps(b, _mm512_and_ps(x, all(-0.0F))), small, a);
    }
    static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
    static Float magnitude(Float a) { return _mm512_abs_ps(a); }
    /// y * 2^n where n stands in the low bits of `magic`, +0 where x < limit.
    static Float scaled_unless_below(Float y, Float magic, Float x, Float limit) {
        const __mmask16 keep = _mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ);
        const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(magic), 23);
        return _mm512_castsi512_ps(_mm512_maskz_add_epi32(keep, _mm512_castps_si512(y), power));
    }
    /// The sums of sixteen vectors, in order: a transposition in which every exchange adds its halves.
    static Float sums(const Float (&a)[kLanes]) {
        Float b[8], c[4], d[2];
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i)
            b[i] =
                _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512d low = _mm512_castps_pd(b[2 * i]), high = _mm512_castps_pd(b[2 * i + 1]);
            c[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                                 _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i)
            d[i] = _mm512_add_ps(_mm512_shuffle_f32x4(c[2 * i], c[2 * i + 1], 0x88),
                                 _mm512_shuffle_f32x4(c[2 * i], c[2 * i + 1], 0xDD));
        return _mm512_add_ps(_mm512_shuffle_f32x4(d[0], d[1], 0x88), _mm512_shuffle_f32x4(d[0], d[1], 0xDD));
    }
};

}  // namespace
}  // namespace vitrine::kernels
