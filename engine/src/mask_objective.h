// What a mask is trained on: T-TAME's loss, its optimiser and its schedule.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace vitrine {

struct MaskLoss {
    at::Tensor total, cross_entropy, area, smooth;  ///< scalars, weighted: total is the sum of the others
};

struct MaskWeights {
    double cross_entropy = 1.5, area = 2, smooth = 0.01;
    double area_power = 0.3, area_floor = 0.0005, border = 0.3;
};

/// mean (a + 0.0005)^0.3 over all masks.
at::Tensor mask_area(const at::Tensor& masks, const MaskWeights& weights);
/// Squared differences of neighbours and 0.3 times the squared borders (corners twice), summed over all masks and
/// divided by twice the batch.
///
/// @param masks  [batch, n, rows, cols]
at::Tensor mask_roughness(const at::Tensor& masks, const MaskWeights& weights);

/// @param answer   [batch, classes], the model's for the masked pictures
/// @param classes  int64 [batch], what it predicted for the pictures
/// @param masks    [batch, n, rows, cols]: of all the batch's classes, or of the own one
/// @param rescale  by which the roughness is multiplied
MaskLoss mask_loss(const at::Tensor& answer, const at::Tensor& classes, const at::Tensor& masks,
                   const MaskWeights& weights, double rescale);

/// One-cycle schedule: cosine up over 30 % of the steps and down over the rest, momentum the other way round.
/// Source: L. Smith, N. Topin, "Super-Convergence", 2019; as torch.optim.lr_scheduler.OneCycleLR.
struct OneCycle {
    double peak = 1e-3, rise = 0.3, start_share = 25, end_share = 1e4, low_momentum = 0.85, high_momentum = 0.95;
    std::int64_t steps = 1;
    std::pair<double, double> at(std::int64_t step) const;  ///< learning rate, momentum
};

/// Stochastic gradient descent with Nesterov's momentum; biases are not decayed.
class MaskSgd {
  public:
    MaskSgd(std::vector<std::pair<std::string, at::Tensor>> parameters, double weight_decay);
    void step(double learning_rate, double momentum);
    /// The same in two halves: numbers for the steps to come, written where `apply` reads them, and one step without
    /// the host, which a device graph can record.
    void set(double learning_rate, double momentum);
    void apply();
    /// "momentum.NAME"
    std::vector<std::pair<std::string, at::Tensor>> state() const;
    bool restore(const std::vector<std::pair<std::string, at::Tensor>>& state);

  private:
    std::vector<std::pair<std::string, at::Tensor>> parameters_;
    std::vector<at::Tensor> momentum_;
    at::Tensor learning_rate_now_, momentum_now_;  // scalars, where the parameters are
    double weight_decay_;
};

}  // namespace vitrine
