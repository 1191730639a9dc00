// Ranks and quantiles by hand, intervals on data whose truth is known, and the part of variance between pictures.
#include "statistics.h"

#include <gmock/gmock.h>

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

namespace vitrine {
namespace {

at::Generator generator(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

TEST(Statistics, RanksShareTheirMeanAndQuantilesInterpolate) {
    EXPECT_THAT(ranks_of({3, 1, 3, 2}), testing::ElementsAre(3.5, 1, 3.5, 2));
    EXPECT_EQ(quantile_of({4, 1, 2, 3}, 0.75), 3.25);
    EXPECT_EQ(quantile_of({7}, 0.75), 7);
}

TEST(Statistics, AurocCountsPairsAndSpearmanRanks) {
    EXPECT_EQ(auroc_of({1, 2, 3, 4}, {false, false, true, true}), 1);
    EXPECT_EQ(auroc_of({1, 3, 2, 4}, {false, true, true, false}), 0.5);
    EXPECT_EQ(auroc_of({1, 1, 0}, {true, false, false}), 0.75);
    EXPECT_EQ(auroc_of({1, 2}, {true, true}), std::nullopt);
    EXPECT_NEAR(*spearman_of({1, 2, 3, 4}, {1, 10, 100, 1000}), 1, 1e-12);
    EXPECT_NEAR(*spearman_of({1, 2, 3, 4, 5}, {2, 1, 4, 3, 5}), 0.8, 1e-12);
    EXPECT_EQ(spearman_of({1, 1}, {1, 2}), std::nullopt);
}

TEST(Statistics, IntervalsOverPicturesHoldTheTruthAboutAsOftenAsTheySay) {
    // Pictures differ by 1, the seeds of a picture by 1. 400 experiments of 30 pictures with 8 seeds: a share of 0.95
    // has a deviation of 0.011, and percentile intervals of 30 are known to be a little narrow.
    constexpr int kExperiments = 400;
    constexpr std::int64_t kPictures = 30, kSeeds = 8;
    auto g = generator(1);
    int holds = 0, pooled_holds = 0;
    const PictureResampling resampling(kPictures, 400, 5), pooled(kPictures * kSeeds, 200, 5);
    for (int e = 0; e < kExperiments; ++e) {
        const at::Tensor values =
            10 + at::randn({kPictures, 1}, g, at::kDouble) + at::randn({kPictures, kSeeds}, g, at::kDouble);
        const auto contains = [](const at::Tensor& middle) {
            return middle[0][0].item<double>() <= 10 && middle[1][0].item<double>() >= 10;
        };
        holds += contains(PictureResampling::middle(resampling.means(values.mean(1, true))));
        pooled_holds += contains(PictureResampling::middle(pooled.means(values.reshape({-1, 1}))));
    }
    EXPECT_GE(holds, 0.90 * kExperiments);
    EXPECT_LE(holds, 0.98 * kExperiments);
    // As if every seed were a picture of its own: far too sure.
    EXPECT_LT(pooled_holds, 0.75 * kExperiments);
}

TEST(Statistics, EqualSeedsDrawEqualPictures) {
    const at::Tensor values = at::randn({12, 3}, generator(2), at::kDouble);
    EXPECT_TRUE(PictureResampling(12, 50, 3).means(values).equal(PictureResampling(12, 50, 3).means(values)));
    EXPECT_FALSE(PictureResampling(12, 50, 3).means(values).equal(PictureResampling(12, 50, 4).means(values)));
}

TEST(Statistics, InsensitivityIsTheFormula) {
    constexpr std::int64_t kPictures = 6, kMembers = 5, kLatents = 4;
    auto g = generator(4);
    at::Tensor values = at::randn({kPictures, kMembers, kLatents}, g, at::kDouble);
    values.select(2, 1).add_(5 * at::randn({kPictures, 1}, g, at::kDouble));                      // mostly between
    values.select(2, 2).copy_(at::randn({kPictures, 1}, g, at::kDouble).expand({-1, kMembers}));  // between alone
    values.select(2, 3).fill_(0.3);                                                               // nowhere
    BetweenPictures streamed;
    for (std::int64_t p = 0; p < kPictures; ++p) streamed.add(values[p]);
    const at::Tensor found = streamed.insensitivity();
    const at::Tensor total = values.var(at::IntArrayRef{0, 1}, /*unbiased=*/false),
                     between = values.mean(1).var(at::IntArrayRef{0}, /*unbiased=*/false);
    for (const std::int64_t latent : {0, 1, 2})
        EXPECT_NEAR(found[latent].item<double>(), 1 - (between / total)[latent].item<double>(), 1e-10);
    EXPECT_GT(found[0].item<double>(), 0.5);
    EXPECT_LT(found[1].item<double>(), 0.2);
    EXPECT_NEAR(found[2].item<double>(), 0, 1e-10);
    EXPECT_TRUE(std::isnan(found[3].item<double>()));
}

}  // namespace
}  // namespace vitrine
