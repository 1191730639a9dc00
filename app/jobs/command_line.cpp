// Writes a question as the command line takes it.
#include "command_line.h"

#include <algorithm>
#include <string_view>

namespace vitrine::app {
namespace {

/// One word for a POSIX shell.
std::string quoted(const std::string& text) {
    constexpr std::string_view kPlain = "+-./,:=@_%";
    const auto plain = [&](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               kPlain.find(c) != std::string_view::npos;
    };
    if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
    std::string out = "'";
    for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + "'";
}

}  // namespace

std::string command_line(const std::string& model, std::int64_t classes, const std::filesystem::path& picture,
                         const Wanted& wanted) {
    std::string out = "vitrine explain " + quoted(model) + ' ' + quoted(picture.string());
    const auto add = [&](const char* option, const std::string& value) {
        out += ' ' + (option + (' ' + quoted(value)));
    };
    add("--method", wanted.method);
    for (const auto& [name, value] : wanted.settings) add("--set", wanted.method + '.' + name + '=' + value);
    for (const auto& [name, value] : wanted.shared) add("--set", "smooth." + name + '=' + value);
    if (wanted.region) {
        add("--region", wanted.region->text());
    } else {
        std::string classes_of = wanted.target ? std::to_string(*wanted.target) : "";
        for (const auto index : wanted.also) classes_of += '+' + std::to_string(index);
        if (wanted.target) add("--target", classes_of);
        if (wanted.probability) add("--set", "target.scale=probability");
        if (wanted.versus) add("--versus", std::to_string(*wanted.versus));
    }
    if (!wanted.other.empty()) {
        if (Workbench::reads_other(wanted)) add("--other", wanted.other.string());
        if (classes == 0 && !wanted.region) add("--reference", wanted.other.string());
    }
    return out + " --out DIR";
}

std::string command_line(const TcavPlan& plan) {
    std::string out = "vitrine tcav " + quoted(plan.model);
    const auto add = [&](const char* option, const std::string& value) {
        out += ' ' + (option + (' ' + quoted(value)));
    };
    add("--class", std::to_string(plan.target));
    add("--examples", plan.examples.string());
    for (const auto& [name, path] : plan.concepts) add("--concept", name + '=' + path.string());
    add("--random", plan.random.string());
    if (!plan.point.empty()) add("--point", plan.point);
    add("--features", plan.features);
    add("--runs", std::to_string(plan.runs));
    return out;
}

}  // namespace vitrine::app
