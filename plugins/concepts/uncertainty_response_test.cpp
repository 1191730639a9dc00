// The measure uncertainty_response on the built-in model: its settings, document and tables, and what it refuses.
#include <cmath>
#include <fstream>
#include <set>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "concept_measure_test.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class UncertaintyMeasure : public ConceptMeasureTest {
  protected:
    UncertaintyMeasure()
        : ConceptMeasureTest("uncertainty_response", {{"pictures", "2"},
                                                      {"seeds", "1"},
                                                      {"tiles", "1,2"},
                                                      {"blends", ""},
                                                      {"noises", "gaussian,phase"},
                                                      {"control", "0"},
                                                      {"risk", "none"},
                                                      {"resamples", "100"}}) {}
};

TEST_F(UncertaintyMeasure, DocumentAndTablesHoldEveryRungAndKindOfToken) {
    const auto found = measure();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    const json document = json::parse(found->document);
    EXPECT_EQ(document.at("rungs"), (json{"clean", "shuffle 1", "shuffle 2", "gaussian", "phase"}));
    EXPECT_EQ(document.at("pictures_on_the_ladder"), 2);
    EXPECT_EQ(document.at("seeds"), json{0});
    const json& layer = document.at("layers").at(0);
    EXPECT_EQ(layer.at("point"), "blocks.3");
    ASSERT_EQ(layer.at("rungs").size(), 15u);  // class, registers, patches
    for (const json& one : layer.at("rungs")) {
        EXPECT_GT(one.at("active_a_token").at("mean"), 0);
        EXPECT_GT(one.at("mean_norm"), 0);
    }
    EXPECT_EQ(layer.at("heard_on_noise").size(), 2u);
    EXPECT_EQ(layer.at("heard_on_noise").at(0).size(), 128u);
    EXPECT_TRUE(layer.at("risk").is_null());
    ASSERT_FALSE(found->tables.empty());
    const Table& table = found->tables[0];
    ASSERT_EQ(table.rows.size(), 15u);
    EXPECT_EQ(table.rows[0], "clean, class");
    EXPECT_EQ(table.values[0].size(), table.cols.size());
    EXPECT_EQ(table.values[0][1], layer.at("rungs").at(0).at("active_a_token").at("mean"));
}

TEST_F(UncertaintyMeasure, SeveralLayersStandSideBySide) {
    // A dictionary of the identity explains all, one that is random little: its points are left out.
    AutoencoderConfig config;
    config.kind = "relu";
    config.width = model_->info().width;
    config.latents = 2 * config.width;
    config.point = "blocks.5";
    Autoencoder exact = *Autoencoder::make(config, 3);
    const at::Tensor eye = at::eye(config.width);
    at::Tensor(exact.tensor("W_enc")).copy_(at::cat({eye, -eye}, 1));
    at::Tensor(exact.tensor("W_dec")).copy_(at::cat({eye, -eye}));
    fs::create_directories(folder_ / "other");
    ASSERT_TRUE(exact.save(folder_ / "other" / "c.safetensors"));
    set_["autoencoders"] += "," + (folder_ / "other" / "c.safetensors").string();
    const auto found = measure();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    std::set<std::string> names;
    for (const Table& table : found->tables) EXPECT_TRUE(names.insert(table.name).second) << table.name;
    EXPECT_EQ(names.count("c ladder") + names.count("c 2 ladder"), 2u);
    const auto side = std::find_if(found->tables.begin(), found->tables.end(), [](const Table& table) {
        return table.name == "active a token, ratio to clean, patches";
    });
    ASSERT_NE(side, found->tables.end());
    EXPECT_EQ(side->rows, (std::vector<std::string>{"blocks.3, c", "blocks.5, c 2"}));
    EXPECT_EQ(side->cols, (std::vector<std::string>{"clean", "shuffle 1", "shuffle 2", "gaussian", "phase"}));
    EXPECT_TRUE(std::isnan(side->values[0][3]));
    EXPECT_EQ(side->values[1][0], 1);
    EXPECT_TRUE(std::isfinite(side->values[1][3]));
}

TEST_F(UncertaintyMeasure, HowWellTheRiskIsForetoldStandsWithItsInterval) {
    const fs::path pictures = folder_ / "pictures";
    fs::create_directories(pictures);
    for (const auto& one : builtin_pictures())
        for (const char* copy : {"a", "b", "c"})
            fs::copy_file(one, pictures / (copy + fs::path(one).filename().string()));
    set_.insert_or_assign("risk", "confidence");
    for (const char* two : {"folds", "inner_folds"}) set_.insert_or_assign(two, "2");
    set_.insert_or_assign("permutations", "3");
    set_.insert_or_assign("suppress", "0");
    Settings settings(measure_->parameters());
    for (const auto& [name, value] : set_) ASSERT_TRUE(settings.set(name, value));
    const PictureSet set = *PictureSet::open({pictures}, model_->preprocess());
    const auto found = measure_->measure_folder({*model_, set, label_, 0, 0, {}, {}}, settings);
    ASSERT_TRUE(found.has_value()) << found.error().message;
    const json risk = json::parse(found->document).at("layers").at(0).at("risk");
    ASSERT_TRUE(risk.is_object()) << found->document;
    EXPECT_LE(risk.at("interval_low").at("r2"), risk.at("interval_high").at("r2"));
    const auto table = std::find_if(found->tables.begin(), found->tables.end(),
                                    [](const Table& one) { return one.name == "c risk foretold"; });
    ASSERT_NE(table, found->tables.end());
    EXPECT_EQ(table->cols, (std::vector<std::string>{"found", "low", "high", "permuted, mean", "p"}));
    EXPECT_EQ(table->values.at(0), (std::vector<double>{risk.at("found").at("r2"), risk.at("interval_low").at("r2"),
                                                        risk.at("interval_high").at("r2"),
                                                        risk.at("permuted_mean").at("r2"), risk.at("p").at("r2")}));
}

TEST_F(UncertaintyMeasure, OneCommandTrainsTheControlsOwnConceptsAndTellsOfThem) {
    set_["control"] = "train";
    set_["control_steps"] = "3";
    set_["noises"] = "gaussian";
    set_["tiles"] = "";
    set_["pictures"] = "1";
    set_["reference"] = "1";
    // The recipe of a file that names none is the trainer's own: as small as can be here.
    {
        Autoencoder sound = *Autoencoder::load(file_);
        sound.facts["settings"] = R"({"batch":"64","buffer":"1","pictures":"2","warmup":"1","steps":"9"})";
        sound.facts["tokens_seen"] = "12345";
        ASSERT_TRUE(sound.save(file_));
    }
    const auto found = measure();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    const json document = json::parse(found->document);
    EXPECT_EQ(document.at("weights_shuffled_by_seed"), 0);
    const json& layer = document.at("layers").at(0);
    const json& control = layer.at("shuffled_weights_read_by");
    const std::string file = (folder_ / "c.shuffled_0.safetensors").string();
    EXPECT_EQ(control.at("autoencoder"), file);
    EXPECT_EQ(control.at("trained_on_shuffled_weights"), true);
    EXPECT_EQ(control.at("tokens_seen_in_training"), "192");
    EXPECT_TRUE(control.at("explained_variance_held_out").is_number()) << builtin_pictures().size() << " pictures";
    ASSERT_EQ(layer.at("shuffled_weights").size(), layer.at("rungs").size());
    for (const json& one : layer.at("shuffled_weights"))  // one token has no variance
        EXPECT_EQ(one.at("explained_variance").is_number(), one.at("tokens") != "class" || one.at("inputs") > 1) << one;
    const auto beside = std::find_if(found->tables.begin(), found->tables.end(),
                                     [](const Table& table) { return table.name == "c beside shuffled weights"; });
    ASSERT_NE(beside, found->tables.end());
    ASSERT_EQ(beside->rows.size(), layer.at("rungs").size());
    EXPECT_EQ(beside->values[0].size(), beside->cols.size());
    EXPECT_EQ(beside->values[2][8], layer.at("shuffled_weights").at(2).at("explained_variance"));
    EXPECT_THAT(found->notes, testing::Contains(HasSubstr("concepts of their own (192 tokens seen, ")));
    EXPECT_EQ(layer.at("shuffled_weights").at(0).at("rung"), "clean");
    // Named, it is the same; the sound one in its place is refused.
    set_["control"] = file;
    const auto named = measure();
    ASSERT_TRUE(named.has_value()) << named.error().message;
    EXPECT_EQ(json::parse(named->document).at("layers"), document.at("layers"));
    set_["control"] = file_.string();
    EXPECT_THAT(refusal(), HasSubstr("was not trained on shuffled weights"));
}

TEST_F(UncertaintyMeasure, WhatItCannotUnderstandIsRefusedInWords) {
    const auto with = [&](const char* name, const std::string& value) {
        const auto kept = std::exchange(set_[name], value);
        const std::string said = refusal();
        set_[name] = kept;
        return said;
    };
    EXPECT_THAT(with("tiles", "1,two"), HasSubstr("'two' in uncertainty_response.tiles is no number"));
    EXPECT_THAT(with("noises", "pink"), HasSubstr("no noise 'pink'"));
    EXPECT_THAT(with("given", "point"), HasSubstr("is not NAME=VALUE"));
    EXPECT_THAT(with("autoencoders", "/nowhere.safetensors"), HasSubstr("there is no autoencoder at"));
    EXPECT_THAT(with("risk", "scores"), HasSubstr("risk=scores needs a file"));
    set_["scores"] = (folder_ / "scores.csv").string();
    std::ofstream(folder_ / "scores.csv") << "file,score\nother.jpg,0.5\n";
    EXPECT_THAT(with("risk", "scores"), HasSubstr("a number for none of the"));
}

}  // namespace
}  // namespace vitrine
