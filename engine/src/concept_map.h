// Which concepts lie near each other by their decoder rows, and a plane on which they do.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>

namespace vitrine {

/// The nearest of each row by cosine, itself left out: the nearest first, of equal ones the first by number.
struct NearRows {
    std::int64_t rows = 0, count = 0;
    std::vector<std::uint32_t> row;  ///< [rows * count]
    std::vector<float> cosine;       ///< the same; NaN: an empty place (a row of length 0 is near to none)
};

/// @param rows  [n, width], any device
/// @cost        2 n^2 width, in pieces of 1024 rows
/// @error Cancelled  stop was requested
Result<NearRows> near_rows(const at::Tensor& rows, std::int64_t count, std::stop_token stop = {});

/// The rows' directions on the plane on which they spread most, within -1 to 1: x, y. [n * 2]
/// Each axis points to where its largest weight is positive, so that the plane is the same every time.
std::vector<float> principal_plane(const at::Tensor& rows);

/// Draws neighbours together and others apart, from a given start. Deterministic, in one thread.
///
/// Source: L. McInnes, J. Healy, J. Melville, "UMAP: Uniform Manifold Approximation and Projection", 2018: its graph
/// (from distances 1 - cosine) and its optimisation, with min_dist 0.1 and 5 negative samples. The start is the
/// principal plane and not a spectral one.
///
/// @param start   [rows * 2]
/// @param rounds  passes over the graph; 0 gives the start
/// @return        within -1 to 1. [rows * 2]
/// @cost          about rows * near.count * rounds * 6 steps of some 20 ns
/// @error Cancelled  stop was requested
Result<std::vector<float>> lay_out(const NearRows& near, std::vector<float> start, std::int64_t rounds,
                                   std::stop_token stop = {}, const std::function<void(std::int64_t)>& progress = {});

}  // namespace vitrine
