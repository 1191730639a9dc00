// What is foretold where there is something to foretell, and that nothing is where there is not.
#include <vitrine/output_risk.h>

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
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

TEST(OutputRisk, IntervalsAreOverGroupsAndSpanWhatWasFound) {
    const auto width = [](const OutputRisk& r) { return r.high.r2 - r.low.r2; };
    const Inputs data = planted(150, 60, 1);
    const auto risk = output_risk(data.codes, data.scores, data.groups, {.permutations = 5});
    ASSERT_TRUE(risk.has_value()) << risk.error().message;
    EXPECT_LT(risk->low.r2, risk->found.r2);
    EXPECT_LT(risk->found.r2, risk->high.r2);
    EXPECT_LT(*risk->low.spearman, *risk->found.spearman);
    EXPECT_LT(*risk->found.spearman, *risk->high.spearman);
    EXPECT_LT(*risk->low.auroc, *risk->found.auroc);
    EXPECT_LT(*risk->found.auroc, *risk->high.auroc);
    // By hand: pictures drawn anew, predictions as they are.
    const double* said = risk->predicted.const_data_ptr<double>();
    const double* is = data.scores.const_data_ptr<double>();
    std::vector<double> r2;
    std::uint64_t state = 12345;
    for (int r = 0; r < 4000; ++r) {
        std::vector<std::size_t> drawn;
        for (int i = 0; i < 150; ++i) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            drawn.push_back(static_cast<std::size_t>((state >> 33) % 150));
        }
        double mean = 0, errors = 0, spread = 0;
        for (const auto i : drawn) mean += is[i] / 150;
        for (const auto i : drawn) {
            errors += (is[i] - said[i]) * (is[i] - said[i]);
            spread += (is[i] - mean) * (is[i] - mean);
        }
        r2.push_back(1 - errors / spread);
    }
    std::sort(r2.begin(), r2.end());
    EXPECT_NEAR(risk->low.r2, r2[100], 0.15 * width(*risk));
    EXPECT_NEAR(risk->high.r2, r2[3899], 0.15 * width(*risk));
    // Each input four times over says no more than once: whole groups are drawn. Were the inputs drawn, the interval
    // would be half as wide.
    Inputs four = data;
    four.codes = data.codes.repeat_interleave(4, 0);
    four.scores = data.scores.repeat_interleave(4, 0);
    four.groups.clear();
    for (std::int64_t i = 0; i < 600; ++i) four.groups.push_back(i / 4);
    const auto again = output_risk(four.codes, four.scores, four.groups, {.permutations = 0});
    ASSERT_TRUE(again.has_value()) << again.error().message;
    EXPECT_NEAR(width(*again) / width(*risk), 1, 0.2);
    const auto none = output_risk(data.codes, data.scores, data.groups, {.permutations = 5, .resamples = 0});
    EXPECT_TRUE(std::isnan(none->low.r2));
    EXPECT_FALSE(none->high.auroc.has_value());
    EXPECT_EQ(none->found.r2, risk->found.r2);
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
