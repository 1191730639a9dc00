// vitrine measure: how faithful methods are on pictures, as means with intervals.
#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/random.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <random>
#include <sstream>

#include "cli/chosen.h"
#include "cli/commands.h"
#include "cli/targets.h"

namespace vitrine::cli {

namespace fs = std::filesystem;

namespace {

constexpr int kResamples = 10000;

/// Pictures as named, and those below folders in the order of their names.
Result<std::vector<fs::path>> pictures_in(const std::vector<std::string>& named) {
    std::vector<fs::path> out;
    for (const auto& name : named) {
        std::error_code failed;
        if (!fs::is_directory(name, failed)) {
            out.emplace_back(name);
            continue;
        }
        std::vector<fs::path> found;
        for (fs::recursive_directory_iterator it(name, fs::directory_options::skip_permission_denied, failed), end;
             !failed && it != end; it.increment(failed))
            if (it->is_regular_file(failed) && is_picture_name(it->path())) found.push_back(it->path());
        if (failed) return fail(ErrorCode::Io, "the folder {} cannot be read: {}", name, failed.message());
        if (found.empty()) return fail(ErrorCode::NotFound, "the folder {} holds no pictures", name);
        std::sort(found.begin(), found.end());
        out.insert(out.end(), found.begin(), found.end());
    }
    return out;
}

/// What a table of boxes says of one picture.
struct Boxed {
    std::vector<Box> boxes;
    std::optional<std::int64_t> label;
};
using BoxTable = std::map<std::string, Boxed>;

std::optional<std::vector<double>> numbers_in(const std::string& text, char between) {
    std::vector<double> out;
    std::istringstream parts(text);
    std::string part;
    while (std::getline(parts, part, between)) {
        double number = 0;
        const auto [end, code] = std::from_chars(part.data(), part.data() + part.size(), number);
        if (code != std::errc() || end != part.data() + part.size() || !std::isfinite(number)) return std::nullopt;
        out.push_back(number);
    }
    return out;
}

/// Lines of tab-separated fields: the file, then x0, y0, x1, y1 (one box a line, lines of one file add up), or one
/// field with such fours, commas inside and semicolons between them. A whole number in a field named imagenet_index,
/// index, class or label is the picture's class. A first line without numbers names the fields.
Result<BoxTable> read_boxes(const fs::path& file) {
    BoxTable out;
    std::istringstream lines(VITRINE_TRY(read_text(file)));
    std::string line;
    std::vector<std::string> header;
    for (std::size_t count = 1; std::getline(lines, line); ++count) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.empty()) continue;
        std::vector<std::string> fields;
        std::istringstream parts(line);
        std::string field;
        while (std::getline(parts, field, '\t')) fields.push_back(field);
        const auto broken = [&] {
            return fail(ErrorCode::BadInput, "{} line {} is '{}', expected a file and x0, y0, x1, y1", file.string(),
                        count, line.substr(0, 80));
        };
        if (fields.size() < 2) return broken();
        if (count == 1 && std::none_of(fields.begin() + 1, fields.end(), [](const std::string& text) {
                return !text.empty() && (std::isdigit(static_cast<unsigned char>(text[0])) != 0 || text[0] == '-');
            })) {
            header = fields;
            continue;
        }
        Boxed& entry = out[fields[0]];
        std::vector<double> loose;  // numbers that stand alone in their fields
        for (std::size_t i = 1; i < fields.size(); ++i) {
            const std::string& name = i < header.size() ? header[i] : std::string();
            const auto alone = numbers_in(fields[i], '\t');
            if (name == "imagenet_index" || name == "index" || name == "class" || name == "label") {
                if (alone && alone->size() == 1 && alone->front() >= 0 && alone->front() == std::floor(alone->front()))
                    entry.label = static_cast<std::int64_t>(alone->front());
                continue;
            }
            if (alone && alone->size() == 1) {
                loose.push_back(alone->front());
                continue;
            }
            if (fields[i].find(',') == std::string::npos) continue;  // a word for people
            std::istringstream fours(fields[i]);
            std::string four;
            while (std::getline(fours, four, ';')) {
                const auto numbers = numbers_in(four, ',');
                if (!numbers || numbers->size() != 4) return broken();
                entry.boxes.push_back({(*numbers)[0], (*numbers)[1], (*numbers)[2], (*numbers)[3]});
            }
        }
        if (loose.size() == 4)
            entry.boxes.push_back({loose[0], loose[1], loose[2], loose[3]});
        else if (!loose.empty())
            return broken();
        for (const Box& box : entry.boxes)
            if (!(box.width() > 0) || !(box.height() > 0)) return broken();
    }
    return out;
}

/// Tables found so far, by folder.
class Boxes {
  public:
    static Result<Boxes> make(const std::string& file) {
        Boxes out;
        if (!file.empty()) out.given_ = VITRINE_TRY(read_boxes(file));
        return out;
    }
    /// @return  null where no table lists the picture
    Result<const Boxed*> of(const fs::path& picture) {
        if (given_) return find(*given_, picture);
        const fs::path folder = picture.parent_path();
        auto found = tables_.find(folder);
        if (found == tables_.end()) {
            BoxTable table;
            std::error_code ignored;
            // In the folder of the pictures, or in the one above their class folders.
            for (const fs::path& place : {folder, folder.parent_path()}) {
                if (!fs::exists(place / "boxes.tsv", ignored)) continue;
                table = VITRINE_TRY(read_boxes(place / "boxes.tsv"));
                break;
            }
            found = tables_.emplace(folder, std::move(table)).first;
        }
        return find(found->second, picture);
    }

  private:
    static const Boxed* find(const BoxTable& table, const fs::path& picture) {
        // By its whole name, by folder and name, by name.
        for (const std::string& name :
             {picture.string(), (picture.parent_path().filename() / picture.filename()).string(),
              picture.filename().string()})
            if (const auto found = table.find(name); found != table.end()) return &found->second;
        return nullptr;
    }
    std::optional<BoxTable> given_;
    std::map<fs::path, BoxTable> tables_;
};

/// Seeds of pictures differ, or a random map would be one map; they follow from the name, not from the order.
std::uint64_t seed_of(std::uint64_t seed, const fs::path& picture) {
    // Small enough for every reader of JSON.
    return random_bits(seed, hash_of(picture.filename().string()), 0) >> 11;
}

/// The middle 95 % of means of as many pictures, drawn with replacement; nothing for fewer than two.
std::optional<std::pair<double, double>> interval_of(const std::vector<double>& values, std::uint64_t seed) {
    if (values.size() < 2) return std::nullopt;
    std::mt19937_64 random(seed);
    std::vector<double> means(kResamples);
    for (double& mean : means) {
        double sum = 0;
        for (std::size_t i = 0; i < values.size(); ++i) sum += values[random() % values.size()];
        mean = sum / static_cast<double>(values.size());
    }
    std::sort(means.begin(), means.end());
    return std::pair{means[kResamples / 40], means[kResamples - 1 - kResamples / 40]};
}

double milliseconds(std::chrono::steady_clock::time_point since) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - since).count();
}

/// One measure of one method over all pictures.
struct Column {
    const Chosen<Explainer>* method = nullptr;
    const Chosen<Measure>* measure = nullptr;
    std::optional<std::string> why_not;
    std::string unit;
    std::vector<double> values;
    std::vector<std::string> pictures;  ///< of the values
    std::vector<std::string> notes;     ///< of the first picture
    nlohmann::json left_out = nlohmann::json::array();
    std::optional<Error> first_error;
    double method_ms = 0, measure_ms = 0;  ///< sums over the values

    void leave_out(const std::string& picture, const std::string& reason) {
        left_out.push_back({{"image", picture}, {"reason", reason}});
    }
};

double mean_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return sum / static_cast<double>(values.size());
}

nlohmann::json describe(const Column& column, std::uint64_t seed) {
    nlohmann::json out{{"method", column.method->name},
                       {"method_settings", values_of(column.method->settings)},
                       {"measure", column.measure->name},
                       {"settings", values_of(column.measure->settings)},
                       {"unit", column.unit},
                       {"higher_is_better", nullptr},
                       {"mean", nullptr},
                       {"low", nullptr},
                       {"high", nullptr},
                       {"n", column.values.size()},
                       {"left_out", column.left_out}};
    if (const auto higher = column.measure->plugin->higher_is_better()) out["higher_is_better"] = *higher;
    if (column.why_not) out["why_not"] = *column.why_not;
    if (column.values.empty()) return out;
    const auto count = static_cast<double>(column.values.size());
    out["mean"] = mean_of(column.values);
    if (const auto interval = interval_of(column.values, seed)) {
        out["low"] = interval->first;
        out["high"] = interval->second;
    }
    out["method_ms"] = column.method_ms / count;
    out["measure_ms"] = column.measure_ms / count;
    out["notes_of_the_first"] = column.notes;
    for (std::size_t i = 0; i < column.values.size(); ++i)
        out["values"].push_back({{"image", column.pictures[i]}, {"value", column.values[i]}});
    return out;
}

void print(const std::vector<Column>& columns, std::uint64_t seed, std::size_t pictures) {
    fmt::print("{:<22} {:<24} {:>10} {:>23} {:>6}  {}\n", "method", "measure", "mean", "95 % of resampled means", "n",
               "ms a picture: method, measure");
    for (const Column& column : columns) {
        if (column.values.empty()) {
            fmt::print("{:<22} {:<24} {:>10} {:>23} {:>6}  {}\n", column.method->name, column.measure->name, "-", "", 0,
                       column.why_not            ? *column.why_not
                       : column.left_out.empty() ? ""
                                                 : column.left_out[0]["reason"].get<std::string>());
            continue;
        }
        const auto interval = interval_of(column.values, seed);
        const auto count = static_cast<double>(column.values.size());
        fmt::print("{:<22} {:<24} {:>10.4g} {:>23} {:>6}  {:.0f}, {:.0f}{}\n", column.method->name,
                   column.measure->name + (column.unit.empty() ? "" : " [" + column.unit + "]"), mean_of(column.values),
                   interval ? fmt::format("{:.4g} to {:.4g}", interval->first, interval->second) : "",
                   column.values.size(), column.method_ms / count, column.measure_ms / count,
                   column.left_out.empty() ? ""
                                           : fmt::format("; {} left out, the first: {}", column.left_out.size(),
                                                         column.left_out[0]["reason"].get<std::string>()));
    }
    fmt::print("{} pictures, seed {}, {} resamples over pictures\n", pictures, seed, kResamples);
}

}  // namespace

Status measure(const Common& common, const MeasureOptions& options) {
    std::vector<std::string> owners{"preprocess", "target"};
    const auto methods = VITRINE_TRY(choose<Explainer>(
        common, options.methods, [](const std::string& name) { return registry().explainer(name); }, owners));
    const auto measures = VITRINE_TRY(choose<Measure>(
        common, options.measures, [](const std::string& name) { return registry().measure(name); }, owners));
    VITRINE_CHECK(check_owners(common, owners));
    if (options.asked.targets.size() > 1 || (options.asked.targets.size() == 1 && options.asked.targets[0] == "top5"))
        return fail(ErrorCode::BadInput, "one target a picture is measured, and {} are asked for",
                    options.asked.targets[0] == "top5" ? "five" : std::to_string(options.asked.targets.size()));
    const auto pictures = VITRINE_TRY(pictures_in(options.images));
    Boxes boxes = VITRINE_TRY(Boxes::make(options.boxes));
    const auto model = VITRINE_TRY(open(common));
    const TargetMaker maker = VITRINE_TRY(TargetMaker::make(common, *model, options.asked));

    std::vector<Column> columns;
    for (const auto& method : methods) {
        for (const auto& measure : measures) {
            Column column;
            column.method = &method;
            column.measure = &measure;
            column.why_not = method.plugin->why_not(*model);
            if (!column.why_not) column.why_not = measure.plugin->why_not(*model, *method.plugin);
            if (column.why_not)
                column.first_error = Error{ErrorCode::Unsupported,
                                           fmt::format("{} of {}: {}", measure.name, method.name, *column.why_not)};
            columns.push_back(std::move(column));
        }
    }

    for (std::size_t i = 0; i < pictures.size(); ++i) {
        const std::string picture = pictures[i].string();
        const auto one = [&]() -> Status {
            const Boxed* known = VITRINE_TRY(boxes.of(pictures[i]));
            const Input input = VITRINE_TRY(load_input(pictures[i], model->preprocess()));
            ExplainContext first(*model, input, {}, seed_of(common.seed, pictures[i]));
            first.memory_budget = common.memory_bytes;
            const auto capture = VITRINE_TRY(first.capture());
            const auto answers =
                model->info().classes > 0 ? top(capture->output, model->labels(), 5) : std::vector<Answer>{};
            const auto targets =
                VITRINE_TRY(maker.of(pictures[i], answers, known != nullptr ? known->label : std::nullopt));
            ExplainContext context(*model, input, targets.front().target, first.seed);
            context.memory_budget = common.memory_bytes;
            context.batch = common.batch > 1 ? common.batch : 0;
            if (known != nullptr) context.boxes = known->boxes;
            context.use(capture);
            for (const auto& method : methods) {
                std::optional<Result<Attribution>> found;  // made when the first of its measures runs
                double method_ms = 0;
                for (Column& column : columns) {
                    if (column.method != &method || column.why_not) continue;
                    if (!found) {
                        const auto begin = std::chrono::steady_clock::now();
                        found = method.plugin->explain(context, method.settings);
                        method_ms = milliseconds(begin);
                    }
                    const auto begin = std::chrono::steady_clock::now();
                    auto score = [&]() -> Result<Score> {
                        if (!*found) return tl::make_unexpected(found->error());
                        return column.measure->plugin->measure(context, {*method.plugin, method.settings, **found},
                                                               column.measure->settings);
                    }();
                    if (!score) {
                        column.leave_out(picture, score.error().message);
                        if (!column.first_error)
                            column.first_error = std::move(score).error().with_context(
                                fmt::format("{} of {}", column.measure->name, method.name));
                        continue;
                    }
                    if (!score->left_out && !std::isfinite(score->value)) score->left_out = "the number is not finite";
                    if (score->left_out) {
                        column.leave_out(picture, *score->left_out);
                        continue;
                    }
                    column.unit = score->unit;
                    if (column.values.empty()) column.notes = score->notes;
                    column.values.push_back(score->value);
                    column.pictures.push_back(picture);
                    column.method_ms += method_ms;
                    column.measure_ms += milliseconds(begin);
                }
            }
            return {};
        }();
        if (!one) {
            for (Column& column : columns) {
                if (column.why_not) continue;
                column.leave_out(picture, one.error().message);
                if (!column.first_error) column.first_error = one.error();
            }
            say(fmt::format("{}: {}", picture, one.error().message));
        }
        progress({static_cast<std::int64_t>(i + 1), static_cast<std::int64_t>(pictures.size()), "pictures"});
    }

    if (common.json) {
        auto results = nlohmann::json::array();
        for (const Column& column : columns) results.push_back(describe(column, common.seed));
        nlohmann::json document{
            {"vitrine", version()},
            {"model",
             {{"name", model->info().name}, {"opened_as", common.model}, {"architecture", model->info().architecture}}},
            {"preprocessing", cli::describe(model->preprocess())},
            {"precision", common.dtype},
            {"device", common.device},
            {"seed", common.seed},
            {"target", options.asked.targets.empty() ? "predicted" : options.asked.targets.front()},
            {"pictures", pictures.size()},
            {"resamples", kResamples},
            {"interval", 0.95},
            {"results", std::move(results)}};
        if (!options.asked.versus.empty()) document["versus"] = options.asked.versus;
        if (!options.asked.reference.empty()) document["target"] = {{"reference", options.asked.reference}};
        if (!options.asked.region.empty()) document["target"] = {{"region", options.asked.region}};
        fmt::print("{}\n", document.dump(2));
    } else {
        print(columns, common.seed, pictures.size());
    }
    // A picture that is left out is told and no failure; a measure that counted none is one.
    for (const Column& column : columns) {
        if (!column.values.empty()) continue;
        if (column.first_error) return tl::make_unexpected(*column.first_error);
        return fail(ErrorCode::BadInput, "{} of {} counts no picture: {}", column.measure->name, column.method->name,
                    column.left_out.empty() ? "there is none" : column.left_out[0]["reason"].get<std::string>());
    }
    return {};
}

}  // namespace vitrine::cli
