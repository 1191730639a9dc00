// Concepts by plain factorisation: principal components, k-means, non-negative matrices. Fitted, not trained.
//
//     AutoencoderConfig config{.kind = "nmf", .width = 192, .latents = 32, .point = "blocks.9"};
//     Autoencoder concepts = VITRINE_TRY(fit_factors(config, tokens, {}));  // tokens [n, 192]
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>

#include <ATen/core/Tensor.h>

#include <vitrine/autoencoder.h>
#include <vitrine/base/result.h>

namespace vitrine {

struct FactorOptions {
    std::int64_t iterations = 200;  ///< at most; pca has none
    double tolerance = 1e-4;        ///< of nmf: the step's size against the first's; k_means stops when nothing moves
    std::uint64_t seed = 0;         ///< of k_means' first centroids
    /// Of nmf: b_dec is each number's least among the tokens, where that is below zero, so that nothing of these is left
    /// out. CRAFT and others, whose activations are zero or more, have no such thing.
    bool from_least = false;
    std::stop_token stop = {};
    std::function<void(std::int64_t iteration)> progress = {};
};

/// A dictionary of the kind `config` names. Its `facts` say "fitted": how, of how many tokens, in how many iterations.
///
/// pca: eigenvectors of the covariance in double, each one's largest number positive. k_means: first centroids by
/// greedy k-means++ (Arthur, Vassilvitskii, 2007), then Lloyd's rounds; an empty cluster takes the token farthest from
/// its own. nmf: of relu(x), which for tokens with negative numbers leaves these out (the facts say how much that is);
/// rows of length 1.
///
/// @param tokens    [n, width], any floating type and device
/// @error BadInput  no tokens, more latents than there can be, numbers that are not finite
Result<Autoencoder> fit_factors(AutoencoderConfig config, const at::Tensor& tokens, const FactorOptions& options = {});

struct NonNegativeOptions {
    std::int64_t iterations = 200;
    double tolerance = 1e-4;
    /// On the squares of all codes and all rows, in the units of sum (x - u w)^2 / 2 + codes |u|^2 / 2 + rows |w|^2
    /// / 2.
    double ridge_codes = 0, ridge_rows = 0;
    at::Tensor codes = {}, rows = {};  ///< where to begin; undefined: non_negative_start
    std::stop_token stop = {};
    std::function<void(std::int64_t iteration)> progress = {};
};

/// x = codes rows.
struct NonNegativeFactors {
    at::Tensor codes;  ///< [n, count]
    at::Tensor rows;   ///< [count, width]
    std::int64_t iterations = 0;
};

/// x as a product of two non-negative matrices, by cyclic coordinate descent, codes before rows, as scikit-learn does:
/// A. Cichocki, A.-H. Phan, "Fast Local Algorithms for Large Scale Nonnegative Matrix and Tensor Factorizations", 2009.
/// In x's type, on its device.
///
/// @param x         [n, width], zero or more
/// @error BadInput  negative numbers, or such that are not finite; more parts than rows or columns
Result<NonNegativeFactors> non_negative_factors(const at::Tensor& x, std::int64_t count,
                                                const NonNegativeOptions& options = {});

/// The start that follows from x alone (NNDSVDa): C. Boutsidis, E. Gallopoulos, "SVD based initialization: A head start
/// for nonnegative matrix factorization", 2008, zeros replaced by x's mean.
Result<NonNegativeFactors> non_negative_start(const at::Tensor& x, std::int64_t count);

}  // namespace vitrine
