// The measure autoencoder_fidelity: settings in words, findings as tables and one document.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include <vitrine/autoencoder_fidelity.h>
#include <vitrine/concept_doubt.h>
#include <vitrine/folder_measure.h>
#include <vitrine/picture_draw.h>
#include <vitrine/torch_errors.h>
#include <vitrine/train_concepts.h>

#include "concepts.h"

namespace vitrine::plugin::concepts {

namespace {

using nlohmann::json;

json finite(double value) { return std::isfinite(value) ? json(value) : json(); }
json of_measured(const Measured& m) {
    return {{"value", finite(m.value)}, {"low", finite(m.low)}, {"high", finite(m.high)}};
}

json of_fidelity(const Fidelity& found) {
    json kinds = json::array(), densities = json::array();
    for (const FidelityOfTokens& one : found.tokens)
        kinds.push_back({{"tokens", one.name},
                         {"count", one.tokens},
                         {"active_a_token", of_measured(one.active)},
                         {"explained_variance", of_measured(one.explained_variance)},
                         {"normalised_mse", finite(1 - one.explained_variance.value)},
                         {"explained_variance_token_by_token", of_measured(one.token_variance)},
                         {"cosine", of_measured(one.cosine)},
                         {"mean_norm", finite(one.norm)}});
    for (std::size_t i = 0; i < found.densities.size(); ++i)
        densities.push_back(
            {{"from_log10", kLeastDensity + kDensityStep * static_cast<double>(i)}, {"latents", found.densities[i]}});
    json out{{"pictures", found.pictures},
             {"batch", found.batch},
             {"tokens", std::move(kinds)},
             {"distinct_a_picture", of_measured(found.distinct)},
             {"latents", found.latents},
             {"share_never_active", found.never},
             {"share_below_1e-5", found.rare},
             {"share_below_1e-6", found.rarer},
             {"share_above_1e-2", found.dense},
             {"densities", std::move(densities)},
             {"notes", found.notes}};
    if (std::isfinite(found.agreement.value))
        out["substitution"] = {{"same_answer", of_measured(found.agreement)},
                               {"divergence", of_measured(found.divergence)},
                               {"divergence_with_zeros", of_measured(found.zeroed)},
                               {"score", of_measured(found.substitution)}};
    if (found.labelled > 0)
        out["cross_entropy"] = {{"pictures", found.labelled},
                                {"as_it_is", of_measured(found.loss)},
                                {"substituted", of_measured(found.loss_substituted)},
                                {"zeros", of_measured(found.loss_zeroed)},
                                {"score", of_measured(found.loss_recovered)}};
    return out;
}

void row_of(Table& table, const char* name, const Measured& m) {
    if (!std::isfinite(m.value)) return;
    table.rows.emplace_back(name);
    table.values.push_back({m.value, m.low, m.high});
}

void tables_of_fidelity(const Fidelity& found, const std::string& of, std::vector<Table>& out) {
    Table tokens;
    tokens.name = of + " tokens";
    tokens.cols = {"tokens", "active", "low", "high", "explained variance", "low", "high", "token by token", "low",
                   "high",   "cosine", "low", "high", "mean norm"};
    for (const FidelityOfTokens& one : found.tokens) {
        tokens.rows.push_back(one.name);
        std::vector<double> row{static_cast<double>(one.tokens)};
        for (const Measured* m : {&one.active, &one.explained_variance, &one.token_variance, &one.cosine})
            row.insert(row.end(), {m->value, m->low, m->high});
        row.push_back(one.norm);
        tokens.values.push_back(std::move(row));
    }
    out.push_back(std::move(tokens));

    Table whole;
    whole.name = of + " in the model";
    whole.cols = {"value", "low", "high"};
    row_of(whole, "concepts a picture", found.distinct);
    row_of(whole, "same answer", found.agreement);
    row_of(whole, "KL of the answer, nats", found.divergence);
    row_of(whole, "KL with zeros", found.zeroed);
    row_of(whole, "kept of what zeros cost", found.substitution);
    row_of(whole, "cross entropy as it is", found.loss);
    row_of(whole, "cross entropy substituted", found.loss_substituted);
    row_of(whole, "cross entropy with zeros", found.loss_zeroed);
    row_of(whole, "loss recovered", found.loss_recovered);
    out.push_back(std::move(whole));

    Table latents;
    latents.name = of + " concepts by their share of tokens";
    latents.cols = {"concepts", "share"};
    const auto add = [&](const std::string& name, double share) {
        latents.rows.push_back(name);
        latents.values.push_back({std::round(share * static_cast<double>(found.latents)), share});
    };
    add("never active", found.never);
    add("below 1e-6", found.rarer);
    add("below 1e-5", found.rare);
    add("above 1e-2", found.dense);
    out.push_back(std::move(latents));
}

class FidelityMeasure final : public FolderMeasure {
  public:
    Description description() const override {
        return {"autoencoder_fidelity",
                "Fidelity of an autoencoder",
                "How well concepts stand for the activation they read, in numbers and in the model's answer",
                "L. Gao et al., Scaling and evaluating sparse autoencoders, 2024; S. Joseph et al., Prisma, 2025",
                56,
                "Concepts",
                "1 - sum |x - x^|^2 / sum |x - mean|^2; L0; KL and cross entropy with x^ in the place of x, beside "
                "zeros there",
                "Where a few numbers of every token are very large, nearly all variance is theirs: read the score of "
                "the answer too"};
    }
    std::vector<Parameter> parameters() const override {
        const auto words = [](const char* name, const char* meaning) {
            return Parameter{name, std::string(), meaning, "", "", {}, {}, {}};
        };
        return {words("autoencoders", "files with commas between; empty: the one that came with the model"),
                words("given", "what files of other libraries do not say: NAME=VALUE with commas between"),
                {"pictures",
                 std::int64_t{1000},
                 "the most that are read, drawn with the seed where there are more",
                 "",
                 "",
                 1.0,
                 1e8,
                 {}},
                words("labels",
                      "a file with lines of FILE,CLASS, the class a number from 0; empty: by the names of folders"),
                words("classes", "for a model that answers with features: a file with one matrix, a row a class"),
                {"logit_scale",
                 1.0,
                 "what their products are multiplied by: 1 as ViT-Prisma, CLIP's own is near 100",
                 "",
                 "",
                 0.0,
                 1e4,
                 {}},
                {"resamples", std::int64_t{1000}, "of the pictures, for the intervals; 0: none", "", "", 0.0, 1e5, {}}};
    }

    Result<FolderFindings> measure_folder(const FolderSubject& subject, const Settings& settings) const override {
        return guarded([&] { return measured(subject, settings); });
    }

  private:
    static Result<FolderFindings> measured(const FolderSubject& subject, const Settings& settings) {
        FidelityOptions options;
        const PictureSet& pictures = subject.pictures;
        const auto drawn = drawn_pictures(pictures.count(), settings.integer("pictures"), subject.seed);
        options.pictures = std::ssize(drawn);
        options.pixels = [&](std::int64_t i) -> Result<at::Tensor> {
            const std::int64_t which = drawn[static_cast<std::size_t>(i)];
            auto pixels = pictures.pixels(which);
            if (!pixels)
                return fail(pixels.error().code, "{}: {}", pictures.picture(which).name, pixels.error().message);
            return pixels;
        };
        options.logit_scale = settings.number("logit_scale");
        options.batch = subject.batch;
        options.resamples = settings.integer("resamples");
        options.seed = subject.seed;
        options.stop = subject.stop;
        options.progress = subject.progress;
        FolderFindings out;
        if (options.pictures < pictures.count())
            out.notes.push_back(drawn_in_words(options.pictures, pictures.count(), "pictures", subject.seed));
        if (const std::string& file = settings.text("classes"); !file.empty())
            options.class_rows = VITRINE_TRY(class_rows_in(file));
        VITRINE_CHECK(add_labels(subject, settings, drawn, options, out.notes));

        json all = json::array();
        std::set<std::string> stems;
        for (const auto& [name, autoencoder] : VITRINE_TRY(autoencoders_of(
                 settings.text("autoencoders"), settings.text("given"), "autoencoder_fidelity", subject.model))) {
            auto measured = autoencoder_fidelity(subject.model, autoencoder, options);
            if (!measured && measured.error().code != ErrorCode::Cancelled)
                return tl::make_unexpected(std::move(measured.error()).with_context(name));
            const Fidelity found = VITRINE_TRY(std::move(measured));
            const AutoencoderConfig& config = autoencoder.config();
            json one{{"autoencoder", name}, {"point", config.point}, {"kind", config.kind}, {"reads", config.tokens}};
            one.update(of_fidelity(found));
            all.push_back(std::move(one));
            const std::string stem = std::filesystem::path(name).stem().string();
            std::string of = stem;
            for (int again = 2; !stems.insert(of).second; ++again) of = fmt::format("{} {}", stem, again);
            tables_of_fidelity(found, of, out.tables);
            if (const std::string seen = trained_on(autoencoder, subject.pictures); !seen.empty())
                out.notes.push_back(of + ": " + seen);
            if (const std::string doubt = doubt_of(autoencoder, subject.model); !doubt.empty())
                out.notes.push_back(of + ": " + doubt);
            for (const std::string& note : found.notes) out.notes.push_back(of + ": " + note);
            out.skipped = found.skipped;
            out.notes.push_back(fmt::format("{}: token by token means over batches of {} pictures", of, found.batch));
        }
        json document{{"interval", 0.95},
                      {"resampled", "pictures, Poisson weights; percentiles"},
                      {"resamples", options.resamples},
                      {"drawn", {{"pictures", options.pictures}, {"of", pictures.count()}, {"seed", subject.seed}}},
                      {"autoencoders", std::move(all)},
                      {"skipped", out.skipped},
                      {"notes", out.notes}};
        out.document = document.dump(-1, ' ', false, json::error_handler_t::replace);
        return out;
    }

    /// From a file, from the model's own classes, or, where class rows were given, from folders as ImageNet has them.
    static Status add_labels(const FolderSubject& subject, const Settings& settings,
                             const std::vector<std::int64_t>& drawn, FidelityOptions& options,
                             std::vector<std::string>& notes) {
        const PictureSet& pictures = subject.pictures;
        if (const std::string& file = settings.text("labels"); !file.empty()) {
            const std::vector<double> of_pictures = VITRINE_TRY(numbers_of_pictures(file, pictures));
            for (const std::int64_t which : drawn) {
                const double label = of_pictures[static_cast<std::size_t>(which)];
                if (std::isfinite(label) && (label < 0 || label != std::floor(label) || label > 1e9))
                    return fail(ErrorCode::BadInput, "{} gives the class {}; expected whole numbers from 0", file,
                                label);
                options.labels.push_back(std::isfinite(label) ? std::llround(label) : -1);
            }
            return {};
        }
        if (!options.class_rows.defined()) {
            if (subject.model.info().classes == 0 || !subject.label) return {};
            for (const std::int64_t which : drawn)
                options.labels.push_back(subject.label(pictures.picture(which)).value_or(-1));
            return {};
        }
        std::set<std::string> folders;
        const auto folder = [&](std::int64_t i) { return pictures.picture(i).file.parent_path().filename().string(); };
        for (std::int64_t i = 0; i < pictures.count(); ++i) folders.insert(folder(i));
        if (std::ssize(folders) != options.class_rows.size(0)) {
            notes.push_back(fmt::format(
                "{} folders for {} class rows: no cross entropy; name classes with autoencoder_fidelity.labels",
                folders.size(), options.class_rows.size(0)));
            return {};
        }
        notes.emplace_back("folders by name are the class rows in their order");
        for (const std::int64_t which : drawn)
            options.labels.push_back(std::distance(folders.begin(), folders.find(folder(which))));
        return {};
    }
};

}  // namespace

std::unique_ptr<Measure> make_autoencoder_fidelity() { return std::make_unique<FidelityMeasure>(); }

}  // namespace vitrine::plugin::concepts
