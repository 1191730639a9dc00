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
    static Float magnitude(Float a) { return _mm512_abs_ps(a); }
    /// y * 2^n where n stands in the low bits of `magic`, +0 where x < limit.
    static Float scaled_unless_below(Float y, Float magic, Float x, Float limit) {
        const __mmask16 keep = _mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ);
        const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(magic), 23);
        return _mm512_castsi512_ps(_mm512_maskz_add_epi32(keep, _mm512_castps_si512(y), power));
    }
    /// The sums of sixteen vectors, in order.
    static Float sums(const Float (&a)[kLanes]) {
        __m256 half[kLanes];
        for (int i = 0; i < kLanes; ++i)
            half[i] = _mm256_add_ps(_mm512_castps512_ps256(a[i]), _mm512_extractf32x8_ps(a[i], 1));
        return _mm512_insertf32x8(_mm512_castps256_ps512(eight_sums(half)), eight_sums(half + 8), 1);
    }

  private:
    static __m256 eight_sums(const __m256* a) {
        const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
        const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
        return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
    }
};

}  // namespace
}  // namespace vitrine::kernels
