// Lays a map over its picture and runs the model on what is left.
#include <vitrine/seen_through.h>

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/quantile.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {

Result<at::Tensor> native_map(const Attribution& attribution) {
    const at::Tensor& map = attribution.map;
    if (!map.defined() || map.dim() != 2 || map.numel() == 0)
        return fail(ErrorCode::BadInput, "{} gave no map of rows and columns", attribution.method);
    const at::Tensor out = map.detach().to(at::kCPU, at::kFloat).contiguous();
    if (!at::isfinite(out).all().item<bool>())
        return fail(ErrorCode::BadInput, "the map of {} holds numbers that are none", attribution.method);
    return out;
}

at::Tensor upsampled(const at::Tensor& map, std::int64_t height, std::int64_t width) {
    if (map.size(0) == height && map.size(1) == width) return map;
    return at::upsample_bilinear2d(map.reshape({1, 1, map.size(0), map.size(1)}), {height, width}, false)
        .reshape({height, width});
}

at::Tensor unit_range(const at::Tensor& map) {
    const at::Tensor low = map.min(), range = map.max() - low;
    if (range.item<double>() <= 0) return at::zeros_like(map);
    return (map - low) / range;
}

Result<std::vector<SeenThrough>> look_through(ExplainContext& context, const Attribution& attribution,
                                              const std::vector<double>& keep, MaskPolicy policy) {
    const Objective objective = VITRINE_TRY(context.objective(Scale::Probability));
    const at::Tensor native = VITRINE_TRY(native_map(attribution));
    const at::Tensor pixels = context.input.pixels.to(at::kCPU, at::kFloat);
    // torchcam's maps come to the size of the input after they were brought to [0, 1], T-TAME's likewise.
    const at::Tensor map = upsampled(unit_range(native), pixels.size(2), pixels.size(3));
    std::vector<SeenThrough> out;
    std::vector<at::Tensor> shown{pixels};
    for (const double share : keep) {
        at::Tensor mask = map;
        if (share < 100) {
            const at::Tensor floor = at::quantile(map.flatten(), 1 - share / 100);
            mask = at::where(map < floor, at::zeros_like(map), map);
        }
        SeenThrough one;
        one.keep = share;
        one.visible = mask.gt(0).to(at::kFloat).mean().item<double>();
        one.objective = objective;
        one.pixels =
            masked(pixels, mask.reshape({1, 1, pixels.size(2), pixels.size(3)}), policy, context.model.preprocess());
        shown.push_back(one.pixels);
        out.push_back(std::move(one));
    }
    const at::Tensor numbers = VITRINE_TRY(context.scores(objective, at::cat(shown)));
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i].whole = numbers[0].item<double>();
        out[i].seen = numbers[static_cast<std::int64_t>(i) + 1].item<double>();
    }
    return out;
}

Image image_of(const at::Tensor& pixels, const Preprocess& preprocess) {
    const at::Tensor colours = colours_of(pixels.detach().to(at::kCPU, at::kFloat), preprocess).contiguous();
    const std::int64_t height = colours.size(2), width = colours.size(3);
    const auto* values = colours.const_data_ptr<float>();
    Image out(width, height);
    for (std::int64_t c = 0; c < 3; ++c)
        for (std::int64_t i = 0; i < height * width; ++i)
            out.pixels[static_cast<std::size_t>(3 * i + c)] =
                static_cast<std::uint8_t>(std::lround(255 * std::clamp(values[c * height * width + i], 0.0F, 1.0F)));
    return out;
}

}  // namespace vitrine
