// Filters first, so that only what stays is sorted.
#include "concept_choice.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace vitrine::app {
namespace {

const char* column_of(ConceptQuery::Order order) {
    using Order = ConceptQuery::Order;
    switch (order) {
        case Order::Frequency:
            return "frequency";
        case Order::Effect:
            return "effect";
        case Order::Maximum:
            return "maximum";
        case Order::Localisation:
            return "localisation";
        case Order::Monosemanticity:
            return "monosemanticity";
        case Order::Number:
        case Order::Near:
            break;
    }
    return "";
}

bool said(std::span<const float> column, std::size_t latent) {
    return latent < column.size() && column[latent] > 0;  // not a number: no
}

}  // namespace

std::vector<std::uint32_t> chosen(const ConceptIndex& index, const CalledConcepts& called, const ConceptQuery& query) {
    using Order = ConceptQuery::Order;
    using Only = ConceptQuery::Only;
    const auto patches = index.column("frequency"), classes = index.column("class_frequency");
    std::int64_t number = -1;
    const auto* end = query.search.data() + query.search.size();
    if (const auto read = std::from_chars(query.search.data(), end, number); read.ec != std::errc() || read.ptr != end)
        number = -1;
    const auto stays = [&](std::uint32_t latent) {
        const auto found = called.find(latent);
        const bool is_called = found != called.end();
        if (!query.search.empty() && number != latent &&
            !(is_called && found->second.folded.find(query.search) != std::string::npos))
            return false;
        switch (query.only) {
            case Only::All:
                return true;
            case Only::Fired:
                return said(patches, latent) || said(classes, latent);
            case Only::Never:
                return !said(patches, latent) && !said(classes, latent);
            case Only::Dense:
                return latent < patches.size() && patches[latent] > kDense;
            case Only::Named:
                return is_called && !found->second.name.empty();
            case Only::Tagged:
                return is_called && (query.tag.empty() ? !found->second.tags.empty()
                                                       : std::find(found->second.tags.begin(), found->second.tags.end(),
                                                                   query.tag) != found->second.tags.end());
        }
        return true;
    };
    std::vector<std::uint32_t> out;
    if (query.order == Order::Near) {
        if (query.near < 0 || query.near >= index.latents()) return out;
        out.push_back(static_cast<std::uint32_t>(query.near));
        for (const auto& one : index.neighbours(query.near))
            if (one.latent != query.near) out.push_back(one.latent);
        std::erase_if(out, [&](std::uint32_t latent) { return !stays(latent); });
        return out;
    }
    for (std::int64_t i = 0; i < index.latents(); ++i)
        if (stays(static_cast<std::uint32_t>(i))) out.push_back(static_cast<std::uint32_t>(i));
    const auto column = index.column(column_of(query.order));
    if (query.order == Order::Number || column.empty()) {
        if (query.order == Order::Number && query.descending) std::reverse(out.begin(), out.end());
        return out;
    }
    const auto key = [&](std::uint32_t latent) {
        return query.order == Order::Effect ? std::abs(column[latent]) : column[latent];
    };
    // Numbers that are none come last, whichever way; equal ones stay by number.
    std::stable_sort(out.begin(), out.end(), [&](std::uint32_t a, std::uint32_t b) {
        const float x = key(a), y = key(b);
        if (std::isnan(x) || std::isnan(y)) return !std::isnan(x) && std::isnan(y);
        return query.descending ? x > y : x < y;
    });
    return out;
}

std::int64_t nearest_point(std::span<const float> points, float x, float y, float reach) {
    std::int64_t best = -1;
    float least = reach * reach;
    for (std::size_t i = 0; i + 1 < points.size(); i += 2) {
        const float dx = points[i] - x, dy = points[i + 1] - y;
        if (const float far = dx * dx + dy * dy; far <= least) {
            least = far;
            best = static_cast<std::int64_t>(i / 2);
        }
    }
    return best;
}

}  // namespace vitrine::app
