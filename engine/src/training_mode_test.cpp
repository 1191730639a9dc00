// Frozen models in training mode against torch's own modules and the authors' run
// (tests/parity/recipes/ttame_published.py).
#include <vitrine/training_mode.h>

#include <gmock/gmock.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <vitrine/base/readers.h>
#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/mask_module.h>

#include "../../tests/parity/parity_case.h"
#include "augment.h"
#include "mask_objective.h"

namespace vitrine {
namespace {

double apart(const at::Tensor& a, const at::Tensor& b) {
    EXPECT_EQ(a.sizes(), b.sizes());
    return (a - b).abs().max().item<double>();
}

std::map<std::string, at::Tensor> read(const std::string& name) {
    std::map<std::string, at::Tensor> out;
    const auto file = read_safetensors(kData / "ttame" / name).value();
    for (const auto& [key, entry] : file.tensors) out[key] = *to_tensor(entry);
    return out;
}

TEST(TrainingMode, NetworksAreTorchsInTrainingMode) {
    const at::NoGradGuard no_grad;
    const auto wanted = read("training.safetensors");
    for (const std::string name : {"torchvision_resnet18", "torchvision_mobilenet_v2"}) {
        SCOPED_TRACE(name);
        const Case c = load(name);
        const auto model = *build(c, checkpoint_of(c));
        // In double, as the reference: statistics of two pictures' 2 x 2 maps magnify what float32 rounds.
        model->to(at::kCPU, at::kDouble);
        const at::Tensor pixels = draw("pixels", {2, 3, 64, 64}, 1.8, 0, 5).to(at::kDouble),
                         before = model->forward(pixels);
        TrainingMode mode;
        std::shared_ptr<const Capture> seen;
        CaptureOptions options;
        options.mixings = false;
        options.points = {"features"};
        for (std::int64_t step = 0; step < 2; ++step) {
            const InTrainingMode scope(&mode, {step, 0, 2});
            seen = *run_captured(*model, pixels, options);
        }
        const at::Tensor& map = wanted.at(name + ".map");
        // Relative to the largest number.
        const auto near = [](const at::Tensor& a, const at::Tensor& b) {
            return apart(a, b) / std::max(1.0, b.abs().max().item<double>());
        };
        EXPECT_LT(near(seen->points.at("features"), map), 1e-5);
        if (wanted.count(name + ".logits") != 0) {
            EXPECT_LT(near(seen->output, wanted.at(name + ".logits")), 1e-5);
        }
        int compared = 0;
        for (const auto& [key, tensor] : mode.statistics)
            if (const auto it = wanted.find(name + "." + key); it != wanted.end()) {
                EXPECT_LT(near(tensor, it->second), 1e-5) << key;
                ++compared;
            }
        EXPECT_GE(compared, 10);
        EXPECT_TRUE(at::equal(model->forward(pixels), before)) << "the opened model is as it was";
        const WithStatistics scope(mode.statistics);
        EXPECT_FALSE(at::equal(model->forward(pixels), before));
    }
}

TEST(TrainingMode, DropoutIsDrawnByStepAndPlace) {
    const at::Tensor x = at::ones({4, 500});
    TrainingMode mode;
    mode.seed = 7;
    EXPECT_TRUE(at::equal(dropout_as_run(x, 0.2), x)) << "evaluation form";
    at::Tensor first, second, again, share;
    {
        const InTrainingMode scope(&mode, {3, 0, 4});
        first = dropout_as_run(x, 0.2);
        second = dropout_as_run(x, 0.2);
    }
    {
        const InTrainingMode scope(&mode, {3, 0, 4});
        again = dropout_as_run(x, 0.2);
    }
    {
        const InTrainingMode scope(&mode, {3, 1, 4});
        share = dropout_as_run(x.narrow(0, 1, 2), 0.2);
    }
    EXPECT_TRUE(at::equal(first, again));
    EXPECT_FALSE(at::equal(first, second));
    EXPECT_TRUE(at::equal(share, first.narrow(0, 1, 2))) << "a process has its part of what one draws";
    EXPECT_TRUE((first.eq(0) | (first - 1.25).abs().lt(1e-6)).all().item<bool>());
    EXPECT_NEAR(first.mean().item<double>(), 1, 0.05);
}

TEST(TrainingMode, ScopesNestAndRefusalsAreHeard) {
    TrainingMode mode;
    const at::Tensor x = at::randn({4, 3, 2, 2}), one = at::ones({3}), none = at::zeros({3});
    const auto plain = batch_norm_as_run("bn", x, one, none, none, one, 1e-5);
    {
        const InTrainingMode outer(&mode, {0, 0, 4});
        EXPECT_FALSE(at::equal(batch_norm_as_run("bn", x, one, none, none, one, 1e-5), plain));
        const NormStatistics others{{"bn.running_mean", none}, {"bn.running_var", one}};
        const WithStatistics inner(others);
        EXPECT_LT(apart(batch_norm_as_run("bn", x, one, none, none, one, 1e-5), plain), 1e-6);
        EXPECT_THROW(batch_norm_as_run("other", x, one, none, none, one, 1e-5), c10::Error);
        cannot_be_in_training_mode("not heard");
    }
    EXPECT_EQ(mode.refused, "");
    EXPECT_TRUE(at::equal(batch_norm_as_run("bn", x, one, none, none, one, 1e-5), plain));
    EXPECT_NE(mode.statistics.at("bn.running_mean").abs().max().item<double>(), 0);
    EXPECT_EQ(none.abs().max().item<double>(), 0) << "the model's own";
}

class PublishedRun : public testing::Test {
  protected:
    std::map<std::string, at::Tensor> wanted_ = read("published.safetensors");
    std::unique_ptr<Model> model_ =
        registry().architecture("cnn").value()->build(*read_checkpoint(kData / "ttame/backbone.safetensors")).value();
    at::Tensor pixels_ = normalised(draw("published", {2, 3, 224, 224}, 0.5, 0.5, 3), model_->preprocess().mean,
                                    model_->preprocess().std);
};

TEST_F(PublishedRun, StepsInTrainingModeAreTheAuthors) {
    MaskModule mask = *MaskModule::make({"tame", {"layer2", "layer3", "layer4"}, {8, 16, 32}, 5}, 0);
    const auto weights = read("published_module.safetensors");
    for (const auto* list : {&mask.parameters(), &mask.statistics()})
        for (const auto& [name, tensor] : *list) const_cast<at::Tensor&>(tensor).copy_(weights.at(name));
    for (const auto& [name, tensor] : model_->parameters()) tensor.set_requires_grad(false);
    TrainingMode mode;
    for (std::int64_t step = 0; step < 2; ++step) {
        const std::string name = "step" + std::to_string(step) + ".";
        SCOPED_TRACE(name);
        const InTrainingMode scope(&mode, {step, 0, 2});
        const MaskFeatures seen = *mask_features(*model_, pixels_, mask.config());
        const at::Tensor labels = seen.answer.argmax(1);
        EXPECT_TRUE(at::equal(labels, wanted_.at(name + "labels").to(at::kLong)));
        for (const auto& [key, tensor] : mask.parameters()) {
            const_cast<at::Tensor&>(tensor).requires_grad_(true);
            const_cast<at::Tensor&>(tensor).mutable_grad() = at::Tensor();
        }
        const at::Tensor c = mask.logits(seen.maps, {}, true), all = at::sigmoid(c.index_select(1, labels)),
                         own = all.diagonal(0, 0, 1).permute({2, 0, 1}).unsqueeze(1);
        EXPECT_LT(apart(c.detach(), wanted_.at(name + "c")), 1e-5);
        const at::Tensor answer = model_->forward(masked(pixels_, own, MaskPolicy::Black, model_->preprocess()));
        EXPECT_LT(apart(answer.detach(), wanted_.at(name + "answer")), 1e-5);
        const MaskLoss loss = mask_loss(answer, labels, all, {}, 1);
        const at::Tensor terms = wanted_.at(name + "terms");
        EXPECT_NEAR(loss.total.item<double>(), terms[0].item<double>(), 1e-5);
        EXPECT_NEAR(loss.cross_entropy.item<double>(), terms[1].item<double>(), 1e-5);
        EXPECT_NEAR(loss.area.item<double>(), terms[2].item<double>(), 1e-5);
        EXPECT_NEAR(loss.smooth.item<double>(), terms[3].item<double>(), 1e-5);
        loss.total.backward();
        for (const auto& [key, tensor] : mask.parameters()) {
            if (key == "fuser.weight") {
                EXPECT_LT(apart(tensor.grad().flatten(1), wanted_.at(name + "gradient")), 1e-5);
            }
            if (key == "convs.0.weight") {
                EXPECT_LT(apart(tensor.grad().flatten(1), wanted_.at(name + "gradient0")), 1e-5);
            }
        }
        int compared = 0;
        for (const auto& [key, tensor] : mode.statistics)
            if (const auto it = wanted_.find(name + key); it != wanted_.end()) {
                EXPECT_LT(apart(tensor, it->second), 1e-5) << key;
                ++compared;
            }
        EXPECT_EQ(compared, 5);
    }
    const at::NoGradGuard no_grad;
    const WithStatistics scope(mode.statistics);
    const MaskFeatures seen = *mask_features(*model_, pixels_, mask.config());
    EXPECT_LT(apart(seen.answer, wanted_.at("eval.answer")), 1e-5);
    EXPECT_LT(apart(mask.logits(seen.maps), wanted_.at("eval.c")), 1e-5);
}

TEST_F(PublishedRun, ItsCheckpointIsReadWithItsLayersPolicyAndStatistics) {
    const at::NoGradGuard no_grad;
    const auto mask = MaskModule::load(kData / "ttame/published.ckpt");
    ASSERT_TRUE(mask.has_value()) << mask.error().message;
    EXPECT_EQ(mask->config().version, "tame");
    EXPECT_EQ(mask->config().layers, (std::vector<std::string>{"layer2", "layer3", "layer4"}));
    EXPECT_EQ(mask->facts.at("policy"), "black") << "stored as `new`, which the authors override";
    EXPECT_EQ(mask->backbone.size(), 26U) << "13 norms";
    EXPECT_EQ(mask->fits(*model_).has_value(), true) << mask->fits(*model_).error().message;
    EXPECT_EQ(mask->doubt(*model_), "");
    {
        const WithStatistics scope(mask->backbone);
        const MaskFeatures seen = *mask_features(*model_, pixels_, mask->config());
        EXPECT_LT(apart(seen.answer, wanted_.at("eval.answer")), 1e-5);
        EXPECT_LT(apart(mask->logits(seen.maps), wanted_.at("eval.c")), 1e-5) << "normalised once";
    }
    const MaskFeatures own = *mask_features(*model_, pixels_, mask->config());
    EXPECT_GT(apart(mask->logits(own.maps), wanted_.at("eval.c")), 1e-2) << "the statistics matter";
    for (const auto& [name, tensor] : model_->parameters())
        if (name == "layer3.0.conv1.weight") tensor.mul_(1.5);
    EXPECT_THAT(mask->fits(*model_).error().message, testing::HasSubstr("another layer3.0.conv1.weight"));

    // Our own file of it keeps the statistics.
    const auto copy = std::filesystem::path(testing::TempDir()) / "published_copy.safetensors";
    ASSERT_TRUE(mask->save(copy, at::kFloat).has_value());
    const auto again = MaskModule::load(copy);
    std::filesystem::remove(copy);
    ASSERT_TRUE(again.has_value()) << again.error().message;
    ASSERT_EQ(again->backbone.size(), 26U);
    for (const auto& [name, tensor] : mask->backbone) EXPECT_TRUE(at::equal(tensor, again->backbone.at(name))) << name;
}

}  // namespace
}  // namespace vitrine
