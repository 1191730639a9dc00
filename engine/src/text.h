// Small helpers for the words of errors.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vitrine {

/// "; did you mean rollout?" when a name is close, "; known are a, b, c" when the list is short, else "".
std::string suggest(std::string_view wrong, const std::vector<std::string>& known);

/// "there is no setting 'x'", with one that is alike, or where they are listed.
/// @param command  of the program, whose help lists them: "train-mask"
std::string no_setting(std::string_view wrong, const std::vector<std::string>& known, std::string_view command);

/// Lower-case copy (ASCII).
std::string lower(std::string_view text);

}  // namespace vitrine
