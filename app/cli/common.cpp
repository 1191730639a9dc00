// What the commands share: options, model and picture opening, progress and output.
#include "cli/common.h"

#include <ATen/Parallel.h>
#include <unistd.h>
#include <vitrine/base/file.h>
#include <vitrine/base/readers.h>

#include <charconv>
#include <cstdio>
#include <sstream>

#include <fmt/ranges.h>

namespace vitrine::cli {

namespace fs = std::filesystem;

void say(const std::string& text) { fmt::print(stderr, "{}\n", text); }

void progress(const Progress& progress) {
    if (isatty(STDERR_FILENO) == 0) return;
    fmt::print(stderr, "\r{} of {} {}\033[K{}", progress.done, progress.total, progress.unit,
               progress.done >= progress.total ? "\n" : "");
    std::fflush(stderr);
}

Result<std::int64_t> parse_size(const std::string& text) {
    if (text.empty()) return std::int64_t{0};
    double number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    std::string unit;
    for (const char* c = end; c != text.data() + text.size(); ++c)
        if (*c != ' ') unit += static_cast<char>(std::toupper(static_cast<unsigned char>(*c)));
    static const std::map<std::string, double> units{
        {"", 1},    {"B", 1},    {"K", 1e3},      {"KB", 1e3},        {"M", 1e6},           {"MB", 1e6},
        {"G", 1e9}, {"GB", 1e9}, {"KIB", 1024.0}, {"MIB", 1048576.0}, {"GIB", 1073741824.0}};
    const auto found = units.find(unit);
    if (code != std::errc() || found == units.end() || number <= 0 || number * found->second > 9e18)
        return fail(ErrorCode::BadInput, "the memory budget is '{}', expected a size such as 2GB", text);
    return static_cast<std::int64_t>(number * found->second);
}

namespace {

struct Assignment {
    std::string owner, key, value;
};

Result<Assignment> split(const std::string& text) {
    const auto equals = text.find('=');
    const auto dot = text.find('.');
    if (equals == std::string::npos || dot == std::string::npos || dot > equals || dot == 0 || dot + 1 == equals)
        return fail(ErrorCode::BadInput, "--set is '{}', expected METHOD.key=value", text);
    return Assignment{text.substr(0, dot), text.substr(dot + 1, equals - dot - 1), text.substr(equals + 1)};
}

}  // namespace

Result<std::map<std::string, std::string>> settings_of(const Common& common, const std::string& owner) {
    std::map<std::string, std::string> values;
    for (const auto& text : common.set) {
        const Assignment assignment = VITRINE_TRY(split(text));
        if (assignment.owner == owner) values[assignment.key] = assignment.value;
    }
    return values;
}

Status each_key_once(const std::vector<std::string>& set) {
    std::map<std::string, std::string> known;
    for (const auto& text : set) {
        const auto equals = text.find('=');
        if (equals == std::string::npos) continue;  // who reads it says what it is to be
        const auto [before, fresh] = known.emplace(text.substr(0, equals), text);
        if (!fresh)
            return fail(ErrorCode::BadInput, "--set {} and --set {} set the same twice: leave one of them out",
                        before->second, text);
    }
    return {};
}

Status check_owners(const Common& common, const std::vector<std::string>& owners) {
    for (const auto& text : common.set) {
        const Assignment assignment = VITRINE_TRY(split(text));
        if (std::find(owners.begin(), owners.end(), assignment.owner) == owners.end())
            return fail(ErrorCode::BadInput, "--set {} belongs to nothing that runs here; known are {}", text,
                        fmt::join(owners, ", "));
    }
    return {};
}

Result<std::shared_ptr<Model>> open(const Common& common) {
    if (common.threads > 0) at::set_num_threads(static_cast<int>(common.threads));
    OpenOptions options;
    options.trust = common.trust;
    options.device = common.device;
    options.dtype = common.dtype;
    options.preprocess = VITRINE_TRY(settings_of(common, "preprocess"));
    return open_model(common.model, options);
}

Result<std::int64_t> class_of(const Model& model, const std::string& text) {
    if (model.info().classes == 0)
        return fail(ErrorCode::Unsupported,
                    "{} has no classifier, so '{}' names nothing in it; only class-agnostic methods run",
                    model.info().name, text);
    return model.labels().find(text, model.info().classes);
}

Result<std::int64_t> true_class(const Model& model, const fs::path& picture) {
    const fs::path table = picture.parent_path() / "labels.tsv";
    std::error_code ignored;
    if (fs::exists(table, ignored)) {
        std::istringstream lines(VITRINE_TRY(read_text(table)));
        std::string line;
        while (std::getline(lines, line)) {
            std::istringstream fields(line);
            std::string field;
            std::vector<std::string> all;
            while (std::getline(fields, field, '\t')) all.push_back(field);
            if (std::find(all.begin(), all.end(), picture.filename().string()) == all.end()) continue;
            for (const auto& candidate : all) {
                std::int64_t index = -1;
                const auto [end, code] = std::from_chars(candidate.data(), candidate.data() + candidate.size(), index);
                if (code == std::errc() && end == candidate.data() + candidate.size() && index >= 0 &&
                    index < model.info().classes)
                    return index;
            }
        }
    }
    const std::string folder = picture.parent_path().filename().string();
    if (!folder.empty())
        if (auto found = class_of(model, folder)) return *found;
    return fail(
        ErrorCode::BadInput,
        "the true class of {} is not known: its folder '{}' names no class and no labels.tsv beside it lists it",
        picture.filename().string(), folder);
}

Status save_npy(const fs::path& file, const at::Tensor& tensor) {
    const at::Tensor plain = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
    return write_npy(file, plain.data_ptr<float>(),
                     std::span<const std::int64_t>(plain.sizes().data(), plain.sizes().size()));
}

std::string count_text(std::int64_t count) {
    const auto value = static_cast<double>(count);
    if (count >= 1'000'000'000) return fmt::format("{:.2f} G", value / 1e9);
    if (count >= 1'000'000) return fmt::format("{:.1f} M", value / 1e6);
    if (count >= 10'000) return fmt::format("{:.0f} k", value / 1e3);
    return fmt::format("{}", count);
}

std::string size_text(std::int64_t bytes) {
    const auto value = static_cast<double>(bytes);
    if (bytes >= 1'000'000'000) return fmt::format("{:.1f} GB", value / 1e9);
    if (bytes >= 1'000'000) return fmt::format("{:.1f} MB", value / 1e6);
    if (bytes >= 1'000) return fmt::format("{:.1f} KB", value / 1e3);
    return fmt::format("{} B", bytes);
}

nlohmann::json describe(const Description& d) {
    nlohmann::json out{{"name", d.name}, {"title", d.title}, {"summary", d.summary}, {"source", d.source}};
    if (d.system != 0) out["system"] = d.system;
    if (!d.family.empty()) out["family"] = d.family;
    if (!d.formula.empty()) out["formula"] = d.formula;
    if (!d.weakness.empty()) out["weakness"] = d.weakness;
    return out;
}

nlohmann::json describe(const std::vector<Parameter>& parameters) {
    auto out = nlohmann::json::array();
    for (const auto& p : parameters) {
        nlohmann::json entry{{"name", p.name}, {"meaning", p.meaning}, {"default", to_string(p.standard)}};
        if (!p.unit.empty()) entry["unit"] = p.unit;
        if (!p.source.empty()) entry["source"] = p.source;
        if (p.low) entry["low"] = *p.low;
        if (p.high) entry["high"] = *p.high;
        if (!p.choices.empty()) entry["choices"] = p.choices;
        out.push_back(std::move(entry));
    }
    return out;
}

std::string settings_text(const nlohmann::json& parameters) {
    std::string out;
    for (const auto& one : parameters) {
        const auto standard = one["default"].get<std::string>();
        out += fmt::format("    {:<18} {} (", one["name"].get<std::string>(), one["meaning"].get<std::string>());
        if (one.contains("choices"))
            out += fmt::format("one of {}; ", fmt::join(one["choices"].get<std::vector<std::string>>(), ", "));
        out += fmt::format("default {})\n", standard.empty() ? "empty" : standard);
    }
    return out;
}

nlohmann::json describe(const Preprocess& p) {
    nlohmann::json out{{"summary", p.summary()},
                       {"source", p.source},
                       {"input_size", {3, p.input_height, p.input_width}},
                       {"interpolation", std::string(name_of(p.interpolation))},
                       {"mean", p.mean},
                       {"std", p.std},
                       {"exif", p.apply_exif ? "apply" : "ignore"},
                       {"assumed", p.assumed}};
    if (p.resize == Preprocess::Resize::ShortSide) out["resize_short_side"] = p.resize_to;
    if (p.resize == Preprocess::Resize::Exact) out["resize_exact"] = {p.resize_height, p.resize_width};
    if (p.resize == Preprocess::Resize::Cover) out["resize_to_cover"] = {p.resize_height, p.resize_width};
    if (p.resize == Preprocess::Resize::Contain) {
        out["resize_to_fit_in"] = {p.resize_height, p.resize_width};
        out["padding"] = p.padding;
    }
    return out;
}

nlohmann::json describe(const InputGeometry& g) {
    const Box seen = g.seen();
    return {{"photo_size", {g.photo_width, g.photo_height}},
            {"input_size", {g.input_width, g.input_height}},
            {"scale", {g.scale_x, g.scale_y}},
            {"offset", {g.offset_x, g.offset_y}},
            {"crop_box", {seen.x0, seen.y0, seen.x1, seen.y1}},
            {"orientation", g.orientation},
            {"meaning", "input = photo * scale + offset, in continuous pixels of the upright photograph"}};
}

nlohmann::json describe(const Answer& a) {
    return {{"index", a.index}, {"label", a.label}, {"logit", a.logit}, {"probability", a.probability}};
}

nlohmann::json values_of(const Settings& settings) {
    auto out = nlohmann::json::object();
    for (const auto& parameter : settings.declared())
        std::visit([&](const auto& value) { out[parameter.name] = value; }, settings.value(parameter.name));
    return out;
}

}  // namespace vitrine::cli
