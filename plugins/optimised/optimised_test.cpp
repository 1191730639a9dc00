// Tests of the optimised masks: every term against loops in double precision and finite differences, the steps against
// a graph through the whole model, pictures and tokens of which it is known what decides.
#include "optimised.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/registry.h>

#include "../../tests/cases/plain_vit.h"

namespace vitrine::plugin::optimised {
namespace {

using testing::HasSubstr;

at::Tensor draw(at::IntArrayRef shape, std::uint64_t seed) {
    return at::rand(shape, at::make_generator<at::CPUGeneratorImpl>(seed)).to(at::kDouble);
}

void expect_near(const at::Tensor& found, const at::Tensor& wanted, double most) {
    ASSERT_EQ(found.sizes(), wanted.sizes());
    EXPECT_GT((wanted.max() - wanted.min()).item<double>(), 10 * most) << "proves nothing";
    EXPECT_LE((found.to(at::kDouble) - wanted.to(at::kDouble)).abs().max().item<double>(), most);
}

/// The graph's gradient of `f` at `x` against central differences.
void expect_slope(const std::function<at::Tensor(const at::Tensor&)>& f, const at::Tensor& x, double most = 1e-6) {
    constexpr double kStep = 1e-5;
    const at::AutoGradMode with_graph(true);
    const at::Tensor leaf = x.detach().clone().requires_grad_(true);
    const auto found = gradients(f(leaf), {leaf}, {"x"});
    ASSERT_TRUE(found) << found.error().message;
    at::Tensor wanted = at::zeros_like(x), moved = x.detach().clone();
    for (std::int64_t i = 0; i < x.numel(); ++i) {
        auto* value = moved.mutable_data_ptr<double>() + i;
        const double was = *value;
        *value = was + kStep;
        const double above = f(moved).item<double>();
        *value = was - kStep;
        const double below = f(moved).item<double>();
        *value = was;
        wanted.mutable_data_ptr<double>()[i] = (above - below) / (2 * kStep);
    }
    expect_near(found->front(), wanted, most);
}

// ---- terms ---------------------------------------------------------------------------------------------------------

TEST(Terms, HiddenAreaAndRoughnessAreTheirFormulas) {
    const at::Tensor m = draw({5, 7}, 1);
    const auto at = m.accessor<double, 2>();
    for (const double beta : {1.0, 2.0, 3.0}) {
        double area = 0, y = 0, x = 0;
        for (int i = 0; i < 5; ++i)
            for (int j = 0; j < 7; ++j) {
                area += std::abs(1 - at[i][j]);
                if (i > 0) y += std::pow(std::abs(at[i][j] - at[i - 1][j]), beta);
                if (j > 0) x += std::pow(std::abs(at[i][j] - at[i][j - 1]), beta);
            }
        EXPECT_NEAR(hidden_area(m, false).item<double>(), area, 1e-12);
        EXPECT_NEAR(hidden_area(m, true).item<double>(), area / 35, 1e-12);
        EXPECT_NEAR(roughness(m, beta, false).item<double>(), y + x, 1e-12);
        EXPECT_NEAR(roughness(m, beta, true).item<double>(), y / 28 + x / 30, 1e-12);
        for (const bool mean : {false, true}) {
            expect_slope([&](const at::Tensor& v) { return roughness(v, beta, mean); }, m);
            expect_slope([&](const at::Tensor& v) { return (draw({5, 7}, 2) * v).sum() + hidden_area(v, mean); }, m);
        }
    }
}

TEST(Terms, SmoothMasksAreTheMaxConvolutionWrittenOut) {
    constexpr int kHeight = 11, kWidth = 14, kStep = 3;
    constexpr double kSigma = 4;
    const SmoothMask smooth(kHeight, kWidth, kStep, kSigma, at::TensorOptions(at::kDouble));
    ASSERT_EQ(smooth.rows(), 4);
    ASSERT_EQ(smooth.cols(), 5);
    const at::Tensor p = draw({4, 5}, 3), found = smooth.inner(smooth.whole(p));
    ASSERT_EQ(found.sizes(), at::IntArrayRef({kHeight, kWidth}));
    const auto value = p.accessor<double, 2>();
    at::Tensor wanted = at::zeros({kHeight, kWidth}, at::kDouble);
    constexpr int kRadius = 1 + 2;              // 1 + ceil(sigma / step)
    constexpr int kPadding = 1 + 3, kEdge = 4;  // 1 + ceil(2 sigma / step), sigma
    for (int y = 0; y < kHeight; ++y)
        for (int x = 0; x < kWidth; ++x) {
            double over = 0, under = 0;
            for (int a = 0; a <= 2 * kRadius; ++a)
                for (int b = 0; b <= 2 * kRadius; ++b) {
                    const int i = (y + kEdge) / kStep + a - kPadding, j = (x + kEdge) / kStep + b - kPadding;
                    const double z = std::hypot(y - kStep * i, x - kStep * j) / kSigma;
                    const bool there = i >= 0 && i < 4 && j >= 0 && j < 5;
                    const double w = there ? value[i][j] * std::exp(-2 * std::pow(std::max(z - 0.5, 0.0), 2)) : 0;
                    over += w * std::exp(20 * w);
                    under += std::exp(20 * w);
                }
            wanted[y][x].fill_(over / under);
        }
    expect_near(found, wanted, 1e-12);
    // A parameter spreads no further than its kernel, and a mask of ones is near 1 all over the picture.
    at::Tensor one = at::zeros({4, 5}, at::kDouble);
    one[1][1].fill_(1.0);
    const at::Tensor spot = smooth.inner(smooth.whole(one));
    EXPECT_EQ(spot[3][3].item<double>(), spot.max().item<double>());
    EXPECT_LT(spot[10][13].item<double>(), 1e-3);
    EXPECT_GT(smooth.inner(smooth.whole(at::ones({4, 5}, at::kDouble))).min().item<double>(), 0.8);
    const at::Tensor weights = draw({kHeight, kWidth}, 4);
    expect_slope([&](const at::Tensor& v) { return (smooth.inner(smooth.whole(v)) * weights).sum(); }, p);
}

TEST(Terms, TheRankPenaltyComparesSortedValues) {
    const at::Tensor m = draw({6, 5}, 5);
    std::vector<double> sorted(m.const_data_ptr<double>(), m.const_data_ptr<double>() + 30);
    std::sort(sorted.begin(), sorted.end());
    double wanted = 0;
    for (int i = 0; i < 30; ++i) wanted += std::pow(sorted[static_cast<std::size_t>(i)] - (i < 24 ? 0 : 1), 2) / 30;
    EXPECT_NEAR(rank_penalty(m, 0.2).item<double>(), wanted, 1e-12);
    expect_slope([&](const at::Tensor& v) { return rank_penalty(v, 0.2); }, m);
    // Nothing is to pay for exactly that area, wherever it is.
    at::Tensor exact = at::zeros({6, 5}, at::kDouble);
    exact[2].fill_(1.0);
    exact[4][3].fill_(1.0);
    EXPECT_NEAR(rank_penalty(exact, 0.2).item<double>(), 0, 1e-12);
}

TEST(Terms, ThePyramidIsReadBetweenItsLevels) {
    const at::Tensor x = draw({1, 3, 9, 8}, 6), pyramid = blur_pyramid(x, 4, 1.5);
    ASSERT_EQ(pyramid.sizes(), at::IntArrayRef({4, 3, 9, 8}));
    EXPECT_TRUE(pyramid[3].equal(x[0])) << "the last level is the picture";
    // One pixel of the strongest level, its Gaussian written out; beyond the picture there is 0.
    double sum = 0, weight = 0;
    for (int k = -6; k <= 6; ++k) weight += std::exp(-0.5 * k * k / 2.25);
    for (int dy = -6; dy <= 6; ++dy)
        for (int dx = -6; dx <= 6; ++dx) {
            const int i = 1 + dy, j = 6 + dx;
            if (i < 0 || i >= 9 || j < 0 || j >= 8) continue;
            sum += x[0][2][i][j].item<double>() * std::exp(-0.5 * (dy * dy + dx * dx) / 2.25) / (weight * weight);
        }
    EXPECT_NEAR(pyramid[0][2][1][6].item<double>(), sum, 1e-12);

    const at::Tensor mask = draw({9, 8}, 7), found = look_into(pyramid, mask);
    at::Tensor wanted = at::zeros({1, 3, 9, 8}, at::kDouble);
    for (int i = 0; i < 9; ++i)
        for (int j = 0; j < 8; ++j) {
            const double depth = 3 * mask[i][j].item<double>();
            const int low = std::min(static_cast<int>(depth), 2);
            for (int c = 0; c < 3; ++c)
                wanted[0][c][i][j].fill_((1 - (depth - low)) * pyramid[low][c][i][j].item<double>() +
                                         (depth - low) * pyramid[low + 1][c][i][j].item<double>());
        }
    expect_near(found, wanted, 1e-12);
    EXPECT_TRUE(look_into(pyramid, at::ones({9, 8}, at::kDouble)).equal(x));
    EXPECT_TRUE(look_into(pyramid, at::zeros({9, 8}, at::kDouble))[0].equal(pyramid[0]));
    const at::Tensor weights = draw({1, 3, 9, 8}, 8);
    expect_slope([&](const at::Tensor& v) { return (look_into(pyramid, v) * weights).sum(); }, mask);
}

TEST(Terms, EnlargementsAndBlursAreWeightedMeans) {
    for (const auto& w : {gaussian_enlargement(4, 30, 0.7), gaussian_enlargement(28, 224, 5), linear_enlargement(4, 30),
                          blur_axis(30, 3.5, true)})
        EXPECT_LT((w.sum(1) - 1).abs().max().item<double>(), 1e-12);
    EXPECT_LT(blur_axis(30, 3.5, false)[0].sum().item<double>(), 0.6) << "half of the Gaussian is outside";
    const at::Tensor w = gaussian_enlargement(28, 224, 5);
    double sum = 0;
    for (int c = 0; c < 28; ++c) sum += std::exp(-0.5 * std::pow((100.5 - 8 * (c + 0.5)) / 5, 2));
    EXPECT_NEAR(w[100][12].item<double>(), std::exp(-0.5 * 0.5 * 0.5 / 25) / sum, 1e-12);
    const at::Tensor line = at::matmul(linear_enlargement(4, 10), at::arange(4, at::kDouble).unsqueeze(1)).squeeze(1);
    EXPECT_LT((line - at::arange(10, at::kDouble) / 3).abs().max().item<double>(), 1e-12) << "corners are kept";
}

TEST(Terms, TheEstimateIsEachSamplesRewardLessThoseOfTheOthers) {
    const at::Tensor p = draw({6}, 9), kept = (draw({5, 6}, 10) < p).to(at::kDouble), rewards = draw({5}, 11);
    at::Tensor wanted = at::zeros({6}, at::kDouble);
    for (int s = 0; s < 5; ++s) {
        double others = 0;
        for (int o = 0; o < 5; ++o)
            if (o != s) others += rewards[o].item<double>() / 4;
        wanted += (rewards[s].item<double>() - others) * (kept[s] - p) / 5;
    }
    expect_near(leave_one_out(kept, rewards, p), wanted, 1e-12);
}

TEST(Terms, TheEstimateHasTheGradientAsItsMean) {
    // Three patches: all pairs of samples with their probabilities, against the gradient of the expectation.
    const at::Tensor theta = at::tensor({0.3, -0.8, 1.1}, at::kDouble), reward = draw({8}, 12);
    const auto bits = [](int set) {
        return at::tensor({double(set & 1), double((set >> 1) & 1), double((set >> 2) & 1)}, at::kDouble);
    };
    const auto chance = [&](const at::Tensor& p, int set) {
        const at::Tensor z = bits(set);
        return (z * p + (1 - z) * (1 - p)).prod();
    };
    const auto expected = [&](const at::Tensor& t) {
        const at::Tensor p = at::sigmoid(t);
        at::Tensor sum = at::zeros({}, at::kDouble);
        for (int set = 0; set < 8; ++set) sum = sum + chance(p, set) * reward[set];
        return sum;
    };
    const at::AutoGradMode with_graph(true);
    const at::Tensor leaf = theta.clone().requires_grad_(true);
    const at::Tensor wanted = gradients(expected(leaf), {leaf}, {"theta"})->front();
    const at::NoGradGuard no_grad;
    const at::Tensor p = at::sigmoid(theta);
    at::Tensor mean = at::zeros({3}, at::kDouble);
    for (int a = 0; a < 8; ++a)
        for (int b = 0; b < 8; ++b)
            mean += chance(p, a) * chance(p, b) *
                    leave_one_out(at::stack({bits(a), bits(b)}), at::stack({reward[a], reward[b]}), p);
    expect_near(mean, wanted, 1e-12);
}

// ---- a picture of which it is known what decides -------------------------------------------------------------------

constexpr std::int64_t kSide = 64, kTop = 8, kLeft = 30, kSquare = 24;

/// Sees red pixels that are not green: a class for them, one for their absence. A blur that mixes both hides them.
struct SeesRed final : Model {
    SeesRed() {
        info_.name = "sees red";
        info_.classes = 2;
        preprocess_.input_height = preprocess_.input_width = kSide;
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        if (looked) looked();
        const at::Tensor red = at::relu(pixels.select(1, 0) - pixels.select(1, 1) - 0.15).sum({1, 2});
        // Half of the square's pixels are red.
        const at::Tensor seen = red * (4.0 / (0.85 * kSquare * kSquare / 2)) - 2;
        return at::stack({seen, -seen}, 1);
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        TokenLayout out;
        out.unknown = "pixels only";
        return out;
    }
    void to(at::Device, at::ScalarType) override {}
    std::function<void()> looked;
};

/// Grey, with a square of red and green points.
Input checkered() {
    Input out;
    at::Tensor x = at::full({1, 3, kSide, kSide}, 0.2) +
                   0.1 * at::rand({1, 3, kSide, kSide}, at::make_generator<at::CPUGeneratorImpl>(3));
    const at::Tensor on = (at::arange(kSquare).unsqueeze(1) + at::arange(kSquare)).remainder(2).to(at::kFloat);
    const auto square = [&](std::int64_t c) { return x[0][c].narrow(0, kTop, kSquare).narrow(1, kLeft, kSquare); };
    square(0).copy_(on);
    square(1).copy_(1 - on);
    out.pixels = x;
    return out;
}

Result<Attribution> explain(ExplainContext& context, const char* method,
                            const std::vector<std::pair<const char*, std::string>>& set) {
    const Explainer* explainer = registry().explainer(method).value();
    Settings settings(explainer->parameters());
    for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
    return explainer->explain(context, settings);
}

double share_in_square(const at::Tensor& map) {
    return (map.narrow(0, kTop, kSquare).narrow(1, kLeft, kSquare).sum() / map.sum()).item<double>();
}

TEST(Optimised, TheMaskLiesOnTheSquareThatDecides) {
    SeesRed model;
    const Input input = checkered();
    using Set = std::vector<std::pair<const char*, std::string>>;
    for (const auto& [method, set] : std::vector<std::pair<const char*, Set>>{
             {"meaningful_perturbation", {{"lambda1", "0.01"}}},
             {"meaningful_perturbation", {{"preset", "means"}, {"lambda1", "0.1"}}},
             {"extremal_perturbation", {{"area", "0.05"}}}}) {
        SCOPED_TRACE(method);
        ExplainContext context(model, input, {.index = 0}, 1);
        const auto found = explain(context, method, set);
        ASSERT_TRUE(found) << found.error().message;
        EXPECT_FALSE(found->partial);
        EXPECT_GT(share_in_square(found->map), 0.8);
        EXPECT_GT(found->map.max().item<double>(), 0.8);
        ASSERT_EQ(found->checks.size(), 1u);
        EXPECT_TRUE(found->checks[0].passed) << found->checks[0].finding;
        const bool logit = method == std::string("extremal_perturbation");
        EXPECT_THAT(found->checks[0].finding, HasSubstr(logit ? "logit -1" : "probability 0.")) << "and of what";
        EXPECT_THAT(found->checks[0].finding, HasSubstr(logit ? " of 2.00 with 8 % kept" : " of 0.98 with "));
        std::printf("%s: %.3f in the square; %s\n", method, share_in_square(found->map),
                    found->checks[0].finding.c_str());
    }
    // Of a picture without any red nothing can be taken away, and the check says so.
    Input grey = input;
    grey.pixels = at::full({1, 3, kSide, kSide}, 0.3);
    ExplainContext context(model, grey, {.index = 0}, 1);
    const auto found = explain(context, "meaningful_perturbation", {{"steps", "2"}});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_FALSE(found->checks[0].passed);
}

TEST(Optimised, SeveralAreasGiveTheMeanOfTheirMasks) {
    SeesRed model;
    const Input input = checkered();
    at::Tensor sum;
    for (const char* area : {"0.025", "0.05", "0.1", "0.2"}) {
        ExplainContext context(model, input, {.index = 0}, 1);
        const at::Tensor map = explain(context, "extremal_perturbation", {{"area", area}, {"steps", "20"}})->map;
        sum = sum.defined() ? sum + map : map;
    }
    ExplainContext context(model, input, {.index = 0}, 1);
    const auto found = explain(context, "extremal_perturbation", {{"preset", "several"}, {"steps", "20"}});
    ASSERT_TRUE(found);
    expect_near(found->map, sum / 4, 1e-6);
    EXPECT_EQ(found->checks.size(), 4u);
}

/// The steps of both methods on a graph through mask, picture and model at once.
TEST(Optimised, StepsFollowTheGradientOfTheWholeObjective) {
    SeesRed model;
    const Input input = checkered();
    const at::Tensor x = input.pixels.to(at::kDouble);
    const double unit = kSide / 224.0;
    const at::AutoGradMode with_graph(true);
    {
        const at::Tensor blur = blurred(x, 10 * unit, true);
        const at::Tensor up = linear_enlargement(8, kSide);
        at::Tensor m = at::ones({8, 8}, at::kDouble), first = at::zeros_like(m), second = at::zeros_like(m);
        for (int t = 1; t <= 4; ++t) {
            const at::Tensor leaf = m.clone().requires_grad_(true), mask = at::matmul(at::matmul(up, leaf), up.t());
            const at::Tensor answer = at::softmax(model.forward(x * mask + blur * (1 - mask)), 1)[0][0];
            const at::Tensor loss = 0.5 * (1 - leaf).abs().mean() + answer +
                                    0.2 * (leaf.diff(1, 0).abs().pow(3).mean() + leaf.diff(1, 1).abs().pow(3).mean());
            const at::Tensor g = gradients(loss, {leaf}, {"m"})->front().detach();
            first = 0.9 * first + 0.1 * g;
            second = 0.999 * second + 0.001 * g * g;
            const at::Tensor step =
                first / (1 - std::pow(0.9, t)) / ((second / (1 - std::pow(0.999, t))).sqrt() + 1e-8);
            m = (m - 0.05 * step).clamp(0, 1);
        }
        ExplainContext context(model, input, {.index = 0}, 1);
        const auto found = explain(context, "meaningful_perturbation",
                                   {{"preset", "means"},
                                    {"steps", "4"},
                                    {"rate", "0.05"},
                                    {"lambda1", "0.5"},
                                    {"lambda2", "0.2"},
                                    {"cells", "8"}});
        ASSERT_TRUE(found) << found.error().message;
        expect_near(found->map, 1 - at::matmul(at::matmul(up, m), up.t()), 1e-5);
    }
    {
        // In the method's own precision: pixels of equal value, of which a new mask has many, are ranked by their
        // rounding.
        const at::Tensor pyramid = blur_pyramid(input.pixels, 8, 20 * unit);
        const SmoothMask smooth(kSide, kSide, 2, 21 * unit, at::TensorOptions(at::kFloat));
        at::Tensor p = at::ones({32, 32}), velocity;
        for (int t = 0; t < 5; ++t) {
            const at::Tensor leaf = p.clone().requires_grad_(true), whole = smooth.whole(leaf);
            at::Tensor picture = look_into(pyramid, smooth.inner(whole));
            if (t % 2 == 0) picture = picture.flip({3});
            const at::Tensor loss = 300 * std::pow(1.0035, t) * rank_penalty(whole, 0.1) - model.forward(picture)[0][0];
            const at::Tensor g = gradients(loss, {leaf}, {"p"})->front().detach();
            velocity = velocity.defined() ? 0.9 * velocity + 0.1 * g : g;
            p = (p - 0.2 * velocity).clamp(0, 1);
        }
        ExplainContext context(model, input, {.index = 0}, 1);
        const auto found =
            explain(context, "extremal_perturbation", {{"steps", "5"}, {"rate", "0.2"}, {"area", "0.1"}});
        ASSERT_TRUE(found) << found.error().message;
        expect_near(found->map, smooth.inner(smooth.whole(p)), 1e-4);
    }
}

TEST(Optimised, AStopShowsTheMapSoFar) {
    SeesRed model;
    const Input input = checkered();
    for (const char* method : {"meaningful_perturbation", "extremal_perturbation"}) {
        SCOPED_TRACE(method);
        std::stop_source source;
        ExplainContext context(model, input, {.index = 0}, 1);
        context.stop = source.get_token();
        std::int64_t steps = 0, total = 0;
        int shown = 0;
        context.progress = [&](const Progress& p) {
            if (p.unit != "steps") return;
            EXPECT_EQ(p.done, ++steps);
            total = p.total;
            // In the middle of the next step, while the model runs.
            if (p.done == 25) model.looked = [&] { source.request_stop(); };
        };
        Attribution last;
        context.refined = [&](const Attribution& so_far) {
            ++shown;
            EXPECT_TRUE(so_far.partial);
            EXPECT_EQ(so_far.map.size(0), kSide);
            last = so_far;
        };
        const auto found = explain(context, method, {{"steps", "60"}});
        model.looked = {};
        ASSERT_FALSE(found);
        EXPECT_EQ(found.error().code, ErrorCode::Cancelled);
        EXPECT_EQ(total, 60);
        EXPECT_GE(steps, 25);
        EXPECT_LE(steps, 27);
        EXPECT_EQ(shown, 3) << "after 10 and 20 steps, and where it was stopped";
        EXPECT_EQ(last.notes.back(), fmt::format("stopped after {} of 60 steps", steps));
        // It is the map of as many steps.
        ExplainContext again(model, input, {.index = 0}, 1);
        const auto whole = explain(again, method, {{"steps", std::to_string(steps)}});
        ASSERT_TRUE(whole) << whole.error().message;
        EXPECT_TRUE(whole->map.equal(last.map));
        EXPECT_FALSE(whole->partial);
        EXPECT_TRUE(context.progress) << "handed back";
    }
}

// ---- tokens --------------------------------------------------------------------------------------------------------

/// The tiny transformer with weights by which class 2 is answered where a bright patch is among the tokens, however
/// many there are: channel 0 is brightness, the first attention carries it into channel 1 of the class token, the head
/// reads it.
std::unique_ptr<Model> sees_bright() {
    auto model = registry().architecture("vit").value()->tiny(3).value();
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : model->parameters()) {
        const bool gain = name.find("norm") != std::string::npos && name.find("weight") != std::string::npos;
        tensor.fill_(gain ? 1 : 0);
        const std::int64_t width = model->info().width;
        if (name == "patch_embed.proj.weight") tensor[0].fill_(0.02);
        if (name == "blocks.0.attn.qkv.weight") tensor[2 * width + 1][0].fill_(1);
        if (name == "blocks.0.attn.proj.weight") tensor[1][1].fill_(1);
        if (name == "head.weight") tensor[2][1].fill_(1);
    }
    return model;
}

TEST(TokenMaskTest, KeepsThePatchThatDecides) {
    const auto model = sees_bright();
    Input input;
    input.pixels = at::zeros({1, 3, 32, 32});
    constexpr std::int64_t kBright = 9;  // row 2, column 1 of 4 x 4
    input.pixels.narrow(2, 16, 8).narrow(3, 8, 8).fill_(1);
    const at::NoGradGuard no_grad;
    const auto answer = [&](const std::vector<std::int64_t>& kept) {
        return at::softmax(model->forward_kept(input.pixels, at::tensor(kept).unsqueeze(0)), 1)[0][2].item<double>();
    };
    // That it decides is known from the model written out, and from runs of each patch and of all others.
    std::vector<std::int64_t> others;
    for (std::int64_t i = 0; i < 16; ++i)
        if (i != kBright) others.push_back(i);
    const double whole = at::softmax(PlainVit(*model).run(input.pixels).logits, 0)[2].item<double>();
    EXPECT_GT(whole, 0.9);
    EXPECT_NEAR(answer({kBright}), whole, 1e-3);
    EXPECT_NEAR(answer(others), 0.1, 1e-6);

    ExplainContext context(*model, input, {.index = 2}, 4);
    int shown = 0;
    context.refined = [&](const Attribution& so_far) { shown += so_far.partial ? 1 : 0; };
    const auto found = explain(context, "token_mask", {});
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(shown, 19);
    EXPECT_TRUE(found->on_tokens);
    const at::Tensor map = found->map.reshape({-1});
    EXPECT_GT(map[kBright].item<double>(), 0.95);
    EXPECT_LT(map.index_select(0, at::tensor(others)).max().item<double>(), 0.3);
    ASSERT_EQ(found->checks.size(), 1u);
    EXPECT_TRUE(found->checks[0].passed);
    EXPECT_THAT(found->checks[0].finding, HasSubstr("with 1 of 16 patches (6 %)"));
    EXPECT_THAT(found->explained, HasSubstr("probability of"));
    std::printf("%s\n", found->checks[0].finding.c_str());

    // Another seed draws other sets and comes to the same patch.
    ExplainContext another(*model, input, {.index = 2}, 5);
    const auto second = explain(another, "token_mask", {});
    ASSERT_TRUE(second);
    EXPECT_FALSE(second->map.equal(found->map));
    EXPECT_EQ(second->map.argmax().item<std::int64_t>(), kBright);
}

TEST(TokenMaskTest, AStopShowsTheMapSoFarAndAModelThatCannotLeaveOutIsRefused) {
    const auto model = sees_bright();
    Input input;
    input.pixels = at::zeros({1, 3, 32, 32});
    std::stop_source source;
    ExplainContext context(*model, input, {.index = 2}, 4);
    context.stop = source.get_token();
    context.progress = [&](const Progress& p) {
        if (p.unit == "steps" && p.done == 7) source.request_stop();
    };
    Attribution last;
    context.refined = [&](const Attribution& so_far) { last = so_far; };
    const auto found = explain(context, "token_mask", {{"steps", "50"}});
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code, ErrorCode::Cancelled);
    EXPECT_TRUE(last.partial);
    EXPECT_EQ(last.map.sizes(), at::IntArrayRef({4, 4}));
    EXPECT_THAT(last.notes.back(), HasSubstr("stopped after 7 of 50 steps"));
    const auto cnn = registry().architecture("cnn").value()->tiny(3).value();
    const auto why = registry().explainer("token_mask").value()->why_not(*cnn);
    ASSERT_TRUE(why);
    EXPECT_EQ(*why, *cnn->no_token_removal());
}

}  // namespace
}  // namespace vitrine::plugin::optimised
