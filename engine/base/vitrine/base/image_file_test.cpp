// Headers of picture files: sizes, traps, orientation; truncated and changed at every byte.
#include <vitrine/base/image_file.h>

#include <gmock/gmock.h>
#include <vitrine/base/test_bytes.h>

namespace vitrine {
namespace {

using namespace vitrine::testing;
using ::testing::HasSubstr;

template <class T>
std::string big(T value) {
    std::string out = little<T>(value);
    return {out.rbegin(), out.rend()};
}

Result<ImageFileInfo> inspect(const std::string& text) {
    const Bytes bytes(text);
    return inspect_image(bytes.span);
}

std::string refusal(const std::string& text) {
    const auto info = inspect(text);
    return info ? "accepted" : info.error().message;
}

// A TIFF directory of SHORT entries, in either byte order.
std::string tiff(bool big_endian, const std::vector<std::pair<std::uint16_t, std::uint16_t>>& tags,
                 std::uint32_t next = 0) {
    const auto u16 = [&](std::uint16_t v) { return big_endian ? big<std::uint16_t>(v) : little<std::uint16_t>(v); };
    const auto u32 = [&](std::uint32_t v) { return big_endian ? big<std::uint32_t>(v) : little<std::uint32_t>(v); };
    std::string out = (big_endian ? "MM" : "II") + u16(42) + u32(8) + u16(static_cast<std::uint16_t>(tags.size()));
    for (const auto& [tag, value] : tags) out += u16(tag) + u16(3) + u32(1) + u16(value) + u16(0);
    return out + u32(next);
}

std::string segment(std::uint8_t marker, const std::string& body) {
    return std::string("\xFF") + static_cast<char>(marker) +
           big<std::uint16_t>(static_cast<std::uint16_t>(body.size() + 2)) + body;
}

std::string frame(std::uint16_t width, std::uint16_t height, std::uint8_t channels, std::uint8_t marker = 0xC0,
                  std::uint8_t bits = 8) {
    return segment(marker, std::string(1, static_cast<char>(bits)) + big(height) + big(width) +
                               static_cast<char>(channels) + std::string(3u * channels, '\1'));
}

std::string jpeg(const std::string& segments) {
    return "\xFF\xD8" + segments + segment(0xDA, std::string(10, '\0')) + "scan";
}

std::string exif(int orientation, bool big_endian) {
    return segment(0xE1, std::string("Exif\0\0", 6) +
                             tiff(big_endian, {{0x010F, 1}, {0x0112, static_cast<std::uint16_t>(orientation)}}));
}

std::string chunk(const std::string& name, const std::string& body) {
    return big<std::uint32_t>(static_cast<std::uint32_t>(body.size())) + name + body + "crc!";
}

std::string png(std::uint32_t width, std::uint32_t height, std::uint8_t bits, std::uint8_t colour,
                const std::string& more = "") {
    return "\x89PNG\r\n\x1A\n" +
           chunk("IHDR", big(width) + big(height) + static_cast<char>(bits) + static_cast<char>(colour) +
                             std::string(3, '\0')) +
           more + chunk("IDAT", "x") + chunk("IEND", "");
}

std::string gif(std::uint16_t width, std::uint16_t height, int frames) {
    std::string out = "GIF89a" + little(width) + little(height) + "\x80" + std::string(2, '\0') + std::string(6, 'c');
    for (int i = 0; i < frames; ++i)
        out += std::string("\x21\xF9\4\0\0\0\0\0", 8) + "\x2C" + std::string(4, '\0') + little(width) + little(height) +
               std::string(1, '\0') + "\2" + "\3abc" + std::string(1, '\0');
    return out + ";";
}

std::string riff(const std::string& chunks) {
    return "RIFF" + little<std::uint32_t>(static_cast<std::uint32_t>(chunks.size() + 4)) + "WEBP" + chunks;
}
std::string riff_chunk(const std::string& name, const std::string& body) {
    return name + little<std::uint32_t>(static_cast<std::uint32_t>(body.size())) + body +
           std::string(body.size() % 2, '\0');
}
std::string vp8x(std::uint8_t flags, std::uint32_t width, std::uint32_t height) {
    return riff_chunk("VP8X", std::string(1, static_cast<char>(flags)) + std::string(3, '\0') +
                                  little(width - 1).substr(0, 3) + little(height - 1).substr(0, 3));
}

std::string bmp(std::int32_t width, std::int32_t height, std::uint16_t depth) {
    return "BM" + std::string(12, '\0') + little<std::uint32_t>(40) + little(width) + little(height) +
           little<std::uint16_t>(1) + little(depth) + std::string(24, '\0');
}

TEST(ImageFile, ReadsJpegHeaders) {
    const auto info = inspect(jpeg(segment(0xE0, "JFIF") + frame(640, 480, 3)));
    ASSERT_TRUE(info) << info.error().message;
    EXPECT_EQ(info->format, "JPEG");
    EXPECT_EQ(info->width, 640);
    EXPECT_EQ(info->height, 480);
    EXPECT_EQ(info->channels, 3);
    EXPECT_EQ(info->bits, 8);
    EXPECT_EQ(info->orientation, 1);
    EXPECT_FALSE(info->cmyk);
    EXPECT_EQ(inspect(jpeg(frame(9, 8, 1, 0xC2)))->channels, 1) << "progressive";
    EXPECT_EQ(inspect(jpeg(frame(9, 8, 3, 0xC1, 12)))->bits, 12);
    const auto inks = inspect(jpeg(segment(0xEE, std::string("Adobe\0\x64\0\0\0\0\2", 12)) + frame(9, 8, 4)));
    ASSERT_TRUE(inks);
    EXPECT_TRUE(inks->cmyk);
    // Huffman tables (C4) and arithmetic conditioning (CC) look like frames and are none.
    EXPECT_EQ(inspect(jpeg(segment(0xC4, std::string(30, '\7')) + segment(0xCC, std::string(30, '\7')) + "\xFF\xFF" +
                           frame(9, 8, 3)))
                  ->width,
              9);
    EXPECT_EQ(refusal(jpeg(frame(0, 8, 3))), "the JPEG file says that it has 0 x 8 pixels");
    EXPECT_EQ(refusal(jpeg("")), "the JPEG file is cut short before its size");
    EXPECT_EQ(refusal(jpeg(frame(9, 8, 5))), "the JPEG file's header is damaged");
    EXPECT_EQ(refusal("\xFF\xD8\xFF\xE0" + std::string(2, '\0')), "the JPEG file's header is damaged");
}

TEST(ImageFile, ReadsOrientationInBothByteOrders) {
    for (const bool big_endian : {false, true}) {
        for (int orientation = 1; orientation <= 8; ++orientation) {
            EXPECT_EQ(inspect(jpeg(exif(orientation, big_endian) + frame(9, 8, 3)))->orientation, orientation);
            EXPECT_EQ(inspect(jpeg(frame(9, 8, 3) + exif(orientation, big_endian)))->orientation, orientation);
            EXPECT_EQ(inspect(png(9, 8, 8, 2,
                                  chunk("eXIf", tiff(big_endian, {{0x0112, static_cast<std::uint16_t>(orientation)}}))))
                          ->orientation,
                      orientation);
            EXPECT_EQ(
                inspect(riff(vp8x(8, 9, 8) +
                             riff_chunk("EXIF", tiff(big_endian, {{0x0112, static_cast<std::uint16_t>(orientation)}}))))
                    ->orientation,
                orientation);
        }
        EXPECT_EQ(inspect(jpeg(exif(0, big_endian) + frame(9, 8, 3)))->orientation, 1) << "0 is none";
        EXPECT_EQ(inspect(jpeg(exif(9, big_endian) + frame(9, 8, 3)))->orientation, 1) << "9 is none";
    }
    // EXIF whose directory lies outside is no reason to refuse the picture.
    std::string lost = exif(6, false);
    lost[4 + 6 + 4] = '\x7f';
    EXPECT_EQ(inspect(jpeg(lost + frame(9, 8, 3)))->orientation, 1);
}

TEST(ImageFile, ReadsPngHeaders) {
    const std::vector<std::tuple<int, int, int>> kinds = {{0, 16, 1}, {2, 8, 3}, {3, 4, 3}, {4, 8, 2}, {6, 16, 4}};
    for (const auto& [colour, bits, channels] : kinds) {
        const auto info = inspect(png(31, 17, static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(colour)));
        ASSERT_TRUE(info);
        EXPECT_EQ(info->format, "PNG");
        EXPECT_EQ(info->width, 31);
        EXPECT_EQ(info->height, 17);
        EXPECT_EQ(info->channels, channels);
        EXPECT_EQ(info->bits, colour == 3 ? 8 : bits);
        EXPECT_FALSE(info->animated);
    }
    EXPECT_TRUE(inspect(png(31, 17, 8, 2, chunk("acTL", big<std::uint32_t>(4) + big<std::uint32_t>(0))))->animated);
    EXPECT_FALSE(inspect(png(31, 17, 8, 2, chunk("acTL", big<std::uint32_t>(1) + big<std::uint32_t>(0))))->animated);
    EXPECT_EQ(inspect(png(31, 17, 8, 3, chunk("tRNS", "abc")))->channels, 4);
    EXPECT_EQ(refusal(png(0, 17, 8, 2)), "the PNG file says that it has 0 x 17 pixels");
    EXPECT_EQ(refusal(png(31, 17, 8, 5)), "the PNG file's header is damaged");
    EXPECT_EQ(refusal(png(31, 17, 3, 0)), "the PNG file's header is damaged");
}

TEST(ImageFile, HugePicturesAreRefusedByTheirHeader) {
    EXPECT_EQ(refusal(png(65'501, 1, 8, 2)),
              "the PNG file says that it has 65501 x 1 pixels, more than 65500 a side are not read");
    EXPECT_EQ(refusal(png(0xFFFFFFFF, 0xFFFFFFFF, 8, 2)),
              "the PNG file says that it has 4294967295 x 4294967295 pixels, more than 65500 a side are not read");
    EXPECT_EQ(refusal(png(65'500, 65'500, 8, 2)),
              "the PNG file says that it has 65500 x 65500 pixels, more than 1000000000 in all are not read");
    const Bytes bytes(png(100, 100, 8, 2));
    EXPECT_TRUE(inspect_image(bytes.span, 10'000));
    EXPECT_FALSE(inspect_image(bytes.span, 9'999));
}

TEST(ImageFile, CountsTheFramesOfAGif) {
    EXPECT_FALSE(inspect(gif(20, 10, 1))->animated);
    EXPECT_TRUE(inspect(gif(20, 10, 2))->animated);
    EXPECT_EQ(inspect(gif(20, 10, 1))->width, 20);
    EXPECT_EQ(inspect(gif(20, 10, 1))->format, "GIF");
    EXPECT_EQ(refusal(gif(0, 0, 1)), "the GIF file says that it has 0 x 0 pixels");
}

TEST(ImageFile, ReadsBmpTiffWebpAndPnmHeaders) {
    EXPECT_EQ(inspect(bmp(30, -20, 24))->height, 20) << "rows from the top";
    EXPECT_EQ(inspect(bmp(30, 20, 32))->channels, 4);
    EXPECT_EQ(refusal(bmp(-30, 20, 24)), "the BMP file says that it has -30 x 20 pixels");
    EXPECT_NE(refusal(bmp(30, std::numeric_limits<std::int32_t>::min(), 24)), "accepted");
    for (const bool big_endian : {false, true}) {
        const auto info =
            inspect(tiff(big_endian, {{0x100, 300}, {0x101, 200}, {0x102, 16}, {0x106, 2}, {0x112, 6}, {0x115, 3}}));
        ASSERT_TRUE(info) << info.error().message;
        EXPECT_EQ(info->format, "TIFF");
        EXPECT_EQ(info->width, 300);
        EXPECT_EQ(info->bits, 16);
        EXPECT_EQ(info->channels, 3);
        EXPECT_EQ(info->orientation, 6);
        EXPECT_TRUE(inspect(tiff(big_endian, {{0x100, 3}, {0x101, 2}, {0x106, 5}, {0x115, 4}}, 1000))->cmyk);
        EXPECT_TRUE(inspect(tiff(big_endian, {{0x100, 3}, {0x101, 2}}, 1000))->animated) << "several pages";
        EXPECT_EQ(refusal(tiff(big_endian, {{0x100, 3}})), "the TIFF file says that it has 3 x 0 pixels");
    }
    EXPECT_EQ(inspect(riff(vp8x(0x12, 300, 200)))->width, 300);
    EXPECT_TRUE(inspect(riff(vp8x(0x12, 300, 200)))->animated);
    EXPECT_EQ(inspect(riff(vp8x(0x10, 300, 200)))->channels, 4);
    const auto lossy =
        inspect(riff(riff_chunk("VP8 ", std::string("\0\0\0\x9d\x01\x2a", 6) + little<std::uint16_t>(40) +
                                            little<std::uint16_t>(0x4000 | 30))));
    ASSERT_TRUE(lossy);
    EXPECT_EQ(lossy->width, 40);
    EXPECT_EQ(lossy->height, 30);
    const auto lossless = inspect(riff(riff_chunk("VP8L", "\x2f" + little<std::uint32_t>(39 | 29 << 14 | 1 << 28))));
    ASSERT_TRUE(lossless);
    EXPECT_EQ(lossless->width, 40);
    EXPECT_EQ(lossless->height, 30);
    EXPECT_EQ(lossless->channels, 4);
    EXPECT_EQ(inspect("P6 # a comment\n30 # wide\n20\n65535\n")->bits, 16);
    EXPECT_EQ(inspect("P5\n30 20\n255\n")->channels, 1);
    EXPECT_EQ(inspect("P4\n30 20\n")->bits, 1);
    EXPECT_EQ(inspect("P7\nWIDTH 30\nHEIGHT 20\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n")->channels, 4);
    for (const char* text :
         {"P6\n", "P6\n30", "P6\n30 20", "P6\n-1 20 255\n", "P6\n99999999999999999999 20 255\n", "P6\n0 20 255\n",
          "P6\n30 20 0\n", "P6\n30 20 70000\n", "P7\nWIDTH 30\n", "P7\nWIDTH 30\nHEIGHT 20\nENDHDR\n", "P6 #"})
        EXPECT_NE(refusal(text), "accepted") << text;
}

TEST(ImageFile, WhatIsNoPictureIsSaidSo) {
    EXPECT_EQ(refusal(""), "the file is empty, a picture is wanted");
    EXPECT_EQ(refusal("hello, world"),
              "this is no picture that can be read here (JPEG, PNG, GIF, BMP, TIFF, WebP, PNM)");
    EXPECT_EQ(refusal("P"), "this is no picture that can be read here (JPEG, PNG, GIF, BMP, TIFF, WebP, PNM)");
    EXPECT_EQ(refusal("<svg xmlns"), "this is no picture that can be read here (JPEG, PNG, GIF, BMP, TIFF, WebP, PNM)");
}

TEST(ImageFile, EveryTruncationAndEveryChangedByteStaysWithinTheFile) {
    const std::vector<std::string> files = {
        jpeg(exif(6, true) + frame(640, 480, 3)),
        png(31, 17, 8, 3, chunk("acTL", std::string(8, '\1')) + chunk("eXIf", tiff(false, {{0x0112, 3}}))),
        gif(20, 10, 2),
        bmp(30, 20, 24),
        tiff(true, {{0x100, 3}, {0x101, 2}}, 8),
        std::string("II+\0\10\0\0\0\20\0\0\0\0\0\0\0", 16) + little<std::uint64_t>(1) + little<std::uint16_t>(0x100) +
            little<std::uint16_t>(16) + little<std::uint64_t>(1) + little<std::uint64_t>(9) + little<std::uint64_t>(0),
        riff(vp8x(0x1a, 300, 200) + riff_chunk("EXIF", tiff(true, {{0x0112, 3}}))),
        riff(riff_chunk("VP8L", "\x2f" + little<std::uint32_t>(39 | 29 << 14))),
        "P7\nWIDTH 30\nHEIGHT 20\nDEPTH 4\nMAXVAL 255\nENDHDR\n",
        "P6 # c\n30 20\n255\n"};
    for (const std::string& file : files) {
        for (std::size_t length = 0; length <= file.size(); ++length) {
            const auto info = inspect(file.substr(0, length));
            if (info) {
                EXPECT_GT(info->width * info->height, 0);
            }
        }
        for (std::size_t i = 0; i < file.size(); ++i) {
            for (int value = 0; value < 256; ++value) {
                std::string changed = file;
                changed[i] = static_cast<char>(value);
                const auto info = inspect(changed);
                if (info) {
                    EXPECT_GT(info->width * info->height, 0);
                }
            }
        }
    }
}

}  // namespace
}  // namespace vitrine
