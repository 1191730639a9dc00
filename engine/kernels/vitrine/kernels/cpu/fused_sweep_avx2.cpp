// The kernels on the fused map for processors with AVX2 and FMA.
#include <vitrine/kernels/cpu/implementations.h>

#if defined(__x86_64__)

// As in attention_avx2.cpp, what could be shared with other files is included before the pragma.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

#include <vitrine/kernels/chooser.h>
#include <vitrine/kernels/fused_sweep.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma")

#include <vitrine/kernels/cpu/vector_avx2.h>

#include <vitrine/kernels/cpu/attention_vector.h>
#include <vitrine/kernels/cpu/fused_vector.h>

#pragma GCC pop_options

namespace vitrine::kernels {
const FusedKernels* fused_avx2() noexcept { return &Fused<Avx2>::kTable; }
}  // namespace vitrine::kernels

#else

namespace vitrine::kernels {
const FusedKernels* fused_avx2() noexcept { return nullptr; }
}  // namespace vitrine::kernels

#endif
