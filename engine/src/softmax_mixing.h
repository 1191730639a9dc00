// Mixings of attention: the softmax kind, computed from queries, keys and the log-sum-exp, and the kind that kept P
// itself.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/capture.h>
#include <vitrine/kernels/chooser.h>
#include <vitrine/mixing.h>

namespace vitrine {

struct DeviceReady;

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
    at::Tensor map;     ///< [heads, queries, keys] fp32 on the CPU, where it was left beside the output; else undefined
    double scale = 1;
    bool causal = false;
    std::vector<ScoreTerm> terms;
    std::vector<double> head_factors;  ///< what edits multiplied each head's output by; empty is 1
    std::string source;                ///< the operator: "flash attention"
};

class SoftmaxMixing final : public Mixing {
  public:
    /// With a recipe queries, keys and values are made again when someone looks, and of the output only the rows that
    /// check() may ask for are kept.
    explicit SoftmaxMixing(SoftmaxParts parts, std::optional<Recipe> recipe = {});
    ~SoftmaxMixing() override;

    std::string kind() const override { return "softmax"; }
    Result<at::Tensor> rows(std::span<const std::int64_t> heads, std::span<const std::int64_t> queries) const override;
    Result<at::Tensor> columns(std::span<const std::int64_t> heads, std::span<const std::int64_t> keys) const override;
    Result<at::Tensor> tile(std::span<const std::int64_t> heads, std::int64_t q0, std::int64_t q1, std::int64_t k0,
                            std::int64_t k1, std::int64_t pool, Pooling pooling = Pooling::Mean) const override;
    Result<at::Tensor> left(const at::Tensor& r) const override;
    Result<at::Tensor> right(const at::Tensor& v) const override;
    Result<at::Tensor> sensitivity(const at::Tensor& r, Sensitivity functor, const at::Tensor& d_output) const override;
    Result<at::Tensor> fused_rows(kernels::HeadFusion fusion, std::span<const std::int64_t> queries) const override;
    Result<at::Tensor> fused_left(kernels::HeadFusion fusion, const at::Tensor& r,
                                  const kernels::Dropped& dropped) const override;
    Result<at::Tensor> fused_row_sums(kernels::HeadFusion fusion, const kernels::Dropped& dropped) const override;
    Result<FusedCounts> fused_counts(kernels::HeadFusion fusion, std::uint32_t first, int shift,
                                     std::int64_t bins) const override;
    Result<at::Tensor> entropy() const override;
    Result<MixingCheck> check(std::uint64_t seed = 0) const override;
    at::Device device() const override;
    std::int64_t size_bytes() const override;
    std::string implementation() const override;
    at::Tensor q() const override;
    at::Tensor k() const override;
    at::Tensor v() const override;
    at::Tensor output() const override;

    const SoftmaxParts& parts() const { return parts_; }
    /// Whether queries and keys are made when someone looks.
    bool rematerialises() const { return recipe_.has_value(); }
    /// What the kernels of the CPU, or those of the device, are given, where nothing is made again; valid while the
    /// Mixing lives. The other of the two is null.
    struct Given {
        const kernels::AttentionParams* host = nullptr;
        const DeviceReady* device = nullptr;
    };
    Result<Given> given() const;
    /// Notes which implementation answered.
    void answered(std::string shown) const;
    /// The former of these alone.
    Result<const kernels::AttentionParams*> params() const;
    /// The same for rows. From the second call on with packed keys, where `may_pack`.
    Result<kernels::AttentionParams> row_params(bool may_pack) const;

  private:
    /// Queries, keys and values as the model used them, and what the kernels are given: on a device these very tensors,
    /// on the CPU host copies where these are not fp32 on the host already, with the parameters that point into them.
    struct Ready {
        at::Tensor used_q, used_k, used_v;
        at::Tensor q, k, bias, mask, lse;
        kernels::AttentionParams params;
        std::shared_ptr<const DeviceReady> there;  ///< null: the CPU's kernels answer
    };
    /// The rows by the kernels, whether the map was kept or not.
    Result<at::Tensor> computed_rows(const std::vector<std::int64_t>& heads,
                                     const std::vector<std::int64_t>& queries) const;
    Result<std::shared_ptr<const Ready>> ready() const;
    Result<std::shared_ptr<const Ready>> prepare() const;
    /// A kept tensor, or what the recipe makes for it, with as many heads as there are queries' heads.
    at::Tensor used(at::Tensor Ready::*which, const at::Tensor& kept) const;

    SoftmaxParts parts_;
    std::optional<Recipe> recipe_;
    std::vector<std::int64_t> sampled_;           ///< with a recipe: the queries whose output was kept
    at::Tensor sampled_output_;                   ///< [heads, sampled, value_dim]
    mutable std::mutex mutex_;                    ///< a capture is shared; the first reader prepares
    mutable std::shared_ptr<const Ready> ready_;  ///< stays unset with a recipe
    mutable at::Tensor lse_;                      ///< [heads, queries] fp32, where the kernels read it
    mutable at::Tensor packed_keys_;              ///< undefined until rows are wanted again
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

/// Attention with its map in one pass, where CaptureOptions::maps asks for it: fills output, log-sum-exp, map and
/// source of `parts` from its queries, keys, values and scale. False, and nothing done, where the kernel does not
/// apply.
/// @error BadInput  VITRINE_KERNEL names no kernel, or one that cannot run here
Result<bool> attend_with_map(SoftmaxParts& parts);

/// The engine's threads, as kernels take them.
extern const kernels::ParallelFor kKernelThreads;

/// Leading axes made one: [..., tokens, dim] -> [heads, tokens, dim].
at::Tensor as_heads(const at::Tensor& x);

/// Bytes of the storage that keeping this tensor keeps alive; 0 when undefined.
std::int64_t storage_bytes(const at::Tensor& x);

}  // namespace vitrine
