// Running a model once and keeping what explanations need, by intercepting operators. No model is patched or rewritten.
//
//     auto capture = run_captured(model, input.pixels, {.gradients = false});
//     auto row = (*capture)->flow.block(-1)->mixing->rows({}, query);
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>
#include <vitrine/mixing.h>
#include <vitrine/model.h>

namespace vitrine {

/// A change made while the model runs.
struct Edit {
    enum class Kind : std::uint8_t {
        ScaleHead,    ///< multiplies one head's output by `factor` (0 ablates)
        ReplacePoint  ///< the activation at a named point becomes `replace(x)`
    };
    Kind kind = Kind::ScaleHead;
    std::string where;        ///< mixing name for ScaleHead, point name for ReplacePoint
    std::int64_t head = 0;
    double factor = 0;
    std::function<at::Tensor(const at::Tensor&)> replace;
};

struct CaptureOptions {
    bool mixings = true;                ///< keep Mixings
    bool gradients = false;             ///< kept tensors carry the autograd graph; runs with gradients enabled
    std::vector<std::string> points = {};  ///< named points to keep; "*" keeps all
    std::vector<Edit> edits = {};
    std::int64_t memory_budget = 0;     ///< bytes that may be kept; 0 is no limit
    std::stop_token stop = {};          ///< looked at on every intercepted operator
};

/// What one run left behind. Immutable once published; shared by panels, reports and exports.
struct Capture {
    at::Tensor output;                          ///< [1, classes]
    at::Tensor input;                           ///< [1, 3, H, W]; requires_grad when gradients were asked for
    Flow flow;
    std::map<std::string, at::Tensor> points;   ///< with the batch axis
    std::int64_t size_bytes = 0;                ///< kept for the Mixings and points
    double forward_ms = 0;
    std::vector<std::string> notes;             ///< "3 attention maps were kept whole: their chain was not recognised"
};

/// Runs the model on one picture ([1, 3, H, W]) and keeps what was asked.
///
/// @error Cancelled    stop was requested
/// @error OutOfMemory  the budget would be exceeded; says by how much
/// @error Unsupported  an attention that cannot be replayed exactly
Result<std::shared_ptr<const Capture>> run_captured(Model& model, const at::Tensor& pixels, const CaptureOptions& options = {});

/// Runs without keeping anything; the edge where libtorch's exceptions become errors. [batch, classes]
Result<at::Tensor> run(Model& model, const at::Tensor& pixels, std::stop_token stop = {});

/// Bytes a capture of this model would keep: layers * tokens * (4 width + heads) numbers. Maps need 2 width + heads of them (queries, keys,
/// log-sum-exp); values and outputs, kept by reference for check() and the gradient methods, are the rest.
std::int64_t capture_size(const Model& model, std::int64_t input_height, std::int64_t input_width);

/// d score / d wanted, one call; an undefined gradient is an error naming the tensor, never zero.
Result<std::vector<at::Tensor>> gradients(const at::Tensor& score, const std::vector<at::Tensor>& wanted,
                                          const std::vector<std::string>& names, bool keep_graph = false);

// ---- what native models call ------------------------------------------------------------------------------------------------------

/// Says that `x` is the activation at a named point; returns it, or its replacement. Costs one thread-local test when nobody listens.
at::Tensor point(std::string_view name, at::Tensor x);
/// True while a capture listens to this point (so that a name need not be made otherwise).
bool points_wanted();

/// Names the attention computed inside it and says how it hangs together.
class MixingScope {
  public:
    struct Facts {
        std::string name;           ///< "blocks.3.attn"
        std::int64_t layer = 0;     ///< -1 for a pooling head
        bool residual = true;
        TokenLayout query_layout, key_layout;
    };
    explicit MixingScope(const std::function<Facts()>& facts);  ///< `facts` is only called while a capture listens
    ~MixingScope();
    MixingScope(const MixingScope&) = delete;
    MixingScope& operator=(const MixingScope&) = delete;

  private:
    void* previous_ = nullptr;
    std::unique_ptr<Facts> facts_;
};

/// For mixers that are no attention: reports a Mixing made by the model itself (inside a MixingScope). No-op when nobody listens.
void report_mixing(const std::function<std::shared_ptr<Mixing>()>& make);
/// Says where the model reads its answer, over the last Mixing's queries. [tokens]
void report_readout(const std::function<at::Tensor()>& make);

}  // namespace vitrine
