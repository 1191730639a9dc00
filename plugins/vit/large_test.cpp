// Large pictures: keeping inputs instead of queries and keys changes no answer, budgets are counted before the run.
#include "vit.h"

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/capture.h>

namespace vitrine::plugin::vit {
namespace {

using testing::HasSubstr;

at::Tensor picture(std::int64_t height, std::int64_t width) {
    return at::randn({1, 3, height, width}, at::make_generator<at::CPUGeneratorImpl>(5));
}

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

VitConfig small() {
    VitConfig c;
    c.image_height = c.image_width = 48;
    c.patch_height = c.patch_width = 8;
    c.width = 32;
    c.depth = 3;
    c.heads = 2;
    c.mlp_hidden = 64;
    c.classes = 10;
    return c;
}

/// A plain one, one with normed queries and keys, one with rotary positions and registers.
std::vector<VitConfig> kinds() {
    std::vector<VitConfig> all(3, small());
    all[1].qk_norm = true;
    all[1].qkv_bias = false;
    all[2].rope_theta = 100;
    all[2].learned_positions = false;
    all[2].registers = 2;
    return all;
}

TEST(LargePictures, AChainOfBlocksIsTheForward) {
    for (const VitConfig& config : kinds()) {
        const auto model = VitModel::spread(config, 3).value();
        const at::Tensor pixels = picture(48, 64);
        const Chain chain = model->chain(48, 64).value();
        at::Tensor x = chain.begin(pixels);
        for (std::int64_t block = 0; block < chain.blocks; ++block) x = chain.block(block, x);
        EXPECT_TRUE(chain.end(x).equal(run(*model, pixels).value()));
    }
}

TEST(LargePictures, MadeAgainIsWhatWasKept) {
    for (const VitConfig& config : kinds()) {
        const auto model = VitModel::spread(config, 3).value();
        const at::Tensor pixels = picture(48, 64);
        const auto whole = run_captured(*model, pixels).value();
        const CaptureCost cost = capture_cost(*model, 48, 64);
        ASSERT_EQ(cost.keep, CaptureCost::Keep::Whole);
        // What is counted beforehand is what is kept.
        EXPECT_EQ(whole->size_bytes, cost.whole);
        const auto less = run_captured(*model, pixels, {.memory_budget = cost.inputs}).value();
        EXPECT_EQ(less->size_bytes, cost.inputs);
        EXPECT_TRUE(less->output.equal(whole->output)) << "watching changed the answer";
        ASSERT_EQ(less->flow.layers(), 3) << less->flow.unknown;
        EXPECT_TRUE(less->flow.known()) << less->flow.unknown;
        const std::int64_t heads[] = {1}, tokens[] = {0, 7, -1};
        for (std::int64_t layer = 0; layer < 3; ++layer) {
            const Mixing& a = *whole->flow.block(layer)->mixing;
            const Mixing& b = *less->flow.block(layer)->mixing;
            EXPECT_FALSE(b.output().defined()) << "nothing but inputs was to be kept";
            EXPECT_EQ(b.name, a.name);
            EXPECT_TRUE(b.rows(heads, tokens)->equal(*a.rows(heads, tokens)));
            EXPECT_TRUE(b.columns({}, tokens)->equal(*a.columns({}, tokens)));
            EXPECT_TRUE(b.tile({}, 3, 40, 0, 33, 5)->equal(*a.tile({}, 3, 40, 0, 33, 5)));
            const at::Tensor r = at::ones({a.queries}) / static_cast<double>(a.queries);
            EXPECT_TRUE(b.left(r)->equal(*a.left(r)));
            EXPECT_TRUE(b.v().equal(a.v()));
            EXPECT_TRUE(b.right(a.v())->equal(*a.right(a.v())));
            const at::Tensor gradient = picture(a.heads * a.queries, a.v().size(2))
                                            .flatten()
                                            .slice(0, 0, a.heads * a.queries * a.v().size(2))
                                            .reshape({a.heads, a.queries, a.v().size(2)});
            EXPECT_TRUE(b.sensitivity(r, Sensitivity::ReluPdP, gradient)
                            ->equal(*a.sensitivity(r, Sensitivity::ReluPdP, gradient)));
            const MixingCheck check = b.check().value();
            EXPECT_TRUE(check.passed) << check.sentence;
            EXPECT_LT(check.output_error, 1e-5);
        }
        // All layers at once go through the same.
        const auto rows = rows_of_layers(less->flow, tokens, false).value();
        const auto kept_rows = rows_of_layers(whole->flow, tokens, false).value();
        ASSERT_EQ(rows.rows.size(), 3U);
        for (std::size_t layer = 0; layer < 3; ++layer)
            EXPECT_LT(largest(rows.rows[layer] - kept_rows.rows[layer]), 4e-6);
    }
}

TEST(LargePictures, AnInputThatIsNotWhatTheLayerSawFailsItsCheck) {
    const auto model = VitModel::spread(small(), 3).value();
    const CaptureCost cost = capture_cost(*model, 48, 48);
    const auto capture = run_captured(*model, picture(48, 48), {.memory_budget = cost.inputs}).value();
    // Weights that change after the run make other queries and keys than the model used.
    for (auto& [name, tensor] : model->parameters())
        if (name.find("qkv.weight") != std::string::npos) tensor.mul_(-1.5);
    const MixingCheck check = capture->flow.block(1)->mixing->check().value();
    EXPECT_FALSE(check.passed);
    EXPECT_THAT(check.sentence, HasSubstr("differs from the output the model used"));
}

TEST(LargePictures, ACaptureOutlivesItsModel) {
    std::shared_ptr<const Capture> capture;
    at::Tensor wanted;
    {
        const auto model = VitModel::spread(small(), 3).value();
        const at::Tensor pixels = picture(48, 48);
        wanted = run_captured(*model, pixels).value()->flow.block(2)->mixing->rows({}, {}).value();
        capture = run_captured(*model, pixels, {.memory_budget = capture_cost(*model, 48, 48).inputs}).value();
    }
    EXPECT_TRUE(capture->flow.block(2)->mixing->rows({}, {})->equal(wanted));
}

TEST(LargePictures, TheCostIsKnownBeforeAnythingRuns) {
    VitConfig c;  // ViT-B/16, whose weights stay unmade
    c.width = 768;
    c.heads = 12;
    c.mlp_hidden = 3072;
    c.depth = 1;
    const auto model = VitModel::fresh(c, 1).value();
    const CaptureCost cost = capture_cost(*model, 6400, 6400, std::int64_t{1} << 30);
    EXPECT_EQ(cost.tokens, 160001);
    EXPECT_EQ(cost.whole, 160001LL * (4 * 768 + 12) * 4);
    EXPECT_EQ(cost.inputs, 160001LL * (768 + 12) * 4);
    EXPECT_EQ(cost.keep, CaptureCost::Keep::Inputs);
    EXPECT_EQ(cost.kept(), cost.inputs);
    EXPECT_GT(cost.flops, 4.0 * 160001.0 * 160001.0 * 768);
    EXPECT_GT(cost.seconds, 0);
    EXPECT_THAT(cost.sentence(1), HasSubstr("keeps 499.2 MB, the inputs of the layer"));
    EXPECT_EQ(capture_cost(*model, 6400, 6400, std::int64_t{4} << 30).keep, CaptureCost::Keep::Whole);
    // Refused with the figures and before the run: a picture of this size would take minutes.
    const auto refused =
        run_captured(*model, at::Tensor(picture(1, 1)).expand({1, 3, 6400, 6400}), {.memory_budget = 100'000'000});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::OutOfMemory);
    EXPECT_THAT(refused.error().message, HasSubstr("a capture of 160001 tokens does not fit into its budget of 100"));
    EXPECT_THAT(refused.error().message, HasSubstr("the inputs of the layer alone take 499.2 MB"));
}

TEST(LargePictures, HiddenTokensMadePieceByPieceGiveTheSameAnswer) {
    VitConfig c = small();
    c.depth = 1;
    c.mlp_hidden = 1 << 20;  // 32 tokens at a time
    const auto model = VitModel::spread(c, 3).value();
    const at::Tensor pixels = picture(48, 48);
    const at::Tensor pieces = run(*model, pixels).value();
    const auto graph = run_captured(*model, pixels, {.mixings = false, .gradients = true});  // at one go
    ASSERT_TRUE(graph) << graph.error().message;
    EXPECT_LT(largest(pieces - (*graph)->output), 1e-4 * largest(pieces));
}

}  // namespace
}  // namespace vitrine::plugin::vit
