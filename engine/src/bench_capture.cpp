// vitrine bench capture: what watching a model costs, measured in pairs so that drift hits both sides alike.
#include <ATen/Parallel.h>
#include <vitrine/bench.h>
#include <vitrine/capture.h>

#include <chrono>

#include "bench_attention.h"

namespace vitrine {

namespace {

template <class Work>
Result<double> milliseconds(const Work& work) {
    const auto begin = std::chrono::steady_clock::now();
    const auto result = work();
    const auto end = std::chrono::steady_clock::now();
    if (!result) return tl::make_unexpected(result.error());
    return std::chrono::duration<double, std::milli>(end - begin).count();
}

}  // namespace

Result<nlohmann::json> bench_capture(Model& model, const at::Tensor& pixels, int repeats) {
    if (repeats < 3)
        return fail(ErrorCode::BadInput, "{} repeats were asked for, at least 3 are needed for a median", repeats);
    // A device's queue is emptied by reading one number; on the CPU there is no queue.
    const bool device = !pixels.is_cpu();
    auto plain = [&]() -> Result<at::Tensor> {
        auto output = run(model, pixels);
        if (output && device) (void)output->select(0, 0).cpu();
        return output;
    };
    auto watched = [&]() -> Result<std::shared_ptr<const Capture>> {
        auto capture = run_captured(model, pixels);
        if (capture && device) (void)(*capture)->output.select(0, 0).cpu();
        return capture;
    };

    const at::Tensor expected = VITRINE_TRY(plain());
    const auto capture = VITRINE_TRY(watched());
    if (!capture->output.equal(expected))
        return fail(ErrorCode::Internal, "the captured run gave other logits than the plain one");
    for (const auto& step : capture->flow.steps) {
        const MixingCheck check = VITRINE_TRY(step.mixing->check());
        if (!check.passed)
            return fail(ErrorCode::Internal, "{} did not pass its check: {}", step.mixing->name, check.sentence);
    }

    std::vector<double> plain_ms, watched_ms, ratios;
    for (int i = -3; i < repeats; ++i) {
        // Which goes first changes from pair to pair.
        double a = 0, b = 0;
        if (i % 2 == 0) {
            a = VITRINE_TRY(milliseconds(plain));
            b = VITRINE_TRY(milliseconds(watched));
        } else {
            b = VITRINE_TRY(milliseconds(watched));
            a = VITRINE_TRY(milliseconds(plain));
        }
        if (i < 0) continue;
        plain_ms.push_back(a);
        watched_ms.push_back(b);
        ratios.push_back(b / a);
    }
    return nlohmann::json{{"suite", "capture"},
                          {"model", model.info().name},
                          {"layers", capture->flow.layers()},
                          {"repeats", repeats},
                          {"threads", at::get_num_threads()},
                          {"device", pixels.device().str()},
                          {"verified", true},
                          {"forward_ms", median(plain_ms)},
                          {"forward_with_capture_ms", median(watched_ms)},
                          {"ratio", median(ratios)},
                          {"fastest_ratio", *std::min_element(watched_ms.begin(), watched_ms.end()) /
                                                *std::min_element(plain_ms.begin(), plain_ms.end())},
                          {"capture_bytes", capture->size_bytes}};
}

}  // namespace vitrine
