// What the readers of foreign checkpoint files give: named, typed, bounded views of bytes, nothing executed.
//
// Free of torch, so that fuzzers can build it with any compiler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

enum class DType : std::uint8_t {
    Bool, U8, I8, I16, U16, I32, U32, I64, U64, F16, BF16, F32, F64, F8E4M3, F8E5M2, C64, C128,
    QI8, QU8, QI32  ///< quantised: recognised, so that they can be refused by name
};

std::size_t size_of(DType dtype);      ///< bytes of one element
std::string_view name_of(DType dtype);  ///< "F32", as safetensors writes it

/// One tensor as it lies in a file. `data` points at element 0 of its storage offset; strides are in elements.
/// The reader has checked that every element that shape and strides reach lies within the file.
struct TensorEntry {
    DType dtype = DType::F32;
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides;
    const std::byte* data = nullptr;
    std::shared_ptr<const void> keep_alive;  ///< the mapping
    bool contiguous() const;
    std::int64_t count() const;
};

/// A checkpoint's tensors by name, and what else the file said in plain values.
struct TensorFile {
    std::map<std::string, TensorEntry> tensors;   ///< nested dictionaries are joined with '.'
    std::map<std::string, std::string> metadata;  ///< safetensors' __metadata__; plain scalars of a torch.save dictionary
    std::string format;                           ///< "safetensors", "safetensors (3 shards)", "torch.save zip", "torch.save legacy"
};

}  // namespace vitrine
