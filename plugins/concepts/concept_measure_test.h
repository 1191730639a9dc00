// What tests of measures over a folder share: the built-in model and pictures, a random autoencoder in a folder of its
// own.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include <vitrine/autoencoder.h>
#include <vitrine/engine.h>
#include <vitrine/folder_measure.h>

namespace vitrine {

class ConceptMeasureTest : public testing::Test {
  protected:
    ConceptMeasureTest(std::string measure, std::map<std::string, std::string> settings)
        : name_(std::move(measure)), set_(std::move(settings)) {}
    void SetUp() override {
        std::filesystem::create_directories(folder_);
        model_ = *open_model("starter");
        const auto readable = load_input(builtin_pictures().at(0), model_->preprocess());
        if (!readable) GTEST_SKIP() << readable.error().message;
        AutoencoderConfig config;
        config.kind = "relu";
        config.width = model_->info().width;
        config.latents = 128;
        config.point = "blocks.3";
        ASSERT_TRUE(Autoencoder::make(config, 3)->save(file_));
        measure_ = dynamic_cast<const FolderMeasure*>(*registry().measure(name_));
        ASSERT_NE(measure_, nullptr);
        set_.emplace("autoencoders", file_.string());
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    Result<FolderFindings> measure() {
        Settings settings(measure_->parameters());
        for (const auto& [name, value] : set_) VITRINE_CHECK(settings.set(name, value));
        const auto builtin = builtin_pictures();
        const PictureSet pictures =
            VITRINE_TRY(PictureSet::open({builtin.begin(), builtin.end()}, model_->preprocess()));
        return measure_->measure_folder({*model_, pictures, label_, seed_, 0, {}, {}}, settings);
    }
    std::string refusal() {
        const auto found = measure();
        return found ? std::string("measured") : found.error().message;
    }

    std::string name_;
    std::filesystem::path folder_ =
        std::filesystem::path(testing::TempDir()) /
        ("vitrine_" + name_ + "_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::path file_ = folder_ / "c.safetensors";
    std::shared_ptr<Model> model_;
    const FolderMeasure* measure_ = nullptr;
    std::map<std::string, std::string> set_;
    std::uint64_t seed_ = 0;
    std::function<Result<std::int64_t>(const PictureSet::Picture&)>
        label_;  ///< the class of a picture; none: not known
};

}  // namespace vitrine
