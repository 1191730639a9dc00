// The words for where a model reads its answer.
#include <vitrine/model.h>

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

}  // namespace vitrine
