// Augmentation: shapes, ranges, determinism by seed, and resampling against what it must leave alone.
#include "augment.h"

#include <gmock/gmock.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

namespace vitrine {
namespace {

// A picture with a different number everywhere, so that a shift, a mirror or a swap shows.
at::Tensor pictures(std::int64_t n, std::int64_t side) {
    return at::arange(n * side * side * 3, at::kLong).mul(7).remainder(251).to(at::kByte).view({n, side, side, 3});
}

at::Tensor column(double value) { return at::full({1}, value, at::kFloat); }

TEST(Augment, ResamplingToTheSameSideChangesNothing) {
    for (const double kernel : {0.0, 1.0, 2.0}) {
        const at::Tensor m = resampling(column(0), column(12), column(0), column(kernel), 12, 12).squeeze(0);
        EXPECT_LT((m - at::zeros({12, 12}).fill_diagonal_(1.0)).abs().max().item<double>(), 1e-6) << kernel;
    }
}

TEST(Augment, ResamplingRowsSumToOneAndMirror) {
    const at::Tensor plain = resampling(column(2), column(20), column(0), column(2), 7, 32).squeeze(0);
    const at::Tensor mirrored = resampling(column(2), column(20), column(1), column(2), 7, 32).squeeze(0);
    EXPECT_LT((plain.sum(1) - 1.0).abs().max().item<double>(), 1e-5);
    EXPECT_LT((plain.flip(0) - mirrored).abs().max().item<double>(), 1e-6);
}

TEST(Augment, TheWholePictureAtItsOwnSizeIsItself) {
    const at::Tensor p = pictures(2, 16);
    const at::Tensor views = whole(p, 16);
    EXPECT_LT((views * 255.0 - p.permute({0, 3, 1, 2}).to(at::kFloat)).abs().max().item<double>(), 1e-2);
}

TEST(Augment, EqualSeedsGiveEqualViewsAndOthersDiffer) {
    const at::Tensor p = pictures(6, 24);
    const auto views = [&](std::uint64_t seed) {
        StepRandom random(seed, 3, 1);
        const AugmentOptions options;
        return mix(random_looks(random_views(p, 32, options, random), options, random), options, random).views;
    };
    const at::Tensor a = views(5), b = views(5), c = views(6);
    EXPECT_EQ(a.sizes(), (at::IntArrayRef{6, 3, 32, 32}));
    EXPECT_TRUE(a.equal(b));
    EXPECT_FALSE(a.equal(c));
    EXPECT_GE(a.min().item<float>(), 0.0F);
    EXPECT_LE(a.max().item<float>(), 1.0F);
}

TEST(Augment, GentleOptionsOnlyMirror) {
    const at::Tensor p = pictures(8, 16);
    StepRandom random(1, 0, 0);
    const AugmentOptions options = gentle({});
    const at::Tensor views = random_looks(random_views(p, 16, options, random), options, random);
    const at::Tensor plain = whole(p, 16);
    std::int64_t mirrored = 0;
    for (std::int64_t i = 0; i < 8; ++i) {
        const double same = (views[i] - plain[i]).abs().max().item<double>();
        const double turned = (views[i] - plain[i].flip(2)).abs().max().item<double>();
        EXPECT_LT(std::min(same, turned), 1e-4) << i;
        mirrored += turned < same ? 1 : 0;
    }
    EXPECT_GT(mirrored, 0);
    EXPECT_LT(mirrored, 8);
}

TEST(Augment, MixingSaysWhoseShareIsWhat) {
    // Picture i is i / 8 everywhere, so a blend's mean is the blend of its two pictures by the share it names.
    const at::Tensor views = (at::arange(8, at::kFloat) / 8.0).view({8, 1, 1, 1}).expand({8, 3, 16, 16}).contiguous();
    AugmentOptions options;
    options.mixup = options.cutmix = 0.5;
    StepRandom random(2, 0, 0);
    const Mixed mixed = mix(views, options, random);
    const at::Tensor own = views.mean(at::IntArrayRef{1, 2, 3});
    const at::Tensor expected = mixed.share * own + (1.0 - mixed.share) * own.index_select(0, mixed.partner);
    EXPECT_LT((mixed.views.mean(at::IntArrayRef{1, 2, 3}) - expected).abs().max().item<double>(), 1e-5);
    EXPECT_LT(mixed.share.min().item<float>(), 0.95F) << "something must have been mixed";
}

TEST(Augment, JpegLeavesFlatColourAndTakesFineDetail) {
    const at::Tensor flat = at::full({1, 3, 32, 32}, 128.0, at::kFloat);
    EXPECT_LT((through_jpeg(flat) - flat).abs().max().item<double>(), 1.0);
    at::Tensor board = at::zeros({1, 3, 32, 32});
    board.slice(3, 0, 32, 2).fill_(20.0);
    const at::Tensor coded = through_jpeg(board);
    EXPECT_GT((coded - board).abs().max().item<double>(), 1.0);
    EXPECT_LT((coded.mean() - board.mean()).abs().item<double>(), 1.0);
}

TEST(Augment, ShrunkenPicturesAreSmallEightBitPictures) {
    StepRandom random(1, 1, 1);
    const at::Tensor small = shrunken(pictures(3, 64), 32, random);
    EXPECT_EQ(small.sizes(), (at::IntArrayRef{3, 32, 32, 3}));
    EXPECT_EQ(small.scalar_type(), at::kByte);
    EXPECT_GT(small.to(at::kFloat).std().item<double>(), 0.1);
}

TEST(Augment, ContextKeepsTheViewInsideAndTheBackgroundAround) {
    const at::Tensor bright = at::full({4, 3, 32, 32}, 1.0, at::kFloat), dark = at::zeros({4, 3, 32, 32});
    StepRandom random(4, 0, 0);
    const at::Tensor share = in_context(bright, dark, random).mean(at::IntArrayRef{1, 2, 3});
    // 0.45 to 0.9 of the side is 0.2 to 0.81 of the area; a pixel's row more or less at the rim.
    EXPECT_GT(share.min().item<double>(), 0.17);
    EXPECT_LT(share.max().item<double>(), 0.87);
}

}  // namespace
}  // namespace vitrine
