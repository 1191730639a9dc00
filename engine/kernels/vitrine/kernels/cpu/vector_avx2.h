// Eight floats at once: the vector type of the AVX2 kernels. Included inside a region compiled for AVX2 and FMA only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace vitrine::kernels {
namespace {

struct Avx2 {
    using Float = __m256;
    using Mask = __m256i;
    static constexpr int kLanes = 8;
    /// The register tile: 4 rows x 3 vectors are 12 of the 16 registers, and 7 loads feed 12 multiply-adds.
    static constexpr int kRows = 4;
    static constexpr int kVectors = 3;

    static Float zero() { return _mm256_setzero_ps(); }
    static Float all(float x) { return _mm256_set1_ps(x); }
    static Float load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
    static Mask first(std::int64_t n) {
        const int count = static_cast<int>(n < 8 ? n : 8);
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static Float load(const float* p, Mask m) { return _mm256_maskload_ps(p, m); }
    static void store(float* p, Float x, Mask m) { _mm256_maskstore_ps(p, m, x); }
    static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Float negated_fma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
    static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
    /// A bit for each lane where a > b.
    static unsigned greater(Float a, Float b) {
        return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
    }
    static Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
    /// a where |x| < limit, else b with the sign of x.
    static Float small_or_signed(Float x, float limit, Float a, Float b) {
        const Float small = _mm256_cmp_ps(magnitude(x), all(limit), _CMP_LT_OQ);
        return _mm256_blendv_ps(_mm256_or_ps(b, _mm256_and_ps(x, all(-0.0F))), a, small);
    }
    static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
    static Float magnitude(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
    /// y * 2^n where n stands in the low bits of `magic`, +0 where x < limit.
    static Float scaled_unless_below(Float y, Float magic, Float x, Float limit) {
        const __m256 keep = _mm256_cmp_ps(x, limit, _CMP_NLT_UQ);
        const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(magic), 23);
        return _mm256_and_ps(keep, _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power)));
    }
    /// The sums of eight vectors, in order: a transposition in which every exchange adds its halves.
    static Float sums(const Float (&a)[kLanes]) {
        Float b[4], c[2];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            b[i] =
                _mm256_add_ps(_mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]));
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            const __m256d low = _mm256_castps_pd(b[2 * i]), high = _mm256_castps_pd(b[2 * i + 1]);
            c[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(low, high)),
                                 _mm256_castpd_ps(_mm256_unpackhi_pd(low, high)));
        }
        return _mm256_add_ps(_mm256_permute2f128_ps(c[0], c[1], 0x20), _mm256_permute2f128_ps(c[0], c[1], 0x31));
    }
};

}  // namespace
}  // namespace vitrine::kernels
