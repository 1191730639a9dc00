// Activations of TorchScript models: the results of norms, convolutions and the like, named by the module that is
// running.
//
// Registered only when a run first asks for them: the call is boxed, which costs about a microsecond an operator.
#include "intercept.h"

#include <torch/library.h>

namespace vitrine {
namespace {

using c10::DispatchKeySet;

void seen(const c10::OperatorHandle& op, DispatchKeySet keys, torch::jit::Stack* stack) {
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr || !recorder->wants_points() || recorder->inside_operator) {
        op.redispatchBoxed(below(keys), stack);
        return;
    }
    recorder->tick();
    recorder->inside_operator = true;
    try {
        op.redispatchBoxed(below(keys), stack);
    } catch (...) {
        recorder->inside_operator = false;
        throw;
    }
    recorder->inside_operator = false;
    if (!stack->empty() && stack->back().isTensor()) {
        std::string name = op.schema().name();
        name = name.substr(name.rfind(':') + 1);
        while (name.starts_with('_')) name.erase(0, 1);
        while (name.ends_with('_')) name.pop_back();
        const at::Tensor out = stack->back().toTensor();
        const at::Tensor goes_on = recorder->module_point(name, out);
        if (goes_on.is_same(out)) return;
        if (op.schema().is_mutable())
            out.copy_(goes_on);
        else
            stack->back() = goes_on;
    }
}

}  // namespace

void register_point_operators() {
    static torch::Library library = [] {
        torch::Library made(torch::Library::IMPL, "aten", kInterceptionKey, __FILE__, __LINE__);
        for (const char* name :
             {"layer_norm", "group_norm", "batch_norm", "linear", "addmm",      "conv2d",     "_convolution",
              "relu",       "relu_",      "gelu",       "silu",   "silu_",      "hardtanh",   "hardtanh_",
              "hardswish",  "hardswish_", "relu6",      "relu6_", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"})
            made.impl(name, torch::CppFunction::makeFromBoxedFunction<&seen>());
        return made;
    }();
    (void)library;
}

}  // namespace vitrine
