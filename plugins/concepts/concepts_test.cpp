// The concepts of a random autoencoder on the built-in model's tokens, against the autoencoder alone.
#include <fstream>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <vitrine/autoencoder.h>
#include <vitrine/concept_names.h>
#include <vitrine/engine.h>
#include <vitrine/mask_module.h>

#include "../../tests/contract/counting_model.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Concepts : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directories(folder_);
        inner_ = *open_model("starter");
        model_ = std::make_unique<CountingModel>(*inner_);
        const auto input = load_input(builtin_pictures().at(0), inner_->preprocess());
        if (!input) GTEST_SKIP() << input.error().message;
        input_ = *input;
        config_.kind = "top_k";
        config_.k = 8;
        config_.width = inner_->info().width;
        config_.latents = 256;
        config_.point = "blocks.6";
    }
    void TearDown() override { fs::remove_all(folder_); }

    Autoencoder save(const AutoencoderConfig& config, const std::string& weights) {
        Autoencoder one = *Autoencoder::make(config, 3);
        if (!weights.empty()) one.facts = {{"model", "ViT-X"}, {"weights", weights}};
        EXPECT_TRUE(one.save(file_));
        return one;
    }
    Result<Attribution> explain(const std::vector<std::pair<std::string, std::string>>& set = {}) {
        const Explainer* concepts = registry().explainer("concepts").value();
        Settings settings(concepts->parameters());
        EXPECT_TRUE(settings.set("autoencoder", file_.string()));
        for (const auto& [name, value] : set) EXPECT_TRUE(settings.set(name, value));
        ExplainContext context(*model_, input_, {});
        return concepts->explain(context, settings);
    }
    std::string refusal(const std::vector<std::pair<std::string, std::string>>& set = {}) {
        const auto found = explain(set);
        return found ? std::string("explained") : found.error().message;
    }

    fs::path folder_ =
        fs::path(testing::TempDir()) /
        ("vitrine_concepts_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::path file_ = folder_ / "c.safetensors";
    std::shared_ptr<Model> inner_;
    std::unique_ptr<CountingModel> model_;
    Input input_;
    AutoencoderConfig config_;
};

TEST_F(Concepts, NamesThatPeopleGaveAreSaid) {
    save(config_, weights_hash(*inner_));
    const auto plain = explain();
    ASSERT_TRUE(plain.has_value()) << plain.error().message;
    const std::string shown = plain->tables[0].rows.at(0);
    ConceptNames names;
    ASSERT_TRUE(names.rename(std::stoll(shown.substr(8)), "dog's snout"));
    const fs::path file = concept_names_file(file_);
    ASSERT_TRUE(names.save(file));
    const auto named = explain();
    ASSERT_TRUE(named.has_value()) << named.error().message;
    EXPECT_EQ(named->explained, shown + " (dog's snout) at blocks.6");
    EXPECT_EQ(named->tables[0].rows.at(0), shown + " (dog's snout)");
    EXPECT_EQ(named->notes, plain->notes);
    std::ofstream(file) << "1\ta\n1\tb\n";
    const auto broken = explain();
    ASSERT_TRUE(broken.has_value()) << broken.error().message;
    EXPECT_EQ(broken->explained, plain->explained);
    EXPECT_THAT(broken->notes, testing::Contains(HasSubstr("concept 1 is named by lines 1 and 2")));
}

TEST_F(Concepts, MapTablesAndNotesAreWhatTheAutoencoderSays) {
    const Autoencoder one = save(config_, weights_hash(*inner_));
    const at::Tensor tokens = (*concept_tokens(*inner_, input_.pixels, config_))[0];
    const Codes codes = one.encode(tokens);
    const at::Tensor patches = codes.active.narrow(0, 5, 256), sums = patches.sum(0);
    const auto strongest = sums.argmax().item<std::int64_t>();

    const auto found = explain();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_EQ(model_->forwards(), 1);
    EXPECT_TRUE(at::equal(found->map, patches.select(1, strongest).view({16, 16})));
    EXPECT_EQ(found->explained, "concept " + std::to_string(strongest) + " at blocks.6");
    EXPECT_FALSE(found->is_signed);

    ASSERT_EQ(found->tables.size(), 2U);
    const Table& picture = found->tables[0];
    EXPECT_EQ(picture.rows.at(0), "concept " + std::to_string(strongest));
    EXPECT_EQ(picture.rows.size(), 10U);
    for (std::size_t i = 0; i < picture.rows.size(); ++i) {
        const auto latent = std::stoll(picture.rows[i].substr(8));
        EXPECT_NEAR(picture.values[i][0], sums[latent].item<double>(), 1e-3);
        EXPECT_EQ(picture.values[i][1], patches.select(1, latent).max().item<double>());
        EXPECT_EQ(picture.values[i][2], patches.select(1, latent).count_nonzero().item<double>());
        if (i > 0) {
            EXPECT_LE(picture.values[i][0], picture.values[i - 1][0]);
        }
    }
    const Table& each = found->tables[1];
    ASSERT_EQ(each.rows.size(), 261U);
    EXPECT_EQ(each.rows[0], "cls");
    EXPECT_EQ(each.rows[4], "reg3");
    EXPECT_EQ(each.rows[5 + 16 * 3 + 7], "patch 3, 7");
    for (const std::int64_t t : {0, 5 + 16 * 3 + 7}) {
        EXPECT_EQ(each.values[std::size_t(t)][0], codes.active[t].argmax().item<double>());
        EXPECT_EQ(each.values[std::size_t(t)][1], codes.active[t].max().item<double>());
    }
    const double share =
        1 - ((one.decode(codes.active, codes) - tokens).square().sum() / (tokens - tokens.mean(0, true)).square().sum())
                .item<double>();
    EXPECT_THAT(found->notes, testing::Contains(HasSubstr(fmt::format(
                                  "explain {:.1f} % of this picture's variance at blocks.6", 100 * share))));
    EXPECT_THAT(found->notes,
                testing::Contains(HasSubstr(fmt::format(
                    "{:.1f} of 256 concepts", (codes.active != 0).to(at::kDouble).sum(1).mean().item<double>()))));
}

TEST_F(Concepts, AnyConceptCanBeShownAndASilentOneIsSaidToBe) {
    const Autoencoder one = save(config_, "");
    const at::Tensor tokens = (*concept_tokens(*inner_, input_.pixels, config_))[0];
    const at::Tensor patches = one.encode(tokens).active.narrow(0, 5, 256);
    const auto second = std::get<1>(patches.sum(0).topk(2))[1].item<std::int64_t>();
    const auto found = explain({{"index", std::to_string(second)}, {"count", "3"}});
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_TRUE(at::equal(found->map.flatten(), patches.select(1, second)));
    EXPECT_EQ(found->tables[0].rows.size(), 3U);
    EXPECT_THAT(found->notes, testing::Contains(HasSubstr("does not say which weights")));
    const auto silent = (patches != 0).any(0).logical_not().nonzero();
    ASSERT_GT(silent.size(0), 0);
    const auto quiet = explain({{"index", std::to_string(silent[0].item<std::int64_t>())}});
    ASSERT_TRUE(quiet.has_value());
    EXPECT_EQ(quiet->map.abs().max().item<float>(), 0);
    EXPECT_THAT(quiet->notes, testing::Contains(HasSubstr("is silent")));
}

TEST_F(Concepts, PatchesAloneAreReadWhereThatIsWhatWasTrained) {
    config_.tokens = "patches";
    save(config_, "");
    const auto found = explain();
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_EQ(found->tables[1].rows.size(), 256U);
    EXPECT_EQ(found->tables[1].rows[0], "patch 0, 0");
}

TEST_F(Concepts, AnotherFileOfTheSameNameIsReadAgain) {
    save(config_, "");
    const auto before = explain();
    config_.point = "blocks.2";
    save(config_, "");
    fs::last_write_time(file_, fs::last_write_time(file_) + std::chrono::seconds(2));
    const auto after = explain();
    ASSERT_TRUE(before.has_value() && after.has_value());
    EXPECT_THAT(before->explained, HasSubstr("blocks.6"));
    EXPECT_THAT(after->explained, HasSubstr("blocks.2"));
}

TEST_F(Concepts, WhatDoesNotFitIsRefusedInWords) {
    const auto with = [&](auto change, const std::string& weights = "") {
        AutoencoderConfig config = config_;
        change(config);
        fs::remove(file_);
        save(config, weights);
        static int written = 0;
        fs::last_write_time(file_, fs::last_write_time(file_) + std::chrono::seconds(++written));
        return refusal();
    };
    EXPECT_EQ(with([](auto&) {}), "explained");
    EXPECT_THAT(with([](auto& c) { c.width = 64; }),
                HasSubstr(file_.filename().string() + ": the concepts are of tokens 64 wide, and blocks.6"));
    EXPECT_THAT(with([](auto& c) { c.point = "blocks.66"; }), HasSubstr("has no point 'blocks.66'"));
    EXPECT_THAT(with([](auto& c) { c.point = ""; }), HasSubstr("does not say which activations"));
    EXPECT_THAT(with([](auto& c) { c.tokens = "class"; }), HasSubstr("class token alone"));
    EXPECT_THAT(with([](auto&) {}, "0123456789abcdef"), HasSubstr("weights 0123456789abcdef"));
    save(config_, "");
    EXPECT_THAT(refusal({{"index", "256"}}), HasSubstr("no concept 256, the file has 0 to 255"));
    EXPECT_THAT(refusal({{"given", "point"}}), HasSubstr("'point' in concepts.given is not NAME=VALUE"));
    EXPECT_EQ(refusal({{"given", "point=blocks.6"}}), "explained");
    EXPECT_THAT(refusal({{"given", "point=blocks.1"}}), HasSubstr("it says another point itself"));
    fs::remove(file_);
    EXPECT_THAT(refusal(), HasSubstr("there is no autoencoder at"));
}

/// The built-in model's own: what the window shows at the first start.
TEST_F(Concepts, TheBuiltInModelHasSome) {
    const auto file = resource("starter/concepts.safetensors");
    ASSERT_TRUE(file);
    EXPECT_LT(fs::file_size(*file), 4'000'000U);
    const auto concepts = Autoencoder::load(*file);
    ASSERT_TRUE(concepts) << concepts.error().message;
    EXPECT_TRUE(concepts->fits(*inner_)) << concepts->fits(*inner_).error().message;
    const auto found = explain({{"autoencoder", ""}});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->map.size(0), 16);
    // What is said of a picture on which nothing was trained: about as many as it was trained for, and most of it.
    const at::Tensor tokens = concept_tokens(*inner_, input_.pixels, concepts->config()).value()[0].to(at::kFloat);
    const Codes codes = concepts->encode(tokens);
    const double each = codes.active.ne(0).sum(1).to(at::kDouble).mean().item<double>();
    EXPECT_GT(each, 10);
    EXPECT_LT(each, 40);
    const at::Tensor error = concepts->decode(codes.active, codes) - tokens;
    EXPECT_LT(error.square().sum().item<double>(), 0.3 * (tokens - tokens.mean(0, true)).square().sum().item<double>());
}

}  // namespace
}  // namespace vitrine
