// Tests of the options that every explainer takes: what changes nothing, what each changes, and what is refused.
#include <vitrine/smoothing.h>

#include <cmath>
#include <limits>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/registry.h>

namespace vitrine {
namespace {

using testing::HasSubstr;
using Own = std::vector<std::pair<std::string, std::string>>;

/// Reads the picture alone: the first colour, on the grid of pixels. Mirrors with the picture.
class Pixels final : public Explainer {
  public:
    Description description() const override { return {"pixels", "Pixels", "the first colour", "", 0}; }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return false; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{2, 1}; }
    Result<Attribution> explain(ExplainContext& context, const Settings&) const override {
        Attribution out;
        out.method = "pixels";
        out.map = context.input.pixels[0][0].clone();
        if (broken) out.map[1][1].fill_(std::numeric_limits<float>::quiet_NaN());
        out.is_signed = sign;
        ++calls;
        return out;
    }
    bool broken = false, sign = false;
    mutable int calls = 0;
};

class Smoothing : public testing::Test {
  protected:
    void SetUp() override {
        model_ = registry().architecture("cnn").value()->tiny(3).value();
        const Preprocess& p = model_->preprocess();
        auto random = at::make_generator<at::CPUGeneratorImpl>(1);
        input_.pixels = at::randn({1, 3, p.input_height, p.input_width}, random);
    }
    Settings options(const std::vector<std::pair<std::string, std::string>>& set) {
        Settings out(smoothing_parameters());
        for (const auto& [name, value] : set) EXPECT_TRUE(out.set(name, value)) << name;
        return out;
    }
    Result<Attribution> explain(const Explainer& explainer, const std::vector<std::pair<std::string, std::string>>& set,
                                const Own& own = {}) {
        ExplainContext context(*model_, input_, target_);
        Settings settings(explainer.parameters());
        for (const auto& [name, value] : own) EXPECT_TRUE(settings.set(name, value));
        return smoothed(explainer, options(set))->explain(context, settings);
    }
    static const Explainer& method(const char* name) { return *registry().explainer(name).value(); }
    static bool near(const at::Tensor& a, const at::Tensor& b) {
        return a.sizes() == b.sizes() && (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>() < 1e-6;
    }
    std::unique_ptr<Model> model_;
    Input input_;
    Target target_;
};

TEST_F(Smoothing, WithoutOptionsTheMapIsTheVeryOne) {
    for (const char* name : {"grad_cam", "saliency", "rise"}) {
        const Own few = name == std::string("rise") ? Own{{"masks", "16"}} : Own{};
        ExplainContext context(*model_, input_, {});
        Settings settings(method(name).parameters());
        for (const auto& [key, value] : few) ASSERT_TRUE(settings.set(key, value));
        const auto plain = method(name).explain(context, settings);
        const auto same = explain(method(name), {}, few);
        ASSERT_TRUE(plain && same) << name;
        EXPECT_GT(plain->map.abs().max().item<float>(), 0) << name;
        EXPECT_TRUE(same->map.equal(plain->map)) << name;
        EXPECT_EQ(same->notes, plain->notes);
        EXPECT_EQ(same->channels.defined(), plain->channels.defined());
        EXPECT_EQ(same->checks.size(), plain->checks.size() + 1) << "all numbers are finite";
    }
}

TEST_F(Smoothing, AMapThatMirrorsWithThePictureStaysAsItIs) {
    const Pixels pixels;
    for (const char* flips : {"horizontal", "vertical", "both"}) {
        const auto map = explain(pixels, {{"flips", flips}});
        ASSERT_TRUE(map);
        EXPECT_TRUE(near(map->map, input_.pixels[0][0])) << flips;
    }
    EXPECT_EQ(pixels.calls, 2 + 2 + 4);
    // The mean over factors is the picture times their mean; the passes are those of all copies.
    EXPECT_TRUE(near(explain(pixels, {{"factors", "1, 2,3"}})->map, 2 * input_.pixels[0][0]));
    const auto wrapped = smoothed(pixels, options({{"flips", "both"}, {"factors", "1,2,3"}}));
    EXPECT_EQ(wrapped->passes(*model_, {})->forwards, 24);
    EXPECT_EQ(wrapped->passes(*model_, {})->backwards, 12);
}

TEST_F(Smoothing, ASymmetricPictureHasASymmetricMap) {
    const at::Tensor half = input_.pixels.narrow(3, 0, input_.pixels.size(3) / 2);
    input_.pixels = at::cat({half, half.flip({3})}, 3);
    target_.index = 1;
    const auto plain = explain(method("grad_cam"), {}, {{"relu", "false"}});
    const auto smooth = explain(method("grad_cam"), {{"flips", "horizontal"}}, {{"relu", "false"}});
    ASSERT_TRUE(plain && smooth) << smooth.error().message;
    // Both copies are one picture: what is left is the mean of the map and its mirror image.
    EXPECT_TRUE(near(smooth->map, (plain->map + plain->map.flip({1})) / 2));
    EXPECT_TRUE(near(smooth->map, smooth->map.flip({1})));
}

TEST_F(Smoothing, MapsAreFusedByTheStatedRule) {
    const Pixels pixels;
    const at::Tensor x = input_.pixels[0][0].to(at::kDouble);
    const auto unit = [](const at::Tensor& map) { return (map - map.min()) / (map.max() - map.min() + 1e-7); };
    EXPECT_TRUE(near(explain(pixels, {{"factors", "1,-2"}, {"fuse", "max"}})->map, at::maximum(x, -2 * x)));
    EXPECT_TRUE(near(explain(pixels, {{"factors", "1,2"}, {"fuse", "product"}})->map, 2 * x * x));
    EXPECT_TRUE(near(explain(pixels, {{"factors", "1,-2"}, {"range", "unit"}})->map, (unit(x) + unit(-2 * x)) / 2));
    EXPECT_THAT(explain(pixels, {{"factors", "1,2"}, {"fuse", "max"}})->notes.front(),
                HasSubstr("maximum of 2 raw maps: factors 1, 2"));
    // A scale: the copy has another size, its map comes back to that of the picture as it is.
    const auto rows = x.size(0), cols = x.size(1);
    const auto resize = [](const at::Tensor& map, std::int64_t r, std::int64_t c) {
        return at::upsample_bilinear2d(map.unsqueeze(0).unsqueeze(0), {r, c}, false)[0][0];
    };
    EXPECT_TRUE(
        near(explain(pixels, {{"scales", "1,2"}})->map, (x + resize(resize(x, 2 * rows, 2 * cols), rows, cols)) / 2));
    // The preset is pytorch-grad-cam's: six copies, and what is set beside it holds.
    const Pixels counted;
    ASSERT_TRUE(explain(counted, {{"preset", "grad_cam"}}));
    EXPECT_EQ(counted.calls, 6);
    ASSERT_TRUE(explain(counted, {{"preset", "grad_cam"}, {"factors", "1.5"}}));
    EXPECT_EQ(counted.calls, 8);
}

TEST_F(Smoothing, LayersBecomeOneOnTheFinestGrid) {
    target_.index = 1;
    const auto& cam = method("grad_cam");
    const auto first = explain(cam, {}, {{"layer", "layer1"}}), last = explain(cam, {}, {{"layer", "features"}});
    ASSERT_TRUE(first && last) << first.error().message;
    ASSERT_GT(first->map.size(0), last->map.size(0));
    const auto both = explain(cam, {{"layers", "layer1, features"}});
    ASSERT_TRUE(both) << both.error().message;
    const at::Tensor large =
        at::upsample_bilinear2d(last->map.unsqueeze(0).unsqueeze(0), first->map.sizes(), false)[0][0];
    EXPECT_TRUE(near(both->map, (first->map + large) / 2));
    EXPECT_THAT(both->explained, HasSubstr("layer1, features"));
    EXPECT_THAT(explain(cam, {{"layers", "no.such"}}).error().message, HasSubstr("no.such"));
    EXPECT_THAT(explain(method("saliency"), {{"layers", "layer1"}}).error().message, HasSubstr("no layer"));
}

TEST_F(Smoothing, AChangedCopyIsExplainedForTheClassOfThePictureAsItIs) {
    // The class that is predicted at first is found once; given by hand it makes the same map.
    const auto open = explain(method("grad_cam"), {{"factors", "1,-1"}});
    ExplainContext context(*model_, input_, {});
    target_.index = context.objective()->index;
    const auto named = explain(method("grad_cam"), {{"factors", "1,-1"}});
    ASSERT_TRUE(open && named);
    EXPECT_TRUE(open->map.equal(named->map));
}

TEST_F(Smoothing, WhatHasNoMeaningIsRefusedInWords) {
    Pixels pixels;
    const auto refusal = [&](const std::vector<std::pair<std::string, std::string>>& set) {
        return explain(pixels, set).error().message;
    };
    EXPECT_THAT(refusal({{"scales", "1,big"}}), HasSubstr("scales is 'big'"));
    EXPECT_THAT(refusal({{"factors", ""}}), HasSubstr("names no number"));
    EXPECT_THAT(refusal({{"scales", "nan"}}), HasSubstr("expected numbers"));
    EXPECT_THAT(refusal({{"scales", "1e9"}}), HasSubstr("0.25 to 4"));
    EXPECT_FALSE(check_smoothing(options({{"scales", "x"}})));
    EXPECT_TRUE(check_smoothing(options({})));
    target_.region = {0};
    EXPECT_THAT(refusal({{"flips", "both"}}), HasSubstr("another place"));
    target_.region.clear();
    pixels.sign = true;
    EXPECT_THAT(refusal({{"factors", "1,2"}, {"fuse", "product"}}), HasSubstr("lose it"));
    pixels.broken = true;
    EXPECT_THAT(refusal({}), HasSubstr("1 numbers that are not finite"));
    EXPECT_THAT(refusal({{"flips", "both"}}), HasSubstr("not finite"));
}

TEST_F(Smoothing, ItRefinesAndCanBeStopped) {
    const Pixels pixels;
    ExplainContext context(*model_, input_, {});
    std::vector<std::string> seen;
    std::stop_source stop;
    context.stop = stop.get_token();
    context.refined = [&](const Attribution& so_far) {
        EXPECT_TRUE(so_far.partial);
        seen.push_back(so_far.notes.front().substr(0, 9));
        if (seen.size() == 3) stop.request_stop();
    };
    const auto wrapped = smoothed(pixels, options({{"factors", "1,2,3,4,5"}}));
    EXPECT_EQ(wrapped->explain(context, {}).error().code, ErrorCode::Cancelled);
    EXPECT_THAT(seen, testing::ElementsAre("mean of 1", "mean of 2", "mean of 3"));
}

}  // namespace
}  // namespace vitrine
