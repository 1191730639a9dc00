// Rectangles as people write them, and the cells that they touch.
#include <vitrine/region.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vitrine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const RegionGrid kGrid{"blocks.1.norm1", 3, 4, 1};

TEST(Region, CellsAndRectanglesAreTokensEachOnce) {
    EXPECT_THAT(region_tokens("0,0", kGrid).value(), ElementsAre(1));
    EXPECT_THAT(region_tokens("2,3;0,1", kGrid).value(), ElementsAre(12, 2));
    EXPECT_THAT(region_tokens("1,1-2,2", kGrid).value(), ElementsAre(6, 7, 10, 11));
    EXPECT_THAT(region_tokens("1,1-1,2;1,2;1,2-1,3", kGrid).value(), ElementsAre(6, 7, 8));
}

TEST(Region, NonsenseIsRefused) {
    for (const char* text : {"", ";", "1", "1,", ",1", "a,b", "1,1-", "-1,1", "1,1-0,1", "1,1-1,0", "1,1-2,2-3,3",
                             "1,1 ", "99999999999999999999,0"}) {
        const auto found = region_tokens(text, kGrid);
        ASSERT_FALSE(found) << text;
        EXPECT_EQ(found.error().code, ErrorCode::BadInput);
    }
    EXPECT_THAT(region_tokens("3,0", kGrid).error().message, HasSubstr("3 rows and 4 columns"));
    EXPECT_THAT(region_tokens("0,0-9223372036854775807,0", kGrid).error().message, HasSubstr("3 rows"));
}

}  // namespace
}  // namespace vitrine
