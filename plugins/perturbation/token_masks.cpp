// ViT-CX and TIS: masks made of the model's own activations.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "perturbation.h"

namespace vitrine::plugin::perturbation {

at::Tensor bilinear_axis(std::int64_t out, std::int64_t in) {
    at::Tensor matrix = at::zeros({out, in}, at::kDouble);
    auto* w = matrix.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < out; ++i) {
        const double at =
            std::max(0.0, (static_cast<double>(i) + 0.5) * static_cast<double>(in) / static_cast<double>(out) - 0.5);
        const auto low = std::min(static_cast<std::int64_t>(at), in - 1);
        const double share = at - static_cast<double>(low);
        w[i * in + low] += 1 - share;
        w[i * in + std::min(low + 1, in - 1)] += share;
    }
    return matrix;
}

std::vector<std::int64_t> complete_linkage(const at::Tensor& distances, double threshold) {
    const auto n = static_cast<std::size_t>(distances.size(0));
    const at::Tensor kept = distances.to(at::kDouble).clone().contiguous();
    auto* d = kept.mutable_data_ptr<double>();
    std::vector<std::int64_t> label(n);
    std::iota(label.begin(), label.end(), 0);
    std::vector<bool> gone(n, false);
    // Nearest-neighbour chain: complete linkage never brings a merged pair nearer to others, so any two that are each
    // other's nearest may join at once, and joins below the threshold are the same in every order.
    std::vector<std::size_t> chain;
    std::size_t left = n, seed = 0;
    std::vector<std::size_t> into(n);
    std::iota(into.begin(), into.end(), 0);
    while (left > 1) {
        if (chain.empty()) {
            while (gone[seed]) ++seed;
            chain.push_back(seed);
        }
        const std::size_t a = chain.back();
        std::size_t best = n;
        double nearest = std::numeric_limits<double>::infinity();
        if (chain.size() > 1) {  // of equal ones the one before, or the chain would not end
            best = chain[chain.size() - 2];
            nearest = d[a * n + best];
        }
        for (std::size_t b = 0; b < n; ++b)
            if (b != a && !gone[b] && d[a * n + b] < nearest) {
                nearest = d[a * n + b];
                best = b;
            }
        if (chain.size() < 2 || best != chain[chain.size() - 2]) {
            if (best == n) break;  // only infinite distances are left
            chain.push_back(best);
            continue;
        }
        chain.resize(chain.size() - 2);
        const std::size_t keep = std::min(a, best), lost = std::max(a, best);
        gone[lost] = true;
        --left;
        if (nearest < threshold) into[lost] = keep;
        for (std::size_t b = 0; b < n; ++b) {
            const double far = std::max(d[keep * n + b], d[lost * n + b]);
            d[keep * n + b] = d[b * n + keep] = far;
        }
    }
    // A join below the threshold never follows one above it, so each way ends at its cluster's first point.
    std::vector<std::int64_t> number(n, -1);
    std::int64_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
        std::size_t root = i;
        while (into[root] != root) root = into[root];
        if (number[root] < 0) number[root] = count++;
        label[i] = number[root];
    }
    return label;
}

Result<at::Tensor> k_means(const at::Tensor& points, std::int64_t clusters, std::uint64_t seed, std::stop_token stop) {
    constexpr std::uint64_t kFirst = 0x3EA5;
    constexpr int kRounds = 100;
    constexpr double kStill = 1e-4;  // both fast_pytorch_kmeans's
    constexpr std::int64_t kPart = 4096;
    const std::int64_t n = points.size(0);
    clusters = std::min(clusters, n);
    std::vector<std::int64_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    for (std::int64_t k = 0; k < clusters; ++k) {
        const auto other = k + static_cast<std::int64_t>(random_bits(seed, kFirst, static_cast<std::uint64_t>(k)) %
                                                         static_cast<std::uint64_t>(n - k));
        std::swap(order[static_cast<std::size_t>(k)], order[static_cast<std::size_t>(other)]);
    }
    at::Tensor first = at::empty({clusters}, at::kLong);
    std::copy(order.begin(), order.begin() + clusters, first.mutable_data_ptr<std::int64_t>());
    at::Tensor centres = points.index_select(0, first);
    const at::Tensor ones = at::ones({n, 1});
    for (int round = 0; round < kRounds; ++round) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const at::Tensor half = centres.square().sum(1) / 2;
        std::vector<at::Tensor> nearest;
        for (std::int64_t from = 0; from < n; from += kPart)
            nearest.push_back((points.narrow(0, from, std::min(kPart, n - from)).matmul(centres.t()) - half).argmax(1));
        const at::Tensor of = at::cat(nearest);
        const at::Tensor size = at::zeros({clusters, 1}).index_add_(0, of, ones);
        const at::Tensor mean = at::zeros_like(centres).index_add_(0, of, points) / size;
        // A centre that lost all its points stays where it is (fast_pytorch_kmeans moves it to 0, where it means
        // nothing).
        const at::Tensor moved = at::where(size > 0, mean, centres);
        const double shift = (moved - centres).square().sum().item<double>();
        centres = moved;
        if (shift <= kStill) break;
    }
    return centres;
}

at::Tensor top_masks(const at::Tensor& rows, std::int64_t keep) {
    const at::Tensor order = at::argsort(rows, /*stable=*/true, 1, /*descending=*/true).narrow(1, 0, keep);
    return at::zeros(rows.sizes()).scatter_(1, order, 1);
}

namespace {

class VitCx final : public Explainer {
  public:
    Description description() const override {
        return {"vit_cx",
                "ViT-CX",
                "Clusters of the last block's channels as masks, weighted by their causal effect",
                "W. Xie et al., ViT-CX: Causal Explanation of Vision Transformers, IJCAI 2023, arXiv 2211.03064",
                0,
                "Perturbation",
                "sum over masks of effect_i m_i / sum of m_i, masks from clustered channels",
                "What no channel marks cannot show, and pictures with noise in their holes are unlike what the model "
                "was trained on (as Hooker et al., NeurIPS 2019, say of all removal)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"threshold",
                 0.1,
                 "channels nearer than this in cosine distance are one mask",
                 "",
                 "the authors'",
                 0.0,
                 2.0,
                 {}},
                {"noise",
                 0.1,
                 "standard deviation of the noise where a mask hides",
                 "normalised pixels",
                 "the authors'",
                 0.0,
                 10.0,
                 {}},
                {"fill",
                 std::string("noise"),
                 "noise: hidden pixels become noise, and the noise's own effect is taken off; remove: patches below "
                 "half a mask's height are left out",
                 "",
                 "the authors'",
                 {},
                 {},
                 {"noise", "remove"}}};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.info().layers == 0) return model.info().name + " has no patch tokens, whose channels are the masks";
        if (model.info().cam_point.empty()) return "no point of " + model.info().name + " gives the patches' features";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        const bool removes = settings.text("fill") == "remove";
        Canvas canvas = VITRINE_TRY(Canvas::make(context, removes ? "remove" : "zero", 0));
        const at::Tensor picture = canvas.picture();
        const std::int64_t height = picture.size(1), width = picture.size(2);
        CaptureOptions options;
        options.mixings = false;
        options.stop = context.stop;
        options.points = {context.model.info().cam_point};
        const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        const auto found = capture->points.find(context.model.info().cam_point);
        if (found == capture->points.end())
            return fail(ErrorCode::Unsupported, "{} was not seen", context.model.info().cam_point);
        const at::Tensor grid =
            VITRINE_TRY(as_grid(found->second, context.model.layout(height, width)))[0].to(at::kCPU).to(at::kDouble);
        const std::int64_t rows = grid.size(1), cols = grid.size(2);

        // All is linear in the enlarged maps but their extremes: the maps stay small, and are enlarged in parts.
        const at::Tensor up = bilinear_axis(height, rows), across = bilinear_axis(width, cols).t();
        const auto enlarged = [&](const at::Tensor& maps) { return up.matmul(maps).matmul(across); };
        struct Scaled {
            at::Tensor low, range;
        };
        const auto extremes = [&](const at::Tensor& maps) {
            std::vector<at::Tensor> low, high;
            for (std::int64_t i = 0; i < maps.size(0); ++i) {
                const at::Tensor one = enlarged(maps[i]);
                low.push_back(one.min());
                high.push_back(one.max());
            }
            const at::Tensor least = at::stack(low).reshape({-1, 1, 1});
            return Scaled{least, at::stack(high).reshape({-1, 1, 1}) - least};
        };
        /// From 0 to 1 over the enlarged map. A channel that is the same everywhere is no mask (the authors' code
        /// divides by 0).
        const auto scaled = [&](const at::Tensor& maps) {
            const Scaled s = extremes(maps);
            const at::Tensor lively = (s.range.reshape({-1}) > 1e-12).nonzero().reshape({-1});
            return ((maps - s.low) / s.range).index_select(0, lively);
        };
        const at::Tensor masks = scaled(grid);
        if (masks.size(0) == 0) return fail(ErrorCode::Unsupported, "all channels are the same everywhere");
        // <u a, u b> over pixels is a' (u'u) b over cells.
        const at::Tensor gram_y = up.t().matmul(up), gram_x = across.matmul(across.t());
        const at::Tensor flat = masks.reshape({masks.size(0), -1});
        const at::Tensor inner = gram_y.matmul(masks).matmul(gram_x).reshape(flat.sizes()).matmul(flat.t());
        const at::Tensor length = inner.diagonal().clamp_min(0).sqrt();
        const at::Tensor distance = 1 - inner / (length.unsqueeze(1) * length).clamp_min(1e-30);
        const auto labels = complete_linkage(distance, settings.number("threshold"));
        const std::int64_t clusters = *std::max_element(labels.begin(), labels.end()) + 1;
        at::Tensor sums = at::zeros({clusters, rows, cols}, at::kDouble);
        for (std::size_t i = 0; i < labels.size(); ++i) sums[labels[i]].add_(masks[static_cast<std::int64_t>(i)]);
        const at::Tensor groups = scaled(sums);
        const std::int64_t count = groups.size(0);

        at::Tensor effect;  // of each mask
        if (removes) {
            canvas.expect(count);
            const at::Tensor kept = groups.reshape({count, -1}).to(at::kFloat);
            effect = VITRINE_TRY(
                canvas.scores(count, [&](std::int64_t from, std::int64_t some) { return kept.narrow(0, from, some); }));
        } else {
            canvas.expect(2 * count + 1);
            const double deviation = settings.number("noise");
            const auto made = [&](std::int64_t from, std::int64_t some, bool masked) {
                std::vector<at::Tensor> out;
                for (std::int64_t i = from; i < from + some; ++i) {
                    const at::Tensor m = enlarged(groups[i]).to(at::kFloat);
                    const at::Tensor noise = vit_cx_noise(context.seed, i, height, width) * deviation * (1 - m);
                    out.push_back((masked ? picture * m : picture) + noise);
                }
                return at::stack(out);
            };
            const double whole = VITRINE_TRY(canvas.whole());
            const at::Tensor hidden = VITRINE_TRY(
                canvas.scores_of(count, [&](std::int64_t from, std::int64_t some) { return made(from, some, true); }));
            const at::Tensor noisy = VITRINE_TRY(
                canvas.scores_of(count, [&](std::int64_t from, std::int64_t some) { return made(from, some, false); }));
            effect = hidden - noisy + whole;
        }
        const at::Tensor weighed = enlarged((effect.reshape({-1, 1, 1}) * groups).sum(0)),
                         all = enlarged(groups.sum(0));
        const at::Tensor map =
            at::where(all > 1e-12, weighed / all.clamp_min(1e-12), at::zeros_like(all)) / static_cast<double>(count);
        Attribution out = canvas.attribution(*this, map, false, map.min().item<double>() < 0);
        if (!removes) out.implementation = fmt::format("{} passes, noise where a mask hides", canvas.spent());
        out.notes.push_back(
            fmt::format("{} masks from {} channels of {}", count, grid.size(0), context.model.info().cam_point));
        return out;
    }
};

class Tis final : public Explainer {
  public:
    Description description() const override {
        return {"tis",
                "Transformer input sampling",
                "Halves of the tokens, chosen by clusters of activations, weighted by their score",
                "A. Englebert et al., Explaining through Transformer Input Sampling, ICCV Workshops 2023",
                0,
                "Perturbation",
                "mean of f over the sampled half pictures that keep the patch",
                "Half of the tokens go at a time, so that it takes many masks to tell neighbours apart (1024 in the "
                "paper)"};
    }
    std::vector<Parameter> parameters() const override {
        return {
            {"masks",
             std::int64_t{1024},
             "clusters of the channels of all blocks, each one mask; one that loses all its points stays where it is "
             "(the authors' k-means moves it to 0, where its largest tokens are any)",
             "",
             "the authors'",
             1,
             100000,
             {}},
            {"ratio", 0.5, "share of the patches that a mask keeps", "", "the authors'", 0.01, 1.0, {}},
            fill_parameter("remove", "the authors'; their ablation paints noise")};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (model.info().layers == 0) return model.info().name + " has no patch tokens to sample";
        if (auto why = model.no_token_removal()) return why;
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings& settings) const override { return no_region_for(settings); }
    std::optional<Passes> passes(const Model& model, const Settings& settings) const override {
        const std::int64_t channels = model.info().layers * model.info().width;
        return Passes{1 + std::min(settings.integer("masks"), channels), 0};
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const at::NoGradGuard no_grad;
        Canvas canvas = VITRINE_TRY(Canvas::make(context, settings.text("fill"), 0));
        const std::int64_t height = context.input.pixels.size(2), width = context.input.pixels.size(3);
        const TokenLayout layout = context.model.layout(height, width);
        if (!layout.known()) return fail(ErrorCode::Unsupported, "{}", layout.unknown);
        CaptureOptions options;
        options.mixings = false;
        options.stop = context.stop;
        for (std::int64_t layer = 0; layer < context.model.info().layers; ++layer)
            options.points.push_back(fmt::format("blocks.{}", layer));
        const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        std::vector<at::Tensor> channels;
        for (const auto& name : options.points) {
            const auto found = capture->points.find(name);
            if (found == capture->points.end())
                return fail(ErrorCode::Unsupported, "{} of {} was not seen", name, context.model.info().name);
            const at::Tensor grid = VITRINE_TRY(as_grid(found->second, layout))[0];
            channels.push_back(grid.reshape({grid.size(0), -1}).to(at::kCPU).to(at::kFloat));
        }
        const at::Tensor centres =
            VITRINE_TRY(k_means(at::cat(channels), settings.integer("masks"), context.seed, context.stop));
        const std::int64_t patches = centres.size(1), count = centres.size(0);
        const auto keep = std::max<std::int64_t>(
            1, static_cast<std::int64_t>(settings.number("ratio") * static_cast<double>(patches)));
        const at::Tensor masks = top_masks(centres, keep);
        const Features features = grid_features(canvas, layout.rows, layout.cols);
        canvas.paint_means(features);
        canvas.expect(count);
        const at::Tensor scores = VITRINE_TRY(canvas.scores(features, masks));
        // A patch that no mask keeps has no score of its own: 0 (the authors' code divides by 0).
        const at::Tensor covered = masks.sum(0).to(at::kDouble);
        const at::Tensor map = scores.matmul(masks.to(at::kDouble)) / covered.clamp_min(1);
        Attribution out = canvas.attribution(*this, features.map_of(map), true, map.min().item<double>() < 0);
        out.notes.push_back(fmt::format("{} masks of {} patches", count, keep));
        const std::int64_t never = (covered == 0).sum().item<std::int64_t>();
        if (never > 0) out.notes.push_back(fmt::format("{} patches are kept by no mask and shown as 0", never));
        return out;
    }
};

}  // namespace

at::Tensor vit_cx_noise(std::uint64_t seed, std::int64_t mask, std::int64_t height, std::int64_t width) {
    constexpr std::uint64_t kNoise = 0xC4;
    return at::randn({3, height, width}, at::make_generator<at::CPUGeneratorImpl>(
                                             random_bits(seed, kNoise, static_cast<std::uint64_t>(mask))));
}

std::unique_ptr<Explainer> make_vit_cx() { return std::make_unique<VitCx>(); }
std::unique_ptr<Explainer> make_tis() { return std::make_unique<Tis>(); }

}  // namespace vitrine::plugin::perturbation
