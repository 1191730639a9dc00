// Sparse autoencoders as SAELens, ViT-Prisma, saev and OpenAI save them, against what their own classes make of the
// same tokens, and their losses (recipes/autoencoders.py).
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>

#include <vitrine/autoencoder.h>
#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>

#include "autoencoder_objective.h"
#include "concept_steps.h"
#include "parity_case.h"

namespace vitrine {
namespace {

using testing::HasSubstr;

const std::filesystem::path kFolder = kData / "autoencoders";

const TensorFile& expected() {
    static const TensorFile file = read_safetensors(kFolder / "expected.safetensors").value();
    return file;
}
at::Tensor wanted(const std::string& name) { return to_tensor(expected().tensors.at(name)).value(); }
double wanted_number(const std::string& name) { return wanted(name).item<double>(); }

double error(const at::Tensor& found, const at::Tensor& want) {
    EXPECT_EQ(found.sizes(), want.sizes());
    return (found.detach() - want).abs().max().item<double>();
}
void expect_number(const std::string& name, const at::Tensor& found) {
    const double want = wanted_number(name);
    EXPECT_GT(std::abs(want), 1e-3) << name << " proves nothing";
    EXPECT_NEAR(found.item<double>(), want, 1e-5 * std::abs(want)) << name;
}

struct Published {
    const char *name, *file, *kind, *normalise;
    bool subtract, negative, weigh;
    const char *point, *tokens;
};
std::ostream& operator<<(std::ostream& out, const Published& p) { return out << p.name; }

class AutoencoderParity : public testing::TestWithParam<Published> {};

TEST_P(AutoencoderParity, TheirFileSaysWhatTheirClassDoes) {
    const Published& p = GetParam();
    std::map<std::string, std::string> given;
    if (p.point[0] == '\0') given["point"] = "blocks.1";  // the file does not say
    const auto one = Autoencoder::load(kFolder / p.file, given);
    ASSERT_TRUE(one.has_value()) << one.error().message;
    const AutoencoderConfig& config = one->config();
    EXPECT_EQ(config.kind, p.kind);
    EXPECT_EQ(config.normalise, p.normalise);
    EXPECT_EQ(config.subtract_decoder_bias, p.subtract);
    EXPECT_EQ(config.keep_negative, p.negative);
    EXPECT_EQ(config.weigh_by_decoder, p.weigh);
    EXPECT_EQ(config.point, "blocks.1");
    EXPECT_EQ(config.tokens, p.tokens);
    EXPECT_EQ(config.width, 16);
    EXPECT_EQ(config.latents, 64);
    if (config.kind == "top_k") {
        EXPECT_EQ(config.k, 6);
    }

    const std::string name = p.name;
    const Codes codes = one->encode(wanted("tokens"));
    const at::Tensor active = wanted(name + ".active"), decoded = wanted(name + ".decoded");
    EXPECT_LT(error(codes.active, active), 1e-5);
    EXPECT_LT(error(one->decode(codes.active, codes), decoded), 1e-5);
    EXPECT_GT(active.count_nonzero().item<std::int64_t>(), 24);
    EXPECT_LT(active.count_nonzero().item<std::int64_t>(), 24 * 64);
    RecordProperty("encode", std::to_string(error(codes.active, active)));

    // And as our own file it is the same.
    const auto file = std::filesystem::path(testing::TempDir()) / (name + "_ours.safetensors");
    ASSERT_TRUE(one->save(file).has_value());
    const auto again = Autoencoder::load(file);
    ASSERT_TRUE(again.has_value()) << again.error().message;
    EXPECT_EQ(error(again->encode(wanted("tokens")).active, codes.active), 0);
    std::filesystem::remove(file);
}

INSTANTIATE_TEST_SUITE_P(
    Files, AutoencoderParity,
    testing::Values(Published{"saelens_standard", "saelens_standard", "relu", "layer_norm", true, false, false,
                              "blocks.1", "all"},
                    Published{"saelens_topk", "saelens_topk/sae_weights.safetensors", "top_k", "none", true, false,
                              true, "blocks.1", "all"},
                    Published{"saelens_jumprelu", "saelens_jumprelu", "jump_relu", "constant_norm", false, false, false,
                              "blocks.1", "all"},
                    Published{"saelens_gated", "saelens_gated", "gated", "none", true, false, false, "blocks.1", "all"},
                    Published{"prisma_standard", "prisma_standard/weights.pt", "relu", "layer_norm", true, false, false,
                              "blocks.1", "all"},
                    Published{"prisma_topk", "prisma_topk", "top_k", "none", true, false, false, "blocks.1", "class"},
                    Published{"prisma_gated", "prisma_gated/weights.pt", "gated", "layer_norm", true, false, false,
                              "blocks.1", "all"},
                    Published{"saev_relu", "saev_relu.pt", "relu", "none", false, false, false, "", "all"},
                    Published{"saev_topk", "saev_topk.pt", "top_k", "none", false, true, false, "", "all"},
                    Published{"saev_batch", "saev_batch.pt", "batch_top_k", "none", false, true, false, "", "all"},
                    Published{"openai_relu", "openai_relu.pt", "relu", "none", true, false, false, "", "all"},
                    Published{"openai_topk", "openai_topk.pt", "top_k", "layer_norm", true, false, false, "", "all"}),
    [](const auto& info) { return info.param.name; });

TEST(AutoencoderTraining, BatchTopKChoosesOverTheBatch) {
    const auto one = Autoencoder::load(kFolder / "saev_batch.pt", {{"point", "blocks.1"}});
    ASSERT_TRUE(one.has_value()) << one.error().message;
    EXPECT_LT(error(one->encode(wanted("tokens"), /*batch=*/true).active, wanted("saev_batch.training")), 1e-5);
}

Autoencoder loaded(const std::string& file) {
    auto one = Autoencoder::load(kFolder / file, {{"point", "blocks.1"}});
    EXPECT_TRUE(one.has_value()) << (one ? "" : one.error().message);
    return std::move(*one);
}

AutoencoderConfig of_kind(const std::string& kind, std::int64_t k = 6) {
    AutoencoderConfig config;
    config.kind = kind;
    config.k = k;
    return config;
}

/// Those whose weights stand in the expected file.
Autoencoder trained(const std::string& name, AutoencoderConfig config) {
    auto one = Autoencoder::of(config, {}, [&](const std::string& key) -> Result<at::Tensor> {
        // The trainers of batch_top_k keep it apart.
        if (key == "threshold" && config.kind == "batch_top_k") return at::zeros({1});
        return wanted(name + "." + key);
    });
    EXPECT_TRUE(one.has_value()) << (one ? "" : one.error().message);
    return std::move(*one);
}

void expect_gradients(const std::string& name, const Autoencoder& one) {
    for (const std::string key : {"W_enc", "W_dec", "b_enc", "b_dec"}) {
        const at::Tensor want = wanted(name + ".gradient." + key);
        const double most = want.abs().max().item<double>();
        EXPECT_GT(most, 1e-3) << name << " " << key;
        EXPECT_LT(error(one.tensor(key).grad(), want), 1e-5 * most) << name << " " << key;
    }
}
void with_gradients(const Autoencoder& one) {
    for (const auto& [key, tensor] : one.tensors()) tensor.set_requires_grad(true);
}

TEST(ConceptLossParity, Prisma) {
    ConceptObjective objective{.convention = "prisma", .sparsity = 0.3, .revive = "ghost"};
    const at::Tensor tokens = wanted("tokens"), dead = wanted("dead").to(at::kBool);
    const Autoencoder one = loaded("prisma_standard");
    ConceptLoss loss = concept_loss(one, tokens, training_codes(one, tokens, objective), objective, dead);
    expect_number("prisma_standard.mse", loss.reconstruction);
    expect_number("prisma_standard.sparsity", loss.sparsity);
    expect_number("prisma_standard.ghost", loss.revival);
    EXPECT_EQ(loss.gate.item<float>(), 0);
    const Autoencoder gated = loaded("prisma_gated");
    objective.revive = "none";
    loss = concept_loss(gated, tokens, training_codes(gated, tokens, objective), objective, dead);
    expect_number("prisma_gated.mse", loss.reconstruction);
    expect_number("prisma_gated.sparsity", loss.sparsity);
    expect_number("prisma_gated.gate", loss.gate);
    EXPECT_EQ(loss.revival.item<float>(), 0);
}

TEST(ConceptLossParity, SaeLens) {
    ConceptObjective objective{.convention = "saelens", .sparsity = 0.3, .revive = "none"};
    const at::Tensor tokens = wanted("tokens");
    const Autoencoder one = trained("train_standard", of_kind("relu"));
    ConceptLoss loss = concept_loss(one, tokens, training_codes(one, tokens, objective), objective);
    expect_number("train_standard.mse", loss.reconstruction);
    expect_number("train_standard.sparsity", loss.sparsity);
    const Autoencoder gated = trained("train_gated", of_kind("gated"));
    loss = concept_loss(gated, tokens, training_codes(gated, tokens, objective), objective);
    expect_number("train_gated.mse", loss.reconstruction);
    expect_number("train_gated.sparsity", loss.sparsity);
    expect_number("train_gated.gate", loss.gate);
}

TEST(ConceptLossParity, JumpReluAndItsGradients) {
    const at::Tensor tokens = wanted("tokens"), dead = wanted("dead").to(at::kBool);
    for (const std::string form : {"step", "tanh"}) {
        const std::string name = "train_" + form;
        ConceptObjective objective{
            .convention = "saelens", .sparsity = 0.3, .form = form, .band = 0.5, .pull = 0.02, .revive = "none"};
        const Autoencoder one = trained(name, of_kind("jump_relu"));
        for (const auto& [key, tensor] : one.tensors()) tensor.set_requires_grad(true);
        const ConceptLoss loss = concept_loss(one, tokens, training_codes(one, tokens, objective), objective, dead);
        expect_number(name + ".mse", loss.reconstruction);
        expect_number(name + ".sparsity", loss.sparsity);
        loss.total.backward();
        for (const std::string key : {"threshold", "W_enc", "W_dec"}) {
            const at::Tensor want = wanted(name + ".gradient." + key);
            EXPECT_GT(want.abs().max().item<double>(), 1e-2) << name << " " << key;
            EXPECT_LT(error(one.tensor(key).grad(), want), 1e-5 * want.abs().max().item<double>())
                << name << " " << key;
        }
    }
}

TEST(ConceptLossParity, SaevWithPrefixes) {
    ConceptObjective objective{.convention = "saev", .sparsity = 0.3, .revive = "none"};
    const at::Tensor tokens = wanted("tokens");
    const Autoencoder one = loaded("saev_relu.pt");
    const ConceptLoss loss =
        concept_loss(one, tokens, training_codes(one, tokens, objective), objective, {}, {3, 10, 33, 64});
    expect_number("saev_relu.mse", loss.reconstruction);
    expect_number("saev_relu.sparsity", loss.sparsity);
    EXPECT_LT(error(loss.reconstructed, wanted("saev_relu.decoded")), 1e-5);
}

TEST(ConceptLossParity, OpenAi) {
    ConceptObjective objective{
        .convention = "openai", .sparsity = 0.3, .revive = "aux", .revive_weight = 1, .revive_k = 8};
    const at::Tensor tokens = wanted("tokens"), dead = wanted("dead").to(at::kBool);
    const Autoencoder one = loaded("openai_relu.pt");
    ConceptLoss loss = concept_loss(one, tokens, training_codes(one, tokens, objective), objective, dead);
    expect_number("openai_relu.mse", loss.reconstruction);
    expect_number("openai_relu.sparsity", loss.sparsity);
    expect_number("openai_relu.aux", loss.revival);
    const Autoencoder chosen = loaded("openai_topk.pt");
    loss = concept_loss(chosen, tokens, training_codes(chosen, tokens, objective), objective, at::zeros_like(dead));
    expect_number("openai_topk.mse", loss.reconstruction);
    EXPECT_EQ(loss.sparsity.item<float>(), 0) << "top-k has none";
    EXPECT_EQ(loss.revival.item<float>(), 0) << "nothing is dead";
}

TEST(DeadLatentsParity, SaeLens) {
    const at::Tensor tokens = wanted("tokens");
    for (const auto& [name, dead, kind, weigh] :
         {std::tuple("train_topk", "dead", "top_k", true), std::tuple("train_topk_few", "few", "top_k", false),
          std::tuple("train_batch", "dead", "batch_top_k", true)}) {
        AutoencoderConfig config = of_kind(kind);
        config.weigh_by_decoder = weigh;
        const ConceptObjective objective{.convention = "saelens", .revive = "auxk_saelens"};
        const at::Tensor silent = wanted(dead).to(at::kBool);
        for (const bool lists : {false, true}) {
            const Autoencoder one = trained(name, config);
            with_gradients(one);
            const TrainingCodes codes = training_codes(one, tokens, objective, lists);
            EXPECT_EQ(codes.listed(), lists && !weigh);
            const ConceptLoss loss = concept_loss(one, tokens, codes, objective, silent);
            expect_number(std::string(name) + ".mse", loss.reconstruction);
            expect_number(std::string(name) + ".aux", loss.revival);
            loss.total.backward();
            expect_gradients(name, one);
            const ConceptLoss none = concept_loss(one, tokens, codes, objective, at::zeros_like(silent));
            EXPECT_EQ(none.revival.item<float>(), 0) << "nothing is dead";
        }
    }
}

TEST(DeadLatentsParity, Saev) {
    const at::Tensor tokens = wanted("tokens"), dead = wanted("dead").to(at::kBool);
    for (const auto& [name, kind] : {std::pair("aux_saev_topk", "top_k"), std::pair("aux_saev_batch", "batch_top_k")}) {
        AutoencoderConfig config = of_kind(kind);
        config.subtract_decoder_bias = false;
        config.keep_negative = true;
        ConceptObjective objective{.convention = "saev", .revive = "auxk_saev"};
        for (const bool lists : {false, true}) {
            const Autoencoder one = trained(name, config);
            with_gradients(one);
            const TrainingCodes codes = training_codes(one, tokens, objective, lists);
            EXPECT_EQ(codes.listed(), lists);
            for (const std::int64_t k : {512, 8}) {
                objective.revive_k = k;
                const ConceptLoss loss = concept_loss(one, tokens, codes, objective, dead);
                expect_number(std::string(name) + ".mse", loss.reconstruction);
                expect_number(fmt::format("{}.aux{}", name, k), loss.revival);
                if (k == 8) loss.total.backward();
            }
            expect_gradients(name, one);
            const ConceptLoss none = concept_loss(one, tokens, codes, objective, at::zeros_like(dead));
            EXPECT_EQ(none.revival.item<float>(), 0) << "nothing is dead";
        }
    }
}

TEST(ConceptLossParity, OpenAisTrainerWithItsFixedDenominator) {
    const at::Tensor tokens = wanted("tokens"), sample = wanted("train_openai.sample"),
                     dead = wanted("train_openai.dead").to(at::kBool);
    ASSERT_GT(dead.sum().item<std::int64_t>(), 8);
    ConceptObjective objective{.convention = "openai", .revive = "aux", .revive_k = 8};
    objective.variance = (sample - sample.mean(0, true)).square().mean().item<double>();
    for (const bool lists : {false, true}) {
        const Autoencoder one = trained("train_openai", of_kind("top_k", 3));
        with_gradients(one);
        const TrainingCodes codes = training_codes(one, tokens, objective, lists);
        EXPECT_EQ(codes.listed(), lists);
        const ConceptLoss loss = concept_loss(one, tokens, codes, objective, dead);
        expect_number("train_openai.mse", loss.reconstruction);
        expect_number("train_openai.aux", loss.revival);
        loss.total.backward();
        expect_gradients("train_openai", one);
    }
}

/// The threshold after each of the recipe's batches; the weights stay as they are.
std::vector<double> thresholds(const std::string& name, AutoencoderConfig config, const std::string& convention,
                               double rate) {
    const at::Tensor batches = wanted("batches");
    config.width = 16;
    config.latents = 64;
    const Autoencoder weights = trained(name, config);
    ConceptStepsOptions options{.objective = {.convention = convention, .revive = "none"}, .learning_rate = 0};
    options.steps = 3;
    options.threshold_rate = rate;
    auto steps = ConceptSteps::make(config, options, batches[0]);
    EXPECT_TRUE(steps.has_value()) << (steps ? "" : steps.error().message);
    for (const auto& [key, tensor] : weights.tensors())
        if (key != "threshold") steps->autoencoder().tensor(key).detach().copy_(tensor);
    std::vector<double> out;
    for (int i = 0; i < 3; ++i) {
        steps->step(batches[i]);
        out.push_back(steps->autoencoder().tensor("threshold").item<double>());
    }
    return out;
}

TEST(BatchTopKThresholdParity, FollowsTheLeastThatIsKeptFromZeroOn) {
    const at::Tensor saelens = wanted("threshold_saelens.after"), saev = wanted("threshold_saev.after");
    AutoencoderConfig weighed = of_kind("batch_top_k"), kept = weighed;
    weighed.weigh_by_decoder = true;
    kept.subtract_decoder_bias = false;
    kept.keep_negative = true;
    const auto as_saelens = thresholds("threshold_saelens", weighed, "saelens", 0.01),
               as_saev = thresholds("threshold_saev", kept, "saev", 0.1),
               at_once = thresholds("threshold_saelens", weighed, "openai", 0.01);
    for (int i = 0; i < 3; ++i) {
        EXPECT_NEAR(as_saelens[std::size_t(i)], saelens[i].item<double>(), 1e-5 * saelens[i].item<double>()) << i;
        EXPECT_NEAR(as_saev[std::size_t(i)], saev[i].item<double>(), 1e-5 * saev[i].item<double>()) << i;
    }
    EXPECT_GT(saelens[0].item<double>(), 1e-3);
    // Ours begins with the first least one itself.
    EXPECT_NEAR(at_once[0], 100 * as_saelens[0], 1e-4 * at_once[0]);
}

}  // namespace
}  // namespace vitrine
