// Losses of sparse autoencoders against loops in double precision; gradients by the formulas; prefixes.
#include "autoencoder_objective.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace vitrine {
namespace {

constexpr std::int64_t kWidth = 8, kLatents = 24, kTokens = 9;
using Rows = std::vector<std::vector<double>>;

at::Generator generator(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

Autoencoder random_one(const std::string& kind, const std::string& normalise = "none") {
    AutoencoderConfig config;
    config.kind = kind;
    config.normalise = normalise;
    config.width = kWidth;
    config.latents = kLatents;
    config.k = 4;
    Autoencoder one = *Autoencoder::make(config, 1);
    auto g = generator(2);
    for (const auto& [name, tensor] : one.tensors())
        tensor.copy_(name == "threshold" ? at::rand(tensor.sizes(), g, at::kFloat) * 0.6 + 0.2
                                         : at::randn(tensor.sizes(), g, at::kFloat) * 0.4);
    return one;
}
at::Tensor some_tokens() {
    auto g = generator(3);
    return at::randn({kTokens, kWidth}, g, at::kFloat) * 2 + 0.5;
}
at::Tensor some_dead() {
    auto g = generator(4);
    return at::rand({kLatents}, g, at::kFloat) < 0.4;
}

Rows rows_of(const at::Tensor& tensor) {
    const at::Tensor exact = tensor.detach().to(at::kDouble).contiguous();
    Rows out;
    for (std::int64_t i = 0; i < exact.size(0); ++i) {
        const double* from = exact.const_data_ptr<double>() + i * exact.size(1);
        out.emplace_back(from, from + exact.size(1));
    }
    return out;
}
std::vector<double> numbers(const at::Tensor& tensor) { return rows_of(tensor.reshape({1, -1}))[0]; }
double length(const std::vector<double>& row) {
    double sum = 0;
    for (const double v : row) sum += v * v;
    return std::sqrt(sum);
}
std::vector<double> mean_row(const Rows& rows) {
    std::vector<double> out(rows[0].size(), 0);
    for (const auto& row : rows)
        for (std::size_t j = 0; j < row.size(); ++j) out[j] += row[j] / double(rows.size());
    return out;
}
void expect_near(const at::Tensor& found, double want) {
    EXPECT_GT(std::abs(want), 1e-4) << "proves nothing";
    EXPECT_NEAR(found.item<double>(), want, 1e-5 * std::abs(want));
}

TEST(ConceptLoss, EveryConventionIsItsFormula) {
    const Autoencoder one = random_one("relu");
    const at::Tensor tokens = some_tokens();
    const Codes codes = one.encode(tokens);
    const Rows x = rows_of(tokens), y = rows_of(one.decode(codes.active, codes)), f = rows_of(codes.active),
               w = rows_of(one.tensor("W_dec"));
    const std::vector<double> middle = mean_row(x);
    std::map<std::string, std::pair<double, double>> want;  // error, size
    const double n = kTokens, d = kWidth;
    for (std::size_t t = 0; t < x.size(); ++t) {
        double square = 0, of_x = 0, sum = 0, weighed = 0;
        std::vector<double> off(x[t].size());
        for (std::size_t j = 0; j < x[t].size(); ++j) {
            square += (y[t][j] - x[t][j]) * (y[t][j] - x[t][j]);
            of_x += x[t][j] * x[t][j];
            off[j] = x[t][j] - middle[j];
        }
        for (std::size_t i = 0; i < f[t].size(); ++i) sum += f[t][i], weighed += f[t][i] * length(w[i]);
        want["prisma"].first += square / length(off) / (n * d);
        want["prisma"].second += sum / n;
        want["saelens"].first += square / n;
        want["saelens"].second += weighed / n;
        want["openai"].first += square / of_x / n;
        want["openai"].second += sum / std::sqrt(of_x) / n;
        want["saev"].first += square / (n * d);
        want["saev"].second += sum / n;
    }
    for (const auto& [convention, numbers] : want) {
        SCOPED_TRACE(convention);
        ConceptObjective objective{.convention = convention, .sparsity = 0.7, .revive = "none"};
        const ConceptLoss loss = concept_loss(one, tokens, codes, objective);
        expect_near(loss.reconstruction, numbers.first);
        expect_near(loss.sparsity, 0.7 * numbers.second);
        expect_near(loss.total, numbers.first + 0.7 * numbers.second);
    }
    ConceptObjective fixed{.convention = "openai", .revive = "none", .variance = 2.5};
    expect_near(concept_loss(one, tokens, codes, fixed).reconstruction, want["saev"].first / 2.5);
    EXPECT_THROW(concept_loss(one, tokens, codes, {.convention = "mine"}), c10::Error);
}

TEST(ConceptLoss, PrefixesAreTheMeanOfTheirReconstructions) {
    for (const std::string normalise : {"none", "layer_norm"}) {
        const Autoencoder one = random_one("relu", normalise);
        const at::Tensor tokens = some_tokens();
        const Codes codes = one.encode(tokens);
        ConceptObjective objective{.convention = "saev", .revive = "none"};
        double want = 0;
        for (const std::int64_t end : {2, 7, 24}) {
            const Rows x = rows_of(tokens), y = rows_of(one.decode(codes.active, codes, end));
            for (std::size_t t = 0; t < x.size(); ++t)
                for (std::size_t j = 0; j < x[t].size(); ++j)
                    want += (y[t][j] - x[t][j]) * (y[t][j] - x[t][j]) / double(3 * kTokens * kWidth);
        }
        expect_near(concept_loss(one, tokens, codes, objective, {}, {2, 7, 24}).reconstruction, want);
        const double plain = concept_loss(one, tokens, codes, objective).reconstruction.item<double>();
        expect_near(concept_loss(one, tokens, codes, objective, {}, {24}).reconstruction, plain);
    }
}

TEST(AuxiliaryLoss, IsItsFormulaInTheNormalisedSpace) {
    for (const std::string normalise : {"none", "layer_norm"}) {
        const Autoencoder one = random_one("top_k", normalise);
        const at::Tensor tokens = some_tokens(), dead = some_dead();
        const Codes codes = one.encode(tokens);
        const at::Tensor decoded = one.decode(codes.active, codes);
        const Rows x = rows_of(tokens), y = rows_of(decoded), h = rows_of(codes.before),
                   w = rows_of(one.tensor("W_dec"));
        const std::vector<double> off = numbers(one.tensor("b_dec")), is_dead = numbers(dead);
        const std::vector<double> scale =
            codes.scale.defined() ? numbers(codes.scale) : std::vector<double>(kTokens, 1.0);
        const std::int64_t k = 3;
        Rows target, said;
        for (std::size_t t = 0; t < x.size(); ++t) {
            std::vector<std::size_t> order;
            for (std::size_t i = 0; i < h[t].size(); ++i)
                if (is_dead[i] != 0) order.push_back(i);
            ASSERT_GT(std::ssize(order), k);
            std::sort(order.begin(), order.end(), [&](auto a, auto b) { return h[t][a] > h[t][b]; });
            std::vector<double> e(kWidth), s(kWidth);
            for (std::size_t j = 0; j < e.size(); ++j) {
                e[j] = (x[t][j] - y[t][j]) / scale[t] + off[j];
                s[j] = off[j];
                for (std::int64_t a = 0; a < k; ++a) s[j] += std::max(h[t][order[a]], 0.0) * w[order[a]][j];
            }
            target.push_back(e);
            said.push_back(s);
        }
        const std::vector<double> middle = mean_row(target);
        double above = 0, below = 0;
        for (std::size_t t = 0; t < x.size(); ++t)
            for (std::size_t j = 0; j < middle.size(); ++j) {
                above += (said[t][j] - target[t][j]) * (said[t][j] - target[t][j]);
                below += (target[t][j] - middle[j]) * (target[t][j] - middle[j]);
            }
        expect_near(auxiliary_loss(one, tokens, codes, decoded, dead, k), above / below);
        // More places than dead ones: the living take none.
        const double all =
            auxiliary_loss(one, tokens, codes, decoded, dead, dead.sum().item<std::int64_t>()).item<double>();
        expect_near(auxiliary_loss(one, tokens, codes, decoded, dead, 500), all);
        EXPECT_EQ(auxiliary_loss(one, tokens, codes, decoded, at::zeros_like(dead), k).item<float>(), 0);
        EXPECT_EQ(auxiliary_loss(one, tokens, codes, decoded, {}, k).item<float>(), 0);
        // One token has no spread: no number, so 0.
        const Codes single = one.encode(tokens.narrow(0, 0, 1));
        EXPECT_EQ(auxiliary_loss(one, tokens.narrow(0, 0, 1), single, decoded.narrow(0, 0, 1), dead, k).item<float>(),
                  0);
    }
}

TEST(AuxiliaryLoss, MovesOnlyTheDead) {
    const Autoencoder one = random_one("top_k");
    for (const auto& [name, tensor] : one.tensors()) tensor.set_requires_grad(true);
    const at::Tensor tokens = some_tokens(), dead = some_dead();
    const Codes codes = one.encode(tokens);
    auxiliary_loss(one, tokens, codes, one.decode(codes.active, codes), dead, 4).backward();
    const at::Tensor moved = one.tensor("W_dec").grad().abs().sum(1) > 0;
    EXPECT_TRUE(moved.any().item<bool>());
    EXPECT_FALSE(moved.logical_and(dead.logical_not()).any().item<bool>());
}

TEST(GhostLoss, IsItsFormula) {
    const Autoencoder one = random_one("relu");
    const at::Tensor tokens = some_tokens(), dead = some_dead();
    const Codes codes = one.encode(tokens);
    const at::Tensor decoded = one.decode(codes.active, codes);
    const double main = 0.83;
    const Rows h = rows_of(codes.before), w = rows_of(one.tensor("W_dec")), r = rows_of(tokens - decoded);
    const std::vector<double> is_dead = numbers(dead), middle = mean_row(r);
    double want = 0;
    for (std::size_t t = 0; t < r.size(); ++t) {
        std::vector<double> ghost(kWidth, 0), off(kWidth);
        for (std::size_t i = 0; i < is_dead.size(); ++i)
            for (std::size_t j = 0; j < ghost.size(); ++j) ghost[j] += is_dead[i] * std::exp(h[t][i]) * w[i][j];
        const double by = length(r[t]) / (1e-6 + 2 * length(ghost));
        for (std::size_t j = 0; j < off.size(); ++j) off[j] = r[t][j] - middle[j];
        for (std::size_t j = 0; j < off.size(); ++j) {
            const double each = (ghost[j] * by - r[t][j]) * (ghost[j] * by - r[t][j]) / length(off);
            want += main / (each + 1e-6) * each / double(kTokens * kWidth);
        }
    }
    const at::Tensor reconstruction = at::full({}, main);
    expect_near(ghost_loss(one, tokens, codes, decoded, dead, reconstruction), want);
    EXPECT_EQ(ghost_loss(one, tokens, codes, decoded, at::zeros_like(dead), reconstruction).item<float>(), 0);
    EXPECT_EQ(ghost_loss(one, tokens, codes, decoded, {}, reconstruction).item<float>(), 0);
}

TEST(JumpReluGradients, AreTheFormulasAndZeroOutsideTheBand) {
    const double band = 0.5;
    const at::Tensor theta = at::tensor({0.5F, 0.8F}).set_requires_grad(true);
    // In the band of the first: 0.3 and 0.7; of the second: 0.7; on an edge (0.75 of the first) is outside.
    const at::Tensor h = at::tensor({0.3F, 0.1F, 0.7F, 0.7F, 0.75F, 3.0F}).view({3, 2}).set_requires_grad(true);
    const at::Tensor by = at::tensor({1.F, 2.F, 3.F, 4.F, 5.F, 6.F}).view({3, 2});
    const at::Tensor out = jump_relu(h, theta, band);
    EXPECT_TRUE(at::equal(out.detach(), at::tensor({0.F, 0.F, 0.7F, 0.F, 0.75F, 3.0F}).view({3, 2})));
    (out * by).sum().backward();
    EXPECT_TRUE(at::equal(h.grad(), at::tensor({0.F, 0.F, 3.F, 0.F, 5.F, 6.F}).view({3, 2})));
    EXPECT_NEAR(theta.grad()[0].item<double>(), -(0.5 / band) * (1 + 3), 1e-6);
    EXPECT_NEAR(theta.grad()[1].item<double>(), -(0.8 / band) * 4, 1e-6);

    const at::Tensor other = theta.detach().clone().set_requires_grad(true),
                     same = h.detach().clone().set_requires_grad(true);
    const at::Tensor step = jump_step(same, other, band);
    EXPECT_TRUE(at::equal(step.detach(), at::tensor({0.F, 0.F, 1.F, 0.F, 1.F, 1.F}).view({3, 2})));
    (step * by).sum().backward();
    EXPECT_FALSE(same.grad().defined());
    EXPECT_NEAR(other.grad()[0].item<double>(), -(1 + 3) / band, 1e-6);
    EXPECT_NEAR(other.grad()[1].item<double>(), -4 / band, 1e-6);

    const at::Tensor far = theta.detach().clone().set_requires_grad(true);
    jump_relu(at::full({4, 2}, 2.F), far, band).sum().backward();
    EXPECT_TRUE(at::equal(far.grad(), at::zeros({2})));
}

TEST(JumpReluGradients, ReachTheThresholdOnlyInTraining) {
    const Autoencoder one = random_one("jump_relu");
    one.tensor("threshold").set_requires_grad(true);
    const at::Tensor tokens = some_tokens();
    const Codes codes = training_codes(one, tokens, {.band = 0.5});
    EXPECT_TRUE(at::equal(codes.active.detach(), one.encode(tokens).active.detach()));
    codes.active.sum().backward();
    EXPECT_GT(one.tensor("threshold").grad().abs().max().item<float>(), 0);
}

TEST(Prefixes, RiseEndWithAllAndHangOnTheSeed) {
    const auto drawn = prefix_lengths(1000, 10, 5);
    EXPECT_EQ(drawn.size(), 10U);
    EXPECT_TRUE(std::is_sorted(drawn.begin(), drawn.end()));
    EXPECT_EQ(std::adjacent_find(drawn.begin(), drawn.end()), drawn.end());
    EXPECT_EQ(drawn.back(), 1000);
    EXPECT_GT(drawn.front(), 0);
    EXPECT_EQ(drawn, prefix_lengths(1000, 10, 5));
    EXPECT_NE(drawn, prefix_lengths(1000, 10, 6));
    EXPECT_THAT(prefix_lengths(1000, 1, 5), testing::ElementsAre(1000));
    EXPECT_THAT(prefix_lengths(5, 50, 1), testing::ElementsAre(2, 3, 4, 5));
    EXPECT_THAT(prefix_lengths(1, 10, 1), testing::ElementsAre(1));
}

TEST(Prefixes, ShortOnesAreDrawnByTheirWeight) {
    // With one drawn, n comes with probability ((n-1)^-0.5 - n^-0.5) / (1 - 99^-0.5).
    std::map<std::int64_t, int> count;
    constexpr int kDraws = 20000;
    for (int seed = 0; seed < kDraws; ++seed) ++count[prefix_lengths(100, 2, std::uint64_t(seed)).front()];
    for (const std::int64_t n : {2, 3, 5}) {
        const double p = (1 / std::sqrt(double(n - 1)) - 1 / std::sqrt(double(n))) / (1 - 1 / std::sqrt(99.0));
        // Five standard deviations.
        EXPECT_NEAR(count[n], p * kDraws, 5 * std::sqrt(p * (1 - p) * kDraws)) << n;
    }
}

}  // namespace
}  // namespace vitrine
