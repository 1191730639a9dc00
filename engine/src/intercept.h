// The listener of one run: what intercepted operators, MixingScope and point() talk to while a capture is on.
//
// Interception happens at a dispatch key of its own, switched on for one thread and one run: an operator registered
// there sees its arguments, calls on below the key, and sees the result. Every other operator falls through. Lives on
// the thread that runs the model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <vitrine/capture.h>

#include "softmax_mixing.h"
#include "standing_edit.h"

namespace vitrine {

constexpr c10::DispatchKey kInterceptionKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

/// Where an intercepted operator is called on.
inline c10::DispatchKeySet below(c10::DispatchKeySet keys) {
    return keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kInterceptionKey);
}

class UnfusedTracker;

/// What was found out about a run's Mixings by other means than MixingScope (for traced models).
using MixingFacts = std::function<std::optional<MixingScope::Facts>(std::size_t index, const Mixing& mixing)>;

/// Gives the path of the module that is running, "blocks.3.attn"; empty when there is none. Set by what runs
/// TorchScript.
using ModulePath = std::function<std::string()>;

class Recorder {
  public:
    explicit Recorder(const CaptureOptions& options);
    ~Recorder();

    /// The listener of this thread, or null.
    static Recorder* current();

    /// Looks at the stop token; throws when stop was requested.
    void tick();
    /// Remembers why and leaves the run.
    [[noreturn]] void leave(Error error);

    bool wants_mixings() const { return options_.mixings || !head_edits_.empty() || output_hook != nullptr; }
    /// Whether attention should leave its maps where it can.
    bool wants_maps() const { return options_.maps && options_.mixings && !options_.gradients && !keep_inputs; }
    bool wants_points() const { return wants_points_ || StandingEdit::any(); }
    bool wants_point(std::string_view name) const;

    /// Keeps an attention; returns the output the model goes on with (edited where asked). `output` has the shape [...,
    /// heads, queries, dim]. `pictures` is the size of the batch axis: above 1 for windows, which are joined to one
    /// Mixing where they can be told from heads (four axes).
    at::Tensor keep(SoftmaxParts parts, std::int64_t pictures);
    at::Tensor keep(at::Tensor p, at::Tensor v, at::Tensor output);
    void keep(std::shared_ptr<Mixing> mixing);
    at::Tensor on_point(std::string_view name, at::Tensor x);
    /// The result of an operator inside a TorchScript module: a point once it has a name. Where the operator works in
    /// place, what comes back is copied over x.
    at::Tensor module_point(const std::string& op, at::Tensor x);
    /// Under gradients: x becomes [heads, tokens, dim] and what comes back is made of it, so that its gradient is
    /// defined. Windows are joined on the way.
    at::Tensor through_heads(at::Tensor& x) const;
    /// Lets CaptureOptions::visit see a point, and forgets what led to it.
    at::Tensor visit(const std::string& name, at::Tensor x);
    void note(std::string sentence) { notes_.push_back(std::move(sentence)); }

    /// Fills in what the run left, after it ended well. Tells whether a kept tensor was overwritten since.
    void finish(Capture& capture);
    bool overwritten() const;

    const CaptureOptions& options() const { return options_; }
    const std::optional<Error>& error() const { return error_; }
    UnfusedTracker& tracker() { return *tracker_; }

    /// The attention whose backend is being waited for: the log-sum-exp and the operator's name arrive here.
    struct Pending {
        at::Tensor lse;
        std::string source;
    };
    Pending* pending = nullptr;

    const MixingScope::Facts* scope = nullptr;
    std::function<at::Tensor(std::size_t index, const at::Tensor& output)>
        output_hook;                        ///< for probes: replaces outputs [..., tokens, dim], windows joined
    std::optional<std::size_t> stop_after;  ///< for probes: leaves the run after that many mixings, without an error
    bool copy_inputs = false;               ///< clone what is kept: the model overwrites its tensors
    bool keep_inputs = false;               ///< keep recipes instead of queries, keys, values and outputs
    std::optional<Recipe> recipe;           ///< of the attention that comes next
    bool left_early = false;
    MixingFacts facts;
    std::string unknown_flow;  ///< why `facts` do not tell how the layers are joined; empty when they do
    /// Where the tokens of windows are, as WindowedMixing takes it; undefined when that is not known.
    std::function<at::Tensor(std::size_t index)> window_order;
    ModulePath module_path;
    /// The public name of the n-th result of this operator in this module; empty when it has none.
    std::function<std::string(const std::string& path, const std::string& op, int occurrence)> point_name;
    bool inside_operator = false;  ///< an operator made of others is running: they are no points of their own
    at::Tensor readout;

  private:
    struct Kept {
        std::shared_ptr<Mixing> mixing;
        std::optional<MixingScope::Facts> facts;
        std::int64_t pictures = 1;  ///< size of the batch axis: above 1 for windows
    };
    /// Names the mixing that is about to be kept, from the scope, the running module or its number.
    std::string name_next();
    /// The step that a kept mixing is, its layouts filled in; `unknown` is set where its place is not known.
    FlowStep step_of(std::size_t index, std::string& unknown);
    at::Tensor edit(const std::string& name, std::int64_t heads, std::int64_t windows, at::Tensor output,
                    std::vector<double>& factors);
    at::Tensor order_of_next() const { return window_order ? window_order(kept_.size()) : at::Tensor(); }
    void add(std::shared_ptr<Mixing> mixing, std::int64_t pictures, std::initializer_list<at::Tensor> tensors);
    void count(const at::Tensor& x);
    void watch(const at::Tensor& x);
    at::Tensor maybe_copy(const at::Tensor& x) const { return copy_inputs && x.defined() ? x.clone() : x; }

    CaptureOptions options_;
    bool wants_points_ = false;
    bool all_points_ = false;
    std::unordered_set<std::string> points_wanted_;
    std::vector<const Edit*> head_edits_;
    std::unordered_map<std::string, const Edit*> point_edits_;
    std::unordered_set<const Edit*> used_edits_;
    std::unordered_map<std::string, int> names_used_, results_seen_;
    std::unordered_set<std::string> visited_;
    std::vector<Kept> kept_;
    std::map<std::string, at::Tensor> points_;
    std::vector<std::string> point_names_seen_, mixing_names_seen_;
    std::unordered_set<const void*> storages_;
    std::vector<std::pair<at::Tensor, std::uint32_t>> watched_;
    std::int64_t bytes_ = 0;
    std::vector<std::string> notes_;
    std::optional<Error> error_;
    std::unique_ptr<UnfusedTracker> tracker_;
};

/// Makes the operators of intercept_points.cpp seen from now on.
void register_point_operators();
/// Not inline: who calls it links intercept_layers.cpp and with it the registration of its operators.
void link_hidden_attention();

/// Switches interception on for this thread while it lives.
class Listening {
  public:
    explicit Listening(Recorder& recorder);
    ~Listening();
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;

  private:
    Recorder* previous_;
    c10::impl::IncludeDispatchKeyGuard guard_;
};

using Forward = std::function<at::Tensor(const at::Tensor&)>;
/// Runs a model, or a part of one, under a recorder and fills in a capture; the engine of run_captured() and of the
/// probes.
Result<std::shared_ptr<Capture>> run_recorded(const Forward& forward, const at::Tensor& input, Recorder& recorder);
Result<std::shared_ptr<Capture>> run_recorded(Model& model, const at::Tensor& pixels, Recorder& recorder);

}  // namespace vitrine
