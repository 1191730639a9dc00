// Halves pictures by exact area averages, odd sizes included.
#include "overlay/pyramid.h"

#include <algorithm>

namespace vitrine::viz {

namespace {

// The source pixels under one pixel of the halved row: first, and the weights of three in a row.
// An odd width w gives w2 = (w - 1) / 2 pixels of 2 + 1 / w2 each, so the third has a share.
struct Span {
    std::int64_t first = 0;
    float weight[3] = {};
};

std::vector<Span> halving(std::int64_t size) {
    const std::int64_t half = std::max<std::int64_t>(1, size / 2);
    std::vector<Span> spans(static_cast<std::size_t>(half));
    for (std::int64_t i = 0; i < half; ++i) {
        Span& span = spans[static_cast<std::size_t>(i)];
        span.first = 2 * i;
        if (size == 1) {
            span.weight[0] = 1;
        } else if (size % 2 == 0) {
            span.weight[0] = span.weight[1] = 0.5f;
        } else {
            const float width = static_cast<float>(size) / static_cast<float>(half);
            span.weight[0] = (1 - static_cast<float>(i) / static_cast<float>(half)) / width;
            span.weight[1] = 1 / width;
            span.weight[2] = static_cast<float>(i + 1) / static_cast<float>(half) / width;
        }
    }
    return spans;
}

void halve(const std::uint8_t* from, std::int64_t width, std::int64_t height, std::uint8_t* to) {
    if (width % 2 == 0 && height % 2 == 0) {
        for (std::int64_t y = 0; y < height / 2; ++y) {
            const std::uint8_t* a = from + 2 * y * width * 4;
            const std::uint8_t* b = a + width * 4;
            for (std::int64_t x = 0; x < width / 2; ++x, a += 8, b += 8, to += 4) {
                for (int c = 0; c < 4; ++c)
                    to[c] = static_cast<std::uint8_t>((a[c] + a[c + 4] + b[c] + b[c + 4] + 2) >> 2);
            }
        }
        return;
    }
    const auto columns = halving(width);
    const auto rows = halving(height);
    for (const Span& row : rows) {
        for (const Span& column : columns) {
            float sum[4] = {};
            for (int j = 0; j < 3; ++j) {
                const std::uint8_t* line = from + std::min(row.first + j, height - 1) * width * 4;
                for (int i = 0; i < 3; ++i) {
                    const float weight = row.weight[j] * column.weight[i];
                    const std::uint8_t* pixel = line + std::min(column.first + i, width - 1) * 4;
                    for (int c = 0; c < 4; ++c) sum[c] += weight * static_cast<float>(pixel[c]);
                }
            }
            for (int c = 0; c < 4; ++c) *to++ = static_cast<std::uint8_t>(sum[c] + 0.5f);
        }
    }
}

// Averages blocks of factor x factor; the last ones may be smaller.
void reduce(const ImageView& picture, std::int64_t factor, std::int64_t width, std::int64_t height, std::uint8_t* to) {
    for (std::int64_t y = 0; y < height; ++y) {
        const std::int64_t y1 = std::min((y + 1) * factor, picture.height);
        for (std::int64_t x = 0; x < width; ++x) {
            const std::int64_t x1 = std::min((x + 1) * factor, picture.width);
            std::uint64_t sum[3] = {};
            for (std::int64_t j = y * factor; j < y1; ++j) {
                const std::uint8_t* pixel = picture.data + j * picture.row_bytes + x * factor * picture.channels;
                for (std::int64_t i = x * factor; i < x1; ++i, pixel += picture.channels) {
                    for (int c = 0; c < 3; ++c) sum[c] += pixel[c];
                }
            }
            const auto count = static_cast<std::uint64_t>((y1 - y * factor) * (x1 - x * factor));
            for (int c = 0; c < 3; ++c) *to++ = static_cast<std::uint8_t>((sum[c] + count / 2) / count);
            *to++ = 255;
        }
    }
}

}  // namespace

Pyramid build_pyramid(const ImageView& picture, std::int64_t max_side, std::int64_t max_pixels) {
    std::int64_t factor = 1;
    const auto reduced = [&](std::int64_t size) { return (size + factor - 1) / factor; };
    while (reduced(picture.width) > max_side || reduced(picture.height) > max_side ||
           reduced(picture.width) * reduced(picture.height) > max_pixels) {
        ++factor;
    }
    Pyramid pyramid;
    std::size_t bytes = 0;
    for (std::int64_t w = reduced(picture.width), h = reduced(picture.height);;
         w = std::max<std::int64_t>(1, w / 2), h = std::max<std::int64_t>(1, h / 2)) {
        pyramid.levels.push_back({w, h, bytes});
        bytes += static_cast<std::size_t>(w * h * 4);
        if (w == 1 && h == 1) break;
    }
    pyramid.pixels.resize(bytes);
    const auto& base = pyramid.levels.front();
    if (factor > 1) {
        reduce(picture, factor, base.width, base.height, pyramid.pixels.data());
    } else {
        std::uint8_t* to = pyramid.pixels.data();
        for (std::int64_t y = 0; y < picture.height; ++y) {
            const std::uint8_t* from = picture.data + y * picture.row_bytes;
            for (std::int64_t x = 0; x < picture.width; ++x, from += picture.channels, to += 4) {
                to[0] = from[0];
                to[1] = from[1];
                to[2] = from[2];
                to[3] = 255;
            }
        }
    }
    for (std::size_t i = 1; i < pyramid.levels.size(); ++i) {
        const auto& above = pyramid.levels[i - 1];
        halve(pyramid.pixels.data() + above.offset, above.width, above.height,
              pyramid.pixels.data() + pyramid.levels[i].offset);
    }
    return pyramid;
}

}  // namespace vitrine::viz
