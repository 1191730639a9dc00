// Pillow's resize: coefficients, the two passes in fixed point, nearest; and crops and turns.
#include <vitrine/base/resize.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <new>
#include <numbers>

namespace vitrine {
namespace {

constexpr int kPrecisionBits =
    32 - 8 - 2;  // 8 bits of pixel, 2 of headroom: coefficients sum to 1 but overshoot on the way
constexpr std::int64_t kMaxSide = 65'500;  // libjpeg's limit, which the picture readers share

struct Filter {
    double (*weight)(double);
    double support;
};

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double triangle(double x) {
    x = std::abs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

double hamming(double x) {
    x = std::abs(x);
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    x *= std::numbers::pi;
    // Pillow's constants are single precision, and that decides a rounding now and then.
    return std::sin(x) / x * (static_cast<double>(0.54f) + static_cast<double>(0.46f) * std::cos(x));
}

// Keys' cubic with a = -0.5, in Pillow's order of operations: the rounding of the coefficients depends on it.
double cubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= std::numbers::pi;
    return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

Filter filter_of(Interpolation interpolation) {
    switch (interpolation) {
        case Interpolation::Box:
            return {box, 0.5};
        case Interpolation::Bilinear:
            return {triangle, 1.0};
        case Interpolation::Hamming:
            return {hamming, 1.0};
        case Interpolation::Bicubic:
            return {cubic, 2.0};
        case Interpolation::Lanczos:
        case Interpolation::Nearest:
            break;
    }
    return {lanczos, 3.0};
}

/// For each output position the input positions it reads and their weights in fixed point.
struct Taps {
    struct Run {
        std::int32_t first, count;
    };
    std::vector<Run> runs;
    std::vector<std::int32_t> weights;  // stride per output position
    std::int64_t stride = 0;
    const std::int32_t* of(std::int64_t out) const { return weights.data() + out * stride; }
};

Taps taps_for(std::int64_t in, std::int64_t out, Filter filter) {
    const double scale = static_cast<double>(in) / static_cast<double>(out);
    const double filter_scale = std::max(scale, 1.0);
    const double support = filter.support * filter_scale;
    Taps taps;
    taps.stride = static_cast<std::int64_t>(std::ceil(support)) * 2 + 1;
    taps.runs.resize(static_cast<std::size_t>(out));
    taps.weights.assign(static_cast<std::size_t>(out * taps.stride), 0);
    std::vector<double> exact(static_cast<std::size_t>(taps.stride));
    const double inverse = 1.0 / filter_scale;
    for (std::int64_t i = 0; i < out; ++i) {
        const double centre = (static_cast<double>(i) + 0.5) * scale;
        const auto first = std::max<std::int64_t>(static_cast<std::int64_t>(centre - support + 0.5), 0);
        const auto last = std::min(static_cast<std::int64_t>(centre + support + 0.5), in);
        const std::int64_t count = last - first;
        double sum = 0;
        for (std::int64_t j = 0; j < count; ++j) {
            exact[static_cast<std::size_t>(j)] =
                filter.weight((static_cast<double>(j + first) - centre + 0.5) * inverse);
            sum += exact[static_cast<std::size_t>(j)];
        }
        std::int32_t* const weights = taps.weights.data() + i * taps.stride;
        for (std::int64_t j = 0; j < count; ++j) {
            double weight = exact[static_cast<std::size_t>(j)];
            if (sum != 0.0) weight /= sum;
            // Rounds half away from zero, by truncation, as Pillow does.
            weights[j] = static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kPrecisionBits));
        }
        taps.runs[static_cast<std::size_t>(i)] = {static_cast<std::int32_t>(first), static_cast<std::int32_t>(count)};
    }
    return taps;
}

// One output line of `lanes` bytes is the weighted sum of input lines `line_bytes` apart. Both passes come down to
// this: the vertical one on rows, the horizontal one on columns of a strip that was transposed first. Sums wrap as
// unsigned: they fit by the headroom.
__attribute__((always_inline)) inline void blend_lines(const std::uint8_t* lines, std::int64_t line_bytes,
                                                       const std::int32_t* weights, std::int32_t count,
                                                       std::uint8_t* out, std::int64_t lanes) {
    constexpr std::int64_t kBlock = 48;
    std::int64_t lane = 0;
    for (; lane + kBlock <= lanes; lane += kBlock) {
        std::int32_t sum[kBlock];
        for (std::int64_t i = 0; i < kBlock; ++i) sum[i] = 1 << (kPrecisionBits - 1);
        const std::uint8_t* line = lines + lane;
        for (std::int32_t t = 0; t < count; ++t, line += line_bytes) {
            const std::int32_t weight = weights[t];
            for (std::int64_t i = 0; i < kBlock; ++i) sum[i] += weight * line[i];
        }
        for (std::int64_t i = 0; i < kBlock; ++i)
            out[lane + i] = static_cast<std::uint8_t>(std::clamp(sum[i] >> kPrecisionBits, 0, 255));
    }
    for (; lane < lanes; ++lane) {
        std::int32_t sum = 1 << (kPrecisionBits - 1);
        const std::uint8_t* line = lines + lane;
        for (std::int32_t t = 0; t < count; ++t, line += line_bytes) sum += weights[t] * *line;
        out[lane] = static_cast<std::uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
    }
}

using BlendLines = void (*)(const std::uint8_t*, std::int64_t, const std::int32_t*, std::int32_t, std::uint8_t*,
                            std::int64_t);

void blend_lines_plain(const std::uint8_t* lines, std::int64_t line_bytes, const std::int32_t* weights,
                       std::int32_t count, std::uint8_t* out, std::int64_t lanes) {
    blend_lines(lines, line_bytes, weights, count, out, lanes);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void blend_lines_avx2(const std::uint8_t* lines, std::int64_t line_bytes,
                                                      const std::int32_t* weights, std::int32_t count,
                                                      std::uint8_t* out, std::int64_t lanes) {
    blend_lines(lines, line_bytes, weights, count, out, lanes);
}
BlendLines best_blend() { return __builtin_cpu_supports("avx2") ? blend_lines_avx2 : blend_lines_plain; }
#else
BlendLines best_blend() { return blend_lines_plain; }
#endif

constexpr std::int64_t kStrip = 16;  // rows transposed at a time: 48 bytes a column, one block of blend_lines

// Rows [first_row, first_row + rows) of `image` at the new width.
Image horizontal(const Image& image, std::int64_t first_row, std::int64_t rows, std::int64_t width, const Taps& taps,
                 BlendLines blend) {
    Image out(width, rows);
    constexpr std::int64_t kColumn = kStrip * 3;
    std::vector<std::uint8_t> strip(static_cast<std::size_t>(image.width * kColumn));
    std::uint8_t column[kColumn];
    for (std::int64_t row = 0; row < rows; row += kStrip) {
        const std::int64_t here = std::min(kStrip, rows - row);
        for (std::int64_t r = 0; r < here; ++r) {
            const std::uint8_t* in = image.at(0, first_row + row + r);
            std::uint8_t* to = strip.data() + r * 3;
            for (std::int64_t x = 0; x < image.width; ++x, in += 3, to += kColumn) {
                to[0] = in[0];
                to[1] = in[1];
                to[2] = in[2];
            }
        }
        for (std::int64_t x = 0; x < width; ++x) {
            const Taps::Run run = taps.runs[static_cast<std::size_t>(x)];
            blend(strip.data() + run.first * kColumn, kColumn, taps.of(x), run.count, column, kColumn);
            std::uint8_t* to = out.at(x, row);
            for (std::int64_t r = 0; r < here; ++r, to += width * 3) std::memcpy(to, column + r * 3, 3);
        }
    }
    return out;
}

// `lines` begin with row `first_row` of the picture that the taps were made for.
Image vertical(const std::uint8_t* lines, std::int64_t width, std::int64_t height, const Taps& taps,
               std::int64_t first_row, BlendLines blend) {
    Image out(width, height);
    for (std::int64_t y = 0; y < height; ++y) {
        const Taps::Run run = taps.runs[static_cast<std::size_t>(y)];
        blend(lines + (run.first - first_row) * width * 3, width * 3, taps.of(y), run.count, out.at(0, y), width * 3);
    }
    return out;
}

Image nearest(const Image& image, std::int64_t width, std::int64_t height) {
    // Pillow steps by adding, and what rounding loses on the way is part of its answer.
    const auto positions = [](std::int64_t in, std::int64_t out) {
        std::vector<std::int64_t> at(static_cast<std::size_t>(out));
        const double step = static_cast<double>(in) / static_cast<double>(out);
        double position = step * 0.5;
        for (std::int64_t& p : at) {
            p = static_cast<std::int64_t>(position);
            if (p >= in) p = -1;
            position += step;
        }
        return at;
    };
    const auto columns = positions(image.width, width), rows = positions(image.height, height);
    Image out(width, height);
    for (std::int64_t y = 0; y < height; ++y) {
        if (rows[static_cast<std::size_t>(y)] < 0) continue;
        const std::uint8_t* const in = image.at(0, rows[static_cast<std::size_t>(y)]);
        std::uint8_t* to = out.at(0, y);
        for (std::int64_t x = 0; x < width; ++x, to += 3) {
            const std::int64_t from = columns[static_cast<std::size_t>(x)];
            if (from >= 0) std::memcpy(to, in + from * 3, 3);
        }
    }
    return out;
}

constexpr std::array<std::pair<Interpolation, std::string_view>, 6> kNames = {{{Interpolation::Nearest, "nearest"},
                                                                               {Interpolation::Box, "box"},
                                                                               {Interpolation::Bilinear, "bilinear"},
                                                                               {Interpolation::Hamming, "hamming"},
                                                                               {Interpolation::Bicubic, "bicubic"},
                                                                               {Interpolation::Lanczos, "lanczos"}}};

}  // namespace

std::string_view name_of(Interpolation interpolation) {
    for (const auto& [value, name] : kNames) {
        if (value == interpolation) return name;
    }
    return "unknown";
}

std::optional<Interpolation> interpolation_named(std::string_view name) {
    for (const auto& [value, known] : kNames) {
        if (known == name) return value;
    }
    return std::nullopt;
}

Result<Image> resize(const Image& image, std::int64_t width, std::int64_t height, Interpolation interpolation) {
    if (image.width < 1 || image.height < 1 ||
        image.pixels.size() != static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height) * 3)
        return fail(ErrorCode::BadInput, "a picture of {} x {} pixels cannot be resized", image.width, image.height);
    if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide)
        return fail(ErrorCode::BadInput, "a picture cannot be resized to {} x {} pixels, sides of 1 to {} are possible",
                    width, height, kMaxSide);
    if (image.width > (1 << 24) || image.height > (1 << 24))
        return fail(ErrorCode::BadInput, "a picture of {} x {} pixels is too long to be resized", image.width,
                    image.height);
    try {
        if (width == image.width && height == image.height) return image;
        if (interpolation == Interpolation::Nearest) return nearest(image, width, height);

        const Filter filter = filter_of(interpolation);
        const BlendLines blend = best_blend();
        const bool across = width != image.width, down = height != image.height;
        // Pillow 13 starts with the rows where that saves work (pull request 9549), in its own measure: pixels lost,
        // not ratios. The order decides roundings, so it is part of the answer; until Pillow 12 the columns always came
        // first.
        const bool rows_first = image.height > height && image.height - height > (image.width - width) * 2;
        Image out;
        if (rows_first) {
            out = vertical(image.pixels.data(), image.width, height, taps_for(image.height, height, filter), 0, blend);
            if (across) out = horizontal(out, 0, height, width, taps_for(image.width, width, filter), blend);
            return out;
        }
        if (!down) return horizontal(image, 0, height, width, taps_for(image.width, width, filter), blend);
        const Taps rows = taps_for(image.height, height, filter);
        if (!across) return vertical(image.pixels.data(), width, height, rows, 0, blend);
        // Only the rows that the vertical pass reads; with these filters that is nearly all.
        const std::int64_t first = rows.runs.front().first;
        const std::int64_t count = rows.runs.back().first + rows.runs.back().count - first;
        out = horizontal(image, first, count, width, taps_for(image.width, width, filter), blend);
        return vertical(out.pixels.data(), width, height, rows, first, blend);
    } catch (const std::bad_alloc&) {
        return fail(ErrorCode::OutOfMemory, "a picture of {} x {} pixels does not fit into memory", width, height);
    }
}

Image crop(const Image& image, std::int64_t left, std::int64_t top, std::int64_t width, std::int64_t height,
           std::array<std::uint8_t, 3> fill) {
    width = std::max<std::int64_t>(width, 0);
    height = std::max<std::int64_t>(height, 0);
    Image out(width, height);
    const std::int64_t x0 = std::clamp<std::int64_t>(-left, 0, width), x1 = std::clamp(image.width - left, x0, width);
    const std::int64_t y0 = std::clamp<std::int64_t>(-top, 0, height), y1 = std::clamp(image.height - top, y0, height);
    const bool covered = x0 == 0 && y0 == 0 && x1 == width && y1 == height;
    if (!covered && fill != std::array<std::uint8_t, 3>{})
        for (std::size_t i = 0; i < out.pixels.size(); ++i) out.pixels[i] = fill[i % 3];
    if (x1 == x0) return out;
    for (std::int64_t y = y0; y < y1; ++y)
        std::memcpy(out.at(x0, y), image.at(left + x0, top + y), static_cast<std::size_t>((x1 - x0) * 3));
    return out;
}

Image upright(Image image, Orientation orientation) {
    if (orientation < 2 || orientation > 8 || image.empty()) return image;
    const bool turned = orientation >= 5;
    const std::int64_t w = image.width, h = image.height;
    Image out(turned ? h : w, turned ? w : h);
    for (std::int64_t y = 0; y < out.height; ++y) {
        std::uint8_t* to = out.at(0, y);
        for (std::int64_t x = 0; x < out.width; ++x, to += 3) {
            std::int64_t from_x = turned ? y : x, from_y = turned ? x : y;
            // EXIF 2.3, tag 0x0112: where row 0 and column 0 of the file lie in the upright picture.
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) from_x = w - 1 - from_x;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) from_y = h - 1 - from_y;
            std::memcpy(to, image.at(from_x, from_y), 3);
        }
    }
    return out;
}

}  // namespace vitrine
