// Sums of few rows for processors with AVX2 and FMA.
#include <vitrine/kernels/cpu/sparse_run.h>

#if defined(__x86_64__)

// Everything that could be shared with other files is included before the pragma: see attention_avx2.cpp.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace vitrine::kernels {
namespace {

const char* machine() noexcept {
    const bool there = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return there ? nullptr : "this processor has no AVX2 and FMA";
}

}  // namespace
}  // namespace vitrine::kernels

#pragma GCC push_options
#pragma GCC target("avx2,fma")

#include <vitrine/kernels/cpu/vector_avx2.h>

#include <vitrine/kernels/cpu/sparse_decode_vector.h>

#pragma GCC pop_options

namespace vitrine::kernels {

const SparseKernels* sparse_avx2() noexcept {
    static const SparseKernels table = SparseVectors<Avx2>::table("avx2", &machine);
    return &table;
}

}  // namespace vitrine::kernels

#else

namespace vitrine::kernels {
const SparseKernels* sparse_avx2() noexcept { return nullptr; }
}  // namespace vitrine::kernels

#endif
