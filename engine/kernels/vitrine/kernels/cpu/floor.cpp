// Measures multiply-add throughput and read bandwidth with the widest vectors of this processor.
#include <vitrine/kernels/floor.h>

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vitrine::kernels {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr std::int64_t kSteps = 400000;
constexpr int kChains = 12;  // enough independent sums to hide the latency of a multiply-add on two units

// Written to so that nothing is optimised away.
thread_local volatile float t_sink = 0;

#if defined(__x86_64__)

[[gnu::target("avx512f")]] double operations_avx512() {
    __m512 sum[kChains];
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_set1_ps(static_cast<float>(c));
    const __m512 x = _mm512_set1_ps(0.999F), y = _mm512_set1_ps(0.001F);
    for (std::int64_t step = 0; step < kSteps; ++step)
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) sum[c] = _mm512_fmadd_ps(sum[c], x, y);
    float out[16];
    for (int c = 1; c < kChains; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
    _mm512_storeu_ps(out, sum[0]);
    t_sink = out[3];
    return 2.0 * 16 * kChains * kSteps;
}

[[gnu::target("avx2,fma")]] double operations_avx2() {
    __m256 sum[kChains];
    for (int c = 0; c < kChains; ++c) sum[c] = _mm256_set1_ps(static_cast<float>(c));
    const __m256 x = _mm256_set1_ps(0.999F), y = _mm256_set1_ps(0.001F);
    for (std::int64_t step = 0; step < kSteps; ++step)
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], x, y);
    float out[8];
    for (int c = 1; c < kChains; ++c) sum[0] = _mm256_add_ps(sum[0], sum[c]);
    _mm256_storeu_ps(out, sum[0]);
    t_sink = out[3];
    return 2.0 * 8 * kChains * kSteps;
}

[[gnu::target("avx512f")]] void read_avx512(const float* data, std::int64_t count) {
    __m512 sum[8];
    for (auto& s : sum) s = _mm512_setzero_ps();
    std::int64_t i = 0;
    for (; i + 128 <= count; i += 128)
#pragma GCC unroll 8
        for (int c = 0; c < 8; ++c) sum[c] = _mm512_add_ps(sum[c], _mm512_loadu_ps(data + i + 16 * c));
    float out[16];
    for (int c = 1; c < 8; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
    _mm512_storeu_ps(out, sum[0]);
    t_sink = out[1];
}

[[gnu::target("avx2")]] void read_avx2(const float* data, std::int64_t count) {
    __m256 sum[8];
    for (auto& s : sum) s = _mm256_setzero_ps();
    std::int64_t i = 0;
    for (; i + 64 <= count; i += 64)
#pragma GCC unroll 8
        for (int c = 0; c < 8; ++c) sum[c] = _mm256_add_ps(sum[c], _mm256_loadu_ps(data + i + 8 * c));
    float out[8];
    for (int c = 1; c < 8; ++c) sum[0] = _mm256_add_ps(sum[0], sum[c]);
    _mm256_storeu_ps(out, sum[0]);
    t_sink = out[1];
}

#endif

double operations_plain() {
    float sum[kChains];
    for (int c = 0; c < kChains; ++c) sum[c] = static_cast<float>(c);
    for (std::int64_t step = 0; step < kSteps; ++step)
        for (float& s : sum) s = s * 0.999F + 0.001F;
    float all = 0;
    for (const float s : sum) all += s;
    t_sink = all;
    return 2.0 * kChains * kSteps;
}

double operations() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return operations_avx512();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return operations_avx2();
#endif
    return operations_plain();
}

void read(const float* data, std::int64_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        read_avx512(data, count);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        read_avx2(data, count);
        return;
    }
#endif
    float sum[8] = {};
    for (std::int64_t i = 0; i + 8 <= count; i += 8)
        for (int c = 0; c < 8; ++c) sum[c] += data[i + c];
    t_sink = sum[0] + sum[7];
}

}  // namespace

double measure_flops(std::int64_t threads, const ParallelFor& parallel_for) {
    const double each = operations();  // and warms the units up
    const auto start = Clock::now();
    parallel_for(threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t item = begin; item < end; ++item) operations();
    });
    return each * static_cast<double>(threads) / seconds_since(start);
}

double measure_read(std::span<const float> data, std::int64_t threads, const ParallelFor& parallel_for) {
    const auto count = static_cast<std::int64_t>(data.size());
    const auto start = Clock::now();
    parallel_for(threads, [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t from = begin * count / threads, to = end * count / threads;
        read(data.data() + from, to - from);
    });
    return static_cast<double>(data.size_bytes()) / seconds_since(start);
}

}  // namespace vitrine::kernels
