// Augmentation as linear algebra: a crop, a reduction, an enlargement and a mirror are one matrix per axis and picture.
#include "augment.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {

namespace {

// One column of random numbers for the batch, drawn on the host so that they are the same on every device.
template <class Draw>
at::Tensor column(std::int64_t n, const at::Device& device, Draw draw) {
    std::vector<float> values(static_cast<std::size_t>(n));
    for (auto& value : values) value = static_cast<float>(draw());
    return at::tensor(values).to(device, /*dtype=*/at::kFloat, /*non_blocking=*/true);
}

at::Tensor per_picture(const at::Tensor& values) { return values.view({-1, 1, 1, 1}); }

// A low pass as a matrix: Gaussian weights, rows sum to 1. [side, side]
at::Tensor gaussian(std::int64_t side, double sigma, const at::Device& device) {
    const at::Tensor position = at::arange(side, at::TensorOptions().dtype(at::kFloat).device(device));
    const at::Tensor distance = position.view({-1, 1}) - position.view({1, -1});
    const at::Tensor weight = (distance * distance * (-0.5 / (sigma * sigma))).exp();
    return weight / weight.sum(1, /*keepdim=*/true);
}

at::Tensor blurred(const at::Tensor& views, double sigma) {
    const at::Tensor low = gaussian(views.size(3), sigma, views.device());
    return at::matmul(low, at::matmul(views, low.t()));
}

// 1 inside a rectangle, 0 outside, per picture. Boxes are [n] in pixels. -> [n, 1, side, side]
at::Tensor rectangles(const at::Tensor& left, const at::Tensor& top, const at::Tensor& width, const at::Tensor& height,
                      std::int64_t side) {
    const at::Tensor position = at::arange(side, at::TensorOptions().dtype(at::kFloat).device(left.device())) + 0.5;
    const auto inside = [&](const at::Tensor& from, const at::Tensor& length, at::IntArrayRef shape) {
        const at::Tensor p = position.view(shape);
        return p.ge(per_picture(from)).logical_and(p.lt(per_picture(from + length)));
    };
    return inside(left, width, {1, 1, 1, side}).logical_and(inside(top, height, {1, 1, side, 1})).to(at::kFloat);
}

}  // namespace

AugmentOptions gentle(AugmentOptions options) {
    options.scale_low = options.scale_high = 1.0;
    options.aspect = 1.0;
    options.reduce = options.sharpen = options.detail = options.colour = options.grey = options.grain = options.erase =
        0;
    options.mixup = options.cutmix = 0;
    return options;
}

at::Tensor resampling(const at::Tensor& begin, const at::Tensor& length, const at::Tensor& mirrored,
                      const at::Tensor& kernel, std::int64_t out, std::int64_t in) {
    const auto options = begin.options();
    const at::Tensor step = (length / static_cast<double>(out)).view({-1, 1, 1});
    const at::Tensor forward = (at::arange(out, options) + 0.5).view({1, -1, 1});
    const at::Tensor flip = mirrored.view({-1, 1, 1});
    const at::Tensor place = flip * (static_cast<double>(out) - forward) + (1.0 - flip) * forward;
    const at::Tensor centre = begin.view({-1, 1, 1}) + place * step;
    const at::Tensor scale = step.clamp_min(1.0);  // wider than a pixel when reducing, so that nothing aliases
    const at::Tensor sample = (at::arange(in, options) + 0.5).view({1, 1, -1});
    const at::Tensor x = ((sample - centre) / scale).abs();

    const at::Tensor kind = kernel.view({-1, 1, 1});
    const at::Tensor x2 = x * x;
    const at::Tensor near = (1.5 * x - 2.5) * x2 + 1.0;             // cubic, |x| < 1, a = -0.5
    const at::Tensor far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0;  // 1 <= |x| < 2
    const at::Tensor cubic = at::where(x.lt(1.0), near, at::where(x.lt(2.0), far, at::zeros({}, options)));
    const at::Tensor triangle = (1.0 - x).clamp_min(0.0);
    const at::Tensor box = x.le(0.5).to(at::kFloat);
    const at::Tensor weight = at::where(kind.lt(0.5), box, at::where(kind.lt(1.5), triangle, cubic));
    const at::Tensor sum = weight.sum(2, /*keepdim=*/true);
    // A window that lies wholly outside reads nothing; leave it black instead of dividing by zero.
    return weight / at::where(sum.abs().gt(1e-6), sum, at::full({}, 1.0, options));
}

at::Tensor resample(const at::Tensor& pictures, const at::Tensor& vertical, const at::Tensor& horizontal) {
    const std::int64_t n = pictures.size(0), h = pictures.size(1), w = pictures.size(2);
    const std::int64_t out_h = vertical.size(1), out_w = horizontal.size(1);
    const at::Tensor rows = at::bmm(vertical, pictures.to(at::kFloat).view({n, h, w * 3}));  // [n, out_h, w * 3]
    const at::Tensor channels =
        rows.view({n, out_h, w, 3}).permute({0, 3, 1, 2}).reshape({n, 3 * out_h, w});  // [n, 3 out_h, w]
    return at::bmm(channels, horizontal.transpose(1, 2)).view({n, 3, out_h, out_w}).mul_(1.0 / 255.0).clamp_(0.0, 1.0);
}

at::Tensor whole(const at::Tensor& pictures, std::int64_t side) {
    const std::int64_t h = pictures.size(1), w = pictures.size(2);
    const auto options = at::TensorOptions().dtype(at::kFloat).device(pictures.device());
    const at::Tensor zero = at::zeros({1}, options);
    const at::Tensor cubic = at::full({1}, 2.0, options);
    const auto axis = [&](std::int64_t length) {
        return resampling(zero, at::full({1}, static_cast<double>(length), options), zero, cubic, side, length)
            .expand({pictures.size(0), side, length});
    };
    return resample(pictures, axis(h), axis(w));
}

at::Tensor resized(const at::Tensor& views, std::int64_t side) {
    if (views.size(2) == side && views.size(3) == side) return views;
    const auto options = views.options();
    const at::Tensor zero = at::zeros({1}, options);
    const at::Tensor cubic = at::full({1}, 2.0, options);
    const auto axis = [&](std::int64_t length) {
        return resampling(zero, at::full({1}, static_cast<double>(length), options), zero, cubic, side, length)
            .squeeze(0);
    };
    return at::matmul(axis(views.size(2)), at::matmul(views, axis(views.size(3)).t())).clamp_(0.0, 1.0);
}

at::Tensor random_views(const at::Tensor& pictures, std::int64_t view, const AugmentOptions& options,
                        StepRandom& random) {
    const std::int64_t n = pictures.size(0), side = pictures.size(1);
    const auto device = pictures.device();
    const auto s = static_cast<double>(side);
    std::vector<float> left(n), top(n), width(n), height(n), mirrored(n), low(n), down(n), up(n);
    for (std::int64_t i = 0; i < n; ++i) {
        const double area = random.uniform(options.scale_low, options.scale_high);
        const double ratio = std::exp(random.uniform(-1.0, 1.0) * std::log(options.aspect));
        const double w = std::min(1.0, std::sqrt(area * ratio)) * s;
        const double h = std::min(1.0, std::sqrt(area / ratio)) * s;
        width[i] = static_cast<float>(w);
        height[i] = static_cast<float>(h);
        left[i] = static_cast<float>(random.uniform() * (s - w));
        top[i] = static_cast<float>(random.uniform() * (s - h));
        mirrored[i] = random.chance(options.flip) ? 1.0F : 0.0F;
        const double kind = random.uniform();
        down[i] = kind < 0.2 ? 0.0F : kind < 0.5 ? 1.0F : 2.0F;
        const double rise = random.uniform();
        up[i] = rise < 0.1 ? 0.0F : rise < 0.5 ? 1.0F : 2.0F;
        low[i] = static_cast<float>(view);
        if (random.chance(options.reduce)) {
            const bool fully = random.chance(options.reduce_fully);
            const double lowest = static_cast<double>(std::min(options.low_side, view));
            low[i] = static_cast<float>(
                std::round(fully ? lowest : lowest * std::pow(static_cast<double>(view) / lowest, random.uniform())));
        }
    }
    const auto to = [&](const std::vector<float>& values) {
        return at::tensor(values).to(device, /*dtype=*/at::kFloat, /*non_blocking=*/true);
    };
    const at::Tensor low_side = to(low), mirror = to(mirrored), down_kernel = to(down), up_kernel = to(up);
    const at::Tensor none = at::zeros_like(mirror);
    const auto axis = [&](const at::Tensor& begin, const at::Tensor& length, const at::Tensor& flip) {
        // Reduction to `low` samples, of which the matrix has room for `view`: sample r covers [begin + r length / low,
        // ...).
        const at::Tensor room = length / low_side * static_cast<double>(view);
        const at::Tensor reduce =
            resampling(begin, room, none, down_kernel, view, side);  // [n, view, side], rows beyond low unused
        const at::Tensor used =
            at::arange(view, begin.options()).view({1, -1}).lt(low_side.view({-1, 1}));  // [n, view]
        at::Tensor enlarge = resampling(none, low_side, flip, up_kernel, view, view) * used.unsqueeze(1).to(at::kFloat);
        enlarge = enlarge / enlarge.sum(2, /*keepdim=*/true).clamp_min(1e-6);
        return at::bmm(enlarge, reduce);
    };
    return resample(pictures, axis(to(top), to(height), none), axis(to(left), to(width), mirror));
}

at::Tensor through_jpeg(const at::Tensor& views) {
    // T.81 tables K.1 and K.2; quality 75 halves them (IJG: scale = 200 - 2 q percent, rounded).
    static const std::array<float, 64> kLuma{16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
                                             14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
                                             18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
                                             49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99};
    static const std::array<float, 64> kColour{17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
                                               24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
                                               99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
                                               99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99};
    std::vector<float> cosine(64);
    for (int k = 0; k < 8; ++k)
        for (int i = 0; i < 8; ++i)
            cosine[k * 8 + i] = static_cast<float>((k == 0 ? std::sqrt(0.125) : 0.5) *
                                                   std::cos((2 * i + 1) * k * 3.14159265358979323846 / 16));
    const at::Tensor dct = at::tensor(cosine).view({8, 8}).to(views.device(), at::kFloat, true);
    const auto coded = [&](const at::Tensor& plane, const std::array<float, 64>& table) {  // [n, h, w] about zero
        std::vector<float> steps(64);
        for (int i = 0; i < 64; ++i) steps[i] = std::max(1.0F, std::floor((table[i] * 50 + 50) / 100));
        const at::Tensor step = at::tensor(steps).view({8, 8}).to(views.device(), at::kFloat, true);
        const std::int64_t n = plane.size(0), h = plane.size(1), w = plane.size(2);
        const at::Tensor blocks = plane.reshape({n, h / 8, 8, w / 8, 8}).permute({0, 1, 3, 2, 4});
        const at::Tensor kept = (at::matmul(at::matmul(dct, blocks), dct.t()) / step).round() * step;
        return at::matmul(at::matmul(dct.t(), kept), dct).permute({0, 1, 3, 2, 4}).reshape({n, h, w});
    };
    const std::int64_t n = views.size(0), h = views.size(2), w = views.size(3);
    const at::Tensor r = views.select(1, 0), g = views.select(1, 1), b = views.select(1, 2);
    const at::Tensor luma = coded(0.299 * r + 0.587 * g + 0.114 * b - 128.0, kLuma) + 128.0;
    const auto halved = [&](const at::Tensor& plane) {
        const at::Tensor small = coded(plane.reshape({n, h / 2, 2, w / 2, 2}).mean(at::IntArrayRef{2, 4}), kColour);
        return small.view({n, h / 2, 1, w / 2, 1}).expand({n, h / 2, 2, w / 2, 2}).reshape({n, h, w});
    };
    const at::Tensor cb = halved(-0.168736 * r - 0.331264 * g + 0.5 * b),
                     cr = halved(0.5 * r - 0.418688 * g - 0.081312 * b);
    return at::stack({luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb}, 1)
        .clamp_(0.0, 255.0);
}

at::Tensor shrunken(const at::Tensor& pictures, std::int64_t side, StepRandom& random) {
    AugmentOptions plain;
    plain.scale_low = 0.5;
    plain.aspect = 1.2;
    plain.flip = plain.reduce = 0;
    const at::Tensor small = random_views(pictures, side, plain, random) * 255.0;
    return (side % 16 == 0 ? through_jpeg(small.round()) : small)
        .round()
        .to(at::kByte)
        .permute({0, 2, 3, 1})
        .contiguous();
}

at::Tensor in_context(const at::Tensor& views, const at::Tensor& backgrounds, StepRandom& random) {
    const std::int64_t n = views.size(0), side = views.size(2);
    const auto device = views.device();
    const auto s = static_cast<double>(side);
    std::vector<float> begin_x(n), begin_y(n), length(n);
    for (std::int64_t i = 0; i < n; ++i) {
        const double kept = random.uniform(0.45, 0.9);
        // The output is a window onto the view that reaches beyond it: the view covers `kept` of it.
        length[i] = static_cast<float>(s / kept);
        begin_x[i] = static_cast<float>(-random.uniform() * (1.0 - kept) / kept * s);
        begin_y[i] = static_cast<float>(-random.uniform() * (1.0 - kept) / kept * s);
    }
    const auto to = [&](const std::vector<float>& values) {
        return at::tensor(values).to(device, at::kFloat, /*non_blocking=*/true);
    };
    const at::Tensor window = to(length), x = to(begin_x), y = to(begin_y);
    const at::Tensor none = at::zeros_like(window), triangle = at::full({n}, 1.0, window.options());
    const at::Tensor vertical = resampling(y, window, none, triangle, side, side).unsqueeze(1);  // [n, 1, side, side]
    const at::Tensor horizontal = resampling(x, window, none, triangle, side, side).unsqueeze(1);
    const at::Tensor small = at::matmul(at::matmul(vertical, views), horizontal.transpose(2, 3));
    const at::Tensor scale = s / window;  // output pixels a view pixel
    const at::Tensor inside = rectangles(-x * scale, -y * scale, s * scale, s * scale, side);
    return backgrounds + inside * (small - backgrounds);
}

at::Tensor random_looks(const at::Tensor& views, const AugmentOptions& options, StepRandom& random) {
    const std::int64_t n = views.size(0), side = views.size(2);
    const auto device = views.device();
    at::Tensor x = views;

    if (options.detail > 0) {
        const at::Tensor partner = at::tensor(random.permutation(n)).to(device, at::kLong, /*non_blocking=*/true);
        const at::Tensor amount =
            column(n, device, [&] { return random.chance(options.detail) ? random.uniform(0.3, 1.0) : 0.0; });
        const double sigma = random.uniform(0.008, 0.02) * static_cast<double>(side);
        const at::Tensor fine = x - blurred(x, sigma);
        x = x + per_picture(amount) * at::index_select(fine, 0, partner);
    }
    if (options.sharpen > 0) {
        const at::Tensor amount = column(n, device, [&] {
            if (!random.chance(options.sharpen)) return 0.0;
            return random.chance(0.67) ? random.uniform(0.2, 2.5) : -random.uniform(0.2, 1.0);
        });
        const double sigma = random.uniform(0.005, 0.016) * static_cast<double>(side);
        x = x + per_picture(amount) * (x - blurred(x, sigma));
    }
    if (options.colour > 0 || options.grey > 0) {
        // brightness * (saturation * x + (1 - saturation) * grey), then contrast about the picture's own mean
        const double c = options.colour;
        const at::Tensor brightness = column(n, device, [&] { return random.uniform(1.0 - c, 1.0 + c); });
        const at::Tensor contrast = column(n, device, [&] { return random.uniform(1.0 - c, 1.0 + c); });
        const at::Tensor saturation = column(n, device, [&] {
            const double s = random.uniform(1.0 - 1.5 * c, 1.0 + 1.5 * c);
            return random.chance(options.grey) ? 0.0 : std::max(0.0, s);
        });
        const at::Tensor tint =
            column(n * 3, device, [&] { return 1.0 + 0.25 * c * random.uniform(-1.0, 1.0); }).view({n, 3, 1, 1});
        const at::Tensor luma = at::tensor({0.299F, 0.587F, 0.114F}).to(device, at::kFloat, true).view({1, 3, 1, 1});
        const at::Tensor grey = (x * luma).sum(1, /*keepdim=*/true);
        x = (grey + per_picture(saturation) * (x - grey)) * (per_picture(brightness) * tint);
        const at::Tensor level = x.mean(at::IntArrayRef{1, 2, 3}, /*keepdim=*/true);
        x = level + per_picture(contrast) * (x - level);
    }
    if (options.grain > 0 || options.erase > 0) {
        // The generator of the device follows from the step's own numbers too.
        at::Generator generator = at::globalContext().defaultGenerator(device).clone();
        generator.set_current_seed(random.next());
        const at::Tensor noise = at::randn(views.sizes(), generator, views.options());
        const at::Tensor grain =
            column(n, device, [&] { return random.chance(options.grain) ? random.uniform(0.01, 0.06) : 0.0; });
        x = x + per_picture(grain) * noise;
        if (options.erase > 0) {
            std::vector<float> left(n), top(n), width(n), height(n);
            const auto s = static_cast<double>(side);
            for (std::int64_t i = 0; i < n; ++i) {
                const double area = random.chance(options.erase) ? random.uniform(0.03, 0.25) : 0.0;
                const double ratio = std::exp(random.uniform(-1.0, 1.0) * std::log(2.5));
                width[i] = static_cast<float>(std::min(1.0, std::sqrt(area * ratio)) * s);
                height[i] = static_cast<float>(std::min(1.0, std::sqrt(area / ratio)) * s);
                left[i] = static_cast<float>(random.uniform() * (s - width[i]));
                top[i] = static_cast<float>(random.uniform() * (s - height[i]));
            }
            const auto to = [&](const std::vector<float>& values) {
                return at::tensor(values).to(device, /*dtype=*/at::kFloat, /*non_blocking=*/true);
            };
            const at::Tensor hole = rectangles(to(left), to(top), to(width), to(height), side);
            x = x + hole * (0.5 + 0.25 * noise - x);
        }
    }
    return x.clamp(0.0, 1.0);
}

Mixed mix(const at::Tensor& views, const AugmentOptions& options, StepRandom& random) {
    const std::int64_t n = views.size(0), side = views.size(2);
    const auto device = views.device();
    const at::Tensor partner = at::tensor(random.permutation(n)).to(device, at::kLong, /*non_blocking=*/true);
    std::vector<float> blend(n), left(n), top(n), width(n), height(n);
    const auto s = static_cast<double>(side);
    bool any = false;
    for (std::int64_t i = 0; i < n; ++i) {
        blend[i] = 1.0F;
        const double kind = random.uniform();
        if (kind < options.mixup) {
            const double lambda = random.beta(options.mixup_alpha, options.mixup_alpha);
            blend[i] = static_cast<float>(
                std::max(lambda, 1.0 - lambda));  // the own picture leads; the partner's turn comes elsewhere
            any = true;
        } else if (kind < options.mixup + options.cutmix) {
            const double cut = std::sqrt(1.0 - random.beta(options.cutmix_alpha, options.cutmix_alpha));
            const double ratio = std::exp(random.uniform(-0.5, 0.5));
            width[i] = static_cast<float>(std::round(std::min(1.0, cut * ratio) * s));
            height[i] = static_cast<float>(std::round(std::min(1.0, cut / ratio) * s));
            left[i] = static_cast<float>(std::round(random.uniform() * (s - width[i])));
            top[i] = static_cast<float>(std::round(random.uniform() * (s - height[i])));
            any = true;
        }
    }
    const auto to = [&](const std::vector<float>& values) {
        return at::tensor(values).to(device, /*dtype=*/at::kFloat, /*non_blocking=*/true);
    };
    if (!any) return {views, partner, to(blend)};
    const at::Tensor pasted = rectangles(to(left), to(top), to(width), to(height), side);
    const at::Tensor own = per_picture(to(blend)) * (1.0 - pasted);  // [n, 1, side, side]
    const at::Tensor other = at::index_select(views, 0, partner);
    return {other + own * (views - other), partner, own.mean(at::IntArrayRef{1, 2, 3})};
}

at::Tensor normalised(const at::Tensor& views, const std::array<double, 3>& mean, const std::array<double, 3>& std) {
    const auto channel = [&](const std::array<double, 3>& values) {
        return at::tensor({static_cast<float>(values[0]), static_cast<float>(values[1]), static_cast<float>(values[2])})
            .to(views.device(), at::kFloat, true)
            .view({1, 3, 1, 1});
    };
    return (views - channel(mean)) / channel(std);
}

}  // namespace vitrine
