// Sums of few rows for processors with AVX-512.
#include <vitrine/kernels/cpu/sparse_run.h>

#if defined(__x86_64__)

// Everything that could be shared with other files is included before the pragma: see attention_avx512.cpp.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace vitrine::kernels {
namespace {

const char* machine() noexcept {
    const bool there = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    return there ? nullptr : "this processor has no AVX-512 (F, DQ, VL, BW)";
}

}  // namespace
}  // namespace vitrine::kernels

#pragma GCC push_options
// The compiler's own header of intrinsics starts its "undefined" registers from themselves, and then warns about it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw")

#include <vitrine/kernels/cpu/vector_avx512.h>

#include <vitrine/kernels/cpu/sparse_decode_vector.h>

#pragma GCC pop_options

namespace vitrine::kernels {

const SparseKernels* sparse_avx512() noexcept {
    static const SparseKernels table = SparseVectors<Avx512>::table("avx512", &machine);
    return &table;
}

}  // namespace vitrine::kernels

#else

namespace vitrine::kernels {
const SparseKernels* sparse_avx512() noexcept { return nullptr; }
}  // namespace vitrine::kernels

#endif
