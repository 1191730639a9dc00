// Other rules for how gradients pass ReLU and max pooling, for guided backprop and DeepLIFT.
//
// The operators are seen at a dispatch key of their own, switched on for one thread and one run, as captures do: no
// model is patched, native and TorchScript models are treated alike, in-place activations too.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include <c10/core/impl/LocalDispatchKeySet.h>

#include "gradient.h"

namespace vitrine::plugin::gradient {

enum class PassRule : std::uint8_t {
    Guided,  ///< ReLU lets only positive gradients back, to where its input was positive
    /// The batch holds pictures, then as many baselines: what changed behind an activation or a max pooling over what
    /// changed in front of it takes the place of the derivative. Gradients of both halves must start alike.
    Rescale
};

/// run_with_graph() under a rule.
///
/// @error Unsupported  a nonlinear operator ran that the rule does not cover (named), or none that it covers
Result<Run> run_under(PassRule rule, ExplainContext& context, const Objective& objective, const at::Tensor& pixels);

/// While it lives, graphs that are made on this thread follow the rule. The graph keeps it when this is gone.
class RectifierScope {
  public:
    explicit RectifierScope(PassRule rule);
    ~RectifierScope();
    RectifierScope(const RectifierScope&) = delete;
    RectifierScope& operator=(const RectifierScope&) = delete;

    PassRule rule;
    std::int64_t seen = 0;         ///< activations that follow the rule
    std::set<std::string> others;  ///< nonlinear operators that ran and for which there is no rule: "gelu", "relu6"

  private:
    RectifierScope* previous_;
    c10::impl::IncludeDispatchKeyGuard guard_;
};

}  // namespace vitrine::plugin::gradient
