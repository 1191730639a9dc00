// What tests on a device share: memory with guard bands and poison, numbers of each element, threads for references.
#pragma once

#include <gtest/gtest.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <vitrine/kernels/cuda/attention.h>

namespace vitrine::kernels::cuda::testing {

using Index = std::int64_t;
using Floats = std::vector<float>;

inline void check(cudaError_t error, const char* what) {
    ASSERT_EQ(error, cudaSuccess) << what << ": " << cudaGetErrorString(error);
}

/// Device memory that starts as not-a-number, between bands that must stay as they are.
class Buffer {
  public:
    explicit Buffer(std::size_t bytes) : bytes_(bytes) {
        check(cudaMalloc(reinterpret_cast<void**>(&data_), bytes + 2 * kBand), "allocating");
        check(cudaMemset(data_, 0xFF, bytes + 2 * kBand), "poisoning");
    }
    Buffer(const void* from, std::size_t bytes) : Buffer(bytes) {
        check(cudaMemcpy(data(), from, bytes, cudaMemcpyHostToDevice), "copying");
    }
    ~Buffer() { cudaFree(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    unsigned char* data() const { return data_ + kBand; }
    float* floats() const { return reinterpret_cast<float*>(data()); }
    std::int32_t* ints() const { return reinterpret_cast<std::int32_t*>(data()); }
    std::size_t size() const { return bytes_; }
    void fill(int value) const { check(cudaMemset(data(), value, bytes_), "filling"); }

    template <class T>
    std::vector<T> take() const {
        std::vector<unsigned char> all(bytes_ + 2 * kBand);
        check(cudaMemcpy(all.data(), data_, all.size(), cudaMemcpyDeviceToHost), "reading");
        for (std::size_t i = 0; i < kBand; ++i)
            EXPECT_TRUE(all[i] == 0xFF && all[bytes_ + kBand + i] == 0xFF) << "written beside the output";
        std::vector<T> out(bytes_ / sizeof(T));
        std::memcpy(out.data(), all.data() + kBand, out.size() * sizeof(T));
        return out;
    }

  private:
    static constexpr std::size_t kBand = 512;
    std::size_t bytes_;
    unsigned char* data_ = nullptr;
};

/// Rounds the numbers to what the element holds, and gives their bytes.
inline std::vector<unsigned char> as_element(Floats& x, Element element) {
    std::vector<unsigned char> bytes(x.size() * static_cast<std::size_t>(size_of(element)));
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (element == Element::F32) {
            std::memcpy(bytes.data() + i * 4, &x[i], 4);
        } else if (element == Element::F16) {
            const __half h = __float2half(x[i]);
            std::memcpy(bytes.data() + i * 2, &h, 2);
            x[i] = __half2float(h);
        } else {
            const __nv_bfloat16 h = __float2bfloat16(x[i]);
            std::memcpy(bytes.data() + i * 2, &h, 2);
            x[i] = __bfloat162float(h);
        }
    }
    return bytes;
}

inline Floats from_element(const Buffer& from, Element element) {
    if (element == Element::F32) return from.take<float>();
    Floats out;
    for (const std::uint16_t bits : from.take<std::uint16_t>()) {
        if (element == Element::F16) {
            __half_raw h;
            h.x = bits;
            out.push_back(__half2float(__half(h)));
        } else {
            __nv_bfloat16_raw h;
            h.x = bits;
            out.push_back(__bfloat162float(__nv_bfloat16(h)));
        }
    }
    return out;
}

inline const ParallelFor kThreads = [](Index n, const std::function<void(Index, Index)>& f) {
    const Index count = std::max<Index>(1, std::min<Index>(n, std::thread::hardware_concurrency()));
    std::vector<std::thread> threads;
    for (Index t = 0; t < count; ++t) threads.emplace_back([&, t] { f(n * t / count, n * (t + 1) / count); });
    for (std::thread& t : threads) t.join();
};

/// Unit normal numbers, the same for the same seed.
inline Floats normals(Index count, std::uint64_t seed) {
    Floats x(static_cast<std::size_t>(count));
    kThreads((count + 1) / 2, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
            std::uint64_t z = seed * 0x9E3779B97F4A7C15U + static_cast<std::uint64_t>(i) * 0xD1342543DE82EF95U;
            z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
            z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
            z ^= z >> 31U;
            const double u = (static_cast<double>(z >> 32U) + 1) / 4294967297.0;
            const double angle = static_cast<double>(z & 0xFFFFFFFFU) / 4294967296.0 * 6.283185307179586;
            const double radius = std::sqrt(-2 * std::log(u));
            x[static_cast<std::size_t>(2 * i)] = static_cast<float>(radius * std::cos(angle));
            if (2 * i + 1 < count)
                x[static_cast<std::size_t>(2 * i + 1)] = static_cast<float>(radius * std::sin(angle));
        }
    });
    return x;
}

inline const char* name_of(Element element) {
    return element == Element::F32 ? "F32" : element == Element::F16 ? "F16" : "BF16";
}

inline int device_capability() {
    int count = 0, major = 0, minor = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    return major * 10 + minor;
}

/// The largest difference; not-a-number sticks.
template <class A, class B>
double worst(const A& found, const B& wanted) {
    EXPECT_EQ(found.size(), wanted.size());
    double most = 0;
    for (std::size_t i = 0; i < found.size() && i < wanted.size(); ++i) {
        const double off = found[i] == wanted[i] ? 0 : std::abs(static_cast<double>(found[i]) - wanted[i]);
        if (!(off <= most)) most = off;
    }
    return most;
}

}  // namespace vitrine::kernels::cuda::testing

#define VITRINE_NEEDS_DEVICE()                                       \
    if (::vitrine::kernels::cuda::testing::device_capability() < 80) \
    GTEST_SKIP() << "no CUDA device of compute capability 8.0 or later"
