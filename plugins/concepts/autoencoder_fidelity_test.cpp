// The measure autoencoder_fidelity on the built-in model: its document, tables and labels, and what it refuses.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "concept_measure_test.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class FidelityMeasure : public ConceptMeasureTest {
  protected:
    FidelityMeasure() : ConceptMeasureTest("autoencoder_fidelity", {{"pictures", "3"}, {"resamples", "50"}}) {
        label_ = [](const PictureSet::Picture&) { return Result<std::int64_t>(3); };
    }
};

TEST_F(FidelityMeasure, DocumentAndTablesHoldTheFiguresOfEachKindOfToken) {
    set_["autoencoders"] += "," + built_in_concepts().string();
    const auto found = measure();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    const json document = json::parse(found->document);
    ASSERT_EQ(document.at("autoencoders").size(), 2u);
    const json &random = document.at("autoencoders").at(0), &trained = document.at("autoencoders").at(1);
    EXPECT_EQ(random.at("point"), "blocks.3");
    EXPECT_EQ(random.at("pictures"), 3);
    const auto variance = [](const json& one) {
        return one.at("tokens").at(0).at("explained_variance").at("value").get<double>();
    };
    EXPECT_EQ(random.at("tokens").size(), 4u);  // all, class, registers, patches
    EXPECT_NEAR(random.at("tokens").at(0).at("normalised_mse"), 1 - variance(random), 1e-12);
    // The one that was trained stands for its layer, and the answer stays.
    EXPECT_LT(variance(random), 0.5);
    EXPECT_GT(variance(trained), 0.7);
    EXPECT_GT(trained.at("substitution").at("score").at("value"), 0.7);
    EXPECT_EQ(trained.at("cross_entropy").at("pictures"), 3);
    EXPECT_GT(trained.at("cross_entropy").at("as_it_is").at("value"), 0);
    ASSERT_EQ(found->tables.size(), 6u);
    EXPECT_EQ(found->tables[0].name, "c tokens");
    EXPECT_EQ(found->tables[0].rows, (std::vector<std::string>{"all", "class", "registers", "patches"}));
    EXPECT_EQ(found->tables[0].values[0].size(), found->tables[0].cols.size());
    EXPECT_EQ(found->tables[0].values[0][4], variance(random));
}

TEST_F(FidelityMeasure, NotesWhereTheFileDoesNotSayItsModel) {
    set_["autoencoders"] += "," + built_in_concepts().string();
    const auto found = measure();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    const std::string unsaid = "the file does not say which weights these concepts were trained on";
    EXPECT_THAT(found->notes, testing::Contains("c: " + unsaid));
    EXPECT_THAT(found->notes, testing::Not(testing::Contains("concepts: " + unsaid)));
}

TEST_F(FidelityMeasure, LabelsComeFromAFileToo) {
    const fs::path labels = folder_ / "labels.csv";
    std::ofstream(labels) << "file,class\n" << fs::path(builtin_pictures()[0]).filename().string() << ",7\n";
    set_["labels"] = labels.string();
    const auto found = measure();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_EQ(json::parse(found->document).at("autoencoders").at(0).at("cross_entropy").at("pictures"), 1);
    std::ofstream(labels) << fs::path(builtin_pictures()[0]).filename().string() << ",1.5\n";
    EXPECT_THAT(refusal(), HasSubstr("expected whole numbers from 0"));
    std::ofstream(labels) << "nobody.jpg,1\n";
    EXPECT_THAT(refusal(), HasSubstr("has a number for none of the"));
}

TEST_F(FidelityMeasure, PicturesAreDrawnWhereThereAreMoreAndItSaysSo) {
    std::set<std::string> asked;
    label_ = [&](const PictureSet::Picture& one) {
        asked.insert(one.name);
        return Result<std::int64_t>(3);
    };
    set_["pictures"] = "1";
    set_["resamples"] = "0";
    for (seed_ = 0; seed_ < 5; ++seed_) {
        const auto found = measure();
        ASSERT_TRUE(found.has_value()) << found.error().message;
        EXPECT_THAT(found->notes, testing::Contains(fmt::format("1 of 3 pictures, drawn with seed {}", seed_)));
        const json drawn = json::parse(found->document).at("drawn");
        EXPECT_EQ(drawn, json({{"pictures", 1}, {"of", 3}, {"seed", seed_}}));
    }
    EXPECT_GT(asked.size(), 1u) << "not the first one by name alone";
    set_["pictures"] = "3";
    EXPECT_THAT(measure()->notes, testing::Not(testing::Contains(HasSubstr("drawn with seed"))));
}

TEST_F(FidelityMeasure, WhatItCannotUnderstandIsRefusedInWords) {
    set_["given"] = "point";
    EXPECT_THAT(refusal(), HasSubstr("'point' in autoencoder_fidelity.given is not NAME=VALUE"));
    set_["given"] = "";
    set_["autoencoders"] = (folder_ / "nothing.safetensors").string();
    EXPECT_THAT(refusal(), HasSubstr("nothing.safetensors"));
    set_["autoencoders"] = file_.string();
    set_["classes"] = file_.string();
    EXPECT_THAT(refusal(), HasSubstr("expected one, [classes, features]"));
}

}  // namespace
}  // namespace vitrine
