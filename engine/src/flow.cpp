// The Mixings of a run in order: which of them are blocks.
#include <vitrine/mixing.h>

namespace vitrine {

std::int64_t Flow::layers() const {
    std::int64_t count = 0;
    for (const FlowStep& step : steps) count += step.layer >= 0 ? 1 : 0;
    return count;
}

const FlowStep* Flow::block(std::int64_t layer) const {
    const std::int64_t wanted = layer < 0 ? layer + layers() : layer;
    std::int64_t at = 0;
    for (const FlowStep& step : steps) {
        if (step.layer < 0) continue;
        if (at++ == wanted) return &step;
    }
    return nullptr;
}

}  // namespace vitrine
