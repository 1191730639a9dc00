// vitrine measure: how faithful methods are on pictures, as means with intervals and differences from controls.
#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/picture_files.h>
#include <vitrine/base/random.h>
#include <vitrine/device.h>
#include <vitrine/torch_errors.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "cli/boxes.h"
#include "cli/commands.h"
#include "cli/fingerprint.h"
#include "cli/measure_folder.h"
#include "cli/measure_table.h"
#include "cli/processes.h"
#include "cli/targets.h"

namespace vitrine::cli {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

/// Pictures as named, and those below folders in the order of their names; each once.
Result<std::vector<fs::path>> pictures_in(const std::vector<std::string>& named) {
    std::vector<fs::path> out;
    std::set<fs::path> known;
    const auto add = [&](const fs::path& picture) {
        if (known.insert(picture).second) out.push_back(picture);
    };
    for (const auto& name : named) {
        std::error_code failed;
        if (!fs::is_directory(name, failed)) {
            add(name);
            continue;
        }
        const FilesBelow found = VITRINE_TRY(files_below(name, is_picture_name));
        for (const std::string& note : found.notes) say(note);
        if (found.files.empty()) return fail(ErrorCode::NotFound, "the folder {} holds no pictures", name);
        for (const fs::path& picture : found.files) add(picture);
    }
    return out;
}

/// Seeds of pictures differ, or a random map would be one map; they follow from the name, not from the order.
std::uint64_t seed_of(std::uint64_t seed, const fs::path& picture) {
    // Small enough for every reader of JSON.
    return random_bits(seed, hash_of(picture.filename().string()), 0) >> 11;
}

/// Of a picture's file and of what its measures are told of it.
Result<std::string> fingerprint_of(const fs::path& picture, const std::optional<Boxed>& known) {
    std::uint64_t key = VITRINE_TRY(fingerprint(picture, 0));
    if (known) {
        if (known->mask_width > 0)
            key = mix64(key ^ hash_of(fmt::format("{} {}", known->mask_width, known->mask_height)));
        if (known->label) key = mix64(key ^ static_cast<std::uint64_t>(*known->label + 1));
        for (const Box& box : known->boxes)
            key = fingerprint({reinterpret_cast<const std::byte*>(&box), sizeof box}, key);
    }
    return fmt::format("{:016x}", key);
}

double milliseconds(std::chrono::steady_clock::time_point since) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - since).count();
}

/// What is asked for, in a form that the work can lean on.
struct Asked {
    const Common& common;
    const MeasureOptions& options;
    std::vector<Chosen<Explainer>> methods;
    std::vector<Chosen<Measure>> measures;
    std::vector<fs::path> pictures;
    std::shared_ptr<Model> model;
    TargetMaker maker;
    Boxes boxes;
    std::vector<Column> columns;  ///< method by method, empty so far
    Smooth smoothing;             ///< holds what the methods point at
    json made_with, settings;     ///< for State
    std::set<std::size_t> noted;  ///< columns whose notes were taken: those of one picture are shown
};

Result<Asked> ask(const Common& common, const MeasureOptions& options) {
    std::vector<std::string> owners{"preprocess", "target"};
    auto methods = VITRINE_TRY(choose_each<Explainer>(
        common, options.methods, [](const std::string& name) { return registry().explainer(name); }, owners));
    auto measures = VITRINE_TRY(choose_each<Measure>(
        common, options.measures, [](const std::string& name) { return registry().measure(name); }, owners));
    auto smoothing = VITRINE_TRY(smooth(common, methods, owners));
    VITRINE_CHECK(check_owners(common, owners));
    const auto& asked = options.asked.targets;
    if (asked.size() > 1 || (asked.size() == 1 && (asked[0] == "top5" || asked[0] == "top10")))
        return fail(ErrorCode::BadInput, "one target a picture is measured, and {} are asked for",
                    asked[0] == "top5"    ? "five"
                    : asked[0] == "top10" ? "ten"
                                          : std::to_string(asked.size()));
    const Split split = options.split.empty() ? Split{} : VITRINE_TRY(Split::parse(options.split));
    if (options.report && options.state.empty())
        return fail(ErrorCode::BadInput, "--report shows what a file holds; name it by --state");
    if (!options.out.empty())
        return fail(ErrorCode::BadInput,
                    "--out is for measures of a folder; --json and --state keep what is found here");
    auto pictures = VITRINE_TRY(pictures_in(options.images));
    const std::size_t before = pictures.size();
    std::erase_if(pictures, [&](const fs::path& picture) { return !split.holds(picture.stem().string()); });
    if (pictures.empty())
        return fail(ErrorCode::BadInput, "none of the {} pictures belongs to split {}", before, options.split);
    auto boxes = VITRINE_TRY(Boxes::make(options.boxes, options.masks));
    auto model = VITRINE_TRY(open(common));
    auto maker = VITRINE_TRY(TargetMaker::make(common, *model, options.asked));

    json target{{"target", options.asked.targets.empty() ? "predicted" : options.asked.targets.front()}};
    if (!options.asked.versus.empty()) target["versus"] = options.asked.versus;
    if (!options.asked.reference.empty()) target = {{"reference", options.asked.reference}};
    if (!options.asked.region.empty()) target = {{"region", options.asked.region}};
    for (const auto& [key, value] : VITRINE_TRY(settings_of(common, "target"))) target[key] = value;
    json made_with = VITRINE_TRY(all_hangs_on(common, *model));
    made_with["target"] = std::move(target);
    if (smoothing.any()) made_with["smoothing"] = values_of(smoothing.options);
    json settings = json::object();
    for (const auto& method : methods) settings["method " + method.name] = values_of(method.settings);
    for (const auto& measure : measures) settings["measure " + measure.name] = values_of(measure.settings);
    return Asked{common,
                 options,
                 std::move(methods),
                 std::move(measures),
                 std::move(pictures),
                 std::move(model),
                 std::move(maker),
                 std::move(boxes),
                 std::vector<Column>{},
                 std::move(smoothing),
                 std::move(made_with),
                 std::move(settings),
                 {}};
}

/// Where a finding belongs in a table of pictures and columns.
class Places {
  public:
    explicit Places(const Asked& asked) {
        for (std::size_t i = 0; i < asked.pictures.size(); ++i) pictures_[asked.pictures[i].string()] = i;
        for (std::size_t i = 0; i < asked.columns.size(); ++i)
            columns_[{asked.columns[i].method->name, asked.columns[i].measure->name}] = i;
        found_.resize(asked.pictures.size(), std::vector<std::optional<Finding>>(asked.columns.size()));
    }
    /// What is no part of the table is passed over: a file may hold more than is asked for now.
    void put(Finding finding) {
        const auto picture = pictures_.find(finding.picture);
        const auto column = columns_.find({finding.method, finding.measure});
        if (picture == pictures_.end() || column == columns_.end()) return;
        found_[picture->second][column->second] = std::move(finding);
    }
    std::vector<std::optional<Finding>>& of(std::size_t picture) { return found_[picture]; }

  private:
    std::map<std::string, std::size_t> pictures_;
    std::map<std::pair<std::string, std::string>, std::size_t> columns_;
    std::vector<std::vector<std::optional<Finding>>> found_;
};

/// Measures what is missing of one picture. Where the picture itself cannot be had, that is every finding's failure.
std::vector<Finding> measured(Asked& asked, const fs::path& path, const std::string& content,
                              const std::vector<std::optional<Finding>>& there) {
    Model& model = *asked.model;
    const auto blank = [&](const Column& column) {
        Finding out;
        out.picture = path.string();
        out.content = content;
        out.method = column.method->name;
        out.measure = column.measure->name;
        return out;
    };
    std::vector<Finding> out;
    const auto is_missing = [&](std::size_t column) { return !asked.columns[column].why_not && !there[column]; };
    const Status done = [&]() -> Status {
        const std::optional<Boxed> known = VITRINE_TRY(asked.boxes.of(path));
        const Input input = VITRINE_TRY(load_input(path, model.preprocess()));
        ExplainContext first(model, input, {}, seed_of(asked.common.seed, path));
        first.memory_budget = asked.common.memory_bytes;
        const auto capture = VITRINE_TRY(first.capture());
        const auto answers = model.info().classes > 0 ? top(capture->output, model.labels(), 5) : std::vector<Answer>{};
        const auto targets = VITRINE_TRY(asked.maker.of(path, answers, known ? known->label : std::nullopt));
        ExplainContext context(model, input, targets.front().target, first.seed);
        context.memory_budget = asked.common.memory_bytes;
        context.batch = asked.common.batch > 1 ? asked.common.batch : 0;
        if (known) context.boxes = VITRINE_TRY(boxes_in_photo(*known, input.geometry));
        context.use(capture);
        const at::Device device = model.device();
        std::optional<Result<Attribution>> map;  // of one method, made when the first of its measures runs
        const Chosen<Explainer>* mapped = nullptr;
        double method_ms = 0;
        std::int64_t method_bytes = 0;
        for (std::size_t i = 0; i < asked.columns.size(); ++i) {
            if (!is_missing(i)) continue;
            const Column& column = asked.columns[i];
            if (column.method != mapped) {
                synchronize(device);
                reset_peak_bytes(device);
                const std::int64_t held = peak_bytes(device);
                const auto begin = std::chrono::steady_clock::now();
                map = guarded([&] { return column.method->plugin->explain(context, column.method->settings); });
                synchronize(device);
                method_ms = milliseconds(begin);
                method_bytes = peak_bytes(device) - held;
                mapped = column.method;
            }
            Finding finding = blank(column);
            finding.method_ms = method_ms;
            finding.method_bytes = method_bytes;
            const auto begin = std::chrono::steady_clock::now();
            auto score = guarded([&]() -> Result<Score> {
                if (!*map) return tl::make_unexpected(map->error());
                return column.measure->plugin->measure(
                    context, {*column.method->plugin, column.method->settings, **map}, column.measure->settings);
            });
            finding.measure_ms = milliseconds(begin);
            if (!score) {
                finding.failed = std::move(score).error();
            } else if (score->left_out || !std::isfinite(score->value)) {
                finding.left_out = score->left_out.value_or("the number is not finite");
            } else {
                finding.value = score->value;
                finding.unit = score->unit;
                if (asked.noted.insert(i).second) finding.notes = std::move(score->notes);
            }
            out.push_back(std::move(finding));
        }
        return {};
    }();
    if (done) return out;
    out.clear();
    for (std::size_t i = 0; i < asked.columns.size(); ++i) {
        if (!is_missing(i)) continue;
        out.push_back(blank(asked.columns[i]));
        out.back().failed = done.error();
    }
    say(fmt::format("{}: {}", path.string(), done.error().message));
    return out;
}

std::string lines_of(const std::vector<Finding>& findings) {
    auto lines = json::array();
    for (const Finding& finding : findings) lines.push_back(to_json(finding));
    return json_text(lines);
}

Result<std::vector<Finding>> findings_in(const std::string& lines) {
    std::vector<Finding> out;
    for (const json& line : json::parse(lines, nullptr, false)) out.push_back(VITRINE_TRY(finding_of(line)));
    return out;
}

/// What an earlier run found, as far as its pictures are what they were, everywhere alike.
Result<std::vector<Finding>> found_before(Asked& asked, std::optional<State>& state, const Processes& processes) {
    std::vector<Finding> found;
    const Status read = [&]() -> Status {
        if (asked.options.state.empty() || processes.rank() != 0) return {};
        if (asked.options.report) {
            json any_device = asked.made_with;  // the numbers may have been made on a device that is not here
            any_device.erase("device");
            State::Kept kept = VITRINE_TRY(State::read(asked.options.state, any_device, asked.settings));
            asked.made_with["device"] = kept.made_with.value("device", "cpu");
            found = std::move(kept.findings);
            return {};
        }
        state.emplace(VITRINE_TRY(State::open(asked.options.state, asked.made_with, asked.settings)));
        VITRINE_CHECK(state->take_parts());
        found = std::move(state->found());
        return {};
    }();
    VITRINE_CHECK(processes.agree(read));
    if (processes.size() == 1) return found;
    return findings_in(VITRINE_TRY(processes.share(lines_of(found))));
}

/// The measuring itself: `places` is full at rank 0 afterwards.
Status work(Asked& asked, Places& places, const Processes& processes) {
    std::optional<State> state;
    auto found = VITRINE_TRY(found_before(asked, state, processes));
    std::vector<std::string> contents;
    for (const fs::path& picture : asked.pictures) {
        const auto known = asked.boxes.of(picture);
        // A picture that cannot be read says so when it is measured.
        contents.push_back(fingerprint_of(picture, known.value_or(std::nullopt)).value_or(""));
    }
    std::map<std::string, std::string> content_of;
    for (std::size_t i = 0; i < contents.size(); ++i) content_of[asked.pictures[i].string()] = contents[i];
    std::size_t stale = 0;
    for (Finding& finding : found) {
        const auto content = content_of.find(finding.picture);
        if (content == content_of.end()) continue;
        if (content->second == finding.content || asked.options.report)
            places.put(std::move(finding));
        else
            ++stale;
    }
    if (stale > 0) say(fmt::format("{} lines of {} are of other pictures, boxes or masks", stale, asked.options.state));
    if (asked.options.report) return {};

    std::vector<std::size_t> open;  // pictures with something missing
    for (std::size_t i = 0; i < asked.pictures.size(); ++i) {
        const auto& row = places.of(i);
        for (std::size_t c = 0; c < row.size(); ++c) {
            if (asked.columns[c].why_not || row[c]) continue;
            open.push_back(i);
            break;
        }
    }
    if (!asked.options.state.empty() && processes.rank() == 0 && open.size() < asked.pictures.size())
        say(fmt::format("{} of {} pictures are in {}", asked.pictures.size() - open.size(), asked.pictures.size(),
                        asked.options.state));

    const fs::path part = State::part_of(asked.options.state, processes.rank());
    std::vector<Finding> mine;
    const Status measured_all = [&]() -> Status {
        if (processes.rank() > 0 && !asked.options.state.empty())
            state.emplace(VITRINE_TRY(State::open(part, asked.made_with, asked.settings)));
        const auto processes_there = static_cast<std::size_t>(processes.size());
        for (auto i = static_cast<std::size_t>(processes.rank()); i < open.size(); i += processes_there) {
            auto some = measured(asked, asked.pictures[open[i]], contents[open[i]], places.of(open[i]));
            if (state) VITRINE_CHECK(state->append(some));
            mine.insert(mine.end(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
            if (processes.rank() == 0)
                progress({static_cast<std::int64_t>(std::min(i + processes_there, open.size())),
                          static_cast<std::int64_t>(open.size()), "pictures"});
        }
        return {};
    }();
    VITRINE_CHECK(processes.agree(measured_all));
    if (processes.size() == 1) {
        for (Finding& finding : mine) places.put(std::move(finding));
        return {};
    }
    const auto all = VITRINE_TRY(processes.gather(lines_of(mine)));
    const Status kept = [&]() -> Status {
        for (std::size_t rank = 0; rank < all.size(); ++rank) {
            auto findings = VITRINE_TRY(findings_in(all[rank]));
            if (rank > 0 && state) VITRINE_CHECK(state->append(findings));
            for (Finding& finding : findings) places.put(std::move(finding));
        }
        return {};
    }();
    // What rank 0 has on its disk the others need no longer.
    VITRINE_CHECK(processes.agree(kept));
    std::error_code ignored;
    if (processes.rank() > 0 && state) fs::remove(part, ignored);
    return {};
}

void print(const Asked& asked, int processes) {
    if (!asked.common.json) {
        print(asked.columns);
        fmt::print("{} pictures, seed {}, {} resamples over pictures\n", asked.pictures.size(), asked.common.seed,
                   kResamples);
        return;
    }
    const ModelInfo& info = asked.model->info();
    json document = describe(asked.columns, asked.common.seed);
    document.update(
        {{"vitrine", version()},
         {"model",
          {{"name", info.name},
           {"opened_as", asked.common.model},
           {"architecture", info.architecture},
           {"fingerprint", asked.made_with["model"]}}},
         {"preprocessing", describe(asked.model->preprocess())},
         {"precision", asked.common.dtype},
         {"device", asked.options.report ? asked.made_with["device"] : json(asked.common.device)},
         {"seed", asked.common.seed},
         {"target", asked.options.asked.targets.empty() ? "predicted" : asked.options.asked.targets.front()},
         {"pictures", asked.pictures.size()},
         {"split", asked.options.split.empty() ? json() : json(asked.options.split)},
         {"processes", processes},
         {"resamples", kResamples},
         {"interval", 0.95}});
    if (asked.smoothing.any()) document["smoothing"] = values_of(asked.smoothing.options);
    if (!asked.options.masks.empty()) document["masks"] = asked.options.masks;
    if (!asked.options.asked.versus.empty()) document["versus"] = asked.options.asked.versus;
    if (!asked.options.asked.reference.empty()) document["target"] = {{"reference", asked.options.asked.reference}};
    if (!asked.options.asked.region.empty()) document["target"] = {{"region", asked.options.asked.region}};
    fmt::print("{}\n", json_text(document, 2));
}

/// @return at ranks above 0 only what all of them say
Status measure(const Common& common, const MeasureOptions& options, const Processes& processes) {
    auto maybe = ask(common, options);
    VITRINE_CHECK(processes.agree(maybe ? Status{} : tl::make_unexpected(maybe.error())));
    Asked& asked = *maybe;
    for (const auto& method : asked.methods) {
        for (const auto& measure : asked.measures) {
            Column column;
            column.method = &method;
            column.measure = &measure;
            column.why_not = method.plugin->why_not(*asked.model);
            if (!column.why_not) column.why_not = measure.plugin->why_not(*asked.model, *method.plugin);
            if (column.why_not)
                column.first_error = Error{ErrorCode::Unsupported,
                                           fmt::format("{} of {}: {}", measure.name, method.name, *column.why_not)};
            asked.columns.push_back(std::move(column));
        }
    }
    Places places(asked);
    VITRINE_CHECK(work(asked, places, processes));
    if (processes.rank() != 0) return {};
    for (std::size_t i = 0; i < asked.pictures.size(); ++i)
        for (std::size_t c = 0; c < asked.columns.size(); ++c)
            if (const auto& finding = places.of(i)[c]) asked.columns[c].add(*finding);
    compare(asked.columns, common.seed);
    print(asked, processes.size());
    // A picture that is left out is told and no failure; a measure that counted none is one.
    for (const Column& column : asked.columns) {
        if (!column.values.empty()) continue;
        if (column.first_error) return tl::make_unexpected(*column.first_error);
        return fail(ErrorCode::BadInput, "{} of {} counts no picture: {}", column.measure->name, column.method->name,
                    column.left_out.empty() ? "there is none" : column.left_out[0].second);
    }
    return {};
}

}  // namespace

Status measure(const Common& common, const MeasureOptions& options) {
    if (measures_a_folder(options.measures)) return measure_folder(common, options);
    return shared_by_processes(options.mpi,
                               [&](const Processes& processes) { return measure(common, options, processes); });
}

}  // namespace vitrine::cli
