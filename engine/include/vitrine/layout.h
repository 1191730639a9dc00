// Which token is what: prefix tokens, then a grid of patches in row-major order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vitrine {

/// The tokens on one side of a Mixing, in the model's order.
struct TokenLayout {
    std::vector<std::string> prefix;  ///< tokens before the patches: "cls", "dist", "reg0", ...
    std::int64_t rows = 0, cols = 0;  ///< the patch grid; 0 x 0 when there is none (a pooling query)
    std::string unknown;              ///< why the layout is not known; empty when it is. Then only token indices are offered

    bool known() const { return unknown.empty(); }
    std::int64_t prefix_count() const { return static_cast<std::int64_t>(prefix.size()); }
    std::int64_t tokens() const { return prefix_count() + rows * cols; }
    std::int64_t token_at(std::int64_t row, std::int64_t col) const { return prefix_count() + row * cols + col; }
    /// "cls", "reg1", "patch 3, 7" or "token 12" when the layout is not known.
    std::string name_of(std::int64_t token) const;
    bool operator==(const TokenLayout&) const = default;
};

}  // namespace vitrine
