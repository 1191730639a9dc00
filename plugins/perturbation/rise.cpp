// RISE: random masks weighted by the score that the picture keeps under them.
#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "perturbation.h"

namespace vitrine::plugin::perturbation {

namespace {

/// The matrix that enlarges `cells` to (cells + 1) * step, linear, half-pixel centres, mirrored about the outer cells'
/// centres: skimage.transform.resize with mode="reflect".
at::Tensor enlarge(std::int64_t cells, std::int64_t step) {
    const std::int64_t size = (cells + 1) * step;
    at::Tensor out = at::zeros({size, cells});
    auto* w = out.mutable_data_ptr<float>();
    const auto last = static_cast<double>(cells - 1);
    for (std::int64_t i = 0; i < size; ++i) {
        double at = (static_cast<double>(i) + 0.5) * static_cast<double>(cells) / static_cast<double>(size) - 0.5;
        at = std::abs(at);
        if (at > last) at = 2 * last - at;
        at = std::clamp(at, 0.0, last);
        const auto low = static_cast<std::int64_t>(at);
        const double share = at - static_cast<double>(low);
        w[i * cells + low] += static_cast<float>(1 - share);
        if (share > 0) w[i * cells + low + 1] += static_cast<float>(share);
    }
    return out;
}

std::int64_t step_of(std::int64_t side, std::int64_t cells) { return (side + cells - 1) / cells; }

constexpr std::uint64_t kGrid = 0x815E, kShift = 0x815F, kPatches = 0x8160;
/// Masks between two looks at the standard error, which are in memory at once: whole batches on a processor and on a
/// device. Where patches are left out only pictures with equally many make a batch, so there are more.
constexpr std::int64_t kBlock = 128, kBlockOfKept = 512;

}  // namespace

at::Tensor rise_mask(const at::Tensor& grid, std::int64_t shift_y, std::int64_t shift_x, std::int64_t rows,
                     std::int64_t cols) {
    const at::Tensor y = enlarge(grid.size(0), step_of(rows, grid.size(0))).narrow(0, shift_y, rows);
    const at::Tensor x = enlarge(grid.size(1), step_of(cols, grid.size(1))).narrow(0, shift_x, cols);
    return y.matmul(grid).matmul(x.t());
}

at::Tensor rise_masks(std::uint64_t seed, std::int64_t from, std::int64_t count, std::int64_t cells, double keep,
                      std::int64_t rows, std::int64_t cols) {
    const std::int64_t step_y = step_of(rows, cells), step_x = step_of(cols, cells);
    const at::Tensor along_y = enlarge(cells, step_y), along_x = enlarge(cells, step_x);
    std::vector<at::Tensor> ys, xs;
    at::Tensor grids = at::empty({count, cells, cells});
    auto* grid = grids.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < count; ++i) {
        const auto mask = static_cast<std::uint64_t>(from + i);
        const auto all = static_cast<std::uint64_t>(cells * cells);
        for (std::uint64_t c = 0; c < all; ++c) *grid++ = uniform(seed, kGrid, mask * all + c) < keep ? 1.0F : 0.0F;
        const auto shift = [&](std::uint64_t axis, std::int64_t step) {
            return static_cast<std::int64_t>(random_bits(seed, kShift, 2 * mask + axis) %
                                             static_cast<std::uint64_t>(step));
        };
        ys.push_back(along_y.narrow(0, shift(0, step_y), rows));
        xs.push_back(along_x.narrow(0, shift(1, step_x), cols));
    }
    return at::stack(ys).matmul(grids).matmul(at::stack(xs).transpose(1, 2)).reshape({count, rows * cols});
}

void RiseSum::add(const at::Tensor& masks, const at::Tensor& scores) {
    const at::Tensor m = masks.to(at::kFloat), square = m * m;
    const at::Tensor f = scores.to(at::kFloat), f2 = f * f;
    if (!masks_.defined())
        masks_ = squares_ = weighted_ = weighted_squares_ = squared_ = at::zeros({m.size(1)}, at::kDouble);
    masks_ = masks_ + m.sum(0).to(at::kDouble);
    squares_ = squares_ + square.sum(0).to(at::kDouble);
    weighted_ = weighted_ + f.matmul(m).to(at::kDouble);
    weighted_squares_ = weighted_squares_ + f.matmul(square).to(at::kDouble);
    squared_ = squared_ + f2.matmul(square).to(at::kDouble);
    scores_ += f.to(at::kDouble).sum().item<double>();
    count_ += m.size(0);
}

at::Tensor RiseSum::map() const {
    const auto n = static_cast<double>(count_);
    if (!centred_) return weighted_ / (n * keep_);
    // Less the mean score: the same expectation, since a mask's own is `keep` everywhere, and far less noise.
    const double mean = scores_ / n;
    return (weighted_ - mean * masks_) / (n * keep_) + mean;
}

at::Tensor RiseSum::error() const {
    const auto n = static_cast<double>(count_);
    const double mean = centred_ ? scores_ / n : 0;
    const at::Tensor first = (weighted_ - mean * masks_) / n;
    const at::Tensor second = (squared_ - 2 * mean * weighted_squares_ + mean * mean * squares_) / n;
    return ((second - first * first).clamp_min(0) / std::max(n - 1, 1.0)).sqrt() / keep_;
}

double RiseSum::error_share() const {
    const at::Tensor found = map();
    const double range = (found.max() - found.min()).item<double>();
    return range > 0 ? error().mean().item<double>() / range : 1;
}

namespace {

class Rise final : public Explainer {
  public:
    Description description() const override {
        return {"rise",
                "RISE",
                "Random masks weighted by the score that the picture keeps under them",
                "V. Petsiuk, A. Das, K. Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, "
                "BMVC 2018, arXiv 1806.07421",
                0,
                "Perturbation",
                "mean over random masks m of f(x * m) m / P(m = 1)",
                "Masks are random, so that maps of few differ from run to run (our observation), and masked pictures "
                "are unlike what the model was trained on (as Hooker et al., NeurIPS 2019, say of all removal)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"preset",
                 std::string("progressive"),
                 "progressive: scores less their mean weigh the masks, which has the same expectation and less noise, "
                 "until the map's standard error is small enough; paper: all masks, plain scores",
                 "",
                 "paper: section 3.2",
                 {},
                 {},
                 {"progressive", "paper"}},
                {"masks", std::int64_t{4000}, "how many masks, at most", "", "the paper's for VGG16", 2, 1000000, {}},
                {"cells", std::int64_t{7}, "cells a side of the random grid", "", "the paper's", 1, 256, {}},
                {"keep", 0.5, "probability that a cell or patch is kept", "", "the paper's", 0.01, 0.99, {}},
                {"error",
                 0.1,
                 "progressive ends when the mean standard error is below this share of the map's range",
                 "",
                 "",
                 0.0,
                 1.0,
                 {}},
                fill_parameter("zero", "the paper's")};
    }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model&, const Settings& settings) const override {
        if (settings.text("preset") == "progressive") return std::nullopt;  // until the error is small enough
        return Passes{settings.integer("masks"), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const std::int64_t most = settings.integer("masks");
        const bool progressive = settings.text("preset") == "progressive";
        const double keep = settings.number("keep"), wanted = settings.number("error");
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), most));
        const std::int64_t rows = canvas.rows(), cols = canvas.cols();
        const std::int64_t cells = std::min({settings.integer("cells"), rows, cols});
        const std::uint64_t seed = context.seed;
        // Half a patch cannot be left out: each patch is kept or not, on its own.
        const auto masks_of = [&](std::int64_t from, std::int64_t count) {
            if (!canvas.removes()) return rise_masks(seed, from, count, cells, keep, rows, cols);
            at::Tensor masks = at::zeros({count, rows * cols});
            auto* m = masks.mutable_data_ptr<float>();
            for (std::int64_t i = 0; i < count; ++i, m += rows * cols) {
                bool any = false;
                for (std::int64_t c = 0; c < rows * cols; ++c) {
                    const auto index = static_cast<std::uint64_t>((from + i) * rows * cols + c);
                    const bool kept = uniform(seed, kPatches, index) < keep;
                    m[c] = kept ? 1 : 0;
                    any |= kept;
                }
                if (!any) m[(from + i) % (rows * cols)] = 1;  // a model needs one patch to read
            }
            return masks;
        };
        RiseSum sum(keep, progressive);
        const auto mapped = [&] {
            const at::Tensor map = sum.map().reshape({rows, cols});
            return canvas.attribution(*this, map, canvas.removes(), map.min().item<double>() < 0);
        };
        while (sum.count() < most) {
            const std::int64_t count = std::min(canvas.removes() ? kBlockOfKept : kBlock, most - sum.count());
            const at::Tensor masks = masks_of(sum.count(), count);
            sum.add(masks, VITRINE_TRY(canvas.scores(count, [&](std::int64_t from, std::int64_t some) {
                        return masks.narrow(0, from, some);
                    })));
            // Two blocks at least: a first variance of few masks may be small by chance.
            if (progressive && sum.count() >= 2 * kBlock && sum.error_share() <= wanted) break;
            if (!context.refined || sum.count() >= most) continue;
            Attribution so_far = mapped();
            so_far.partial = true;
            so_far.notes.push_back(fmt::format("standard error {:.1f} % of the map's range after {} masks",
                                               100 * sum.error_share(), sum.count()));
            context.refined(so_far);
        }
        Attribution out = mapped();
        const double share = sum.error_share();
        out.notes.push_back(
            fmt::format("standard error {:.1f} % of the map's range after {} masks", 100 * share, sum.count()));
        if (progressive)
            out.checks.push_back(
                {"standard error", share <= wanted,
                 fmt::format("{:.1f} % of the map's range, {:.1f} % wanted", 100 * share, 100 * wanted)});
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_rise() { return std::make_unique<Rise>(); }

}  // namespace vitrine::plugin::perturbation
