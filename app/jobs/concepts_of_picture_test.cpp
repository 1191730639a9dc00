// The sparse lists against a dense table, and how long a hover's question takes at full size.
#include "concepts_of_picture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

namespace vitrine::app {
namespace {

/// Some entries of every patch are active; of the rest the table holds zeros.
struct Table {
    std::int64_t rows, cols, concepts;
    std::vector<float> values;  // [patches, concepts]
    ConceptsOfPicture sparse;

    Table(std::int64_t rows_, std::int64_t cols_, std::int64_t concepts_, std::int64_t each, bool negative)
        : rows(rows_), cols(cols_), concepts(concepts_), values(static_cast<std::size_t>(rows_ * cols_ * concepts_)) {
        std::mt19937 random(5);
        std::vector<std::int64_t> starts{0};
        std::vector<ConceptValue> entries;
        for (std::int64_t patch = 0; patch < rows * cols; ++patch) {
            float* row = values.data() + patch * concepts;
            for (std::int64_t i = 0; i < each; ++i)
                row[random() % static_cast<unsigned>(concepts)] =
                    (negative && random() % 2 == 0 ? -1.0F : 1.0F) * static_cast<float>(1 + random() % 50) / 10.0F;
            for (std::int64_t id = 0; id < concepts; ++id)
                if (row[id] != 0) entries.push_back({static_cast<std::int32_t>(id), row[id]});
            starts.push_back(static_cast<std::int64_t>(entries.size()));
        }
        sparse = {rows, cols, concepts, std::move(starts), std::move(entries)};
    }
    float at(std::int64_t patch, std::int64_t id) const {
        return values[static_cast<std::size_t>(patch * concepts + id)];
    }
};

TEST(ConceptsOfPicture, BothListsSayWhatTheTableSays) {
    for (const bool negative : {false, true}) {
        const Table table(5, 7, 40, 6, negative);
        for (std::int64_t patch = 0; patch < 35; ++patch) {
            const auto found = table.sparse.at(patch);
            std::int64_t active = 0;
            for (std::int64_t id = 0; id < 40; ++id) active += table.at(patch, id) != 0;
            ASSERT_EQ(static_cast<std::int64_t>(found.size()), active);
            for (std::size_t i = 0; i < found.size(); ++i) {
                EXPECT_EQ(found[i].value, table.at(patch, found[i].id));
                if (i > 0) {
                    EXPECT_TRUE(found[i - 1].value > found[i].value ||
                                (found[i - 1].value == found[i].value && found[i - 1].id < found[i].id));
                }
            }
        }
        for (std::int64_t id = 0; id < 40; ++id) {
            const auto map = table.sparse.map(id);
            double sum = 0;
            float strongest = 0;
            std::int32_t patches = 0;
            for (std::int64_t patch = 0; patch < 35; ++patch) {
                const float v = table.at(patch, id);
                EXPECT_EQ(map[static_cast<std::size_t>(patch)], v);
                sum += v;
                patches += v != 0;
                if (std::abs(v) > std::abs(strongest)) strongest = v;
            }
            const auto one = table.sparse.summary(id);
            EXPECT_EQ(one.concept_id, id);
            EXPECT_NEAR(one.sum, sum, 1e-5);
            EXPECT_EQ(one.strongest, strongest);
            EXPECT_EQ(one.patches, patches);
            EXPECT_EQ(static_cast<std::int32_t>(table.sparse.where(id).size()), patches);
        }
    }
}

TEST(ConceptsOfPicture, RanksByWhatIsAskedAndLeavesSilentOnesOut) {
    //                                  patch 0          patch 1   patch 2
    const ConceptsOfPicture found(1, 3, 9, {0, 2, 3, 5}, {{4, 1}, {7, 5}, {4, 1}, {4, 1}, {2, 4}});
    EXPECT_EQ(found.ranked(ConceptOrder::Sum), (std::vector<std::int32_t>{7, 2, 4}));
    EXPECT_EQ(found.ranked(ConceptOrder::Strongest), (std::vector<std::int32_t>{7, 2, 4}));
    EXPECT_EQ(found.ranked(ConceptOrder::Patches), (std::vector<std::int32_t>{4, 2, 7}));
    EXPECT_EQ(found.heard().size(), 3u);
    EXPECT_EQ(found.summary(3).patches, 0);
    EXPECT_EQ(found.map(3), (std::vector<float>{0, 0, 0}));
}

TEST(ConceptsOfPicture, OutOfRangeIsEmptyAndTokensWithoutAGridHaveNoMap) {
    const ConceptsOfPicture none;
    EXPECT_EQ(none.patches(), 0);
    EXPECT_TRUE(none.at(0).empty());
    EXPECT_TRUE(none.where(0).empty());
    EXPECT_TRUE(none.ranked(ConceptOrder::Sum).empty());
    const ConceptsOfPicture tokens(0, 0, 4, {0, 1, 2}, {{3, 2}, {3, 1}});
    EXPECT_FALSE(tokens.has_grid());
    EXPECT_TRUE(tokens.map(3).empty());
    EXPECT_EQ(tokens.summary(3).sum, 3);
    EXPECT_TRUE(tokens.at(-1).empty());
    EXPECT_TRUE(tokens.at(2).empty());
    EXPECT_TRUE(tokens.where(4).empty());
}

/// 16 384 concepts on 37 x 37 patches, 64 in a patch: the largest that the panel is asked to follow. Printed, not
/// asserted: how fast a busy machine is proves nothing.
TEST(ConceptsOfPicture, AHoverAsksNoEngineAtFullSize) {
    using Clock = std::chrono::steady_clock;
    constexpr std::int64_t kConcepts = 16384, kSide = 37, kEach = 64;
    std::mt19937 random(9);
    std::vector<std::int64_t> starts{0};
    std::vector<ConceptValue> entries;
    for (std::int64_t patch = 0; patch < kSide * kSide; ++patch) {
        for (std::int64_t i = 0; i < kEach; ++i)
            entries.push_back({static_cast<std::int32_t>(i * (kConcepts / kEach) + random() % (kConcepts / kEach)),
                               static_cast<float>(random() % 1000) + 1});
        starts.push_back(static_cast<std::int64_t>(entries.size()));
    }
    auto from = Clock::now();
    const auto since = [&from] { return std::chrono::duration<double, std::micro>(Clock::now() - from).count(); };
    const ConceptsOfPicture found(kSide, kSide, kConcepts, starts, entries);
    const double built = since();
    from = Clock::now();
    const auto ranked = found.ranked(ConceptOrder::Sum);
    const double sorted = since();

    constexpr int kQuestions = 20000;
    double total = 0;
    from = Clock::now();
    for (int i = 0; i < kQuestions; ++i)
        for (const auto& one : found.at(static_cast<std::int64_t>(random() % (kSide * kSide)))) total += one.value;
    const double patch = since() / kQuestions;
    from = Clock::now();
    for (int i = 0; i < kQuestions; ++i)
        total += found.map(ranked[random() % ranked.size()])[static_cast<std::size_t>(i % (kSide * kSide))];
    const double map = since() / kQuestions;
    EXPECT_GT(total, 0);
    EXPECT_EQ(ranked.size(), found.heard().size());
    std::printf(
        "16384 concepts, 1369 patches, 64 each: built in %.0f us, ranked in %.0f us; "
        "concepts of a patch %.2f us, map of a concept %.2f us\n",
        built, sorted, patch, map);
}

}  // namespace
}  // namespace vitrine::app
