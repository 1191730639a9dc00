// vitrine measure with a measure of a model over a folder of pictures: tables, and one document.
#include "cli/measure_folder.h"

#include <vitrine/folder_measure.h>
#include <vitrine/registry.h>

#include <cmath>
#include <fstream>

#include "cli/chosen.h"
#include "cli/fingerprint.h"
#include "cli/folder_state.h"
#include "cli/jobs.h"
#include "cli/statistics.h"

namespace vitrine::cli {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const FolderMeasure* folder_measure(const std::string& text) {
    const auto found = registry().measure(text.substr(0, text.find(':')));
    return found ? dynamic_cast<const FolderMeasure*>(*found) : nullptr;
}

std::string cell(double value) { return std::isfinite(value) ? fmt::format("{:.4g}", value) : "-"; }

/// Cells as people read them: an interval stands behind its number.
std::vector<std::vector<std::string>> cells_of(const Table& table) {
    const auto is = [&](std::size_t c, const char* name) { return c < table.cols.size() && table.cols[c] == name; };
    std::vector<std::vector<std::string>> out(1 + table.rows.size());
    out[0].push_back(table.name);
    for (std::size_t r = 0; r < table.rows.size(); ++r) out[r + 1].push_back(table.rows[r]);
    for (std::size_t c = 0; c < table.cols.size(); ++c) {
        const bool interval = is(c + 1, "low") && is(c + 2, "high");
        out[0].push_back(table.cols[c]);
        for (std::size_t r = 0; r < table.rows.size(); ++r) {
            const auto& row = table.values[r];
            std::string text = c < row.size() ? cell(row[c]) : "";
            if (interval && c + 2 < row.size() && std::isfinite(row[c + 1]))
                text += fmt::format(" ({} to {})", cell(row[c + 1]), cell(row[c + 2]));
            out[r + 1].push_back(std::move(text));
        }
        if (interval) c += 2;
    }
    return out;
}

std::string text_of(const Table& table) {
    const auto cells = cells_of(table);
    std::vector<std::size_t> widths(cells[0].size(), 0);
    for (const auto& row : cells)
        for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
    std::string out;
    for (const auto& row : cells) {
        std::string line;
        for (std::size_t c = 0; c < row.size(); ++c) line += fmt::format("{:<{}}  ", row[c], widths[c]);
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + '\n';
    }
    return out;
}

std::string markdown_of(const Table& table) {
    auto cells = cells_of(table);
    for (auto& row : cells)
        for (std::string& text : row)
            for (std::size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
    std::string out;
    for (std::size_t r = 0; r < cells.size(); ++r) {
        out += fmt::format("| {} |\n", fmt::join(cells[r], " | "));
        if (r == 0) {
            out += "| --- |";
            for (std::size_t c = 1; c < cells[r].size(); ++c) out += " ---: |";
            out += '\n';
        }
    }
    return out;
}

std::string csv_of(const Table& table) {
    const auto quoted = [](const std::string& text) {
        std::string out = "\"";
        for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
        return out + '"';
    };
    std::string out = quoted("row");
    std::string group;
    for (const auto& col : table.cols) {
        // "low" and "high" belong to the number before them.
        const bool bound = col == "low" || col == "high";
        if (!bound) group = col;
        out += ',' + quoted(bound ? group + ", " + col : col);
    }
    out += '\n';
    for (std::size_t r = 0; r < table.rows.size(); ++r) {
        out += quoted(table.rows[r]);
        for (const double value : table.values[r]) out += std::isfinite(value) ? fmt::format(",{}", value) : ",";
        out += '\n';
    }
    return out;
}

Status write(const fs::path& file, const std::string& text) {
    std::ofstream out(file, std::ios::binary);
    out << text;
    out.flush();
    if (!out) return fail(ErrorCode::Io, "{} cannot be written", file.string());
    return {};
}

Status write(const fs::path& folder, const std::string& name, const json& document, const FolderFindings& found) {
    std::error_code failed;
    fs::create_directories(folder, failed);
    if (failed) return fail(ErrorCode::Io, "the folder {} cannot be made: {}", folder.string(), failed.message());
    std::string page = "# " + name + "\n\n";
    for (const std::string& note : found.notes) page += "- " + note + "\n";
    for (const Table& table : found.tables) {
        page += '\n' + markdown_of(table);
        std::string file = table.name;
        for (char& c : file)
            if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '.') c = '_';
        VITRINE_CHECK(write(folder / (file + ".csv"), csv_of(table)));
    }
    VITRINE_CHECK(write(folder / (name + ".md"), page));
    return write(folder / (name + ".json"), json_text(document, 2) + '\n');
}

}  // namespace

bool measures_a_folder(const std::vector<std::string>& measures) {
    return std::any_of(measures.begin(), measures.end(),
                       [](const std::string& text) { return folder_measure(text) != nullptr; });
}

Status measure_folder(const Common& common, const MeasureOptions& options) {
    const std::string& name = options.measures.front();
    if (options.measures.size() > 1)
        return fail(ErrorCode::BadInput, "measures of a folder are asked for alone, and there are {}",
                    options.measures.size());
    const TargetOptions& asked = options.asked;
    if (!options.methods.empty() || options.report || options.mpi || !options.boxes.empty() || !options.masks.empty() ||
        !asked.targets.empty() || !asked.versus.empty() || !asked.reference.empty() || !asked.region.empty())
        return fail(
            ErrorCode::BadInput,
            "{} measures the model alone: --method, --target, --boxes, --masks, --report and --mpi say nothing to it",
            name);
    if (!options.state.empty() && !folder_measure(name)->goes_on())
        return fail(ErrorCode::BadInput, "{} keeps nothing of single pictures; leave out --state", name);
    std::vector<std::string> owners{"preprocess"};
    const auto chosen = VITRINE_TRY(choose_each<Measure>(
        common, options.measures, [](const std::string& one) { return registry().measure(one); }, owners));
    VITRINE_CHECK(check_owners(common, owners));
    const auto model = VITRINE_TRY(open(common));

    PictureSet pictures =
        VITRINE_TRY(PictureSet::open({options.images.begin(), options.images.end()}, model->preprocess()));
    for (const std::string& note : pictures.notes()) say(note);
    const Split split = options.split.empty() ? Split{} : VITRINE_TRY(Split::parse(options.split));
    pictures.keep([&](const PictureSet::Picture& one) {
        return split.holds(one.file.empty() ? one.name : one.file.stem().string());
    });
    if (pictures.count() == 0) return fail(ErrorCode::BadInput, "no picture belongs to split {}", options.split);

    StopOnInterrupt interrupt;
    FolderSubject subject{*model, pictures, {}, common.seed, 0, interrupt.token(), {}};
    subject.batch = common.batch > 1 ? common.batch : 0;
    subject.label = [&](const PictureSet::Picture& one) {
        return one.file.empty() ? class_of(*model, one.label) : true_class(*model, one.file);
    };
    subject.progress = [](const Progress& p) { progress(p); };
    std::optional<FolderState> state;
    if (!options.state.empty()) {
        const json made_with = VITRINE_TRY(all_hangs_on(common, *model));
        const std::string& of = chosen.front().name;
        const json settings{{"measure " + of, values_of(chosen.front().settings)}};
        state.emplace(VITRINE_TRY(FolderState::open(options.state, of, pictures, made_with, settings)));
        subject.journal = &*state;
    }
    const FolderFindings found = VITRINE_TRY(folder_measure(name)->measure_folder(subject, chosen.front().settings));
    for (const std::string& sentence : found.skipped) say("skipped: " + sentence);
    json document = json::parse(found.document);
    document["vitrine"] = version();
    document["measure"] = name;
    document["model"] = {{"name", model->info().name}, {"opened_as", common.model}};
    document["preprocessing"] = describe(model->preprocess());
    document["precision"] = common.dtype;
    document["device"] = common.device;
    document["seed"] = common.seed;
    document["settings"] = values_of(chosen.front().settings);
    if (!options.out.empty())
        VITRINE_CHECK(write(options.out, chosen.front().plugin->description().name, document, found));
    if (common.json) {
        fmt::print("{}\n", json_text(document, 2));
        return {};
    }
    for (const Table& table : found.tables) fmt::print("{}\n", text_of(table));
    for (const std::string& note : found.notes) fmt::print("{}\n", note);
    return {};
}

}  // namespace vitrine::cli
