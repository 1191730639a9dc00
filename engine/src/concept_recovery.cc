// Training a sparse autoencoder on sums of known directions finds these. Takes minutes, so it is a test of its own.
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>

#include "concept_steps.h"
#include "known_directions.h"

namespace vitrine {
namespace {

struct Recovered {
    double share = 0, explained = 0;
};

/// Source of the recipe and its thresholds: a trial run of this setting by another program.
Recovered recovered(std::int64_t width, std::int64_t directions, std::int64_t latents, std::int64_t k,
                    std::int64_t steps, double cosine, const std::string& kind = "top_k") {
    at::set_num_threads(1);  // the steps are so small that threads only wait for one another
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{1});
    const at::Tensor truth = unit(at::randn({directions, width}, g));
    AutoencoderConfig config;
    config.kind = kind;
    config.width = width;
    config.latents = latents;
    config.k = k;
    ConceptStepsOptions options;
    options.learning_rate = 3e-3;
    options.steps = steps;
    options.warmup = 100;
    options.dead_window = 100000;
    ConceptSteps training = ConceptSteps::make(config, options, sums_of_three(truth, 8192, g)).value();
    for (std::int64_t i = 0; i < steps; ++i) training.step(sums_of_three(truth, 1024, g));
    const at::Tensor rows = training.autoencoder().tensor("W_dec").detach();
    EXPECT_LT((at::linalg_vector_norm(rows, 2, {1}) - 1).abs().max().item<double>(), 1e-5);
    const at::Tensor x = sums_of_three(truth, 8192, g);
    const Codes codes = training.autoencoder().encode(x);
    const at::Tensor error = training.autoencoder().decode(codes.active, codes).detach() - x;
    Recovered out;
    out.share = at::matmul(truth, rows.t()).amax(1).gt(cosine).to(at::kDouble).mean().item<double>();
    out.explained = 1 - error.square().sum().item<double>() / (x - x.mean(0, true)).square().sum().item<double>();
    return out;
}

TEST(ConceptRecovery, FindTheDirectionsThatTokensAreMadeOf) {
    const Recovered easy = recovered(64, 48, 96, 3, 3000, 0.95);
    EXPECT_GE(easy.share, 0.97);
    EXPECT_GT(easy.explained, 0.99);
    const Recovered tiny = recovered(16, 32, 64, 4, 2000, 0.9);
    EXPECT_GE(tiny.share, 0.90);
    EXPECT_GT(tiny.explained, 0.88);
}

TEST(ConceptRecovery, ByTheBatchToo) {
    const Recovered found = recovered(64, 48, 96, 3, 1000, 0.95, "batch_top_k");
    EXPECT_GE(found.share, 0.9);
    EXPECT_GT(found.explained, 0.95);
}

}  // namespace
}  // namespace vitrine
