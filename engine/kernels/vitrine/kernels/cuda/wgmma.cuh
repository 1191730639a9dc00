// Warpgroup products of compute capability 9.0: tiles in shared memory as their descriptors want them, and m64n64k16.
//
// A tile is pieces of 64 halves (128 bytes) a row, each piece a region of its own with all rows; the eight 16-byte
// chunks of a row lie at their number xor the row's last three bits (the 128-byte swizzle), regions start at multiples
// of 1024.
#pragma once

#include <vitrine/kernels/cuda/device.cuh>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define VITRINE_WGMMA 1
#endif

namespace vitrine::kernels::cuda {

/// As copy_rows, swizzled. `rows` is a power of two, at least 8; pieces of 128 bytes, zeros behind row_bytes.
template <int kRows, int kPieces, class Pointer>
__device__ __forceinline__ void copy_rows_swizzled(std::uint32_t tile, int row_bytes, const char* any,
                                                   const Pointer& pointer) {
    static_assert(kRows * 8 % 256 == 0);
    // The thread's chunk is the same in every round (256 threads): only the row moves.
    const int chunk = threadIdx.x % 8;
#pragma unroll
    for (int round = 0; round < kRows * 8 / 256; ++round) {
        const int row = threadIdx.x / 8 + round * 32;
        const char* from = pointer(row);
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
            const int at = piece * 128 + chunk * 16;
            const bool there = from != nullptr && at < row_bytes;
            copy16(tile + piece * kRows * 128 + row * 128 + ((chunk ^ (row & 7)) << 4), there ? from + at : any, there);
        }
    }
}

/// What wgmma takes for a swizzled tile from `address` on: eight rows are 1024 bytes apart.
__device__ __forceinline__ std::uint64_t descriptor_of(std::uint32_t address) {
    return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | (std::uint64_t{1} << 16) | (std::uint64_t{64} << 32) |
           (std::uint64_t{1} << 62);
}

/// Barriers in shared memory: each completes a phase when `count` arrivals and the bytes that were promised are there.
__device__ __forceinline__ void begin_barrier(std::uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void arrive(std::uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Waits until the phase of that parity (0 is the first) has completed.
__device__ __forceinline__ void wait_phase(std::uint32_t barrier, int parity) {
#ifdef VITRINE_WGMMA
    asm volatile(
        "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra AGAIN;\n}\n" ::"r"(
            barrier),
        "r"(parity)
        : "memory");
#endif
}
/// One thread copies `bytes` (a multiple of 16) by the copy engine; the barrier gets its arrival and the bytes.
__device__ __forceinline__ void copy_bulk(std::uint32_t to, const void* from, int bytes, std::uint32_t barrier) {
#ifdef VITRINE_WGMMA
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
#endif
}

/// Ordinary and asynchronous copies of this thread become visible to wgmma; a barrier must follow.
__device__ __forceinline__ void show_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most kLeft groups are under way; the accumulators may be read from then on, not before.
template <int kLeft>
__device__ __forceinline__ void wait_products(float (&c)[32]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
#pragma unroll
    for (int x = 0; x < 32; ++x) asm volatile("" : "+f"(c[x])::"memory");
}

#define VITRINE_WGMMA_N64(types)                                                                                      \
    asm volatile(                                                                                                     \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                                  \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." types                                                           \
        " "                                                                                                           \
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                     \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "                           \
        "%32, %33, p, 1, 1, 0, 0;\n}\n"                                                                               \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), \
          "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]),      \
          "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),     \
          "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])                   \
        : "l"(a), "l"(b), "r"(add))

template <Element kElement>
__device__ __forceinline__ void multiply_n64(float (&c)[32], std::uint64_t a, std::uint64_t b, int add) {
#ifdef VITRINE_WGMMA
    if constexpr (kElement == Element::F16) {
        VITRINE_WGMMA_N64("f16.f16");
    } else {
        VITRINE_WGMMA_N64("bf16.bf16");
    }
#endif
}

#define VITRINE_WGMMA_N64_REGISTERS(types)                                                                            \
    asm volatile(                                                                                                     \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                                  \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." types                                                           \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "           \
        "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"         \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), \
          "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]),      \
          "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]),     \
          "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

/// The same with the 64 rows' step in registers, as ldmatrix gives them.
template <Element kElement>
__device__ __forceinline__ void multiply_n64(float (&c)[32], const std::uint32_t (&a)[4], std::uint64_t b, int add) {
#ifdef VITRINE_WGMMA
    if constexpr (kElement == Element::F16) {
        VITRINE_WGMMA_N64_REGISTERS("f16.f16");
    } else {
        VITRINE_WGMMA_N64_REGISTERS("bf16.bf16");
    }
#endif
}

/// This warp's 16 rows of a swizzled tile of one piece, from row `row` on, all four steps.
__device__ __forceinline__ void load_rows(std::uint32_t (&a)[4][4], std::uint32_t tile, int row) {
    row += threadIdx.x / 32 % 4 * 16 + threadIdx.x % 16;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        const int chunk = step * 2 + threadIdx.x % 32 / 16;
        load_matrices(a[step], tile + row * 128 + ((chunk ^ (row & 7)) << 4));
    }
}

template <Element kElement>
__device__ __forceinline__ void begin_tile(float (&c)[32], const std::uint32_t (&a)[4][4], std::uint32_t b_tile) {
    begin_products();
    const std::uint64_t b = descriptor_of(b_tile);
#pragma unroll
    for (int step = 0; step < 4; ++step) multiply_n64<kElement>(c, a[step], b + ((step * 32) >> 4), step);
    commit_products();
}

/// c = A B^T, begun: A is 64 rows of a tile of kARows rows, from row `a_row` on, B a tile of 64 rows. In c a lane holds
/// rows 16 warp + lane / 4 (and + 8: words 2, 3 of four), columns 8 n + lane % 4 * 2 (and + 1), n = word / 4.
template <Element kElement, int kSteps, int kARows>
__device__ __forceinline__ void begin_tile(float (&c)[32], std::uint32_t a_tile, int a_row, std::uint32_t b_tile) {
    begin_products();
    const std::uint64_t a = descriptor_of(a_tile + a_row * 128), b = descriptor_of(b_tile);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        const int piece = step / 4, inside = step % 4 * 32;
        multiply_n64<kElement>(c, a + ((piece * kARows * 128 + inside) >> 4), b + ((piece * 64 * 128 + inside) >> 4),
                               step);
    }
    commit_products();
}

/// Calls f with the number of 16-wide steps that hold `dim` values, rounded up to what is compiled.
template <class F>
const char* with_steps(int dim, const F& f) {
    if (dim <= 64) return f(std::integral_constant<int, 4>());
    if (dim <= 96) return f(std::integral_constant<int, 6>());
    return f(std::integral_constant<int, 8>());
}

}  // namespace vitrine::kernels::cuda
