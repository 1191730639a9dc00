// How far a concept moves the answer, beside other concepts and random directions.
#include "steering_model.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/topk.h>

#include <vitrine/base/random.h>
#include <vitrine/capture.h>
#include <vitrine/torch_errors.h>

namespace vitrine {

namespace {

constexpr std::uint64_t kLatents = 0x6c6174, kDirections = 0x646972;

/// [rows, width] at a value -> what is added to the rows
using Moved = std::function<at::Tensor(const at::Tensor& rows, double value)>;

class Followed {
  public:
    Followed(Model& model, const Steering& steering, const SteeredPoint& point, const at::Tensor& pixels,
             const SteerabilityOptions& options)
        : model_(model), steering_(steering), point_(point), pixels_(pixels), options_(options) {}

    Status start() {
        const at::Tensor logits = VITRINE_TRY(run(model_, pixels_, options_.stop));
        mask_ = mask_of(steering_);
        before_ = at::log_softmax(logits[0].to(at::kCPU, at::kDouble), 0);
        five_ = top_five(before_);
        return {};
    }
    std::int64_t top() const { return five_[0]; }
    double probability() const { return std::exp(before_[top()].item<double>()); }

    Result<std::vector<SteeredAnswer>> follow(const Moved& moved) {
        std::vector<SteeredAnswer> out;
        // One run answers all values, where the model takes batches.
        if (model_.is_native()) {
            const at::Tensor answers = VITRINE_TRY(answered(options_.values, moved));
            for (std::size_t i = 0; i < options_.values.size(); ++i)
                out.push_back(compared(options_.values[i], answers[static_cast<std::int64_t>(i)]));
            return out;
        }
        for (const double value : options_.values)
            out.push_back(compared(value, VITRINE_TRY(answered({value}, moved))[0]));
        return out;
    }

  private:
    static std::vector<std::int64_t> top_five(const at::Tensor& answer) {
        const at::Tensor which = std::get<1>(at::topk(answer, std::min<std::int64_t>(5, answer.numel())));
        return {which.const_data_ptr<std::int64_t>(), which.const_data_ptr<std::int64_t>() + which.numel()};
    }

    Result<at::Tensor> answered(const std::vector<double>& values, const Moved& moved) {
        CaptureOptions options;
        options.mixings = false;
        options.stop = options_.stop;
        Edit edit;
        edit.kind = Edit::Kind::ReplacePoint;
        edit.where = steering_.autoencoder.config().point;
        const SteeredPlace place{model_.layout(pixels_.size(2), pixels_.size(3)), {}, mask_};
        edit.replace = [&, place](const at::Tensor& x) {
            std::vector<at::Tensor> parts;
            for (const double value : values)
                parts.push_back(with_change(x, steering_, point_, place,
                                            [&](const at::Tensor& rows) { return moved(rows, value); }));
            return at::cat(parts);
        };
        options.edits = {edit};
        const auto seen = VITRINE_TRY(run_captured(model_, pixels_, options));
        return at::log_softmax(seen->output.to(at::kCPU, at::kDouble), 1);
    }

    SteeredAnswer compared(double value, const at::Tensor& now) const {
        const std::vector<std::int64_t> five = top_five(now);
        SteeredAnswer out;
        out.value = value;
        out.divergence = (before_.exp() * (before_ - now)).sum().item<double>();
        for (const std::int64_t one : five_) out.changed += std::find(five.begin(), five.end(), one) == five.end();
        out.top = five[0];
        out.probability = std::exp(now[five_[0]].item<double>());
        return out;
    }

    Model& model_;
    const Steering& steering_;
    const SteeredPoint& point_;
    const at::Tensor& pixels_;
    const SteerabilityOptions& options_;
    at::Tensor before_, mask_;
    std::vector<std::int64_t> five_;
};

}  // namespace

at::Tensor set_latent(const Autoencoder& autoencoder, const at::Tensor& rows, std::int64_t index, double to) {
    const Codes codes = autoencoder.encode(rows);
    at::Tensor changed = codes.active.clone();
    changed.select(1, index).fill_(to);
    return autoencoder.difference(changed, codes);
}

at::Tensor set_along(const Autoencoder& autoencoder, const at::Tensor& rows, std::int64_t index, double to,
                     const at::Tensor& direction) {
    const at::Tensor row = autoencoder.tensor("W_dec").select(0, index);
    const at::Tensor own = row / at::linalg_vector_norm(row).clamp_min(1e-30);
    return set_latent(autoencoder, rows, index, to).matmul(own.unsqueeze(1)) * direction;
}

Result<at::Tensor> largest_codes(Model& model, const at::Tensor& pixels, const Autoencoder& autoencoder,
                                 std::stop_token stop) {
    return guarded([&]() -> Result<at::Tensor> {
        const at::NoGradGuard no_grad;
        const at::Tensor tokens = VITRINE_TRY(concept_tokens(model, pixels, autoencoder.config(), std::move(stop)));
        at::Tensor out;
        for (const at::Tensor& rows : tokens.reshape({-1, tokens.size(2)}).split(1024)) {
            const at::Tensor most = autoencoder.encode(rows).active.amax(0);
            out = out.defined() ? at::maximum(out, most) : most;
        }
        return out.to(at::kCPU, at::kFloat);
    });
}

Result<Steerability> steerability(Model& model, const Steering& asked, const at::Tensor& pixels,
                                  const SteerabilityOptions& options) {
    return guarded([&]() -> Result<Steerability> {
        const at::NoGradGuard no_grad;
        Steering steering = asked;
        steering.edits = {{options.index, ConceptEdit::Mode::Suppress, 0}};
        steering.autoencoder.to(model.device());
        const SteeredPoint point = VITRINE_TRY(steered_point(model, steering.autoencoder));
        VITRINE_CHECK(check_steering(model, point, steering));
        if (model.info().classes == 0)
            return fail(ErrorCode::Unsupported, "{} has no classes whose probabilities could move", model.info().name);
        if (pixels.dim() != 4 || pixels.size(0) != 1)
            return fail(ErrorCode::BadInput, "one picture is followed at a time, expected [1, 3, height, width]");
        const Autoencoder& autoencoder = steering.autoencoder;
        const std::int64_t latents = autoencoder.config().latents;
        if (!options.units.empty() && std::ssize(options.units) != latents)
            return fail(ErrorCode::BadInput, "{} units were given for {} latents", options.units.size(), latents);

        Steerability out;
        out.unit = options.unit;
        if (out.unit == 0) {
            const at::Tensor most = VITRINE_TRY(largest_codes(model, pixels, autoencoder, options.stop));
            out.unit = most[options.index].item<double>();
        }
        if (!std::isfinite(out.unit) || out.unit <= 0)
            return fail(ErrorCode::BadInput,
                        "concept {} is silent on this picture: give the largest that it is elsewhere as its unit",
                        options.index);

        std::set<std::int64_t> others;
        const std::int64_t wanted = std::min(options.random_latents, latents - 1);
        for (std::uint64_t draw = 0; std::ssize(others) < wanted; ++draw) {
            const auto one = static_cast<std::int64_t>(random_bits(options.seed, kLatents, draw) %
                                                       static_cast<std::uint64_t>(latents));
            if (one != options.index) others.insert(one);
        }
        const std::int64_t total = 2 + wanted + options.random_directions;
        std::int64_t done = 0;
        const auto step = [&] {
            if (options.progress) options.progress(++done, total);
        };
        Followed followed(model, steering, point, pixels, options);
        VITRINE_CHECK(followed.start());
        out.top = followed.top();
        out.probability = followed.probability();
        step();
        out.latent.index = options.index;
        out.latent.points = VITRINE_TRY(followed.follow([&](const at::Tensor& rows, double value) {
            return set_latent(autoencoder, rows, options.index, value * out.unit);
        }));
        step();
        for (const std::int64_t other : others) {
            const double unit = options.units.empty() ? out.unit : options.units[static_cast<std::size_t>(other)];
            out.random_latents.push_back({other, VITRINE_TRY(followed.follow([&](const at::Tensor& rows, double value) {
                                              return set_latent(autoencoder, rows, other, value * unit);
                                          }))});
            step();
        }
        for (std::int64_t i = 0; i < options.random_directions; ++i) {
            at::Tensor direction =
                at::randn({autoencoder.config().width}, at::make_generator<at::CPUGeneratorImpl>(random_bits(
                                                            options.seed, kDirections, static_cast<std::uint64_t>(i))));
            direction = (direction / at::linalg_vector_norm(direction)).to(autoencoder.tensor("W_dec").options());
            // As far as the concept takes each token.
            out.random_directions.push_back({-1, VITRINE_TRY(followed.follow([&](const at::Tensor& rows, double value) {
                                                 return set_along(autoencoder, rows, options.index, value * out.unit,
                                                                  direction);
                                             }))});
            step();
        }
        return out;
    });
}

}  // namespace vitrine
