// The view's and the value scale's arithmetic.
#include <cmath>

#include <gtest/gtest.h>

#include <vitrine/viz/scene.h>

#include "overlay/normalisation.h"

namespace vitrine::viz {
namespace {

TEST(ViewTransformTest, ScreenToPhotoAndBackIsTheSamePoint) {
    ViewTransform view;
    view.centre = {123.25, 77.5};
    for (const double zoom : {1.0 / 64, 0.37, 1.0, 7.5, 64.0}) {
        view.zoom = zoom;
        for (const Point p : {Point{0, 0}, Point{640.5, 400.5}, Point{1279, 3}}) {
            const Point back = view.to_screen(view.to_photo(p, 1280, 800), 1280, 800);
            EXPECT_NEAR(back.x, p.x, 1e-9);
            EXPECT_NEAR(back.y, p.y, 1e-9);
        }
    }
}

TEST(ViewTransformTest, TheCentreLiesInTheMiddleOfTheScreen) {
    ViewTransform view;
    view.centre = {10, 20};
    view.zoom = 3;
    const Point p = view.to_screen({10, 20}, 1281, 801);
    EXPECT_DOUBLE_EQ(p.x, 640.5);
    EXPECT_DOUBLE_EQ(p.y, 400.5);
    EXPECT_DOUBLE_EQ(view.to_screen({11, 20}, 1281, 801).x, 643.5);
}

TEST(ViewTransformTest, ZoomingKeepsThePointUnderTheCursor) {
    ViewTransform view = ViewTransform::fit(500, 375, 1280, 800);
    const Point cursor{311, 642};
    const Point held = view.to_photo(cursor, 1280, 800);
    for (const double factor : {1.25, 1.25, 0.5, 8.0, 1000.0, 1e-9}) {
        view = view.zoomed_at(cursor, factor, 1280, 800);
        const Point now = view.to_photo(cursor, 1280, 800);
        EXPECT_NEAR(now.x, held.x, 1e-9) << factor;
        EXPECT_NEAR(now.y, held.y, 1e-9) << factor;
    }
}

TEST(ViewTransformTest, ZoomStaysWithinItsLimits) {
    const ViewTransform view;
    EXPECT_DOUBLE_EQ(view.zoomed_at({0, 0}, 1e6, 100, 100).zoom, 64);
    EXPECT_DOUBLE_EQ(view.zoomed_at({0, 0}, 1e-6, 100, 100).zoom, 1.0 / 64);
}

TEST(ViewTransformTest, FitShowsTheWholePhotoWithItsMargin) {
    const ViewTransform view = ViewTransform::fit(4000, 3000, 1280, 800, 24);
    EXPECT_NEAR(view.to_screen({0, 0}, 1280, 800).y, 24, 1e-9);
    EXPECT_NEAR(view.to_screen({4000, 3000}, 1280, 800).y, 776, 1e-9);
    EXPECT_GT(view.to_screen({0, 0}, 1280, 800).x, 24);
}

TEST(ViewTransformTest, FitOfATinyPhotoEnlargesAtMostSixteenfoldAndOfNothingIsHarmless) {
    EXPECT_DOUBLE_EQ(ViewTransform::fit(32, 32, 1280, 800).zoom, 16);
    EXPECT_GT(ViewTransform::fit(0, 0, 1280, 800).zoom, 0);
    EXPECT_GT(ViewTransform::fit(500, 300, 0, 0).zoom, 0);
    EXPECT_GT(ViewTransform::fit(500, 300, 10, 10).zoom, 0);
}

ValueScale scale_of(float low, float high, float gamma = 1, bool logarithmic = false, bool symmetric = false) {
    ValueScale s;
    s.low = low;
    s.high = high;
    s.gamma = gamma;
    s.logarithmic = logarithmic;
    s.symmetric = symmetric;
    return s;
}

TEST(ValueScaleTest, EndsAndMiddleOfALinearScale) {
    const auto s = scale_of(-1, 3);
    EXPECT_DOUBLE_EQ(position_of(-1, s), 0);
    EXPECT_DOUBLE_EQ(position_of(1, s), 0.5);
    EXPECT_DOUBLE_EQ(position_of(3, s), 1);
    EXPECT_DOUBLE_EQ(position_of(99, s), 1);
    EXPECT_DOUBLE_EQ(position_of(-99, s), 0);
}

TEST(ValueScaleTest, ALogarithmicScaleHasItsGeometricMeanInTheMiddle) {
    EXPECT_NEAR(position_of(0.01, scale_of(1e-3f, 0.1f, 1, true)), 0.5, 1e-6);
    // A low end of zero is taken as a ten thousandth of the high one.
    EXPECT_NEAR(position_of(1e-2, scale_of(0, 1, 1, true)), 0.5, 1e-6);
    EXPECT_DOUBLE_EQ(position_of(0, scale_of(0, 1, 1, true)), 0);
}

TEST(ValueScaleTest, ASymmetricScaleHasZeroInTheMiddleWhateverItsEnds) {
    for (const bool logarithmic : {false, true}) {
        const auto s = scale_of(-0.5f, 2, 0.7f, logarithmic, true);
        EXPECT_DOUBLE_EQ(position_of(0, s), 0.5);
        EXPECT_DOUBLE_EQ(position_of(2, s), 1);
        EXPECT_DOUBLE_EQ(position_of(-2, s), 0);
        EXPECT_NEAR(position_of(1, s) + position_of(-1, s), 1, 1e-12);
    }
}

TEST(ValueScaleTest, AnEmptyRangeIsTheMiddleAndNanStaysNan) {
    EXPECT_DOUBLE_EQ(position_of(7, scale_of(7, 7)), 0.5);
    EXPECT_DOUBLE_EQ(position_of(0, scale_of(0, 0, 1, false, true)), 0.5);
    EXPECT_TRUE(std::isnan(position_of(std::nan(""), scale_of(0, 1))));
}

class ValueScaleRoundTrip : public testing::TestWithParam<ValueScale> {};

TEST_P(ValueScaleRoundTrip, TheBarsLabelsAreTheInverseOfTheColours) {
    for (const double p : {0.0, 0.1, 0.25, 0.5, 0.8, 1.0})
        EXPECT_NEAR(position_of(value_at(p, GetParam()), GetParam()), p, 1e-6);
}

// What the shader does with the numbers it is given, in its own precision.
TEST_P(ValueScaleRoundTrip, TheShadersNumbersGiveTheSamePositions) {
    const ValueScale s = GetParam();
    const Normalisation n = normalisation(s);
    for (double p = 0.02; p < 1; p += 0.07) {
        const float value = static_cast<float>(value_at(p, s));
        float x = s.symmetric ? std::abs(value) : value;
        if (n.logarithmic) x = std::log2(s.symmetric ? 1 + x * n.log_floor : std::max(x, n.log_floor));
        float t = std::min(std::max(x * n.scale + n.bias, 0.0f), 1.0f);
        if (n.gamma) t = t > 0 ? std::pow(t, s.gamma) : 0;
        const float position = s.symmetric ? 0.5f + (value < 0 ? -0.5f : 0.5f) * t : t;
        EXPECT_NEAR(position, p, 2e-4);
    }
}

INSTANTIATE_TEST_SUITE_P(Scales, ValueScaleRoundTrip,
                         testing::Values(scale_of(0, 1), scale_of(-3, 5, 0.5f), scale_of(1e-4f, 0.3f, 1, true),
                                         scale_of(0, 0.3f, 2, true), scale_of(-1, 2, 1, false, true),
                                         scale_of(-1, 2, 0.6f, true, true)));

TEST(NamesTest, EveryColourMapIsFoundByItsNameAndOthersAreNot) {
    for (int i = 0; i < kColourMaps; ++i) {
        const auto map = static_cast<ColourMap>(i);
        EXPECT_EQ(colour_map_named(name_of(map)), map);
    }
    EXPECT_EQ(colour_map_named("rainbow"), std::nullopt);
    EXPECT_EQ(name_of(Upsampling::Bicubic), "bicubic");
}

}  // namespace
}  // namespace vitrine::viz
