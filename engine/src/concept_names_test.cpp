// Names of concepts: what is written is read again, lines stay apart, and what cannot be read is said.
#include <vitrine/concept_names.h>

#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>

#include <vitrine/autoencoder.h>
#include <vitrine/base/file.h>
#include <vitrine/base/test_bytes.h>
#include <vitrine/beside.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

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
    const auto concepts = Autoencoder::load(VITRINE_SOURCE_DIR "/resources/starter/concepts.safetensors");
    ASSERT_TRUE(concepts.has_value()) << concepts.error().message;
    ConceptNames marked = names;
    marked.set_mark(concepts_mark(*concepts));
    EXPECT_EQ(marked.text(), names.text()) << "they are of these concepts, and say so";
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

/// What git makes of three versions of the file. @param how  "--union" where .gitattributes says merge=union
struct Merged {
    bool conflict = true;
    std::string text;
};
Merged merged(const std::string& base, const std::string& ours, const std::string& theirs, const std::string& how) {
    vitrine::testing::Folder folder;
    folder.put("base", base);
    folder.put("ours", ours);
    folder.put("theirs", theirs);
    const auto quoted = [&](const char* name) { return "'" + (folder / name).string() + "' "; };
    Merged out;
    out.conflict = std::system(("git merge-file -q " + how + " " + quoted("ours") + quoted("base") + quoted("theirs") +
                                "2>/dev/null")
                                   .c_str()) != 0;
    out.text = *read_text(folder / "ours");
    return out;
}

TEST(ConceptNames, WhatTwoPeopleNameMergesWithoutAConflict) {
    if (std::system("git --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "git is not here";
    ConceptNames base;
    for (const int latent : {3, 10, 40, 41, 90}) ASSERT_TRUE(base.rename(latent, fmt::format("thing {}", latent)));
    ConceptNames ours = base, theirs = base;
    ASSERT_TRUE(ours.rename(5, "a wheel"));
    ASSERT_TRUE(ours.set_tags(3, {"dull"}));
    ASSERT_TRUE(theirs.rename(20, "a leaf"));
    Merged both = merged(base.text(), ours.text(), theirs.text(), "");
    EXPECT_FALSE(both.conflict);
    ASSERT_EQ(refusal(both.text), "read");
    ConceptNames found = *ConceptNames::parse(both.text);
    EXPECT_EQ(found.text(), both.text) << "sorted as the program writes it";
    EXPECT_EQ(found.find(5)->name, "a wheel");
    EXPECT_EQ(found.find(20)->name, "a leaf");
    EXPECT_THAT(found.find(3)->tags, ElementsAre("dull"));

    // New names at the very same place: only where git is told that the file is a list of lines.
    ASSERT_TRUE(ours.rename(61, "ours"));
    ASSERT_TRUE(theirs.rename(60, "theirs"));
    EXPECT_TRUE(merged(base.text(), ours.text(), theirs.text(), "").conflict);
    both = merged(base.text(), ours.text(), theirs.text(), "--union");
    EXPECT_FALSE(both.conflict);
    ASSERT_EQ(refusal(both.text), "read");
    found = *ConceptNames::parse(both.text);
    EXPECT_EQ(found.find(60)->name, "theirs");
    EXPECT_EQ(found.find(61)->name, "ours");
    // The same concept: never settled in silence.
    ASSERT_TRUE(theirs.rename(61, "otherwise"));
    EXPECT_TRUE(merged(base.text(), ours.text(), theirs.text(), "").conflict);
    EXPECT_THAT(refusal(merged(base.text(), ours.text(), theirs.text(), "--union").text),
                HasSubstr("concept 61 is named by lines"));
}

/// As that of the program itself where it is installed.
TEST(ConceptNames, WhereNothingCanBeWrittenBesideTheyAreThePersonsOwn) {
    vitrine::testing::Folder folder;
    const char* before = std::getenv("XDG_DATA_HOME");
    const std::string kept = before ? before : "";
    ::setenv("XDG_DATA_HOME", (folder / "data").c_str(), 1);
    const fs::path writable = folder / "c.safetensors.names", not_writable = folder / "none/c.safetensors.names";
    EXPECT_EQ(kept_beside(writable), writable);
    EXPECT_EQ(found_beside(writable), writable);
    const fs::path own = kept_beside(not_writable);
    EXPECT_EQ(own.parent_path(), folder / "data/vitrine");
    EXPECT_NE(own, kept_beside(folder / "other/c.safetensors.names")) << "files of one name are kept apart";
    EXPECT_EQ(found_beside(not_writable), not_writable) << "until there are some";
    ConceptNames names;
    ASSERT_TRUE(names.rename(3, "three"));
    ASSERT_TRUE(make_folder_of(own));
    ASSERT_TRUE(names.save(own));
    EXPECT_EQ(found_beside(not_writable), own);
    const auto again = ConceptNames::of(folder / "none/c.safetensors", "");
    ASSERT_TRUE(again.has_value()) << again.error().message;
    EXPECT_EQ(again->called(3), "concept 3 (three)");
    EXPECT_EQ(again->called(4), "concept 4");
    before ? ::setenv("XDG_DATA_HOME", kept.c_str(), 1) : ::unsetenv("XDG_DATA_HOME");
}

TEST(ConceptNames, AFileIsReplacedAndOneThatIsMissingIsEmpty) {
    const fs::path file = fs::path(::testing::TempDir()) / "vitrine_concept_names.safetensors.names";
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

Autoencoder trained(std::uint64_t seed) {
    AutoencoderConfig config;
    config.width = 6, config.latents = 16, config.k = 2;
    return *Autoencoder::make(config, seed);
}

TEST(ConceptNames, AMarkIsOfTheConceptsAndOfNothingElse) {
    const std::string mark = concepts_mark(trained(1));
    EXPECT_EQ(mark.size(), 12U);
    EXPECT_EQ(mark.find_first_not_of("0123456789abcdef"), std::string::npos) << mark;
    EXPECT_NE(mark, concepts_mark(trained(2)));
    vitrine::testing::Folder folder;
    Autoencoder said = trained(1);
    said.facts["tokens_seen"] = "100";
    ASSERT_TRUE(said.save(folder / "c.safetensors"));
    EXPECT_EQ(concepts_mark(*Autoencoder::load(folder / "c.safetensors", {{"point", "blocks.1"}})), mark);
}

TEST(ConceptNames, NamesOfAnotherAutoencoderAreNotShownAndNotLost) {
    vitrine::testing::Folder folder;
    const fs::path file = folder / "c.safetensors", listed = folder / "c.safetensors.names";
    const std::string mark = concepts_mark(trained(1)), other = concepts_mark(trained(2));
    ConceptNames names = *ConceptNames::to_change(file, mark);
    ASSERT_TRUE(names.rename(3, "three"));
    ASSERT_TRUE(names.save(listed));
    const std::string before = *read_text(listed);
    EXPECT_EQ(before, "# concepts of " + mark + "\n3\tthree\n");
    EXPECT_EQ(ConceptNames::of(file, mark)->called(3), "concept 3 (three)");
    EXPECT_EQ(ConceptNames::to_change(file, mark)->text(), before) << "marked once";

    const auto refused = ConceptNames::of(file, other);
    ASSERT_FALSE(refused.has_value());
    EXPECT_THAT(refused.error().message, HasSubstr("given to another autoencoder"));
    EXPECT_THAT(refused.error().message, HasSubstr("'# concepts of " + mark + "'"));
    EXPECT_EQ(*read_text(listed), before) << "looking changes nothing";

    // Named anew: each keeps its own.
    for (const char* aside : {".before1", ".before2"}) {
        ConceptNames anew = *ConceptNames::to_change(file, other);
        EXPECT_TRUE(anew.all().empty());
        EXPECT_EQ(*read_text(folder / (std::string("c.safetensors.names") + aside)), before);
        ASSERT_TRUE(anew.rename(3, "drei"));
        ASSERT_TRUE(anew.save(listed));
        EXPECT_EQ(ConceptNames::of(file, other)->called(3), "concept 3 (drei)");
        ASSERT_TRUE(write_text(listed, before));
    }
    // Or taken over.
    ASSERT_TRUE(ConceptNames::adopt(file, other));
    EXPECT_EQ(*read_text(listed), "# concepts of " + other + "\n3\tthree\n");
    EXPECT_EQ(ConceptNames::of(file, other)->called(3), "concept 3 (three)");
    // By hand, as the sentence says.
    ASSERT_TRUE(write_text(listed, "3\tthree\n"));
    EXPECT_EQ(ConceptNames::of(file, mark)->called(3), "concept 3 (three)");
    // Two people's, one of them of another autoencoder: nobody can tell which name is whose.
    ASSERT_TRUE(write_text(listed, "# concepts of " + other + '\n' + before));
    EXPECT_FALSE(ConceptNames::of(file, mark).has_value());
}

}  // namespace
}  // namespace vitrine
