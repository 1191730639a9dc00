// Times the CUDA map kernels against the ceilings of the same device in the same run: verify first, then medians by
// events.
//   attention_bench [OUT.json]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <vitrine/kernels/cuda/attention.h>
#include <vitrine/kernels/cuda/floor.h>

namespace {

using namespace vitrine::kernels::cuda;
using vitrine::kernels::SweepFunctor;

void check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
    std::exit(1);
}
void check(const char* problem) {
    if (problem == nullptr) return;
    std::fprintf(stderr, "%s\n", problem);
    std::exit(1);
}

/// Median milliseconds of `runs` calls after three to warm up.
double time_ms(int runs, const std::function<void(int)>& f) {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    std::vector<float> ms;
    for (int x = 0; x < runs + 3; ++x) {
        check(cudaEventRecord(begin));
        f(x);
        check(cudaEventRecord(end));
        check(cudaEventSynchronize(end));
        float once = 0;
        check(cudaEventElapsedTime(&once, begin, end));
        if (x >= 3) ms.push_back(once);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::nth_element(ms.begin(), ms.begin() + ms.size() / 2, ms.end());
    return ms[ms.size() / 2];
}

double exponentials_per_second() {
    std::int64_t count = 0;
    const double ms = time_ms(5, [&](int) { (void)exponentials(count, {}); });
    return static_cast<double>(count) / (ms * 1e-3);
}

/// bf16 matrix product of 8192 by cuBLAS where it is installed; 0 elsewhere.
double tensor_flops() {
    void* library = dlopen("libcublas.so.13", RTLD_NOW);
    if (library == nullptr) library = dlopen("libcublas.so", RTLD_NOW);
    if (library == nullptr) return 0;
    const auto create = reinterpret_cast<decltype(&cublasCreate_v2)>(dlsym(library, "cublasCreate_v2"));
    const auto multiply = reinterpret_cast<cublasStatus_t (*)(
        cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*, const void*, cudaDataType,
        int, const void*, cudaDataType, int, const void*, void*, cudaDataType, int, cublasComputeType_t,
        cublasGemmAlgo_t)>(dlsym(library, "cublasGemmEx"));
    cublasHandle_t handle = nullptr;
    if (create == nullptr || multiply == nullptr || create(&handle) != CUBLAS_STATUS_SUCCESS) return 0;
    constexpr int kSize = 8192;
    std::vector<__nv_bfloat16> host(static_cast<std::size_t>(kSize) * kSize);
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (auto& x : host) x = __float2bfloat16(uniform(random));
    __nv_bfloat16 *a, *b, *c;
    for (auto** x : {&a, &b, &c}) {
        check(cudaMalloc(x, host.size() * 2));
        check(cudaMemcpy(*x, host.data(), host.size() * 2, cudaMemcpyHostToDevice));
    }
    const float one = 1, zero = 0;
    const double ms = time_ms(7, [&](int) {
        multiply(handle, CUBLAS_OP_T, CUBLAS_OP_N, kSize, kSize, kSize, &one, a, CUDA_R_16BF, kSize, b, CUDA_R_16BF,
                 kSize, &zero, c, CUDA_R_16BF, kSize, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    });
    for (auto* x : {a, b, c}) cudaFree(x);
    return 2.0 * kSize * kSize * kSize / (ms * 1e-3);
}

double copy_bytes_per_second() {
    const std::size_t size = std::size_t{2} << 30;
    void *a, *b;
    check(cudaMalloc(&a, size));
    check(cudaMalloc(&b, size));
    check(cudaMemset(a, 1, size));
    const double ms = time_ms(7, [&](int) { check(cudaMemcpyAsync(b, a, size, cudaMemcpyDeviceToDevice)); });
    cudaFree(a);
    cudaFree(b);
    return 2.0 * static_cast<double>(size) / (ms * 1e-3);
}

__global__ void fill_random(void* to, Element element, std::size_t count, unsigned seed) {
    for (std::size_t x = blockIdx.x * std::size_t{256} + threadIdx.x; x < count; x += std::size_t{256} * gridDim.x) {
        unsigned s = static_cast<unsigned>(x) * 2654435761U + seed * 97U;
        float sum = 0;
        for (int y = 0; y < 4; ++y) {  // near enough to a normal number
            s ^= s << 13, s ^= s >> 17, s ^= s << 5;
            sum += static_cast<float>(s) * (1.0F / 4294967296.0F) - 0.5F;
        }
        const float value = sum * 1.7F;
        if (element == Element::F32)
            static_cast<float*>(to)[x] = value;
        else
            static_cast<__nv_bfloat16*>(to)[x] = __float2bfloat16(value);
    }
}

/// One layer's fused [tokens, 3, heads, dim], the gradient of the output, weights and log-sum-exp.
struct Layer {
    Layer(Element element, std::int64_t heads, std::int64_t n, std::int64_t dim, unsigned seed) {
        const std::size_t size = static_cast<std::size_t>(size_of(element));
        const std::size_t count = static_cast<std::size_t>(n * 3 * heads * dim);
        char* qkv;
        void* d_out;
        check(cudaMalloc(&qkv, count * size));
        check(cudaMalloc(&d_out, count / 3 * size));
        check(cudaMalloc(&lse, static_cast<std::size_t>(heads * n) * 4));
        fill_random<<<1024, 256>>>(qkv, element, count, seed);
        fill_random<<<1024, 256>>>(d_out, element, count / 3, seed + 1);
        a.q = qkv;
        a.k = qkv + heads * dim * static_cast<std::int64_t>(size);
        g.v = qkv + 2 * heads * dim * static_cast<std::int64_t>(size);
        g.d_out = d_out;
        for (auto* stride : {a.q_stride, a.k_stride, g.v_stride}) {
            stride[0] = dim;
            stride[1] = 3 * heads * dim;
        }
        g.d_out_stride[0] = dim;
        g.d_out_stride[1] = heads * dim;
        g.value_dim = dim;
        a.element = element;
        a.heads = a.key_heads = heads;
        a.queries = a.keys = n;
        a.head_dim = dim;
        a.scale = 1.0F / std::sqrt(static_cast<float>(dim));
        check(log_sum_exp(a, lse, {}));
        a.lse = lse;
    }
    ~Layer() {
        cudaFree(const_cast<void*>(a.q));
        cudaFree(const_cast<void*>(g.d_out));
        cudaFree(lse);
    }
    Layer(const Layer&) = delete;
    DeviceAttention a;
    DeviceGradient g;
    float* lse;
};

float* floats(std::size_t count) {
    float* x;
    check(cudaMalloc(&x, count * 4));
    check(cudaMemset(x, 0xFF, count * 4));
    return x;
}

/// Greatest difference over the greatest magnitude.
double difference(const float* a, const float* b, std::size_t count) {
    std::vector<float> x(count), y(count);
    check(cudaMemcpy(x.data(), a, count * 4, cudaMemcpyDeviceToHost));
    check(cudaMemcpy(y.data(), b, count * 4, cudaMemcpyDeviceToHost));
    double worst = 0, most = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (!std::isfinite(x[i])) return INFINITY;
        worst = std::max(worst, std::fabs(static_cast<double>(x[i]) - y[i]));
        most = std::max(most, std::fabs(static_cast<double>(y[i])));
    }
    return worst / most;
}

struct Bench {
    double exp_rate, tensor, copy;
    std::string json;

    /// `error` is against the plain kernels, negative where it was not taken.
    void report(const std::string& name, double ms, double exponents, double flop, double bytes, double error) {
        const double e = exponents / exp_rate * 1e3, f = tensor > 0 ? flop / tensor * 1e3 : 0, b = bytes / copy * 1e3;
        const double floor = std::max({e, f, b});
        const char* what = floor == e ? "exponentials" : floor == f ? "products" : "bytes";
        std::printf("%-52s %9.4f ms  floor %9.4f (%s)  floor/time %5.1f %%  error %.1e\n", name.c_str(), ms, floor,
                    what, 100 * floor / ms, error);
        char line[512];
        std::snprintf(
            line, sizeof line,
            "%s\n    {\"name\": \"%s\", \"ms\": %.5f, \"floor_ms\": %.5f, \"floor\": \"%s\", \"error\": %.3e}",
            json.empty() ? "" : ",", name.c_str(), ms, floor, what, error);
        json += line;
    }
};

void bench_sweeps(Bench& bench, Element element, std::int64_t heads, std::int64_t n, std::int64_t dim) {
    Layer layer(element, heads, n, dim, 7);
    const DeviceAttention& a = layer.a;
    const std::string shape = std::string(element == Element::F32 ? "fp32" : "bf16") + " H" + std::to_string(heads) +
                              " N" + std::to_string(n) + " D" + std::to_string(dim);
    const auto columns = static_cast<std::size_t>(heads * n);
    std::vector<float> weights(columns);
    std::mt19937 random(3);
    std::uniform_real_distribution<float> uniform(0.1F, 1);
    for (float& x : weights) x = uniform(random);
    float* r = floats(columns);
    check(cudaMemcpy(r, weights.data(), columns * 4, cudaMemcpyHostToDevice));
    float *plain = floats(columns), *out = floats(columns);
    const std::size_t bytes = std::max(sweep_workspace(a, &layer.g), fused_workspace(a));
    void* workspace;
    check(cudaMalloc(&workspace, bytes));
    const auto launch = [&](Implementation x) { return Launch{nullptr, workspace, bytes, x}; };
    const double entries = static_cast<double>(heads) * static_cast<double>(n) * static_cast<double>(n);
    const double flop = 2 * entries * static_cast<double>(dim);
    const int capability = compute_capability(0), runs = n > 8000 ? 7 : 20;
    const std::size_t some = std::min<std::size_t>(columns, n > 8000 ? 2 * n : columns);
    const DeviceAttention few = [&] {  // the plain kernels are slow: two heads are verified of the large case
        DeviceAttention x = a;
        if (n > 8000) x.heads = x.key_heads = 2;
        return x;
    }();

    check(map_sweep(few, r, 0, plain, {}, launch(Implementation::Reference)));
    for (const Implementation x : {Implementation::Sm80, Implementation::Sm90}) {
        if (cannot_run(Operation::MapSweep, x, a, capability) != nullptr) continue;
        const double ms = time_ms(runs, [&](int) { check(map_sweep(a, r, 0, out, {}, launch(x))); });
        bench.report("map_sweep " + shape + " " + name_of(x), ms, entries, flop, 0, difference(out, plain, some));
    }
    for (const SweepFunctor functor : {SweepFunctor::ReluPdP, SweepFunctor::ReluDP}) {
        const bool map = vitrine::kernels::needs_map(functor);
        check(map_sweep_gradient(few, layer.g, functor, r, 0, plain, launch(Implementation::Reference)));
        for (const Implementation x : {Implementation::Sm80, Implementation::Sm90}) {
            if (cannot_run(Operation::MapSweepGradient, x, a, capability, &layer.g, functor) != nullptr) continue;
            const double ms =
                time_ms(runs, [&](int) { check(map_sweep_gradient(a, layer.g, functor, r, 0, out, launch(x))); });
            bench.report(std::string("map_sweep_gradient ") + name_of(functor) + " " + shape + " " + name_of(x), ms,
                         map ? entries : 0, map ? 2 * flop : flop, 0, difference(out, plain, some));
        }
    }
    const Launch sm80 = launch(Implementation::Sm80);
    for (const Fusion fusion : {Fusion::Max, Fusion::Mean}) {
        double error = -1;
        if (n < 8000) {
            check(fused_sweep(a, fusion, {}, r, plain, launch(Implementation::Reference)));
            check(fused_sweep(a, fusion, {}, r, out, sm80));
            error = difference(out, plain, static_cast<std::size_t>(n));
        }
        const std::string name = fusion == Fusion::Max ? "max " : "mean ";
        const double exponents = fusion == Fusion::Max ? entries / static_cast<double>(heads) : entries;
        bench.report("fused_sweep " + name + shape,
                     time_ms(runs, [&](int) { check(fused_sweep(a, fusion, {}, r, out, sm80)); }), exponents, flop, 0,
                     error);
        bench.report("fused_row_sums " + name + shape,
                     time_ms(runs, [&](int) { check(fused_row_sums(a, fusion, {}, out, sm80)); }), exponents, flop, 0,
                     -1);
    }
    std::int64_t* counts;
    check(cudaMalloc(&counts, 65536 * 8));
    bench.report(
        "fused_histogram max " + shape,
        time_ms(runs, [&](int) { check(fused_histogram(a, Fusion::Max, 0, 15, 32768, counts, nullptr, sm80)); }),
        entries / static_cast<double>(heads), flop, 0, -1);
    float* lse = floats(columns);
    bench.report("log_sum_exp " + shape, time_ms(runs, [&](int) { check(log_sum_exp(a, lse, sm80)); }), entries, flop,
                 0, -1);
    float* applied = floats(columns * static_cast<std::size_t>(dim));
    bench.report("map_apply " + shape, time_ms(runs, [&](int) { check(map_apply(a, layer.g, applied, sm80)); }),
                 entries, 2 * flop, 0, -1);
    const std::int64_t pool = std::max<std::int64_t>(1, n / 1000);
    const std::int64_t cells = (n + pool - 1) / pool;
    float *mean = floats(static_cast<std::size_t>(cells * cells)),
          *high = floats(static_cast<std::size_t>(cells * cells));
    bench.report("map_tile whole, mean of heads, pool " + std::to_string(pool) + " " + shape,
                 time_ms(runs, [&](int) { check(map_tile(a, 0, n, 0, n, pool, true, mean, high, sm80)); }), entries,
                 flop, static_cast<double>(cells * cells) * 8, -1);
    for (float* x : {r, plain, out, lse, applied, mean, high}) cudaFree(x);
    cudaFree(counts);
    cudaFree(workspace);
}

void bench_rows(Bench& bench, Element element, int layers, std::int64_t heads, std::int64_t n, std::int64_t dim) {
    const int sets = n * heads * dim * layers * 2 > 200000000 ? 1 : 4;  // beyond the L2 in all
    std::vector<std::unique_ptr<Layer>> all;
    std::vector<std::vector<DeviceAttention>> input(sets);
    for (int x = 0; x < sets; ++x)
        for (int l = 0; l < layers; ++l) {
            all.push_back(std::make_unique<Layer>(element, heads, n, dim, static_cast<unsigned>(x * 1000 + l)));
            input[x].push_back(all.back()->a);
        }
    std::vector<float*> out, mean, plain;
    for (int l = 0; l < layers; ++l) {
        out.push_back(floats(static_cast<std::size_t>(heads * n)));
        mean.push_back(floats(static_cast<std::size_t>(n)));
        plain.push_back(floats(static_cast<std::size_t>(heads * n)));
    }
    const std::string shape = std::string(element == Element::F32 ? "fp32 L" : "bf16 L") + std::to_string(layers) +
                              " H" + std::to_string(heads) + " N" + std::to_string(n) + " D" + std::to_string(dim);
    const double bytes = static_cast<double>(layers * heads * n) * static_cast<double>(dim * size_of(element) + 4);
    const std::int64_t place = n / 2;
    const Listed one{&place, nullptr, 1};
    Launch launch;
    for (const bool rows : {true, false}) {
        const auto f = rows ? map_rows : map_columns;
        launch.implementation = Implementation::Reference;
        check(f(input[0], one, plain, {}, launch));
        launch.implementation = Implementation::Sm80;
        check(f(input[0], one, out, {}, launch));
        const double error = difference(out[0], plain[0], static_cast<std::size_t>(heads * n));
        const std::string name = rows ? "map_rows " : "map_columns ";
        bench.report(name + "one, all heads " + shape,
                     time_ms(40, [&](int x) { check(f(input[x % sets], one, out, {}, launch)); }), 0, 0, bytes, error);
        bench.report(name + "one, mean of heads " + shape,
                     time_ms(40, [&](int x) { check(f(input[x % sets], one, {}, mean, launch)); }), 0, 0, bytes, -1);
    }
    for (auto* list : {&out, &mean, &plain})
        for (float* x : *list) cudaFree(x);
}

}  // namespace

int main(int argc, char** argv) {
    if (device_count() == 0) {
        std::fprintf(stderr, "SKIPPED: this machine has no CUDA device\n");
        return 0;
    }
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0));
    Bench bench{exponentials_per_second(), tensor_flops(), copy_bytes_per_second(), {}};
    std::printf("%s, %d multiprocessors: %.3g exponentials/s, bf16 products %.0f TFLOP/s, copy %.2f TB/s\n",
                device.name, device.multiProcessorCount, bench.exp_rate, bench.tensor * 1e-12, bench.copy * 1e-12);
    bench_sweeps(bench, Element::BF16, 12, 16385, 64);
    bench_sweeps(bench, Element::BF16, 16, 1370, 64);
    bench_sweeps(bench, Element::BF16, 12, 197, 64);
    bench_sweeps(bench, Element::F32, 12, 1370, 64);
    bench_rows(bench, Element::BF16, 24, 16, 1370, 64);
    bench_rows(bench, Element::BF16, 12, 12, 16385, 64);
    bench_rows(bench, Element::F32, 24, 16, 1370, 64);
    bench_rows(bench, Element::BF16, 12, 12, 197, 64);
    check(cudaDeviceSynchronize());
    if (argc > 1) {
        std::FILE* file = std::fopen(argv[1], "w");
        if (file == nullptr) return 1;
        std::fprintf(file,
                     "{\n  \"device\": \"%s\",\n  \"exponentials_per_second\": %.4g,\n  \"tensor_flops\": %.4g,\n  "
                     "\"copy_bytes_per_second\": %.4g,\n  \"results\": [%s\n  ]\n}\n",
                     device.name, bench.exp_rate, bench.tensor, bench.copy, bench.json.c_str());
        std::fclose(file);
    }
    return 0;
}
