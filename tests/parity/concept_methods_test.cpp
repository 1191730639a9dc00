// CRAFT against xplique's torch flavour, concept activation vectors against captum's TCAV (recipes/concept_methods.py).
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include <vitrine/autoencoder.h>
#include <vitrine/concept_factors.h>
#include <vitrine/concept_importance.h>
#include <vitrine/tcav.h>

#include "parity_case.h"

namespace vitrine {
namespace {

constexpr std::int64_t kConcepts = 6, kDesigns = 32;

struct Loaded {
    explicit Loaded(const std::string& name) : given(load(name)), model(build(given, checkpoint_of(given)).value()) {}
    at::Tensor pictures(std::int64_t count) const {
        auto shape = given.json.at("pixels").get<std::vector<std::int64_t>>();
        shape[0] = count;
        return draw("pictures", shape, 1.8, 0.0, given.json.at("seed").get<std::uint64_t>());
    }
    Case given;
    std::unique_ptr<Model> model;
};

double worst(const at::Tensor& found, const at::Tensor& want) {
    EXPECT_EQ(found.sizes(), want.sizes());
    return (found.to(at::kDouble) - want.to(at::kDouble)).abs().max().item<double>();
}

class CraftParity : public testing::Test {
  protected:
    CraftParity() {
        const auto file = read_safetensors(kData / "concepts/craft.safetensors").value();
        for (const auto& [key, entry] : file.tensors) wanted[key] = to_tensor(entry).value();
        input.pixels = cnn.pictures(1);
        target.index = std::stoll(file.metadata.at("target"));
    }
    Attribution explained(const std::vector<std::pair<std::string, std::string>>& set) {
        const Explainer* craft = registry().explainer("craft").value();
        Settings settings(craft->parameters());
        for (const auto& [name, value] : set) EXPECT_TRUE(settings.set(name, value));
        ExplainContext context(*cnn.model, input, target);
        auto found = craft->explain(context, settings);
        EXPECT_TRUE(found.has_value()) << found.error().message;
        return std::move(*found);
    }
    at::Tensor importances(const Attribution& found) {
        at::Tensor out = at::zeros({kConcepts}, at::kDouble);
        for (std::size_t i = 0; i < found.tables.at(0).rows.size(); ++i)
            out[std::stoll(found.tables[0].rows[i].substr(8))] = found.tables[0].values[i][0];
        return out;
    }

    Loaded cnn{"torchvision_resnet18"};
    std::map<std::string, at::Tensor> wanted;
    Input input;
    Target target;
};

TEST_F(CraftParity, MasksAreTheirs) {
    for (const std::string sequence : {"halton", "sobol"})
        EXPECT_LT(worst(replicated_design(kConcepts, kDesigns, sequence).value(), wanted.at(sequence + ".masks")), 1e-7)
            << sequence;
}

TEST_F(CraftParity, CodesAndImportancesOfAFixedBank) {
    const std::filesystem::path file =
        std::filesystem::path(testing::TempDir()) / "vitrine_craft_parity_bank.safetensors";
    AutoencoderConfig config;
    config.kind = "nmf";
    config.point = "layer3";
    config.tokens = "patches";
    config.ridge = 256 * 1e-2;  // scikit-learn's alpha_W counts once for every feature
    const at::Tensor bank = draw("bank", {kConcepts, 256}, 1.0, 0.0, 1).abs();
    const Autoencoder one = Autoencoder::of_rows(config, bank, at::zeros({256})).value();
    ASSERT_TRUE(one.save(file));
    const at::Tensor x = concept_tokens(*cnn.model, input.pixels, one.config()).value().reshape({-1, 256});
    EXPECT_LT(worst(one.encode(x).active, wanted.at("codes")), 1e-5);
    for (const std::string sequence : {"halton", "sobol"}) {
        const Attribution found =
            explained({{"bank", file.string()}, {"sequence", sequence}, {"rest", "nothing"}, {"designs", "32"}});
        EXPECT_LT(worst(importances(found), wanted.at(sequence + ".importances")), 1e-4) << sequence;
    }
    std::filesystem::remove(file);
}

TEST_F(CraftParity, ABankOfCropsAndAllThatFollows) {
    // Crops of 16 of 64 pixels.
    const Attribution found = explained({{"point", "layer3"},
                                         {"crop", "0.25"},
                                         {"concepts", "6"},
                                         {"rest", "nothing"},
                                         {"designs", "32"},
                                         {"index", "0"}});
    EXPECT_LT(worst(found.map.flatten(), wanted.at("fit.codes").select(1, 0)), 1e-3);
    EXPECT_LT(worst(importances(found), wanted.at("fit.importances")), 1e-3);
    NonNegativeOptions options;
    options.ridge_codes = 256 * 1e-2;
    options.ridge_rows = 25 * 1e-2;
    const auto factors = non_negative_factors(wanted.at("fit.activations").to(at::kDouble), kConcepts, options).value();
    EXPECT_EQ(factors.iterations, 200);
    EXPECT_LT(worst(factors.rows, wanted.at("fit.bank")), 1e-3);
    EXPECT_LT(worst(factors.codes, wanted.at("fit.crops")), 1e-3);
}

TEST(TcavParity, ScoresOfGivenVectors) {
    const auto file = read_safetensors(kData / "concepts/tcav.safetensors").value();
    const auto wanted = [&](const std::string& name) { return to_tensor(file.tensors.at(name)).value(); };
    for (const auto& [name, model, point] : {std::tuple{"cnn", "torchvision_resnet18", "layer3"},
                                             std::tuple{"vit", "attention_methods/class_token", "blocks.2"}}) {
        const Loaded one(model);
        const at::Tensor slopes =
            class_slopes(*one.model, one.pictures(12), point, std::stoll(file.metadata.at("target"))).value();
        const at::Tensor drawn = draw("vectors", {6, slopes[0].numel()}, 1.0, 0.0, 1);
        const at::Tensor vectors = drawn * (drawn.abs() > 0.998);
        const at::Tensor signs = wanted(name + std::string(".signs")),
                         magnitude = wanted(name + std::string(".magnitude"));
        for (std::int64_t i = 0; i < 6; ++i) {
            const SignCount found = count_signs(slopes, vectors[i]);
            EXPECT_EQ(static_cast<float>(found.share), signs[i].item<float>()) << name << i;
            EXPECT_NEAR(found.magnitude, magnitude[i].item<double>(),
                        1e-4 * std::abs(magnitude[i].item<double>()) + 1e-7)
                << name << i;
        }
    }
}

}  // namespace
}  // namespace vitrine
