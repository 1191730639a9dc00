// Which of many pictures are taken where not all are: drawn by a seed, and said.
//
//     std::vector<std::string> notes;
//     draw_some(files, 500, seed, "pictures of nette", notes);  // "500 of 3925 pictures of nette, drawn with seed 0"
//
// The first ones by name would be those of the first class folders. The same folder and seed give the same pictures.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace vitrine {

/// All numbers below `count` in an order drawn by a seed: the first n of them are a draw of n.
std::vector<std::int64_t> picture_order(std::int64_t count, std::uint64_t seed);

/// `most` of the numbers below `count`, drawn, ascending; all of them where there are no more.
std::vector<std::int64_t> drawn_pictures(std::int64_t count, std::int64_t most, std::uint64_t seed);

/// "500 of 3925 pictures of nette, drawn with seed 0"
/// @param of  "pictures of nette"
std::string drawn_in_words(std::int64_t drawn, std::int64_t count, const std::string& of, std::uint64_t seed);

/// Leaves `most` of them, drawn, in the order they have; a note says so where any are left out.
template <class Item>
void draw_some(std::vector<Item>& items, std::int64_t most, std::uint64_t seed, const std::string& of,
               std::vector<std::string>& notes) {
    const auto count = static_cast<std::int64_t>(items.size());
    if (count <= most) return;
    std::vector<Item> out;
    for (const std::int64_t i : drawn_pictures(count, most, seed))
        out.push_back(std::move(items[static_cast<std::size_t>(i)]));
    items = std::move(out);
    notes.push_back(drawn_in_words(most, count, of, seed));
}

}  // namespace vitrine
