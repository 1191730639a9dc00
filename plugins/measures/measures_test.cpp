// Measures in closed form: on a linear model a perfect map has ideal values, and a broken one is put back to the bit.
#include "measures.h"

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/registry.h>

namespace vitrine::plugin::measures {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kSide = 8, kPatch = 2, kGrid = kSide / kPatch;

/// Answers with two weighted sums of the pixels and nothing else.
class Linear final : public Model {
  public:
    Linear() {
        auto random = at::make_generator<at::CPUGeneratorImpl>(3);
        first_ = at::randn({3, kSide, kSide}, random);
        second_ = at::randn({3, kSide, kSide}, random);
        info_.name = "linear";
        info_.classes = 2;
        preprocess_.input_height = preprocess_.input_width = kSide;
        preprocess_.mean = {0, 0, 0};
        preprocess_.std = {1, 1, 1};
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        return at::stack({(pixels * first_).flatten(1).sum(1), (pixels * second_).flatten(1).sum(1)}, 1);
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        TokenLayout out;
        out.rows = out.cols = kGrid;
        return out;
    }
    std::optional<std::string> no_token_removal() const override { return std::nullopt; }
    at::Tensor forward_kept(const at::Tensor& pixels, const at::Tensor& kept) override {
        at::Tensor mask = at::zeros({pixels.size(0), 1, kSide, kSide});
        for (std::int64_t i = 0; i < kept.size(0); ++i)
            for (std::int64_t k = 0; k < kept.size(1); ++k) {
                const auto patch = kept[i][k].item<std::int64_t>();
                mask[i][0].narrow(0, patch / kGrid * kPatch, kPatch).narrow(1, patch % kGrid * kPatch, kPatch).fill_(1);
            }
        return forward(pixels * mask);
    }
    std::vector<std::pair<std::string, at::Tensor>> parameters() override {
        return {{"stem.weight", first_}, {"head.weight", second_}};
    }
    void to(at::Device, at::ScalarType) override {}

    at::Tensor first_, second_;
};

/// Gives a map of its choice, and fails on the n-th call where it is told to.
class Given final : public Explainer {
  public:
    Description description() const override { return {"given", "Given", "what the test says", "the test", 0}; }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    Result<Attribution> explain(ExplainContext& context, const Settings&) const override {
        if (++calls == fails_at) return fail(ErrorCode::Internal, "told to fail");
        if (calls == throws_at) throw std::runtime_error("told to throw");
        Attribution out;
        out.method = "given";
        out.channels = make ? make(context) : at::Tensor{};
        out.map = out.channels.defined() ? out.channels.sum(0) : map;
        out.is_signed = true;
        out.on_tokens = false;
        return out;
    }
    at::Tensor map;
    std::function<at::Tensor(ExplainContext&)> make;  ///< channels
    mutable int calls = 0;
    int fails_at = -1, throws_at = -1;
};

class Measures : public testing::Test {
  protected:
    void SetUp() override {
        auto random = at::make_generator<at::CPUGeneratorImpl>(5);
        input.pixels = at::rand({1, 3, kSide, kSide}, random) + 0.5;
        input.geometry = {kSide, kSide, kSide, kSide, 1, 1, 0, 0, 1};
        target = {.index = 0, .scale = Scale::Logit};
    }
    Result<Score> score(const std::unique_ptr<Measure>& measure,
                        std::vector<std::pair<const char*, const char*>> set = {}) {
        Settings settings(measure->parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        ExplainContext context(model, input, target, seed);
        context.boxes = boxes;
        context.other = other;
        const Settings none;
        const Attribution attribution = VITRINE_TRY(explainer.explain(context, none));
        return measure->measure(context, {explainer, none, attribution}, settings);
    }
    /// What each pixel adds to the first logit.
    at::Tensor shares() const { return input.pixels[0] * model.first_; }

    Linear model;
    Given explainer;
    Input input;
    Target target;
    std::vector<Box> boxes;
    const Input* other = nullptr;
    std::uint64_t seed = 0;
};

TEST_F(Measures, ThePerfectMapHasTheIdealCurve) {
    const at::Tensor each = shares().sum(0);
    explainer.map = each;
    // Falling sums of what is left, one pixel a step, against zero: the least area any order has.
    const at::Tensor sorted = std::get<0>(at::sort(each.flatten(), 0, true)).to(at::kDouble);
    double area = 0, shown = 0;
    for (std::int64_t i = 0; i < sorted.numel(); ++i) {
        area += shown + 0.5 * sorted[i].item<double>();
        shown += sorted[i].item<double>();
    }
    area /= static_cast<double>(sorted.numel());
    const Score insertion = score(make_insertion(), {{"step", "1"}, {"fill", "zero"}}).value();
    EXPECT_NEAR(insertion.value, area, 1e-4 * std::abs(shown) + 1e-5);
    EXPECT_EQ(insertion.curve.size(), static_cast<std::size_t>(kSide * kSide + 1));
    const Score deletion = score(make_deletion(), {{"step", "1"}, {"fill", "zero"}}).value();
    EXPECT_NEAR(deletion.value, shown - area, 1e-4 * std::abs(shown) + 1e-5);
    // No other order does better.
    for (int i = 0; i < 10; ++i) {
        explainer.map = at::randn({kSide, kSide});
        EXPECT_LT(score(make_insertion(), {{"step", "1"}, {"fill", "zero"}})->value, insertion.value);
        EXPECT_GT(score(make_deletion(), {{"step", "1"}, {"fill", "zero"}})->value, deletion.value);
    }
}

TEST_F(Measures, TokensAreLeftOutInTheMapsOrder) {
    explainer.map = shares().sum(0).reshape({kGrid, kPatch, kGrid, kPatch}).sum({1, 3});
    const at::Tensor sorted = std::get<0>(at::sort(explainer.map.flatten(), 0, true)).to(at::kDouble);
    const at::Tensor sums = sorted.cumsum(0);
    const Score insertion = score(make_insertion(), {{"by", "tokens"}}).value();
    const Score deletion = score(make_deletion(), {{"by", "tokens"}}).value();
    ASSERT_EQ(insertion.curve.size(), static_cast<std::size_t>(kGrid * kGrid));
    ASSERT_EQ(deletion.curve.size(), static_cast<std::size_t>(kGrid * kGrid));
    const double all = sums[-1].item<double>();
    for (std::int64_t i = 0; i < kGrid * kGrid; ++i) {
        EXPECT_NEAR(insertion.curve[static_cast<std::size_t>(i)], sums[i].item<double>(), 1e-3);
        EXPECT_NEAR(deletion.curve[static_cast<std::size_t>(i)], i == 0 ? all : all - sums[i - 1].item<double>(), 1e-3);
    }
    EXPECT_DOUBLE_EQ(insertion.steps.front(), 1.0 / (kGrid * kGrid));
    EXPECT_DOUBLE_EQ(deletion.steps.back(), 1 - 1.0 / (kGrid * kGrid));
}

TEST_F(Measures, TiesAreDrawnBySeedAndFlatMapsAreNoOrder) {
    const at::Tensor flat = at::ones({kSide, kSide});
    EXPECT_EQ(ranked(flat, 1), ranked(flat, 1));
    EXPECT_NE(ranked(flat, 1), ranked(flat, 2));
    const at::Tensor steps = at::arange(kSide * kSide).div(2, "floor").to(at::kFloat);
    const auto order = ranked(steps, 7);
    for (std::size_t i = 1; i < order.size(); ++i)
        EXPECT_GE(steps[order[i - 1]].item<float>(), steps[order[i]].item<float>());
}

TEST_F(Measures, AopcIsTheMeanLossOverTheRegions) {
    explainer.map = shares().sum(0);
    const at::Tensor regions = explainer.map.reshape({kGrid, kPatch, kGrid, kPatch}).sum({1, 3}).flatten();
    const at::Tensor lost = std::get<0>(at::sort(regions, 0, true)).to(at::kDouble).cumsum(0);
    const Score found = score(make_aopc(), {{"region", "2"}, {"regions", "5"}, {"fill", "zero"}}).value();
    ASSERT_EQ(found.curve.size(), 6u);
    EXPECT_NEAR(found.value, lost.narrow(0, 0, 5).sum().item<double>() / 6, 1e-3);
}

TEST_F(Measures, AMapThatHidesNothingLosesAndWinsNothing) {
    target.scale = Scale::Probability;
    explainer.map = at::full({kSide, kSide}, 2.0);
    explainer.map[0][0] = 1;                          // brought to [0, 1] it hides one pixel
    input.pixels.select(2, 0).select(2, 0).fill_(0);  // which is black anyway
    EXPECT_NEAR(score(make_average_drop())->value, 0, 1e-3);
    EXPECT_NEAR(score(make_average_gain())->value, 0, 1e-3);
    // A map that hides what speaks against the class wins.
    explainer.map = (shares().sum(0) > 0).to(at::kFloat);
    const at::Tensor seen = input.pixels * explainer.map;
    const at::NoGradGuard no_grad;
    const double before = model.forward(input.pixels).softmax(1)[0][0].item<double>();
    const double after = model.forward(seen).softmax(1)[0][0].item<double>();
    EXPECT_EQ(score(make_increase_in_confidence())->value, after > before ? 100 : 0);
    EXPECT_NEAR(score(make_average_gain())->value, 100 * std::max(0.0, after - before) / (1 - before), 1e-2);
    EXPECT_NEAR(score(make_average_drop())->value, 100 * std::max(0.0, before - after) / before, 1e-2);
}

TEST_F(Measures, OnlyTheBudgetIsKept) {
    target.scale = Scale::Probability;
    explainer.map = at::arange(kSide * kSide).reshape({kSide, kSide}).to(at::kFloat);
    const at::Tensor mask = explainer.map / (kSide * kSide - 1);
    const at::NoGradGuard no_grad;
    const double before = model.forward(input.pixels).softmax(1)[0][0].item<double>();
    // Half of 64: the 50 % quantile lies between two values.
    const at::Tensor kept = input.pixels * mask * (mask >= 0.5);
    const double after = model.forward(kept).softmax(1)[0][0].item<double>();
    EXPECT_NEAR(score(make_average_drop(), {{"keep", "50"}})->value, 100 * std::max(0.0, before - after) / before,
                1e-2);
}

TEST_F(Measures, WhatTheyShowTheModelIsThePictureTheyScore) {
    target.scale = Scale::Probability;
    explainer.map = at::arange(kSide * kSide).reshape({kSide, kSide}).to(at::kFloat);
    ExplainContext context(model, input, target);
    Attribution attribution;
    attribution.method = "given";
    attribution.map = explainer.map;
    const auto looked = look_through(context, attribution, {100, 50, 15});
    ASSERT_TRUE(looked.has_value()) << looked.error().message;
    ASSERT_EQ(looked->size(), 3u);
    const at::NoGradGuard no_grad;
    for (const auto& one : *looked) {
        EXPECT_NEAR(one.seen, model.forward(one.pixels).softmax(1)[0][0].item<double>(), 1e-6);
        EXPECT_NEAR(one.whole, model.forward(input.pixels).softmax(1)[0][0].item<double>(), 1e-6);
        const auto keep = std::to_string(one.keep);
        EXPECT_NEAR(score(make_average_drop(), {{"keep", keep.c_str()}})->value,
                    100 * std::max(0.0, one.whole - one.seen) / one.whole, 1e-4);
        // The map is a ramp from 0 without ties: its lowest place is hidden in any case.
        EXPECT_NEAR(one.visible, std::min(63.0, std::ceil(63 * one.keep / 100)) / 64, 1.0 / 64);
    }
    // What is shown to a person has the colours that the model got.
    const Image shown = image_of(at::full({1, 3, 2, 3}, 0.25), model.preprocess());
    EXPECT_EQ(shown.width, 3);
    EXPECT_EQ(shown.height, 2);
    EXPECT_THAT(shown.pixels, testing::Each(64));
    attribution.map = at::full({2, 2}, std::nan(""));
    EXPECT_FALSE(look_through(context, attribution, {50}).has_value());
}

TEST_F(Measures, AnExplanationThatIsTheModelHasNoErrors) {
    explainer.make = [&](ExplainContext&) { return model.first_.clone(); };
    for (const char* change : {"square", "noisy_baseline", "blocks"}) {
        EXPECT_NEAR(score(make_infidelity(), {{"change", change}, {"scale", "false"}})->value, 0, 1e-7) << change;
        EXPECT_NEAR(score(make_infidelity(), {{"change", change}})->value, 0, 1e-7) << change;
    }
    EXPECT_EQ(score(make_max_sensitivity())->value, 0);
    // In another unit it is still perfect when the unit is free, and not when it is not.
    explainer.make = [&](ExplainContext&) { return model.first_ * 3; };
    EXPECT_NEAR(score(make_infidelity())->value, 0, 1e-7);
    EXPECT_GT(score(make_infidelity(), {{"scale", "false"}})->value, 1e-2);
    explainer.make = [&](ExplainContext&) { return shares(); };
    EXPECT_NEAR(score(make_completeness())->value, 0, 1e-4);
    explainer.make = [&](ExplainContext&) { return shares() * 2; };
    EXPECT_NEAR(score(make_completeness())->value, 1, 1e-4);
}

TEST_F(Measures, MaxSensitivityIsTheNoisesOwnLength) {
    explainer.make = [](ExplainContext& context) { return context.input.pixels[0].clone(); };
    ExplainContext context(model, input, target);
    const Settings none;
    const Attribution attribution = explainer.explain(context, none).value();
    const auto noise = [&](std::int64_t i) { return at::full_like(input.pixels, 0.1 * static_cast<double>(i)); };
    // The map is the sum over three channels.
    EXPECT_NEAR(max_sensitivity(context, {explainer, none, attribution}, 3, false, noise).value(), 0.6 * kSide, 1e-4);
    EXPECT_NEAR(max_sensitivity(context, {explainer, none, attribution}, 3, true, noise).value(),
                0.6 * kSide / attribution.map.norm().item<double>(), 1e-5);
}

TEST_F(Measures, OneCellIsSparseAndSimpleAllAreNeither) {
    const double cells = kSide * kSide;
    explainer.map = at::zeros({kSide, kSide});
    EXPECT_TRUE(score(make_sparseness())->left_out.has_value());
    EXPECT_TRUE(score(make_complexity())->left_out.has_value());
    explainer.map[2][3] = -4;
    EXPECT_NEAR(score(make_sparseness())->value, (cells - 1) / cells, 1e-9);
    EXPECT_NEAR(score(make_complexity())->value, 0, 1e-9);
    explainer.map = at::full({kSide, kSide}, 0.3);
    EXPECT_NEAR(score(make_sparseness())->value, 0, 1e-9);
    EXPECT_NEAR(score(make_complexity())->value, std::log(cells), 1e-9);
}

TEST_F(Measures, BoxesHitAndMiss) {
    explainer.map = at::zeros({kGrid, kGrid});
    explainer.map[1][2] = 1;  // its centre is at x = 5, y = 3
    EXPECT_THAT(*score(make_pointing_game())->left_out, HasSubstr("no box"));
    boxes = {{5, 3, 6, 4}};
    EXPECT_EQ(score(make_pointing_game())->value, 1);
    boxes = {{0, 0, 2, 2}, {6, 3, 8, 4}};
    EXPECT_EQ(score(make_pointing_game())->value, 0);
    EXPECT_EQ(score(make_pointing_game(), {{"tolerance", "0.9"}})->value, 0);
    EXPECT_EQ(score(make_pointing_game(), {{"tolerance", "1.1"}})->value, 1);
    boxes = {{100, 100, 120, 120}};
    EXPECT_THAT(*score(make_pointing_game())->left_out, HasSubstr("sees"));
    boxes = {{0, 0, 8, 5}};
    EXPECT_THAT(*score(make_pointing_game(), {{"boxes", "small"}})->left_out, HasSubstr("62 %"));
    boxes = {{0, 0, 8, 3.4}};  // three rows of centres, four rows that are touched
    EXPECT_THAT(*score(make_pointing_game(), {{"boxes", "small"}})->left_out, HasSubstr("50 %"));
    boxes = {{0, 0, 8, 3}};
    EXPECT_EQ(score(make_pointing_game(), {{"boxes", "small"}})->left_out, std::nullopt);

    // All of the mass in the box, a quarter of it, all of the k highest.
    explainer.map = at::zeros({kSide, kSide});
    explainer.map.narrow(0, 0, 2).narrow(1, 0, 2).fill_(3);
    boxes = {{0, 0, 2, 2}};
    EXPECT_NEAR(score(make_energy_pointing_game())->value, 1, 1e-6);
    EXPECT_NEAR(score(make_localisation_mass())->value, 1, 1e-6);
    EXPECT_NEAR(score(make_localisation_mass(), {{"weighted", "true"}})->value, 16, 1e-4);
    EXPECT_EQ(score(make_topk_localisation(), {{"k", "0"}})->value, 1);
    EXPECT_EQ(score(make_topk_localisation(), {{"k", "4"}})->value, 1);
    EXPECT_EQ(score(make_topk_localisation(), {{"k", "64"}})->value, 4.0 / 64);
    boxes = {{0, 0, 1, 1}};
    EXPECT_NEAR(score(make_localisation_mass())->value, 0.25, 1e-6);
}

TEST_F(Measures, AMaskIsTheBoxesThatMakeItUp) {
    // An L of 5 pixels: a column of three and two pixels to the right of its foot. Values 1 to 64 by rows.
    boxes = {{2, 1, 3, 3}, {2, 3, 5, 4}};
    explainer.map = at::arange(1, kSide * kSide + 1, at::kFloat).reshape({kSide, kSide});
    const double inside = 11 + 19 + 27 + 28 + 29, all = 64 * 65 / 2;
    EXPECT_NEAR(score(make_localisation_mass())->value, inside / all, 1e-6);
    EXPECT_NEAR(score(make_localisation_mass(), {{"weighted", "true"}})->value, inside / all * 64 / 5, 1e-5);
    // From 0 to 1 the values are (v - 1) / 63.
    EXPECT_NEAR(score(make_energy_pointing_game())->value, (inside - 5) / (all - 64), 1e-6);
    EXPECT_EQ(score(make_topk_localisation(), {{"k", "0"}})->value, 0);
    EXPECT_EQ(score(make_topk_localisation(), {{"k", "37"}})->value, 2.0 / 37);  // 64 down to 28: 28 and 29 are in
    explainer.map = at::zeros({kSide, kSide});
    explainer.map[1][3] = 1;  // its centre 3.5, 1.5 is in the L's bay, half a pixel from the column
    EXPECT_EQ(score(make_pointing_game())->value, 0);
    EXPECT_EQ(score(make_pointing_game(), {{"tolerance", "0.4"}})->value, 0);
    EXPECT_EQ(score(make_pointing_game(), {{"tolerance", "0.5"}})->value, 1);
    explainer.map[3][4] = 2;
    EXPECT_EQ(score(make_pointing_game())->value, 1);
}

TEST_F(Measures, TheInputSeesTheMaskByNearest) {
    // A mask over 20 x 16 pixels at 0.5 and with four input pixels cut off: input pixel (i, j) has its centre at
    // (2 (j + 4.5), 2 (i + 0.5)) of the photograph, so it takes mask pixel (2 i + 1, 2 j + 9).
    input.geometry = {24, 16, kSide, kSide, 0.5, 0.5, -4, 0, 1};
    boxes = {{9, 1, 10, 2}, {12, 1, 13, 2}, {15, 3, 16, 4}};  // the second lies between the centres
    const at::Tensor mask = box_mask([&] {
        ExplainContext context(model, input, target, seed);
        context.boxes = boxes;
        return context;
    }());
    at::Tensor expected = at::zeros({kSide, kSide}, at::kBool);
    expected[0][0] = true;
    expected[1][3] = true;
    EXPECT_TRUE(mask.equal(expected)) << mask;
}

TEST_F(Measures, ABoxOfThePhotographIsMovedToTheInput) {
    // The input is the photograph at half its size, four pixels to the left cut off.
    input.geometry = {24, 16, kSide, kSide, 0.5, 0.5, -4, 0, 1};
    explainer.map = at::zeros({kSide, kSide});
    explainer.map[6][1] = 1;
    boxes = {{10, 12, 12, 14}};  // 1 to 2, 6 to 7
    EXPECT_EQ(score(make_pointing_game())->value, 1);
    EXPECT_EQ(score(make_localisation_mass())->value, 1);
}

TEST_F(Measures, LikenessIsOneOfAMapWithItself) {
    const at::Tensor a = at::randn({kSide, kSide});
    EXPECT_NEAR(*spearman(a, a), 1, 1e-12);
    EXPECT_NEAR(*spearman(a, -a), -1, 1e-12);
    EXPECT_NEAR(*spearman(a, a.exp()), 1, 1e-12);
    EXPECT_NEAR(*ssim(a, a), 1, 1e-9);
    EXPECT_FALSE(spearman(a, at::ones({kSide, kSide})));
    EXPECT_FALSE(ssim(at::ones({kSide, kSide}), at::ones({kSide, kSide})));
    EXPECT_EQ(top_overlap(a, a, 5, 0), 1);
    EXPECT_EQ(top_overlap(a, -a, 32, 0), 0);
}

TEST_F(Measures, OtherClassesHaveOtherMaps) {
    explainer.make = [&](ExplainContext& context) {
        return *context.target.index == 0 ? model.first_.clone() : model.second_.clone();
    };
    const Score found = score(make_random_logit()).value();
    EXPECT_NEAR(found.value, *spearman(model.first_.sum(0), model.second_.sum(0)), 1e-9);
    explainer.make = [&](ExplainContext&) { return model.first_.clone(); };
    EXPECT_NEAR(score(make_random_logit())->value, 1, 1e-9);
}

TEST_F(Measures, ABrokenModelIsPutBackToTheBit) {
    const at::Tensor first = model.first_.clone(), second = model.second_.clone();
    const void* const storage = model.first_.const_data_ptr();
    explainer.make = [&](ExplainContext&) { return model.first_.clone(); };
    const auto measure = make_parameter_randomisation();
    const Score found = score(measure, {{"seeds", "4"}}).value();
    // Broken from the head on: the map of the first layer's weights stays until that layer is broken.
    // Before it stands the sound model's own map from another seed.
    ASSERT_EQ(found.curve.size(), 3u);
    EXPECT_EQ(found.steps, (std::vector<double>{0, 0.5, 1}));
    EXPECT_NEAR(found.curve[0], 1, 1e-9);
    EXPECT_NEAR(found.curve[1], 1, 1e-9);
    EXPECT_LT(std::abs(found.curve[2]), 0.5);
    EXPECT_NEAR(found.value, (found.curve[1] + found.curve[2]) / 2, 1e-12);
    const auto sound = [&] {
        return model.first_.equal(first) && model.second_.equal(second) && model.first_.const_data_ptr() == storage;
    };
    EXPECT_TRUE(sound());
    explainer.calls = 0;
    explainer.fails_at = 4;
    const auto failed = score(measure);
    EXPECT_EQ(failed.error().message, "told to fail");
    EXPECT_TRUE(sound());
    explainer.calls = 0;
    explainer.fails_at = -1;
    explainer.throws_at = 4;
    EXPECT_THROW((void)score(measure), std::runtime_error);
    EXPECT_TRUE(sound());
}

TEST_F(Measures, AMethodThatComparesTwoPicturesIsMadeAgainWithBoth) {
    Input second = input;
    other = &second;
    int with = 0, calls = 0;
    explainer.make = [&](ExplainContext& context) {
        with += context.other == &second, ++calls;
        return model.first_.clone();
    };
    ASSERT_TRUE(score(make_parameter_randomisation(), {{"seeds", "1"}}));
    ASSERT_TRUE(score(make_max_sensitivity()));
    EXPECT_GT(calls, 4);
    EXPECT_EQ(with, calls);
}

TEST_F(Measures, TheCourseOfARandomisationBeginsWithTheMethodsOwnChance) {
    const at::Tensor first = at::randn({kSide, kSide}), second = first + at::randn({kSide, kSide});
    explainer.make = [&](ExplainContext& context) { return (context.seed == seed ? first : second).unsqueeze(0); };
    for (const bool by_rank : {true, false}) {
        const Score found = score(make_parameter_randomisation(),
                                  {{"seeds", "1"}, {"likeness", by_rank ? "spearman" : "ssim"}, {"absolute", "true"}})
                                .value();
        const at::Tensor a = first.abs(), b = second.abs();
        EXPECT_NEAR(found.curve.front(), by_rank ? *spearman(a, b) : *ssim(a / a.max(), b / b.max()), 1e-9);
        EXPECT_LT(found.curve.front(), 0.95);
        EXPECT_NEAR(found.curve.back(), 1, 1e-9);
    }
}

TEST_F(Measures, AMapOfThePictureAloneDoesNotMindABrokenModel) {
    explainer.map = at::randn({kSide, kSide});
    EXPECT_NEAR(score(make_parameter_randomisation(), {{"seeds", "2"}})->value, 1, 1e-9);
    EXPECT_NEAR(score(make_parameter_randomisation(), {{"seeds", "2"}, {"likeness", "ssim"}})->value, 1, 1e-9);
}

TEST(Layers, OfAVisionTransformerGoFromTheHeadToThePatches) {
    auto model = registry().architecture("vit").value()->tiny(3).value();
    Input input;
    input.pixels = at::randn({1, 3, model->preprocess().input_height, model->preprocess().input_width});
    ExplainContext context(*model, input, {});
    const auto layers = layers_from_the_head(context).value();
    const auto parameters = model->parameters();
    const auto name = [&](std::size_t layer) { return parameters[layers[layer].front()].first; };
    EXPECT_EQ(name(0).substr(0, 4), "head");
    std::vector<int> blocks;
    std::size_t patches = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        if (name(i).starts_with("blocks.")) blocks.push_back(std::stoi(name(i).substr(7)));
        if (name(i).starts_with("patch_embed")) patches = i;
    }
    EXPECT_GT(blocks.size(), 1u);
    EXPECT_TRUE(std::is_sorted(blocks.rbegin(), blocks.rend())) << testing::PrintToString(blocks);
    EXPECT_GT(patches, blocks.size());
}

TEST(Agreement, OfAMethodWithItselfIsOne) {
    auto model = registry().architecture("vit").value()->tiny(3).value();
    Input input;
    input.pixels = at::randn({1, 3, model->preprocess().input_height, model->preprocess().input_width});
    ExplainContext context(*model, input, {});
    const Explainer& rollout = *registry().explainer("rollout").value();
    const Settings settings(rollout.parameters());
    const Attribution attribution = rollout.explain(context, settings).value();
    const auto measure = make_agreement();
    Settings with(measure->parameters());
    ASSERT_TRUE(with.set("with", "rollout"));
    for (const char* how : {"spearman", "top"}) {
        ASSERT_TRUE(with.set("likeness", how));
        EXPECT_NEAR(measure->measure(context, {rollout, settings, attribution}, with)->value, 1, 1e-9);
    }
    ASSERT_TRUE(with.set("with", "rollot"));
    EXPECT_THAT(measure->measure(context, {rollout, settings, attribution}, with).error().message,
                HasSubstr("did you mean rollout"));
}

#if VITRINE_EIGEN

TEST(Impute, KeepsWhatIsKnownAndFillsInStraightLines) {
    // A weighted mean of opposite neighbours leaves a linear ramp as it is, wherever the hole does not touch the
    // border.
    const std::int64_t side = 12;
    const at::Tensor ramp = (at::arange(side).unsqueeze(1) * 0.5 + at::arange(side) * 0.25).to(at::kFloat);
    const at::Tensor picture = at::stack({ramp, -ramp, at::full({side, side}, 0.7)}).unsqueeze(0);
    at::Tensor known = at::ones({side, side}, at::kBool);
    known.narrow(0, 2, 7).narrow(1, 3, 6).fill_(false);
    at::Tensor holed = picture.clone();
    holed.masked_fill_(known.logical_not(), 99);
    const at::Tensor filled = impute(holed, known, 0, 0).value();
    EXPECT_LT((filled - picture).abs().max().item<double>(), 1e-5);
    const at::Tensor noisy = impute(holed, known, 0.1, 1).value();
    EXPECT_TRUE(noisy.masked_select(known).equal(picture.masked_select(known)));
    EXPECT_NEAR((noisy - picture).masked_select(known.logical_not()).std().item<double>(), 0.1, 0.03);
    EXPECT_TRUE(noisy.equal(impute(holed, known, 0.1, 1).value()));
    EXPECT_FALSE(impute(picture, at::zeros({side, side}, at::kBool), 0, 0));
    EXPECT_TRUE(impute(picture, at::ones({side, side}, at::kBool), 0, 0)->equal(picture));
}

TEST_F(Measures, RoadPrefersTheRightOrder) {
    explainer.map = shares().sum(0);
    const auto road = make_road();
    const Score right = score(road).value();
    explainer.map = -explainer.map;
    const Score wrong = score(road).value();
    EXPECT_NEAR(right.value, -wrong.value, 0.02 * std::abs(right.value));
    EXPECT_GT(right.value, 0);
    EXPECT_THAT(score(road, {{"shares", "10,nine"}}).error().message, HasSubstr("10,nine"));
    EXPECT_THAT(score(road, {{"shares", "100"}}).error().message, HasSubstr("below 100"));
}

#endif

}  // namespace
}  // namespace vitrine::plugin::measures
