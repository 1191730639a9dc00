// Registers the architecture `cnn`: ResNet, VGG, CIFAR ResNet and MobileNetV2.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <cmath>

#include <vitrine/registry.h>

#include "cnn.h"

namespace vitrine::plugin::cnn {

namespace {

class CnnArchitecture : public Architecture {
  public:
    Description description() const override {
        return {
            "cnn", "Convolutional network",
            "ResNet, VGG and MobileNetV2 under torchvision's names, CIFAR ResNets, and a folded TensorFlow MobileNetV2",
            "He et al., CVPR 2016; Simonyan and Zisserman, ICLR 2015; Sandler et al., CVPR 2018", 0};
    }

    Recognition recognise(const Checkpoint& checkpoint) const override { return recognise_names(checkpoint); }

    Result<std::unique_ptr<Model>> build(const Checkpoint& checkpoint) const override {
        return std::unique_ptr<Model>(VITRINE_TRY(build_cnn(checkpoint)));
    }

    /// A CIFAR ResNet of one block a stage, its weights drawn so that no channel dies and logits differ.
    Result<std::unique_ptr<Model>> tiny(std::uint64_t seed) const override {
        auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
        NamedTensors tensors;
        const auto normed = [&](const std::string& conv, const std::string& norm, std::int64_t out, std::int64_t in) {
            tensors.emplace_back(
                conv + ".weight",
                at::randn({out, in, 3, 3}, generator, at::kFloat).mul_(std::sqrt(2.0 / static_cast<double>(9 * in))));
            const auto around = [&](double centre, double spread) {
                return at::rand({out}, generator, at::kFloat).mul_(2).sub_(1).mul_(spread).add_(centre);
            };
            tensors.emplace_back(norm + ".weight", around(1, 0.3));
            tensors.emplace_back(norm + ".bias", around(0, 0.3));
            tensors.emplace_back(norm + ".running_mean", around(0, 0.3));
            tensors.emplace_back(norm + ".running_var", around(1, 0.3));
        };
        normed("conv1", "bn1", 8, 3);
        std::int64_t in = 8;
        for (int layer = 1; layer <= 3; ++layer) {
            const std::int64_t out = std::int64_t{8} << (layer - 1);
            const std::string name = fmt::format("layer{}.0.", layer);
            normed(name + "conv1", name + "bn1", out, in);
            normed(name + "conv2", name + "bn2", out, out);
            in = out;
        }
        tensors.emplace_back("linear.weight", at::randn({10, in}, generator, at::kFloat));
        tensors.emplace_back("linear.bias", at::randn({10}, generator, at::kFloat));
        auto model = VITRINE_TRY(build_cnn(checkpoint_of(tensors)));
        model->info().name = "resnet_tiny";
        model->info().why = "made here";
        return std::unique_ptr<Model>(std::move(model));
    }
};

}  // namespace

}  // namespace vitrine::plugin::cnn

VITRINE_PLUGIN(cnn) { registry.add(std::make_unique<vitrine::plugin::cnn::CnnArchitecture>()); }
