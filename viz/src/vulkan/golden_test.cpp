// Whole pictures against those in tests/golden, which people have looked at. VITRINE_UPDATE_GOLDEN=1 writes them anew.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <ostream>
#include <string>

#include <stb_image.h>
#include <stb_image_write.h>

#include "vulkan/test_scene.h"

namespace vitrine::viz {
namespace {

struct Golden {
    const char* name;
    Scene (*scene)();
};

std::ostream& operator<<(std::ostream& out, const Golden& golden) { return out << golden.name; }

constexpr int kWidth = 256, kHeight = 192;

Scene base() {
    Scene scene;
    scene.picture = landscape(360, 240);
    scene.picture_id = 1;
    scene.seen = Box{60, 0, 300, 240};
    scene.grid_rows = scene.grid_cols = 8;
    scene.view = ViewTransform::fit(360, 240, kWidth, kHeight, 12);
    MapLayer layer;
    layer.map = map_of(two_blobs(8, 8), 8, 8);
    layer.area = *scene.seen;
    scene.layers = {layer};
    return scene;
}

const Golden kGoldens[] = {
    {"nearest_dark",
     [] {
         Scene scene = base();
         scene.show_grid = true;
         scene.hovered = Cell{2, 4};
         scene.pinned = Cell{6, 1};
         return scene;
     }},
    {"bilinear_light",
     [] {
         Scene scene = base();
         scene.palette = Palette::light();
         scene.layers[0].upsampling = Upsampling::Bilinear;
         scene.layers[0].colours = ColourMap::Inferno;
         scene.layers[0].solid = true;
         scene.layers[0].scale.logarithmic = true;
         return scene;
     }},
    {"bicubic_signed",
     [] {
         Scene scene = base();
         auto values = two_blobs(8, 8);
         for (std::size_t i = 0; i < values.size(); ++i) values[i] = i / 8 < 4 ? values[i] : -2 * values[i];
         values[0] = values[1] = values[8] = std::numeric_limits<float>::quiet_NaN();
         scene.layers[0].map = map_of(values, 8, 8);
         scene.layers[0].upsampling = Upsampling::Bicubic;
         scene.layers[0].colours = ColourMap::Diverging;
         scene.layers[0].scale = {.low = -1, .high = 1, .gamma = 0.7f, .symmetric = true};
         return scene;
     }},
    {"colours",
     [] {
         Scene scene = base();
         // Red to the right, green downwards, blue in the corner of both; one cell has no colour.
         std::vector<float> values;
         for (int k = 0; k < 3; ++k)
             for (int i = 0; i < 64; ++i) {
                 const float x = static_cast<float>(i % 8) / 7, y = static_cast<float>(i / 8) / 7;
                 values.push_back(k == 0 ? x : k == 1 ? y : (1 - x) * (1 - y));
             }
         values[27] = std::numeric_limits<float>::quiet_NaN();
         scene.layers[0].map = map_of(values, 8, 8);
         scene.layers[0].map.shape[0] = 3;
         scene.hovered = Cell{2, 4};
         return scene;
     }},
    {"zoomed_in",
     [] {
         Scene scene = base();
         scene.view = scene.view.zoomed_at({150, 70}, 9, kWidth, kHeight);
         scene.hovered = scene.pinned = Cell{2, 5};
         scene.show_grid = true;
         scene.display_scale = 1.5f;
         return scene;
     }},
};

class GoldenTest : public DeviceTest, public testing::WithParamInterface<Golden> {};

TEST_P(GoldenTest, IsAsItWas) {
    namespace fs = std::filesystem;
    auto compositor = Compositor::create(*device);
    ASSERT_TRUE(compositor) << compositor.error().message;
    const auto image = (*compositor)->render(GetParam().scene(), kWidth, kHeight);
    ASSERT_TRUE(image) << image.error().message;
    const fs::path file = fs::path(VITRINE_SOURCE_DIR) / "tests/golden" / (std::string(GetParam().name) + ".png");
    if (std::getenv("VITRINE_UPDATE_GOLDEN")) {
        ASSERT_TRUE(stbi_write_png(file.c_str(), kWidth, kHeight, 3, image->pixels.data(), kWidth * 3));
    }
    int width = 0, height = 0, channels = 0;
    const std::unique_ptr<stbi_uc, void (*)(void*)> golden(stbi_load(file.c_str(), &width, &height, &channels, 3),
                                                           stbi_image_free);
    ASSERT_TRUE(golden) << file << " is missing; make it with VITRINE_UPDATE_GOLDEN=1 and look at it";
    ASSERT_EQ(width, kWidth);
    ASSERT_EQ(height, kHeight);

    // Other devices round otherwise: a level or two anywhere, and at an edge a pixel may fall on its other side.
    Image difference(kWidth, kHeight);
    int worst = 0, differing = 0;
    for (std::size_t i = 0; i < image->pixels.size(); i += 3) {
        int most = 0;
        for (std::size_t c = 0; c < 3; ++c) most = std::max(most, std::abs(image->pixels[i + c] - golden.get()[i + c]));
        std::fill_n(difference.pixels.begin() + static_cast<std::ptrdiff_t>(i), 3,
                    static_cast<std::uint8_t>(std::min(255, most * 8)));
        worst = std::max(worst, most);
        differing += most > 3;
    }
    const bool accepted = differing <= kWidth * kHeight / 500 && worst <= 80;
    if (!accepted) {
        const fs::path left = fs::path(VITRINE_BINARY_DIR) / "golden";
        fs::create_directories(left);
        stbi_write_png((left / (std::string(GetParam().name) + ".png")).c_str(), kWidth, kHeight, 3,
                       image->pixels.data(), kWidth * 3);
        stbi_write_png((left / (std::string(GetParam().name) + "_difference.png")).c_str(), kWidth, kHeight, 3,
                       difference.pixels.data(), kWidth * 3);
        ADD_FAILURE() << differing << " of " << kWidth * kHeight << " pixels differ by more than 3, the worst by "
                      << worst << "; see " << left;
    }
}

INSTANTIATE_TEST_SUITE_P(Pictures, GoldenTest, testing::ValuesIn(kGoldens),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vitrine::viz
