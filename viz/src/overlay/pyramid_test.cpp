// The halvings of a picture keep its mean and its edges.
#include <numeric>

#include <gtest/gtest.h>

#include "overlay/pyramid.h"

namespace vitrine::viz {
namespace {

ImageView view_of(const std::vector<std::uint8_t>& pixels, std::int64_t width, std::int64_t height,
                  std::int64_t channels = 3) {
    return {pixels.data(), width, height, channels, width * channels, {}};
}

std::vector<std::uint8_t> ramp(std::int64_t width, std::int64_t height, std::int64_t channels) {
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(width * height * channels));
    std::uint32_t state = 1;
    for (auto& p : pixels) p = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
    return pixels;
}

TEST(PyramidTest, LevelsHalveDownToOnePixel) {
    const auto pixels = ramp(13, 6, 3);
    const Pyramid pyramid = build_pyramid(view_of(pixels, 13, 6), 100, 10'000);
    ASSERT_EQ(pyramid.levels.size(), 4u);
    EXPECT_EQ(pyramid.levels[1].width, 6);
    EXPECT_EQ(pyramid.levels[1].height, 3);
    EXPECT_EQ(pyramid.levels[3].width, 1);
    EXPECT_EQ(pyramid.levels[3].height, 1);
    EXPECT_EQ(pyramid.pixels[0], pixels[0]);
    EXPECT_EQ(pyramid.pixels[3], 255);
}

class PyramidMean : public testing::TestWithParam<std::pair<int, int>> {};

TEST_P(PyramidMean, TheLastPixelIsTheMeanOfThePicture) {
    const auto [width, height] = GetParam();
    const auto pixels = ramp(width, height, 3);
    const Pyramid pyramid = build_pyramid(view_of(pixels, width, height), 10'000, 1 << 30);
    double mean = 0;
    for (std::size_t i = 0; i < pixels.size(); i += 3) mean += pixels[i];
    mean /= width * height;
    // Each level rounds to whole steps, by a quarter on average.
    EXPECT_NEAR(pyramid.pixels[pyramid.levels.back().offset], mean, 2);
}

INSTANTIATE_TEST_SUITE_P(Sizes, PyramidMean,
                         testing::Values(std::pair{64, 64}, std::pair{63, 65}, std::pair{1, 7}, std::pair{101, 2},
                                         std::pair{5, 5}));

TEST(PyramidTest, TooLargePicturesAreReducedByAWholeFactor) {
    std::vector<std::uint8_t> pixels(10 * 4 * 3, 0);
    // The left half is white.
    for (int y = 0; y < 4; ++y) std::fill_n(pixels.begin() + y * 30, 15, 255);
    const Pyramid pyramid = build_pyramid(view_of(pixels, 10, 4), 5, 1000);
    ASSERT_EQ(pyramid.levels[0].width, 5);
    ASSERT_EQ(pyramid.levels[0].height, 2);
    EXPECT_EQ(pyramid.pixels[0], 255);
    EXPECT_EQ(pyramid.pixels[2 * 4], 128);  // half of this block is white
    EXPECT_EQ(pyramid.pixels[4 * 4], 0);
    EXPECT_EQ(build_pyramid(view_of(pixels, 10, 4), 100, 12).levels[0].width, 5);
}

TEST(PyramidTest, AlphaIsIgnoredAndRowsMayBePadded) {
    const std::vector<std::uint8_t> pixels = {1, 2, 3, 0, 9, 9, 9, 9, 4, 5, 6, 128, 9, 9, 9, 9};
    const Pyramid pyramid = build_pyramid({pixels.data(), 1, 2, 4, 8, {}}, 100, 100);
    EXPECT_EQ(pyramid.pixels[0], 1);
    EXPECT_EQ(pyramid.pixels[3], 255);
    EXPECT_EQ(pyramid.pixels[4], 4);
}

}  // namespace
}  // namespace vitrine::viz
