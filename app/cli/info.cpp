// vitrine info: what a model is and why it was recognised.
#include "cli/commands.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace vitrine::cli {

namespace {

/// "20: airplane, automobile, bird, ... (label_names of the configuration)"
std::string classes_text(std::int64_t classes, const Labels& labels) {
    if (labels.names.empty()) return fmt::format("{}, without names", classes);
    constexpr std::size_t kShown = 4;
    const auto shown = std::min(kShown, labels.names.size());
    return fmt::format("{}: {}{} ({})", classes,
                       fmt::join(labels.names.begin(), labels.names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                       shown < labels.names.size() ? ", ..." : "", labels.source);
}

}  // namespace

Status info(const Common& common, const InfoOptions& options) {
    VITRINE_CHECK(check_owners(common, {"preprocess"}));
    const auto model = VITRINE_TRY(open(common));
    const ModelInfo& facts = model->info();
    const Preprocess& pre = model->preprocess();
    const TokenLayout layout = model->layout(pre.input_height, pre.input_width);
    const auto cost_of = [&] { return capture_cost(*model, pre.input_height, pre.input_width, common.memory_bytes); };
    if (common.json) {
        nlohmann::json out{{"name", facts.name},
                           {"title", facts.title},
                           {"architecture", facts.architecture},
                           {"dialect", facts.dialect},
                           {"why", facts.why},
                           {"layers", facts.layers},
                           {"heads", facts.heads},
                           {"width", facts.width},
                           {"classes", facts.classes},
                           {"parameters", facts.parameters},
                           {"size_bytes", facts.size_bytes},
                           {"patch_size", {facts.patch_height, facts.patch_width}},
                           {"readout", std::string(name_of(facts.readout))},
                           {"notes", facts.notes},
                           {"preprocessing", describe(pre)},
                           {"labels",
                            {{"count", model->labels().names.size()},
                             {"source", model->labels().source},
                             {"assumed", model->labels().assumed}}}};
        out["tokens"] = {{"known", layout.known()},
                         {"total", layout.tokens()},
                         {"prefix", layout.prefix},
                         {"grid", {layout.rows, layout.cols}}};
        if (!layout.known()) out["tokens"]["why_unknown"] = layout.unknown;
        if (facts.layers > 0) {
            const CaptureCost cost = cost_of();
            static constexpr const char* kKeeps[] = {"whole", "inputs", "nothing"};
            out["capture_bytes"] = cost.whole;
            out["capture"] = {{"keeps", kKeeps[static_cast<std::size_t>(cost.keep)]},
                              {"kept_bytes", cost.kept()},
                              {"inputs_bytes", cost.inputs},
                              {"graph_bytes", cost.graph},
                              {"working_bytes", cost.working},
                              {"budget_bytes", cost.budget},
                              {"flops", cost.flops},
                              {"seconds", cost.seconds}};
        }
        if (options.points) {
            out["points"] = nlohmann::json::array();
            for (const auto& point : model->points())
                out["points"].push_back({{"name", point.name}, {"meaning", point.meaning}});
        }
        fmt::print("{}\n", json_text(out, 2));
        return {};
    }
    const auto line = [](std::string_view name, const std::string& text) { fmt::print("{:<18}{}\n", name, text); };
    line("name", facts.name);
    line("architecture", fmt::format("{} ({}{})", facts.title, facts.architecture,
                                     facts.dialect.empty() ? "" : ", " + facts.dialect + " names"));
    line("recognised by", facts.why);
    line("size", fmt::format("{} parameters, {} in memory", count_text(facts.parameters), size_text(facts.size_bytes)));
    if (facts.layers > 0)
        line("attention", fmt::format("{} layers, {} heads, width {}", facts.layers, facts.heads, facts.width));
    if (facts.layers > 0 && layout.known()) {
        line("tokens", fmt::format("{}: {}{} x {} patches of {} x {} px", layout.tokens(),
                                   layout.prefix.empty() ? "" : fmt::format("{} and ", fmt::join(layout.prefix, ", ")),
                                   layout.rows, layout.cols, facts.patch_height, facts.patch_width));
    } else if (facts.layers > 0) {
        line("tokens", "not known: " + layout.unknown);
    }
    line("answer from", std::string(name_of(facts.readout)));
    line("classes", facts.classes == 0 ? std::string("none: this model has no classifier")
                                       : classes_text(facts.classes, model->labels()));
    line("preprocessing", fmt::format("{} ({})", pre.summary(), pre.source));
    if (!pre.assumed.empty()) line("assumed", fmt::format("{}", fmt::join(pre.assumed, ", ")));
    if (facts.layers > 0) line("watching it takes", cost_of().sentence(facts.layers));
    for (const auto& note : facts.notes) line("note", note);
    if (options.points)
        for (const auto& point : model->points()) fmt::print("  {:<24} {}\n", point.name, point.meaning);
    return {};
}

}  // namespace vitrine::cli
