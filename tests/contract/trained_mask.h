// Settings for a contract: the declared ones, and for methods that read a trained mask an untrained one of the model's
// own.
#pragma once

#include <filesystem>

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <vitrine/explainer.h>
#include <vitrine/mask_module.h>

namespace vitrine {

inline Settings prepared(const Explainer& explainer, Model& model) {
    Settings settings(explainer.parameters());
    for (const Parameter& p : explainer.parameters()) {
        if (p.name != "mask") continue;
        MaskConfig config;
        config.classes = model.info().classes;
        auto layers = mask_layers(model, config.version);
        if (!layers) continue;  // the method says by itself that it has no mask
        config.layers = *layers;
        const auto parameters = model.parameters();
        const at::Tensor nothing = at::zeros({1, 3, model.preprocess().input_height, model.preprocess().input_width},
                                             parameters.empty() ? at::kFloat : parameters.front().second.scalar_type());
        const auto seen = mask_features(model, nothing, config);
        if (!seen) continue;
        for (const at::Tensor& map : seen->maps) config.channels.push_back(map.size(1));
        auto mask = MaskModule::make(config, 0);
        if (!mask) continue;
        mask->facts["weights"] = weights_hash(model);
        const auto file = std::filesystem::path(testing::TempDir()) /
                          ("contract_mask_" + model.info().name + mask->facts["weights"] + ".safetensors");
        EXPECT_TRUE(mask->save(file, at::kFloat));
        EXPECT_TRUE(settings.set("mask", file.string()));
    }
    return settings;
}

}  // namespace vitrine
