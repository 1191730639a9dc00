// What explainers share: one captured run of one picture.
#include <vitrine/explainer.h>

namespace vitrine {

ExplainContext::ExplainContext(Model& model_, const Input& input_, Target target_, std::uint64_t seed_)
    : model(model_), input(input_), target(target_), seed(seed_) {}

Result<std::shared_ptr<const Capture>> ExplainContext::capture() {
    if (!capture_) {
        CaptureOptions options;
        options.memory_budget = memory_budget;
        options.stop = stop;
        capture_ = VITRINE_TRY(run_captured(model, input.pixels, options));
    }
    return capture_;
}

}  // namespace vitrine
