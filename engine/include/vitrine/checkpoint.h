// A checkpoint on disk with the configuration files beside it; nothing in it is executed.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/readers.h>
#include <vitrine/base/result.h>

namespace vitrine {

/// Tensors by name and what the files around them say.
///
/// Common wrappers are gone already: a leading "model.", "state_dict.", "module.", "backbone.", "teacher.backbone." or
/// "ema." that all tensors of the chosen set share.
struct Checkpoint {
    std::filesystem::path path;          ///< as the user named it
    TensorFile file;                     ///< empty for TorchScript
    FileKind kind = FileKind::Unknown;
    nlohmann::json config;               ///< config.json beside it, or NAME.json, or {}
    nlohmann::json preprocessor;         ///< preprocessor_config.json, or {}
    std::string stripped_prefix;         ///< what was taken off the names

    bool has(const std::string& name) const { return file.tensors.count(name) != 0; }
    /// Shape of a tensor; empty when it is missing.
    std::vector<std::int64_t> shape(const std::string& name) const;
    /// A copy as a contiguous float32 tensor, whatever the file's floating type.
    /// @error NotFound  "blocks.3.attn.qkv.weight is missing"
    /// @error BadInput  "blocks.3.attn.qkv.weight is [576, 192], expected [2304, 768]"
    Result<at::Tensor> tensor(const std::string& name) const;
    Result<at::Tensor> tensor(const std::string& name, std::vector<std::int64_t> shape) const;
};

/// Reads a file or a folder in the layout of a hub download (config.json beside model.safetensors, pytorch_model.bin, sharded index).
/// TorchScript files come back with kind TorchScript and no tensors.
Result<Checkpoint> read_checkpoint(const std::filesystem::path& path);

/// A tensor that borrows nothing: float32 copy of an entry.
Result<at::Tensor> to_tensor(const TensorEntry& entry);

}  // namespace vitrine
