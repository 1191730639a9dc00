// Training a sparse autoencoder: it finds the directions that tokens are made of, goes on to the bit, refuses in words.
#include <vitrine/train_concepts.h>

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>

#include <vitrine/capture.h>
#include <vitrine/pack.h>

#include "concept_steps.h"
#include "known_directions.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

TEST(GeometricMedian, IsNotMovedByOneFarPoint) {
    const at::Tensor points = at::cat({at::zeros({9, 3}), at::zeros({1, 3}) + 1000.0}, 0);
    EXPECT_LT(geometric_median(points).abs().max().item<double>(), 1e-3);
    // Where two points weigh alike the median of an isosceles triangle lies on its axis: the Fermat point.
    const at::Tensor triangle = at::cat({at::zeros({1, 2}), at::zeros({1, 2}), at::zeros({1, 2})}, 0);
    triangle.select(0, 1).select(0, 0).fill_(1.0);
    triangle.select(0, 2).select(0, 0).fill_(0.5);
    triangle.select(0, 2).select(0, 1).fill_(std::sqrt(3.0) / 2);
    const at::Tensor centre = geometric_median(triangle, 1000);
    EXPECT_NEAR(centre[0].item<double>(), 0.5, 1e-4);
    EXPECT_NEAR(centre[1].item<double>(), std::sqrt(3.0) / 6, 1e-4);
}

TEST(ConceptSteps, DeadLatentsAreBroughtBack) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{3});
    const at::Tensor truth = unit(at::randn({40, 24}, g));
    const auto dead_after = [&](const std::string& revive) {
        auto own = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{4});
        AutoencoderConfig config;
        config.width = 24;
        config.latents = 96;
        config.k = 3;
        ConceptStepsOptions options;
        options.objective.revive = revive;
        options.learning_rate = 3e-3;
        options.steps = 400;
        options.dead_window = 4096;
        options.warmup = 20;
        ConceptSteps training = ConceptSteps::make(config, options, sums_of_three(truth, 2048, own)).value();
        {  // half of the latents speak too softly to be chosen
            const at::NoGradGuard no_grad;
            training.autoencoder().tensor("W_enc").detach().narrow(1, 0, 48).mul_(0.02);
        }
        double dead = 1;
        for (int i = 0; i < 400; ++i) dead = training.step(sums_of_three(truth, 512, own))[6].item<double>();
        return dead;
    };
    const double left = dead_after("none"), revived = dead_after("aux");
    EXPECT_GT(left, 0.4);
    EXPECT_LT(revived, left - 0.1);
}

TEST(ConceptSteps, GradientsAlongRowsAreTakenAway) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{5});
    AutoencoderConfig config;
    config.width = 12;
    config.latents = 30;
    config.k = 4;
    ConceptStepsOptions options;
    options.steps = 50;
    options.learning_rate = 1e-2;
    const at::Tensor x = at::randn({256, 12}, g);
    ConceptSteps training = ConceptSteps::make(config, options, x).value();
    const at::Tensor before = training.autoencoder().tensor("W_dec").detach().clone();
    training.step(x);
    // Adam's first step is lr times the gradient's sign-like direction; without a part along the row it is orthogonal
    // to it only before Adam scales it, so what is looked at here is the first moment.
    for (const auto& [name, tensor] : training.state())
        if (name == "first.W_dec") {
            EXPECT_LT((tensor * before).sum(1).abs().max().item<double>(),
                      1e-6 * tensor.abs().max().item<double>() + 1e-9);
        }
}

/// Colours of 4 x 4 cells as tokens; the strongest of each is its logit.
class CellModel final : public Model {
  public:
    CellModel() {
        info_.name = "cells";
        info_.classes = 3;
        info_.cam_point = "cells";
        preprocess_.input_height = preprocess_.input_width = 32;
        preprocess_.mean = {0, 0, 0};
        preprocess_.std = {1, 1, 1};
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        const at::Tensor cells = point(
            "cells", at::cat({at::avg_pool2d(pixels, {4, 4}), at::avg_pool2d(at::relu(pixels - 0.5), {4, 4})}, 1));
        point("flat", cells.flatten(1));
        return 12 * cells.narrow(1, 0, 3).amax({2, 3});
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        TokenLayout out;
        out.unknown = "no tokens";
        return out;
    }
    std::vector<NamedPoint> points() const override {
        return {{"cells", "colours of cells [batch, channels, rows, cols]"}, {"flat", "the same [batch, width]"}};
    }
    void to(at::Device, at::ScalarType) override {}
};

class TrainConcepts : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::path(testing::TempDir()) /
                  ("train_concepts_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        fs::remove_all(folder_);
        fs::create_directories(folder_);
        Pack pack;
        pack.images =
            at::randint(0, 256, {40, 32, 32, 3}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{6}), at::kLong)
                .to(at::kByte);
        pack.labels = at::zeros({40}, at::kLong);
        pack.classes = {"pictures"};
        ASSERT_TRUE(write_pack(folder_ / "pack.safetensors", pack));
    }
    void TearDown() override { fs::remove_all(folder_); }

    TrainConceptsOptions options(const std::string& out,
                                 std::vector<std::pair<std::string, std::string>> more = {}) const {
        TrainConceptsOptions o;
        o.data = folder_ / "pack.safetensors";
        o.out = folder_ / out;
        o.settings = {{"batch", "256"}, {"steps", "30"}, {"latents", "24"}, {"k", "3"},     {"report_seconds", "0"},
                      {"lr", "0.003"},  {"warmup", "5"}, {"pictures", "4"}, {"buffer", "1"}};
        for (auto& setting : more) o.settings.push_back(std::move(setting));
        return o;
    }
    std::string bytes(const std::string& name) const {
        std::ifstream in(folder_ / name, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }

    fs::path folder_;
    CellModel model_;
};

TEST_F(TrainConcepts, ExplainsTokensOfPicturesItHasNotSeen) {
    const auto summary = train_concepts(model_, options("a.safetensors", {{"steps", "300"}, {"lr", "0.01"}}));
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_TRUE(summary->finished);
    EXPECT_EQ(summary->pictures, 36);
    EXPECT_EQ(summary->held.pictures, 4);
    EXPECT_EQ(summary->held.tokens, 4 * 64);
    EXPECT_EQ(summary->point, "cells");
    EXPECT_GT(summary->held.explained_variance, 0.8);
    EXPECT_LE(summary->held.active, 3);
    EXPECT_GE(summary->held.substitution, 0.5);
    EXPECT_GT(summary->curve.back()[4], summary->curve.front()[4]);
    const auto read = Autoencoder::load(folder_ / "a.safetensors");
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_TRUE(read->fits(model_));
    EXPECT_EQ(read->facts.at("tokens_seen"), std::to_string(300 * 256));
    EXPECT_FALSE(fs::exists(folder_ / "a.safetensors.checkpoint"));
}

TEST_F(TrainConcepts, GoesOnToTheBit) {
    for (const char* kind : {"top_k", "batch_top_k", "jump_relu", "relu", "gated"}) {
        const std::vector<std::pair<std::string, std::string>> more = {{"kind", kind}, {"sparsity", "0.01"}};
        ASSERT_TRUE(train_concepts(model_, options("whole.safetensors", more)));
        auto halved = options("halved.safetensors", more);
        std::stop_source stop;
        halved.stop = stop.get_token();
        halved.progress = [&](const ConceptStep& now) {
            if (now.step == 13) stop.request_stop();
        };
        const auto first = train_concepts(model_, halved);
        ASSERT_TRUE(first) << kind << first.error().message;
        EXPECT_FALSE(first->finished);
        const auto second = train_concepts(model_, options("halved.safetensors", more));
        ASSERT_TRUE(second) << kind << second.error().message;
        EXPECT_TRUE(second->finished);
        ASSERT_EQ(second->curve.size(), 30U);
        EXPECT_EQ(bytes("halved.safetensors"), bytes("whole.safetensors")) << kind;
        fs::remove(folder_ / "whole.safetensors");
        fs::remove(folder_ / "halved.safetensors");
    }
}

TEST_F(TrainConcepts, FitsTheKindsThatAreFactorisations) {
    for (const std::string& kind : factor_kinds()) {
        const std::string file = kind + ".safetensors", latents = kind == "k_means" ? "24" : "6";
        const auto summary =
            train_concepts(model_, options(file, {{"kind", kind}, {"latents", latents}, {"steps", "60"}}));
        ASSERT_TRUE(summary) << summary.error().message;
        EXPECT_TRUE(summary->finished);
        EXPECT_EQ(summary->tokens, 36 * 64);  // each token of the pictures that are not held out, once
        EXPECT_EQ(summary->held.pictures, 4);
        // Half of the colours' numbers are nearly free of each other: three components of six leave about a half.
        EXPECT_GT(summary->held.explained_variance, kind == "nmf" ? 0.9 : 0.4) << kind;
        EXPECT_GE(summary->held.agreement, 0);
        const auto read = Autoencoder::load(folder_ / file);
        ASSERT_TRUE(read) << read.error().message;
        EXPECT_TRUE(read->fits(model_));
        EXPECT_EQ(read->config().kind, kind);
        EXPECT_THAT(read->facts.at("fitted"), testing::HasSubstr("2304 tokens"));
        if (kind == "k_means") {
            EXPECT_EQ(summary->held.active, 1);
        }
        // Again the same bytes.
        const std::string first = bytes(file);
        ASSERT_TRUE(train_concepts(model_, options(file, {{"kind", kind}, {"latents", latents}, {"steps", "60"}})));
        EXPECT_EQ(bytes(file), first) << kind;
    }
    std::ofstream(folder_ / "x.safetensors.checkpoint") << "of a training";
    EXPECT_THAT(train_concepts(model_, options("x.safetensors", {{"kind", "pca"}})).error().message,
                testing::HasSubstr("is of a training that was stopped"));
    EXPECT_THAT(train_concepts(model_, options("y.safetensors", {{"kind", "pca"}, {"latents", "14"}})).error().message,
                testing::HasSubstr("have 6 components, found 14 latents: give 12 or fewer"));
}

TEST_F(TrainConcepts, MixesWithinItsBound) {
    const auto summary = train_concepts(model_, options("a.safetensors"));
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_GT(summary->buffer_bytes, 0);
    EXPECT_LE(summary->buffer_bytes, 1000000);
    // More tokens than the buffer holds went through it.
    EXPECT_GT(summary->tokens * 6 * 4, summary->buffer_bytes);
}

TEST_F(TrainConcepts, RefusesInOneSentence) {
    const auto said = [&](TrainConceptsOptions o) {
        const auto summary = train_concepts(model_, o);
        EXPECT_FALSE(summary);
        return summary ? "" : summary.error().message;
    };
    auto nowhere = options("a.safetensors");
    nowhere.data = folder_ / "nothing";
    EXPECT_THAT(said(nowhere), testing::HasSubstr("there is nothing at"));
    fs::create_directories(folder_ / "empty");
    auto empty = options("a.safetensors");
    empty.data = folder_ / "empty";
    EXPECT_THAT(said(empty), testing::HasSubstr("has no pictures in it"));
    EXPECT_THAT(said(options("a.safetensors", {{"point", "cell"}})),
                testing::AllOf(testing::HasSubstr("has no point 'cell'"), testing::HasSubstr("cells")));
    EXPECT_THAT(said(options("a.safetensors", {{"point", "flat"}})), testing::HasSubstr("neither tokens nor a map"));
    EXPECT_THAT(said(options("a.safetensors", {{"batch", "40000"}})),
                testing::HasSubstr("raise buffer or lower batch"));
    EXPECT_THAT(said(options("a.safetensors", {{"k", "25"}})), testing::HasSubstr("k is 25"));
    auto missing = options("");
    missing.out.clear();
    EXPECT_THAT(said(missing), testing::HasSubstr("--out"));
    // Broken pictures among good ones are skipped and counted; a folder of broken ones is refused.
    fs::create_directories(folder_ / "broken");
    for (const char* name : {"a.png", "b.png", "c.png"}) std::ofstream(folder_ / "broken" / name) << "no picture";
    auto broken = options("a.safetensors");
    broken.data = folder_ / "broken";
    EXPECT_THAT(said(broken), testing::HasSubstr("could be read"));
    fs::copy(folder_ / "pack.safetensors", folder_ / "broken" / "pack.safetensors");
    const auto some = train_concepts(model_, broken);
    ASSERT_TRUE(some) << some.error().message;
    EXPECT_FALSE(some->skipped.empty());
    // A checkpoint of other settings.
    auto stopped = options("b.safetensors");
    std::stop_source stop;
    stopped.stop = stop.get_token();
    stopped.progress = [&](const ConceptStep& now) {
        if (now.step == 5) stop.request_stop();
    };
    ASSERT_TRUE(train_concepts(model_, stopped));
    EXPECT_THAT(said(options("b.safetensors", {{"lr", "0.1"}})), testing::HasSubstr("was trained with lr"));
}

TEST(ConceptFigures, AreCountedOverAllTokens) {
    CellModel model;
    AutoencoderConfig config;
    config.kind = "relu";
    config.width = 6;
    config.latents = 12;
    config.point = "cells";
    auto concepts = Autoencoder::make(config, 1).value();
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{7});
    const at::Tensor pictures = at::rand({19, 3, 32, 32}, g);  // more than one piece
    const auto figures = concept_figures(model, concepts, 19, [&](std::int64_t from, std::int64_t count) {
                             return Result<at::Tensor>(pictures.narrow(0, from, count));
                         }).value();
    const at::Tensor x = concept_tokens(model, pictures, config).value().reshape({-1, 6}).to(at::kDouble);
    const Codes codes = concepts.encode(x.to(at::kFloat));
    const at::Tensor again = concepts.decode(codes.active, codes).to(at::kDouble);
    EXPECT_EQ(figures.tokens, 19 * 64);
    EXPECT_NEAR(figures.explained_variance,
                1 - (x - again).square().sum().item<double>() / (x - x.mean(0, true)).square().sum().item<double>(),
                1e-6);
    EXPECT_NEAR(figures.active, codes.active.ne(0).sum().item<double>() / (19 * 64), 1e-9);
    EXPECT_NEAR(figures.never, codes.active.ne(0).any(0).logical_not().to(at::kDouble).mean().item<double>(), 1e-9);
    EXPECT_NEAR(figures.distinct, codes.active.ne(0).view({19, 64, 12}).any(1).sum().item<double>() / 19, 1e-9);
}

TEST(WithChangedTokens, ChangesThoseThatAreRead) {
    TokenLayout layout;
    layout.prefix = {"cls"};
    layout.rows = 2;
    layout.cols = 3;
    AutoencoderConfig config;
    const at::Tensor x = at::rand({2, 7, 4}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{8}));
    const auto doubled = [](const at::Tensor& rows) { return rows * 2; };
    EXPECT_TRUE(at::equal(with_changed_tokens(x, layout, config, doubled), x * 2));
    config.tokens = "class";
    at::Tensor changed = with_changed_tokens(x, layout, config, doubled);
    EXPECT_TRUE(at::equal(changed.select(1, 0), x.select(1, 0) * 2));
    EXPECT_TRUE(at::equal(changed.narrow(1, 1, 6), x.narrow(1, 1, 6)));
    config.tokens = "patches";
    changed = with_changed_tokens(x, layout, config, doubled);
    EXPECT_TRUE(at::equal(changed.select(1, 0), x.select(1, 0)));
    EXPECT_TRUE(at::equal(changed.narrow(1, 1, 6), x.narrow(1, 1, 6) * 2));
    const at::Tensor map = at::rand({2, 4, 2, 3}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{9}));
    EXPECT_TRUE(at::equal(with_changed_tokens(map, layout, config, doubled), map * 2));
}

}  // namespace
}  // namespace vitrine
