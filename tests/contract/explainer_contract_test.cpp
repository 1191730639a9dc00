// What every explainer promises, shown on the tiny model of every architecture it can run on.
#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <gtest/gtest.h>
#include <vitrine/control.h>
#include <vitrine/registry.h>
#include <vitrine/steering.h>

#include <set>

#include "counting_model.h"
#include "made_input.h"
#include "trained_mask.h"

namespace vitrine {
namespace {

class ExplainerContract : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override { explainer_ = *registry().explainer(GetParam()); }

    /// A traced model whose layers hang together in an unknown way may be refused, in words, after it ran; a native one
    /// may not.
    static bool refused(const Model& model, const Result<Attribution>& result) {
        return !model.is_native() && !result && result.error().code == ErrorCode::Unsupported &&
               !result.error().message.empty();
    }

    /// The standard settings, with fewer steps where a mask is optimised: what is shown here does not hang on their
    /// number.
    Settings settings_for(Model& model) const {
        constexpr std::int64_t kSteps = 40;
        Settings out = prepared(*explainer_, model);
        for (const Parameter& p : explainer_->parameters()) {
            const auto* standard = std::get_if<std::int64_t>(&p.standard);
            if (p.name == "steps" && standard != nullptr && *standard > 2 * kSteps) {
                EXPECT_TRUE(out.set(p.name, std::to_string(kSteps)));
            }
        }
        return out;
    }

    /// Calls `body` for each architecture's tiny model on which the method has a meaning.
    template <class Body>
    int on_every_model(const Body& body) {
        int ran = 0;
        for (const auto& architecture : registry().architectures()) {
            auto model = architecture->tiny(2);
            if (!model) continue;
            if (auto why = explainer_->why_not(**model)) {
                EXPECT_FALSE(why->empty());
                continue;
            }
            SCOPED_TRACE(architecture->description().name);
            body(**model);
            ++ran;
        }
        return ran;
    }
    const Explainer* explainer_ = nullptr;
};

TEST_P(ExplainerContract, SaysWhereItBelongsWhatItComputesAndWhereItFails) {
    const Description d = explainer_->description();
    EXPECT_TRUE(std::set<std::string>({"Attention", "Class activation", "Gradients", "Perturbation", "Inner views",
                                       "Controls", "Learned masks"})
                    .count(d.family))
        << "'" << d.family << "' is no heading of the menus";
    EXPECT_FALSE(d.formula.empty());
    EXPECT_FALSE(d.weakness.empty());
    for (const std::string& text : {d.formula, d.weakness}) EXPECT_EQ(text.find('\n'), std::string::npos) << "one line";
    EXPECT_NE(d.weakness.find('('), std::string::npos) << "who showed it stands in brackets";
}

TEST_P(ExplainerContract, GivesAFiniteMapOfTheModelsGridOrInput) {
    const int ran = on_every_model([&](Model& inner) {
        CountingModel model(inner);
        const Input input = made_input(model), other = made_input(model, 8);
        ExplainContext context(model, input, {}, 0);
        context.other = &other;
        const Settings settings = settings_for(model);
        // The capture is every method's and so none's; the class is read from it.
        const auto capture = context.capture();
        ASSERT_TRUE(capture.has_value()) << capture.error().message;
        if (model.info().classes > 0) context.target.index = (*capture)->output.argmax().item<std::int64_t>();
        model.reset();
        const auto result = explainer_->explain(context, settings);
        if (refused(model, result)) return;
        ASSERT_TRUE(result.has_value()) << result.error().message;
        if (const auto passes = explainer_->passes(model, settings)) {
            EXPECT_EQ(model.forwards(), passes->forwards) << "forward passes spent, and said";
            // A second derivative walks through parts of the graph only, as often as autograd likes.
            if (GetParam() != "shapley_cam") {
                EXPECT_EQ(model.backwards(), passes->backwards) << "backward passes spent, and said";
            }
        }
        ASSERT_EQ(result->map.dim(), 2);
        EXPECT_TRUE(at::isfinite(result->map).all().item<bool>());
        EXPECT_FALSE(result->explained.empty());
        EXPECT_EQ(result->method, explainer_->description().name);
        // A control says by itself that it explains nothing; what it draws may be flat.
        if (!is_control(*result)) {
            EXPECT_GT((result->map.max() - result->map.min()).item<double>(), 0.0) << "a flat map says nothing";
        }
        if (!result->is_signed) {
            EXPECT_GE(result->map.min().item<double>(), 0.0);
        }
        if (!result->on_tokens) {
            EXPECT_EQ(result->map.size(0), model.preprocess().input_height);
        }
        for (const auto& check : result->checks) EXPECT_TRUE(check.passed) << check.name << ": " << check.finding;
    });
    EXPECT_GT(ran, 0) << "no architecture here carries this method";
}

TEST_P(ExplainerContract, EqualSeedsGiveEqualMaps) {
    on_every_model([&](Model& model) {
        const Input input = made_input(model), other = made_input(model, 8);
        ExplainContext first(model, input, {}, 5), second(model, input, {}, 5);
        first.other = second.other = &other;
        // Somebody who watches changes nothing.
        second.refined = [](const Attribution& so_far) {
            EXPECT_TRUE(so_far.partial);
            EXPECT_EQ(so_far.map.dim(), 2);
            EXPECT_TRUE(at::isfinite(so_far.map).all().item<bool>());
        };
        const Settings settings = settings_for(model);
        const auto a = explainer_->explain(first, settings), b = explainer_->explain(second, settings);
        if (refused(model, a) && refused(model, b)) return;
        ASSERT_TRUE(a.has_value() && b.has_value());
        EXPECT_TRUE(a->map.equal(b->map));
    });
}

// Every map is of the model that answers: an edit of concepts is in what any method reads, and one that changes nothing
// is in none.
TEST_P(ExplainerContract, SeesTheModelAsItIsSteered) {
    for (const auto& [name, point] : {std::pair{"vit", "blocks.0"}, {"cnn", "features"}}) {
        SCOPED_TRACE(name);
        const std::shared_ptr<Model> model = registry().architecture(name).value()->tiny(2).value();
        if (explainer_->why_not(*model)) continue;
        const Input input = made_input(*model), other = made_input(*model, 8);
        AutoencoderConfig config;
        config.kind = "relu";
        config.point = point;
        CaptureOptions options;
        options.mixings = false;
        options.points = {point};
        const at::Tensor x = run_captured(*model, input.pixels, options).value()->points.at(point);
        config.width = x.dim() == 4 ? x.size(1) : x.size(2);
        config.latents = 3 * config.width;
        const Autoencoder concepts = Autoencoder::make(config, 7).value();
        const Settings settings = settings_for(*model);
        const auto map = [&](Model& of) {
            ExplainContext context(of, input, {.index = 1, .versus = {}}, 5);
            context.other = &other;
            return explainer_->explain(context, settings);
        };
        const auto steer = [&](std::vector<ConceptEdit> edits) {
            return steered(model, {.autoencoder = concepts, .edits = std::move(edits)}).value();
        };
        using Mode = ConceptEdit::Mode;
        const auto null = steer({{2, Mode::Scale, 1}, {5, Mode::Add, 0}}),
                   changed = steer({{2, Mode::Set, 9}, {5, Mode::Suppress}, {7, Mode::Scale, -8}, {9, Mode::Add, 6}});
        const auto before = map(*model), same = map(*null);
        if (!before) continue;
        ASSERT_TRUE(same) << same.error().message;
        EXPECT_TRUE(same->map.equal(before->map)) << "nothing was changed";
        if (explainer_->why_not(*changed)) continue;  // a rule for rectifiers alone: coding has more in it
        const auto after = map(*changed);
        if (!after && after.error().code == ErrorCode::Unsupported) continue;
        ASSERT_TRUE(after) << after.error().message;
        if (!is_control(*before)) {
            EXPECT_FALSE(after->map.equal(before->map)) << "the edit is not in it";
        }
        return;  // one model shows it
    }
}

/// What a method tells of the second picture that it did not declare, or does not tell although it did; empty where
/// both agree.
std::string undeclared(const Explainer& explainer, Model& model, const Settings& settings) {
    const Input input = made_input(model), second = made_input(model, 8);
    const auto with = [&](const Input* other) {
        ExplainContext context(model, input, {}, 5);
        context.other = other;
        return explainer.explain(context, settings);
    };
    const auto alone = with(nullptr), beside = with(&second);
    const bool same = alone.has_value() == beside.has_value() &&
                      (alone ? alone->map.equal(beside->map) && alone->explained == beside->explained
                             : alone.error().message == beside.error().message);
    if (!explainer.reads_other(settings)) return same ? "" : "reads a second picture, and does not declare it";
    if (!alone && beside) return alone.error().code == ErrorCode::Unsupported ? "" : alone.error().message;
    return "declares that it reads a second picture, and " +
           std::string(alone ? "needs none" : "fails with one: " + beside.error().message);
}

TEST_P(ExplainerContract, DeclaresWhetherItReadsASecondPicture) {
    // What it reads hangs on the method and not on the model: the first that carries it will do.
    bool done = false;
    on_every_model([&](Model& model) {
        if (done || !model.is_native()) return;
        done = true;
        const Settings standard = settings_for(model);
        EXPECT_EQ(undeclared(*explainer_, model, standard), "");
        for (const Parameter& p : explainer_->parameters())
            for (const std::string& choice : p.choices) {
                if (choice == to_string(p.standard)) continue;
                Settings changed = standard;
                if (!changed.set(p.name, choice)) continue;
                EXPECT_EQ(undeclared(*explainer_, model, changed), "") << p.name << '=' << choice;
            }
    });
}

/// A method that looks at the second picture, and says so or not.
class Looking final : public Explainer {
  public:
    Looking(bool looks, bool says) : looks_(looks), says_(says) {}
    Description description() const override { return {"looking", "Looking", "", ""}; }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return false; }
    bool reads_other(const Settings&) const override { return says_; }
    Result<Attribution> explain(ExplainContext& context, const Settings&) const override {
        if (looks_ && says_ && context.other == nullptr) return fail(ErrorCode::Unsupported, "none is given");
        Attribution out;
        out.map = (looks_ && context.other != nullptr ? context.other : &context.input)->pixels[0][0];
        return out;
    }

  private:
    bool looks_, says_;
};

TEST(Explainers, ASecondPictureThatIsReadInSecretIsFound) {
    const auto model = registry().architecture("vit").value()->tiny(2).value();
    const Settings none{std::vector<Parameter>{}};
    EXPECT_EQ(undeclared(Looking(false, false), *model, none), "");
    EXPECT_EQ(undeclared(Looking(true, true), *model, none), "");
    EXPECT_NE(undeclared(Looking(true, false), *model, none), "");
    EXPECT_NE(undeclared(Looking(false, true), *model, none), "");
}

TEST_P(ExplainerContract, DeclaresWhetherItExplainsARegion) {
    on_every_model([&](Model& model) {
        if (!explainer_->class_specific() || model.info().cam_point.empty()) return;
        const Input input = made_input(model), other = made_input(model, 8);
        Target target;
        target.region = {2, 3};
        ExplainContext context(model, input, target, 5);
        const Settings settings = settings_for(model);
        if (explainer_->reads_other(settings)) context.other = &other;
        const auto found = explainer_->explain(context, settings);
        if (const auto why = explainer_->no_region(settings)) {
            EXPECT_FALSE(why->empty());
            ASSERT_FALSE(found) << "it explains " << found->explained << " and says that it cannot";
            EXPECT_NE(found.error().code, ErrorCode::Internal) << found.error().message;
            return;
        }
        if (refused(model, found)) return;
        ASSERT_TRUE(found) << found.error().message;
        EXPECT_NE(found->explained.find("activation of 2 tokens"), std::string::npos) << found->explained;
    });
}

TEST(Explainers, LongOnesShowTheirMapOnTheWay) {
    const auto model = registry().architecture("vit").value()->tiny(2).value();
    const Input input = made_input(*model);
    for (const char* name : {"rise", "lime", "kernel_shap", "smooth_grad", "square_grad", "var_grad"}) {
        SCOPED_TRACE(name);
        const Explainer* explainer = registry().explainer(name).value();
        ExplainContext context(*model, input, {}, 5);
        Settings settings(explainer->parameters());
        if (name == std::string("rise")) {
            ASSERT_TRUE(settings.set("preset", "paper") && settings.set("masks", "400"));
        }
        context.batch = 8;  // as on a real model: a map is shown after whole batches
        std::vector<at::Tensor> shown;
        context.refined = [&](const Attribution& so_far) { shown.push_back(so_far.map); };
        const auto found = explainer->explain(context, settings);
        ASSERT_TRUE(found) << found.error().message;
        EXPECT_FALSE(found->partial);
        ASSERT_GE(shown.size(), 3u);
        EXPECT_EQ(shown.front().sizes(), found->map.sizes());
        // It comes closer: the last look is nearer to the end than the first.
        const auto away = [&](const at::Tensor& map) { return (map - found->map).norm().item<double>(); };
        EXPECT_LT(away(shown.back()), away(shown.front()));
        EXPECT_GT(away(shown.front()), 0);
    }
}

TEST_P(ExplainerContract, AStopRequestEndsTheWork) {
    on_every_model([&](Model& model) {
        const Input input = made_input(model), other = made_input(model, 8);
        ExplainContext context(model, input, {}, 0);
        context.other = &other;
        std::stop_source source;
        source.request_stop();
        context.stop = source.get_token();
        const auto result = explainer_->explain(context, settings_for(model));
        ASSERT_FALSE(result.has_value());
        EXPECT_EQ(result.error().code, ErrorCode::Cancelled);
    });
}

std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const auto& explainer : registry().explainers()) all.push_back(explainer->description().name);
    return all;
}
INSTANTIATE_TEST_SUITE_P(All, ExplainerContract, testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace vitrine
