// Typed values for declared parameters, parsed and range-checked.
#include <vitrine/settings.h>

#include <algorithm>
#include <charconv>

#include "text.h"

#include <fmt/ranges.h>

namespace vitrine {

std::string to_string(const Value& value) {
    if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
    if (const auto* number = std::get_if<std::int64_t>(&value)) return fmt::format("{}", *number);
    if (const auto* number = std::get_if<double>(&value)) return fmt::format("{}", *number);
    return std::get<std::string>(value);
}

Settings::Settings(std::vector<Parameter> declared) : declared_(std::move(declared)) {
    for (const auto& parameter : declared_) values_[parameter.name] = parameter.standard;
}

namespace {

template <class T>
std::optional<T> parse(const std::string& text) {
    T value{};
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::optional<std::string> out_of_range(const Parameter& parameter, double value) {
    if (parameter.low && value < *parameter.low) return fmt::format("{} is below {}", value, *parameter.low);
    if (parameter.high && value > *parameter.high) return fmt::format("{} is above {}", value, *parameter.high);
    return std::nullopt;
}

}  // namespace

Status Settings::set(const std::string& name, const std::string& text) {
    const auto found =
        std::find_if(declared_.begin(), declared_.end(), [&](const Parameter& p) { return p.name == name; });
    if (found == declared_.end()) {
        std::vector<std::string> names;
        for (const auto& parameter : declared_) names.push_back(parameter.name);
        return fail(ErrorCode::BadInput, "there is no setting '{}'{}", name, suggest(name, names));
    }
    const Parameter& parameter = *found;
    if (std::holds_alternative<bool>(parameter.standard)) {
        if (text == "true" || text == "1" || text == "yes" || text == "on") return values_[name] = true, Status{};
        if (text == "false" || text == "0" || text == "no" || text == "off") return values_[name] = false, Status{};
        return fail(ErrorCode::BadInput, "{} is '{}', expected true or false", name, text);
    }
    if (std::holds_alternative<std::int64_t>(parameter.standard)) {
        const auto value = parse<std::int64_t>(text);
        if (!value) return fail(ErrorCode::BadInput, "{} is '{}', expected a whole number", name, text);
        if (auto why = out_of_range(parameter, static_cast<double>(*value)))
            return fail(ErrorCode::BadInput, "{}: {}", name, *why);
        values_[name] = *value;
        return {};
    }
    if (std::holds_alternative<double>(parameter.standard)) {
        const auto value = parse<double>(text);
        if (!value || *value != *value) return fail(ErrorCode::BadInput, "{} is '{}', expected a number", name, text);
        if (auto why = out_of_range(parameter, *value)) return fail(ErrorCode::BadInput, "{}: {}", name, *why);
        values_[name] = *value;
        return {};
    }
    const auto& choices = parameter.choices;
    if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end())
        return fail(ErrorCode::BadInput, "{} is '{}', expected one of {}", name, text, fmt::join(choices, ", "));
    values_[name] = text;
    return {};
}

const Value& Settings::value(const std::string& name) const { return values_.at(name); }
bool Settings::flag(const std::string& name) const { return std::get<bool>(value(name)); }
std::int64_t Settings::integer(const std::string& name) const { return std::get<std::int64_t>(value(name)); }
double Settings::number(const std::string& name) const { return std::get<double>(value(name)); }
std::string Settings::text(const std::string& name) const { return std::get<std::string>(value(name)); }

bool Settings::is_default(const std::string& name) const {
    for (const auto& parameter : declared_)
        if (parameter.name == name) return parameter.standard == values_.at(name);
    return false;
}

}  // namespace vitrine
