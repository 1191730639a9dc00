// Opens a copy of the model, trains, and turns tensors into what a panel draws.
#include "training.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <initializer_list>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sigmoid.h>

#include <vitrine/engine.h>
#include <vitrine/torch_errors.h>
#include <vitrine/train_concepts.h>
#include <vitrine/train_mask.h>

namespace vitrine::app {

namespace fs = std::filesystem;

namespace {

/// What the panel calls the trainers' settings, and what they are counted in where the trainer does not say.
struct Caption {
    const char *name, *words, *unit = "";
};
constexpr Caption kCaptions[] = {
    {"layers", "Layers"},
    {"version", "Version"},
    {"policy", "Hidden parts"},
    {"masking", "Masks weighed"},
    {"mode", "Mode"},
    {"point", "Layer and point"},
    {"tokens", "Tokens read"},
    {"rung", "Pictures trained at"},
    {"kind", "Kind"},
    {"latents", "Concepts"},
    {"k", "Active a token"},
    {"preset", "Trained as by"},
    {"normalise", "Normalised by"},
    {"convention", "Loss after"},
    {"sparsity", "Sparsity weight"},
    {"form", "Sparsity term"},
    {"band", "Width of gradients"},
    {"revive", "Silent ones"},
    {"revive_k", "Revived at once"},
    {"revive_weight", "Weight of reviving"},
    {"dead_tokens", "Silent after"},
    {"dead_steps", "Silent after, in steps", "steps"},
    {"start", "Starts from"},
    {"rows", "Decoder rows"},
    {"weigh_by_decoder", "Row lengths count"},
    {"keep_negative", "Negative codes stay"},
    {"subtract_bias", "Bias taken off first"},
    {"pull", "Pull on thresholds"},
    {"threshold_rate", "Threshold follows by"},
    {"lr_end", "Rate left at the end"},
    {"epsilon", "Adam's epsilon"},
    {"clip", "Gradients clipped at"},
    {"shuffled_weights", "Weights shuffled by"},
    {"prefixes", "Nested sizes"},
    {"epochs", "Passes"},
    {"steps", "Steps"},
    {"batch", "Batch", "pictures"},
    {"lr", "Learning rate"},
    {"warmup", "Warm-up", "steps"},
    {"buffer", "Mixed in"},
    {"pictures", "Run at once"},
    {"weight_decay", "Weight decay"},
    {"cross_entropy", "Answer weight"},
    {"area", "Area weight"},
    {"smooth", "Roughness weight"},
    {"flip", "Chance of mirroring"},
    {"held", "Share held out"},
    {"held_every", "Look at held ones every", "steps"},
    {"side", "Side before crop", "pixels"},
    {"seed", "Seed"},
    {"preview_every", "Preview every", "steps"},
    {"checkpoint_seconds", "Checkpoint every", "s"},
    {"best_every", "Check for the best every", "steps"},
    {"report_seconds", "Report every", "s"},
    {"floor", "Timed passes"},
    {"precision", "Number format"},
    {"products", "Matrix products"},
    {"negative", "Numbers below zero"},
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
Status can_be_done(const TrainingPlan& plan) {
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

template <class Options>
Options options_of(const TrainingPlan& plan, const std::stop_token& stop) {
    Options options;
    options.data = plan.data;
    options.out = plan.out;
    options.settings.assign(plan.settings.begin(), plan.settings.end());
    options.stop = stop;
    return options;
}

/// What both trainers tell at the end; their curves differ in length.
template <class Summary>
TrainingOutcome outcome_of(const Summary& trained) {
    TrainingOutcome out;
    out.finished = trained.finished;
    out.steps = trained.steps;
    out.pictures = trained.pictures;
    out.skipped = trained.skipped;
    out.held = trained.held.pictures;
    out.agreement = trained.held.agreement;
    out.curve.reserve(trained.curve.size());
    for (const auto& step : trained.curve) std::copy(step.begin(), step.end(), out.curve.emplace_back().begin());
    return out;
}

TrainingFigures figures(std::initializer_list<double> values) {
    TrainingFigures out{};
    std::transform(values.begin(), values.end(), out.begin(), [](double v) { return static_cast<float>(v); });
    return out;
}

Result<TrainingOutcome> mask_of(Model& model, const TrainingPlan& plan, const PreviewPicture& picture,
                                const std::stop_token& stop, const TrainingReports& reports) {
    Preview preview(model, picture);
    auto options = options_of<TrainMaskOptions>(plan, stop);
    options.decoding = [&](const Progress& p) { reports.doing("Decoding pictures", p.done, p.total); };
    options.progress = [&](const MaskStep& s) {
        reports.moment({s.step, s.steps, figures({s.total, s.cross_entropy, s.area, s.smooth, s.coverage}), s.agreement,
                        s.learning_rate, s.pictures_per_second, s.seconds_left, s.note, std::nullopt});
    };
    options.preview = [&](const MaskModule& mask, std::int64_t step) { reports.preview(preview.of(mask, step)); };
    const auto trained = VITRINE_TRY(train_mask(model, options));
    // The last preview is of the file itself.
    if (trained.finished)
        if (const auto mask = MaskModule::load(plan.out)) reports.preview(preview.of(*mask, trained.steps));
    auto out = outcome_of(trained);
    out.coverage = trained.held.coverage;
    out.average_drop = trained.held.average_drop;
    out.increase = trained.held.increase;
    return out;
}

Result<TrainingOutcome> concepts_of(Model& model, const TrainingPlan& plan, const std::stop_token& stop,
                                    const TrainingReports& reports) {
    auto options = options_of<TrainConceptsOptions>(plan, stop);
    // The form shows them grey and keeps them for when the kind is changed back; training refuses them.
    const auto unread = unread_settings(plan.what, plan.settings);
    std::erase_if(options.settings,
                  [&](const auto& one) { return std::find(unread.begin(), unread.end(), one.first) != unread.end(); });
    options.progress = [&](const ConceptStep& s) {
        reports.moment(
            {s.step, s.steps,
             figures({s.total, s.reconstruction, s.sparsity, s.revival, s.explained_variance, s.active, s.dead}), 0,
             s.learning_rate, s.tokens_per_second, s.seconds_left, s.note,
             s.held && s.held->answers ? std::optional(TrainingLook{s.held_step, s.held->divergence, s.held->agreement})
                                       : std::nullopt});
    };
    const auto trained = VITRINE_TRY(train_concepts(model, options));
    auto out = outcome_of(trained);
    const auto& held = trained.held;
    out.explained = held.explained_variance;
    out.active = held.active;
    out.distinct = held.distinct;
    out.never = held.never;
    out.dense = held.dense;
    out.divergence = held.divergence;
    out.substitution = held.substitution;
    out.answers = held.answers;
    for (const auto& kind : held.kinds) out.explained_of.emplace_back(kind.name, kind.explained_variance);
    out.per_second = trained.tokens_per_second;
    out.steps_per_second = trained.step_tokens_per_second;
    out.ceiling_per_second = trained.floor_tokens_per_second;
    out.ceiling_products = trained.floor_products;
    return out;
}

}  // namespace

std::vector<SettingFacts> training_settings(Trained what) {
    std::vector<SettingFacts> out;
    for (const auto& parameter : what == Trained::Mask ? mask_parameters() : concept_parameters()) {
        out.push_back(setting_of(parameter));
        for (const auto& one : kCaptions) {
            if (parameter.name != one.name) continue;
            out.back().caption = one.words;
            if (out.back().unit.empty()) out.back().unit = one.unit;
        }
    }
    return out;
}

std::vector<std::string> unread_settings(Trained what, const MethodSettings& settings) {
    if (what == Trained::Mask) return {};
    return unread_concept_settings({settings.begin(), settings.end()});
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

Result<TrainingOutcome> Trainer::train(const TrainingPlan& plan, const PreviewPicture& picture, std::stop_token stop,
                                       const TrainingReports& reports) {
    // What the person looks at goes first. The threads that this one starts for its sums inherit it.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
    VITRINE_CHECK(can_be_done(plan));
    reports.doing("Opening a copy of the model", 0, 0);
    OpenOptions open;
    open.trust = true;  // asked for when the window opened it
    const auto model = VITRINE_TRY(open_model(plan.model, open));
    if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
    reports.doing("Looking at the pictures", 0, 0);
    auto trained = plan.what == Trained::Mask ? mask_of(*model, plan, picture, stop, reports)
                                              : concepts_of(*model, plan, stop, reports);
    if (!trained) return tl::make_unexpected(in_panel(std::move(trained.error())));
    return trained;
}

}  // namespace vitrine::app
