// Folders of pictures: what is found in them, what is passed over, what cannot be read.
#include "picture_files.h"

#include <gmock/gmock.h>

#include <fcntl.h>
#include <unistd.h>

#include <fstream>

#include <vitrine/base/readers.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class PictureFiles : public testing::Test {
  protected:
    void SetUp() override {
        fs::remove_all(folder_);
        fs::create_directories(folder_ / "inside" / "deeper");
        for (const char* name : {"b.jpg", "a.PNG", "inside/c.jpg", "inside/deeper/d.jpg", "notes.txt"})
            std::ofstream(folder_ / name) << "x";
        fs::create_directory_symlink(folder_, folder_ / "inside" / "again");
    }
    void TearDown() override { fs::remove_all(folder_); }
    static void write(const fs::path& file, const std::map<std::string, std::string>& metadata) {
        ASSERT_TRUE(write_safetensors(file, {}, metadata));
    }
    std::vector<std::string> names(const std::vector<fs::path>& files) const {
        std::vector<std::string> out;
        for (const fs::path& file : files) out.push_back(file.lexically_relative(folder_).generic_string());
        return out;
    }

    fs::path folder_ =
        fs::path(testing::TempDir()) /
        ("vitrine_picture_files_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
};

TEST_F(PictureFiles, AtAnyDepthAreFoundOnce) {
    const auto found = pictures_and_packs_below(folder_);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_THAT(names(found->pictures), ElementsAre("a.PNG", "b.jpg", "inside/c.jpg", "inside/deeper/d.jpg"));
    EXPECT_THAT(found->packs, IsEmpty());
    EXPECT_THAT(found->notes, IsEmpty());
}

TEST_F(PictureFiles, OfOursThatHoldNoPicturesArePassedOver) {
    write(folder_ / "pack.safetensors", {{"format", "vitrine.pack"}});
    write(folder_ / "foreign.safetensors", {{"format", "pt"}});
    write(folder_ / "concepts.safetensors", {{"format", "vitrine.autoencoder"}});
    write(folder_ / "classifier.safetensors", {{"format", "pt"}, {"vitrine.settings", "{}"}});
    std::ofstream(folder_ / "broken.safetensors") << "x";
    const auto found = pictures_and_packs_below(folder_);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_THAT(names(found->packs), ElementsAre("broken.safetensors", "foreign.safetensors", "pack.safetensors"));
    EXPECT_THAT(found->notes, ElementsAre(HasSubstr("classifier.safetensors holds no pictures"),
                                          HasSubstr("concepts.safetensors holds no pictures but vitrine.autoencoder")));
}

TEST_F(PictureFiles, WhatIsNoFolderIsSaid) {
    const auto said = [](const fs::path& place) {
        const auto found = files_below(place, [](const fs::path&) { return true; });
        return found ? std::string("read") : found.error().message;
    };
    EXPECT_THAT(said(folder_ / "gone"), HasSubstr("there is no folder at"));
    EXPECT_THAT(said(folder_ / "b.jpg" / "below"), HasSubstr("there is no folder at"));
    EXPECT_THAT(said(folder_ / "b.jpg"), HasSubstr("b.jpg is a picture, expected a folder of pictures"));
    EXPECT_THAT(said(folder_ / "notes.txt"), HasSubstr("notes.txt is a file, expected a folder of pictures"));
}

TEST_F(PictureFiles, AStopEndsTheWalk) {
    std::stop_source stop;
    int seen = 0;
    const auto found = files_below(
        folder_,
        [&](const fs::path&) {
            stop.request_stop();
            return ++seen > 0;
        },
        stop.get_token());
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().code, ErrorCode::Cancelled);
    EXPECT_EQ(seen, 1);
}

TEST_F(PictureFiles, FoldersThatMayNotBeReadAreNotCalledEmpty) {
    fs::permissions(folder_ / "inside" / "deeper", fs::perms::none);
    const uid_t before = geteuid();
    constexpr uid_t kNobody = 65534;  // root may read everything
    if (before == 0) {
        // The other user has to come this far, whatever the umask gave what was created. What lies above may be closed
        // all the same, and only the other user finds out: access() would ask for the one who started this.
        for (const fs::path& open : {folder_, folder_ / "inside"})
            fs::permissions(
                open, fs::perms::group_read | fs::perms::group_exec | fs::perms::others_read | fs::perms::others_exec,
                fs::perm_options::add);
        const bool other = seteuid(kNobody) == 0;
        if (!other || faccessat(AT_FDCWD, folder_.c_str(), R_OK | X_OK, AT_EACCESS) != 0) {
            ASSERT_EQ(seteuid(before), 0);
            fs::permissions(folder_ / "inside" / "deeper", fs::perms::owner_all);
            GTEST_SKIP() << "this user reads every folder, and another one "
                         << (other ? "may not enter " + folder_.parent_path().string() : "it cannot become");
        }
    }
    const auto wanted = [](const fs::path& file) { return file.extension() == ".jpg"; };
    const auto some = files_below(folder_, wanted);
    const auto none = files_below(folder_ / "inside" / "deeper", wanted);
    const auto within = is_there(folder_ / "inside" / "deeper" / "d.jpg");
    ASSERT_EQ(seteuid(before), 0);
    fs::permissions(folder_ / "inside" / "deeper", fs::perms::owner_all);
    ASSERT_TRUE(some) << some.error().message;
    EXPECT_THAT(names(some->files), ElementsAre("b.jpg", "inside/c.jpg"));
    EXPECT_THAT(some->notes, ElementsAre(HasSubstr("deeper may not be read: it is left out")));
    EXPECT_TRUE(is_there(folder_));
    EXPECT_THAT(is_there(folder_ / "gone").error().message, HasSubstr("there is nothing at"));
    ASSERT_FALSE(within);
    EXPECT_THAT(within.error().message, HasSubstr("d.jpg cannot be read: Permission denied"));
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, ErrorCode::Io);
    EXPECT_THAT(none.error().message, HasSubstr("deeper cannot be read: Permission denied"));
}

}  // namespace
}  // namespace vitrine
