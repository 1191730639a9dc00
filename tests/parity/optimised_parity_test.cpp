// The parts of extremal perturbation against TorchRay's, for drawn parameters.
#include <ATen/core/grad_mode.h>

#include "optimised_case.h"

namespace vitrine::plugin::optimised {
namespace {

TEST_P(OptimisedParity, MasksAndPicturesAreTorchRays) {
    const at::NoGradGuard no_grad;
    const double unit = unit_of(x);
    const SmoothMask smooth(x.size(2), x.size(3), std::max<std::int64_t>(1, std::llround(7 * unit)), 21 * unit,
                            x.options());
    const at::Tensor whole = smooth.whole(draw("parameters", {smooth.rows(), smooth.cols()}, 0.5, 0.5, 1));
    expect(fourth(whole), wanted.at("whole"));
    expect(fourth(smooth.inner(whole)), wanted.at("inner"));
    expect(fourth(look_into(blur_pyramid(x, 8, 20), smooth.inner(whole)))[0], wanted.at("seen"));
}

INSTANTIATE_TEST_SUITE_P(Models, OptimisedParity,
                         testing::Values(Names{"vit", "attention_methods/class_token"},
                                         Names{"cnn", "torchvision_resnet18"}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vitrine::plugin::optimised
