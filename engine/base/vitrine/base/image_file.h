// What can be learned of a picture file without decoding it: format, size, orientation, traps.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include <vitrine/base/geometry.h>
#include <vitrine/base/result.h>

namespace vitrine {

struct ImageFileInfo {
    std::string format;  ///< "JPEG", "PNG", "BMP", "GIF", "TIFF", "WebP", "PNM"
    std::int64_t width = 0, height = 0;
    int channels = 3;    ///< as stored: 1 grey, 2 grey + alpha, 3, 4
    int bits = 8;
    bool cmyk = false;
    bool animated = false;
    Orientation orientation = 1;  ///< from EXIF, before it is applied
};

/// Reads the header. Refuses, each in one sentence: not a picture, truncated before its size, zero size, more than
/// `max_pixels` pixels (default 1 gigapixel), more than 65,500 a side.
Result<ImageFileInfo> inspect_image(std::span<const std::byte> bytes, std::int64_t max_pixels = 1'000'000'000);

/// Whether a file's name ends as pictures' do, in any case. Says nothing of what is in it.
bool is_picture_name(const std::filesystem::path& file);

}  // namespace vitrine
