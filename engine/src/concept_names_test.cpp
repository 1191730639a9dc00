// Names of concepts: what is written is read again, lines stay apart, and what cannot be read is said.
#include <vitrine/concept_names.h>

#include <fstream>

#include <gmock/gmock.h>

#include <vitrine/base/file.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::string refusal(std::string_view text) {
    const auto found = ConceptNames::parse(text);
    return found ? "read" : found.error().message;
}

TEST(ConceptNames, OneLineAConceptSortedByNumber) {
    ConceptNames names;
    EXPECT_TRUE(names.rename(100, " Schnauze eines Hundes "));
    EXPECT_TRUE(names.rename(9, "grün"));
    EXPECT_TRUE(names.set_tags(9, {"colour", " plant", "colour", ""}));
    EXPECT_TRUE(names.tag(20, "dead"));
    EXPECT_TRUE(names.set_note(20, "never fires"));
    EXPECT_EQ(names.text(), "9\tgrün\tcolour, plant\n20\t\tdead\tnever fires\n100\tSchnauze eines Hundes\n");
    EXPECT_THAT(names.tags(), ElementsAre(Pair("colour", 1), Pair("dead", 1), Pair("plant", 1)));
    EXPECT_TRUE(names.untag(20, "dead"));
    EXPECT_TRUE(names.set_note(20, ""));
    EXPECT_EQ(names.find(20), nullptr);
    EXPECT_EQ(ConceptNames::parse(names.text())->text(), names.text());
}

TEST(ConceptNames, AChangeOfOneConceptTouchesItsLineAlone) {
    const std::string before = "# ours\n1\ta\n2\tb\tx\n3\tc\n";
    ConceptNames names = *ConceptNames::parse(before);
    EXPECT_TRUE(names.rename(2, "other"));
    EXPECT_EQ(names.text(), "# ours\n1\ta\n2\tother\tx\n3\tc\n");
}

TEST(ConceptNames, TheBuiltInNamesAreWrittenAsTheyAre) {
    const fs::path file = VITRINE_SOURCE_DIR "/resources/starter/concepts.safetensors.names";
    const ConceptNames names = *ConceptNames::load(file);
    EXPECT_GE(names.all().size(), 10U);
    EXPECT_EQ(names.text(), *read_text(file));
}

TEST(ConceptNames, WhatIsNotKnownIsKept) {
    const std::string text = "# names of concepts\nand words\n007\tagent\n4\tfour\t\t\tfifth\tsixth\n";
    EXPECT_EQ(ConceptNames::parse(text)->text(), text);
    EXPECT_EQ(ConceptNames::parse("\xEF\xBB\xBF"
                                  "5\tfive\r\n\r\n")
                  ->text(),
              "5\tfive\n");
    EXPECT_EQ(ConceptNames::parse("7\n8\t \t ,\t \n")->all().size(), 0U);
}

TEST(ConceptNames, WhatCannotBeReadIsSaidWithItsLine) {
    EXPECT_THAT(refusal("1\ta\n<<<<<<< HEAD\n"), HasSubstr("line 2 is of a merge"));
    EXPECT_THAT(refusal("1\ta\n2\tb\n1\tc\n"), HasSubstr("concept 1 is named by lines 1 and 3"));
    EXPECT_THAT(refusal("1\ta\x01\n"), HasSubstr("line 1 has a control character"));
    EXPECT_THAT(refusal(std::string_view("1\ta\0b", 5)), HasSubstr("control character"));
    EXPECT_THAT(refusal("1\t\xff\n"), HasSubstr("no UTF-8"));
    EXPECT_THAT(refusal(std::string((16 << 20) + 1, 'a')), HasSubstr("at most 16777216"));
    EXPECT_EQ(refusal("99999999999999999999999\tmany\n-4\tless\n"), "read");

    ConceptNames names;
    EXPECT_THAT(names.rename(-1, "x").error().message, HasSubstr("numbered from 0"));
    EXPECT_THAT(names.rename(1, "a\tb").error().message, HasSubstr("a tab"));
    EXPECT_THAT(names.rename(1, std::string(1001, 'a')).error().message, HasSubstr("1001 bytes"));
    EXPECT_THAT(names.rename(1, "\xc3").error().message, HasSubstr("no UTF-8"));
    EXPECT_THAT(names.tag(1, "a,b").error().message, HasSubstr("comma"));
    EXPECT_TRUE(names.all().empty());
}

TEST(ConceptNames, AFileIsReplacedAndOneThatIsMissingIsEmpty) {
    const fs::path file = fs::path(testing::TempDir()) / "vitrine_concept_names.safetensors.names";
    fs::remove(file);
    EXPECT_EQ(concept_names_file("a/c.safetensors"), fs::path("a/c.safetensors.names"));
    ConceptNames names = *ConceptNames::load(file);
    EXPECT_TRUE(names.all().empty());
    EXPECT_TRUE(names.rename(3, "three"));
    EXPECT_TRUE(names.save(file));
    EXPECT_EQ(ConceptNames::load(file)->find(3)->name, "three");
    fs::remove(file);
    fs::create_directory(file);
    EXPECT_THAT(ConceptNames::load(file).error().message, HasSubstr("is a folder"));
    fs::remove(file);
}

}  // namespace
}  // namespace vitrine
