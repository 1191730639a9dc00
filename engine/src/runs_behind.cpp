// Runs what lies behind a named point.
#include <vitrine/runs_behind.h>

#include <charconv>
#include <string_view>

namespace vitrine {

Result<RunsBehind> RunsBehind::make(ExplainContext& context, std::string point, bool whole) {
    RunsBehind out(context, std::move(point));
    Model& model = context.model;
    constexpr std::string_view kBlock = "blocks.";
    if (out.point_.starts_with(kBlock) && model.has_chain() && !whole) {
        const char* end = out.point_.data() + out.point_.size();
        if (std::from_chars(out.point_.data() + kBlock.size(), end, out.block_).ec != std::errc()) out.block_ = -1;
    }
    if (out.block_ >= 0) out.chain_ = model.chain(context.input.pixels.size(2), context.input.pixels.size(3));
    if (out.chain_ && out.block_ < out.chain_->blocks) {
        CaptureOptions options;
        options.mixings = false;
        options.stop = context.stop;
        const auto begun = VITRINE_TRY(run_captured(
            [&](const at::Tensor& pixels) {
                at::Tensor x = out.chain_->begin(pixels);
                for (std::int64_t i = 0; i < out.block_; ++i) x = out.chain_->block(i, x);
                return x;
            },
            context.input.pixels, options));
        out.before_ = begun->output;
    }
    // Convolutional networks take from the point on as many as they are given, whatever came before.
    out.shared_ = out.before_.defined() || (model.is_native() && model.info().layers == 0);
    return out;
}

Result<std::shared_ptr<const Capture>> RunsBehind::run(std::int64_t count,
                                                       std::function<at::Tensor(const at::Tensor&)> replace,
                                                       std::vector<std::string> points) {
    Edit edit;
    edit.kind = Edit::Kind::ReplacePoint;
    edit.where = point_;
    edit.replace = std::move(replace);
    CaptureOptions options;
    options.mixings = false;
    options.stop = context_->stop;
    options.edits = {std::move(edit)};
    options.points = std::move(points);
    if (!before_.defined())
        return run_captured(context_->model, context_->input.pixels.expand({shared_ ? 1 : count, -1, -1, -1}), options);
    return run_captured(
        [&](const at::Tensor& start) {
            at::Tensor x = start;
            for (std::int64_t i = block_; i < chain_->blocks; ++i) x = chain_->block(i, x);
            return chain_->end(x);
        },
        before_, options);
}

}  // namespace vitrine
