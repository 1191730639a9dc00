// Saved steered models: they come back as models that answer the same, and broken or hostile files are refused in
// words.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/file.h>
#include <vitrine/engine.h>

#include "steering_model.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using Mode = ConceptEdit::Mode;
using Tokens = Steering::Tokens;

class SteeredFiles : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directories(folder_ / "deep");
        model_ = *open_model("starter");
        const auto& p = model_->preprocess();
        pixels_ = at::randn({1, 3, p.input_height, p.input_width}, at::make_generator<at::CPUGeneratorImpl>(5));
        write_concepts(3);
        steering_.autoencoder = *Autoencoder::load(concepts_);
        steering_.file = concepts_;
        steering_.edits = {{3, Mode::Set, 0.1}, {5, Mode::Suppress}, {7, Mode::Scale, 1.0 / 3}, {9, Mode::Add, -1e-3}};
    }
    void TearDown() override { fs::remove_all(folder_); }

    void write_concepts(std::uint64_t seed) const {
        AutoencoderConfig config;
        config.kind = "relu";
        config.width = model_->info().width;
        config.latents = 64;
        config.point = "blocks.2";
        ASSERT_TRUE(Autoencoder::make(config, seed)->save(concepts_));
    }
    json saved() const { return json::parse(std::ifstream(file_)); }
    /// What opening the file says once it was changed.
    std::string opening(const std::function<void(json&)>& change) const {
        json document = saved();
        change(document);
        return opening_text(document.dump());
    }
    std::string opening_text(const std::string& text) const {
        const fs::path other = folder_ / "other.steered.json";
        std::ofstream(other) << text;
        const auto opened = open_model(other.string());
        if (opened) return "opened";
        EXPECT_EQ(opened.error().message.find('\n'), std::string::npos) << opened.error().message;
        return opened.error().message;
    }

    fs::path folder_ =
        fs::path(testing::TempDir()) /
        ("vitrine_steered_files_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::path concepts_ = folder_ / "deep" / "c.safetensors", file_ = folder_ / "x.steered.json";
    std::shared_ptr<Model> model_;
    at::Tensor pixels_;
    Steering steering_;
};

TEST_F(SteeredFiles, ComeBackAsModels) {
    steering_.tokens = Tokens::Chosen;
    steering_.boxes = {{0, 1, 2, 3}, {4, 4, 4, 4}};
    auto made = steered(model_, steering_);
    ASSERT_TRUE(made) << made.error().message;
    const Status wrote = save_steered(**made, "starter", file_);
    ASSERT_TRUE(wrote) << wrote.error().message;
    EXPECT_THAT(read_text(file_).value(), Not(HasSubstr(folder_.string())));
    const auto same = [&](const fs::path& file) {
        const auto opened = open_model(file.string());
        ASSERT_TRUE(opened) << opened.error().message;
        EXPECT_TRUE(at::equal(*run(**opened, pixels_), *run(**made, pixels_)));
        EXPECT_FALSE(at::equal(*run(**opened, pixels_), *run(*model_, pixels_)));
        EXPECT_EQ((*opened)->info().name, "x.steered");
        const Steering* back = steering_of(**opened);
        ASSERT_NE(back, nullptr);
        EXPECT_EQ(back->boxes, steering_.boxes);
        ASSERT_EQ(back->edits.size(), steering_.edits.size());
        for (std::size_t i = 0; i < back->edits.size(); ++i) {
            EXPECT_EQ(back->edits[i].index, steering_.edits[i].index);
            EXPECT_EQ(back->edits[i].mode, steering_.edits[i].mode);
            EXPECT_EQ(back->edits[i].value, steering_.edits[i].value);  // to the last bit
        }
    };
    same(file_);
    // File and concepts may be carried elsewhere together.
    const fs::path elsewhere = folder_ / "elsewhere";
    fs::create_directories(elsewhere / "deep");
    fs::rename(file_, elsewhere / file_.filename());
    fs::rename(concepts_, elsewhere / "deep" / "c.safetensors");
    same(elsewhere / file_.filename());
}

TEST_F(SteeredFiles, MayBeSteeredAgain) {
    const std::shared_ptr<Model> once = *steered(model_, steering_);
    ASSERT_TRUE(save_steered(*once, "starter", file_));
    Steering more = steering_;
    more.edits = {{11, Mode::Set, 4.0}};
    more.tokens = Tokens::Class;
    auto twice = steered(once, more);
    ASSERT_TRUE(twice) << twice.error().message;
    const fs::path second = folder_ / "deep" / "y.steered.json";
    ASSERT_TRUE(save_steered(**twice, file_.string(), second));
    const auto opened = open_model(second.string());
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_TRUE(at::equal(*run(**opened, pixels_), *run(**twice, pixels_)));
    EXPECT_EQ(innermost_model(second).value(), "starter");
    // The first file is part of the second model.
    json first = saved();
    first["edits"][0]["value"] = 9;
    std::ofstream(file_) << first.dump();
    EXPECT_THAT(open_model(second.string()).error().message, HasSubstr("was made of a model with weights"));
}

TEST_F(SteeredFiles, AreNotWrittenOverWhatTheyAreMadeOf) {
    const std::shared_ptr<Model> once = *steered(model_, steering_);
    ASSERT_TRUE(save_steered(*once, "starter", file_));
    const std::string before = read_text(file_).value();
    Steering more = steering_;
    more.edits = {{11, Mode::Set, 4.0}};
    const std::shared_ptr<Model> twice = *steered(once, more);
    const fs::path second = folder_ / "y.steered.json";
    ASSERT_TRUE(save_steered(*twice, file_.string(), second));
    const auto thrice = steered(twice, more);
    fs::create_symlink(file_, folder_ / "link.steered.json");
    fs::create_hard_link(file_, folder_ / "hard.steered.json");
    fs::create_hard_link(concepts_, folder_ / "concepts.steered.json");
    const auto refusal = [](Model& model, const fs::path& of, const fs::path& file) {
        const Status wrote = save_steered(model, of.string(), file);
        return wrote ? std::string("written") : wrote.error().message;
    };
    for (const fs::path& same :
         {file_, folder_ / "deep/../x.steered.json", folder_ / "link.steered.json", folder_ / "hard.steered.json"}) {
        EXPECT_THAT(refusal(*twice, file_, same),
                    HasSubstr("is what the steered model is made of, and the file only says what is changed of it; "
                              "give the file another name"));
        EXPECT_THAT(refusal(**thrice, second, same), HasSubstr("is what the steered model is made of")) << "two within";
        EXPECT_THAT(refusal(*twice, folder_ / "link.steered.json", same), HasSubstr("is what the steered model"));
    }
    EXPECT_THAT(refusal(*twice, file_, folder_ / "concepts.steered.json"), HasSubstr("holds the concepts"));
    EXPECT_EQ(read_text(file_).value(), before);
    EXPECT_TRUE(open_model(second.string()));
    // The variant itself may be saved again.
    EXPECT_EQ(refusal(*twice, file_, second), "written");
}

TEST_F(SteeredFiles, OfProgramsNeedConsent) {
    const fs::path child = folder_ / "child";
    std::ofstream(child) << "#!/bin/sh\necho '{\"height\": 32, \"width\": 32, \"shape\": [1, 11]}'\n";
    fs::permissions(child, fs::perms::owner_all);
    setenv("VITRINE_PROBE_PROGRAM", child.c_str(), 1);
    const fs::path program = fs::path(VITRINE_SOURCE_DIR) / "tests/parity/data/capture_timm_fused_traced.pt";
    OpenOptions trusted;
    trusted.trust = true;
    const auto model = open_model(program.string(), trusted);
    ASSERT_TRUE(model) << model.error().message;
    AutoencoderConfig config;
    config.width = 32;
    config.latents = 64;
    config.point = "blocks.1";
    ASSERT_TRUE(Autoencoder::make(config, 1)->save(concepts_));
    Steering steering;
    steering.autoencoder = *Autoencoder::load(concepts_);
    steering.file = concepts_;
    steering.edits = {{3, Mode::Set, 5.0}};
    const auto made = steered(*model, steering);
    ASSERT_TRUE(made) << made.error().message;
    ASSERT_TRUE(save_steered(**made, program.string(), file_));
    EXPECT_THAT(open_model(file_.string()).error().message, HasSubstr("--trust"));
    const auto opened = open_model(file_.string(), trusted);
    ASSERT_TRUE(opened) << opened.error().message;
    const auto& p = (*model)->preprocess();
    const at::Tensor pixels =
        at::randn({1, 3, p.input_height, p.input_width}, at::make_generator<at::CPUGeneratorImpl>(5));
    EXPECT_TRUE(at::equal(*run(**opened, pixels), *run(**made, pixels)));
    // Its weights cannot be reached: the file itself is compared.
    json document = saved();
    document["model"]["weights"] = "0123456789abcdef";
    std::ofstream(file_) << document.dump();
    EXPECT_THAT(open_model(file_.string(), trusted).error().message, HasSubstr("weights 0123456789abcdef"));
    unsetenv("VITRINE_PROBE_PROGRAM");
}

TEST_F(SteeredFiles, AreRefusedInASentenceWhereTheyAreBroken) {
    steering_.tokens = Tokens::Chosen;
    steering_.boxes = {{0, 1, 2, 3}};
    ASSERT_TRUE(save_steered(**steered(model_, steering_), "starter", file_));
    EXPECT_EQ(opening([](json&) {}), "opened");
    EXPECT_THAT(opening_text(""), HasSubstr("no JSON object"));
    EXPECT_THAT(opening_text("[1, 2]"), HasSubstr("no JSON object"));
    EXPECT_THAT(opening_text(std::string(100000, '[')), HasSubstr("no JSON object"));
    EXPECT_THAT(opening_text(std::string(5 << 20, ' ')), HasSubstr("other.steered.json"));
    EXPECT_THAT(opening([](json& j) { j["format"] = "other"; }), HasSubstr("its format is not vitrine.steered"));
    EXPECT_THAT(opening([](json& j) { j["version"] = 2; }), HasSubstr("version 2, expected 1"));
    EXPECT_THAT(opening([](json& j) { j.erase("model"); }), HasSubstr("model is missing, expected an object"));
    EXPECT_THAT(opening([](json& j) { j["model"] = {{"name", "no-such-model"}}; }), HasSubstr("no model at"));
    EXPECT_THAT(opening([](json& j) { j["model"] = {{"name", "/etc"}}; }), HasSubstr("no name of a model"));
    EXPECT_THAT(opening([](json& j) { j["model"] = {{"file", "/etc/passwd"}}; }), HasSubstr("relative to itself"));
    EXPECT_THAT(opening([](json& j) { j["model"] = {{"file", "other.steered.json"}}; }), HasSubstr("name itself"));
    EXPECT_THAT(opening([](json& j) { j["model"]["weights"] = "0123456789abcdef"; }),
                HasSubstr("weights 0123456789abcdef, and starter has"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"]["file"] = "/dev/zero"; }), HasSubstr("relative to itself"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"]["file"] = std::string("deep\0x", 6); }),
                HasSubstr("relative to itself"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"]["file"] = "../../../../../../../../../dev/zero"; }),
                HasSubstr("there is no such file"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"]["file"] = "deep/.."; }), HasSubstr("holds neither"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"]["file"] = "none.safetensors"; }), HasSubstr("none.safetensors"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"]["built_in"] = "../x"; }), HasSubstr("something built in"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"].erase("hash"); }), HasSubstr("hash is missing"));
    EXPECT_THAT(opening([](json& j) { j["autoencoder"]["given"] = {{"k", 3}}; }), HasSubstr("k is 3, expected a text"));
    const std::string itself = opening([](json& j) { j["model"] = {{"file", "other.steered.json"}}; });
    EXPECT_EQ(itself.find("opening "), itself.rfind("opening ")) << itself;
    EXPECT_THAT(opening([](json& j) { j["edits"][0]["concept"] = std::uint64_t{1} << 63; }),
                HasSubstr("concept is 9223372036854775808, expected a whole number below 2^63"));
    EXPECT_THAT(opening([](json& j) { j["edits"] = 4; }), HasSubstr("edits is no list"));
    EXPECT_THAT(opening([](json& j) { j["edits"][0] = 4; }), HasSubstr("an edit is no object"));
    EXPECT_THAT(opening([](json& j) { j["edits"][0]["concept"] = 1e300; }), HasSubstr("expected a whole number"));
    EXPECT_THAT(opening([](json& j) { j["edits"][0]["concept"] = 64; }), HasSubstr("no concept 64"));
    EXPECT_THAT(opening([](json& j) { j["edits"][0]["mode"] = "twist"; }), HasSubstr("the mode is 'twist'"));
    EXPECT_THAT(opening([](json& j) { j["edits"][0]["value"] = nullptr; }), HasSubstr("expected a number"));
    EXPECT_THAT(opening([](json& j) { j["edits"][0]["value"] = 1e200; }), HasSubstr("expected a finite number"));
    EXPECT_THAT(opening([](json& j) { j["tokens"] = "none"; }), HasSubstr("the tokens are 'none'"));
    EXPECT_THAT(opening([](json& j) { j["tokens"] = "0,0-999,999"; }), HasSubstr("no box of a grid"));
    EXPECT_THAT(opening([](json& j) { j["grid"]["rows"] = 3; }), HasSubstr("are of a grid of 3 x"));
    EXPECT_THAT(opening([](json& j) { j.erase("grid"); }), HasSubstr("grid is missing"));
    // Another file in the place of the concepts.
    write_concepts(4);
    EXPECT_THAT(opening([](json&) {}), HasSubstr("was made with concepts"));
}

TEST_F(SteeredFiles, AreNotWrittenOfWhatCouldNotBeOpenedAgain) {
    const auto made = steered(model_, steering_);
    EXPECT_THAT(save_steered(**made, "starter", folder_ / "x.json").error().message, HasSubstr(".steered.json"));
    EXPECT_THAT(save_steered(*model_, "starter", file_).error().message, HasSubstr("is not steered"));
    steering_.file.clear();
    EXPECT_THAT(save_steered(**steered(model_, steering_), "starter", file_).error().message, HasSubstr("in no file"));
    EXPECT_FALSE(fs::exists(file_));
}

TEST(SteeringWords, AreReadAndWrittenAlike) {
    Steering steering;
    for (const char* text : {"all", "class", "patches", "0,1-2,3;4,4", "7,0"}) {
        ASSERT_TRUE(set_tokens(steering, text)) << text;
        EXPECT_EQ(tokens_text(steering), text);
    }
    for (const char* text : {"", ";", "1", "1,2,3", "1,2-", "2,2-1,1", "-1,2", "a,b", "all;1,1"})
        EXPECT_FALSE(set_tokens(steering, text)) << text;
    EXPECT_TRUE(boxes_of({}, 4).empty());
    EXPECT_EQ(boxes_of({6, 5, 3, 4}, 4), (std::vector<PatchBox>{{0, 3, 0, 3}, {1, 0, 1, 2}}));
}

TEST(Steerability, FollowsTheSteeredModel) {
    const std::shared_ptr<Model> model = registry().architecture("vit").value()->tiny(3).value();
    const at::Tensor pixels = at::randn({1, 3, 32, 32}, at::make_generator<at::CPUGeneratorImpl>(5));
    AutoencoderConfig config;
    config.kind = "relu";
    config.width = 32;
    config.latents = 96;
    config.point = "blocks.0";
    Steering steering;
    steering.autoencoder = Autoencoder::make(config, 7).value();
    steering.tokens = Tokens::Patches;
    const at::Tensor most = largest_codes(*model, pixels, steering.autoencoder).value();
    ASSERT_EQ(most.numel(), 96);
    SteerabilityOptions options;
    options.index = most.argmax().item<std::int64_t>();
    options.random_latents = 3;
    options.random_directions = 2;
    const auto found = steerability(*model, steering, pixels, options);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_FLOAT_EQ(found->unit, most.max().item<float>());
    ASSERT_EQ(found->latent.points.size(), 11);
    const at::Tensor before = at::log_softmax(run(*model, pixels)->to(at::kDouble)[0], 0);
    double largest = 0;
    for (const SteeredAnswer& at : found->latent.points) {
        steering.edits = {{options.index, Mode::Set, at.value * found->unit}};
        const at::Tensor now = at::log_softmax(run(**steered(model, steering), pixels)->to(at::kDouble)[0], 0);
        const double wanted = (before.exp() * (before - now)).sum().item<double>();
        EXPECT_NEAR(at.divergence, wanted, 1e-4 * (1 + wanted)) << at.value;
        EXPECT_EQ(at.top, now.argmax().item<std::int64_t>()) << at.value;
        EXPECT_NEAR(at.probability, std::exp(now[found->top].item<double>()), 1e-4);
        EXPECT_GE(at.changed, 0);
        EXPECT_LE(at.changed, 5);
        largest = std::max(largest, at.divergence);
    }
    EXPECT_GT(largest, 1e-2);
    ASSERT_EQ(found->random_latents.size(), 3);
    ASSERT_EQ(found->random_directions.size(), 2);
    for (const SteeringCurve& other : found->random_latents) EXPECT_NE(other.index, options.index);
    EXPECT_NE(found->random_directions[0].points[10].divergence, found->random_directions[1].points[10].divergence);
    // The same numbers again.
    const auto again = steerability(*model, steering, pixels, options);
    EXPECT_EQ(again->random_directions[1].points[3].divergence, found->random_directions[1].points[3].divergence);

    options.index = most.argmin().item<std::int64_t>();
    if (most.min().item<double>() == 0) {
        EXPECT_THAT(steerability(*model, steering, pixels, options).error().message, HasSubstr("is silent"));
    }
    options.index = 96;
    EXPECT_THAT(steerability(*model, steering, pixels, options).error().message, HasSubstr("no concept 96"));
}

TEST(Steerability, RandomDirectionsGoAsFar) {
    for (const bool weigh : {false, true}) {
        AutoencoderConfig config;
        config.kind = "top_k";
        config.width = 12;
        config.latents = 40;
        config.k = 5;
        config.normalise = "layer_norm";
        config.weigh_by_decoder = weigh;
        const Autoencoder one = Autoencoder::make(config, 7).value();
        one.tensor("W_dec").detach().mul_(3.0);
        const auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{5});
        const at::Tensor rows = at::randn({9, 12}, g) * 4;
        at::Tensor direction = at::randn({12}, g);
        direction = direction / at::linalg_vector_norm(direction);
        const at::Tensor own = set_latent(one, rows, 4, -7.0), other = set_along(one, rows, 4, -7.0, direction);
        const at::Tensor far = at::linalg_vector_norm(own, 2, {1});
        EXPECT_GT(far.min().item<double>(), 0.1);
        EXPECT_LT((far - at::linalg_vector_norm(other, 2, {1})).abs().max().item<double>(), 1e-4);
        EXPECT_LT((other - other.matmul(direction.unsqueeze(1)) * direction).abs().max().item<double>(), 1e-4);
    }
}

}  // namespace
}  // namespace vitrine
