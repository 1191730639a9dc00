// Tests of the native vision transformer: sizes, randomness, the real ViT-Ti, training from scratch, refusal.
#include "vit.h"

#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/topk.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/architecture.h>
#include <vitrine/registry.h>

namespace vitrine::plugin::vit {
namespace {

using testing::HasSubstr;

std::filesystem::path test_data() {
    if (const char* set = std::getenv("VITRINE_TEST_DATA")) return set;
    return std::filesystem::path(VITRINE_SOURCE_DIR) / "../shared/data";
}

const Architecture& architecture() { return *registry().architecture("vit").value(); }

TEST(Vit, LayoutNamesPrefixTokensAndPatches) {
    VitConfig c;
    c.registers = 2;
    c.position_prefix = 0;
    c.depth = 1;
    const auto model = VitModel::fresh(c, 0).value();
    const TokenLayout layout = model->layout(224, 112);
    EXPECT_EQ(layout.tokens(), 3 + 14 * 7);
    EXPECT_EQ(layout.name_of(2), "reg1");
    EXPECT_EQ(layout.name_of(3 + 7), "patch 1, 0");
    EXPECT_FALSE(model->layout(225, 224).known());
}

TEST(Vit, TheSharedModelReproducesItsGoldenAnswers) {
    const auto folder = test_data() / "vit_tiny_patch16_224";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no test data at " << test_data();
    const auto checkpoint = read_checkpoint(folder);
    ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message;
    auto model = architecture().build(*checkpoint);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    EXPECT_EQ((*model)->info().title, "ViT-Ti/16");
    EXPECT_EQ((*model)->info().parameters, 5'717'416);
    EXPECT_EQ((*model)->info().heads, 3);

    std::ifstream golden(folder / "golden_top5.tsv");
    std::string line;
    std::getline(golden, line);
    int photographs = 0;
    double worst = 0;
    while (std::getline(golden, line)) {
        std::istringstream fields(line);
        std::string index, file, indices, logits;
        std::getline(fields, index, '\t');
        std::getline(fields, file, '\t');
        std::getline(fields, indices, '\t');
        std::getline(fields, logits, '\t');
        Preprocess p = (*model)->preprocess();
        p.resize = Preprocess::Resize::None;
        p.floor_crop = true;
        p.apply_exif = false;
        const auto input = load_input(test_data() / "imagenet_photos" / file, p);
        ASSERT_TRUE(input.has_value()) << input.error().message;
        const c10::InferenceMode guard;
        const auto answer = (*model)->forward(input->pixels);
        const auto [values, places] = at::topk(answer[0], 5);
        std::istringstream want_index(indices), want_logit(logits);
        for (int i = 0; i < 5; ++i) {
            std::string a, b;
            std::getline(want_index, a, ',');
            std::getline(want_logit, b, ',');
            EXPECT_EQ(places[i].item<std::int64_t>(), std::stoll(a)) << file << " place " << i;
            worst = std::max(worst, std::abs(values[i].item<double>() - std::stod(b)));
        }
        ++photographs;
    }
    EXPECT_EQ(photographs, 20);
    EXPECT_LT(worst, 1e-3);  // what the issue of the golden file promises
    std::printf("20 photographs, logits within %.1e\n", worst);
}

}  // namespace
}  // namespace vitrine::plugin::vit
