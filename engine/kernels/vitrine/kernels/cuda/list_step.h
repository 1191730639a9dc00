// A training step of an autoencoder on lists of codes, but for its product and the choice of the largest: what the
// codes say and where it is wrong, the figures, and Adam with rows that stay of length 1. The rules of attention.h
// hold.
#pragma once

#include <cstddef>
#include <cstdint>

#include <vitrine/kernels/cuda/sparse_decode.h>

namespace vitrine::kernels::cuda {

/// Whether rows this wide are taken: whole vectors, at most kWidestRow numbers.
bool list_step_takes(std::int64_t d) noexcept;

/// What a token's square error is divided by.
enum class ErrorOver : std::uint8_t { Nothing, MeanSquare, CentredLength };

/// x ~ (sum_j active_j rows[indices_j] + bias) scale + shift, its square error, and the gradients of
/// sum_i factor / over_i |error_i|^2 to the sum's values and to what the sum makes.
struct ListError {
    DeviceSparseRows lists;  ///< fp32; values before the activation, which is max(x, 0) unless keep_negative
    bool keep_negative = false;
    const float* bias = nullptr;                     ///< [d]
    const float* x = nullptr;                        ///< [n, d]
    const float* centre = nullptr;                   ///< [d]: what the tokens' spread is measured from
    const float *scale = nullptr, *shift = nullptr;  ///< [n], may be null
    ErrorOver over = ErrorOver::Nothing;
    float factor = 1;
    float *active = nullptr, *d_values = nullptr;  ///< as many as values
    float* d_said = nullptr;                       ///< [n, d]
    float* made = nullptr;                         ///< [n, d] or null: what x is compared with
    float* sums = nullptr;                         ///< [n, 4]: loss, square error, square of x - centre, active latents
};
const char* list_error(const ListError& p, const Launch& launch) noexcept;

/// What ends a step, by one block so that sums have one order. In two calls where sums are shared in between.
struct ListFigures {
    const float* sums = nullptr;  ///< [n, 4], list_error's
    std::int64_t n = 0;
    double tokens = 1;               ///< of the whole batch
    const float* revival = nullptr;  ///< [1], weighted, or null
    float revival_share = 1;
    float* figures =
        nullptr;  ///< [8]: total, reconstruction, sparsity, revival, square error, active a token, 0, spread
};
struct ListUpdate {
    const float* squares[2] = {};  ///< [m] each, of the rows' gradients
    const float* slopes[2] = {};   ///< gradients of the two biases
    std::int64_t sizes[2] = {};    ///< m, d
    const float* heard = nullptr;  ///< [m]: 0 is not
    std::int64_t* silent = nullptr;
    std::int64_t batch = 0, window = 0, longest = 0;
    float* counts[4] = {};              ///< Adam's steps so far, each raised by 1
    const float* rate_there = nullptr;  ///< the rate in device memory, or null: `rate`
    double rate = 0, beta1 = 0.9, beta2 = 0.999, clip = 1;
    float* figures = nullptr;  ///< [8]: 4 becomes the explained variance, 6 the share of latents silent for too long
    float* scalars = nullptr;  ///< [4], for list_adam: the clipping's factor, step size, second correction, norm
};
const char* list_finish(const ListFigures* figures, const ListUpdate* update, const Launch& launch) noexcept;

/// Sums over the rows of x [n, d], times `factor`, by way of parts that a second kernel adds up in their order.
struct ColumnSums {
    const float* x = nullptr;  ///< [n, d], d a multiple of 4
    std::int64_t n = 0, d = 0;
    float factor = 1;
    const float* taken_off = nullptr;  ///< [d]: with `less` [n, d], that becomes x - taken_off
    float* less = nullptr;
    const float* columns = nullptr;  ///< [d, m]: with `weights` [m], columns weights is taken off the sums
    const float* weights = nullptr;
    std::int64_t m = 0;
    const float* plus = nullptr;  ///< [d]: added, or null
    float* parts = nullptr;       ///< [kColumnParts, d]
    float* sums = nullptr;        ///< [d]
};
inline constexpr std::int64_t kColumnParts = 32;
const char* column_sums(const ColumnSums& p, const Launch& launch) noexcept;

/// Squares of the rows' lengths [rows] of x [rows, d].
const char* row_squares(const float* x, std::int64_t rows, std::int64_t d, float* squares,
                        const Launch& launch) noexcept;

struct AdamTensor {
    float *weight = nullptr, *first = nullptr, *second = nullptr;
    const float* gradient = nullptr;
};
/// Adam, no decay. `rows` [m, d] end at length 1; the gradient of `columns` [d, m] lies as [m, d].
struct ListAdam {
    AdamTensor rows, columns, biases[2];  ///< biases: [m], [d]
    std::int64_t m = 0, d = 0;
    const float* scalars = nullptr;
    float beta1 = 0.9F, beta2 = 0.999F, epsilon = 1e-8F;
};
const char* list_adam(const ListAdam& p, const Launch& launch) noexcept;

}  // namespace vitrine::kernels::cuda
