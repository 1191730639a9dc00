// Settings of the trainers, written in one line each.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <vitrine/settings.h>

namespace vitrine {

inline Parameter number_parameter(std::string name, double standard, std::string meaning, double low, double high,
                                  std::string source) {
    return {std::move(name), standard, std::move(meaning), "", std::move(source), low, high, {}};
}

inline Parameter whole_parameter(std::string name, std::int64_t standard, std::string meaning, std::string unit,
                                 std::string source) {
    return {std::move(name), standard, std::move(meaning), std::move(unit), std::move(source), 0.0, 1e9, {}};
}

/// @param choices  empty: any text
inline Parameter words_parameter(std::string name, std::string standard, std::string meaning,
                                 std::vector<std::string> choices, std::string source) {
    return {std::move(name),   std::move(standard), std::move(meaning), "", std::move(source), {}, {},
            std::move(choices)};
}

}  // namespace vitrine
