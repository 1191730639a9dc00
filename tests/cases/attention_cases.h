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
    Mask,        ///< boolean: 0 or -infinity, every row keeps its diagonal
    MaskedRows   ///< every third row is masked entirely
};

struct AttentionCase {
    std::string name;
    std::int64_t heads = 1, key_heads = 1, queries = 1, keys = 1, head_dim = 64, value_dim = 64;
    Layout layout = Layout::Fused;
    Bias bias = Bias::None;
    bool causal = false;
    float spread = 1;  ///< standard deviation of the scores
};

inline std::vector<AttentionCase> attention_cases() {
    std::vector<AttentionCase> all;
    const auto add = [&](std::int64_t heads, std::int64_t key_heads, std::int64_t queries, std::int64_t keys,
                         std::int64_t dim, Layout layout = Layout::Fused, Bias bias = Bias::None, bool causal = false,
                         float spread = 1, std::int64_t value_dim = 0) {
        static const char* const biases[] = {"",     "Bias",      "SharedBias", "KeyBias", "TransposedBias",
                                             "Mask", "MaskedRows"};
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
        c.name = "H" + std::to_string(heads) + (key_heads != heads ? "of" + std::to_string(key_heads) : "") + "Q" +
                 std::to_string(queries) + (keys != queries ? "K" + std::to_string(keys) : "") + "D" +
                 std::to_string(dim) + (c.value_dim != dim ? "V" + std::to_string(c.value_dim) : "") +
                 (layout == Layout::Contiguous ? "Contiguous" : "") + biases[static_cast<int>(bias)] +
                 (causal ? "Causal" : "") + (spread > 10 ? "Sharp" : "") + (spread < 0.1F ? "Flat" : "");
        all.push_back(c);
    };
    for (const std::int64_t n : {1, 2, 5, 17, 50, 63, 64, 65, 127, 129, 197, 257}) add(3, 3, n, n, 64);
    add(2, 2, 785, 785, 64);
    add(1, 1, 1370, 1370, 64);
    for (const std::int64_t d : {1, 7, 16, 24, 32, 72, 80, 96, 128, 256}) add(2, 2, 50, 50, d);
    add(12, 12, 197, 197, 64);
    add(1, 1, 257, 257, 72, Layout::Contiguous);
    add(16, 16, 65, 65, 16, Layout::Contiguous);
    add(3, 3, 1, 257, 64, Layout::Contiguous);
    add(2, 2, 257, 3, 80, Layout::Contiguous);
    add(3, 3, 197, 197, 64, Layout::Contiguous, Bias::None, false, 1, 40);
    add(6, 2, 197, 197, 32, Layout::Contiguous);
    add(4, 1, 129, 65, 24, Layout::Contiguous, Bias::Full);
    for (const Bias bias : {Bias::Full, Bias::Shared, Bias::PerKey, Bias::Transposed, Bias::Mask, Bias::MaskedRows})
        add(3, 3, 197, 197, 64, Layout::Fused, bias);
    add(3, 3, 50, 50, 72, Layout::Fused, Bias::Mask);
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
            draw(v_store, c.key_heads * c.keys * c.value_dim, 1);
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

    /// Scores of one row in double precision.
    std::vector<double> scores(std::int64_t h, std::int64_t i) const {
        std::vector<double> s(static_cast<std::size_t>(p.keys));
        const float* a = p.q + h * p.q_stride[0] + i * p.q_stride[1];
        for (std::int64_t j = 0; j < p.keys; ++j) {
            const float* b = p.k + key_head(h) * p.k_stride[0] + j * p.k_stride[1];
            double sum = 0;
            for (std::int64_t d = 0; d < p.head_dim; ++d) sum += static_cast<double>(a[d]) * b[d];
            sum *= p.scale;
            if (p.bias != nullptr) sum += p.bias[h * p.bias_stride[0] + i * p.bias_stride[1] + j * p.bias_stride[2]];
            if (p.causal && j > i) sum = -std::numeric_limits<double>::infinity();
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
    std::vector<double> lse_exact;

  private:
    template <class Draw>
    void make_bias(const AttentionCase& c, const Draw& draw, std::mt19937_64& random) {
        constexpr float kMasked = -std::numeric_limits<float>::infinity();
        if (c.bias == Bias::None) return;
        const std::int64_t heads = c.bias == Bias::Full || c.bias == Bias::Transposed ? c.heads : 1;
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
