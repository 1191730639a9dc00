// Puts a model's parameters aside and back.
#include <vitrine/parameters_aside.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randperm.h>

#include <vitrine/base/random.h>

namespace vitrine {

ParametersAside::ParametersAside(Model& model) {
    for (const auto& [name, tensor] : model.parameters()) {
        names_.push_back(name);
        live_.push_back(tensor);
        kept_.push_back(tensor.detach());
    }
}

ParametersAside::~ParametersAside() { restore(); }

void ParametersAside::restore() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < live_.size(); ++i) live_[i].set_data(kept_[i]);
}

void ParametersAside::shuffle(std::size_t parameter, at::Generator random) {
    const at::NoGradGuard no_grad;
    const at::Tensor& from = kept_[parameter];
    const at::Tensor order = at::randperm(from.numel(), random, at::kLong);
    live_[parameter].set_data(from.flatten().index_select(0, order.to(from.device())).reshape(from.sizes()));
}

void ParametersAside::shuffle_all(std::uint64_t seed) {
    constexpr std::uint64_t kControl = 0x636F6E74;
    for (std::size_t i = 0; i < live_.size(); ++i)
        shuffle(i, at::make_generator<at::CPUGeneratorImpl>(random_bits(seed, kControl, i)));
}

}  // namespace vitrine
