// Maps whose weights are the model's answers to changed runs: pictures seen through a channel, and layers without one.
#include "cam.h"

#include <vitrine/runs_behind.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>

namespace vitrine::plugin::cam {
namespace {

/// Each channel from 0 at its least to 1 at its largest value; a constant one is 0. [channels, 1, rows, cols]
at::Tensor scaled(const at::Tensor& x, double eps) {
    const at::Tensor least = x.amin({-2, -1}, true);
    const at::Tensor range = x.amax({-2, -1}, true) - least;
    if (eps > 0) return (x - least) / (range + eps);
    return (x - least) / range.masked_fill(range == 0, 1);
}

at::Tensor enlarged(const at::Tensor& x, const at::Tensor& pixels, bool align_corners) {
    return at::upsample_bilinear2d(x, {pixels.size(2), pixels.size(3)}, align_corners);
}

/// The channels as masks over the picture, made when asked for: [count, 1, height, width], float32.
std::function<at::Tensor(std::int64_t, std::int64_t)> masks_of(const Work& w, const std::string& preset) {
    const at::Tensor a = w.layer.a.unsqueeze(1), pixels = w.context.input.pixels;
    return [=](std::int64_t from, std::int64_t count) {
        const at::Tensor some = a.narrow(0, from, count);
        // torchcam's _normalize adds 1e-8 and so does pytorch-grad-cam; the paper has no constant.
        if (preset == "torchcam") return enlarged(scaled(some, 1e-8), pixels, false).to(at::kFloat);
        const bool package = preset == "pytorch-grad-cam";
        return scaled(enlarged(some, pixels, package), package ? 1e-8 : 0).to(at::kFloat);
    };
}

at::Tensor picture(const Work& w) { return w.context.input.pixels.to(at::kCPU, at::kFloat); }

}  // namespace

/// The score of the masked picture less that of a baseline, through a softmax: the baseline does not matter.
Result<at::Tensor> score_map(const Work& w, Attribution& out) {
    const std::int64_t channels = w.layer.a.size(0);
    const auto masks = masks_of(w, w.settings.text("preset"));
    const at::Tensor pixels = picture(w);
    const at::Tensor scores = VITRINE_TRY(
        w.context.scores(*w.objective, channels, [&](auto from, auto count) { return masks(from, count) * pixels; }));
    out.implementation = fmt::format("{} masked pictures", channels);
    return weighted(at::softmax(scores.to(at::kDouble), 0), w.layer.a);
}

Result<at::Tensor> smoothed_score_map(const Work& w, Attribution& out) {
    const std::int64_t channels = w.layer.a.size(0), samples = w.settings.integer("samples");
    const double deviation = w.settings.number("std");
    const auto masks = masks_of(w, "torchcam");
    const at::Tensor pixels = picture(w);
    auto generator = at::make_generator<at::CPUGeneratorImpl>(w.context.seed);
    // One draw a picture, in order, so that the noise does not depend on the batch.
    const at::Tensor scores =
        VITRINE_TRY(w.context.scores(*w.objective, samples * channels, [&](auto from, auto count) {
            std::vector<at::Tensor> some;
            for (std::int64_t i = from; i < from + count; ++i)
                some.push_back((masks(i % channels, 1)[0] +
                                deviation * at::randn({1, pixels.size(2), pixels.size(3)}, generator, at::kFloat)) *
                               pixels[0]);
            return at::stack(some);
        }));
    out.implementation = fmt::format("{} masked pictures", samples * channels);
    return weighted(at::softmax(scores.to(at::kDouble).reshape({samples, channels}).mean(0), 0), w.layer.a);
}

Result<at::Tensor> integrated_score_map(const Work& w, Attribution& out) {
    const std::int64_t channels = w.layer.a.size(0), samples = w.settings.integer("samples");
    const bool line = w.settings.text("path") == "line";
    const auto masks = masks_of(w, "torchcam");
    const at::Tensor pixels = picture(w);
    const double n = static_cast<double>(samples);
    const at::Tensor scores =
        VITRINE_TRY(w.context.scores(*w.objective, samples * channels, [&](auto from, auto count) {
            std::vector<at::Tensor> some;
            for (std::int64_t i = from; i < from + count; ++i) {
                const double step = static_cast<double>(i / channels + 1);
                const double strength = line ? step / n : step * (step + 1) / 2 / n;
                some.push_back(masks(i % channels, 1)[0] * pixels[0] * strength);
            }
            return at::stack(some);
        }));
    out.implementation = fmt::format("{} masked pictures", samples * channels);
    return weighted(at::softmax(scores.to(at::kDouble).reshape({samples, channels}).mean(0), 0), w.layer.a);
}

/// w_k = (y - y_k) / y, y_k the score without channel k: of all tokens, the prefix too, as published code has it.
Result<at::Tensor> ablation_map(const Work& w, Attribution& out) {
    ExplainContext& context = w.context;
    const std::int64_t channels = w.layer.a.size(0);
    const bool package = w.settings.text("preset") == "pytorch-grad-cam";
    const double least = w.layer.raw.min().item<double>();
    const auto value = [&](std::int64_t channel) {
        if (!package || least == 0) return 0.0;
        return least - 1e7 * static_cast<double>(channel % 32 + 1);
    };
    const double whole = w.score;
    if (whole == 0) return fail(ErrorCode::Unsupported, "the score is zero, and the drop from it is a share of it");
    if (whole < 0)
        out.notes.push_back(
            "the score is negative, so a channel that raises it gets a negative weight: the paper's "
            "share (y - y_k) / y is taken as it stands");

    // Of a row of blocks only the one that holds the layer and those behind it need to run again.
    RunsBehind behind = VITRINE_TRY(RunsBehind::make(context, w.layer.name, !w.objective->point.empty()));
    // What is in front of the layer runs on one picture and what is behind it on as many as there are channels without
    // which it is asked: in a row of blocks and in convolutional networks batches broadcast from there on.
    const bool shared = behind.shared();
    const auto bytes = static_cast<std::int64_t>(w.layer.raw.nbytes());
    // Behind a layer near the end little is left to run, so that more fit; some 64 MB of the layer's own activation.
    const std::int64_t most =
        shared && context.batch <= 1
            ? std::clamp<std::int64_t>((std::int64_t{64} << 20) / std::max<std::int64_t>(bytes, 1), 1,
                                       behind.blocks() > 0 ? 16 : 128)
            : context.batch_size();
    const std::int64_t step = std::min(most, channels);
    at::Tensor without = at::empty({channels}, at::kDouble);
    for (std::int64_t from = 0; from < channels; from += step) {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const std::int64_t count = std::min(step, channels - from);
        const auto replace = [&](const at::Tensor& x) {
            at::Tensor changed = shared ? x.repeat_interleave(count, 0) : x.clone();
            for (std::int64_t i = 0; i < count; ++i)
                changed[i].select(w.layer.channel_axis - 1, from + i).fill_(value(from + i));
            return changed;
        };
        std::vector<std::string> points;
        if (!w.objective->point.empty()) points = {w.objective->point};
        const auto run = VITRINE_TRY(behind.run(count, replace, points));
        const at::NoGradGuard no_grad;
        const at::Tensor& answer = w.objective->point.empty() ? run->output : run->points.at(w.objective->point);
        without.narrow(0, from, count).copy_(w.objective->of(answer));
        if (context.progress) context.progress({from + count, channels, "channels"});
    }
    if (behind.blocks() == 1)
        out.implementation = fmt::format("{} runs of the last block", channels);
    else if (behind.blocks() > 1)
        out.implementation = fmt::format("{} runs of the last {} blocks", channels, behind.blocks());
    else if (shared)
        out.implementation =
            fmt::format("{} runs of what is behind {}, in {}", channels, w.layer.name, (channels + step - 1) / step);
    else
        out.implementation = fmt::format("{} runs with a channel left out", channels);
    return weighted((whole - without) / whole, w.layer.a);
}

}  // namespace vitrine::plugin::cam
