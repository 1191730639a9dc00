// Tests of capturing a native model: what is kept is what was used, edits act, budgets hold, a stop request stops.
#include <vitrine/capture.h>

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>

#include "capture_test_model.h"
#include "intercept.h"
#include "softmax_mixing.h"

namespace vitrine {
namespace {

using testing_model::picture;
using testing_model::SmallVit;
using testing_model::Writing;

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

/// softmax(scale q k^T + what was added), as the model means it.
at::Tensor map_of(const SoftmaxMixing& mixing) {
    at::Tensor scores = at::matmul(mixing.q(), mixing.k().transpose(-2, -1)) * mixing.parts().scale;
    for (const ScoreTerm& term : mixing.parts().terms) {
        const at::Tensor t = as_heads(term.tensor);
        if (term.kind == ScoreTerm::Kind::Add)
            scores = scores + t * term.factor;
        else
            scores = scores.masked_fill(term.kind == ScoreTerm::Kind::DropWhereTrue ? t : t.logical_not(), -INFINITY);
    }
    if (mixing.parts().causal)
        scores = scores.masked_fill(at::ones({mixing.queries, mixing.keys}, at::kBool).triu(1), -INFINITY);
    return at::softmax(scores, -1);
}

class EveryWriting : public testing::TestWithParam<Writing> {};

TEST_P(EveryWriting, IsCapturedAsItWasUsed) {
    SmallVit model(GetParam());
    const auto plain = run(model, picture());
    ASSERT_TRUE(plain) << plain.error().message;
    const auto capture = run_captured(model, picture());
    ASSERT_TRUE(capture) << capture.error().message;
    EXPECT_EQ(largest((*capture)->output - *plain), 0) << "listening changed the answer";
    EXPECT_GT((plain->max() - plain->min()).item<double>(), 1) << "the weights are too tame to prove anything";
    const Flow& flow = (*capture)->flow;
    ASSERT_EQ(flow.layers(), 3) << flow.unknown;
    EXPECT_TRUE(flow.known()) << flow.unknown;
    EXPECT_EQ(flow.readout.numel(), 17);
    for (const FlowStep& step : flow.steps) {
        const Mixing& mixing = *step.mixing;
        SCOPED_TRACE(mixing.name);
        EXPECT_EQ(mixing.heads, 3);
        EXPECT_EQ(mixing.queries, 17);
        EXPECT_EQ(mixing.keys, 17);
        const auto check = mixing.check();
        ASSERT_TRUE(check) << check.error().message;
        EXPECT_TRUE(check->passed) << check->sentence;
        const at::Tensor map = mixing.rows({}, {}).value();
        EXPECT_LT(largest(map.sum(-1) - 1), 1e-5);
        const double entropy = -(map * (map + 1e-30).log()).sum(-1).mean().item<double>();
        EXPECT_LT(entropy, 0.8 * std::log(17.0)) << "attention is near uniform: the comparison proves little";
        if (const auto* softmax = dynamic_cast<const SoftmaxMixing*>(&mixing)) {
            EXPECT_LT(largest(map - map_of(*softmax)), 5e-6);  // the promise is 1e-5
        } else {
            EXPECT_EQ(GetParam(), Writing::Odd);
        }
    }
}

std::string writing_name(const testing::TestParamInfo<Writing>& info) {
    constexpr std::array kNames{"Fused", "Masked", "Causal",  "Unfused",       "UnfusedMasked", "InPlace",
                                "Odd",   "Einsum", "Baddbmm", "InPlaceScores", "Where",         "HalfScores"};
    return kNames.at(static_cast<std::size_t>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Writings, EveryWriting,
                         testing::Values(Writing::Fused, Writing::Masked, Writing::Causal, Writing::Unfused,
                                         Writing::UnfusedMasked, Writing::InPlace, Writing::Odd, Writing::Einsum,
                                         Writing::Baddbmm, Writing::InPlaceScores, Writing::Where, Writing::HalfScores),
                         writing_name);

TEST(Capture, AMapThatIsChangedBeforeItsValuesIsSaidToBeLost) {
    SmallVit model(Writing::TalkingHeads);
    const auto capture = run_captured(model, picture());
    ASSERT_TRUE(capture) << capture.error().message;
    EXPECT_FALSE((*capture)->flow.known());
    EXPECT_NE((*capture)->flow.unknown.find("3 attention maps were changed"), std::string::npos)
        << (*capture)->flow.unknown;
}

/// The map in double precision from what the kernels are given, and how far rounding may move each of its entries.
struct InDouble {
    at::Tensor map, tree_rounding, chain_rounding;  ///< [heads, queries, keys]

    /// p = exp(s - lse), s = scale q . k + bias; errors in units of u = 2^-24 of p, which is what an error of s
    /// becomes. The product of 16 terms by partial sums and a tree takes 5 roundings a term: at most 5 scale sum |q_d
    /// k_d|. One term after the other, each step rounds the sum so far: scale sum_d |q_0 k_0 + .. + q_d k_d|. Then the
    /// bias is added, |s|, the log-sum-exp subtracted, |s - lse|, and the exponential is within 2 units in the last
    /// place, which is 4.
    explicit InDouble(const SoftmaxMixing& mixing) {
        const kernels::AttentionParams& p = *mixing.params().value();
        const at::Tensor terms = mixing.q().to(at::kDouble).unsqueeze(2) * mixing.k().to(at::kDouble).unsqueeze(1) *
                                 mixing.parts().scale;  // [heads, queries, keys, dim]
        EXPECT_EQ(terms.size(3), 16);
        const at::Tensor lse =
            at::from_blob(const_cast<float*>(p.lse), {p.heads, p.queries, 1}, at::kFloat).to(at::kDouble);
        at::Tensor scores = terms.sum(-1);
        for (const ScoreTerm& term : mixing.parts().terms)
            scores = scores + as_heads(term.tensor).to(at::kDouble) * term.factor;
        map = (scores - lse).exp();
        const at::Tensor rest = scores.abs() + (scores - lse).abs() + 4;
        const at::Tensor unit = map * std::ldexp(1.0, -24);
        tree_rounding = unit * (terms.abs().sum(-1) * 5 + rest);
        // The plain version makes whole maps by a tree as well.
        chain_rounding = at::maximum(tree_rounding, unit * (terms.cumsum(-1).abs().sum(-1) + rest));
    }
};

TEST(Capture, PiecesOfAMapAgreeWithTheWhole) {
    for (const Writing writing : {Writing::Masked, Writing::Odd}) {
        SmallVit model(writing);
        const auto capture = run_captured(model, picture()).value();
        const Mixing& mixing = *capture->flow.block(1)->mixing;
        const at::Tensor map = mixing.rows({}, {}).value();
        const std::int64_t heads[] = {2, 0}, tokens[] = {5, -1, 0};
        const at::Tensor which = at::tensor({2, 0}), where = at::tensor({5, 16, 0});
        const auto rows_in = [&](const at::Tensor& x) { return x.index_select(0, which).index_select(1, where); };
        const auto columns_in = [&](const at::Tensor& x) { return x.index_select(0, which).index_select(2, where); };
        const at::Tensor rows = mixing.rows(heads, tokens).value(), columns = mixing.columns(heads, tokens).value();
        if (const auto* softmax = dynamic_cast<const SoftmaxMixing*>(&mixing)) {
            // Few rows and columns come from kernels that add q . k by a tree, whole maps from one that adds term after
            // term. Here scores reach 14, where floats lie 9.5e-7 apart, and p is nearly 1, so that p inherits the
            // error of its score: 1.2e-6 for whole maps and columns, 0.3e-6 for rows, 1.3e-6 for the plain version.
            const InDouble exact(*softmax);
            EXPECT_GT(largest(exact.map), 0.99);
            const auto share = [](const at::Tensor& x, const at::Tensor& wanted, const at::Tensor& rounding) {
                return ((x - wanted).abs() / rounding).max().item<double>();
            };
            EXPECT_LE(share(map, exact.map, exact.chain_rounding), 1);
            EXPECT_LE(share(rows, rows_in(exact.map), rows_in(exact.tree_rounding)), 1);
            EXPECT_LE(share(columns, columns_in(exact.map), columns_in(exact.tree_rounding)), 1);
        } else {
            EXPECT_EQ(largest(rows - rows_in(map)), 0) << "a kept map is only cut";
            EXPECT_EQ(largest(columns - columns_in(map)), 0);
        }
        const at::Tensor tile = mixing.tile(heads, 1, 17, 2, 9, 4).value();
        ASSERT_EQ(tile.sizes(), at::IntArrayRef({2, 4, 2}));
        EXPECT_NEAR(tile[0][1][0].item<double>(), map[2].slice(0, 5, 9).slice(1, 2, 6).mean().item<double>(), 1e-6);
        EXPECT_NEAR(tile[1][3][1].item<double>(), map[0].slice(0, 13, 17).slice(1, 6, 9).mean().item<double>(), 1e-6);
        const at::Tensor most = mixing.tile(heads, 1, 17, 2, 9, 4, Pooling::Max).value();
        ASSERT_EQ(most.sizes(), at::IntArrayRef({2, 4, 2}));
        EXPECT_EQ(most[1][3][1].item<float>(),
                  mixing.tile(heads, 1, 17, 2, 9, 1).value()[1].slice(0, 12, 16).slice(1, 4, 7).max().item<float>());
        at::Tensor r = at::zeros({3, 17});
        r[0][3].fill_(0.5);
        r[0][4].fill_(0.5);
        r[2][16].fill_(1);
        EXPECT_LT(largest(mixing.left(r).value() - at::matmul(r.unsqueeze(1), map).select(1, 0)), 1e-6);
        const at::Tensor uniform = at::ones({17}) / 17;
        EXPECT_LT(largest(mixing.left(uniform).value() - map.mean(1)), 1e-6);
        EXPECT_LT(largest(mixing.right(mixing.v()).value() - mixing.output()), 2e-5);
    }
}

TEST(Capture, NonsenseIsRefusedInWords) {
    SmallVit model;
    const auto capture = run_captured(model, picture()).value();
    const Mixing& mixing = *capture->flow.block(0)->mixing;
    const std::int64_t seven[] = {7}, far[] = {17};
    EXPECT_EQ(mixing.rows(seven, {}).error().message, "head 7 is not there: blocks.0.attn has 3, from 0 to 2");
    EXPECT_EQ(mixing.columns({}, far).error().message, "key 17 is not there: blocks.0.attn has 17, from 0 to 16");
    EXPECT_EQ(mixing.tile({}, 0, 18, 0, 4, 1).error().code, ErrorCode::BadInput);
    EXPECT_EQ(mixing.left(at::ones({4})).error().code, ErrorCode::BadInput);
    EXPECT_EQ(mixing.right(at::ones({3, 4, 2})).error().code, ErrorCode::BadInput);
    EXPECT_EQ(run_captured(model, at::ones({3, 32, 32})).error().code, ErrorCode::BadInput);
    EXPECT_EQ(run_captured(model, at::ones({1, 3, 40, 32})).error().code,
              ErrorCode::Internal);  // the positions do not fit
    EXPECT_EQ(capture->flow.block(3), nullptr);
    EXPECT_EQ(capture->flow.block(-1), capture->flow.block(2));
}

TEST(Capture, AMapThatIsNotWhatTheModelUsedFailsItsCheck) {
    SmallVit model(Writing::Masked);
    const auto capture = run_captured(model, picture()).value();
    const auto& honest = dynamic_cast<const SoftmaxMixing&>(*capture->flow.block(1)->mixing);
    const auto passes = [&](const std::function<void(SoftmaxParts&)>& fault) {
        SoftmaxParts parts = honest.parts();
        fault(parts);
        return SoftmaxMixing(parts).check().value().passed;
    };
    EXPECT_TRUE(passes([](SoftmaxParts&) {}));
    EXPECT_FALSE(passes([](SoftmaxParts& p) { std::swap(p.q, p.k); }));
    EXPECT_FALSE(passes([](SoftmaxParts& p) { p.k = p.k * 1.01; }));
    EXPECT_FALSE(passes([](SoftmaxParts& p) { p.terms.clear(); }));
    EXPECT_FALSE(passes([](SoftmaxParts& p) { p.scale *= 1.02; }));
    EXPECT_FALSE(passes([](SoftmaxParts& p) { p.v = p.v.flip(at::IntArrayRef{1}); }));
    EXPECT_FALSE(passes([](SoftmaxParts& p) { p.lse = p.lse + 0.01; }));
    // Without the log-sum-exp rows sum to 1 by construction, and the output still tells.
    EXPECT_FALSE(passes([](SoftmaxParts& p) {
        p.lse = at::Tensor();
        p.q = p.q.flip(at::IntArrayRef{1});
    }));
}

TEST(Capture, AblatingAHeadChangesTheAnswerAndOnlyThatHead) {
    SmallVit model;
    const auto before = run_captured(model, picture()).value();
    CaptureOptions options;
    options.edits.push_back({Edit::Kind::ScaleHead, "blocks.1.attn", 2, 0.0, {}});
    const auto after = run_captured(model, picture(), options).value();
    EXPECT_GT(largest(after->output - before->output), 1e-2);
    const at::Tensor out = after->flow.block(1)->mixing->output();
    EXPECT_EQ(largest(out[2]), 0);
    EXPECT_EQ(largest(out.slice(0, 0, 2) - before->flow.block(1)->mixing->output().slice(0, 0, 2)), 0);
    EXPECT_TRUE(after->flow.block(1)->mixing->check().value().passed) << "the edit is part of what was used";
    options.edits[0].factor = 1;
    EXPECT_EQ(largest(run_captured(model, picture(), options).value()->output - before->output), 0);
    options.edits[0].where = "blocks.9.attn";
    const auto wrong = run_captured(model, picture(), options);
    ASSERT_FALSE(wrong);
    EXPECT_NE(wrong.error().message.find("there is no attention 'blocks.9.attn'"), std::string::npos)
        << wrong.error().message;
}

TEST(Capture, PointsAreKeptAndReplaced) {
    SmallVit model;
    CaptureOptions options;
    options.points = {"blocks.1", "blocks.2.norm1"};
    const auto capture = run_captured(model, picture(), options).value();
    ASSERT_EQ(capture->points.size(), 2U);
    EXPECT_EQ(capture->points.at("blocks.1").sizes(), at::IntArrayRef({1, 17, 48}));
    options.edits.push_back({Edit::Kind::ReplacePoint, "blocks.1", 0, 0, [](const at::Tensor& x) { return x * 0.5; }});
    const auto replaced = run_captured(model, picture(), options).value();
    EXPECT_LT(largest(replaced->points.at("blocks.1") - capture->points.at("blocks.1") * 0.5), 1e-6);
    EXPECT_GT(largest(replaced->output - capture->output), 1e-4);
    options.edits[0].replace = [](const at::Tensor& x) { return x.slice(1, 1); };
    EXPECT_EQ(run_captured(model, picture(), options).error().code, ErrorCode::BadInput);
    options.edits.clear();
    options.points = {"blocks.7"};
    EXPECT_EQ(run_captured(model, picture(), options).error().code, ErrorCode::NotFound);
}

TEST(Capture, OneActivationMayBecomeSeveral) {
    // What is in front of the point runs once; each of several activations has the answer that it has by itself.
    SmallVit model;
    CaptureOptions options;
    options.mixings = false;
    const std::array<double, 3> factors{0.5, 1, 2};
    options.edits.push_back({Edit::Kind::ReplacePoint, "blocks.1", 0, 0, [&](const at::Tensor& x) {
                                 EXPECT_EQ(x.size(0), 1);
                                 return at::cat({x * factors[0], x * factors[1], x * factors[2]});
                             }});
    const auto ran = run_captured(model, picture(), options);
    ASSERT_TRUE(ran) << ran.error().message;
    const at::Tensor several = (*ran)->output;
    ASSERT_EQ(several.size(0), 3);
    for (std::int64_t i = 0; i < 3; ++i) {
        options.edits[0].replace = [&](const at::Tensor& x) { return x * factors[static_cast<std::size_t>(i)]; };
        const at::Tensor alone = run_captured(model, picture(), options).value()->output;
        EXPECT_LT(largest(several[i] - alone[0]), 1e-5);
    }
    EXPECT_GT(largest(several[0] - several[2]), 1e-3);
    options.edits[0].replace = [](const at::Tensor& x) { return at::cat({x, x}).slice(2, 1); };
    EXPECT_EQ(run_captured(model, picture(), options).error().code, ErrorCode::BadInput);
    // A Mixing is of one picture.
    options.edits[0].replace = [](const at::Tensor& x) { return at::cat({x, x}); };
    options.mixings = true;
    EXPECT_EQ(run_captured(model, picture(), options).error().code, ErrorCode::BadInput);
}

TEST(Capture, GradientsReachEveryLayerAndAgreeInFourRuns) {
    for (const Writing writing : {Writing::Fused, Writing::Masked, Writing::Unfused, Writing::UnfusedMasked,
                                  Writing::Odd, Writing::Einsum, Writing::Baddbmm}) {
        SmallVit model(writing);
        std::vector<at::Tensor> first;
        for (int repeat = 0; repeat < 4; ++repeat) {
            CaptureOptions options;
            options.gradients = true;
            const auto capture = run_captured(model, picture(), options).value();
            std::vector<at::Tensor> wanted{capture->input};
            for (const FlowStep& step : capture->flow.steps) wanted.push_back(step.mixing->output());
            const auto found = gradients(capture->output[0][3], wanted, {});
            ASSERT_TRUE(found) << found.error().message;
            for (const at::Tensor& g : *found) EXPECT_GT(largest(g), 1e-5);
            EXPECT_TRUE(capture->flow.block(-1)->mixing->check().value().passed);
            if (first.empty()) first = *found;
            for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(largest(first[i] - (*found)[i]), 0);
        }
        // By finite differences: the score moves as the gradient of the last layer's output says.
        const at::Tensor dO = first.back();
        const auto score = [&](double h) {
            CaptureOptions options;
            Recorder recorder(options);
            recorder.output_hook = [&](std::size_t i, const at::Tensor& out) { return i == 2 ? out + dO * h : out; };
            return run_recorded(model, picture(), recorder).value()->output[0][3].item<double>();
        };
        const double h = 1e-2;
        EXPECT_NEAR((score(h) - score(-h)) / (2 * h), dO.pow(2).sum().item<double>(),
                    2e-3 * dO.pow(2).sum().item<double>() + 1e-4);
    }
}

TEST(Capture, AnUndefinedGradientIsAnErrorNeverZero) {
    SmallVit model;
    CaptureOptions options;
    options.gradients = true;
    const auto capture = run_captured(model, picture(), options).value();
    const at::Tensor stray = at::ones({3}).requires_grad_(true);
    const auto found = gradients(capture->output[0][0], {stray}, {"stray"});
    ASSERT_FALSE(found);
    EXPECT_NE(found.error().message.find("stray"), std::string::npos);
    const auto plain = run_captured(model, picture()).value();
    EXPECT_EQ(gradients(plain->output[0][0], {plain->input}, {}).error().code, ErrorCode::BadInput);
}

TEST(Capture, TheBudgetIsHeldAndSaysByHowMuch) {
    SmallVit model;
    const auto capture = run_captured(model, picture()).value();
    EXPECT_GE(capture->size_bytes, 3 * 17 * (4 * 48 + 3) * 4);
    EXPECT_EQ(capture_cost(model, 32, 32).whole, 3 * 17 * (4 * 48 + 3) * 4);
    CaptureOptions options;
    options.memory_budget = capture->size_bytes / 2;
    const auto refused = run_captured(model, picture(), options);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::OutOfMemory);
    options.memory_budget = capture->size_bytes;
    EXPECT_TRUE(run_captured(model, picture(), options));
}

TEST(Capture, AStopRequestEndsTheRunAtTheNextOperator) {
    SmallVit model(Writing::Fused, 6);
    for (const bool listening : {false, true}) {
        std::stop_source source;
        int seen = 0;
        CaptureOptions options;
        options.stop = source.get_token();
        Recorder recorder(options);
        recorder.output_hook = [&](std::size_t, const at::Tensor& out) {
            if (++seen == 2) source.request_stop();
            return out;
        };
        const auto stopped = run_recorded(model, picture(), recorder);
        ASSERT_FALSE(stopped);
        EXPECT_EQ(stopped.error().code, ErrorCode::Cancelled);
        EXPECT_EQ(seen, 2);
        const auto before = listening ? run_captured(model, picture(), options).error()
                                      : run(model, picture(), source.get_token()).error();
        EXPECT_EQ(before.code, ErrorCode::Cancelled);
    }
    EXPECT_TRUE(run(model, picture())) << "a stopped run leaves nothing behind";
    EXPECT_EQ(Recorder::current(), nullptr);
}

TEST(Capture, DropoutIsRefused) {
    class Dropping final : public Model {
      public:
        at::Tensor forward(const at::Tensor&) override {
            const at::Tensor x = at::ones({1, 2, 5, 8});
            return at::scaled_dot_product_attention(x, x, x, {}, 0.5);
        }
        TokenLayout layout(std::int64_t, std::int64_t) const override { return {}; }
        void to(at::Device, at::ScalarType) override {}
    } model;
    const auto refused = run_captured(model, picture());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
    EXPECT_NE(refused.error().message.find("at random"), std::string::npos);
}

TEST(Capture, GroupedKeysServeTheirQueryHeads) {
    class Grouped final : public Model {
      public:
        at::Tensor forward(const at::Tensor&) override {
            const auto random = at::make_generator<at::CPUGeneratorImpl>(5);
            const at::Tensor q = at::randn({1, 6, 9, 8}, random), k = at::randn({1, 2, 11, 8}, random) * 2,
                             v = at::randn({1, 2, 11, 8}, random);
            return at::scaled_dot_product_attention(q, k, v, {}, 0.0, false, {}, true);
        }
        TokenLayout layout(std::int64_t, std::int64_t) const override { return {}; }
        void to(at::Device, at::ScalarType) override {}
    } model;
    const auto capture = run_captured(model, picture());
    ASSERT_TRUE(capture) << capture.error().message;
    const Mixing& mixing = *(*capture)->flow.steps.at(0).mixing;
    EXPECT_EQ(mixing.heads, 6);
    EXPECT_EQ(mixing.keys, 11);
    EXPECT_TRUE(mixing.check().value().passed) << mixing.check().value().sentence;
    EXPECT_FALSE((*capture)->flow.known());
}

}  // namespace
}  // namespace vitrine
