// Superpixels: regions of alike pixels, in the form scikit-image gives the three methods.
#include <vitrine/base/segments.h>

#include <vitrine/base/random.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

namespace vitrine {

namespace {

/// Beyond this a window over the picture takes minutes and an index leaves 32 bits.
constexpr std::int64_t kMostPixels = 1 << 26;

Status check(const Field& field, bool is_rgb) {
    if (field.width < 1 || field.height < 1 || field.channels < 1 || field.width > kMostPixels / field.height)
        return fail(ErrorCode::BadInput, "a picture of {} x {} pixels cannot be cut into regions", field.width,
                    field.height);
    if (is_rgb && field.channels != 3)
        return fail(ErrorCode::BadInput, "the picture has {} channels, expected red, green and blue", field.channels);
    if (static_cast<std::int64_t>(field.values.size()) / field.channels != field.width * field.height ||
        static_cast<std::int64_t>(field.values.size()) % field.channels != 0)
        return fail(ErrorCode::BadInput, "the picture holds {} numbers, expected {} x {} x {}", field.values.size(),
                    field.height, field.width, field.channels);
    if (!std::all_of(field.values.begin(), field.values.end(), [](double v) { return std::isfinite(v); }))
        return fail(ErrorCode::BadInput, "the picture holds numbers that are not finite");
    return {};
}

bool in(double value, double low, double high) { return value >= low && value <= high; }

/// The index inside [0, size) of an index beyond the border: d c b a | a b c d | d c b a.
std::int64_t reflected(std::int64_t i, std::int64_t size) {
    const std::int64_t period = 2 * size;
    i = ((i % period) + period) % period;
    return i < size ? i : period - 1 - i;
}

/// One axis of a Gaussian cut off at four sigmas. `stride` is between neighbours of a line in numbers.
void blur_lines(std::vector<double>& values, const std::vector<double>& weights, std::int64_t size, std::int64_t stride,
                const std::vector<std::int64_t>& starts) {
    const auto radius = static_cast<std::int64_t>(weights.size()) - 1;
    std::vector<double> line(static_cast<std::size_t>(size + 2 * radius));
    for (const std::int64_t start : starts) {
        for (std::int64_t i = -radius; i < size + radius; ++i)
            line[static_cast<std::size_t>(i + radius)] =
                values[static_cast<std::size_t>(start + reflected(i, size) * stride)];
        for (std::int64_t i = 0; i < size; ++i) {
            const double* at = line.data() + i + radius;
            // From the far end inwards, as scipy adds: equal edges stay equal.
            double sum = at[0] * weights[0];
            for (std::int64_t k = radius; k > 0; --k) sum += (at[-k] + at[k]) * weights[static_cast<std::size_t>(k)];
            values[static_cast<std::size_t>(start + i * stride)] = sum;
        }
    }
}

void blur(Field& field, double sigma) {
    if (sigma <= 1e-15) return;
    const auto radius = static_cast<std::int64_t>(4 * sigma + 0.5);
    std::vector<double> weights(static_cast<std::size_t>(radius + 1));
    double sum = 0;
    for (std::int64_t k = -radius; k <= radius; ++k) {
        const double w = std::exp(-0.5 / (sigma * sigma) * static_cast<double>(k * k));
        weights[static_cast<std::size_t>(std::abs(k))] = w;
        sum += w;
    }
    for (double& w : weights) w /= sum;
    const std::int64_t row = field.width * field.channels;
    std::vector<std::int64_t> columns(static_cast<std::size_t>(row)), rows;
    std::iota(columns.begin(), columns.end(), 0);
    blur_lines(field.values, weights, field.height, row, columns);
    for (std::int64_t y = 0; y < field.height; ++y)
        for (std::int64_t c = 0; c < field.channels; ++c) rows.push_back(y * row + c);
    blur_lines(field.values, weights, field.width, field.channels, rows);
}

/// sRGB in [0, 1] to CIE Lab under D65, two degrees.
void to_lab(Field& field) {
    constexpr double kXyz[3][3] = {
        {0.412453, 0.357580, 0.180423}, {0.212671, 0.715160, 0.072169}, {0.019334, 0.119193, 0.950227}};
    constexpr double kWhite[3] = {0.95047, 1.0, 1.08883};
    for (std::size_t i = 0; i + 2 < field.values.size(); i += 3) {
        double linear[3], f[3];
        for (std::size_t c = 0; c < 3; ++c) {
            const double v = field.values[i + c];
            linear[c] = v > 0.04045 ? std::pow((v + 0.055) / 1.055, 2.4) : v / 12.92;
        }
        for (std::size_t k = 0; k < 3; ++k) {
            const double t = (linear[0] * kXyz[k][0] + linear[1] * kXyz[k][1] + linear[2] * kXyz[k][2]) / kWhite[k];
            f[k] = t > 0.008856 ? std::cbrt(t) : 7.787 * t + 16.0 / 116.0;
        }
        field.values[i] = 116 * f[1] - 16;
        field.values[i + 1] = 500 * (f[0] - f[1]);
        field.values[i + 2] = 200 * (f[1] - f[2]);
    }
}

/// A forest in which a root is the smallest index of its tree.
class Forest {
  public:
    explicit Forest(std::int64_t size) : parent_(static_cast<std::size_t>(size)) {
        std::iota(parent_.begin(), parent_.end(), 0);
    }
    std::int32_t root(std::int32_t n) {
        std::int32_t top = n;
        while (parent_[static_cast<std::size_t>(top)] != top) top = parent_[static_cast<std::size_t>(top)];
        while (parent_[static_cast<std::size_t>(n)] != top)
            n = std::exchange(parent_[static_cast<std::size_t>(n)], top);
        return top;
    }
    /// Joins the trees of two different roots; the new root.
    std::int32_t join(std::int32_t a, std::int32_t b) {
        parent_[static_cast<std::size_t>(std::max(a, b))] = std::min(a, b);
        return std::min(a, b);
    }

  private:
    std::vector<std::int32_t> parent_;
};

/// Labels that count the roots in order of their index.
Segments numbered(const Field& field, const std::function<std::int32_t(std::int32_t)>& root) {
    Segments out{field.width, field.height, 0,
                 std::vector<std::int32_t>(static_cast<std::size_t>(field.width * field.height))};
    const auto size = static_cast<std::int32_t>(out.labels.size());
    std::vector<std::int32_t> label(out.labels.size(), -1);
    for (std::int32_t i = 0; i < size; ++i)
        if (root(i) == i) label[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(out.count++);
    for (std::int32_t i = 0; i < size; ++i)
        out.labels[static_cast<std::size_t>(i)] = label[static_cast<std::size_t>(root(i))];
    return out;
}

}  // namespace

Field field_of(const Image& image, double low, double high) {
    Field out{image.width, image.height, 3, std::vector<double>(image.pixels.size())};
    for (std::size_t i = 0; i < image.pixels.size(); ++i)
        out.values[i] = low + (high - low) * (image.pixels[i] / 255.0);
    return out;
}

Result<Segments> felzenszwalb(const Field& given, const Felzenszwalb& settings) {
    VITRINE_CHECK(check(given, false));
    if (!in(settings.scale, 0, 1e12) || !in(settings.sigma, 0, 1000) || settings.min_size < 0)
        return fail(ErrorCode::BadInput, "scale {}, sigma {} and least size {} are no settings of this method",
                    settings.scale, settings.sigma, settings.min_size);
    Field field = given;
    blur(field, settings.sigma);
    const double scale = settings.scale / 255;
    const std::int64_t width = field.width, height = field.height;

    struct Edge {
        double cost;
        std::int32_t a, b;
    };
    std::vector<Edge> edges;
    edges.reserve(static_cast<std::size_t>(4 * width * height));
    const auto add = [&](std::int64_t a, std::int64_t b) {
        double sum = 0;
        for (std::int64_t c = 0; c < field.channels; ++c) {
            const double d = field.values[static_cast<std::size_t>(a * field.channels + c)] -
                             field.values[static_cast<std::size_t>(b * field.channels + c)];
            sum += d * d;
        }
        edges.push_back({std::sqrt(sum), static_cast<std::int32_t>(a), static_cast<std::int32_t>(b)});
    };
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x + 1 < width; ++x) add(y * width + x + 1, y * width + x);
    for (std::int64_t y = 0; y + 1 < height; ++y)
        for (std::int64_t x = 0; x < width; ++x) add((y + 1) * width + x, y * width + x);
    for (std::int64_t y = 0; y + 1 < height; ++y)
        for (std::int64_t x = 0; x + 1 < width; ++x) add((y + 1) * width + x + 1, y * width + x);
    for (std::int64_t y = 0; y + 1 < height; ++y)
        for (std::int64_t x = 0; x + 1 < width; ++x) add(y * width + x + 1, (y + 1) * width + x);
    std::stable_sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.cost < b.cost; });

    Forest forest(width * height);
    std::vector<std::int64_t> size(static_cast<std::size_t>(width * height), 1);
    std::vector<double> inner(size.size(), 0);
    // Compared in single precision, as scikit-image does: near ties fall on the same side.
    const auto held = [&](std::int32_t root) {
        const auto i = static_cast<std::size_t>(root);
        return static_cast<float>(inner[i] + scale / static_cast<double>(size[i]));
    };
    const auto join = [&](std::int32_t a, std::int32_t b) {
        const std::int64_t both = size[static_cast<std::size_t>(a)] + size[static_cast<std::size_t>(b)];
        const auto root = static_cast<std::size_t>(forest.join(a, b));
        size[root] = both;
        return root;
    };
    for (const Edge& edge : edges) {
        const std::int32_t a = forest.root(edge.a), b = forest.root(edge.b);
        if (a != b && edge.cost < static_cast<double>(std::min(held(a), held(b)))) inner[join(a, b)] = edge.cost;
    }
    for (const Edge& edge : edges) {
        const std::int32_t a = forest.root(edge.a), b = forest.root(edge.b);
        if (a != b &&
            std::min(size[static_cast<std::size_t>(a)], size[static_cast<std::size_t>(b)]) < settings.min_size)
            join(a, b);
    }
    return numbered(field, [&](std::int32_t i) { return forest.root(i); });
}

namespace {

/// First seed and step along both axes of a grid of about `wanted` seeds.
struct Grid {
    std::int64_t start_y = 0, start_x = 0, step_y = 1, step_x = 1;
};
Grid seeds(std::int64_t height, std::int64_t width, std::int64_t wanted) {
    if (height * width <= wanted) return {};
    const auto n = static_cast<double>(wanted);
    double step[2];
    const double side[2] = {static_cast<double>(std::min(height, width)), static_cast<double>(std::max(height, width))};
    step[0] = step[1] = std::sqrt(side[0] * side[1] / n);
    if (side[0] < step[0]) {  // one row of seeds
        step[0] = side[0];
        step[1] = side[1] / n;
    }
    const int y = height <= width ? 0 : 1;  // which of both the height is
    Grid out;
    out.start_y = static_cast<std::int64_t>(std::floor(step[y] / 2));
    out.start_x = static_cast<std::int64_t>(std::floor(step[1 - y] / 2));
    out.step_y = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::nearbyint(step[y])));
    out.step_x = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::nearbyint(step[1 - y])));
    return out;
}

/// Makes regions connected: each piece takes a number of its own, pieces below `least` that of a neighbour, and pieces
/// are cut at `most`.
std::vector<std::int32_t> connected(const std::vector<std::int32_t>& labels, std::int64_t height, std::int64_t width,
                                    std::int64_t least, std::int64_t most) {
    constexpr std::int64_t kDx[4] = {1, -1, 0, 0}, kDy[4] = {0, 0, 1, -1};
    std::vector<std::int32_t> out(labels.size(), -1);
    std::vector<std::int64_t> piece;
    std::int32_t next = 0;
    for (std::int64_t start = 0; start < height * width; ++start) {
        if (out[static_cast<std::size_t>(start)] >= 0) continue;
        std::int32_t adjacent = next;
        const std::int32_t label = labels[static_cast<std::size_t>(start)];
        out[static_cast<std::size_t>(start)] = next;
        piece.assign(1, start);
        const auto full = [&] { return static_cast<std::int64_t>(piece.size()) >= most; };
        for (std::size_t seen = 0; seen < piece.size() && !full(); ++seen) {
            const std::int64_t y = piece[seen] / width, x = piece[seen] % width;
            for (int i = 0; i < 4; ++i) {
                if (y + kDy[i] < 0 || y + kDy[i] >= height || x + kDx[i] < 0 || x + kDx[i] >= width) continue;
                const auto at = static_cast<std::size_t>((y + kDy[i]) * width + x + kDx[i]);
                if (out[at] < 0 && labels[at] == label) {
                    out[at] = next;
                    piece.push_back(static_cast<std::int64_t>(at));
                    if (full()) break;
                } else if (out[at] >= 0 && out[at] != next) {
                    adjacent = out[at];
                }
            }
        }
        if (static_cast<std::int64_t>(piece.size()) < least)
            for (const std::int64_t at : piece) out[static_cast<std::size_t>(at)] = adjacent;
        else
            ++next;
    }
    return out;
}

}  // namespace

Result<Segments> slic(const Field& given, const Slic& settings) {
    VITRINE_CHECK(check(given, true));
    if (settings.segments < 1 || !in(settings.compactness, 1e-9, 1e9) || settings.iterations < 1 ||
        !in(settings.sigma, 0, 1000))
        return fail(ErrorCode::BadInput,
                    "{} regions, compactness {}, {} iterations and sigma {} are no settings of this method",
                    settings.segments, settings.compactness, settings.iterations, settings.sigma);
    Field field = given;
    const auto [low, high] = std::minmax_element(field.values.begin(), field.values.end());
    const double least = *low, range = *high > *low ? *high - *low : 1;
    for (double& v : field.values) v = (v - least) / range;
    to_lab(field);
    blur(field, settings.sigma);
    const double ratio = 1 / settings.compactness;
    for (double& v : field.values) v *= ratio;

    const std::int64_t width = field.width, height = field.height;
    const Grid grid = seeds(height, width, settings.segments);
    struct Centre {
        double y = 0, x = 0, colour[3] = {0, 0, 0};  // the first round measures colour from zero, as scikit-image does
    };
    std::vector<Centre> centres;
    for (std::int64_t y = grid.start_y; y < height; y += grid.step_y)
        for (std::int64_t x = grid.start_x; x < width; x += grid.step_x)
            centres.push_back({static_cast<double>(y), static_cast<double>(x), {}});
    const auto step = static_cast<double>(std::max(grid.step_y, grid.step_x));
    const double spatial = 1 / (step * step);
    // How far a centre looks follows from how many there are, not from how many were wanted.
    const Grid reach = seeds(height, width, static_cast<std::int64_t>(centres.size()));

    std::vector<std::int32_t> labels(static_cast<std::size_t>(width * height), 0);
    std::vector<double> distance(labels.size());
    std::vector<std::int64_t> members(centres.size(), 1);
    for (std::int64_t round = 0; round < settings.iterations; ++round) {
        std::fill(distance.begin(), distance.end(), std::numeric_limits<double>::max());
        bool changed = false;
        for (std::size_t k = 0; k < centres.size(); ++k) {
            if (members[k] == 0) continue;  // a centre that lost all its pixels stays lost
            const Centre& c = centres[k];
            const auto from = [](double at, std::int64_t steps) {
                return static_cast<std::int64_t>(std::max(at - static_cast<double>(2 * steps), 0.0));
            };
            const auto to = [](double at, std::int64_t steps, std::int64_t size) {
                return static_cast<std::int64_t>(
                    std::min(at + static_cast<double>(2 * steps + 1), static_cast<double>(size)));
            };
            for (std::int64_t y = from(c.y, reach.step_y); y < to(c.y, reach.step_y, height); ++y) {
                const double dy = (c.y - static_cast<double>(y)) * (c.y - static_cast<double>(y));
                for (std::int64_t x = from(c.x, reach.step_x); x < to(c.x, reach.step_x, width); ++x) {
                    const double dx = (c.x - static_cast<double>(x)) * (c.x - static_cast<double>(x));
                    const auto at = static_cast<std::size_t>(y * width + x);
                    const double* pixel = field.values.data() + 3 * at;
                    double colour = 0;
                    for (int i = 0; i < 3; ++i) colour += (pixel[i] - c.colour[i]) * (pixel[i] - c.colour[i]);
                    const double d = (dy + dx) * spatial + colour;
                    if (distance[at] > d) {
                        labels[at] = static_cast<std::int32_t>(k);
                        distance[at] = d;
                        changed = true;
                    }
                }
            }
        }
        if (!changed) break;
        std::fill(members.begin(), members.end(), 0);
        std::fill(centres.begin(), centres.end(), Centre{});
        for (std::size_t at = 0; at < labels.size(); ++at) {
            const auto k = static_cast<std::size_t>(labels[at]);
            ++members[k];
            centres[k].y += static_cast<double>(static_cast<std::int64_t>(at) / width);
            centres[k].x += static_cast<double>(static_cast<std::int64_t>(at) % width);
            for (std::size_t i = 0; i < 3; ++i) centres[k].colour[i] += field.values[3 * at + i];
        }
        for (std::size_t k = 0; k < centres.size(); ++k) {
            const auto n = static_cast<double>(std::max<std::int64_t>(members[k], 1));
            centres[k].y /= n;
            centres[k].x /= n;
            for (double& v : centres[k].colour) v /= n;
        }
    }
    const double mean = static_cast<double>(width * height) / static_cast<double>(centres.size());
    Segments out{width, height, 0, {}};
    out.labels = connected(labels, height, width, static_cast<std::int64_t>(0.5 * mean),
                           std::max<std::int64_t>(1, static_cast<std::int64_t>(3 * mean)));
    out.count = *std::max_element(out.labels.begin(), out.labels.end()) + 1;
    return out;
}

Result<Segments> quickshift(const Field& given, const Quickshift& settings) {
    VITRINE_CHECK(check(given, true));
    if (!in(settings.ratio, 0, 1e6) || !in(settings.kernel_size, 1, 1000) || !in(settings.max_distance, 0, 1e12) ||
        !in(settings.sigma, 0, 1000))
        return fail(ErrorCode::BadInput,
                    "ratio {}, kernel size {}, largest distance {} and sigma {} are no settings of this method",
                    settings.ratio, settings.kernel_size, settings.max_distance, settings.sigma);
    Field field = given;
    to_lab(field);
    blur(field, settings.sigma);
    for (double& v : field.values) v *= settings.ratio;
    const std::int64_t width = field.width, height = field.height;
    const auto pixels = static_cast<std::size_t>(width * height);
    if (!settings.ties.empty() && settings.ties.size() != pixels)
        return fail(ErrorCode::BadInput, "{} numbers break ties, expected {}", settings.ties.size(), pixels);

    std::vector<double> density(settings.ties.begin(), settings.ties.end());
    if (density.empty()) {
        density.resize(pixels);
        for (std::size_t i = 0; i < pixels; ++i)
            density[i] =
                1e-5 * (static_cast<double>(mix64(settings.seed + i * kSplitMixStep) >> 11) / 4503599627370496.0 - 1);
    }
    const auto reach = static_cast<std::int64_t>(std::ceil(3 * settings.kernel_size));
    const double inverse = -0.5 / (settings.kernel_size * settings.kernel_size);
    /// Calls body(index, squared distance) for the window around a pixel, row by row.
    const auto around = [&](std::int64_t y, std::int64_t x, const auto& body) {
        const double* here = field.values.data() + 3 * (y * width + x);
        for (std::int64_t v = std::max<std::int64_t>(y - reach, 0); v < std::min(y + reach + 1, height); ++v)
            for (std::int64_t u = std::max<std::int64_t>(x - reach, 0); u < std::min(x + reach + 1, width); ++u) {
                const double* there = field.values.data() + 3 * (v * width + u);
                double d = 0;
                for (int c = 0; c < 3; ++c) d += (here[c] - there[c]) * (here[c] - there[c]);
                d += static_cast<double>((y - v) * (y - v));
                d += static_cast<double>((x - u) * (x - u));
                body(static_cast<std::size_t>(v * width + u), d);
            }
    };
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x) {
            double& sum = density[static_cast<std::size_t>(y * width + x)];
            around(y, x, [&](std::size_t, double d) { sum += std::exp(d * inverse); });
        }
    std::vector<std::int32_t> parent(pixels);
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x) {
            const auto here = static_cast<std::size_t>(y * width + x);
            double closest = std::numeric_limits<double>::max();
            std::size_t found = here;
            around(y, x, [&](std::size_t there, double d) {
                if (density[there] > density[here] && d < closest) {
                    closest = d;
                    found = there;
                }
            });
            parent[here] = static_cast<std::int32_t>(std::sqrt(closest) > settings.max_distance ? here : found);
        }
    // Links only climb, so following them ends at a root.
    const auto root = [&](std::int32_t i) {
        std::int32_t top = i;
        while (parent[static_cast<std::size_t>(top)] != top) top = parent[static_cast<std::size_t>(top)];
        while (parent[static_cast<std::size_t>(i)] != top) i = std::exchange(parent[static_cast<std::size_t>(i)], top);
        return top;
    };
    return numbered(field, root);
}

}  // namespace vitrine
