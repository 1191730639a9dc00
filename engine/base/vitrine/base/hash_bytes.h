// A hash of numbers as they lie in memory: eight bytes at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include <vitrine/base/random.h>

namespace vitrine {

inline std::uint64_t hash_bytes(std::uint64_t key, const void* data, std::size_t count) {
    const auto* bytes = static_cast<const char*>(data);
    std::size_t at = 0;
    for (; at + 8 <= count; at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes + at, 8);
        key = mix64(key ^ word);
    }
    return mix64(key ^ hash_of(std::string_view(bytes + at, count - at)));
}

}  // namespace vitrine
