// Tests of captures that keep maps: the same answers within rounding, maps that are softmax's, and where it stays out.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include <ATen/ops/equal.h>

#include "capture_test_model.h"
#include "softmax_mixing.h"

namespace vitrine {
namespace {

using testing_model::picture;
using testing_model::SmallVit;
using testing_model::Writing;

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

at::Tensor softmax_of(const Mixing& mixing, bool causal) {
    at::Tensor scores = at::matmul(mixing.q().to(at::kDouble), mixing.k().to(at::kDouble).transpose(-2, -1)) /
                        std::sqrt(static_cast<double>(mixing.k().size(-1)));
    if (causal) scores = scores.masked_fill(at::ones({mixing.queries, mixing.keys}, at::kBool).triu(1), -INFINITY);
    return at::softmax(scores, -1);
}

class KeptMaps : public testing::TestWithParam<Writing> {};

TEST_P(KeptMaps, AreThoseOfSoftmaxAndTheAnswerStays) {
    SmallVit model(GetParam());
    const auto plain = run(model, picture());
    ASSERT_TRUE(plain) << plain.error().message;
    const auto capture = run_captured(model, picture(), {.maps = true});
    ASSERT_TRUE(capture) << capture.error().message;
    EXPECT_LT(largest((*capture)->output - *plain), 1e-5 * largest(*plain));
    const auto without = run_captured(model, picture());
    ASSERT_TRUE(without) << without.error().message;
    const Flow& flow = (*capture)->flow;
    ASSERT_EQ(flow.layers(), 3) << flow.unknown;
    EXPECT_TRUE(flow.known()) << flow.unknown;
    // Counted: 3 layers of 3 maps of 17 x 17.
    EXPECT_EQ((*capture)->size_bytes - (*without)->size_bytes, 4 * 3 * 3 * 17 * 17);
    for (const FlowStep& step : flow.steps) {
        const Mixing& mixing = *step.mixing;
        SCOPED_TRACE(mixing.name);
        const at::Tensor map = mixing.rows({}, {}).value(), exact = softmax_of(mixing, GetParam() == Writing::Causal);
        EXPECT_EQ(mixing.implementation().substr(0, 16), "small_attention ");
        EXPECT_LT(largest(map - exact), 5e-6);  // the promise is 1e-5
        const auto check = mixing.check();
        ASSERT_TRUE(check) << check.error().message;
        EXPECT_TRUE(check->passed) << check->sentence;

        const std::int64_t heads[] = {2, -3}, some[] = {5, -1, 0};
        EXPECT_TRUE(at::equal(mixing.rows(heads, some).value(),
                              map.index_select(0, at::tensor({2, 0})).index_select(1, at::tensor({5, 16, 0}))));
        EXPECT_TRUE(at::equal(mixing.columns(heads, some).value(),
                              map.index_select(0, at::tensor({2, 0})).index_select(2, at::tensor({5, 16, 0}))));
        EXPECT_TRUE(at::equal(mixing.tile(heads, 1, 9, 3, 17, 1).value(),
                              map.index_select(0, at::tensor({2, 0})).slice(1, 1, 9).slice(2, 3, 17)));
        const at::Tensor pooled = mixing.tile({}, 1, 9, 3, 17, 4, Pooling::Max).value();
        ASSERT_EQ(pooled.sizes(), (at::IntArrayRef{3, 2, 4}));
        EXPECT_EQ(pooled[1][1][3].item<float>(), map[1].slice(0, 5, 9).slice(1, 15, 17).max().item<float>());
        const at::Tensor r = at::randn({3, 17}, at::make_generator<at::CPUGeneratorImpl>(5));
        EXPECT_LT(largest(mixing.left(r).value() - at::matmul(r.unsqueeze(1).to(at::kDouble), exact).select(1, 0)),
                  2e-5);
    }
    const std::int64_t nowhere[] = {17};
    EXPECT_FALSE(flow.steps.front().mixing->rows({}, nowhere));
}

INSTANTIATE_TEST_SUITE_P(Writings, KeptMaps, testing::Values(Writing::Fused, Writing::Causal, Writing::InPlace),
                         [](const auto& info) {
                             return info.param == Writing::Fused    ? "Fused"
                                    : info.param == Writing::Causal ? "Causal"
                                                                    : "InPlace";
                         });

TEST(KeepingMaps, ChangesNothingWhereItDoesNotApply) {
    const auto kept = [](Writing writing, const CaptureOptions& options) {
        SmallVit model(writing);
        const auto capture = run_captured(model, picture(), options);
        EXPECT_TRUE(capture) << capture.error().message;
        EXPECT_EQ(largest((*capture)->output - run(model, picture()).value()), 0);
        const Mixing& mixing = *(*capture)->flow.steps.front().mixing;
        EXPECT_TRUE(mixing.rows({}, {}));
        return mixing.implementation().rfind("small_attention", 0) == 0;
    };
    EXPECT_FALSE(kept(Writing::Fused, {}));
    EXPECT_FALSE(kept(Writing::Masked, {.maps = true}));
    EXPECT_FALSE(kept(Writing::Unfused, {.maps = true}));
    EXPECT_FALSE(kept(Writing::Fused, {.gradients = true, .maps = true}));
    // It is not known whether maps fit beside what this model keeps.
    EXPECT_FALSE(kept(Writing::Fused, {.maps = true, .memory_budget = 1 << 20}));
}

TEST(KeepingMaps, AnAblatedHeadIsGoneFromTheAnswerAndItsMapStays) {
    SmallVit model;
    Edit edit;
    edit.where = "blocks.1.attn";
    edit.head = 1;
    const auto with = run_captured(model, picture(), {.maps = true, .edits = {edit}});
    const auto without = run_captured(model, picture(), {.edits = {edit}});
    ASSERT_TRUE(with) << with.error().message;
    ASSERT_TRUE(without) << without.error().message;
    EXPECT_LT(largest((*with)->output - (*without)->output), 1e-5 * largest((*without)->output));
    const Mixing& mixing = *(*with)->flow.block(1)->mixing;
    EXPECT_LT(largest(mixing.rows({}, {}).value() - softmax_of(mixing, false)), 5e-6);
    EXPECT_TRUE(mixing.check()->passed);
}

TEST(KeepingMaps, TheForcedKernelRunsAndAWrongNameEndsTheRun) {
    const char* const before = std::getenv("VITRINE_KERNEL");
    const std::string restored = before != nullptr ? before : "";
    SmallVit model;
    setenv("VITRINE_KERNEL", "reference", 1);
    const auto plain = run_captured(model, picture(), {.maps = true});
    setenv("VITRINE_KERNEL", "nonsense", 1);
    const auto wrong = run_captured(model, picture(), {.maps = true});
    before != nullptr ? setenv("VITRINE_KERNEL", restored.c_str(), 1) : unsetenv("VITRINE_KERNEL");
    ASSERT_TRUE(plain) << plain.error().message;
    const Mixing& mixing = *(*plain)->flow.block(0)->mixing;
    ASSERT_TRUE(mixing.rows({}, {}));
    EXPECT_EQ(mixing.implementation(), "small_attention reference");
    ASSERT_FALSE(wrong);
    EXPECT_NE(wrong.error().message.find("nonsense"), std::string::npos) << wrong.error().message;
}

TEST(KeepingMaps, AMapThatIsNotThatOfItsQueriesAndKeysFailsItsCheck) {
    SmallVit model;
    const auto capture = run_captured(model, picture(), {.maps = true});
    ASSERT_TRUE(capture) << capture.error().message;
    SoftmaxParts parts = dynamic_cast<const SoftmaxMixing&>(*(*capture)->flow.block(0)->mixing).parts();
    parts.map = parts.map.flip(at::IntArrayRef{2});  // rows still sum to 1
    const auto check = SoftmaxMixing(parts).check();
    ASSERT_TRUE(check) << check.error().message;
    EXPECT_FALSE(check->passed);
    EXPECT_NE(check->sentence.find("the map that was kept"), std::string::npos) << check->sentence;
}

TEST(AttendWithMap, IsLibtorchsAttentionUpToItsLength) {
    auto random = at::make_generator<at::CPUGeneratorImpl>(11);
    struct Shape {
        std::int64_t heads, queries, keys, dim, value_dim;
    };
    for (const Shape& s : {Shape{1, 1, 1, 16, 16}, Shape{3, 197, 197, 64, 64}, Shape{2, 320, 320, 40, 40},
                           Shape{4, 1, 196, 72, 72}, Shape{2, 65, 33, 32, 24}}) {
        SoftmaxParts parts;
        // Views with the tokens outermost, as a fused qkv gives them.
        parts.q = at::randn({1, s.queries, s.heads, s.dim}, random).transpose(1, 2);
        parts.k = at::randn({1, s.keys, s.heads, s.dim}, random).transpose(1, 2);
        parts.v = at::randn({1, s.keys, s.heads, s.value_dim}, random).transpose(1, 2);
        parts.scale = 1.5 / std::sqrt(static_cast<double>(s.dim));
        const at::Tensor theirs =
            at::scaled_dot_product_attention(parts.q, parts.k, parts.v, {}, 0, false, parts.scale);
        const auto done = attend_with_map(parts);
        ASSERT_TRUE(done) << done.error().message;
        ASSERT_TRUE(*done);
        ASSERT_EQ(parts.output.sizes(), theirs.sizes());
        EXPECT_LT(largest(parts.output - theirs), 1e-5 * largest(theirs)) << s.queries << " x " << s.keys;
        EXPECT_TRUE(parts.lse.isfinite().all().item<bool>());
    }
    const auto refused = [&](const at::Tensor& q, const at::Tensor& k) {
        SoftmaxParts parts;
        parts.q = q;
        parts.k = parts.v = k;
        const auto done = attend_with_map(parts);
        return done && !*done && !parts.output.defined();
    };
    EXPECT_TRUE(refused(at::randn({1, 2, 321, 16}), at::randn({1, 2, 8, 16})));
    EXPECT_TRUE(refused(at::randn({1, 2, 8, 16}), at::randn({1, 2, 321, 16})));
    EXPECT_TRUE(refused(at::randn({2, 2, 8, 16}), at::randn({2, 2, 8, 16})));
    EXPECT_TRUE(refused(at::randn({1, 2, 8, 16}, at::kDouble), at::randn({1, 2, 8, 16}, at::kDouble)));
    EXPECT_TRUE(refused(at::randn({1, 2, 8, 16}), at::randn({1, 2, 8, 24})));
    EXPECT_FALSE(refused(at::randn({1, 2, 8, 16}), at::randn({1, 2, 8, 16})));
}

}  // namespace
}  // namespace vitrine
