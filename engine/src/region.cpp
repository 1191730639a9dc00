// Finds the grid under a region and reads regions from text.
#include <vitrine/region.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <sstream>

#include <ATen/ops/zeros.h>

#include <vitrine/capture.h>

namespace vitrine {
namespace {

struct Corner {
    std::int64_t row = -1, col = -1;
};

/// "3,4"; negative numbers where it is anything else.
Corner corner_of(std::string_view text) {
    Corner out;
    const auto comma = text.find(',');
    if (comma == std::string_view::npos) return out;
    const auto number = [](std::string_view part) {
        std::int64_t value = -1;
        const auto [end, code] = std::from_chars(part.data(), part.data() + part.size(), value);
        return code == std::errc() && end == part.data() + part.size() ? value : -1;
    };
    out.row = number(text.substr(0, comma));
    out.col = number(text.substr(comma + 1));
    return out;
}

}  // namespace

Result<RegionGrid> region_grid(Model& model, std::string point, std::stop_token stop) {
    if (point.empty()) point = model.info().cam_point;
    if (point.empty())
        return fail(ErrorCode::Unsupported, "{} has no named point at which a region could be read", model.info().name);
    const std::int64_t height = model.preprocess().input_height, width = model.preprocess().input_width;
    CaptureOptions options;
    options.mixings = false;
    options.points = {point};
    options.stop = std::move(stop);
    const auto capture = VITRINE_TRY(run_captured(model, at::zeros({1, 3, height, width}), options));
    const auto found = capture->points.find(point);
    if (found == capture->points.end())
        return fail(ErrorCode::BadInput, "{} has no point named {}", model.info().name, point);
    const at::Tensor& x = found->second;
    RegionGrid out;
    out.point = std::move(point);
    if (x.dim() == 4) {
        out.rows = x.size(2);
        out.cols = x.size(3);
        return out;
    }
    const TokenLayout layout = model.layout(height, width);
    if (!layout.known()) return fail(ErrorCode::Unsupported, "no region can be named: {}", layout.unknown);
    out.rows = layout.rows;
    out.cols = layout.cols;
    out.first = x.dim() == 3 && x.size(1) == out.rows * out.cols ? 0 : layout.prefix_count();
    if (x.dim() != 3 || x.size(1) != out.rows * out.cols + out.first)
        return fail(ErrorCode::Unsupported, "the activation at {} is no grid of {} x {} patches", out.point, out.rows,
                    out.cols);
    return out;
}

Result<std::vector<std::int64_t>> region_tokens(const std::string& text, const RegionGrid& grid) {
    std::vector<std::int64_t> out;
    std::set<std::int64_t> seen;
    std::istringstream parts(text);
    std::string part;
    while (std::getline(parts, part, ';')) {
        const auto dash = part.find('-');
        const Corner from = corner_of(std::string_view(part).substr(0, dash));
        const Corner to = dash == std::string::npos ? from : corner_of(std::string_view(part).substr(dash + 1));
        if (from.row < 0 || from.col < 0 || to.row < from.row || to.col < from.col)
            return fail(ErrorCode::BadInput,
                        "the region is '{}', expected ROW,COL or ROW,COL-ROW,COL, several with semicolons", text);
        if (to.row >= grid.rows || to.col >= grid.cols)
            return fail(ErrorCode::BadInput, "{},{} is not there: {} has {} rows and {} columns", to.row, to.col,
                        grid.point, grid.rows, grid.cols);
        for (std::int64_t row = from.row; row <= to.row; ++row)
            for (std::int64_t col = from.col; col <= to.col; ++col)
                if (const std::int64_t token = grid.first + row * grid.cols + col; seen.insert(token).second)
                    out.push_back(token);
    }
    if (out.empty()) return fail(ErrorCode::BadInput, "the region names no place");
    return out;
}

}  // namespace vitrine
