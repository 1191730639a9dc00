// Looks at each Mixing of a run for what is not its own.
#include <vitrine/reads_apart.h>

#include <algorithm>

#include "softmax_mixing.h"

namespace vitrine {

bool reads_apart(const Capture& capture) {
    return std::all_of(capture.flow.steps.begin(), capture.flow.steps.end(),
                       [](const FlowStep& step) {
                           const auto* softmax = dynamic_cast<const SoftmaxMixing*>(step.mixing.get());
                           return !(softmax && softmax->rematerialises());
                       }) &&
           capture.output.device().is_cpu();
}

}  // namespace vitrine
