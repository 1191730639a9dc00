// What every measure promises, shown on the tiny model of every architecture it has a meaning for.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>

#include <vitrine/folder_measure.h>
#include <vitrine/registry.h>

#include "made_input.h"

namespace vitrine {
namespace {

class MeasureContract : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override { measure_ = *registry().measure(GetParam()); }

    struct Case {
        Model& model;
        const Input& input;
        const Explainer& explainer;
        const Settings& settings;
        const Attribution& attribution;
    };

    /// Calls `body` for two methods on each architecture's tiny model: one that asks the model for a class, where there
    /// is one, and one that asks nothing.
    template <class Body>
    void on_every_model(const Body& body) {
        int ran = 0;
        for (const auto& architecture : registry().architectures()) {
            auto model = architecture->tiny(2);
            if (!model) continue;
            const Input input = made_input(**model);
            for (const char* name : {"chefer", "centre_gaussian"}) {
                const auto explainer = registry().explainer(name);
                ASSERT_TRUE(explainer.has_value());
                if ((*explainer)->why_not(**model)) continue;
                SCOPED_TRACE(architecture->description().name + ", " + name);
                if (auto why = measure_->why_not(**model, **explainer)) {
                    EXPECT_FALSE(why->empty());
                    continue;
                }
                const Settings settings((*explainer)->parameters());
                ExplainContext context(**model, input, {}, 0);
                const auto attribution = (*explainer)->explain(context, settings);
                if (!attribution && !(*model)->is_native()) continue;
                ASSERT_TRUE(attribution.has_value()) << attribution.error().message;
                body(Case{**model, input, **explainer, settings, *attribution});
                ++ran;
            }
        }
        EXPECT_GT(ran, 0) << "no architecture here has a meaning for this measure";
    }

    Result<Score> measure(const Case& c, std::uint64_t seed, std::stop_token stop = {}) const {
        ExplainContext context(c.model, c.input, {}, seed);
        context.stop = std::move(stop);
        const Box seen = c.input.geometry.seen();
        context.boxes = {{seen.x0, seen.y0, (seen.x0 + seen.x1) / 2, (seen.y0 + seen.y1) / 2}};
        return measure_->measure(context, {c.explainer, c.settings, c.attribution}, Settings(measure_->parameters()));
    }

    const Measure* measure_ = nullptr;
};

TEST_P(MeasureContract, GivesAFiniteNumberOrSaysWhyNot) {
    on_every_model([&](const Case& c) {
        const auto score = measure(c, 1);
        ASSERT_TRUE(score.has_value()) << score.error().message;
        EXPECT_FALSE(score->left_out.has_value()) << *score->left_out;
        EXPECT_TRUE(std::isfinite(score->value));
        EXPECT_EQ(score->steps.size(), score->curve.size());
        for (const double value : score->curve) EXPECT_TRUE(std::isfinite(value));
    });
}

TEST_P(MeasureContract, EqualSeedsGiveEqualNumbersAndTheModelIsAsBefore) {
    on_every_model([&](const Case& c) {
        const at::Tensor before = *run(c.model, c.input.pixels);
        const auto first = measure(c, 5), second = measure(c, 5);
        ASSERT_TRUE(first.has_value() && second.has_value());
        EXPECT_EQ(first->value, second->value);
        EXPECT_EQ(first->curve, second->curve);
        EXPECT_TRUE(before.equal(*run(c.model, c.input.pixels)));
    });
}

TEST_P(MeasureContract, AStopRequestEndsTheWork) {
    on_every_model([&](const Case& c) {
        std::stop_source source;
        source.request_stop();
        const auto score = measure(c, 1, source.get_token());
        ASSERT_FALSE(score.has_value());
        EXPECT_EQ(score.error().code, ErrorCode::Cancelled) << score.error().message;
    });
}

std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const auto& measure : registry().measures())
        if (dynamic_cast<const FolderMeasure*>(measure.get()) == nullptr) all.push_back(measure->description().name);
    return all;
}
INSTANTIATE_TEST_SUITE_P(All, MeasureContract, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace vitrine
