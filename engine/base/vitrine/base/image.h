// Plain 8-bit RGB pictures and borrowed views of them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace vitrine {

/// An 8-bit RGB picture, rows from the top, pixels interleaved.
struct Image {
    std::int64_t width = 0;
    std::int64_t height = 0;
    std::vector<std::uint8_t> pixels;  ///< height * width * 3

    Image() = default;
    Image(std::int64_t w, std::int64_t h) : width(w), height(h), pixels(static_cast<std::size_t>(w * h * 3)) {}
    bool empty() const { return pixels.empty(); }
    const std::uint8_t* at(std::int64_t x, std::int64_t y) const { return pixels.data() + (y * width + x) * 3; }
    std::uint8_t* at(std::int64_t x, std::int64_t y) { return pixels.data() + (y * width + x) * 3; }
};

/// A borrowed 8-bit picture; keeps its storage alive.
struct ImageView {
    const std::uint8_t* data = nullptr;
    std::int64_t width = 0;
    std::int64_t height = 0;
    std::int64_t channels = 3;   ///< 3 RGB or 4 RGBA
    std::int64_t row_bytes = 0;  ///< distance between rows
    std::shared_ptr<const void> keep_alive;
};

/// Memory of another device, handed over by file descriptor (CUDA to Vulkan).
struct ExternalMemory {
    int fd = -1;
    std::uint64_t size_bytes = 0;
    std::uint64_t offset_bytes = 0;
    std::uint8_t device_uuid[16] = {};
    int semaphore_fd = -1;             ///< timeline semaphore, -1 when there is none
    std::uint64_t semaphore_value = 0;  ///< value after which the memory may be read
};

/// Borrowed attention-like maps, in host memory or, where a device shares it, in external memory. Keeps its storage alive.
struct MapView {
    const float* data = nullptr;               ///< null when external
    const ExternalMemory* external = nullptr;
    std::int64_t shape[3] = {0, 0, 0};         ///< heads, rows, cols
    std::int64_t stride[3] = {0, 0, 0};        ///< in elements, not bytes
    std::shared_ptr<const void> keep_alive;
};

}  // namespace vitrine
