// Small helpers for the words of errors.
#include "text.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

#include <fmt/ranges.h>

namespace vitrine {

namespace {

/// Edit distance (insert, delete, replace).
std::size_t distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t above = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = above;
        }
    }
    return row[b.size()];
}

}  // namespace

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return out;
}

std::string suggest(std::string_view wrong, const std::vector<std::string>& known) {
    const std::string* best = nullptr;
    std::size_t best_distance = std::max<std::size_t>(2, wrong.size() / 3) + 1;
    for (const auto& name : known) {
        const std::size_t d = distance(lower(wrong), lower(name));
        if (d < best_distance) best = &name, best_distance = d;
    }
    if (best != nullptr) return fmt::format("; did you mean {}?", *best);
    if (!known.empty() && known.size() <= 12) return fmt::format("; known are {}", fmt::join(known, ", "));
    return "";
}

std::string no_setting(std::string_view wrong, const std::vector<std::string>& known, std::string_view command) {
    const std::string near = suggest(wrong, known);
    return fmt::format("there is no setting '{}'{}", wrong,
                       near.empty() ? fmt::format("; vitrine {} --help lists them", command) : near);
}

}  // namespace vitrine
