// The plain sweeps with gradients and rows of many layers, made of the plain kernels.
#include <vitrine/kernels/sweep_gradient.h>

#include <vitrine/kernels/cpu/implementations.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace vitrine::kernels {
namespace {

void one_thread(std::int64_t count, const std::function<void(std::int64_t, std::int64_t)>& f) { f(0, count); }

/// Calls f, which writes [heads, size], for all heads of each layer; averages the heads where asked.
template <class Size, class F>
void pieces_of_layers(std::span<const AttentionParams> layers, bool head_mean, std::span<float* const> out,
                      const Size& size_of, const F& f) {
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const AttentionParams& p = layers[l];
        std::vector<std::int64_t> heads(static_cast<std::size_t>(p.heads));
        std::iota(heads.begin(), heads.end(), 0);
        if (!head_mean) {
            f(p, heads, out[l]);
            continue;
        }
        const std::int64_t size = size_of(p);
        std::vector<float> pieces(static_cast<std::size_t>(p.heads * size));
        f(p, heads, pieces.data());
        for (std::int64_t x = 0; x < size; ++x) {
            float sum = 0;
            for (std::int64_t h = 0; h < p.heads; ++h) sum += pieces[h * size + x];
            out[l][x] = sum / static_cast<float>(p.heads);
        }
    }
}

}  // namespace

const char* name_of(SweepFunctor functor) noexcept {
    switch (functor) {
        case SweepFunctor::ReluPdP:
            return "relu_p_dp";
        case SweepFunctor::PdP:
            return "p_dp";
        case SweepFunctor::ReluDP:
            return "relu_dp";
        case SweepFunctor::AbsDP:
            return "abs_dp";
    }
    return "unknown";
}

bool needs_map(SweepFunctor functor) noexcept {
    return functor == SweepFunctor::ReluPdP || functor == SweepFunctor::PdP;
}

const char* cannot_run(const AttentionParams& p, const GradientParams& g, SweepFunctor functor) noexcept {
    if (g.v == nullptr || g.d_out == nullptr) return "the values or the gradient of the output are missing";
    if (g.value_dim < 1) return "the values are empty";
    if (g.value_heads < 0 || (g.value_heads > 0 && p.heads % g.value_heads != 0))
        return "the number of heads is no multiple of the value heads";
    return cannot_run(p, needs_map(functor));
}

void map_sweep_gradient(const AttentionParams& p, const GradientParams& g, SweepFunctor functor, const float* r,
                        std::int64_t r_head_stride, float* out, const ParallelFor& parallel_for) {
    parallel_for(p.heads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row(static_cast<std::size_t>(p.keys));
        std::vector<double> sum(static_cast<std::size_t>(p.keys));
        for (std::int64_t h = begin; h < end; ++h) {
            std::fill(sum.begin(), sum.end(), 0.0);
            const std::int64_t value_heads = g.value_heads > 0 ? g.value_heads : p.key_heads;
            const float* v = g.v + h / (p.heads / value_heads) * g.v_stride[0];
            for (std::int64_t i = 0; i < p.queries; ++i) {
                const float weight = r[h * r_head_stride + i];
                if (weight == 0) continue;
                if (needs_map(functor)) map_rows(p, {&h, 1}, {&i, 1}, row.data(), one_thread);
                const float* d_out = g.d_out + h * g.d_out_stride[0] + i * g.d_out_stride[1];
                for (std::int64_t j = 0; j < p.keys; ++j) {
                    const float* value = v + j * g.v_stride[1];
                    float dp = 0;
                    for (std::int64_t d = 0; d < g.value_dim; ++d) dp += d_out[d] * value[d];
                    float x = dp;
                    if (needs_map(functor)) x *= row[j];
                    if (functor == SweepFunctor::AbsDP) x = std::fabs(x);
                    if (functor == SweepFunctor::ReluPdP || functor == SweepFunctor::ReluDP) x = x < 0 ? 0 : x;
                    sum[j] += weight * x;
                }
            }
            for (std::int64_t j = 0; j < p.keys; ++j) out[h * p.keys + j] = static_cast<float>(sum[j]);
        }
    });
}

void map_rows_layers(std::span<const AttentionParams> layers, std::span<const std::int64_t> queries, bool head_mean,
                     std::span<float* const> out, const ParallelFor& parallel_for) {
    pieces_of_layers(
        layers, head_mean, out,
        [&](const AttentionParams& p) { return static_cast<std::int64_t>(queries.size()) * p.keys; },
        [&](const AttentionParams& p, std::span<const std::int64_t> heads, float* to) {
            map_rows(p, heads, queries, to, parallel_for);
        });
}

void map_columns_layers(std::span<const AttentionParams> layers, std::span<const std::int64_t> keys, bool head_mean,
                        std::span<float* const> out, const ParallelFor& parallel_for) {
    pieces_of_layers(
        layers, head_mean, out,
        [&](const AttentionParams& p) { return static_cast<std::int64_t>(keys.size()) * p.queries; },
        [&](const AttentionParams& p, std::span<const std::int64_t> heads, float* to) {
            map_columns(p, heads, keys, to, parallel_for);
        });
}

void map_rows_top(std::span<const AttentionParams> layers, std::span<const std::int64_t> queries, bool head_mean,
                  std::int64_t top, std::span<float* const> values, std::span<std::int64_t* const> indices,
                  const ParallelFor& parallel_for) {
    rows_top(&map_rows_layers, layers, queries, head_mean, top, values, indices, parallel_for);
}

}  // namespace vitrine::kernels
