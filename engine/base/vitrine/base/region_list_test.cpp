// Lists of regions: names with commas, grids that are said, lines that are none.
#include <vitrine/base/region_list.h>

#include <gmock/gmock.h>

#include <vitrine/base/file.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class RegionListTest : public testing::Test {
  protected:
    void SetUp() override { fs::create_directories(folder_ / "below"); }
    void TearDown() override { fs::remove_all(folder_); }
    std::string said(const std::string& text) {
        EXPECT_TRUE(write_text(file_, text));
        const auto list = read_region_list(file_);
        return list ? "read" : list.error().message;
    }
    fs::path folder_ =
                 fs::path(testing::TempDir()) /
                 ("vitrine_region_list_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name())),
             file_ = folder_ / "stripes.txt";
};

TEST_F(RegionListTest, WhatIsWrittenIsReadAgain) {
    RegionList list;
    list.rows = 14;
    list.cols = 7;
    const fs::path elsewhere = fs::path(testing::TempDir()).parent_path() / "far" / "a.png";
    list.regions = {{folder_ / "near, and dear.jpg", "3,4-5,9"},
                    {folder_ / "below" / "12.jp2", "0,0;2,1-2,6"},
                    {folder_ / "#1.png", "0,1"},
                    {elsewhere, "1,1"}};
    ASSERT_TRUE(write_region_list(file_, list));
    EXPECT_EQ(*read_text(file_),
              "# cells 14 x 7\nnear, and dear.jpg,3,4-5,9\nbelow/12.jp2,0,0;2,1-2,6\n./#1.png,0,1\n" +
                  elsewhere.string() + ",1,1\n");
    const auto again = read_region_list(file_);
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(again->rows, 14);
    EXPECT_EQ(again->cols, 7);
    ASSERT_EQ(again->regions.size(), 4U);
    for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(again->regions[i].picture.lexically_normal(), list.regions[i].picture.lexically_normal());
        EXPECT_EQ(again->regions[i].cells, list.regions[i].cells);
        EXPECT_EQ(again->regions[i].line, static_cast<std::int64_t>(i) + 2);
    }
    list.regions = {{folder_ / "two\nlines.png", "0,0"}};
    EXPECT_THAT(write_region_list(file_, list).error().message, HasSubstr("line break"));
    EXPECT_EQ(read_region_list(file_)->regions.size(), 4U) << "what was there stays";
}

TEST_F(RegionListTest, LinesThatNameNoRegionAreRefusedWithTheirNumber) {
    EXPECT_EQ(said("# by hand\r\n\r\na.png,0,0\r\n"), "read");
    EXPECT_EQ(said(""), "read");
    EXPECT_THAT(said("# by hand\na.png"), HasSubstr("line 2 of " + file_.string() + " is 'a.png'"));
    EXPECT_THAT(said("a.png,left"), HasSubstr("expected picture,ROW,COL-ROW,COL"));
    EXPECT_THAT(said(",0,0"), HasSubstr("line 1"));
    EXPECT_THAT(said("# cells 0 x 3\n"), HasSubstr("a grid of 0 x 3 cells"));
    EXPECT_EQ(read_region_list(folder_ / "nothing.txt").error().code, ErrorCode::NotFound);
}

}  // namespace
}  // namespace vitrine
