// What every variant promises: with the settings that change nothing it answers as the model it was made of.
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>

#include <vitrine/engine.h>
#include <vitrine/steering.h>

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

// Its weights are those that the mask was trained on, so it fits; that nobody taught it the steered model is said.
TEST(Variants, AMaskOfASteeredModelSaysThatItLearnedAnother) {
    const std::shared_ptr<Model> model = *open_model("starter");
    Steering steering{.autoencoder = *Autoencoder::load(built_in_concepts())};
    const Input input = made_input(*model);
    const at::Tensor most = *largest_codes(*model, input.pixels, steering.autoencoder);
    const auto loudest = most.argmax().item<std::int64_t>();
    const Explainer* explainer = *registry().explainer("ttame");
    const auto explained = [&](ConceptEdit edit) {
        steering.edits = {edit};
        const std::shared_ptr<Model> made = *steered(model, steering);
        ExplainContext context(*made, input, {.index = 3, .versus = {}});
        auto found = explainer->explain(context, Settings(explainer->parameters()));
        EXPECT_TRUE(found) << found.error().message;
        return found ? *found : Attribution();
    };
    const auto notes = [](const Attribution& found) {
        std::string out;
        for (const std::string& note : found.notes) out += note + '\n';
        return out;
    };
    const Attribution null = explained({loudest, ConceptEdit::Mode::Scale, 1}),
                      changed = explained({loudest, ConceptEdit::Mode::Scale, -4});
    EXPECT_EQ(notes(null).find("steered"), std::string::npos) << notes(null);
    EXPECT_NE(notes(changed).find("trained while no concept was steered (concept " + std::to_string(loudest)),
              std::string::npos)
        << notes(changed);
    EXPECT_FALSE(at::equal(null.map, changed.map)) << "it reads the steered model's layers";
    // Each is made where the one before it lay, as likely as not.
    for (int i = 0; i < 8; ++i) {
        EXPECT_TRUE(at::equal(explained({loudest, ConceptEdit::Mode::Scale, 1}).map, null.map)) << i;
        EXPECT_TRUE(at::equal(explained({loudest, ConceptEdit::Mode::Scale, -4}).map, changed.map)) << i;
    }
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
