// The tables of the implementations, one per source file.
#pragma once

namespace vitrine::kernels {

struct AttentionKernels;

const AttentionKernels* reference_kernels() noexcept;
const AttentionKernels* avx2_kernels() noexcept;    ///< null where it was not built
const AttentionKernels* avx512_kernels() noexcept;  ///< null where it was not built

}  // namespace vitrine::kernels
