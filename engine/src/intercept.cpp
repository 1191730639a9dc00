// The operators registered at the interception key, and the listener they talk to.
#include "intercept.h"

#include "intercept_unfused.h"
#include "text.h"
#include "windowed_mixing.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_attention_math_ops.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_ops.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_ops.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_ops.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_ops.h>
#include <ATen/ops/scaled_dot_product_attention_ops.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

namespace vitrine {
namespace {

thread_local Recorder* t_recorder = nullptr;

/// The windows of [windows, heads, tokens, dim]; 1 for every other shape, whose leading axes cannot be told apart.
std::int64_t windows_of(const at::Tensor& x) { return x.defined() && x.dim() == 4 ? x.size(0) : 1; }

/// x as [windows, heads, tokens, dim], whether its windows were joined under gradients, lie among the heads or not.
at::Tensor by_windows(const at::Tensor& x, std::int64_t windows, bool joined, const at::Tensor& order) {
    if (!x.defined()) return x;
    if (x.dim() == 4) return x.size(0) == 1 ? x.expand({windows, -1, -1, -1}) : x;
    return joined ? split_windows(x, windows, order) : x.unflatten(0, {windows, x.size(0) / windows});
}

}  // namespace

// ---- the listener
// -------------------------------------------------------------------------------------------------------------

Recorder::Recorder(const CaptureOptions& options)
    : options_(options), tracker_(std::make_unique<UnfusedTracker>(*this)) {
    for (const std::string& name : options_.points) {
        if (name == "*")
            all_points_ = true;
        else
            points_wanted_.insert(name);
    }
    for (const Edit& edit : options_.edits) {
        if (edit.kind == Edit::Kind::ScaleHead)
            head_edits_.push_back(&edit);
        else
            point_edits_[edit.where] = &edit;
    }
    link_hidden_attention();
    wants_points_ = all_points_ || !points_wanted_.empty() || !point_edits_.empty();
}

Recorder::~Recorder() = default;

Recorder* Recorder::current() { return t_recorder; }

void Recorder::tick() {
    if (options_.stop.stop_requested()) leave({ErrorCode::Cancelled, "stopped"});
}

void Recorder::leave(Error error) {
    if (!error_) error_ = std::move(error);
    // A c10::Error passes unharmed through libtorch's interpreter and autograd; the edge reads `error_` instead.
    throw c10::Error({__func__, __FILE__, __LINE__}, error_->message);
}

bool Recorder::wants_point(std::string_view name) const {
    if (!wants_points_) return false;
    if (all_points_) return true;
    const std::string key(name);
    return points_wanted_.count(key) != 0 || point_edits_.count(key) != 0;
}

std::string Recorder::name_next() {
    std::string name;
    if (scope != nullptr)
        name = scope->name;
    else if (module_path)
        name = module_path();
    if (name.empty()) name = fmt::format("attention{}", kept_.size());
    const int before = names_used_[name]++;
    if (before > 0) name += fmt::format("#{}", before + 1);
    mixing_names_seen_.push_back(name);
    return name;
}

at::Tensor Recorder::edit(const std::string& name, std::int64_t heads, std::int64_t windows, at::Tensor output,
                          std::vector<double>& factors) {
    std::vector<double> wanted(static_cast<std::size_t>(heads), 1.0);
    bool any = false;
    for (const Edit* edit : head_edits_) {
        if (edit->where != name) continue;
        const std::int64_t head = edit->head < 0 ? edit->head + heads : edit->head;
        if (head < 0 || head >= heads)
            leave({ErrorCode::BadInput, fmt::format("head {} is not there: {} has {}", edit->head, name, heads)});
        wanted[static_cast<std::size_t>(head)] *= edit->factor;
        used_edits_.insert(edit);
        any = true;
    }
    if (any) {
        for (std::int64_t i = heads; i < heads * windows; ++i)
            wanted.push_back(wanted[static_cast<std::size_t>(i - heads)]);
        std::vector<std::int64_t> shape(output.sizes().begin(), output.sizes().end() - 2);
        shape.insert(shape.end(), {1, 1});
        output = output * at::tensor(wanted).to(output.options().requires_grad(false)).reshape(shape);
        factors = std::move(wanted);
    }
    if (output_hook && windows > 1) {
        const at::Tensor order = order_of_next();
        const at::Tensor joined = join_windows(by_windows(output, windows, false, {}), order);
        return split_windows(output_hook(kept_.size(), joined), windows, order).reshape(output.sizes());
    }
    return output_hook ? output_hook(kept_.size(), output) : output;
}

FlowStep Recorder::step_of(std::size_t index, std::string& unknown) {
    Kept& kept = kept_[index];
    Mixing& mixing = *kept.mixing;
    const bool probed = !kept.facts && facts;
    if (probed) kept.facts = facts(index, mixing);
    FlowStep step;
    step.mixing = kept.mixing;
    if (kept.facts) {
        step.layer = kept.facts->layer;
        step.residual = kept.facts->residual;
        mixing.query_layout = kept.facts->query_layout;
        mixing.key_layout = kept.facts->key_layout;
        if (mixing.query_layout.known() && mixing.query_layout.tokens() != mixing.queries)
            mixing.query_layout.unknown = fmt::format("{} has {} queries and the layout {}", mixing.name,
                                                      mixing.queries, mixing.query_layout.tokens());
        if (mixing.key_layout.known() && mixing.key_layout.tokens() != mixing.keys)
            mixing.key_layout.unknown =
                fmt::format("{} has {} keys and the layout {}", mixing.name, mixing.keys, mixing.key_layout.tokens());
    } else {
        step.layer = static_cast<std::int64_t>(index);
        mixing.query_layout.unknown = mixing.key_layout.unknown = "the model does not say what its tokens are";
        if (unknown.empty())
            unknown = fmt::format("nothing is known of how {} is joined to the layers around it", mixing.name);
    }
    if (kept.facts && probed && unknown.empty()) unknown = unknown_flow;
    if (const auto* windowed = dynamic_cast<const WindowedMixing*>(&mixing);
        windowed != nullptr && !windowed->ordered()) {
        const std::int64_t each = mixing.keys / windowed->windows();
        mixing.query_layout.unknown = mixing.key_layout.unknown = fmt::format(
            "{} attends within {} windows, and where they lie is not known: key t is number t % {} of window t / {}",
            mixing.name, windowed->windows(), each, each);
    }
    if (kept.pictures != 1 && unknown.empty())
        unknown = fmt::format("{} attends within {} groups of tokens, whose places are not known", mixing.name,
                              kept.pictures);
    if (!probed && mixing.name.find('#') != std::string::npos && unknown.empty())
        unknown = fmt::format("{} runs more than once", mixing.name.substr(0, mixing.name.find('#')));
    return step;
}

at::Tensor Recorder::visit(const std::string& name, at::Tensor x) {
    visited_.insert(name);
    {
        // What the visitor computes is no part of the run.
        const c10::impl::ExcludeDispatchKeyGuard hidden(kInterceptionKey);
        const StandingEdit::None none;
        Recorder* const self = std::exchange(t_recorder, nullptr);
        Status status;
        try {
            std::optional<FlowStep> step;
            std::string unknown;
            if (!kept_.empty() && kept_.back().mixing) step = step_of(kept_.size() - 1, unknown);
            status = options_.visit(name, x, step ? &*step : nullptr);
        } catch (...) {
            t_recorder = self;
            throw;
        }
        t_recorder = self;
        if (!status) leave(std::move(status).error());
    }
    kept_.clear();
    storages_.clear();
    watched_.clear();
    bytes_ = 0;
    return options_.gradients ? x.detach() : x;
}

at::Tensor Recorder::through_heads(at::Tensor& x) const {
    if (!options_.gradients || !options_.mixings) return x;
    const auto shape = x.sizes().vec();
    if (const std::int64_t windows = windows_of(x); windows > 1) {
        x = join_windows(x, order_of_next());
        return split_windows(x, windows, order_of_next());
    }
    x = as_heads(x);
    return x.reshape(shape);
}

void Recorder::count(const at::Tensor& x) {
    if (!x.defined() || !x.has_storage() || !storages_.insert(x.storage().unsafeGetStorageImpl()).second) return;
    bytes_ += static_cast<std::int64_t>(x.storage().nbytes());
    if (options_.memory_budget > 0 && bytes_ > options_.memory_budget)
        leave({ErrorCode::OutOfMemory,
               fmt::format("the capture needs more than its budget of {:.1f} MiB: {:.1f} MiB after {} attention layers",
                           static_cast<double>(options_.memory_budget) / 1048576.0,
                           static_cast<double>(bytes_) / 1048576.0, kept_.size() + 1)});
}

void Recorder::watch(const at::Tensor& x) {
    if (x.defined() && !x.is_inference()) watched_.emplace_back(x, x._version());
}

void Recorder::add(std::shared_ptr<Mixing> mixing, std::int64_t pictures, std::initializer_list<at::Tensor> tensors) {
    if (options_.mixings) {
        for (const at::Tensor& x : tensors) {
            count(x);
            if (!copy_inputs) watch(x);
        }
        Kept kept{std::move(mixing), std::nullopt, pictures};
        if (scope != nullptr) kept.facts = *scope;
        kept_.push_back(std::move(kept));
    } else {
        kept_.push_back({nullptr, std::nullopt, pictures});
    }
    if (stop_after && kept_.size() >= *stop_after) {
        left_early = true;
        throw c10::Error({__func__, __FILE__, __LINE__}, "left early");
    }
}

at::Tensor Recorder::keep(SoftmaxParts parts, std::int64_t pictures) {
    const std::string name = name_next();
    const std::int64_t windows = std::max(windows_of(parts.q), windows_of(parts.output));
    const at::Tensor order = order_of_next();
    // Under gradients the queries, keys and values of windows were joined before the attention ran.
    const bool joined = windows > 1 && parts.q.dim() == 3 && parts.q.size(-2) == windows * parts.output.size(-2);
    WindowedMixing::OnPath on_path;
    if (joined) on_path = {parts.q, parts.k, parts.v, {}};
    if (windows > 1)
        for (at::Tensor* x : {&parts.q, &parts.k, &parts.v}) *x = by_windows(*x, windows, joined, order);
    std::int64_t heads = 1;
    for (std::int64_t axis = 0; axis < parts.q.dim() - 2; ++axis) heads *= parts.q.size(axis);
    parts.output = edit(name, heads / windows, windows, std::move(parts.output), parts.head_factors);
    const std::optional<Recipe> made_by = std::exchange(recipe, std::nullopt);
    if (options_.visit && options_.gradients) parts.output = parts.output.detach().requires_grad_(true);
    const auto shape = parts.output.sizes().vec();
    if (windows > 1) parts.output = by_windows(parts.output, windows, false, order);
    at::Tensor goes_on = through_heads(parts.output).reshape(shape);
    if (!options_.mixings) {
        add(nullptr, 1, {});
        return goes_on;
    }
    if (windows > 1 && options_.gradients) {
        on_path.output = parts.output;
        parts.output = by_windows(parts.output, windows, true, order);
    }
    if (copy_inputs) {
        parts.q = maybe_copy(parts.q);
        parts.k = maybe_copy(parts.k);
        parts.v = maybe_copy(parts.v);
        parts.lse = maybe_copy(parts.lse);
        if (!options_.gradients) parts.output = maybe_copy(parts.output);
        for (ScoreTerm& term : parts.terms) term.tensor = maybe_copy(term.tensor);
    }
    for (const ScoreTerm& term : parts.terms) {
        count(term.tensor);
        if (!copy_inputs) watch(term.tensor);
    }
    if (options_.gradients) goes_on = maybe_copy(goes_on);
    if (made_by) {
        const at::Tensor input = maybe_copy(made_by->input), lse = parts.lse;
        auto mixing = std::make_shared<SoftmaxMixing>(std::move(parts), Recipe{input, made_by->make});
        mixing->name = name;
        add(std::move(mixing), pictures, {input, lse});
        return goes_on;
    }
    const at::Tensor q = parts.q, k = parts.k, v = parts.v, lse = parts.lse, output = parts.output, map = parts.map;
    std::shared_ptr<Mixing> mixing = std::make_shared<SoftmaxMixing>(std::move(parts));
    mixing->name = name;
    if (windows > 1) {
        mixing = std::make_shared<WindowedMixing>(std::move(mixing), windows, order, std::move(on_path));
        mixing->name = name;
    }
    add(std::move(mixing), windows > 1 && order.defined() ? 1 : pictures, {q, k, v, lse, output, map});
    return goes_on;
}

at::Tensor Recorder::keep(at::Tensor p, at::Tensor v, at::Tensor output) {
    const std::string name = name_next();
    const std::int64_t windows = std::max(windows_of(p), windows_of(output));
    const at::Tensor order = order_of_next();
    if (windows > 1) {
        p = by_windows(p, windows, p.dim() == 3 && p.size(-2) == windows * output.size(-2), order);
        v = by_windows(v, windows, false, order);
    }
    std::int64_t heads = 1;
    for (std::int64_t axis = 0; axis < p.dim() - 2; ++axis) heads *= p.size(axis);
    std::vector<double> factors;
    output = edit(name, heads / windows, windows, std::move(output), factors);
    const auto shape = output.sizes().vec();
    if (windows > 1) output = by_windows(output, windows, false, order);
    const at::Tensor goes_on = through_heads(output).reshape(shape);
    WindowedMixing::OnPath on_path;
    if (windows > 1 && options_.gradients) {
        on_path.output = output;
        output = by_windows(output, windows, true, order);
    }
    const std::int64_t pictures = windows > 1 ? (order.defined() ? 1 : windows) : p.dim() >= 4 ? p.size(0) : 1;
    const at::Tensor kept_p = maybe_copy(p), kept_v = maybe_copy(v);
    const at::Tensor kept_output = options_.gradients ? output : maybe_copy(output);
    std::shared_ptr<Mixing> mixing = std::make_shared<DenseMixing>(kept_p, kept_v, kept_output, std::move(factors));
    mixing->name = name;
    if (windows > 1) {
        mixing = std::make_shared<WindowedMixing>(std::move(mixing), windows, order, std::move(on_path));
        mixing->name = name;
    }
    add(std::move(mixing), pictures, {kept_p, kept_v, kept_output});
    return options_.gradients ? maybe_copy(goes_on) : goes_on;
}

void Recorder::keep(std::shared_ptr<Mixing> mixing) {
    if (!mixing) return;
    mixing->name = name_next();
    if (options_.memory_budget > 0 && bytes_ + mixing->size_bytes() > options_.memory_budget)
        leave({ErrorCode::OutOfMemory, fmt::format("the capture needs more than its budget of {:.1f} MiB",
                                                   static_cast<double>(options_.memory_budget) / 1048576.0)});
    bytes_ += mixing->size_bytes();
    add(std::move(mixing), 1, {});
}

at::Tensor Recorder::on_point(std::string_view name, at::Tensor x) {
    tick();
    if (!wants_points_) return x;
    const std::string key(name);
    point_names_seen_.push_back(key);
    if (const auto edit = point_edits_.find(key); edit != point_edits_.end()) {
        used_edits_.insert(edit->second);
        at::Tensor replaced = edit->second->replace ? edit->second->replace(x) : x;
        // One activation may become several, each of which the rest of the model answers: what is in front runs once.
        const bool several = replaced.defined() && !options_.mixings && x.dim() > 1 && x.size(0) == 1 &&
                             replaced.dim() == x.dim() && replaced.size(0) > 0 &&
                             replaced.sizes().slice(1) == x.sizes().slice(1);
        if (!replaced.defined() || (replaced.sizes() != x.sizes() && !several))
            leave({ErrorCode::BadInput,
                   fmt::format("the replacement at {} is [{}], expected [{}]", key,
                               replaced.defined() ? fmt::format("{}", fmt::join(replaced.sizes(), ", ")) : "undefined",
                               fmt::join(x.sizes(), ", "))});
        x = std::move(replaced);
    }
    if (all_points_ || points_wanted_.count(key) != 0) {
        if (options_.visit) return visit(key, std::move(x));
        const at::Tensor kept = options_.gradients ? x : maybe_copy(x);
        count(kept);
        if (!copy_inputs) watch(kept);
        points_[key] = kept;
        // Under gradients what is kept must stay on the path to the answer: the model goes on with the copy instead.
        if (options_.gradients) return maybe_copy(x);
    }
    return x;
}

at::Tensor Recorder::module_point(const std::string& op, at::Tensor x) {
    if (!wants_points() || !module_path || !point_name) return x;
    const std::string path = module_path();
    const int occurrence = ++results_seen_[path + '\n' + op];
    const std::string name = point_name(path, op, occurrence);
    if (name.empty()) return x;
    return on_point(name, StandingEdit::apply(name, std::move(x), /*shared=*/true));
}

bool Recorder::overwritten() const {
    // Under gradients autograd itself refuses a graph whose tensors were written over.
    return std::any_of(watched_.begin(), watched_.end(),
                       [](const auto& pair) { return pair.first._version() != pair.second; });
}

void Recorder::finish(Capture& capture) {
    Flow& flow = capture.flow;
    std::size_t dense = 0;
    for (std::size_t i = 0; i < kept_.size(); ++i) {
        if (!kept_[i].mixing) continue;
        FlowStep step = step_of(i, flow.unknown);
        if (step.mixing->kind() == "dense") ++dense;
        flow.steps.push_back(std::move(step));
    }
    if (flow.steps.empty() && options_.mixings)
        flow.unknown = visited_.empty() ? "no attention was seen in this model"
                                        : "its attention was visited layer by layer, and nothing of it kept";
    flow.readout = readout;
    if (!flow.steps.empty() && flow.readout.defined() && flow.readout.numel() != flow.steps.back().mixing->queries) {
        if (flow.unknown.empty())
            flow.unknown = fmt::format("the readout is over {} tokens and {} has {}", flow.readout.numel(),
                                       flow.steps.back().mixing->name, flow.steps.back().mixing->queries);
        flow.readout.reset();
    }
    capture.points = points_;
    capture.size_bytes = bytes_;
    capture.notes = notes_;
    if (dense > 0)
        capture.notes.push_back(fmt::format("{} attention map{} kept whole: {} chain was not recognised", dense,
                                            dense == 1 ? " was" : "s were", dense == 1 ? "its" : "their"));
    if (left_early) return;
    if (const std::int64_t lost = tracker_->lost(); lost > 0 && options_.mixings) {
        const std::string what =
            fmt::format("{} attention map{} changed after the softmax or used in a way that was not followed", lost,
                        lost == 1 ? " was" : "s were");
        capture.notes.push_back(what);
        if (flow.unknown.empty() || flow.steps.empty()) flow.unknown = what;
    }
    for (const Edit& edit : options_.edits) {
        if (used_edits_.count(&edit) != 0 || error_) continue;
        const bool head = edit.kind == Edit::Kind::ScaleHead;
        error_ =
            Error{ErrorCode::BadInput, fmt::format("there is no {} '{}'{}", head ? "attention" : "point", edit.where,
                                                   suggest(edit.where, head ? mixing_names_seen_ : point_names_seen_))};
    }
    for (const std::string& name : options_.points) {
        if (name == "*" || points_.count(name) != 0 || visited_.count(name) != 0 || error_) continue;
        error_ =
            Error{ErrorCode::NotFound, fmt::format("there is no point '{}'{}", name, suggest(name, point_names_seen_))};
    }
}

Listening::Listening(Recorder& recorder) : previous_(t_recorder), guard_(kInterceptionKey) { t_recorder = &recorder; }
Listening::~Listening() { t_recorder = previous_; }

// ---- the operators
// --------------------------------------------------------------------------------------------------------------

namespace {

using OptionalTensor = std::optional<at::Tensor>;
using c10::DispatchKeySet;

double scale_of(const at::Tensor& q, std::optional<double> scale) {
    return scale ? *scale : 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
}

/// Keeps one fused attention and returns the output the model goes on with.
at::Tensor keep_fused(Recorder& recorder, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      std::int64_t pictures, const OptionalTensor& mask, double dropout, bool causal,
                      std::optional<double> scale, const at::Tensor& output, at::Tensor lse, std::string source) {
    if (dropout > 0)
        recorder.leave({ErrorCode::Unsupported,
                        "this model drops attention at random while it runs, which cannot be replayed; export it in "
                        "evaluation mode"});
    if (q.is_nested() || q.dim() < 2)
        recorder.leave(
            {ErrorCode::Unsupported, "this model's attention runs over nested tensors, which are not supported"});
    SoftmaxParts parts;
    parts.q = q;
    parts.k = k;
    parts.v = v;
    parts.lse = lse.defined() ? lse.detach() : lse;
    parts.output = output;
    parts.scale = scale_of(q, scale);
    parts.causal = causal;
    if (mask && mask->defined())
        parts.terms.push_back(
            {*mask, mask->scalar_type() == at::kBool ? ScoreTerm::Kind::KeepWhereTrue : ScoreTerm::Kind::Add, 1});
    parts.source = std::move(source);
    return recorder.keep(std::move(parts), pictures);
}

at::Tensor attention(DispatchKeySet keys, const at::Tensor& queries, const at::Tensor& key, const at::Tensor& values,
                     const OptionalTensor& mask, double dropout, bool causal, std::optional<double> scale, bool gqa) {
    Recorder* recorder = Recorder::current();
    if (recorder != nullptr) recorder->tick();
    if (recorder == nullptr || !recorder->wants_mixings())
        return at::_ops::scaled_dot_product_attention::redispatch(below(keys), queries, key, values, mask, dropout,
                                                                  causal, scale, gqa);
    if (recorder->wants_maps() && !(mask && mask->defined()) && dropout == 0 && queries.dim() == key.dim() &&
        queries.dim() >= 3 && (gqa || queries.size(-3) == key.size(-3))) {
        SoftmaxParts parts;
        parts.q = queries;
        parts.k = key;
        parts.v = values;
        parts.scale = scale_of(queries, scale);
        parts.causal = causal;
        auto attended = attend_with_map(parts);
        if (!attended) recorder->leave(std::move(attended).error());
        if (*attended) return recorder->keep(std::move(parts), 1);
    }
    // What is kept must be what the answer was computed from, or it has no gradient.
    at::Tensor kept_q = queries, kept_k = key, kept_v = values;
    const at::Tensor q = recorder->through_heads(kept_q), k = recorder->through_heads(kept_k),
                     v = recorder->through_heads(kept_v);
    Recorder::Pending pending;
    Recorder::Pending* outer = std::exchange(recorder->pending, &pending);
    at::Tensor out;
    try {
        out =
            at::_ops::scaled_dot_product_attention::redispatch(below(keys), q, k, v, mask, dropout, causal, scale, gqa);
    } catch (...) {
        recorder->pending = outer;
        throw;
    }
    recorder->pending = outer;
    return keep_fused(*recorder, kept_q, kept_k, kept_v, queries.dim() >= 4 ? queries.size(0) : 1, mask, dropout,
                      causal, scale, out, pending.lse, pending.source);
}

/// What every backend does once it has run: hands its log-sum-exp to the call it belongs to, or is an attention of its
/// own.
void arrived(Recorder* recorder, const char* source, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
             const OptionalTensor& mask, double dropout, bool causal, std::optional<double> scale, at::Tensor& output,
             const at::Tensor& lse) {
    if (recorder == nullptr || !recorder->wants_mixings()) return;
    if (recorder->pending != nullptr) {
        recorder->pending->lse = lse;
        recorder->pending->source = source;
        return;
    }
    output =
        keep_fused(*recorder, q, k, v, q.dim() >= 4 ? q.size(0) : 1, mask, dropout, causal, scale, output, lse, source);
}

Recorder* ticked() {
    Recorder* recorder = Recorder::current();
    if (recorder != nullptr) recorder->tick();
    return recorder;
}

std::tuple<at::Tensor, at::Tensor> flash_for_cpu(DispatchKeySet keys, const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, double dropout, bool causal,
                                                 const OptionalTensor& mask, std::optional<double> scale) {
    Recorder* recorder = ticked();
    auto out = at::_ops::_scaled_dot_product_flash_attention_for_cpu::redispatch(below(keys), q, k, v, dropout, causal,
                                                                                 mask, scale);
    arrived(recorder, "flash attention on CPU", q, k, v, mask, dropout, causal, scale, std::get<0>(out),
            std::get<1>(out));
    return out;
}

using NineResults = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor,
                               at::Tensor, at::Tensor>;

NineResults flash(DispatchKeySet keys, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double dropout,
                  bool causal, bool debug_mask, std::optional<double> scale) {
    Recorder* recorder = ticked();
    auto out = at::_ops::_scaled_dot_product_flash_attention::redispatch(below(keys), q, k, v, dropout, causal,
                                                                         debug_mask, scale);
    arrived(recorder, "flash attention", q, k, v, {}, dropout, causal, scale, std::get<0>(out), std::get<1>(out));
    return out;
}

NineResults cudnn(DispatchKeySet keys, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const OptionalTensor& bias, bool compute_lse, double dropout, bool causal, bool debug_mask,
                  std::optional<double> scale) {
    Recorder* recorder = ticked();
    const bool wanted = recorder != nullptr && recorder->wants_mixings();
    auto out = at::_ops::_scaled_dot_product_cudnn_attention::redispatch(
        below(keys), q, k, v, bias, compute_lse || wanted, dropout, causal, debug_mask, scale);
    arrived(recorder, "cuDNN attention", q, k, v, bias, dropout, causal, scale, std::get<0>(out), std::get<1>(out));
    return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> efficient(DispatchKeySet keys, const at::Tensor& q,
                                                                     const at::Tensor& k, const at::Tensor& v,
                                                                     const OptionalTensor& bias, bool compute_lse,
                                                                     double dropout, bool causal,
                                                                     std::optional<double> scale) {
    Recorder* recorder = ticked();
    const bool wanted = recorder != nullptr && recorder->wants_mixings();
    auto out = at::_ops::_scaled_dot_product_efficient_attention::redispatch(
        below(keys), q, k, v, bias, compute_lse || wanted, dropout, causal, scale);
    arrived(recorder, "memory-efficient attention", q, k, v, bias, dropout, causal, scale, std::get<0>(out),
            std::get<1>(out));
    return out;
}

std::tuple<at::Tensor, at::Tensor> math(DispatchKeySet keys, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const OptionalTensor& mask, double dropout, bool causal,
                                        const OptionalTensor& dropout_mask, std::optional<double> scale, bool gqa) {
    Recorder* recorder = ticked();
    // It is made of matmul and softmax, which are intercepted too: below this call they are not.
    std::tuple<at::Tensor, at::Tensor> out;
    {
        const c10::impl::ExcludeDispatchKeyGuard hidden(kInterceptionKey);
        out = at::_ops::_scaled_dot_product_attention_math::call(q, k, v, mask, dropout, causal, dropout_mask, scale,
                                                                 gqa);
    }
    (void)keys;
    // No log-sum-exp here: the mixing finds it with a pass of its own when it is first looked at.
    arrived(recorder, "plain attention", q, k, v, mask, dropout, causal, scale, std::get<0>(out), {});
    return out;
}

}  // namespace
}  // namespace vitrine

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, TESTING_ONLY_GenericMode, m) {
    m.impl("scaled_dot_product_attention", TORCH_FN(vitrine::attention));
    m.impl("_scaled_dot_product_flash_attention_for_cpu", TORCH_FN(vitrine::flash_for_cpu));
    m.impl("_scaled_dot_product_flash_attention", TORCH_FN(vitrine::flash));
    m.impl("_scaled_dot_product_cudnn_attention", TORCH_FN(vitrine::cudnn));
    m.impl("_scaled_dot_product_efficient_attention", TORCH_FN(vitrine::efficient));
    m.impl("_scaled_dot_product_attention_math", TORCH_FN(vitrine::math));
}
