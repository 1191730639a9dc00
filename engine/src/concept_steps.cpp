// One step of training a sparse autoencoder, and what it starts from.
#include "concept_steps.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace vitrine {

namespace {

/// Up to here float32 counts exactly, in which a checkpoint is read back.
constexpr std::int64_t kLongestSilence = (1 << 24) - 1;

at::Tensor row_lengths(const at::Tensor& rows) { return at::linalg_vector_norm(rows, 2, {1}, /*keepdim=*/true); }

}  // namespace

at::Tensor geometric_median(const at::Tensor& points, int iterations) {
    const at::NoGradGuard no_grad;
    at::Tensor centre = points.mean(0, true);
    for (int i = 0; i < iterations; ++i) {
        const at::Tensor weight = row_lengths(points - centre).clamp_min(1e-8).reciprocal();
        const at::Tensor next = (points * weight).sum(0, true) / weight.sum();
        const bool settled = row_lengths(next - centre).item<double>() <= 1e-7 * row_lengths(centre).item<double>();
        centre = next;
        if (settled) break;
    }
    return centre.squeeze(0);
}

Result<ConceptSteps> ConceptSteps::make(AutoencoderConfig config, ConceptStepsOptions options,
                                        const at::Tensor& sample) {
    const at::NoGradGuard no_grad;
    if (!sample.defined() || sample.dim() != 2 || sample.size(0) < 1)
        return fail(ErrorCode::BadInput, "there are no tokens to begin with");
    if (config.normalise == "expected_average") {
        const double length = row_lengths(sample).mean().item<double>();
        config.scale = length > 0 ? std::sqrt(static_cast<double>(sample.size(1))) / length : 1;
    }
    Autoencoder fresh = VITRINE_TRY(Autoencoder::make(std::move(config), options.seed));
    fresh.to(sample.device());
    // The bias is subtracted from tokens as they are encoded, normalised.
    const Codes codes = fresh.encode(sample.narrow(0, 0, std::min<std::int64_t>(sample.size(0), 4096)));
    at::Tensor seen = sample.narrow(0, 0, codes.before.size(0));
    if (codes.shift.defined()) seen = seen - codes.shift;
    if (codes.scale.defined())
        seen = seen / at::where(codes.scale > 0, codes.scale, at::full({1}, 1.0, seen.options()));
    at::Tensor bias = fresh.tensor("b_dec");
    bias.copy_(geometric_median(seen));
    if (options.objective.convention == "openai" && options.objective.variance == 0)
        options.objective.variance = (sample - sample.mean(0, true)).square().mean().item<double>();
    return ConceptSteps(std::move(fresh), std::move(options));
}

ConceptSteps::ConceptSteps(Autoencoder autoencoder, ConceptStepsOptions options)
    : autoencoder_(std::move(autoencoder)), options_(std::move(options)) {
    const AutoencoderConfig& config = autoencoder_.config();
    std::vector<std::pair<std::string, at::Tensor>> trained;
    for (const auto& [name, tensor] : autoencoder_.tensors()) {
        if (name != "threshold") {
            trained.emplace_back(name, tensor);
        } else if (config.kind == "jump_relu") {
            log_threshold_ = tensor.detach().log();
            trained.emplace_back("log_threshold", log_threshold_);
            at::Tensor threshold = tensor;
            threshold.set_requires_grad(true);
        } else {
            threshold_ = tensor.detach().to(at::kDouble);
        }
    }
    optimizer_ = std::make_unique<Optimizer>(
        std::move(trained), OptimizerOptions{.epsilon = options_.epsilon, .weight_decay = 0, .clip = 1, .average = 0});
    silent_ = at::zeros({config.latents}, autoencoder_.tensor("W_dec").options().dtype(at::kLong).requires_grad(false));
}

void ConceptSteps::unit_rows() {
    const at::NoGradGuard no_grad;
    at::Tensor rows = autoencoder_.tensor("W_dec").detach();
    rows.div_(row_lengths(rows).clamp_min(1e-12));
}

/// The least number that is still chosen, smoothed: what decides where there is no batch.
void ConceptSteps::follow_threshold(const at::Tensor& active) {
    const at::NoGradGuard no_grad;
    const at::Tensor least =
        at::where(active > 0, active, at::full({1}, std::numeric_limits<float>::infinity(), active.options()))
            .min()
            .to(at::kDouble);
    const double rate = options_.threshold_rate;
    threshold_.copy_(at::where(at::isfinite(least), (1 - rate) * threshold_ + rate * least, threshold_));
    autoencoder_.tensor("threshold").detach().copy_(threshold_);
}

at::Tensor ConceptSteps::step(const at::Tensor& tokens) {
    const AutoencoderConfig& config = autoencoder_.config();
    unit_rows();
    if (log_threshold_.defined()) {
        const at::NoGradGuard no_grad;
        autoencoder_.tensor("threshold").detach().copy_(log_threshold_.detach().exp());
    }
    const at::Tensor dead = silent_ > options_.dead_window;
    const auto prefixes =
        options_.prefixes > 1
            ? prefix_lengths(config.latents, options_.prefixes,
                             options_.seed + 0x9E3779B97F4A7C15U * static_cast<std::uint64_t>(taken_ + 1))
            : std::vector<std::int64_t>{};
    const at::AutoGradMode with_graph(true);
    const Codes codes = training_codes(autoencoder_, tokens, options_.objective);
    const ConceptLoss loss = concept_loss(autoencoder_, tokens, codes, options_.objective, dead, prefixes);
    loss.total.backward();

    const at::NoGradGuard no_grad;
    const at::Tensor& decoder = autoencoder_.tensor("W_dec");
    if (at::Tensor slope = decoder.grad(); slope.defined()) {
        // What would only lengthen a row is undone by the next step anyway, and would upset Adam's moments.
        const at::Tensor rows = decoder.detach();
        slope.sub_((slope * rows).sum(1, true) * rows);
    }
    if (log_threshold_.defined()) {
        at::Tensor threshold = autoencoder_.tensor("threshold");
        if (threshold.grad().defined()) log_threshold_.mutable_grad() = threshold.grad() * threshold.detach();
        threshold.mutable_grad() = at::Tensor();
    }
    const at::Tensor heard = codes.active.detach().gt(0).any(0);
    silent_.add_(tokens.size(0)).masked_fill_(heard, 0).clamp_max_(kLongestSilence);
    if (threshold_.defined()) follow_threshold(codes.active.detach());
    optimizer_->step(learning_rate_at(taken_, options_.steps, options_.warmup, options_.learning_rate, 0));
    ++taken_;
    if (taken_ == options_.steps) {
        unit_rows();
        if (log_threshold_.defined()) autoencoder_.tensor("threshold").detach().copy_(log_threshold_.detach().exp());
    }

    const at::Tensor x = tokens.to(at::kFloat);
    const at::Tensor error = (loss.reconstructed.detach().to(at::kFloat) - x).square().sum();
    const at::Tensor spread = (x - x.mean(0, true)).square().sum().clamp_min(1e-30);
    return at::stack({loss.total.detach().to(at::kFloat), loss.reconstruction.detach().to(at::kFloat),
                      loss.sparsity.detach().to(at::kFloat), loss.revival.detach().to(at::kFloat), 1 - error / spread,
                      codes.active.detach().ne(0).sum(1).to(at::kFloat).mean(), dead.to(at::kFloat).mean()});
}

std::vector<std::pair<std::string, at::Tensor>> ConceptSteps::state() const {
    auto out = optimizer_->state();
    out.emplace_back("silent", silent_);
    if (threshold_.defined()) {  // three floats hold a double to the bit, and files are read as float32
        const at::Tensor high = threshold_.to(at::kFloat), middle = (threshold_ - high).to(at::kFloat);
        out.emplace_back("smoothed_threshold", at::cat({high, middle, (threshold_ - high - middle).to(at::kFloat)}));
    }
    return out;
}

Status ConceptSteps::restore(const std::vector<std::pair<std::string, at::Tensor>>& state, std::int64_t steps) {
    VITRINE_CHECK(optimizer_->restore(state, steps));
    const at::NoGradGuard no_grad;
    const auto given = [&](const char* name, std::int64_t count) -> Result<at::Tensor> {
        for (const auto& [own, tensor] : state)
            if (own == name && tensor.dim() == 1 && tensor.size(0) == count) return tensor;
        return fail(ErrorCode::BadInput, "the training checkpoint lacks {}", name);
    };
    silent_.copy_(VITRINE_TRY(given("silent", silent_.size(0))));
    if (threshold_.defined()) {
        threshold_.copy_(VITRINE_TRY(given("smoothed_threshold", 3)).to(at::kDouble).sum(0, true));
        autoencoder_.tensor("threshold").detach().copy_(threshold_);
    }
    if (log_threshold_.defined()) autoencoder_.tensor("threshold").detach().copy_(log_threshold_.detach().exp());
    taken_ = steps;
    return {};
}

}  // namespace vitrine
