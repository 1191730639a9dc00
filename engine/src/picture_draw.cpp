// Draws some of many pictures by a seed alone.
#include <vitrine/picture_draw.h>

#include <algorithm>
#include <numeric>

#include "dataset.h"
#include "text.h"

namespace vitrine {

namespace {

constexpr std::uint64_t kSome = 0x736f6d65;

}  // namespace

std::vector<std::int64_t> picture_order(std::int64_t count, std::uint64_t seed) {
    return StepRandom(seed, 0, kSome).permutation(count);
}

std::vector<std::int64_t> drawn_pictures(std::int64_t count, std::int64_t most, std::uint64_t seed) {
    std::vector<std::int64_t> out(static_cast<std::size_t>(count));
    std::iota(out.begin(), out.end(), std::int64_t{0});
    if (count <= most) return out;
    out = picture_order(count, seed);
    out.resize(static_cast<std::size_t>(std::max<std::int64_t>(most, 0)));
    std::sort(out.begin(), out.end());
    return out;
}

std::string drawn_in_words(std::int64_t drawn, std::int64_t count, const std::string& of, std::uint64_t seed) {
    return fmt::format("{} of {} {}, drawn with seed {}", drawn, count, of, seed);
}

}  // namespace vitrine
