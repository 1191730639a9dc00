// What the tests of drawing share: a device under the validation layer, and small scenes made of code.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include <vitrine/viz/compositor.h>

#include "vulkan/device.h"

namespace vitrine::viz {

/// Creates a device with the validation layer; skips aloud where there is none; any message of the layer fails the
/// test.
class DeviceTest : public testing::Test {
  protected:
    virtual std::vector<std::string> extensions() { return {}; }

    void SetUp() override {
        messages_before_ = all_validation_messages();
        auto made = Device::create({extensions(), true});
        if (!made) GTEST_SKIP() << "no Vulkan device here: " << made.error().message;
        device = std::move(*made);
        if (!device->validates())
            std::puts("note: the Vulkan validation layer is not installed, its checks are left out");
    }
    void TearDown() override {
        // Asked after the device is gone, since the layer then names what was not destroyed.
        device.reset();
        EXPECT_EQ(all_validation_messages(), messages_before_);
    }

    std::unique_ptr<Device> device;

  private:
    int messages_before_ = 0;
};

/// A map that owns its values.
inline MapView map_of(std::vector<float> values, std::int64_t rows, std::int64_t cols) {
    auto kept = std::make_shared<std::vector<float>>(std::move(values));
    MapView view;
    view.data = kept->data();
    view.shape[0] = 1, view.shape[1] = rows, view.shape[2] = cols;
    view.stride[0] = rows * cols, view.stride[1] = cols, view.stride[2] = 1;
    view.keep_alive = kept;
    return view;
}

/// A picture that owns its pixels, each made by `pixel(x, y)`.
template <class F>
ImageView picture_of(std::int64_t width, std::int64_t height, F pixel) {
    auto image = std::make_shared<Image>(width, height);
    for (std::int64_t y = 0; y < height; ++y) {
        for (std::int64_t x = 0; x < width; ++x) {
            const Rgb c = pixel(x, y);
            image->at(x, y)[0] = c.r;
            image->at(x, y)[1] = c.g;
            image->at(x, y)[2] = c.b;
        }
    }
    return {image->pixels.data(), width, height, 3, width * 3, image};
}

inline Rgb rgb_at(const Image& image, std::int64_t x, std::int64_t y) {
    const auto* p = image.at(x, y);
    return {p[0], p[1], p[2]};
}

inline bool near(Rgb a, Rgb b, int tolerance) {
    return std::abs(a.r - b.r) <= tolerance && std::abs(a.g - b.g) <= tolerance && std::abs(a.b - b.b) <= tolerance;
}

/// A soft landscape: bands of light with a disc, enough to judge filtering and blending by.
inline ImageView landscape(std::int64_t width, std::int64_t height) {
    return picture_of(width, height, [=](std::int64_t x, std::int64_t y) -> Rgb {
        const double u = static_cast<double>(x) / static_cast<double>(width),
                     v = static_cast<double>(y) / static_cast<double>(height);
        const double disc = std::hypot((u - 0.68) * static_cast<double>(width) / static_cast<double>(height), v - 0.3);
        if (disc < 0.12) return {255, 232, 176};
        if (v > 0.62 + 0.06 * std::sin(u * 9)) {
            const double ridge = (x / 6 + y / 9) % 2 ? 1.0 : 0.86;
            return {static_cast<std::uint8_t>(58 * ridge), static_cast<std::uint8_t>(86 * ridge),
                    static_cast<std::uint8_t>(72 * ridge)};
        }
        return {static_cast<std::uint8_t>(90 + 110 * v), static_cast<std::uint8_t>(130 + 60 * v),
                static_cast<std::uint8_t>(190 - 40 * v)};
    });
}

/// One bright blob and a faint one on a grid.
inline std::vector<float> two_blobs(std::int64_t rows, std::int64_t cols) {
    std::vector<float> values;
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < cols; ++c) {
            const double y = (static_cast<double>(r) + 0.5) / static_cast<double>(rows),
                         x = (static_cast<double>(c) + 0.5) / static_cast<double>(cols);
            const double near_one = std::exp(-((x - 0.62) * (x - 0.62) + (y - 0.34) * (y - 0.34)) / 0.03);
            const double other = 0.45 * std::exp(-((x - 0.2) * (x - 0.2) + (y - 0.78) * (y - 0.78)) / 0.012);
            values.push_back(static_cast<float>(near_one + other));
        }
    }
    return values;
}

}  // namespace vitrine::viz
