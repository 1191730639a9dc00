// Texts of any bytes in JSON and back.
#include "json_text.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <vitrine/base/bytes.h>

namespace vitrine {

nlohmann::json json_bytes(const std::string& text) {
    if (bytes::valid_utf8(text)) return text;
    return std::vector<std::uint8_t>(text.begin(), text.end());
}

bool from_json_bytes(const nlohmann::json& value, std::string& text) {
    const auto is_byte = [](const nlohmann::json& one) {
        return one.is_number_unsigned() && one.get<std::uint64_t>() < 256;
    };
    if (value.is_string()) {
        text = value.get<std::string>();
        return true;
    }
    if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_byte)) return false;
    text.clear();
    for (const auto& one : value) text += static_cast<char>(one.get<std::uint8_t>());
    return true;
}

}  // namespace vitrine
