// CRAFT and deep feature factorisation where the parts and their weights are known, and on the built-in model.
#include <fstream>

#include <ATen/TensorOperators.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <vitrine/autoencoder.h>
#include <vitrine/engine.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;

/// Colours of 4 x 4 cells; the first class counts three times the red, the second red times blue.
class CellModel final : public Model {
  public:
    CellModel() {
        info_.name = "cells";
        info_.classes = 2;
        info_.cam_point = "cells";
        preprocess_.input_height = preprocess_.input_width = 16;
        preprocess_.mean = {0, 0, 0};
        preprocess_.std = {0.1, 0.1, 0.1};  // so that blue can be above three
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        const at::Tensor mean = point("cells", at::avg_pool2d(at::relu(pixels), {4, 4})).mean({2, 3});
        return at::stack({3 * mean.select(1, 0), mean.select(1, 0) * mean.select(1, 2)}, 1);
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        TokenLayout out;
        out.unknown = "no tokens";
        return out;
    }
    std::vector<NamedPoint> points() const override { return {{"cells", "colours [batch, channels, rows, cols]"}}; }
    void to(at::Device, at::ScalarType) override {}
};

class Factors : public testing::Test {
  protected:
    void SetUp() override {
        fs::create_directories(folder_);
        // The left half red, the right half blue and weaker.
        input_.pixels = at::zeros({1, 3, 16, 16});
        input_.pixels.select(1, 0).narrow(2, 0, 8).fill_(2);
        input_.pixels.select(1, 2).narrow(2, 8, 8).fill_(1);
        left_ = at::zeros({4, 4});
        left_.narrow(1, 0, 2).fill_(1);
    }
    void TearDown() override { fs::remove_all(folder_); }
    Result<Attribution> explain(Model& model, const Input& input, const std::string& method, std::int64_t index,
                                const std::vector<std::pair<std::string, std::string>>& set = {}) {
        const Explainer* explainer = registry().explainer(method).value();
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) EXPECT_TRUE(settings.set(name, value));
        Target target;
        if (explainer->class_specific()) target.index = index;
        ExplainContext context(model, input, target);
        return explainer->explain(context, settings);
    }
    std::map<std::string, double> importance(const Attribution& found) {
        std::map<std::string, double> out;
        for (std::size_t i = 0; i < found.tables.at(0).rows.size(); ++i)
            out[found.tables[0].rows[i]] = found.tables[0].values[i][0];
        return out;
    }

    fs::path folder_ =
        fs::path(testing::TempDir()) /
        ("vitrine_factors_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    CellModel model_;
    Input input_;
    at::Tensor left_;
};

TEST_F(Factors, CraftWeighsPartsByWhatTheAnswerHangsOn) {
    AutoencoderConfig config;
    config.kind = "nmf";
    config.point = "cells";
    config.tokens = "patches";
    ASSERT_TRUE(Autoencoder::of_rows(config, at::eye(3), at::zeros({3}))->save(folder_ / "bank.safetensors"));
    const std::vector<std::pair<std::string, std::string>> set = {
        {"bank", (folder_ / "bank.safetensors").string()}, {"sequence", "sobol"}, {"designs", "512"}};
    const auto red = explain(model_, input_, "craft", 0, set);
    ASSERT_TRUE(red) << red.error().message;
    auto weight = importance(*red);
    EXPECT_NEAR(weight.at("concept 0"), 1, 0.01);
    EXPECT_EQ(weight.at("concept 1"), 0);
    EXPECT_EQ(weight.at("concept 2"), 0);
    EXPECT_TRUE(red->map.allclose(2 * left_));
    EXPECT_THAT(red->explained, HasSubstr("concept 0 of logit of class 0"));
    // A product of two: both weigh 4 / 7.
    weight = importance(*explain(model_, input_, "craft", 1, set));
    EXPECT_NEAR(weight.at("concept 0"), 4.0 / 7, 0.01);
    EXPECT_NEAR(weight.at("concept 2"), 4.0 / 7, 0.01);
    EXPECT_EQ(weight.at("concept 1"), 0);
    auto shown = set;
    shown.emplace_back("index", "2");
    EXPECT_TRUE(explain(model_, input_, "craft", 0, shown)->map.allclose(1 - left_));
    shown.back().second = "3";
    EXPECT_THAT(explain(model_, input_, "craft", 0, shown).error().message, HasSubstr("there are 0 to 2"));
    config.kind = "k_means";
    ASSERT_TRUE(Autoencoder::of_rows(config, at::eye(3), at::zeros({3}))->save(folder_ / "bank.safetensors"));
    EXPECT_THAT(explain(model_, input_, "craft", 0, set).error().message,
                HasSubstr("of the kind k_means, expected nmf"));
}

TEST_F(Factors, CraftFindsItsPartsInPicturesOfTheClass) {
    const auto starter = *open_model("starter");
    const auto read = load_input(builtin_pictures().at(0), starter->preprocess());
    if (!read) GTEST_SKIP() << read.error().message;
    const Input& input = *read;
    const auto answer = run(*starter, input.pixels)->argmax(1).item<std::int64_t>();
    fs::copy(builtin_pictures().at(0), folder_ / builtin_pictures().at(0).filename());
    std::ofstream(folder_ / "broken.png") << "no picture";
    const std::vector<std::pair<std::string, std::string>> set = {
        {"pictures", folder_.string()}, {"designs", "2"}, {"concepts", "6"}, {"crop", "0.25"}};
    const auto found = explain(*starter, input, "craft", answer, set);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->map.sizes(), at::IntArrayRef({16, 16}));
    EXPECT_GT(found->map.max().item<double>(), 0);
    EXPECT_EQ(found->implementation, "15 runs of what is behind blocks.7");
    EXPECT_THAT(found->notes, Contains(HasSubstr("crops of 1 pictures; 1 could not be read")));
    EXPECT_THAT(found->notes, Contains(HasSubstr("is of negative numbers")));
    EXPECT_THAT(explain(*starter, input, "craft", answer == 0 ? 1 : 0, set).error().message,
                HasSubstr("none of 2 pictures"));
    auto nowhere = set;
    nowhere[0].second = (folder_ / "nothing").string();
    EXPECT_THAT(explain(*starter, input, "craft", answer, nowhere).error().message, HasSubstr("there is no folder at"));
}

TEST_F(Factors, CraftLooksForItsClassInTheWholeFolder) {
    const auto write = [&](const std::string& name, std::uint8_t blue) {
        Image picture(16, 16);
        for (std::size_t p = 0; p < picture.pixels.size(); ++p)
            picture.pixels[p] = p % 3 == 0 ? 200 : p % 3 == 2 ? blue : 0;
        ASSERT_TRUE(write_picture(folder_ / name, picture));
    };
    // The second class's pictures come after more of the first one's than are enough.
    for (int i = 0; i < 70; ++i) write(fmt::format("a{:02}.ppm", i), 0);
    for (int i = 0; i < 3; ++i) write(fmt::format("z{}.ppm", i), 200);
    const auto asked = [&](std::int64_t index, std::vector<std::pair<std::string, std::string>> set) {
        set.emplace_back("pictures", folder_.string());
        set.emplace_back("designs", "2");
        return explain(model_, input_, "craft", index, set);
    };
    const auto second = asked(1, {});
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_THAT(second->notes,
                Contains("looked at all 73 pictures of " + folder_.string() + ": 3 answered with the explained class"));
    const auto first = asked(0, {{"enough", "2"}});
    ASSERT_TRUE(first) << first.error().message;
    EXPECT_THAT(first->notes, Contains(testing::MatchesRegex("looked at [2-5] of 73 pictures of .*, drawn with seed 0: "
                                                             "2 answered with the explained class")));
    EXPECT_THAT(asked(0, {{"enough", "2"}, {"seed", "5"}})->notes,
                Contains(HasSubstr("drawn with seed 5: 2 answered")));
    EXPECT_THAT(asked(1, {{"most", "2"}}).error().message,
                testing::AllOf(HasSubstr("none of 2 pictures that were looked at, of 73 in " + folder_.string()),
                               HasSubstr("raise craft.most (now 2)")));
}

TEST_F(Factors, DeepFeatureFactorisationDrawsFromTheWholeFolder) {
    Image picture(16, 16);
    for (auto& one : picture.pixels) one = 120;
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(write_picture(folder_ / fmt::format("a{:02}.ppm", i), picture));
        std::ofstream(folder_ / fmt::format("z{:02}.ppm", i)) << "no picture";
    }
    const auto found = explain(model_, input_, "deep_feature_factorisation", -1, {{"pictures", folder_.string()}});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_THAT(found->notes, Contains("16 of 40 pictures of " + folder_.string() + ", drawn with seed 0"));
    EXPECT_THAT(found->notes, Contains(HasSubstr("could not be read")));
}

TEST_F(Factors, DeepFeatureFactorisationFindsTheTwoHalves) {
    const auto found = explain(model_, input_, "deep_feature_factorisation", -1, {{"factors", "2"}});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_LT((found->map - 2 * left_).abs().max().item<double>(), 0.02);
    ASSERT_EQ(found->tables.size(), 2U);
    EXPECT_EQ(found->tables[1].rows.size(), 2U);
    EXPECT_EQ(found->tables[1].cols.size(), 16U);
    EXPECT_THAT(found->notes, Contains(HasSubstr("2 parts explain 100.0 %")));
    const auto other = found->explained.find("part 0") == 0 ? "1" : "0";
    const auto second = explain(model_, input_, "deep_feature_factorisation", -1, {{"factors", "2"}, {"index", other}});
    EXPECT_LT((second->map - (1 - left_)).abs().max().item<double>(), 0.02);
    EXPECT_THAT(
        explain(model_, input_, "deep_feature_factorisation", -1, {{"factors", "2"}, {"index", "2"}}).error().message,
        HasSubstr("there are 0 to 1"));
    // With a folder the parts are of all its pictures; the map stays this picture's.
    const auto starter = *open_model("starter");
    const auto read = load_input(builtin_pictures().at(0), starter->preprocess());
    if (!read) GTEST_SKIP() << read.error().message;
    const Input& input = *read;
    fs::copy(builtin_pictures().at(1), folder_ / builtin_pictures().at(1).filename());
    const auto both = explain(*starter, input, "deep_feature_factorisation", -1, {{"pictures", folder_.string()}});
    ASSERT_TRUE(both) << both.error().message;
    EXPECT_THAT(both->implementation, HasSubstr("on 512 positions"));
    EXPECT_EQ(both->map.sizes(), at::IntArrayRef({16, 16}));
}

}  // namespace
}  // namespace vitrine
