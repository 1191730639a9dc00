// Opens a copy of the model, trains, and turns tensors into what a panel draws.
#include "mask_training.h"

#include <sys/resource.h>
#include <unistd.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sigmoid.h>

#include <vitrine/engine.h>
#include <vitrine/torch_errors.h>
#include <vitrine/train_mask.h>

namespace vitrine::app {

namespace fs = std::filesystem;

namespace {

/// What the panel calls the trainer's settings, and what they are counted in where the trainer does not say.
struct Caption {
    const char *name, *words, *unit;
};
constexpr Caption kCaptions[] = {
    {"layers", "Layers", ""},
    {"version", "Version", ""},
    {"policy", "Hidden parts", ""},
    {"masking", "Masks weighed", ""},
    {"mode", "Mode", ""},
    {"epochs", "Passes", ""},
    {"steps", "Steps", ""},
    {"batch", "Batch", "pictures"},
    {"lr", "Learning rate", ""},
    {"weight_decay", "Weight decay", ""},
    {"cross_entropy", "Answer weight", ""},
    {"area", "Area weight", ""},
    {"smooth", "Roughness weight", ""},
    {"flip", "Chance of mirroring", ""},
    {"held", "Share held out", ""},
    {"side", "Side before crop", "pixels"},
    {"seed", "Seed", ""},
    {"preview_every", "Preview every", "steps"},
    {"checkpoint_seconds", "Checkpoint every", "s"},
    {"best_every", "Check for the best every", "steps"},
    {"report_seconds", "Report every", "s"},
    {"floor", "Timed passes", ""},
    {"precision", "Number format", ""},
};

/// A checkpoint's refusal names the setting that differs as files do; the panel has its own name for it.
Error in_panel(Error error) {
    for (const auto& one : kCaptions) {
        const auto there = fmt::format("trained with {} =", one.name);
        if (const auto at = error.message.find(there); at != std::string::npos)
            error.message.replace(at, there.size(), fmt::format("trained with “{}” =", one.words));
    }
    return error;
}

class Preview {
  public:
    Preview(Model& model, const PreviewPicture& picture) : model_(model), picture_(picture) {}

    MaskPreview of(const MaskModule& mask, std::int64_t step) {
        auto made = guarded([&] { return look(mask); });
        MaskPreview out;
        if (made)
            out = std::move(*made);
        else
            out.trouble = made.error().message;
        out.step = step;
        return out;
    }

  private:
    Result<MaskPreview> look(const MaskModule& mask) {
        const at::NoGradGuard no_grad;
        const auto file = picture_.get();
        if (file.empty()) return fail(ErrorCode::NotFound, "open a picture to see its mask here");
        if (file != file_ || !mask.backbone.empty()) {
            // A frozen model shows the same of a picture, unless its running statistics move.
            const WithStatistics scope(mask.backbone);
            auto input = VITRINE_TRY(load_input(file, model_.preprocess()));
            const auto parameters = model_.parameters();
            const auto type = parameters.empty() ? at::kFloat : parameters.front().second.scalar_type();
            features_ = VITRINE_TRY(mask_features(model_, input.pixels.to(model_.device(), type), mask.config()));
            seen_ = std::make_shared<const Image>(std::move(input.seen));
            file_ = file;
        }
        const auto index = features_.answer[0].argmax().item<std::int64_t>();
        const auto classes = at::full({1}, index, at::TensorOptions().dtype(at::kLong).device(model_.device()));
        const auto map = at::sigmoid(mask.logits(features_.maps, classes))[0][0].to(at::kCPU, at::kFloat).contiguous();
        const auto* values = map.const_data_ptr<float>();
        MaskPreview out;
        out.label = model_.labels().name(index);
        out.mask = make_plane(map.size(0), map.size(1), {values, values + map.numel()}, false, false);
        out.coverage = map.mean().item<double>();
        out.seen.data = seen_->pixels.data();
        out.seen.width = seen_->width;
        out.seen.height = seen_->height;
        out.seen.row_bytes = seen_->width * 3;
        out.seen.keep_alive = seen_;
        return out;
    }

    Model& model_;
    const PreviewPicture& picture_;
    fs::path file_;
    MaskFeatures features_;
    std::shared_ptr<const Image> seen_;
};

/// What would be found out only after a while.
Status can_be_done(const MaskPlan& plan) {
    std::error_code failed;
    if (!fs::exists(plan.data, failed)) return fail(ErrorCode::NotFound, "there is nothing at {}", plan.data.string());
    const auto folder = plan.out.parent_path();
    if (!fs::is_directory(folder, failed))
        return fail(ErrorCode::NotFound, "{} cannot be written: there is no folder {}", plan.out.filename().string(),
                    folder.string());
    if (access(folder.c_str(), W_OK) != 0)
        return fail(ErrorCode::Io, "{} cannot be written: the folder {} is read-only", plan.out.filename().string(),
                    folder.string());
    if (fs::is_directory(plan.out, failed)) return fail(ErrorCode::BadInput, "{} is a folder", plan.out.string());
    return {};
}

}  // namespace

std::vector<SettingFacts> mask_settings() {
    std::vector<SettingFacts> out;
    for (const auto& parameter : mask_parameters()) {
        out.push_back(setting_of(parameter));
        for (const auto& one : kCaptions) {
            if (parameter.name != one.name) continue;
            out.back().caption = one.words;
            out.back().unit = one.unit;
        }
    }
    return out;
}

fs::path checkpoint_of(const fs::path& out) { return out.string() + ".checkpoint"; }

fs::path aside_of(const fs::path& out) {
    std::error_code ignored;
    for (int i = 1;; ++i) {
        auto name =
            out.stem().string() + (i == 1 ? "-before" : fmt::format("-before-{}", i)) + out.extension().string();
        auto file = out.parent_path() / name;
        if (!fs::exists(file, ignored) && !fs::exists(checkpoint_of(file), ignored)) return file;
    }
}

Result<MaskOutcome> MaskTrainer::train(const MaskPlan& plan, const PreviewPicture& picture, std::stop_token stop,
                                       const MaskReports& reports) {
    // What the person looks at goes first. The threads that this one starts for its sums inherit it.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
    VITRINE_CHECK(can_be_done(plan));
    reports.doing("Opening a copy of the model", 0, 0);
    OpenOptions open;
    open.trust = true;  // asked for when the window opened it
    const auto model = VITRINE_TRY(open_model(plan.model, open));
    if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    reports.doing("Looking at the pictures", 0, 0);
    Preview preview(*model, picture);
    TrainMaskOptions options;
    options.data = plan.data;
    options.out = plan.out;
    options.settings.assign(plan.settings.begin(), plan.settings.end());
    options.stop = stop;
    options.decoding = [&](const Progress& p) { reports.doing("Decoding pictures", p.done, p.total); };
    options.progress = [&](const MaskStep& s) {
        reports.moment({s.step, s.steps, s.total, s.cross_entropy, s.area, s.smooth, s.coverage, s.agreement,
                        s.learning_rate, s.pictures_per_second, s.seconds_left, s.note});
    };
    options.preview = [&](const MaskModule& mask, std::int64_t step) { reports.preview(preview.of(mask, step)); };
    auto trained = train_mask(*model, options);
    if (!trained) return tl::make_unexpected(in_panel(std::move(trained.error())));
    // The last preview is of the file itself.
    if (trained->finished)
        if (const auto mask = MaskModule::load(plan.out)) reports.preview(preview.of(*mask, trained->steps));
    MaskOutcome out;
    out.finished = trained->finished;
    out.steps = trained->steps;
    out.pictures = trained->pictures;
    out.parameters = trained->parameters;
    out.size_bytes = trained->size_bytes;
    out.layers = std::move(trained->layers);
    out.skipped = std::move(trained->skipped);
    out.notes = std::move(trained->notes);
    out.curve = std::move(trained->curve);
    out.held = trained->held.pictures;
    out.agreement = trained->held.agreement;
    out.coverage = trained->held.coverage;
    out.average_drop = trained->held.average_drop;
    out.increase = trained->held.increase;
    return out;
}

}  // namespace vitrine::app
