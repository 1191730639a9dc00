// An autoencoder of ViT-Prisma on a CLIP image tower: the figures that its own evaluation gives, on a small tower of
// random weights (recipes/clip_concepts.py), and on the published pair where a user has them.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <vitrine/autoencoder_fidelity.h>
#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>
#include <vitrine/engine.h>
#include <vitrine/picture_set.h>

#include "parity_case.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

TEST(ClipConcepts, HaveTheFiguresOfPrismasOwnEvaluation) {
    const fs::path folder = kData / "clip_concepts";
    const TensorFile expected = read_safetensors(folder / "expected.safetensors").value();
    const auto wanted = [&](const std::string& name) { return to_tensor(expected.tensors.at(name)).value(); };
    const auto number = [&](const std::string& name) { return wanted(name).item<double>(); };
    const auto model = open_model((folder / "clip").string());
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const auto concepts = Autoencoder::load(folder / "prisma" / "weights.pt");
    ASSERT_TRUE(concepts.has_value()) << concepts.error().message;
    EXPECT_EQ(concepts->config().point, "blocks.1");  // its blocks.1.hook_resid_post

    const at::Tensor pixels = wanted("pixels"), labels = wanted("labels");
    FidelityOptions options;
    options.pictures = pixels.size(0);
    options.pixels = [&](std::int64_t i) { return Result<at::Tensor>(pixels.narrow(0, i, 1)); };
    for (std::int64_t i = 0; i < options.pictures; ++i)
        options.labels.push_back(static_cast<std::int64_t>(labels[i].item<float>()));
    options.class_rows = class_rows_in(folder / "classes.safetensors").value();
    options.batch = 4;
    options.resamples = 0;
    const auto found = autoencoder_fidelity(**model, *concepts, options);
    ASSERT_TRUE(found.has_value()) << found.error().message;
    ASSERT_EQ(found->tokens.size(), 3u);
    EXPECT_NEAR(found->tokens[0].active.value, number("active"), 1e-4);
    EXPECT_NEAR(found->tokens[1].active.value, number("active_class"), 1e-4);
    EXPECT_NEAR(found->tokens[2].active.value, number("active_patches"), 1e-4);
    EXPECT_NEAR(found->tokens[0].token_variance.value, number("token_variance"), 1e-5);
    EXPECT_NEAR(found->tokens[0].explained_variance.value, number("explained_variance"), 1e-5);
    EXPECT_EQ(found->labelled, options.pictures);
    EXPECT_NEAR(found->loss.value, number("loss"), 1e-5);
    EXPECT_NEAR(found->loss_substituted.value, number("loss_substituted"), 1e-5);
    EXPECT_NEAR(found->loss_zeroed.value, number("loss_zeroed"), 1e-5);
    EXPECT_NEAR(found->loss_recovered.value, number("score"), 1e-3);
    options.logit_scale = 100;
    const auto scaled = autoencoder_fidelity(**model, *concepts, options);
    ASSERT_TRUE(scaled.has_value());
    EXPECT_NEAR(scaled->loss.value, number("loss_scaled"), 1e-3);
    EXPECT_NEAR(scaled->loss_substituted.value, number("loss_substituted_scaled"), 1e-3);
}

/// Class rows that are none of this tower's are refused.
TEST(ClipConcepts, RowsOfAnotherWidthAreRefused) {
    const fs::path folder = kData / "clip_concepts";
    const auto model = open_model((folder / "clip").string()).value();
    const auto concepts = Autoencoder::load(folder / "prisma" / "weights.pt").value();
    FidelityOptions options;
    options.pictures = 1;
    options.pixels = [](std::int64_t) { return Result<at::Tensor>(at::Tensor(at::zeros({1, 3, 32, 32}))); };
    options.class_rows = at::ones({8, 15});
    const auto found = autoencoder_fidelity(*model, concepts, options);
    ASSERT_FALSE(found.has_value());
    EXPECT_NE(found.error().message.find("15 wide"), std::string::npos) << found.error().message;
}

// What a user must have, under VITRINE_TEST_DATA:
//   clip_vit_b_32_datacomp/   laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K: open_clip_model.safetensors and its
//   configuration prisma_clip_b_32_layer_9/ weights.pt and config.json of
//   ...clip-b-32-sae-vanilla-x64-layer-9-hook_resid_post-l1-1e-05 imagenet_val/             a folder a class
//   (n01440764, ...) with pictures of ImageNet's validation part imagenet_text_rows.safetensors   the tower's text
//   embedding of each class name, [1000, 512]; without: no cross entropy
TEST(ClipConcepts, ThePublishedPairHasThePublishedFigures) {
    const char* set = std::getenv("VITRINE_TEST_DATA");
    const fs::path data = set != nullptr ? fs::path(set) : fs::path(VITRINE_SOURCE_DIR) / "../shared/data";
    const fs::path clip = data / "clip_vit_b_32_datacomp", prisma = data / "prisma_clip_b_32_layer_9",
                   pictures = data / "imagenet_val", rows = data / "imagenet_text_rows.safetensors";
    for (const fs::path& need : {clip, prisma, pictures})
        if (!fs::exists(need))
            GTEST_SKIP()
                << need.filename().string()
                << " is not among the test data: CLIP ViT-B/32 (DataComp.XL-s13B-b90K), ViT-Prisma's autoencoder of "
                   "its layer 9 and ImageNet's validation pictures are wanted, see plugins/concepts/README.md";
    const auto model = open_model(clip.string());
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const auto concepts = Autoencoder::load(prisma / "weights.pt");
    ASSERT_TRUE(concepts.has_value()) << concepts.error().message;
    PictureSet all = PictureSet::open({pictures}, (*model)->preprocess()).value();
    // Every hundredth of the 50,000, or what there is.
    const std::int64_t step = std::max<std::int64_t>(1, all.count() / 500);
    std::map<std::string, std::int64_t> classes;
    for (std::int64_t i = 0; i < all.count(); ++i)
        classes.emplace(all.picture(i).file.parent_path().filename().string(), 0);
    std::int64_t next = 0;
    for (auto& [name, index] : classes) index = next++;
    FidelityOptions options;
    options.pictures = all.count() / step;
    options.pixels = [&](std::int64_t i) { return all.pixels(i * step); };
    const bool labelled = fs::exists(rows) && classes.size() == 1000;
    if (labelled) {
        options.class_rows = class_rows_in(rows).value();
        for (std::int64_t i = 0; i < options.pictures; ++i)
            options.labels.push_back(classes.at(all.picture(i * step).file.parent_path().filename().string()));
    }
    const auto found = autoencoder_fidelity(**model, *concepts, options);
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_NEAR(found->tokens[0].token_variance.value, 0.982, 0.02 * 0.982);
    EXPECT_NEAR(found->tokens[0].active.value, 1533, 0.02 * 1533);
    if (!labelled)
        GTEST_SKIP() << "no cross entropy: imagenet_text_rows.safetensors or some of the 1,000 folders are missing";
    EXPECT_NEAR(found->loss.value, 6.762, 0.02 * 6.762);
    EXPECT_NEAR(found->loss_substituted.value, 6.761, 0.02 * 6.761);
}

}  // namespace
}  // namespace vitrine
