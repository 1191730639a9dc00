// Exponentials and nothing else: sweeps need one an entry of the map.
#include <vitrine/kernels/cuda/floor.h>

#include <vitrine/kernels/cuda/device.cuh>

namespace vitrine::kernels::cuda {
namespace {

constexpr int kRounds = 20000, kEach = 8, kThreads = 1024, kBlocks = 2;

struct FloorTask {
    float* never;  ///< would be written if a sum of powers were negative
};
__global__ void __launch_bounds__(kThreads) exponentials_kernel(const __grid_constant__ FloorTask task) {
    float x[kEach];
    for (int e = 0; e < kEach; ++e) x[e] = static_cast<float>(threadIdx.x + e) * 1e-4F;
    for (int round = 0; round < kRounds; ++round)
#pragma unroll
        for (int e = 0; e < kEach; ++e) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x[e]));
    float sum = 0;
    for (int e = 0; e < kEach; ++e) sum += x[e];
    if (sum == -1) task.never[threadIdx.x] = sum;
}

}  // namespace

const char* exponentials(std::int64_t& count, const Launch& launch) noexcept {
    int device = 0, multiprocessors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    count = static_cast<std::int64_t>(multiprocessors) * kBlocks * kThreads * kRounds * kEach;
    return launch_kernel(exponentials_kernel, FloorTask{nullptr}, dim3(multiprocessors * kBlocks), kThreads, 0, launch);
}

}  // namespace vitrine::kernels::cuda
