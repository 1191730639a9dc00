// Search, filter and sort on an index whose figures are known, and the bound of the cache.
#include "concept_choice.h"

#include <gmock/gmock.h>
#include <vitrine/base/concept_records.h>
#include <vitrine/base/test_bytes.h>

#include <limits>
#include <numeric>

namespace vitrine::app {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Order = ConceptQuery::Order;
using Only = ConceptQuery::Only;

/// Five concepts over two pictures of four patches and a class token. 0 speaks everywhere, 1 in one patch, 2 in the
/// class token alone, 3 never, 4 in two patches.
class ConceptChoice : public ::testing::Test {
  protected:
    void SetUp() override {
        constexpr std::int64_t kLatents = 5;
        const TokenPlaces places{.class_token = 0, .first = 1, .patches = 4, .rows = 2, .cols = 2};
        std::vector<std::uint32_t> neighbours(kLatents * ConceptIndex::kNeighbours);
        std::vector<float> cosines(neighbours.size(), std::numeric_limits<float>::quiet_NaN());
        neighbours[0] = 4, cosines[0] = 0.9f;
        neighbours[1] = 1, cosines[1] = 0.5f;
        std::vector<float> map(2 * kLatents);
        std::iota(map.begin(), map.end(), 0.0f);
        auto records = *ConceptRecords::open(folder_ / "records", "key");
        std::vector<std::int64_t> entries;
        const std::vector<ConceptValue> said[] = {
            {{0, 2, 5, 0.5f}, {1, 0, 1, 0.25f}, {2, 0, 1, 0.25f}, {3, 0, 1, 0.25f}, {4, 0, 1, 0.25f}, {4, 1, 9, -8}},
            {{1, 0, 2, 0.5f}, {2, 4, 3, 2}, {3, 4, 3, 2}}};
        for (int i = 0; i < 2; ++i) {
            PictureRecord one;
            one.picture = {std::string(1, static_cast<char>('a' + i)) + ".png", 10, 1};
            one.answer = 0;
            one.patches = 4;
            one.embedding = {1, static_cast<float>(i)};
            one.latents = latent_records(said[i], places);
            ASSERT_TRUE(records.append(one));
            entries.push_back(records.find(one.picture));
        }
        const IndexFrame frame{kLatents, 2, 2, true, true, {}, neighbours, cosines, map};
        ASSERT_TRUE(write_concept_index(folder_ / "index", records, entries, frame));
        auto opened = ConceptIndex::open(folder_ / "index");
        ASSERT_TRUE(opened) << opened.error().message;
        index_ = std::move(*opened);
        called_[1] = {"dog's snout", {}, {"animal"}, "dog's snout\nanimal"};
        called_[4] = {"", {}, {"edge"}, "\nedge"};
    }
    std::vector<std::uint32_t> of(ConceptQuery query) { return chosen(index_, called_, query); }

    testing::Folder folder_;
    ConceptIndex index_;
    CalledConcepts called_;
};

TEST_F(ConceptChoice, SortsByAColumnEitherWay) {
    EXPECT_THAT(of({}), ElementsAre(0, 4, 1, 2, 3)) << "5, 2, 1, 0 and 0 patches of 8";
    EXPECT_THAT(of({.descending = false}), ElementsAre(2, 3, 1, 4, 0));
    EXPECT_THAT(of({.order = Order::Number, .descending = false}), ElementsAre(0, 1, 2, 3, 4));
    EXPECT_THAT(of({.order = Order::Maximum}).front(), 1u);
    EXPECT_THAT(of({.order = Order::Effect}).front(), 1u) << "what speaks against the answer counts by its size";
    EXPECT_THAT(of({.order = Order::Monosemanticity, .descending = false}).back(), 4u)
        << "not a number is last, either way, by number";
}

TEST_F(ConceptChoice, Filters) {
    EXPECT_THAT(of({.only = Only::Never}), ElementsAre(3)) << "2 is heard in the class token";
    EXPECT_THAT(of({.order = Order::Number, .descending = false, .only = Only::Fired}), ElementsAre(0, 1, 2, 4));
    EXPECT_THAT(of({.only = Only::Dense}), ElementsAre(0, 4, 1));
    EXPECT_THAT(of({.only = Only::Named}), ElementsAre(1));
    EXPECT_THAT(of({.only = Only::Tagged}), ElementsAre(4, 1));
    EXPECT_THAT(of({.only = Only::Tagged, .tag = "edge"}), ElementsAre(4));
    EXPECT_THAT(of({.only = Only::Tagged, .tag = "edg"}), IsEmpty()) << "a tag is meant whole";
}

TEST_F(ConceptChoice, SearchesNamesTagsAndNumbers) {
    EXPECT_THAT(of({.search = "snout"}), ElementsAre(1));
    EXPECT_THAT(of({.search = "anim"}), ElementsAre(1));
    EXPECT_THAT(of({.search = "3"}), ElementsAre(3));
    EXPECT_THAT(of({.search = "3x"}), IsEmpty());
    EXPECT_THAT(of({.search = "99999999999999999999"}), IsEmpty());
    called_[0] = {"3 stripes", {}, {}, "3 stripes\n"};
    EXPECT_THAT(of({.search = "3"}), ElementsAre(0, 3));
    EXPECT_THAT(of({.search = "snout", .only = Only::Never}), IsEmpty()) << "both must hold";
}

TEST_F(ConceptChoice, NeighboursComeNearestFirstBehindTheConceptItself) {
    EXPECT_THAT(of({.order = Order::Near, .near = 0}), ElementsAre(0, 4, 1));
    EXPECT_THAT(of({.order = Order::Near, .near = 3}), ElementsAre(3));
    EXPECT_THAT(of({.order = Order::Near}), IsEmpty());
    EXPECT_THAT(of({.order = Order::Near, .near = 5}), IsEmpty());
}

TEST(NearestPoint, IsFoundWithinReach) {
    const float points[] = {0, 0, 10, 0, 0, 10};
    EXPECT_EQ(nearest_point(points, 9, 1, 3), 1);
    EXPECT_EQ(nearest_point(points, 5, 5, 3), -1);
    EXPECT_EQ(nearest_point({}, 0, 0, 3), -1);
}

TEST(BoundedCacheOf, DropsTheLeastUsedAndKeepsItsBound) {
    BoundedCache<int, std::string> cache(100);
    for (int i = 0; i < 4; ++i) cache.put(i, std::to_string(i), 25);
    EXPECT_EQ(cache.weight(), 100);
    ASSERT_NE(cache.find(0), nullptr);  // used: 1 is the oldest now
    cache.put(4, "4", 25);
    EXPECT_EQ(cache.find(1), nullptr);
    EXPECT_EQ(*cache.find(0), "0");
    cache.put(0, "again", 50);
    EXPECT_EQ(*cache.find(0), "again");
    EXPECT_LE(cache.weight(), 100);
    cache.put(9, "huge", 1000);
    EXPECT_EQ(cache.size(), 1u) << "what was just put is there";
    EXPECT_NE(cache.find(9), nullptr);
    for (int i = 0; i < 10'000; ++i) cache.put(i, "x", 7);
    EXPECT_LE(cache.weight(), 100);
    cache.clear();
    EXPECT_EQ(cache.weight(), 0);
    EXPECT_EQ(cache.find(9'999), nullptr);
}

}  // namespace
}  // namespace vitrine::app
