// What explainers share: one captured run of one picture, and the explained number of many changed ones.
#include <vitrine/explainer.h>

#include <algorithm>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/nonzero.h>

#include <vitrine/torch_errors.h>

namespace vitrine {

ExplainContext::ExplainContext(Model& model_, const Input& input_, Target target_, std::uint64_t seed_)
    : model(model_), input(input_), target(std::move(target_)), seed(seed_) {}

Result<std::shared_ptr<const Capture>> ExplainContext::capture(bool maps) {
    if (!capture_) {
        CaptureOptions options;
        options.maps = maps;
        options.memory_budget = memory_budget;
        options.stop = stop;
        capture_ = VITRINE_TRY(run_captured(model, input.pixels, options));
    }
    return capture_;
}

Result<Objective> ExplainContext::objective(Scale standard) {
    // A class that was named needs no run; a reference is compared with the answer.
    const bool needs_answer = (!target.index && target.region.empty()) || target.reference.defined();
    at::Tensor answer;
    if (needs_answer) answer = capture_ ? capture_->output : VITRINE_TRY(run(model, input.pixels, stop));
    return objective_of(model, target, answer, standard);
}

std::int64_t ExplainContext::batch_size() const {
    if (batch > 0) return batch;
    // On a processor larger batches only leave the caches (ViT-Ti, two cores: 8 and 32 pictures a pass run alike); a
    // device wants many. Large inputs are bounded by their own pixels.
    const std::int64_t pixels = input.pixels.defined() ? input.pixels.size(2) * input.pixels.size(3) : 224 * 224;
    return std::max<std::int64_t>(1,
                                  (model.device().is_cpu() ? 8 : 64) * 224 * 224 / std::max<std::int64_t>(pixels, 1));
}

namespace {

/// The answer, or the activation that the objective reads.
Result<std::shared_ptr<const Capture>> run_for(ExplainContext& context, const Objective& objective,
                                               const at::Tensor& pixels, bool gradients) {
    CaptureOptions options;
    options.mixings = false;
    options.gradients = gradients;
    options.stop = context.stop;
    if (!objective.point.empty()) options.points = {objective.point};
    return run_captured(context.model, pixels, options);
}

}  // namespace

Result<at::Tensor> answer_of(const Capture& capture, const Objective& objective, const Model& model) {
    if (objective.point.empty()) return capture.output;
    const auto found = capture.points.find(objective.point);
    if (found == capture.points.end())
        return fail(ErrorCode::BadInput, "{} has no point named {}", model.info().name, objective.point);
    const at::Tensor& x = found->second;
    const std::int64_t cells = x.dim() == 4 ? x.size(2) * x.size(3) : x.size(1);
    const std::int64_t last = *std::max_element(objective.region.begin(), objective.region.end());
    if (last >= cells)
        return fail(ErrorCode::BadInput, "token {} is not there: {} has {}, from 0 to {}", last, objective.point, cells,
                    cells - 1);
    return x;
}

Result<at::Tensor> ExplainContext::scores(const Objective& objective, const at::Tensor& pixels) {
    return scores(objective, pixels.size(0),
                  [&](std::int64_t from, std::int64_t count) { return pixels.narrow(0, from, count); });
}

Result<at::Tensor> ExplainContext::scores(
    const Objective& objective, std::int64_t count,
    const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& make) {
    const at::NoGradGuard no_grad;
    at::Tensor out = at::empty({count}, at::kFloat);
    const std::int64_t step = batch_size();
    for (std::int64_t from = 0; from < count; from += step) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const std::int64_t some = std::min(step, count - from);
        at::Tensor answer;
        if (objective.point.empty()) {
            answer = VITRINE_TRY(run(model, make(from, some), stop));
        } else {
            const auto capture = VITRINE_TRY(run_for(*this, objective, make(from, some), false));
            answer = VITRINE_TRY(answer_of(*capture, objective, model));
        }
        out.narrow(0, from, some).copy_(objective.of(answer));
        if (progress) progress({from + some, count, "pictures"});
    }
    return out;
}

Result<at::Tensor> ExplainContext::scores_of_kept(const Objective& objective, const at::Tensor& kept) {
    if (auto why = model.no_token_removal()) return fail(ErrorCode::Unsupported, "{}", *why);
    if (!objective.point.empty())
        return fail(ErrorCode::Unsupported,
                    "a region's activation has no place to be read from when patches are left out");
    const TokenLayout layout = model.layout(input.pixels.size(2), input.pixels.size(3));
    if (kept.dim() != 2 || kept.scalar_type() != at::kBool || kept.size(1) != layout.rows * layout.cols)
        return fail(ErrorCode::BadInput, "the patches to keep are [{}], expected [count, {}] of true and false",
                    fmt::join(kept.sizes(), ", "), layout.rows * layout.cols);
    const std::int64_t count = kept.size(0);
    const at::Tensor counts = kept.sum(1).to(at::kCPU).contiguous();
    const auto* number = counts.const_data_ptr<std::int64_t>();
    // Only rows of equal length make a batch: nothing is padded, so nothing has to be masked again.
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return number[a] < number[b]; });
    if (count > 0 && number[order.front()] < 1)
        return fail(ErrorCode::BadInput, "all patches are left out in row {}, and a model needs one to read",
                    order.front());
    const at::NoGradGuard no_grad;
    at::Tensor out = at::empty({count}, at::kFloat);
    auto* result = out.mutable_data_ptr<float>();
    const auto step = static_cast<std::size_t>(batch_size());
    for (std::size_t from = 0; from < order.size();) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        std::size_t to = from + 1;
        while (to < order.size() && to - from < step && number[order[to]] == number[order[from]]) ++to;
        std::vector<at::Tensor> rows;
        for (std::size_t i = from; i < to; ++i) rows.push_back(at::nonzero(kept[order[i]]).reshape({1, -1}));
        const auto length = static_cast<std::int64_t>(to - from);
        const at::Tensor answer = VITRINE_TRY(guarded([&]() -> Result<at::Tensor> {
            return model.forward_kept(input.pixels.expand({length, -1, -1, -1}), at::cat(rows));
        }));
        const at::Tensor found = objective.of(answer).to(at::kCPU).contiguous();
        for (std::size_t i = from; i < to; ++i) result[order[i]] = found.const_data_ptr<float>()[i - from];
        from = to;
        if (progress) progress({static_cast<std::int64_t>(from), count, "pictures"});
    }
    return out;
}

Status ExplainContext::slopes(
    const Objective& objective, std::int64_t count,
    const std::function<at::Tensor(std::int64_t from, std::int64_t count)>& make,
    const std::function<void(std::int64_t picture, double score, const at::Tensor& gradient)>& fold) {
    const std::int64_t step = batch_size();
    for (std::int64_t from = 0; from < count; from += step) {
        if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const std::int64_t some = std::min(step, count - from);
        const auto capture = VITRINE_TRY(run_for(*this, objective, make(from, some), true));
        const at::AutoGradMode with_graph(true);
        const at::Tensor numbers = objective.of(VITRINE_TRY(answer_of(*capture, objective, model)));
        // Pictures of a batch do not see each other, so the gradient of the sum holds each one's own.
        const auto found = VITRINE_TRY(gradients(numbers.sum(), {capture->input}, {"the picture"}));
        const at::Tensor scores = numbers.detach().to(at::kCPU), slopes = found.front().to(at::kCPU, at::kFloat);
        const at::NoGradGuard no_grad;
        for (std::int64_t i = 0; i < some; ++i) fold(from + i, scores[i].item<double>(), slopes[i]);
        if (progress) progress({from + some, count, "pictures"});
    }
    return {};
}

Result<ExplainContext::Slopes> ExplainContext::slopes(const Objective& objective, const at::Tensor& pixels) {
    Slopes out{at::empty({pixels.size(0)}, at::kFloat), at::empty(pixels.sizes(), at::kFloat)};
    VITRINE_CHECK(slopes(
        objective, pixels.size(0), [&](std::int64_t from, std::int64_t count) { return pixels.narrow(0, from, count); },
        [&](std::int64_t i, double score, const at::Tensor& gradient) {
            out.scores[i].fill_(score);
            out.gradients[i].copy_(gradient);
        }));
    return out;
}

Result<at::Tensor> as_grid(const at::Tensor& activation, const TokenLayout& layout) {
    if (activation.dim() == 4) return activation;
    if (activation.dim() != 3)
        return fail(ErrorCode::Unsupported, "an activation of shape [{}] is no map",
                    fmt::join(activation.sizes(), ", "));
    if (!layout.known()) return fail(ErrorCode::Unsupported, "{}", layout.unknown);
    const std::int64_t patches = layout.rows * layout.cols;
    const std::int64_t prefix = activation.size(1) == patches ? 0 : layout.prefix_count();
    if (activation.size(1) != patches + prefix)
        return fail(ErrorCode::Unsupported, "an activation of {} tokens does not fit a grid of {} x {} and {} others",
                    activation.size(1), layout.rows, layout.cols, layout.prefix_count());
    return activation.narrow(1, prefix, patches)
        .transpose(1, 2)
        .reshape({activation.size(0), activation.size(2), layout.rows, layout.cols});
}

}  // namespace vitrine
