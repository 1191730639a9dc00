// Declared parameters and their values: panel, command line and report are all made from the declaration.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <vitrine/base/result.h>

namespace vitrine {

using Value = std::variant<bool, std::int64_t, double, std::string>;
std::string to_string(const Value& value);

struct Parameter {
    std::string name;             ///< "discard_ratio"
    Value standard;               ///< the default; its type is the parameter's type
    std::string meaning;          ///< one sentence
    std::string unit;             ///< "" when it has none
    std::string source;           ///< where the default comes from
    std::optional<double> low, high;       ///< for numbers, inclusive
    std::vector<std::string> choices;      ///< for text: the allowed values; empty is free text
};

/// Values for declared parameters; what is not set has its default.
class Settings {
  public:
    Settings() = default;
    explicit Settings(std::vector<Parameter> declared);
    /// Parses and range-checks. @error BadInput unknown name (close ones are named), wrong type, out of range, not a choice
    Status set(const std::string& name, const std::string& text);
    bool flag(const std::string& name) const;
    std::int64_t integer(const std::string& name) const;
    double number(const std::string& name) const;
    std::string text(const std::string& name) const;
    const std::vector<Parameter>& declared() const { return declared_; }
    const Value& value(const std::string& name) const;
    bool is_default(const std::string& name) const;

  private:
    std::vector<Parameter> declared_;
    std::map<std::string, Value> values_;
};

}  // namespace vitrine
