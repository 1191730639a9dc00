// Fused maps against pytorch-grad-cam's aug_smooth and its mean of several layers (tests/parity/recipes/smoothing.py).
#include <cstdio>

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <vitrine/engine.h>
#include <vitrine/smoothing.h>

#include "parity_case.h"

namespace vitrine {
namespace {

TEST(SmoothingParity, GradCamOverCopiesAndLayersIsThePackages) {
    const Case given = load("torchvision_resnet18");
    auto built = build(given, checkpoint_of(given));
    ASSERT_TRUE(built) << built.error().message;
    Input input;
    input.pixels = draw("pixels", {1, 3, 128, 96}, 1.8, 0.0, 5);
    const auto file = read_safetensors(kData / "smoothing.safetensors").value();
    ASSERT_EQ(file.tensors.size(), 4u);
    for (const auto& [key, entry] : file.tensors) {
        SCOPED_TRACE(key);
        const at::Tensor want = to_tensor(entry).value();
        Settings options(smoothing_parameters());
        const bool smooth = key.starts_with("smooth"), several = key.ends_with("layer3_layer4");
        if (smooth) {
            ASSERT_TRUE(options.set("preset", "grad_cam"));
        }
        ASSERT_TRUE(options.set("range", "unit"));
        ASSERT_TRUE(options.set("layers", several ? "layer3,layer4" : "layer4"));
        const Explainer* grad_cam = registry().explainer("grad_cam").value();
        ExplainContext context(**built, input, {.index = 4}, 5);
        const auto found = smoothed(*grad_cam, options)->explain(context, Settings(grad_cam->parameters()));
        ASSERT_TRUE(found) << found.error().message;
        ASSERT_EQ(found->map.sizes(), want.sizes());
        const double range = (want.max() - want.min()).item<double>();
        ASSERT_GT(range, 0.1);
        const double error = (found->map - want).abs().max().item<double>() / range;
        EXPECT_LT(error, 1e-4);
        std::printf("%s: within %.1e of the range\n", key.c_str(), error);
    }
}

}  // namespace
}  // namespace vitrine
