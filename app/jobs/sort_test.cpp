// What files that are dropped on the window are taken for: steered models and autoencoders among them.
#include "workbench.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "tiny_model.h"

namespace vitrine::app {
namespace {

namespace fs = std::filesystem;

class Sort : public testing::Test {
  protected:
    void SetUp() override { fs::create_directories(folder_); }
    void TearDown() override { fs::remove_all(folder_); }
    fs::path written(const std::string& name, const std::string& model) const {
        std::ofstream(folder_ / name)
            << R"({"format": "vitrine.steered", "version": 1, "model": )" << model
            << R"(, "autoencoder": {"file": "c.safetensors", "hash": "0"}, "edits": [], "tokens": "all"})";
        return folder_ / name;
    }
    const fs::path folder_ = fs::temp_directory_path() / ("vitrine_sort_" + std::to_string(getpid()));
};

TEST_F(Sort, ASteeredModelIsAModelAndAsksForItsProgram) {
    const Sorted plain = Workbench::sort({written("x.steered.json", R"({"name": "starter"})")});
    ASSERT_EQ(plain.models.size(), 1U);
    EXPECT_TRUE(plain.refused.empty());
    EXPECT_FALSE(plain.needs_consent);
    fs::copy(fs::path(VITRINE_SOURCE_DIR) / "tests/parity/data/capture_hub_traced.pt", folder_ / "program.pt");
    const fs::path of_program = written("y.steered.json", R"({"file": "program.pt"})");
    EXPECT_TRUE(Workbench::sort({of_program}).needs_consent);
    EXPECT_TRUE(Workbench::sort({written("z.steered.json", R"({"file": "y.steered.json"})")}).needs_consent);
    const Sorted broken = Workbench::sort({written("w.steered.json", "3")});
    EXPECT_TRUE(broken.models.empty());
    ASSERT_EQ(broken.refused.size(), 1U);
    EXPECT_NE(broken.refused[0].find("model is 3"), std::string::npos) << broken.refused[0];
}

TEST_F(Sort, TheBuiltInModelHasAName) {
    const Sorted sorted = Workbench::sort({"starter", folder_ / "starter"});
    EXPECT_EQ(sorted.models, (std::vector<fs::path>{"starter"}));
    ASSERT_EQ(sorted.refused.size(), 1U) << "a file of that name that is not there";
}

TEST_F(Sort, AnAutoencoderIsOneByWhatIsInItWhateverItIsCalled) {
    const fs::path published = fs::path(VITRINE_SOURCE_DIR) / "tests/parity/data/autoencoders";
    const auto called = [&](const fs::path& file, const std::string& name) {
        fs::copy(file, folder_ / name);
        return folder_ / name;
    };
    ASSERT_TRUE(test::write_tiny_concepts(folder_ / "model.safetensors"));
    const std::vector<fs::path> all = {folder_ / "model.safetensors",
                                       called(published / "openai_relu.pt", "vit.pth"),
                                       called(published / "saev_topk.pt", "photo.jpg"),
                                       called(published / "saelens_topk/sae_weights.safetensors", "a"),
                                       called(published / "prisma_gated/weights.pt", "config.json"),
                                       published / "saelens_gated",
                                       published / "prisma_topk"};
    const Sorted sorted = Workbench::sort(all);
    EXPECT_EQ(sorted.autoencoders, all);
    EXPECT_TRUE(sorted.models.empty());
    EXPECT_TRUE(sorted.pictures.empty());
    EXPECT_TRUE(sorted.refused.empty());
}

TEST_F(Sort, WhatIsNoAutoencoderIsNoneWhateverItIsCalled) {
    ASSERT_TRUE(test::write_tiny_model(folder_ / "hub"));
    fs::copy(folder_ / "hub/model.safetensors", folder_ / "concepts.safetensors");
    std::ofstream(folder_ / "sae.safetensors") << "not an autoencoder at all";
    fs::create_directories(folder_ / "empty");
    std::ofstream(folder_ / "empty/weights.pt") << "{";
    const Sorted sorted = Workbench::sort(
        {folder_ / "hub", folder_ / "concepts.safetensors", folder_ / "sae.safetensors", folder_ / "empty"});
    EXPECT_EQ(sorted.models, (std::vector<fs::path>{folder_ / "hub", folder_ / "concepts.safetensors"}));
    EXPECT_TRUE(sorted.autoencoders.empty());
    EXPECT_EQ(sorted.refused.size(), 2U);
    // A model's folder is a model, whatever else lies in it.
    ASSERT_TRUE(test::write_tiny_concepts(folder_ / "hub/sae_weights.safetensors"));
    EXPECT_EQ(Workbench::sort({folder_ / "hub"}).models.size(), 1U);
}

}  // namespace
}  // namespace vitrine::app
