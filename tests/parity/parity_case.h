// Parity cases: weights and pixels drawn from names as tests/parity/recipes/spread.py draws them, and the models of the
// cases built from them.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <nlohmann/json.hpp>

#include <vitrine/registry.h>

namespace vitrine {

inline const std::filesystem::path kData = std::filesystem::path(VITRINE_SOURCE_DIR) / "tests/parity/data";

/// The numbers of tests/parity/recipes/spread.py: splitmix64 counted from the FNV-1a hash of the name.
inline at::Tensor draw(const std::string& name, const std::vector<std::int64_t>& shape, double scale, double offset,
                       std::uint64_t seed) {
    std::uint64_t key = 0xCBF29CE484222325u;
    for (const char c : name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    key += seed * 0x9E3779B97F4A7C15u;
    auto out = at::empty(shape, at::kFloat);
    auto* values = out.mutable_data_ptr<float>();
    const std::int64_t count = out.numel();
    for (std::int64_t i = 0; i < count; ++i) {
        std::uint64_t z = key + static_cast<std::uint64_t>(i + 1) * 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        const double unit = static_cast<double>(z >> 40) / 16777216.0 * 2.0 - 1.0;
        values[i] = static_cast<float>(offset + scale * unit);
    }
    return out;
}

struct Case {
    std::string name;
    nlohmann::json json;
    std::map<std::string, at::Tensor> wanted;
};

inline Case load(const std::string& name) {
    Case out;
    out.name = name;
    std::ifstream file(kData / (name + ".json"));
    out.json = nlohmann::json::parse(file);
    const auto tensors = read_safetensors(kData / (name + ".safetensors")).value();
    for (const auto& [key, entry] : tensors.tensors) out.wanted[key] = to_tensor(entry).value();
    return out;
}

/// The case's checkpoint, as if it had been read from a folder.
inline Checkpoint checkpoint_of(const Case& c) {
    Checkpoint checkpoint;
    checkpoint.path = c.json.at("file").get<std::string>();
    checkpoint.kind = FileKind::Safetensors;
    checkpoint.config = c.json.at("config");
    checkpoint.preprocessor = nlohmann::json::object();
    std::map<std::string, at::Tensor> tensors;
    for (const auto& row : c.json.at("tensors")) {
        auto part = draw(row[1].get<std::string>(), row[2].get<std::vector<std::int64_t>>(), row[3].get<double>(),
                         row[4].get<double>(), c.json.at("seed").get<std::uint64_t>());
        // Rows of one name lie one after the other in the file's tensor.
        auto& tensor = tensors[row[0].get<std::string>()];
        tensor = tensor.defined() ? at::cat({tensor, part}, 0) : part;
    }
    for (const auto& [name, tensor] : tensors) {
        auto kept = std::make_shared<at::Tensor>(tensor);
        TensorEntry entry;
        entry.shape = kept->sizes().vec();
        entry.strides = kept->strides().vec();
        entry.data = static_cast<const std::byte*>(kept->const_data_ptr());
        entry.keep_alive = kept;
        checkpoint.file.tensors.emplace(name, std::move(entry));
    }
    return checkpoint;
}

inline Result<std::unique_ptr<Model>> build(const Case& c, const Checkpoint& checkpoint) {
    return registry().architecture(c.json.at("architecture").get<std::string>()).value()->build(checkpoint);
}

}  // namespace vitrine
