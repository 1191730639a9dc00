// Running a model once and keeping what explanations need, by intercepting operators. No model is patched or rewritten.
//
//     auto capture = run_captured(model, input.pixels, {.gradients = false});
//     auto row = (*capture)->flow.block(-1)->mixing->rows({}, query);
#pragma once

#include <array>
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

/// Up to here a map costs about as much as the queries and keys that it is made of.
constexpr std::int64_t kMostTokensWithMaps = 320;

struct CaptureOptions {
    bool mixings = true;                ///< keep Mixings
    bool gradients = false;             ///< kept tensors carry the autograd graph; runs with gradients enabled
    /// All maps will be read. Attention of at most `kMostTokensWithMaps` tokens on the CPU in fp32, without mask, windows or gradients, then
    /// runs in a kernel of ours that leaves each map beside the output (small_attention): what the model answers agrees with libtorch's
    /// attention within fp32 rounding, not to the bit. Elsewhere, and where the maps do not fit into the budget, it changes nothing.
    bool maps = false;
    std::vector<std::string> points = {};  ///< named points to keep; "*" keeps all
    std::vector<Edit> edits = {};
    /// Bytes that may be kept; 0: what the model's device has free, less what the run itself needs. Counted before the run where the model
    /// knows its layers: queries, keys, values and outputs are kept when they fit, else each layer's input, from which they are made
    /// again when someone looks, else the run is refused with the figures (capture_cost says which).
    std::int64_t memory_budget = 0;
    std::stop_token stop = {};          ///< looked at on every intercepted operator
    /// Given each listed point as the run passes it, with the attention seen last, instead of keeping any of them: memory of one layer.
    /// Under `gradients` the attention's output starts a graph of its own that ends at the point, so that no gradient goes from block to
    /// block. What comes back other than success ends the run.
    std::function<Status(const std::string& point, const at::Tensor& x, const FlowStep* step)> visit = {};
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

/// Runs the model on one picture ([1, 3, H, W]; without `mixings` on a batch of them) and keeps what was asked.
///
/// @error Cancelled    stop was requested
/// @error OutOfMemory  the budget would be exceeded; says by how much
/// @error Unsupported  an attention that cannot be replayed exactly
Result<std::shared_ptr<const Capture>> run_captured(Model& model, const at::Tensor& pixels, const CaptureOptions& options = {});

/// The same for a part of a model, such as a block of its chain: `part` is given `input`, which is a leaf under gradients. Everything is
/// kept; `output` is what the part gave, of any shape.
Result<std::shared_ptr<const Capture>> run_captured(const std::function<at::Tensor(const at::Tensor&)>& part, const at::Tensor& input,
                                                    const CaptureOptions& options = {});

/// Runs without keeping anything; the edge where libtorch's exceptions become errors. [batch, classes]
Result<at::Tensor> run(Model& model, const at::Tensor& pixels, std::stop_token stop = {});

/// What a capture would cost, known before anything is computed.
struct CaptureCost {
    enum class Keep : std::uint8_t {
        Whole,   ///< queries, keys, values, outputs and log-sum-exps
        Inputs,  ///< each layer's input and log-sum-exps; queries and keys are made again when someone looks
        Nothing  ///< neither fits
    };
    Keep keep = Keep::Whole;      ///< what the budget allows
    std::int64_t tokens = 0;
    std::int64_t budget = 0;      ///< bytes; the one given, or what the device has free less `working`
    std::int64_t whole = 0;       ///< bytes kept: layers * tokens * (kept_widths * width + heads)
    std::int64_t inputs = 0;      ///< bytes kept: layers * tokens * (width + heads); 0 where the model gives no recipes
    std::int64_t graph = 0;       ///< bytes of a graph of all layers, which gradient methods keep (estimate)
    std::int64_t working = 0;     ///< bytes that a run needs beside what is kept, at its peak (estimate)
    double flops = 0;             ///< of one forward pass: 2 parameters tokens + 4 layers tokens^2 width
    double seconds = 0;           ///< of one forward pass, from a matrix product timed once on this device (estimate)

    std::int64_t kept() const { return keep == Keep::Whole ? whole : keep == Keep::Inputs ? inputs : 0; }
    /// "160001 tokens: keeps 5.9 GB, the inputs of 12 layers, of the 10.0 GB allowed; about 2 s"
    std::string sentence(std::int64_t layers) const;
};

/// The cost of a capture at this input size. All zero for models without attention layers.
///
/// @param budget  bytes, as CaptureOptions::memory_budget
/// @param timed   also fills `seconds`, whose first call on a device takes some 30 ms
CaptureCost capture_cost(Model& model, std::int64_t input_height, std::int64_t input_width, std::int64_t budget = 0, bool timed = true);

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

/// How an attention's queries, keys and values are made again from the tokens it was given.
struct Recipe {
    at::Tensor input;  ///< [1, tokens, width]
    /// [1, heads, tokens, dim] each, as the attention was given them. Holds its own weights: a capture may outlive its model.
    std::function<std::array<at::Tensor, 3>(const at::Tensor& input)> make;
};
/// Inside a MixingScope, before the attention. `recipe` is only called where the run keeps inputs instead of queries and keys.
void report_recipe(const std::function<Recipe()>& recipe);

/// For mixers that are no attention: reports a Mixing made by the model itself (inside a MixingScope). No-op when nobody listens.
void report_mixing(const std::function<std::shared_ptr<Mixing>()>& make);
/// Says where the model reads its answer, over the last Mixing's queries. [tokens]
void report_readout(const std::function<at::Tensor()>& make);

}  // namespace vitrine
