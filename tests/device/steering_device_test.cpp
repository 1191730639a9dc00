// Steered models on a CUDA device: they answer as on the CPU, and what was recorded of one is never of another edit.
#include <vitrine/steering.h>

#include <cstdlib>

#include <gmock/gmock.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <vitrine/capture.h>
#include <vitrine/device.h>
#include <vitrine/engine.h>
#include <vitrine/explainer.h>
#include <vitrine/registry.h>
#include <vitrine/replay.h>

namespace vitrine {
namespace {

using Mode = ConceptEdit::Mode;
using Tokens = Steering::Tokens;
using Edits = std::vector<ConceptEdit>;

double largest_of(const at::Tensor& x) { return x.to(at::kCPU, at::kDouble).abs().max().item<double>(); }

at::Tensor some_pixels(std::uint64_t seed = 2) {
    return at::randn({1, 3, 32, 32}, at::make_generator<at::CPUGeneratorImpl>(seed));
}

at::Tensor answer_of(Model& model, std::uint64_t seed = 2) {
    auto out = run(model, some_pixels(seed));
    EXPECT_TRUE(out) << out.error().message;
    return out ? *out : at::Tensor();
}

class SteeringOnADevice : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        if (const auto device = device_named("cuda"); !device) GTEST_SKIP() << device.error().message;
        EXPECT_FALSE(at::globalContext().allowTF32CuDNN()) << "fp32 is fp32 in convolutions too";
        here_ = registry().architecture("vit").value()->tiny(3).value();
        there_ = registry().architecture("vit").value()->tiny(3).value();
        there_->to(at::kCUDA, at::kFloat);
        AutoencoderConfig config;
        config.kind = GetParam();
        config.normalise = config.kind == "relu" ? "layer_norm" : "none";
        config.width = here_->info().width;
        config.latents = 4 * config.width;
        config.k = 8;
        config.point = "blocks.1";
        const auto made = Autoencoder::make(config, 7);
        ASSERT_TRUE(made) << made.error().message;
        concepts_ = *made;
        // The concepts that this picture has most of.
        const auto most = largest_codes(*here_, some_pixels(), concepts_);
        ASSERT_TRUE(most) << most.error().message;
        const at::Tensor order = most->argsort(0, /*descending=*/true);
        for (int i = 0; i < 4; ++i) heard_[i] = order[i].item<std::int64_t>();
        unit_ = (*most)[heard_[3]].item<double>();
        ASSERT_GT(unit_, 0) << "four concepts are heard";
    }
    void TearDown() override { unsetenv("VITRINE_GRAPHS"); }

    std::unique_ptr<Model> steer(const std::shared_ptr<Model>& model, Edits edits, Tokens tokens = Tokens::All,
                                 std::vector<PatchBox> boxes = {}) {
        Steering steering;
        // A copy of its own: the weights of one go to the device.
        steering.autoencoder = Autoencoder::make(concepts_.config(), 7).value();
        steering.edits = std::move(edits);
        steering.tokens = tokens;
        steering.boxes = std::move(boxes);
        auto made = steered(model, std::move(steering));
        EXPECT_TRUE(made) << made.error().message;
        return made ? std::move(*made) : nullptr;
    }
    std::unique_ptr<Model> otherwise(const Model& model, Edits edits, Tokens tokens = Tokens::All,
                                     std::vector<PatchBox> boxes = {}) {
        auto made = steered_again(model, std::move(edits), tokens, std::move(boxes));
        EXPECT_TRUE(made) << made.error().message;
        return made ? std::move(*made) : nullptr;
    }
    static Result<Attribution> explained(Model& model, const std::string& method, std::uint64_t seed = 2) {
        Input input;
        input.pixels = some_pixels(seed);
        ExplainContext context(model, input, {.index = 3, .versus = {}});
        const Explainer* explainer = VITRINE_TRY(registry().explainer(method));
        return explainer->explain(context, Settings(explainer->parameters()));
    }
    static void same_map(Model& a, Model& b, const std::string& method, std::uint64_t seed, const std::string& what) {
        const auto x = explained(a, method, seed), y = explained(b, method, seed);
        ASSERT_TRUE(x) << method << ": " << x.error().message;
        ASSERT_TRUE(y) << method << ": " << y.error().message;
        EXPECT_LT(largest_of(x->map - y->map), 1e-4 * largest_of(x->map)) << method << ", " << what;
    }

    std::shared_ptr<Model> here_, there_;
    Autoencoder concepts_;
    std::int64_t heard_[4] = {};
    double unit_ = 0;
};

TEST_P(SteeringOnADevice, EveryEditOnAllTokensAnswersAsOnTheCpu) {
    const at::Tensor before = answer_of(*here_);
    const auto first = steer(here_, {}), second = steer(there_, {});
    const std::vector<std::pair<const char*, Edits>> all{{"set", {{heard_[0], Mode::Set, 3 * unit_}}},
                                                         {"add", {{heard_[1], Mode::Add, -2 * unit_}}},
                                                         {"scale", {{heard_[2], Mode::Scale, 4}}},
                                                         {"suppress", {{heard_[3], Mode::Suppress}}},
                                                         {"all of them",
                                                          {{heard_[0], Mode::Set, 3 * unit_},
                                                           {heard_[1], Mode::Add, -2 * unit_},
                                                           {heard_[2], Mode::Scale, 4},
                                                           {heard_[3], Mode::Suppress}}}};
    for (const auto& [name, edits] : all)
        for (const Tokens tokens : {Tokens::All, Tokens::Class, Tokens::Patches, Tokens::Chosen}) {
            std::vector<PatchBox> boxes;
            if (tokens == Tokens::Chosen) boxes = {{0, 0, 0, 1}, {1, 1, 1, 1}};
            const auto a = otherwise(*first, edits, tokens, boxes), b = otherwise(*second, edits, tokens, boxes);
            ASSERT_TRUE(a && b);
            const at::Tensor wanted = answer_of(*a), found = answer_of(*b);
            ASSERT_TRUE(wanted.defined() && found.defined());
            EXPECT_TRUE(found.is_cuda());
            const std::string what = std::string(name) + " on tokens " + std::to_string(static_cast<int>(tokens));
            EXPECT_LT(largest_of(wanted - found.to(at::kCPU)), 1e-4 * (1 + largest_of(wanted))) << what;
            if (tokens == Tokens::All) {
                EXPECT_GT(largest_of(wanted - before), 1e-3) << what << " moves nothing";
            }
        }
}

TEST_P(SteeringOnADevice, NothingChangedIsTheSameToTheBit) {
    const at::Tensor before = answer_of(*there_);
    EXPECT_TRUE(at::equal(before, answer_of(*steer(there_, {}))));
    EXPECT_TRUE(at::equal(before, answer_of(*steer(there_, {{heard_[0], Mode::Scale, 1}, {2, Mode::Add, 0}}))));
    // The edit runs here, and finds nothing to take away.
    Steering silent{.autoencoder = Autoencoder::make(concepts_.config(), 7).value(),
                    .edits = {{heard_[0], Mode::Suppress}}};
    for (auto& [name, tensor] : silent.autoencoder.tensors())
        if (name == "b_enc" || name == "b_gate") tensor.select(0, heard_[0]).fill_(-1e4);
    const auto model = steered(there_, silent);
    ASSERT_TRUE(model) << model.error().message;
    EXPECT_TRUE(at::equal(before, answer_of(**model)));
    EXPECT_FALSE(at::equal(before, answer_of(*otherwise(**model, {{heard_[0], Mode::Set, 3 * unit_}}))));
    // And the same edit twice is the same answer.
    const auto once = steer(there_, {{heard_[1], Mode::Scale, 3}}),
               again = otherwise(*once, {{heard_[1], Mode::Scale, 3}});
    EXPECT_TRUE(at::equal(answer_of(*once), answer_of(*again)));
}

TEST_P(SteeringOnADevice, IsExplainedAsOnTheCpu) {
    const Edits edits{{heard_[0], Mode::Set, 3 * unit_}, {heard_[1], Mode::Suppress}};
    const auto a = steer(here_, edits), b = steer(there_, edits);
    for (const char* method : {"rollout", "saliency", "input_x_gradient", "grad_cam", "layer_cam"}) {
        same_map(*a, *b, method, 2, "steered");
        const auto plain = explained(*here_, method), changed = explained(*a, method);
        ASSERT_TRUE(plain && changed);
        EXPECT_GT(largest_of(plain->map - changed->map), 1e-3 * largest_of(plain->map)) << method;
    }
}

// A recording reads the edit where it lay. Other edits are another model with recordings of its own, and a model that
// is moved forgets its own.
TEST_P(SteeringOnADevice, WhatWasRecordedIsOfItsOwnEdit) {
    const Edits one{{heard_[0], Mode::Set, 3 * unit_}},
        two{{heard_[0], Mode::Set, -4 * unit_}, {heard_[1], Mode::Suppress}};
    for (const char* method : {"chefer", "legrad"}) {
        const auto a = steer(here_, one), b = steer(there_, one);
        const std::int64_t before = replay_count();
        same_map(*a, *b, method, 2, "as it is");
        EXPECT_EQ(replay_count(), before);
        same_map(*a, *b, method, 3, "recorded");
        // Choosing the largest of a row may have to wait for the device, and then nothing can be recorded.
        const bool waits = concepts_.config().kind == "top_k" && replay_count() == before;
        const auto counted = [&](std::int64_t replays, const char* what) {
            EXPECT_EQ(replay_count(), before + (waits ? 0 : replays)) << method << ", " << what;
        };
        counted(1, "recorded");
        same_map(*a, *b, method, 4, "replayed");
        counted(2, "replayed");
        // Without recordings it is the same map.
        const auto replayed_map = explained(*b, method, 5);
        counted(3, "replayed once more");
        setenv("VITRINE_GRAPHS", "off", 1);
        const auto plain_map = explained(*b, method, 5);
        unsetenv("VITRINE_GRAPHS");
        counted(3, "not replayed");
        ASSERT_TRUE(replayed_map && plain_map);
        EXPECT_LT(largest_of(replayed_map->map - plain_map->map), 1e-5 * largest_of(plain_map->map)) << method;
        // The edit changes, as a slider does it: nothing of the recording is seen.
        const auto c = otherwise(*a, two), d = otherwise(*b, two);
        same_map(*c, *d, method, 4, "another edit");
        counted(3, "another edit is not replayed");
        const auto was = explained(*a, method, 4), is = explained(*c, method, 4);
        ASSERT_TRUE(was && is);
        EXPECT_GT(largest_of(was->map - is->map), 1e-2 * largest_of(was->map)) << "the edits differ too little to tell";
        same_map(*c, *d, method, 2, "another edit, recorded");
        counted(4, "another edit, recorded");
        same_map(*a, *b, method, 3, "the first again");
        counted(5, "the first again");
        // And the model that is not steered has nothing of it.
        same_map(*here_, *there_, method, 4, "not steered");
        // Moved to where it is: the edit lies elsewhere now.
        b->to(at::kCUDA, at::kFloat);
        same_map(*a, *b, method, 3, "moved");
        counted(5, "moved");
        same_map(*a, *b, method, 4, "moved and recorded");
        counted(6, "moved and recorded");
        // Chosen patches need nothing from the host either.
        const auto e = otherwise(*a, one, Tokens::Chosen, {{0, 0, 1, 0}}),
                   f = otherwise(*b, one, Tokens::Chosen, {{0, 0, 1, 0}});
        same_map(*e, *f, method, 2, "chosen patches");
        same_map(*e, *f, method, 3, "chosen patches, recorded");
        counted(7, "chosen patches, recorded");
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SteeringOnADevice,
                         testing::Values("relu", "jump_relu", "batch_top_k", "top_k", "gated"),
                         [](const auto& info) { return std::string(info.param); });

// The concepts that came with the built-in model.
TEST(SteeredStarterOnADevice, AnswersAsOnTheCpu) {
    if (const auto device = device_named("cuda"); !device) GTEST_SKIP() << device.error().message;
    const auto concepts = Autoencoder::load(built_in_concepts());
    ASSERT_TRUE(concepts) << concepts.error().message;
    const std::shared_ptr<Model> here = open_model("starter").value(), there = open_model("starter").value();
    there->to(at::kCUDA, at::kFloat);
    const at::Tensor pixels = at::randn({1, 3, 128, 128}, at::make_generator<at::CPUGeneratorImpl>(2));
    const at::Tensor most = largest_codes(*here, pixels, *concepts).value();
    const auto loudest = most.argmax().item<std::int64_t>();
    ASSERT_GT(most[loudest].item<double>(), 0);
    const at::Tensor before = run(*here, pixels).value();
    for (const Mode mode : {Mode::Set, Mode::Add, Mode::Scale, Mode::Suppress}) {
        const double value = mode == Mode::Scale ? 5 : 5 * most[loudest].item<double>();
        const auto steer = [&](const std::shared_ptr<Model>& model) {
            return steered(model, {.autoencoder = Autoencoder::load(built_in_concepts()).value(),
                                   .edits = {{loudest, mode, value}}})
                .value();
        };
        const at::Tensor a = run(*steer(here), pixels).value(), b = run(*steer(there), pixels).value().to(at::kCPU);
        EXPECT_GT(largest_of(a - before), 1e-3) << name_of(mode);
        EXPECT_LT(largest_of(a - b), 1e-3 * (1 + largest_of(a))) << name_of(mode);
    }
}

}  // namespace
}  // namespace vitrine
