// vitrine index-concepts: which pictures of a folder each concept of an autoencoder is strong in.
#include <vitrine/base/bytes.h>
#include <vitrine/beside.h>
#include <vitrine/concept_index.h>
#include <vitrine/concept_names.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "cli/commands.h"
#include "cli/jobs.h"
#include "cli/may_write.h"

namespace vitrine::cli {

namespace fs = std::filesystem;

namespace {

/// JSON has no NaN: what is not defined is null.
nlohmann::json number(float value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); }
std::string shown(float value) { return std::isfinite(value) ? fmt::format("{:.4g}", value) : "-"; }

nlohmann::json tops_of(const ConceptIndex& index, const std::vector<ConceptTop>& tops) {
    auto out = nlohmann::json::array();
    for (const ConceptTop& top : tops) {
        nlohmann::json one{{"picture", index.picture(top.picture).name}, {"value", top.value}};
        if (top.cell != kNoCell && index.cols() > 0) one["patch"] = {top.cell / index.cols(), top.cell % index.cols()};
        out.push_back(std::move(one));
    }
    return out;
}

nlohmann::json concept_facts(const ConceptIndex& index, const ConceptNames& names, std::uint32_t latent, bool whole) {
    nlohmann::json out{{"concept", latent}};
    if (const ConceptName* name = names.find(latent)) {
        out["name"] = name->name;
        out["tags"] = name->tags;
        out["note"] = name->note;
    }
    for (const auto& column : ConceptIndex::column_names()) out[column] = number(index.column(column)[latent]);
    out["tops"] = tops_of(index, index.tops(latent));
    if (!whole) return out;
    out["class_tops"] = tops_of(index, index.class_tops(latent));
    out["histogram"] = index.histogram(latent);
    for (const ConceptNeighbour& one : index.neighbours(latent))
        out["neighbours"].push_back({{"concept", one.latent}, {"cosine", one.cosine}});
    out["map"] = {number(index.map()[2 * std::size_t{latent}]), number(index.map()[2 * std::size_t{latent} + 1])};
    return out;
}

/// Pictures of the folder that could not be read: they count nowhere.
std::int64_t unread(const ConceptIndex& index) {
    std::int64_t out = 0;
    for (std::int64_t i = 0; i < index.pictures(); ++i) out += index.picture(i).skipped ? 1 : 0;
    return out;
}

/// A bar for every bin between the first and the last with a picture.
void print_histogram(std::span<const std::uint32_t> counts) {
    constexpr std::size_t kLongest = 40;
    const auto some = [](std::uint32_t count) { return count > 0; };
    const auto first = std::find_if(counts.begin(), counts.end(), some);
    if (first == counts.end()) return;
    const auto last = std::find_if(counts.rbegin(), counts.rend(), some).base();
    const std::uint32_t most = *std::max_element(first, last);
    fmt::print("\npictures by how strong it is in them, from\n");
    for (auto bin = first; bin != last; ++bin)
        fmt::print("  {:>8.3g}  {:>7}  {}\n", ConceptIndex::bin_edge(bin - counts.begin()), *bin,
                   std::string((kLongest * *bin + most - 1) / most, '#'));
}

std::string place(const ConceptIndex& index, const ConceptTop& top) {
    const std::string name = bytes::printable(index.picture(top.picture).name);
    if (top.cell == kNoCell || index.cols() == 0) return fmt::format("{} {:.4g}", name, top.value);
    return fmt::format("{} at {}, {} {:.4g}", name, top.cell / index.cols(), top.cell % index.cols(), top.value);
}

/// The autoencoder beside an index, or what the index was built with.
struct Beside {
    std::string replaced;  ///< a sentence where it is another one than then; empty where it is not, or none is there
    std::string mark;      ///< of its names; empty where it is not there
};

Beside beside(const ConceptIndex& index, const fs::path& autoencoder) {
    std::error_code ignored;
    if (!fs::is_regular_file(autoencoder, ignored)) return {};
    const auto given = given_of(index.fact("given"));
    const auto now = Autoencoder::load(autoencoder, given ? *given : std::map<std::string, std::string>());
    if (!now) return {fmt::format("the autoencoder beside the index cannot be read: {}", now.error().message), {}};
    if (concepts_hash(*now) == index.fact("autoencoder")) return {{}, concepts_mark(*now)};
    return {
        fmt::format("{} was replaced since the index was built: these figures are of the one before, build it again",
                    autoencoder.filename().string()),
        concepts_mark(*now)};
}

Status show(const Common& common, const IndexConceptsArguments& arguments) {
    const ConceptIndex index = VITRINE_TRY(ConceptIndex::open(arguments.show));
    const std::int64_t one = arguments.concept_number;
    if (one >= index.latents())
        return fail(ErrorCode::BadInput, "there is no concept {}, the index has 0 to {}", one, index.latents() - 1);
    fs::path autoencoder = arguments.show;
    if (autoencoder.extension() == ".index") autoencoder.replace_extension();
    const auto [replaced, mark] = beside(index, autoencoder);
    // They help to read, and a broken file of them stops nothing.
    const auto called = ConceptNames::of(autoencoder, mark);
    if (!called) say(called.error().message);
    const ConceptNames names = called.value_or(ConceptNames());
    std::vector<std::uint32_t> chosen =
        one >= 0 ? std::vector<std::uint32_t>{static_cast<std::uint32_t>(one)} : index.order(arguments.sort);
    chosen.resize(std::min(chosen.size(), static_cast<std::size_t>(arguments.limit)));
    const auto changes = changes_since(index);
    const std::string changed = changes ? changes->sentence() : changes.error().message;
    if (!changed.empty()) say(changed);
    if (!replaced.empty()) say(replaced);
    if (const std::string doubt = index.fact("doubt"); !doubt.empty()) say(doubt);
    if (common.json) {
        auto facts = index.facts();
        facts["pictures"] = std::to_string(index.pictures() - unread(index));
        facts["skipped"] = std::to_string(unread(index));
        nlohmann::json out{{"facts", facts}, {"changed", changed}, {"replaced", replaced}};
        for (const std::uint32_t latent : chosen)
            out["concepts"].push_back(concept_facts(index, names, latent, one >= 0));
        fmt::print("{}\n", json_text(out, 2));
        return {};
    }
    if (one < 0) {
        const std::int64_t broken = unread(index);
        fmt::print("{} concepts of {} over {} pictures{}, by {}\n\n{:>8}", index.latents(), index.fact("point"),
                   index.pictures() - broken,
                   broken > 0 ? fmt::format(" ({} more could not be read)", broken) : std::string(), arguments.sort,
                   "concept");
        for (const auto& column : ConceptIndex::column_names()) fmt::print("  {:>17}", column);
        fmt::print("  strongest in\n");
        for (const std::uint32_t latent : chosen) {
            fmt::print("{:>8}", latent);
            for (const auto& column : ConceptIndex::column_names())
                fmt::print("  {:>17}", shown(index.column(column)[latent]));
            const auto tops = index.tops(latent);
            const ConceptName* name = names.find(latent);
            fmt::print("  {}{}\n", name != nullptr && !name->name.empty() ? name->name + ": " : "",
                       tops.empty() ? "nothing" : place(index, tops.front()));
        }
        return {};
    }
    const std::uint32_t latent = chosen.front();
    if (const ConceptName* name = names.find(latent))
        fmt::print("{} [{}] {}\n", name->name, fmt::join(name->tags, ", "), name->note);
    for (const auto& column : ConceptIndex::column_names())
        fmt::print("{:<20} {}\n", column, shown(index.column(column)[latent]));
    const auto list = [&](const char* title, const std::vector<ConceptTop>& tops) {
        if (tops.empty()) return;
        fmt::print("\n{}\n", title);
        for (const ConceptTop& top : tops) fmt::print("  {}\n", place(index, top));
    };
    list("pictures by their greatest patch", index.tops(latent));
    list("pictures by the class token", index.class_tops(latent));
    print_histogram(index.histogram(latent));
    fmt::print("\nnearest by decoder row\n");
    for (const ConceptNeighbour& near : index.neighbours(latent))
        fmt::print("  {:>8}  cosine {:.3f}\n", near.latent, near.cosine);
    return {};
}

}  // namespace

Status index_concepts(const Common& common, const IndexConceptsArguments& arguments) {
    if (!arguments.show.empty()) return show(common, arguments);
    StopOnInterrupt interrupt;
    IndexConceptsOptions options;
    options.folder = arguments.folder;
    options.autoencoder = arguments.autoencoder;
    options.given = VITRINE_TRY(given_of(arguments.given));
    options.out = arguments.out;
    options.stop = interrupt.token();
    options.progress = [](const Progress& p) { progress(p); };
    if (!arguments.out.empty())
        VITRINE_CHECK(spares_what_is_read(arguments.out, {{common.model, "the model"},
                                                          {arguments.autoencoder, "the autoencoder"},
                                                          {arguments.folder, "the pictures", true}}));
    const auto model = VITRINE_TRY(open_for_job(common, options.settings));
    VITRINE_CHECK(add_batch(common, "pictures", options.settings));
    const IndexConceptsSummary summary = VITRINE_TRY(vitrine::index_concepts(*model, options));
    for (const auto& sentence : summary.skipped) say("skipped: " + sentence);
    for (const auto& note : summary.notes) say(note);
    if (common.json) {
        fmt::print("{}\n", json_text({{"file", summary.file.string()},
                                      {"finished", summary.finished},
                                      {"pictures", summary.pictures},
                                      {"concepts", summary.latents},
                                      {"run", summary.run},
                                      {"added", summary.added},
                                      {"changed", summary.changed},
                                      {"removed", summary.removed},
                                      {"skipped", summary.skipped},
                                      {"size_bytes", summary.size_bytes},
                                      {"records_bytes", summary.records_bytes},
                                      {"seconds", summary.seconds},
                                      {"pictures_per_second", summary.pictures_per_second},
                                      {"assembly_seconds", summary.assembly_seconds},
                                      {"notes", summary.notes}},
                                     2));
        return {};
    }
    if (!summary.finished) {
        fmt::print("stopped after {} pictures; run the same command again to go on\n", summary.run);
        return {};
    }
    const std::int64_t broken = std::ssize(summary.skipped);
    fmt::print("{}: {} concepts over {} pictures ({} added, {} changed, {} removed{}), {}; its records {}\n",
               summary.file.string(), summary.latents, summary.pictures - broken, summary.added, summary.changed,
               summary.removed, broken > 0 ? fmt::format(", {} more could not be read", broken) : std::string(),
               size_text(summary.size_bytes), size_text(summary.records_bytes));
    if (summary.run > 0)
        fmt::print("{} pictures run, {:.1f} a second; put together in {:.1f} s\n", summary.run,
                   summary.pictures_per_second, summary.assembly_seconds);
    return {};
}

}  // namespace vitrine::cli
