// The colour maps against matplotlib's.
#include <cmath>
#include <tuple>

#include <gtest/gtest.h>

#include <vitrine/viz/scene.h>

namespace vitrine::viz {
namespace {

struct Known {
    ColourMap map;
    int first[3], middle[3], last[3];
};

// matplotlib.colormaps[name].resampled(256) at 0, 128 and 255, times 255, rounded.
const Known kKnown[] = {
    {ColourMap::Viridis, {68, 1, 84}, {33, 145, 140}, {253, 231, 37}},
    {ColourMap::Cividis, {0, 34, 78}, {125, 124, 120}, {254, 232, 56}},
    {ColourMap::Magma, {0, 0, 4}, {183, 55, 121}, {252, 253, 191}},
    {ColourMap::Inferno, {0, 0, 4}, {188, 55, 84}, {252, 255, 164}},
    {ColourMap::Turbo, {48, 18, 59}, {164, 252, 60}, {122, 4, 3}},
    {ColourMap::Diverging, {5, 48, 97}, {247, 246, 246}, {103, 0, 31}},
    {ColourMap::Grey, {0, 0, 0}, {128, 128, 128}, {255, 255, 255}},
    {ColourMap::Jet, {0, 0, 128}, {125, 255, 122}, {128, 0, 0}},
};

void expect_rgb(Rgb found, const int (&wanted)[3]) {
    EXPECT_EQ(found.r, wanted[0]);
    EXPECT_EQ(found.g, wanted[1]);
    EXPECT_EQ(found.b, wanted[2]);
}

TEST(ColourMapTest, EndsAndMiddleAreThoseOfMatplotlib) {
    ASSERT_EQ(std::size(kKnown), static_cast<std::size_t>(kColourMaps));
    for (const auto& known : kKnown) {
        SCOPED_TRACE(name_of(known.map));
        expect_rgb(colour_at(known.map, 0), known.first);
        expect_rgb(colour_at(known.map, 128.5 / 256), known.middle);
        expect_rgb(colour_at(known.map, 1), known.last);
    }
}

TEST(ColourMapTest, PositionsBeyondTheEndsAreTheEnds) {
    expect_rgb(colour_at(ColourMap::Viridis, -3), kKnown[0].first);
    expect_rgb(colour_at(ColourMap::Viridis, 7), kKnown[0].last);
    expect_rgb(colour_at(ColourMap::Viridis, std::nan("")), kKnown[0].first);
}

TEST(ColourMapTest, TheDivergingMapIsBlueBelowAndRedAboveZero) {
    const Rgb below = colour_at(ColourMap::Diverging, 0.25), above = colour_at(ColourMap::Diverging, 0.75);
    EXPECT_GT(below.b, below.r);
    EXPECT_GT(above.r, above.b);
}

}  // namespace
}  // namespace vitrine::viz
