// T-TAME on the built-in model with the mask that came with it.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <vitrine/engine.h>
#include <vitrine/mask_module.h>

#include "../../tests/contract/counting_model.h"

namespace vitrine {
namespace {

class TTame : public testing::Test {
  protected:
    void SetUp() override {
        inner_ = *open_model("starter");
        model_ = std::make_unique<CountingModel>(*inner_);
        const auto input = load_input(builtin_pictures().at(0), inner_->preprocess());
        if (!input) GTEST_SKIP() << input.error().message;
        input_ = *input;
    }
    Result<Attribution> explain(const Target& target,
                                const std::vector<std::pair<std::string, std::string>>& set = {}) {
        const Explainer* ttame = registry().explainer("ttame").value();
        Settings settings(ttame->parameters());
        for (const auto& [name, value] : set) EXPECT_TRUE(settings.set(name, value));
        ExplainContext context(*model_, input_, target);
        return ttame->explain(context, settings);
    }
    std::shared_ptr<Model> inner_;
    std::unique_ptr<CountingModel> model_;
    Input input_;
};

TEST_F(TTame, OneRunGivesTheMapsOfAllClasses) {
    const auto first = explain({.index = 3});
    ASSERT_TRUE(first.has_value()) << first.error().message;
    EXPECT_EQ(model_->forwards(), 1);
    const auto second = explain({.index = 4});
    ASSERT_TRUE(second.has_value());
    EXPECT_EQ(model_->forwards(), 1) << "another class of the same picture";
    EXPECT_FALSE(at::equal(first->map, second->map));
    EXPECT_EQ(first->map.sizes(), (std::vector<std::int64_t>{16, 16}));
    EXPECT_EQ(first->map.min().item<float>(), 0.0F);
    EXPECT_EQ(first->map.max().item<float>(), 1.0F);
    const auto mask = explain({.index = 3}, {{"show", "mask"}});
    ASSERT_TRUE(mask.has_value());
    EXPECT_GT(mask->map.min().item<float>(), 0.0F);
    // One grows with the other.
    EXPECT_TRUE(at::equal(first->map.flatten().argsort(), mask->map.flatten().argsort()));
}

TEST_F(TTame, ShuffledWeightsGiveAnotherMapAndTheOldOneComesBack) {
    const auto before = explain({.index = 3});
    ASSERT_TRUE(before.has_value());
    const at::NoGradGuard no_grad;
    const auto parameters = inner_->parameters();
    const auto& last = parameters.at(parameters.size() / 2).second;
    const at::Tensor kept = last.detach();
    last.set_data(at::flip(kept, {0}));
    const auto shuffled = explain({.index = 3});
    last.set_data(kept);
    ASSERT_TRUE(shuffled.has_value()) << shuffled.error().message;
    EXPECT_FALSE(at::equal(shuffled->map, before->map)) << "nothing old is shown for other weights";
    const auto after = explain({.index = 3});
    ASSERT_TRUE(after.has_value());
    EXPECT_TRUE(at::equal(after->map, before->map));
}

TEST_F(TTame, LayersAndBiasAddUpToTheNumbersAtNoFurtherRun) {
    const auto whole = explain({.index = 3}), sum = explain({.index = 3}, {{"part", "sum"}});
    ASSERT_TRUE(whole.has_value() && sum.has_value());
    ASSERT_EQ(whole->tables.size(), 1U);
    const auto& rows = whole->tables.front().rows;
    ASSERT_GE(rows.size(), 4U) << "layers, bias, sum";
    EXPECT_EQ(rows.back(), "sum");
    at::Tensor added = at::zeros_like(sum->map);
    double means = 0;
    for (std::size_t i = 0; i + 1 < rows.size(); ++i) {
        const auto part = explain({.index = 3}, {{"part", rows[i]}});
        ASSERT_TRUE(part.has_value()) << part.error().message;
        EXPECT_TRUE(part->is_signed);
        EXPECT_EQ(part->map.sizes(), sum->map.sizes());
        added += part->map;
        means += whole->tables.front().values[i][0];
    }
    EXPECT_LT((added - sum->map).abs().max().item<double>(), 1e-5);
    EXPECT_NEAR(means, whole->tables.front().values.back()[0], 1e-5);
    EXPECT_LT((min_max(sum->map) - whole->map).abs().max().item<double>(), 1e-6) << "the map is of the same numbers";
    ASSERT_EQ(whole->checks.size(), 1U);
    EXPECT_TRUE(whole->checks.front().passed) << whole->checks.front().finding;
    EXPECT_EQ(model_->forwards(), 1);
}

TEST_F(TTame, TwoClassesGiveTheSignedDifferenceOfTheirNumbers) {
    const std::vector<std::pair<std::string, std::string>> sum{{"part", "sum"}};
    const auto a = explain({.index = 3}, sum), b = explain({.index = 4}, sum),
               both = explain({.index = 3, .versus = 4});
    ASSERT_TRUE(a.has_value() && b.has_value() && both.has_value());
    EXPECT_TRUE(both->is_signed);
    EXPECT_LT((both->map - (a->map - b->map)).abs().max().item<double>(), 1e-6);
    EXPECT_GT(both->map.abs().max().item<double>(), 0);
    EXPECT_TRUE(both->checks.front().passed) << "layers add up to the difference";
    EXPECT_EQ(model_->forwards(), 1);
    EXPECT_THAT(explain({.index = 3, .versus = 4}, {{"show", "mask"}}).error().message,
                testing::HasSubstr("one class"));
}

TEST_F(TTame, AnImprobableClassIsSaidToBeWeaklyTrained) {
    const auto capture = run(*model_, input_.pixels);
    ASSERT_TRUE(capture.has_value());
    const auto least = capture->argmin(1)[0].item<std::int64_t>(), most = capture->argmax(1)[0].item<std::int64_t>();
    EXPECT_THAT(explain({.index = least})->notes, testing::Contains(testing::HasSubstr("weakly trained")));
    EXPECT_THAT(explain({.index = most})->notes, testing::Not(testing::Contains(testing::HasSubstr("weakly trained"))));
}

TEST(PublishedMask, ExplainsItsNetworkWithItsStatistics) {
    const auto folder = std::filesystem::path(VITRINE_SOURCE_DIR) / "tests/parity/data/ttame";
    const auto model = *open_model((folder / "backbone.safetensors").string());
    const auto read = load_input(builtin_pictures().at(0), model->preprocess());
    if (!read) GTEST_SKIP() << read.error().message;
    const Input& input = *read;
    const Explainer* ttame = registry().explainer("ttame").value();
    Settings settings(ttame->parameters());
    ASSERT_TRUE(settings.set("mask", (folder / "published.ckpt").string()));
    ExplainContext context(*model, input, {});
    const auto found = ttame->explain(context, settings);
    ASSERT_TRUE(found.has_value()) << found.error().message;
    EXPECT_THAT(found->notes, testing::Contains(testing::HasSubstr("26 running statistics")));
    EXPECT_THAT(found->notes, testing::Not(testing::Contains(testing::HasSubstr("which weights"))));
    const at::NoGradGuard no_grad;
    EXPECT_EQ(context.target.index, model->forward(input.pixels)[0].argmax().item<std::int64_t>())
        << "the opened model's";
    const auto mask = *MaskModule::load(folder / "published.ckpt");
    const WithStatistics scope(mask.backbone);
    const MaskFeatures seen = *mask_features(*model, input.pixels, mask.config());
    EXPECT_LT((min_max(mask.logits(seen.maps))[0][*context.target.index] - found->map).abs().max().item<double>(),
              1e-5);
}

TEST_F(TTame, SaysWhatItCannotExplain) {
    EXPECT_THAT(explain({.index = 3, .also = {4}}).error().message, testing::HasSubstr("ask for one class"));
    EXPECT_THAT(explain({.index = 3}, {{"part", "nowhere"}}).error().message, testing::HasSubstr("bias, sum"));
    EXPECT_THAT(explain({.index = 3}, {{"mask", "/nowhere/m.safetensors"}}).error().message,
                testing::HasSubstr("no mask at"));
    const auto other = registry().architecture("vit").value()->tiny(0);
    ASSERT_TRUE(other.has_value());
    const Explainer* ttame = registry().explainer("ttame").value();
    Input input = *prepare(input_.photo, (*other)->preprocess());
    ExplainContext context(**other, input, {.index = 1});
    const auto found = ttame->explain(context, Settings(ttame->parameters()));
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().code, ErrorCode::Unsupported);
    EXPECT_THAT(found.error().message, testing::HasSubstr("train-mask"));
}

}  // namespace
}  // namespace vitrine
