// Sorts and transposes the lists once, so that a question is a look-up.
#include "concepts_of_picture.h"

#include <algorithm>
#include <cmath>

namespace vitrine::app {

void sort_concepts(std::span<ConceptValue> some) {
    std::sort(some.begin(), some.end(), [](const ConceptValue& a, const ConceptValue& b) {
        return a.value != b.value ? a.value > b.value : a.id < b.id;
    });
}

float TokenConcepts::at(std::int64_t concept_id) const {
    for (const auto& one : concepts)
        if (one.id == concept_id) return one.value;
    return 0;
}

ConceptsOfPicture::ConceptsOfPicture(std::int64_t rows, std::int64_t cols, std::int64_t concepts,
                                     std::vector<std::int64_t> starts, std::vector<ConceptValue> entries)
    : rows_(rows),
      cols_(cols),
      concepts_(concepts),
      patch_starts_(std::move(starts)),
      concept_starts_(static_cast<std::size_t>(concepts) + 1, 0),
      of_patches_(std::move(entries)),
      of_concepts_(of_patches_.size()) {
    for (const auto& one : of_patches_) ++concept_starts_[static_cast<std::size_t>(one.id) + 1];
    for (std::size_t i = 1; i < concept_starts_.size(); ++i) concept_starts_[i] += concept_starts_[i - 1];
    auto next = concept_starts_;
    for (std::int64_t patch = 0; patch < patches(); ++patch) {
        const auto from = of_patches_.begin() + patch_starts_[static_cast<std::size_t>(patch)],
                   to = of_patches_.begin() + patch_starts_[static_cast<std::size_t>(patch) + 1];
        for (auto it = from; it != to; ++it)
            of_concepts_[static_cast<std::size_t>(next[static_cast<std::size_t>(it->id)]++)] = {
                static_cast<std::int32_t>(patch), it->value};
        sort_concepts({from, to});
    }
    for (std::int64_t id = 0; id < concepts_; ++id) {
        const auto found = where(id);
        if (found.empty()) continue;
        ConceptSummary one{static_cast<std::int32_t>(id), static_cast<std::int32_t>(found.size()), 0, 0};
        for (const auto& here : found) {
            one.sum += here.value;
            if (std::abs(here.value) > std::abs(one.strongest)) one.strongest = here.value;
        }
        heard_.push_back(one);
    }
}

std::span<const ConceptValue> ConceptsOfPicture::at(std::int64_t patch) const {
    if (patch < 0 || patch >= patches()) return {};
    const auto from = static_cast<std::size_t>(patch_starts_[static_cast<std::size_t>(patch)]);
    return std::span(of_patches_)
        .subspan(from, static_cast<std::size_t>(patch_starts_[static_cast<std::size_t>(patch) + 1]) - from);
}

std::span<const ConceptValue> ConceptsOfPicture::where(std::int64_t concept_id) const {
    if (concept_id < 0 || concept_id >= concepts_) return {};
    const auto from = static_cast<std::size_t>(concept_starts_[static_cast<std::size_t>(concept_id)]);
    return std::span(of_concepts_)
        .subspan(from, static_cast<std::size_t>(concept_starts_[static_cast<std::size_t>(concept_id) + 1]) - from);
}

std::vector<float> ConceptsOfPicture::map(std::int64_t concept_id) const {
    std::vector<float> out(static_cast<std::size_t>(rows_ * cols_), 0);
    if (!has_grid()) return out;
    for (const auto& here : where(concept_id)) out[static_cast<std::size_t>(here.id)] = here.value;
    return out;
}

ConceptSummary ConceptsOfPicture::summary(std::int64_t concept_id) const {
    const auto found = std::lower_bound(heard_.begin(), heard_.end(), concept_id,
                                        [](const ConceptSummary& one, std::int64_t id) { return one.concept_id < id; });
    if (found != heard_.end() && found->concept_id == concept_id) return *found;
    return {static_cast<std::int32_t>(concept_id), 0, 0, 0};
}

std::vector<std::int32_t> ConceptsOfPicture::ranked(ConceptOrder order) const {
    const auto key = [order](const ConceptSummary& one) -> double {
        return order == ConceptOrder::Sum ? one.sum : order == ConceptOrder::Strongest ? one.strongest : one.patches;
    };
    auto sorted = heard_;
    std::stable_sort(sorted.begin(), sorted.end(), [&](const auto& a, const auto& b) { return key(a) > key(b); });
    std::vector<std::int32_t> out;
    out.reserve(sorted.size());
    for (const auto& one : sorted) out.push_back(one.concept_id);
    return out;
}

}  // namespace vitrine::app
