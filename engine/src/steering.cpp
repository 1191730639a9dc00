// Steered models: a wrapper whose every run has the edit of the concepts standing in it.
#include "steering_model.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <vitrine/torch_errors.h>

#include "intercept.h"

namespace vitrine {

namespace {

/// How many codes of tokens exist at once, 128 MiB of floats.
constexpr std::int64_t kCodesAtOnce = std::int64_t{1} << 25;

/// All edits as one line a latent: f' = f * factor + offset. Both [latents], undefined where nothing is edited.
struct Edited {
    at::Tensor factor, offset;
};

Edited edited_by(const Steering& steering, at::Device device) {
    const std::int64_t latents = steering.autoencoder.config().latents;
    const auto lines = edited_lines(steering);
    if (lines.empty()) return {};
    Edited out{at::ones({latents}), at::zeros({latents})};
    for (const auto& [index, line] : lines) {
        out.factor[index].fill_(line.first);
        out.offset[index].fill_(line.second);
    }
    const at::ScalarType type = steering.autoencoder.tensor("W_enc").scalar_type();
    out.factor = out.factor.to(device, type);
    out.offset = out.offset.to(device, type);
    return out;
}

/// Leaves a run with a reason.
[[noreturn]] void refuse(const std::string& why) {
    if (Recorder* recorder = Recorder::current()) recorder->leave({ErrorCode::Unsupported, why});
    throw c10::Error({__func__, __FILE__, __LINE__}, why);
}

std::uint64_t next_number() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
}

class SteeredModel final : public Model {
  public:
    SteeredModel(std::shared_ptr<Model> inner, SteeredPoint point, Steering steering)
        : inner_(std::move(inner)), point_(point), steering_(std::move(steering)) {
        info_ = inner_->info();
        preprocess_ = inner_->preprocess();
        labels_ = inner_->labels();
        place();
        if (!edited_.factor.defined()) return;
        // Coding has products, norms and choices in it: rules for rectifiers alone no longer cover the model.
        info_.relu_only = false;
        info_.notes.push_back(sentence_of(steering_));
    }

    at::Tensor forward(const at::Tensor& pixels) override {
        return whole(place_of(pixels.size(2), pixels.size(3)), [&] { return inner_->forward(pixels); });
    }
    at::Tensor forward_kept(const at::Tensor& pixels, const at::Tensor& kept) override {
        return whole(place_of(pixels.size(2), pixels.size(3), kept),
                     [&] { return inner_->forward_kept(pixels, kept); });
    }
    std::optional<Chain> chain(std::int64_t height, std::int64_t width) override {
        auto chain = inner_->chain(height, width);
        if (!chain || !edited_.factor.defined()) return chain;
        const SteeredPlace place = place_of(height, width);
        const auto steered = [this, place](const auto& part) {
            return [this, place, part](const auto&... given) {
                return with_edit(place, [&] { return part(given...); }).first;
            };
        };
        chain->begin = steered(chain->begin);
        chain->block = steered(chain->block);
        chain->end = steered(chain->end);
        return chain;
    }
    bool has_chain() const override { return inner_->has_chain(); }
    std::optional<std::string> no_layer_answer() const override {
        if (edited_.factor.defined() && point_.behind_blocks)
            return fmt::format("its concepts are steered at {}, behind the last block",
                               steering_.autoencoder.config().point);
        return inner_->no_layer_answer();
    }
    at::Tensor layer_answer(const at::Tensor& tokens, const TokenLayout& layout) const override {
        return inner_->layer_answer(tokens, layout);
    }
    TokenLayout layout(std::int64_t height, std::int64_t width) const override { return inner_->layout(height, width); }
    std::vector<NamedPoint> points() const override { return inner_->points(); }
    std::optional<std::string> no_token_removal() const override { return inner_->no_token_removal(); }
    std::vector<std::pair<std::string, at::Tensor>> parameters() override { return inner_->parameters(); }
    void to(at::Device device, at::ScalarType dtype) override {
        inner_->to(device, dtype);
        remembered.reset();  // recordings read the edits where they lay
        info_.size_bytes = inner_->info().size_bytes;
        place();
    }
    bool is_native() const override { return inner_->is_native(); }

    const std::shared_ptr<Model>& inner() const { return inner_; }
    const SteeredPoint& point() const { return point_; }
    bool changes() const { return edited_.factor.defined(); }
    const Steering& steering() const { return steering_; }
    std::uint64_t number() const { return number_; }

  private:
    /// The concepts where the weights are.
    void place() {
        steering_.autoencoder.to(inner_->device());
        edited_ = edited_by(steering_, inner_->device());
        if (!edited_.factor.defined()) return;
        mask_ = mask_of(steering_);
        if (mask_.defined()) mask_ = mask_.to(inner_->device());
    }
    SteeredPlace place_of(std::int64_t height, std::int64_t width, const at::Tensor& kept = {}) const {
        return {inner_->layout(height, width), kept, mask_};
    }

    at::Tensor change(const at::Tensor& tokens) const {
        const Autoencoder& autoencoder = steering_.autoencoder;
        const auto of = [&](const at::Tensor& rows) {
            const Codes codes = autoencoder.encode(rows);
            return autoencoder.difference(codes.active * edited_.factor + edited_.offset, codes);
        };
        const std::int64_t piece = std::max<std::int64_t>(1, kCodesAtOnce / autoencoder.config().latents);
        if (tokens.size(0) <= piece) return of(tokens);
        std::vector<at::Tensor> parts;
        for (const at::Tensor& rows : tokens.split(piece)) parts.push_back(of(rows));
        return at::cat(parts);
    }

    /// What `run` gives with the edit standing, and whether it passed the point.
    template <class Run>
    std::pair<at::Tensor, bool> with_edit(const SteeredPlace& place, const Run& run) const {
        const StandingEdit edit(steering_.autoencoder.config().point, [&](const at::Tensor& x) {
            return with_change(x, steering_, point_, place, [&](const at::Tensor& rows) { return change(rows); });
        });
        // A traced model has points only while someone listens.
        if (inner_->is_native() || Recorder::current() != nullptr) {
            at::Tensor out = run();
            return {std::move(out), edit.used()};
        }
        CaptureOptions options;
        options.mixings = false;
        Recorder recorder(options);
        const Listening listening(recorder);
        at::Tensor out = run();
        return {std::move(out), edit.used()};
    }

    template <class Run>
    at::Tensor whole(const SteeredPlace& place, const Run& run) const {
        if (!edited_.factor.defined()) return run();
        auto [out, used] = with_edit(place, run);
        if (!used)
            refuse(fmt::format("{} did not pass its point {}, where its concepts are steered", info_.name,
                               steering_.autoencoder.config().point));
        return out;
    }

    std::shared_ptr<Model> inner_;
    SteeredPoint point_;
    Steering steering_;
    Edited edited_;
    at::Tensor mask_;
    std::uint64_t number_ = next_number();
};

const SteeredModel* as_steered(const Model& model) { return dynamic_cast<const SteeredModel*>(&model); }

}  // namespace

std::map<std::int64_t, std::pair<double, double>> edited_lines(const Steering& steering) {
    std::map<std::int64_t, std::pair<double, double>> lines;
    for (const ConceptEdit& edit : steering.edits) {
        auto& [factor, offset] = lines.try_emplace(edit.index, 1.0, 0.0).first->second;
        switch (edit.mode) {
            case ConceptEdit::Mode::Set:
                factor = 0, offset = edit.value;
                break;
            case ConceptEdit::Mode::Add:
                offset += edit.value;
                break;
            case ConceptEdit::Mode::Scale:
                factor *= edit.value, offset *= edit.value;
                break;
            case ConceptEdit::Mode::Suppress:
                factor = offset = 0;
                break;
        }
    }
    std::erase_if(lines, [](const auto& line) { return line.second == std::pair{1.0, 0.0}; });
    return lines;
}

std::vector<PatchBox> boxes_of(std::vector<std::int64_t> patches, std::int64_t cols) {
    std::sort(patches.begin(), patches.end());
    std::vector<PatchBox> out;
    for (const std::int64_t patch : patches) {
        const std::int64_t row = patch / cols, col = patch % cols;
        if (!out.empty() && out.back().row0 == row && col <= out.back().col1 + 1)
            out.back().col1 = col;
        else
            out.push_back({row, col, row, col});
    }
    return out;
}

std::string sentence_of(const Steering& steering) {
    std::vector<std::string> parts;
    for (const ConceptEdit& edit : steering.edits) {
        if (parts.size() == 8) {
            parts.push_back(fmt::format("and {} more", steering.edits.size() - parts.size()));
            break;
        }
        switch (edit.mode) {
            case ConceptEdit::Mode::Set:
                parts.push_back(fmt::format("concept {} set to {:.4g}", edit.index, edit.value));
                break;
            case ConceptEdit::Mode::Add:
                parts.push_back(fmt::format("{:.4g} added to concept {}", edit.value, edit.index));
                break;
            case ConceptEdit::Mode::Scale:
                parts.push_back(fmt::format("concept {} times {:.4g}", edit.index, edit.value));
                break;
            case ConceptEdit::Mode::Suppress:
                parts.push_back(fmt::format("concept {} suppressed", edit.index));
                break;
        }
    }
    if (parts.empty()) return "no concept is steered";
    std::int64_t chosen = 0;
    for (const PatchBox& box : steering.boxes) chosen += (box.row1 - box.row0 + 1) * (box.col1 - box.col0 + 1);
    std::string where = fmt::format(" at {}", steering.autoencoder.config().point);
    switch (steering.tokens) {
        case Steering::Tokens::All:
            break;
        case Steering::Tokens::Class:
            where += ", on the class token";
            break;
        case Steering::Tokens::Patches:
            where += ", on the patches";
            break;
        case Steering::Tokens::Chosen:
            where += fmt::format(", on {} patch{}", chosen, chosen == 1 ? "" : "es");
            break;
    }
    return fmt::format("{}{}", fmt::join(parts, ", "), where);
}

Result<SteeredPoint> steered_point(Model& model, const Autoencoder& autoencoder) {
    return guarded([&]() -> Result<SteeredPoint> {
        const at::NoGradGuard no_grad;
        const Preprocess& p = model.preprocess();
        const at::Tensor nothing = at::zeros({1, 3, p.input_height, p.input_width});
        const PointTokens tokens = VITRINE_TRY(point_tokens(model, nothing, autoencoder.config()));
        VITRINE_CHECK(autoencoder.fits_weights(model));
        SteeredPoint out;
        out.prefix = std::ssize(tokens.prefix);
        out.rows = tokens.rows;
        out.cols = tokens.cols;
        out.class_token = !tokens.prefix.empty() && tokens.prefix.front() == "cls";
        if (auto chain = model.chain(p.input_height, p.input_width)) {
            const StandingEdit seen(autoencoder.config().point, [](const at::Tensor& x) { return x; });
            const at::Tensor begun = chain->begin(nothing);
            const bool before = seen.used();
            chain->end(begun);
            out.behind_blocks = !before && seen.used();
        }
        return out;
    });
}

Status check_steering(const Model& model, const SteeredPoint& point, Steering& steering) {
    const AutoencoderConfig& config = steering.autoencoder.config();
    for (const ConceptEdit& edit : steering.edits) {
        if (edit.index < 0 || edit.index >= config.latents)
            return fail(ErrorCode::BadInput, "there is no concept {}, the file has 0 to {}", edit.index,
                        config.latents - 1);
        if (!(std::abs(edit.value) < 1e30))
            return fail(ErrorCode::BadInput, "concept {} is to be changed by {}, expected a finite number", edit.index,
                        edit.value);
    }
    using Tokens = Steering::Tokens;
    if (config.tokens == "class" && (steering.tokens == Tokens::Patches || steering.tokens == Tokens::Chosen))
        return fail(ErrorCode::Unsupported, "these concepts are of the class token alone: no patch can be steered");
    if (config.tokens == "patches" && steering.tokens == Tokens::Class)
        return fail(ErrorCode::Unsupported, "these concepts are of patches alone: the class token cannot be steered");
    if (steering.tokens == Tokens::All && config.tokens != "all")
        steering.tokens = config.tokens == "class" ? Tokens::Class : Tokens::Patches;
    if (steering.tokens == Tokens::Class && !point.class_token)
        return fail(ErrorCode::Unsupported, "{} of {} has no class token that could be steered", config.point,
                    model.info().name);
    if (steering.tokens != Tokens::Chosen) {
        steering.boxes.clear();
        steering.rows = steering.cols = 0;
    }
    if ((steering.tokens == Tokens::Patches || steering.tokens == Tokens::Chosen) && point.rows == 0)
        return fail(ErrorCode::Unsupported, "which tokens of {} are patches is not known; steer all tokens",
                    config.point);
    if (steering.tokens != Tokens::Chosen) return {};
    if (steering.rows == 0 && steering.cols == 0) steering.rows = point.rows, steering.cols = point.cols;
    if (steering.rows != point.rows || steering.cols != point.cols)
        return fail(ErrorCode::BadInput, "the patches to steer are of a grid of {} x {}, and {} has {} x {}",
                    steering.rows, steering.cols, config.point, point.rows, point.cols);
    if (steering.boxes.empty())
        return fail(ErrorCode::BadInput, "chosen patches are to be steered, and none is chosen");
    for (const PatchBox& box : steering.boxes)
        if (box.row0 < 0 || box.col0 < 0 || box.row1 < box.row0 || box.col1 < box.col0 || box.row1 >= steering.rows ||
            box.col1 >= steering.cols)
            return fail(ErrorCode::BadInput, "the patches {},{} to {},{} are no box of a grid of {} x {}", box.row0,
                        box.col0, box.row1, box.col1, steering.rows, steering.cols);
    return {};
}

at::Tensor mask_of(const Steering& steering) {
    if (steering.tokens != Steering::Tokens::Chosen) return {};
    at::Tensor mask = at::zeros({steering.rows, steering.cols});
    for (const PatchBox& box : steering.boxes)
        mask.slice(0, box.row0, box.row1 + 1).slice(1, box.col0, box.col1 + 1).fill_(1);
    return mask.flatten();
}

at::Tensor with_change(const at::Tensor& x, const Steering& steering, const SteeredPoint& point,
                       const SteeredPlace& place, const std::function<at::Tensor(const at::Tensor&)>& change) {
    const bool map = x.dim() == 4;
    // A pass on some patches: those are the tokens, except before they were taken.
    const bool some = place.kept.defined() && !map && x.size(1) == point.prefix + place.kept.size(1) &&
                      (point.prefix > 0 || place.layout.prefix_count() == 0);
    const at::Tensor tokens = map ? x.flatten(2).transpose(1, 2) : x;
    const std::int64_t all = tokens.size(1);
    std::int64_t from = 0, count = all;
    if (steering.tokens == Steering::Tokens::Class) count = 1;
    if (!map && (steering.tokens == Steering::Tokens::Patches || steering.tokens == Steering::Tokens::Chosen)) {
        from = point.prefix;
        count = all - from;
        const std::int64_t patches = some ? place.kept.size(1) : place.layout.rows * place.layout.cols;
        if (count != patches)
            refuse(fmt::format("{} has {} tokens behind the prefix and {} patches: which to steer is not known",
                               steering.autoencoder.config().point, count, patches));
    }
    const at::Tensor rows = tokens.narrow(1, from, count);
    at::Tensor by = change(rows.reshape({-1, rows.size(2)})).view({rows.size(0), count, rows.size(2)});
    if (steering.tokens == Steering::Tokens::Chosen) {
        const std::int64_t grid_rows = map ? x.size(2) : place.layout.rows, cols = map ? x.size(3) : place.layout.cols;
        if (grid_rows != steering.rows || cols != steering.cols)
            refuse(fmt::format("the patches to steer are of a grid of {} x {}, and this input has {} x {}",
                               steering.rows, steering.cols, grid_rows, cols));
        at::Tensor mask = place.mask.to(by.options().requires_grad(false));
        mask = some ? mask.index({place.kept.to(mask.device())}) : mask.unsqueeze(0);
        by = by * mask.unsqueeze(2);
    }
    by = by.to(x.device());
    if (count != all) by = at::constant_pad_nd(by, {0, 0, from, all - from - count});
    if (map) by = by.transpose(1, 2).reshape(x.sizes());
    return (x + by).to(x.scalar_type());
}

Result<std::unique_ptr<Model>> steered(std::shared_ptr<Model> model, Steering steering) {
    if (!model) return fail(ErrorCode::BadInput, "there is no model to steer");
    if (steering.autoencoder.tensors().empty() && steering.edits.empty())
        return std::make_unique<SteeredModel>(std::move(model), SteeredPoint{}, std::move(steering));
    auto found = steered_point(*model, steering.autoencoder);
    if (!found && !steering.file.empty())
        return tl::make_unexpected(std::move(found.error()).with_context(steering.file.filename().string()));
    const SteeredPoint point = VITRINE_TRY(std::move(found));
    VITRINE_CHECK(check_steering(*model, point, steering));
    return std::make_unique<SteeredModel>(std::move(model), point, std::move(steering));
}

Result<std::unique_ptr<Model>> steered_again(const Model& model, std::vector<ConceptEdit> edits,
                                             Steering::Tokens tokens, std::vector<PatchBox> boxes) {
    const SteeredModel* before = as_steered(model);
    if (before == nullptr) return fail(ErrorCode::BadInput, "{} is not steered", model.info().name);
    Steering steering = before->steering();
    steering.edits = std::move(edits);
    steering.tokens = tokens;
    steering.boxes = std::move(boxes);
    steering.rows = steering.cols = 0;
    VITRINE_CHECK(check_steering(*before->inner(), before->point(), steering));
    return std::make_unique<SteeredModel>(before->inner(), before->point(), std::move(steering));
}

const Steering* steering_of(const Model& model) {
    const SteeredModel* steered = as_steered(model);
    return steered == nullptr ? nullptr : &steered->steering();
}

std::uint64_t steering_number(const Model& model) {
    const SteeredModel* steered = as_steered(model);
    return steered == nullptr ? 0 : steered->number();
}

std::string changes_of(const Model& model) {
    std::vector<std::string> parts;
    for (const SteeredModel* it = as_steered(model); it != nullptr; it = as_steered(*it->inner()))
        if (it->changes()) parts.push_back(sentence_of(it->steering()));
    return fmt::format("{}", fmt::join(parts, "; "));
}

std::shared_ptr<Model> unsteered(const Model& model) {
    const SteeredModel* steered = as_steered(model);
    return steered == nullptr ? nullptr : steered->inner();
}

}  // namespace vitrine
