// The journal of a measurement: what is cut off, altered or foreign.
#include "cli/measure_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <vitrine/base/file.h>

#include <fstream>

namespace vitrine::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class Journal : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::temp_directory_path() / ("vitrine-state-" + std::to_string(getpid()));
        fs::create_directories(folder_);
        file_ = folder_ / "state.jsonl";
    }
    void TearDown() override { fs::remove_all(folder_); }

    static Finding finding(const std::string& picture, double value) {
        Finding out;
        out.picture = picture;
        out.content = "00ff";
        out.method = "rollout";
        out.measure = "deletion";
        out.value = value;
        out.unit = "%";
        out.method_ms = 1.5;
        return out;
    }
    std::string text() const { return *read_text(file_); }
    void write(const std::string& text) const { std::ofstream(file_, std::ios::binary) << text; }

    const json made_with_{{"seed", 3}, {"model", "ab"}};
    const json settings_{{"measure deletion", {{"preset", "rise"}}}};
    fs::path folder_, file_;
};

TEST_F(Journal, GivesBackWhatWasWrittenToTheBit) {
    {
        auto state = State::open(file_, made_with_, settings_);
        ASSERT_TRUE(state.has_value()) << state.error().message;
        EXPECT_TRUE(state->found().empty());
        std::vector<Finding> some{finding("a.jpg", 0.1 + 0.2), finding("b.jpg", 5e-324)};
        some[1].notes = {"a note"};
        some.push_back(finding("c.jpg", 0));
        some.back().value.reset();
        some.back().left_out = "no box is given";
        some.push_back(finding("d.jpg", 0));
        some.back().value.reset();
        some.back().failed = Error{ErrorCode::OutOfMemory, "not enough memory"};
        ASSERT_TRUE(state->append(some).has_value());
    }
    auto again = State::open(file_, made_with_, settings_);
    ASSERT_TRUE(again.has_value()) << again.error().message;
    ASSERT_EQ(again->found().size(), 3u) << "what failed is tried again";
    EXPECT_EQ(again->found()[0].value, 0.1 + 0.2);
    EXPECT_EQ(again->found()[1].value, 5e-324);
    EXPECT_EQ(again->found()[1].notes, std::vector<std::string>{"a note"});
    EXPECT_EQ(again->found()[2].left_out, "no box is given");
    EXPECT_FALSE(again->found()[2].value.has_value());
    // A failure travels between processes all the same.
    Finding failed = finding("d.jpg", 0);
    failed.value.reset();
    failed.failed = Error{ErrorCode::Unsupported, "it cannot be done"};
    EXPECT_EQ(finding_of(to_json(failed))->failed->code, ErrorCode::Unsupported);
}

TEST_F(Journal, ALineThatWasCutOffIsDroppedAndWrittenAnew) {
    const auto add = [&](const std::string& picture) {
        auto state = State::open(file_, made_with_, settings_);
        ASSERT_TRUE(state.has_value()) << state.error().message;
        ASSERT_TRUE(state->append(std::vector{finding(picture, 1)}).has_value());
    };
    add("a.jpg");
    const std::string whole = text();
    add("b.jpg");
    const std::string both = text();
    // Wherever the last line ends.
    for (std::size_t length = whole.size(); length < both.size(); ++length) {
        write(both.substr(0, length));
        const auto state = State::open(file_, made_with_, settings_);
        ASSERT_TRUE(state.has_value()) << state.error().message;
        EXPECT_EQ(text(), whole);
    }
    // So too where the run ended before its first line was whole.
    for (std::size_t length = 0; length < 20; ++length) {
        write(both.substr(0, length));
        ASSERT_TRUE(State::open(file_, made_with_, settings_).has_value());
    }
    // A page that never reached the disk.
    write(whole + std::string(80, '\0') + "\n");
    ASSERT_TRUE(State::open(file_, made_with_, settings_).has_value());
    EXPECT_EQ(text(), whole);
}

TEST_F(Journal, WhatWasMadeWithOtherSettingsIsRefusedByName) {
    {
        auto state = State::open(file_, made_with_, settings_);
        ASSERT_TRUE(state.has_value());
        ASSERT_TRUE(state->append(std::vector{finding("a.jpg", 1)}).has_value());
    }
    const std::string before = text();
    const auto seed = State::open(file_, {{"seed", 4}, {"model", "ab"}}, settings_);
    ASSERT_FALSE(seed.has_value());
    EXPECT_THAT(seed.error().message, HasSubstr("seed 3, and now it is 4"));
    const auto preset = State::open(file_, made_with_, {{"measure deletion", {{"preset", "tis"}}}});
    ASSERT_FALSE(preset.has_value());
    EXPECT_THAT(preset.error().message, HasSubstr("measure deletion.preset \"rise\", and now it is \"tis\""));
    EXPECT_EQ(text(), before) << "a refused file is left as it is";
    // Another measure may join, and is then held to its settings too.
    const json more{{"measure deletion", {{"preset", "rise"}}}, {"measure road", {{"noise", 0.01}}}};
    ASSERT_TRUE(State::open(file_, made_with_, more).has_value());
    EXPECT_FALSE(State::open(file_, made_with_, {{"measure road", {{"noise", 0.02}}}}).has_value());
}

TEST_F(Journal, ForeignAndBrokenFilesAreRefusedAndLeftAlone) {
    for (const std::string& foreign :
         {std::string("a letter to somebody"), std::string("{\"a\": 1}\n"), std::string("{\"a\": 1}"),
          std::string("[1, 2]\n"), std::string("\n"), std::string("\0\xff\n", 3), std::string("{}\n{}\n"),
          std::string("{\"vitrine_measure\": 99}\n"), std::string("{\"vitrine_measure\": 1, \"made_with\": 3}\n")}) {
        write(foreign);
        EXPECT_FALSE(State::open(file_, made_with_, settings_).has_value()) << foreign;
        EXPECT_EQ(text(), foreign);
    }
    fs::remove(file_);
    {
        auto state = State::open(file_, made_with_, settings_);
        ASSERT_TRUE(state->append(std::vector{finding("a.jpg", 1), finding("b.jpg", 2)}).has_value());
    }
    std::string broken = text();
    const auto at = broken.find("a.jpg");
    broken.replace(broken.rfind('\n', at) + 1, 5, "?????");
    write(broken);
    const auto state = State::open(file_, made_with_, settings_);
    ASSERT_FALSE(state.has_value());
    EXPECT_THAT(state.error().message, HasSubstr("line 3 of"));
    EXPECT_EQ(text(), broken);
    EXPECT_FALSE(State::open(folder_, made_with_, settings_).has_value()) << "a folder";
    EXPECT_FALSE(State::open(folder_ / "none/state", made_with_, settings_).has_value());
}

TEST_F(Journal, PiecesComeBackToTheByteAndWhatTheyHangOnIsHeldToThem) {
    const json also{{"the autoencoder c", "01"}};
    std::vector<std::string> bytes{"", std::string("\0", 1), std::string("\xff\0", 2), "abc", std::string(5, '\n')};
    bytes.emplace_back();
    for (int i = 0; i < 256; ++i) bytes.back() += static_cast<char>(i);
    {
        auto state = State::open(file_, made_with_, settings_);
        ASSERT_TRUE(state.has_value()) << state.error().message;
        ASSERT_TRUE(state->made_also_with(also));
        for (std::size_t i = 0; i < bytes.size(); ++i)
            ASSERT_TRUE(state->append(Piece{std::to_string(i) + ".jpg", "00ff", "ladder", "pictures"}, bytes[i]));
        ASSERT_TRUE(state->append(std::vector{finding("a.jpg", 1)}));
    }
    const std::string whole = text();
    write(whole + whole.substr(whole.rfind("{\"bytes\""), 20));
    auto state = State::open(file_, made_with_, settings_);
    ASSERT_TRUE(state.has_value()) << state.error().message;
    EXPECT_EQ(text(), whole);
    EXPECT_EQ(state->found().size(), 1u);
    ASSERT_EQ(state->pieces().size(), bytes.size());
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        EXPECT_EQ(state->pieces()[i].picture, std::to_string(i) + ".jpg");
        EXPECT_EQ(state->bytes_of(state->pieces()[i]).value(), bytes[i]);
    }
    EXPECT_TRUE(state->made_also_with(also));
    EXPECT_EQ(text(), whole) << "what is known is not written again";
    const Status other = state->made_also_with({{"the autoencoder c", "02"}});
    ASSERT_FALSE(other.has_value());
    EXPECT_THAT(other.error().message, HasSubstr("the autoencoder c \"01\", and now it is \"02\""));
    // One that is no base64 is found out when it is asked for.
    std::string broken = whole;
    broken[broken.find("\"YWJj\"") + 2] = '*';
    write(broken);
    EXPECT_THAT(state->bytes_of(state->pieces()[3]).error().message, HasSubstr("the line of 3.jpg in"));
}

TEST_F(Journal, TwoRunsDoNotWriteOneFile) {
    auto first = State::open(file_, made_with_, settings_);
    ASSERT_TRUE(first.has_value());
    const auto second = State::open(file_, made_with_, settings_);
    ASSERT_FALSE(second.has_value());
    EXPECT_THAT(second.error().message, HasSubstr("another run"));
}

TEST_F(Journal, PartsOfProcessesThatWereBrokenOffAreTakenIn) {
    {
        auto part = State::open(State::part_of(file_, 1), made_with_, settings_);
        ASSERT_TRUE(part.has_value());
        ASSERT_TRUE(part->append(std::vector{finding("b.jpg", 2)}).has_value());
        std::ofstream(State::part_of(file_, 1), std::ios::app) << "{\"picture\": \"cut o";
    }
    std::ofstream(file_.string() + ".part") << "not ours";
    std::ofstream(file_.string() + ".part1.bak") << "not ours";
    auto state = State::open(file_, made_with_, settings_);
    ASSERT_TRUE(state.has_value());
    const Status taken = state->take_parts();
    ASSERT_TRUE(taken.has_value()) << taken.error().message;
    ASSERT_EQ(state->found().size(), 1u);
    EXPECT_EQ(state->found()[0].picture, "b.jpg");
    EXPECT_FALSE(fs::exists(State::part_of(file_, 1)));
    EXPECT_TRUE(fs::exists(file_.string() + ".part"));
    EXPECT_TRUE(fs::exists(file_.string() + ".part1.bak"));
    EXPECT_THAT(text(), HasSubstr("b.jpg"));
}

}  // namespace
}  // namespace vitrine::cli
