// The module, loss, schedule and optimiser against the authors' classes and torch's (tests/parity/recipes/ttame.py).
#include <vitrine/mask_module.h>

#include <gmock/gmock.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>

#include "mask_objective.h"

namespace vitrine {
namespace {

const std::filesystem::path kData = std::filesystem::path(VITRINE_SOURCE_DIR) / "tests/parity/data/ttame";

class MaskParity : public testing::Test {
  protected:
    at::Tensor kept(const std::string& name) const {
        const auto found = file_.tensors.find(name);
        EXPECT_NE(found, file_.tensors.end()) << name;
        return *to_tensor(found->second);
    }
    TensorFile file_ = read_safetensors(kData / "outputs.safetensors").value();
};

double apart(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST_F(MaskParity, TheAuthorsCheckpointsGiveTheAuthorsLogits) {
    for (const std::string name : {"cnn", "vit"}) {
        SCOPED_TRACE(name);
        const auto mask = MaskModule::load(kData / (name + ".ckpt"), {"a", "b", "c"});
        ASSERT_TRUE(mask.has_value()) << mask.error().message;
        EXPECT_EQ(mask->config().version, "tame");
        EXPECT_EQ(mask->config().classes, 5);
        std::vector<at::Tensor> maps;
        for (const char* i : {"0", "1", "2"}) maps.push_back(kept(name + ".features." + i));
        EXPECT_LT(apart(mask->logits(maps), kept(name + ".eval")), 1e-5);
        EXPECT_LT(apart(mask->logits(maps, {}, true), kept(name + ".train")), 1e-5);
        EXPECT_EQ(MaskModule::load(kData / (name + ".ckpt"))->config().layers,
                  (std::vector<std::string>{"a", "b", "c"}))
            << "as the file says";
    }
}

TEST_F(MaskParity, AttentionVersionsAndVolumesAreTheAuthors) {
    const auto outputs = read_safetensors(kData / "versions.safetensors").value();
    const auto at = [&](const std::string& name) { return *to_tensor(outputs.tensors.at(name)); };
    for (const auto& [name, version] :
         std::vector<std::pair<std::string, std::string>>{{"tattentionv1", "attention_v1"},
                                                          {"tattentionv1_1", "attention_v1_1"},
                                                          {"tattentionv1_2", "attention_v1_2"},
                                                          {"tattentionv2", "attention_v2"},
                                                          {"tattentionv2_1", "attention_v2_1"},
                                                          {"tattentionv2_2", "attention_v2_2"},
                                                          {"tattentionv3", "attention_v3"},
                                                          {"3d_tame", "volume"}}) {
        SCOPED_TRACE(name);
        const auto mask = MaskModule::load(kData / (name + ".ckpt"));
        ASSERT_TRUE(mask.has_value()) << mask.error().message;
        EXPECT_EQ(mask->config().version, version);
        EXPECT_EQ(mask->config().layers, (std::vector<std::string>{"blocks.9.norm1", "blocks.11.norm1"}));
        const std::vector<at::Tensor> maps{at(name + ".features.0"), at(name + ".features.1")};
        EXPECT_LT(apart(mask->logits(maps), at(name + ".eval")), 1e-5);
        EXPECT_LT(apart(mask->logits(maps, {}, true), at(name + ".train")), 1e-5);
        const auto copy = std::filesystem::path(testing::TempDir()) / (name + ".safetensors");
        ASSERT_TRUE(mask->save(copy, at::kFloat).has_value());
        const auto again = MaskModule::load(copy);
        std::filesystem::remove(copy);
        ASSERT_TRUE(again.has_value()) << again.error().message;
        EXPECT_LT(apart(again->logits(maps), mask->logits(maps)), 1e-7);
    }
}

TEST_F(MaskParity, LossTermsAreTheAuthors) {
    for (const std::string batch : {"2", "4"}) {
        const std::string name = "loss" + batch;
        const MaskLoss loss =
            mask_loss(kept(name + ".answer"), kept(name + ".labels").to(at::kLong), kept(name + ".masks"), {}, 1);
        const at::Tensor terms = kept(name + ".terms");
        EXPECT_NEAR(loss.total.item<double>(), terms[0].item<double>(), 1e-6);
        EXPECT_NEAR(loss.cross_entropy.item<double>(), terms[1].item<double>(), 1e-6);
        EXPECT_NEAR(loss.area.item<double>(), terms[2].item<double>(), 1e-6);
        EXPECT_NEAR(loss.smooth.item<double>(), terms[3].item<double>(), 1e-6);
    }
}

TEST_F(MaskParity, ScheduleAndStepsAreTorchs) {
    OneCycle cycle;
    cycle.steps = 100;
    const at::Tensor rates = kept("one_cycle");
    for (std::int64_t step = 0; step < 100; ++step) {
        EXPECT_NEAR(cycle.at(step).first / rates[step][0].item<double>(), 1, 1e-5) << step;
        EXPECT_NEAR(cycle.at(step).second, rates[step][1].item<double>(), 1e-6) << step;
    }
    at::Tensor weight = kept("sgd.weight.0").clone(), bias = kept("sgd.bias.0").clone();
    MaskSgd sgd({{"fuser.weight", weight}, {"fuser.bias", bias}}, 5e-4);
    for (const std::string step : {"1", "2", "3"}) {
        weight.mutable_grad() = kept("sgd.weight_grad." + step);
        bias.mutable_grad() = kept("sgd.bias_grad." + step);
        sgd.step(0.1, 0.9);
        EXPECT_LT(apart(weight.detach(), kept("sgd.weight." + step)), 1e-6);
        EXPECT_LT(apart(bias.detach(), kept("sgd.bias." + step)), 1e-6);
    }
}

}  // namespace
}  // namespace vitrine
