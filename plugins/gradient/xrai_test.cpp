// XRAI against PAIR's saliency 0.2.1 (tests/parity/recipes/gradient.py), segmentation included.
#include "gradient.h"

#include <gtest/gtest.h>

#include <filesystem>

#include <ATen/TensorOperators.h>

#include <vitrine/base/readers.h>
#include <vitrine/engine.h>

#include "../../tests/parity/parity_case.h"

namespace vitrine::plugin::gradient {
namespace {

TEST(Xrai, IsPairs) {
    auto opened = open_model((kData / "gradient/vgg_model.safetensors").string(), {});
    ASSERT_TRUE(opened) << opened.error().message;
    Input input;
    input.pixels = draw("xrai.coarse", {1, 3, 6, 8}, 1.0, 0, 0).repeat_interleave(16, 2).repeat_interleave(16, 3) +
                   draw("xrai.fine", {1, 3, 96, 128}, 1.0, 0, 0) * 0.1F;
    ExplainContext context(**opened, input, {.index = 4});
    const auto method = make_xrai();
    Settings settings(method->parameters());
    ASSERT_TRUE(settings.set("steps", "20"));
    ASSERT_TRUE(settings.set("resize", "false"));
    const auto found = method->explain(context, settings);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->notes.at(0), "288 regions of 6 segmentations");
    const TensorFile stored = read_safetensors(kData / "gradient/xrai.safetensors").value();
    const at::Tensor wanted = to_tensor(stored.tensors.at("map")).value();
    const double range = (wanted.max() - wanted.min()).item<double>();
    const at::Tensor ours = found->map.slice(0, 0, {}, 2).slice(1, 0, {}, 2);
    ASSERT_EQ(ours.sizes(), wanted.sizes());
    EXPECT_LT((ours - wanted).abs().max().item<double>(), 1e-4 * range);
}

}  // namespace
}  // namespace vitrine::plugin::gradient
