// What the workbench says of a picture's concepts, against the autoencoder alone.
#include "concept_codes.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include <ATen/TensorOperators.h>
#include <vitrine/concept_index.h>
#include <vitrine/engine.h>

#include "concept_book.h"
#include "workbench.h"

namespace vitrine::app {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ConceptCodes : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directories(folder_);
        ASSERT_TRUE(bench_.open_model("starter", false, {}));
        ASSERT_TRUE(bench_.open_picture(Workbench::builtin_pictures().front(), {}));
        ASSERT_TRUE(bench_.look({}, {}));
        model_ = *open_model("starter");
        pixels_ = load_input(Workbench::builtin_pictures().front(), model_->preprocess())->pixels;
        config_.kind = "top_k";
        config_.k = 8;
        config_.width = model_->info().width;
        config_.latents = 256;
        config_.point = "blocks.6";
    }
    void TearDown() override { fs::remove_all(folder_); }
    Autoencoder save(const AutoencoderConfig& config) {
        Autoencoder one = *Autoencoder::make(config, 3);
        EXPECT_TRUE(one.save(file_));
        return one;
    }
    Result<ConceptsFound> found() { return bench_.concepts({file_, {}}, {}); }

    fs::path folder_ = fs::path(testing::TempDir()) /
                       ("vitrine_codes_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::path file_ = folder_ / "c.safetensors";
    Workbench bench_;
    std::shared_ptr<Model> model_;
    at::Tensor pixels_;
    AutoencoderConfig config_;
};

TEST_F(ConceptCodes, EveryPatchHasTheConceptsThatTheAutoencoderGivesIt) {
    const auto one = save(config_);
    std::ofstream(folder_ / "c.safetensors.names") << "12\tears\tdog, part\tof puppies\n";
    const auto answer = found();
    ASSERT_TRUE(answer) << answer.error().message;
    const auto& picture = *answer->picture;
    const auto all = point_tokens(*model_, pixels_, config_);
    ASSERT_TRUE(all);
    const auto before = static_cast<std::int64_t>(all->prefix.size()), patches = all->rows * all->cols;
    ASSERT_GT(before, 0);
    const auto tokens = all->tokens[0];
    const auto codes = one.encode(tokens);
    EXPECT_EQ(picture.rows(), all->rows);
    EXPECT_EQ(picture.cols(), all->cols);
    EXPECT_EQ(picture.patches(), patches);
    const auto active = codes.active.narrow(0, before, patches).contiguous();
    const float* values = active.const_data_ptr<float>();
    for (std::int64_t patch = 0; patch < patches; ++patch) {
        ASSERT_EQ(picture.at(patch).size(), 8u) << patch;
        for (const auto& here : picture.at(patch)) ASSERT_EQ(here.value, values[patch * 256 + here.id]);
    }
    ASSERT_EQ(std::ssize(answer->apart), before) << "each token before the patches has a list of its own";
    const auto ahead = codes.active.narrow(0, 0, before).contiguous();
    for (std::int64_t token = 0; token < before; ++token) {
        const auto& alone = answer->apart[static_cast<std::size_t>(token)];
        EXPECT_EQ(alone.token, all->prefix[static_cast<std::size_t>(token)]);
        ASSERT_EQ(alone.concepts.size(), 8u);
        for (const auto& here : alone.concepts)
            EXPECT_EQ(here.value, ahead.const_data_ptr<float>()[token * 256 + here.id]);
        EXPECT_TRUE(std::is_sorted(alone.concepts.begin(), alone.concepts.end(),
                                   [](const auto& a, const auto& b) { return a.value > b.value; }));
        EXPECT_EQ(alone.at(alone.concepts.back().id), alone.concepts.back().value);
    }
    const auto error = one.decode(codes.active, codes) - tokens;
    const double share = 1 - (error.square().sum() / (tokens - tokens.mean(0, true)).square().sum()).item<double>();
    ASSERT_TRUE(answer->facts.explained);
    EXPECT_NEAR(*answer->facts.explained, share, 1e-4);
    ASSERT_TRUE(answer->facts.explained_class) << "is told apart from those of hundreds of patches";
    const double own = 1 - (error[0].square().sum() / (tokens - tokens.mean(0, true))[0].square().sum()).item<double>();
    EXPECT_NEAR(*answer->facts.explained_class, own, 1e-4);
    EXPECT_EQ(answer->facts.active, 8);
    ASSERT_EQ(answer->facts.names.size(), 1u);
    EXPECT_EQ(answer->facts.names.at(12).name, "ears");
    EXPECT_EQ(answer->facts.names.at(12).tags, "dog, part");
    EXPECT_EQ(answer->facts.point, "blocks.6");
    EXPECT_THAT(answer->facts.notes, testing::Contains(HasSubstr("does not say which weights")));
}

TEST_F(ConceptCodes, EveryLayerIsReadByTheSameAutoencoderAndItsOwnIsWhatThePictureSays) {
    config_.tokens = "patches";
    const auto one = save(config_);
    const auto answer = found();
    ASSERT_TRUE(answer) << answer.error().message;
    const auto layers = bench_.concept_layers({file_, {}}, {});
    ASSERT_TRUE(layers) << layers.error().message;
    ASSERT_EQ(layers->points.size(), 10u);
    EXPECT_EQ(layers->points.front(), "blocks.0");
    EXPECT_EQ(layers->points[static_cast<std::size_t>(layers->own)], "blocks.6");
    for (std::int64_t id = 0; id < 256; ++id)
        ASSERT_EQ(layers->at(layers->own, id), answer->picture->summary(id).strongest) << id;
    EXPECT_NEAR(layers->explained[static_cast<std::size_t>(layers->own)], *answer->facts.explained, 1e-9);
    // Another layer, by the autoencoder alone.
    config_.point = "blocks.2";
    const auto tokens = concept_tokens(*model_, pixels_, config_);
    ASSERT_TRUE(tokens);
    const auto codes = one.encode((*tokens)[0]);
    const auto most = std::get<0>(codes.active.max(0)).contiguous();
    for (std::int64_t id = 0; id < 256; ++id) ASSERT_EQ(layers->at(2, id), most.const_data_ptr<float>()[id]) << id;
}

TEST_F(ConceptCodes, PatchesAloneAndTheClassTokenAloneAreReadAsTheyWereTrained) {
    config_.tokens = "patches";
    save(config_);
    auto answer = found();
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_TRUE(answer->picture->has_grid());
    EXPECT_EQ(answer->picture->patches(), answer->picture->rows() * answer->picture->cols());
    EXPECT_TRUE(answer->apart.empty()) << "it reads no others";
    config_.tokens = "class";
    file_ = folder_ / "class.safetensors";
    save(config_);
    answer = found();
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_FALSE(answer->picture->has_grid());
    EXPECT_EQ(answer->picture->patches(), 1);
    EXPECT_THAT(answer->facts.no_map, HasSubstr("class token alone"));
}

TEST_F(ConceptCodes, WhatDoesNotFitIsRefusedInASentence) {
    auto one = *Autoencoder::make(config_, 3);
    one.facts = {{"model", "another"}, {"weights", "0123"}};
    ASSERT_TRUE(one.save(file_));
    auto answer = found();
    ASSERT_FALSE(answer);
    EXPECT_THAT(answer.error().message, HasSubstr("trained on another"));
    config_.width = 16;
    file_ = folder_ / "narrow.safetensors";
    save(config_);
    answer = found();
    ASSERT_FALSE(answer);
    EXPECT_THAT(answer.error().message, HasSubstr("16 wide"));
    config_.width = model_->info().width;
    config_.point = "";
    file_ = folder_ / "pointless.safetensors";
    save(config_);
    answer = found();
    ASSERT_FALSE(answer);
    EXPECT_THAT(answer.error().message, HasSubstr("does not say"));
    answer = bench_.concepts({file_, {{"point", "blocks.6"}}}, {});
    EXPECT_TRUE(answer) << answer.error().message;
    file_ = folder_ / "nothing.safetensors";
    answer = found();
    ASSERT_FALSE(answer);
    EXPECT_THAT(answer.error().message, HasSubstr("there is no autoencoder"));
}

TEST_F(ConceptCodes, SteeringAnswersOtherwiseAndWithoutEditsAsBefore) {
    save(config_);
    const auto own = bench_.look({}, {});
    ASSERT_TRUE(own);
    Steer steer;
    steer.source = {file_, {}};
    const auto answers = [&] { return bench_.look(steer, {}); };
    const auto strongest = found()->picture->ranked(ConceptOrder::Patches);
    steer.put({strongest[0], SteeredConcept::Mode::Scale, 1});
    auto look = answers();
    ASSERT_TRUE(look) << look.error().message;
    EXPECT_EQ(look->probabilities, own->probabilities) << "a factor of one";
    EXPECT_FALSE(look->steered.empty());
    steer.put({strongest[0], SteeredConcept::Mode::Set, 40});
    steer.put({strongest[1], SteeredConcept::Mode::Suppress, 0});
    EXPECT_EQ(steer.edits.size(), 2u);
    look = answers();
    ASSERT_TRUE(look) << look.error().message;
    EXPECT_NE(look->probabilities, own->probabilities);
    // A map of the steered model, one of the model as it was, and the steered one again.
    Wanted wanted;
    wanted.method = "rollout";
    const auto silent = [](std::int64_t, std::int64_t, const std::string&) {};
    const auto plain = bench_.explain(wanted, {}, silent);
    wanted.steer = steer;
    const auto steered = bench_.explain(wanted, {}, silent);
    ASSERT_TRUE(plain && steered);
    EXPECT_NE(*plain->plane.values, *steered->plane.values);
    EXPECT_THAT(steered->notes, testing::Contains(HasSubstr("steered: ")));
    EXPECT_THAT(plain->notes, testing::Not(testing::Contains(HasSubstr("steered: "))));
    steer.tokens = Steer::Tokens::Chosen;
    EXPECT_FALSE(steer.active()) << "no patch was chosen";
    EXPECT_EQ(answers()->probabilities, own->probabilities);
    steer.region = Region{100, 100, 100, 100};
    look = answers();
    ASSERT_FALSE(look);
    EXPECT_FALSE(look.error().message.empty());
    EXPECT_EQ(bench_.look({}, {})->probabilities, own->probabilities);
}

TEST_F(ConceptCodes, AnAutoencoderThatIsWrittenAnewSteersAsItIsNow) {
    save(config_);
    Steer steer;
    steer.source = {file_, {}};
    const auto number = found()->picture->ranked(ConceptOrder::Patches)[0];
    steer.put({number, SteeredConcept::Mode::Set, 40});
    Wanted wanted;
    wanted.method = "rollout";
    wanted.steer = steer;
    const auto silent = [](std::int64_t, std::int64_t, const std::string&) {};
    const auto before = bench_.look(steer, {});
    const auto map_before = bench_.explain(wanted, {}, silent);
    ASSERT_TRUE(before && map_before);
    // Under the same name, as a training that is repeated writes it: of the same length, and later.
    const auto then = fs::last_write_time(file_);
    ASSERT_TRUE(Autoencoder::make(config_, 4)->save(file_));
    fs::last_write_time(file_, then + std::chrono::seconds(2));
    Workbench fresh;
    ASSERT_TRUE(fresh.open_model("starter", false, {}));
    ASSERT_TRUE(fresh.open_picture(Workbench::builtin_pictures().front(), {}));
    const auto expected = fresh.look(steer, {});
    ASSERT_TRUE(expected) << expected.error().message;
    const auto map = bench_.explain(wanted, {}, silent);
    ASSERT_TRUE(map) << map.error().message;
    EXPECT_NE(*map->plane.values, *map_before->plane.values) << "no map is left of the old concept";
    const auto same_edit = bench_.look(steer, {});
    ASSERT_TRUE(same_edit) << same_edit.error().message;
    EXPECT_NE(same_edit->probabilities, before->probabilities);
    EXPECT_EQ(same_edit->probabilities, expected->probabilities);
    // Written once more, and another edit of it is asked for.
    ASSERT_TRUE(Autoencoder::make(config_, 5)->save(file_));
    fs::last_write_time(file_, then + std::chrono::seconds(4));
    steer.put({number, SteeredConcept::Mode::Set, 30});
    const auto other_edit = bench_.look(steer, {});
    ASSERT_TRUE(other_edit) << other_edit.error().message;
    EXPECT_EQ(other_edit->probabilities, fresh.look(steer, {})->probabilities);
    const auto saved = folder_ / "starter.steered.json";
    const auto written = bench_.save_steered(steer, saved);
    ASSERT_TRUE(written) << written.error().message;
    const auto opened = open_model(saved.string());
    EXPECT_TRUE(opened) << opened.error().message;
}

TEST_F(ConceptCodes, AnIndexThatIsBuiltLaterGivesTheLargestThatWereSeen) {
    config_.latents = 32;
    save(config_);
    EXPECT_TRUE(found()->facts.largest.empty()) << "there is no index";
    const auto pictures = folder_ / "pictures", index_file = folder_ / "c.safetensors.index";
    fs::create_directories(pictures);
    const auto all = Workbench::builtin_pictures();
    ASSERT_GE(all.size(), 2u);
    for (std::size_t count : {1, 2}) {
        const auto& one = all[count - 1];
        fs::copy_file(one, pictures / one.filename());
        const auto made = build_index({"starter", pictures, {file_, {}}}, {}, [](const auto&, auto, auto) {});
        ASSERT_TRUE(made) << made.error().message;
        const auto index = ConceptIndex::open(index_file);
        ASSERT_TRUE(index) << index.error().message;
        const auto most = index->column("maximum");
        const auto answer = found();
        ASSERT_TRUE(answer) << answer.error().message;
        ASSERT_EQ(answer->facts.largest.size(), 32u) << count;
        for (std::size_t i = 0; i < 32; ++i) EXPECT_EQ(answer->facts.largest[i], std::max(0.0F, most[i])) << i;
    }
}

}  // namespace
}  // namespace vitrine::app
