// Scenes whose pixels are known beforehand.
#include <limits>

#include "vulkan/test_scene.h"

// Under the address sanitizer: drivers and layers keep a little when they are unloaded, where no suppression can name
// them. What is ours the validation layer counts when a device goes.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

namespace vitrine::viz {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class CompositorTest : public DeviceTest {
  protected:
    void SetUp() override {
        DeviceTest::SetUp();
        if (!device) return;
        auto made = Compositor::create(*device);
        ASSERT_TRUE(made) << made.error().message;
        compositor = std::move(*made);
    }
    void TearDown() override {
        compositor.reset();
        DeviceTest::TearDown();
    }
    Image render(const Scene& scene, std::int64_t width, std::int64_t height) {
        auto image = compositor->render(scene, width, height);
        EXPECT_TRUE(image) << (image ? "" : image.error().message);
        return image ? std::move(*image) : Image(width, height);
    }

    std::unique_ptr<Compositor> compositor;
};

// A photo that fills the screen exactly, one screen pixel each.
Scene filled(ImageView picture) {
    Scene scene;
    scene.picture = std::move(picture);
    scene.picture_id = 1;
    scene.view.centre = {static_cast<double>(scene.picture.width) / 2, static_cast<double>(scene.picture.height) / 2};
    return scene;
}

ImageView plain(std::int64_t width, std::int64_t height, Rgb colour) {
    return picture_of(width, height, [=](auto, auto) { return colour; });
}

MapLayer layer_over(const Scene& scene, MapView map) {
    MapLayer layer;
    layer.map = std::move(map);
    layer.area = {0, 0, static_cast<double>(scene.picture.width), static_cast<double>(scene.picture.height)};
    layer.solid = true;
    layer.opacity = 1;
    return layer;
}

// Blending in the shader and here may round differently by one step.
void expect_near(Rgb found, Rgb wanted, int tolerance = 1) {
    EXPECT_TRUE(near(found, wanted, tolerance))
        << "found " << int{found.r} << ' ' << int{found.g} << ' ' << int{found.b} << ", wanted " << int{wanted.r} << ' '
        << int{wanted.g} << ' ' << int{wanted.b};
}

Rgb mixed(Rgb below, Rgb above, double alpha) {
    const auto channel = [&](int a, int b) { return static_cast<std::uint8_t>(std::lround(a + (b - a) * alpha)); };
    return {channel(below.r, above.r), channel(below.g, above.g), channel(below.b, above.b)};
}

TEST_F(CompositorTest, APhotoAtOneToOneIsUnchanged) {
    const Scene scene = filled(picture_of(61, 37, [](auto x, auto y) {
        return Rgb{static_cast<std::uint8_t>(x * 4), static_cast<std::uint8_t>(y * 6),
                   static_cast<std::uint8_t>(x ^ y)};
    }));
    const Image image = render(scene, 61, 37);
    for (std::int64_t y = 0; y < 37; ++y) {
        for (std::int64_t x = 0; x < 61; ++x) {
            ASSERT_TRUE(near(
                rgb_at(image, x, y),
                {static_cast<std::uint8_t>(x * 4), static_cast<std::uint8_t>(y * 6), static_cast<std::uint8_t>(x ^ y)},
                0))
                << x << ' ' << y;
        }
    }
}

TEST_F(CompositorTest, WholeZoomsAreSharpWhateverTheParityOfTheSizes) {
    // 61 photo pixels centred on 80 screen pixels begin half a pixel aside; the picture must still not be blurred.
    Scene scene = filled(picture_of(61, 37, [](auto x, auto) { return x % 2 ? Rgb{255, 255, 255} : Rgb{0, 0, 0}; }));
    const Image image = render(scene, 80, 40);
    for (std::int64_t x = 12; x < 60; ++x) {
        const int red = image.at(x, 20)[0];
        EXPECT_TRUE(red == 0 || red == 255) << x << ": " << red;
    }
}

TEST_F(CompositorTest, FarZoomedInPixelsAreSquares) {
    Scene scene = filled(picture_of(4, 4, [](auto x, auto y) {
        return Rgb{static_cast<std::uint8_t>(x * 80), static_cast<std::uint8_t>(y * 80), 7};
    }));
    scene.view.zoom = 8;
    const Image image = render(scene, 32, 32);
    for (std::int64_t y = 0; y < 32; ++y) {
        for (std::int64_t x = 0; x < 32; ++x) {
            ASSERT_TRUE(near(rgb_at(image, x, y),
                             {static_cast<std::uint8_t>(x / 8 * 80), static_cast<std::uint8_t>(y / 8 * 80), 7}, 0));
        }
    }
}

TEST_F(CompositorTest, ZoomedOutPixelsAreTheMeanOfWhatTheyCover) {
    // Stripes of one pixel alias to anything but grey when they are merely sampled.
    for (const double zoom : {0.5, 0.31, 0.2, 0.07}) {
        Scene scene = filled(picture_of(512, 512, [](auto x, auto) {
            return x % 2 ? Rgb{200, 200, 200} : Rgb{0, 0, 0};
        }));
        scene.view.zoom = zoom;
        const Image image = render(scene, 32, 32);
        int least = 255, most = 0;
        for (std::int64_t x = 4; x < 28; ++x) {
            least = std::min<int>(least, image.at(x, 16)[0]);
            most = std::max<int>(most, image.at(x, 16)[0]);
        }
        // Between half and a third a pixel covers two to three and a bit: at worst 2 of 3.2 are light.
        const int spread = zoom > 0.25 && zoom != 0.5 ? 40 : 2;
        EXPECT_NEAR(least, 100, spread) << zoom;
        EXPECT_NEAR(most, 100, spread) << zoom;
    }
}

TEST_F(CompositorTest, LayersOfOneHueEachSayTheirValueByOpacityAlone) {
    Scene scene = filled(plain(40, 10, {10, 20, 30}));
    auto first = layer_over(scene, map_of({0, 0.5f, 1, 1}, 1, 4));
    first.hue = Rgb{200, 40, 80};
    first.opacity = 0.8f;
    first.solid = true;  // has no say
    auto second = layer_over(scene, map_of({0, 0, 0, 2}, 1, 4));
    second.scale.high = 4;
    second.hue = Rgb{0, 250, 90};
    scene.layers = {first, second};
    const Image image = render(scene, 40, 10);
    const Rgb below{10, 20, 30};
    expect_near(rgb_at(image, 5, 5), below);
    expect_near(rgb_at(image, 15, 5), mixed(below, {200, 40, 80}, 0.4));
    expect_near(rgb_at(image, 25, 5), mixed(below, {200, 40, 80}, 0.8));
    expect_near(rgb_at(image, 35, 5), mixed(mixed(below, {200, 40, 80}, 0.8), {0, 250, 90}, 0.5));
}

TEST_F(CompositorTest, AMapThatIsAPictureIsDrawnInItsOwnColoursByTheOpacityAlone) {
    Scene scene = filled(plain(40, 40, {10, 20, 30}));
    // Cells: red, a mix, beyond the range, none.
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> values = {1, 0.2f, 7, nan, 0, 0.6f, -3, 0, 0, 1, 0.5f, 0};
    auto layer = layer_over(scene, map_of(values, 2, 2));
    layer.map.shape[0] = 3;
    layer.opacity = 0.5f;
    // None of these has a say.
    layer.solid = false;
    layer.upsampling = Upsampling::Bicubic;
    layer.scale = {.low = 5, .high = 9, .logarithmic = true};
    // A layer behind it finds its own values.
    auto second = layer_over(scene, map_of({0, 0.25f, 0.6f, 1}, 2, 2));
    second.area = {30, 30, 40, 40};
    second.solid = true;
    second.opacity = 1;
    scene.layers = {layer, second};
    const Image image = render(scene, 40, 40);
    const Rgb below{10, 20, 30};
    for (const auto& [x, y] : {std::pair{0, 0}, {19, 19}})
        expect_near(rgb_at(image, x, y), mixed(below, {255, 0, 0}, 0.5));
    for (const auto& [x, y] : {std::pair{20, 0}, {39, 19}})
        expect_near(rgb_at(image, x, y), mixed(below, {51, 153, 255}, 0.5));
    expect_near(rgb_at(image, 0, 39), mixed(below, {255, 0, 128}, 0.5));
    expect_near(rgb_at(image, 31, 31), colour_at(ColourMap::Viridis, 0));
    expect_near(rgb_at(image, 38, 38), colour_at(ColourMap::Viridis, 1));
    EXPECT_FALSE(near(rgb_at(image, 25, 25), mixed(below, {0, 0, 0}, 0.5), 0)) << "a cell without colour is hatched";
}

TEST_F(CompositorTest, NearestCellsHaveExactlyTheirColours) {
    Scene scene = filled(plain(40, 40, {10, 20, 30}));
    const std::vector<float> values = {0, 0.25f, 0.6f, 1};
    scene.layers = {layer_over(scene, map_of(values, 2, 2))};
    const Image image = render(scene, 40, 40);
    for (std::int64_t y = 0; y < 40; ++y) {
        for (std::int64_t x = 0; x < 40; ++x) {
            const Rgb wanted = colour_at(ColourMap::Viridis, values[static_cast<std::size_t>(y / 20 * 2 + x / 20)]);
            ASSERT_TRUE(near(rgb_at(image, x, y), wanted, 0)) << x << ' ' << y;
        }
    }
}

TEST_F(CompositorTest, EveryColourMapIsTheOneOfTheHost) {
    Scene scene = filled(plain(256, 1, {0, 0, 0}));
    std::vector<float> values;
    for (int i = 0; i < 256; ++i) values.push_back((static_cast<float>(i) + 0.5f) / 256);
    scene.layers = {layer_over(scene, map_of(values, 1, 256))};
    for (int m = 0; m < kColourMaps; ++m) {
        scene.layers[0].colours = static_cast<ColourMap>(m);
        const Image image = render(scene, 256, 1);
        for (std::int64_t x = 0; x < 256; ++x) {
            ASSERT_TRUE(
                near(rgb_at(image, x, 0), colour_at(static_cast<ColourMap>(m), values[static_cast<std::size_t>(x)]), 0))
                << m << ' ' << x;
        }
    }
}

TEST_F(CompositorTest, BilinearValuesLieAtCellCentres) {
    Scene scene = filled(plain(40, 10, {0, 0, 0}));
    MapLayer layer = layer_over(scene, map_of({0, 1}, 1, 2));
    layer.upsampling = Upsampling::Bilinear;
    layer.colours = ColourMap::Grey;
    scene.layers = {layer};
    const Image image = render(scene, 40, 10);
    // Two cells of 20 pixels: 0 up to the first centre at 10, 1 from the second at 30, straight between.
    for (std::int64_t x = 0; x < 40; ++x) {
        const double t = std::clamp((static_cast<double>(x) + 0.5 - 10) / 20, 0.0, 1.0);
        expect_near(rgb_at(image, x, 5), colour_at(ColourMap::Grey, t));
    }
}

TEST_F(CompositorTest, BicubicGoesThroughTheValuesAndKeepsAPlainMapPlain) {
    Scene scene = filled(plain(50, 10, {0, 0, 0}));
    MapLayer layer = layer_over(scene, map_of({0.2f, 0.8f, 0.4f, 0.6f, 0.3f}, 1, 5));
    layer.upsampling = Upsampling::Bicubic;
    layer.colours = ColourMap::Grey;
    scene.layers = {layer};
    // Cells of 10 pixels have their centre between two pixels; with 9 it would need another size, so both neighbours
    // are compared.
    Image image = render(scene, 50, 10);
    const int left = image.at(14, 5)[0], right = image.at(15, 5)[0];
    EXPECT_NEAR((left + right) / 2.0, 0.8 * 255, 4);
    scene.layers[0].map = map_of(std::vector<float>(25, 0.5f), 5, 5);
    image = render(scene, 50, 10);
    for (std::int64_t x = 0; x < 50; ++x) expect_near(rgb_at(image, x, 3), colour_at(ColourMap::Grey, 0.5));
}

TEST_F(CompositorTest, TheMapCoversItsAreaToThePixel) {
    Scene scene = filled(plain(60, 50, {100, 100, 100}));
    MapLayer layer = layer_over(scene, map_of({1}, 1, 1));
    layer.area = {13, 9, 41, 33};
    scene.layers = {layer};
    const Rgb inside = colour_at(ColourMap::Viridis, 1);
    Image image = render(scene, 60, 50);
    for (std::int64_t y = 0; y < 50; ++y) {
        for (std::int64_t x = 0; x < 60; ++x) {
            const bool in = x >= 13 && x < 41 && y >= 9 && y < 33;
            ASSERT_TRUE(near(rgb_at(image, x, y), in ? inside : Rgb{100, 100, 100}, 0)) << x << ' ' << y;
        }
    }
    // Zoomed and moved, it stays on the same photo pixels.
    scene.view = scene.view.zoomed_at({20, 20}, 3, 60, 50);
    image = render(scene, 60, 50);
    for (std::int64_t y = 0; y < 50; ++y) {
        for (std::int64_t x = 0; x < 60; ++x) {
            const Point p = scene.view.to_photo({static_cast<double>(x) + 0.5, static_cast<double>(y) + 0.5}, 60, 50);
            // A whole zoom is moved by up to half a screen pixel to be sharp.
            if (std::abs(p.x - 13) < 0.2 || std::abs(p.x - 41) < 0.2 || std::abs(p.y - 9) < 0.2 ||
                std::abs(p.y - 33) < 0.2)
                continue;
            ASSERT_TRUE(near(rgb_at(image, x, y), layer.area.contains(p) ? inside : Rgb{100, 100, 100}, 0))
                << x << ' ' << y;
        }
    }
}

TEST_F(CompositorTest, OpacityFollowsTheValue) {
    const Rgb below{40, 90, 160};
    Scene scene = filled(plain(44, 8, below));
    std::vector<float> values;
    for (int i = 0; i <= 10; ++i) values.push_back(static_cast<float>(i) / 10);
    MapLayer layer = layer_over(scene, map_of(values, 1, 11));
    layer.solid = false;
    layer.opacity = 0.8f;
    scene.layers = {layer};
    Image image = render(scene, 44, 8);
    expect_near(rgb_at(image, 1, 4), below, 0);  // nothing at zero
    for (int i = 0; i <= 10; ++i) {
        expect_near(rgb_at(image, i * 4 + 2, 4),
                    mixed(below, colour_at(ColourMap::Viridis, values[static_cast<std::size_t>(i)]),
                          0.8 * values[static_cast<std::size_t>(i)]));
    }
    // Symmetric: nothing at zero, most at both ends.
    for (auto& v : values) v = 2 * v - 1;
    scene.layers[0].map = map_of(values, 1, 11);
    scene.layers[0].colours = ColourMap::Diverging;
    scene.layers[0].scale = {.low = -1, .high = 1, .symmetric = true};
    image = render(scene, 44, 8);
    for (int i = 0; i <= 10; ++i) {
        const double v = values[static_cast<std::size_t>(i)];
        expect_near(rgb_at(image, i * 4 + 2, 4),
                    mixed(below, colour_at(ColourMap::Diverging, (v + 1) / 2), 0.8 * std::abs(v)));
    }
}

TEST_F(CompositorTest, ScalesAreThoseOfTheHost) {
    Scene scene = filled(plain(200, 1, {0, 0, 0}));
    std::vector<float> values;
    for (int i = 0; i < 200; ++i)
        values.push_back(static_cast<float>(std::pow(10.0, -4 + i / 50.0)) * (i % 2 ? 1.f : -1.f));
    scene.layers = {layer_over(scene, map_of(values, 1, 200))};
    scene.layers[0].colours = ColourMap::Grey;
    for (const ValueScale& scale :
         {ValueScale{.low = -0.2f, .high = 0.7f}, ValueScale{.low = 0, .high = 1, .gamma = 0.5f},
          ValueScale{.low = 1e-3f, .high = 0.9f, .logarithmic = true},
          ValueScale{.low = 0, .high = 1, .gamma = 2, .logarithmic = true},
          ValueScale{.low = -0.1f, .high = 0.5f, .symmetric = true},
          ValueScale{.low = -1, .high = 1, .gamma = 0.7f, .logarithmic = true, .symmetric = true},
          ValueScale{.low = 3, .high = 3}}) {
        scene.layers[0].scale = scale;
        const Image image = render(scene, 200, 1);
        // The two hundred logarithms of the shader may fall on the other side of a texel's edge.
        for (std::int64_t x = 0; x < 200; ++x)
            expect_near(rgb_at(image, x, 0),
                        colour_at(ColourMap::Grey, position_of(values[static_cast<std::size_t>(x)], scale)), 1);
    }
}

TEST_F(CompositorTest, WhatTheModelDidNotSeeIsHatchedAndTheRestIsNot) {
    const Rgb colour{180, 60, 90};
    Scene scene = filled(plain(80, 60, colour));
    scene.seen = Box{20, 10, 60, 50};
    const Image image = render(scene, 80, 60);
    int lines = 0, ground = 0;
    for (std::int64_t y = 0; y < 60; ++y) {
        for (std::int64_t x = 0; x < 80; ++x) {
            const Rgb found = rgb_at(image, x, y);
            if (x >= 20 && x < 60 && y >= 10 && y < 50) {
                ASSERT_TRUE(near(found, colour, 0)) << x << ' ' << y;
            } else {
                ASSERT_FALSE(near(found, colour, 20)) << x << ' ' << y;
                (near(found, mixed(colour, scene.palette.room, 0.6), 1) ? ground : lines)++;
            }
        }
    }
    EXPECT_GT(lines, 300);
    EXPECT_GT(ground, lines);
}

TEST_F(CompositorTest, CellsWithoutAValueAreDrawnAsNotSeen) {
    const Rgb colour{200, 200, 200};
    Scene scene = filled(plain(60, 20, colour));
    for (const Upsampling upsampling : {Upsampling::Nearest, Upsampling::Bilinear, Upsampling::Bicubic}) {
        scene.layers = {layer_over(scene, map_of({1, kNan, 1}, 1, 3))};
        scene.layers[0].upsampling = upsampling;
        const Image image = render(scene, 60, 20);
        for (std::int64_t x = 0; x < 60; ++x) {
            const Rgb found = rgb_at(image, x, 9);
            if (x >= 20 && x < 40) {
                EXPECT_FALSE(near(found, colour, 40)) << x;
                EXPECT_FALSE(near(found, colour_at(ColourMap::Viridis, 1), 40)) << x;
            } else {
                EXPECT_TRUE(near(found, colour_at(ColourMap::Viridis, 1), 0)) << x;  // its neighbours do not feel it
            }
        }
    }
}

TEST_F(CompositorTest, InfinitiesAreTheEndsOfTheScale) {
    Scene scene = filled(plain(40, 4, {0, 0, 0}));
    const float inf = std::numeric_limits<float>::infinity();
    scene.layers = {layer_over(scene, map_of({-inf, inf}, 1, 2))};
    for (const Upsampling upsampling : {Upsampling::Nearest, Upsampling::Bicubic}) {
        scene.layers[0].upsampling = upsampling;
        const Image image = render(scene, 40, 4);
        expect_near(rgb_at(image, 2, 2), colour_at(ColourMap::Viridis, 0), 0);
        expect_near(rgb_at(image, 37, 2), colour_at(ColourMap::Viridis, 1), 0);
    }
}

TEST_F(CompositorTest, BareShowsThePhotoAlone) {
    Scene scene = filled(landscape(64, 48));
    const Image photo = render(scene, 64, 48);
    scene.seen = Box{8, 0, 56, 48};
    scene.layers = {layer_over(scene, map_of({0, 1, 1, 0}, 2, 2))};
    scene.grid_rows = scene.grid_cols = 2;
    scene.show_grid = true;
    scene.hovered = Cell{0, 0};
    scene.pinned = Cell{1, 1};
    EXPECT_NE(render(scene, 64, 48).pixels, photo.pixels);
    scene.bare = true;
    EXPECT_EQ(render(scene, 64, 48).pixels, photo.pixels);
}

TEST_F(CompositorTest, OutlinesLieOnTheirCellInTheirColours) {
    Scene scene = filled(plain(80, 80, {128, 128, 128}));
    scene.grid_rows = scene.grid_cols = 4;
    scene.hovered = Cell{1, 2};
    scene.pinned = Cell{3, 0};
    const Image image = render(scene, 80, 80);
    expect_near(rgb_at(image, 50, 20), scene.palette.hovered, 0);  // upper edge of row 1
    expect_near(rgb_at(image, 50, 19), scene.palette.hovered, 0);
    expect_near(rgb_at(image, 40, 30), scene.palette.hovered, 0);  // left edge of column 2
    expect_near(rgb_at(image, 10, 60), scene.palette.pinned, 0);
    EXPECT_TRUE(near(rgb_at(image, 50, 30), {128, 128, 128}, 0));  // the cell itself stays free
    EXPECT_LT(rgb_at(image, 50, 21).r, 90);                        // contour inside
    EXPECT_LT(rgb_at(image, 50, 18).r, 90);                        // and outside
    // Both on one cell: both colours show.
    scene.hovered = scene.pinned = Cell{1, 1};
    const Image both = render(scene, 80, 80);
    expect_near(rgb_at(both, 30, 20), scene.palette.pinned, 0);
    expect_near(rgb_at(both, 30, 23), scene.palette.hovered, 0);
    // Cells outside the grid are not drawn.
    scene.hovered = Cell{4, 0};
    scene.pinned = Cell{0, -1};
    const Image none = render(scene, 80, 80);
    EXPECT_TRUE(near(rgb_at(none, 0, 79), {128, 128, 128}, 0));
}

TEST_F(CompositorTest, ARegionIsOutlinedWithoutAGridAndStaysWholeWhereItLeavesThePicture) {
    Scene scene = filled(plain(80, 80, {128, 128, 128}));
    scene.region = Box{20, 40, 60, 70};
    const Image image = render(scene, 80, 80);
    for (const auto& [x, y] : {std::pair{20, 50}, {59, 50}, {40, 40}, {40, 69}})
        expect_near(rgb_at(image, x, y), scene.palette.region, 0);
    EXPECT_TRUE(near(rgb_at(image, 40, 55), {128, 128, 128}, 0));
    EXPECT_TRUE(near(rgb_at(image, 10, 10), {128, 128, 128}, 0));
    for (const Box& none : {Box{20, 20, 20, 40}, Box{40, 40, 20, 20}, Box{0, 0, std::nan(""), 10}}) {
        scene.region = none;
        const Image bare = render(scene, 80, 80);
        EXPECT_TRUE(near(rgb_at(bare, 20, 30), {128, 128, 128}, 0));
    }
}

TEST_F(CompositorTest, GridLinesShowOnlyWhereCellsAreLargeEnough) {
    Scene scene = filled(plain(70, 70, {128, 128, 128}));
    scene.show_grid = true;
    scene.grid_rows = scene.grid_cols = 10;  // 7 pixels a cell
    EXPECT_TRUE(near(rgb_at(render(scene, 70, 70), 7, 3), {128, 128, 128}, 0));
    scene.grid_rows = scene.grid_cols = 7;  // 10 pixels
    const Image image = render(scene, 70, 70);
    for (std::int64_t x = 0; x < 70; ++x) {
        const int red = image.at(x, 5)[0];
        if (x > 0 && x % 10 == 0)
            EXPECT_GT(red, 140) << x;
        else if (x > 1 && x % 10 == 1)
            EXPECT_LT(red, 120) << x;
        else
            EXPECT_EQ(red, 128) << x;
    }
}

TEST_F(CompositorTest, ThePictureIsUploadedAnewOnlyWhenItsIdChanges) {
    Scene scene = filled(plain(16, 16, {10, 10, 10}));
    expect_near(rgb_at(render(scene, 16, 16), 8, 8), {10, 10, 10}, 0);
    scene.picture = plain(16, 16, {200, 10, 10});
    expect_near(rgb_at(render(scene, 16, 16), 8, 8), {10, 10, 10}, 0);
    scene.picture_id = 2;
    expect_near(rgb_at(render(scene, 16, 16), 8, 8), {200, 10, 10}, 0);
    scene.picture = {};
    scene.picture_id = 3;
    expect_near(rgb_at(render(scene, 16, 16), 8, 8), scene.palette.room, 0);
}

TEST_F(CompositorTest, ChangingSizesPicturesAndMapsGiveWhatAFreshCompositorGives) {
    const auto scene_of = [](int i) {
        Scene scene = filled(landscape(40 + 13 * (i % 4), 30 + 7 * (i % 3)));
        scene.picture_id = static_cast<std::uint64_t>(i) + 1;
        scene.view.zoom = 0.4 + 0.7 * (i % 5);
        scene.layers = {layer_over(scene, map_of(two_blobs(2 + i, 3 + i), 2 + i, 3 + i))};
        scene.layers[0].upsampling = static_cast<Upsampling>(i % 3);
        return scene;
    };
    for (int i = 0; i < 6; ++i) {
        auto fresh = Compositor::create(*device);
        ASSERT_TRUE(fresh);
        const auto wanted = (*fresh)->render(scene_of(i), 50 + 31 * (i % 3), 40 + 17 * (i % 4));
        ASSERT_TRUE(wanted);
        EXPECT_EQ(render(scene_of(i), wanted->width, wanted->height).pixels, wanted->pixels) << i;
    }
}

TEST_F(CompositorTest, StridedMapsAndPaddedRowsAreReadAsTheySay) {
    Scene scene = filled(plain(20, 20, {0, 0, 0}));
    MapView map = map_of({0, 9, 1, 9, 9, 9, 9, 9, 0.25f, 9, 0.5f, 9}, 2, 2);
    map.stride[1] = 8;
    map.stride[2] = 2;
    scene.layers = {layer_over(scene, map)};
    const Image image = render(scene, 20, 20);
    expect_near(rgb_at(image, 15, 5), colour_at(ColourMap::Viridis, 1), 0);
    expect_near(rgb_at(image, 5, 15), colour_at(ColourMap::Viridis, 0.25), 0);
    expect_near(rgb_at(image, 15, 15), colour_at(ColourMap::Viridis, 0.5), 0);
}

TEST_F(CompositorTest, EightLayersLieOverEachOtherInOrder) {
    Scene scene = filled(plain(16, 16, {0, 0, 0}));
    for (int i = 0; i < 8; ++i) {
        MapLayer layer = layer_over(scene, map_of({1}, 1, 1));
        layer.area = {static_cast<double>(i), 0, 16, 16};
        layer.colours = static_cast<ColourMap>(i);
        scene.layers.push_back(layer);
    }
    const Image image = render(scene, 16, 16);
    for (int i = 0; i < 8; ++i) expect_near(rgb_at(image, i, 8), colour_at(static_cast<ColourMap>(i), 1), 0);
}

TEST_F(CompositorTest, SizesAndMapsThatCannotBeDrawnAreRefusedInASentence) {
    Scene scene = filled(plain(8, 8, {0, 0, 0}));
    for (const auto& [width, height] :
         {std::pair<std::int64_t, std::int64_t>{0, 10}, {10, -1}, {20'000, 10}, {10, 1'000'000'000'000}}) {
        const auto image = compositor->render(scene, width, height);
        ASSERT_FALSE(image);
        EXPECT_EQ(image.error().code, ErrorCode::BadInput);
        EXPECT_NE(image.error().message.find("wanted"), std::string::npos);
    }
    scene.layers = {layer_over(scene, map_of({1}, 1, 1))};
    const auto refused = [&](auto change) {
        Scene bad = scene;
        change(bad);
        const auto image = compositor->render(bad, 8, 8);
        return !image && image.error().code == ErrorCode::BadInput;
    };
    EXPECT_TRUE(refused([](Scene& s) { s.layers[0].map.shape[0] = 2; }));
    EXPECT_TRUE(refused([](Scene& s) { s.layers[0].map.shape[1] = 0; }));
    EXPECT_TRUE(refused([](Scene& s) { s.layers[0].map.shape[1] = s.layers[0].map.shape[2] = std::int64_t{1} << 40; }));
    EXPECT_TRUE(refused([](Scene& s) { s.layers[0].map.data = nullptr; }));
    EXPECT_TRUE(refused([](Scene& s) { s.layers[0].area.x1 = s.layers[0].area.x0; }));
    EXPECT_TRUE(refused([](Scene& s) { s.layers[0].area.y1 = kNan; }));
    EXPECT_TRUE(refused([](Scene& s) { s.view.zoom = 0; }));
    EXPECT_TRUE(refused([](Scene& s) { s.view.centre.x = kNan; }));
    EXPECT_TRUE(refused([](Scene& s) {
        s.picture.channels = 1;
        s.picture_id = 99;
    }));
    // And afterwards it still draws.
    expect_near(rgb_at(render(scene, 8, 8), 4, 4), colour_at(ColourMap::Viridis, 1), 0);
}

TEST_F(CompositorTest, ViewsFarAsideShowTheRoomAndHugeOnesStayExact) {
    Scene scene = filled(plain(8, 8, {250, 0, 0}));
    scene.view.centre = {1e9, -1e9};
    expect_near(rgb_at(render(scene, 16, 16), 8, 8), scene.palette.room, 0);
    // A long photograph at the far end and the largest zoom: pixel boundaries where they belong.
    scene = filled(picture_of(16'000, 2, [](auto x, auto) { return x % 2 ? Rgb{255, 255, 255} : Rgb{0, 0, 0}; }));
    scene.view.centre = {15'990, 1};
    scene.view.zoom = 64;
    const Image image = render(scene, 256, 64);
    for (std::int64_t x = 0; x < 256; ++x) EXPECT_EQ(image.at(x, 32)[0], (x / 64) % 2 ? 255 : 0) << x;
}

}  // namespace
}  // namespace vitrine::viz
