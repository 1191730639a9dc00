// The same model native, traced and scripted: one capture, whatever way it was opened.
#include <gtest/gtest.h>

#include <filesystem>

#include <ATen/TensorOperators.h>

#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>
#include <vitrine/engine.h>

namespace vitrine {
namespace {

const std::filesystem::path kData = std::filesystem::path(VITRINE_SOURCE_DIR) / "tests/parity/data";

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

Result<std::shared_ptr<const Capture>> captured(const std::string& file, bool gradients) {
    OpenOptions options;
    options.trust = true;
    const auto model = VITRINE_TRY(open_model((kData / file).string(), options));
    const TensorFile reference = VITRINE_TRY(read_safetensors(kData / "capture_timm_fused.safetensors"));
    CaptureOptions how;
    how.gradients = gradients;
    return run_captured(*model, VITRINE_TRY(to_tensor(reference.tensors.at("pixels"))), how);
}

TEST(SameModel, NativeTracedAndScriptedGiveTheSameMapsAndGradients) {
    const TensorFile reference = read_safetensors(kData / "capture_timm_fused.safetensors").value();
    for (const char* file :
         {"capture_timm_fused_native.safetensors", "capture_timm_fused_traced.pt", "capture_timm_fused_scripted.pt"}) {
        SCOPED_TRACE(file);
        const auto capture = captured(file, true);
        ASSERT_TRUE(capture) << capture.error().message;
        const Flow& flow = (*capture)->flow;
        ASSERT_EQ(flow.layers(), 3);
        EXPECT_TRUE(flow.known()) << flow.unknown;
        std::vector<at::Tensor> wanted;
        for (std::int64_t layer = 0; layer < 3; ++layer) {
            const Mixing& mixing = *flow.block(layer)->mixing;
            EXPECT_EQ(mixing.name, fmt::format("blocks.{}.attn", layer));
            const at::Tensor map = to_tensor(reference.tensors.at(fmt::format("map.{}", layer))).value();
            EXPECT_LT(largest(mixing.rows({}, {}).value() - map), 1e-5);
            EXPECT_EQ(mixing.key_layout, (TokenLayout{{"cls"}, 4, 6, ""}));
            EXPECT_TRUE(flow.block(layer)->residual);
            wanted.push_back(mixing.output());
        }
        EXPECT_EQ(flow.readout[0].item<double>(), 1);
        const auto found = gradients((*capture)->output[0][4], wanted, {});
        ASSERT_TRUE(found) << found.error().message;
        for (std::size_t layer = 0; layer < 3; ++layer) {
            const at::Tensor g = to_tensor(reference.tensors.at(fmt::format("gradient.{}", layer))).value();
            EXPECT_LT(largest((*found)[layer] - g), 1e-4 * largest(g));
        }
    }
}

}  // namespace
}  // namespace vitrine
