// Where things are: boxes, and the exact map between a photograph and what the model was fed.
//
// Coordinates are continuous: pixel (column i, row j) covers [i, i + 1) x [j, j + 1), its centre is (i + 0.5, j + 0.5).
// With that, resizing is a pure scale and half-pixel alignment needs no special case.
#pragma once

#include <cstdint>

namespace vitrine {

struct Point {
    double x = 0;
    double y = 0;
};

struct Box {
    double x0 = 0, y0 = 0, x1 = 0, y1 = 0;
    double width() const { return x1 - x0; }
    double height() const { return y1 - y0; }
    bool contains(Point p) const { return p.x >= x0 && p.x < x1 && p.y >= y0 && p.y < y1; }
};

/// EXIF orientation tag, 1 to 8; 1 is upright.
using Orientation = int;

/// An axis-aligned map: input = photo * scale + offset, per axis, in continuous pixels.
struct InputGeometry {
    std::int64_t photo_width = 0, photo_height = 0;  ///< upright photograph
    std::int64_t input_width = 0, input_height = 0;  ///< what the model was fed
    double scale_x = 1, scale_y = 1;
    double offset_x = 0, offset_y = 0;
    Orientation orientation = 1;  ///< how the file was turned to stand upright

    Point to_input(Point photo) const { return {photo.x * scale_x + offset_x, photo.y * scale_y + offset_y}; }
    Point to_photo(Point input) const { return {(input.x - offset_x) / scale_x, (input.y - offset_y) / scale_y}; }

    /// The part of the photograph the model saw, in upright photo pixels; may reach outside when the crop was padded.
    Box seen() const {
        const Point a = to_photo({0, 0});
        const Point b = to_photo({static_cast<double>(input_width), static_cast<double>(input_height)});
        return {a.x, a.y, b.x, b.y};
    }

    /// A cell of a grid over the model's input (say a patch), in upright photo pixels.
    Box cell(std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols) const {
        const double w = static_cast<double>(input_width) / static_cast<double>(cols);
        const double h = static_cast<double>(input_height) / static_cast<double>(rows);
        const Point a = to_photo({static_cast<double>(col) * w, static_cast<double>(row) * h});
        const Point b = to_photo({static_cast<double>(col + 1) * w, static_cast<double>(row + 1) * h});
        return {a.x, a.y, b.x, b.y};
    }
};

}  // namespace vitrine
