// What the panel climbs is what vitrine measure finds; a played picture's concepts against the autoencoder alone.
#include "ladder_walk.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <vitrine/concept_index.h>
#include <vitrine/control_concepts.h>
#include <vitrine/engine.h>
#include <vitrine/folder_measure.h>
#include <vitrine/ladder.h>
#include <vitrine/uncertainty_response.h>

#include "tiny_model.h"

namespace vitrine::app {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class LadderWalk : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directories(folder_ / "pictures");
        ASSERT_TRUE(test::write_tiny_model(folder_ / "tiny"));
        plan_.model = (folder_ / "tiny").string();
        model_ = *open_model(plan_.model);
        for (const char* point : {"blocks.0", "blocks.1"}) {
            AutoencoderConfig config;
            config.kind = "relu";
            config.width = model_->info().width;
            config.latents = 96;
            config.point = point;
            const fs::path file = folder_ / (std::string(point) + ".safetensors");
            Autoencoder one = *Autoencoder::make(config, 3);
            one.facts["settings"] = R"({"batch":"64","buffer":"1","pictures":"2","warmup":"1","steps":"2"})";
            ASSERT_TRUE(one.save(file));
            plan_.autoencoders.push_back({file, {}});
        }
        for (const auto& picture : builtin_pictures())
            if (pictures_ < 3) fs::copy(picture, folder_ / "pictures" / picture.filename()), ++pictures_;
        ASSERT_EQ(pictures_, 3);
        plan_.folder = folder_ / "pictures";
        plan_.pictures = 2;
        plan_.seeds = 1;
    }
    void TearDown() override { fs::remove_all(folder_); }
    Result<LadderFacts> climb(std::stop_token stop = {}, const std::function<void(LadderFacts)>& so_far = {}) {
        said_.clear();
        return climb_ladder(
            plan_, memory_, stop, [&](std::string doing, double) { said_.push_back(std::move(doing)); },
            [&](LadderFacts facts) {
                if (so_far) so_far(std::move(facts));
            });
    }
    /// The layers of `vitrine measure --measure uncertainty_response` with the plan's settings.
    json measured(const std::string& control) {
        const auto* measure = dynamic_cast<const FolderMeasure*>(*registry().measure("uncertainty_response"));
        Settings settings(measure->parameters());
        std::string files;
        for (const auto& one : plan_.autoencoders) files += (files.empty() ? "" : ",") + one.file.string();
        for (const auto& [name, value] :
             std::map<std::string, std::string>{{"autoencoders", files},
                                                {"pictures", std::to_string(plan_.pictures)},
                                                {"seeds", std::to_string(plan_.seeds)},
                                                {"control", control},
                                                {"control_steps", std::to_string(plan_.control_steps)},
                                                {"reference", plan_.risk ? "512" : "64"},
                                                {"suppress", plan_.suppress ? "10" : "0"},
                                                {"risk", plan_.risk ? "confidence" : "none"}})
            EXPECT_TRUE(settings.set(name, value));
        const auto pictures = PictureSet::open({plan_.folder}, model_->preprocess());
        const auto found = measure->measure_folder({*model_, *pictures, {}, 0, 0, {}, {}}, settings);
        EXPECT_TRUE(found.has_value()) << found.error().message;
        return json::parse(found->document).at("layers");
    }
    /// To the bit: both are doubles, and JSON holds them whole.
    static void expect_same(const LadderFacts& facts, const json& layers) {
        ASSERT_EQ(facts.layers.size(), layers.size());
        std::int64_t compared = 0;
        for (std::size_t l = 0; l < layers.size(); ++l) {
            const auto& layer = facts.layers[l];
            EXPECT_EQ(layer.point, layers[l].at("point"));
            std::map<std::pair<std::string, bool>, std::size_t> place;
            for (const bool control : {false, true})
                for (const json& one : layers[l].at(control ? "shuffled_weights" : "rungs")) {
                    const std::string tokens = one.at("tokens");
                    const auto series = std::find_if(layer.series.begin(), layer.series.end(), [&](const auto& s) {
                        return s.tokens == tokens && s.control == control;
                    });
                    ASSERT_NE(series, layer.series.end());
                    const LadderPoint& point = series->points.at(place[{tokens, control}]++);
                    const auto same = [&](const LadderEstimate& e, const char* name) {
                        EXPECT_EQ(e.mean, one.at(name).at("mean")) << name;
                        EXPECT_EQ(e.low, one.at(name).at("low")) << name;
                        EXPECT_EQ(e.high, one.at(name).at("high")) << name;
                    };
                    same(point.active, "active_a_token");
                    same(point.distinct, "distinct_an_input");
                    same(point.ratio, "ratio_to_clean");
                    same(point.overlap, "overlap_with_clean");
                    EXPECT_EQ(point.explained, one.at("explained_variance"));
                    EXPECT_EQ(point.norm, one.at("mean_norm"));
                    EXPECT_EQ(point.unreliable, one.at("unreliable"));
                    EXPECT_EQ(point.inputs, one.at("inputs"));
                    ++compared;
                }
            const json& said = layers[l].at("insensitive");
            ASSERT_EQ(layer.insensitive.size(), said.size());
            for (std::size_t i = 0; i < said.size(); ++i) {
                EXPECT_EQ(layer.insensitive[i].latent, said[i].at("concept"));
                const auto& index = layer.insensitive[i].insensitivity;
                EXPECT_EQ(index ? json(*index) : json(), said[i].at("insensitivity"));
            }
            const json& suppressed = layers[l].at("suppression");
            ASSERT_EQ(layer.suppression.size(), suppressed.size());
            for (std::size_t i = 0; i < suppressed.size(); ++i) {
                const auto& found = layer.suppression[i];
                EXPECT_EQ(found.raising, suppressed[i].at("chosen") == "raising");
                EXPECT_EQ(found.inputs, suppressed[i].at("inputs"));
                const auto same = [&](const LadderEstimate& e, const char* name) {
                    const json& of = suppressed[i].at(name);
                    for (const auto& [value, key] : {std::pair{e.mean, "mean"}, {e.low, "low"}, {e.high, "high"}})
                        EXPECT_EQ(std::isfinite(value) ? json(value) : json(), of.at(key)) << name << ' ' << key;
                };
                same(found.before, "before");
                same(found.after, "after");
                same(found.change, "change");
                same(found.control, "change_with_random_concepts");
                same(found.difference, "difference");
            }
        }
        EXPECT_GT(compared, 100);
    }

    fs::path folder_ = fs::path(testing::TempDir()) /
                       ("vitrine_walk_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::shared_ptr<Model> model_;
    LadderPlan plan_;
    std::shared_ptr<LadderMemory> memory_;
    std::vector<std::string> said_;
    int pictures_ = 0;
};

TEST_F(LadderWalk, EndsWithTheFiguresOfTheMeasureStoppedOrNot) {
    plan_.autoencoders.pop_back();
    // Stopped after the first that there is to see, then with a draw more.
    std::stop_source source;
    std::optional<LadderFacts> kept;
    const auto stopped = climb(source.get_token(), [&](LadderFacts facts) {
        kept = std::move(facts);
        source.request_stop();
    });
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code, ErrorCode::Cancelled);
    ASSERT_TRUE(kept);
    EXPECT_FALSE(kept->whole);
    EXPECT_EQ(kept->layers.at(0).series.at(0).points.at(0).inputs, 1);
    EXPECT_EQ(kept->layers[0].series[0].points.back().inputs, 0);
    EXPECT_TRUE(std::isnan(kept->layers[0].series[0].points.back().active.mean));
    const auto facts = climb();
    ASSERT_TRUE(facts) << facts.error().message;
    EXPECT_TRUE(facts->whole);
    EXPECT_THAT(said_, testing::Contains("Picture 2 of 2, draw 1 of 1: gaussian"));
    EXPECT_THAT(said_, testing::Contains(testing::StartsWith("Weights shuffled, picture 1 of 2, draw 1 of 1: ")));
    expect_same(*facts, measured("same"));
    // Nothing is read again.
    ASSERT_TRUE(climb());
    for (const auto& words : said_) EXPECT_EQ(words.find("icture 1 of 2"), std::string::npos) << words;
    // A changed picture begins anew.
    fs::last_write_time(fs::directory_iterator(plan_.folder)->path(), fs::file_time_type::clock::now());
    ASSERT_TRUE(climb());
    EXPECT_THAT(said_, testing::Contains("Picture 1 of 2, draw 1 of 1: gaussian"));
}

TEST_F(LadderWalk, SeveralLayersHaveControlsOfTheirOwn) {
    plan_.control = LadderControl::Trained;
    plan_.control_steps = 2;
    plan_.pictures = 1;
    const auto facts = climb();
    ASSERT_TRUE(facts) << facts.error().message;
    EXPECT_THAT(said_, testing::Contains(testing::StartsWith("Training concepts of the shuffled weights, step")));
    ASSERT_EQ(facts->layers.size(), 2u);
    for (std::size_t l = 0; l < 2; ++l) {
        ASSERT_TRUE(facts->layers[l].control.has_value());
        EXPECT_EQ(facts->layers[l].control->tokens, "128");
        EXPECT_TRUE(fs::exists(control_concepts_file(plan_.autoencoders[l].file, 0)));
    }
    plan_.autoencoders = {{folder_ / "pictures", {}}};
    EXPECT_FALSE(climb());
}

TEST_F(LadderWalk, WhatForetellsTheRiskIsSuppressedOnlyWhenAsked) {
    plan_.autoencoders.pop_back();
    plan_.risk = true;
    // As many pictures as folds need, each another.
    for (int i = pictures_; i < 20; ++i) {
        std::ofstream out(folder_ / "pictures" / fmt::format("made_{}.ppm", i), std::ios::binary);
        out << "P6\n64 64\n255\n";
        for (int at = 0; at < 64 * 64 * 3; ++at) out.put(static_cast<char>((at * (i + 3) + at / 192 * i * 7) % 251));
    }
    const auto without = climb();
    ASSERT_TRUE(without) << without.error().message;
    ASSERT_TRUE(without->layers[0].risk.has_value());
    EXPECT_TRUE(without->layers[0].suppression.empty());
    plan_.suppress = true;
    const auto facts = climb();
    ASSERT_TRUE(facts) << facts.error().message;
    EXPECT_THAT(said_, testing::Contains("Suppressing the concepts that foretell it"));
    ASSERT_EQ(facts->layers[0].suppression.size(), 2u);
    EXPECT_GT(facts->layers[0].suppression[0].inputs, 0);
    expect_same(*facts, measured("same"));
}

TEST_F(LadderWalk, WhatAFileDoesNotSayIsAsGiven) {
    const fs::path file = folder_ / "other.safetensors";
    ASSERT_TRUE(test::write_foreign_concepts(file));
    plan_.control = LadderControl::None;
    plan_.autoencoders = {{file, {}}};
    const fs::path picture = builtin_pictures().front();
    for (const std::string& message :
         {climb().error().message, play_ladder(plan_.model, {file, {}}, picture, {}).error().message})
        EXPECT_EQ(message,
                  "the file other.safetensors does not say which point of the model it reads; open it once in the "
                  "Concepts panel and choose the point there");
    // A word that is not known here is asked for too; what nothing that is given would mend is not.
    const std::string there = "; the Concepts panel asks for that once the file is opened there";
    const fs::path unknown = folder_ / "unknown.safetensors", broken = folder_ / "broken.safetensors";
    ASSERT_TRUE(test::write_foreign_concepts(unknown, "Identity"));
    EXPECT_TRUE(play_ladder(plan_.model, {unknown, {}}, picture, {}).error().message.ends_with(there));
    std::ofstream(broken) << "no autoencoder, whatever kind=VALUE is given";
    const auto refused = play_ladder(plan_.model, {broken, {}}, picture, {});
    EXPECT_EQ(refused.error().message.find(there), std::string::npos) << refused.error().message;
    const std::map<std::string, std::string> given = {{"point", "blocks.0"}};
    plan_.autoencoders = {{file, given}};
    const auto facts = climb();
    ASSERT_TRUE(facts) << facts.error().message;
    EXPECT_EQ(facts->layers.at(0).point, "blocks.0");
    EXPECT_GT(facts->layers[0].series.at(0).points.at(0).active.mean, 0);
    const auto steps = play_ladder(plan_.model, plan_.autoencoders[0], picture, {});
    ASSERT_TRUE(steps) << steps.error().message;
    EXPECT_GT(steps->front().heard, 0);
    // An index knows what was given when it was built.
    IndexConceptsOptions index;
    index.folder = plan_.folder;
    index.autoencoder = file;
    index.given = given;
    ASSERT_TRUE(index_concepts(*model_, index));
    plan_.autoencoders = {{file, {}}};
    const auto again = climb();
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(again->layers.at(0).point, "blocks.0");
}

TEST_F(LadderWalk, APlayedPictureRingsWhatWasHeardAllTheWay) {
    const at::NoGradGuard no_grad;
    const fs::path picture = builtin_pictures().front();
    const auto steps = play_ladder(plan_.model, plan_.autoencoders[0], picture, {});
    ASSERT_TRUE(steps) << steps.error().message;
    ASSERT_EQ(steps->size(), 17u) << "the picture, five shuffles, ten shares of noise, noise";
    EXPECT_EQ(steps->front().rung, "clean");
    EXPECT_EQ(steps->front().stay, steps->front().heard);
    EXPECT_EQ(steps->back().rung, "gaussian");
    const Input input = *load_input(picture, model_->preprocess());
    EXPECT_EQ(steps->front().rgb.size(), std::size_t(3 * input.seen.width * input.seen.height));
    for (std::size_t i = 0; i < 30; ++i)
        EXPECT_NEAR(steps->front().rgb[i * 97], input.seen.pixels[i * 97], 1) << "what the model sees";
    const Autoencoder one = *Autoencoder::load(plan_.autoencoders[0].file);
    const auto heard = [&](const Rung& rung) {
        const auto read =
            *point_tokens(*model_, *rung_pixels(rung, input.pixels, model_->preprocess(), 0, input.name), one.config());
        return one.encode(read.tokens[0].narrow(0, std::ssize(read.prefix), read.rows * read.cols)).active;
    };
    const at::Tensor clean = heard({}).ne(0).any(0), two = heard({Rung::Kind::Shuffle, 2, 0, ""}).ne(0).any(0);
    const at::Tensor four = heard({Rung::Kind::Shuffle, 4, 0, ""});
    const at::Tensor stays = clean.logical_and(two).logical_and(four.ne(0).any(0));
    const PlayedStep& step = steps->at(2);
    EXPECT_EQ(step.rung, "shuffle 4");
    EXPECT_EQ(step.heard, four.ne(0).any(0).sum().item<std::int64_t>());
    EXPECT_EQ(step.stay, stays.sum().item<std::int64_t>());
    ASSERT_FALSE(step.concepts.empty());
    for (const auto& said : step.concepts) {
        EXPECT_EQ(said.stays, stays[said.latent].item<bool>());
        EXPECT_NEAR(said.sum, four.select(1, said.latent).sum().item<double>(), 1e-3 * std::abs(said.sum));
    }
    EXPECT_LE(steps->back().stay, steps->back().heard);
    EXPECT_FALSE(play_ladder(plan_.model, plan_.autoencoders[0], folder_ / "none.jpg", {}));
}

}  // namespace
}  // namespace vitrine::app
