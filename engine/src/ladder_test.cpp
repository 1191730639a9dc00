// The ladder's inputs: what stays, what is drawn, and that it is drawn alike.
#include <vitrine/ladder.h>

#include <gmock/gmock.h>

#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/fft_fft2.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/sort.h>

namespace vitrine {
namespace {

using testing::HasSubstr;

const Preprocess kPreprocess{};
at::Tensor picture(std::int64_t height = 56, std::int64_t width = 56) {
    return normalise(at::rand({1, 3, height, width}, at::make_generator<at::CPUGeneratorImpl>(3), at::kFloat),
                     kPreprocess);
}
Rung shuffle(std::int64_t tiles) { return {Rung::Kind::Shuffle, tiles, 0, ""}; }
Rung blend(double share) { return {Rung::Kind::Blend, 1, share, "gaussian"}; }
Rung noise(const char* name) { return {Rung::Kind::Noise, 1, 1, name}; }
at::Tensor made(const Rung& rung, const at::Tensor& pixels, std::uint64_t seed = 1, const char* name = "a") {
    const auto out = rung_pixels(rung, pixels, kPreprocess, seed, name);
    EXPECT_TRUE(out.has_value()) << out.error().message;
    return *out;
}
double mean(const at::Tensor& x) { return x.to(at::kDouble).mean().item<double>(); }
double deviation(const at::Tensor& x) { return x.to(at::kDouble).std().item<double>(); }
double furthest(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(Ladder, HoldsThePictureAndTheRungsInTheirOrder) {
    const auto rungs = ladder_of({.noises = {"gaussian", "uniform", "low_pass_2"}});
    ASSERT_TRUE(rungs.has_value());
    ASSERT_EQ(rungs->size(), 1u + 6u + 11u + 3u);
    std::set<std::string> names;
    for (const Rung& rung : *rungs) names.insert(rung.name());
    EXPECT_EQ(names.size(), rungs->size());
    EXPECT_EQ(rungs->front().name(), "clean");
    EXPECT_EQ((*rungs)[6].name(), "shuffle 28");
    EXPECT_EQ((*rungs)[10].name(), "blend 0.3");
    EXPECT_EQ(rungs->back().name(), "low_pass_2");
    for (const Rung& rung : *rungs) {
        const auto again = rung_of(rung.name());
        ASSERT_TRUE(again.has_value()) << again.error().message;
        EXPECT_EQ(again->name(), rung.name());
        EXPECT_EQ(again->kind, rung.kind);
    }
}

TEST(Ladder, OneTileAndNoNoiseAreThePictureItself) {
    const at::Tensor pixels = picture();
    for (const Rung& rung : {Rung{}, shuffle(1), blend(0)}) {
        EXPECT_TRUE(rung.is_clean());
        EXPECT_TRUE(made(rung, pixels).is_same(pixels)) << rung.name();
    }
    EXPECT_FALSE(shuffle(2).is_clean());
}

TEST(Ladder, EqualSeedsGiveEqualPixelsAndOthersOthers) {
    const at::Tensor pixels = picture();
    for (const Rung& rung : {shuffle(7), blend(0.4), noise("gaussian"), noise("uniform"), noise("clipped"),
                             noise("low_pass_2"), noise("phase")}) {
        SCOPED_TRACE(rung.name());
        EXPECT_TRUE(at::equal(made(rung, pixels), made(rung, pixels)));
        EXPECT_FALSE(at::equal(made(rung, pixels), made(rung, pixels, 2)));
        EXPECT_FALSE(at::equal(made(rung, pixels), made(rung, pixels, 1, "b")));
    }
}

TEST(Ladder, AShuffleMovesWholeTilesAndLosesNone) {
    const at::Tensor pixels = picture();
    const at::Tensor mixed = made(shuffle(4), pixels);
    EXPECT_FALSE(at::equal(mixed, pixels));
    EXPECT_TRUE(at::equal(std::get<0>(at::sort(mixed.flatten())), std::get<0>(at::sort(pixels.flatten()))));
    const auto tile = [](const at::Tensor& x, std::int64_t i) {
        return x.narrow(2, 14 * (i / 4), 14).narrow(3, 14 * (i % 4), 14);
    };
    std::set<std::int64_t> taken;
    for (std::int64_t to = 0; to < 16; ++to)
        for (std::int64_t from = 0; from < 16; ++from)
            if (at::equal(tile(mixed, to), tile(pixels, from))) taken.insert(from);
    EXPECT_EQ(taken.size(), 16u);
}

TEST(Ladder, EveryOrderOfTilesIsAsLikely) {
    const at::Tensor pixels = picture();
    const at::Tensor first = pixels.narrow(2, 0, 28).narrow(3, 0, 28);
    std::array<int, 4> where{};
    for (std::uint64_t seed = 0; seed < 400; ++seed) {
        const at::Tensor mixed = made(shuffle(2), pixels, seed);
        for (std::int64_t to = 0; to < 4; ++to)
            if (at::equal(mixed.narrow(2, 28 * (to / 2), 28).narrow(3, 28 * (to % 2), 28), first))
                ++where[std::size_t(to)];
    }
    for (const int count : where) EXPECT_NEAR(count, 100, 45);  // five deviations
}

TEST(Ladder, PixelsBeyondTheLastWholeTileStay) {
    const at::Tensor pixels = picture(32, 30);
    const at::Tensor mixed = made(shuffle(7), pixels);  // tiles of 4 x 4: 28 of 32 rows and of 30 columns
    EXPECT_FALSE(at::equal(mixed, pixels));
    EXPECT_TRUE(at::equal(mixed.narrow(2, 0, 2), pixels.narrow(2, 0, 2)));
    EXPECT_TRUE(at::equal(mixed.narrow(2, 30, 2), pixels.narrow(2, 30, 2)));
    EXPECT_TRUE(at::equal(mixed.narrow(3, 0, 1), pixels.narrow(3, 0, 1)));
    EXPECT_TRUE(at::equal(mixed.narrow(3, 29, 1), pixels.narrow(3, 29, 1)));
}

TEST(Ladder, ABlendGoesStraightToItsNoise) {
    const at::Tensor pixels = picture(), end = made(noise("gaussian"), pixels);
    EXPECT_TRUE(at::equal(made(blend(1), pixels), end));
    EXPECT_LT(furthest(made(blend(0.3), pixels), 0.7 * pixels + 0.3 * end), 1e-6);
    // In colours it is the same line.
    EXPECT_LT(furthest(colours_of(made(blend(0.3), pixels), kPreprocess),
                       0.7 * colours_of(pixels, kPreprocess) + 0.3 * colours_of(end, kPreprocess)),
              1e-6);
}

TEST(Ladder, NoisesHaveTheDistributionsTheySay) {
    const at::Tensor pixels = picture(224, 224);  // 150,528 numbers
    const at::Tensor gaussian = made(noise("gaussian"), pixels);
    EXPECT_NEAR(mean(gaussian), 0, 0.02);
    EXPECT_NEAR(deviation(gaussian), 1, 0.02);
    const at::Tensor uniform = colours_of(made(noise("uniform"), pixels), kPreprocess);
    EXPECT_GE(uniform.min().item<float>(), -1e-6);
    EXPECT_LE(uniform.max().item<float>(), 1 + 1e-6);
    EXPECT_NEAR(mean(uniform), 0.5, 0.01);
    EXPECT_NEAR(deviation(uniform), 1 / std::sqrt(12.0), 0.01);
    const at::Tensor clipped = colours_of(made(noise("clipped"), pixels), kPreprocess);
    EXPECT_GE(clipped.min().item<float>(), -1e-6);
    EXPECT_LE(clipped.max().item<float>(), 1 + 1e-6);
    const at::Tensor same = colours_of(gaussian, kPreprocess).clamp(0, 1);
    EXPECT_LT(furthest(clipped, same), 2.5);  // another draw
    EXPECT_NEAR(mean(clipped), mean(same), 0.01);
    for (const double sigma : {1.0, 4.0}) {
        const at::Tensor smooth = made(noise(sigma == 1 ? "low_pass_1" : "low_pass_4"), pixels);
        EXPECT_NEAR(deviation(smooth), 1, 0.1);
        // Neighbours of smoothed noise correlate by exp(-1 / (4 sigma^2)).
        const at::Tensor a = smooth.narrow(3, 0, 223), b = smooth.narrow(3, 1, 223);
        EXPECT_NEAR(mean(a * b) / mean(smooth * smooth), std::exp(-0.25 / (sigma * sigma)), 0.03);
    }
}

TEST(Ladder, DrawnPhasesKeepMagnitudesAndTheMeanColour) {
    for (const std::int64_t side : {56, 55}) {
        const at::Tensor pixels = picture(56, side), mixed = made(noise("phase"), pixels);
        EXPECT_GT(furthest(mixed, pixels), 0.5);
        const auto magnitudes = [](const at::Tensor& x) { return at::fft_fft2(x.to(at::kDouble)).abs(); };
        EXPECT_LT(furthest(magnitudes(mixed), magnitudes(pixels)), 1e-3 * magnitudes(pixels).max().item<double>());
        EXPECT_LT(furthest(mixed.mean({2, 3}), pixels.mean({2, 3})), 1e-5);
    }
}

TEST(Ladder, WhatIsNoLadderIsRefused) {
    const auto refusal = [](const LadderOptions& options) {
        const auto rungs = ladder_of(options);
        return rungs ? std::string("made") : rungs.error().message;
    };
    EXPECT_THAT(refusal({.noises = {"pink"}}), HasSubstr("no noise 'pink'"));
    EXPECT_THAT(refusal({.noises = {"low_pass_"}}), HasSubstr("no noise 'low_pass_'"));
    EXPECT_THAT(refusal({.noises = {"low_pass_-1"}}), HasSubstr("no noise"));
    EXPECT_THAT(refusal({.blends = {1.5}}), HasSubstr("1.5, expected 0 to 1"));
    EXPECT_THAT(refusal({.blend_noise = "x"}), HasSubstr("no noise 'x'"));
    EXPECT_THAT(refusal({.tiles = {0}}), HasSubstr("0 x 0 tiles"));
    for (const char* name : {"", "shuffle", "shuffle 0", "shuffle 2x", "shuffle 2.5", "blend 2", "blend ", "pink"})
        EXPECT_THAT(rung_of(name).error().message,
                    testing::StartsWith(std::string("'") + name + "' is no step of the ladder, expected clean, "));
    const auto many = rung_pixels(shuffle(60), picture(), kPreprocess, 0, "a");
    EXPECT_THAT(many.error().message, HasSubstr("60 x 60 tiles are more than a picture of 56 x 56"));
}

}  // namespace
}  // namespace vitrine
