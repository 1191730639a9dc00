// Total Sobol indices of concepts, and the runs that they are estimated from.
#include <vitrine/concept_importance.h>

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_sobol_engine_draw.h>
#include <ATen/ops/_sobol_engine_initialize_state.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <vitrine/runs_behind.h>
#include <vitrine/torch_errors.h>

namespace vitrine {

namespace {

constexpr std::int64_t kMostDimensions = 512;

/// The first numbers of each prime's digits turned about the point. float64 [count, dimensions]
at::Tensor halton(std::int64_t count, std::int64_t dimensions) {
    at::Tensor out = at::zeros({count, dimensions}, at::kDouble);
    auto* to = out.mutable_data_ptr<double>();
    std::int64_t prime = 1;
    for (std::int64_t d = 0; d < dimensions; ++d) {
        for (bool composite = true; composite;) {
            ++prime;
            composite = false;
            for (std::int64_t f = 2; f * f <= prime && !composite; ++f) composite = prime % f == 0;
        }
        for (std::int64_t i = 0; i < count; ++i) {
            double part = 1;
            for (std::int64_t left = i; left > 0; left /= prime) {
                part /= static_cast<double>(prime);
                to[i * dimensions + d] += static_cast<double>(left % prime) * part;
            }
        }
    }
    return out;
}

at::Tensor sobol(std::int64_t count, std::int64_t dimensions) {
    constexpr std::int64_t kBits = 30;
    at::Tensor state = at::zeros({dimensions, kBits}, at::kLong);
    at::_sobol_engine_initialize_state_(state, dimensions);
    const at::Tensor first = at::zeros({1, dimensions}, at::kDouble);
    if (count == 1) return first;
    const at::Tensor rest = std::get<0>(
        at::_sobol_engine_draw(at::zeros({dimensions}, at::kLong), count - 1, state, dimensions, 0, at::kDouble));
    return at::cat({first, rest});
}

}  // namespace

Result<at::Tensor> replicated_design(std::int64_t dimensions, std::int64_t designs, const std::string& sequence) {
    if (dimensions < 1 || dimensions > kMostDimensions || designs < 2)
        return fail(ErrorCode::BadInput, "a design has 1 to {} dimensions and 2 points or more, found {} and {}",
                    kMostDimensions, dimensions, designs);
    if (sequence != "halton" && sequence != "sobol")
        return fail(ErrorCode::BadInput, "the sequence is '{}', expected halton or sobol", sequence);
    return guarded([&]() -> Result<at::Tensor> {
        const at::Tensor points =
            (sequence == "halton" ? halton(designs, 2 * dimensions) : sobol(designs, 2 * dimensions)).to(at::kFloat);
        const at::Tensor a = points.narrow(1, 0, dimensions), b = points.narrow(1, dimensions, dimensions);
        std::vector<at::Tensor> out{a, b};
        for (std::int64_t i = 0; i < dimensions; ++i) {
            out.push_back(a.clone());
            out.back().select(1, i).copy_(b.select(1, i));
        }
        return at::cat(out);
    });
}

at::Tensor total_indices(const at::Tensor& answers, std::int64_t dimensions, std::int64_t designs) {
    const at::Tensor y = answers.to(at::kCPU, at::kDouble);
    const at::Tensor a = y.narrow(0, 0, designs),
                     c = y.narrow(0, 2 * designs, dimensions * designs).view({dimensions, designs});
    return (a - c).square().sum(1) / (2.0 * static_cast<double>(designs) * a.var(/*unbiased=*/true).clamp_min(1e-12));
}

Result<at::Tensor> answers_with(ExplainContext& context, const Objective& objective, const std::string& point,
                                std::int64_t count,
                                const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& make) {
    return guarded([&]() -> Result<at::Tensor> {
        const at::NoGradGuard no_grad;
        if (!objective.point.empty())
            return fail(ErrorCode::Unsupported,
                        "the activation of a region may lie before the concepts: explain a class");
        Model& model = context.model;
        RunsBehind behind = VITRINE_TRY(RunsBehind::make(context, point));
        const std::int64_t step = std::min(context.batch_size(), count);
        at::Tensor out = at::empty({count}, at::kDouble);
        for (std::int64_t from = 0; from < count; from += step) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const std::int64_t some = std::min(step, count - from);
            const auto run = VITRINE_TRY(behind.run(
                some, [&](const at::Tensor& x) { return make(from, some).to(x.device(), x.scalar_type()); }));
            if (run->output.size(0) != some)
                return fail(ErrorCode::Unsupported, "{} does not take several activations at {} at once",
                            model.info().name, point);
            out.narrow(0, from, some).copy_(objective.of(run->output));
            if (context.progress) context.progress({from + some, count, "runs"});
        }
        return out;
    });
}

}  // namespace vitrine
