// Runs a model once under interception and gathers what was kept.
#include <vitrine/capture.h>

#include <malloc.h>

#include "intercept.h"
#include "intercept_unfused.h"
#include "text.h"
#include <vitrine/torch_errors.h>

#include <algorithm>
#include <chrono>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

namespace vitrine {
namespace {

Status check_pixels(const at::Tensor& pixels, bool one) {
    if (!pixels.defined() || pixels.dim() != 4 || pixels.size(1) != 3 || pixels.size(0) < 1 ||
        (one && pixels.size(0) != 1))
        return fail(ErrorCode::BadInput, "the input is {}, expected [{}, 3, height, width]",
                    pixels.defined() ? fmt::format("[{}]", fmt::join(pixels.sizes(), ", ")) : "undefined",
                    one ? "1" : "batch");
    return {};
}

/// Freed memory goes back to the system only in large pieces. By default glibc returns a run's tensors at its end and
/// takes new pages at the next: that costs a forward pass of a small model a fifth of its time, and one with capture,
/// which holds more, 5 % beyond that.
void keep_freed_memory() {
#ifdef __GLIBC__
    static const bool once = [] {
        mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the largest that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 256 << 20);
        return true;
    }();
    (void)once;
#endif
}

}  // namespace

Result<std::shared_ptr<Capture>> run_recorded(const Forward& forward, const at::Tensor& input, Recorder& recorder) {
    keep_freed_memory();
    auto capture = std::make_shared<Capture>();
    const CaptureOptions& options = recorder.options();
    try {
        const at::AutoGradMode mode(options.gradients);
        capture->input = options.gradients && !options.visit ? input.detach().clone().requires_grad_(true) : input;
        const Listening listening(recorder);
        const auto start = std::chrono::steady_clock::now();
        capture->output = forward(capture->input);
        capture->forward_ms =
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
        recorder.finish(*capture);
    } catch (...) {
        if (recorder.left_early) {
            recorder.finish(*capture);
            return capture;
        }
        if (recorder.error()) return tl::make_unexpected(*recorder.error());
        return tl::make_unexpected(current_exception_error());
    }
    if (recorder.error()) return tl::make_unexpected(*recorder.error());
    return capture;
}

Result<std::shared_ptr<Capture>> run_recorded(Model& model, const at::Tensor& pixels, Recorder& recorder) {
    return run_recorded([&](const at::Tensor& x) { return model.forward(x); }, pixels, recorder);
}

namespace {

Result<std::shared_ptr<const Capture>> run_watched(const Forward& forward, const at::Tensor& input,
                                                   const CaptureOptions& options, bool keep_inputs) {
    auto recorder = std::make_unique<Recorder>(options);
    recorder->keep_inputs = keep_inputs;
    auto capture = VITRINE_TRY(run_recorded(forward, input, *recorder));
    if (recorder->overwritten()) {
        // References were kept, and the model wrote over one of them: once more, with copies.
        recorder = std::make_unique<Recorder>(options);
        recorder->keep_inputs = keep_inputs;
        recorder->copy_inputs = true;
        capture = VITRINE_TRY(run_recorded(forward, input, *recorder));
        capture->notes.push_back("the model overwrites its tensors in place: what is kept was copied");
    }
    return std::shared_ptr<const Capture>(std::move(capture));
}

}  // namespace

Result<std::shared_ptr<const Capture>> run_captured(Model& model, const at::Tensor& pixels,
                                                    const CaptureOptions& options) {
    VITRINE_CHECK(check_pixels(pixels, options.mixings));
    CaptureCost cost;
    // A graph holds queries and keys whatever is kept beside it.
    if (options.mixings && !options.gradients && !options.visit && model.has_chain())
        cost = capture_cost(model, pixels.size(2), pixels.size(3), options.memory_budget, false);
    if (cost.keep == CaptureCost::Keep::Nothing)
        return fail(ErrorCode::OutOfMemory, "{}", cost.sentence(model.info().layers));
    CaptureOptions allowed = options;
    // Log-sum-exps come padded from some backends: that must not end a run that was found to fit.
    if (cost.whole > 0 && allowed.memory_budget > 0) allowed.memory_budget += allowed.memory_budget / 64 + (64 << 10);
    // Maps are kept beside all the rest, or not at all.
    const ModelInfo& info = model.info();
    const std::int64_t maps = 4 * info.layers * info.heads * cost.tokens * cost.tokens;
    allowed.maps = options.maps && (cost.whole > 0 ? cost.whole + maps <= cost.budget : options.memory_budget == 0);
    return run_watched([&](const at::Tensor& x) { return model.forward(x); }, pixels, allowed,
                       cost.keep == CaptureCost::Keep::Inputs);
}

Result<std::shared_ptr<const Capture>> run_captured(const std::function<at::Tensor(const at::Tensor&)>& part,
                                                    const at::Tensor& input, const CaptureOptions& options) {
    return run_watched(part, input, options, false);
}

Result<at::Tensor> run(Model& model, const at::Tensor& pixels, std::stop_token stop) {
    VITRINE_CHECK(check_pixels(pixels, false));
    if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    keep_freed_memory();
    return guarded([&]() -> Result<at::Tensor> {
        const at::NoGradGuard no_grad;
        if (!stop.stop_possible()) return model.forward(pixels);
        CaptureOptions options;
        options.mixings = false;
        options.stop = stop;
        Recorder recorder(options);
        try {
            const Listening listening(recorder);
            return model.forward(pixels);
        } catch (...) {
            if (recorder.error()) return tl::make_unexpected(*recorder.error());
            throw;
        }
    });
}

Result<std::vector<at::Tensor>> gradients(const at::Tensor& score, const std::vector<at::Tensor>& wanted,
                                          const std::vector<std::string>& names, bool keep_graph) {
    const auto name = [&](std::size_t i) { return i < names.size() ? names[i] : fmt::format("tensor {}", i); };
    if (!score.defined() || score.numel() != 1)
        return fail(ErrorCode::BadInput, "gradients are of one number, the score has {}",
                    score.defined() ? score.numel() : 0);
    if (!score.requires_grad())
        return fail(ErrorCode::BadInput, "the score carries no graph: capture with gradients first");
    for (std::size_t i = 0; i < wanted.size(); ++i)
        if (!wanted[i].defined() || !wanted[i].requires_grad())
            return fail(ErrorCode::Internal, "{} carries no graph, so the gradient with respect to it is not defined",
                        name(i));
    return guarded([&]() -> Result<std::vector<at::Tensor>> {
        const at::AutoGradMode mode(true);
        auto found = torch::autograd::grad({score.sum()}, wanted, {}, keep_graph, false, /*allow_unused=*/true);
        for (std::size_t i = 0; i < found.size(); ++i)
            if (!found[i].defined())
                return fail(ErrorCode::Internal,
                            "the gradient with respect to {} is undefined: the score does not depend on what was kept",
                            name(i));
        return found;
    });
}

// ---- what native models call
// ------------------------------------------------------------------------------------------------

at::Tensor point(std::string_view name, at::Tensor x) {
    if (StandingEdit::any()) x = StandingEdit::apply(name, std::move(x));
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr) return x;
    return recorder->on_point(name, std::move(x));
}

bool points_wanted() {
    const Recorder* recorder = Recorder::current();
    return StandingEdit::any() || (recorder != nullptr && recorder->wants_points());
}

MixingScope::MixingScope(const std::function<Facts()>& facts) {
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr || !recorder->wants_mixings()) return;
    facts_ = std::make_unique<Facts>(facts());
    previous_ = const_cast<Facts*>(recorder->scope);
    recorder->scope = facts_.get();
}

MixingScope::~MixingScope() {
    if (!facts_) return;
    if (Recorder* recorder = Recorder::current()) recorder->scope = static_cast<Facts*>(previous_);
}

void report_recipe(const std::function<Recipe()>& recipe) {
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr || !recorder->keep_inputs || !recorder->options().mixings) return;
    recorder->recipe = recipe();
}

void report_mixing(const std::function<std::shared_ptr<Mixing>()>& make) {
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr || !recorder->wants_mixings()) return;
    recorder->keep(make());
}

void report_readout(const std::function<at::Tensor()>& make) {
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr || !recorder->wants_mixings()) return;
    recorder->readout = make();
}

}  // namespace vitrine
