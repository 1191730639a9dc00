// Training a sparse autoencoder: it finds the directions that tokens are made of, goes on to the bit, refuses in words.
#include <vitrine/train_concepts.h>

#include <gmock/gmock.h>

#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <nlohmann/json.hpp>

#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/concept_doubt.h>
#include <vitrine/pack.h>
#include <vitrine/preprocess.h>

#include "concept_settings.h"
#include "concept_steps.h"
#include "dataset.h"
#include "known_directions.h"
#include "steered_test_model.h"
#include "tensor_io.h"
#include "thread_peers.h"

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
    bool found = false;
    for (const auto& [name, tensor] : training.state())
        if (name == "first.W_dec") {
            found = true;
            EXPECT_GT(tensor.abs().max().item<double>(), 0);
            EXPECT_LT((tensor * before).sum(1).abs().max().item<double>(),
                      1e-6 * tensor.abs().max().item<double>() + 1e-9);
        }
    EXPECT_TRUE(found);
}

TEST(ConceptSteps, StartAsTheLibrariesDo) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{11});
    const at::Tensor x = 5 * at::randn({300, 12}, g) + 20;
    const auto begun = [&](const std::string& start) {
        AutoencoderConfig config;
        config.width = 12;
        config.latents = 40;
        config.k = 40;
        ConceptStepsOptions options;
        options.start = start;
        options.seed = 3;
        return ConceptSteps::make(config, options, x).value();
    };
    const auto lengths = [](const at::Tensor& rows) { return rows.square().sum(1).sqrt(); };
    const auto far = [](const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); };
    const at::Tensor median = geometric_median(x), mean = x.mean(0);
    ASSERT_GT(far(median, mean), 1e-3);
    for (const std::string start : {"median", "mean", "openai", "prisma", "saelens", "saev"}) {
        const ConceptSteps steps = begun(start);
        const at::Tensor decoder = steps.autoencoder().tensor("W_dec").detach(),
                         encoder = steps.autoencoder().tensor("W_enc").detach(),
                         bias = steps.autoencoder().tensor("b_dec").detach();
        EXPECT_FALSE(encoder.is_alias_of(decoder)) << start;
        const bool none = start == "saelens" || start == "saev";
        EXPECT_LT(far(bias, none ? at::zeros({12}) : start == "mean" ? mean : median), 1e-4) << start;
        EXPECT_LT(far(lengths(decoder), at::zeros({40}) + (start == "saelens" ? 0.1 : 1.0)), 1e-5) << start;
        if (start == "prisma") {
            EXPECT_LT(far(lengths(encoder), at::zeros({12}) + 1.0), 1e-5);
            EXPECT_GT(far(encoder, decoder.t()), 0.1);
        } else if (start == "openai") {
            // All latents may speak here: the encoder is its old self over one number, and new lengths are kept.
            const at::Tensor ratio = encoder / decoder.t();
            EXPECT_LT(far(ratio, at::zeros_like(ratio) + ratio.mean()), 1e-4);
            const at::Tensor v = unit(at::randn({4000, 12}, g));
            const at::Tensor again = at::matmul(at::relu(at::matmul(v, encoder)), decoder);
            EXPECT_NEAR(lengths(again).mean().item<double>(), 1, 0.05);
        } else {
            EXPECT_EQ(far(encoder, decoder.t()), 0) << start;
        }
        if (start == "saev") {  // 0.8 of a token and a draw within 0.2 sqrt(6 / width)
            const at::Tensor centred = x - mean;
            for (std::int64_t i = 0; i < 40; ++i) {
                const at::Tensor token = centred[i] * 0.8;
                const double along = token.dot(decoder[i]).item<double>();
                EXPECT_GT(along / lengths(token.unsqueeze(0)).item<double>(), 0.98) << i;
                EXPECT_LT((token - along * decoder[i]).abs().max().item<double>(), 2 * 0.2 * std::sqrt(6.0 / 12)) << i;
            }
        }
    }
}

TEST(ConceptSteps, FreeRowsGrowAndNegativeCodesAreHeard) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{12});
    const at::Tensor x = at::randn({256, 12}, g);
    const auto after = [&](bool unit_rows, bool weigh) {
        AutoencoderConfig config;
        config.width = 12;
        config.latents = 30;
        config.k = 4;
        config.weigh_by_decoder = weigh;
        ConceptStepsOptions options;
        options.steps = 20;
        options.learning_rate = 1e-2;
        options.unit_rows = unit_rows;
        ConceptSteps training = ConceptSteps::make(config, options, x).value();
        for (int i = 0; i < 20; ++i) training.step(x);
        return training.autoencoder().tensor("W_dec").detach().square().sum(1).sqrt();
    };
    EXPECT_LT((after(true, false) - 1).abs().max().item<double>(), 1e-5);
    EXPECT_GT((after(false, false) - 1).abs().max().item<double>(), 1e-3);
    EXPECT_GT((after(false, true) - 1).abs().max().item<double>(), 1e-3);

    // Every number is below zero: saev's codes say something with it, others' do not.
    for (const bool kept : {true, false}) {
        AutoencoderConfig config;
        config.width = 12;
        config.latents = 8;
        config.k = 8;
        config.keep_negative = kept;
        ConceptStepsOptions options;
        options.steps = 4;
        options.learning_rate = 0;
        options.dead_window = 300;
        ConceptSteps training = ConceptSteps::make(config, options, x).value();
        {
            const at::NoGradGuard no_grad;
            training.autoencoder().tensor("W_enc").detach().zero_();
            training.autoencoder().tensor("b_enc").detach().fill_(-1);
        }
        double dead = -1;
        for (int i = 0; i < 4; ++i) dead = training.step(x)[6].item<double>();
        EXPECT_EQ(dead, kept ? 0 : 1);
    }
}

/// What a preset comes to, with a kind set beside it or not: each value is that of the library's own source.
TEST(ConceptSettings, AreTheLibrariesOwn) {
    using Values = std::map<std::string, std::string>;
    const Values of_ours = {{"kind", "top_k"},
                            {"k", "32"},
                            {"normalise", "none"},
                            {"convention", "openai"},
                            {"start", "median"},
                            {"rows", "unit"},
                            {"weigh_by_decoder", "false"},
                            {"keep_negative", "false"},
                            {"subtract_bias", "true"},
                            {"sparsity", "0"},
                            {"form", "l1"},
                            {"band", "0.05"},
                            {"pull", "0"},
                            {"threshold_rate", "0.01"},
                            {"revive", "aux"},
                            {"revive_k", "256"},
                            {"revive_weight", "0.03125"},
                            {"dead_tokens", "0"},
                            {"dead_steps", "0"},
                            {"prefixes", "0"},
                            {"lr", "0.0004"},
                            {"lr_end", "0"},
                            {"warmup", "200"},
                            {"epsilon", "1e-08"},
                            {"clip", "1"}};
    const Values openai = {{"kind", "top_k"},
                           {"k", "32"},
                           {"normalise", "layer_norm"},
                           {"convention", "openai"},
                           {"start", "openai"},
                           {"revive", "aux"},
                           {"revive_k", "256"},
                           {"revive_weight", "0.03125"},
                           {"dead_tokens", "10000000"},
                           {"lr", "0.0001"},
                           {"lr_end", "1"},
                           {"warmup", "0"},
                           {"epsilon", "6.25e-10"},
                           {"clip", "0"}};
    const Values saelens = {{"kind", "top_k"},
                            {"k", "100"},
                            {"convention", "saelens"},
                            {"start", "saelens"},
                            {"rows", "free"},
                            {"weigh_by_decoder", "true"},
                            {"revive", "auxk_saelens"},
                            {"dead_steps", "1000"},
                            {"lr", "0.0003"},
                            {"lr_end", "1"},
                            {"warmup", "0"}};
    const Values prisma = {{"kind", "relu"},
                           {"k", "64"},
                           {"normalise", "layer_norm"},
                           {"convention", "prisma"},
                           {"start", "prisma"},
                           {"sparsity", "0.0002"},
                           {"revive", "none"},
                           {"dead_steps", "5000"},
                           {"lr", "0.001"},
                           {"lr_end", "0.0001"},
                           {"warmup", "500"}};
    const Values saev = {{"kind", "top_k"},
                         {"k", "32"},
                         {"convention", "saev"},
                         {"start", "saev"},
                         {"subtract_bias", "false"},
                         {"keep_negative", "true"},
                         {"prefixes", "10"},
                         {"revive", "auxk_saev"},
                         {"revive_k", "512"},
                         {"revive_weight", "0.03125"},
                         {"dead_tokens", "10000000"},
                         {"threshold_rate", "0.1"},
                         {"lr", "0.0004"},
                         {"lr_end", "0"},
                         {"warmup", "500"}};
    const auto with = [](Values all, const Values& more) {
        for (const auto& [name, value] : more) all[name] = value;
        return all;
    };
    struct Case {
        std::string preset, kind;
        Values expected;
    };
    const Values quiet = {{"weigh_by_decoder", "false"}, {"keep_negative", "false"}, {"revive", "none"}};
    const std::vector<Case> cases = {
        {"none", "", {}},
        {"openai", "", openai},
        {"openai", "batch_top_k", with(openai, {{"kind", "batch_top_k"}})},
        {"saelens", "", saelens},
        {"saelens", "batch_top_k", with(saelens, {{"kind", "batch_top_k"}})},
        {"saelens", "relu", with(saelens, with(quiet, {{"kind", "relu"}, {"sparsity", "1"}}))},
        {"saelens", "gated", with(saelens, with(quiet, {{"kind", "gated"}, {"sparsity", "1"}}))},
        {"saelens", "jump_relu",
         with(saelens, with(quiet, {{"kind", "jump_relu"}, {"sparsity", "1"}, {"form", "step"}}))},
        {"prisma", "", prisma},
        {"prisma", "gated", with(prisma, {{"kind", "gated"}})},
        {"prisma", "top_k", with(prisma, {{"kind", "top_k"}, {"sparsity", "0"}})},
        {"saev", "", saev},
        {"saev", "batch_top_k", with(saev, {{"kind", "batch_top_k"}})},
        {"saev", "relu", with(saev, with(quiet, {{"kind", "relu"}, {"sparsity", "0.0004"}}))},
    };
    for (const Case& one : cases) {
        std::vector<std::pair<std::string, std::string>> given = {{"preset", one.preset}};
        if (!one.kind.empty()) given.emplace_back("kind", one.kind);
        std::vector<std::string> notes;
        const auto found = concept_settings(given, notes);
        ASSERT_TRUE(found) << found.error().message;
        for (const auto& [name, value] : with(of_ours, one.expected))
            EXPECT_EQ(to_string(found->value(name)), value) << one.preset << " " << one.kind << " " << name;
    }
    // What is set beside a preset holds, before it or after it.
    std::vector<std::string> notes;
    const auto beside = concept_settings({{"k", "7"}, {"preset", "saelens"}, {"lr", "0.5"}}, notes);
    ASSERT_TRUE(beside);
    EXPECT_EQ(beside->integer("k"), 7);
    EXPECT_EQ(beside->number("lr"), 0.5);
    EXPECT_EQ(beside->text("start"), "saelens");
}

TEST(ConceptSettings, OfKindsWithoutAChoiceAreNeverSilentlyDense) {
    std::vector<std::string> notes;
    for (const char* kind : {"relu", "gated", "jump_relu"}) {
        notes.clear();
        const auto found = concept_settings({{"kind", kind}}, notes);
        ASSERT_TRUE(found);
        EXPECT_GT(found->number("sparsity"), 0) << kind;
        EXPECT_THAT(notes, testing::ElementsAre(testing::HasSubstr("is kept sparse by sparsity=")));
        notes.clear();
        ASSERT_TRUE(concept_settings({{"kind", kind}, {"sparsity", "0"}}, notes));
        EXPECT_THAT(notes, testing::ElementsAre(testing::HasSubstr("nothing keeps the latents of")));
    }
    for (const char* kind : {"relu", "gated", "top_k"})
        EXPECT_THAT(concept_settings({{"kind", kind}, {"form", "step"}}, notes).error().message,
                    testing::HasSubstr("form=step is of jump_relu, and the kind is " + std::string(kind)));
    EXPECT_TRUE(concept_settings({{"kind", "jump_relu"}, {"form", "tanh"}, {"sparsity", "0.1"}}, notes));
    EXPECT_THAT(concept_settings({{"kind", "jump_relu"}, {"form", "tanh"}}, notes).error().message,
                testing::HasSubstr("set sparsity"));
}

/// Each was taken, and nothing became of it.
TEST(ConceptSettings, ThatTheKindDoesNotReadAreRefused) {
    using Given = std::vector<std::pair<std::string, std::string>>;
    const auto said = [](const Given& given) {
        std::vector<std::string> notes;
        const auto found = concept_settings(given, notes);
        return found ? std::string() : found.error().message;
    };
    EXPECT_EQ(said({{"kind", "relu"}, {"k", "8"}}),
              "k is of top_k and batch_top_k, and the kind is relu: leave k out, or set kind=top_k");
    EXPECT_EQ(said({{"k", "4"}, {"preset", "prisma"}}),
              "k is of top_k and batch_top_k, and the kind is relu: leave k out, or set kind=top_k");
    EXPECT_EQ(said({{"kind", "relu"}, {"form", "step"}}),
              "form=step is of jump_relu, and the kind is relu: leave form out, or set kind=jump_relu");
    EXPECT_EQ(said({{"preset", "saelens"}, {"revive_k", "9"}}),
              "revive_k is of aux and auxk_saev, and revive is auxk_saelens: leave revive_k out, or set revive=aux");
    for (const auto& [kind, name, value] : {std::tuple{"relu", "keep_negative", "true"},
                                            {"gated", "weigh_by_decoder", "false"},
                                            {"top_k", "sparsity", "0.1"},
                                            {"top_k", "threshold_rate", "0.1"},
                                            {"relu", "band", "0.1"},
                                            {"gated", "pull", "1"},
                                            {"pca", "negative", "shift"},
                                            {"pca", "lr", "1"},
                                            {"k_means", "prefixes", "5"},
                                            {"nmf", "batch", "64"},
                                            {"pca", "preset", "saev"},
                                            {"nmf", "form", "l1"}})
        EXPECT_THAT(said({{"kind", kind}, {name, value}}), testing::StartsWith(fmt::format("{} is of ", name)))
            << kind << " " << name;
    // What is read is taken, and what is not is known before: none is left over for any kind.
    for (const auto& [kind, some] :
         {std::pair{"relu", "k"}, {"top_k", "sparsity"}, {"nmf", "lr"}, {"jump_relu", "k"}}) {
        const auto unread = unread_concept_settings({{"kind", kind}});
        EXPECT_THAT(unread, testing::Contains(some));
        for (const Parameter& one : concept_parameters()) {
            if (one.name == "kind") continue;
            const bool skipped = std::find(unread.begin(), unread.end(), one.name) != unread.end();
            EXPECT_EQ(said({{"kind", kind}, {one.name, to_string(one.standard)}}).empty(), !skipped)
                << kind << " " << one.name;
        }
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
        // Tests of several kinds say for all of them what some of them read.
        const auto unread = unread_concept_settings(o.settings);
        std::erase_if(o.settings, [&](const auto& one) {
            return std::find(unread.begin(), unread.end(), one.first) != unread.end();
        });
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

TEST_F(TrainConcepts, PresetsTrainAsALibraryDoesAndWhatIsSetBesideHolds) {
    const auto trained = [&](const std::string& name, std::vector<std::pair<std::string, std::string>> settings) {
        TrainConceptsOptions o;
        o.data = folder_ / "pack.safetensors";
        o.out = folder_ / name;
        o.settings = {{"batch", "256"}, {"steps", "2"}, {"latents", "24"}, {"pictures", "4"}, {"buffer", "1"}};
        for (auto& setting : settings) o.settings.push_back(std::move(setting));
        const auto summary = train_concepts(model_, o);
        EXPECT_TRUE(summary) << summary.error().message;
        return Autoencoder::load(folder_ / name).value().config();
    };
    const AutoencoderConfig openai = trained("openai", {{"k", "3"}, {"preset", "openai"}});
    EXPECT_EQ(openai.kind, "top_k");
    EXPECT_EQ(openai.k, 3);
    EXPECT_EQ(openai.normalise, "layer_norm");
    const AutoencoderConfig prisma = trained("prisma", {{"preset", "prisma"}});
    EXPECT_EQ(prisma.kind, "relu");
    EXPECT_EQ(prisma.normalise, "layer_norm");
    EXPECT_TRUE(prisma.subtract_decoder_bias);
    const AutoencoderConfig saev = trained("saev", {{"preset", "saev"}, {"kind", "top_k"}, {"k", "3"}});
    EXPECT_EQ(saev.kind, "top_k");
    EXPECT_EQ(saev.normalise, "none");
    EXPECT_FALSE(saev.subtract_decoder_bias);
    EXPECT_TRUE(saev.keep_negative);
    // The library's own number of concepts a token is more than there are here.
    const auto refused = train_concepts(model_, options("saelens", {{"preset", "saelens"}, {"k", "100"}}));
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("100"), std::string::npos) << refused.error().message;
}

TEST_F(TrainConcepts, FoldsWhatItWeighed) {
    const auto summary =
        train_concepts(model_, options("a.safetensors", {{"preset", "saelens"}, {"lr", "0.01"}, {"steps", "400"}}));
    ASSERT_TRUE(summary) << summary.error().message;
    const auto read = Autoencoder::load(folder_ / "a.safetensors");
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_FALSE(read->config().weigh_by_decoder);
    EXPECT_LT((read->tensor("W_dec").square().sum(1).sqrt() - 1).abs().max().item<double>(), 1e-5);
    const auto settings = nlohmann::json::parse(read->facts.at("settings"));
    EXPECT_EQ(settings["rows"], "free");
    EXPECT_EQ(settings["weigh_by_decoder"], "true");
    // What is measured is the folded one: it explains what the one in training did.
    EXPECT_GT(summary->held.explained_variance, 0.3);
    EXPECT_NEAR(summary->held.explained_variance, summary->curve.back()[4], 0.1);
}

TEST_F(TrainConcepts, BeginsWithAllTokensOfItsBuffer) {
    const at::Tensor pictures =
        at::randint(0, 256, {40, 32, 32, 3}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{6}), at::kLong)
            .to(at::kFloat)
            .permute({0, 3, 1, 2});
    AutoencoderConfig config;
    config.point = "cells";
    config.width = 6;
    const at::Tensor all = concept_tokens(model_, pictures / 255, config).value().reshape({-1, 6});
    const auto begun = [&](std::vector<std::pair<std::string, std::string>> more) {
        more.insert(more.end(), {{"held", "0"}, {"steps", "1"}, {"lr", "0"}});
        const auto summary = train_concepts(model_, options("a.safetensors", more));
        EXPECT_TRUE(summary) << summary.error().message;
        return Autoencoder::load(folder_ / "a.safetensors").value();
    };
    const auto far = [](const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); };
    ASSERT_EQ(all.size(0), 40 * 64) << "ten batches";
    EXPECT_LT(far(begun({{"start", "mean"}}).tensor("b_dec").detach(), all.mean(0)), 1e-5);
    EXPECT_LT(far(begun({{"start", "median"}}).tensor("b_dec").detach(), geometric_median(all)), 1e-5);
    EXPECT_NEAR(begun({{"normalise", "expected_average"}}).config().scale,
                std::sqrt(6.0) / all.square().sum(1).sqrt().mean().item<double>(), 1e-4);
}

TEST_F(TrainConcepts, RunsNoMorePicturesAtOnceThanThereAre) {
    class Watching final : public Model {
      public:
        explicit Watching(Model& inner) : inner_(inner) {
            info_ = inner.info();
            preprocess_ = inner.preprocess();
        }
        at::Tensor forward(const at::Tensor& pixels) override {
            most_ = std::max(most_, pixels.size(0));
            const at::Tensor cells = point(
                "cells", at::cat({at::avg_pool2d(pixels, {4, 4}), at::avg_pool2d(at::relu(pixels - 0.5), {4, 4})}, 1));
            return 12 * cells.narrow(1, 0, 3).amax({2, 3});
        }
        TokenLayout layout(std::int64_t h, std::int64_t w) const override { return inner_.layout(h, w); }
        std::vector<NamedPoint> points() const override { return inner_.points(); }
        void to(at::Device, at::ScalarType) override {}
        std::int64_t most_ = 0;

      private:
        Model& inner_;
    };
    Watching model(model_);
    const auto summary = train_concepts(model, options("a.safetensors", {{"pictures", "100000"}, {"held", "0"}}));
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_LE(model.most_, 20) << "half of the buffer";
    EXPECT_GT(model.most_, 4);
}

TEST_F(TrainConcepts, SaysHowMuchMemoryItWouldTake) {
    std::ifstream status("/proc/self/statm");
    std::uint64_t pages = 0;
    ASSERT_TRUE(status >> pages);
    struct rlimit kept {};
    ASSERT_EQ(getrlimit(RLIMIT_AS, &kept), 0);
    struct rlimit small = kept;
    small.rlim_cur = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) + (std::uint64_t{512} << 20);
    ASSERT_EQ(setrlimit(RLIMIT_AS, &small), 0);
    const auto refused = train_concepts(model_, options("a.safetensors", {{"latents", "50000000"}, {"batch", "4"}}));
    setrlimit(RLIMIT_AS, &kept);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::OutOfMemory);
    EXPECT_THAT(refused.error().message,
                testing::AllOf(testing::StartsWith("there is not enough memory: about 10.4 GB are needed, 9.6 for "
                                                   "50000000 latents of 6 numbers, 0.8 for the codes of a batch of 4,"),
                               testing::EndsWith("lower latents")));
}

TEST_F(TrainConcepts, HoldsTheRateWhereItIsToStay) {
    auto o = options("a.safetensors", {{"lr_end", "1"}});
    double last = 0;
    o.progress = [&](const ConceptStep& now) { last = now.learning_rate; };
    ASSERT_TRUE(train_concepts(model_, o));
    EXPECT_DOUBLE_EQ(last, 0.003);
}

TEST_F(TrainConcepts, KnowsThePicturesAgain) {
    const fs::path pictures = folder_ / "pictures";
    fs::create_directories(pictures);
    const fs::path source = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures";
    int count = 0;
    for (int round = 0; round < 4 && count < 12; ++round)
        for (const auto& entry : fs::directory_iterator(source))
            if (entry.path().extension() == ".jpg" && count < 12)
                fs::copy(entry.path(), pictures / fmt::format("p{:02}.jpg", count++));
    ASSERT_EQ(count, 12);
    auto o = options("a.safetensors", {{"held", "0.25"}, {"checkpoint_seconds", "0"}});
    o.data = pictures;
    const auto stopped_at_5 = [&] {
        std::stop_source stop;
        auto once = o;
        once.stop = stop.get_token();
        once.progress = [&](const ConceptStep& now) {
            if (now.step == 5) stop.request_stop();
        };
        const auto first = train_concepts(model_, once);
        EXPECT_TRUE(first && !first->finished);
    };
    stopped_at_5();
    // As many as before, and not the same: one has another name, one is gone, a broken one is new.
    fs::rename(pictures / "p00.jpg", pictures / "z.jpg");
    fs::remove(pictures / "p01.jpg");
    std::ofstream(pictures / "broken.jpg") << "no picture";
    const auto refused = train_concepts(model_, o);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::BadInput);
    EXPECT_THAT(refused.error().message,
                testing::AllOf(testing::HasSubstr("of 12 pictures 2 are gone or changed and 2 are new"),
                               testing::HasSubstr("broken.jpg"), testing::HasSubstr("remove the checkpoint")));
    fs::remove(folder_ / "a.safetensors.checkpoint");
    const auto anew = train_concepts(model_, o);
    ASSERT_TRUE(anew) << anew.error().message;
    EXPECT_EQ(anew->pictures, 8) << "of 12 three are held out, and a broken one of the others was not trained on";
    // The file knows which of a folder's pictures it saw, wherever they lie.
    const auto read = Autoencoder::load(folder_ / "a.safetensors");
    ASSERT_TRUE(read) << read.error().message;
    const auto said = [&](const fs::path& place) {
        return trained_on(*read, PictureSet::open({place}, model_.preprocess()).value());
    };
    EXPECT_EQ(said(pictures), "8 of these 12 pictures were trained on");
    fs::create_directories(folder_ / "elsewhere");
    std::ofstream(folder_ / "elsewhere" / "other.jpg") << "another";
    EXPECT_EQ(said(folder_ / "elsewhere"), "none of these 1 pictures was trained on, by their names and sizes");
    // One grows: it is another picture.
    stopped_at_5();
    std::ofstream(pictures / "p05.jpg", std::ios::app) << "more";
    EXPECT_THAT(train_concepts(model_, o).error().message,
                testing::HasSubstr("1 is gone or changed and 1 is new (the first: p05.jpg)"));
    // Packs too.
    const auto of_pack = train_concepts(model_, options("b.safetensors"));
    ASSERT_TRUE(of_pack) << of_pack.error().message;
    EXPECT_EQ(trained_on(Autoencoder::load(folder_ / "b.safetensors").value(),
                         PictureSet::open({folder_ / "pack.safetensors"}, model_.preprocess()).value()),
              "36 of these 40 pictures were trained on");
}

TEST_F(TrainConcepts, FindsNoPlaceBeforeTheFirstStep) {
    auto o = options("a.safetensors");
    o.out = folder_ / "nowhere" / "a.safetensors";
    int steps = 0;
    o.progress = [&](const ConceptStep&) { ++steps; };
    const auto refused = train_concepts(model_, o);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::Io);
    EXPECT_EQ(steps, 0);
    EXPECT_THAT(refused.error().message, testing::HasSubstr("there is no folder " + (folder_ / "nowhere").string()));
    o.out = folder_;
    EXPECT_THAT(train_concepts(model_, o).error().message, testing::HasSubstr("is a folder"));
}

TEST_F(TrainConcepts, GoesOnToTheBit) {
    for (const auto& [kind, rung] : {std::pair{"top_k", "clean"},
                                     {"batch_top_k", "clean"},
                                     {"jump_relu", "clean"},
                                     {"relu", "gaussian"},
                                     {"gated", "clean"}}) {
        const std::vector<std::pair<std::string, std::string>> more = {
            {"kind", kind}, {"sparsity", "0.01"}, {"rung", rung}};
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

TEST_F(TrainConcepts, GoesOnOnlyWithTheModelThatItBeganWith) {
    const auto steered = test::steered_at_cells(model_, 6, 2), otherwise = test::steered_at_cells(model_, 6, 3);
    auto halved = options("a.safetensors", {{"point", "cells"}});
    std::stop_source stop;
    halved.stop = stop.get_token();
    halved.progress = [&](const ConceptStep& now) {
        if (now.step == 13) stop.request_stop();
    };
    ASSERT_FALSE(train_concepts(*steered, halved)->finished);
    const auto rest = options("a.safetensors", {{"point", "cells"}});
    const auto refusal = [&](Model& other) {
        const auto refused = train_concepts(other, rest);
        return refused ? std::string("trained") : refused.error().message;
    };
    EXPECT_THAT(refusal(*otherwise), testing::HasSubstr("was trained with steered = \"concept 2 set to 2 at cells\", "
                                                        "now it is \"concept 2 set to 3 at cells\""));
    EXPECT_THAT(refusal(model_), testing::HasSubstr("was trained with weights = "));
    const auto done = train_concepts(*steered, rest);
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_THAT(done->notes, testing::Contains(testing::HasSubstr("resumed at step 14 of 30")));
    // They are of steered activations, which is said where others are read.
    const Autoencoder made = *Autoencoder::load(rest.out);
    EXPECT_EQ(made.facts.at("steered"), "concept 2 set to 2 at cells");
    EXPECT_THAT(doubt_of(made, model_), testing::HasSubstr("while some were steered in it (concept 2 set to 2 at cells)"
                                                           ", and now none is"));
    EXPECT_THAT(doubt_of(made, *otherwise), testing::HasSubstr("and now it is concept 2 set to 3"));
    EXPECT_THAT(doubt_of(made, *steered), testing::Not(testing::HasSubstr("steered in it")));
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

TEST_F(TrainConcepts, SharedByProcessesFindsWhatOneFinds) {
    for (const char* kind : {"top_k", "batch_top_k", "jump_relu", "relu"}) {
        const std::vector<std::pair<std::string, std::string>> more = {
            {"kind", kind}, {"sparsity", "0.01"}, {"steps", "8"}, {"dead_tokens", "400"}, {"batch", "255"}};
        const auto alone = train_concepts(model_, options("alone.safetensors", more));
        ASSERT_TRUE(alone) << alone.error().message;
        std::vector<Result<TrainConceptsSummary>> shared(2, fail(ErrorCode::Internal, "not run"));
        std::atomic<int> reports = 0;
        together(2, [&](Peers& peers) {
            CellModel model;
            auto o = options("shared.safetensors", more);
            o.peers = &peers;
            o.progress = [&](const ConceptStep&) { ++reports; };
            shared[static_cast<std::size_t>(peers.rank())] = train_concepts(model, o);
        });
        for (const auto& one : shared) {
            ASSERT_TRUE(one) << kind << one.error().message;
            EXPECT_EQ(one->curve, shared[0]->curve) << "the same bits in every process";
        }
        EXPECT_EQ(reports, 8) << "process 0 alone reports";
        ASSERT_EQ(shared[0]->curve.size(), alone->curve.size());
        for (std::size_t i = 0; i < alone->curve.size(); ++i)
            for (std::size_t k = 0; k < 7; ++k)
                EXPECT_NEAR(shared[0]->curve[i][k], alone->curve[i][k], 1e-5 * std::abs(alone->curve[i][k]) + 1e-7)
                    << kind << ", step " << i << ", figure " << k;
        const auto a = Autoencoder::load(folder_ / "alone.safetensors"),
                   b = Autoencoder::load(folder_ / "shared.safetensors");
        ASSERT_TRUE(a && b);
        for (const auto& [name, tensor] : a->tensors())
            EXPECT_LE((tensor - b->tensor(name)).abs().max().item<double>(),
                      1e-5 * std::max(1.0, tensor.abs().max().item<double>()))
                << kind << " " << name;
        EXPECT_FALSE(fs::exists(folder_ / "shared.safetensors.checkpoint"));
    }
    std::vector<std::string> said(2);
    together(2, [&](Peers& peers) {
        CellModel model;
        auto o = options("none.safetensors", {{"convention", "prisma"}});
        o.peers = &peers;
        const auto one = train_concepts(model, o);
        said[static_cast<std::size_t>(peers.rank())] = one ? "" : one.error().message;
    });
    EXPECT_THAT(said[0], testing::HasSubstr("use another convention"));
    EXPECT_EQ(said[0], said[1]);
}

TEST_F(TrainConcepts, SharedByProcessesSkipsWhatOneSkips) {
    fs::create_directories(folder_ / "mixed");
    for (const char* name : {"a.png", "b.png", "c.png", "d.png", "e.png"})
        std::ofstream(folder_ / "mixed" / name) << "no picture";
    const auto both = [&] {
        std::vector<Result<TrainConceptsSummary>> out(2, fail(ErrorCode::Internal, "not run"));
        together(2, [&](Peers& peers) {
            CellModel model;
            auto o = options("shared.safetensors", {{"held", "0"}, {"steps", "12"}});
            o.data = folder_ / "mixed";
            o.peers = &peers;
            out[static_cast<std::size_t>(peers.rank())] = train_concepts(model, o);
        });
        return out;
    };
    for (const auto& one : both()) {
        ASSERT_FALSE(one);
        EXPECT_THAT(one.error().message, testing::HasSubstr("could be read"));
    }
    fs::copy(folder_ / "pack.safetensors", folder_ / "mixed" / "pack.safetensors");
    auto o = options("alone.safetensors", {{"held", "0"}, {"steps", "12"}});
    o.data = folder_ / "mixed";
    const auto alone = train_concepts(model_, o);
    ASSERT_TRUE(alone) << alone.error().message;
    EXPECT_EQ(alone->skipped.size(), 5U);
    const auto shared = both();
    for (const auto& one : shared) {
        ASSERT_TRUE(one) << one.error().message;
        ASSERT_EQ(one->curve.size(), alone->curve.size());
        for (std::size_t i = 0; i < one->curve.size(); ++i)
            EXPECT_NEAR(one->curve[i][0], alone->curve[i][0], 1e-5 * alone->curve[i][0]) << "step " << i;
    }
    EXPECT_EQ(shared[0]->skipped, alone->skipped) << "process 0 tells";
    EXPECT_EQ(alone->pictures, 40);
    for (const auto& one : shared) EXPECT_EQ(one->pictures, 40) << "without the broken ones, in every process";
}

TEST_F(TrainConcepts, MixesPictures) {
    // Every picture is of one colour, so a token says which it is of.
    Pack pack;
    pack.images = (at::arange(40).view({40, 1, 1, 1}) * 6).expand({40, 32, 32, 3}).to(at::kByte).contiguous();
    pack.labels = at::zeros({40}, at::kLong);
    pack.classes = {"pictures"};
    fs::create_directories(folder_ / "colours");
    ASSERT_TRUE(write_pack(folder_ / "colours" / "pack.safetensors", pack));
    // A run that is stopped keeps what it did not use: a batch of it is of most pictures.
    auto stopped = options("b.safetensors", {{"steps", "9"}, {"held", "0"}});
    stopped.data = folder_ / "colours";
    std::stop_source stop;
    stopped.stop = stop.get_token();
    stopped.progress = [&](const ConceptStep&) { stop.request_stop(); };
    ASSERT_TRUE(train_concepts(model_, stopped));
    const auto read = read_safetensors(folder_ / "b.safetensors.checkpoint");
    ASSERT_TRUE(read) << read.error().message;
    const at::Tensor buffer = to_tensor(read->tensors.at("buffer")).value();
    ASSERT_GT(buffer.size(0), 256);
    const at::Tensor batch = buffer.narrow(0, 0, 256).select(1, 0).contiguous();
    std::set<long> pictures;
    int changes = 0;
    long before = -1;
    for (std::int64_t i = 0; i < 256; ++i) {
        const long of = std::lround(batch[i].item<double>() * 255 / 6);
        changes += of != before ? 1 : 0;
        before = of;
        pictures.insert(of);
    }
    EXPECT_GT(pictures.size(), 25U) << "a batch is of most of 40 pictures";
    EXPECT_GT(changes, 200) << "and these take turns";
}

TEST_F(TrainConcepts, OnAStepOfTheLadderEveryPassIsDrawnAnew) {
    const auto tokens_of = [&](const std::string& rung) {
        auto stopped = options("b.safetensors", {{"rung", rung}});
        std::stop_source stop;
        stopped.stop = stop.get_token();
        stopped.progress = [&](const ConceptStep& now) {
            if (now.step == 20) stop.request_stop();
        };
        EXPECT_TRUE(train_concepts(model_, stopped));
        const auto read = read_safetensors(folder_ / "b.safetensors.checkpoint");
        EXPECT_TRUE(read) << read.error().message;
        fs::remove(folder_ / "b.safetensors.checkpoint");
        return to_tensor(read->tensors.at("buffer")).value();
    };
    // Means of 16 colours each. 20 steps use up 80 pictures, so that the buffer has some of the 36 from two passes.
    const at::Tensor noise = tokens_of("gaussian"), clean = tokens_of("clean");
    const at::Tensor colours = noise.narrow(1, 0, 3).to(at::kDouble);
    ASSERT_GT(noise.size(0), 1000);
    EXPECT_NEAR(colours.mean().item<double>(), 0, 0.02) << "0.25 / sqrt of the numbers is 0.005";
    EXPECT_NEAR(colours.std().item<double>(), 0.25, 0.01);
    const auto different = [](const at::Tensor& tokens) {
        const at::Tensor whole = tokens.contiguous();
        std::set<std::vector<float>> rows;
        for (std::int64_t i = 0; i < whole.size(0); ++i) {
            const auto* row = whole.const_data_ptr<float>() + i * whole.size(1);
            rows.emplace(row, row + whole.size(1));
        }
        return std::ssize(rows);
    };
    EXPECT_EQ(different(noise), noise.size(0));
    EXPECT_LT(different(clean), clean.size(0));

    const auto summary = train_concepts(model_, options("n.safetensors", {{"rung", "shuffle 4"}}));
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_EQ(Autoencoder::load(folder_ / "n.safetensors")->facts.at("rung"), "shuffle 4");
    EXPECT_THAT(train_concepts(model_, options("m.safetensors", {{"rung", "pink"}})).error().message,
                testing::StartsWith("'pink' is no step of the ladder, expected clean,"));
    EXPECT_THAT(train_concepts(model_, options("m.safetensors", {{"rung", "shuffle 60"}})).error().message,
                testing::StartsWith("60 x 60 tiles are more"));
}

TEST_F(TrainConcepts, StopsWhilePicturesAreRunAndLosesNothing) {
    ASSERT_TRUE(train_concepts(model_, options("whole.safetensors")));
    // The model itself asks for the stop, in a run after the first fill of the buffer.
    class Stopping final : public Model {
      public:
        explicit Stopping(Model& inner, std::stop_source& stop) : inner_(inner), stop_(stop) {
            info_ = inner.info();
            preprocess_ = inner.preprocess();
        }
        at::Tensor forward(const at::Tensor& pixels) override {
            if (pixels.size(0) > 1 && ++runs_ == 12) stop_.request_stop();
            const at::Tensor cells = point(
                "cells", at::cat({at::avg_pool2d(pixels, {4, 4}), at::avg_pool2d(at::relu(pixels - 0.5), {4, 4})}, 1));
            return 12 * cells.narrow(1, 0, 3).amax({2, 3});
        }
        TokenLayout layout(std::int64_t h, std::int64_t w) const override { return inner_.layout(h, w); }
        std::vector<NamedPoint> points() const override { return inner_.points(); }
        void to(at::Device, at::ScalarType) override {}
        int runs_ = 0;

      private:
        Model& inner_;
        std::stop_source& stop_;
    };
    std::stop_source stop;
    Stopping model(model_, stop);
    auto o = options("parts.safetensors");
    o.stop = stop.get_token();
    const auto first = train_concepts(model, o);
    ASSERT_TRUE(first) << first.error().message;
    EXPECT_FALSE(first->finished);
    EXPECT_EQ(model.runs_, 12) << "not one more run of the model";
    EXPECT_GT(first->steps, 0);
    ASSERT_TRUE(train_concepts(model_, options("parts.safetensors")));
    EXPECT_EQ(bytes("parts.safetensors"), bytes("whole.safetensors"));
    // Before anything was begun there is nothing to keep.
    std::stop_source at_once;
    at_once.request_stop();
    auto none = options("none.safetensors");
    none.stop = at_once.get_token();
    const auto nothing = train_concepts(model_, none);
    ASSERT_TRUE(nothing) << nothing.error().message;
    EXPECT_FALSE(nothing->finished);
    EXPECT_FALSE(fs::exists(folder_ / "none.safetensors.checkpoint"));
}

TEST_F(TrainConcepts, LooksAtPicturesHeldOutOnTheWay) {
    auto o = options("a.safetensors", {{"held_every", "10"}});
    std::vector<std::int64_t> seen;
    double last = 0;
    o.progress = [&](const ConceptStep& now) {
        if (now.held && (seen.empty() || seen.back() != now.held_step)) {
            seen.push_back(now.held_step);
            last = now.held->explained_variance;
            EXPECT_EQ(now.held->pictures, 4);
            EXPECT_TRUE(now.held->answers);
            EXPECT_GT(now.held->divergence, 0);
        }
    };
    const auto summary = train_concepts(model_, o);
    ASSERT_TRUE(summary) << summary.error().message;
    EXPECT_THAT(seen, testing::ElementsAre(10, 20));
    EXPECT_NE(last, 0);
    // Looking changes nothing.
    ASSERT_TRUE(train_concepts(model_, options("b.safetensors")));
    const auto a = Autoencoder::load(folder_ / "a.safetensors"), b = Autoencoder::load(folder_ / "b.safetensors");
    ASSERT_TRUE(a && b);
    EXPECT_TRUE(at::equal(a->tensor("W_dec"), b->tensor("W_dec")));
}

TEST(ConceptLooks, AreAboutTwentyAndASmallShareOfTheTime) {
    EXPECT_EQ(steps_between_looks(7, 1000), 7);
    EXPECT_EQ(steps_between_looks(-1, 1000), 0) << "never";
    EXPECT_EQ(steps_between_looks(0, 1000), 50);
    EXPECT_EQ(steps_between_looks(0, 1001), 51);
    EXPECT_EQ(steps_between_looks(0, 3), 1);
    EXPECT_TRUE(has_time_to_look(100, 3, 2));
    EXPECT_FALSE(has_time_to_look(100, 3, 2.1));
    EXPECT_FALSE(has_time_to_look(0, 0, 0.1)) << "not before anything was done";
}

TEST_F(TrainConcepts, NeitherLooksNorTimingsChangeTheFile) {
    ASSERT_TRUE(train_concepts(model_, options("a.safetensors", {{"held_every", "3"}, {"floor", "2"}})));
    ASSERT_TRUE(train_concepts(
        model_, options("b.safetensors",
                        {{"held_every", "-1"}, {"floor", "0"}, {"report_seconds", "5"}, {"checkpoint_seconds", "0"}})));
    EXPECT_TRUE(bytes("a.safetensors") == bytes("b.safetensors"));
}

TEST_F(TrainConcepts, TellsWhatStepsCannotExceedUnasked) {
    for (const auto& [kind, products] : {std::pair{"top_k", 1}, {"relu", 5}, {"gated", 8}}) {
        const auto summary =
            train_concepts(model_, options(std::string(kind) + ".safetensors", {{"kind", kind}, {"sparsity", "0.01"}}));
        ASSERT_TRUE(summary) << summary.error().message;
        EXPECT_GT(summary->floor_tokens_per_second, 0) << kind;
        EXPECT_EQ(summary->floor_products, products) << kind;
    }
    const auto none = train_concepts(model_, options("none.safetensors", {{"floor", "0"}}));
    ASSERT_TRUE(none) << none.error().message;
    EXPECT_EQ(none->floor_tokens_per_second, 0);
}

TEST_F(TrainConcepts, WhatCannotBeReadWasNotTrainedOn) {
    const fs::path pictures = folder_ / "pictures";
    fs::create_directories(pictures);
    int count = 0;
    for (const auto& entry : fs::directory_iterator(fs::path(VITRINE_SOURCE_DIR) / "resources/pictures"))
        if (entry.path().extension() == ".jpg" && count < 3)
            fs::copy(entry.path(), pictures / fmt::format("p{}.jpg", count++));
    ASSERT_EQ(count, 3);
    for (const char* name : {"a.jpg", "b.jpg"}) std::ofstream(pictures / name) << "no picture";
    for (const std::string kind : {"top_k", "pca"}) {
        auto o = options(kind + ".safetensors", {{"held", "0"}, {"kind", kind}, {"latents", "6"}});
        o.data = pictures;
        const auto summary = train_concepts(model_, o);
        ASSERT_TRUE(summary) << summary.error().message;
        EXPECT_EQ(summary->skipped.size(), 2U);
        EXPECT_EQ(summary->pictures, 3) << kind;
        const auto read = Autoencoder::load(o.out);
        ASSERT_TRUE(read) << read.error().message;
        const auto said = nlohmann::json::parse(read->facts.at("pictures"));
        EXPECT_EQ(said["trained"], 3);
        EXPECT_EQ(said["keys"].get<std::string>().size(), 3U * 8);
        EXPECT_EQ(trained_on(*read, PictureSet::open({pictures}, model_.preprocess()).value()),
                  "3 of these 5 pictures were trained on");
    }
}

TEST_F(TrainConcepts, NamesEveryPictureThatCannotBeReadHeldOutOrNot) {
    const fs::path pictures = folder_ / "pictures";
    fs::create_directories(pictures);
    const fs::path good = fs::path(VITRINE_SOURCE_DIR) / "resources/pictures/puppy.jpg";
    for (int i = 0; i < 20; ++i)
        if (i % 4 == 1)
            std::ofstream(pictures / fmt::format("{:02}.jpg", i)) << "no picture";
        else
            fs::copy(good, pictures / fmt::format("{:02}.jpg", i));
    for (const std::string kind : {"top_k", "pca"}) {
        auto o = options(kind + ".safetensors", {{"held", "0.5"}, {"kind", kind}, {"latents", "6"}});
        o.data = pictures;
        const auto summary = train_concepts(model_, o);
        ASSERT_TRUE(summary) << summary.error().message;
        const std::int64_t broken_held = 10 - summary->held.pictures;
        ASSERT_GT(broken_held, 0) << "else nothing is shown";
        EXPECT_EQ(std::ssize(summary->held.skipped), broken_held);
        EXPECT_EQ(summary->pictures, 10 - (5 - broken_held));
        EXPECT_EQ(summary->skipped.size(), 5U) << kind;
        for (int i = 1; i < 20; i += 4)
            EXPECT_THAT(summary->skipped, testing::Contains(testing::HasSubstr(fmt::format("{:02}.jpg", i)))) << kind;
    }
    // Where none of those held out can be read, they are named all the same.
    const auto none =
        concept_figures(model_, Autoencoder::load(folder_ / "pca.safetensors").value(), 2,
                        [](std::int64_t i) -> Result<at::Tensor> { return fail(ErrorCode::Io, "no picture {}", i); });
    ASSERT_TRUE(none);
    EXPECT_EQ(none->pictures, 0);
    EXPECT_THAT(none->skipped, testing::ElementsAre("no picture 0", "no picture 1"));
}

TEST_F(TrainConcepts, LooksAtSomeOfAllThatAreHeldOut) {
    const fs::path pictures = folder_ / "pictures";
    fs::create_directories(pictures);
    // The last ones by name cannot be read: the first 64 of 120 held out would all be others.
    StepRandom random(1, 0, 0);
    Image picture(32, 32);
    for (int i = 0; i < 200; ++i) {
        const fs::path file = pictures / fmt::format("{:03}.ppm", i);
        for (auto& one : picture.pixels) one = static_cast<std::uint8_t>(random.below(256));
        if (i < 140)
            ASSERT_TRUE(write_picture(file, picture));
        else
            std::ofstream(file) << "no picture";
    }
    auto o = options("a.safetensors", {{"held", "0.6"}, {"held_every", "1"}, {"steps", "2"}});
    o.data = pictures;
    std::optional<ConceptFigures> seen;
    o.progress = [&](const ConceptStep& now) {
        if (now.held) seen = now.held;
    };
    const auto summary = train_concepts(model_, o);
    ASSERT_TRUE(summary) << summary.error().message;
    ASSERT_TRUE(seen.has_value());
    EXPECT_EQ(seen->pictures + std::ssize(seen->skipped), 64);
    EXPECT_GT(seen->skipped.size(), 8U);
    EXPECT_LT(seen->skipped.size(), 32U);
}

TEST_F(TrainConcepts, WhatWasSkippedIsToldAfterGoingOnWhateverItsName) {
    fs::create_directories(folder_ / "mixed");
    fs::copy(folder_ / "pack.safetensors", folder_ / "mixed" / "pack.safetensors");
    for (const char* name : {"a.png", "br\xe9k.jpg"}) std::ofstream(folder_ / "mixed" / name) << "no picture";
    auto o = options("a.safetensors", {{"held", "0"}});
    o.data = folder_ / "mixed";
    std::stop_source stop;
    o.stop = stop.get_token();
    o.progress = [&](const ConceptStep& now) {
        if (now.step == 20) stop.request_stop();
    };
    const auto first = train_concepts(model_, o);
    ASSERT_TRUE(first) << first.error().message;
    ASSERT_FALSE(first->finished);
    EXPECT_THAT(first->skipped,
                testing::UnorderedElementsAre(testing::HasSubstr("a.png"), testing::HasSubstr("br\xe9k.jpg")));
    o.stop = {};
    const auto second = train_concepts(model_, o);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_TRUE(second->finished);
    EXPECT_EQ(second->skipped, first->skipped);
}

TEST_F(TrainConcepts, FilesOfOursAmongThePicturesArePassedOver) {
    const fs::path place = folder_ / "place";
    fs::create_directories(place);
    fs::copy(folder_ / "pack.safetensors", place / "pack.safetensors");
    auto o = options("place/a.safetensors");
    o.data = place;
    const auto first = train_concepts(model_, o);
    ASSERT_TRUE(first) << first.error().message;
    EXPECT_THAT(first->notes, testing::Not(testing::Contains(testing::HasSubstr("passed over"))));
    o.out = place / "b.safetensors";
    const auto second = train_concepts(model_, o);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_EQ(second->pictures, first->pictures);
    EXPECT_THAT(second->notes,
                testing::Contains(testing::HasSubstr("a.safetensors holds no pictures but vitrine.autoencoder")));
    EXPECT_EQ(bytes("place/a.safetensors"), bytes("place/b.safetensors"));
    // One of somebody else may be pictures that we cannot read.
    ASSERT_TRUE(write_tensors(place / "c.safetensors", {{"x", at::zeros({2})}}, {{"format", "pt"}}));
    o.out = place / "d.safetensors";
    const auto third = train_concepts(model_, o);
    ASSERT_FALSE(third);
    EXPECT_THAT(third.error().message, testing::HasSubstr("c.safetensors is a safetensors file but no pack"));
}

TEST_F(TrainConcepts, AFullDiskLeavesTheCheckpointBefore) {
    auto stopped = options("a.safetensors");
    std::stop_source stop;
    stopped.stop = stop.get_token();
    stopped.progress = [&](const ConceptStep& now) {
        if (now.step == 5) stop.request_stop();
    };
    ASSERT_TRUE(train_concepts(model_, stopped));
    const std::string before = bytes("a.safetensors.checkpoint");
    ASSERT_GT(before.size(), 10000U);
    // No file may grow beyond this: writing fails as on a full disk.
    struct rlimit kept {};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &kept), 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    struct rlimit small = kept;
    small.rlim_cur = 4096;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const auto full = train_concepts(model_, options("a.safetensors", {{"checkpoint_seconds", "0"}}));
    setrlimit(RLIMIT_FSIZE, &kept);
    std::signal(SIGXFSZ, handler);
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code, ErrorCode::Io) << full.error().message;
    EXPECT_EQ(bytes("a.safetensors.checkpoint"), before);
    ASSERT_TRUE(train_concepts(model_, options("whole.safetensors")));
    const auto rest = train_concepts(model_, options("a.safetensors"));
    ASSERT_TRUE(rest) << rest.error().message;
    EXPECT_EQ(bytes("a.safetensors"), bytes("whole.safetensors"));
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
    auto flat = options("a.safetensors");
    flat.settings.insert(flat.settings.end(), {{"kind", "jump_relu"}, {"band", "0"}});
    EXPECT_THAT(said(flat), testing::HasSubstr("band"));
    std::ofstream(folder_ / "photo.jpg") << "\xff\xd8\xff\xe0 the rest";
    auto photo = options("a.safetensors");
    photo.data = folder_ / "photo.jpg";
    EXPECT_THAT(said(photo), testing::HasSubstr("photo.jpg is a picture, expected a folder of pictures or a pack"));
    EXPECT_THAT(said(options("a.safetensors", {{"nosuch", "1"}})),
                testing::HasSubstr("there is no setting 'nosuch'; vitrine train-concepts --help lists them"));
    EXPECT_THAT(said(options("a.safetensors", {{"latent", "1"}})), testing::HasSubstr("did you mean latents?"));
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

TEST_F(TrainConcepts, NamesOfOtherConceptsAreSetAside) {
    std::ofstream(folder_ / "a.safetensors.names") << "3\tcat ears\n";
    const auto made = train_concepts(model_, options("a.safetensors"));
    ASSERT_TRUE(made.has_value()) << made.error().message;
    EXPECT_FALSE(fs::exists(folder_ / "a.safetensors.names"));
    EXPECT_EQ(bytes("a.safetensors.names.before1"), "3\tcat ears\n");
    EXPECT_THAT(made->notes, testing::Contains(testing::HasSubstr("are now in a.safetensors.names.before1")));
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
    const at::Tensor pictures = at::rand({19, 3, 32, 32}, g);
    const auto figures = concept_figures(model, concepts, 19, [&](std::int64_t i) {
                             return Result<at::Tensor>(pictures.narrow(0, i, 1));
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
    const at::Tensor before_class = x.narrow(1, 1, 6);
    EXPECT_TRUE(at::equal(with_changed_tokens(before_class, layout, config, doubled), before_class * 2));
    const at::Tensor map = at::rand({2, 4, 2, 3}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{9}));
    EXPECT_TRUE(at::equal(with_changed_tokens(map, layout, config, doubled), map * 2));
}

}  // namespace
}  // namespace vitrine
