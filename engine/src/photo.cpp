// Reads picture files to upright 8-bit RGB, and writes pictures. Headers are checked by our own reader before a decoder
// sees the bytes.
#include <vitrine/preprocess.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>

#include "gif.h"
#include "text.h"

#ifdef VITRINE_OPENCV
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#endif

namespace vitrine {

namespace {

using Bytes = std::span<const std::byte>;

int byte_at(Bytes bytes, std::size_t at) { return std::to_integer<int>(bytes[at]); }

/// Whether a JPEG's compressed data reach their end marker. libjpeg fills what is missing with grey and only warns, and
/// a half-grey photograph must not be explained as if it were whole.
bool jpeg_is_whole(Bytes bytes) {
    std::size_t at = 2;
    while (at + 4 <= bytes.size()) {  // walk the segments, so that a thumbnail's end marker does not count
        if (byte_at(bytes, at) != 0xFF) return true;  // odd, but the decoder's business
        const int marker = byte_at(bytes, at + 1);
        if (marker == 0xFF) {
            ++at;
            continue;
        }
        if (marker == 0xDA) break;
        if (marker == 0xD9) return true;
        at += 2;
        if (marker >= 0xD0 && marker <= 0xD8) continue;
        if (at + 2 > bytes.size()) return false;
        at += static_cast<std::size_t>(byte_at(bytes, at) * 256 + byte_at(bytes, at + 1));
    }
    for (std::size_t i = at; i + 1 < bytes.size(); ++i)
        if (byte_at(bytes, i) == 0xFF && byte_at(bytes, i + 1) == 0xD9) return true;
    return false;
}

bool png_is_whole(Bytes bytes) {
    std::size_t at = 8;
    while (at + 12 <= bytes.size()) {
        std::size_t length = 0;
        for (std::size_t i = 0; i < 4; ++i) length = length * 256 + static_cast<std::size_t>(byte_at(bytes, at + i));
        if (std::memcmp(bytes.data() + at + 4, "IEND", 4) == 0) return true;
        if (length > bytes.size()) return false;
        at += 12 + length;
    }
    return false;
}

/// Reads a binary or plain PNM (P2, P3, P5, P6) without any library.
Result<Photo> read_pnm(Bytes bytes, const ImageFileInfo& info) {
    std::size_t at = 2;
    const auto next_number = [&]() -> Result<std::int64_t> {
        while (at < bytes.size()) {
            const int c = byte_at(bytes, at);
            if (c == '#')
                while (at < bytes.size() && byte_at(bytes, at) != '\n') ++at;
            else if (std::isspace(c) != 0)
                ++at;
            else
                break;
        }
        std::int64_t value = 0;
        bool any = false;
        while (at < bytes.size() && std::isdigit(byte_at(bytes, at)) != 0 && value < 1'000'000'000) {
            value = value * 10 + (byte_at(bytes, at) - '0');
            any = true;
            ++at;
        }
        if (!any) return fail(ErrorCode::BadInput, "the PNM data end early or hold something that is no number");
        return value;
    };
    const int kind = byte_at(bytes, 1) - '0';
    if (kind != 2 && kind != 3 && kind != 5 && kind != 6)
        return fail(ErrorCode::Unsupported, "PNM of kind P{} is not supported; expected P2, P3, P5 or P6", kind);
    const std::int64_t width = VITRINE_TRY(next_number());
    const std::int64_t height = VITRINE_TRY(next_number());
    const std::int64_t top = VITRINE_TRY(next_number());
    if (width != info.width || height != info.height || width < 1 || height < 1)
        return fail(ErrorCode::BadInput, "the PNM header is contradictory");
    if (top < 1 || top > 65535)
        return fail(ErrorCode::BadInput, "the PNM's largest value is {}, expected 1 to 65535", top);
    const std::int64_t channels = kind == 3 || kind == 6 ? 3 : 1;
    const std::int64_t count = width * height * channels;
    const bool plain = kind <= 3;
    const std::int64_t bytes_each = top > 255 ? 2 : 1;
    ++at;  // one white space after the header
    if (!plain && static_cast<std::int64_t>(bytes.size()) - static_cast<std::int64_t>(at) < count * bytes_each)
        return fail(ErrorCode::BadInput, "the picture is truncated: {} bytes of pixels, expected {}",
                    std::max<std::int64_t>(0, static_cast<std::int64_t>(bytes.size()) - static_cast<std::int64_t>(at)),
                    count * bytes_each);
    // Plain numbers take two bytes each at least: a short file cannot ask for a large picture.
    if (plain && static_cast<std::int64_t>(bytes.size()) < count)
        return fail(ErrorCode::BadInput, "the picture is truncated");
    Photo photo;
    photo.image = Image(width, height);
    for (std::int64_t i = 0; i < count; ++i) {
        std::int64_t value = 0;
        if (plain) {
            value = VITRINE_TRY(next_number());
        } else {
            value = byte_at(bytes, at++);
            if (bytes_each == 2) value = value * 256 + byte_at(bytes, at++);
        }
        value = std::min(value, top);
        const auto level = static_cast<std::uint8_t>(top == 255 ? value : (value * 255 + top / 2) / top);
        if (channels == 3)
            photo.image.pixels[static_cast<std::size_t>(i)] = level;
        else
            std::fill_n(photo.image.pixels.begin() + 3 * i, 3, level);
    }
    if (bytes_each == 2)
        photo.note = "16 bit reduced to 8";
    else if (channels == 1)
        photo.note = "grey, shown as RGB";
    return photo;
}

void add_note(std::string& notes, std::string_view note) {
    if (!notes.empty()) notes += "; ";
    notes += note;
}

#ifdef VITRINE_OPENCV

/// Any Mat that imdecode gives to 8-bit RGB; alpha goes over white.
Result<Image> to_rgb(const cv::Mat& decoded, std::string& note) {
    if (decoded.depth() != CV_8U && decoded.depth() != CV_16U)
        return fail(ErrorCode::Unsupported, "its samples are {} numbers; expected 8 or 16 bit",
                    decoded.depth() == CV_32F || decoded.depth() == CV_64F ? "floating point" : "signed");
    const int channels = decoded.channels();
    const bool wide = decoded.depth() == CV_16U;
    if (wide) add_note(note, "16 bit reduced to 8");
    Image image(decoded.cols, decoded.rows);
    bool transparent = false;
    for (int y = 0; y < decoded.rows; ++y) {
        const auto* row8 = decoded.ptr<std::uint8_t>(y);
        const auto* row16 = reinterpret_cast<const std::uint16_t*>(row8);
        // The high byte, as Pillow reduces 16-bit RGB.
        const auto sample = [&](int x, int c) -> int {
            return wide ? row16[x * channels + c] >> 8 : row8[x * channels + c];
        };
        std::uint8_t* out = image.at(0, y);
        for (int x = 0; x < decoded.cols; ++x, out += 3) {
            int rgb[3];
            for (int c = 0; c < 3; ++c) rgb[c] = channels >= 3 ? sample(x, 2 - c) : sample(x, 0);
            if (channels == 4 || channels == 2) {
                const int alpha = sample(x, channels - 1);
                if (alpha != 255) {
                    transparent = true;
                    for (int& v : rgb) v = (v * alpha + 255 * (255 - alpha) + 127) / 255;
                }
            }
            for (int c = 0; c < 3; ++c) out[c] = static_cast<std::uint8_t>(rgb[c]);
        }
    }
    if (transparent) add_note(note, "transparent parts shown over white");
    return image;
}

/// An animated WebP's first frame as a file of its own: its compressed chunk under a new header. Empty when it cannot
/// be had so.
std::vector<std::byte> first_webp_frame(Bytes bytes) {
    const auto number = [&](std::size_t at, std::size_t count) {
        std::size_t value = 0;
        for (std::size_t i = count; i-- > 0;) value = value * 256 + static_cast<std::size_t>(byte_at(bytes, at + i));
        return value;
    };
    const auto chunk_is = [&](std::size_t at, const char* name) {
        return std::memcmp(bytes.data() + at, name, 4) == 0;
    };
    for (std::size_t at = 12; at + 8 <= bytes.size();) {
        const std::size_t length = number(at + 4, 4);
        if (length > bytes.size() - at - 8) return {};
        if (chunk_is(at, "ANMF") && length >= 16 + 8) {
            const std::size_t end = at + 8 + length;
            for (std::size_t inner = at + 8 + 16; inner + 8 <= end;) {
                const std::size_t size = number(inner + 4, 4);
                if (size > end - inner - 8) return {};
                if (chunk_is(inner, "VP8 ") || chunk_is(inner, "VP8L")) {
                    const std::size_t padded = std::min(size + (size & 1), end - inner - 8);
                    std::vector<std::byte> file(12 + 8 + padded);
                    std::memcpy(file.data(), "RIFF", 4);
                    for (std::size_t i = 0; i < 4; ++i)
                        file[4 + i] = static_cast<std::byte>(((4 + 8 + padded) >> (8 * i)) & 255);
                    std::memcpy(file.data() + 8, "WEBP", 4);
                    std::memcpy(file.data() + 12, bytes.data() + inner, 8 + padded);
                    return file;
                }
                inner += 8 + size + (size & 1);
            }
            return {};
        }
        at += 8 + length + (length & 1);
    }
    return {};
}

Result<Photo> decode(Bytes bytes, const ImageFileInfo& info) {
    Photo photo;
    std::vector<std::byte> frame;
    if (info.format == "WebP" && info.animated) {
        frame = first_webp_frame(bytes);
        if (frame.empty()) return fail(ErrorCode::BadInput, "the animated WebP data are damaged or truncated");
        bytes = frame;
    }
    if (info.cmyk) add_note(photo.note, "CMYK converted to RGB without its colour profile");
    if (info.animated) add_note(photo.note, "first picture of an animation");
    cv::Mat decoded;
    try {
        const cv::Mat wrapped(1, static_cast<int>(bytes.size()), CV_8U, const_cast<std::byte*>(bytes.data()));
        // Orientation is ours to undo (IMREAD_UNCHANGED leaves it alone); JPEG goes straight to colour, as Pillow's
        // convert("RGB").
        const int flags =
            info.format == "JPEG" ? cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION : cv::IMREAD_UNCHANGED;
        decoded = cv::imdecode(wrapped, flags);
    } catch (const cv::Exception&) {
        return fail(ErrorCode::BadInput, "the {} data are damaged", info.format);
    } catch (const std::bad_alloc&) {
        return fail(ErrorCode::OutOfMemory, "a picture of {} x {} pixels does not fit into memory", info.width,
                    info.height);
    }
    if (decoded.empty()) {
        return fail(ErrorCode::BadInput, "the {} data are damaged or truncated", info.format);
    }
    if (decoded.cols != info.width || decoded.rows != info.height)
        return fail(ErrorCode::BadInput, "the {} header says {} x {}, the data {} x {}", info.format, info.width,
                    info.height, decoded.cols, decoded.rows);
    photo.image = VITRINE_TRY(to_rgb(decoded, photo.note));
    return photo;
}

#endif

Result<Photo> read_bytes(Bytes bytes, bool apply_exif) {
    const ImageFileInfo info = VITRINE_TRY(inspect_image(bytes));
    if (info.format == "JPEG" && !jpeg_is_whole(bytes))
        return fail(ErrorCode::BadInput, "the JPEG data are truncated: their end is missing");
    if (info.format == "PNG" && !png_is_whole(bytes))
        return fail(ErrorCode::BadInput, "the PNG data are truncated: their end is missing");
    Photo photo;
    if (info.format == "PNM") {
        photo = VITRINE_TRY(read_pnm(bytes, info));
    } else if (info.format == "GIF") {
        GifFrame frame = VITRINE_TRY(read_gif(bytes));
        photo.image = std::move(frame.image);
        if (info.animated) add_note(photo.note, "first picture of an animation");
        if (frame.transparent) add_note(photo.note, "transparent parts shown over white");
    } else {
#ifdef VITRINE_OPENCV
        if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()))
            return fail(ErrorCode::BadInput, "the file is larger than 2 GB");
        photo = VITRINE_TRY(decode(bytes, info));
#else
        return fail(ErrorCode::Unsupported,
                    "this build has no decoder for {}; it was built without OpenCV and reads PPM only", info.format);
#endif
    }
    photo.orientation = apply_exif && info.orientation >= 1 && info.orientation <= 8 ? info.orientation : 1;
    if (photo.orientation != 1) {
        photo.image = upright(std::move(photo.image), photo.orientation);
        add_note(photo.note, "turned upright by its EXIF orientation");
    }
    return photo;
}

}  // namespace

Result<Photo> read_photo(const std::filesystem::path& file, bool apply_exif) {
    std::error_code error;
    const auto status = std::filesystem::status(file, error);
    if (!std::filesystem::exists(status)) return fail(ErrorCode::NotFound, "there is no picture {}", file.string());
    if (std::filesystem::is_directory(status))
        return fail(ErrorCode::BadInput, "{} is a folder, expected a picture", file.string());
    if (!std::filesystem::is_regular_file(status))
        return fail(ErrorCode::BadInput, "{} is no regular file, expected a picture", file.string());
    // Read, not mapped: a file that shrinks while a decoder walks a mapping of it would kill the program.
    const std::string bytes = VITRINE_TRY(read_text(file, std::size_t{2} << 30));
    auto photo = read_bytes(std::as_bytes(std::span(bytes)), apply_exif);
    if (!photo) return tl::make_unexpected(std::move(photo.error()).with_context(file.string()));
    return photo;
}

Status write_picture(const std::filesystem::path& file, const Image& image) {
    if (image.empty()) return fail(ErrorCode::BadInput, "there is no picture to write to {}", file.string());
    const std::string extension = lower(file.extension().string());
    if (extension == ".ppm") {
        const std::string header = fmt::format("P6\n{} {}\n255\n", image.width, image.height);
        std::vector<std::byte> bytes(header.size() + image.pixels.size());
        std::memcpy(bytes.data(), header.data(), header.size());
        std::memcpy(bytes.data() + header.size(), image.pixels.data(), image.pixels.size());
        return write_file(file, bytes);
    }
    if (extension != ".png")
        return fail(ErrorCode::BadInput, "{} cannot be written; expected a name ending in .png or .ppm", file.string());
#ifdef VITRINE_OPENCV
    cv::Mat bgr(static_cast<int>(image.height), static_cast<int>(image.width), CV_8UC3);
    for (int y = 0; y < bgr.rows; ++y) {
        const std::uint8_t* in = image.at(0, y);
        auto* out = bgr.ptr<std::uint8_t>(y);
        for (int x = 0; x < bgr.cols; ++x, in += 3, out += 3) out[0] = in[2], out[1] = in[1], out[2] = in[0];
    }
    std::vector<std::uint8_t> encoded;
    try {
        if (!cv::imencode(".png", bgr, encoded))
            return fail(ErrorCode::Internal, "the picture could not be encoded as PNG");
    } catch (const cv::Exception& problem) {
        return fail(ErrorCode::Internal, "the picture could not be encoded as PNG: {}", problem.what());
    }
    return write_file(file, std::as_bytes(std::span(encoded)));
#else
    return fail(ErrorCode::Unsupported, "this build writes no PNG (it was built without OpenCV); name the file .ppm");
#endif
}

}  // namespace vitrine
