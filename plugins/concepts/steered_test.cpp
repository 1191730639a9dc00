// The variant `steered`: its settings, and what explainers see of the model it makes.
#include <gmock/gmock.h>

#include <filesystem>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <vitrine/engine.h>
#include <vitrine/steering.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class SteeredVariant : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directories(folder_);
        model_ = *open_model("starter");
        const auto input = load_input(builtin_pictures().at(0), model_->preprocess());
        if (!input) GTEST_SKIP() << input.error().message;
        input_ = *input;
        AutoencoderConfig config;
        config.kind = "relu";
        config.width = model_->info().width;
        config.latents = 64;
        config.point = "blocks.2";
        concepts_ = *Autoencoder::make(config, 3);
        ASSERT_TRUE(concepts_.save(file_));
    }
    void TearDown() override { fs::remove_all(folder_); }

    Result<std::unique_ptr<Model>> make(const std::vector<std::pair<std::string, std::string>>& set,
                                        bool named = true) {
        for (const auto& variant : registry().variants()) {
            if (variant->description().name != "steered") continue;
            Settings settings(variant->parameters());
            if (named) {
                EXPECT_TRUE(settings.set("autoencoder", file_.string()));
            }
            for (const auto& [name, value] : set) EXPECT_TRUE(settings.set(name, value));
            return variant->make(model_, settings);
        }
        return fail(ErrorCode::NotFound, "there is no variant steered");
    }
    std::string refusal(const std::vector<std::pair<std::string, std::string>>& set) {
        const auto made = make(set);
        return made ? std::string("made") : made.error().message;
    }

    fs::path folder_ =
        fs::path(testing::TempDir()) /
        ("vitrine_steered_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::path file_ = folder_ / "c.safetensors";
    std::shared_ptr<Model> model_;
    Input input_;
    Autoencoder concepts_;
};

TEST_F(SteeredVariant, MakesTheEditsThatItsSettingsName) {
    auto made =
        make({{"set", "3=2.5,4=1"}, {"add", "5=0.5"}, {"scale", "6=2"}, {"suppress", "7,8"}, {"tokens", "patches"}});
    ASSERT_TRUE(made) << made.error().message;
    Steering wanted{.autoencoder = concepts_,
                    .edits = {{3, ConceptEdit::Mode::Set, 2.5},
                              {4, ConceptEdit::Mode::Set, 1},
                              {5, ConceptEdit::Mode::Add, 0.5},
                              {6, ConceptEdit::Mode::Scale, 2},
                              {7, ConceptEdit::Mode::Suppress},
                              {8, ConceptEdit::Mode::Suppress}},
                    .tokens = Steering::Tokens::Patches};
    const auto by_hand = steered(model_, wanted);
    const at::Tensor a = *run(**made, input_.pixels), b = *run(**by_hand, input_.pixels),
                     before = *run(*model_, input_.pixels);
    EXPECT_TRUE(at::equal(a, b));
    EXPECT_FALSE(at::equal(a, before));
    EXPECT_TRUE(at::equal(*run(**make({}), input_.pixels), before));
}

TEST_F(SteeredVariant, IsExplainedAsItIs) {
    auto made = make({{"set", "3=200"}});
    ASSERT_TRUE(made);
    // The concepts of the steered model are those that it goes on with, and maps of all kinds are its own.
    const auto map = [&](Model& model, const char* method,
                         const std::vector<std::pair<std::string, std::string>>& set = {}) {
        const Explainer* explainer = registry().explainer(method).value();
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) EXPECT_TRUE(settings.set(name, value));
        ExplainContext context(model, input_, {});
        auto found = explainer->explain(context, settings);
        EXPECT_TRUE(found) << method << ": " << found.error().message;
        return found ? found->map : at::Tensor();
    };
    const at::Tensor concept3 = map(**made, "concepts", {{"autoencoder", file_.string()}, {"index", "3"}});
    EXPECT_GT(concept3.min().item<double>(), 100);
    for (const char* method : {"rollout", "saliency"}) {
        if (!registry().explainer(method)) continue;
        const at::Tensor before = map(*model_, method), after = map(**made, method);
        ASSERT_TRUE(before.defined() && after.defined()) << method;
        EXPECT_FALSE(at::equal(before, after)) << method;
    }
}

TEST_F(SteeredVariant, RefusesSettingsThatSayNothing) {
    EXPECT_THAT(refusal({{"set", "3"}}), HasSubstr("expected CONCEPT=VALUE"));
    EXPECT_THAT(refusal({{"suppress", "3=1"}}), HasSubstr("the number of a concept"));
    EXPECT_THAT(refusal({{"scale", "a=1"}}), HasSubstr("'a=1' is no edit"));
    EXPECT_THAT(refusal({{"set", "64=1"}}), HasSubstr("no concept 64"));
    EXPECT_THAT(refusal({{"tokens", "some"}}), HasSubstr("expected all, class, patches"));
    EXPECT_THAT(refusal({{"tokens", "0,0-99,99"}, {"set", "1=1"}}), HasSubstr("no box of a grid"));
    EXPECT_THAT(refusal({{"given", "point"}}), HasSubstr("not NAME=VALUE"));
    EXPECT_THAT(refusal({{"given", "point=blocks.77"}, {"set", "1=1"}}), HasSubstr("it says another point itself"));
    EXPECT_THAT(refusal({{"autoencoder", (folder_ / "none.safetensors").string()}}), HasSubstr("none.safetensors"));
}

}  // namespace
}  // namespace vitrine
