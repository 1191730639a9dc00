// Attention of a short sequence with its map: every implementation against double precision, over the table of cases.
#include <vitrine/kernels/chooser.h>

#include <cases/attention_cases.h>
#include <cases/kernel_calls.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace vitrine::kernels {
namespace {

using cases::AttentionCase;
using cases::AttentionData;
using cases::Floats;
using cases::Guarded;
using cases::kBackwards;
using cases::kSerial;
using cases::kTwo;
using Index = std::int64_t;

struct Answer {
    Floats out, map, lse;
    bool operator==(const Answer&) const = default;
};

/// Poisoned outputs; those of a head and token lie as [queries, heads, dim] with a gap that must stay poisoned.
Answer run(const AttentionKernels& kernels, const AttentionData& data, const ParallelFor& threads = kSerial) {
    const AttentionParams& p = data.p;
    const Index dim = data.g.value_dim, wide = dim + 3;
    const float poison = std::numeric_limits<float>::quiet_NaN();
    Floats out(static_cast<std::size_t>(p.queries * p.heads * wide), poison);
    Answer a;
    Guarded map(p.heads * p.queries * p.keys), lse(p.heads * p.queries);
    SmallAttentionParams s;
    s.v = data.g.v;
    s.v_stride[0] = data.g.v_stride[0];
    s.v_stride[1] = data.g.v_stride[1];
    s.value_dim = dim;
    s.value_heads = data.g.value_heads;
    s.out = out.data();
    s.out_stride[0] = wide;
    s.out_stride[1] = p.heads * wide;
    s.map = map.data();
    s.lse = lse.data();
    EXPECT_EQ(cannot_run(p, s), nullptr);
    kernels.small_attention(p, s, threads);
    for (Index h = 0; h < p.heads; ++h)
        for (Index i = 0; i < p.queries; ++i)
            for (Index d = 0; d < wide; ++d) {
                const float x = out[static_cast<std::size_t>((i * p.heads + h) * wide + d)];
                if (d < dim)
                    a.out.push_back(x);
                else
                    EXPECT_TRUE(std::isnan(x)) << "written beside the output";
            }
    a.map = map.take();
    a.lse = lse.take();
    return a;
}

double error(const Floats& found, const std::vector<double>& exact) {
    EXPECT_EQ(found.size(), exact.size());
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double off = found[i] == exact[i] ? 0 : std::abs(found[i] - exact[i]);
        if (!(off <= worst)) worst = off;  // not-a-number sticks
    }
    return worst;
}

class SmallAttention : public testing::TestWithParam<AttentionCase> {};

TEST_P(SmallAttention, IsForwardAndMapInDoublePrecision) {
    const AttentionData data(GetParam());
    const AttentionParams& p = data.p;
    const std::vector<double> map = data.map();
    std::vector<double> out;
    double most_score = 1, most_out = 0;
    for (Index h = 0; h < p.heads; ++h)
        for (Index i = 0; i < p.queries; ++i)
            for (Index d = 0; d < data.g.value_dim; ++d) {
                double sum = 0;
                for (Index j = 0; j < p.keys; ++j)
                    sum += map[static_cast<std::size_t>((h * p.queries + i) * p.keys + j)] *
                           data.g.v[data.value_head(h) * data.g.v_stride[0] + j * data.g.v_stride[1] + d];
                out.push_back(sum);
                most_out = std::max(most_out, std::abs(sum));
            }
    for (Index h = 0; h < p.heads; ++h)
        for (Index i = 0; i < p.queries; i += 7)
            for (const double s : data.scores(h, i))
                if (std::isfinite(s)) most_score = std::max(most_score, std::abs(s));
    // A rounding of a score s changes p by up to |s| 2^-24 of itself; the floor allows four of them, as the test of the
    // other kernels does.
    const double floor = std::ldexp(1 + most_score, -22);
    const Answer plain = run(*attention_kernels().front(), data);
    for (const AttentionKernels* kernels : attention_kernels()) {
        if (kernels->machine() != nullptr) continue;
        const Answer found = run(*kernels, data);
        EXPECT_LE(error(found.map, map), 2 * error(plain.map, map) + floor) << kernels->name;
        EXPECT_LE(error(found.lse, data.lse_exact), 2 * error(plain.lse, data.lse_exact) + floor * most_score)
            << kernels->name;
        EXPECT_LE(error(found.out, out), 2 * error(plain.out, out) + floor * most_out) << kernels->name;
        EXPECT_LE(error(plain.map, map), 16 * floor) << "the plain version";
        EXPECT_EQ(run(*kernels, data, kTwo), found) << kernels->name << ": two threads give other bits";
        EXPECT_EQ(run(*kernels, data, kBackwards), found) << kernels->name << ": another order gives other bits";
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SmallAttention, testing::ValuesIn([] {
                             std::vector<AttentionCase> some;
                             for (const AttentionCase& c : cases::attention_cases())
                                 if (c.keys <= 320) some.push_back(c);
                             return some;
                         }()),
                         [](const auto& info) { return info.param.name; });

TEST(SmallAttentionChoice, NeedsNoLogSumExpAndSaysWhatIsMissing) {
    const AttentionData data(cases::attention_cases().front());
    AttentionParams p = data.p;
    p.lse = nullptr;
    const auto choice = choose(Operation::SmallAttention, p, "");
    ASSERT_TRUE(choice);
    EXPECT_NE(choice->kernels->small_attention, nullptr);
    EXPECT_STREQ(cannot_run(p, SmallAttentionParams{}), "the values are missing");
}

}  // namespace
}  // namespace vitrine::kernels
