// The attention kernels for processors with AVX-512 (F, DQ, VL, BW).
#include <vitrine/kernels/cpu/implementations.h>

#if defined(__x86_64__)

// Everything that could be shared with other files is included before the pragma: an inline function compiled for this
// instruction set must not be the one the linker keeps for all.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <span>
#include <type_traits>

#include <vitrine/kernels/chooser.h>
#include <vitrine/kernels/cpu/probe_run.h>
#include <vitrine/kernels/small_attention.h>

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

#include <vitrine/kernels/cpu/attention_vector.h>

#include <vitrine/kernels/cpu/probe_vector.h>

#pragma GCC pop_options

namespace vitrine::kernels {
namespace {

const char* why_not(Operation, const AttentionParams& p) noexcept {
    return p.head_dim > 4096 ? "heads wider than 4096 do not fit its panels" : nullptr;
}

}  // namespace

const AttentionKernels* avx512_kernels() noexcept {
    static const AttentionKernels table = [] {
        AttentionKernels made = Attention<Avx512>::table("avx512", &machine, &why_not);
        made.fused = fused_avx512();
        made.small_attention = &SmallAttention<Avx512>::run;
        made.probe = &Probe<Avx512>::run;
        return made;
    }();
    return &table;
}

}  // namespace vitrine::kernels

#else

namespace vitrine::kernels {
const AttentionKernels* avx512_kernels() noexcept { return nullptr; }
}  // namespace vitrine::kernels

#endif
