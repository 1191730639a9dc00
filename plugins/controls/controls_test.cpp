// Tests of the controls on a picture whose edges and centre are known.
#include "controls.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <vitrine/control.h>
#include <vitrine/registry.h>

namespace vitrine::plugin::controls {
namespace {

class Controls : public testing::Test {
  protected:
    Attribution draw(const std::unique_ptr<Explainer>& control, const char* architecture = "vit",
                     std::uint64_t seed = 0) {
        auto model = registry().architecture(architecture).value()->tiny(1).value();
        const Preprocess& p = model->preprocess();
        Input input;
        input.pixels = at::zeros({1, 3, p.input_height, p.input_width});
        // One white half: an edge in the middle, between two columns.
        input.pixels.narrow(3, p.input_width / 2, p.input_width - p.input_width / 2).fill_(1);
        ExplainContext context(*model, input, {}, seed);
        return control->explain(context, Settings(control->parameters())).value();
    }
};

TEST_F(Controls, SayThatTheyExplainNothing) {
    for (const auto& control : {make_random, make_centre_gaussian, make_edges, make_constant})
        for (const char* architecture : {"vit", "cnn"}) EXPECT_TRUE(is_control(draw(control(), architecture)));
}

TEST_F(Controls, EdgesLieOnTheEdge) {
    const at::Tensor map = draw(make_edges()).map;
    const std::int64_t middle = map.size(1) / 2;
    EXPECT_GT(map.select(1, middle).min().item<double>(), 0);
    EXPECT_TRUE(map.select(1, middle).equal(map.select(1, middle - 1)));
    // Elsewhere only what is left of sums that cancel.
    EXPECT_LT(map.narrow(1, 0, middle - 1).abs().max().item<double>(), 1e-6);
    EXPECT_LT(map.narrow(1, middle + 1, map.size(1) - middle - 1).abs().max().item<double>(), 1e-6);
    // The step in grey, times the four weights of a Sobel kernel's side.
    auto model = registry().architecture("vit").value()->tiny(1).value();
    const auto& s = model->preprocess().std;
    EXPECT_NEAR(map[0][middle].item<double>(), 4 * (0.299 * s[0] + 0.587 * s[1] + 0.114 * s[2]), 1e-5);
}

TEST_F(Controls, TheCentreIsHighestAndRound) {
    const at::Tensor map = draw(make_centre_gaussian()).map;
    EXPECT_TRUE(map.equal(map.t()));
    EXPECT_TRUE(map.equal(map.flip({0})));
    const std::int64_t peak = map.argmax().item<std::int64_t>();
    EXPECT_EQ(peak / map.size(1), (map.size(0) - 1) / 2);
    EXPECT_EQ(peak % map.size(1), (map.size(1) - 1) / 2);
}

TEST_F(Controls, RandomFollowsTheSeedAlone) {
    for (const char* architecture : {"vit", "cnn"}) {
        const at::Tensor one = draw(make_random(), architecture, 1).map;
        EXPECT_TRUE(one.equal(draw(make_random(), architecture, 1).map));
        EXPECT_FALSE(one.equal(draw(make_random(), architecture, 2).map));
    }
}

TEST_F(Controls, ConstantIsFlat) {
    const at::Tensor map = draw(make_constant()).map;
    EXPECT_EQ(map.min().item<double>(), map.max().item<double>());
}

}  // namespace
}  // namespace vitrine::plugin::controls
