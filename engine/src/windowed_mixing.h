// Attention within windows as one Mixing over all their tokens: P is block-diagonal, and only blocks are ever computed.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/mixing.h>

namespace vitrine {

/// [windows, heads, tokens, dim] -> [heads, windows * tokens, dim], numbered window by window, or in the order given.
at::Tensor join_windows(const at::Tensor& x, const at::Tensor& order);
/// The way back: [heads, windows * tokens, dim] -> [windows, heads, tokens, dim].
at::Tensor split_windows(const at::Tensor& x, std::int64_t windows, const at::Tensor& order);

class WindowedMixing final : public Mixing {
  public:
    /// What the run went on with where gradients were asked for, [heads, windows * tokens, dim]; else undefined.
    struct OnPath {
        at::Tensor q, k, v, output;
    };

    /// @param inner  the attention with windows * heads heads, those of one window side by side
    /// @param order  for each token of this Mixing its number counted window by window, int64 [windows * tokens];
    ///               undefined: that number itself
    WindowedMixing(std::shared_ptr<Mixing> inner, std::int64_t windows, at::Tensor order, OnPath on_path = {});

    std::string kind() const override { return inner_->kind(); }
    Result<at::Tensor> rows(std::span<const std::int64_t> heads, std::span<const std::int64_t> queries) const override;
    Result<at::Tensor> columns(std::span<const std::int64_t> heads, std::span<const std::int64_t> keys) const override;
    Result<at::Tensor> tile(std::span<const std::int64_t> heads, std::int64_t q0, std::int64_t q1, std::int64_t k0,
                            std::int64_t k1, std::int64_t pool, Pooling pooling = Pooling::Mean) const override;
    Result<at::Tensor> left(const at::Tensor& r) const override;
    Result<at::Tensor> right(const at::Tensor& v) const override;
    Result<at::Tensor> sensitivity(const at::Tensor& r, Sensitivity functor, const at::Tensor& d_output) const override;
    Result<MixingCheck> check(std::uint64_t seed = 0) const override { return inner_->check(seed); }
    bool row_stochastic() const override { return inner_->row_stochastic(); }
    std::int64_t size_bytes() const override { return inner_->size_bytes(); }
    std::string implementation() const override { return inner_->implementation(); }
    at::Tensor q() const override { return given_or_joined(on_path_.q, inner_->q()); }
    at::Tensor k() const override { return given_or_joined(on_path_.k, inner_->k()); }
    at::Tensor v() const override { return given_or_joined(on_path_.v, inner_->v()); }
    at::Tensor output() const override { return given_or_joined(on_path_.output, inner_->output()); }

    std::int64_t windows() const { return windows_; }
    /// Whether the tokens' places were given; else they are numbered window by window.
    bool ordered() const { return order_.defined(); }
    /// A token's window and its position there.
    std::pair<std::int64_t, std::int64_t> place(std::int64_t token) const;

  private:
    /// Rows of the queries, or columns of the keys.
    Result<at::Tensor> lines(std::span<const std::int64_t> heads, std::span<const std::int64_t> tokens,
                             bool columns) const;
    at::Tensor given_or_joined(const at::Tensor& given, const at::Tensor& inner) const;
    /// [heads, all tokens, ...] -> [windows * heads, tokens, ...] and back.
    at::Tensor to_inner(const at::Tensor& x) const;
    at::Tensor from_inner(const at::Tensor& x) const;

    std::shared_ptr<Mixing> inner_;
    std::int64_t windows_;
    at::Tensor order_;
    std::vector<std::int64_t> number_;  ///< counted window by window, of each token
    OnPath on_path_;
};

}  // namespace vitrine
