// Small helpers for reading untrusted bytes: bounded loads, checked arithmetic, names made printable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace vitrine::bytes {

/// Little-endian load of an unsigned integer; the caller has checked the bounds.
template <class T>
T little(const std::byte* at) {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
        value |= static_cast<T>(static_cast<T>(std::to_integer<unsigned>(at[i])) << (8 * i));
    return value;
}

/// Big-endian load of an unsigned integer; the caller has checked the bounds.
template <class T>
T big(const std::byte* at) {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>((value << 8) | std::to_integer<unsigned>(at[i]));
    return value;
}

inline std::optional<std::uint64_t> add(std::uint64_t a, std::uint64_t b) {
    std::uint64_t sum = 0;
    if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
    return sum;
}

inline std::optional<std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
    return product;
}

/// True when [offset, offset + length) lies within `size` bytes.
inline bool fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
    return offset <= size && length <= size - offset;
}

inline std::string_view text(std::span<const std::byte> span) {
    return {reinterpret_cast<const char*>(span.data()), span.size()};
}

/// True when the text is well-formed UTF-8.
bool valid_utf8(std::string_view text);

/// The text itself when it is UTF-8; otherwise each byte taken as Latin-1, as Python 2 wrote its strings.
std::string to_utf8(std::string_view text);

/// A name from a file, fit for a message: control characters escaped, cut at 100 bytes.
std::string printable(std::string_view name);

/// Bytes of a file that start at a multiple of `alignment`: the bytes themselves where they do, otherwise a copy.
/// Formats of old put numbers at odd addresses, and reading those as floats is undefined.
struct Held {
    const std::byte* data = nullptr;
    std::shared_ptr<const void> keep_alive;
};
Held aligned(std::span<const std::byte> span, std::size_t alignment, const std::shared_ptr<const void>& keep_alive);

}  // namespace vitrine::bytes
