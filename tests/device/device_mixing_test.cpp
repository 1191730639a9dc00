// Mixings of tensors that lie on a CUDA device: every backend, precision and kind of mask, against float64 from what
// was kept.
#include <vitrine/capture.h>
#include <vitrine/device.h>
#include <vitrine/explainer.h>
#include <vitrine/registry.h>
#include <vitrine/replay.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include "device_attention.h"
#include "softmax_mixing.h"

namespace vitrine {
namespace {

double largest(const at::Tensor& x) { return x.to(at::kCPU, at::kDouble).abs().max().item<double>(); }

/// Why there is no device to test on; empty when there is one.
std::string no_device() {
    const auto device = device_named("cuda");
    return device ? "" : device.error().message;
}

enum class Masking { None, Bool, Added, Causal };

struct Case {
    std::string backend;
    at::ScalarType dtype;
    Masking masking = Masking::None;
    std::int64_t key_heads = 4, dim = 64;
    std::string name() const {
        static const char* const maskings[] = {"", "_mask", "_bias", "_causal"};
        return backend + "_" + at::toString(dtype) + maskings[static_cast<int>(masking)] +
               (key_heads == 4 ? "" : "_gqa") + (dim == 64 ? "" : "_dim" + std::to_string(dim));
    }
};

void PrintTo(const Case& it, std::ostream* out) { *out << it.name(); }

/// One attention of 4 heads over 197 tokens.
class OneAttention final : public Model {
  public:
    static constexpr std::int64_t kHeads = 4, kTokens = 197;
    explicit OneAttention(const Case& it) : case_(it) {
        info_.layers = 1;
        info_.heads = kHeads;
        const auto random = at::make_generator<at::CPUGeneratorImpl>(5);
        qkv_ = at::randn({1, kTokens, kHeads + 2 * it.key_heads, it.dim}, random) * 1.5;
        bias_ = at::randn({1, kHeads, kTokens, kTokens}, random);
        keep_ = at::rand({1, 1, kTokens, kTokens}, random) > 0.3;
        keep_.select(-1, 0).fill_(true);
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override { return {{"cls"}, 14, 14, ""}; }
    void to(at::Device device, at::ScalarType dtype) override {
        qkv_ = qkv_.to(device, dtype);
        bias_ = bias_.to(device, dtype);
        keep_ = keep_.to(device);
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        const MixingScope scope([&] { return MixingScope::Facts{"attn", 0, true, layout(0, 0), layout(0, 0)}; });
        const at::Tensor t = (qkv_ + pixels.to(qkv_.device(), qkv_.scalar_type()).mean()).transpose(1, 2);
        const at::Tensor q = t.narrow(1, 0, kHeads), k = t.narrow(1, kHeads, case_.key_heads),
                         v = t.narrow(1, kHeads + case_.key_heads, case_.key_heads);
        std::optional<at::Tensor> mask;
        if (case_.masking == Masking::Bool) mask = keep_;
        if (case_.masking == Masking::Added) mask = bias_;
        return at::scaled_dot_product_attention(q, k, v, mask, 0.0, case_.masking == Masking::Causal, {},
                                                case_.key_heads != kHeads)
            .sum()
            .to(at::kFloat)
            .reshape({1, 1});
    }
    /// The scores in float64 on the CPU, from what the mixing kept.
    at::Tensor scores(const Mixing& mixing) const {
        const auto host = [](const at::Tensor& x) { return x.to(at::kCPU, at::kDouble); };
        at::Tensor s = at::matmul(host(mixing.q()), host(mixing.k()).transpose(-2, -1)) /
                       std::sqrt(static_cast<double>(case_.dim));
        if (case_.masking == Masking::Bool) s = s.masked_fill(keep_.to(at::kCPU)[0].logical_not(), -INFINITY);
        if (case_.masking == Masking::Added) s = s + host(bias_)[0];
        if (case_.masking == Masking::Causal)
            s = s.masked_fill(at::ones({kTokens, kTokens}, at::kBool).triu(1), -INFINITY);
        return s;
    }

  private:
    Case case_;
    at::Tensor qkv_, bias_, keep_;
};

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16})
        for (const char* backend : {"flash", "efficient", "cudnn", "math"}) {
            if (dtype == at::kFloat && (backend == std::string("flash") || backend == std::string("cudnn")))
                continue;  // these have no fp32
            all.push_back({backend, dtype});
        }
    for (const char* backend : {"efficient", "cudnn", "math"}) {
        all.push_back({backend, at::kBFloat16, Masking::Bool});
        all.push_back({backend, at::kBFloat16, Masking::Added});
    }
    for (const char* backend : {"flash", "efficient", "cudnn", "math"})
        all.push_back({backend, at::kBFloat16, Masking::Causal});
    for (const char* backend : {"flash", "cudnn", "math"}) all.push_back({backend, at::kBFloat16, Masking::None, 2});
    all.push_back({"efficient", at::kFloat, Masking::None, 4, 72});
    all.push_back({"flash", at::kBFloat16, Masking::None, 4, 80});
    all.push_back({"flash", at::kHalf, Masking::None, 4, 128});
    return all;
}

class DeviceMixing : public testing::TestWithParam<Case> {
  protected:
    void SetUp() override {
        if (const std::string why = no_device(); !why.empty()) GTEST_SKIP() << why;
        at::Context& context = at::globalContext();
        const std::string& backend = GetParam().backend;
        context.setSDPUseFlash(backend == "flash");
        context.setSDPUseMemEfficient(backend == "efficient");
        context.setSDPUseCuDNN(backend == "cudnn");
        context.setSDPUseMath(backend == "math");
    }
    void TearDown() override {  // for the tests that follow in this process
        at::Context& context = at::globalContext();
        context.setSDPUseFlash(true);
        context.setSDPUseMemEfficient(true);
        context.setSDPUseCuDNN(true);
        context.setSDPUseMath(true);
    }
};

TEST_P(DeviceMixing, AnswersAsItWasUsed) {
    const Case& it = GetParam();
    OneAttention model(it);
    model.to(at::kCUDA, it.dtype);
    const auto capture = run_captured(model, at::ones({1, 3, 4, 4}));
    ASSERT_TRUE(capture) << capture.error().message;
    const auto& mixing = dynamic_cast<const SoftmaxMixing&>(*(*capture)->flow.block(0)->mixing);
    static const std::map<std::string, std::string> sources{{"flash", "flash attention"},
                                                            {"efficient", "memory-efficient attention"},
                                                            {"cudnn", "cuDNN attention"},
                                                            {"math", "plain attention"}};
    EXPECT_EQ(mixing.parts().source, sources.at(it.backend));
    EXPECT_EQ(mixing.parts().lse.defined(), it.backend != "math");
    EXPECT_TRUE(mixing.device().is_cuda());

    const at::Tensor scores = model.scores(mixing), map = at::softmax(scores, -1);
    // The backend's log-sum-exp is of the same scores up to its own rounding.
    const auto ready = mixing.given().value().device;
    ASSERT_NE(ready, nullptr) << "the device kernels are not in this build";
    EXPECT_LT(largest(ready->lse.to(at::kCPU) - at::logsumexp(scores, -1)), 2e-3);
    const double bound = 2e-3;  // of p itself, from that log-sum-exp

    const std::vector<std::int64_t> heads{2, 0}, tokens{5, -1, 0, 100};
    const at::Tensor which = at::tensor({2, 0}), where = at::tensor({5, 196, 0, 100});
    const auto close = [&](const Result<at::Tensor>& found, const at::Tensor& wanted, const std::string& operation) {
        ASSERT_TRUE(found) << found.error().message;
        ASSERT_EQ(found->sizes(), wanted.sizes()) << operation;
        EXPECT_EQ(found->scalar_type(), at::kFloat);
        EXPECT_LT(largest(found->to(at::kCPU) - wanted), bound * largest(wanted)) << operation;
        EXPECT_THAT(mixing.implementation(), testing::StartsWith(operation + " cuda_"));
    };
    close(mixing.rows(heads, tokens), map.index_select(0, which).index_select(1, where), "map_rows");
    close(mixing.rows({}, {}), map, "map_rows");
    EXPECT_TRUE(mixing.rows({}, {})->is_cpu());
    close(mixing.columns(heads, tokens), map.index_select(0, which).index_select(2, where), "map_columns");
    close(mixing.tile(heads, 0, 196, 4, 100, 4),
          map.index_select(0, which)
              .slice(1, 0, 196)
              .slice(2, 4, 100)
              .reshape({2, 49, 4, 24, 4})
              .mean(at::IntArrayRef{2, 4}),
          "map_tile");
    const auto random = at::make_generator<at::CPUGeneratorImpl>(9);
    const at::Tensor r = at::rand({4, 197}, random);
    close(mixing.left(r), at::matmul(r.to(at::kDouble).unsqueeze(1), map).select(1, 0), "map_sweep");
    EXPECT_TRUE(mixing.left(r.to(at::kCUDA))->is_cuda()) << "a walk stays where its weights are";
    EXPECT_TRUE(mixing.left(r)->is_cpu());
    const at::Tensor v = mixing.v().to(at::kCPU, at::kDouble);
    {
        const auto found = mixing.right(mixing.v());
        ASSERT_TRUE(found) << found.error().message;
        EXPECT_LT(largest(found->to(at::kCPU) - at::matmul(map, v)), 2e-2 * largest(v));
    }
    const at::Tensor gradient = at::randn({4, 197, it.dim}, random).to(at::kCUDA, it.dtype);
    const at::Tensor dp = at::matmul(gradient.to(at::kCPU, at::kDouble), v.transpose(-2, -1));
    const at::Tensor w = r.to(at::kDouble).unsqueeze(1);
    for (const auto& [functor, entries] : {std::pair{Sensitivity::ReluPdP, (map * dp).clamp_min(0)},
                                           {Sensitivity::PdP, map * dp},
                                           {Sensitivity::ReluDP, dp.clamp_min(0)},
                                           {Sensitivity::AbsDP, dp.abs()}})
        close(mixing.sensitivity(r, functor, gradient), at::matmul(w, entries).select(1, 0), "map_sweep_gradient");
    const MixingCheck check = mixing.check().value();
    EXPECT_TRUE(check.passed) << check.sentence;
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviceMixing, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name(); });

/// A small model of the vit architecture, the same on both devices.
std::unique_ptr<Model> small_vit() { return registry().architecture("vit").value()->tiny(3).value(); }

Result<Attribution> explained(Model& model, const std::string& method, std::int64_t budget = 0,
                              Target target = {.index = 3, .versus = {}}, std::uint64_t seed = 2) {
    Input input;
    input.pixels = at::randn({1, 3, 32, 64}, at::make_generator<at::CPUGeneratorImpl>(seed));
    ExplainContext context(model, input, target);
    context.memory_budget = budget;
    const Explainer* explainer = VITRINE_TRY(registry().explainer(method));
    return explainer->explain(context, Settings(explainer->parameters()));
}

TEST(OnADevice, MethodsGiveWhatTheyGiveOnTheCpu) {
    if (const std::string why = no_device(); !why.empty()) GTEST_SKIP() << why;
    for (const char* method : {"raw_attention", "rollout", "chefer", "legrad"}) {
        auto here = small_vit(), there = small_vit();
        there->to(at::kCUDA, at::kFloat);
        const auto a = explained(*here, method), b = explained(*there, method);
        ASSERT_TRUE(a) << a.error().message;
        ASSERT_TRUE(b) << b.error().message;
        EXPECT_LT(largest(a->map - b->map), 1e-4 * largest(a->map)) << method;
        EXPECT_THAT(b->implementation, testing::HasSubstr(" cuda_")) << method;
        EXPECT_FALSE(b->checks.empty()) << method;
        for (const Check& check : b->checks) EXPECT_TRUE(check.passed) << method << ": " << check.finding;
        // With less memory: inputs instead of queries and keys, block by block instead of one graph.
        const CaptureCost cost = capture_cost(*there, 32, 64);
        const auto less =
            explained(*there, method, std::string(method) == "chefer" ? cost.inputs + cost.graph / 3 : cost.inputs);
        ASSERT_TRUE(less) << less.error().message;
        EXPECT_LT(largest(less->map - b->map), 1e-5 * largest(b->map)) << method;
    }
}

TEST(OnADevice, WhatIsAskedAgainIsReplayedAndStaysRight) {
    if (const std::string why = no_device(); !why.empty()) GTEST_SKIP() << why;
    for (const char* method : {"chefer", "legrad"}) {
        const auto here = small_vit(), there = small_vit();
        there->to(at::kCUDA, at::kFloat);
        const auto same = [&](Target target, std::uint64_t seed, const std::string& what) {
            const auto a = explained(*here, method, 0, target, seed), b = explained(*there, method, 0, target, seed);
            ASSERT_TRUE(a) << a.error().message;
            ASSERT_TRUE(b) << b.error().message;
            EXPECT_LT(largest(a->map - b->map), 1e-4 * largest(a->map)) << method << ", " << what;
            EXPECT_NEAR(a->prefix_mass, b->prefix_mass, 1e-4);
            EXPECT_EQ(a->explained, b->explained);
            EXPECT_THAT(b->implementation, testing::StartsWith("map_sweep_gradient cuda_"));
            for (const Check& check : b->checks) EXPECT_TRUE(check.passed) << check.finding;
        };
        const std::int64_t before = replay_count();
        same({.index = 3, .versus = {}}, 2, "as it is");
        EXPECT_EQ(replay_count(), before);
        same({.index = 1, .versus = {}}, 3, "recorded for another class and picture");
        EXPECT_EQ(replay_count(), before + 1) << "nothing was recorded";
        same({.index = 0, .versus = {}}, 4, "replayed for another class and picture");
        same({.index = 3, .versus = {}}, 2, "replayed for the first ones");
        EXPECT_EQ(replay_count(), before + 3);
        // How classes are weighted is an input too, so their difference needs no other recording; a probability does.
        same({.index = 3, .versus = 1}, 2, "versus");
        EXPECT_EQ(replay_count(), before + 4);
        same({.index = 2, .versus = {}, .scale = Scale::Probability}, 4, "a probability");
        EXPECT_EQ(replay_count(), before + 4);
        same({.index = 1, .versus = {}, .scale = Scale::Probability}, 3, "a probability, recorded");
        EXPECT_EQ(replay_count(), before + 5);
        // Weights that are written over are read anew; weights elsewhere are other weights.
        for (Model* model : {here.get(), there.get()})
            for (const auto& [name, weight] : model->parameters()) {
                const at::NoGradGuard no_grad;
                at::Tensor x = weight;
                x.mul_(1.25);
            }
        same({.index = 2, .versus = 0}, 4, "other weights");
        EXPECT_EQ(replay_count(), before + 6);
        there->to(at::kCUDA, at::kBFloat16);
        EXPECT_TRUE(explained(*there, method));
        EXPECT_EQ(replay_count(), before + 6);
    }
}

TEST(OnADevice, InputsAreEnoughToAnswer) {
    if (const std::string why = no_device(); !why.empty()) GTEST_SKIP() << why;
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        const auto model = small_vit();
        model->to(at::kCUDA, dtype);
        const at::Tensor pixels = at::randn({1, 3, 32, 64}, at::make_generator<at::CPUGeneratorImpl>(2));
        const auto whole = run_captured(*model, pixels).value();
        const CaptureCost cost = capture_cost(*model, 32, 64);
        const auto less = run_captured(*model, pixels, {.memory_budget = cost.inputs + 4096}).value();
        EXPECT_TRUE(less->output.equal(whole->output));
        const std::int64_t tokens[] = {0, 4};
        for (std::int64_t layer = 0; layer < 3; ++layer) {
            const auto& mixing = *less->flow.block(layer)->mixing;
            EXPECT_FALSE(mixing.output().defined());
            EXPECT_TRUE(mixing.rows({}, tokens)->equal(*whole->flow.block(layer)->mixing->rows({}, tokens)));
            EXPECT_TRUE(mixing.check()->passed) << mixing.check()->sentence;
        }
        const auto rows = rows_of_layers(less->flow, tokens, true).value();
        const auto kept = rows_of_layers(whole->flow, tokens, true).value();
        for (std::size_t layer = 0; layer < 3; ++layer) EXPECT_LT(largest(rows.rows[layer] - kept.rows[layer]), 1e-5);
    }
}

// The kernels take as many heads of values as of keys; attentions with others repeat one of the two.
TEST(OnADevice, ValuesMayHaveOtherHeadsThanKeys) {
    if (const std::string why = no_device(); !why.empty()) GTEST_SKIP() << why;
    constexpr std::int64_t kHeads = 4, kTokens = 65, kDim = 32;
    const auto random = at::make_generator<at::CPUGeneratorImpl>(11);
    const at::Tensor q = at::randn({kHeads, kTokens, kDim}, random), d = at::randn({kHeads, kTokens, kDim}, random),
                     r = at::rand({1, kTokens}, random);
    for (const std::int64_t key_heads : {1, 2, 4})
        for (const std::int64_t value_heads : {1, 2, 4}) {
            const at::Tensor k = at::randn({key_heads, kTokens, kDim}, random),
                             v = at::randn({value_heads, kTokens, kDim}, random);
            const auto each = [](const at::Tensor& x) {
                return x.to(at::kDouble).repeat_interleave(kHeads / x.size(0), 0);
            };
            const at::Tensor map = at::softmax(at::matmul(each(q), each(k).transpose(1, 2)) * 0.2, -1);
            const at::Tensor wanted =
                at::matmul(r.to(at::kDouble), (map * at::matmul(each(d), each(v).transpose(1, 2))).clamp_min(0));
            const auto ready = prepare_device(q.to(at::kCUDA), k.to(at::kCUDA), {}, {kHeads, kTokens}, 0.2, false, {});
            ASSERT_TRUE(ready) << ready.error().message;
            std::string shown;
            const auto found = device_sensitivity(*ready, v.to(at::kCUDA), d.to(at::kCUDA),
                                                  kernels::SweepFunctor::ReluPdP, r.to(at::kCUDA), shown);
            ASSERT_TRUE(found) << found.error().message;
            EXPECT_LT(largest(found->to(at::kCPU) - wanted.squeeze(1)), 1e-5 * largest(wanted))
                << key_heads << " heads of keys, " << value_heads << " of values";
        }
    // Heads that no repeating makes equal are refused.
    const auto ready = prepare_device(q.to(at::kCUDA), q.to(at::kCUDA), {}, {kHeads, kTokens}, 0.2, false, {});
    ASSERT_TRUE(ready) << ready.error().message;
    std::string shown;
    EXPECT_FALSE(device_sensitivity(*ready, at::randn({3, kTokens, kDim}, random).to(at::kCUDA), d.to(at::kCUDA),
                                    kernels::SweepFunctor::ReluPdP, r.to(at::kCUDA), shown));
}

TEST(OnADevice, AnEditedHeadIsScaledThereToo) {
    if (const std::string why = no_device(); !why.empty()) GTEST_SKIP() << why;
    const auto here = small_vit(), there = small_vit();
    there->to(at::kCUDA, at::kFloat);
    const at::Tensor pixels = at::randn({1, 3, 32, 64}, at::make_generator<at::CPUGeneratorImpl>(2));
    const CaptureOptions options{.edits = {{Edit::Kind::ScaleHead, "blocks.1.attn", 1, 0.25, {}}}};
    const auto a = run_captured(*here, pixels, options).value(), b = run_captured(*there, pixels, options).value();
    EXPECT_LT(largest(a->output - b->output.to(at::kCPU)), 1e-4 * largest(a->output));
    const Mixing& mixing = *b->flow.block(1)->mixing;
    EXPECT_TRUE(mixing.check()->passed) << mixing.check()->sentence;
    const at::Tensor r = at::ones({mixing.queries}), gradient = mixing.output();
    const at::Tensor wanted = a->flow.block(1)->mixing->sensitivity(r, Sensitivity::PdP, gradient.to(at::kCPU)).value();
    EXPECT_LT(largest(mixing.sensitivity(r, Sensitivity::PdP, gradient).value() - wanted), 1e-4 * largest(wanted));
}

}  // namespace
}  // namespace vitrine
