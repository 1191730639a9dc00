// XRAI: integrated gradients gathered over overlapping regions of the picture, the densest region first.
#include "gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <vitrine/base/segments.h>

namespace vitrine::plugin::gradient {
namespace {

// PAIR saliency 0.2.1, core/xrai.py
constexpr std::array<double, 6> kScales{50, 100, 150, 250, 500, 1200};
constexpr double kSigma = 0.8;
constexpr std::int64_t kSmallestSegment = 150, kSide = 224, kDilation = 5;
constexpr std::int64_t kLeastNew = 50;  ///< pixels that a region must add to what is covered, else it is dropped

/// A region as its pixels in row-major order.
using Region = std::vector<std::int32_t>;

/// The regions of one segmentation, each grown by a disk; labels at `rows` x `cols` are read at the nearest place.
void add_regions(const Segments& segments, std::int64_t rows, std::int64_t cols, std::vector<Region>& regions) {
    std::vector<Region> plain(static_cast<std::size_t>(segments.count));
    for (std::int64_t y = 0; y < rows; ++y)
        for (std::int64_t x = 0; x < cols; ++x) {
            const std::int64_t sy = std::min(segments.height - 1, (2 * y + 1) * segments.height / (2 * rows));
            const std::int64_t sx = std::min(segments.width - 1, (2 * x + 1) * segments.width / (2 * cols));
            const auto label = segments.labels[static_cast<std::size_t>(sy * segments.width + sx)];
            plain[static_cast<std::size_t>(label)].push_back(static_cast<std::int32_t>(y * cols + x));
        }
    std::vector<std::int32_t> reached(static_cast<std::size_t>(rows * cols), -1);
    for (std::size_t i = 0; i < plain.size(); ++i) {
        Region grown;
        for (const std::int32_t pixel : plain[i]) {
            const std::int64_t y = pixel / cols, x = pixel % cols;
            for (std::int64_t dy = -kDilation; dy <= kDilation; ++dy)
                for (std::int64_t dx = -kDilation; dx <= kDilation; ++dx) {
                    if (dy * dy + dx * dx > kDilation * kDilation) continue;
                    if (y + dy < 0 || y + dy >= rows || x + dx < 0 || x + dx >= cols) continue;
                    const std::int64_t there = (y + dy) * cols + x + dx;
                    auto& mark = reached[static_cast<std::size_t>(there)];
                    if (std::exchange(mark, static_cast<std::int32_t>(i)) != static_cast<std::int32_t>(i))
                        grown.push_back(static_cast<std::int32_t>(there));
                }
        }
        regions.push_back(std::move(grown));
    }
}

/// Takes regions in the order of the density of what they add, and gives that density to the pixels they add.
///
/// What a region would add is kept up to date as pixels are covered, so that all of it costs one visit of every pixel
/// of every region.
std::vector<double> take_by_density(const std::vector<double>& values, const std::vector<Region>& regions) {
    std::vector<std::vector<std::int32_t>> covering(values.size());
    std::vector<std::int64_t> count(regions.size());
    std::vector<double> sum(regions.size(), 0.0);
    for (std::size_t r = 0; r < regions.size(); ++r) {
        count[r] = static_cast<std::int64_t>(regions[r].size());
        for (const std::int32_t pixel : regions[r]) {
            sum[r] += values[static_cast<std::size_t>(pixel)];
            covering[static_cast<std::size_t>(pixel)].push_back(static_cast<std::int32_t>(r));
        }
    }
    std::vector<double> out(values.size(), 0.0);
    std::vector<bool> covered(values.size(), false), used(regions.size(), false);
    while (true) {
        std::optional<std::size_t> best;
        double density = 0;
        for (std::size_t r = 0; r < regions.size(); ++r) {
            if (used[r] || count[r] < kLeastNew) continue;
            const double now = sum[r] / static_cast<double>(count[r]);
            if (!best || now > density) {
                best = r;
                density = now;
            }
        }
        if (!best) break;
        used[*best] = true;
        for (const std::int32_t pixel : regions[*best]) {
            const auto p = static_cast<std::size_t>(pixel);
            if (covered[p]) continue;
            covered[p] = true;
            out[p] = density;
            for (const std::int32_t r : covering[p]) {
                --count[static_cast<std::size_t>(r)];
                sum[static_cast<std::size_t>(r)] -= values[p];
            }
        }
    }
    // What no region reached shares its mean.
    double rest = 0;
    std::int64_t left = 0;
    for (std::size_t p = 0; p < values.size(); ++p)
        if (!covered[p]) {
            rest += values[p];
            ++left;
        }
    for (std::size_t p = 0; p < values.size(); ++p)
        if (!covered[p]) out[p] = rest / static_cast<double>(left);
    return out;
}

class Xrai final : public Explainer {
  public:
    Description description() const override {
        return {"xrai",
                "XRAI",
                "Integrated gradients gathered over regions of the picture, the densest region first",
                "A. Kapishnikov et al., XRAI: Better Attributions Through Regions, ICCV 2019, arXiv 1906.02825",
                0,
                "Gradients",
                "regions in the order of their mean integrated gradient, black and white baselines",
                "Can be no finer than the regions, which follow the picture and not the model (our observation)"};
    }
    std::vector<Parameter> parameters() const override {
        Parameter steps{
            "steps", std::int64_t{100}, "gradients for each of the two baselines", "", "PAIR saliency 0.2.1", 2, 10000,
            {}};
        Parameter resize{"resize",
                         true,
                         "regions are looked for at 224 x 224, for which their sizes were chosen; false: at the "
                         "picture's own size",
                         "",
                         "PAIR saliency 0.2.1",
                         {},
                         {},
                         {}};
        return {steps, resize};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        const std::int64_t slopes = 2 * settings.integer("steps");
        return Passes{slopes, slopes};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        // Double, as the published code: a last bit of the picture can switch a ReLU.
        const at::Tensor x = context.input.pixels.to(at::kCPU, at::kDouble);
        const std::int64_t steps = settings.integer("steps"), rows = x.size(2), cols = x.size(3);
        // The darkest and the brightest number of the picture, as even pictures.
        const std::array<at::Tensor, 2> from{at::full_like(x, x.min().item<double>()),
                                             at::full_like(x, x.max().item<double>())};
        at::Tensor channels = at::zeros(x.sizes().slice(1), at::kDouble);
        VITRINE_CHECK(context.slopes(
            objective, 2 * steps,
            [&](std::int64_t first, std::int64_t count) {
                std::vector<at::Tensor> some;
                for (std::int64_t i = first; i < first + count; ++i) {
                    const at::Tensor& base = from[static_cast<std::size_t>(i / steps)];
                    some.push_back(base + static_cast<double>(i % steps) / static_cast<double>(steps - 1) * (x - base));
                }
                return at::cat(some).to(at::kFloat);
            },
            [&](std::int64_t i, double, const at::Tensor& gradient) {
                channels += gradient.to(at::kDouble) * (x - from[static_cast<std::size_t>(i / steps)])[0] /
                            static_cast<double>(2 * steps);
            }));

        // The picture between -1 and 1, whatever it was normalised with.
        at::Tensor scaled = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-12) * 2 - 1;
        if (settings.flag("resize") && (rows != kSide || cols != kSide))
            scaled = at::_upsample_bicubic2d_aa(scaled, {kSide, kSide}, /*align_corners=*/false);
        const at::Tensor interleaved = scaled[0].permute({1, 2, 0}).contiguous();
        Field field;
        field.height = interleaved.size(0);
        field.width = interleaved.size(1);
        const auto* values = interleaved.const_data_ptr<double>();
        field.values.assign(values, values + interleaved.numel());
        std::vector<Region> regions;
        for (const double scale : kScales) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            add_regions(VITRINE_TRY(felzenszwalb(field, {scale, kSigma, kSmallestSegment})), rows, cols, regions);
        }
        // The largest of the three channels, as the published code takes it.
        const at::Tensor attribution = channels.amax(0).contiguous();
        const auto* numbers = attribution.const_data_ptr<double>();
        std::vector<double> map = take_by_density({numbers, numbers + attribution.numel()}, regions);
        Attribution out;
        out.method = "xrai";
        out.channels = channels.to(at::kFloat).contiguous();
        out.map = at::from_blob(map.data(), {rows, cols}, at::kDouble).to(at::kFloat);
        out.on_tokens = false;
        out.is_signed = true;
        out.class_specific = true;
        out.explained = objective.explained;
        out.implementation = "autograd";
        out.notes.push_back(fmt::format("{} regions of {} segmentations", regions.size(), kScales.size()));
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_xrai() { return std::make_unique<Xrai>(); }

}  // namespace vitrine::plugin::gradient
