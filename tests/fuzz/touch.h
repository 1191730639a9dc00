// For the fuzz targets: checks what a reader promised of each tensor, and reads the ends of what it reaches.
#pragma once

#include <cstdlib>

#include <vitrine/base/tensor_file.h>

namespace vitrine::fuzz {

inline void touch(const TensorFile& file) {
    unsigned sum = 0;
    for (const auto& [name, tensor] : file.tensors) {
        if (tensor.shape.size() != tensor.strides.size()) std::abort();
        const auto size = static_cast<std::int64_t>(size_of(tensor.dtype));
        if (reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<std::uintptr_t>(size) != 0) std::abort();
        std::int64_t last = 0;
        bool none = false;
        for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
            if (tensor.shape[i] < 0 || tensor.strides[i] < 0) std::abort();
            none = none || tensor.shape[i] == 0;
        }
        // Undefined behaviour in these would be found here.
        if ((tensor.count() == 0) != none) std::abort();
        tensor.contiguous();
        if (none) continue;
        for (std::size_t i = 0; i < tensor.shape.size(); ++i) last += (tensor.shape[i] - 1) * tensor.strides[i];
        sum +=
            std::to_integer<unsigned>(tensor.data[0]) + std::to_integer<unsigned>(tensor.data[last * size + size - 1]);
    }
    volatile unsigned kept = sum;
    (void)kept;
}

}  // namespace vitrine::fuzz
