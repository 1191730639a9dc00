// Random bits that hang on a few numbers alone, so that neither batches nor the order of the work change what is drawn.
#pragma once

#include <cstdint>
#include <string_view>

namespace vitrine {

/// One step of splitmix64: neighbouring numbers give unlike ones.
/// Source: G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
constexpr std::uint64_t kSplitMixStep = 0x9E3779B97F4A7C15U;
constexpr std::uint64_t mix64(std::uint64_t z) {
    z += kSplitMixStep;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

/// 64 bits for the `index`-th draw of a `stream` (what is drawn) under a seed.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    return mix64(mix64(mix64(seed) + stream * kSplitMixStep) + index * kSplitMixStep);
}

/// A seed from a name: FNV-1a, 64 bits.
constexpr std::uint64_t hash_of(std::string_view text) {
    std::uint64_t key = 0xCBF29CE484222325U;
    for (const char c : text) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
    return key;
}

}  // namespace vitrine
