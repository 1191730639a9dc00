// Plugin kind: one implementation of an operation, as listed, forced (VITRINE_KERNEL=name) and shown in the status line.
#pragma once

#include <optional>
#include <string>

#include <vitrine/plugin.h>

namespace vitrine {

class Kernel : public Plugin {
  public:
    virtual std::string operation() const = 0;  ///< "map_rows"
    virtual std::string implementation() const = 0;  ///< "reference", "avx2", "cuda_sm90"
    /// Why it cannot run on this machine; empty when it can.
    virtual std::optional<std::string> why_not() const = 0;
};

}  // namespace vitrine
