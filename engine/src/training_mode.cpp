// Batch norm and dropout as a training run sees them, on statistics that the run owns.
#include <vitrine/training_mode.h>

#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/empty.h>

#include <vitrine/base/random.h>
#include <vitrine/peers.h>

#include "shared_sums.h"

namespace vitrine {

namespace {

constexpr double kMomentum = 0.1;  // torch.nn.BatchNorm2d
constexpr std::uint64_t kDropout = 0x64726f70;

struct Scope {
    TrainingMode* mode = nullptr;
    const NormStatistics* statistics = nullptr;
    RunOfStep run;
    std::int64_t drops = 0;  // dropouts passed under this scope: two runs of a step drop differently
};
thread_local Scope scope;

const at::Tensor& kept(const NormStatistics& statistics, const std::string& name, const at::Tensor& own) {
    const auto found = statistics.find(name);
    TORCH_CHECK(found != statistics.end(), "the statistics kept in training lack ", name);
    TORCH_CHECK(found->second.sizes() == own.sizes(), "the statistics kept in training have ", name, " of ",
                found->second.sizes(), ", expected ", own.sizes());
    return found->second;
}

}  // namespace

InTrainingMode::InTrainingMode(TrainingMode* mode, RunOfStep run)
    : before_{scope.mode, const_cast<NormStatistics*>(scope.statistics)},
      run_before_(scope.run),
      drops_before_(scope.drops) {
    if (mode != nullptr) scope = {mode, nullptr, run, 0};
}

InTrainingMode::~InTrainingMode() {
    scope = {static_cast<TrainingMode*>(before_[0]), static_cast<NormStatistics*>(before_[1]), run_before_,
             drops_before_};
}

WithStatistics::WithStatistics(const NormStatistics& statistics)
    : before_{scope.mode, const_cast<NormStatistics*>(scope.statistics)} {
    if (statistics.empty()) return;
    scope.mode = nullptr;
    scope.statistics = &statistics;
}

WithStatistics::~WithStatistics() {
    scope.mode = static_cast<TrainingMode*>(before_[0]);
    scope.statistics = static_cast<NormStatistics*>(before_[1]);
}

at::Tensor batch_norm_as_run(std::string_view name, const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& bias, const at::Tensor& running_mean, const at::Tensor& running_var,
                             double eps) {
    if (scope.mode == nullptr && scope.statistics == nullptr)
        return at::batch_norm(x, weight, bias, running_mean, running_var, false, 0.0, eps, false);
    const std::string mean_name = std::string(name) + ".running_mean", var_name = std::string(name) + ".running_var";
    // In float32 at the least: running statistics in half precision would not move by a tenth.
    const at::ScalarType type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor precise = x.to(type), w = weight.to(type), b = bias.to(type);
    at::Tensor y;
    if (scope.statistics != nullptr) {
        y = at::batch_norm(precise, w, b, kept(*scope.statistics, mean_name, running_mean).to(x.device(), type),
                           kept(*scope.statistics, var_name, running_var).to(x.device(), type), false, 0.0, eps, false);
    } else {
        auto& statistics = scope.mode->statistics;
        for (const auto& [key, own] : {std::pair{&mean_name, &running_mean}, std::pair{&var_name, &running_var}})
            if (statistics.count(*key) == 0) statistics.emplace(*key, own->detach().to(type, false, /*copy=*/true));
        const at::Tensor &mean = kept(statistics, mean_name, running_mean),
                         &var = kept(statistics, var_name, running_var);
        Peers* peers = scope.mode->peers;
        if (scope.run.batch == 0) {
            y = at::batch_norm(precise, w, b, mean, var, false, 0.0, eps, false);
        } else if (peers != nullptr && peers->count() > 1) {
            y = shared_batch_norm(precise, w, b, mean, var, kMomentum, eps, *peers);
        } else {
            TORCH_CHECK(x.numel() > x.size(1), "a batch norm in training mode needs more than one number a channel, ",
                        name, " is given ", x.sizes());
            y = at::batch_norm(precise, w, b, mean, var, true, kMomentum, eps, false);
        }
    }
    return y.to(x.scalar_type());
}

at::Tensor dropout_as_run(const at::Tensor& x, double rate) {
    if (scope.mode == nullptr || scope.run.batch == 0 || rate <= 0) return x;
    // Drawn for the whole batch on the CPU: the same on every device and for any number of processes.
    const std::uint64_t key =
        mix64(mix64(scope.mode->seed ^ kDropout) + mix64(static_cast<std::uint64_t>(scope.run.step)) +
              static_cast<std::uint64_t>(scope.drops++));
    auto generator = at::make_generator<at::CPUGeneratorImpl>(key);
    const at::Tensor stays = at::empty({scope.run.batch, x.size(1)}).bernoulli_(1 - rate, generator) / (1 - rate);
    return x * stays.narrow(0, scope.run.from, x.size(0)).to(x.device(), x.scalar_type());
}

void cannot_be_in_training_mode(std::string_view why) {
    if (scope.mode != nullptr) scope.mode->refused = why;
}

}  // namespace vitrine
