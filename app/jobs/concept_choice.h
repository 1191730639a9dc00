// Which concepts of an index are shown, and in what order: search, filter, sort. Plain C++, without torch and Qt.
//
//     for (std::uint32_t latent : chosen(index, called, {.search = "snout", .order = ConceptQuery::Order::Effect})) ...
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <vitrine/base/concept_index.h>

namespace vitrine::app {

/// What people call a concept.
struct CalledConcept {
    std::string name, note;
    std::vector<std::string> tags;
    std::string folded;  ///< name and tags as a search compares them
};
using CalledConcepts = std::map<std::int64_t, CalledConcept>;

struct ConceptQuery {
    enum class Order : std::uint8_t {
        Frequency,
        Effect,  ///< by size: what speaks against the answer counts as well
        Maximum,
        Localisation,
        Monosemanticity,
        Number,
        Near,  ///< `near` itself, then its neighbours and none else
    };
    enum class Only : std::uint8_t {
        All,
        Fired,
        Never,  ///< in no patch and no class token
        Dense,  ///< in more patches than `kDense`
        Named,
        Tagged,  ///< with `tag`; empty: with any
    };
    std::string search{};  ///< folded; a number means that concept, words a part of a name or tag
    Order order = Order::Frequency;
    bool descending = true;
    Only only = Only::All;
    std::string tag{};
    std::int64_t near = -1;
    bool operator==(const ConceptQuery&) const = default;
};
constexpr float kDense = 0.01f;  ///< as vitrine::ConceptFigures counts them

/// @cost  touches the columns that order and filter read, sorts once
std::vector<std::uint32_t> chosen(const ConceptIndex& index, const CalledConcepts& called, const ConceptQuery& query);

/// The point nearest to a place, or -1 where none is within `reach`.
/// @param points  x, y of each
std::int64_t nearest_point(std::span<const float> points, float x, float y, float reach);

/// Things by key, the least used of which go once all together weigh more than the bound.
template <class Key, class Value, class Hash = std::hash<Key>>
class BoundedCache {
  public:
    explicit BoundedCache(std::int64_t bound) : bound_(bound) {}
    /// Null where it is not (or no longer) there; stays valid until the next put.
    Value* find(const Key& key) {
        const auto found = by_key_.find(key);
        if (found == by_key_.end()) return nullptr;
        used_.splice(used_.begin(), used_, found->second);
        return &found->second->value;
    }
    /// The last that was put stays, whatever it weighs.
    void put(const Key& key, Value value, std::int64_t weight) {
        if (const auto found = by_key_.find(key); found != by_key_.end()) drop(found->second);
        used_.push_front({key, std::move(value), weight});
        by_key_[key] = used_.begin();
        weight_ += weight;
        while (weight_ > bound_ && used_.size() > 1) drop(std::prev(used_.end()));
    }
    void clear() {
        used_.clear();
        by_key_.clear();
        weight_ = 0;
    }
    std::int64_t weight() const { return weight_; }
    std::size_t size() const { return used_.size(); }

  private:
    struct Entry {
        Key key;
        Value value;
        std::int64_t weight;
    };
    void drop(typename std::list<Entry>::iterator entry) {
        weight_ -= entry->weight;
        by_key_.erase(entry->key);
        used_.erase(entry);
    }
    std::int64_t bound_, weight_ = 0;
    std::list<Entry> used_;  // the last used first
    std::unordered_map<Key, typename std::list<Entry>::iterator, Hash> by_key_;
};

}  // namespace vitrine::app
