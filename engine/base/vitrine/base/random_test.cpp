// Tests of the counter-based random bits against published values.
#include <vitrine/base/random.h>

#include <gtest/gtest.h>

namespace vitrine {
namespace {

TEST(Random, SplitMixGivesItsPublishedSequence) {
    // The first outputs of splitmix64 seeded with 1234567 (Vigna's reference program, as Rosetta Code lists them).
    std::uint64_t state = 1234567;
    for (const std::uint64_t wanted : {6457827717110365317U, 3203168211198807973U, 9817491932198370423U}) {
        EXPECT_EQ(mix64(state), wanted);
        state += kSplitMixStep;
    }
}

TEST(Random, FnvGivesItsPublishedValues) {
    EXPECT_EQ(hash_of(""), 0xCBF29CE484222325U);
    EXPECT_EQ(hash_of("a"), 0xAF63DC4C8601EC8CU);
    EXPECT_EQ(hash_of("foobar"), 0x85944171F73967E8U);
}

TEST(Random, EveryNumberCounts) {
    const std::uint64_t one = random_bits(1, 2, 3);
    EXPECT_EQ(one, random_bits(1, 2, 3));
    EXPECT_NE(one, random_bits(2, 2, 3));
    EXPECT_NE(one, random_bits(1, 3, 2));
    EXPECT_NE(one, random_bits(1, 2, 4));
}

}  // namespace
}  // namespace vitrine
