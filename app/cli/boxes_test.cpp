// Masks as boxes: pieces, sizes, names, and what is refused.
#include "cli/boxes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace vitrine::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

using Corners = std::vector<std::array<double, 4>>;

Corners corners(const std::vector<Box>& boxes) {
    Corners out;
    for (const Box& box : boxes) out.push_back({box.x0, box.y0, box.x1, box.y1});
    return out;
}

/// From rows of text: a space is black, a letter one of its three colours set to 1.
Image drawn(const std::vector<std::string>& rows) {
    Image out(static_cast<std::int64_t>(rows[0].size()), static_cast<std::int64_t>(rows.size()));
    for (std::size_t y = 0; y < rows.size(); ++y)
        for (std::size_t x = 0; x < rows[y].size(); ++x)
            if (const auto channel = std::string("rgb").find(rows[y][x]); channel != std::string::npos)
                out.at(static_cast<std::int64_t>(x), static_cast<std::int64_t>(y))[channel] = 1;
    return out;
}

class Masks : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::temp_directory_path() / ("vitrine-masks-" + std::to_string(getpid()));
        fs::create_directories(folder_ / "class");
    }
    void TearDown() override { fs::remove_all(folder_); }
    void pgm(const std::string& name, int top, const std::string& numbers) const {
        std::ofstream(folder_ / name) << "P2\n2 1\n" << top << '\n' << numbers << '\n';
    }
    fs::path folder_;
};

TEST_F(Masks, AnyPixelThatIsNotBlackIsTheObject) {
    EXPECT_EQ(corners(*pieces_of(drawn({"r  g",  //
                                        "bb g",  //
                                        "gr  ",  //
                                        "    "}))),
              (Corners{{0, 0, 1, 1}, {3, 0, 4, 2}, {0, 1, 2, 3}}));
    EXPECT_TRUE(pieces_of(drawn({"  ", "  "}))->empty());
    // Equal runs with a gap between them are two pieces.
    EXPECT_EQ(corners(*pieces_of(drawn({"r ", "  ", "r "}))), (Corners{{0, 0, 1, 1}, {0, 2, 1, 3}}));
}

TEST_F(Masks, NoiseIsRefusedBeforeItCostsMemory) {
    Image noise(1420, 1420);
    for (std::int64_t y = 0; y < noise.height; ++y)
        for (std::int64_t x = y % 2; x < noise.width; x += 2) noise.at(x, y)[0] = 255;
    const auto pieces = pieces_of(noise);
    ASSERT_FALSE(pieces);
    EXPECT_THAT(pieces.error().message, HasSubstr("1000000 pieces"));
}

TEST_F(Masks, AMaskOfAnotherSizeIsScaledAndOneOfAnotherShapeRefused) {
    Boxed known{{{1, 0, 2, 1}}, {}, 4, 3};
    EXPECT_EQ(corners(*boxes_in_photo(known, {.photo_width = 8, .photo_height = 6})), (Corners{{2, 0, 4, 2}}));
    EXPECT_TRUE(boxes_in_photo(known, {.photo_width = 403, .photo_height = 300})) << "rounded sides";
    const auto turned = boxes_in_photo(known, {.photo_width = 300, .photo_height = 400});
    ASSERT_FALSE(turned);
    EXPECT_THAT(turned.error().message, HasSubstr("4 x 3, the upright picture 300 x 400"));
    known.mask_width = known.mask_height = 0;  // boxes of a table are the photograph's already
    EXPECT_EQ(corners(*boxes_in_photo(known, {.photo_width = 8, .photo_height = 6})), (Corners{{1, 0, 2, 1}}));
}

TEST_F(Masks, AreFoundByNameAndStandForTheBoxes) {
    pgm("a.pgm", 255, "0 1");
    pgm("class/a.pgm", 255, "1 0");
    std::ofstream(folder_ / "boxes.tsv") << "file\tlabel\tx0\ty0\tx1\ty1\na.jpg\t7\t0\t0\t9\t9\nb.jpg\t8\t0\t0\t9\t9\n";
    auto masks = *Boxes::make((folder_ / "boxes.tsv").string(), folder_.string());
    const auto plain = *masks.of("photos/a.jpg");
    ASSERT_TRUE(plain);
    EXPECT_EQ(corners(plain->boxes), (Corners{{1, 0, 2, 1}}));
    EXPECT_EQ(plain->label, 7);
    EXPECT_EQ(plain->mask_width, 2);
    EXPECT_EQ(plain->mask_height, 1);
    EXPECT_EQ(corners((*masks.of("photos/class/a.jpg"))->boxes), (Corners{{0, 0, 1, 1}}));
    // No mask: no boxes either, but the label stays.
    const auto without = *masks.of("photos/b.jpg");
    ASSERT_TRUE(without);
    EXPECT_TRUE(without->boxes.empty());
    EXPECT_EQ(without->label, 8);
    EXPECT_FALSE(*masks.of("photos/c.jpg"));
    const auto missing = Boxes::make("", (folder_ / "none").string());
    ASSERT_FALSE(missing);
    EXPECT_THAT(missing.error().message, HasSubstr("no folder"));
}

TEST_F(Masks, AreRefusedWhereZeroCannotBeTold) {
    pgm("deep.pgm", 65535, "0 1");  // 1 of 65535 is 0 of 255
    std::ofstream(folder_ / "text.png") << "this is no picture";
    const fs::path photo = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/chelsea.jpg";
    fs::copy_file(photo, folder_ / "chelsea.jpg");
    auto masks = *Boxes::make("", folder_.string());
    EXPECT_THAT(masks.of("photos/deep.jpg").error().message, HasSubstr("16 bit"));
    EXPECT_THAT(masks.of("photos/chelsea.jpg").error().message, HasSubstr("JPEG"));
    EXPECT_FALSE(masks.of("photos/text.jpg"));
}

}  // namespace
}  // namespace vitrine::cli
