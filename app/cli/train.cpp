// vitrine pack and the trainers: pictures into one file, and a classifier, a mask or concepts from them.
#include <unistd.h>
#include <vitrine/device_sums.h>
#include <vitrine/pack.h>
#include <vitrine/train.h>
#include <vitrine/train_concepts.h>
#include <vitrine/train_mask.h>

#include "cli/commands.h"
#include "cli/jobs.h"
#include "cli/may_write.h"
#include "cli/processes.h"

namespace vitrine::cli {

namespace {

class MpiPeers final : public Peers {
  public:
    explicit MpiPeers(const Processes& processes) : processes_(processes) {}
    int rank() const override { return processes_.rank(); }
    int count() const override { return processes_.size(); }
    Status sum(std::span<double> values) override { return processes_.sum(values); }
    Status agree(const Status& mine) override { return processes_.agree(mine); }
    void give_up(const Error& error) override {
        say(fmt::format("vitrine: process {}: {}", rank(), error.message));
        if (devices) devices->abandon();
        processes_.abort(1);
    }

  private:
    const Processes& processes_;
};

/// A training goes on from its checkpoint only. What it reads it never writes over.
Status may_train(const std::string& out, bool overwrite, std::vector<ReadPlace> reads,
                 const std::vector<std::string>& settings) {
    for (ReadPlace& named : places_in_settings(settings)) reads.push_back(std::move(named));
    return may_write(out, overwrite, reads, "train it anew, as what is finished does not go on");
}

/// A line of training on standard error. On a terminal the next one takes its place, unless it stays.
void step_line(std::int64_t step, std::int64_t steps, const std::string& text, bool stays) {
    const bool terminal = isatty(STDERR_FILENO) != 0;
    fmt::print(stderr, "{}step {} of {}  {}{}", terminal ? "\r\033[K" : "", step, steps, text,
               terminal && !stays && step < steps ? "" : "\n");
}

}  // namespace

Status pack(const Common& common, const PackArguments& arguments) {
    VITRINE_CHECK(
        may_write(arguments.out, arguments.overwrite, {{arguments.folder, "the pictures", true}}, "pack it anew"));
    StopOnInterrupt interrupt;
    PackOptions options;
    options.folder = arguments.folder;
    options.size = arguments.size;
    options.out = arguments.out;
    options.stop = interrupt.token();
    options.progress = [](const Progress& p) { progress(p); };
    const PackSummary summary = VITRINE_TRY(pack_folder(options));
    for (const auto& sentence : summary.skipped) say("skipped: " + sentence);
    if (common.json) {
        nlohmann::json out{{"file", arguments.out},
                           {"pictures", summary.pictures},
                           {"classes", summary.classes},
                           {"skipped", summary.skipped},
                           {"size_bytes", summary.size_bytes}};
        fmt::print("{}\n", json_text(out, 2));
    } else {
        fmt::print("{}: {} pictures of {} classes, {}\n", arguments.out, summary.pictures, summary.classes.size(),
                   size_text(summary.size_bytes));
    }
    return {};
}

Status train_classifier(const Common& common, const TrainArguments& arguments) {
    VITRINE_CHECK(
        may_train(arguments.out, arguments.overwrite, {{arguments.folder, "the pictures", true}}, arguments.set));
    StopOnInterrupt interrupt;
    TrainOptions options;
    options.architecture = arguments.architecture;
    options.data = arguments.folder;
    options.out = arguments.out;
    options.device = common.device;
    options.dtype = common.dtype;
    options.seed = common.seed;
    options.stop = interrupt.token();
    for (const auto& text : arguments.set) {
        const auto equals = text.find('=');
        if (equals == std::string::npos || equals == 0)
            return fail(ErrorCode::BadInput, "--set is '{}', expected key=value", text);
        options.settings.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
    options.progress = [](const TrainProgress& p) {
        step_line(p.step, p.steps,
                  fmt::format("epoch {:.1f}  loss {:.4f}  lr {:.2e}  {:.0f} pictures/s  {:.0f} s left{}{}", p.epoch,
                              p.loss, p.learning_rate, p.pictures_per_second, p.seconds_left,
                              p.accuracy >= 0 ? fmt::format("  top-1 {:.2f} %", 100 * p.accuracy) : "",
                              p.note.empty() ? "" : "  " + p.note),
                  !p.note.empty() || p.accuracy >= 0);
    };
    const TrainSummary summary = VITRINE_TRY(vitrine::train_classifier(options));
    for (const auto& note : summary.notes) say(note);
    if (common.json) {
        nlohmann::json out{{"file", arguments.out},
                           {"finished", summary.finished},
                           {"steps", summary.steps},
                           {"seconds", summary.seconds},
                           {"loss", summary.loss},
                           {"parameters", summary.parameters},
                           {"size_bytes", summary.size_bytes},
                           {"notes", summary.notes}};
        if (summary.accuracy >= 0) out["accuracy"] = summary.accuracy;
        for (const auto& [name, accuracy] : summary.accuracy_of_set) out["accuracy_of_set"][name] = accuracy;
        fmt::print("{}\n", json_text(out, 2));
    } else if (summary.finished) {
        fmt::print("{}: {} parameters, {}{}\n", arguments.out, count_text(summary.parameters),
                   size_text(summary.size_bytes),
                   summary.accuracy >= 0 ? fmt::format(", top-1 {:.2f} %", 100 * summary.accuracy) : "");
    } else {
        fmt::print("stopped at step {}; run the same command again to go on\n", summary.steps);
    }
    return {};
}

namespace {

/// @param pictures  which setting says how many pictures are run at a time
Result<std::shared_ptr<Model>> opened(const Common& common, const char* pictures,
                                      std::vector<std::pair<std::string, std::string>>& settings) {
    auto model = VITRINE_TRY(open_for_job(common, settings));
    VITRINE_CHECK(add_batch(common, pictures, settings));
    for (const auto& [name, value] : settings)
        if (name == "seed" && common.seed != 0)
            return fail(ErrorCode::BadInput, "--seed {} and --set seed={} set the same twice: leave one of them out",
                        common.seed, value);
    return model;
}

/// @return at ranks above 0 only what all of them say
Status train_mask(const Common& common, const TrainMaskArguments& arguments, const Processes& processes) {
    VITRINE_CHECK(processes.agree(may_train(arguments.out, arguments.overwrite,
                                            {{common.model, "the model"}, {arguments.folder, "the pictures", true}},
                                            common.set)));
    StopOnInterrupt interrupt;
    MpiPeers peers(processes);
    TrainMaskOptions options;
    options.data = arguments.folder;
    options.out = arguments.out;
    options.seed = common.seed;
    options.stop = interrupt.token();
    options.peers = &peers;
    auto model = opened(common, "batch", options.settings);
    VITRINE_CHECK(processes.agree(model ? Status{} : tl::make_unexpected(model.error())));
    if (processes.rank() == 0) options.decoding = [](const Progress& p) { progress(p); };
    options.progress = [](const MaskStep& p) {
        if (!p.note.empty()) return step_line(p.step, p.steps, p.note, true);
        step_line(p.step, p.steps,
                  fmt::format("loss {:.4f} (answer {:.4f}, area {:.4f}, smooth {:.4f})  covers {:.1f} %  agrees {:.1f} "
                              "%  lr {:.2e}  {:.0f} pictures/s  {:.0f} s left",
                              p.total, p.cross_entropy, p.area, p.smooth, 100 * p.coverage, 100 * p.agreement,
                              p.learning_rate, p.pictures_per_second, p.seconds_left),
                  false);
    };
    const TrainMaskSummary summary = VITRINE_TRY(vitrine::train_mask(**model, options));
    if (processes.rank() != 0) return {};
    for (const auto& sentence : summary.skipped) say("skipped: " + sentence);
    for (const auto& note : summary.notes) say(note);
    const MaskFigures& held = summary.held;
    if (common.json) {
        nlohmann::json out{{"file", arguments.out},
                           {"finished", summary.finished},
                           {"steps", summary.steps},
                           {"pictures", summary.pictures},
                           {"skipped", summary.skipped},
                           {"layers", summary.layers},
                           {"parameters", summary.parameters},
                           {"size_bytes", summary.size_bytes},
                           {"pictures_per_second", summary.pictures_per_second},
                           {"curve", summary.curve},
                           {"processes", processes.size()},
                           {"notes", summary.notes}};
        if (summary.floor_pictures_per_second > 0) out["floor_pictures_per_second"] = summary.floor_pictures_per_second;
        if (summary.recorded_floor_pictures_per_second > 0)
            out["recorded_floor_pictures_per_second"] = summary.recorded_floor_pictures_per_second;
        if (summary.best_step > 0) out["best_step"] = summary.best_step;
        if (held.pictures > 0)
            out["held"] = {{"pictures", held.pictures},
                           {"agreement", held.agreement},
                           {"coverage", held.coverage},
                           {"average_drop", held.average_drop},
                           {"increase_in_confidence", held.increase}};
        fmt::print("{}\n", json_text(out, 2));
        return {};
    }
    if (!summary.finished) {
        fmt::print("stopped at step {}; run the same command again to go on\n", summary.steps);
        return {};
    }
    fmt::print("{}: {} parameters, {}, trained on {} pictures by {}\n", arguments.out, count_text(summary.parameters),
               size_text(summary.size_bytes), summary.pictures, fmt::join(summary.layers, ", "));
    if (summary.floor_pictures_per_second > 0)
        fmt::print("{:.0f} pictures/s; two forwards and one backward alone: {:.0f}{}\n", summary.pictures_per_second,
                   summary.floor_pictures_per_second,
                   summary.recorded_floor_pictures_per_second > 0
                       ? fmt::format(", recorded: {:.0f}", summary.recorded_floor_pictures_per_second)
                       : "");
    if (held.pictures > 0)
        fmt::print(
            "{} pictures held out, 100 / 50 / 15 % kept: average drop {:.1f} / {:.1f} / {:.1f} %, increase {:.1f} / "
            "{:.1f} / {:.1f} %; the mask covers {:.0f} % and keeps the answer of {:.0f} %\n",
            held.pictures, held.average_drop[0], held.average_drop[1], held.average_drop[2], held.increase[0],
            held.increase[1], held.increase[2], 100 * held.coverage, 100 * held.agreement);
    return {};
}

}  // namespace

Status train_mask(const Common& common, const TrainMaskArguments& arguments) {
    return shared_by_processes(arguments.mpi,
                               [&](const Processes& processes) { return train_mask(common, arguments, processes); });
}

namespace {

/// "47.2 % in the class token, 86.3 % in patches": what the share of all tokens hides.
std::string shares_of(const std::vector<ConceptTokens>& kinds) {
    std::vector<std::string> out;
    for (const ConceptTokens& kind : kinds) {
        const std::string where = kind.name == "class" ? "the class token" : kind.name;
        const double share = kind.explained_variance;
        if (!std::isfinite(share))
            out.push_back("nothing that varies in " + where);  // one picture has one class token
        else
            out.push_back(share < -1 ? "below -100 % in " + where : fmt::format("{:.1f} % in {}", 100 * share, where));
    }
    return fmt::format("{}", fmt::join(out, ", "));
}

/// @return at ranks above 0 only what all of them say
Status train_concepts(const Common& common, const TrainConceptsArguments& arguments, const Processes& processes) {
    VITRINE_CHECK(processes.agree(may_train(arguments.out, arguments.overwrite,
                                            {{common.model, "the model"}, {arguments.folder, "the pictures", true}},
                                            common.set)));
    StopOnInterrupt interrupt;
    MpiPeers peers(processes);
    TrainConceptsOptions options;
    options.data = arguments.folder;
    options.out = arguments.out;
    options.seed = common.seed;
    options.stop = interrupt.token();
    options.peers = &peers;
    auto model = opened(common, "pictures", options.settings);
    VITRINE_CHECK(processes.agree(model ? Status{} : tl::make_unexpected(model.error())));
    options.progress = [looked = std::int64_t{0}](const ConceptStep& p) mutable {
        if (!p.note.empty()) return step_line(p.step, p.steps, p.note, true);
        const bool looks = p.held && p.held_step != looked;
        step_line(
            p.step, p.steps,
            fmt::format("loss {:.4f}  explains {:.1f} %  {:.1f} of the latents a token  dead {:.1f} %  lr {:.2e}  "
                        "{:.0f} tokens/s  {:.0f} s left",
                        p.total, 100 * p.explained_variance, p.active, 100 * p.dead, p.learning_rate,
                        p.tokens_per_second, p.seconds_left),
            looks);
        if (!looks) return;
        looked = p.held_step;
        say(fmt::format(
            "after step {}: {:.1f} % of the variance of {} pictures held out explained by {:.1f} latents a token{}",
            p.held_step, 100 * p.held->explained_variance, p.held->pictures, p.held->active,
            p.held->answers ? fmt::format(", the answer moves by {:.4f} nats, {:.1f} % are answered alike",
                                          p.held->divergence, 100 * p.held->agreement)
                            : ""));
    };
    const TrainConceptsSummary summary = VITRINE_TRY(vitrine::train_concepts(**model, options));
    if (processes.rank() != 0) return {};
    for (const auto& sentence : summary.skipped) say("skipped: " + sentence);
    for (const auto& note : summary.notes) say(note);
    const ConceptFigures& held = summary.held;
    if (common.json) {
        nlohmann::json out{{"file", arguments.out},
                           {"finished", summary.finished},
                           {"steps", summary.steps},
                           {"pictures", summary.pictures},
                           {"tokens", summary.tokens},
                           {"skipped", summary.skipped},
                           {"point", summary.point},
                           {"latents", summary.latents},
                           {"size_bytes", summary.size_bytes},
                           {"buffer_bytes", summary.buffer_bytes},
                           {"tokens_per_second", summary.tokens_per_second},
                           {"curve", summary.curve},
                           {"processes", processes.size()},
                           {"products", summary.products},
                           {"recorded", summary.recorded},
                           {"notes", summary.notes}};
        if (summary.step_tokens_per_second > 0) out["step_tokens_per_second"] = summary.step_tokens_per_second;
        if (summary.floor_tokens_per_second > 0) {
            out["floor_tokens_per_second"] = summary.floor_tokens_per_second;
            out["floor_products"] = summary.floor_products;
        }
        if (held.pictures > 0) {
            out["held"] = {{"pictures", held.pictures},
                           {"skipped", held.skipped.size()},
                           {"tokens", held.tokens},
                           {"explained_variance", held.explained_variance},
                           {"cosine", held.cosine},
                           {"active", held.active},
                           {"active_class", held.active_class},
                           {"active_patches", held.active_patches},
                           {"distinct", held.distinct},
                           {"never", held.never},
                           {"rare", held.rare},
                           {"dense", held.dense},
                           {"agreement", held.agreement},
                           {"divergence", held.divergence},
                           {"substitution", held.substitution}};
            for (const ConceptTokens& kind : held.kinds)
                out["held"]["kinds"][kind.name] = {
                    {"tokens", kind.tokens}, {"explained_variance", kind.explained_variance}, {"active", kind.active}};
        }
        fmt::print("{}\n", json_text(out, 2));
        return {};
    }
    if (!summary.finished) {
        fmt::print("stopped at step {}; run the same command again to go on\n", summary.steps);
        return {};
    }
    fmt::print("{}: {} concepts of {}, {}, from {} tokens of {} pictures\n", arguments.out, summary.latents,
               summary.point, size_text(summary.size_bytes), count_text(summary.tokens), summary.pictures);
    if (summary.floor_tokens_per_second > 0)
        fmt::print(
            "{:.0f} tokens/s, {:.0f} of the steps alone{}: {:.0f} % of what {} and a copy of the codes allow in {}, "
            "{:.0f}\n",
            summary.tokens_per_second, summary.step_tokens_per_second, summary.recorded ? ", recorded" : "",
            100 * summary.step_tokens_per_second / summary.floor_tokens_per_second,
            summary.floor_products == 1 ? "the encoder's product"
                                        : fmt::format("{} matrix products", summary.floor_products),
            summary.products, summary.floor_tokens_per_second);
    else if (summary.step_tokens_per_second > 0)
        fmt::print("{:.0f} tokens/s, {:.0f} of the steps alone{}\n", summary.tokens_per_second,
                   summary.step_tokens_per_second, summary.recorded ? ", recorded" : "");
    if (held.pictures > 0) {
        fmt::print(
            "{} pictures held out{}: {:.1f} % of the variance explained{} by {:.1f} latents a token{} and {:.0f} a "
            "picture{}\n",
            held.pictures, held.skipped.empty() ? "" : fmt::format(" ({} more could not be read)", held.skipped.size()),
            100 * held.explained_variance, held.explained_variance < 0 ? " (their mean alone would be nearer)" : "",
            held.active,
            held.active_class >= 0
                ? fmt::format(" ({:.1f} in the class token, {:.1f} in a patch)", held.active_class, held.active_patches)
                : "",
            held.distinct,
            held.answers ? fmt::format("; with what they say in its place the model answers {:.1f} % alike",
                                       100 * held.agreement)
                         : "");
        if (!held.kinds.empty()) fmt::print("explained by kind of token: {}\n", shares_of(held.kinds));
        fmt::print(
            "of the latents {:.1f} % are never heard there, {:.1f} % by less than one token in 100,000, {:.1f} % by "
            "more than one in 100{}\n",
            100 * held.never, 100 * held.rare, 100 * held.dense,
            held.answers
                ? fmt::format("; the answer moves by {:.4f} nats, {:.1f} % {} than with zeros there{}", held.divergence,
                              100 * std::abs(held.substitution), held.substitution < 0 ? "more" : "less",
                              held.substitution < 0 ? ": what the latents say is no stand-in for the tokens" : "")
                : "");
    }
    return {};
}

}  // namespace

Status train_concepts(const Common& common, const TrainConceptsArguments& arguments) {
    return shared_by_processes(
        arguments.mpi, [&](const Processes& processes) { return train_concepts(common, arguments, processes); });
}

}  // namespace vitrine::cli
