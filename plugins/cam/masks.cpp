// Maps whose weights are the model's answers to changed runs: pictures seen through a channel, and layers without one.
#include "cam.h"

#include <charconv>

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
    Model& model = context.model;
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
    const std::string block_name = "blocks.";
    std::int64_t block = -1;
    if (w.layer.name.starts_with(block_name) && model.has_chain() && w.objective->point.empty()) {
        const char* end = w.layer.name.data() + w.layer.name.size();
        if (std::from_chars(w.layer.name.data() + block_name.size(), end, block).ec != std::errc()) block = -1;
    }
    std::optional<Chain> chain;
    at::Tensor before;
    if (block >= 0) chain = model.chain(context.input.pixels.size(2), context.input.pixels.size(3));
    if (chain && block < chain->blocks) {
        CaptureOptions options;
        options.mixings = false;
        options.stop = context.stop;
        const auto begun = VITRINE_TRY(run_captured(
            [&](const at::Tensor& pixels) {
                at::Tensor x = chain->begin(pixels);
                for (std::int64_t i = 0; i < block; ++i) x = chain->block(i, x);
                return x;
            },
            context.input.pixels, options));
        before = begun->output;
    }
    // What is in front of the layer runs on one picture and what is behind it on as many as there are channels without
    // which it is asked: in a row of blocks and in convolutional networks batches broadcast from there on.
    const bool shared = before.defined() || (model.is_native() && model.info().layers == 0);
    const auto bytes = static_cast<std::int64_t>(w.layer.raw.nbytes());
    // Behind a layer near the end little is left to run, so that more fit; some 64 MB of the layer's own activation.
    const std::int64_t most =
        shared && context.batch <= 1
            ? std::clamp<std::int64_t>((std::int64_t{64} << 20) / std::max<std::int64_t>(bytes, 1), 1,
                                       before.defined() ? 16 : 128)
            : context.batch_size();
    const std::int64_t step = std::min(most, channels);
    at::Tensor without = at::empty({channels}, at::kDouble);
    for (std::int64_t from = 0; from < channels; from += step) {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const std::int64_t count = std::min(step, channels - from);
        Edit edit;
        edit.kind = Edit::Kind::ReplacePoint;
        edit.where = w.layer.name;
        edit.replace = [&](const at::Tensor& x) {
            at::Tensor changed = shared ? x.repeat_interleave(count, 0) : x.clone();
            for (std::int64_t i = 0; i < count; ++i)
                changed[i].select(w.layer.channel_axis - 1, from + i).fill_(value(from + i));
            return changed;
        };
        CaptureOptions options;
        options.mixings = false;
        options.stop = context.stop;
        options.edits = {edit};
        if (!w.objective->point.empty()) options.points = {w.objective->point};
        const auto run = before.defined()
                             ? VITRINE_TRY(run_captured(
                                   [&](const at::Tensor& start) {
                                       at::Tensor x = start;
                                       for (std::int64_t i = block; i < chain->blocks; ++i) x = chain->block(i, x);
                                       return chain->end(x);
                                   },
                                   before, options))
                             : VITRINE_TRY(run_captured(
                                   model, context.input.pixels.expand({shared ? 1 : count, -1, -1, -1}), options));
        const at::NoGradGuard no_grad;
        const at::Tensor& answer = w.objective->point.empty() ? run->output : run->points.at(w.objective->point);
        without.narrow(0, from, count).copy_(w.objective->of(answer));
        if (context.progress) context.progress({from + count, channels, "channels"});
    }
    if (before.defined() && chain->blocks - block == 1)
        out.implementation = fmt::format("{} runs of the last block", channels);
    else if (before.defined())
        out.implementation = fmt::format("{} runs of the last {} blocks", channels, chain->blocks - block);
    else if (shared)
        out.implementation =
            fmt::format("{} runs of what is behind {}, in {}", channels, w.layer.name, (channels + step - 1) / step);
    else
        out.implementation = fmt::format("{} runs with a channel left out", channels);
    return weighted((whole - without) / whole, w.layer.a);
}

}  // namespace vitrine::plugin::cam
