// Pictures of folders and packs: their names, their pixels, what is refused.
#include <vitrine/picture_set.h>

#include <gmock/gmock.h>

#include <fstream>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <vitrine/pack.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Pictures : public testing::Test {
  protected:
    void SetUp() override {
        preprocess_.input_height = preprocess_.input_width = 16;
        preprocess_.resize_to = 16;
        fs::create_directories(folder_ / "b");
    }
    void TearDown() override { fs::remove_all(folder_); }
    static Image colours(std::int64_t side, int add) {
        Image out(side, side);
        for (std::size_t i = 0; i < out.pixels.size(); ++i) out.pixels[i] = std::uint8_t((int(i) * 7 + add) % 256);
        return out;
    }
    void pack(const fs::path& file, std::int64_t side) {
        Pack out;
        out.images = at::zeros({2, side, side, 3}, at::kByte);
        for (int k = 0; k < 2; ++k) {
            const Image one = colours(side, k);
            std::copy(one.pixels.begin(), one.pixels.end(), out.images[k].mutable_data_ptr<std::uint8_t>());
        }
        out.labels = at::zeros({2}, at::kLong);
        out.labels[1] = 1;
        out.classes = {"tench", "church"};
        ASSERT_TRUE(write_pack(file, out));
    }

    Preprocess preprocess_;
    fs::path folder_ =
        fs::path(testing::TempDir()) /
        ("vitrine_pictures_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
};

TEST_F(Pictures, OfFoldersAndPacksComeByNameAndOnce) {
    ASSERT_TRUE(write_picture(folder_ / "b" / "2.ppm", colours(16, 0)));
    ASSERT_TRUE(write_picture(folder_ / "b" / "1.ppm", colours(16, 1)));
    pack(folder_ / "photos.safetensors", 16);
    const auto set = PictureSet::open({folder_, folder_ / "b" / "1.ppm"}, preprocess_);
    ASSERT_TRUE(set.has_value()) << set.error().message;
    ASSERT_EQ(set->count(), 4);
    EXPECT_EQ(set->picture(0).name, "b/1.ppm");
    EXPECT_EQ(set->picture(2).name, "photos#0");
    EXPECT_EQ(set->picture(3).label, "church");
    // The same picture from a file and from a pack.
    EXPECT_LT((*set->pixels(0) - *set->pixels(3)).abs().max().item<float>(), 1e-5);
    EXPECT_GT((*set->pixels(0) - *set->pixels(2)).abs().max().item<float>(), 1e-3);
}

TEST_F(Pictures, OfALargerPackAreItsMiddle) {
    pack(folder_ / "p.safetensors", 20);
    const auto set = PictureSet::open({folder_ / "p.safetensors"}, preprocess_);
    ASSERT_TRUE(set.has_value());
    const Image whole = colours(20, 0);
    Image middle(16, 16);
    for (std::int64_t y = 0; y < 16; ++y) std::copy_n(whole.at(2, y + 2), 16 * 3, middle.at(0, y));
    EXPECT_LT((*set->pixels(0) - normalise(middle, preprocess_)).abs().max().item<float>(), 1e-5);
}

TEST_F(Pictures, OfOneNameAreToldApart) {
    fs::create_directories(folder_ / "c" / "b");
    for (const fs::path& place : {folder_ / "b", folder_ / "c" / "b"})
        ASSERT_TRUE(write_picture(place / "1.ppm", colours(16, 0)));
    const auto set = PictureSet::open({folder_}, preprocess_);
    ASSERT_TRUE(set.has_value());
    EXPECT_NE(set->picture(0).name, set->picture(1).name);
}

TEST_F(Pictures, WhatIsNotThereOrTooSmallIsRefused) {
    const auto refusal = [&](const fs::path& place) {
        const auto set = PictureSet::open({place}, preprocess_);
        return set ? std::string("opened") : set.error().message;
    };
    EXPECT_THAT(refusal(folder_ / "nowhere"), HasSubstr("nothing at"));
    EXPECT_THAT(refusal(folder_), HasSubstr("holds no pictures"));
    pack(folder_ / "p.safetensors", 8);
    EXPECT_THAT(refusal(folder_), HasSubstr("pictures of 8 pixels, the model needs 16"));
}

}  // namespace
}  // namespace vitrine
