// Activations by layer, and runs that begin at a block.
#include "views.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

namespace vitrine::plugin::views {

std::string point_name(std::int64_t layer, const char* part) {
    return fmt::format("blocks.{}{}{}", layer, *part == '\0' ? "" : ".", part);
}

Result<std::int64_t> layer_of(const Model& model, std::int64_t asked) {
    const std::int64_t layers = model.info().layers;
    if (asked < -layers || asked >= layers)
        return fail(ErrorCode::BadInput, "layer {} is not there: {} has {} layers", asked, model.info().name, layers);
    return asked < 0 ? asked + layers : asked;
}

Parameter layer_parameter(std::int64_t standard, std::string meaning, std::string source) {
    return {"layer", standard, std::move(meaning), "", std::move(source), {}, {}, {}};
}

Result<std::shared_ptr<const Capture>> look(ExplainContext& context, const at::Tensor& pixels,
                                            std::vector<std::string> points, bool mixings) {
    CaptureOptions options;
    options.mixings = mixings;
    options.points = points;
    options.memory_budget = context.memory_budget;
    options.stop = context.stop;
    const auto seen = VITRINE_TRY(run_captured(context.model, pixels, options));
    for (const std::string& name : points)
        if (seen->points.count(name) == 0)
            return fail(ErrorCode::Unsupported, "{} did not pass {}", context.model.info().name, name);
    return seen;
}

Result<Objective> answer_objective(const ExplainContext& context, const at::Tensor& answer) {
    if (!context.target.region.empty())
        return fail(ErrorCode::Unsupported, "this method cannot explain a region: {}", kFromTheAnswer);
    return objective_of(context.model, context.target, answer);
}

std::optional<std::string> needs_blocks(const Model& model) {
    if (model.info().layers == 0) return model.info().name + " has no attention layers";
    if (!model.is_native()) return "the blocks of a traced model cannot be run one by one";
    if (!model.has_chain()) return "the blocks of " + model.info().name + " cannot be run one by one";
    return std::nullopt;
}

Result<Blocks> Blocks::make(ExplainContext& context, const Capture& seen) {
    const at::Tensor& pixels = context.input.pixels;
    return guarded([&]() -> Result<Blocks> {
        const at::NoGradGuard no_grad;
        auto chain = context.model.chain(pixels.size(2), pixels.size(3));
        if (!chain) return fail(ErrorCode::Internal, "{} has no chain of blocks", context.model.info().name);
        Blocks out;
        out.chain_ = std::move(*chain);
        out.inputs_.push_back(out.chain_.begin(pixels));
        for (std::int64_t block = 0; block + 1 < out.chain_.blocks; ++block)
            out.inputs_.push_back(seen.points.at(point_name(block)));
        return out;
    });
}

Result<at::Tensor> Blocks::answers(ExplainContext& context, std::int64_t block, std::int64_t count,
                                   const std::string& point,
                                   const std::function<at::Tensor(const at::Tensor&)>& replace) const {
    if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    Edit edit;
    edit.kind = Edit::Kind::ReplacePoint;
    edit.where = point;
    edit.replace = replace;
    CaptureOptions options;
    options.mixings = false;
    options.stop = context.stop;
    options.edits = {edit};
    const auto run = VITRINE_TRY(run_captured(
        [&](const at::Tensor& start) {
            at::Tensor x = start;
            for (std::int64_t i = block; i < chain_.blocks; ++i) x = chain_.block(i, x);
            return chain_.end(x);
        },
        input(block).expand({count, -1, -1}), options));
    return run->output;
}

Result<at::Tensor> Blocks::end(const at::Tensor& x) const {
    return guarded([&]() -> Result<at::Tensor> {
        const at::NoGradGuard no_grad;
        return chain_.end(x);
    });
}

std::int64_t passes_of(std::int64_t blocks, std::int64_t depth) { return (blocks + depth - 1) / depth; }

Result<at::Tensor> patches_of(const at::Tensor& tokens, const TokenLayout& layout) {
    const at::Tensor grid = VITRINE_TRY(as_grid(tokens.reshape({1, -1, 1}), layout));
    if (grid.size(2) * grid.size(3) == 0) return fail(ErrorCode::Unsupported, "there are no patches to draw a map of");
    return grid[0][0].to(at::kCPU, at::kFloat).contiguous();
}

}  // namespace vitrine::plugin::views
