// The table of attention shapes that correctness and timing share, their random data, and the map in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <vitrine/kernels/attention.h>
#include <vitrine/kernels/sweep_gradient.h>

namespace vitrine::cases {

enum class Layout : std::uint8_t {
    Fused,      ///< queries, keys and values are views of one [tokens, 3, heads, dim]
    Contiguous  ///< [heads, tokens, dim] each
};

enum class Bias : std::uint8_t {
    None,
    Full,        ///< [heads, queries, keys]
    Shared,      ///< [1, queries, keys], the same for all heads
    PerKey,      ///< [1, 1, keys]
    Transposed,  ///< stored as [heads, keys, queries]: the key axis has a stride
    Mask,        ///< 0 or -infinity, every row keeps its diagonal
    MaskedRows,  ///< every third row is masked entirely
    Boolean,     ///< bytes [1, queries, keys], every row keeps its diagonal
    BooleanKeys  ///< bytes [heads, 1, keys] and a bias [heads, queries, keys]; the second head sees nothing
};

struct AttentionCase {
    std::string name;
    std::int64_t heads = 1, key_heads = 1, queries = 1, keys = 1, head_dim = 64, value_dim = 64;
    Layout layout = Layout::Fused;
    Bias bias = Bias::None;
    bool causal = false;
    float spread = 1;  ///< standard deviation of the scores
    float softcap = 0;
    std::int64_t value_heads = 0;  ///< 0: as many as key heads
};

/// Which part of the table: what a test run can afford each time, or the heavy rest.
enum class Weight : std::uint8_t { Fast, Slow };

inline std::vector<AttentionCase> attention_cases(Weight weight = Weight::Fast) {
    std::vector<AttentionCase> all;
    const auto add = [&](std::int64_t heads, std::int64_t key_heads, std::int64_t queries, std::int64_t keys,
                         std::int64_t dim, Layout layout = Layout::Fused, Bias bias = Bias::None, bool causal = false,
                         float spread = 1, std::int64_t value_dim = 0, float softcap = 0,
                         std::int64_t value_heads = 0) {
        static const char* const biases[] = {"",     "Bias",       "SharedBias", "KeyBias",    "TransposedBias",
                                             "Mask", "MaskedRows", "Boolean",    "BooleanKeys"};
        AttentionCase c;
        c.heads = heads;
        c.key_heads = key_heads;
        c.queries = queries;
        c.keys = keys;
        c.head_dim = dim;
        c.value_dim = value_dim == 0 ? dim : value_dim;
        c.layout = layout;
        c.bias = bias;
        c.causal = causal;
        c.spread = spread;
        c.softcap = softcap;
        c.value_heads = value_heads;
        c.name = "H" + std::to_string(heads) + (key_heads != heads ? "of" + std::to_string(key_heads) : "") + "Q" +
                 std::to_string(queries) + (keys != queries ? "K" + std::to_string(keys) : "") + "D" +
                 std::to_string(dim) + (c.value_dim != dim ? "V" + std::to_string(c.value_dim) : "") +
                 (layout == Layout::Contiguous ? "Contiguous" : "") + biases[static_cast<int>(bias)] +
                 (causal ? "Causal" : "") + (spread > 10 ? "Sharp" : "") + (spread < 0.1F ? "Flat" : "") +
                 (softcap > 0 ? "Cap" + std::to_string(static_cast<int>(softcap)) : "") +
                 (value_heads > 0 ? "Values" + std::to_string(value_heads) : "");
        all.push_back(c);
    };
    // Every size with every width of heads, and with 1, 3, 12 and 16 heads in turn. What every run can afford is one
    // width a size, another one each time, so that all widths and all numbers of heads are met.
    const std::int64_t sizes[] = {1, 2, 63, 64, 65, 127, 129, 196, 197, 257, 577, 1370, 4097};
    const std::int64_t dims[] = {16, 32, 64, 72, 80, 96, 128, 256};
    const std::int64_t heads[] = {1, 3, 12, 16};
    for (std::int64_t s = 0; s < 13; ++s)
        for (std::int64_t d = 0; d < 8; ++d) {
            const bool fast = sizes[s] < 1000 && d == (3 * s + 5) % 8;
            if (fast != (weight == Weight::Fast)) continue;
            // The plain version takes a minute for one head of the largest size.
            if ((sizes[s] == 4097 && d != 2) || (sizes[s] == 1370 && d % 2 != 0)) continue;
            const std::int64_t most = sizes[s] > 1000 || (fast && sizes[s] > 500) ? 1 : sizes[s] > 500 ? 3 : 16;
            add(std::min(heads[(s + d) % 4], most), std::min(heads[(s + d) % 4], most), sizes[s], sizes[s], dims[d],
                (s + d) % 3 == 0 ? Layout::Contiguous : Layout::Fused);
        }
    if (weight == Weight::Slow) {
        add(3, 3, 1370, 1370, 64, Layout::Fused, Bias::Boolean);
        add(1, 1, 1370, 1370, 64, Layout::Fused, Bias::MaskedRows, false, 27);
        add(6, 2, 577, 577, 72, Layout::Contiguous, Bias::BooleanKeys, true, 1, 40, 30);
        return all;
    }
    for (const std::int64_t n : {1, 2, 5, 17, 50, 63, 64, 65, 127, 129, 197, 257}) add(3, 3, n, n, 64);
    add(1, 1, 17, 1370, 16, Layout::Contiguous);  // more panels of keys than a sweep with counts has runs
    for (const std::int64_t d : {1, 7, 16, 24, 32, 72, 80, 96, 128, 256}) add(2, 2, 50, 50, d);
    add(12, 12, 197, 197, 64);
    add(1, 1, 257, 257, 72, Layout::Contiguous);
    add(16, 16, 65, 65, 16, Layout::Contiguous);
    add(3, 3, 1, 257, 64, Layout::Contiguous);
    add(2, 2, 257, 3, 80, Layout::Contiguous);
    add(3, 3, 197, 197, 64, Layout::Contiguous, Bias::None, false, 1, 40);
    add(6, 2, 197, 197, 32, Layout::Contiguous);
    add(4, 1, 129, 65, 24, Layout::Contiguous, Bias::Full);
    add(6, 3, 65, 65, 32, Layout::Contiguous, Bias::None, false, 1, 16, 0, 2);  // keys and values grouped differently
    add(4, 4, 50, 50, 64, Layout::Contiguous, Bias::None, false, 1, 24, 0, 1);
    for (const Bias bias : {Bias::Full, Bias::Shared, Bias::PerKey, Bias::Transposed, Bias::Mask, Bias::MaskedRows,
                            Bias::Boolean, Bias::BooleanKeys})
        add(3, 3, 197, 197, 64, Layout::Fused, bias);
    add(3, 3, 50, 50, 72, Layout::Fused, Bias::Mask);
    add(4, 2, 50, 65, 72, Layout::Contiguous, Bias::BooleanKeys);
    add(2, 2, 65, 65, 64, Layout::Fused, Bias::Boolean, true);
    add(3, 3, 197, 197, 64, Layout::Fused, Bias::None, false, 1, 0, 2);    // the cap bends nearly all scores
    add(2, 2, 129, 129, 64, Layout::Fused, Bias::Full, false, 27, 0, 30);  // and here saturates
    add(2, 2, 65, 65, 32, Layout::Fused, Bias::Boolean, true, 1, 0, 50);   // as in Gemma 2
    add(4, 2, 65, 50, 40, Layout::Contiguous, Bias::BooleanKeys, false, 3, 0, 5);
    add(2, 2, 197, 197, 64, Layout::Fused, Bias::None, true);
    add(2, 2, 65, 65, 32, Layout::Fused, Bias::Full, true);
    add(2, 2, 197, 197, 64, Layout::Fused, Bias::None, false, 27);     // scores to +-80 and beyond
    add(2, 2, 197, 197, 64, Layout::Fused, Bias::None, false, 0.01F);  // all rows almost uniform
    return all;
}

/// Random data of a case; the parameters point into it. Seeded by the case's shape.
struct AttentionData {
    explicit AttentionData(const AttentionCase& c) : shape(c) {
        std::mt19937_64 random(
            static_cast<std::uint64_t>(c.queries * 1315423911 + c.keys * 2654435761 + c.head_dim * 97 + c.heads));
        std::normal_distribution<float> normal;
        const auto draw = [&](std::vector<float>& to, std::int64_t count, float spread) {
            to.resize(static_cast<std::size_t>(count));
            for (float& x : to) x = spread * normal(random);
        };
        p.heads = c.heads;
        p.key_heads = c.key_heads;
        p.queries = c.queries;
        p.keys = c.keys;
        p.head_dim = c.head_dim;
        p.causal = c.causal;
        p.softcap = c.softcap;
        // q . k of unit normals has the standard deviation sqrt(dim).
        p.scale = c.spread / std::sqrt(static_cast<float>(c.head_dim));
        g.value_dim = c.value_dim;
        if (c.layout == Layout::Fused) {
            draw(q_store, c.queries * 3 * c.heads * c.head_dim, 1);
            p.q = q_store.data();
            p.k = q_store.data() + c.heads * c.head_dim;
            g.v = q_store.data() + 2 * c.heads * c.head_dim;
            for (auto* stride : {p.q_stride, p.k_stride, g.v_stride}) {
                stride[0] = c.head_dim;
                stride[1] = 3 * c.heads * c.head_dim;
            }
        } else {
            draw(q_store, c.heads * c.queries * c.head_dim, 1);
            draw(k_store, c.key_heads * c.keys * c.head_dim, 1);
            g.value_heads = c.value_heads;
            draw(v_store, (c.value_heads > 0 ? c.value_heads : c.key_heads) * c.keys * c.value_dim, 1);
            p.q = q_store.data();
            p.k = k_store.data();
            g.v = v_store.data();
            p.q_stride[0] = c.queries * c.head_dim;
            p.k_stride[0] = c.keys * c.head_dim;
            g.v_stride[0] = c.keys * c.value_dim;
            p.q_stride[1] = p.k_stride[1] = c.head_dim;
            g.v_stride[1] = c.value_dim;
        }
        draw(d_out, c.heads * c.queries * c.value_dim, 0.3F);
        g.d_out = d_out.data();
        g.d_out_stride[0] = c.queries * c.value_dim;
        g.d_out_stride[1] = c.value_dim;
        make_bias(c, draw, random);
        std::uniform_real_distribution<float> uniform(0, 1);
        r.resize(static_cast<std::size_t>(c.heads * c.queries));
        for (std::size_t i = 0; i < r.size(); ++i) r[i] = i % 7 == 3 ? 0 : i % 11 == 5 ? 1e-30F : uniform(random);
        lse_exact.resize(static_cast<std::size_t>(c.heads * c.queries));
        for (std::int64_t h = 0; h < c.heads; ++h)
            for (std::int64_t i = 0; i < c.queries; ++i) {
                const auto s = scores(h, i);
                const double high = *std::max_element(s.begin(), s.end());
                double sum = 0;
                for (const double x : s) sum += std::exp(x - high);
                lse_exact[static_cast<std::size_t>(h * c.queries + i)] = std::isinf(high) ? high : high + std::log(sum);
            }
        lse.assign(lse_exact.begin(), lse_exact.end());
        p.lse = lse.data();
    }
    AttentionData(const AttentionData&) = delete;
    AttentionData& operator=(const AttentionData&) = delete;

    std::int64_t key_head(std::int64_t h) const { return h / (p.heads / p.key_heads); }
    std::int64_t value_head(std::int64_t h) const {
        return h / (p.heads / (g.value_heads > 0 ? g.value_heads : p.key_heads));
    }

    /// Scores of one row in double precision.
    std::vector<double> scores(std::int64_t h, std::int64_t i) const {
        std::vector<double> s(static_cast<std::size_t>(p.keys));
        const float* a = p.q + h * p.q_stride[0] + i * p.q_stride[1];
        for (std::int64_t j = 0; j < p.keys; ++j) {
            const float* b = p.k + key_head(h) * p.k_stride[0] + j * p.k_stride[1];
            double sum = 0;
            for (std::int64_t d = 0; d < p.head_dim; ++d) sum += static_cast<double>(a[d]) * b[d];
            sum *= p.scale;
            if (p.softcap > 0) sum = p.softcap * std::tanh(sum / p.softcap);
            if (p.bias != nullptr) sum += p.bias[h * p.bias_stride[0] + i * p.bias_stride[1] + j * p.bias_stride[2]];
            const bool kept =
                p.mask == nullptr || p.mask[h * p.mask_stride[0] + i * p.mask_stride[1] + j * p.mask_stride[2]] != 0;
            if (!kept || (p.causal && j > i)) sum = -std::numeric_limits<double>::infinity();
            s[static_cast<std::size_t>(j)] = sum;
        }
        return s;
    }

    /// The map in double precision, with the log-sum-exp that the kernels are given. [heads, queries, keys]
    std::vector<double> map() const {
        std::vector<double> out;
        out.reserve(static_cast<std::size_t>(p.heads * p.queries * p.keys));
        for (std::int64_t h = 0; h < p.heads; ++h)
            for (std::int64_t i = 0; i < p.queries; ++i) {
                const double normaliser = lse[static_cast<std::size_t>(h * p.queries + i)];
                for (const double s : scores(h, i))
                    out.push_back(std::isinf(normaliser) ? 0 : std::exp(s - normaliser));
            }
        return out;
    }

    AttentionCase shape;
    kernels::AttentionParams p;
    kernels::GradientParams g;
    std::vector<float> q_store, k_store, v_store, d_out, bias, lse, r;
    std::vector<std::uint8_t> mask;
    std::vector<double> lse_exact;

  private:
    template <class Draw>
    void make_bias(const AttentionCase& c, const Draw& draw, std::mt19937_64& random) {
        constexpr float kMasked = -std::numeric_limits<float>::infinity();
        if (c.bias == Bias::None) return;
        if (c.bias == Bias::Boolean || c.bias == Bias::BooleanKeys) {
            const bool by_key = c.bias == Bias::BooleanKeys;
            mask.resize(static_cast<std::size_t>(by_key ? c.heads * c.keys : c.queries * c.keys));
            for (std::uint8_t& keep : mask)
                keep = static_cast<std::uint8_t>(random() % 3 == 0 ? 0 : 1 + random() % 255);
            for (std::int64_t i = 0; i < std::min(c.queries, c.keys) && !by_key; ++i)
                mask[static_cast<std::size_t>(i * c.keys + i)] = 1;
            if (by_key && c.heads > 1) std::fill_n(mask.begin() + c.keys, c.keys, std::uint8_t{0});
            p.mask = mask.data();
            p.mask_stride[0] = by_key ? c.keys : 0;
            p.mask_stride[1] = by_key ? 0 : c.keys;
            p.mask_stride[2] = 1;
            if (!by_key) return;
        }
        const std::int64_t heads =
            c.bias == Bias::Full || c.bias == Bias::Transposed || c.bias == Bias::BooleanKeys ? c.heads : 1;
        const std::int64_t rows = c.bias == Bias::PerKey ? 1 : c.queries;
        draw(bias, heads * rows * c.keys, 1.5F);
        p.bias = bias.data();
        p.bias_stride[0] = heads == 1 ? 0 : rows * c.keys;
        p.bias_stride[1] = rows == 1 ? 0 : c.keys;
        p.bias_stride[2] = 1;
        if (c.bias == Bias::Transposed) {
            p.bias_stride[1] = 1;
            p.bias_stride[2] = c.queries;
        }
        if (c.bias == Bias::Mask)
            for (std::int64_t i = 0; i < rows; ++i)
                for (std::int64_t j = 0; j < c.keys; ++j)
                    bias[static_cast<std::size_t>(i * c.keys + j)] = random() % 3 == 0 && i != j ? kMasked : 0;
        if (c.bias == Bias::MaskedRows)
            for (std::int64_t i = 0; i < rows; i += 3)
                for (std::int64_t j = 0; j < c.keys; ++j) bias[static_cast<std::size_t>(i * c.keys + j)] = kMasked;
    }
};

}  // namespace vitrine::cases
