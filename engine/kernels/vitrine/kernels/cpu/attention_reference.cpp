// The plain CPU kernels of softmax attention's map: the reference that faster ones are held to.
#include <vitrine/kernels/attention.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace vitrine::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// exp for x <= 88, within 2 units in the last place; plain arithmetic, so that loops over it become vector code.
/// Polynomial of Cephes' expf (S. Moshier), argument reduced by powers of two.
inline float exponential(float x) {
    const float bounded = x < -87.0F ? -87.0F : x;
    const float shifted = bounded * 1.44269504088896341F + 12582912.0F;  // adds 1.5 * 2^23: rounds to an integer
    const auto power = std::bit_cast<std::int32_t>(shifted) - 0x4B400000;
    const float n = shifted - 12582912.0F;
    const float f = (bounded - n * 0.693359375F) + n * 2.12194440e-4F;
    float y = 1.9875691500e-4F;
    y = y * f + 1.3981999507e-3F;
    y = y * f + 8.3334519073e-3F;
    y = y * f + 4.1665795894e-2F;
    y = y * f + 1.6666665459e-1F;
    y = y * f + 5.0000001201e-1F;
    y = y * f * f + f + 1.0F;
    const float scaled = y * std::bit_cast<float>((power + 127) << 23);
    return x < -87.0F ? 0.0F : scaled;
}

/// Eight partial sums: the compiler keeps them in vector registers without being allowed to reorder additions.
inline float dot(const float* a, const float* b, std::int64_t n) {
    float sum[8] = {};
    std::int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; ++l) sum[l] += a[i + l] * b[i + l];
    float rest = 0;
    for (; i < n; ++i) rest += a[i] * b[i];
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7])) + rest;
}

struct Head {
    const AttentionParams& p;
    const float* q;
    const float* k;
    const float* bias;
    const std::uint8_t* mask;
    const float* lse;

    Head(const AttentionParams& params, std::int64_t h)
        : p(params),
          q(params.q + h * params.q_stride[0]),
          k(params.k + h / (params.heads / params.key_heads) * params.k_stride[0]),
          bias(params.bias == nullptr ? nullptr : params.bias + h * params.bias_stride[0]),
          mask(params.mask == nullptr ? nullptr : params.mask + h * params.mask_stride[0]),
          lse(params.lse == nullptr ? nullptr : params.lse + h * params.queries) {}

    /// Scores of query i against keys [k0, k1).
    void scores(std::int64_t i, std::int64_t k0, std::int64_t k1, float* out) const {
        const float* row = q + i * p.q_stride[1];
        for (std::int64_t j = k0; j < k1; ++j) out[j - k0] = p.scale * dot(row, k + j * p.k_stride[1], p.head_dim);
        if (p.softcap > 0)
            for (std::int64_t j = 0; j < k1 - k0; ++j) out[j] = p.softcap * std::tanh(out[j] / p.softcap);
        if (bias != nullptr) {
            const float* b = bias + i * p.bias_stride[1];
            for (std::int64_t j = k0; j < k1; ++j) out[j - k0] += b[j * p.bias_stride[2]];
        }
        if (mask != nullptr) {
            const std::uint8_t* keep = mask + i * p.mask_stride[1];
            for (std::int64_t j = k0; j < k1; ++j)
                if (keep[j * p.mask_stride[2]] == 0) out[j - k0] = kMinusInfinity;
        }
        if (p.causal)
            for (std::int64_t j = std::max(k0, i + 1); j < k1; ++j) out[j - k0] = kMinusInfinity;
    }

    /// p_ij for keys [k0, k1).
    void row(std::int64_t i, std::int64_t k0, std::int64_t k1, float* out) const {
        const float normaliser = lse[i];
        if (normaliser == kMinusInfinity) {
            std::fill(out, out + (k1 - k0), 0.0F);
            return;
        }
        scores(i, k0, k1, out);
        for (std::int64_t j = 0; j < k1 - k0; ++j) out[j] = exponential(out[j] - normaliser);
    }
};

}  // namespace

const char* cannot_run(const AttentionParams& p, bool needs_lse) noexcept {
    if (p.q == nullptr || p.k == nullptr) return "queries or keys are missing";
    if (p.heads < 1 || p.queries < 1 || p.keys < 1 || p.head_dim < 1) return "an axis is empty";
    if (p.key_heads < 1 || p.heads % p.key_heads != 0) return "the number of heads is no multiple of the key heads";
    if (!(p.softcap >= 0) || p.softcap > std::numeric_limits<float>::max()) return "the softcap is no positive number";
    if (needs_lse && p.lse == nullptr) return "the log-sum-exp is missing";
    return nullptr;
}

void log_sum_exp(const AttentionParams& p, float* lse, const ParallelFor& parallel_for) {
    constexpr std::int64_t kBlock = 512;
    parallel_for(p.heads * p.queries, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> score(static_cast<std::size_t>(std::min(kBlock, p.keys)));
        for (std::int64_t item = begin; item < end; ++item) {
            const Head head(p, item / p.queries);
            const std::int64_t i = item % p.queries;
            float high = kMinusInfinity;
            double sum = 0;
            for (std::int64_t k0 = 0; k0 < p.keys; k0 += kBlock) {
                const std::int64_t k1 = std::min(k0 + kBlock, p.keys);
                head.scores(i, k0, k1, score.data());
                const float block_high = *std::max_element(score.begin(), score.begin() + (k1 - k0));
                if (block_high == kMinusInfinity) continue;
                if (block_high > high) {
                    sum *= std::exp(static_cast<double>(high) - static_cast<double>(block_high));
                    high = block_high;
                }
                float part = 0;
                for (std::int64_t j = 0; j < k1 - k0; ++j) score[j] = exponential(score[j] - high);
                for (std::int64_t j = 0; j < k1 - k0; ++j) part += score[j];
                sum += part;
            }
            lse[item] = high == kMinusInfinity ? kMinusInfinity : static_cast<float>(high + std::log(sum));
        }
    });
}

void map_rows(const AttentionParams& p, std::span<const std::int64_t> heads, std::span<const std::int64_t> queries,
              float* out, const ParallelFor& parallel_for) {
    const auto rows = static_cast<std::int64_t>(queries.size());
    parallel_for(static_cast<std::int64_t>(heads.size()) * rows, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t item = begin; item < end; ++item)
            Head(p, heads[item / rows]).row(queries[item % rows], 0, p.keys, out + item * p.keys);
    });
}

void map_columns(const AttentionParams& p, std::span<const std::int64_t> heads, std::span<const std::int64_t> keys,
                 float* out, const ParallelFor& parallel_for) {
    const auto columns = static_cast<std::int64_t>(keys.size());
    parallel_for(static_cast<std::int64_t>(heads.size()) * p.queries, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t item = begin; item < end; ++item) {
            const Head head(p, heads[item / p.queries]);
            for (std::int64_t c = 0; c < columns; ++c)
                head.row(item % p.queries, keys[c], keys[c] + 1, out + item * columns + c);
        }
    });
}

void map_tile(const AttentionParams& p, std::span<const std::int64_t> heads, std::int64_t q0, std::int64_t q1,
              std::int64_t k0, std::int64_t k1, std::int64_t pool, Pooling pooling, float* out,
              const ParallelFor& parallel_for) {
    const std::int64_t tile_rows = (q1 - q0 + pool - 1) / pool;
    const std::int64_t tile_cols = (k1 - k0 + pool - 1) / pool;
    parallel_for(static_cast<std::int64_t>(heads.size()) * tile_rows, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row(static_cast<std::size_t>(k1 - k0));
        for (std::int64_t item = begin; item < end; ++item) {
            const Head head(p, heads[item / tile_rows]);
            const std::int64_t first = q0 + item % tile_rows * pool;
            const std::int64_t last = std::min(first + pool, q1);
            float* cells = out + item * tile_cols;
            std::fill(cells, cells + tile_cols, 0.0F);
            for (std::int64_t i = first; i < last; ++i) {
                head.row(i, k0, k1, row.data());
                for (std::int64_t j = 0; j < k1 - k0; ++j) {
                    float& cell = cells[j / pool];
                    if (pooling == Pooling::Mean)
                        cell += row[j];
                    else if (row[j] > cell || row[j] != row[j])  // not-a-number stays
                        cell = row[j];
                }
            }
            if (pooling == Pooling::Max) continue;
            for (std::int64_t c = 0; c < tile_cols; ++c) {
                const std::int64_t width = std::min((c + 1) * pool, k1 - k0) - c * pool;
                cells[c] /= static_cast<float>(width * (last - first));
            }
        }
    });
}

void map_sweep(const AttentionParams& p, const float* r, std::int64_t r_head_stride, float* out,
               const ParallelFor& parallel_for) {
    map_sweep_counts(p, r, r_head_stride, out, {}, parallel_for);
}

void map_sweep_counts(const AttentionParams& p, const float* r, std::int64_t r_head_stride, float* out,
                      const SweepCounts& counts, const ParallelFor& parallel_for) {
    // One item is a head and a block of queries; its column sums are its own, and are added in order at the end,
    // so that the result does not depend on the number of threads.
    constexpr std::int64_t kBlock = 256;
    const std::int64_t blocks = (p.queries + kBlock - 1) / kBlock;
    std::vector<double> part(static_cast<std::size_t>(p.heads * blocks * p.keys));
    std::vector<std::uint64_t> bins(
        counts.histogram == nullptr ? 0 : static_cast<std::size_t>(p.heads * blocks * kHistogramBins));
    parallel_for(p.heads * blocks, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row(static_cast<std::size_t>(p.keys));
        for (std::int64_t item = begin; item < end; ++item) {
            const std::int64_t h = item / blocks;
            const Head head(p, h);
            double* sum = part.data() + item * p.keys;
            const std::int64_t last = std::min((item % blocks + 1) * kBlock, p.queries);
            for (std::int64_t i = item % blocks * kBlock; i < last; ++i) {
                const float weight = r[h * r_head_stride + i];
                if (counts.row_sums != nullptr) counts.row_sums[h * p.queries + i] = 0;
                if (weight == 0) continue;
                head.row(i, 0, p.keys, row.data());
                for (std::int64_t j = 0; j < p.keys; ++j) sum[j] += weight * row[j];
                if (counts.row_sums != nullptr)
                    counts.row_sums[h * p.queries + i] = std::accumulate(row.begin(), row.end(), 0.0);
                if (counts.histogram != nullptr)
                    for (const float x : row) {
                        const std::uint32_t power = std::bit_cast<std::uint32_t>(x) >> 23;
                        ++bins[static_cast<std::size_t>(item * kHistogramBins + 127 - std::min(power, 127U))];
                    }
            }
        }
    });
    for (std::int64_t h = 0; h < p.heads; ++h)
        for (std::int64_t j = 0; j < p.keys; ++j) {
            double sum = 0;
            for (std::int64_t b = 0; b < blocks; ++b) sum += part[(h * blocks + b) * p.keys + j];
            out[h * p.keys + j] = static_cast<float>(sum);
        }
    if (counts.histogram == nullptr) return;
    for (std::int64_t x = 0; x < p.heads * kHistogramBins; ++x) {
        counts.histogram[x] = 0;
        const std::int64_t h = x / kHistogramBins, bin = x % kHistogramBins;
        for (std::int64_t b = 0; b < blocks; ++b) counts.histogram[x] += bins[(h * blocks + b) * kHistogramBins + bin];
    }
}

void map_apply(const AttentionParams& p, const float* v, const std::int64_t v_stride[2], std::int64_t dim, float* out,
               const ParallelFor& parallel_for) {
    parallel_for(p.heads * p.queries, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row(static_cast<std::size_t>(p.keys));
        for (std::int64_t item = begin; item < end; ++item) {
            const std::int64_t h = item / p.queries;
            Head(p, h).row(item % p.queries, 0, p.keys, row.data());
            float* sum = out + item * dim;
            std::fill(sum, sum + dim, 0.0F);
            for (std::int64_t j = 0; j < p.keys; ++j) {
                const float* value = v + h * v_stride[0] + j * v_stride[1];
                for (std::int64_t d = 0; d < dim; ++d) sum[d] += row[j] * value[d];
            }
        }
    });
}

std::int64_t packed_keys_size(const AttentionParams& p) noexcept {
    return (p.keys + kPackedKeys - 1) / kPackedKeys * p.key_heads * p.head_dim * kPackedKeys;
}

void pack_keys(const AttentionParams& p, float* to, const ParallelFor& parallel_for) {
    parallel_for((p.keys + kPackedKeys - 1) / kPackedKeys, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t at = begin * p.key_heads; at < end * p.key_heads; ++at) {
            float* panel = to + at * p.head_dim * kPackedKeys;
            for (std::int64_t d = 0; d < p.head_dim; ++d)
                for (std::int64_t l = 0; l < kPackedKeys; ++l) {
                    const std::int64_t j = at / p.key_heads * kPackedKeys + l;
                    panel[d * kPackedKeys + l] =
                        j < p.keys ? p.k[at % p.key_heads * p.k_stride[0] + j * p.k_stride[1] + d] : 0;
                }
        }
    });
}

}  // namespace vitrine::kernels
