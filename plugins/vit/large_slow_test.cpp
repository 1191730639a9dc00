// One layer of width 64 over a large picture: full attention is run and looked at, and no N x N exists.
#include "vit.h"

#include <cstdlib>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <vitrine/capture.h>

namespace vitrine::plugin::vit {
namespace {

at::Tensor picture(std::int64_t side) {
    return at::randn({1, 3, side, side}, at::make_generator<at::CPUGeneratorImpl>(5));
}

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

/// One layer of width 64 at this many patches a side: full attention, no N x N.
void explain_large(std::int64_t side) {
    VitConfig c;
    c.image_height = c.image_width = side * 4;
    c.patch_height = c.patch_width = 4;
    c.width = 64;
    c.depth = 1;
    c.heads = 1;
    c.mlp_hidden = 128;
    c.classes = 10;
    const auto model = VitModel::spread(c, 2).value();
    const at::Tensor pixels = picture(side * 4);
    const CaptureCost cost = capture_cost(*model, side * 4, side * 4);
    const auto capture = run_captured(*model, pixels, {.memory_budget = cost.inputs}).value();
    const std::int64_t n = side * side + 1;
    const Mixing& mixing = *capture->flow.block(0)->mixing;
    ASSERT_EQ(mixing.queries, n);
    const MixingCheck check = mixing.check().value();
    EXPECT_TRUE(check.passed) << check.sentence;
    const std::int64_t tokens[] = {0, n / 2};
    const at::Tensor rows = mixing.rows({}, tokens).value(), columns = mixing.columns({}, tokens).value();
    EXPECT_LT(largest(rows.sum(-1) - 1), 1e-4);
    EXPECT_NEAR(columns[0][n / 2][0].item<double>(), rows[0][1][0].item<double>(), 1e-9);
    // A corner of the map, pooled: its first cell is the mean of what single rows give.
    const at::Tensor tile = mixing.tile({}, 0, 64, 0, 128, 32).value();
    std::vector<std::int64_t> first(32);
    for (std::int64_t i = 0; i < 32; ++i) first[static_cast<std::size_t>(i)] = i;
    EXPECT_NEAR(tile[0][0][1].item<double>() / mixing.rows({}, first)->slice(2, 32, 64).mean().item<double>(), 1, 1e-4);
    // One step of rollout from all tokens: the mass stays, and it is the mean of the rows in expectation.
    const at::Tensor r = at::ones({n}) / static_cast<double>(n);
    EXPECT_NEAR(mixing.left(r)->sum().item<double>(), 1, 1e-4);
}

TEST(LargePictures, AreExplainedExactly) {
    // 40,000 tokens take seconds on two cores, the 160,000 of a 6400 x 6400 picture at patch 16 minutes.
    const char* side = std::getenv("VITRINE_LARGE_SIDE");
    explain_large(side != nullptr ? std::max(8, std::atoi(side)) : 200);
}

}  // namespace
}  // namespace vitrine::plugin::vit
