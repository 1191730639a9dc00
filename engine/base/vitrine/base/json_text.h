// JSON as text, whatever its strings hold: names of files need not be UTF-8.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace vitrine {

/// What is no UTF-8 in it becomes U+FFFD, so this never throws. For what is shown or compared; where the very bytes are
/// to come back, json_bytes().
inline std::string json_text(const nlohmann::json& value, int indent = -1) {
    return value.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// A text that comes back to the byte: itself where it is UTF-8, else a list of its bytes.
nlohmann::json json_bytes(const std::string& text);
/// The text again. @return false where this is none
bool from_json_bytes(const nlohmann::json& value, std::string& text);

}  // namespace vitrine
