// Steps of training autoencoders on CUDA devices: those of the CPU within rounding, the same bits again, and shared
// ones.
#include <cmath>

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <vitrine/device.h>
#include <vitrine/device_sums.h>

#include "concept_steps.h"
#include "thread_peers.h"

namespace vitrine {
namespace {

struct Case {
    const char* name;
    std::int64_t width, latents, k;
    const char* kind = "top_k";
    const char* normalise = "none";
    const char* convention = "openai";
    bool dead = false;
    bool keep_negative = false;
};
const Case kCases[] = {{"Narrow", 64, 256, 8},
                       {"ManyLatents", 192, 6000, 8},
                       {"BatchTopK", 64, 256, 8, "batch_top_k", "layer_norm"},
                       {"DeadLatents", 64, 256, 8, "top_k", "none", "openai", true},
                       {"DeadLatentsOfTheBatch", 64, 256, 8, "batch_top_k", "layer_norm", "saev", true},
                       {"Saelens", 96, 256, 40, "top_k", "expected_average", "saelens"},
                       {"Prisma", 96, 256, 8, "top_k", "layer_norm", "prisma"},
                       {"NegativesKept", 64, 256, 8, "top_k", "none", "saev", false, true},
                       {"NoWholeVectors", 66, 256, 8}};

class ConceptStepsOnADevice : public testing::TestWithParam<Case> {
  protected:
    void SetUp() override {
        if (const auto device = device_named("cuda"); !device) GTEST_SKIP() << device.error().message;
    }
};

constexpr int kSteps = 70;  // dead latents are looked for every 32

std::vector<at::Tensor> batches(std::int64_t width) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{7});
    const at::Tensor mixed = at::randn({width, width}, g), far = 3 * at::randn({width}, g);
    std::vector<at::Tensor> out;
    for (int i = 0; i < kSteps; ++i)
        out.push_back(at::randn({300, width}, g).relu().matmul(mixed) / std::sqrt(static_cast<double>(width)) + far);
    return out;
}

ConceptSteps made(const Case& c, const at::Tensor& sample, Peers* peers = nullptr) {
    AutoencoderConfig config;
    config.kind = c.kind;
    config.k = c.k;
    config.width = c.width;
    config.latents = c.latents;
    config.normalise = c.normalise;
    config.keep_negative = c.keep_negative;
    config.point = "random";
    ConceptStepsOptions options;
    options.objective.convention = c.convention;
    options.objective.revive_k = 16;
    options.learning_rate = 1e-3;
    options.steps = 10 * kSteps;
    options.dead_window = c.dead ? 600 : std::int64_t{1} << 40;
    options.peers = peers;
    ConceptSteps steps = ConceptSteps::make(config, options, sample).value();
    if (c.dead) {  // half of the latents speak too softly to be chosen
        const at::NoGradGuard no_grad;
        steps.autoencoder().tensor("W_enc").detach().narrow(1, 0, c.latents / 2).mul_(0.02);
    }
    return steps;
}

double off(const at::Tensor& found, const at::Tensor& wanted) {
    const at::Tensor a = found.detach().cpu(), b = wanted.detach().cpu();
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item<double>();
}

using State = std::vector<std::pair<std::string, at::Tensor>>;

State copied(const ConceptSteps& steps) {
    State out;
    for (const auto& [name, tensor] : steps.state()) out.emplace_back(name, tensor.detach().clone());
    return out;
}

TEST_P(ConceptStepsOnADevice, TakesTheStepsOfTheCpu) {
    const Case& c = GetParam();
    const auto tokens = batches(c.width);
    ConceptSteps before = made(c, tokens[0]);
    for (int i = 0; i < 40; ++i) before.step(tokens[static_cast<std::size_t>(i)]);
    // Both go on from the same numbers, at a step where a device looks for dead latents too.
    const State state = copied(before);
    ConceptSteps here = made(c, tokens[0]), there = made(c, tokens[0].cuda());
    ASSERT_TRUE(here.restore(state, 64));
    ASSERT_TRUE(there.restore(state, 64));
    for (int i = 40; i < 50; ++i) {
        const at::Tensor a = here.step(tokens[static_cast<std::size_t>(i)]),
                         b = there.step(tokens[static_cast<std::size_t>(i)].cuda()).cpu();
        ASSERT_EQ(b.size(0), 7);
        // Which latents are chosen hangs on rounding, and one other of 2,400 is seen.
        for (int f = 0; f < 7; ++f)
            EXPECT_NEAR(b[f].item<double>(), a[f].item<double>(), 2e-3 * std::abs(a[f].item<double>()) + 1e-6)
                << "figure " << f << " of step " << i;
        EXPECT_TRUE(i > 40 || (b[3].item<double>() > 0) == c.dead) << "the loss of dead latents";
        const State wanted = here.state(), found = there.state();
        for (std::size_t s = 0; s < wanted.size(); ++s)
            EXPECT_LE(off(found[s].second, wanted[s].second), i == 40 ? 1e-3 : 1e-2) << wanted[s].first << " " << i;
    }
    EXPECT_TRUE(there.recorded());
    if (c.width % 4 != 0) return;
    EXPECT_LE((at::linalg_vector_norm(there.autoencoder().tensor("W_dec").detach(), 2, at::IntArrayRef{1}) - 1)
                  .abs()
                  .max()
                  .item<double>(),
              1e-5);
}

TEST_P(ConceptStepsOnADevice, GoesOnWithTheSameBits) {
    const Case& c = GetParam();
    const auto tokens = batches(c.width);
    const auto step = [&](ConceptSteps& steps, int i) {
        return steps.step(tokens[static_cast<std::size_t>(i)].cuda());
    };
    ConceptSteps whole = made(c, tokens[0].cuda()), part = made(c, tokens[0].cuda());
    at::Tensor last;
    for (int i = 0; i < kSteps; ++i) last = step(whole, i);
    for (int i = 0; i < 41; ++i) step(part, i);
    const State state = copied(part);
    ConceptSteps rest = made(c, tokens[0].cuda());
    ASSERT_TRUE(rest.restore(state, 41));
    at::Tensor again;
    for (int i = 41; i < kSteps; ++i) again = step(rest, i);
    EXPECT_TRUE(at::equal(last, again)) << last << again;
    for (const auto& [name, tensor] : whole.autoencoder().tensors())
        EXPECT_TRUE(at::equal(tensor.detach(), rest.autoencoder().tensor(name).detach())) << name;
}

INSTANTIATE_TEST_SUITE_P(Kinds, ConceptStepsOnADevice, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

/// Threads, each with a device of its own, stand for processes.
TEST(SharedDevices, SumAndTrainAsOne) {
    if (const auto second = device_named("cuda:1"); !second) GTEST_SKIP() << second.error().message;
    at::Tensor sums[2];
    for (const Case& c : {Case{"Shared", 64, 256, 8}, Case{"SharedBatch", 64, 256, 8, "batch_top_k"}}) {
        const auto tokens = batches(c.width);
        ConceptSteps alone = made(c, tokens[0].cuda());
        std::vector<at::Tensor> wanted, curve;
        for (int i = 0; i < 20; ++i) wanted.push_back(alone.step(tokens[static_cast<std::size_t>(i)].cuda()).cpu());
        at::Tensor weights[2];
        together(2, [&](Peers& peers) {
            const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(peers.rank()));
            const auto why = join_devices(peers, device);
            ASSERT_TRUE(why) << why.error().message;
            ASSERT_EQ(*why, "") << "two devices are here, and NCCL comes with libtorch";
            auto g = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(peers.rank()));
            const at::Tensor own = at::randn({100003}, g).to(device);
            ASSERT_TRUE(peers.devices->sum(own));
            sums[peers.rank()] = own.cpu();
            ConceptSteps steps = made(c, tokens[0].to(device), &peers);
            for (int i = 0; i < 20; ++i) {
                const at::Tensor figures = steps.step(tokens[static_cast<std::size_t>(i)].to(device)).cpu();
                if (peers.rank() == 0) curve.push_back(figures);
            }
            EXPECT_EQ(steps.recorded(), std::string(c.kind) == "top_k");
            weights[peers.rank()] = steps.autoencoder().tensor("W_dec").detach().cpu();
        });
        EXPECT_TRUE(at::equal(weights[0], weights[1])) << c.name << ": the same bits everywhere";
        for (std::size_t i = 0; i < curve.size(); ++i)
            EXPECT_LE(off(curve[i], wanted[i]), 2e-3) << c.name << ", step " << i;
    }
    at::Tensor sum = at::zeros({100003}, at::kFloat);
    for (std::uint64_t rank = 0; rank < 2; ++rank)
        sum += at::randn({100003}, at::make_generator<at::CPUGeneratorImpl>(rank));
    EXPECT_TRUE(at::equal(sums[0], sums[1])) << "the same bits everywhere";
    EXPECT_LE(off(sums[0], sum), 1e-6);
}

}  // namespace
}  // namespace vitrine
