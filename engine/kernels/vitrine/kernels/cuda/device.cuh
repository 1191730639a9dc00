// What the device kernels share: the problem as they see it, asynchronous copies into shared memory, tensor-core
// products of tiles with 16-byte rows of any element, and one entry of the map.
//
// A tile in shared memory is rows of `pitch` bytes, `steps` times 32 bytes of data each (zeros behind the head's width)
// and 16 bytes that keep the eight rows of one ldmatrix in different banks. A step is 16 halves or 8 floats; ldmatrix
// loads the fragments of both alike, so that kernels know the element in the multiplication alone.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <vitrine/kernels/cuda/attention.h>

namespace vitrine::kernels::cuda {

inline constexpr float kLog2E = 1.44269504088896341F;
/// Shared memory one block may ask for on compute capability 8.0; more would run on 9.0 alone.
inline constexpr int kSharedLimit = 163 * 1024;

/// DeviceAttention with strides of q and k in bytes.
struct Problem {
    const char *q, *k;
    long long q_stride[2], k_stride[2];
    const float* bias;
    long long bias_stride[3];
    const std::uint8_t* mask;
    long long mask_stride[3];
    const float* lse;
    float scale, softcap;
    int heads, group, queries, keys, head_dim;
    int row_bytes;  ///< of one query or key
    int causal;
};

__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }
__device__ __forceinline__ float plus_infinity() { return __int_as_float(0x7f800000); }

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// A row that is masked entirely has p = 0: exp2(anything - infinity).
__device__ __forceinline__ float safe_lse(float lse) { return lse == minus_infinity() ? plus_infinity() : lse; }

/// The score of (h, i, j) from q_i . k_j with all that a problem can hold.
__device__ __forceinline__ float general_score(const Problem& p, float dot, int h, int i, int j) {
    float s = dot * p.scale;
    if (p.softcap != 0) s = p.softcap * tanhf(s / p.softcap);
    if (p.bias != nullptr) s += p.bias[h * p.bias_stride[0] + i * p.bias_stride[1] + j * p.bias_stride[2]];
    if (p.mask != nullptr && p.mask[h * p.mask_stride[0] + i * p.mask_stride[1] + j * p.mask_stride[2]] == 0)
        s = minus_infinity();
    if (p.causal && j > i) s = minus_infinity();
    return s;
}

/// The logarithm to base 2 of p_hij. General problems answer -infinity outside the map, where they must not read.
template <bool kGeneral>
__device__ __forceinline__ float exponent(const Problem& p, float dot, int h, int i, int j, float lse) {
    if constexpr (kGeneral) {
        if (i >= p.queries || j >= p.keys) return minus_infinity();
        return (general_score(p, dot, h, i, j) - lse) * kLog2E;
    } else {
        return fmaf(dot, p.scale, -lse) * kLog2E;
    }
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// 16 bytes from global to shared memory, or zeros.
__device__ __forceinline__ void copy16(std::uint32_t to, const void* from, bool there) {
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy4(std::uint32_t to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy8(std::uint32_t to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// Copies `rows` rows of `row_bytes` (a multiple of 16) into a tile with `chunks` 16-byte pieces a row. pointer(row) is
/// where a row lies, null for a row of zeros. All threads of the block take part.
template <class Pointer>
__device__ __forceinline__ void copy_rows(std::uint32_t tile, int pitch, int rows, int chunks, int row_bytes,
                                          const char* any, const Pointer& pointer) {
    const float inverse = 1.0F / static_cast<float>(chunks);
    for (int x = threadIdx.x; x < rows * chunks; x += blockDim.x) {
        const int row = static_cast<int>((static_cast<float>(x) + 0.5F) * inverse);  // x < 2^14: exact
        const int chunk = x - row * chunks;
        const char* from = pointer(row);
        const bool there = from != nullptr && chunk * 16 < row_bytes;
        copy16(tile + row * pitch + chunk * 16, there ? from + chunk * 16 : any, there);
    }
}

__device__ __forceinline__ void load_matrices(std::uint32_t (&x)[4], std::uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&x)[4], std::uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}

/// One operand fragment of a step: 16-bit elements as they are, floats split into two TF32 parts.
template <Element kElement, int kWords>
struct Fragment {
    std::uint32_t x[kWords];
    __device__ __forceinline__ void set(int w, std::uint32_t bits) { x[w] = bits; }
};
template <int kWords>
struct Fragment<Element::F32, kWords> {
    std::uint32_t x[kWords], low[kWords];
    __device__ __forceinline__ void set(int w, std::uint32_t bits) {
        const float value = __uint_as_float(bits);
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(x[w]) : "f"(value));
        const float rest = value - __uint_as_float(x[w]);
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(low[w]) : "f"(rest));
    }
};

__device__ __forceinline__ void mma_tf32(float (&c)[4], const std::uint32_t* a, const std::uint32_t* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// c += a b for one step of 32 bytes.
template <Element kElement>
__device__ __forceinline__ void multiply_step(float (&c)[4], const Fragment<kElement, 4>& a,
                                              const Fragment<kElement, 2>& b) {
    if constexpr (kElement == Element::F32) {
        // Tensor cores cut off what does not fit the sum instead of rounding it, each time: over wide heads the plain
        // kernels would be ten times nearer. So a step is a sum of its own, and ordinary addition rounds it in.
        float part[4] = {};
        mma_tf32(part, a.low, b.x);
        mma_tf32(part, a.x, b.low);
        mma_tf32(part, a.x, b.x);
#pragma unroll
        for (int w = 0; w < 4; ++w) c[w] += part[w];
    } else if constexpr (kElement == Element::F16) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
    }
}

/// c[m][n] += A B^T over `steps` steps for one warp: A is 16 kM rows of a tile from address a on, B 8 kN rows from b
/// on. In c[m][n] a lane holds rows 16 m + lane / 4 (and + 8, words 2 and 3), columns 8 n + lane % 4 * 2 (and + 1).
template <Element kElement, int kM, int kN>
__device__ __forceinline__ void multiply_tiles(float (&c)[kM][kN][4], std::uint32_t a, int a_pitch, std::uint32_t b,
                                               int b_pitch, int steps) {
    static_assert(kN % 2 == 0);
    const int lane = threadIdx.x % 32;
    a += lane % 16 * a_pitch + lane / 16 * 16;
    b += (lane / 16 * 8 + lane % 8) * b_pitch + lane / 8 % 2 * 16;
    for (int step = 0; step < steps; ++step, a += 32, b += 32) {
        Fragment<kElement, 4> rows[kM];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
            std::uint32_t x[4];
            load_matrices(x, a + m * 16 * a_pitch);
#pragma unroll
            for (int w = 0; w < 4; ++w) rows[m].set(w, x[w]);
        }
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
            std::uint32_t x[4];
            load_matrices(x, b + n * 8 * b_pitch);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                Fragment<kElement, 2> columns;
                columns.set(0, x[half * 2]);
                columns.set(1, x[half * 2 + 1]);
#pragma unroll
                for (int m = 0; m < kM; ++m) multiply_step<kElement>(c[m][n + half], rows[m], columns);
            }
        }
    }
}

template <int kM, int kN>
__device__ __forceinline__ void clear(float (&c)[kM][kN][4]) {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int n = 0; n < kN; ++n)
#pragma unroll
            for (int w = 0; w < 4; ++w) c[m][n][w] = 0;
}

/// Bytes between the rows of a tile that holds `row_bytes` of data.
__host__ __device__ constexpr int steps_of(int row_bytes) { return (row_bytes + 31) / 32; }
__host__ __device__ constexpr int pitch_of(int row_bytes) { return steps_of(row_bytes) * 32 + 16; }

/// Lets a kernel's blocks have so much shared memory. The driver is asked once for a kernel, a device and a size: a
/// walk over many layers launches the same ones again and again.
inline cudaError_t allow_shared(const void* kernel, int bytes) {
    static std::mutex mutex;
    static std::map<std::pair<const void*, int>, int> allowed;
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
    const std::lock_guard lock(mutex);
    int& most = allowed[{kernel, device}];
    if (bytes <= most) return cudaSuccess;
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error == cudaSuccess) most = bytes;
    return error;
}

/// Waits until the kernels before this one are done, where launch_early started it sooner.
__device__ __forceinline__ void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Lets the next kernel start. After wait_for_earlier(), so that the next one, too, finds all done that was before this.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Sets the block's shared memory and launches. Answers null or the driver's sentence.
template <class Task>
const char* launch_kernel(void (*kernel)(Task), const Task& task, dim3 grid, int threads, int shared_bytes,
                          const Launch& launch, bool early = false) {
    if (shared_bytes > 48 * 1024) {
        const cudaError_t error = allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
        if (error != cudaSuccess) return cudaGetErrorString(error);
    }
    cudaLaunchAttribute serial{};
    serial.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    serial.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.stream = static_cast<cudaStream_t>(launch.stream);
    config.attrs = &serial;
    config.numAttrs = early ? 1 : 0;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, task);
    if (error == cudaSuccess) return nullptr;
    cudaGetLastError();  // told here, not found again later
    return cudaGetErrorString(error);
}

/// The same on 9.0 while the kernel before it still ends: a launch of a few microseconds is hidden. The kernel calls
/// wait_for_earlier() before it reads what those wrote or writes what those read.
template <class Task>
const char* launch_early(void (*kernel)(Task), const Task& task, dim3 grid, int threads, int shared_bytes,
                         const Launch& launch) {
    return launch_kernel(kernel, task, grid, threads, shared_bytes, launch,
                         launch.implementation == Implementation::Sm90);
}

/// Calls f with the element as a compile-time constant.
template <class F>
const char* with_element(Element element, const F& f) {
    switch (element) {
        case Element::F32:
            return f(std::integral_constant<Element, Element::F32>());
        case Element::F16:
            return f(std::integral_constant<Element, Element::F16>());
        case Element::BF16:
            return f(std::integral_constant<Element, Element::BF16>());
    }
    return "the element is none of fp32, fp16 and bf16";
}

inline bool is_general(const Problem& p) {
    return p.bias != nullptr || p.mask != nullptr || p.causal != 0 || p.softcap != 0;
}

}  // namespace vitrine::kernels::cuda
