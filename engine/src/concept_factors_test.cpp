// The fitted kinds: their codes against enumeration and projection, their fits on tokens of known parts, refusals.
#include <vitrine/concept_factors.h>

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <torch/csrc/autograd/autograd.h>

#include "non_negative.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

at::Generator generator(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

double worst(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

at::Tensor some_tokens(std::int64_t count, std::int64_t width, std::uint64_t seed = 3) {
    auto g = generator(seed);
    return at::randn({count, width}, g, at::kDouble) + 0.4;
}

Autoencoder fitted(const std::string& kind, const at::Tensor& tokens, std::int64_t latents) {
    AutoencoderConfig config;
    config.kind = kind;
    config.latents = latents;
    auto made = fit_factors(config, tokens);
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().message);
    return std::move(*made);
}

/// The best over all sets of which may be above zero.
at::Tensor enumerated(const at::Tensor& gram, const at::Tensor& b) {
    const std::int64_t m = b.size(0);
    at::Tensor best = at::zeros_like(b);
    double least = 0;
    for (std::int64_t set = 1; set < (1 << m); ++set) {
        std::vector<std::int64_t> in;
        for (std::int64_t j = 0; j < m; ++j)
            if (set >> j & 1) in.push_back(j);
        const at::Tensor which = at::tensor(in, at::kLong);
        const at::Tensor u =
            at::linalg_solve(gram.index_select(0, which).index_select(1, which), b.index_select(0, which));
        if (u.min().item<double>() < 0) continue;
        const double value = -(u * b.index_select(0, which)).sum().item<double>();
        if (value < least) {
            least = value;
            best.zero_().index_copy_(0, which, u);
        }
    }
    return best;
}

TEST(NonNegativeLeastSquares, IsTheBestOfAllSets) {
    auto g = generator(5);
    const at::Tensor rows = at::rand({7, 10}, g, at::kDouble), x = at::randn({40, 10}, g, at::kDouble);
    for (const double ridge : {0.0, 0.3}) {
        const at::Tensor gram = at::matmul(rows, rows.t()), b = at::matmul(x, rows.t());
        const at::Tensor found = non_negative_least_squares(gram, b, ridge);
        for (std::int64_t i = 0; i < 40; ++i)
            EXPECT_LT(worst(found[i], enumerated(gram + ridge * at::eye(7, at::kDouble), b[i])), 1e-9);
    }
}

TEST(NonNegativeLeastSquares, MeetsItsConditionsOnMany) {
    auto g = generator(6);
    const at::Tensor rows = at::relu(at::randn({120, 64}, g, at::kDouble)),
                     x = at::relu(at::randn({30, 64}, g, at::kDouble));
    const at::Tensor gram = at::matmul(rows, rows.t()), b = at::matmul(x, rows.t());
    const at::Tensor u = non_negative_least_squares(gram, b), gradient = at::matmul(u, gram) - b;
    EXPECT_GE(u.min().item<double>(), 0);
    EXPECT_GT(gradient.min().item<double>(), -1e-7 * b.max().item<double>());
    EXPECT_LT((gradient * u.gt(0)).abs().max().item<double>(), 1e-7 * b.max().item<double>());
}

TEST(NonNegativeLeastSquares, SlopesAreThoseOfSmallSteps) {
    auto g = generator(7);
    const at::Tensor rows = at::rand({5, 8}, g, at::kDouble), gram = at::matmul(rows, rows.t());
    const at::Tensor weights = at::randn({4, 5}, g, at::kDouble);
    at::Tensor b = at::randn({4, 5}, g, at::kDouble) + 1;
    const auto value = [&](const at::Tensor& at) {
        return (non_negative_least_squares(gram, at, 0.1).square() * weights).sum();
    };
    b.set_requires_grad(true);
    const at::AutoGradMode with_graph(true);
    const at::Tensor slope = torch::autograd::grad({value(b)}, {b}, {}, true, true)[0];
    at::Tensor curve = torch::autograd::grad({slope.sum()}, {b})[0];
    const at::NoGradGuard no_grad;
    const double step = 1e-6;
    std::int64_t moved = 0;
    for (std::int64_t i = 0; i < 20; ++i) {
        at::Tensor up = b.detach().clone(), down = b.detach().clone();
        up.view(-1)[i] += step;
        down.view(-1)[i] -= step;
        const double wanted = (value(up) - value(down)).item<double>() / (2 * step);
        EXPECT_NEAR(slope.view(-1)[i].item<double>(), wanted, 1e-6);
        if (wanted != 0) ++moved;
    }
    EXPECT_GT(moved, 5);
    EXPECT_GT(curve.abs().max().item<double>(), 0);  // of a square of what is linear
}

TEST(NonNegativeLeastSquares, BearsEmptyAndEqualRowsAndNoNumbers) {
    const at::Tensor rows = at::tensor({1.0, 0.0, 1.0, 0.0, 0.0, 0.0}, at::kDouble).view({3, 2});
    const at::Tensor u =
        non_negative_least_squares(at::matmul(rows, rows.t()), at::tensor({2.0, 2.0, 0.0}).view({1, 3}));
    EXPECT_NEAR((u[0][0] + u[0][1]).item<double>(), 2, 1e-6);
    EXPECT_EQ(u[0][2].item<double>(), 0);
    non_negative_least_squares(at::matmul(rows, rows.t()), at::tensor({std::nan(""), 1.0, 0.0}).view({1, 3}));
}

TEST(FactorKinds, ComponentsDecodeToTheProjection) {
    const at::Tensor x = some_tokens(200, 12), mean = x.mean(0, true);
    const Autoencoder one = fitted("pca", x, 10);
    const Codes codes = one.encode(x);
    EXPECT_GE(codes.active.min().item<double>(), 0);
    const at::Tensor v = std::get<2>(at::linalg_svd(x - mean, false)).narrow(0, 0, 5);
    const at::Tensor projected = at::matmul(at::matmul(x - mean, v.t()), v) + mean;
    EXPECT_LT(worst(one.decode(codes.active, codes), projected), 1e-9);
    // A prefix of latents is whole components.
    const at::Tensor w = v.narrow(0, 0, 2);
    EXPECT_LT(worst(one.decode(codes.active, codes, 4), at::matmul(at::matmul(x - mean, w.t()), w) + mean), 1e-9);
    // Both signs of one silenced: nothing of it is left in the token, all else stays.
    at::Tensor changed = codes.active.clone();
    changed.narrow(1, 0, 2).zero_();
    const at::Tensor without = x + one.difference(changed, codes), first = v.narrow(0, 0, 1);
    EXPECT_LT(at::matmul(without - mean, first.t()).abs().max().item<double>(), 1e-9);
    EXPECT_LT(worst(without, x - at::matmul(at::matmul(x - mean, first.t()), first)), 1e-9);
}

TEST(FactorKinds, ClustersDecodeToTheNearestCentroid) {
    auto g = generator(8);
    const at::Tensor truth = 20 * at::randn({5, 6}, g, at::kDouble);
    const at::Tensor x = (truth.unsqueeze(0) + at::randn({30, 5, 6}, g, at::kDouble)).flatten(0, 1);
    const Autoencoder one = fitted("k_means", x, 5);
    const Codes codes = one.encode(x);
    EXPECT_TRUE(at::equal(codes.active.sum(1), at::ones({150}, at::kDouble)));
    EXPECT_TRUE(at::equal(codes.active.amax(1), at::ones({150}, at::kDouble)));
    // Far apart they are found as they were made: each centroid is the mean of its thirty tokens.
    const at::Tensor means = x.view({30, 5, 6}).mean(0).repeat({30, 1});
    EXPECT_LT(worst(one.decode(codes.active, codes), means), 1e-9);
    // The nearest one, not the one that lies furthest in the token's direction.
    AutoencoderConfig config;
    config.kind = "k_means";
    const at::Tensor lengths = at::tensor({1.0, 0.0, 10.0, 0.0}).view({2, 2});
    const Autoencoder two = *Autoencoder::of_rows(config, lengths, at::zeros({2}));
    EXPECT_EQ(two.encode(at::tensor({2.0, 0.0}).view({1, 2})).active[0][0].item<double>(), 1);
    // Silenced, a token keeps what tells it from its centroid, about the mean of all.
    const at::Tensor moved = x + one.difference(at::zeros_like(codes.active), codes);
    EXPECT_LT(worst(moved - x.mean(0), x - means), 1e-9);
    // One cluster more than there are kinds of tokens: none is empty.
    const at::Tensor few = at::cat({at::zeros({4, 3}), at::zeros({4, 3}) + 1});
    EXPECT_EQ(fitted("k_means", few, 2).encode(few).active.any(0).sum().item<std::int64_t>(), 2);
}

TEST(FactorKinds, PartsAreFoundAgain) {
    auto g = generator(9);
    // Parts that stand apart, codes with many zeros: the factorisation is unique but for order and length.
    at::Tensor parts = at::zeros({4, 16}, at::kDouble);
    for (std::int64_t i = 0; i < 4; ++i) parts[i].narrow(0, 4 * i, 4).copy_(at::rand({4}, g, at::kDouble) + 0.5);
    const at::Tensor codes_made = at::relu(at::randn({300, 4}, g, at::kDouble));
    const at::Tensor x = at::matmul(codes_made, parts);
    const Autoencoder one = fitted("nmf", x, 4);
    const at::Tensor unit = parts / at::linalg_vector_norm(parts, 2, {1}, true);
    const at::Tensor alike = at::matmul(unit, one.tensor("W_dec").t());
    EXPECT_GT(alike.amax(1).min().item<double>(), 0.999);
    const Codes codes = one.encode(x);
    EXPECT_LT((one.decode(codes.active, codes) - x).square().sum().item<double>(),
              1e-3 * x.square().sum().item<double>());
    EXPECT_EQ(one.facts.at("fitted").find("negative numbers"), std::string::npos);
    // Negative numbers are left out, and the file says so.
    const Autoencoder other = fitted("nmf", some_tokens(100, 16), 4);
    EXPECT_THAT(other.facts.at("fitted"), HasSubstr("% of the tokens' squares is of negative numbers"));
    const at::Tensor token = some_tokens(3, 16);
    EXPECT_TRUE(at::equal(other.encode(token).active, other.encode(at::relu(token)).active));
    // Counted from the least of each number nothing is left out: as many parts as numbers rebuild the tokens.
    FactorOptions from_least;
    from_least.from_least = true;
    AutoencoderConfig config;
    config.kind = "nmf";
    config.latents = 16;
    const at::Tensor signed_tokens = some_tokens(100, 16);
    const Autoencoder shifted = fit_factors(config, signed_tokens, from_least).value();
    EXPECT_TRUE(at::equal(shifted.tensor("b_dec"), signed_tokens.amin(0)));
    const Codes all = shifted.encode(signed_tokens);
    EXPECT_LT((shifted.decode(all.active, all) - signed_tokens).square().sum().item<double>(),
              0.05 * (signed_tokens - signed_tokens.mean(0)).square().sum().item<double>());
}

TEST(FactorKinds, ComeBackToTheBitAndRefuseInWords) {
    const fs::path folder = fs::path(testing::TempDir()) / "vitrine_factor_kinds_test";
    fs::create_directories(folder);
    const at::Tensor x = some_tokens(60, 8).to(at::kFloat);
    for (const std::string& kind : factor_kinds()) {
        AutoencoderConfig config;
        config.kind = kind;
        config.latents = 4;
        config.ridge = kind == "nmf" ? 0.1 : 0;
        config.point = "blocks.2";
        const Autoencoder one = fit_factors(config, x).value();
        ASSERT_TRUE(one.save(folder / "x.safetensors"));
        const auto back = Autoencoder::load(folder / "x.safetensors");
        ASSERT_TRUE(back.has_value()) << back.error().message;
        EXPECT_EQ(back->config().kind, kind);
        EXPECT_EQ(back->config().ridge, config.ridge);
        EXPECT_EQ(back->facts, one.facts);
        EXPECT_TRUE(at::equal(back->encode(x).active, one.encode(x).active));
        Autoencoder folded = one;
        EXPECT_FALSE(fold_decoder_norms(folded));
        config.normalise = "layer_norm";
        EXPECT_THAT(fit_factors(config, x).error().message, HasSubstr("takes tokens as they are"));
        config.normalise = "none";
        EXPECT_THAT(fit_factors(config, at::zeros({0, 8})).error().message, HasSubstr("no tokens"));
        EXPECT_THAT(fit_factors(config, x / 0).error().message, HasSubstr("not finite"));
        config.latents = 100;
        EXPECT_THAT(fit_factors(config, x).error().message, HasSubstr("60 "));
        const Autoencoder fresh = Autoencoder::make(one.config(), 1).value();
        EXPECT_EQ(fresh.encode(x).active.size(1), 4);
    }
    AutoencoderConfig odd;
    odd.kind = "pca";
    odd.latents = 5;
    EXPECT_THAT(fit_factors(odd, x).error().message, HasSubstr("an even number"));
    odd.kind = "top_k";
    odd.k = 2;
    EXPECT_THAT(fit_factors(odd, x).error().message, HasSubstr("top_k is trained, not fitted"));
    odd.kind = "nmf";
    EXPECT_THAT(Autoencoder::of_rows(odd, -x, at::zeros({8})).error().message, HasSubstr("negative numbers"));
    odd.kind = "relu";
    odd.ridge = 1;
    EXPECT_THAT(Autoencoder::make(
                    [&] {
                        auto c = odd;
                        c.width = 8;
                        return c;
                    }(),
                    0)
                    .error()
                    .message,
                HasSubstr("the ridge is 1"));
    EXPECT_THAT(non_negative_factors(x, 2).error().message, HasSubstr("zero or more"));
    fs::remove_all(folder);
}

}  // namespace
}  // namespace vitrine
