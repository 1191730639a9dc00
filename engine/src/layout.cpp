// The words for tokens and readouts.
#include <vitrine/layout.h>

#include <fmt/format.h>

namespace vitrine {

std::string TokenLayout::name_of(std::int64_t token) const {
    if (!known() || token < 0) return fmt::format("token {}", token);
    if (token < prefix_count()) return prefix[static_cast<std::size_t>(token)];
    const std::int64_t patch = token - prefix_count();
    if (cols <= 0 || patch >= rows * cols) return fmt::format("token {}", token);
    return fmt::format("patch {}, {}", patch / cols, patch % cols);
}

}  // namespace vitrine
