// Which pictures a step sees, and how sets share a batch.
#include "dataset.h"

#include <gmock/gmock.h>

#include <ATen/ops/zeros.h>

#include <set>

namespace vitrine {
namespace {

DataSet set_of(std::int64_t count, std::int64_t batch) {
    DataSet set;
    set.images = at::zeros({count, 8, 8, 3}, at::kByte);
    set.labels = at::zeros({count}, at::kLong);
    set.batch = batch;
    return set;
}

TEST(DataSet, ShowsEveryPictureOnceBeforeAnyComesAgain) {
    const DataSet set = set_of(12, 4);
    std::set<std::int64_t> seen;
    for (std::int64_t step = 0; step < 3; ++step)
        for (const auto i : set.draw(7, 0, step)) seen.insert(i);
    EXPECT_EQ(seen.size(), 12U);
    EXPECT_NE(set.draw(7, 0, 0), set.draw(7, 0, 3)) << "the second round has another order";
}

TEST(DataSet, DrawsTheSameWhateverWasDrawnBefore) {
    const DataSet set = set_of(10, 4);
    const auto fresh = set_of(10, 4).draw(1, 0, 5);
    set.draw(1, 0, 9);
    set.draw(2, 0, 5);
    EXPECT_EQ(set.draw(1, 0, 5), fresh);
    EXPECT_NE(set.draw(2, 0, 5), fresh);
}

TEST(DataSet, SharesABatchAsAsked) {
    Data data;
    data.sets = {set_of(100, 0), set_of(300, 0)};
    ASSERT_TRUE(share_batch(data, 40, "").has_value());
    EXPECT_EQ(data.sets[0].batch, 10);
    ASSERT_TRUE(share_batch(data, 40, "0.65,0.35").has_value());
    EXPECT_EQ(data.sets[0].batch, 26);
    EXPECT_EQ(data.sets[1].batch, 14);
    EXPECT_THAT(share_batch(data, 40, "1").error().message, testing::HasSubstr("expected 2"));
    EXPECT_THAT(share_batch(data, 40, "1,-2").error().message, testing::HasSubstr("positive"));
    EXPECT_THAT(share_batch(data, 1, "").error().message, testing::HasSubstr("2 sets"));
}

TEST(StepRandom, IsUniformEnoughAndRepeats) {
    StepRandom a(1, 2, 3), b(1, 2, 3), c(1, 3, 3);
    double mean = 0, beta = 0;
    for (int i = 0; i < 20000; ++i) {
        const double x = a.uniform();
        EXPECT_EQ(x, b.uniform());
        ASSERT_GE(x, 0.0);
        ASSERT_LT(x, 1.0);
        mean += x / 20000;
        beta += c.beta(2.0, 6.0) / 20000;
    }
    EXPECT_NEAR(mean, 0.5, 0.01);   // deviation of the mean is 0.002
    EXPECT_NEAR(beta, 0.25, 0.01);  // 2 / (2 + 6), deviation 0.001
}

}  // namespace
}  // namespace vitrine
