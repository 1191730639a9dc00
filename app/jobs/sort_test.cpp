// What files that are dropped on the window are taken for: steered models among them.
#include "workbench.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

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

}  // namespace
}  // namespace vitrine::app
