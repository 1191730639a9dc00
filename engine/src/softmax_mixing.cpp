// Rows, columns, tiles and products of attention maps from what was kept, through the plain kernels.
#include "softmax_mixing.h"

#include <vitrine/walk.h>

#include "device_attention.h"
#include <vitrine/torch_errors.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace vitrine {
namespace {

at::Tensor host_float(const at::Tensor& x) {
    at::Tensor host = x.detach().to(at::TensorOptions().device(at::kCPU).dtype(at::kFloat));
    if (host.size(-1) > 1 && host.stride(-1) != 1) host = host.contiguous();
    return host;
}

/// Empty means all; negative counts from the end.
Result<std::vector<std::int64_t>> chosen(std::span<const std::int64_t> wanted, std::int64_t count, const char* what,
                                         const std::string& name) {
    std::vector<std::int64_t> out;
    if (wanted.empty()) {
        out.resize(static_cast<std::size_t>(count));
        std::iota(out.begin(), out.end(), 0);
        return out;
    }
    for (const std::int64_t index : wanted) {
        const std::int64_t at = index < 0 ? index + count : index;
        if (at < 0 || at >= count)
            return fail(ErrorCode::BadInput, "{} {} is not there: {} has {}, from 0 to {}", what, index,
                        name.empty() ? "the attention" : name, count, count - 1);
        out.push_back(at);
    }
    return out;
}

Status check_tile(const Mixing& m, std::int64_t q0, std::int64_t q1, std::int64_t k0, std::int64_t k1,
                  std::int64_t pool) {
    if (q0 < 0 || q0 >= q1 || q1 > m.queries || k0 < 0 || k0 >= k1 || k1 > m.keys || pool < 1)
        return fail(ErrorCode::BadInput, "the tile [{}, {}) x [{}, {}) pooled by {} does not lie in a map of {} x {}",
                    q0, q1, k0, k1, pool, m.queries, m.keys);
    return {};
}

/// r as contiguous floats on this device; [heads, queries] or [1, queries].
Result<at::Tensor> weights(const Mixing& m, const at::Tensor& r, at::Device device = at::kCPU) {
    const at::Tensor flat = r.dim() == 1 ? r.unsqueeze(0) : r;
    if (flat.dim() != 2 || flat.size(1) != m.queries || (flat.size(0) != 1 && flat.size(0) != m.heads))
        return fail(ErrorCode::BadInput, "the weights have {} numbers in {} rows, expected {} in 1 or {}", r.numel(),
                    flat.size(0), m.queries, m.heads);
    return flat.detach().to(device, at::kFloat).contiguous();
}

Status check_values(const Mixing& m, const at::Tensor& v) {
    if (v.dim() != 3 || v.size(0) != m.heads || v.size(1) != m.keys)
        return fail(ErrorCode::BadInput, "the values must be [{}, {}, dim]", m.heads, m.keys);
    return {};
}

/// Copies to a device that need not be waited for: memory of the host that is not pinned is read before the call
/// returns.
constexpr bool kNoWait = true;

double tolerance(const at::Tensor& used) {
    // bf16 keeps 8 bits and fp16 11; the design states 2e-2 for both and 1e-4 for fp32.
    return used.scalar_type() == at::kFloat || used.scalar_type() == at::kDouble ? 1e-4 : 2e-2;
}

/// The checks that need only the interface: rows against the output that was used, row sums, mass. `used` is the output
/// of the queries `kept`, of all where that is empty; `rows` gives rows of all heads, anywhere.
Result<MixingCheck> check_rows(const Mixing& m,
                               const std::function<Result<at::Tensor>(std::span<const std::int64_t>)>& rows,
                               const at::Tensor& v, const at::Tensor& used, const std::vector<std::int64_t>& kept,
                               const std::vector<double>& head_factors, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    MixingCheck found;
    constexpr std::int64_t kRows = 8;
    const std::int64_t choices = kept.empty() ? m.queries : static_cast<std::int64_t>(kept.size());
    const std::int64_t count = std::min(kRows, choices);
    std::vector<std::int64_t> places;
    while (static_cast<std::int64_t>(places.size()) < count) {
        const auto place = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(choices));
        if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
    }
    std::vector<std::int64_t> picked = places;
    if (!kept.empty())
        for (std::int64_t& i : picked) i = kept[static_cast<std::size_t>(i)];

    const at::Tensor p = VITRINE_TRY(rows(picked));  // [heads, 8, keys]
    at::Tensor worst, largest;
    if (v.defined() && used.defined()) {
        // Where the values are, and of a large picture a head at a time: there they are no small copy.
        const at::Tensor there = p.to(v.device());
        const std::int64_t step = std::max<std::int64_t>(1, (std::int64_t{1} << 26) / (m.keys * v.size(-1)));
        std::vector<at::Tensor> products;
        for (std::int64_t h = 0; h < m.heads; h += step) {
            const std::int64_t count_now = std::min(step, m.heads - h);
            products.push_back(there.narrow(0, h, count_now).matmul(v.narrow(0, h, count_now).detach().to(at::kFloat)));
        }
        at::Tensor ours = products.size() == 1 ? products.front() : at::cat(products);
        if (!head_factors.empty())
            ours = ours * at::tensor(head_factors, at::kFloat).to(ours.device()).reshape({m.heads, 1, 1});
        const at::Tensor theirs =
            used.index_select(1, at::tensor(places).to(used.device(), at::kLong, kNoWait)).detach().to(at::kFloat);
        worst = (ours - theirs).abs().max();
        largest = theirs.abs().max();
    }
    // Uniform over the sampled rows: the sweep then costs no more than the rows did.
    at::Tensor r = at::zeros({m.queries});
    for (const std::int64_t i : picked) r.data_ptr<float>()[i] = 1.0F / static_cast<float>(count);
    const at::Tensor mass = (VITRINE_TRY(m.left(r.to(m.device(), at::kFloat, kNoWait))).sum(-1) - 1).abs().max();
    // A device is asked once, for all of them. What is not a number stays one and fails its comparison.
    std::vector<at::Tensor> found_there{(p.sum(-1) - 1).abs().max(), mass.to(p.device())};
    if (worst.defined()) found_there.insert(found_there.end(), {worst.to(p.device()), largest.to(p.device())});
    const at::Tensor numbers = at::stack(found_there).to(at::kCPU, at::kDouble);
    const double* const number = numbers.const_data_ptr<double>();
    found.row_sum_error = number[0];
    found.mass_error = number[1];
    if (worst.defined()) found.output_error = number[3] > 0 ? number[2] / number[3] : number[2];
    const double limit = tolerance(used.defined() ? used : v);
    const double sum_limit = limit > 1e-3 ? 1e-3 : 1e-4;
    if (!(found.output_error <= limit))
        found.sentence = fmt::format(
            "the map times the values differs from the output the model used by {:.1e} of its largest value (allowed "
            "{:.0e})",
            found.output_error, limit);
    else if (m.row_stochastic() && !(found.row_sum_error <= sum_limit))
        found.sentence =
            fmt::format("rows sum to 1 only within {:.1e} (allowed {:.0e})", found.row_sum_error, sum_limit);
    else if (m.row_stochastic() && !(found.mass_error <= sum_limit))
        found.sentence = fmt::format("mass is kept only within {:.1e} (allowed {:.0e})", found.mass_error, sum_limit);
    else {
        found.passed = true;
        found.sentence = fmt::format("{} rows a head, output within {:.0e}, row sums within {:.0e}", count,
                                     found.output_error, found.row_sum_error);
    }
    return found;
}

// ---- what is read from a map that was kept: [heads, queries, keys]

at::Tensor rows_of(const at::Tensor& map, const std::vector<std::int64_t>& heads,
                   const std::vector<std::int64_t>& queries) {
    return map.index_select(0, at::tensor(heads)).index_select(1, at::tensor(queries));
}

at::Tensor columns_of(const at::Tensor& map, const std::vector<std::int64_t>& heads,
                      const std::vector<std::int64_t>& keys) {
    return map.index_select(0, at::tensor(heads)).index_select(2, at::tensor(keys));
}

at::Tensor tile_of(const at::Tensor& map, const std::vector<std::int64_t>& heads, std::int64_t q0, std::int64_t q1,
                   std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling) {
    const at::Tensor piece = map.index_select(0, at::tensor(heads)).slice(1, q0, q1).slice(2, k0, k1);
    if (pool == 1) return piece.contiguous();
    std::vector<at::Tensor> bands;
    for (std::int64_t q = 0; q < q1 - q0; q += pool) {
        const at::Tensor band = piece.slice(1, q, std::min(q + pool, q1 - q0));
        std::vector<at::Tensor> cells;
        for (std::int64_t k = 0; k < k1 - k0; k += pool) {
            const at::Tensor cell = band.slice(2, k, std::min(k + pool, k1 - k0));
            cells.push_back(pooling == Pooling::Max ? cell.amax(at::IntArrayRef{1, 2})
                                                    : cell.mean(at::IntArrayRef{1, 2}));
        }
        bands.push_back(at::stack(cells, 1));
    }
    return at::stack(bands, 1);
}

/// r is [heads, queries] or [1, queries].
at::Tensor left_of(const at::Tensor& map, const at::Tensor& r) {
    return r.unsqueeze(1).expand({map.size(0), 1, map.size(1)}).matmul(map).select(1, 0).contiguous();
}

/// d_output with what edits multiplied each head's output by: the gradient with respect to P V.
Result<at::Tensor> output_gradient(const Mixing& m, const at::Tensor& d_output, std::int64_t dim,
                                   const std::vector<double>& head_factors) {
    if (d_output.dim() != 3 || d_output.size(0) != m.heads || d_output.size(1) != m.queries || d_output.size(2) != dim)
        return fail(ErrorCode::BadInput, "the gradient of the output must be [{}, {}, {}]", m.heads, m.queries, dim);
    if (head_factors.empty()) return d_output;
    return d_output * at::tensor(head_factors, d_output.options().requires_grad(false)).reshape({m.heads, 1, 1});
}

kernels::SweepFunctor functor_of(Sensitivity functor) {
    switch (functor) {
        case Sensitivity::ReluPdP:
            return kernels::SweepFunctor::ReluPdP;
        case Sensitivity::PdP:
            return kernels::SweepFunctor::PdP;
        case Sensitivity::ReluDP:
            return kernels::SweepFunctor::ReluDP;
        case Sensitivity::AbsDP:
            return kernels::SweepFunctor::AbsDP;
    }
    return kernels::SweepFunctor::PdP;
}

}  // namespace

const kernels::ParallelFor kKernelThreads = [](std::int64_t count,
                                               const std::function<void(std::int64_t, std::int64_t)>& f) {
    at::parallel_for(0, count, 1, f);
};

at::Tensor as_heads(const at::Tensor& x) {
    if (!x.defined()) return x;
    if (x.dim() == 2) return x.unsqueeze(0);
    if (x.dim() == 3) return x;
    if (x.dim() == 4 && x.size(0) == 1) return x.select(0, 0);
    return x.flatten(0, x.dim() - 3);
}

std::int64_t storage_bytes(const at::Tensor& x) {
    return x.defined() && x.has_storage() ? static_cast<std::int64_t>(x.storage().nbytes()) : 0;
}

// ---- softmax
// ------------------------------------------------------------------------------------------------------------------

namespace {

/// The queries and keys that were made last from a recipe: looking at one layer again and again makes them once, and no
/// more than one layer's exist.
struct LastMade {
    std::mutex mutex;
    const void* owner = nullptr;
    std::shared_ptr<const void> ready;
};
LastMade& last_made() {
    static LastMade last;
    return last;
}

/// How many queries' outputs stay for check() where the rest is made again.
constexpr std::int64_t kSampled = 32;

}  // namespace

SoftmaxMixing::SoftmaxMixing(SoftmaxParts parts, std::optional<Recipe> recipe)
    : parts_(std::move(parts)), recipe_(std::move(recipe)) {
    heads = 1;
    for (std::int64_t axis = 0; axis < parts_.q.dim() - 2; ++axis) heads *= parts_.q.size(axis);
    queries = parts_.q.size(-2);
    keys = parts_.k.size(-2);
    if (!recipe_) return;
    // Random and for good, so that a check cannot look where nothing was kept. The seed is any number.
    std::mt19937_64 random(static_cast<std::uint64_t>(queries));
    for (std::int64_t i = 0; i < std::min(kSampled, queries); ++i)
        sampled_.push_back(static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(queries)));
    std::sort(sampled_.begin(), sampled_.end());
    sampled_.erase(std::unique(sampled_.begin(), sampled_.end()), sampled_.end());
    const at::Tensor output = as_heads(parts_.output);
    sampled_output_ = output.index_select(1, at::tensor(sampled_).to(output.device()));
    parts_.q = parts_.k = parts_.v = parts_.output = at::Tensor();
}

SoftmaxMixing::~SoftmaxMixing() {
    if (!recipe_) return;
    LastMade& last = last_made();
    std::lock_guard lock(last.mutex);
    if (last.owner == this) last.owner = nullptr, last.ready = nullptr;
}

Result<std::shared_ptr<const SoftmaxMixing::Ready>> SoftmaxMixing::ready() const {
    std::lock_guard lock(mutex_);
    if (ready_) return ready_;
    if (!recipe_) {
        ready_ = VITRINE_TRY(prepare());
        return ready_;
    }
    LastMade& last = last_made();
    {
        std::lock_guard made(last.mutex);
        if (last.owner == this) return std::static_pointer_cast<const Ready>(last.ready);
        last.owner = nullptr, last.ready = nullptr;  // before the next are made
    }
    auto fresh = VITRINE_TRY(prepare());
    std::lock_guard made(last.mutex);
    last.owner = this, last.ready = fresh;
    return fresh;
}

Result<std::shared_ptr<const SoftmaxMixing::Ready>> SoftmaxMixing::prepare() const {
    return guarded([&]() -> Result<std::shared_ptr<const Ready>> {
        auto made = std::make_shared<Ready>();
        if (recipe_) {
            const at::NoGradGuard no_grad;
            const auto qkv = recipe_->make(recipe_->input);
            made->used_q = as_heads(qkv[0]);
            made->used_k = as_heads(qkv[1]);
            made->used_v = as_heads(qkv[2]);
        } else {
            made->used_q = as_heads(parts_.q);
            made->used_k = as_heads(parts_.k);
            made->used_v = as_heads(parts_.v);
        }
        at::Tensor lse;  // as the backend left it, made [heads, queries]
        if (!lse_.defined() && parts_.lse.defined()) {
            lse = parts_.lse.detach();
            if (lse.numel() / lse.size(-1) != heads) lse = lse.squeeze(-1);  // cuDNN's is [batch, heads, queries, 1]
            lse = lse.narrow(-1, 0, queries).reshape({heads, queries});
        }
        if (device_kernels_take(made->used_q)) {
            const at::Tensor& like = recipe_ ? made->used_q : parts_.q;
            auto there = std::make_shared<DeviceReady>(VITRINE_TRY(
                prepare_device(made->used_q, made->used_k, parts_.terms, {like.sizes().begin(), like.sizes().end() - 1},
                               parts_.scale, parts_.causal, lse_.defined() ? lse_ : lse)));
            lse_ = there->lse;
            made->there = std::move(there);
            return made;
        }
        kernels::AttentionParams& p = made->params;
        made->q = host_float(made->used_q);
        made->k = host_float(made->used_k);
        p.q = made->q.data_ptr<float>();
        p.k = made->k.data_ptr<float>();
        for (int axis = 0; axis < 2; ++axis) {
            p.q_stride[axis] = made->q.stride(axis);
            p.k_stride[axis] = made->k.stride(axis);
        }
        p.heads = heads;
        p.key_heads = made->k.size(0);
        p.queries = queries;
        p.keys = keys;
        p.head_dim = made->q.size(-1);
        p.scale = static_cast<float>(parts_.scale);
        p.causal = parts_.causal;
        if (!parts_.terms.empty()) {
            const at::Tensor& like = recipe_ ? made->used_q : parts_.q;
            std::vector<std::int64_t> shape(like.sizes().begin(), like.sizes().end() - 1);
            shape.push_back(keys);
            at::Tensor bias, mask;
            for (const ScoreTerm& term : parts_.terms) {
                at::Tensor one = term.tensor.detach().to(at::kCPU);
                while (one.dim() > static_cast<std::int64_t>(shape.size()) && one.size(0) == 1) one = one.select(0, 0);
                if (term.kind == ScoreTerm::Kind::Add) {
                    one = one.to(at::kFloat);
                    if (term.factor != 1) one = one * term.factor;
                    bias = bias.defined() ? bias + one : one;
                } else {
                    one = one.to(at::kBool);
                    if (term.kind == ScoreTerm::Kind::DropWhereTrue) one = one.logical_not();
                    mask = mask.defined() ? mask.logical_and(one) : one;
                }
            }
            if (bias.defined()) {
                made->bias = as_heads(bias.expand(shape));
                p.bias = made->bias.data_ptr<float>();
                for (int axis = 0; axis < 3; ++axis) p.bias_stride[axis] = made->bias.stride(axis);
            }
            if (mask.defined()) {
                made->mask = as_heads(mask.expand(shape));
                p.mask = reinterpret_cast<const std::uint8_t*>(made->mask.data_ptr<bool>());
                for (int axis = 0; axis < 3; ++axis) p.mask_stride[axis] = made->mask.stride(axis);
            }
        }
        if (const char* why = kernels::cannot_run(p, false))
            return fail(ErrorCode::Unsupported, "the map of {} cannot be computed: {}", name, why);
        if (lse.defined()) {
            lse_ = lse.to(at::kCPU, at::kFloat).contiguous();
        } else if (!lse_.defined()) {
            lse = at::empty({heads, queries}, at::kFloat);
            const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::LogSumExp, p));
            choice.kernels->log_sum_exp(p, lse.data_ptr<float>(), kKernelThreads);
            lse_ = lse;
        }
        made->lse = lse_;
        p.lse = made->lse.data_ptr<float>();
        return made;
    });
}

Result<at::Tensor> SoftmaxMixing::rows(std::span<const std::int64_t> heads_wanted,
                                       std::span<const std::int64_t> queries_wanted) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto which = VITRINE_TRY(chosen(heads_wanted, heads, "head", name));
        const auto wanted = VITRINE_TRY(chosen(queries_wanted, queries, "query", name));
        if (!parts_.map.defined()) return computed_rows(which, wanted);
        answered(parts_.source);
        const bool all = heads_wanted.empty() && queries_wanted.empty();
        return all ? parts_.map : rows_of(parts_.map, which, wanted);
    });
}

Result<at::Tensor> SoftmaxMixing::computed_rows(const std::vector<std::int64_t>& which,
                                                const std::vector<std::int64_t>& wanted) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor rows = VITRINE_TRY(device_rows(*state->there, which, wanted, shown));
            answered(std::move(shown));
            return rows.to(at::kCPU);
        }
        at::Tensor out =
            at::empty({static_cast<std::int64_t>(which.size()), static_cast<std::int64_t>(wanted.size()), keys});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::MapRows, state->params));
        choice.kernels->map_rows(state->params, which, wanted, out.data_ptr<float>(), kKernelThreads);
        answered(choice.shown());
        return out;
    });
}

Result<at::Tensor> SoftmaxMixing::columns(std::span<const std::int64_t> heads_wanted,
                                          std::span<const std::int64_t> keys_wanted) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto which = VITRINE_TRY(chosen(heads_wanted, heads, "head", name));
        const auto wanted = VITRINE_TRY(chosen(keys_wanted, keys, "key", name));
        if (parts_.map.defined()) {
            answered(parts_.source);
            return columns_of(parts_.map, which, wanted);
        }
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor columns = VITRINE_TRY(device_columns(*state->there, which, wanted, shown));
            answered(std::move(shown));
            return columns.to(at::kCPU);
        }
        at::Tensor out =
            at::empty({static_cast<std::int64_t>(which.size()), queries, static_cast<std::int64_t>(wanted.size())});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::MapColumns, state->params));
        choice.kernels->map_columns(state->params, which, wanted, out.data_ptr<float>(), kKernelThreads);
        answered(choice.shown());
        return out;
    });
}

Result<at::Tensor> SoftmaxMixing::tile(std::span<const std::int64_t> heads_wanted, std::int64_t q0, std::int64_t q1,
                                       std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto which = VITRINE_TRY(chosen(heads_wanted, heads, "head", name));
        VITRINE_CHECK(check_tile(*this, q0, q1, k0, k1, pool));
        if (parts_.map.defined()) {
            answered(parts_.source);
            return tile_of(parts_.map, which, q0, q1, k0, k1, pool, pooling);
        }
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor tile =
                VITRINE_TRY(device_tile(*state->there, which, q0, q1, k0, k1, pool, pooling, shown));
            answered(std::move(shown));
            return tile.to(at::kCPU);
        }
        at::Tensor out = at::empty(
            {static_cast<std::int64_t>(which.size()), (q1 - q0 + pool - 1) / pool, (k1 - k0 + pool - 1) / pool});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::MapTile, state->params));
        choice.kernels->map_tile(state->params, which, q0, q1, k0, k1, pool,
                                 pooling == Pooling::Max ? kernels::Pooling::Max : kernels::Pooling::Mean,
                                 out.data_ptr<float>(), kKernelThreads);
        answered(choice.shown());
        return out;
    });
}

Result<at::Tensor> SoftmaxMixing::left(const at::Tensor& r) const {
    return guarded([&]() -> Result<at::Tensor> {
        if (parts_.map.defined()) {
            const at::Tensor w = VITRINE_TRY(weights(*this, r));
            answered(parts_.source);
            return left_of(parts_.map, w).to(r.device());
        }
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor w = VITRINE_TRY(weights(*this, r, state->used_q.device()));
            const at::Tensor out = VITRINE_TRY(device_left(*state->there, w, shown));
            answered(std::move(shown));
            return out.to(r.device());
        }
        const at::Tensor w = VITRINE_TRY(weights(*this, r));
        at::Tensor out = at::empty({heads, keys});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::MapSweep, state->params));
        choice.kernels->map_sweep(state->params, w.data_ptr<float>(), w.size(0) == 1 ? 0 : queries,
                                  out.data_ptr<float>(), kKernelThreads);
        answered(choice.shown());
        return out.to(r.device());
    });
}

namespace {

/// The layers of these steps where one device can walk through them at once; empty where not.
Result<std::vector<const DeviceReady*>> on_one_device(std::span<const FlowStep> steps) {
    std::vector<const DeviceReady*> layers;
    for (const FlowStep& step : steps) {
        const auto* softmax = dynamic_cast<const SoftmaxMixing*>(step.mixing.get());
        const bool joined = &step == &steps.front() || !step.before;
        if (!joined || softmax == nullptr || softmax->rematerialises() || !softmax->device().is_cuda()) return {};
        const auto given = VITRINE_TRY(softmax->given());
        if (given.device == nullptr || softmax->device() != steps.front().mixing->device()) return {};
        layers.push_back(given.device);
    }
    return layers;
}

}  // namespace

Result<at::Tensor> left_mean(std::span<const FlowStep> steps, const at::Tensor& start, bool residuals) {
    return guarded([&]() -> Result<at::Tensor> {
        at::Tensor r = start;
        for (std::size_t at = steps.size(); at-- > 0;) {
            const Mixing& mixing = *steps[at].mixing;
            if (steps[at].residual && residuals && mixing.queries != mixing.keys)
                return fail(ErrorCode::Unsupported, "{} has a residual path between {} queries and {} keys",
                            mixing.name, mixing.queries, mixing.keys);
        }
        if (const auto layers = VITRINE_TRY(on_one_device(steps)); !layers.empty()) {
            const Mixing& last = *steps.back().mixing;
            std::vector<bool> residual;
            for (const FlowStep& step : steps) residual.push_back(step.residual && residuals);
            std::string shown;
            r = VITRINE_TRY(
                device_walk(layers, residual, VITRINE_TRY(weights(last, r.reshape({1, -1}), last.device())), shown));
            for (const FlowStep& step : steps) static_cast<const SoftmaxMixing&>(*step.mixing).answered(shown);
            return steps.front().before ? steps.front().before->back(r) : r;
        }
        for (std::size_t at = steps.size(); at-- > 0;) {
            const Mixing& mixing = *steps[at].mixing;
            r = r.to(mixing.device());  // a walk over many layers need not leave the device
            const at::Tensor through = VITRINE_TRY(mixing.left(r)).mean(0);
            r = steps[at].residual && residuals ? at::Tensor((through + r) / 2) : through;
            if (steps[at].before) r = steps[at].before->back(r);
        }
        return r;
    });
}

Result<at::Tensor> SoftmaxMixing::right(const at::Tensor& values) const {
    return guarded([&]() -> Result<at::Tensor> {
        VITRINE_CHECK(check_values(*this, values));
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor out = VITRINE_TRY(device_right(*state->there, values, shown));
            answered(std::move(shown));
            return out.to(values.device());
        }
        const at::Tensor v = host_float(values);
        at::Tensor out = at::empty({heads, queries, v.size(-1)});
        const std::int64_t strides[2] = {v.stride(0), v.stride(1)};
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::MapApply, state->params));
        choice.kernels->map_apply(state->params, v.data_ptr<float>(), strides, v.size(-1), out.data_ptr<float>(),
                                  kKernelThreads);
        answered(choice.shown());
        return out.to(values.device());
    });
}

Result<at::Tensor> SoftmaxMixing::sensitivity(const at::Tensor& r, Sensitivity functor,
                                              const at::Tensor& d_output) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto state = VITRINE_TRY(ready());
        if (!state->used_v.defined()) return fail(ErrorCode::Unsupported, "the values of {} were not kept", name);
        const at::Tensor used =
            VITRINE_TRY(output_gradient(*this, d_output, state->used_v.size(-1), parts_.head_factors));
        const kernels::SweepFunctor wanted = functor_of(functor);
        if (state->there) {
            std::string shown;
            const at::Tensor w = VITRINE_TRY(weights(*this, r, state->used_q.device()));
            const at::Tensor out =
                VITRINE_TRY(device_sensitivity(*state->there, state->used_v, used, wanted, w, shown));
            answered(std::move(shown));
            return out.to(r.device());
        }
        const at::Tensor w = VITRINE_TRY(weights(*this, r));
        const at::Tensor values = host_float(state->used_v);  // [value heads, keys, dim]
        const at::Tensor gradient = host_float(used);
        kernels::GradientParams g;
        g.v = values.data_ptr<float>();
        g.d_out = gradient.data_ptr<float>();
        g.value_dim = values.size(-1);
        g.value_heads = values.size(0);
        for (int axis = 0; axis < 2; ++axis) {
            g.v_stride[axis] = values.stride(axis);
            g.d_out_stride[axis] = gradient.stride(axis);
        }
        if (const char* why = kernels::cannot_run(state->params, g, wanted))
            return fail(ErrorCode::Unsupported, "the gradient sweep of {} cannot be computed: {}", name, why);
        at::Tensor out = at::empty({heads, keys});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::MapSweepGradient, state->params));
        choice.kernels->map_sweep_gradient(state->params, g, wanted, w.data_ptr<float>(), w.size(0) == 1 ? 0 : queries,
                                           out.data_ptr<float>(), kKernelThreads);
        answered(choice.shown());
        return out.to(r.device());
    });
}

Result<SoftmaxMixing::Given> SoftmaxMixing::given() const {
    if (recipe_) return fail(ErrorCode::Internal, "the queries and keys of {} are made anew each time", name);
    const auto state = VITRINE_TRY(ready());
    return state->there ? Given{nullptr, state->there.get()} : Given{&state->params, nullptr};
}

Result<at::Tensor> SoftmaxMixing::fused_rows(kernels::HeadFusion fusion,
                                             std::span<const std::int64_t> queries_wanted) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto wanted = VITRINE_TRY(chosen(queries_wanted, queries, "query", name));
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor out = VITRINE_TRY(device_fused_rows(*state->there, fusion, wanted, shown));
            answered(std::move(shown));
            return out.to(at::kCPU);
        }
        at::Tensor out = at::empty({static_cast<std::int64_t>(wanted.size()), keys});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::FusedSweep, state->params));
        choice.kernels->fused->rows(state->params, fusion, wanted, out.data_ptr<float>(), kKernelThreads);
        answered(choice.shown());
        return out;
    });
}

Result<at::Tensor> SoftmaxMixing::fused_left(kernels::HeadFusion fusion, const at::Tensor& r,
                                             const kernels::Dropped& dropped) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor w = VITRINE_TRY(weights(*this, r.reshape({1, -1}), state->used_q.device()));
            const at::Tensor out = VITRINE_TRY(device_fused_left(*state->there, fusion, w, dropped, shown));
            answered(std::move(shown));
            return out.to(r.device());
        }
        const at::Tensor w = VITRINE_TRY(weights(*this, r.reshape({1, -1})));
        at::Tensor out = at::empty({keys});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::FusedSweep, state->params));
        choice.kernels->fused->sweep(state->params, fusion, dropped, w.data_ptr<float>(), out.data_ptr<float>(),
                                     kKernelThreads);
        answered(choice.shown());
        return out.to(r.device());
    });
}

Result<at::Tensor> SoftmaxMixing::fused_row_sums(kernels::HeadFusion fusion, const kernels::Dropped& dropped) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto state = VITRINE_TRY(ready());
        if (state->there) {
            std::string shown;
            const at::Tensor out = VITRINE_TRY(device_fused_row_sums(*state->there, fusion, dropped, shown));
            answered(std::move(shown));
            return out.to(at::kCPU);
        }
        at::Tensor out = at::empty({queries});
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::FusedSweep, state->params));
        choice.kernels->fused->row_sums(state->params, fusion, dropped, out.data_ptr<float>(), kKernelThreads);
        answered(choice.shown());
        return out;
    });
}

Result<FusedCounts> SoftmaxMixing::fused_counts(kernels::HeadFusion fusion, std::uint32_t first, int shift,
                                                std::int64_t bins) const {
    return guarded([&]() -> Result<FusedCounts> {
        const auto state = VITRINE_TRY(ready());
        FusedCounts out;
        if (state->there) {
            std::string shown;
            const at::Tensor counts =
                VITRINE_TRY(device_fused_counts(*state->there, fusion, first, shift, bins, shown)).to(at::kCPU);
            answered(std::move(shown));
            const auto* numbers = counts.const_data_ptr<std::int64_t>();
            out.bins.assign(numbers, numbers + bins);
            out.below = numbers[bins];
            return out;
        }
        out.bins.resize(static_cast<std::size_t>(bins));
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::FusedSweep, state->params));
        choice.kernels->fused->histogram(state->params, fusion, first, shift, bins, out.bins.data(), &out.below,
                                         kKernelThreads);
        answered(choice.shown());
        return out;
    });
}

Result<at::Tensor> SoftmaxMixing::entropy() const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto state = VITRINE_TRY(ready());
        // Terms beside scale q . k are not linear in the keys: the general way.
        if (!parts_.terms.empty() || state->params.softcap > 0) return Mixing::entropy();
        // -ln p_ij = lse_i - s_ij, and sum_j p_ij s_ij = scale q_i . (P K)_i: one pass with the keys as values. A
        // column of ones gives sum_j p_ij, by which lse_i counts: where that is a rounding off 1, the scores are times
        // as much.
        const at::Tensor q = (state->there ? state->there->q : state->q).to(at::kFloat),
                         lse = state->there ? state->there->lse : state->lse;
        at::Tensor k = (state->there ? state->there->k : state->k).to(at::kFloat);
        if (k.size(0) != heads) k = k.repeat_interleave(heads / k.size(0), 0);
        // On a device eight of them, so that rows stay aligned.
        const at::Tensor ones = at::ones({heads, keys, state->there ? 8 : 1}, k.options());
        const at::Tensor sums = VITRINE_TRY(right(at::cat({k, ones}, -1)));
        const at::Tensor scores = parts_.scale * (q * sums.slice(2, 0, k.size(2))).sum(-1);
        return at::Tensor((lse * sums.select(2, k.size(2)) - scores).clamp_min(0)).to(at::kCPU);
    });
}

Result<const kernels::AttentionParams*> SoftmaxMixing::params() const {
    const Given it = VITRINE_TRY(given());
    if (it.host == nullptr) return fail(ErrorCode::Unsupported, "what {} kept lies on a device", name);
    return it.host;
}

Result<kernels::AttentionParams> SoftmaxMixing::row_params(bool may_pack) const {
    kernels::AttentionParams p = *VITRINE_TRY(params());
    std::lock_guard lock(mutex_);
    if (may_pack && looked_at_ && !packed_keys_.defined()) {
        const auto choice = VITRINE_TRY(kernels::choose(kernels::Operation::PackKeys, p));
        at::Tensor to = at::empty({kernels::packed_keys_size(p)});
        choice.kernels->pack_keys(p, to.data_ptr<float>(), kKernelThreads);
        packed_keys_ = std::move(to);
    }
    looked_at_ = true;
    if (packed_keys_.defined()) p.packed_keys = packed_keys_.data_ptr<float>();
    return p;
}

void SoftmaxMixing::answered(std::string shown) const {
    std::lock_guard lock(mutex_);
    implementation_ = std::move(shown);
}

at::Device SoftmaxMixing::device() const {
    const at::Tensor& like = recipe_ ? recipe_->input : parts_.q;
    return device_kernels_take(like) ? like.device() : at::Device(at::kCPU);
}

Result<MixingCheck> SoftmaxMixing::check(std::uint64_t seed) const {
    return guarded([&] {
        double map_error = 0;
        // On a device the rows stay there. A kept map came from where the output did: rows are computed anew.
        const auto rows_there = [&](std::span<const std::int64_t> picked) -> Result<at::Tensor> {
            const auto state = VITRINE_TRY(ready());
            const auto all = VITRINE_TRY(chosen({}, heads, "head", name));
            const std::vector<std::int64_t> wanted(picked.begin(), picked.end());
            std::string shown;
            if (state->there) return device_rows(*state->there, all, wanted, shown);
            const at::Tensor found = VITRINE_TRY(computed_rows(all, wanted));
            if (parts_.map.defined()) map_error = (found - rows_of(parts_.map, all, wanted)).abs().max().item<double>();
            return found;
        };
        auto found = check_rows(*this, rows_there, v(), recipe_ ? sampled_output_ : output(), sampled_,
                                parts_.head_factors, seed);
        if (found && found->passed && !(map_error <= 1e-4)) {
            found->passed = false;
            found->sentence = fmt::format(
                "the map that was kept differs from that of its queries and keys by {:.1e} (allowed 1e-04)", map_error);
        }
        return found;
    });
}

std::int64_t SoftmaxMixing::size_bytes() const {
    // Queries, keys and values are often views of one tensor: a storage counts once.
    std::vector<const void*> seen;
    std::int64_t bytes = 0;
    std::vector<at::Tensor> kept{parts_.q, parts_.k, parts_.v, parts_.lse, parts_.output, parts_.map, sampled_output_};
    if (recipe_) kept.push_back(recipe_->input);
    {
        std::lock_guard lock(mutex_);
        kept.push_back(packed_keys_);
    }
    for (const ScoreTerm& term : parts_.terms) kept.push_back(term.tensor);
    for (const at::Tensor& x : kept) {
        if (!x.defined() || !x.has_storage()) continue;
        const void* storage = x.storage().unsafeGetStorageImpl();
        if (std::find(seen.begin(), seen.end(), storage) != seen.end()) continue;
        seen.push_back(storage);
        bytes += storage_bytes(x);
    }
    return bytes;
}

std::string SoftmaxMixing::implementation() const {
    std::lock_guard lock(mutex_);
    return implementation_;
}

at::Tensor SoftmaxMixing::used(at::Tensor Ready::*which, const at::Tensor& kept) const {
    at::Tensor x = as_heads(kept);
    if (recipe_) {
        auto state = ready();
        if (!state) return {};
        x = (**state).*which;
    }
    return !x.defined() || x.size(0) == heads ? x : x.repeat_interleave(heads / x.size(0), 0);
}
at::Tensor SoftmaxMixing::q() const { return used(&Ready::used_q, parts_.q); }
at::Tensor SoftmaxMixing::k() const { return used(&Ready::used_k, parts_.k); }
at::Tensor SoftmaxMixing::v() const { return used(&Ready::used_v, parts_.v); }
at::Tensor SoftmaxMixing::output() const { return as_heads(parts_.output); }

// ---- dense
// --------------------------------------------------------------------------------------------------------------------

DenseMixing::DenseMixing(at::Tensor p, at::Tensor v, at::Tensor output, std::vector<double> head_factors)
    : p_(std::move(p)), v_(std::move(v)), output_(std::move(output)), head_factors_(std::move(head_factors)) {
    heads = 1;
    for (std::int64_t axis = 0; axis < p_.dim() - 2; ++axis) heads *= p_.size(axis);
    queries = p_.size(-2);
    keys = p_.size(-1);
}

const at::Tensor& DenseMixing::host() const {
    std::lock_guard lock(mutex_);
    if (!host_.defined()) host_ = host_float(as_heads(p_));
    return host_;
}

Result<at::Tensor> DenseMixing::rows(std::span<const std::int64_t> heads_wanted,
                                     std::span<const std::int64_t> queries_wanted) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto which = VITRINE_TRY(chosen(heads_wanted, heads, "head", name));
        const auto wanted = VITRINE_TRY(chosen(queries_wanted, queries, "query", name));
        return rows_of(host(), which, wanted);
    });
}

Result<at::Tensor> DenseMixing::columns(std::span<const std::int64_t> heads_wanted,
                                        std::span<const std::int64_t> keys_wanted) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto which = VITRINE_TRY(chosen(heads_wanted, heads, "head", name));
        const auto wanted = VITRINE_TRY(chosen(keys_wanted, keys, "key", name));
        return columns_of(host(), which, wanted);
    });
}

Result<at::Tensor> DenseMixing::tile(std::span<const std::int64_t> heads_wanted, std::int64_t q0, std::int64_t q1,
                                     std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto which = VITRINE_TRY(chosen(heads_wanted, heads, "head", name));
        VITRINE_CHECK(check_tile(*this, q0, q1, k0, k1, pool));
        return tile_of(host(), which, q0, q1, k0, k1, pool, pooling);
    });
}

Result<at::Tensor> DenseMixing::left(const at::Tensor& r) const {
    return guarded([&]() -> Result<at::Tensor> {
        const at::Tensor w = VITRINE_TRY(weights(*this, r));
        return left_of(host(), w).to(r.device());
    });
}

Result<at::Tensor> DenseMixing::right(const at::Tensor& values) const {
    return guarded([&]() -> Result<at::Tensor> {
        VITRINE_CHECK(check_values(*this, values));
        return host().matmul(host_float(values)).to(values.device());
    });
}

Result<at::Tensor> DenseMixing::sensitivity(const at::Tensor& r, Sensitivity functor,
                                            const at::Tensor& d_output) const {
    return guarded([&]() -> Result<at::Tensor> {
        if (!v_.defined()) return fail(ErrorCode::Unsupported, "the values of {} were not kept", name);
        const at::Tensor w = VITRINE_TRY(weights(*this, r));
        const at::Tensor values = host_float(as_heads(v_));
        const at::Tensor gradient =
            host_float(VITRINE_TRY(output_gradient(*this, d_output, values.size(-1), head_factors_)));
        at::Tensor x = gradient.matmul(values.transpose(-2, -1));  // [heads, queries, keys], as large as what was kept
        if (functor == Sensitivity::ReluPdP || functor == Sensitivity::PdP) x = x * host();
        if (functor == Sensitivity::AbsDP) x = x.abs();
        if (functor == Sensitivity::ReluPdP || functor == Sensitivity::ReluDP) x = x.clamp_min(0);
        return w.unsqueeze(1).expand({heads, 1, queries}).matmul(x).select(1, 0).contiguous().to(r.device());
    });
}

Result<MixingCheck> DenseMixing::check(std::uint64_t seed) const {
    return guarded([&] {
        return check_rows(
            *this, [&](std::span<const std::int64_t> picked) { return rows({}, picked); }, as_heads(v_),
            as_heads(output_), {}, head_factors_, seed);
    });
}

bool DenseMixing::row_stochastic() const {
    const at::Tensor& p = host();
    return p.min().item<double>() >= 0 && (p.sum(-1) - 1).abs().max().item<double>() < 1e-3;
}

std::int64_t DenseMixing::size_bytes() const { return storage_bytes(p_) + storage_bytes(v_) + storage_bytes(output_); }
at::Tensor DenseMixing::v() const { return as_heads(v_); }
at::Tensor DenseMixing::output() const { return as_heads(output_); }
at::Tensor DenseMixing::p() const { return as_heads(p_); }

}  // namespace vitrine
