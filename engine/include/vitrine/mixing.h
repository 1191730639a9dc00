// A Mixing: for one given input, the linear operator P from keys to queries by which tokens read each other.
//
// P is never stored unless it is all there is. Rows, columns, tiles and products are computed when they are looked at.
// Shapes below are without a batch axis: a Mixing is of one picture. All results are float32: on the CPU, but those of left, right and
// sensitivity where their first argument is, so that a walk over many layers need not leave the device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/kernels/fused_sweep.h>
#include <vitrine/layout.h>

namespace vitrine {

/// What check() found.
struct MixingCheck {
    bool passed = false;
    double output_error = 0;  ///< max |P V - used| / max |used| over the sampled rows
    double row_sum_error = 0; ///< max |sum_j p_ij - 1|
    double mass_error = 0;    ///< |sum_j (r^T P)_j - sum_i r_i|, for a uniform r
    std::string sentence;     ///< what failed, or "8 rows a head, output within 2e-7"
};

/// What sensitivity() sums: p an entry of the map, dp the gradient with respect to it.
enum class Sensitivity : std::uint8_t {
    ReluPdP,  ///< max(p dp, 0): Chefer
    PdP,      ///< p dp
    ReluDP,   ///< max(dp, 0): LeGrad
    AbsDP     ///< |dp|
};

/// What a cell of a pooled tile holds of the entries below it.
enum class Pooling : std::uint8_t { Mean, Max };

/// How many entries of a fused map have bits in each bin, and how many lie below the first.
struct FusedCounts {
    std::vector<std::int64_t> bins;
    std::int64_t below = 0;
};

class Mixing {
  public:
    virtual ~Mixing() = default;

    /// How it works, a word: "softmax", "dense" (P itself was kept).
    virtual std::string kind() const = 0;
    std::string name;          ///< "blocks.3.attn"; in TorchScript the module path
    TokenLayout query_layout;
    TokenLayout key_layout;
    std::int64_t heads = 0, queries = 0, keys = 0;

    /// Rows of P: what these queries read. `heads`/`queries` empty means all. [heads, queries, keys]; where the map was kept, all of it is
    /// what was kept and no copy: nobody writes into it.
    virtual Result<at::Tensor> rows(std::span<const std::int64_t> heads, std::span<const std::int64_t> queries) const = 0;
    /// Columns of P: who reads these keys. [heads, queries, keys chosen]
    virtual Result<at::Tensor> columns(std::span<const std::int64_t> heads, std::span<const std::int64_t> keys) const = 0;
    /// A piece of the map, the mean or the largest entry of pool x pool blocks. [heads, ceil((q1-q0)/pool), ceil((k1-k0)/pool)]
    virtual Result<at::Tensor> tile(std::span<const std::int64_t> heads, std::int64_t q0, std::int64_t q1, std::int64_t k0, std::int64_t k1,
                                    std::int64_t pool, Pooling pooling = Pooling::Mean) const = 0;
    /// r^T P for each head. r is [heads, queries] (or [1, queries], shared). -> [heads, keys]
    virtual Result<at::Tensor> left(const at::Tensor& r) const = 0;
    /// P V for each head. v is [heads, keys, dim] -> [heads, queries, dim]
    virtual Result<at::Tensor> right(const at::Tensor& v) const = 0;
    /// sum_i r_i f(p_ij, dp_ij) for each head, dp_ij = d_output_i . v_j; the gradient forms in one sweep, without forming a map.
    ///
    /// @param r         [heads, queries] (or [1, queries], shared)
    /// @param d_output  [heads, queries, dim], the gradient of a score with respect to output()
    /// @return          [heads, keys]
    /// @error Unsupported  it kept no values, or P is not made by a softmax or kept whole
    virtual Result<at::Tensor> sensitivity(const at::Tensor& r, Sensitivity functor, const at::Tensor& d_output) const;

    // One map fused of all heads, never formed (kernels/fused_sweep.h). All five see the same numbers, bit for bit. Here they are made of
    // rows(), some queries at a time; kinds that know better override all five.
    /// Chosen rows; `queries` empty means all. [queries, keys]
    virtual Result<at::Tensor> fused_rows(kernels::HeadFusion fusion, std::span<const std::int64_t> queries) const;
    /// sum_i r_i f_ij over what is not dropped. r is [queries]. -> [keys], where r is
    virtual Result<at::Tensor> fused_left(kernels::HeadFusion fusion, const at::Tensor& r, const kernels::Dropped& dropped = {}) const;
    /// sum_j f_ij over what is not dropped. [queries]
    virtual Result<at::Tensor> fused_row_sums(kernels::HeadFusion fusion, const kernels::Dropped& dropped = {}) const;
    /// How many entries have which bits: see kernels::fused_histogram.
    virtual Result<FusedCounts> fused_counts(kernels::HeadFusion fusion, std::uint32_t first, int shift, std::int64_t bins) const;
    /// -sum_j p_ij ln p_ij, in nats; not below 0. [heads, queries]
    virtual Result<at::Tensor> entropy() const;

    /// On 8 random rows a head: P V equals the output the model used (1e-4 relative in fp32, 2e-2 in bf16), rows sum to 1, mass is kept.
    virtual Result<MixingCheck> check(std::uint64_t seed = 0) const = 0;

    /// Whether rows are non-negative and sum to 1 (rollout needs it).
    virtual bool row_stochastic() const { return true; }
    /// Where it computes: a walk starts by taking its weights there.
    virtual at::Device device() const { return at::kCPU; }
    /// Bytes kept.
    virtual std::int64_t size_bytes() const = 0;
    /// The implementation that answered last, for the status line: "map_rows reference".
    virtual std::string implementation() const = 0;

    /// Tensors with the graph, for gradient methods; undefined when the capture kept none. [heads, tokens, dim]
    virtual at::Tensor q() const { return {}; }
    virtual at::Tensor k() const { return {}; }
    virtual at::Tensor v() const { return {}; }
    /// The output the model went on with, carrying the graph when gradients were asked for; undefined where only inputs were kept.
    /// [heads, queries, dim]
    virtual at::Tensor output() const { return {}; }
};

/// What drops the `count` smallest of all entries of a fused map, no more and no less: the threshold is the count-th smallest, found by
/// two counting passes, and of entries that equal it the first ones in row-major order go, as a stable sort would have it (torch.topk
/// does not say which). Zeros are all dropped, since nobody can tell.
///
/// @error Unsupported  fewer than `count` entries are numbers below 2
/// @error Cancelled    stop was requested
/// @cost  two passes over the map; a third over its first rows when not all ties are dropped
Result<kernels::Dropped> smallest_entries(const Mixing& mixing, kernels::HeadFusion fusion, std::int64_t count, std::stop_token stop = {});

/// A linear map between the tokens of one Mixing's output and the next one's input (pooling, merging, re-gridding).
class TokenMap {
  public:
    virtual ~TokenMap() = default;
    /// Takes a distribution over the later tokens back to the earlier ones, on the device of r. [later] -> [earlier]
    virtual at::Tensor back(const at::Tensor& r) const = 0;
};

/// One Mixing in its place.
struct FlowStep {
    std::shared_ptr<const Mixing> mixing;
    std::int64_t layer = 0;      ///< index among the blocks; -1 for a pooling head
    bool residual = true;        ///< x + mixing(x)
    std::shared_ptr<const TokenMap> before;  ///< from the step before to this one; null is the identity
};

/// The Mixings of a run in order, and how they hang together.
struct Flow {
    std::vector<FlowStep> steps;
    std::string unknown;  ///< why order, residual paths or token maps are not known; empty when they are
    /// Where the model reads its answer, over the tokens of the last step's query side. [tokens], sums to 1; undefined when unknown.
    at::Tensor readout;

    bool known() const { return unknown.empty(); }
    std::int64_t layers() const;  ///< number of steps that are blocks
    const FlowStep* block(std::int64_t layer) const;  ///< negative counts from the end; null when there is none
};

/// The same rows, or columns, of every block of a flow.
struct LayerRows {
    std::vector<at::Tensor> rows;  ///< one a block: [heads, queries, keys], or [queries, keys] when heads were averaged
    std::string implementation;    ///< "map_rows_layers avx512"
};

/// Computes these rows for all blocks in one pass over the kept keys, which is what reading them once costs.
///
/// From the second call on the keys are kept once more, packed so that memory is read in order, while that takes no more than 256 MiB
/// a flow; the rows are the same to the last bit.
///
/// @param queries    tokens of the query side; negative counts from the end; the blocks must all have them
/// @param head_mean  averages the heads while computing
/// @error BadInput   a query that a block does not have, named
Result<LayerRows> rows_of_layers(const Flow& flow, std::span<const std::int64_t> queries, bool head_mean);

/// The same for columns: who reads these keys, in every block. rows[l]: [heads, queries, keys chosen], or [queries, keys chosen].
/// @error BadInput   a key that a block does not have, named
Result<LayerRows> columns_of_layers(const Flow& flow, std::span<const std::int64_t> keys, bool head_mean);

/// What the same rows of every block read most.
struct LayerTop {
    std::vector<at::Tensor> values;   ///< one a block: [heads, queries, top], or [queries, top] when heads were averaged; largest first
    std::vector<at::Tensor> indices;  ///< the keys, int64; of equal values the lower key comes first
    std::string implementation;       ///< "map_rows_top avx512"
};

/// The `top` largest entries of these rows; rows are held a few at a time.
/// @error BadInput   a query that a block does not have, or more entries than a block has keys
Result<LayerTop> top_of_layers(const Flow& flow, std::span<const std::int64_t> queries, bool head_mean, std::int64_t top);

/// The `top` largest entries along the last axis and their indices, by the same rule. x: float32
/// @error BadInput   more entries than the axis has
Result<std::pair<at::Tensor, at::Tensor>> top_entries(const at::Tensor& x, std::int64_t top);

/// The distribution over the tokens of the last block from which the answer is read: the class token, the mean of the patches, or, with
/// attention pooling, the pooler's row (mean over its heads). [tokens], sums to 1.
/// @error Unsupported  the flow does not know it
Result<at::Tensor> readout_of_blocks(const Flow& flow);

}  // namespace vitrine
