// Recognises spelled-out attention: the table of tensors, and the operators that lead from queries and keys to an
// output.
#include "intercept_unfused.h"

#include "intercept.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_softmax_ops.h>
#include <ATen/ops/_to_copy_ops.h>
#include <ATen/ops/add_ops.h>
#include <ATen/ops/baddbmm_ops.h>
#include <ATen/ops/bmm_ops.h>
#include <ATen/ops/clone_ops.h>
#include <ATen/ops/div_ops.h>
#include <ATen/ops/dropout_ops.h>
#include <ATen/ops/masked_fill_ops.h>
#include <ATen/ops/matmul_ops.h>
#include <ATen/ops/mul_ops.h>
#include <ATen/ops/sub_ops.h>
#include <ATen/ops/where_ops.h>
#include <torch/library.h>

namespace vitrine {
namespace {

/// Attention is followed through few steps; older tensors of a layer are of no use.
constexpr std::size_t kRemembered = 12;
/// What models write for "masked": -1e4 and below, down to minus infinity. Their scores are far above.
constexpr double kMaskedBelow = -9999;

std::uint32_t version_of(const at::Tensor& x) { return x.is_inference() ? 0 : x._version(); }

std::int64_t stack_of(const at::Tensor& x) {
    std::int64_t count = 1;
    for (std::int64_t axis = 0; axis < x.dim() - 2; ++axis) count *= x.size(axis);
    return count;
}

}  // namespace

UnfusedTracker::UnfusedTracker(Recorder& recorder) : recorder_(recorder) {}

std::optional<UnfusedTracker::Node> UnfusedTracker::find(const at::Tensor& x) const {
    if (entries_.empty() || !x.defined() || x.dim() < 3 || !x.has_storage()) return {};
    const auto* storage = x.storage().unsafeGetStorageImpl();
    for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
        if (entry->storage._unsafe_get_target() != storage || entry->storage.expired()) continue;
        const Node& node = entry->node;
        if (entry->version != version_of(x) || node.numel != x.numel() || node.rows != x.size(-2) ||
            node.cols != x.size(-1) || x.storage_offset() != 0 || !x.is_contiguous())
            return {};
        return node;
    }
    return {};
}

void UnfusedTracker::put(const at::Tensor& out, Node node) {
    if (!out.has_storage() || out.dim() < 3) return;
    const auto* storage = out.storage().unsafeGetStorageImpl();
    std::erase_if(entries_,
                  [&](const Entry& e) { return e.storage.expired() || e.storage._unsafe_get_target() == storage; });
    if (entries_.size() >= kRemembered) entries_.erase(entries_.begin());
    node.rows = out.size(-2);
    node.cols = out.size(-1);
    node.numel = out.numel();
    entries_.push_back({out.storage().getWeakStorageImpl(), version_of(out), std::move(node)});
}

void UnfusedTracker::scores(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out, double scale) {
    // Queries and keys are stacks of matrices with the same heads; a weight on either side is not.
    if (a.dim() < 3 || b.dim() < 3 || !at::isFloatingType(out.scalar_type()) || stack_of(a) != stack_of(b)) return;
    Node node;
    node.q = a;
    node.kt = b;
    node.scale = scale;
    put(out, std::move(node));
}

void UnfusedTracker::scaled(std::optional<Node> in, double factor, const at::Tensor& out) {
    if (!in || in->is_map || !(factor > 0)) return;
    in->scale *= factor;
    for (ScoreTerm& term : in->terms) term.factor *= factor;
    put(out, std::move(*in));
}

void UnfusedTracker::added(std::optional<Node> in, const at::Tensor& other, double factor, const at::Tensor& out) {
    if (!in || in->is_map || other.dim() > out.dim() || out.numel() != in->numel || find(other)) return;
    in->terms.push_back({as_heads(other.expand(out.sizes())), ScoreTerm::Kind::Add, factor});
    put(out, std::move(*in));
}

void UnfusedTracker::masked(std::optional<Node> in, const at::Tensor& mask, bool drop_where_true, double value,
                            const at::Tensor& out) {
    if (!in || in->is_map || !(value < kMaskedBelow) || mask.dim() > out.dim() || out.numel() != in->numel) return;
    in->terms.push_back({as_heads(mask.expand(out.sizes())),
                         drop_where_true ? ScoreTerm::Kind::DropWhereTrue : ScoreTerm::Kind::KeepWhereTrue, 1});
    put(out, std::move(*in));
}

void UnfusedTracker::softmaxed(std::optional<Node> in, std::int64_t dim, const at::Tensor& out) {
    if (out.dim() < 3 || out.size(-2) < 1) return;
    const bool over_last = dim == -1 || dim == out.dim() - 1;
    const bool square = out.size(-1) > 1 && out.size(-1) == out.size(-2);
    if (square) ++maps_made_;
    if (!over_last) return;
    Node node = in && !in->is_map ? std::move(*in) : Node{};
    node.recognised = node.q.defined();
    node.is_map = true;
    put(out, std::move(node));
}

void UnfusedTracker::passed(std::optional<Node> in, const at::Tensor& out) {
    if (in) put(out, std::move(*in));
}

std::optional<at::Tensor> UnfusedTracker::product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out) {
    std::optional<Node> node = find(a);
    if (!node || !node->is_map || b.dim() < 2 || b.size(-2) != node->cols) return {};
    if (node->rows == node->cols && node->cols > 1) ++maps_used_;
    const at::Tensor values = b.dim() == 2 ? b.expand({stack_of(a), b.size(0), b.size(1)}) : b;
    if (!node->recognised || stack_of(node->q) != stack_of(values) || stack_of(node->kt) != stack_of(values)) {
        if (!recorder_.options().gradients) return recorder_.keep(a, values, out);
        // The map that is kept must be what the output was made of, or it has no gradient.
        at::Tensor map = a;
        const at::Tensor used = recorder_.through_heads(map);
        const c10::impl::ExcludeDispatchKeyGuard hidden(kInterceptionKey);
        return recorder_.keep(map, values, used.matmul(b));
    }
    SoftmaxParts parts;
    parts.q = node->q;
    parts.k = node->kt.transpose(-2, -1);
    parts.v = values;
    parts.output = out;
    parts.scale = node->scale;
    parts.terms = std::move(node->terms);
    // Terms were kept as [heads, queries, keys]; windows and heads are two axes of the queries.
    if (parts.q.dim() > 3)
        for (ScoreTerm& term : parts.terms)
            term.tensor = term.tensor.unflatten(0, parts.q.sizes().slice(0, parts.q.dim() - 2));
    parts.source = "matmul and softmax";
    const std::int64_t pictures = parts.q.dim() >= 4 ? parts.q.size(0) : 1;
    return recorder_.keep(std::move(parts), pictures);
}

// ---- the operators
// ----------------------------------------------------------------------------------------------------------

namespace {

using c10::DispatchKeySet;
using Found = std::optional<UnfusedTracker::Node>;

/// The tracker of this run, or null when nobody wants mixings. Looks at the stop token on the way.
UnfusedTracker* tracker() {
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr) return nullptr;
    recorder->tick();
    return recorder->wants_mixings() ? &recorder->tracker() : nullptr;
}

std::optional<double> number_in(const at::Tensor& x) {
    if (x.numel() != 1 || x.dim() > 1 || !at::isFloatingType(x.scalar_type())) return {};
    return x.item<double>();
}

at::Tensor multiplied(UnfusedTracker* follow, const at::Tensor& a, const at::Tensor& b, at::Tensor out) {
    if (follow == nullptr) return out;
    if (const auto product = follow->product(a, b, out)) return *product;
    follow->scores(a, b, out);
    return out;
}

at::Tensor matmul(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
    UnfusedTracker* follow = tracker();
    at::Tensor out;
    {
        // It calls bmm, which is intercepted as well: here the shapes still tell batch from heads.
        const c10::impl::ExcludeDispatchKeyGuard hidden(kInterceptionKey);
        out = at::_ops::matmul::redispatch(below(keys), a, b);
    }
    return multiplied(follow, a, b, std::move(out));
}

at::Tensor bmm(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
    UnfusedTracker* follow = tracker();
    return multiplied(follow, a, b, at::_ops::bmm::redispatch(below(keys), a, b));
}

at::Tensor baddbmm(DispatchKeySet keys, const at::Tensor& input, const at::Tensor& a, const at::Tensor& b,
                   const at::Scalar& beta, const at::Scalar& alpha) {
    UnfusedTracker* follow = tracker();
    at::Tensor out = at::_ops::baddbmm::redispatch(below(keys), input, a, b, beta, alpha);
    if (follow == nullptr || !(alpha.toDouble() > 0)) return out;
    follow->scores(a, b, out, alpha.toDouble());
    // With beta 0 the input may hold anything and is not read.
    if (beta.toDouble() != 0) follow->added(follow->find(out), input, beta.toDouble(), out);
    return out;
}

at::Tensor mul(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
    UnfusedTracker* follow = tracker();
    Found first, second;
    if (follow != nullptr && (first = follow->find(a), !first)) second = follow->find(b);
    at::Tensor out = at::_ops::mul_Tensor::redispatch(below(keys), a, b);
    if (first || second)
        if (const auto factor = number_in(first ? b : a))
            follow->scaled(first ? std::move(first) : std::move(second), *factor, out);
    return out;
}

at::Tensor mul_scalar(DispatchKeySet keys, const at::Tensor& a, const at::Scalar& b) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::Tensor out = at::_ops::mul_Scalar::redispatch(below(keys), a, b);
    if (found) follow->scaled(std::move(found), b.toDouble(), out);
    return out;
}

at::Tensor& mul_in_place(DispatchKeySet keys, at::Tensor& a, const at::Tensor& b) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::_ops::mul__Tensor::redispatch(below(keys), a, b);
    if (found)
        if (const auto factor = number_in(b)) follow->scaled(std::move(found), *factor, a);
    return a;
}

at::Tensor& mul_scalar_in_place(DispatchKeySet keys, at::Tensor& a, const at::Scalar& b) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::_ops::mul__Scalar::redispatch(below(keys), a, b);
    if (found) follow->scaled(std::move(found), b.toDouble(), a);
    return a;
}

at::Tensor div(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::Tensor out = at::_ops::div_Tensor::redispatch(below(keys), a, b);
    if (found)
        if (const auto divisor = number_in(b)) follow->scaled(std::move(found), 1 / *divisor, out);
    return out;
}

at::Tensor div_scalar(DispatchKeySet keys, const at::Tensor& a, const at::Scalar& b) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::Tensor out = at::_ops::div_Scalar::redispatch(below(keys), a, b);
    if (found) follow->scaled(std::move(found), 1 / b.toDouble(), out);
    return out;
}

at::Tensor& div_in_place(DispatchKeySet keys, at::Tensor& a, const at::Tensor& b) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::_ops::div__Tensor::redispatch(below(keys), a, b);
    if (found)
        if (const auto divisor = number_in(b)) follow->scaled(std::move(found), 1 / *divisor, a);
    return a;
}

at::Tensor& div_scalar_in_place(DispatchKeySet keys, at::Tensor& a, const at::Scalar& b) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::_ops::div__Scalar::redispatch(below(keys), a, b);
    if (found) follow->scaled(std::move(found), 1 / b.toDouble(), a);
    return a;
}

at::Tensor add(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b, const at::Scalar& alpha) {
    UnfusedTracker* follow = tracker();
    Found first, second;
    if (follow != nullptr && (first = follow->find(a), !first) && alpha.toDouble() == 1) second = follow->find(b);
    at::Tensor out = at::_ops::add_Tensor::redispatch(below(keys), a, b, alpha);
    if (first) follow->added(std::move(first), b, alpha.toDouble(), out);
    if (second) follow->added(std::move(second), a, 1, out);
    Recorder* recorder = Recorder::current();
    if (recorder != nullptr && recorder->wants_points() && !recorder->inside_operator)
        return recorder->module_point("add", std::move(out));
    return out;
}

at::Tensor& add_in_place(DispatchKeySet keys, at::Tensor& a, const at::Tensor& b, const at::Scalar& alpha) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::_ops::add__Tensor::redispatch(below(keys), a, b, alpha);
    if (found) follow->added(std::move(found), b, alpha.toDouble(), a);
    Recorder* recorder = Recorder::current();
    if (recorder != nullptr && recorder->wants_points() && !recorder->inside_operator) {
        const at::Tensor goes_on = recorder->module_point("add", a);
        if (!goes_on.is_same(a)) a.copy_(goes_on);
    }
    return a;
}

at::Tensor sub(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b, const at::Scalar& alpha) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::Tensor out = at::_ops::sub_Tensor::redispatch(below(keys), a, b, alpha);
    if (found) follow->added(std::move(found), b, -alpha.toDouble(), out);
    return out;
}

at::Tensor masked_fill(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& mask, const at::Scalar& value) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::Tensor out = at::_ops::masked_fill_Scalar::redispatch(below(keys), a, mask, value);
    if (found) follow->masked(std::move(found), mask, true, value.toDouble(), out);
    return out;
}

at::Tensor masked_fill_tensor(DispatchKeySet keys, const at::Tensor& a, const at::Tensor& mask,
                              const at::Tensor& value) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::Tensor out = at::_ops::masked_fill_Tensor::redispatch(below(keys), a, mask, value);
    if (found)
        if (const auto number = number_in(value)) follow->masked(std::move(found), mask, true, *number, out);
    return out;
}

at::Tensor& masked_fill_in_place(DispatchKeySet keys, at::Tensor& a, const at::Tensor& mask, const at::Scalar& value) {
    UnfusedTracker* follow = tracker();
    Found found = follow != nullptr ? follow->find(a) : Found{};
    at::_ops::masked_fill__Scalar::redispatch(below(keys), a, mask, value);
    if (found) follow->masked(std::move(found), mask, true, value.toDouble(), a);
    return a;
}

at::Tensor where(DispatchKeySet keys, const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
    UnfusedTracker* follow = tracker();
    Found first, second;
    if (follow != nullptr && (first = follow->find(a), !first)) second = follow->find(b);
    at::Tensor out = at::_ops::where_self::redispatch(below(keys), condition, a, b);
    if (first || second)
        if (const auto number = number_in(first ? b : a))
            follow->masked(first ? first : second, condition, !first, *number, out);
    return out;
}

at::Tensor softmax(DispatchKeySet keys, const at::Tensor& x, std::int64_t dim, bool half_to_float) {
    UnfusedTracker* follow = tracker();
    at::Tensor out = at::_ops::_softmax::redispatch(below(keys), x, dim, half_to_float);
    if (follow != nullptr) follow->softmaxed(follow->find(x), dim, out);
    return out;
}

at::Tensor copied(DispatchKeySet keys, const at::Tensor& x, std::optional<at::ScalarType> dtype,
                  std::optional<at::Layout> layout, std::optional<at::Device> device, std::optional<bool> pin,
                  bool non_blocking, std::optional<at::MemoryFormat> format) {
    UnfusedTracker* follow = tracker();
    at::Tensor out = at::_ops::_to_copy::redispatch(below(keys), x, dtype, layout, device, pin, non_blocking, format);
    if (follow != nullptr && at::isFloatingType(out.scalar_type())) follow->passed(follow->find(x), out);
    return out;
}

at::Tensor cloned(DispatchKeySet keys, const at::Tensor& x, std::optional<at::MemoryFormat> format) {
    UnfusedTracker* follow = tracker();
    at::Tensor out = at::_ops::clone::redispatch(below(keys), x, format);
    if (follow != nullptr) follow->passed(follow->find(x), out);
    return out;
}

at::Tensor dropout(DispatchKeySet keys, const at::Tensor& x, double p, bool train) {
    UnfusedTracker* follow = tracker();
    if (follow != nullptr && train && p > 0) {
        const Found found = follow->find(x);
        if (found && found->is_map)
            Recorder::current()->leave({ErrorCode::Unsupported,
                                        "this model drops attention at random while it runs, which cannot be replayed; "
                                        "export it in evaluation mode"});
    }
    return at::_ops::dropout::redispatch(below(keys), x, p, train);
}

}  // namespace
}  // namespace vitrine

TORCH_LIBRARY_IMPL(aten, TESTING_ONLY_GenericMode, m) {
    m.impl("matmul", TORCH_FN(vitrine::matmul));
    m.impl("bmm", TORCH_FN(vitrine::bmm));
    m.impl("baddbmm", TORCH_FN(vitrine::baddbmm));
    m.impl("mul.Tensor", TORCH_FN(vitrine::mul));
    m.impl("mul.Scalar", TORCH_FN(vitrine::mul_scalar));
    m.impl("mul_.Tensor", TORCH_FN(vitrine::mul_in_place));
    m.impl("mul_.Scalar", TORCH_FN(vitrine::mul_scalar_in_place));
    m.impl("div.Tensor", TORCH_FN(vitrine::div));
    m.impl("div.Scalar", TORCH_FN(vitrine::div_scalar));
    m.impl("div_.Tensor", TORCH_FN(vitrine::div_in_place));
    m.impl("div_.Scalar", TORCH_FN(vitrine::div_scalar_in_place));
    m.impl("add.Tensor", TORCH_FN(vitrine::add));
    m.impl("add_.Tensor", TORCH_FN(vitrine::add_in_place));
    m.impl("sub.Tensor", TORCH_FN(vitrine::sub));
    m.impl("masked_fill.Scalar", TORCH_FN(vitrine::masked_fill));
    m.impl("masked_fill.Tensor", TORCH_FN(vitrine::masked_fill_tensor));
    m.impl("masked_fill_.Scalar", TORCH_FN(vitrine::masked_fill_in_place));
    m.impl("where.self", TORCH_FN(vitrine::where));
    m.impl("_softmax", TORCH_FN(vitrine::softmax));
    m.impl("_to_copy", TORCH_FN(vitrine::copied));
    m.impl("clone", TORCH_FN(vitrine::cloned));
    m.impl("dropout", TORCH_FN(vitrine::dropout));
}
