// An autoencoder for the control: trained as the sound one was, on shuffled weights, kept, and refused where it is not
// at home.
#include <vitrine/control_concepts.h>

#include <gmock/gmock.h>

#include <filesystem>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>

#include <vitrine/engine.h>
#include <vitrine/pack.h>
#include <vitrine/registry.h>
#include <vitrine/steering.h>
#include <vitrine/train_concepts.h>
#include <vitrine/uncertainty_response.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ControlConcepts : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::path(testing::TempDir()) /
                  ("control_concepts_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        fs::remove_all(folder_);
        fs::create_directories(folder_);
        Pack pack;
        pack.images =
            at::randint(0, 256, {24, 32, 32, 3}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{6}), at::kLong)
                .to(at::kByte);
        pack.labels = at::zeros({24}, at::kLong);
        pack.classes = {"pictures"};
        ASSERT_TRUE(write_pack(folder_ / "pack.safetensors", pack));
        model_ = std::move(*(*registry().architecture("vit"))->tiny(2));
        pictures_ = *PictureSet::open({folder_ / "pack.safetensors"}, model_->preprocess());
        TrainConceptsOptions training;
        training.pictures = &*pictures_;
        training.out = sound_;
        training.settings = {{"batch", "64"}, {"steps", "20"},       {"latents", "40"},      {"k", "3"},
                             {"lr", "0.01"},  {"warmup", "2"},       {"pictures", "4"},      {"buffer", "1"},
                             {"seed", "5"},   {"point", "blocks.1"}, {"kind", "batch_top_k"}};
        const auto trained = train_concepts(*model_, training);
        ASSERT_TRUE(trained.has_value()) << trained.error().message;
        options_.sound = sound_;
        options_.pictures = &*pictures_;
        options_.seed = 3;
    }
    void TearDown() override { fs::remove_all(folder_); }
    Result<Autoencoder> made() { return control_concepts(*model_, *Autoencoder::load(sound_), options_); }

    fs::path folder_;
    fs::path sound_ =
        fs::path(testing::TempDir()) /
        ("control_concepts_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name())) /
        "c.safetensors";
    std::unique_ptr<Model> model_;
    std::optional<PictureSet> pictures_;
    ControlConceptsOptions options_;
};

TEST_F(ControlConcepts, AreTrainedOnceAsTheSoundOnesWereOnShuffledWeights) {
    std::int64_t steps = 0;
    options_.progress = [&](const Progress& now) { steps = now.total; };
    const auto own = made();
    ASSERT_TRUE(own.has_value()) << own.error().message;
    EXPECT_EQ(steps, 20) << "as many as the sound one had";
    EXPECT_EQ(own->config().kind, "batch_top_k");
    EXPECT_EQ(own->config().latents, 40);
    EXPECT_EQ(own->config().k, 3);
    EXPECT_EQ(own->config().point, "blocks.1");
    EXPECT_EQ(own->facts.at("shuffled_weights"), "3");
    EXPECT_EQ(own->facts.at("tokens_seen"), "1280");
    // The model is as before, and its own concepts still fit; the control's do not, and say why.
    EXPECT_TRUE(Autoencoder::load(sound_)->fits(*model_));
    EXPECT_THAT(own->fits(*model_).error().message, HasSubstr("with its weights shuffled"));
    // It is kept.
    const auto written = fs::last_write_time(control_concepts_file(sound_, 3));
    steps = 0;
    ASSERT_TRUE(made());
    EXPECT_EQ(steps, 0);
    EXPECT_EQ(fs::last_write_time(control_concepts_file(sound_, 3)), written);
    // By other settings it is trained anew, and no more steps are taken than asked for.
    options_.steps = 7;
    ASSERT_TRUE(made());
    EXPECT_EQ(steps, 7);

    UncertaintyOptions ladder;
    for (std::int64_t i = 0; i < pictures_->count(); ++i) ladder.names.push_back(pictures_->picture(i).name);
    ladder.pixels = [&](std::int64_t i) { return pictures_->pixels(i); };
    ladder.autoencoders = {{"c", *Autoencoder::load(sound_)}};
    ladder.control_autoencoders = {{"own", *made()}};
    ladder.ladder = {{2}, {}, "gaussian", {"gaussian"}};
    ladder.pictures = 2;
    ladder.seeds = 1;
    ladder.reference = 2;
    ladder.resamples = 10;
    ladder.risk = "none";
    const auto found = uncertainty_response(*model_, ladder);
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_EQ(found->shuffled_by, 3u);
    ASSERT_TRUE(found->layers[0].control_held.has_value());
    const auto clean = [](const std::vector<RungFigures>& rungs) { return rungs.at(2).explained_variance; };
    ladder.control_autoencoders.clear();
    const auto unfair = uncertainty_response(*model_, ladder);
    ASSERT_EQ(found->layers[0].control.at(2).tokens, "patches");
    EXPECT_GT(clean(found->layers[0].control), clean(unfair->layers[0].control));
}

TEST_F(ControlConcepts, OfASteeredModelAreNotThoseOfTheModelAsItIs) {
    std::int64_t steps = 0;
    options_.progress = [&](const Progress& now) { steps = now.total; };
    options_.steps = 3;
    ASSERT_TRUE(made());
    const std::shared_ptr<Model> plain(model_.get(), [](Model*) {});
    Steering steering;
    steering.autoencoder = *Autoencoder::load(sound_);
    steering.edits = {{2, ConceptEdit::Mode::Set, 4}};
    const std::shared_ptr<Model> steered = *vitrine::steered(plain, steering);
    steps = 0;
    const auto own = control_concepts(*steered, *Autoencoder::load(sound_), options_);
    ASSERT_TRUE(own.has_value()) << own.error().message;
    EXPECT_EQ(steps, 3) << "what was trained on the model as it is was taken";
    EXPECT_EQ(own->facts.at("steered"), "concept 2 set to 4 at blocks.1");

    UncertaintyOptions ladder;
    for (std::int64_t i = 0; i < pictures_->count(); ++i) ladder.names.push_back(pictures_->picture(i).name);
    ladder.pixels = [&](std::int64_t i) { return pictures_->pixels(i); };
    ladder.autoencoders = {{"c", *Autoencoder::load(sound_)}};
    ladder.control_autoencoders = {{"own", *own}};
    ladder.ladder = {{2}, {}, "gaussian", {"gaussian"}};
    ladder.pictures = 2;
    ladder.seeds = 1;
    ladder.reference = 2;
    ladder.resamples = 10;
    ladder.risk = "none";
    EXPECT_THAT(uncertainty_response(*model_, ladder).error().message, HasSubstr("while other concepts of"));
    const auto found = uncertainty_response(*steered, ladder);
    EXPECT_TRUE(found.has_value()) << found.error().message;
}

TEST_F(ControlConcepts, AStoppedTrainingIsToldAsStopped) {
    std::stop_source source;
    source.request_stop();
    options_.stop = source.get_token();
    EXPECT_EQ(made().error().code, ErrorCode::Cancelled);
    EXPECT_FALSE(fs::exists(control_concepts_file(sound_, 3)));
}

TEST_F(ControlConcepts, WhatDoesNotSayHowItWasTrainedIsNotGuessedAt) {
    AutoencoderConfig config = Autoencoder::load(sound_)->config();
    config.kind = "relu";
    ASSERT_TRUE(Autoencoder::make(config, 1)->save(sound_));
    EXPECT_THAT(made().error().message, HasSubstr("c.safetensors does not say how it was trained"));
}

TEST_F(ControlConcepts, ShuffledWeightsAreASettingOfTraining) {
    TrainConceptsOptions training;
    training.pictures = &*pictures_;
    training.out = folder_ / "x.safetensors";
    training.settings = {{"shuffled_weights", "-1"}};
    EXPECT_THAT(train_concepts(*model_, training).error().message,
                HasSubstr("shuffled_weights is '-1', expected a seed"));
}

TEST_F(ControlConcepts, AreTrainedOnASinglePictureThatIsLeft) {
    PictureSet one = *pictures_;
    one.keep([&](const PictureSet::Picture& picture) { return picture.name == pictures_->picture(7).name; });
    ASSERT_EQ(one.count(), 1);
    options_.pictures = &one;
    const auto own = made();
    ASSERT_TRUE(own.has_value()) << own.error().message;
    EXPECT_EQ(own->facts.at("shuffled_weights"), "3");
}

TEST_F(ControlConcepts, PicturesThatClimbAreNotTrainedOn) {
    const auto order = ladder_order(24, 9);
    for (const std::int64_t climbing : {1, 12, 20}) {
        const PictureSet rest = control_pictures(*pictures_, 9, climbing);
        EXPECT_EQ(rest.count(), climbing < 12 ? 12 : 24 - climbing);
        std::set<std::string> names;
        for (std::int64_t i = 0; i < rest.count(); ++i) names.insert(rest.picture(i).name);
        for (std::int64_t i = 0; i < climbing; ++i)
            EXPECT_EQ(names.count(pictures_->picture(order[std::size_t(i)]).name), 0u);
    }
    EXPECT_EQ(control_pictures(*pictures_, 9, 24).count(), 24);
}

}  // namespace
}  // namespace vitrine
