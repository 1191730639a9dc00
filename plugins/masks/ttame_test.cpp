// T-TAME on the built-in model with the mask that came with it.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/flip.h>
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
        input_ = *load_input(builtin_pictures().at(0), inner_->preprocess());
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

TEST_F(TTame, SaysWhatItCannotExplain) {
    EXPECT_THAT(explain({.index = 3, .versus = 4}).error().message, testing::HasSubstr("ask for one class"));
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
