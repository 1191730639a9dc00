// Mixings of attention: the softmax kind, computed from queries, keys and the log-sum-exp, and the kind that kept P
// itself.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/kernels/chooser.h>
#include <vitrine/mixing.h>

namespace vitrine {

/// A term of the scores beside scale q . k, broadcastable to the scores' shape.
struct ScoreTerm {
    enum class Kind : std::uint8_t { Add, KeepWhereTrue, DropWhereTrue };
    at::Tensor tensor;
    Kind kind = Kind::Add;
    double factor = 1;  ///< multiplies an added term
};

/// What an attention was given and gave, as the model used it; nothing is copied here.
struct SoftmaxParts {
    at::Tensor q;       ///< [..., queries, head_dim]; the leading axes are batch and heads
    at::Tensor k;       ///< [..., keys, head_dim]; fewer heads than q: each serves heads / key heads of them in a row
    at::Tensor v;       ///< [..., keys, value_dim]
    at::Tensor lse;     ///< [..., queries], longer rows are padding, a last axis of 1 is dropped; undefined: found when
                        ///< first needed
    at::Tensor output;  ///< [..., queries, value_dim], as the model went on with it
    double scale = 1;
    bool causal = false;
    std::vector<ScoreTerm> terms;
    std::vector<double> head_factors;  ///< what edits multiplied each head's output by; empty is 1
    std::string source;                ///< the operator: "flash attention"
};

class SoftmaxMixing final : public Mixing {
  public:
    explicit SoftmaxMixing(SoftmaxParts parts);

    std::string kind() const override { return "softmax"; }
    Result<at::Tensor> rows(std::span<const std::int64_t> heads, std::span<const std::int64_t> queries) const override;
    Result<at::Tensor> columns(std::span<const std::int64_t> heads, std::span<const std::int64_t> keys) const override;
    Result<at::Tensor> tile(std::span<const std::int64_t> heads, std::int64_t q0, std::int64_t q1, std::int64_t k0,
                            std::int64_t k1, std::int64_t pool, Pooling pooling = Pooling::Mean) const override;
    Result<at::Tensor> left(const at::Tensor& r) const override;
    Result<at::Tensor> right(const at::Tensor& v) const override;
    Result<at::Tensor> sensitivity(const at::Tensor& r, Sensitivity functor, const at::Tensor& d_output) const override;
    Result<MixingCheck> check(std::uint64_t seed = 0) const override;
    std::int64_t size_bytes() const override;
    std::string implementation() const override;
    at::Tensor q() const override;
    at::Tensor k() const override;
    at::Tensor v() const override;
    at::Tensor output() const override;

    const SoftmaxParts& parts() const { return parts_; }
    /// What the kernels are given; valid while the Mixing lives.
    Result<const kernels::AttentionParams*> params() const;
    /// The same for rows. From the second call on with packed keys, where `may_pack`.
    Result<kernels::AttentionParams> row_params(bool may_pack) const;

  private:
    /// Host copies where the kept tensors are not fp32 on the host already, and the parameters that point into them.
    struct Ready {
        at::Tensor q, k, bias, mask, lse;
        kernels::AttentionParams params;
    };
    Result<const Ready*> ready() const;
    /// Notes which implementation answered.
    void answered(const kernels::Choice& choice) const;

    SoftmaxParts parts_;
    mutable std::mutex mutex_;  ///< a capture is shared; the first reader prepares
    mutable std::unique_ptr<Ready> ready_;
    mutable at::Tensor packed_keys_;  ///< undefined until rows are wanted again
    mutable bool looked_at_ = false;
    mutable std::string implementation_ = "none yet";
};

/// P itself, where the way the model made it was not recognised.
class DenseMixing final : public Mixing {
  public:
    /// p is [..., queries, keys], v [..., keys, value_dim], output [..., queries, value_dim].
    DenseMixing(at::Tensor p, at::Tensor v, at::Tensor output, std::vector<double> head_factors = {});

    std::string kind() const override { return "dense"; }
    Result<at::Tensor> rows(std::span<const std::int64_t> heads, std::span<const std::int64_t> queries) const override;
    Result<at::Tensor> columns(std::span<const std::int64_t> heads, std::span<const std::int64_t> keys) const override;
    Result<at::Tensor> tile(std::span<const std::int64_t> heads, std::int64_t q0, std::int64_t q1, std::int64_t k0,
                            std::int64_t k1, std::int64_t pool, Pooling pooling = Pooling::Mean) const override;
    Result<at::Tensor> left(const at::Tensor& r) const override;
    Result<at::Tensor> right(const at::Tensor& v) const override;
    Result<at::Tensor> sensitivity(const at::Tensor& r, Sensitivity functor, const at::Tensor& d_output) const override;
    Result<MixingCheck> check(std::uint64_t seed = 0) const override;
    bool row_stochastic() const override;
    std::int64_t size_bytes() const override;
    std::string implementation() const override { return "kept map"; }
    at::Tensor v() const override;
    at::Tensor output() const override;
    /// P carrying the graph when gradients were asked for. [heads, queries, keys]
    at::Tensor p() const;

  private:
    const at::Tensor& host() const;

    at::Tensor p_, v_, output_;
    std::vector<double> head_factors_;
    mutable std::mutex mutex_;
    mutable at::Tensor host_;
};

/// The engine's threads, as kernels take them.
extern const kernels::ParallelFor kKernelThreads;

/// Leading axes made one: [..., tokens, dim] -> [heads, tokens, dim].
at::Tensor as_heads(const at::Tensor& x);

/// Bytes of the storage that keeping this tensor keeps alive; 0 when undefined.
std::int64_t storage_bytes(const at::Tensor& x);

}  // namespace vitrine
