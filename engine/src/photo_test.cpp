// Tests of reading picture files: equal to Pillow, every awkward kind converted and noted, every broken one refused in
// a sentence.
#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vitrine/base/file.h>
#include <vitrine/preprocess.h>

namespace vitrine {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kPictures = fs::path(VITRINE_SOURCE_DIR) / "tests/parity/data/pictures";

bool decodes() {
#ifdef VITRINE_OPENCV
    return true;
#else
    return false;
#endif
}

class Photos : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::temp_directory_path() / fmt::format("vitrine_photo_test_{}", getpid());
        fs::create_directories(folder_);
    }
    void TearDown() override {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }
    fs::path write(const std::string& name, const std::string& bytes) {
        std::ofstream(folder_ / name, std::ios::binary) << bytes;
        return folder_ / name;
    }
    static std::string bytes_of(const std::string& name) { return read_text(kPictures / name).value(); }
    fs::path folder_;
};

int worst_difference(const Image& a, const Image& b) {
    if (a.width != b.width || a.height != b.height) return 256;
    int worst = 0;
    for (std::size_t i = 0; i < a.pixels.size(); ++i)
        worst = std::max(worst, std::abs(int{a.pixels[i]} - int{b.pixels[i]}));
    return worst;
}

TEST_F(Photos, JpegsDecodeAsPillowDecodesThem) {
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    for (const char* name : {"subsampled", "full", "progressive", "grey"}) {
        const auto have = read_photo(kPictures / fmt::format("{}.jpg", name));
        const auto want = read_photo(kPictures / fmt::format("{}.ppm", name));
        ASSERT_TRUE(have.has_value()) << have.error().message;
        ASSERT_TRUE(want.has_value()) << want.error().message;
        EXPECT_EQ(worst_difference(have->image, want->image), 0) << name;
        EXPECT_EQ(have->note, "") << name;
    }
}

TEST_F(Photos, CmykIsConvertedAndNoted) {
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    const auto have = read_photo(kPictures / "cmyk.jpg");
    ASSERT_TRUE(have.has_value()) << have.error().message;
    EXPECT_THAT(have->note, HasSubstr("CMYK"));
    // The decoder divides by 256 where Pillow divides by 255.
    EXPECT_LE(worst_difference(have->image, read_photo(kPictures / "cmyk.ppm")->image), 2);
}

TEST_F(Photos, OrientationIsUndoneUnlessIgnored) {
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    const auto upright = read_photo(kPictures / "turned.jpg");
    ASSERT_TRUE(upright.has_value()) << upright.error().message;
    EXPECT_EQ(upright->orientation, 6);
    EXPECT_EQ(upright->image.width, 33);
    EXPECT_EQ(upright->image.height, 49);
    EXPECT_THAT(upright->note, HasSubstr("EXIF"));
    const auto stored = read_photo(kPictures / "turned.jpg", false);
    EXPECT_EQ(stored->orientation, 1);
    EXPECT_EQ(stored->image.width, 49);
}

TEST_F(Photos, LosslessFormatsGiveTheSamePixels) {
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    const auto want = read_photo(kPictures / "plain.ppm");
    ASSERT_TRUE(want.has_value());
    for (const char* name : {"plain.png", "plain.bmp", "plain.tiff", "lossless.webp"}) {
        const auto have = read_photo(kPictures / name);
        ASSERT_TRUE(have.has_value()) << name << ": " << have.error().message;
        EXPECT_EQ(worst_difference(have->image, want->image), 0) << name;
    }
    EXPECT_EQ(
        worst_difference(read_photo(kPictures / "palette.png")->image, read_photo(kPictures / "palette.ppm")->image),
        0);
}

TEST_F(Photos, AlphaGoesOverWhite) {
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    for (const char* name : {"alpha.png", "grey_alpha.png"}) {
        const auto have = read_photo(kPictures / name);
        ASSERT_TRUE(have.has_value()) << have.error().message;
        EXPECT_THAT(have->note, HasSubstr("white")) << name;
        EXPECT_EQ(int{have->image.at(0, 0)[0]}, 255);
        EXPECT_EQ(int{have->image.at(7, 11)[2]}, 255);
    }
    const auto opaque = read_photo(kPictures / "plain.ppm");
    const auto have = read_photo(kPictures / "alpha.png");
    EXPECT_EQ(int{have->image.at(15, 3)[1]}, int{opaque->image.at(15, 3)[1]});
    EXPECT_NEAR(have->image.at(8, 3)[1], (128 * opaque->image.at(8, 3)[1] + 127 * 255) / 255.0, 1.0);
}

TEST_F(Photos, SixteenBitsBecomeEight) {
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    const auto have = read_photo(kPictures / "deep.png");
    ASSERT_TRUE(have.has_value()) << have.error().message;
    EXPECT_THAT(have->note, HasSubstr("16 bit"));
    EXPECT_EQ(have->image.width, 16);
    const auto ppm = write("deep.ppm", std::string("P6\n1 1\n65535\n") + std::string("\xff\xff\x80\x00\x00\x00", 6));
    const auto deep = read_photo(ppm);
    ASSERT_TRUE(deep.has_value()) << deep.error().message;
    EXPECT_EQ(int{deep->image.pixels[0]}, 255);
    EXPECT_EQ(int{deep->image.pixels[1]}, 128);
    EXPECT_THAT(deep->note, HasSubstr("16 bit"));
}

TEST_F(Photos, AnimationsShowTheirFirstPicture) {
    const auto gif = read_photo(kPictures / "animated.gif");
    ASSERT_TRUE(gif.has_value()) << gif.error().message;
    EXPECT_THAT(gif->note, HasSubstr("first picture"));
    EXPECT_EQ(worst_difference(gif->image, read_photo(kPictures / "animated.ppm")->image), 0);
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    for (const char* name : {"animated.png", "animated.webp"}) {
        const auto have = read_photo(kPictures / name);
        ASSERT_TRUE(have.has_value()) << name << ": " << have.error().message;
        EXPECT_THAT(have->note, HasSubstr("first picture")) << name;
        EXPECT_EQ(have->image.width, 16);
    }
}

TEST_F(Photos, EveryTruncationIsRefusedOrWhole) {
    for (const char* name : {"subsampled.jpg", "progressive.jpg", "plain.png", "plain.ppm", "animated.gif", "plain.bmp",
                             "lossless.webp"}) {
        const std::string bytes = bytes_of(name);
        for (const double share : {0.0, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95}) {
            const auto cut =
                write(std::string("cut_") + name,
                      bytes.substr(0, static_cast<std::size_t>(static_cast<double>(bytes.size()) * share)));
            const auto read = read_photo(cut);
            // A first GIF frame may well lie within the part that is left.
            if (std::string(name) == "animated.gif" && share >= 0.3) continue;
            ASSERT_FALSE(read.has_value()) << name << " at " << share;
            EXPECT_FALSE(read.error().message.empty());
            EXPECT_EQ(read.error().message.find('\n'), std::string::npos);
        }
    }
}

TEST_F(Photos, DamagedBytesNeverCrash) {
    std::uint64_t random = 1;
    for (const char* name : {"subsampled.jpg", "plain.png", "plain.ppm", "animated.gif", "animated.webp", "plain.tiff",
                             "deep.png", "plain.bmp"}) {
        const std::string bytes = bytes_of(name);
        for (int round = 0; round < 40; ++round) {
            std::string damaged = bytes;
            for (int i = 0; i < 6; ++i) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                damaged[static_cast<std::size_t>(random >> 33) % damaged.size()] = static_cast<char>(random >> 20);
            }
            const auto read = read_photo(write("damaged", damaged));
            if (read)
                EXPECT_GT(read->image.width * read->image.height, 0);
            else
                EXPECT_FALSE(read.error().message.empty());
        }
    }
}

TEST_F(Photos, WhatIsNoPictureIsRefusedInASentence) {
    EXPECT_EQ(read_photo(folder_ / "vanished.jpg").error().code, ErrorCode::NotFound);
    EXPECT_THAT(read_photo(folder_).error().message, HasSubstr("is a folder"));
    EXPECT_FALSE(read_photo(write("empty.jpg", "")).has_value());
    EXPECT_FALSE(read_photo(write("text.jpg", "this is no picture at all")).has_value());
    EXPECT_THAT(read_photo(write("text.jpg", "this is no picture at all")).error().message, HasSubstr("text.jpg"));
    EXPECT_FALSE(read_photo("/dev/null").has_value());
}

TEST_F(Photos, AnUnreadableFileSaysSo) {
    if (geteuid() == 0) GTEST_SKIP() << "the superuser reads everything";
    const auto file = write("locked.ppm", bytes_of("plain.ppm"));
    chmod(file.c_str(), 0);
    EXPECT_EQ(read_photo(file).error().code, ErrorCode::Io);
}

TEST_F(Photos, ZeroAndHugeSizesAreRefusedBeforeAnythingIsAllocated) {
    std::string png = bytes_of("plain.png");
    const auto sized = [&](std::uint32_t width, std::uint32_t height) {
        std::string out = png;
        for (int i = 0; i < 4; ++i) {
            out[static_cast<std::size_t>(16 + i)] = static_cast<char>(width >> (24 - 8 * i));
            out[static_cast<std::size_t>(20 + i)] = static_cast<char>(height >> (24 - 8 * i));
        }
        return out;
    };
    EXPECT_FALSE(read_photo(write("zero.png", sized(0, 12))).has_value());
    EXPECT_FALSE(read_photo(write("huge.png", sized(60000, 60000))).has_value());
    EXPECT_FALSE(read_photo(write("wide.png", sized(4000000000u, 1))).has_value());
    EXPECT_FALSE(read_photo(write("zero.ppm", "P6\n0 4\n255\n")).has_value());
    EXPECT_FALSE(read_photo(write("huge.ppm", "P6\n60000 16000\n255\nabc")).has_value());
    EXPECT_FALSE(read_photo(write("plain_huge.ppm", "P3\n30000 30000\n255\n1 2 3")).has_value());
}

TEST_F(Photos, PnmWithCommentsAndPlainNumbersIsRead) {
    const auto plain = read_photo(write("a.ppm", "P3\n# made by hand\n2 1\n255\n1 2 3  4 5 6\n"));
    ASSERT_TRUE(plain.has_value()) << plain.error().message;
    EXPECT_EQ(plain->image.pixels, (std::vector<std::uint8_t>{1, 2, 3, 4, 5, 6}));
    const auto grey = read_photo(write("b.pgm", "P5\n2 1\n15\n" + std::string("\x0f\x00", 2)));
    ASSERT_TRUE(grey.has_value()) << grey.error().message;
    EXPECT_EQ(grey->image.pixels, (std::vector<std::uint8_t>{255, 255, 255, 0, 0, 0}));
}

TEST_F(Photos, WrittenPicturesAreReadBackEqual) {
    const auto want = read_photo(kPictures / "plain.ppm");
    ASSERT_TRUE(write_picture(folder_ / "out.ppm", want->image).has_value());
    EXPECT_EQ(read_photo(folder_ / "out.ppm")->image.pixels, want->image.pixels);
    EXPECT_FALSE(write_picture(folder_ / "out.xyz", want->image).has_value());
    EXPECT_FALSE(write_picture(folder_ / "out.ppm", Image{}).has_value());
    EXPECT_FALSE(write_picture(folder_ / "no/such/folder/out.ppm", want->image).has_value());
    if (!decodes()) GTEST_SKIP() << "built without OpenCV";
    ASSERT_TRUE(write_picture(folder_ / "out.png", want->image).has_value());
    EXPECT_EQ(read_photo(folder_ / "out.png")->image.pixels, want->image.pixels);
}

}  // namespace
}  // namespace vitrine
