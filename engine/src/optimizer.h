// The optimiser of a training run: fp32 master weights beside whatever type the model computes in, AdamW or Muon, and a
// running average.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <vitrine/base/result.h>

namespace vitrine {

struct OptimizerOptions {
    double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
    double weight_decay = 0.05;  ///< decoupled; only on tensors with two or more axes that are no embeddings or tokens
    double clip = 1.0;           ///< largest norm of all gradients together; 0 is no limit
    double average = 0.999;      ///< decay of the running average of the weights; 0 keeps none
    /// Muon on the matrices inside the blocks, AdamW on the rest: the momentum is made orthogonal before it is applied.
    /// K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scaled by 0.2 sqrt(max(rows,
    /// cols)) so that AdamW's learning rate and decay serve both (J. Liu et al., "Muon is Scalable for LLM Training",
    /// arXiv 2502.16982, section 2.2).
    bool muon = false;
    double muon_momentum = 0.95;
};

/// Takes the steps. Lives on the thread that trains.
class Optimizer {
  public:
    /// `parameters` are the model's own tensors; they are made to require gradients. A model in bf16 gets fp32 masters
    /// here.
    Optimizer(std::vector<std::pair<std::string, at::Tensor>> parameters, OptimizerOptions options);

    /// One step from the gradients the parameters carry; those are dropped. A parameter without one is left alone.
    /// @param on_device  the same rate in device memory [1]: a step that is recorded reads it there
    void step(double learning_rate, const at::Tensor& on_device = {});
    /// Norm of all gradients at the last step, before clipping; a tensor on the device, so that asking for it waits and
    /// not asking does not.
    const at::Tensor& gradient_norm() const { return norm_; }
    std::int64_t steps() const { return steps_; }

    /// What Adam keeps of a parameter, for who takes the step in its place and says so.
    struct Moments {
        at::Tensor weight, first, second, count;
    };
    Moments moments(const std::string& name) const;
    void stepped_elsewhere() { ++steps_; }
    const OptimizerOptions& options() const { return options_; }

    /// Puts the running average into the model (to measure or to save it), and the trained weights back.
    void show_average();
    void show_weights();
    /// The running average in fp32, or the weights when none is kept.
    std::vector<std::pair<std::string, at::Tensor>> average() const;

    /// Everything needed to go on, by name: "weight.NAME", "first.NAME", "second.NAME", "average.NAME", fp32.
    std::vector<std::pair<std::string, at::Tensor>> state() const;
    /// Takes a state back. @error BadInput  a tensor is missing or has another shape
    Status restore(const std::vector<std::pair<std::string, at::Tensor>>& state, std::int64_t steps);

  private:
    void muon_update(const std::vector<at::Tensor>& gradients, const std::vector<std::size_t>& which,
                     double learning_rate);

    OptimizerOptions options_;
    std::vector<std::string> names_;
    std::vector<at::Tensor> parameters_;  // the model's
    std::vector<at::Tensor> weights_;     // fp32; the same tensors as parameters_ when the model is fp32
    std::vector<at::Tensor> first_, second_, average_, count_;
    std::vector<bool> decayed_, orthogonal_;
    bool separate_ = false;  // weights_ are copies
    at::Tensor norm_;
    std::int64_t steps_ = 0;
};

/// Learning rate at a step: linear warm-up to `peak`, then half a cosine down to `peak * floor`.
double learning_rate_at(std::int64_t step, std::int64_t steps, std::int64_t warmup, double peak, double floor);

/// The orthogonal factor of each matrix, roughly: five steps of the quintic Newton-Schulz iteration. [batch, rows,
/// cols]
at::Tensor orthogonalised(const at::Tensor& matrices);

}  // namespace vitrine
