// Attention within windows: every question goes to the windows it concerns, and the answers to their tokens' places.
#include "windowed_mixing.h"

#include <vitrine/torch_errors.h>

#include <algorithm>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

namespace vitrine {
namespace {

Result<std::vector<std::int64_t>> chosen(std::span<const std::int64_t> wanted, std::int64_t count, const char* what,
                                         const std::string& name) {
    std::vector<std::int64_t> out(wanted.begin(), wanted.end());
    if (wanted.empty()) {
        out.resize(static_cast<std::size_t>(count));
        std::iota(out.begin(), out.end(), 0);
    }
    for (std::int64_t& index : out) {
        const std::int64_t given = index;
        if (index < 0) index += count;
        if (index < 0 || index >= count)
            return fail(ErrorCode::BadInput, "{} {} is not there: {} has {}, from 0 to {}", what, given, name, count,
                        count - 1);
    }
    return out;
}

}  // namespace

at::Tensor join_windows(const at::Tensor& x, const at::Tensor& order) {
    const at::Tensor joined = x.transpose(0, 1).reshape({x.size(1), x.size(0) * x.size(2), x.size(3)});
    return order.defined() ? joined.index_select(1, order.to(x.device())) : joined;
}

at::Tensor split_windows(const at::Tensor& x, std::int64_t windows, const at::Tensor& order) {
    const at::Tensor by_window = order.defined() ? x.index_select(1, order.argsort().to(x.device())) : x;
    return by_window.reshape({x.size(0), windows, x.size(1) / windows, x.size(2)}).transpose(0, 1);
}

WindowedMixing::WindowedMixing(std::shared_ptr<Mixing> inner, std::int64_t windows, at::Tensor order, OnPath on_path)
    : inner_(std::move(inner)), windows_(windows), order_(std::move(order)), on_path_(std::move(on_path)) {
    heads = inner_->heads / windows_;
    queries = inner_->queries * windows_;
    keys = inner_->keys * windows_;
    // One order serves both sides only where they are the same tokens.
    if (queries != keys || (order_.defined() && order_.numel() != keys)) order_.reset();
    number_.resize(static_cast<std::size_t>(keys));
    std::iota(number_.begin(), number_.end(), 0);
    if (order_.defined()) {
        const at::Tensor host = order_.contiguous();
        std::copy_n(host.data_ptr<std::int64_t>(), number_.size(), number_.begin());
    }
}

std::pair<std::int64_t, std::int64_t> WindowedMixing::place(std::int64_t token) const {
    const std::int64_t number = number_.at(static_cast<std::size_t>(token));
    return {number / inner_->keys, number % inner_->keys};
}

at::Tensor WindowedMixing::given_or_joined(const at::Tensor& given, const at::Tensor& inner) const {
    return given.defined() || !inner.defined() ? given : from_inner(inner);
}

at::Tensor WindowedMixing::to_inner(const at::Tensor& x) const {
    return split_windows(x.dim() == 2 ? x.unsqueeze(-1) : x, windows_, order_).flatten(0, 1);
}

at::Tensor WindowedMixing::from_inner(const at::Tensor& x) const {
    return join_windows(x.reshape({windows_, x.size(0) / windows_, x.size(1), x.size(2)}), order_);
}

Result<at::Tensor> WindowedMixing::lines(std::span<const std::int64_t> heads_wanted,
                                         std::span<const std::int64_t> tokens_wanted, bool columns) const {
    return guarded([&]() -> Result<at::Tensor> {
        const auto which = VITRINE_TRY(chosen(heads_wanted, heads, "head", name));
        const auto tokens =
            VITRINE_TRY(chosen(tokens_wanted, columns ? keys : queries, columns ? "key" : "query", name));
        const std::int64_t here = columns ? inner_->keys : inner_->queries;
        const std::int64_t there = columns ? inner_->queries : inner_->keys;
        // By number: [heads, windows, tokens of a window, lines], of which each line fills one window.
        at::Tensor out = at::zeros(
            {static_cast<std::int64_t>(which.size()), windows_ * there, static_cast<std::int64_t>(tokens.size())});
        std::vector<std::vector<std::int64_t>> lines_of(static_cast<std::size_t>(windows_));
        // Where only one side has known places (queries != keys) there is no order, so a number is the token itself.
        const auto number = [&](std::int64_t token) {
            return order_.defined() ? number_[static_cast<std::size_t>(token)] : token;
        };
        for (std::size_t i = 0; i < tokens.size(); ++i)
            lines_of[static_cast<std::size_t>(number(tokens[i]) / here)].push_back(static_cast<std::int64_t>(i));
        for (std::int64_t window = 0; window < windows_; ++window) {
            const auto& lines = lines_of[static_cast<std::size_t>(window)];
            if (lines.empty()) continue;
            std::vector<std::int64_t> inner_heads, positions;
            for (const std::int64_t head : which) inner_heads.push_back(window * heads + head);
            for (const std::int64_t line : lines)
                positions.push_back(number(tokens[static_cast<std::size_t>(line)]) % here);
            at::Tensor block = columns ? VITRINE_TRY(inner_->columns(inner_heads, positions))
                                       : VITRINE_TRY(inner_->rows(inner_heads, positions)).transpose(1, 2);
            out.narrow(1, window * there, there).index_copy_(2, at::tensor(lines), block);
        }
        if (order_.defined()) out = out.index_select(1, order_);
        return columns ? out : out.transpose(1, 2).contiguous();
    });
}

Result<at::Tensor> WindowedMixing::rows(std::span<const std::int64_t> heads_wanted,
                                        std::span<const std::int64_t> queries_wanted) const {
    return lines(heads_wanted, queries_wanted, false);
}

Result<at::Tensor> WindowedMixing::columns(std::span<const std::int64_t> heads_wanted,
                                           std::span<const std::int64_t> keys_wanted) const {
    return lines(heads_wanted, keys_wanted, true);
}

Result<at::Tensor> WindowedMixing::tile(std::span<const std::int64_t> heads_wanted, std::int64_t q0, std::int64_t q1,
                                        std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling) const {
    return guarded([&]() -> Result<at::Tensor> {
        if (q0 < 0 || q0 >= q1 || q1 > queries || k0 < 0 || k0 >= k1 || k1 > keys || pool < 1)
            return fail(ErrorCode::BadInput,
                        "the tile [{}, {}) x [{}, {}) pooled by {} does not lie in a map of {} x {}", q0, q1, k0, k1,
                        pool, queries, keys);
        std::vector<at::Tensor> bands;
        for (std::int64_t q = q0; q < q1; q += pool) {
            std::vector<std::int64_t> band(static_cast<std::size_t>(std::min(pool, q1 - q)));
            std::iota(band.begin(), band.end(), q);
            const auto fuse = [&](const at::Tensor& x, std::int64_t axis) {
                return pooling == Pooling::Max ? x.amax({axis}) : x.mean(axis);
            };
            const at::Tensor line = fuse(VITRINE_TRY(rows(heads_wanted, band)), 1).slice(1, k0, k1);  // [heads, keys]
            const std::int64_t whole = (k1 - k0) / pool * pool;
            std::vector<at::Tensor> cells;
            if (whole > 0)
                cells.push_back(fuse(line.slice(1, 0, whole).reshape({line.size(0), whole / pool, pool}), 2));
            if (whole < k1 - k0) cells.push_back(fuse(line.slice(1, whole), 1).unsqueeze(1));
            bands.push_back(at::cat(cells, 1).unsqueeze(1));
        }
        return at::cat(bands, 1);
    });
}

Result<at::Tensor> WindowedMixing::left(const at::Tensor& r) const {
    return guarded([&]() -> Result<at::Tensor> {
        const at::Tensor flat = r.dim() == 1 ? r.unsqueeze(0) : r;
        if (flat.dim() != 2 || flat.size(1) != queries || (flat.size(0) != 1 && flat.size(0) != heads))
            return fail(ErrorCode::BadInput, "the weights have {} numbers in {} rows, expected {} in 1 or {}",
                        r.numel(), flat.size(0), queries, heads);
        const at::Tensor inner = to_inner(flat.expand({heads, queries})).squeeze(-1);
        return from_inner(VITRINE_TRY(inner_->left(inner)).unsqueeze(-1)).squeeze(-1);
    });
}

Result<at::Tensor> WindowedMixing::right(const at::Tensor& values) const {
    return guarded([&]() -> Result<at::Tensor> {
        if (values.dim() != 3 || values.size(0) != heads || values.size(1) != keys)
            return fail(ErrorCode::BadInput, "the values must be [{}, {}, dim]", heads, keys);
        return from_inner(VITRINE_TRY(inner_->right(to_inner(values))));
    });
}

Result<at::Tensor> WindowedMixing::sensitivity(const at::Tensor& r, Sensitivity functor,
                                               const at::Tensor& d_output) const {
    return guarded([&]() -> Result<at::Tensor> {
        const at::Tensor flat = r.dim() == 1 ? r.unsqueeze(0) : r;
        if (flat.dim() != 2 || flat.size(1) != queries || (flat.size(0) != 1 && flat.size(0) != heads) ||
            d_output.dim() != 3 || d_output.size(0) != heads || d_output.size(1) != queries)
            return fail(ErrorCode::BadInput, "the weights and the gradient must be over the {} queries of {} heads",
                        queries, heads);
        const at::Tensor inner = to_inner(flat.expand({heads, queries})).squeeze(-1);
        const at::Tensor found = VITRINE_TRY(inner_->sensitivity(inner, functor, to_inner(d_output)));
        return from_inner(found.unsqueeze(-1)).squeeze(-1);
    });
}

}  // namespace vitrine
