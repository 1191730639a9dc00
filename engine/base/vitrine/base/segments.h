// Pictures cut into regions of alike pixels (superpixels): SLIC, quickshift, and Felzenszwalb and Huttenlocher's graph
// method.
//
// Each follows the publication in the form scikit-image 0.26 gives it, in double precision, so that maps over
// superpixels can be compared with those of Python packages. Labels count from 0 without gaps, every pixel has one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <vitrine/base/image.h>
#include <vitrine/base/result.h>

namespace vitrine {

/// A picture as numbers, rows from the top, channels interleaved.
struct Field {
    std::int64_t width = 0, height = 0, channels = 3;
    std::vector<double> values;  ///< height * width * channels
};

/// 8-bit levels 0 to 255 become `low` to `high`. The methods' distances scale with that range.
Field field_of(const Image& image, double low = 0, double high = 1);

struct Segments {
    std::int64_t width = 0, height = 0;
    std::int64_t count = 0;
    std::vector<std::int32_t> labels;  ///< height * width, 0 <= label < count
};

struct Felzenszwalb {
    double scale = 1;            ///< larger: fewer regions; divided by 255 as published for pictures in [0, 255]
    double sigma = 0.8;          ///< smoothing before, pixels
    std::int64_t min_size = 20;  ///< smaller regions join a neighbour, pixels
};

/// Joins pixels along edges of growing difference as long as the edge is below what both regions hold already.
///
/// Edges of exactly equal difference are taken in the order right, down, down-right, up-right, row by row. scikit-image
/// sorts them unstably: on pictures with flat areas its regions may differ there.
///
/// @error BadInput  an empty field, numbers that are not finite, negative settings
/// @source          P. Felzenszwalb, D. Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004
Result<Segments> felzenszwalb(const Field& field, const Felzenszwalb& settings = {});

struct Slic {
    std::int64_t segments = 100;  ///< wanted; the grid of seeds decides
    double compactness = 10;      ///< weight of nearness against colour
    std::int64_t iterations = 10;
    double sigma = 0;  ///< smoothing before, pixels
};

/// K-means over place and CIE Lab colour from a regular grid of seeds, each looking two steps far; then regions smaller
/// than half the mean size join a neighbour. The field's range becomes [0, 1] first.
///
/// @error BadInput  an empty field, numbers that are not finite, other than 3 channels, settings out of range
/// @source          R. Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", TPAMI 2012
Result<Segments> slic(const Field& field, const Slic& settings = {});

struct Quickshift {
    double ratio = 1;        ///< weight of colour against nearness
    double kernel_size = 5;  ///< width of the density's Gaussian, pixels; at least 1
    double max_distance = 10;
    double sigma = 0;         ///< smoothing before, pixels
    std::uint64_t seed = 42;  ///< of the small numbers that break ties of density
    /// Those numbers, height * width, instead of drawn ones (uniform in +- 1e-5; scikit-image's are NumPy's normal ones
    /// of that scale). Regions hang on them only where densities are that close.
    std::span<const double> ties = {};
};

/// Links each pixel to the nearest one of higher density in place and CIE Lab colour, and cuts links longer than
/// `max_distance`.
///
/// @error BadInput  an empty field, numbers that are not finite, other than 3 channels, settings out of range, ties of
/// another size
/// @cost            two windows of (6 kernel_size + 1)^2 a pixel
/// @source          A. Vedaldi, S. Soatto, "Quick Shift and Kernel Methods for Mode Seeking", ECCV 2008
Result<Segments> quickshift(const Field& field, const Quickshift& settings = {});

}  // namespace vitrine
