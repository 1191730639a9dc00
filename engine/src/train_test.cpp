// Training on small synthetic sets: it learns, it resumes exactly, it stops with a checkpoint, it goes on from and
// follows other models.
#include <vitrine/train.h>

#include <gmock/gmock.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>

#include <set>

#include <vitrine/engine.h>
#include <vitrine/pack.h>
#include <vitrine/registry.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using Settings_ = std::vector<std::pair<std::string, std::string>>;

class TrainTest : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::path(testing::TempDir()) /
                  ("train_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        fs::remove_all(folder_);
        fs::create_directories(folder_ / "packs");
        colours("small", 16, {"red", "green"}, {0, 1});
        colours("val", 16, {"red", "green"}, {0, 1});
        fs::rename(folder_ / "packs/val.safetensors", folder_ / "val.safetensors");
    }
    void TearDown() override { fs::remove_all(folder_); }

    // Noise in which one channel is brighter: learned in a few steps, and wrong at random without learning.
    void colours(const std::string& name, std::int64_t side, std::vector<std::string> classes,
                 std::vector<int> channels) const {
        constexpr std::int64_t kCount = 32;
        auto generator = at::make_generator<at::CPUGeneratorImpl>(std::hash<std::string>{}(name));
        Pack pack;
        pack.images = at::randint(0, 120, {kCount, side, side, 3}, generator, at::kLong).to(at::kByte);
        pack.labels = at::randint(0, static_cast<std::int64_t>(classes.size()), {kCount}, generator, at::kLong);
        for (std::int64_t i = 0; i < kCount; ++i)
            pack.images.select(0, i)
                .select(2, channels[static_cast<std::size_t>(pack.labels[i].item<std::int64_t>())])
                .add_(100);
        pack.classes = std::move(classes);
        ASSERT_TRUE(write_pack(folder_ / "packs" / (name + ".safetensors"), pack).has_value());
    }

    TrainOptions options(const std::string& out, Settings_ more = {}) const {
        TrainOptions o;
        o.data = folder_ / "packs";
        o.out = folder_ / out;
        o.settings = {{"image_size", "16"},    {"patch", "4"},     {"width", "32"},      {"depth", "2"},
                      {"heads", "2"},          {"registers", "1"}, {"layer_scale", "0"}, {"batch", "16"},
                      {"report_seconds", "0"}, {"lr", "3e-3"},     {"low_side", "8"},    {"colour", "0"},
                      {"grey", "0"},           {"steps", "12"}};
        o.settings.insert(o.settings.end(), more.begin(), more.end());
        return o;
    }

    fs::path folder_;
};

TEST_F(TrainTest, LearnsWhatIsPlainToSeeAndWritesAModelThatOpens) {
    auto o = options("model.safetensors", {{"steps", "60"},
                                           {"mixup", "0"},
                                           {"cutmix", "0"},
                                           {"average", "0.9"},
                                           {"validate", (folder_ / "val.safetensors").string()}});
    const auto summary = train_classifier(o);
    ASSERT_TRUE(summary.has_value()) << summary.error().message;
    EXPECT_TRUE(summary->finished);
    EXPECT_GE(summary->accuracy, 0.95);
    EXPECT_FALSE(fs::exists(folder_ / "model.safetensors.checkpoint"));
    const auto model = open_model((folder_ / "model.safetensors").string());
    ASSERT_TRUE(model.has_value()) << model.error().message;
    EXPECT_THAT((*model)->labels().names, testing::ElementsAre("red", "green"));
    EXPECT_EQ((*model)->preprocess().input_height, 16);
    // Pure red, as the model is fed it: (value - mean) / std.
    at::Tensor pixels = at::full({1, 3, 16, 16}, -1.5, at::kFloat);
    pixels.select(1, 0).fill_(1.5);
    EXPECT_EQ(top((*model)->forward(pixels), (*model)->labels(), 1).front().label, "red");
}

TEST_F(TrainTest, ResumesToTheSameLosses) {
    std::vector<double> whole, parts;
    auto o = options("whole.safetensors");
    o.progress = [&](const TrainProgress& p) {
        if (p.note.empty()) whole.push_back(p.loss);
    };
    ASSERT_TRUE(train_classifier(o).has_value());

    std::stop_source stop;
    auto first = options("parts.safetensors");
    first.stop = stop.get_token();
    first.progress = [&](const TrainProgress& p) {
        if (p.note.empty()) parts.push_back(p.loss);
        if (p.step == 5) stop.request_stop();
    };
    const auto stopped = train_classifier(first);
    ASSERT_TRUE(stopped.has_value()) << stopped.error().message;
    EXPECT_FALSE(stopped->finished);
    EXPECT_EQ(stopped->steps, 5);
    EXPECT_TRUE(fs::exists(folder_ / "parts.safetensors.checkpoint"));
    EXPECT_FALSE(fs::exists(folder_ / "parts.safetensors"));

    auto second = options("parts.safetensors");
    second.progress = [&](const TrainProgress& p) {
        if (p.note.empty()) parts.push_back(p.loss);
    };
    const auto finished = train_classifier(second);
    ASSERT_TRUE(finished.has_value()) << finished.error().message;
    EXPECT_TRUE(finished->finished);
    EXPECT_THAT(finished->notes, testing::Contains("resumed at step 5 of 12"));
    ASSERT_EQ(whole.size(), 12U);
    EXPECT_EQ(parts, whole);
}

TEST_F(TrainTest, ACheckpointOfOtherSettingsIsNamedNotUsed) {
    std::stop_source stop;
    stop.request_stop();
    auto o = options("m.safetensors");
    o.stop = stop.get_token();
    ASSERT_TRUE(train_classifier(o).has_value());
    const auto result = train_classifier(options("m.safetensors", {{"weight_decay", "0.2"}}));
    ASSERT_FALSE(result.has_value());
    EXPECT_THAT(result.error().message, testing::HasSubstr("weight_decay"));
}

TEST_F(TrainTest, FollowsTeachersOverMatchedSetsAndGoesOnFromAModel) {
    colours("large", 32, {"blue", "grey"}, {2, 0});
    ASSERT_TRUE(train_classifier(options("teacher.safetensors")).has_value());
    const std::string teacher = (folder_ / "teacher.safetensors").string();
    const auto summary =
        train_classifier(options("m.safetensors", {{"steps", "3"},
                                                   {"teacher", teacher},
                                                   {"features_weight", "1"},
                                                   {"match", "0.5"},
                                                   {"context", "0.5"},
                                                   {"small_side", "8"},
                                                   {"drop_path", "0.2"},
                                                   {"optimizer", "muon"},
                                                   {"unlabelled", (folder_ / "val.safetensors").string()}}));
    ASSERT_TRUE(summary.has_value()) << summary.error().message;
    EXPECT_TRUE(std::isfinite(summary->loss));
    const auto model = open_model((folder_ / "m.safetensors").string());
    ASSERT_TRUE(model.has_value()) << model.error().message;
    for (const auto& [name, tensor] : (*model)->parameters()) EXPECT_FALSE(name.starts_with("feature_head")) << name;

    const auto auxiliary = train_classifier(options("a.safetensors", {{"steps", "2"}, {"auxiliary", teacher}}));
    ASSERT_TRUE(auxiliary.has_value()) << auxiliary.error().message;
    EXPECT_EQ((*open_model((folder_ / "a.safetensors").string()))->info().classes, 4)
        << "the extra outputs are cut off";

    fs::remove(folder_ / "packs/small.safetensors");
    const auto tuned = train_classifier(options("t.safetensors", {{"steps", "2"}, {"start", teacher}}));
    ASSERT_TRUE(tuned.has_value()) << tuned.error().message;
    EXPECT_THAT((*open_model((folder_ / "t.safetensors").string()))->labels().names,
                testing::ElementsAre("blue", "grey"));
}

TEST_F(TrainTest, MistakesAreToldInWords) {
    const auto message = [&](TrainOptions o) {
        const auto result = train_classifier(o);
        return result ? std::string("no error") : result.error().message;
    };
    EXPECT_THAT(message(options("m.safetensors", {{"epoch", "3"}})), testing::HasSubstr("did you mean epochs"));
    EXPECT_THAT(message(options("m.safetensors", {{"unlabelled", (folder_ / "val.safetensors").string()}})),
                testing::HasSubstr("teacher"));
    auto o = options("m.safetensors");
    o.data = folder_ / "nowhere";
    EXPECT_THAT(message(o), testing::HasSubstr("nothing at"));
    o = options("m.safetensors");
    o.dtype = "bf16";
    EXPECT_THAT(message(o), testing::HasSubstr("CUDA"));
    o = options("m.safetensors");
    o.architecture = "vitt";
    EXPECT_THAT(message(o), testing::HasSubstr("vit"));
}

TEST(TrainParameters, DoNotMeetTheArchitectures) {
    std::set<std::string> ours;
    for (const auto& p : train_parameters()) EXPECT_TRUE(ours.insert(p.name).second) << p.name;
    for (const auto& architecture : registry().architectures())
        for (const auto& p : architecture->parameters()) EXPECT_EQ(ours.count(p.name), 0U) << p.name;
}

}  // namespace
}  // namespace vitrine
