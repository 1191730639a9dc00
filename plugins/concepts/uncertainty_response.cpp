// The measure uncertainty_response: settings in words, findings as tables and one document.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <ATen/TensorOperators.h>
#include <nlohmann/json.hpp>

#include <vitrine/concept_names.h>
#include <vitrine/control_concepts.h>
#include <vitrine/engine.h>
#include <vitrine/folder_measure.h>
#include <vitrine/torch_errors.h>
#include <vitrine/train_concepts.h>
#include <vitrine/uncertainty_response.h>

#include "concepts.h"

namespace vitrine::plugin::concepts {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kConceptsInTables = 40;

template <class T>
Result<std::vector<T>> numbers_of(const std::string& text, const char* name) {
    std::vector<T> out;
    for (const std::string& item : items_of(text)) {
        T value{};
        const auto [end, code] = std::from_chars(item.data(), item.data() + item.size(), value);
        if (code != std::errc() || end != item.data() + item.size())
            return fail(ErrorCode::BadInput, "'{}' in uncertainty_response.{} is no number", item, name);
        out.push_back(value);
    }
    return out;
}

json number(double value) { return std::isfinite(value) ? json(value) : json(); }
json to_json(const Estimate& e) { return {{"mean", number(e.mean)}, {"low", number(e.low)}, {"high", number(e.high)}}; }
json to_json(const std::vector<RungFigures>& rungs) {
    json out = json::array();
    for (const RungFigures& one : rungs)
        out.push_back({{"rung", one.rung},
                       {"tokens", one.tokens},
                       {"inputs", one.inputs},
                       {"active_a_token", to_json(one.active)},
                       {"ratio_to_clean", to_json(one.ratio)},
                       {"distinct_an_input", to_json(one.distinct)},
                       {"overlap_with_clean", to_json(one.overlap)},
                       {"explained_variance", number(one.explained_variance)},
                       {"mean_norm", number(one.norm)},
                       {"unreliable", one.unreliable}});
    return out;
}
json to_json(const RiskFigures& f) {
    const auto some = [](const std::optional<double>& x) { return x ? number(*x) : json(); };
    return {{"r2", number(f.r2)}, {"spearman", some(f.spearman)}, {"auroc", some(f.auroc)}};
}

/// The largest by a weight, as [latent, beta, vip].
std::vector<std::int64_t> ranked(const at::Tensor& weight, std::int64_t count) {
    const double* value = weight.const_data_ptr<double>();
    std::vector<std::int64_t> order;
    for (std::int64_t i = 0; i < weight.numel(); ++i)
        if (value[i] != 0) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value[a] > value[b]; });
    order.resize(std::min(order.size(), static_cast<std::size_t>(count)));
    return order;
}

json to_json(const OutputRisk& risk) {
    json out{{"inputs", risk.inputs},
             {"pictures", risk.groups},
             {"concepts_used", risk.used},
             {"found", to_json(risk.found)},
             {"interval_low", to_json(risk.low)},
             {"interval_high", to_json(risk.high)},
             {"interval_of", "held-out pictures resampled; the fits stay"},
             {"p", {{"r2", risk.p_r2}, {"spearman", risk.p_spearman}, {"auroc", risk.p_auroc}}},
             {"permuted_mean", to_json(risk.null)},
             {"components", risk.components},
             {"components_of_folds", json::array()},
             {"held_out_by", "picture"},
             {"largest_beta", json::array()},
             {"largest_vip", json::array()}};
    for (const RiskFold& fold : risk.folds) out["components_of_folds"].push_back(fold.components);
    const auto list = [&](const char* name, const at::Tensor& weight) {
        for (const std::int64_t latent : ranked(weight, kConceptsInTables))
            out[name].push_back({{"concept", latent},
                                 {"beta", risk.beta[latent].item<double>()},
                                 {"vip", risk.vip[latent].item<double>()}});
    };
    list("largest_beta", risk.beta.abs());
    list("largest_vip", risk.vip);
    return out;
}

/// Who read the shuffled weights, as far as files say.
json control_of(const LayerResponse& layer) {
    if (layer.control.empty()) return {};
    const bool own = !layer.control_name.empty();
    const std::string& tokens = own ? layer.control_tokens_seen : layer.tokens_seen;
    const std::optional<double>& held = own ? layer.control_held : layer.held;
    return {{"autoencoder", own ? layer.control_name : layer.name},
            {"trained_on_shuffled_weights", own},
            {"tokens_seen_in_training", tokens.empty() ? json() : json(tokens)},
            {"explained_variance_held_out", held ? number(*held) : json()}};
}

json to_json(const LayerResponse& layer, const std::vector<std::string>& pictures) {
    json out{{"autoencoder", layer.name},
             {"point", layer.point},
             {"kind", layer.kind},
             {"concepts", layer.latents},
             {"tokens_read", layer.read},
             {"concepts_judged_over", layer.over},
             {"tokens_seen_in_training", layer.tokens_seen.empty() ? json() : json(layer.tokens_seen)},
             {"trained_at", layer.trained_at.empty() ? "clean" : layer.trained_at},
             {"explained_variance_held_out", layer.held ? number(*layer.held) : json()},
             {"rungs", to_json(layer.rungs)},
             {"shuffled_weights", to_json(layer.control)},
             {"shuffled_weights_read_by", control_of(layer)},
             {"noise_inputs", layer.noise_inputs},
             {"insensitive", json::array()},
             {"risk", layer.risk ? to_json(*layer.risk) : json()},
             {"suppression", json::array()},
             {"notes", layer.notes}};
    for (const NoiseConcept& one : layer.insensitive) {
        json entry{{"concept", one.latent},
                   {"heard_on_noise", one.heard},
                   {"insensitivity", one.insensitivity ? json(*one.insensitivity) : json()},
                   {"frequency", one.frequency},
                   {"coherence_z", one.coherence ? json(*one.coherence) : json()},
                   {"meaningful", one.meaningful()},
                   {"pictures", json::array()}};
        for (const std::int64_t picture : one.pictures) entry["pictures"].push_back(pictures[std::size_t(picture)]);
        out["insensitive"].push_back(std::move(entry));
    }
    for (const Suppression& one : layer.suppression)
        out["suppression"].push_back({{"chosen", one.chosen},
                                      {"inputs", one.inputs},
                                      {"concepts_of_folds", one.latents},
                                      {"before", to_json(one.before)},
                                      {"after", to_json(one.after)},
                                      {"change", to_json(one.change)},
                                      {"change_with_random_concepts", to_json(one.control)},
                                      {"difference", to_json(one.difference)}});
    // Of all concepts, for plots: one list each.
    if (layer.heard.defined()) {
        json heard = json::array();
        const at::Tensor host = layer.heard.contiguous();
        for (std::int64_t n = 0; n < host.size(0); ++n) {
            const double* value = host.const_data_ptr<double>() + n * host.size(1);
            heard.push_back(std::vector<double>(value, value + host.size(1)));
        }
        out["heard_on_noise"] = std::move(heard);
    }
    if (layer.insensitivity.defined()) {
        json index = json::array();
        const double* value = layer.insensitivity.const_data_ptr<double>();
        for (std::int64_t i = 0; i < layer.insensitivity.numel(); ++i) index.push_back(number(value[i]));
        out["insensitivity"] = std::move(index);
    }
    return out;
}

std::string control_in_words(const LayerResponse& layer) {
    if (layer.control.empty()) return {};
    if (layer.control_name.empty())
        return "the control reads shuffled weights by the concepts of the sound ones; control=train reads them by "
               "concepts of their own";
    const auto trained = [](const std::string& tokens, const std::optional<double>& held) {
        return fmt::format("{} tokens seen, {} of the variance of pictures held out",
                           tokens.empty() ? "an unknown number of" : tokens,
                           held ? fmt::format("{:.3f}", *held) : "an unknown share");
    };
    return fmt::format("shuffled weights are read by concepts of their own ({}); those of the sound model: {}",
                       trained(layer.control_tokens_seen, layer.control_held), trained(layer.tokens_seen, layer.held));
}

void add(std::vector<double>& row, const Estimate& e) { row.insert(row.end(), {e.mean, e.low, e.high}); }

Table of_rungs(const std::vector<RungFigures>& rungs, std::string name) {
    Table out;
    out.name = std::move(name);
    out.cols = {"inputs", "active a token",     "low",       "high",      "ratio to clean",     "low",
                "high",   "distinct an input",  "low",       "high",      "overlap with clean", "low",
                "high",   "explained variance", "mean norm", "unreliable"};
    for (const RungFigures& one : rungs) {
        out.rows.push_back(one.rung + ", " + one.tokens);
        std::vector<double> row{double(one.inputs)};
        for (const Estimate* e : {&one.active, &one.ratio, &one.distinct, &one.overlap}) add(row, *e);
        row.insert(row.end(), {one.explained_variance, one.norm, one.unreliable ? 1.0 : 0.0});
        out.values.push_back(std::move(row));
    }
    return out;
}

/// The sound model and its shuffled weights, rung by rung: read with the explained variance of both.
Table side_by_side(const LayerResponse& layer, std::string name) {
    Table out;
    out.name = std::move(name);
    out.cols = {"ratio to clean", "low", "high", "explained variance",          "unreliable",
                "shuffled ratio", "low", "high", "shuffled explained variance", "shuffled unreliable"};
    for (std::size_t i = 0; i < layer.rungs.size(); ++i) {
        const RungFigures &sound = layer.rungs[i], &shuffled = layer.control[i];
        out.rows.push_back(sound.rung + ", " + sound.tokens);
        std::vector<double> row;
        for (const RungFigures* one : {&sound, &shuffled}) {
            add(row, one->ratio);
            row.insert(row.end(), {one->explained_variance, one->unreliable ? 1.0 : 0.0});
        }
        out.values.push_back(std::move(row));
    }
    return out;
}

/// @param of  what the tables' names begin with
void tables_of(const LayerResponse& layer, const std::string& of, const ConceptNames& names, std::vector<Table>& out) {
    out.push_back(of_rungs(layer.rungs, of + " ladder"));
    if (!layer.control.empty()) {
        out.push_back(of_rungs(layer.control, of + " ladder with shuffled weights"));
        out.push_back(side_by_side(layer, of + " beside shuffled weights"));
    }
    if (!layer.insensitive.empty()) {
        Table table;
        table.name = of + " concepts heard on noise";
        table.cols = {"heard", "insensitivity", "coherence z", "frequency"};
        for (const NoiseConcept& one : layer.insensitive) {
            if (std::ssize(table.rows) == kConceptsInTables / 2) break;
            table.rows.push_back(names.called(one.latent));
            table.values.push_back(
                {one.heard.front(), one.insensitivity.value_or(kNaN), one.coherence.value_or(kNaN), one.frequency});
        }
        out.push_back(std::move(table));
    }
    if (layer.risk) {
        const OutputRisk& risk = *layer.risk;
        Table table;
        table.name = of + " risk foretold";
        table.cols = {"found", "low", "high", "permuted, mean", "p"};
        table.rows = {"R^2", "Spearman", "AUROC of the worst quarter"};
        const auto row = [&](const auto& of_figures, double p) {
            std::vector<double> out_row;
            for (const RiskFigures* one : {&risk.found, &risk.low, &risk.high, &risk.null})
                out_row.push_back(of_figures(*one));
            out_row.push_back(p);
            return out_row;
        };
        table.values = {row([](const RiskFigures& f) { return f.r2; }, risk.p_r2),
                        row([](const RiskFigures& f) { return f.spearman.value_or(kNaN); }, risk.p_spearman),
                        row([](const RiskFigures& f) { return f.auroc.value_or(kNaN); }, risk.p_auroc)};
        out.push_back(std::move(table));
        Table concepts;
        concepts.name = of + " concepts that foretell";
        concepts.cols = {"beta", "VIP"};
        for (const std::int64_t latent : ranked(risk.beta.abs(), 10)) {
            concepts.rows.push_back(names.called(latent));
            concepts.values.push_back({risk.beta[latent].item<double>(), risk.vip[latent].item<double>()});
        }
        out.push_back(std::move(concepts));
    }
    if (!layer.suppression.empty()) {
        Table table;
        table.name = of + " suppression";
        table.cols = {"inputs", "before", "low",    "high", "after", "low",        "high", "change",
                      "low",    "high",   "random", "low",  "high",  "difference", "low",  "high"};
        for (const Suppression& one : layer.suppression) {
            table.rows.push_back(one.chosen == "raising" ? "largest positive beta" : "largest beta of either sign");
            std::vector<double> row{double(one.inputs)};
            for (const Estimate* e : {&one.before, &one.after, &one.change, &one.control, &one.difference})
                add(row, *e);
            table.values.push_back(std::move(row));
        }
        out.push_back(std::move(table));
    }
}

/// Layers side by side, where there are several: how much more is active than in the clean run, and what foretells.
void layers_of(const UncertaintyResponse& found, const std::vector<std::string>& names, std::vector<Table>& out) {
    std::map<std::string, Table> ratios;  // a table for each kind of token
    Table risk;
    risk.name = "risk foretold, layer by layer";
    risk.cols = {"R^2", "low",  "high", "p", "Spearman", "low", "high", "p", "AUROC of the worst quarter",
                 "low", "high", "p"};
    for (std::size_t l = 0; l < found.layers.size(); ++l) {
        const LayerResponse& layer = found.layers[l];
        const std::string row = fmt::format("{}, {}", layer.point, names[l]);
        for (const RungFigures& one : layer.rungs) {
            Table& table = ratios[one.tokens];
            if (table.rows.empty() || table.rows.back() != row) {
                table.name = "active a token, ratio to clean, " + one.tokens;
                table.rows.push_back(row);
                table.values.emplace_back();
                table.cols.clear();
            }
            table.cols.push_back(one.rung);
            table.values.back().push_back(one.unreliable ? kNaN : one.ratio.mean);
        }
        if (!layer.risk) continue;
        risk.rows.push_back(row);
        const RiskFigures &is = layer.risk->found, &low = layer.risk->low, &high = layer.risk->high;
        risk.values.push_back({is.r2, low.r2, high.r2, layer.risk->p_r2, is.spearman.value_or(kNaN),
                               low.spearman.value_or(kNaN), high.spearman.value_or(kNaN), layer.risk->p_spearman,
                               is.auroc.value_or(kNaN), low.auroc.value_or(kNaN), high.auroc.value_or(kNaN),
                               layer.risk->p_auroc});
    }
    for (auto& [kind, table] : ratios) out.push_back(std::move(table));
    if (!risk.rows.empty()) out.push_back(std::move(risk));
}

class UncertaintyMeasure final : public FolderMeasure {
  public:
    Description description() const override {
        return {
            "uncertainty_response",
            "Uncertainty response",
            "How many concepts are active as a picture's structure is destroyed, which fire on noise, and what they "
            "foretell of the answer's risk",
            "P. Suresh et al., From Noise to Narrative, 2025",
            56,
            "Concepts",
            "active concepts a token over clean, shuffled, blended and noise inputs; 1 - variance between pictures / "
            "variance; PLS from concepts to the risk",
            "An autoencoder of pictures reads noise outside of what it was trained on: the explained variance stands "
            "beside every number, and shuffled weights are the control: fair where an autoencoder of their own reads "
            "them (control=train)"};
    }
    std::vector<Parameter> parameters() const override {
        const auto words = [](const char* name, const char* standard, const char* meaning,
                              std::vector<std::string> choices = {}) {
            return Parameter{name, std::string(standard), meaning, "", "", {}, {}, std::move(choices)};
        };
        const auto whole = [](const char* name, std::int64_t standard, const char* meaning, double low, double high) {
            return Parameter{name, standard, meaning, "", "", low, high, {}};
        };
        return {
            words("autoencoders", "",
                  "files with commas between, one for each layer; empty: the one that came with the model"),
            words("given", "", "what files of other libraries do not say: NAME=VALUE with commas between"),
            whole("pictures", 32, "pictures that climb the ladder", 1, 1e7),
            whole("seeds", 8, "how often everything is drawn anew", 1, 1e5),
            words("tiles", "1,2,4,7,14,28", "shuffles: tiles a side, with commas between"),
            words("blends", "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1", "shares of noise, with commas between"),
            words("blend_noise", "gaussian", "what pictures are blended with, as noises"),
            words("noises", "gaussian",
                  "with commas between: gaussian, uniform, clipped, phase, low_pass_S (S pixels); concepts are judged "
                  "by the first"),
            words("control", "same",
                  "the ladder once more with shuffled weights. same: read by the same autoencoders, which know no such "
                  "tokens; train: by ones that are trained on them first, as the others were, and kept beside them; "
                  "FILE,FILE: by ones that were trained so (train-concepts --set shuffled_weights=SEED); none"),
            whole("control_steps", 500, "of control=train: the most training steps", 1, 1e9),
            words("over", "patches", "the tokens that speak for a concept where one number a picture is asked for",
                  {"patches", "class", "all"}),
            {"heard", 0.9, "share of noise inputs from which on a concept is listed", "", "", 0.0, 1.0, {}},
            whole("reference", 512, "pictures for the meaning of concepts and for the predictor", 1, 1e7),
            words("risk", "confidence",
                  "what is foretold: 1 - the largest probability, 1 - the true label's, a score of each picture in "
                  "a file, or nothing",
                  {"confidence", "label", "scores", "none"}),
            words("scores", "", "a file with lines of FILE,SCORE"),
            words("risk_inputs", "clean", "what is foretold of: pictures alone, or each at every rung",
                  {"clean", "ladder"}),
            words("pool", "mean", "how a concept's tokens become one number for the predictor", {"mean", "max"}),
            whole("components", 10, "the most components, of which inner folds choose", 1, 100),
            whole("folds", 5, "outer folds, by picture", 2, 100),
            whole("inner_folds", 5, "inner folds, by picture", 2, 100),
            whole("permutations", 200, "of the scores, for the p values", 0, 100000),
            whole("suppress", 10, "concepts that are suppressed; 0: none", 0, 10000),
            whole("suppress_controls", 5, "random sets of concepts as frequent, suppressed instead", 0, 1000),
            whole("resamples", 2000, "of the pictures, for the intervals", 100, 1000000)};
    }

    bool goes_on() const override { return true; }
    Result<FolderFindings> measure_folder(const FolderSubject& subject, const Settings& settings) const override {
        return guarded([&] { return measured(subject, settings); });
    }

  private:
    static Result<FolderFindings> measured(const FolderSubject& subject, const Settings& settings) {
        UncertaintyOptions options;
        options.ladder.tiles = VITRINE_TRY(numbers_of<std::int64_t>(settings.text("tiles"), "tiles"));
        options.ladder.blends = VITRINE_TRY(numbers_of<double>(settings.text("blends"), "blends"));
        options.ladder.blend_noise = settings.text("blend_noise");
        options.ladder.noises = items_of(settings.text("noises"));
        options.pictures = settings.integer("pictures");
        options.seeds = settings.integer("seeds");
        options.reference = settings.integer("reference");
        options.seed = subject.seed;
        const std::string control = settings.text("control");
        options.control = control != "none" && control != "0";
        options.over = settings.text("over");
        options.heard = settings.number("heard");
        options.resamples = settings.integer("resamples");
        options.risk = settings.text("risk");
        options.risk_on_ladder = settings.text("risk_inputs") == "ladder";
        options.pool = settings.text("pool");
        options.predictor.components = settings.integer("components");
        options.predictor.folds = settings.integer("folds");
        options.predictor.inner_folds = settings.integer("inner_folds");
        options.predictor.permutations = settings.integer("permutations");
        options.suppressed = settings.integer("suppress");
        options.suppression_controls = settings.integer("suppress_controls");
        options.batch = subject.batch;
        options.stop = subject.stop;
        options.progress = subject.progress;
        options.journal = subject.journal;

        options.autoencoders = VITRINE_TRY(autoencoders_of(settings.text("autoencoders"), settings.text("given"),
                                                           "uncertainty_response", subject.model));
        const PictureSet& pictures = subject.pictures;
        for (std::int64_t i = 0; i < pictures.count(); ++i) {
            options.names.push_back(pictures.picture(i).name);
            if (options.risk == "label")
                options.labels.push_back(subject.label ? subject.label(pictures.picture(i)).value_or(-1) : -1);
        }
        options.pixels = [&](std::int64_t index) { return pictures.pixels(index); };
        if (options.risk == "scores") {
            if (settings.text("scores").empty())
                return fail(ErrorCode::BadInput, "risk=scores needs a file: --set uncertainty_response.scores=FILE");
            options.scores = VITRINE_TRY(numbers_of_pictures(settings.text("scores"), subject.pictures));
        }
        FolderFindings out;
        if (control == "train") {
            const PictureSet rest = control_pictures(pictures, options.seed, options.pictures);
            for (const auto& [file, sound] : options.autoencoders) {
                ControlConceptsOptions training;
                training.sound = file;
                training.pictures = &rest;
                training.seed = options.seed;
                training.steps = settings.integer("control_steps");
                training.stop = subject.stop;
                training.progress = subject.progress;
                Autoencoder own = VITRINE_TRY(control_concepts(subject.model, sound, training));
                options.control_autoencoders.emplace_back(control_concepts_file(file, options.seed).string(),
                                                          std::move(own));
            }
            if (options.pictures >= pictures.count())
                out.notes.emplace_back(
                    "The control's autoencoders were trained on the pictures that climb: there are no others.");
        } else if (options.control && control != "same" && control != "1") {
            for (const std::string& file : items_of(control)) {
                Autoencoder own = VITRINE_TRY(Autoencoder::load(file));
                own.to(subject.model.device());
                options.control_autoencoders.emplace_back(file, std::move(own));
            }
        }
        const UncertaintyResponse found = VITRINE_TRY(uncertainty_response(subject.model, options));

        json rungs = json::array(), layers = json::array();
        std::set<std::string> stems;
        std::vector<std::string> names;
        for (const Rung& rung : found.rungs) rungs.push_back(rung.name());
        for (const LayerResponse& layer : found.layers) {
            layers.push_back(to_json(layer, found.pictures));
            const std::string stem = fs::path(layer.name).stem().string();
            std::string of = stem;
            for (int again = 2; !stems.insert(of).second; ++again) of = fmt::format("{} {}", stem, again);
            names.push_back(of);
            const Autoencoder& concepts = options.autoencoders[names.size() - 1].second;
            const auto called = ConceptNames::of(layer.name, concepts_mark(concepts));
            if (!called)
                out.notes.push_back(
                    fmt::format("{}: its concepts' names were not read: {}", of, called.error().message));
            tables_of(layer, of, called.value_or(ConceptNames()), out.tables);
            const std::string seen = trained_on(concepts, pictures);
            if (!seen.empty()) layers.back()["pictures_in_training"] = seen;
            if (!layer.tokens_seen.empty())
                out.notes.push_back(fmt::format("{}: trained on {} tokens{}{}{}", of, layer.tokens_seen,
                                                layer.trained_at.empty() ? "" : " of pictures at " + layer.trained_at,
                                                seen.empty() ? "" : "; ", seen));
            for (const std::string& note : layer.notes) out.notes.push_back(of + ": " + note);
            if (const std::string note = control_in_words(layer); !note.empty()) out.notes.push_back(of + ": " + note);
        }
        if (found.layers.size() > 1) {
            layers_of(found, names, out.tables);
            out.notes.emplace_back("In the tables of layers side by side unreliable points are left out.");
        }
        const ModelInfo& info = subject.model.info();
        json document{{"source", "P. Suresh et al., From Noise to Narrative, 2025"},
                      {"rungs", std::move(rungs)},
                      {"seeds", found.seeds},
                      {"weights_shuffled_by_seed", found.shuffled_by ? json(*found.shuffled_by) : json()},
                      {"pictures_on_the_ladder", found.climbed},
                      {"pictures", found.pictures},
                      {"inputs", found.inputs},
                      {"patch", {info.patch_height, info.patch_width}},
                      {"interval", 0.95},
                      {"resampled", "pictures, each with all of its seeds; percentiles of the means"},
                      {"resamples", options.resamples},
                      {"risk", found.risk.empty() ? json() : json(found.risk)},
                      {"layers", std::move(layers)},
                      {"skipped", found.skipped},
                      {"notes", found.notes}};
        out.document = document.dump(-1, ' ', false, json::error_handler_t::replace);
        out.notes.insert(out.notes.end(), found.notes.begin(), found.notes.end());
        out.skipped = found.skipped;
        return out;
    }
};

}  // namespace

std::unique_ptr<Measure> make_uncertainty_response() { return std::make_unique<UncertaintyMeasure>(); }

}  // namespace vitrine::plugin::concepts
