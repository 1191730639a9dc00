// AdamW by libtorch's fused kernel and Muon by batched matrix products, with master weights, clipping and a running
// average.
#include "optimizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {

namespace {

bool is_embedding(const std::string& name) {
    for (const char* word :
         {"pos_embed", "cls_token", "reg_token", "dist_token", "position_embedding", "class_token", "class_embedding"})
        if (name.find(word) != std::string::npos) return true;
    return false;
}

// A fused query-key-value matrix is three matrices to Muon.
std::int64_t parts_of(const std::string& name, const at::Tensor& matrix) {
    return name.find("qkv") != std::string::npos && matrix.size(0) % 3 == 0 ? 3 : 1;
}

}  // namespace

Optimizer::Optimizer(std::vector<std::pair<std::string, at::Tensor>> parameters, OptimizerOptions options)
    : options_(options) {
    const at::NoGradGuard no_grad;
    for (auto& [name, parameter] : parameters) {
        separate_ = separate_ || parameter.scalar_type() != at::kFloat;
        names_.push_back(name);
        parameters_.push_back(parameter);
    }
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        auto& parameter = parameters_[i];
        // A leaf of its own: the model's tensor may have come out of an operation.
        parameter.set_requires_grad(true);
        weights_.push_back(separate_ ? parameter.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)
                                     : parameter.detach());
        first_.push_back(at::zeros_like(weights_.back()));
        second_.push_back(at::zeros_like(weights_.back()));
        count_.push_back(at::zeros({}, weights_.back().options()));
        if (options_.average > 0) average_.push_back(weights_.back().clone());
        decayed_.push_back(parameter.dim() >= 2 && !is_embedding(names_[i]));
        orthogonal_.push_back(options_.muon && parameter.dim() == 2 &&
                              std::min(parameter.size(0), parameter.size(1)) >= 16 &&
                              names_[i].find("block") != std::string::npos);
    }
}

at::Tensor orthogonalised(const at::Tensor& matrices) {
    // Coefficients of K. Jordan et al. 2024: singular values end between 0.7 and 1.2, which is enough.
    constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
    const bool tall = matrices.size(1) > matrices.size(2);
    at::Tensor x = tall ? matrices.transpose(1, 2) : matrices;
    if (x.is_cuda()) x = x.to(at::kBFloat16);
    x = x / (at::linalg_vector_norm(x, 2, at::IntArrayRef{1, 2}, /*keepdim=*/true) + 1e-7);
    for (int i = 0; i < 5; ++i) {
        const at::Tensor square = at::bmm(x, x.transpose(1, 2));
        const at::Tensor both = at::baddbmm(square, square, square, b, c);
        x = at::baddbmm(x, both, x, a, 1.0);
    }
    return (tall ? x.transpose(1, 2) : x).to(at::kFloat);
}

void Optimizer::muon_update(const std::vector<at::Tensor>& gradients, const std::vector<std::size_t>& which,
                            double learning_rate) {
    // Matrices of one shape go through the iteration together: a few large launches instead of hundreds of small ones.
    std::vector<at::Tensor> momentum, slope;
    for (const auto i : which) {
        momentum.push_back(first_[i]);
        slope.push_back(gradients[i]);
    }
    at::_foreach_lerp_(momentum, slope, 1.0 - options_.muon_momentum);
    const auto ahead = at::_foreach_lerp(slope, momentum, options_.muon_momentum);  // Nesterov
    std::map<std::pair<std::int64_t, std::int64_t>, std::vector<std::pair<std::size_t, at::Tensor>>> by_shape;
    for (std::size_t n = 0; n < which.size(); ++n) {
        const std::int64_t parts = parts_of(names_[which[n]], ahead[n]);
        for (const auto& piece : ahead[n].chunk(parts, 0))
            by_shape[{piece.size(0), piece.size(1)}].emplace_back(which[n], piece);
    }
    std::map<std::size_t, std::vector<at::Tensor>> updates;
    for (const auto& [shape, pieces] : by_shape) {
        std::vector<at::Tensor> matrices;
        for (const auto& piece : pieces) matrices.push_back(piece.second);
        const at::Tensor made = orthogonalised(at::stack(matrices));
        const double scale = 0.2 * std::sqrt(static_cast<double>(std::max(shape.first, shape.second)));
        for (std::size_t n = 0; n < pieces.size(); ++n)
            updates[pieces[n].first].push_back(made.select(0, static_cast<std::int64_t>(n)) * (-learning_rate * scale));
    }
    std::vector<at::Tensor> moved, by;
    for (const auto i : which) {
        moved.push_back(weights_[i]);
        const auto& pieces = updates[i];
        by.push_back(pieces.size() == 1 ? pieces.front() : at::cat(pieces, 0));
    }
    at::_foreach_mul_(moved, 1.0 - learning_rate * options_.weight_decay);
    at::_foreach_add_(moved, by);
}

void Optimizer::step(double learning_rate, const at::Tensor& on_device) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> gradients(parameters_.size());
    std::vector<at::Tensor> present, converted;
    std::vector<std::size_t> groups[3];  // AdamW with decay, AdamW without, Muon
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
        const at::Tensor& gradient = parameters_[i].grad();
        if (!gradient.defined()) continue;
        gradients[i] = separate_ ? at::empty_like(weights_[i]) : gradient;
        present.push_back(gradient);
        converted.push_back(gradients[i]);
        groups[orthogonal_[i] ? 2 : decayed_[i] ? 0 : 1].push_back(i);
    }
    if (present.empty()) return;
    if (separate_) at::_foreach_copy_(converted, present);

    norm_ = at::linalg_vector_norm(at::stack(at::_foreach_norm(converted, 2)), 2);
    if (options_.clip > 0) at::_foreach_mul_(converted, (options_.clip / (norm_ + 1e-6)).clamp_max(1.0));

    for (int group = 0; group < 2; ++group) {
        std::vector<at::Tensor> weights, slopes, first, second, counts;
        for (const auto i : groups[group]) {
            weights.push_back(weights_[i]);
            slopes.push_back(gradients[i]);
            first.push_back(first_[i]);
            second.push_back(second_[i]);
            counts.push_back(count_[i]);
        }
        if (weights.empty()) continue;
        at::_foreach_add_(counts, 1);
        const double decay = group == 0 ? options_.weight_decay : 0.0;
        if (on_device.defined())
            at::_fused_adamw_(weights, slopes, first, second, {}, counts, on_device, options_.beta1, options_.beta2,
                              decay, options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
        else
            at::_fused_adamw_(weights, slopes, first, second, {}, counts, learning_rate, options_.beta1, options_.beta2,
                              decay, options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
    }
    if (!groups[2].empty()) muon_update(gradients, groups[2], learning_rate);

    ++steps_;
    if (separate_) at::_foreach_copy_(parameters_, weights_);
    if (!average_.empty()) {
        // A young average forgets faster, or it would remember the random start for thousands of steps.
        const double keep =
            std::min(options_.average, (1.0 + static_cast<double>(steps_)) / (10.0 + static_cast<double>(steps_)));
        at::_foreach_lerp_(average_, weights_, 1.0 - keep);
    }
    for (auto& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
}

Optimizer::Moments Optimizer::moments(const std::string& name) const {
    const auto at = static_cast<std::size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
    return {weights_.at(at), first_.at(at), second_.at(at), count_.at(at)};
}

void Optimizer::show_average() {
    if (average_.empty()) return;
    const at::NoGradGuard no_grad;
    if (!separate_) {
        // The model's tensors are the masters: keep them aside while the average is shown.
        for (std::size_t i = 0; i < weights_.size(); ++i) weights_[i] = parameters_[i].detach().clone();
    }
    at::_foreach_copy_(parameters_, average_);
}

void Optimizer::show_weights() {
    if (average_.empty()) return;
    const at::NoGradGuard no_grad;
    at::_foreach_copy_(parameters_, weights_);
    if (!separate_)
        for (std::size_t i = 0; i < weights_.size(); ++i) weights_[i] = parameters_[i].detach();
}

std::vector<std::pair<std::string, at::Tensor>> Optimizer::average() const {
    std::vector<std::pair<std::string, at::Tensor>> named;
    for (std::size_t i = 0; i < names_.size(); ++i)
        named.emplace_back(names_[i], average_.empty() ? weights_[i] : average_[i]);
    return named;
}

std::vector<std::pair<std::string, at::Tensor>> Optimizer::state() const {
    std::vector<std::pair<std::string, at::Tensor>> named;
    for (std::size_t i = 0; i < names_.size(); ++i) {
        named.emplace_back("weight." + names_[i], weights_[i]);
        named.emplace_back("first." + names_[i], first_[i]);
        named.emplace_back("second." + names_[i], second_[i]);
        named.emplace_back("count." + names_[i], count_[i].view({1}));
        if (!average_.empty()) named.emplace_back("average." + names_[i], average_[i]);
    }
    return named;
}

Status Optimizer::restore(const std::vector<std::pair<std::string, at::Tensor>>& state, std::int64_t steps) {
    const at::NoGradGuard no_grad;
    std::map<std::string, at::Tensor> given(state.begin(), state.end());
    const auto mine = this->state();
    for (const auto& [name, tensor] : mine) {
        const auto found = given.find(name);
        if (found == given.end()) return fail(ErrorCode::BadInput, "the training checkpoint lacks {}", name);
        if (found->second.sizes() != tensor.sizes())
            return fail(ErrorCode::BadInput, "{} is [{}] in the training checkpoint, expected [{}]", name,
                        fmt::join(found->second.sizes(), ", "), fmt::join(tensor.sizes(), ", "));
    }
    for (const auto& [name, tensor] : mine) {
        at::Tensor to = tensor;
        to.copy_(given.at(name));
    }
    if (separate_) at::_foreach_copy_(parameters_, weights_);
    steps_ = steps;
    return {};
}

double learning_rate_at(std::int64_t step, std::int64_t steps, std::int64_t warmup, double peak, double floor) {
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
    const double done =
        static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, steps - warmup));
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(1.0, done))));
}

}  // namespace vitrine
