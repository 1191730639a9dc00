// Attention of a short sequence with its map, the plain version.
#include <vitrine/kernels/small_attention.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace vitrine::kernels {

const char* cannot_run(const AttentionParams& p, const SmallAttentionParams& s) noexcept {
    if (const char* why = cannot_run(p, false)) return why;
    if (s.v == nullptr || s.value_dim < 1) return "the values are missing";
    if (s.value_heads < 0 || (s.value_heads > 0 && p.heads % s.value_heads != 0))
        return "the number of heads is no multiple of the value heads";
    if (s.out == nullptr || s.map == nullptr || s.lse == nullptr)
        return "there is no place for the output, the map or the log-sum-exp";
    return nullptr;
}

void small_attention(const AttentionParams& p, const SmallAttentionParams& s, const ParallelFor& parallel_for) {
    // The map from its own log-sum-exp, by the reference of each.
    log_sum_exp(p, s.lse, parallel_for);
    AttentionParams known = p;
    known.lse = s.lse;
    std::vector<std::int64_t> heads(static_cast<std::size_t>(p.heads)), queries(static_cast<std::size_t>(p.queries));
    for (std::size_t h = 0; h < heads.size(); ++h) heads[h] = static_cast<std::int64_t>(h);
    for (std::size_t i = 0; i < queries.size(); ++i) queries[i] = static_cast<std::int64_t>(i);
    map_rows(known, heads, queries, s.map, parallel_for);
    parallel_for(p.heads * p.queries, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t item = begin; item < end; ++item) {
            const std::int64_t h = item / p.queries, i = item % p.queries;
            const float* row = s.map + item * p.keys;
            const float* v = s.v + value_head(p, s, h) * s.v_stride[0];
            float* out = s.out + h * s.out_stride[0] + i * s.out_stride[1];
            std::fill(out, out + s.value_dim, 0.0F);
            for (std::int64_t j = 0; j < p.keys; ++j)
                for (std::int64_t d = 0; d < s.value_dim; ++d) out[d] += row[j] * v[j * s.v_stride[1] + d];
        }
    });
}

}  // namespace vitrine::kernels
