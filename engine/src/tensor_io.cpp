// Copies named tensors to the host and writes them as safetensors.
#include "tensor_io.h"

#include <vitrine/base/readers.h>

namespace vitrine {

namespace {

DType entry_type(at::ScalarType type) {
    switch (type) {
        case at::kHalf:
            return DType::F16;
        case at::kBFloat16:
            return DType::BF16;
        case at::kLong:
            return DType::I64;
        default:
            return DType::F32;
    }
}

}  // namespace

Status write_tensors(const std::filesystem::path& file, const NamedTensors& tensors,
                     const std::map<std::string, std::string>& metadata) {
    std::vector<at::Tensor> kept;  // contiguous host copies live until the file is written
    std::vector<NamedTensor> named;
    for (const auto& [name, tensor] : tensors) {
        kept.push_back(tensor.detach().to(at::kCPU).contiguous());
        TensorEntry entry;
        entry.dtype = entry_type(kept.back().scalar_type());
        entry.shape = kept.back().sizes().vec();
        entry.strides = kept.back().strides().vec();
        entry.data = static_cast<const std::byte*>(kept.back().const_data_ptr());
        named.push_back({name, std::move(entry)});
    }
    return write_safetensors(file, named, metadata);
}

}  // namespace vitrine
