// The largest entries of rows: rows of any implementation, a few at a time, and the selection.
#include <vitrine/kernels/cpu/implementations.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace vitrine::kernels {
namespace {

/// Whether a comes before b: larger, or not a number where b is one.
bool before(float a, float b) { return a != a ? b == b : a > b; }

}  // namespace

void select_top(const float* row, std::int64_t count, std::int64_t top, float* values, std::int64_t* indices) {
    // Few are kept sorted while the row goes by, and nearly all entries fall at one comparison with the last of them.
    // Insertion is quadratic in what is kept, so that many are sorted at the end instead.
    constexpr std::int64_t kFew = 64;
    if (top > kFew) {
        std::vector<std::int64_t> order(static_cast<std::size_t>(count));
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + top, order.end(), [&](std::int64_t a, std::int64_t b) {
            return before(row[a], row[b]) || (!before(row[b], row[a]) && a < b);
        });
        for (std::int64_t t = 0; t < top; ++t) {
            indices[t] = order[static_cast<std::size_t>(t)];
            values[t] = row[indices[t]];
        }
        return;
    }
    std::int64_t held = 0;
    for (std::int64_t j = 0; j < count; ++j) {
        const float x = row[j];
        if (held == top && x <= values[top - 1]) continue;
        if (held == top && !before(x, values[top - 1])) continue;
        std::int64_t at = held < top ? held++ : top - 1;
        for (; at > 0 && before(x, values[at - 1]); --at) {
            values[at] = values[at - 1];
            indices[at] = indices[at - 1];
        }
        values[at] = x;
        indices[at] = j;
    }
}

void rows_top(decltype(&map_rows_layers) rows_of, std::span<const AttentionParams> layers,
              std::span<const std::int64_t> queries, bool head_mean, std::int64_t top, std::span<float* const> values,
              std::span<std::int64_t* const> indices, const ParallelFor& parallel_for) {
    constexpr std::int64_t kMostFloats = 16 * 1024 * 1024;
    const auto wanted = static_cast<std::int64_t>(queries.size());
    std::int64_t a_query = 0;
    for (const AttentionParams& p : layers) a_query += (head_mean ? 1 : p.heads) * p.keys;
    if (wanted == 0 || a_query == 0) return;
    const std::int64_t some = std::clamp<std::int64_t>(kMostFloats / a_query, 1, wanted);
    std::vector<float> held(static_cast<std::size_t>(some * a_query));
    std::vector<float*> rows(layers.size());
    struct Row {
        const float* at;
        std::int64_t keys;
        float* values;
        std::int64_t* indices;
    };
    std::vector<Row> all;
    for (std::int64_t first = 0; first < wanted; first += some) {
        const std::int64_t count = std::min(some, wanted - first);
        float* next = held.data();
        all.clear();
        for (std::size_t l = 0; l < layers.size(); ++l) {
            const std::int64_t heads = head_mean ? 1 : layers[l].heads, keys = layers[l].keys;
            rows[l] = next;
            for (std::int64_t h = 0; h < heads; ++h)
                for (std::int64_t i = 0; i < count; ++i) {
                    const std::int64_t to = (h * wanted + first + i) * top;
                    all.push_back({next + (h * count + i) * keys, keys, values[l] + to, indices[l] + to});
                }
            next += heads * count * keys;
        }
        rows_of(layers, queries.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)), head_mean,
                rows, parallel_for);
        parallel_for(static_cast<std::int64_t>(all.size()), [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t x = begin; x < end; ++x) {
                const Row& row = all[static_cast<std::size_t>(x)];
                select_top(row.at, row.keys, top, row.values, row.indices);
            }
        });
    }
}

}  // namespace vitrine::kernels
