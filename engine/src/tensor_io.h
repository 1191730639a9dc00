// Named tensors to a safetensors file.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>

namespace vitrine {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Host copies of the tensors, beside `file` and renamed. fp32, fp16, bf16 and int64.
Status write_tensors(const std::filesystem::path& file, const NamedTensors& tensors,
                     const std::map<std::string, std::string>& metadata);

}  // namespace vitrine
