// Beside device.cuh, for kernels that keep scores in registers and multiply them with values: products and roundings of
// register fragments, named by the C++ type of an element.
#pragma once

#include <vitrine/kernels/cuda/device.cuh>

namespace vitrine::kernels::cuda {

inline constexpr float kLn2 = 0.6931471805599453F;

/// c += a b; a: 16 x 16, b: 16 x 8.
template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1) {
    constexpr Element kElement = std::is_same_v<T, __half> ? Element::F16 : Element::BF16;
    multiply_step<kElement>(c, Fragment<kElement, 4>{{a[0], a[1], a[2], a[3]}}, Fragment<kElement, 2>{{b0, b1}});
}

/// Two numbers as one register, x in the low half.
template <class T>
__device__ __forceinline__ std::uint32_t pack(float x, float y) {
    std::uint32_t both;
    if constexpr (std::is_same_v<T, __half>)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
    return both;
}

/// copy16 that has memory fetch whole lines of 128 bytes into the second-level cache, for rows that are read in full:
/// 2 to 4 % of a long probe, measured on an H100.
__device__ __forceinline__ void copy16_of_line(std::uint32_t to, const void* from, bool there) {
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/// Shared memory that one block may ask for.
constexpr int shared_limit(int compute_capability) {
    if (compute_capability >= 90 && compute_capability < 120) return 227 * 1024;
    return compute_capability == 80 || compute_capability == 87 ? kSharedLimit : 99 * 1024;
}

}  // namespace vitrine::kernels::cuda
