// The operators registered at the key, and the two functions that stand in for them in a graph.
#include "rectifiers.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/clamp_min_ops.h>
#include <ATen/ops/clamp_ops.h>
#include <ATen/ops/hardtanh_ops.h>
#include <ATen/ops/max_pool2d_ops.h>
#include <ATen/ops/max_pool2d_with_indices.h>
#include <ATen/ops/max_pool2d_with_indices_backward.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/relu_ops.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace vitrine::plugin::gradient {
namespace {

using c10::DispatchKeySet;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Below the engine's key in order, so that what captures do is done first.
constexpr c10::DispatchKey kKey = c10::DispatchKey::TESTING_ONLY_GenericWrapper;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
/// Below it nothing changed, and the derivative is taken (captum 0.9, DeepLift eps).
constexpr double kNoChange = 1e-10;

thread_local RectifierScope* t_scope = nullptr;

DispatchKeySet below(DispatchKeySet keys) { return keys & DispatchKeySet(DispatchKeySet::FULL_AFTER, kKey); }

/// Neither the rules nor a capture see what a stand-in computes.
struct Hidden {
    c10::impl::ExcludeDispatchKeyGuard rules{kKey};
    c10::impl::ExcludeDispatchKeyGuard capture{c10::DispatchKey::TESTING_ONLY_GenericMode};
};

std::int64_t half_of(const at::Tensor& x) {
    TORCH_CHECK(x.dim() > 0 && x.size(0) % 2 == 0, "an activation of shape ", x.sizes(),
                " does not hold as many baselines as pictures");
    return x.size(0) / 2;
}

/// Quotients of small differences are taken in float32 at least: half precision has no number as small as kNoChange.
at::Tensor wide(const at::Tensor& x) { return at::isReducedFloatingType(x.scalar_type()) ? x.to(at::kFloat) : x; }
/// What changed from baseline to picture.
at::Tensor change(const at::Tensor& x) {
    const std::int64_t half = half_of(x);
    return wide(x.narrow(0, 0, half)) - wide(x.narrow(0, half, half));
}

/// x between low and high, with another way back.
struct Rectified : torch::autograd::Function<Rectified> {
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, double low, double high, bool guided) {
        const Hidden hidden;
        const at::Tensor y = at::clamp(x, low, high);
        context->save_for_backward({x, y});
        context->saved_data["low"] = low;
        context->saved_data["high"] = high;
        context->saved_data["guided"] = guided;
        return y;
    }
    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &y = saved[1], &g = gradients[0];
        const at::Tensor inside =
            (x > context->saved_data["low"].toDouble()).logical_and(x < context->saved_data["high"].toDouble());
        at::Tensor out;
        if (context->saved_data["guided"].toBool()) {
            out = g.clamp_min(0) * inside;
        } else {
            const at::Tensor dx = change(x), slope = change(y) / dx;
            const at::Tensor none = dx.abs() < kNoChange;
            out = g * at::where(at::cat({none, none}), inside.to(dx.scalar_type()), at::cat({slope, slope}))
                          .to(g.scalar_type());
        }
        return {out, at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

/// Max pooling under the rescale rule: of what changed behind a window, the part up to the larger of both maxima is
/// given to the picture's maximum, the rest to the baseline's. Windows may overlap (there captum's unpooling keeps one
/// of the shares only; here they add up, so that nothing is lost).
struct Pooled : torch::autograd::Function<Pooled> {
    /// One argument, so that one gradient is given back for it.
    struct Window {
        std::vector<std::int64_t> kernel, stride, padding, dilation;
        bool ceil;
    };
    static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Window& window) {
        const Hidden hidden;
        auto [y, indices] =
            at::max_pool2d_with_indices(x, window.kernel, window.stride, window.padding, window.dilation, window.ceil);
        context->save_for_backward({x, y, indices});
        context->saved_data["kernel"] = window.kernel;
        context->saved_data["stride"] = window.stride;
        context->saved_data["padding"] = window.padding;
        context->saved_data["dilation"] = window.dilation;
        context->saved_data["ceil"] = window.ceil;
        return y;
    }
    static variable_list backward(AutogradContext* context, const variable_list& gradients) {
        const auto saved = context->get_saved_variables();
        const at::Tensor &x = saved[0], &y = saved[1], &g = gradients[0];
        auto& data = context->saved_data;
        const auto to_maxima = [&](const at::Tensor& values) {
            return at::max_pool2d_with_indices_backward(
                values.contiguous(), x, data["kernel"].toIntVector(), data["stride"].toIntVector(),
                data["padding"].toIntVector(), data["dilation"].toIntVector(), data["ceil"].toBool(), saved[2]);
        };
        const std::int64_t half = half_of(x);
        const at::Tensor picture = y.narrow(0, 0, half), baseline = y.narrow(0, half, half);
        const at::Tensor larger = at::maximum(picture, baseline);
        const at::Tensor shares = to_maxima(g * at::cat({larger - baseline, picture - larger}));
        const at::Tensor both = shares.narrow(0, 0, half) + shares.narrow(0, half, half);
        const at::Tensor dx = change(x);
        const at::Tensor out =
            at::where(dx.abs() < kNoChange, wide(to_maxima(g).narrow(0, 0, half)), wide(both) / dx).to(g.scalar_type());
        return {at::cat({out, out}), at::Tensor()};
    }
};

/// What stands in for an activation that clamps; nothing where the rule does not hold for it.
std::optional<at::Tensor> rectify(const at::Tensor& x, double low, double high, const char* name) {
    if (t_scope == nullptr) return std::nullopt;
    const bool guided = t_scope->rule == PassRule::Guided;
    if (guided && (low != 0 || high != kInfinity)) {
        t_scope->others.insert(name);
        return std::nullopt;
    }
    ++t_scope->seen;
    return Rectified::apply(x, low, high, guided);
}

/// The same where x itself is written over: the graph needs what was there before.
bool rectify_in_place(at::Tensor& x, double low, double high, const char* name) {
    if (t_scope == nullptr) return false;
    const auto y = rectify(x.clone(), low, high, name);
    if (y) x.copy_(*y);
    return y.has_value();
}

using OptionalScalar = std::optional<at::Scalar>;
double low_of(const OptionalScalar& low) { return low ? low->toDouble() : -kInfinity; }
double high_of(const OptionalScalar& high) { return high ? high->toDouble() : kInfinity; }
const char* clamp_name(const OptionalScalar& high) { return high ? "relu6" : "clamp"; }

at::Tensor relu(DispatchKeySet keys, const at::Tensor& x) {
    if (auto y = rectify(x, 0, kInfinity, "relu")) return *y;
    return at::_ops::relu::redispatch(below(keys), x);
}
at::Tensor& relu_in_place(DispatchKeySet keys, at::Tensor& x) {
    return rectify_in_place(x, 0, kInfinity, "relu") ? x : at::_ops::relu_::redispatch(below(keys), x);
}
at::Tensor clamp(DispatchKeySet keys, const at::Tensor& x, const OptionalScalar& low, const OptionalScalar& high) {
    if (auto y = rectify(x, low_of(low), high_of(high), clamp_name(high))) return *y;
    return at::_ops::clamp::redispatch(below(keys), x, low, high);
}
at::Tensor& clamp_in_place(DispatchKeySet keys, at::Tensor& x, const OptionalScalar& low, const OptionalScalar& high) {
    return rectify_in_place(x, low_of(low), high_of(high), clamp_name(high))
               ? x
               : at::_ops::clamp_::redispatch(below(keys), x, low, high);
}
at::Tensor clamp_min(DispatchKeySet keys, const at::Tensor& x, const at::Scalar& low) {
    if (auto y = rectify(x, low.toDouble(), kInfinity, "clamp_min")) return *y;
    return at::_ops::clamp_min::redispatch(below(keys), x, low);
}
at::Tensor& clamp_min_in_place(DispatchKeySet keys, at::Tensor& x, const at::Scalar& low) {
    return rectify_in_place(x, low.toDouble(), kInfinity, "clamp_min")
               ? x
               : at::_ops::clamp_min_::redispatch(below(keys), x, low);
}
at::Tensor hardtanh(DispatchKeySet keys, const at::Tensor& x, const at::Scalar& low, const at::Scalar& high) {
    if (auto y = rectify(x, low.toDouble(), high.toDouble(), "relu6")) return *y;
    return at::_ops::hardtanh::redispatch(below(keys), x, low, high);
}
at::Tensor& hardtanh_in_place(DispatchKeySet keys, at::Tensor& x, const at::Scalar& low, const at::Scalar& high) {
    return rectify_in_place(x, low.toDouble(), high.toDouble(), "relu6")
               ? x
               : at::_ops::hardtanh_::redispatch(below(keys), x, low, high);
}
at::Tensor max_pool(DispatchKeySet keys, const at::Tensor& x, at::IntArrayRef kernel, at::IntArrayRef stride,
                    at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil) {
    if (t_scope != nullptr && t_scope->rule == PassRule::Rescale && x.dim() == 4)
        return Pooled::apply(x, Pooled::Window{kernel.vec(), stride.vec(), padding.vec(), dilation.vec(), ceil});
    return at::_ops::max_pool2d::redispatch(below(keys), x, kernel, stride, padding, dilation, ceil);
}

std::string short_name(const c10::OperatorHandle& op) {
    std::string name = op.schema().name();
    name = name.substr(name.rfind(':') + 1);
    while (name.starts_with('_')) name.erase(0, 1);
    while (name.ends_with('_')) name.pop_back();
    return name;
}

/// Nonlinear operators without a rule are noted and run as they are.
void note_always(const c10::OperatorHandle& op, DispatchKeySet keys, torch::jit::Stack* stack) {
    if (t_scope != nullptr) t_scope->others.insert(short_name(op));
    op.redispatchBoxed(below(keys), stack);
}
/// Those that guided backprop passes as they are.
void note_under_rescale(const c10::OperatorHandle& op, DispatchKeySet keys, torch::jit::Stack* stack) {
    if (t_scope != nullptr && t_scope->rule == PassRule::Rescale) t_scope->others.insert(short_name(op));
    op.redispatchBoxed(below(keys), stack);
}

}  // namespace

Result<Run> run_under(PassRule rule, ExplainContext& context, const Objective& objective, const at::Tensor& pixels) {
    RectifierScope scope(rule);
    Run out = VITRINE_TRY(run_with_graph(context, objective, pixels));
    const char* const name = rule == PassRule::Guided ? "guided backprop" : "the rescale rule";
    if (!scope.others.empty())
        return fail(ErrorCode::Unsupported, "{} runs {}, which {} does not cover", context.model.info().name,
                    fmt::join(scope.others, ", "), name);
    if (scope.seen == 0)
        return fail(ErrorCode::Unsupported, "{} runs no activation that {} covers", context.model.info().name, name);
    return out;
}

RectifierScope::RectifierScope(PassRule rule_) : rule(rule_), previous_(std::exchange(t_scope, this)), guard_(kKey) {}
RectifierScope::~RectifierScope() { t_scope = previous_; }

}  // namespace vitrine::plugin::gradient

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericWrapper, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, TESTING_ONLY_GenericWrapper, m) {
    using namespace vitrine::plugin::gradient;
    m.impl("relu", TORCH_FN(relu));
    m.impl("relu_", TORCH_FN(relu_in_place));
    m.impl("clamp", TORCH_FN(clamp));
    m.impl("clamp_", TORCH_FN(clamp_in_place));
    m.impl("clamp_min", TORCH_FN(clamp_min));
    m.impl("clamp_min_", TORCH_FN(clamp_min_in_place));
    m.impl("hardtanh", TORCH_FN(hardtanh));
    m.impl("hardtanh_", TORCH_FN(hardtanh_in_place));
    m.impl("max_pool2d", TORCH_FN(max_pool));
    for (const char* name : {"gelu",       "gelu_",         "silu",        "silu_",
                             "mish",       "mish_",         "hardswish",   "hardswish_",
                             "sigmoid",    "sigmoid_",      "hardsigmoid", "hardsigmoid_",
                             "tanh",       "tanh_",         "elu",         "elu_",
                             "selu",       "selu_",         "celu",        "celu_",
                             "leaky_relu", "leaky_relu_",   "softplus",    "threshold",
                             "threshold_", "_prelu_kernel", "_softmax",    "_log_softmax",
                             "abs",        "maximum",       "minimum",     "scaled_dot_product_attention"})
        m.impl(name, torch::CppFunction::makeFromBoxedFunction<&note_always>());
    for (const char* name : {"native_layer_norm", "native_group_norm", "max_pool2d_with_indices", "adaptive_max_pool2d",
                             "max_pool1d_with_indices", "max_pool3d_with_indices"})
        m.impl(name, torch::CppFunction::makeFromBoxedFunction<&note_under_rescale>());
}
