// Helpers for reading untrusted bytes: UTF-8, printable names, aligned copies.
#include <vitrine/base/bytes.h>

#include <fmt/format.h>

namespace vitrine::bytes {

bool valid_utf8(std::string_view text) {
    const auto* p = reinterpret_cast<const unsigned char*>(text.data());
    const auto* const end = p + text.size();
    while (p < end) {
        if (*p < 0x80) {
            ++p;
            continue;
        }
        int more = 0;
        std::uint32_t code = 0;
        if (*p >= 0xC2 && *p <= 0xDF) {
            more = 1;
            code = *p & 0x1Fu;
        } else if (*p >= 0xE0 && *p <= 0xEF) {
            more = 2;
            code = *p & 0x0Fu;
        } else if (*p >= 0xF0 && *p <= 0xF4) {
            more = 3;
            code = *p & 0x07u;
        } else {
            return false;
        }
        if (end - p <= more) return false;
        for (int i = 1; i <= more; ++i) {
            if ((p[i] & 0xC0u) != 0x80u) return false;
            code = (code << 6) | (p[i] & 0x3Fu);
        }
        // Overlong forms, surrogates and codes beyond Unicode.
        if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10FFFF))) return false;
        if (code >= 0xD800 && code <= 0xDFFF) return false;
        p += more + 1;
    }
    return true;
}

std::string to_utf8(std::string_view text) {
    if (valid_utf8(text)) return std::string(text);
    std::string out;
    out.reserve(text.size() * 2);
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x80) {
            out += c;
        } else {
            out += static_cast<char>(0xC0 | (byte >> 6));
            out += static_cast<char>(0x80 | (byte & 0x3F));
        }
    }
    return out;
}

std::string printable(std::string_view name) {
    constexpr std::size_t kLongest = 100;
    std::string cut = to_utf8(name.substr(0, kLongest));
    std::string out;
    for (const char c : cut) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7F) {
            out += fmt::format("\\x{:02x}", byte);
        } else {
            out += c;
        }
    }
    if (name.size() > kLongest) out += "...";
    return out;
}

Held aligned(std::span<const std::byte> span, std::size_t alignment, const std::shared_ptr<const void>& keep_alive) {
    if (alignment <= 1 || reinterpret_cast<std::uintptr_t>(span.data()) % alignment == 0)
        return {span.data(), keep_alive};
    // operator new aligns to 16 bytes, which is the largest element.
    std::shared_ptr<std::byte[]> copy(new std::byte[span.size() == 0 ? 1 : span.size()]);
    if (!span.empty()) std::memcpy(copy.get(), span.data(), span.size());
    const std::byte* data = copy.get();
    return {data, std::move(copy)};
}

}  // namespace vitrine::bytes
