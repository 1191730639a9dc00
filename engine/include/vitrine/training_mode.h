// A frozen model in training mode, as published trainers leave it: batch norms use the batch's statistics and keep
// running ones, dropout drops. The model that was opened is not touched: who runs it owns the statistics.
//
//     TrainingMode mode;
//     { const InTrainingMode scope(mode, {.step = 3, .batch = 8}); model.forward(pixels); }    // statistics move
//     { const WithStatistics scope(mode.statistics); model.forward(pixels); }                  // evaluation by them
//
// Scopes hold for the thread that made them. Native models ask here (batch_norm_as_run, dropout_as_run); a program of
// TorchScript does as it was exported.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace vitrine {

class Peers;

/// float32 [channels] by the names of torch's files: "layer4.2.bn3.running_mean", "layer4.2.bn3.running_var".
using NormStatistics = std::map<std::string, at::Tensor>;

struct TrainingMode {
    NormStatistics statistics;  ///< of every norm that ran, from the model's own on
    std::uint64_t seed = 0;     ///< what dropout drops follows from it, the step and the place
    Peers* peers = nullptr;     ///< the processes whose pictures together are the batch; null: this one alone
    std::string refused;        ///< why the model that ran cannot be in training mode
};

/// Which pictures of which step a run sees.
struct RunOfStep {
    std::int64_t step = 0;
    /// The run's pictures are batch[from, from + its own). Without a batch the model runs in evaluation form, and the
    /// statistics that are not there yet are copied from it: that lists them.
    std::int64_t from = 0, batch = 0;
};

/// While it lives, models on this thread run in training mode.
class InTrainingMode {
  public:
    /// @param mode  null: nothing changes
    InTrainingMode(TrainingMode* mode, RunOfStep run);
    ~InTrainingMode();
    InTrainingMode(const InTrainingMode&) = delete;
    InTrainingMode& operator=(const InTrainingMode&) = delete;

  private:
    void* before_[2];
    RunOfStep run_before_;
    std::int64_t drops_before_;
};

/// While it lives, batch norms on this thread use these statistics in place of the model's own; empty: the model's own.
/// They are borrowed.
class WithStatistics {
  public:
    explicit WithStatistics(const NormStatistics& statistics);
    explicit WithStatistics(NormStatistics&&) = delete;
    ~WithStatistics();
    WithStatistics(const WithStatistics&) = delete;
    WithStatistics& operator=(const WithStatistics&) = delete;

  private:
    void* before_[2];
};

// ---- what native models call
// --------------------------------------------------------------------------------------------

/// torch.nn.BatchNorm2d: in evaluation form, or as the scope around says. Momentum 0.1, the running variance unbiased.
///
/// @param name  the norm's, "layer4.2.bn3"
/// @param x     [batch, channels, rows, cols]
at::Tensor batch_norm_as_run(std::string_view name, const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& bias, const at::Tensor& running_mean, const at::Tensor& running_var,
                             double eps);
/// torch.nn.Dropout: x, but in training mode, where numbers become 0 with this chance and the others grow by 1 / (1 -
/// rate).
///
/// @param x  [batch, width]
at::Tensor dropout_as_run(const at::Tensor& x, double rate);
/// Says that this model cannot run in training mode; heard only there.
void cannot_be_in_training_mode(std::string_view why);

}  // namespace vitrine
