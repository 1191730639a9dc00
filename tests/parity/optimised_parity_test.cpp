// The parts of extremal perturbation against TorchRay's, for drawn parameters.
#include <ATen/core/grad_mode.h>

#include <ATen/TensorOperators.h>

#include "../../plugins/optimised/optimised.h"
#include "stored_case.h"

namespace vitrine::plugin::optimised {
namespace {

class OptimisedParity : public StoredParity {
  protected:
    OptimisedParity() : StoredParity("optimised") {}
    static void expect(const at::Tensor& found, const at::Tensor& want) {
        ASSERT_EQ(found.sizes(), want.sizes());
        const double error = (found - want).abs().max().item<double>();
        EXPECT_LT(error, 1e-5);
        std::printf("within %.1e\n", error);
    }
};

TEST_P(OptimisedParity, MasksAndPicturesAreTorchRays) {
    const at::NoGradGuard no_grad;
    const at::Tensor& x = input.pixels;
    const double unit = unit_of(x);
    const SmoothMask smooth(x.size(2), x.size(3), std::max<std::int64_t>(1, std::llround(7 * unit)), 21 * unit,
                            x.options());
    const at::Tensor whole = smooth.whole(draw("parameters", {smooth.rows(), smooth.cols()}, 0.5, 0.5, 1));
    expect(every(4, whole), wanted.at("whole"));
    expect(every(4, smooth.inner(whole)), wanted.at("inner"));
    expect(every(4, look_into(blur_pyramid(x, 8, 20), smooth.inner(whole)))[0], wanted.at("seen"));
}

INSTANTIATE_TEST_SUITE_P(Models, OptimisedParity, testing::ValuesIn(kStoredModels), stored_name);

}  // namespace
}  // namespace vitrine::plugin::optimised
