// Makes the table of a measurement, as JSON and for people.
#include "cli/measure_table.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/ranges.h>

namespace vitrine::cli {

using nlohmann::json;

namespace {

/// What knows nothing of the model: a method that is no better has shown nothing.
constexpr std::array<std::string_view, 4> kControls{"random", "centre_gaussian", "edges", "constant"};

/// The columns of each measure, in the order of the command line. One measure with two settings is two: numbers of
/// different presets are never compared.
template <class Columns>
auto by_measure(Columns& columns) {
    std::vector<std::vector<decltype(columns.data())>> out;
    for (auto& column : columns) {
        auto found = std::find_if(out.begin(), out.end(),
                                  [&](const auto& group) { return group.front()->measure == column.measure; });
        if (found == out.end()) found = out.emplace(out.end());
        found->push_back(&column);
    }
    return out;
}

/// Method less control, over the pictures that both have.
std::vector<double> differences(const Column& method, const Column& control) {
    std::map<std::string_view, double> other;
    for (std::size_t i = 0; i < control.values.size(); ++i) other[control.pictures[i]] = control.values[i];
    std::vector<double> out;
    for (std::size_t i = 0; i < method.values.size(); ++i)
        if (const auto found = other.find(method.pictures[i]); found != other.end())
            out.push_back(method.values[i] - found->second);
    return out;
}

json number_or_null(const std::optional<double>& number) { return number ? json(*number) : json(); }

json describe(const Against& against) {
    return {{"control", against.control},
            {"n", against.n},
            {"mean", against.mean},
            {"low", against.interval ? json(against.interval->low) : json()},
            {"high", against.interval ? json(against.interval->high) : json()},
            {"p", number_or_null(against.p)},
            {"p_holm", number_or_null(against.p_holm)}};
}

json describe(const Column& column) {
    json out{{"method", column.method->name},
             {"method_settings", values_of(column.method->settings)},
             {"control", column.is_control()},
             {"measure", column.measure->name},
             {"settings", values_of(column.measure->settings)},
             {"unit", column.unit},
             {"higher_is_better", nullptr},
             {"mean", nullptr},
             {"low", nullptr},
             {"high", nullptr},
             {"n", column.values.size()},
             {"left_out", json::array()}};
    for (const auto& [picture, reason] : column.left_out)
        out["left_out"].push_back({{"image", picture}, {"reason", reason}});
    if (const auto higher = column.measure->plugin->higher_is_better()) out["higher_is_better"] = *higher;
    if (column.why_not) out["why_not"] = *column.why_not;
    if (column.values.empty()) return out;
    out["mean"] = mean_of(column.values);
    if (column.interval) {
        out["low"] = column.interval->low;
        out["high"] = column.interval->high;
    }
    if (column.against) out["against_the_best_control"] = describe(*column.against);
    out["method_ms"] = mean_of(column.method_ms);
    out["method_ms_median"] = median_of(column.method_ms);
    out["measure_ms"] = mean_of(column.measure_ms);
    if (column.method_bytes > 0) out["method_peak_bytes"] = column.method_bytes;
    out["notes_of_the_first"] = column.notes;
    for (std::size_t i = 0; i < column.values.size(); ++i)
        out["values"].push_back({{"image", column.pictures[i]}, {"value", column.values[i]}});
    return out;
}

json protocol_of(const std::vector<const Column*>& group, std::uint64_t seed) {
    const Chosen<Measure>& measure = *group.front()->measure;
    const Description said = measure.plugin->description();
    json out{{"measure", measure.name},
             {"title", said.title},
             {"definition", said.formula.empty() ? said.summary : said.formula},
             {"source", said.source},
             {"settings", values_of(measure.settings)},
             {"higher_is_better", nullptr},
             {"seed", seed},
             {"interval", 0.95},
             {"resamples", kResamples},
             {"resampled", "pictures, with replacement; percentiles of the means"}};
    if (const auto higher = measure.plugin->higher_is_better()) out["higher_is_better"] = *higher;
    std::size_t least = SIZE_MAX, most = 0, compared = 0;
    std::string control;
    for (const Column* column : group) {
        if (column->values.empty()) continue;
        least = std::min(least, column->values.size());
        most = std::max(most, column->values.size());
        if (!column->against) continue;
        control = column->against->control;
        if (column->against->p) ++compared;
    }
    out["n"] = most == 0 ? json(0) : least == most ? json(most) : json{least, most};
    if (!control.empty()) {
        out["best_control"] = control;
        out["difference"] = "method less control, a pair for each picture that both have";
        out["p"] = fmt::format(
            "two-sided, by flipping the signs of the pairs' differences; p_holm is corrected over "
            "{} methods",
            compared);
    }
    return out;
}

std::string shown(const std::optional<Interval>& interval) {
    return interval ? fmt::format("{:.4g} to {:.4g}", interval->low, interval->high) : "";
}

}  // namespace

bool Column::is_control() const {
    return std::find(kControls.begin(), kControls.end(), method->plugin->description().name) != kControls.end();
}

void Column::add(const Finding& finding) {
    if (finding.failed) {
        left_out.emplace_back(finding.picture, finding.failed->message);
        if (!first_error)
            first_error = Error(*finding.failed).with_context(fmt::format("{} of {}", measure->name, method->name));
        return;
    }
    if (!finding.value) {
        left_out.emplace_back(finding.picture, finding.left_out);
        return;
    }
    unit = finding.unit;
    if (values.empty()) notes = finding.notes;
    values.push_back(*finding.value);
    pictures.push_back(finding.picture);
    method_ms.push_back(finding.method_ms);
    measure_ms.push_back(finding.measure_ms);
    method_bytes = std::max(method_bytes, finding.method_bytes);
}

void compare(std::vector<Column>& columns, std::uint64_t seed) {
    Resampler resampler(seed);
    for (Column& column : columns) column.interval = resampler.interval_of(column.values);
    for (const auto& group : by_measure(columns)) {
        const auto higher = group.front()->measure->plugin->higher_is_better();
        if (!higher) continue;
        // The best of several is chosen on the very pictures, which makes it look better than it is: the safe side.
        const Column* best = nullptr;
        for (const Column* column : group) {
            if (!column->is_control() || column->values.empty()) continue;
            const double mean = mean_of(column->values);
            if (best == nullptr || (*higher ? mean > mean_of(best->values) : mean < mean_of(best->values)))
                best = column;
        }
        if (best == nullptr) continue;
        std::vector<Against*> compared;
        std::vector<double> p;
        for (Column* column : group) {
            if (column->is_control()) continue;
            const std::vector<double> pairs = differences(*column, *best);
            if (pairs.empty()) continue;
            column->against =
                Against{best->method->name, pairs.size(), mean_of(pairs), resampler.interval_of(pairs), {}, {}};
            if (pairs.size() < 2) continue;
            column->against->p = sign_flip_p(pairs, seed);
            compared.push_back(&*column->against);
            p.push_back(*column->against->p);
        }
        const std::vector<double> corrected = holm(p);
        for (std::size_t i = 0; i < compared.size(); ++i) compared[i]->p_holm = corrected[i];
    }
}

json describe(const std::vector<Column>& columns, std::uint64_t seed) {
    json out{{"protocols", json::array()}, {"results", json::array()}};
    for (const auto& group : by_measure(columns)) out["protocols"].push_back(protocol_of(group, seed));
    for (const Column& column : columns) out["results"].push_back(describe(column));
    return out;
}

void print(const std::vector<Column>& columns) {
    for (const auto& group : by_measure(columns)) {
        const Chosen<Measure>& measure = *group.front()->measure;
        const auto higher = measure.plugin->higher_is_better();
        std::string control, unit;
        for (const Column* column : group) {
            if (column->against) control = column->against->control;
            if (!column->unit.empty()) unit = " [" + column->unit + "]";
        }
        fmt::print("{}{}, {}\n", measure.name, unit,
                   !higher   ? "neither side is better"
                   : *higher ? "higher is better"
                             : "lower is better");
        fmt::print("  {:<22} {:>10} {:>23} {:>6}  {:>10} {:>23} {:>8}  {}\n", "method", "mean", "95 %", "n",
                   control.empty() ? "" : "- " + control, control.empty() ? "" : "95 %",
                   control.empty() ? "" : "p Holm", "ms a picture: method, measure");
        for (const Column* column : group) {
            if (column->values.empty()) {
                fmt::print("  {:<22} {:>10} {:>23} {:>6}  {:>10} {:>23} {:>8}  {}\n", column->method->name, "-", "", 0,
                           "", "", "",
                           column->why_not            ? *column->why_not
                           : column->left_out.empty() ? ""
                                                      : column->left_out[0].second);
                continue;
            }
            const auto& against = column->against;
            fmt::print("  {:<22} {:>10.4g} {:>23} {:>6}  {:>10} {:>23} {:>8}  {:.0f}, {:.0f}{}\n", column->method->name,
                       mean_of(column->values), shown(column->interval), column->values.size(),
                       against ? fmt::format("{:+.4g}", against->mean) : "", against ? shown(against->interval) : "",
                       against && against->p_holm ? fmt::format("{:.2g}", *against->p_holm) : "",
                       mean_of(column->method_ms), mean_of(column->measure_ms),
                       column->left_out.empty() ? ""
                                                : fmt::format("; {} left out, the first: {}", column->left_out.size(),
                                                              column->left_out[0].second));
        }
    }
}

}  // namespace vitrine::cli
