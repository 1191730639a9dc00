// T-TAME's loss, the one-cycle schedule and the optimiser, written from their definitions.
#include "mask_objective.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {

at::Tensor mask_area(const at::Tensor& masks, const MaskWeights& weights) {
    // Never in half precision: at 0 the power's slope is about 61.
    const at::Tensor precise = masks.scalar_type() == at::kDouble ? masks : masks.to(at::kFloat);
    return (precise + weights.area_floor).pow(weights.area_power).mean();
}

at::Tensor mask_roughness(const at::Tensor& masks, const MaskWeights& weights) {
    const std::int64_t rows = masks.size(2), cols = masks.size(3);
    const at::Tensor down = masks.narrow(2, 1, rows - 1) - masks.narrow(2, 0, rows - 1),
                     across = masks.narrow(3, 1, cols - 1) - masks.narrow(3, 0, cols - 1);
    // Rows and columns apart: they are of unlike lengths where the grid is not square.
    const at::Tensor border = masks.select(2, 0).square().sum() + masks.select(2, rows - 1).square().sum() +
                              masks.select(3, 0).square().sum() + masks.select(3, cols - 1).square().sum();
    return (down.square().sum() + across.square().sum() + weights.border * border) /
           (2.0 * static_cast<double>(masks.size(0)));
}

MaskLoss mask_loss(const at::Tensor& answer, const at::Tensor& classes, const at::Tensor& masks,
                   const MaskWeights& weights, double rescale) {
    MaskLoss out;
    out.cross_entropy = weights.cross_entropy * at::cross_entropy_loss(answer.to(masks.scalar_type()), classes);
    out.area = weights.area * mask_area(masks, weights);
    out.smooth = weights.smooth * rescale * mask_roughness(masks, weights);
    out.total = out.cross_entropy + out.area + out.smooth;
    return out;
}

std::pair<double, double> OneCycle::at(std::int64_t step) const {
    const double last = static_cast<double>(steps) - 1, up = std::max(rise * static_cast<double>(steps) - 1, 0.0);
    const auto between = [](double from, double to, double share) {
        return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * share));
    };
    const double start = peak / start_share, end = start / end_share;
    const auto x = static_cast<double>(step);
    if (x <= up && up > 0) return {between(start, peak, x / up), between(high_momentum, low_momentum, x / up)};
    const double share = last > up ? (x - up) / (last - up) : 1;
    return {between(peak, end, share), between(low_momentum, high_momentum, share)};
}

MaskSgd::MaskSgd(std::vector<std::pair<std::string, at::Tensor>> parameters, double weight_decay)
    : parameters_(std::move(parameters)), weight_decay_(weight_decay) {
    for (auto& [name, tensor] : parameters_) {
        tensor.requires_grad_(true);
        momentum_.push_back(at::zeros_like(tensor));
    }
}

void MaskSgd::step(double learning_rate, double momentum) {
    set(learning_rate, momentum);
    apply();
}

void MaskSgd::set(double learning_rate, double momentum) {
    if (parameters_.empty()) return;
    if (!learning_rate_now_.defined()) {
        learning_rate_now_ = at::empty({}, parameters_.front().second.options().requires_grad(false));
        momentum_now_ = at::empty_like(learning_rate_now_);
    }
    learning_rate_now_.fill_(learning_rate);
    momentum_now_.fill_(momentum);
}

void MaskSgd::apply() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        auto& [name, tensor] = parameters_[i];
        if (!tensor.grad().defined()) continue;
        at::Tensor gradient = tensor.grad();
        if (weight_decay_ > 0 && !name.ends_with(".bias")) gradient = gradient + weight_decay_ * tensor;
        momentum_[i].mul_(momentum_now_).add_(gradient);
        tensor.sub_(learning_rate_now_ * (gradient + momentum_now_ * momentum_[i]));
        tensor.mutable_grad() = at::Tensor();
    }
}

std::vector<std::pair<std::string, at::Tensor>> MaskSgd::state() const {
    std::vector<std::pair<std::string, at::Tensor>> out;
    for (std::size_t i = 0; i < parameters_.size(); ++i)
        out.emplace_back("momentum." + parameters_[i].first, momentum_[i]);
    return out;
}

bool MaskSgd::restore(const std::vector<std::pair<std::string, at::Tensor>>& state) {
    std::size_t found = 0;
    for (std::size_t i = 0; i < parameters_.size(); ++i)
        for (const auto& [name, tensor] : state)
            if (name == "momentum." + parameters_[i].first && tensor.sizes() == momentum_[i].sizes()) {
                momentum_[i].copy_(tensor);
                ++found;
            }
    return found == parameters_.size();
}

}  // namespace vitrine
