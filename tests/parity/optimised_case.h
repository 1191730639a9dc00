// The two models that extremal perturbation is held against TorchRay on, and what TorchRay gave (recipes/optimised.py).
#pragma once

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <vitrine/explainer.h>

#include "../../plugins/optimised/optimised.h"
#include "parity_case.h"

namespace vitrine::plugin::optimised {
struct Names {
    const char* name;
    const char* model;
};

class OptimisedParity : public testing::TestWithParam<Names> {
  protected:
    void SetUp() override {
        given = load(GetParam().model);
        auto built = build(given, checkpoint_of(given));
        ASSERT_TRUE(built.has_value()) << built.error().message;
        model = std::move(*built);
        x = draw("pixels", given.json.at("pixels").get<std::vector<std::int64_t>>(), 1.8, 0.0,
                 given.json.at("seed").get<std::uint64_t>())
                .narrow(0, 0, 1);
        const auto file =
            read_safetensors(kData / "optimised" / (std::string(GetParam().name) + ".safetensors")).value();
        for (const auto& [key, entry] : file.tensors) wanted[key] = to_tensor(entry).value();
        target.index = std::stoll(file.metadata.at("target"));
    }
    static at::Tensor fourth(const at::Tensor& map) {
        return map.slice(-2, 0, std::nullopt, 4).slice(-1, 0, std::nullopt, 4);
    }
    static void expect(const at::Tensor& found, const at::Tensor& want) {
        ASSERT_EQ(found.sizes(), want.sizes());
        const double error = (found - want).abs().max().item<double>();
        EXPECT_LT(error, 1e-5);
        std::printf("within %.1e\n", error);
    }

    Case given;
    std::unique_ptr<Model> model;
    at::Tensor x;
    Target target;
    std::map<std::string, at::Tensor> wanted;
};

}  // namespace vitrine::plugin::optimised
