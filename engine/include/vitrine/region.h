// Regions of a picture as people name them: cells of the grid that a model's activation forms over its input.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include <vitrine/base/result.h>
#include <vitrine/model.h>

namespace vitrine {

/// The grid of the activation that a region is read from. It lies evenly over the model's input.
struct RegionGrid {
    std::string point;
    std::int64_t rows = 0, cols = 0;
    std::int64_t first = 0;  ///< tokens before the first cell
};

/// Runs the model once, on nothing, to see what comes by at the point.
///
/// @param point        empty: the model's cam_point
/// @error Unsupported  no such point is named, or what comes by there is no grid
/// @error BadInput     the model has no point of this name
Result<RegionGrid> region_grid(Model& model, std::string point = {}, std::stop_token stop = {});

/// Target::region of "ROW,COL" or "ROW,COL-ROW,COL" (a rectangle, its corners included), several with semicolons.
///
/// @return          each cell once, in the order in which it is first named
/// @error BadInput  anything else, or a cell that is not there
Result<std::vector<std::int64_t>> region_tokens(const std::string& text, const RegionGrid& grid);

}  // namespace vitrine
