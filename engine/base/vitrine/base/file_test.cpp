// Mapping, bounded reading, replacing files, names that stay inside; and the helpers for untrusted text.
#include <vitrine/base/file.h>

#include <sys/stat.h>

#include <gmock/gmock.h>
#include <vitrine/base/bytes.h>
#include <vitrine/base/test_bytes.h>

namespace vitrine {
namespace {

using namespace vitrine::testing;
using ::testing::HasSubstr;

TEST(File, MapsWhatIsThere) {
    const Folder folder;
    const auto mapped = map_file(folder.put("a", "hello"));
    ASSERT_TRUE(mapped);
    EXPECT_EQ(bytes::text(mapped->bytes), "hello");
    const auto empty = map_file(folder.put("b", ""));
    ASSERT_TRUE(empty);
    EXPECT_TRUE(empty->bytes.empty());
}

TEST(File, MappingOutlivesTheNameAndTheFile) {
    const Folder folder;
    std::shared_ptr<const void> keep;
    std::span<const std::byte> span;
    {
        auto mapped = map_file(folder.put("a", std::string(10'000, 'x')));
        ASSERT_TRUE(mapped);
        keep = mapped->keep_alive;
        span = mapped->bytes;
    }
    std::filesystem::remove(folder / "a");
    EXPECT_EQ(std::count(span.begin(), span.end(), std::byte{'x'}), 10'000);
}

TEST(File, APipeIsRefusedInsteadOfWaitedFor) {
    const Folder folder;
    ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
    EXPECT_EQ(map_file(folder / "pipe").error().message, "pipe is no regular file");
    EXPECT_EQ(read_text(folder / "pipe").error().message, "pipe is no regular file");
    EXPECT_THAT(map_file("/dev/null").error().message, HasSubstr("no regular file"));
}

TEST(File, ReadTextKeepsItsLimit) {
    const Folder folder;
    const auto file = folder.put("a", "0123456789");
    EXPECT_EQ(*read_text(file, 10), "0123456789");
    EXPECT_EQ(read_text(file, 9).error().message, "a is larger than the 9 bytes allowed here");
    EXPECT_EQ(read_text(folder / "gone").error().code, ErrorCode::NotFound);
    // Says 0 bytes and holds more.
    EXPECT_FALSE(read_text("/proc/self/maps", 10));
}

TEST(File, WritingReplacesWholeFilesOnly) {
    const Folder folder;
    const auto file = folder.put("a", "old");
    {
        auto beside = FileBeside::create(file);
        ASSERT_TRUE(beside);
        ASSERT_TRUE(beside->append("new and half"));
        EXPECT_EQ(*read_text(file), "old");
    }
    EXPECT_EQ(*read_text(file), "old") << "never committed";
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "and nothing left beside";
    ASSERT_TRUE(write_text(file, "new"));
    EXPECT_EQ(*read_text(file), "new");
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
    EXPECT_THAT(write_text(folder / "no/file", "x").error().message, HasSubstr("cannot be written"));
    std::filesystem::create_directory(folder / "taken");
    EXPECT_THAT(write_text(folder / "taken", "x").error().message, HasSubstr("cannot be replaced"));
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
}

TEST(File, ADeviceOrAPipeIsNotReplaced) {
    const std::filesystem::path pipe = std::filesystem::path(::testing::TempDir()) / "a_pipe";
    std::filesystem::remove(pipe);
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    const Status written = write_text(pipe, "text");
    ASSERT_FALSE(written);
    EXPECT_NE(written.error().message.find("no regular file"), std::string::npos) << written.error().message;
    EXPECT_TRUE(std::filesystem::is_fifo(pipe));
    std::filesystem::remove(pipe);
}

TEST(File, NamesThatLeaveTheirFolderAreKnown) {
    for (const char* name : {"a", "a/b", "a.b/c..d", "...", "a/.hidden", "a/./b"})
        EXPECT_TRUE(stays_inside(name)) << name;
    for (const char* name : {"", "/a", "..", "../a", "a/..", "a/../b", "\\a", "..\\a", "a\\..\\b", "C:\\a", "c:a"})
        EXPECT_FALSE(stays_inside(name)) << name;
    EXPECT_FALSE(stays_inside(std::string_view("a\0b", 3)));
}

TEST(Bytes, KnowsUtf8) {
    for (const char* text : {"", "plain", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"})
        EXPECT_TRUE(bytes::valid_utf8(text)) << text;
    for (const char* text : {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                             "\xf0\x9f\x98", "\xff", "\xe2\x28\xa1"})
        EXPECT_FALSE(bytes::valid_utf8(text));
    EXPECT_EQ(bytes::to_utf8("a\xe9"), "a\xc3\xa9");
    EXPECT_TRUE(bytes::valid_utf8(bytes::printable(std::string(99, 'a') + "\xc3\xa9")));
}

TEST(Bytes, ChecksRangesWithoutOverflow) {
    EXPECT_TRUE(bytes::fits(3, 2, 5));
    EXPECT_FALSE(bytes::fits(3, 3, 5));
    EXPECT_FALSE(bytes::fits(~0ull, 2, 5));
    EXPECT_FALSE(bytes::fits(2, ~0ull, 5));
    EXPECT_FALSE(bytes::multiply(1ull << 40, 1ull << 40));
    EXPECT_FALSE(bytes::add(~0ull, 1));
}

}  // namespace
}  // namespace vitrine
