// Packs: a folder becomes a file and comes back, and what is no pack is refused in words.
#include <vitrine/pack.h>

#include <gmock/gmock.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <fstream>

#include <vitrine/base/readers.h>
#include <vitrine/preprocess.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;

class PackTest : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::path(testing::TempDir()) /
                  ("pack_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        fs::remove_all(folder_);
        fs::create_directories(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }

    void picture(const fs::path& file, std::int64_t width, std::int64_t height, std::uint8_t value) const {
        fs::create_directories(file.parent_path());
        Image image(width, height);
        std::fill(image.pixels.begin(), image.pixels.end(), value);
        ASSERT_TRUE(write_picture(file, image).has_value());
    }

    fs::path folder_;
};

TEST_F(PackTest, AFolderComesBackFromItsFile) {
    picture(folder_ / "photos/one/a.ppm", 40, 20, 10);
    picture(folder_ / "photos/one/deeper/b.ppm", 16, 16, 20);
    picture(folder_ / "photos/two/c.ppm", 20, 60, 30);
    const auto summary = pack_folder({.folder = folder_ / "photos", .size = 16, .out = folder_ / "p.safetensors"});
    ASSERT_TRUE(summary.has_value()) << summary.error().message;
    EXPECT_EQ(summary->pictures, 3);
    const auto pack = read_pack(folder_ / "p.safetensors");
    ASSERT_TRUE(pack.has_value()) << pack.error().message;
    EXPECT_THAT(pack->classes, testing::ElementsAre("one", "two"));
    EXPECT_EQ(pack->images.sizes(), (at::IntArrayRef{3, 16, 16, 3}));
    EXPECT_TRUE(pack->labels.equal(at::tensor({std::int64_t{0}, std::int64_t{0}, std::int64_t{1}})));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(pack->images[i][8][8][1].item<int>(), 10 * (i + 1));
}

TEST_F(PackTest, ClassesAreRenamedAndOrderedByTheirList) {
    picture(folder_ / "photos/n01/a.ppm", 16, 16, 1);
    picture(folder_ / "photos/n02/b.ppm", 16, 16, 2);
    picture(folder_ / "photos/n03/c.ppm", 16, 16, 3);
    std::ofstream(folder_ / "photos/classes.tsv") << "n03\tgolf ball\nn01\ttench\n";
    const auto pack = pack_in_memory({.folder = folder_ / "photos", .size = 16, .out = {}});
    ASSERT_TRUE(pack.has_value()) << pack.error().message;
    EXPECT_THAT(pack->classes, testing::ElementsAre("golf ball", "tench"));
    EXPECT_EQ(pack->count(), 2);
    EXPECT_EQ(pack->images[0][0][0][0].item<int>(), 3);
    std::ofstream(folder_ / "photos/classes.tsv") << "../photos\ttench\n";
    EXPECT_THAT(pack_in_memory({.folder = folder_ / "photos", .size = 16, .out = {}}).error().message,
                testing::HasSubstr("line 1"));
}

TEST_F(PackTest, BrokenPicturesAreSkippedAndNamed) {
    picture(folder_ / "photos/one/a.ppm", 16, 16, 1);
    std::ofstream(folder_ / "photos/one/b.ppm") << "P6 9 9 255 short";
    PackSummary summary;
    const auto pack = pack_in_memory({.folder = folder_ / "photos", .size = 16, .out = {}}, &summary);
    ASSERT_TRUE(pack.has_value()) << pack.error().message;
    EXPECT_EQ(pack->count(), 1);
    ASSERT_EQ(summary.skipped.size(), 1U);
}

TEST_F(PackTest, WhatIsNoPackIsRefusedInWords) {
    Pack pack;
    pack.images = at::arange(2 * 8 * 8 * 3).to(at::kByte).view({2, 8, 8, 3});
    pack.labels = at::tensor({std::int64_t{0}, std::int64_t{5}});
    pack.classes = {"a", "b"};
    ASSERT_TRUE(write_pack(folder_ / "bad.safetensors", pack).has_value());
    EXPECT_THAT(read_pack(folder_ / "bad.safetensors").error().message, testing::HasSubstr("label 5"));
    EXPECT_FALSE(read_pack(folder_ / "missing.safetensors").has_value());
    EXPECT_EQ(pack_in_memory({.folder = folder_ / "nowhere", .out = {}}).error().code, ErrorCode::NotFound);
    EXPECT_THAT(pack_in_memory({.folder = folder_, .out = {}}).error().message, testing::HasSubstr("class folders"));
    EXPECT_THAT(pack_in_memory({.folder = folder_, .size = 4, .out = {}}).error().message,
                testing::HasSubstr("size is 4"));
}

TEST_F(PackTest, AStopRequestLeavesNothingBehind) {
    picture(folder_ / "photos/one/a.ppm", 16, 16, 1);
    std::stop_source stop;
    stop.request_stop();
    PackOptions options{.folder = folder_ / "photos", .size = 16, .out = folder_ / "p.safetensors"};
    options.stop = stop.get_token();
    const auto result = pack_folder(options);
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, ErrorCode::Cancelled);
    EXPECT_FALSE(fs::exists(folder_ / "p.safetensors"));
}

}  // namespace
}  // namespace vitrine
