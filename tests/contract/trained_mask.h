// Settings for a contract: the declared ones, and for methods that read a trained mask or autoencoder an untrained one
// of the model's own.
#pragma once

#include <filesystem>

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <vitrine/autoencoder.h>
#include <vitrine/explainer.h>
#include <vitrine/mask_module.h>

namespace vitrine {

/// Random concepts of the last point whose tokens are known.
inline void put_autoencoder(Settings& settings, Model& model) {
    const at::Tensor nothing =
        at::zeros({1, 3, model.preprocess().input_height, model.preprocess().input_width},
                  model.parameters().empty() ? at::kFloat : model.parameters().front().second.scalar_type());
    CaptureOptions options;
    options.mixings = false;
    options.points = {"*"};
    const auto seen = run_captured(model, nothing, options);
    if (!seen) return;
    const auto points = model.points();
    for (auto point = points.rbegin(); point != points.rend(); ++point) {
        const auto found = (*seen)->points.find(point->name);
        if (found == (*seen)->points.end() || found->second.dim() < 3 || found->second.dim() > 4) continue;
        AutoencoderConfig config;
        config.kind = "relu";
        config.width = found->second.dim() == 3 ? found->second.size(2) : found->second.size(1);
        config.latents = 4 * config.width;
        config.point = point->name;
        const auto tokens = point_tokens(model, nothing, config);
        if (!tokens || tokens->rows * tokens->cols < 2) continue;
        auto one = Autoencoder::make(config, 0);
        if (!one) continue;
        one->facts["weights"] = weights_hash(model);
        const auto file = std::filesystem::path(testing::TempDir()) /
                          ("contract_concepts_" + model.info().name + one->facts["weights"] + ".safetensors");
        EXPECT_TRUE(one->save(file));
        EXPECT_TRUE(settings.set("autoencoder", file.string()));
        return;
    }
}

inline Settings prepared(const Explainer& explainer, Model& model) {
    Settings settings(explainer.parameters());
    for (const Parameter& p : explainer.parameters()) {
        if (p.name == "autoencoder") put_autoencoder(settings, model);
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
