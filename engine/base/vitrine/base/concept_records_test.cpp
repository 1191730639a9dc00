// The journal of concepts and the index made from it: figures counted by hand, torn and foreign files, changed folders.
#include <gmock/gmock.h>
#include <vitrine/base/concept_records.h>
#include <vitrine/base/file.h>
#include <vitrine/base/readers.h>
#include <vitrine/base/test_bytes.h>

#include <cmath>
#include <fstream>
#include <numeric>

#include <nlohmann/json.hpp>

namespace vitrine {
namespace {

using namespace vitrine::testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int64_t kLatents = 5, kSide = 2;
const float kNone = std::numeric_limits<float>::quiet_NaN();

/// Four patches behind a class token.
const TokenPlaces kPlaces{.class_token = 0, .first = 1, .patches = 4, .rows = kSide, .cols = kSide};

PictureRecord picture(const std::string& name, std::vector<ConceptValue> values, std::vector<float> embedding = {1, 0},
                      std::int64_t time = 7) {
    PictureRecord out;
    out.picture = {name, 100, time};
    out.answer = 3;
    out.probability = 0.5F;
    out.patches = 4;
    out.embedding = std::move(embedding);
    out.latents = latent_records(values, kPlaces);
    return out;
}

std::vector<PictureRecord> three() {
    return {picture("a.jpg", {{0, 1, 9, 1}, {1, 0, 2, 0.5F}, {2, 0, 4, 0.25F}, {4, 2, 1, 3}}, {1, 0}),
            picture("b/b.jpg", {{1, 0, 8, 1}, {3, 4, 0.5F, -1}}, {0, 2}),
            picture("c.jpg", {{2, 0, 4, 2}, {2, 1, 1, 0}}, {3, 0})};
}

class Index : public ::testing::Test {
  protected:
    Index() {
        neighbours_.resize(kLatents * ConceptIndex::kNeighbours);
        cosines_.resize(neighbours_.size(), kNone);
        cosines_[0] = 0.75F;
        neighbours_[0] = 4;
        map_.resize(2 * kLatents);
        std::iota(map_.begin(), map_.end(), 0.0F);
        frame_ = {kLatents,    kSide,    kSide, true, true, {{"folder", folder_.path().string()}},
                  neighbours_, cosines_, map_};
    }
    Status write(const std::string& name, const std::vector<PictureRecord>& pictures, const std::string& journal) {
        ConceptRecords records = *ConceptRecords::open(folder_ / journal, "key");
        std::vector<std::int64_t> entries;
        for (const auto& one : pictures) {
            if (records.find(one.picture) < 0) {
                EXPECT_TRUE(records.append(one));
            }
            entries.push_back(records.find(one.picture));
        }
        return write_concept_index(folder_ / name, records, entries, frame_);
    }
    std::string bytes(const std::string& name) { return *read_text(folder_ / name); }

    Folder folder_;
    std::vector<std::uint32_t> neighbours_;
    std::vector<float> cosines_, map_;
    IndexFrame frame_;
};

TEST_F(Index, FiguresAreThoseCountedByHand) {
    ASSERT_TRUE(write("i", three(), "r"));
    const ConceptIndex index = *ConceptIndex::open(folder_ / "i");
    EXPECT_EQ(index.latents(), 5);
    EXPECT_EQ(index.pictures(), 3);
    const auto at = [&](const char* column, std::size_t latent) { return index.column(column)[latent]; };
    // Concept 0: patches 2 and 4 of a, 8 of b, 4 of c; 12 patches in all.
    EXPECT_FLOAT_EQ(at("frequency", 0), 4.0F / 12);
    EXPECT_FLOAT_EQ(at("picture_frequency", 0), 1);
    EXPECT_FLOAT_EQ(at("mean", 0), 18.0F / 4);
    EXPECT_FLOAT_EQ(at("maximum", 0), 8);
    EXPECT_FLOAT_EQ(at("effect", 0), (0.75F + 1 + 2) / 3);
    EXPECT_FLOAT_EQ(at("class_frequency", 0), 0);
    const auto tops = index.tops(0);
    ASSERT_EQ(tops.size(), 3U);
    EXPECT_EQ(index.picture(tops[0].picture).name, "b/b.jpg");
    EXPECT_EQ(index.picture(tops[1].picture).name, "a.jpg") << "of equal ones the first by name";
    EXPECT_EQ(tops[1].cell, 1U);
    EXPECT_EQ(tops[2].value, 4);
    // Concept 1: in the class token of a, on a patch of c.
    EXPECT_FLOAT_EQ(at("class_frequency", 1), 1.0F / 3);
    EXPECT_FLOAT_EQ(at("class_maximum", 1), 9);
    EXPECT_FLOAT_EQ(at("picture_frequency", 1), 1.0F / 3);
    ASSERT_EQ(index.class_tops(1).size(), 1U);
    EXPECT_EQ(index.class_tops(1)[0].cell, kNoCell);
    EXPECT_EQ(index.tops(1)[0].picture, 2U);
    // Concept 3 says nothing anywhere.
    EXPECT_TRUE(index.tops(3).empty());
    EXPECT_TRUE(std::isnan(at("mean", 3)));
    EXPECT_EQ(at("frequency", 3), 0);
    // Values 2, 4, 8 lie in bins of their own: 2^(b / 2 - 12).
    const auto histogram = index.histogram(0);
    EXPECT_EQ(std::accumulate(histogram.begin(), histogram.end(), 0U), 3U);
    EXPECT_EQ(histogram[28], 2U);
    EXPECT_DOUBLE_EQ(ConceptIndex::bin_edge(28), 4);
    EXPECT_EQ(histogram[30], 1U);

    EXPECT_THAT(index.order("effect"), ElementsAre(2, 0, 1, 4, 3));
    EXPECT_THAT(index.order("effect", false), ElementsAre(4, 1, 0, 2, 3));
    EXPECT_TRUE(index.order("nonsense").empty());
    ASSERT_EQ(index.neighbours(0).size(), 1U);
    EXPECT_EQ(index.neighbours(0)[0].latent, 4U);
    EXPECT_EQ(index.map()[7], 7);
    EXPECT_EQ(index.find("b/b.jpg"), 1);
    EXPECT_EQ(index.find("b"), -1);
    EXPECT_EQ(index.picture(1).answer, 3);
    const auto strongest = index.strongest(0);
    ASSERT_EQ(strongest.size(), 2U) << "the class token's concept is on no patch";
    EXPECT_EQ(strongest[0].latent, 0U);
    EXPECT_EQ(strongest[1].latent, 2U);
}

TEST_F(Index, LikenessIsTheWeightedCosineOfCentredEmbeddings) {
    ASSERT_TRUE(write("i", three(), "r"));
    const ConceptIndex index = *ConceptIndex::open(folder_ / "i");
    const double mean[2] = {4.0 / 3, 2.0 / 3};
    const double e[3][2] = {{0, 2}, {1, 0}, {3, 0}}, w[3] = {1, 0.5, 0.5};  // b, a, c
    double sum = 0, weights = 0;
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < i; ++k) {
            const double x[2] = {e[i][0] - mean[0], e[i][1] - mean[1]}, y[2] = {e[k][0] - mean[0], e[k][1] - mean[1]};
            sum += w[i] * w[k] * (x[0] * y[0] + x[1] * y[1]) / std::hypot(x[0], x[1]) / std::hypot(y[0], y[1]);
            weights += w[i] * w[k];
        }
    EXPECT_NEAR(index.column("monosemanticity")[0], sum / weights, 1e-6);
    EXPECT_TRUE(std::isnan(index.column("monosemanticity")[1])) << "one picture is like nothing";
}

TEST(MoransI, IsOneForHalvesAndMinusOneForAChequerboard) {
    // All have the distance 1/2 from the mean: I is pairs alike less pairs unlike, by 24 pairs. Halves differ in 4.
    std::vector<float> halves(16), chequers(16), flat(16, 3);
    for (std::size_t i = 0; i < 16; ++i) {
        halves[i] = i < 8 ? 1 : 0;
        chequers[i] = static_cast<float>((i / 4 + i) % 2);
    }
    EXPECT_NEAR(morans_i(halves, 4, 4), 20.0 / 24 - 4.0 / 24, 1e-12);
    EXPECT_NEAR(morans_i(chequers, 4, 4), -1, 1e-12);
    EXPECT_TRUE(std::isnan(morans_i(flat, 4, 4)));
    EXPECT_TRUE(std::isnan(morans_i(std::vector<float>{1}, 1, 1)));
    // One cell of nine: z is 8/9 there, -1/9 elsewhere; the corner touches 2 of 12 pairs.
    std::vector<float> corner(9);
    corner[0] = 1;
    EXPECT_NEAR(morans_i(corner, 3, 3), 9.0 / 12 * (2 * -8.0 / 81 + 10 * 1.0 / 81) / (64.0 / 81 + 8.0 / 81), 1e-12);
}

TEST(MoransI, AgreesWithEsda) {
    const auto grids = nlohmann::json::parse(std::ifstream(VITRINE_SOURCE_DIR "/tests/parity/data/morans_i.json"));
    ASSERT_EQ(grids.size(), 3U);
    for (const auto& grid : grids)
        EXPECT_NEAR(morans_i(grid.at("cells").get<std::vector<float>>(), grid.at("rows"), grid.at("cols")),
                    grid.at("moran").get<double>(), 1e-6);
}

TEST(ConceptIndexFile, ASeedOfTheFuzzerIsRead) {
    const std::filesystem::path seeds = VITRINE_SOURCE_DIR "/tests/fuzz/corpus/concept_index";
    const auto index = ConceptIndex::open(seeds / "one.index");
    ASSERT_TRUE(index.has_value()) << index.error().message;
    EXPECT_EQ(index->find("b.jpg"), 1);
    EXPECT_EQ(index->tops(0).at(0).value, 2);
    std::string block = *read_text(seeds / "block");
    block.erase(0, 1);
    ConceptRecords::seal_block(std::as_writable_bytes(std::span(block)));
    const auto record = ConceptRecords::parse_block(std::as_bytes(std::span(block)));
    ASSERT_TRUE(record.has_value());
    EXPECT_EQ(record->picture.name, "a.jpg");
    EXPECT_EQ(record->latents.at(0).peak, 2);
}

TEST_F(Index, RemovedAndChangedPicturesLeaveWhatAFreshRunWrites) {
    std::vector<PictureRecord> pictures;
    for (int i = 0; i < 40; ++i)
        pictures.push_back(picture(fmt::format("{:02}.jpg", i), {{1, 0, static_cast<float>((i * 7) % 40 + 1), 0.5F}},
                                   {static_cast<float>(i), 1}));
    ASSERT_TRUE(write("before", pictures, "r"));
    EXPECT_EQ(ConceptIndex::open(folder_ / "before")->tops(0)[0].value, 40);
    // The strongest goes, another changes, one is new.
    std::vector<PictureRecord> now = pictures;
    now.erase(now.begin() + 17);
    now[3] = picture("03.jpg", {{2, 0, 99, 1}}, {5, 5}, 8);
    now.insert(now.begin(), picture("00.gif", {{2, 1, 1, 1}}));
    ASSERT_TRUE(write("after", now, "r"));
    ASSERT_TRUE(write("fresh", now, "r2"));
    EXPECT_EQ(bytes("after"), bytes("fresh"));
    EXPECT_NE(bytes("after"), bytes("before"));
    EXPECT_EQ(ConceptIndex::open(folder_ / "after")->tops(0).size(), 16U) << "others moved up";
    // Compacted, the journal holds what is wanted and the next run finds it.
    ConceptRecords records = *ConceptRecords::open(folder_ / "r", "key");
    EXPECT_EQ(records.entries().size(), 42U);
    std::vector<std::int64_t> entries;
    for (const auto& one : now) entries.push_back(records.find(one.picture));
    ASSERT_TRUE(records.compact(entries));
    ConceptRecords again = *ConceptRecords::open(folder_ / "r", "key");
    EXPECT_EQ(again.entries().size(), 40U);
    EXPECT_EQ(again.size_bytes(), records.size_bytes());
    EXPECT_EQ(again.find(pictures[17].picture), -1);
}

TEST_F(Index, ATornJournalKeepsWhatWasWholeAndAnotherKeyEmptiesIt) {
    ASSERT_TRUE(write("i", three(), "r"));
    const std::string whole = bytes("r");
    std::size_t kept = 3;
    for (std::size_t length = whole.size(); length > 2; length -= 3) {
        folder_.put("torn", whole.substr(0, length));
        const auto records = ConceptRecords::open(folder_ / "torn", "key");
        ASSERT_TRUE(records.has_value()) << records.error().message;
        ASSERT_LE(records->entries().size(), kept);
        kept = records->entries().size();
    }
    EXPECT_EQ(kept, 0U);
    std::string flipped = whole;
    flipped[whole.size() - 40] ^= 1;
    folder_.put("flipped", flipped);
    EXPECT_EQ(ConceptRecords::open(folder_ / "flipped", "key")->entries().size(), 2U);

    {
        const auto other = ConceptRecords::open(folder_ / "r", "another");
        EXPECT_TRUE(other->was_emptied());
        EXPECT_TRUE(other->entries().empty());
        EXPECT_THAT(ConceptRecords::open(folder_ / "r", "another").error().message, HasSubstr("is in use"));
    }
    folder_.put("text", "a text that somebody wrote");
    EXPECT_THAT(ConceptRecords::open(folder_ / "text", "key").error().message, HasSubstr("no journal"));
    EXPECT_EQ(bytes("text"), "a text that somebody wrote");
}

TEST_F(Index, AStopLeavesTheFileThatWasThere) {
    ASSERT_TRUE(write("i", three(), "r"));
    const std::string before = bytes("i");
    const ConceptRecords records = *ConceptRecords::open(folder_ / "r", "key");
    std::stop_source stop;
    const std::vector<std::int64_t> entries{0, 1, 2};
    const auto status =
        write_concept_index(folder_ / "i", records, entries, frame_, stop.get_token(), [&](std::int64_t done) {
            if (done == 2) stop.request_stop();
        });
    EXPECT_EQ(status.error().code, ErrorCode::Cancelled);
    EXPECT_EQ(bytes("i"), before);
}

/// Everything that a reader can ask for.
void touch(const ConceptIndex& index) {
    for (std::int64_t i = -1; i <= std::min<std::int64_t>(index.latents(), 64); ++i) {
        for (const auto& top : index.tops(i)) EXPECT_LT(top.picture, index.pictures());
        for (const auto& top : index.class_tops(i)) EXPECT_LT(top.picture, index.pictures());
        for (const auto& one : index.neighbours(i)) EXPECT_LT(one.latent, index.latents());
        index.histogram(i);
    }
    for (std::int64_t i = -1; i <= std::min<std::int64_t>(index.pictures(), 64); ++i) {
        index.find(index.picture(i).name);
        for (const auto& one : index.strongest(i)) EXPECT_LT(one.latent, index.latents());
    }
    for (const auto& name : ConceptIndex::column_names())
        EXPECT_EQ(index.order(name).size(), index.column(name).size());
}

TEST_F(Index, HostileNumbersPointNowhere) {
    ASSERT_TRUE(write("i", three(), "r"));
    const std::string good = bytes("i");
    const auto header = 8 + static_cast<std::size_t>(static_cast<unsigned char>(good[0])) +
                        256 * static_cast<std::size_t>(static_cast<unsigned char>(good[1]));
    int read = 0;
    for (std::size_t at = header; at + 4 <= good.size(); at += 4) {
        std::string bad = good;
        bad.replace(at, 4, "\xff\xff\xff\x7f");
        const Bytes bytes(bad);
        const auto index = ConceptIndex::parse(bytes.span, bytes.copy);
        ASSERT_TRUE(index.has_value());
        touch(*index);
        ++read;
    }
    EXPECT_GT(read, 500);
    for (std::size_t length = 0; length < good.size(); length += 13) {
        const Bytes bytes(good.substr(0, length));
        EXPECT_FALSE(ConceptIndex::parse(bytes.span, bytes.copy).has_value());
    }
}

TEST_F(Index, WhatIsNoIndexIsSaid) {
    ASSERT_TRUE(write("i", three(), "r"));
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string text = bytes("i");
        const auto at = text.find(from);
        EXPECT_NE(at, std::string::npos);
        text.replace(at, from.size(), to);
        folder_.put("bad", text);
        const auto index = ConceptIndex::open(folder_ / "bad");
        return index ? "read" : index.error().message;
    };
    EXPECT_THAT(with(R"("version":"1")", R"("version":"2")"), HasSubstr("bad: the index of concepts is of version 2"));
    EXPECT_THAT(with(R"("latents":"5")", R"("latents":"6")"), HasSubstr("as F32 of [5], expected F32 of [6]"));
    EXPECT_THAT(with(R"("latents":"5")", R"("latents":"x")"), HasSubstr("says -1 concepts"));
    EXPECT_THAT(with("\"tops.cell\"", "\"tops.sell\""), HasSubstr("has no tops.cell"));
    EXPECT_THAT(with("vitrine.concept_index", "vitrine.concept_table"), HasSubstr("no index of concepts"));
    EXPECT_EQ(ConceptIndex::open(folder_ / "missing").error().code, ErrorCode::NotFound);
    folder_.put("picture", "P6 3 2 255");
    EXPECT_FALSE(ConceptIndex::open(folder_ / "picture").has_value());
}

TEST_F(Index, AChangedFolderIsNoticed) {
    std::filesystem::create_directories(folder_ / "p/b");
    for (const char* name : {"p/a.jpg", "p/b/b.jpg", "p/c.jpg", "p/notes.txt"}) folder_.put(name, "x");
    const auto found = *pictures_below(folder_ / "p");
    ASSERT_EQ(found.size(), 3U);
    EXPECT_EQ(found[1].name, "b/b.jpg");
    std::vector<PictureRecord> pictures = three();
    for (std::size_t i = 0; i < 3; ++i) pictures[i].picture = found[i];
    frame_.facts["folder"] = (folder_ / "p").string();
    ASSERT_TRUE(write("i", pictures, "r"));
    const ConceptIndex index = *ConceptIndex::open(folder_ / "i");
    EXPECT_TRUE(changes_since(index)->none());
    EXPECT_EQ(changes_since(index)->sentence(), "");
    folder_.put("p/c.jpg", "longer");
    folder_.put("p/d.jpg", "x");
    std::filesystem::remove(folder_ / "p/a.jpg");
    const FolderChanges changes = *changes_since(index);
    EXPECT_THAT(changes.added, ElementsAre("d.jpg"));
    EXPECT_THAT(changes.removed, ElementsAre("a.jpg"));
    EXPECT_THAT(changes.changed, ElementsAre("c.jpg"));
    EXPECT_EQ(changes.sentence(),
              "of the pictures 1 was added, 1 was removed, 1 was changed since the index was built");
    EXPECT_THAT(changes_since(index, folder_ / "gone").error().message, HasSubstr("no folder"));
}

}  // namespace
}  // namespace vitrine
