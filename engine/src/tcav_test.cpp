// Concept vectors, the t test against tables, and a model whose classes hang on one colour.
#include <vitrine/tcav.h>

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <vitrine/preprocess.h>

#include "dataset.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;

TEST(Welch, IsTheTables) {
    // Of scipy 1.15.3's ttest_ind(equal_var=False).
    const Welch one = welch({1, 2, 3, 4, 5}, {2, 3, 4, 5, 7});
    EXPECT_NEAR(one.t, -1.0776318121606494, 1e-12);
    EXPECT_NEAR(one.degrees, 7.711133400200603, 1e-10);
    EXPECT_NEAR(one.p, 0.31375160946247493, 1e-12);
    const Welch two = welch({0.9, 0.8, 0.95, 0.85}, {0.5, 0.4, 0.6, 0.45, 0.55, 0.5});
    EXPECT_NEAR(two.t, 8.660254037844393, 1e-11);
    EXPECT_NEAR(two.degrees, 7.023121387283239, 1e-10);
    EXPECT_NEAR(two.p, 5.370616198929925e-05, 1e-14);
    EXPECT_EQ(welch({1, 1, 1}, {1, 1}).p, 1);
    EXPECT_EQ(welch({1, 1, 1}, {0, 0}).p, 0);
}

TEST(ConceptVector, PointsFromWithoutToWith) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{3});
    at::Tensor with = at::randn({40, 6}, g, at::kDouble), without = at::randn({40, 6}, g, at::kDouble);
    with.select(1, 2).add_(9);
    const ConceptVector one = concept_vector(with, without, 0.01).value();
    EXPECT_NEAR(one.direction.norm().item<double>(), 1, 1e-12);
    EXPECT_GT(one.direction[2].item<double>(), 0.9);
    EXPECT_GT(at::matmul(with, one.direction).min().item<double>(), one.offset);
    EXPECT_LT(at::matmul(without, one.direction).max().item<double>(), one.offset);
    // The normal equations of what it says it minimises.
    const at::Tensor x = at::cat({with, without}), mean = x.mean(0), centred = x - mean;
    const at::Tensor y = at::cat({at::ones({40}, at::kDouble), -at::ones({40}, at::kDouble)});
    const double ridge = 0.01 * centred.square().sum().item<double>();
    const at::Tensor w = at::linalg_solve(at::matmul(centred.t(), centred) + ridge * at::eye(6, at::kDouble),
                                          at::matmul(centred.t(), y));
    EXPECT_LT((w / w.norm() - one.direction).abs().max().item<double>(), 1e-10);
    EXPECT_THAT(concept_vector(at::ones({2, 3}), at::ones({2, 3}), 1).error().message, HasSubstr("are the same"));
}

/// Colours of 4 x 4 cells; the class is how red the picture is, less when it is green.
class CellModel final : public Model {
  public:
    CellModel() {
        info_.name = "cells";
        info_.classes = 1;
        info_.cam_point = "cells";
        preprocess_.resize = Preprocess::Resize::None;
        preprocess_.input_height = preprocess_.input_width = 16;
        preprocess_.mean = {0, 0, 0};
        preprocess_.std = {1, 1, 1};
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        const at::Tensor mean = point("cells", at::avg_pool2d(pixels, {4, 4})).mean({2, 3});
        return (mean.select(1, 0) - mean.select(1, 1).square()).unsqueeze(1);
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        TokenLayout out;
        out.unknown = "no tokens";
        return out;
    }
    std::vector<NamedPoint> points() const override { return {{"cells", "colours [batch, channels, rows, cols]"}}; }
    void to(at::Device, at::ScalarType) override {}
};

class Tcav : public testing::Test {
  protected:
    void SetUp() override {
        fs::remove_all(folder_);
        for (const auto& [name, count, tint] :
             {std::tuple{"random", 90, -1}, {"red", 12, 0}, {"green", 12, 1}, {"blue", 12, 2}, {"examples", 9, -1}}) {
            fs::create_directories(folder_ / name);
            StepRandom random(7, static_cast<std::uint64_t>(count + tint), 0);
            for (int i = 0; i < count; ++i) {
                Image picture(16, 16);
                for (std::size_t p = 0; p < picture.pixels.size(); ++p)
                    picture.pixels[p] =
                        static_cast<std::uint8_t>(40 + random.below(120) + (static_cast<int>(p % 3) == tint ? 90 : 0));
                ASSERT_TRUE(write_picture(folder_ / name / fmt::format("{:02}.ppm", i), picture));
            }
        }
        options_.examples = folder_ / "examples";
        options_.random = folder_ / "random";
    }
    void TearDown() override { fs::remove_all(folder_); }

    fs::path folder_ = fs::path(testing::TempDir()) /
                       ("vitrine_tcav_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    CellModel model_;
    TcavOptions options_;
};

TEST_F(Tcav, TellsWhatTheClassHangsOn) {
    // Two random pictures' cells with a rectangle marked, as a person would.
    std::ofstream text(folder_ / "places.txt");
    for (int i = 0; i < 8; ++i) text << fmt::format("red/{:02}.ppm,0,0-1,{}\n", i, 1 + i % 3);
    text.close();
    options_.concepts = {{"red", folder_ / "red"},
                         {"green", folder_ / "green"},
                         {"blue", folder_ / "blue"},
                         {"places", folder_ / "places.txt"}};
    options_.features = "mean";
    std::vector<Progress> told;
    options_.progress = [&](const Progress& p) { told.push_back(p); };
    const auto found = tcav(model_, options_);
    ASSERT_TRUE(found) << found.error().message;
    for (const Progress& p : told) EXPECT_LE(p.done, p.total) << p.unit;
    // Three concepts share their random sets.
    EXPECT_EQ(told.back().done, 8 * 30);
    EXPECT_EQ(found->examples, 9);
    EXPECT_EQ(found->random, 90);
    ASSERT_EQ(found->concepts.size(), 4U);
    const TcavScore &red = found->concepts[0], &green = found->concepts[1], &blue = found->concepts[2],
                    &places = found->concepts[3];
    EXPECT_EQ(red.score, 1);
    EXPECT_LT(red.p_corrected, 1e-3);
    EXPECT_GT(red.accuracy, 0.95);
    EXPECT_EQ(green.score, 0);
    EXPECT_LT(green.p_corrected, 1e-3);
    // The class does not look at blue: what its score is hangs on chance, as that of random sets does.
    EXPECT_GT(blue.p, 1e-3);
    EXPECT_EQ(blue.scores.size(), 30U);
    EXPECT_NEAR(red.p_corrected, std::min(1.0, 4 * red.p), 1e-15);
    EXPECT_EQ(places.features, "regions");
    EXPECT_EQ(places.examples, 8);
    EXPECT_EQ(places.score, 1);
    EXPECT_NEAR(red.random_accuracy, 0.5, 0.2);
    EXPECT_THAT(found->notes, Contains(HasSubstr("they share pictures")));
    // Again the same numbers; told apart by all of them, red stays red.
    EXPECT_EQ(tcav(model_, options_)->concepts[2].scores, blue.scores);
    options_.features = "whole";
    options_.concepts.resize(1);
    const auto whole = tcav(model_, options_);
    ASSERT_TRUE(whole) << whole.error().message;
    EXPECT_GT(whole->concepts[0].score, 0.95);
}

TEST_F(Tcav, DrawsFromTheWholeFolderAndSaysSo) {
    // One class after the other by name; that pictures of the last one are drawn is told by their not being readable.
    fs::rename(folder_ / "random", folder_ / "a");
    fs::create_directories(folder_ / "random" / "z");
    fs::rename(folder_ / "a", folder_ / "random" / "a");
    for (int i = 0; i < 90; ++i) std::ofstream(folder_ / "random" / "z" / fmt::format("{:02}.ppm", i)) << "no picture";
    options_.concepts = {{"red", folder_ / "red"}};
    options_.most = 60;
    const auto drawn = [&](std::uint64_t seed) {
        options_.seed = seed;
        const auto found = tcav(model_, options_);
        EXPECT_TRUE(found) << found.error().message;
        EXPECT_THAT(found->notes, Contains(fmt::format("60 of 180 pictures of {}, drawn with seed {}",
                                                       (folder_ / "random").string(), seed)));
        EXPECT_EQ(found->random + std::ssize(found->skipped), 60);
        return found->skipped;
    };
    const auto first = drawn(0);
    EXPECT_GT(first.size(), 15U);
    EXPECT_LT(first.size(), 45U);
    EXPECT_EQ(drawn(0), first);
    EXPECT_NE(drawn(1), first);
}

TEST_F(Tcav, PicturesOfAConceptAreInNoRandomSet) {
    options_.concepts = {{"red", folder_ / "red"}, {"blue", folder_ / "blue"}};
    const auto apart = tcav(model_, options_);
    ASSERT_TRUE(apart) << apart.error().message;
    EXPECT_EQ(apart->left_out, 0);
    // The same folder of random pictures, with the concept's and a link to one of the other's in it.
    fs::rename(folder_ / "red", folder_ / "random" / "red");
    options_.concepts[0].second = folder_ / "random" / "." / "red";
    fs::create_symlink(folder_ / "blue" / "03.ppm", folder_ / "random" / "another.ppm");
    const auto inside = tcav(model_, options_);
    ASSERT_TRUE(inside) << inside.error().message;
    EXPECT_EQ(inside->random, 90);
    EXPECT_EQ(inside->left_out, 13);
    const std::string of = fmt::format(" of 103 pictures of {} are also those of ", (folder_ / "random").string());
    EXPECT_THAT(inside->notes, Contains("12" + of + "red: they are in no random set"));
    EXPECT_THAT(inside->notes, Contains("1" + of + "blue: they are in no random set"));
    EXPECT_EQ(inside->concepts[0].scores, apart->concepts[0].scores);
    EXPECT_EQ(inside->concepts[0].random, apart->concepts[0].random);
    options_.random = options_.concepts[0].second;
    EXPECT_THAT(tcav(model_, options_).error().message,
                HasSubstr("12 of 12 pictures of " + options_.random.string() + " are also those of a concept"));
}

TEST_F(Tcav, RefusesInOneSentence) {
    const auto said = [&](const auto& change) {
        TcavOptions options = options_;
        options.concepts = {{"red", folder_ / "red"}};
        change(options);
        const auto found = tcav(model_, options);
        return found ? std::string("found") : found.error().message;
    };
    EXPECT_EQ(said([](auto&) {}), "found");
    EXPECT_THAT(said([](auto& o) { o.concepts.clear(); }), HasSubstr("no concept is named"));
    EXPECT_THAT(said([](auto& o) { o.runs = 29; }), HasSubstr("29 runs say too little"));
    EXPECT_THAT(said([](auto& o) { o.index = 1; }), HasSubstr("1"));
    EXPECT_THAT(said([](auto& o) { o.point = "cell"; }), HasSubstr("has no point 'cell'"));
    EXPECT_THAT(said([](auto& o) { o.features = "all"; }), HasSubstr("expected whole or mean"));
    EXPECT_THAT(said([](auto& o) { o.concepts.push_back(o.concepts[0]); }), HasSubstr("two concepts are named red"));
    EXPECT_THAT(said([&](auto& o) { o.random = folder_ / "nothing"; }), HasSubstr("there is no folder at"));
    EXPECT_THAT(said([&](auto& o) { o.concepts[0].second = folder_ / "nothing"; }), HasSubstr("there is nothing at"));
    EXPECT_THAT(said([&](auto& o) { o.random = folder_ / "examples"; }), HasSubstr("9 random pictures are too few"));
    const auto text = [&](const std::string& line) {
        std::ofstream(folder_ / "places.txt") << "# of a person\n" << line << '\n';
        return said([&](auto& o) { o.concepts[0].second = folder_ / "places.txt"; });
    };
    EXPECT_THAT(text("red/00.ppm"), HasSubstr("line 2 of"));
    EXPECT_THAT(text("red/00.ppm,0,0-9,9"), HasSubstr("9,9 is not there"));
    EXPECT_THAT(text("red/77.ppm,0,0"), HasSubstr("could be read"));
    EXPECT_THAT(text("red/00.ppm,0,0"), HasSubstr("has 1 examples, expected 6"));
    EXPECT_THAT(text("# cells 4 x 4\nred/00.ppm,0,0"), HasSubstr("has 1 examples, expected 6"));
    EXPECT_THAT(text("# cells 8 x 8\nred/00.ppm,0,0"), HasSubstr("of 8 x 8 cells, but cells has 4 x 4"));
    EXPECT_THAT(text(""), HasSubstr("names no region"));
    std::stop_source stop;
    stop.request_stop();
    EXPECT_EQ(said([&](auto& o) { o.stop = stop.get_token(); }), "stopped");
}

}  // namespace
}  // namespace vitrine
