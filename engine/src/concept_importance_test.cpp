// Total Sobol indices against functions whose own are known, and runs with other activations.
#include <vitrine/concept_importance.h>

#include <gmock/gmock.h>

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>

#include <vitrine/engine.h>

namespace vitrine {
namespace {

using testing::HasSubstr;

TEST(ReplicatedDesign, IsTheSequencesFirstPoints) {
    const at::Tensor halton = replicated_design(2, 4, "halton").value();
    ASSERT_EQ(halton.sizes(), at::IntArrayRef({16, 2}));
    // The digits of 0, 1, 2, 3 to the bases 2, 3 (A) and 5, 7 (B), turned about the point.
    const at::Tensor a = at::tensor({0.0, 0.0, 1 / 2.0, 1 / 3.0, 1 / 4.0, 2 / 3.0, 3 / 4.0, 1 / 9.0}).view({4, 2});
    const at::Tensor b = at::tensor({0.0, 0.0, 1 / 5.0, 1 / 7.0, 2 / 5.0, 2 / 7.0, 3 / 5.0, 3 / 7.0}).view({4, 2});
    EXPECT_LT((halton.narrow(0, 0, 4) - a).abs().max().item<double>(), 1e-7);
    EXPECT_LT((halton.narrow(0, 4, 4) - b).abs().max().item<double>(), 1e-7);
    EXPECT_TRUE(at::equal(halton.narrow(0, 8, 4).select(1, 0), halton.narrow(0, 4, 4).select(1, 0)));
    EXPECT_TRUE(at::equal(halton.narrow(0, 8, 4).select(1, 1), halton.narrow(0, 0, 4).select(1, 1)));
    EXPECT_TRUE(at::equal(halton.narrow(0, 12, 4).select(1, 0), halton.narrow(0, 0, 4).select(1, 0)));
    const at::Tensor sobol = replicated_design(2, 4, "sobol").value();
    const at::Tensor first = at::tensor({0.0, 0.0, 0.5, 0.5, 0.75, 0.25, 0.25, 0.75}).view({4, 2});
    EXPECT_TRUE(at::equal(sobol.narrow(0, 0, 4).to(at::kDouble), first.to(at::kDouble)));
    EXPECT_THAT(replicated_design(2, 4, "hammersley").error().message, HasSubstr("expected halton or sobol"));
    EXPECT_THAT(replicated_design(0, 4, "sobol").error().message, HasSubstr("found 0 and 4"));
}

TEST(TotalIndices, AreThoseOfKnownFunctions) {
    const std::int64_t designs = 1024;
    const at::Tensor m = replicated_design(3, designs, "sobol").value().to(at::kDouble);
    const at::Tensor x = m.select(1, 0), y = m.select(1, 1);
    // Independent and uniform: 2 x + y has 4 / 5 and 1 / 5 of its variance from each, and nothing from the third.
    const at::Tensor sum = total_indices(2 * x + y, 3, designs);
    EXPECT_NEAR(sum[0].item<double>(), 0.8, 0.01);
    EXPECT_NEAR(sum[1].item<double>(), 0.2, 0.01);
    EXPECT_EQ(sum[2].item<double>(), 0);
    // Of a product, 1 / 9 - 1 / 16 in all, the shares overlap: each total is E[y^2] Var x = 1 / 36 over it, 4 / 7.
    const at::Tensor product = total_indices(x * y, 3, designs);
    EXPECT_NEAR(product[0].item<double>(), 4.0 / 7, 0.01);
    EXPECT_NEAR(product[1].item<double>(), 4.0 / 7, 0.01);
    // A constant has none, and no division by zero.
    EXPECT_EQ(total_indices(0 * x + 3, 3, designs).abs().max().item<double>(), 0);
}

TEST(AnswersWith, TheOwnActivationIsTheOwnAnswer) {
    const auto model = *open_model("starter");
    const Input input = *load_input(builtin_pictures().at(0), model->preprocess());
    Target target;
    target.index = 3;
    ExplainContext context(*model, input, target);
    const Objective objective = *context.objective();
    CaptureOptions options;
    options.mixings = false;
    for (const char* point : {"blocks.6", "blocks.8.norm1"}) {
        options.points = {point};
        const auto seen = *run_captured(*model, input.pixels, options);
        const at::Tensor x = seen->points.at(point);
        const at::Tensor found =
            *answers_with(context, objective, point, 9, [&](std::int64_t from, std::int64_t count) {
                std::vector<at::Tensor> out;
                for (std::int64_t i = from; i < from + count; ++i) out.push_back(i == 4 ? x * 0.5 : x);
                return at::cat(out);
            });
        const double own = seen->output[0][3].item<double>();
        EXPECT_NEAR(found[0].item<double>(), own, 1e-4);
        EXPECT_NEAR(found[8].item<double>(), own, 1e-4);
        EXPECT_GT(std::abs(found[4].item<double>() - own), 1e-3);
    }
}

}  // namespace
}  // namespace vitrine
