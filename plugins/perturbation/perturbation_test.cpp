// Tests of the perturbation methods against formulas written out, model answers taken one by one.
#include "perturbation.h"

#include <cmath>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <vitrine/registry.h>

namespace vitrine::plugin::perturbation {
namespace {

using Set = std::vector<std::pair<const char*, std::string>>;

/// Few masks, so that the whole file takes seconds.
const std::map<std::string, Set>& small() {
    static const std::map<std::string, Set> all{{"occlusion", {{"window", "9"}, {"stride", "7"}}},
                                                {"feature_ablation", {}},
                                                {"rise", {{"masks", "140"}, {"error", "0"}}},
                                                {"lime", {{"samples", "40"}}},
                                                {"kernel_shap", {{"samples", "60"}}},
                                                {"sobol", {{"designs", "4"}, {"grid", "4"}}},
                                                {"hsic", {{"designs", "50"}, {"grid", "4"}}},
                                                {"vit_cx", {}},
                                                {"tis", {{"masks", "30"}}}};
    return all;
}

class Perturbation : public testing::Test {
  protected:
    void SetUp() override {
        use("vit", 32, 32);
        target.index = 2;
    }
    void use(const char* architecture, std::int64_t height, std::int64_t width) {
        model = registry().architecture(architecture).value()->tiny(3).value();
        // Waves and a little noise: superpixels need something to hold on to.
        const at::Tensor y = at::arange(height).reshape({1, -1, 1}), x = at::arange(width).reshape({1, 1, -1});
        const at::Tensor c = at::arange(3).reshape({3, 1, 1});
        input.pixels = ((y * 0.31 + c).sin() + (x * 0.23 - 2 * c).cos() +
                        0.3 * at::randn({3, height, width}, at::make_generator<at::CPUGeneratorImpl>(1)))
                           .unsqueeze(0);
    }
    Result<Attribution> explain(const std::string& method, Set set = {}, std::int64_t batch = 0, std::uint64_t seed = 0,
                                std::function<void(const Progress&)> progress = {}) {
        const Explainer* explainer = registry().explainer(method).value();
        ExplainContext context(*model, input, target, seed);
        context.batch = batch;
        context.progress = std::move(progress);
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return explainer->explain(context, settings);
    }
    double probability(const at::Tensor& answer) { return at::softmax(answer, 1)[0][*target.index].item<double>(); }
    double of(const at::Tensor& picture) {
        const at::NoGradGuard no_grad;
        return probability(model->forward(picture.to(at::kFloat).reshape(input.pixels.sizes())));
    }
    double of_kept(const at::Tensor& kept) {
        const at::NoGradGuard no_grad;
        return probability(model->forward_kept(input.pixels, at::nonzero(kept.flatten()).reshape({1, -1})));
    }
    static void expect_near(const at::Tensor& found, const at::Tensor& wanted, double share = 1e-4) {
        const at::Tensor want = wanted.to(at::kDouble).flatten(), have = found.to(at::kDouble).flatten();
        ASSERT_EQ(have.numel(), want.numel());
        const double range = (want.max() - want.min()).item<double>();
        ASSERT_GT(range, 0) << "proves nothing";
        EXPECT_LT((have - want).abs().max().item<double>(), share * range);
    }

    std::unique_ptr<Model> model;
    Input input;
    Target target;
};

TEST_F(Perturbation, NeitherBatchNorOrderChangesAMap) {
    for (const char* architecture : {"vit", "cnn"}) {
        use(architecture, 32, 32);
        for (const auto& [method, set] : small()) {
            if (registry().explainer(method).value()->why_not(*model)) continue;
            SCOPED_TRACE(fmt::format("{} on {}", method, architecture));
            const auto few = explain(method, set, 2, 5), many = explain(method, set, 7, 5);
            ASSERT_TRUE(few.has_value()) << few.error().message;
            expect_near(many->map, few->map, 2e-4);
        }
    }
}

TEST_F(Perturbation, EveryMethodCanLeavePatchesOut) {
    for (const auto& [method, set] : small()) {
        SCOPED_TRACE(method);
        Set with = set;
        with.emplace_back("fill", "remove");
        const auto found = explain(method, with);
        ASSERT_TRUE(found.has_value()) << found.error().message;
        EXPECT_TRUE(at::isfinite(found->map).all().item<bool>());
        EXPECT_GT((found->map.max() - found->map.min()).item<double>(), 0);
        if (method != "vit_cx") {
            EXPECT_EQ(found->map.sizes(), at::IntArrayRef({4, 4}));
            EXPECT_TRUE(found->on_tokens);
        }
        EXPECT_NE(found->implementation.find("left out"), std::string::npos);
        for (const Check& check : found->checks) {
            if (check.name != "standard error") {
                EXPECT_TRUE(check.passed) << check.finding;
            }
        }
    }
    use("cnn", 32, 32);
    for (const auto& [method, set] : small()) {
        const Explainer* explainer = registry().explainer(method).value();
        if (auto why = explainer->why_not(*model)) {
            EXPECT_FALSE(why->empty());
            continue;
        }
        const auto refused = explain(method, {{"fill", "remove"}});
        ASSERT_FALSE(refused.has_value()) << method;
        EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
    }
}

TEST_F(Perturbation, EveryFillAndEverySetOfFeaturesWorksOnPicturesThatAreNotSquare) {
    use("cnn", 24, 40);
    std::vector<at::Tensor> maps;
    for (const char* fill : {"zero", "black", "white", "mean", "segment", "blur", "noise"}) {
        const auto found = explain("feature_ablation", {{"features", "grid"}, {"grid", "3"}, {"fill", fill}});
        ASSERT_TRUE(found.has_value()) << fill << ": " << found.error().message;
        EXPECT_TRUE(at::isfinite(found->map).all().item<bool>()) << fill;
        for (const at::Tensor& other : maps)
            EXPECT_FALSE(found->map.equal(other)) << fill << " paints what another does";
        maps.push_back(found->map);
    }
    for (const char* method : {"occlusion", "lime", "kernel_shap", "sobol", "hsic", "rise"}) {
        const auto found = explain(method, small().at(method));
        ASSERT_TRUE(found.has_value()) << method << ": " << found.error().message;
        EXPECT_TRUE(at::isfinite(found->map).all().item<bool>()) << method;
        EXPECT_GT((found->map.max() - found->map.min()).item<double>(), 0) << method;
        if (!found->on_tokens) {
            EXPECT_EQ(found->map.sizes(), at::IntArrayRef({24, 40})) << method;
        }
    }
    for (const char* features : {"patches", "grid", "slic", "quickshift", "felzenszwalb"}) {
        const auto found = explain("feature_ablation", {{"features", features}});
        ASSERT_TRUE(found.has_value()) << features << ": " << found.error().message;
        EXPECT_EQ(found->map.size(0), found->on_tokens ? 8 : 24) << features;
    }
}

TEST_F(Perturbation, ProgressEndsAtItsTotal) {
    for (const auto& [method, set] : small()) {
        Progress last;
        std::int64_t before = 0;
        bool falls = false;
        ASSERT_TRUE(explain(method, set, 4, 0, [&](const Progress& p) {
                        falls |= p.done < before || p.done > p.total;
                        before = p.done;
                        last = p;
                    }).has_value());
        EXPECT_FALSE(falls) << method;
        EXPECT_EQ(last.done, last.total) << method;
        EXPECT_GT(last.done, 1) << method;
    }
}

TEST_F(Perturbation, OcclusionAndAblationAreDifferencesOfTwoAnswers) {
    const double whole = of(input.pixels);
    at::Tensor want = at::zeros({32, 32}, at::kDouble), times = at::zeros({32, 32}, at::kDouble);
    for (std::int64_t y = 0; y <= 28; y += 7)
        for (std::int64_t x = 0; x <= 28; x += 7) {
            at::Tensor hidden = input.pixels.clone();
            hidden.slice(2, y, std::min<std::int64_t>(y + 9, 32))
                .slice(3, x, std::min<std::int64_t>(x + 9, 32))
                .fill_(0);
            want.slice(0, y, y + 9).slice(1, x, x + 9).add_(whole - of(hidden));
            times.slice(0, y, y + 9).slice(1, x, x + 9).add_(1);
        }
    expect_near(explain("occlusion", small().at("occlusion"))->map, want / times);

    at::Tensor of_patches = at::zeros({16}, at::kDouble), left_out = at::zeros({16}, at::kDouble);
    for (std::int64_t i = 0; i < 16; ++i) {
        at::Tensor hidden = input.pixels.clone();
        hidden.narrow(2, i / 4 * 8, 8).narrow(3, i % 4 * 8, 8).fill_(0);
        of_patches[i] = whole - of(hidden);
        at::Tensor kept = at::ones({16}, at::kBool);
        kept[i].fill_(false);
        left_out[i] = whole - of_kept(kept);
    }
    expect_near(explain("feature_ablation")->map, of_patches);
    expect_near(explain("feature_ablation", {{"fill", "remove"}})->map, left_out);
    EXPECT_GT((of_patches - left_out).abs().max().item<double>(), 1e-3) << "painting and leaving out are two things";
}

TEST(RiseMasks, HangOnTheSeedAloneAndKeepWhatTheyShould) {
    const at::Tensor all = rise_masks(5, 0, 4000, 7, 0.3, 20, 33);
    EXPECT_TRUE(all.equal(at::cat({rise_masks(5, 0, 13, 7, 0.3, 20, 33), rise_masks(5, 13, 3987, 7, 0.3, 20, 33)})));
    EXPECT_FALSE(all.equal(rise_masks(6, 0, 4000, 7, 0.3, 20, 33)));
    EXPECT_GE(all.min().item<double>(), 0);
    EXPECT_LE(all.max().item<double>(), 1 + 1e-6);
    // 4000 masks of some 37 seen cells of variance 0.21: four standard errors of the mean of all, five of a pixel's.
    EXPECT_NEAR(all.mean().item<double>(), 0.3, 0.005);
    EXPECT_LT((all.mean(0) - 0.3).abs().max().item<double>(), 0.036);
}

TEST(RiseSums, TellTheirStandardErrorHonestly) {
    // A linear score of the mask and noise: maps of many seeds scatter as each one says of itself.
    const std::int64_t rows = 12, cells = rows * rows, masks = 150;
    auto random = at::make_generator<at::CPUGeneratorImpl>(2);
    const at::Tensor weights = at::rand({cells}, random) / static_cast<double>(cells);
    double spread[2] = {0, 0};
    for (const bool centred : {false, true}) {
        std::vector<at::Tensor> maps, errors;
        for (std::uint64_t seed = 0; seed < 60; ++seed) {
            const at::Tensor m = rise_masks(seed, 0, masks, 4, 0.5, rows, rows);
            const at::Tensor f = 0.4 + m.matmul(weights) + 0.05 * at::randn({masks}, random);
            RiseSum sum(0.5, centred);
            sum.add(m.narrow(0, 0, 40), f.narrow(0, 0, 40));
            sum.add(m.narrow(0, 40, masks - 40), f.narrow(0, 40, masks - 40));
            maps.push_back(sum.map());
            errors.push_back(sum.error());
            // The same from all numbers at once.
            const at::Tensor z = (centred ? (f - f.mean()).unsqueeze(1) * m : f.unsqueeze(1) * m).to(at::kDouble) / 0.5;
            EXPECT_LT((sum.error() - z.std(0) / std::sqrt(static_cast<double>(masks))).abs().max().item<double>(),
                      1e-5);
        }
        const double found = at::stack(maps).std(0).mean().item<double>(),
                     said = at::stack(errors).mean().item<double>();
        // 60 maps: a standard deviation is known to some 10 %, and neighbouring pixels move together.
        EXPECT_GT(said, 0.8 * found);
        EXPECT_LT(said, 1.25 * found);
        spread[centred ? 1 : 0] = found;
    }
    EXPECT_LT(spread[1], 0.5 * spread[0]) << "centring is there to take noise away";
}

TEST_F(Perturbation, ProgressiveRiseEndsEarlyNearTheFullMap) {
    const auto full = explain("rise", {{"masks", "1500"}, {"error", "0"}});
    const auto early = explain("rise", {{"masks", "1500"}, {"error", "0.15"}});
    ASSERT_TRUE(full && early);
    const auto passes = [](const Attribution& a) { return std::stoll(a.implementation); };
    EXPECT_EQ(passes(*full), 1500);
    EXPECT_LT(passes(*early), 1000);
    EXPECT_TRUE(early->checks.at(0).passed);
    const double range = (full->map.max() - full->map.min()).item<double>();
    EXPECT_LT((early->map - full->map).abs().mean().item<double>(), 0.2 * range);
}

TEST(Lime, FindsALinearModelAndWeighsNearSamplesMore) {
    const at::Tensor samples = lime_samples(3, 200, 9);
    EXPECT_EQ(samples[0].sum().item<double>(), 9);
    EXPECT_NEAR(samples.mean().item<double>(), 0.5, 0.05);
    const at::Tensor weights = lime_weights(samples, 0.25);
    for (std::int64_t i = 0; i < 200; ++i) {
        const double kept = samples[i].sum().item<double>();
        const double d = 1 - (kept > 0 ? kept / (std::sqrt(kept) * 3) : 0);
        EXPECT_NEAR(weights[i].item<double>(), std::sqrt(std::exp(-d * d / 0.0625)), 1e-6);
    }
    const at::Tensor truth = at::randn({9}, at::make_generator<at::CPUGeneratorImpl>(4)).to(at::kDouble);
    const at::Tensor scores = samples.to(at::kDouble).matmul(truth) + 0.7;
    EXPECT_LT((ridge(samples, scores, weights, 0) - truth).abs().max().item<double>(), 1e-9);
    EXPECT_LT(ridge(samples, scores, weights, 1e6).abs().max().item<double>(), 1e-2);
}

TEST(KernelShap, SharesOutAnAdditiveGameExactlyAndSumsToTheChange) {
    const std::int64_t features = 7;
    const at::Tensor samples = shap_samples(5, 400, features);
    EXPECT_EQ(samples[0].sum().item<double>(), 7);
    EXPECT_EQ(samples[1].sum().item<double>(), 0);
    // Sizes 1 to 6 by 6 / (k (7 - k)): 1, 3/5, 1/2, 1/2, 3/5, 1 of 4.2.
    const at::Tensor sizes = samples.slice(0, 2).sum(1);
    for (const auto& [size, share] : {std::pair{1, 1 / 4.2}, {2, 0.6 / 4.2}, {3, 0.5 / 4.2}, {6, 1 / 4.2}})
        EXPECT_NEAR((sizes == size).to(at::kFloat).mean().item<double>(), share, 0.08) << size;
    const at::Tensor truth = at::randn({features}, at::make_generator<at::CPUGeneratorImpl>(4)).to(at::kDouble);
    const at::Tensor x = samples.to(at::kDouble), additive = x.matmul(truth) + 0.3;
    EXPECT_LT((shap_values(samples, additive) - truth).abs().max().item<double>(), 1e-8);
    const at::Tensor crossed = additive + 2 * x.select(1, 0) * x.select(1, 3);
    const at::Tensor found = shap_values(samples, crossed);
    EXPECT_NEAR(found.sum().item<double>(), (crossed[0] - crossed[1]).item<double>(), 1e-3);
    // Two alike players share what they only have together, up to the sampling of 400 subsets.
    EXPECT_NEAR((found[0] - truth[0]).item<double>(), 1, 0.2);
    EXPECT_NEAR((found[3] - truth[3]).item<double>(), 1, 0.2);
    // Fewer samples than features: the smallest solution, as LAPACK's gelsd gives it.
    EXPECT_TRUE(at::isfinite(shap_values(samples.narrow(0, 0, 4), additive.narrow(0, 0, 4))).all().item<bool>());
}

TEST(SobolPoints, AreThoseThatTensorFlowPublishes) {
    // Rows 0, 1, 3 and 7 of tensorflow/python/ops/sobol_ops_test.py, known values.
    const at::Tensor found = sobol_points(8, 5).value();
    const at::Tensor want = at::tensor({0.5,   0.5,   0.5,   0.5,   0.5,   0.75,   0.25,   0.25,   0.25,   0.75,
                                        0.375, 0.375, 0.625, 0.875, 0.375, 0.1875, 0.3125, 0.9375, 0.4375, 0.5625})
                                .reshape({4, 5});
    EXPECT_TRUE(found.index_select(0, at::tensor({0, 1, 3, 7})).equal(want.to(at::kFloat)));
    EXPECT_EQ(sobol_points(8, 30000).error().code, ErrorCode::BadInput);
}

TEST_F(Perturbation, SobolIsJansensEstimatorWrittenOut) {
    const std::int64_t n = 8, d = 9;
    const at::Tensor points = sobol_points(n, 2 * d).value();
    const auto masked = [&](const at::Tensor& row) {
        const auto cells = [](const at::Tensor& i) { return ((i + 0.5) * 3 / 32).floor().to(at::kLong); };
        const at::Tensor at = cells(at::arange(32));
        return of(input.pixels * row.reshape({3, 3}).index_select(0, at).index_select(1, at));
    };
    std::vector<double> a;
    double mean = 0, variance = 0;
    for (std::int64_t i = 0; i < n; ++i) a.push_back(masked(points[i].narrow(0, 0, d)));
    for (const double v : a) mean += v / static_cast<double>(n);
    for (const double v : a) variance += (v - mean) * (v - mean) / static_cast<double>(n - 1);
    at::Tensor want = at::zeros({d}, at::kDouble);
    for (std::int64_t k = 0; k < d; ++k) {
        double sum = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            at::Tensor row = points[i].narrow(0, 0, d).clone();
            row[k] = points[i][d + k];
            const double c = masked(row);
            sum += (a[static_cast<std::size_t>(i)] - c) * (a[static_cast<std::size_t>(i)] - c);
        }
        want[k] = sum / (2 * static_cast<double>(n) * variance);
    }
    expect_near(explain("sobol", {{"grid", "3"}, {"designs", "8"}})->map, want);
}

TEST_F(Perturbation, HsicIsTheTraceOfItsCentredKernels) {
    const std::int64_t n = 40, d = 16;
    const at::Tensor masks = sobol_points(n, d).value().gt(0.5).to(at::kDouble);
    at::Tensor y = at::zeros({n}, at::kDouble);
    for (std::int64_t i = 0; i < n; ++i) {
        const at::Tensor m = masks[i].reshape({4, 4}).repeat_interleave(8, 0).repeat_interleave(8, 1);
        y[i] = of(input.pixels * m);
    }
    const at::Tensor sorted = std::get<0>(y.sort());
    const double width = (sorted[n / 2 - 1] + sorted[n / 2]).item<double>() / 2;
    const at::Tensor h = at::eye(n, at::kDouble) - 1.0 / static_cast<double>(n);
    const at::Tensor l = (-(y.unsqueeze(1) - y).square() / (2 * width * width)).exp();
    at::Tensor want = at::zeros({d}, at::kDouble);
    for (std::int64_t k = 0; k < d; ++k) {
        const at::Tensor x = masks.select(1, k);
        const at::Tensor kernel = 1 + (0.5 - (x.unsqueeze(1) - x).square());
        want[k] = (h.matmul(kernel).matmul(h) * h.matmul(l).matmul(h).t()).sum() / static_cast<double>(n);
    }
    expect_near(explain("hsic", {{"grid", "4"}, {"designs", "40"}})->map, want);
}

/// Complete linkage as its definition says: the two nearest clusters join while they are below the threshold.
std::set<std::set<std::int64_t>> joined(const at::Tensor& d, double threshold) {
    std::vector<std::set<std::int64_t>> clusters;
    for (std::int64_t i = 0; i < d.size(0); ++i) clusters.push_back({i});
    while (clusters.size() > 1) {
        double best = threshold;
        std::size_t a = 0, b = 0;
        for (std::size_t i = 0; i < clusters.size(); ++i)
            for (std::size_t j = i + 1; j < clusters.size(); ++j) {
                double far = 0;
                for (const auto p : clusters[i])
                    for (const auto q : clusters[j]) far = std::max(far, d[p][q].item<double>());
                if (far < best) {
                    best = far;
                    a = i;
                    b = j;
                }
            }
        if (b == 0) break;
        clusters[a].merge(clusters[b]);
        clusters.erase(clusters.begin() + static_cast<std::ptrdiff_t>(b));
    }
    return {clusters.begin(), clusters.end()};
}

std::set<std::set<std::int64_t>> as_sets(const std::vector<std::int64_t>& labels) {
    std::map<std::int64_t, std::set<std::int64_t>> by;
    for (std::size_t i = 0; i < labels.size(); ++i) by[labels[i]].insert(static_cast<std::int64_t>(i));
    std::set<std::set<std::int64_t>> out;
    for (const auto& [label, members] : by) out.insert(members);
    return out;
}

TEST(CompleteLinkage, JoinsTheNearestUpToTheThreshold) {
    auto random = at::make_generator<at::CPUGeneratorImpl>(6);
    std::set<std::size_t> counts;
    for (int round = 0; round < 4; ++round) {
        const at::Tensor points = at::randn({18, 2}, random).to(at::kDouble);
        const at::Tensor d = (points.unsqueeze(1) - points.unsqueeze(0)).square().sum(2).sqrt();
        for (const double threshold : {0.0, 0.3, 0.8, 2.0, 100.0}) {
            const auto found = as_sets(complete_linkage(d, threshold));
            EXPECT_EQ(found, joined(d, threshold)) << threshold;
            counts.insert(found.size());
        }
    }
    EXPECT_GT(counts.size(), 4U);
}

TEST(KMeans, EndsWhereEveryCentreIsTheMeanOfItsPoints) {
    const at::Tensor points = at::randn({300, 5}, at::make_generator<at::CPUGeneratorImpl>(8));
    const at::Tensor centres = k_means(points, 12, 1, {}).value();
    ASSERT_EQ(centres.size(0), 12);
    const at::Tensor of = (points.unsqueeze(1) - centres).square().sum(2).argmin(1);
    for (std::int64_t k = 0; k < 12; ++k) {
        const at::Tensor mine = points.index_select(0, at::nonzero(of == k).reshape({-1}));
        ASSERT_GT(mine.size(0), 0);
        EXPECT_LT((mine.mean(0) - centres[k]).abs().max().item<double>(), 0.02);
    }
    EXPECT_TRUE(centres.equal(k_means(points, 12, 1, {}).value()));
    EXPECT_FALSE(centres.equal(k_means(points, 12, 2, {}).value()));
    EXPECT_EQ(k_means(points.narrow(0, 0, 4), 12, 1, {})->size(0), 4);
}

TEST_F(Perturbation, VitCxIsItsDefinitionOnWholeMasks) {
    const at::NoGradGuard no_grad;
    const auto capture =
        run_captured(*model, input.pixels, {.mixings = false, .points = {model->info().cam_point}}).value();
    const at::Tensor features =
        as_grid(capture->points.at(model->info().cam_point), model->layout(32, 32)).value().to(at::kDouble);
    const auto norm = [](at::Tensor m) {  // rows from 0 to 1
        m = m - std::get<0>(m.min(1, true));
        return m / std::get<0>(m.max(1, true));
    };
    const at::Tensor masks = norm(at::upsample_bilinear2d(features, {32, 32}, false)[0].reshape({-1, 32 * 32}));
    const at::Tensor unit = masks / masks.norm(2, 1, true);
    const auto clusters = joined(1 - unit.matmul(unit.t()), 0.1);
    ASSERT_GT(clusters.size(), 1U);
    ASSERT_LT(clusters.size(), static_cast<std::size_t>(masks.size(0)));
    // The noise of mask i is drawn for it: clusters count by their first channel.
    std::vector<at::Tensor> sums;
    for (const auto& cluster : clusters) {
        at::Tensor sum = at::zeros({32 * 32}, at::kDouble);
        for (const auto i : cluster) sum += masks[i];
        sums.push_back(sum);
    }
    const at::Tensor groups = norm(at::stack(sums));
    const auto n = static_cast<double>(groups.size(0));
    const at::Tensor share = groups / groups.sum(0);
    const double whole = of(input.pixels);
    at::Tensor want = at::zeros({32 * 32}, at::kDouble);
    for (std::int64_t i = 0; i < groups.size(0); ++i) {
        const at::Tensor m = groups[i].reshape({32, 32});
        const at::Tensor noise = vit_cx_noise(9, i, 32, 32) * 0.1 * (1 - m);
        want += (of(input.pixels * m + noise) - of(input.pixels + noise) + whole) * share[i] / n;
    }
    const auto found = explain("vit_cx", {}, 0, 9);
    ASSERT_TRUE(found.has_value()) << found.error().message;
    expect_near(found->map, want);
}

TEST_F(Perturbation, TisIsTheMeanScoreOfTheMasksThatKeepAPatch) {
    std::vector<std::string> blocks;
    for (std::int64_t i = 0; i < model->info().layers; ++i) blocks.push_back("blocks." + std::to_string(i));
    const auto capture = run_captured(*model, input.pixels, {.mixings = false, .points = blocks}).value();
    std::vector<at::Tensor> channels;
    for (const auto& block : blocks) {
        const at::Tensor tokens = capture->points.at(block)[0];
        channels.push_back(tokens.narrow(0, tokens.size(0) - 16, 16).t());
    }
    const at::Tensor centres = k_means(at::cat(channels).contiguous(), 20, 4, {}).value();
    at::Tensor sum = at::zeros({16}, at::kDouble), times = at::zeros({16}, at::kDouble);
    for (std::int64_t i = 0; i < 20; ++i) {
        at::Tensor kept = at::zeros({16}, at::kBool);
        kept.index_fill_(0, std::get<1>(centres[i].topk(8)), true);
        sum += of_kept(kept) * kept;
        times += kept;
    }
    ASSERT_GT(times.min().item<double>(), 0);
    expect_near(explain("tis", {{"masks", "20"}}, 0, 4)->map, sum / times);
}

TEST_F(Perturbation, SuperpixelsOfPatchesAreThoseThatCoverMostOfThem) {
    ExplainContext context(*model, input, target);
    Canvas pixels = Canvas::make(context, "zero", 0).value(), patches = Canvas::make(context, "remove", 0).value();
    Settings settings(registry().explainer("lime").value()->parameters());
    ASSERT_TRUE(settings.set("features", "slic").has_value());
    ASSERT_TRUE(settings.set("segments", "6").has_value());
    const Features fine = features_of(pixels, settings).value(), coarse = features_of(patches, settings).value();
    ASSERT_EQ(coarse.of.numel(), 16);
    ASSERT_GT(coarse.count, 1);
    const at::Tensor labels = fine.of.reshape({4, 8, 4, 8}).permute({0, 2, 1, 3}).reshape({16, 64});
    for (std::int64_t p = 0; p < 16; ++p)
        for (std::int64_t q = 0; q < 16; ++q) {
            const auto main = [&](std::int64_t patch) {
                return labels[patch].bincount({}, fine.count).argmax().item<std::int64_t>();
            };
            EXPECT_EQ(coarse.of[p].item<std::int64_t>() == coarse.of[q].item<std::int64_t>(), main(p) == main(q));
        }
}

}  // namespace
}  // namespace vitrine::plugin::perturbation
