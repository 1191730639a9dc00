// Hands tensors of a CUDA device to the kernels there, on libtorch's stream and with scratch of its allocator.
#include "device_attention.h"

#include <cstdlib>
#include <cstring>
#include <optional>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/accumulate.h>

#include <vitrine/kernels/cuda/floor.h>

namespace vitrine {

#if VITRINE_DEVICE_KERNELS

namespace {

namespace cuda = kernels::cuda;
using cuda::DeviceAttention;
using cuda::DeviceGradient;
using cuda::Operation;

/// The name that VITRINE_KERNEL forces; empty is none.
std::string forced() {
    const char* name = std::getenv("VITRINE_KERNEL");
    return name != nullptr ? name : "";
}

std::optional<cuda::Element> element_of(const at::Tensor& x) {
    switch (x.scalar_type()) {
        case at::kFloat:
            return cuda::Element::F32;
        case at::kHalf:
            return cuda::Element::F16;
        case at::kBFloat16:
            return cuda::Element::BF16;
        default:
            return {};
    }
}

at::Tensor last_stride_one(at::Tensor x) { return x.size(-1) > 1 && x.stride(-1) != 1 ? x.contiguous() : x; }

at::TensorOptions floats_beside(const at::Tensor& x) {
    return at::TensorOptions().dtype(at::kFloat).device(x.device());
}

/// One call of a kernel: the implementation is chosen, the tensors' device is current, libtorch's stream is given.
class Call {
  public:
    Call(Operation operation, const DeviceReady& ready, const DeviceGradient* gradient = nullptr,
         kernels::SweepFunctor functor = kernels::SweepFunctor::PdP)
        : operation_(operation), guard_(ready.q.device()) {
        const at::Device device = guard_.current_device();
        const std::string name = forced();
        const auto chosen = cuda::choose(operation, ready.params, cuda::compute_capability(device.index()), gradient,
                                         functor, name.c_str());
        problem_ = chosen.problem;
        launch_.implementation = chosen.implementation;
        launch_.stream = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(device).native_handle();
    }
    const char* problem() const { return problem_; }
    cuda::Launch& launch() { return launch_; }
    void scratch(const at::Tensor& beside, std::size_t bytes) {
        workspace_ = at::empty({static_cast<std::int64_t>(bytes)}, beside.options().dtype(at::kByte));
        launch_.workspace = workspace_.data_ptr();
        launch_.workspace_bytes = bytes;
    }
    /// What the kernel said, as a Status; notes what ran.
    Status done(const char* problem, std::string& shown) {
        if (problem != nullptr)
            return fail(ErrorCode::Unsupported, "{} cannot run on this device: {}", cuda::name_of(operation_), problem);
        shown = std::string(cuda::name_of(operation_)) + " " + cuda::name_of(launch_.implementation);
        return {};
    }

  private:
    Operation operation_;
    c10::DeviceGuard guard_;
    const char* problem_ = nullptr;
    cuda::Launch launch_;
    at::Tensor workspace_;
};

/// Numbers as the kernels take them: few by value, many in device memory.
struct List {
    at::Tensor there;
    cuda::Listed listed;
    List(const Indices& numbers, at::Device device) {
        listed.count = static_cast<std::int64_t>(numbers.size());
        if (listed.count <= cuda::kMaxListed) {
            listed.host = numbers.data();
        } else {
            there = at::tensor(numbers).to(device);
            listed.device = there.data_ptr<std::int64_t>();
        }
    }
};

bool is_all(const Indices& heads, std::int64_t count) {
    if (static_cast<std::int64_t>(heads.size()) != count) return false;
    for (std::int64_t h = 0; h < count; ++h)
        if (heads[static_cast<std::size_t>(h)] != h) return false;
    return true;
}

/// The chosen heads as maps of their own, and where each writes in `out`, whose first axis they are.
void by_heads(const DeviceReady& ready, const Indices& heads, const at::Tensor& out, std::vector<DeviceAttention>& maps,
              std::vector<float*>& to) {
    if (is_all(heads, ready.params.heads)) {
        maps.push_back(ready.params);
        to.push_back(out.data_ptr<float>());
        return;
    }
    for (std::size_t i = 0; i < heads.size(); ++i) {
        maps.push_back(cuda::one_head(ready.params, heads[i]));
        to.push_back(out.data_ptr<float>() + static_cast<std::int64_t>(i) * out.stride(0));
    }
}

/// What an implementation that runs for the one can run for the other.
bool same_kind(const DeviceAttention& a, const DeviceAttention& b) {
    const auto facts = [](const DeviceAttention& x) {
        return std::tuple(x.element, x.heads, x.key_heads, x.queries, x.keys, x.head_dim, x.q_stride[0], x.q_stride[1],
                          x.k_stride[0], x.k_stride[1], x.bias != nullptr, x.mask != nullptr, x.causal, x.softcap,
                          reinterpret_cast<std::uintptr_t>(x.q) % 16, reinterpret_cast<std::uintptr_t>(x.k) % 16);
    };
    return facts(a) == facts(b);
}

void set_strides(std::int64_t strides[2], const at::Tensor& x) {
    strides[0] = x.stride(0);
    strides[1] = x.stride(1);
}

}  // namespace

bool device_kernels_take(const at::Tensor& q) {
    if (!q.defined() || !q.is_cuda() || !element_of(q)) return false;
    const std::string name = forced();
    return name.empty() || name.rfind("cuda_", 0) == 0;
}

Result<DeviceReady> prepare_device(const at::Tensor& q, const at::Tensor& k, const std::vector<ScoreTerm>& terms,
                                   std::vector<std::int64_t> like, double scale, bool causal, const at::Tensor& lse) {
    DeviceReady made;
    made.q = last_stride_one(q.detach());
    made.k = last_stride_one(k.detach().to(q.scalar_type()));
    DeviceAttention& p = made.params;
    p.element = *element_of(made.q);
    p.q = made.q.data_ptr();
    p.k = made.k.data_ptr();
    set_strides(p.q_stride, made.q);
    set_strides(p.k_stride, made.k);
    p.heads = made.q.size(0);
    p.key_heads = made.k.size(0);
    p.queries = made.q.size(1);
    p.keys = made.k.size(1);
    p.head_dim = made.q.size(2);
    p.scale = static_cast<float>(scale);
    p.causal = causal;
    like.push_back(p.keys);
    for (const ScoreTerm& term : terms) {
        at::Tensor one = term.tensor.detach().to(q.device());
        while (one.dim() > static_cast<std::int64_t>(like.size()) && one.size(0) == 1) one = one.select(0, 0);
        if (term.kind == ScoreTerm::Kind::Add) {
            one = one.to(at::kFloat);
            if (term.factor != 1) one = one * term.factor;
            made.bias = made.bias.defined() ? made.bias + one : one;
        } else {
            one = one.to(at::kBool);
            if (term.kind == ScoreTerm::Kind::DropWhereTrue) one = one.logical_not();
            made.mask = made.mask.defined() ? at::logical_and(made.mask, one) : one;
        }
    }
    if (made.bias.defined()) {
        made.bias = as_heads(made.bias.expand(like));
        p.bias = made.bias.data_ptr<float>();
        for (int axis = 0; axis < 3; ++axis) p.bias_stride[axis] = made.bias.stride(axis);
    }
    if (made.mask.defined()) {
        made.mask = as_heads(made.mask.expand(like));
        p.mask = static_cast<const std::uint8_t*>(made.mask.data_ptr());
        for (int axis = 0; axis < 3; ++axis) p.mask_stride[axis] = made.mask.stride(axis);
    }
    if (lse.defined()) {
        made.lse = lse.detach().to(at::kFloat).contiguous();
    } else {
        made.lse = at::empty({p.heads, p.queries}, floats_beside(made.q));
        Call call(Operation::LogSumExp, made);
        std::string shown;
        VITRINE_CHECK(call.done(call.problem(), shown));
        VITRINE_CHECK(call.done(cuda::log_sum_exp(p, made.lse.data_ptr<float>(), call.launch()), shown));
    }
    p.lse = made.lse.data_ptr<float>();
    return made;
}

Result<at::Tensor> device_rows(const DeviceReady& ready, const Indices& heads, const Indices& queries,
                               std::string& shown) {
    const DeviceAttention& p = ready.params;
    at::Tensor out =
        at::empty({static_cast<std::int64_t>(heads.size()), static_cast<std::int64_t>(queries.size()), p.keys},
                  floats_beside(ready.q));
    std::vector<DeviceAttention> maps;
    std::vector<float*> to;
    by_heads(ready, heads, out, maps, to);
    Call call(Operation::MapRows, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    const List list(queries, ready.q.device());
    VITRINE_CHECK(call.done(cuda::map_rows(maps, list.listed, to, {}, call.launch()), shown));
    return out;
}

Result<at::Tensor> device_columns(const DeviceReady& ready, const Indices& heads, const Indices& keys,
                                  std::string& shown) {
    const DeviceAttention& p = ready.params;
    at::Tensor out =
        at::empty({static_cast<std::int64_t>(heads.size()), p.queries, static_cast<std::int64_t>(keys.size())},
                  floats_beside(ready.q));
    std::vector<DeviceAttention> maps;
    std::vector<float*> to;
    by_heads(ready, heads, out, maps, to);
    Call call(Operation::MapColumns, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    const List list(keys, ready.q.device());
    VITRINE_CHECK(call.done(cuda::map_columns(maps, list.listed, to, {}, call.launch()), shown));
    return out;
}

Result<at::Tensor> device_tile(const DeviceReady& ready, const Indices& heads, std::int64_t q0, std::int64_t q1,
                               std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling,
                               std::string& shown) {
    at::Tensor out =
        at::empty({static_cast<std::int64_t>(heads.size()), (q1 - q0 + pool - 1) / pool, (k1 - k0 + pool - 1) / pool},
                  floats_beside(ready.q));
    std::vector<DeviceAttention> maps;
    std::vector<float*> to;
    by_heads(ready, heads, out, maps, to);
    Call call(Operation::MapTile, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    for (std::size_t i = 0; i < maps.size(); ++i)
        VITRINE_CHECK(
            call.done(cuda::map_tile(maps[i], q0, q1, k0, k1, pool, false, pooling == Pooling::Mean ? to[i] : nullptr,
                                     pooling == Pooling::Max ? to[i] : nullptr, call.launch()),
                      shown));
    return out;
}

Result<at::Tensor> device_left(const DeviceReady& ready, const at::Tensor& r, std::string& shown) {
    const DeviceAttention& p = ready.params;
    at::Tensor out = at::empty({p.heads, p.keys}, floats_beside(ready.q));
    Call call(Operation::MapSweep, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    call.scratch(ready.q, cuda::sweep_workspace(p));
    VITRINE_CHECK(call.done(cuda::map_sweep(p, r.data_ptr<float>(), r.size(0) == 1 ? 0 : p.queries,
                                            out.data_ptr<float>(), {}, call.launch()),
                            shown));
    return out;
}

Result<at::Tensor> device_walk(std::span<const DeviceReady* const> layers, const std::vector<bool>& residual,
                               const at::Tensor& r, std::string& shown) {
    // One piece of scratch and two results that take turns: a step is three launches, and little may stand between
    // them.
    std::int64_t most_keys = 0;
    std::size_t scratch = 0;
    for (const DeviceReady* layer : layers) {
        most_keys = std::max(most_keys, layer->params.keys);
        scratch = std::max(scratch, cuda::sweep_workspace(layer->params));
    }
    const at::Tensor turns = at::empty({2, most_keys}, floats_beside(layers.front()->q));
    const float* from = r.data_ptr<float>();
    float* to = turns.data_ptr<float>();
    std::optional<Call> call;
    const DeviceReady* chosen_for = nullptr;
    for (std::size_t at = layers.size(); at-- > 0;) {
        const DeviceReady& layer = *layers[at];
        if (chosen_for == nullptr || !same_kind(chosen_for->params, layer.params)) {
            call.emplace(Operation::MapSweep, layer);
            VITRINE_CHECK(call->done(call->problem(), shown));
            call->scratch(layer.q, scratch);
            chosen_for = &layer;
        }
        VITRINE_CHECK(call->done(cuda::map_step(layer.params, from, residual[at], to, call->launch()), shown));
        from = to;
        to = turns.data_ptr<float>() + (to == turns.data_ptr<float>() ? most_keys : 0);
    }
    const std::int64_t row = from == turns.data_ptr<float>() ? 0 : 1;
    return turns.select(0, row).narrow(0, 0, layers.front()->params.keys);
}

namespace {

/// With shared keys spelled out, one set a head: for values that are not shared as the keys are.
DeviceReady one_key_head_each(const DeviceReady& ready) {
    DeviceReady each = ready;
    if (each.params.key_heads == each.params.heads) return each;
    each.k = ready.k.repeat_interleave(each.params.heads / each.params.key_heads, 0);
    each.params.k = each.k.data_ptr();
    set_strides(each.params.k_stride, each.k);
    each.params.key_heads = each.params.heads;
    return each;
}

}  // namespace

Result<at::Tensor> device_right(const DeviceReady& ready, const at::Tensor& v, std::string& shown) {
    const DeviceReady each = one_key_head_each(ready);
    const at::Tensor values = last_stride_one(v.detach().to(ready.q.options()));
    DeviceGradient g;
    g.v = values.data_ptr();
    set_strides(g.v_stride, values);
    g.value_dim = values.size(-1);
    at::Tensor out = at::empty({each.params.heads, each.params.queries, g.value_dim}, floats_beside(ready.q));
    Call call(Operation::MapApply, each, &g);
    VITRINE_CHECK(call.done(call.problem(), shown));
    VITRINE_CHECK(call.done(cuda::map_apply(each.params, g, out.data_ptr<float>(), call.launch()), shown));
    return out;
}

Result<at::Tensor> device_sensitivity(const DeviceReady& ready, const at::Tensor& v, const at::Tensor& d_output,
                                      kernels::SweepFunctor functor, const at::Tensor& r, std::string& shown) {
    if (v.size(0) != ready.params.key_heads) {
        if (ready.params.heads % v.size(0) != 0)
            return fail(ErrorCode::Unsupported, "{} heads cannot share {} heads of values", ready.params.heads,
                        v.size(0));
        const DeviceReady each = one_key_head_each(ready);
        if (v.size(0) != each.params.heads)
            return device_sensitivity(each, v.repeat_interleave(each.params.heads / v.size(0), 0), d_output, functor, r,
                                      shown);
        if (ready.params.key_heads != each.params.key_heads)
            return device_sensitivity(each, v, d_output, functor, r, shown);
    }
    const DeviceAttention& p = ready.params;
    const at::Tensor values = last_stride_one(v.detach().to(ready.q.options()));
    const at::Tensor gradient = last_stride_one(d_output.detach().to(ready.q.options()));
    DeviceGradient g;
    g.v = values.data_ptr();
    g.d_out = gradient.data_ptr();
    set_strides(g.v_stride, values);
    set_strides(g.d_out_stride, gradient);
    g.value_dim = values.size(-1);
    at::Tensor out = at::empty({p.heads, p.keys}, floats_beside(ready.q));
    Call call(Operation::MapSweepGradient, ready, &g, functor);
    VITRINE_CHECK(call.done(call.problem(), shown));
    call.scratch(ready.q, cuda::sweep_workspace(p, &g));
    VITRINE_CHECK(call.done(cuda::map_sweep_gradient(p, g, functor, r.data_ptr<float>(), r.size(0) == 1 ? 0 : p.queries,
                                                     out.data_ptr<float>(), call.launch()),
                            shown));
    return out;
}

Result<std::vector<at::Tensor>> device_pieces_of_layers(std::span<const DeviceReady* const> layers,
                                                        const Indices& tokens, bool rows, bool head_mean,
                                                        std::string& shown) {
    const auto count = static_cast<std::int64_t>(tokens.size());
    const auto shape_of = [&](const DeviceAttention& p) {
        std::vector<std::int64_t> shape = rows ? std::vector{count, p.keys} : std::vector{p.queries, count};
        if (!head_mean) shape.insert(shape.begin(), p.heads);
        return shape;
    };
    // One allocation for all: the smaller models' pieces take less time than as many allocations.
    std::int64_t numbers = 0;
    for (const DeviceReady* layer : layers) numbers += c10::multiply_integers(shape_of(layer->params));
    const at::Tensor all = at::empty({numbers}, floats_beside(layers.front()->q));
    std::vector<at::Tensor> pieces;
    std::vector<DeviceAttention> maps;
    std::vector<float*> to;
    float* const first = all.data_ptr<float>();
    std::int64_t at = 0;
    for (const DeviceReady* layer : layers) {
        const std::vector<std::int64_t> shape = shape_of(layer->params);
        std::vector<std::int64_t> strides(shape.size(), 1);
        for (std::size_t d = shape.size() - 1; d > 0; --d) strides[d - 1] = strides[d] * shape[d];
        // Past the dispatcher: narrow() and view() of 24 layers take longer than the kernel does.
        pieces.push_back(at::native::as_strided_tensorimpl(all, shape, strides, at));
        maps.push_back(layer->params);
        to.push_back(first + at);
        at += strides.front() * shape.front();
    }
    Call call(rows ? Operation::MapRows : Operation::MapColumns, *layers.front());
    VITRINE_CHECK(call.done(call.problem(), shown));
    const List list(tokens, all.device());
    const std::span<float*const> none, each(to);
    VITRINE_CHECK(call.done((rows ? cuda::map_rows : cuda::map_columns)(maps, list.listed, head_mean ? none : each,
                                                                        head_mean ? each : none, call.launch()),
                            shown));
    return pieces;
}

namespace {

cuda::Fusion fusion_of(kernels::HeadFusion fusion) {
    return fusion == kernels::HeadFusion::Mean  ? cuda::Fusion::Mean
           : fusion == kernels::HeadFusion::Max ? cuda::Fusion::Max
                                                : cuda::Fusion::Min;
}

cuda::FusedDropped dropped_of(const kernels::Dropped& dropped) {
    return {dropped.threshold, dropped.tie_end, dropped.kept_key, dropped.kept_queries};
}

}  // namespace

Result<at::Tensor> device_fused_rows(const DeviceReady& ready, kernels::HeadFusion fusion, const Indices& queries,
                                     std::string& shown) {
    at::Tensor out = at::empty({static_cast<std::int64_t>(queries.size()), ready.params.keys}, floats_beside(ready.q));
    Call call(Operation::Fused, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    call.scratch(ready.q, cuda::fused_workspace(ready.params));
    const List list(queries, ready.q.device());
    VITRINE_CHECK(call.done(
        cuda::fused_rows(ready.params, fusion_of(fusion), list.listed, out.data_ptr<float>(), call.launch()), shown));
    return out;
}

Result<at::Tensor> device_fused_left(const DeviceReady& ready, kernels::HeadFusion fusion, const at::Tensor& r,
                                     const kernels::Dropped& dropped, std::string& shown) {
    at::Tensor out = at::empty({ready.params.keys}, floats_beside(ready.q));
    Call call(Operation::Fused, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    call.scratch(ready.q, cuda::fused_workspace(ready.params));
    VITRINE_CHECK(call.done(cuda::fused_sweep(ready.params, fusion_of(fusion), dropped_of(dropped), r.data_ptr<float>(),
                                              out.data_ptr<float>(), call.launch()),
                            shown));
    return out;
}

Result<at::Tensor> device_fused_row_sums(const DeviceReady& ready, kernels::HeadFusion fusion,
                                         const kernels::Dropped& dropped, std::string& shown) {
    at::Tensor out = at::empty({ready.params.queries}, floats_beside(ready.q));
    Call call(Operation::Fused, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    call.scratch(ready.q, cuda::fused_workspace(ready.params));
    VITRINE_CHECK(call.done(cuda::fused_row_sums(ready.params, fusion_of(fusion), dropped_of(dropped),
                                                 out.data_ptr<float>(), call.launch()),
                            shown));
    return out;
}

Result<at::Tensor> device_fused_counts(const DeviceReady& ready, kernels::HeadFusion fusion, std::uint32_t first,
                                       int shift, std::int64_t bins, std::string& shown) {
    at::Tensor out = at::empty({bins + 1}, ready.q.options().dtype(at::kLong));
    Call call(Operation::Fused, ready);
    VITRINE_CHECK(call.done(call.problem(), shown));
    call.scratch(ready.q, cuda::fused_workspace(ready.params));
    auto* counts = out.data_ptr<std::int64_t>();
    VITRINE_CHECK(call.done(cuda::fused_histogram(ready.params, fusion_of(fusion), first, shift, bins, counts,
                                                  counts + bins, call.launch()),
                            shown));
    return out;
}

Result<std::int64_t> device_exponentials(at::Device device) {
    const c10::DeviceGuard guard(device);
    cuda::Launch launch;
    launch.stream =
        c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(guard.current_device()).native_handle();
    std::int64_t count = 0;
    if (const char* problem = cuda::exponentials(count, launch)) return fail(ErrorCode::Internal, "{}", problem);
    return count;
}

#else  // without the kernels nothing is taken, and nothing below is reached

bool device_kernels_take(const at::Tensor&) { return false; }

namespace {
tl::unexpected<Error> absent() { return fail(ErrorCode::Internal, "the device kernels are not in this build"); }
}  // namespace

Result<DeviceReady> prepare_device(const at::Tensor&, const at::Tensor&, const std::vector<ScoreTerm>&,
                                   std::vector<std::int64_t>, double, bool, const at::Tensor&) {
    return absent();
}
Result<at::Tensor> device_rows(const DeviceReady&, const Indices&, const Indices&, std::string&) { return absent(); }
Result<at::Tensor> device_columns(const DeviceReady&, const Indices&, const Indices&, std::string&) { return absent(); }
Result<at::Tensor> device_tile(const DeviceReady&, const Indices&, std::int64_t, std::int64_t, std::int64_t,
                               std::int64_t, std::int64_t, Pooling, std::string&) {
    return absent();
}
Result<at::Tensor> device_left(const DeviceReady&, const at::Tensor&, std::string&) { return absent(); }
Result<at::Tensor> device_walk(std::span<const DeviceReady* const>, const std::vector<bool>&, const at::Tensor&,
                               std::string&) {
    return absent();
}
Result<at::Tensor> device_right(const DeviceReady&, const at::Tensor&, std::string&) { return absent(); }
Result<at::Tensor> device_sensitivity(const DeviceReady&, const at::Tensor&, const at::Tensor&, kernels::SweepFunctor,
                                      const at::Tensor&, std::string&) {
    return absent();
}
Result<std::vector<at::Tensor>> device_pieces_of_layers(std::span<const DeviceReady* const>, const Indices&, bool, bool,
                                                        std::string&) {
    return absent();
}

Result<at::Tensor> device_fused_rows(const DeviceReady&, kernels::HeadFusion, const Indices&, std::string&) {
    return absent();
}
Result<at::Tensor> device_fused_left(const DeviceReady&, kernels::HeadFusion, const at::Tensor&,
                                     const kernels::Dropped&, std::string&) {
    return absent();
}
Result<at::Tensor> device_fused_row_sums(const DeviceReady&, kernels::HeadFusion, const kernels::Dropped&,
                                         std::string&) {
    return absent();
}
Result<at::Tensor> device_fused_counts(const DeviceReady&, kernels::HeadFusion, std::uint32_t, int, std::int64_t,
                                       std::string&) {
    return absent();
}

Result<std::int64_t> device_exponentials(at::Device) { return absent(); }

#endif

}  // namespace vitrine
