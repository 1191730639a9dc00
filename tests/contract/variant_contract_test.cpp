// What every variant promises: with the settings that change nothing it answers as the model it was made of.
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <vitrine/engine.h>

#include "made_input.h"

namespace vitrine {
namespace {

TEST(Variants, AnswerAsTheOriginalWhereNothingIsChanged) {
    int tried = 0;
    for (const auto& variant : registry().variants())
        for (const auto& architecture : registry().architectures()) {
            auto made = architecture->tiny(3);
            ASSERT_TRUE(made) << made.error().message;
            const std::shared_ptr<Model> model = std::move(*made);
            const std::string what = variant->description().name + " of " + model->info().name;
            if (const auto why = variant->why_not(*model)) {
                EXPECT_FALSE(why->empty()) << what;
                continue;
            }
            const Input input = made_input(*model);
            const auto before = run(*model, input.pixels);
            ASSERT_TRUE(before) << what << ": " << before.error().message;
            auto changed = variant->make(model, Settings(variant->parameters()));
            ASSERT_TRUE(changed) << what << ": " << changed.error().message;
            const auto after = run(**changed, input.pixels);
            ASSERT_TRUE(after) << what << ": " << after.error().message;
            EXPECT_TRUE(at::equal(*before, *after)) << what;
            EXPECT_EQ((*changed)->info().classes, model->info().classes) << what;
            ++tried;
        }
    EXPECT_GE(tried, 2);
}

TEST(Variants, AnswerNonsenseInASentence) {
    for (const auto& variant : registry().variants()) {
        const auto nothing = variant->make(nullptr, Settings(variant->parameters()));
        ASSERT_FALSE(nothing) << variant->description().name;
        EXPECT_FALSE(nothing.error().message.empty());
    }
}

}  // namespace
}  // namespace vitrine
