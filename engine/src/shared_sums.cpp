// Sums over processes as a step of the graph, and the norm that is made of them.
#include "shared_sums.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vitrine/device_sums.h>

namespace vitrine {

namespace {

at::Tensor summed(const at::Tensor& x, Peers& peers) {
    if (peers.devices != nullptr && DeviceSums::takes(x)) {
        at::Tensor out = x.detach().clone(at::MemoryFormat::Contiguous);
        share_sum(out, peers);
        return out;
    }
    // A copy of our own, whatever the type and device were.
    const at::Tensor host = x.detach().to(at::kCPU, at::kDouble, /*non_blocking=*/false, /*copy=*/true).contiguous();
    const Status done = peers.sum({host.mutable_data_ptr<double>(), static_cast<std::size_t>(host.numel())});
    TORCH_CHECK(done.has_value(), done ? "" : done.error().message);
    return host.to(x.device(), x.scalar_type());
}

struct SharedSum : torch::autograd::Function<SharedSum> {
    static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, std::int64_t peers) {
        context->saved_data["peers"] = peers;
        return summed(x, *reinterpret_cast<Peers*>(peers));
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   const torch::autograd::variable_list& gradients) {
        return {summed(gradients[0], *reinterpret_cast<Peers*>(context->saved_data["peers"].toInt())), at::Tensor()};
    }
};

}  // namespace

void share_sum(const at::Tensor& x, Peers& peers) {
    if (peers.devices == nullptr || !DeviceSums::takes(x)) {
        at::Tensor to = x;
        to.copy_(summed(x, peers));
        return;
    }
    const Status done = peers.devices->sum(x);
    TORCH_CHECK(done.has_value(), done ? "" : done.error().message);
}

at::Tensor shared_sum(const at::Tensor& x, Peers& peers) {
    return SharedSum::apply(x, reinterpret_cast<std::int64_t>(&peers));
}

at::Tensor shared_batch_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             const at::Tensor& running_mean, const at::Tensor& running_var, double momentum, double eps,
                             Peers& peers) {
    const std::int64_t channels = x.size(1);
    // In double precision the square's mean less the mean's square loses nothing that a float shows.
    const at::Tensor precise = x.to(at::kDouble);
    const at::Tensor sums =
        shared_sum(at::cat({precise.sum({0, 2, 3}), precise.square().sum({0, 2, 3}),
                            at::full({1}, static_cast<double>(x.numel() / channels), precise.options())}),
                   peers);
    const at::Tensor count = sums.narrow(0, 2 * channels, 1).detach();
    const at::Tensor mean = sums.narrow(0, 0, channels) / count;
    const at::Tensor variance = (sums.narrow(0, channels, channels) / count - mean.square()).clamp_min(0);
    {
        const at::NoGradGuard no_grad;
        running_mean.mul_(1 - momentum).add_(mean.to(running_mean.scalar_type()), momentum);
        running_var.mul_(1 - momentum).add_((variance * (count / (count - 1))).to(running_var.scalar_type()), momentum);
    }
    const auto shaped = [&](const at::Tensor& of_channel) { return of_channel.view({1, channels, 1, 1}); };
    const at::Tensor scale = (variance + eps).rsqrt() * weight;
    return ((precise - shaped(mean)) * shaped(scale) + shaped(bias)).to(x.scalar_type());
}

}  // namespace vitrine
