// Numbers and contrast of the HUD.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hud/style.h"

namespace vitrine::viz {
namespace {

TEST(HudStyleTest, ValuesHaveAtMostThreeDigits) {
    EXPECT_EQ(format_value(0), "0");
    EXPECT_EQ(format_value(0.041312), "0.0413");
    EXPECT_EQ(format_value(0.5), "0.5");
    EXPECT_EQ(format_value(1), "1");
    EXPECT_EQ(format_value(0.99961), "1");
    EXPECT_EQ(format_value(12.345), "12.3");
    EXPECT_EQ(format_value(1234.5), "1234");
    EXPECT_EQ(format_value(0.001), "0.001");
    EXPECT_EQ(format_value(-1.25), "\u22121.25");
    EXPECT_EQ(format_value(3.14e-5), "3.1e\u22125");
    EXPECT_EQ(format_value(2.5e7), "2.5e7");
    EXPECT_EQ(format_value(std::nan("")), "none");
}

TEST(HudStyleTest, TheBarsLabelsShareTheirDecimals) {
    using testing::ElementsAre;
    EXPECT_THAT(bar_labels({.low = 0.0002f, .high = 0.0831f}), ElementsAre("0.0002", "0.0416", "0.0831"));
    EXPECT_THAT(bar_labels({.low = 0, .high = 1}), ElementsAre("0", "0.50", "1.00"));
    EXPECT_THAT(bar_labels({.low = -1, .high = 2.5f, .symmetric = true}), ElementsAre("\u22122.50", "0", "2.50"));
    EXPECT_THAT(bar_labels({.low = 0, .high = 1, .logarithmic = true}), ElementsAre("1.0e\u22124", "0.01", "1"));
    EXPECT_THAT(bar_labels({.low = 0, .high = 2e-6f}), ElementsAre("0", "1.0e\u22126", "2.0e\u22126"));
}

TEST(HudStyleTest, ContrastOfBlackOnWhiteIsTwentyOne) {
    EXPECT_NEAR(contrast({0, 0, 0}, {255, 255, 255}), 21, 1e-9);
    EXPECT_NEAR(contrast({90, 90, 90}, {90, 90, 90}), 1, 1e-9);
}

TEST(HudStyleTest, TextCanBeReadOnPanelsOverAnyPhotograph) {
    for (const Palette& palette : {Palette::dark(), Palette::light()}) {
        for (const Rgb below : {Rgb{0, 0, 0}, Rgb{255, 255, 255}, Rgb{128, 128, 128}}) {
            // 4.5 is what WCAG 2.1 asks of text (success criterion 1.4.3).
            EXPECT_GE(contrast(palette.text, panel_over(palette, below)), 4.5);
            EXPECT_GE(contrast(palette.secondary, panel_over(palette, below)), 4.5);
        }
    }
}

}  // namespace
}  // namespace vitrine::viz
