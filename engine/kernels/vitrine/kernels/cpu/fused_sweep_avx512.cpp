// The kernels on the fused map for processors with AVX-512.
#include <vitrine/kernels/cpu/implementations.h>

#if defined(__x86_64__)

// As in attention_avx512.cpp, what could be shared with other files is included before the pragma.
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
// As in attention_avx512.cpp.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw")

#include <vitrine/kernels/cpu/vector_avx512.h>

#include <vitrine/kernels/cpu/attention_vector.h>
#include <vitrine/kernels/cpu/fused_vector.h>

#pragma GCC pop_options

namespace vitrine::kernels {
const FusedKernels* fused_avx512() noexcept { return &Fused<Avx512>::kTable; }
}  // namespace vitrine::kernels

#else

namespace vitrine::kernels {
const FusedKernels* fused_avx512() noexcept { return nullptr; }
}  // namespace vitrine::kernels

#endif
