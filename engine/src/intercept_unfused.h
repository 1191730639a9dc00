// Follows attention that a model spells out as matmul, scale, mask, softmax, matmul, by the identity of its tensors.
//
// A tensor is known again by its storage, so that views (reshape, flatten of batch and heads) need no interception.
// Storages are held weakly: an address cannot be given to another tensor while it is in the table, and nothing is kept
// alive for its sake.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include "softmax_mixing.h"

namespace vitrine {

class Recorder;

class UnfusedTracker {
  public:
    /// What is known of one tensor.
    struct Node {
        std::int64_t rows = 0, cols = 0, numel = 0;
        bool is_map = false;     ///< after the softmax
        bool recognised = true;  ///< false: a softmax of something that was not followed
        at::Tensor q, kt;        ///< the factors of the scores: kt is [..., head_dim, keys]
        double scale = 1;
        std::vector<ScoreTerm> terms;
    };

    /// Not inline: whoever makes one links this file, and with it the registration of its operators.
    explicit UnfusedTracker(Recorder& recorder);

    /// What is known of x; ask before an operator that works in place.
    std::optional<Node> find(const at::Tensor& x) const;

    /// out = scale a b, maybe scores: remembered when both are stacks of matrices.
    void scores(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out, double scale = 1);
    void scaled(std::optional<Node> in, double factor, const at::Tensor& out);
    void added(std::optional<Node> in, const at::Tensor& other, double factor, const at::Tensor& out);
    /// Masked places were set to `value`, which must be far below every score.
    void masked(std::optional<Node> in, const at::Tensor& mask, bool drop_where_true, double value,
                const at::Tensor& out);
    void softmaxed(std::optional<Node> in, std::int64_t dim, const at::Tensor& out);
    /// Out holds the same numbers as in (a cast, a copy).
    void passed(std::optional<Node> in, const at::Tensor& out);
    /// A product whose left factor is a map is an attention's output: keeps it and returns what the model goes on with.
    std::optional<at::Tensor> product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out);

    /// Square maps that were made and never met their values.
    std::int64_t lost() const { return maps_made_ - maps_used_; }

  private:
    struct Entry {
        c10::weak_intrusive_ptr<c10::StorageImpl> storage;
        std::uint32_t version = 0;
        Node node;
    };
    void put(const at::Tensor& out, Node node);

    Recorder& recorder_;
    std::vector<Entry> entries_;
    std::int64_t maps_made_ = 0, maps_used_ = 0;
};

}  // namespace vitrine
