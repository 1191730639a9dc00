// Kernels beyond one map of one layer: sweeps weighted by gradients, and the same rows of many layers at once.
//
// As in attention.h nothing here forms a queries x keys buffer, and these functions are the plain reference.
#pragma once

#include <cstdint>
#include <span>

#include <vitrine/kernels/attention.h>

namespace vitrine::kernels {

/// What is summed over the queries; dp_ij = d_out_i . v_j is the gradient with respect to p_ij.
enum class SweepFunctor : std::uint8_t {
    ReluPdP,  ///< max(p dp, 0): Chefer
    PdP,      ///< p dp
    ReluDP,   ///< max(dp, 0): LeGrad; needs neither queries, keys nor the log-sum-exp
    AbsDP     ///< |dp|
};

/// The name of a functor, for messages and reports: "relu_p_dp".
const char* name_of(SweepFunctor functor) noexcept;
/// Whether the functor looks at p.
bool needs_map(SweepFunctor functor) noexcept;

/// The gradient side of a sweep. Strides are in elements: head (value head for v), token; the last axis has stride 1.
struct GradientParams {
    const float* v = nullptr;      ///< [value_heads, keys, value_dim]
    const float* d_out = nullptr;  ///< [heads, queries, value_dim], d score / d (P V)
    std::int64_t v_stride[2] = {0, 0};
    std::int64_t d_out_stride[2] = {0, 0};
    std::int64_t value_dim = 0;
    std::int64_t value_heads = 0;  ///< 0: as many as key heads; heads is a multiple, as with keys
};

/// Why these parameters cannot be run; null when they can.
const char* cannot_run(const AttentionParams& params, const GradientParams& gradient, SweepFunctor functor) noexcept;

/// out[h, j] = sum_i r[h, i] f(p_ij, dp_ij). `r_head_stride` 0 shares one r among the heads. Rows with r = 0 are
/// skipped. Where only dp is asked for, masked places count too: their gradient is as defined as any other.
///
/// @source  H. Chefer, S. Gur, L. Wolf, "Generic Attention-model Explainability", ICCV 2021, equation 5 (relu of A
/// times its gradient);
///          W. Bousselham et al., "LeGrad", 2024, equation 7 (relu of the gradient)
void map_sweep_gradient(const AttentionParams& params, const GradientParams& gradient, SweepFunctor functor,
                        const float* r, std::int64_t r_head_stride, float* out, const ParallelFor& parallel_for);

/// The same rows of many layers, all heads. out[l]: [heads, queries, keys] of that layer, or with `head_mean` [queries,
/// keys].
void map_rows_layers(std::span<const AttentionParams> layers, std::span<const std::int64_t> queries, bool head_mean,
                     std::span<float* const> out, const ParallelFor& parallel_for);

/// The same columns of many layers, all heads. out[l]: [heads, queries, keys chosen] of that layer, or with `head_mean`
/// [queries, keys chosen].
void map_columns_layers(std::span<const AttentionParams> layers, std::span<const std::int64_t> keys, bool head_mean,
                        std::span<float* const> out, const ParallelFor& parallel_for);

/// The `top` largest entries of the same rows of many layers, largest first, and which keys they are; of equal ones the
/// lower key comes first, not-a-number counts as larger than any number. 1 <= top <= keys of every layer.
/// values[l], indices[l]: [heads, queries, top], or with `head_mean` [queries, top] of the mean over heads. Rows are
/// held a few at a time.
void map_rows_top(std::span<const AttentionParams> layers, std::span<const std::int64_t> queries, bool head_mean,
                  std::int64_t top, std::span<float* const> values, std::span<std::int64_t* const> indices,
                  const ParallelFor& parallel_for);

/// The selection alone: the `top` largest of `count` numbers, as above.
void select_top(const float* row, std::int64_t count, std::int64_t top, float* values, std::int64_t* indices);

}  // namespace vitrine::kernels
