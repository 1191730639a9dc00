// Models that an explainer is held against a package on: the picture, the target, and what the package gave
// (data/FOLDER/NAME.safetensors).
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <vitrine/explainer.h>

#include "parity_case.h"

namespace vitrine {

struct StoredModel {
    const char* name;
    const char* model;  ///< a parity case
};
inline constexpr StoredModel kStoredModels[] = {{"vit", "attention_methods/class_token"},
                                                {"cnn", "torchvision_resnet18"}};
inline std::string stored_name(const testing::TestParamInfo<StoredModel>& info) { return info.param.name; }

class StoredParity : public testing::TestWithParam<StoredModel> {
  protected:
    explicit StoredParity(const char* folder) : folder_(kData / folder) {}
    void SetUp() override {
        given = load(GetParam().model);
        auto built = build(given, checkpoint_of(given));
        ASSERT_TRUE(built.has_value()) << built.error().message;
        model = std::move(*built);
        input.pixels = draw("pixels", given.json.at("pixels").get<std::vector<std::int64_t>>(), 1.8, 0.0,
                            given.json.at("seed").get<std::uint64_t>())
                           .narrow(0, 0, 1);
        target.index = read(GetParam().name);
    }
    /// Adds a file's tensors to `wanted`. Returns the class that they are for.
    std::int64_t read(const std::string& file, const std::string& prefix = "") {
        const auto stored = read_safetensors(folder_ / (file + ".safetensors")).value();
        for (const auto& [key, entry] : stored.tensors) wanted[prefix + key] = to_tensor(entry).value();
        return std::stoll(stored.metadata.at("target"));
    }
    /// Each n-th row and column, which is what is stored of large maps.
    static at::Tensor every(std::int64_t n, const at::Tensor& map) {
        return map.slice(-2, 0, std::nullopt, n).slice(-1, 0, std::nullopt, n);
    }

    Case given;
    std::unique_ptr<Model> model;
    Input input;
    Target target;
    std::map<std::string, at::Tensor> wanted;

  private:
    std::filesystem::path folder_;
};

}  // namespace vitrine
