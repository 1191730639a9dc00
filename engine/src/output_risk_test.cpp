// What is foretold where there is something to foretell, and that nothing is where there is not.
#include <vitrine/output_risk.h>

#include <gmock/gmock.h>

#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

namespace vitrine {
namespace {

using testing::HasSubstr;

at::Generator generator(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

struct Inputs {
    at::Tensor codes, scores;
    std::vector<std::int64_t> groups;
};
/// Sparse codes of which latents 3 and 5 raise the score and 7 lowers it; `per_group` inputs a group.
Inputs planted(std::int64_t inputs, std::int64_t latents, std::uint64_t seed, std::int64_t per_group = 1) {
    auto g = generator(seed);
    Inputs out;
    out.codes = at::randn({inputs, latents}, g, at::kFloat).clamp_min(0);
    const auto latent = [&](std::int64_t i) { return out.codes.select(1, i).to(at::kDouble); };
    out.scores = latent(3) + latent(5) - latent(7) + 0.3 * at::randn({inputs}, g, at::kDouble);
    for (std::int64_t i = 0; i < inputs; ++i) out.groups.push_back(i / per_group);
    return out;
}
std::set<std::int64_t> largest_of(const at::Tensor& beta, std::int64_t count) {
    const at::Tensor order = std::get<1>(beta.abs().topk(count));
    std::set<std::int64_t> out;
    for (std::int64_t i = 0; i < count; ++i) out.insert(order[i].item<std::int64_t>());
    return out;
}

TEST(OutputRisk, FindsThePlantedConceptsAndSaysHowWellTheyForetell) {
    Inputs data = planted(150, 60, 1);
    data.codes.select(1, 11).zero_();  // never active
    const auto risk = output_risk(data.codes, data.scores, data.groups, {.permutations = 50});
    ASSERT_TRUE(risk.has_value()) << risk.error().message;
    EXPECT_EQ(risk->used, 59);
    EXPECT_GT(risk->found.r2, 0.5);
    EXPECT_GT(*risk->found.auroc, 0.85);
    EXPECT_GT(*risk->found.spearman, 0.7);
    EXPECT_EQ(risk->p_r2, 1.0 / 51);
    EXPECT_EQ(risk->p_auroc, 1.0 / 51);
    EXPECT_EQ(largest_of(risk->beta, 3), (std::set<std::int64_t>{3, 5, 7}));
    EXPECT_GT(risk->beta[3].item<double>(), 0);
    EXPECT_LT(risk->beta[7].item<double>(), 0);
    EXPECT_EQ(risk->beta[11].item<double>(), 0);
    EXPECT_NEAR(risk->vip.square().sum().item<double>() / 59, 1, 1e-10);
    EXPECT_NEAR(risk->null.r2, 0, 0.5);
    EXPECT_LT(risk->null.r2, 0.1);
    for (const RiskFold& fold : risk->folds) EXPECT_EQ(largest_of(fold.beta, 3), (std::set<std::int64_t>{3, 5, 7}));
}

TEST(OutputRisk, PermutedScoresAreForetoldAsByChance) {
    const Inputs data = planted(80, 40, 2);
    const auto risk = output_risk(data.codes, data.scores, data.groups, {.permutations = 200});
    ASSERT_TRUE(risk.has_value()) << risk.error().message;
    EXPECT_NEAR(*risk->null.auroc, 0.5, 0.03);
    EXPECT_NEAR(*risk->null.spearman, 0, 0.05);
}

TEST(OutputRisk, ScoresThatHaveNothingToDoWithTheConceptsGetNoSmallP) {
    // Of ten such experiments about one half lies on each side; all ten below 0.1 or one below 1/200 would be chance's
    // once in 10^10 and 20 tries.
    double sum = 0;
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
        Inputs data = planted(60, 30, 10 + seed);
        data.scores = at::rand({60}, generator(100 + seed), at::kDouble);
        const auto risk = output_risk(data.codes, data.scores, data.groups, {.components = 4, .permutations = 40});
        ASSERT_TRUE(risk.has_value());
        sum += risk->p_r2 / 10;
    }
    EXPECT_GT(sum, 0.25);
    EXPECT_LT(sum, 0.75);
}

TEST(OutputRisk, VariantsOfAPictureAreNeverOnBothSides) {
    const Inputs data = planted(120, 30, 3, 4);
    const auto risk = output_risk(data.codes, data.scores, data.groups, {.permutations = 5});
    ASSERT_TRUE(risk.has_value());
    EXPECT_EQ(risk->groups, 30);
    std::set<std::int64_t> all;
    for (const RiskFold& fold : risk->folds) {
        std::set<std::int64_t> groups;
        for (const std::int64_t i : fold.held) {
            EXPECT_TRUE(all.insert(i).second);
            groups.insert(i / 4);
        }
        EXPECT_EQ(fold.held.size(), 4 * groups.size());
    }
    EXPECT_EQ(all.size(), 120u);
}

TEST(OutputRisk, EqualSeedsGiveEqualNumbers) {
    const Inputs data = planted(60, 30, 4);
    const auto run = [&](std::uint64_t seed) {
        return *output_risk(data.codes, data.scores, data.groups, {.permutations = 9, .seed = seed});
    };
    EXPECT_TRUE(run(1).predicted.equal(run(1).predicted));
    EXPECT_EQ(run(1).null.r2, run(1).null.r2);
    EXPECT_FALSE(run(1).predicted.equal(run(2).predicted));
}

TEST(OutputRisk, StopsAndRefuses) {
    Inputs data = planted(60, 30, 5);
    std::stop_source source;
    source.request_stop();
    EXPECT_EQ(output_risk(data.codes, data.scores, data.groups, {.stop = source.get_token()}).error().code,
              ErrorCode::Cancelled);
    const auto refusal = [&](const Inputs& d) {
        const auto risk = output_risk(d.codes, d.scores, d.groups, {});
        return risk ? std::string("foretold") : risk.error().message;
    };
    Inputs other = data;
    other.scores = at::ones({60}, at::kDouble);
    EXPECT_THAT(refusal(other), HasSubstr("all 60 scores are 1"));
    other.scores = data.scores / 0.0;
    EXPECT_THAT(refusal(other), HasSubstr("expected a number"));
    other = data;
    other.groups.assign(60, 7);
    EXPECT_THAT(refusal(other), HasSubstr("1 pictures are too few for 5 folds; 10 or more"));
    other = data;
    other.codes = at::zeros({60, 30});
    EXPECT_THAT(refusal(other), HasSubstr("no concept is active in 1 %"));
}

}  // namespace
}  // namespace vitrine
