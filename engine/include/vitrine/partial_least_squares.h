// Partial least squares for one target: a linear predictor for data with far more columns than rows.
//
//     PartialLeastSquares fit = VITRINE_TRY(partial_least_squares(x, y, 3));
//     at::Tensor predicted = at::matv(x, fit.beta());
//
// Source: S. Wold, M. Sjöström, L. Eriksson, "PLS-regression: a basic tool of chemometrics", 2001 (PLS1 by NIPALS and
// VIP). Written from the definitions.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>

namespace vitrine {

/// A fit with some components; those with the first few alone are in it too. float64, on the device of the data.
struct PartialLeastSquares {
    at::Tensor weights;   ///< w: [columns, components], each of length 1
    at::Tensor scores;    ///< t: [rows, components], orthogonal to each other
    at::Tensor loadings;  ///< p: [columns, components]
    at::Tensor q;         ///< [components]
    at::Tensor left;      ///< [rows]: the target less what the components say of it

    std::int64_t components() const { return q.size(0); }
    /// W (P^T W)^-1 q: what a row is multiplied with. [columns]
    ///
    /// @param components  only the first so many; 0: all
    at::Tensor beta(std::int64_t components = 0) const;
    /// How much each column counts (variable importance in projection): sqrt(m sum_a s_a w_ia^2 / sum_a s_a), where
    /// s_a = q_a^2 t_a^T t_a. The mean of its squares is 1. [columns]
    at::Tensor vip(std::int64_t components = 0) const;
};

/// PLS1 by NIPALS, in double precision. There are fewer components than asked for where nothing is left to explain.
///
/// @param x  [rows, columns], columns of mean 0
/// @param y  [rows], of mean 0
/// @error BadInput  other shapes, no rows, a target or data of zeros alone, numbers that are not finite
Result<PartialLeastSquares> partial_least_squares(const at::Tensor& x, const at::Tensor& y, std::int64_t components);

/// What fits to many targets over the same rows predict, for every number of components at once.
///
/// Only products of rows enter, so thousands of columns cost no more than few: with u the target that is left,
/// t = K u made orthogonal to the scores before is NIPALS's score, and a new row's score is made alike.
///
/// @param gram     float64 [rows, rows]: x x^T, columns of x of mean 0
/// @param cross    float64 [others, rows]: other rows times x^T
/// @param targets  float64 [rows, targets], of mean 0
/// @return         float64 [components, others, targets]
at::Tensor partial_least_squares_predictions(const at::Tensor& gram, const at::Tensor& cross, const at::Tensor& targets,
                                             std::int64_t components);

}  // namespace vitrine
