// Tests of the softmax Mixing on tensors of our own: masks as they are, grouped heads, all layers at once, the
// log-sum-exp.
#include "softmax_mixing.h"

#include <gtest/gtest.h>

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <vitrine/bench.h>
#include <vitrine/reads_apart.h>

namespace vitrine {
namespace {

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

at::Tensor random(at::IntArrayRef shape, std::uint64_t seed) {
    return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

SoftmaxParts parts_of(std::int64_t heads, std::int64_t key_heads, std::int64_t value_heads, std::int64_t tokens,
                      std::uint64_t seed = 1) {
    SoftmaxParts parts;
    parts.q = random({1, heads, tokens, 24}, seed);
    parts.k = random({1, key_heads, tokens, 24}, seed + 1);
    parts.v = random({1, value_heads, tokens, 20}, seed + 2);
    parts.scale = 1 / std::sqrt(24.0);
    return parts;
}

/// The plain formula in double precision. keep: bool, broadcastable to the scores; undefined keeps all.
at::Tensor map_of(const SoftmaxMixing& mixing, const at::Tensor& keep = {}) {
    at::Tensor scores =
        at::matmul(mixing.q().to(at::kDouble), mixing.k().to(at::kDouble).transpose(-2, -1)) * mixing.parts().scale;
    if (keep.defined()) scores = scores.masked_fill(keep.logical_not(), -INFINITY);
    return at::softmax(scores, -1);
}

TEST(SoftmaxMixing, TakesABooleanMaskAsItIs) {
    for (const bool drop : {false, true}) {
        SoftmaxParts parts = parts_of(3, 3, 3, 40);
        at::Tensor keep = at::rand({40, 40}, at::make_generator<at::CPUGeneratorImpl>(9)) < 0.6;
        keep.diagonal().fill_(true);
        at::Tensor padding = at::ones({1, 1, 1, 40}, at::kBool);
        padding.narrow(3, 35, 5).fill_(false);
        keep.narrow(1, 0, 1).fill_(true);  // no row loses all its keys to both masks
        parts.terms.push_back(
            {drop ? keep.logical_not() : keep, drop ? ScoreTerm::Kind::DropWhereTrue : ScoreTerm::Kind::KeepWhereTrue});
        const SoftmaxMixing one(parts);
        parts.terms.push_back({padding, ScoreTerm::Kind::KeepWhereTrue});
        const SoftmaxMixing two(parts);
        EXPECT_LT(largest(one.rows({}, {}).value() - map_of(one, keep)), 1e-6);
        EXPECT_LT(largest(two.rows({}, {}).value() - map_of(two, keep.logical_and(padding.select(0, 0)))), 1e-6);
        const kernels::AttentionParams& p = *one.params().value();
        EXPECT_EQ(p.bias, nullptr) << "a byte a pair, and no float";
        ASSERT_NE(p.mask, nullptr);
        EXPECT_EQ(p.mask_stride[0], 0) << "not repeated for every head";
        if (!drop) {
            EXPECT_EQ(static_cast<const void*>(p.mask), keep.const_data_ptr()) << "not copied";
        }
        EXPECT_EQ(largest(one.rows({}, {}).value().masked_select(keep.logical_not())), 0);
    }
}

TEST(SoftmaxMixing, ARunIsReadApartUnlessItsQueriesAreMadeAgainFromWeights) {
    const auto run_of = [](std::shared_ptr<const Mixing> mixing) {
        Capture run;
        run.output = at::zeros({1, 2});
        run.flow.steps.push_back({std::make_shared<SoftmaxMixing>(parts_of(2, 2, 2, 8)), 0, true, nullptr});
        run.flow.steps.push_back({std::move(mixing), 1, true, nullptr});
        return run;
    };
    EXPECT_TRUE(
        reads_apart(run_of(std::make_shared<DenseMixing>(at::ones({1, 2, 4, 4}) / 4, at::Tensor(), at::Tensor()))));
    SoftmaxParts parts = parts_of(2, 2, 2, 8);
    parts.output = random({1, 2, 8, 20}, 4);
    const std::array<at::Tensor, 3> qkv{parts.q, parts.k, parts.v};
    const Recipe recipe{random({1, 8, 48}, 5), [qkv](const at::Tensor&) { return qkv; }};
    EXPECT_FALSE(reads_apart(run_of(std::make_shared<SoftmaxMixing>(std::move(parts), recipe))));
}

TEST(SoftmaxMixing, AddsAndMasksAtOnce) {
    SoftmaxParts parts = parts_of(2, 2, 2, 33);
    const at::Tensor keep = at::ones({33, 33}, at::kBool).tril();
    const at::Tensor bias = random({1, 2, 33, 33}, 7);
    parts.terms.push_back({bias, ScoreTerm::Kind::Add, 0.5});
    parts.terms.push_back({keep, ScoreTerm::Kind::KeepWhereTrue});
    const SoftmaxMixing mixing(parts);
    const at::Tensor scores =
        (at::matmul(mixing.q(), mixing.k().transpose(-2, -1)) * parts.scale + bias.select(0, 0) * 0.5)
            .masked_fill(keep.logical_not(), -INFINITY);
    EXPECT_LT(largest(mixing.rows({}, {}).value() - at::softmax(scores, -1)), 1e-6);
}

TEST(SoftmaxMixing, GroupsOfHeadsShareKeysAndValues) {
    // As many values as keys; fewer values than keys; a head of values for every head.
    for (const auto& [key_heads, value_heads] : {std::pair{2, 2}, {6, 2}, {3, 1}, {2, 6}}) {
        SoftmaxParts parts = parts_of(6, key_heads, value_heads, 31);
        const SoftmaxMixing mixing(parts);
        const at::Tensor map = map_of(mixing), r = random({6, 31}, 4), d_output = random({6, 31, 20}, 5);
        EXPECT_LT(largest(mixing.rows({}, {}).value() - map), 1e-6);
        EXPECT_LT(largest(mixing.right(mixing.v()).value() - at::matmul(map, mixing.v().to(at::kDouble))), 2e-6);
        const at::Tensor dp = at::matmul(d_output.to(at::kDouble), mixing.v().to(at::kDouble).transpose(-2, -1));
        const auto swept = [&](const at::Tensor& x) {
            return at::matmul(r.to(at::kDouble).unsqueeze(1), x).select(1, 0);
        };
        for (const auto& [functor, wanted] : {std::pair{Sensitivity::ReluPdP, swept((map * dp).clamp_min(0))},
                                              {Sensitivity::PdP, swept(map * dp)},
                                              {Sensitivity::ReluDP, swept(dp.clamp_min(0))},
                                              {Sensitivity::AbsDP, swept(dp.abs())}}) {
            const auto found = mixing.sensitivity(r, functor, d_output);
            ASSERT_TRUE(found) << found.error().message;
            EXPECT_LT(largest(*found - wanted), 1e-5 * largest(wanted)) << key_heads << " and " << value_heads;
        }
    }
    SoftmaxParts odd = parts_of(6, 2, 2, 31);
    odd.v = random({1, 4, 31, 20}, 3);
    EXPECT_EQ(SoftmaxMixing(odd).sensitivity(at::ones({31}), Sensitivity::PdP, random({6, 31, 20}, 5)).error().code,
              ErrorCode::Unsupported);
}

/// A flow of softmax Mixings, and with `dense` one that kept its map in the middle.
Flow flow_of(bool dense) {
    Flow flow;
    for (std::uint64_t layer = 0; layer < 3; ++layer) {
        std::shared_ptr<Mixing> mixing = std::make_shared<SoftmaxMixing>(parts_of(4, 2, 2, 37, 10 * layer + 1));
        if (dense && layer == 1)
            mixing = std::make_shared<DenseMixing>(mixing->rows({}, {}).value(), mixing->v(), at::Tensor());
        mixing->name = "blocks." + std::to_string(layer);
        flow.steps.push_back({mixing, static_cast<std::int64_t>(layer), true, nullptr});
    }
    return flow;
}

TEST(LayersAtOnce, AreThoseOfEachLayer) {
    for (const bool dense : {false, true}) {
        const Flow flow = flow_of(dense);
        const std::int64_t tokens[] = {5, -1, 0};
        for (const bool mean : {false, true}) {
            const LayerRows rows = rows_of_layers(flow, tokens, mean).value(),
                            columns = columns_of_layers(flow, tokens, mean).value();
            const LayerTop top = top_of_layers(flow, tokens, mean, 6).value();
            ASSERT_EQ(columns.rows.size(), 3U);
            ASSERT_EQ(top.values.size(), 3U);
            for (std::size_t l = 0; l < 3; ++l) {
                const Mixing& mixing = *flow.steps[l].mixing;
                const at::Tensor some_rows = mixing.rows({}, tokens).value(),
                                 some_columns = mixing.columns({}, tokens).value();
                EXPECT_LT(largest(rows.rows[l] - (mean ? some_rows.mean(0) : some_rows)), 2e-7);
                EXPECT_LT(largest(columns.rows[l] - (mean ? some_columns.mean(0) : some_columns)), 2e-7);
                const auto [values, indices] = top_entries(rows.rows[l], 6).value();
                EXPECT_TRUE(at::equal(top.values[l], values));
                EXPECT_TRUE(at::equal(top.indices[l], indices));
                EXPECT_TRUE(at::equal(rows.rows[l].gather(-1, indices), values));
            }
            if (!dense) {
                EXPECT_EQ(columns.implementation.rfind("map_columns_layers ", 0), 0U) << columns.implementation;
                EXPECT_EQ(top.implementation.rfind("map_rows_top ", 0), 0U) << top.implementation;
            }
        }
        const std::int64_t outside[] = {37};
        EXPECT_EQ(columns_of_layers(flow, outside, false).error().message,
                  "key 37 is not there: blocks.0 has 37, from 0 to 36");
        EXPECT_EQ(top_of_layers(flow, tokens, false, 38).error().code, ErrorCode::BadInput);
        EXPECT_EQ(top_of_layers(flow, tokens, false, 0).error().code, ErrorCode::BadInput);
    }
}

TEST(LayersAtOnce, PackedKeysChangeNoBitAndAreCounted) {
    const Flow flow = flow_of(false);
    const std::int64_t tokens[] = {3};
    const std::int64_t before = flow.steps[0].mixing->size_bytes();
    const LayerRows first = rows_of_layers(flow, tokens, false).value();
    EXPECT_EQ(flow.steps[0].mixing->size_bytes(), before) << "a single look keeps nothing more";
    for (int look = 0; look < 3; ++look) {
        const LayerRows again = rows_of_layers(flow, tokens, false).value();
        for (std::size_t l = 0; l < 3; ++l) EXPECT_TRUE(at::equal(again.rows[l], first.rows[l])) << "look " << look;
    }
    EXPECT_EQ(flow.steps[0].mixing->size_bytes(), before + 48 * 2 * 24 * 4) << "37 keys in panels of 16, 2 heads of 24";
}

TEST(LogSumExp, OfOurPassOfFlashAttentionAndOfTheFormulaAgree) {
    for (const std::int64_t tokens : {1, 2, 63, 197, 577}) {
        for (const double spread : {0.01, 1.0, 20.0}) {
            SoftmaxParts parts = parts_of(3, 3, 3, tokens, static_cast<std::uint64_t>(tokens));
            parts.scale *= spread;
            const SoftmaxMixing mixing(parts);
            const auto& p = *mixing.params().value();  // no log-sum-exp was given, so it is ours
            at::Tensor ours = at::empty({3, tokens});
            std::copy_n(p.lse, 3 * tokens, ours.data_ptr<float>());
            const at::Tensor scores =
                at::matmul(mixing.q().to(at::kDouble), mixing.k().to(at::kDouble).transpose(-2, -1)) * parts.scale;
            const at::Tensor exact = at::logsumexp(scores, -1);
            const at::Tensor math =
                at::logsumexp(at::matmul(mixing.q(), mixing.k().transpose(-2, -1)) * parts.scale, -1);
            const auto flash = at::_scaled_dot_product_flash_attention_for_cpu(
                parts.q, parts.k, random({1, 3, tokens, 24}, 2), 0.0, false, {}, parts.scale);
            at::Tensor theirs = std::get<1>(flash);
            ASSERT_EQ(theirs.numel(), 3 * tokens) << theirs.sizes();
            theirs = theirs.reshape({3, tokens});
            // A product of 24 terms is off by less than 24 units of 2^-24 of the sum of their magnitudes, and a
            // logarithm of a sum by no more than its largest term.
            const at::Tensor terms =
                at::matmul(mixing.q().abs(), mixing.k().abs().transpose(-2, -1)).amax(-1) * parts.scale;
            const double allowed = std::ldexp(26 * largest(terms) + 4 * largest(exact) + 4, -24);
            EXPECT_LT(largest(ours - exact), allowed) << tokens << " tokens, spread " << spread;
            EXPECT_LT(largest(theirs - exact), allowed) << tokens << " tokens, spread " << spread;
            EXPECT_LT(largest(math - exact), allowed) << tokens << " tokens, spread " << spread;
            EXPECT_LT(largest(ours - theirs), 2 * allowed);
        }
    }
}

TEST(BenchAttention, VerifiesTheTinyCaseAndHasAllItsFigures) {
    const auto found = bench_attention("vit_micro_50", 1);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ((*found)["case"], "vit_micro_50");
    EXPECT_EQ((*found)["tokens"], 50);
    EXPECT_EQ((*found)["verified"]["logits"], "equal");
    for (const char* error : {"row_error", "rollout_error", "check_error"}) {
        EXPECT_GE((*found)["verified"][error].get<double>(), 0) << error;
        EXPECT_LT((*found)["verified"][error].get<double>(), 1e-4) << error;
    }
    EXPECT_EQ((*found)["implementation"]["row"].get<std::string>().rfind("map_rows_layers ", 0), 0U);
    EXPECT_EQ((*found)["implementation"]["sweep"].get<std::string>().rfind("map_sweep ", 0), 0U);
    for (const char* ratio :
         {"capture_to_forward", "forward_to_row", "forward_to_row_cold", "row_to_matmul_and_softmax",
          "row_cold_to_matmul_and_softmax", "row_share_of_read_bandwidth", "row_cold_share_of_read_bandwidth",
          "row_first_cold_share_of_read_bandwidth", "row_packing_cold_to_row_first_cold", "row_first_cold_to_row_cold",
          "forward_and_all_maps_to_forward", "rollout_to_forward", "dense_rollout_to_sweeps", "sweep_share_of_fma_peak",
          "explain_rollout_to_forward", "explain_chefer_to_forward", "explain_legrad_to_forward"}) {
        ASSERT_TRUE((*found)["ratios"].contains(ratio)) << ratio;
        const double value = (*found)["ratios"][ratio].get<double>();
        EXPECT_TRUE(std::isfinite(value) && value > 0) << ratio << " is " << value;
    }
    for (const char* floor : {"fma_gflops", "read_gb_per_s", "key_bytes", "sweep_ms"})
        EXPECT_GT((*found)["floor"][floor].get<double>(), 0) << floor;
    for (const char* time : {"forward", "capture", "row", "row_cold", "row_matmul", "sweep"})
        EXPECT_GT((*found)["median_ms"][time].get<double>(), 0) << time;
}

TEST(BenchAttention, RefusesACaseThatIsNotThereAndNoRepeats) {
    const auto unknown = bench_attention("vit_z_9", 1);
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code, ErrorCode::BadInput);
    EXPECT_NE(unknown.error().message.find("vit_z_9"), std::string::npos);
    for (const std::string& name : attention_bench_cases())
        EXPECT_NE(unknown.error().message.find(name), std::string::npos) << name;
    EXPECT_EQ(bench_attention("vit_micro_50", 0).error().code, ErrorCode::BadInput);
}

}  // namespace
}  // namespace vitrine
