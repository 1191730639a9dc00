// Tests of class names and of finding a class.
#include <vitrine/labels.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace vitrine {
namespace {

using testing::HasSubstr;

Labels imagenet() { return {imagenet1k_names(), "bundled", false}; }

TEST(Labels, BundledListsHaveTheirLength) {
    ASSERT_EQ(imagenet1k_names().size(), 1000u);
    EXPECT_EQ(imagenet1k_names()[0], "tench");
    EXPECT_EQ(imagenet1k_names()[999], "toilet tissue");
    EXPECT_EQ(cifar10_names().size(), 10u);
}

TEST(Labels, FindTakesAnIndexANameOrAUniquePart) {
    EXPECT_EQ(imagenet().find("281", 1000).value(), 281);
    EXPECT_EQ(imagenet().find("Tench", 1000).value(), 0);
    EXPECT_EQ(imagenet().find("english springer", 1000).value(), 217);
}

TEST(Labels, AnExactNameWinsOverPartsOfOthers) {
    const Labels labels{{"cat", "catfish", "bobcat"}, "test", false};
    EXPECT_EQ(labels.find("CAT", 3).value(), 0);
}

TEST(Labels, AnAmbiguousNameIsRefusedWithItsIndices) {
    const Labels labels{{"crane", "heron", "crane"}, "test", false};
    const auto found = labels.find("crane", 3);
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().code, ErrorCode::BadInput);
    EXPECT_THAT(found.error().message, HasSubstr("0, 2"));
    EXPECT_THAT(imagenet().find("crane", 1000).error().message, HasSubstr("134, 517"));
    EXPECT_THAT(imagenet().find("shark", 1000).error().message, HasSubstr("2, 3"));
}

TEST(Labels, NonsenseIsRefusedInWords) {
    EXPECT_THAT(imagenet().find("1000", 1000).error().message, HasSubstr("0 to 999"));
    EXPECT_THAT(imagenet().find("-1", 1000).error().message, HasSubstr("out of range"));
    EXPECT_THAT(imagenet().find("99999999999999999999", 1000).error().message, HasSubstr("out of range"));
    EXPECT_FALSE(imagenet().find("", 1000).has_value());
    EXPECT_FALSE(imagenet().find("no such thing at all", 1000).has_value());
    EXPECT_THAT((Labels{}).find("cat", 5).error().message, HasSubstr("no class names"));
}

TEST(Labels, AMissingNameIsShownAsItsIndex) {
    EXPECT_EQ(Labels{}.name(12), "class 12");
    EXPECT_EQ(imagenet().name(1), "goldfish");
    EXPECT_EQ(imagenet().name(-1), "class -1");
}

}  // namespace
}  // namespace vitrine
