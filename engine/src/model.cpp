// The words for where a model reads its answer, and what only some models can.
#include <vitrine/model.h>

#include <stdexcept>

namespace vitrine {

std::string_view name_of(Readout readout) {
    switch (readout) {
        case Readout::ClassToken:
            return "class token";
        case Readout::MeanPatches:
            return "mean of the patches";
        case Readout::AttentionPool:
            return "attention pooling";
        case Readout::GlobalPool:
            return "global pooling";
        case Readout::Unknown:
            break;
    }
    return "unknown";
}

at::Device Model::device() {
    const auto tensors = parameters();
    return tensors.empty() ? at::Device(at::kCPU) : tensors.front().second.device();
}

at::Tensor Model::forward_kept(const at::Tensor&, const at::Tensor&) {
    throw std::logic_error(no_token_removal().value_or("patches cannot be left out"));
}

}  // namespace vitrine
