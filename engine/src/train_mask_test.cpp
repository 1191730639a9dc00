// Training a mask on a model whose evidence is known: it finds the square, it resumes to the bit, it refuses in words.
#include <vitrine/train_mask.h>

#include <gmock/gmock.h>

#include <atomic>
#include <fstream>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <vitrine/capture.h>
#include <vitrine/pack.h>
#include <vitrine/training_mode.h>

#include "shared_sums.h"
#include "steered_test_model.h"
#include "thread_peers.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

/// Red or green: the strongest 4 x 4 cell of each colour is its logit.
class SquareModel final : public Model {
  public:
    SquareModel() {
        info_.name = "squares";
        info_.classes = 2;
        preprocess_.input_height = preprocess_.input_width = 32;
        preprocess_.mean = {0, 0, 0};
        preprocess_.std = {1, 1, 1};
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        const at::Tensor red = pixels.narrow(1, 0, 1), green = pixels.narrow(1, 1, 1), blue = pixels.narrow(1, 2, 1);
        const at::Tensor colour = at::relu(at::cat({red - green, green - red, blue - red, blue - green}, 1));
        const at::Tensor cells = point("cells", at::avg_pool2d(colour, {4, 4}));
        point("wide", at::avg_pool2d(cells, {2, 2}));
        point("flat", cells.flatten(1));
        return 12 * cells.narrow(1, 0, 2).amax({2, 3});
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override {
        TokenLayout out;
        out.unknown = "no tokens";
        return out;
    }
    std::vector<NamedPoint> points() const override {
        return {{"cells", "colours of cells [batch, channels, rows, cols]"},
                {"wide", "the same, coarser [batch, channels, rows, cols]"},
                {"flat", "cells in a row [batch, width]"}};
    }
    void to(at::Device, at::ScalarType) override {}
};

/// The same behind a batch norm and a dropout.
class NormedSquareModel final : public Model {
  public:
    NormedSquareModel() {
        inner_.info().name = "normed squares";
        info_ = inner_.info();
        preprocess_ = inner_.preprocess();
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        if (folded) cannot_be_in_training_mode("its batch norms were folded into the weights");
        const at::Tensor x = batch_norm_as_run("bn", pixels, at::ones({3}), at::zeros({3}), mean, variance, 1e-5);
        return dropout_as_run(inner_.forward(0.3 * x * (1 + off) + 0.4), 0.1);
    }
    TokenLayout layout(std::int64_t height, std::int64_t width) const override { return inner_.layout(height, width); }
    std::vector<NamedPoint> points() const override { return inner_.points(); }
    bool is_native() const override { return !program; }
    void to(at::Device, at::ScalarType) override {}
    at::Tensor mean = at::full({3}, 0.4), variance = at::full({3}, 0.09);
    bool folded = false, program = false;
    double off = 0;  ///< of what the norm gives, as a share

  private:
    SquareModel inner_;
};

class TrainMask : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::path(testing::TempDir()) /
                  ("train_mask_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        fs::remove_all(folder_);
        fs::create_directories(folder_);
        auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{4});
        Pack pack;
        pack.images = at::randint(90, 130, {64, 32, 32, 3}, g, at::kLong).to(at::kByte);
        pack.labels = at::zeros({64}, at::kLong);
        for (std::int64_t i = 0; i < 64; ++i) {
            top_.push_back(at::randint(0, 6, {1}, g, at::kLong).item<std::int64_t>() * 4);
            left_.push_back(at::randint(0, 6, {1}, g, at::kLong).item<std::int64_t>() * 4);
            at::Tensor square = pack.images[i].narrow(0, top_.back(), 8).narrow(1, left_.back(), 8);
            square.zero_();
            square.select(2, i % 2).fill_(255);
        }
        pack.classes = {"pictures"};
        images_ = pack.images;
        ASSERT_TRUE(write_pack(folder_ / "pack.safetensors", pack).has_value());
    }
    void TearDown() override { fs::remove_all(folder_); }

    TrainMaskOptions options(const std::string& out, std::vector<std::pair<std::string, std::string>> more = {}) const {
        TrainMaskOptions o;
        o.data = folder_ / "pack.safetensors";
        o.out = folder_ / out;
        o.settings = {{"batch", "8"}, {"steps", "12"}, {"layers", "cells,wide"}, {"report_seconds", "0"},
                      {"side", "32"}, {"held", "0"},   {"precision", "fp32"},    {"lr", "0.02"}};
        for (auto& setting : more) o.settings.push_back(std::move(setting));
        return o;
    }
    at::Tensor pixels(std::int64_t i) const {
        return images_.narrow(0, i, 1).permute({0, 3, 1, 2}).to(at::kFloat) / 255.0;
    }

    fs::path folder_;
    at::Tensor images_;
    std::vector<std::int64_t> top_, left_;
    SquareModel model_;
};

TEST_F(TrainMask, FindsTheSquareThatDecides) {
    const auto trained = train_mask(
        model_, options("m.safetensors", {{"steps", "300"}, {"batch", "16"}, {"lr", "0.05"}, {"held", "0.2"}}));
    ASSERT_TRUE(trained.has_value()) << trained.error().message;
    EXPECT_TRUE(trained->finished);
    EXPECT_EQ(trained->held.pictures, 13);
    EXPECT_EQ(trained->pictures, 51);
    EXPECT_EQ(trained->curve.size(), 300U);
    EXPECT_GT(trained->held.agreement, 0.9);
    EXPECT_LT(trained->held.average_drop[0], 50);
    const auto mask = MaskModule::load(folder_ / "m.safetensors");
    ASSERT_TRUE(mask.has_value());
    double inside = 0, whole = 0;
    for (std::int64_t i = 0; i < 64; ++i) {
        const MaskFeatures seen = *mask_features(model_, pixels(i), mask->config());
        const at::Tensor a = at::sigmoid(mask->logits(seen.maps))[0][seen.answer.argmax(1).item<std::int64_t>()];
        inside += a.narrow(0, top_[static_cast<std::size_t>(i)] / 4, 2)
                      .narrow(1, left_[static_cast<std::size_t>(i)] / 4, 2)
                      .sum()
                      .item<double>();
        whole += a.sum().item<double>();
    }
    EXPECT_GT(inside / whole, 0.8) << "of the mask's mass lies in the square";
}

TEST_F(TrainMask, AreaAloneDarkensTheMasks) {
    const auto trained = train_mask(
        model_, options("m.safetensors", {{"steps", "80"}, {"cross_entropy", "0"}, {"smooth", "0"}, {"lr", "0.2"}}));
    ASSERT_TRUE(trained.has_value()) << trained.error().message;
    EXPECT_LT(trained->curve.back()[4], 0.5 * trained->curve.front()[4]);
}

TEST_F(TrainMask, GoesOnOnlyWithTheModelThatItBeganWith) {
    const auto steered = test::steered_at_cells(model_, 4, 2), otherwise = test::steered_at_cells(model_, 4, 3);
    std::stop_source stop;
    auto half = options("m.safetensors");
    half.stop = stop.get_token();
    half.progress = [&](const MaskStep& at) {
        if (at.step == 5) stop.request_stop();
    };
    const auto stopped = train_mask(*steered, half);
    ASSERT_TRUE(stopped.has_value()) << stopped.error().message;
    ASSERT_FALSE(stopped->finished);
    for (Model* other : {otherwise.get(), static_cast<Model*>(&model_)}) {
        const auto refused = train_mask(*other, options("m.safetensors"));
        ASSERT_FALSE(refused);
        EXPECT_THAT(refused.error().message, testing::HasSubstr("for other concepts steered in it"));
    }
    ASSERT_TRUE(train_mask(*steered, options("m.safetensors")).has_value());
    const auto mask = MaskModule::load(folder_ / "m.safetensors");
    EXPECT_THAT(mask->doubt(model_), testing::HasSubstr("steered otherwise (concept 2 set to 2 at cells; now: none"));
    EXPECT_THAT(mask->doubt(*otherwise), testing::HasSubstr("now: concept 2 set to 3"));
    EXPECT_THAT(mask->doubt(*steered), testing::Not(testing::HasSubstr("steered otherwise")));
}

TEST_F(TrainMask, ResumesToTheBit) {
    const auto whole = train_mask(model_, options("whole.safetensors"));
    ASSERT_TRUE(whole.has_value()) << whole.error().message;
    std::stop_source stop;
    auto half = options("parts.safetensors");
    half.stop = stop.get_token();
    half.progress = [&](const MaskStep& at) {
        if (at.step == 5) stop.request_stop();
    };
    const auto stopped = train_mask(model_, half);
    ASSERT_TRUE(stopped.has_value());
    EXPECT_FALSE(stopped->finished);
    EXPECT_EQ(stopped->steps, 5);
    EXPECT_TRUE(fs::exists(folder_ / "parts.safetensors.checkpoint"));
    EXPECT_FALSE(fs::exists(folder_ / "parts.safetensors"));
    auto other = options("parts.safetensors", {{"lr", "0.03"}});
    EXPECT_THAT(train_mask(model_, other).error().message, testing::HasSubstr("lr"));
    auto further = options("parts.safetensors");
    double first = -1;
    further.progress = [&](const MaskStep& at) {
        if (first < 0) first = at.total;
    };
    const auto rest = train_mask(model_, further);
    EXPECT_FLOAT_EQ(static_cast<float>(first), whole->curve[4][0]) << "the first report has the last step's figures";
    ASSERT_TRUE(rest.has_value()) << rest.error().message;
    EXPECT_THAT(rest->notes, testing::Contains(testing::HasSubstr("resumed at step 5")));
    EXPECT_FALSE(fs::exists(folder_ / "parts.safetensors.checkpoint"));
    EXPECT_EQ(rest->curve, whole->curve);
    const auto a = MaskModule::load(folder_ / "whole.safetensors"), b = MaskModule::load(folder_ / "parts.safetensors");
    for (std::size_t i = 0; i < a->parameters().size(); ++i)
        EXPECT_TRUE(at::equal(a->parameters()[i].second, b->parameters()[i].second)) << a->parameters()[i].first;
    for (std::size_t i = 0; i < a->statistics().size(); ++i)
        EXPECT_TRUE(at::equal(a->statistics()[i].second, b->statistics()[i].second)) << a->statistics()[i].first;
}

TEST_F(TrainMask, AFolderIsDecodedOnceAndBadPicturesAreCounted) {
    const fs::path photos = folder_ / "photos" / "deep";
    fs::create_directories(photos);
    for (std::int64_t i = 0; i < 10; ++i) {
        Image image(32, 32);
        const at::Tensor picture = images_[i].contiguous();
        std::copy_n(picture.const_data_ptr<std::uint8_t>(), image.pixels.size(), image.pixels.begin());
        ASSERT_TRUE(write_picture(photos / (std::to_string(i) + ".ppm"), image).has_value());
    }
    std::ofstream(photos / "broken.ppm") << "P6\n32 32\n255\nshort";
    auto o = options("m.safetensors", {{"steps", "4"}, {"batch", "4"}});
    o.data = folder_ / "photos";
    std::stop_source stop;
    o.stop = stop.get_token();
    o.progress = [&](const MaskStep& at) {
        if (at.step == 2) stop.request_stop();
    };
    const auto first = train_mask(model_, o);
    ASSERT_TRUE(first.has_value()) << first.error().message;
    EXPECT_EQ(first->pictures, 10);
    ASSERT_EQ(first->skipped.size(), 1U);
    EXPECT_THAT(first->skipped[0], testing::HasSubstr("broken.ppm"));
    EXPECT_TRUE(fs::exists(folder_ / "m.safetensors.pictures"));
    o.stop = {};
    o.progress = {};
    bool decoded = false;
    o.decoding = [&](const Progress&) { decoded = true; };
    const auto second = train_mask(model_, o);
    ASSERT_TRUE(second.has_value()) << second.error().message;
    EXPECT_TRUE(second->finished);
    EXPECT_FALSE(decoded) << "the pictures of the first call were kept";
    EXPECT_FALSE(fs::exists(folder_ / "m.safetensors.pictures"));
}

TEST_F(TrainMask, RefusesInWordsAndLosesNothing) {
    const auto why = [&](const TrainMaskOptions& o) {
        const auto found = train_mask(model_, o);
        return found ? std::string("trained") : found.error().message;
    };
    EXPECT_THAT(why(options("m", {{"layers", "cell"}})),
                testing::AllOf(testing::HasSubstr("'cell'"), testing::HasSubstr("cells")));
    EXPECT_THAT(why(options("m", {{"layers", "flat"}})), testing::HasSubstr("flat"));
    EXPECT_THAT(why(options("m", {{"epoch", "3"}})), testing::HasSubstr("epochs"));
    EXPECT_THAT(why(options("m", {{"nosuch", "3"}})),
                testing::HasSubstr("there is no setting 'nosuch'; vitrine train-mask --help lists them"));
    EXPECT_THAT(why(options("m", {{"version", "ttame"}})), testing::HasSubstr("class token"));
    EXPECT_THAT(why(options("m", {{"version", "volume"}})), testing::HasSubstr("maps with a depth"));
    EXPECT_THAT(why(options("m", {{"version", "attention_v1"}})), testing::HasSubstr("reads tokens"));
    EXPECT_THAT(why(options("m", {{"version", "attention_v3"}})), testing::HasSubstr("heads of 64 channels"));
    auto o = options("m");
    o.data = folder_ / "nowhere";
    EXPECT_THAT(why(o), testing::HasSubstr("nothing at"));
    fs::create_directories(folder_ / "empty");
    o.data = folder_ / "empty";
    EXPECT_THAT(why(o), testing::HasSubstr("no pictures"));
    o = options("gone/m");
    EXPECT_NE(why(o), "trained") << "a folder that is not there cannot be written to";
    model_.info().classes = 0;
    EXPECT_THAT(why(options("m")), testing::HasSubstr("no classes"));
    model_.info().classes = 2;
    std::ofstream(folder_ / "m.checkpoint") << "not a checkpoint";
    EXPECT_NE(why(options("m")), "trained");
    EXPECT_TRUE(fs::exists(folder_ / "m.checkpoint")) << "what is not ours stays";
}

TEST_F(TrainMask, MasksThatHideEverythingEndTheRun) {
    const auto found = train_mask(
        model_,
        options("m", {{"steps", "2000"}, {"cross_entropy", "0"}, {"smooth", "0"}, {"area", "1000"}, {"lr", "1"}}));
    ASSERT_FALSE(found.has_value());
    EXPECT_THAT(found.error().message,
                testing::AnyOf(testing::HasSubstr("hide all or nothing"), testing::HasSubstr("the loss became")));
}

TEST_F(TrainMask, ThePreviewSeesTheMaskGrow) {
    auto o = options("m", {{"preview_every", "4"}});
    std::vector<std::int64_t> seen;
    o.preview = [&](const MaskModule& mask, std::int64_t step) {
        seen.push_back(step);
        EXPECT_EQ(mask.config().classes, 2);
    };
    ASSERT_TRUE(train_mask(model_, o).has_value());
    EXPECT_EQ(seen, (std::vector<std::int64_t>{4, 8, 12}));
}

TEST_F(TrainMask, WithoutNormsAndDropoutTheReferenceIsTheDefaultAtABatchOf32) {
    const auto a = train_mask(model_, options("a", {{"batch", "32"}, {"steps", "4"}})),
               b = train_mask(model_, options("b", {{"batch", "32"}, {"steps", "4"}, {"mode", "reference"}})),
               c = train_mask(model_, options("c", {{"batch", "8"}, {"steps", "4"}})),
               d = train_mask(model_, options("d", {{"batch", "8"}, {"steps", "4"}, {"mode", "reference"}}));
    ASSERT_TRUE(a && b && c && d);
    EXPECT_EQ(a->curve, b->curve);
    EXPECT_FLOAT_EQ(c->curve[0][3], 4 * d->curve[0][3]) << "smoothness is rescaled to a batch of 32";
}

TEST_F(TrainMask, TheReferenceRunsTheFrozenModelInTrainingModeAndResumesToTheBit) {
    NormedSquareModel model;
    const at::Tensor mean = model.mean.clone(), variance = model.variance.clone();
    const auto run = [&](const std::string& out, std::int64_t until) {
        std::stop_source stop;
        auto o = options(out, {{"mode", "reference"}, {"held", "0.1"}, {"best_every", "5"}, {"steps", "11"}});
        o.stop = stop.get_token();
        o.progress = [&](const MaskStep& at) {
            if (at.step == until) stop.request_stop();
        };
        return train_mask(model, o);
    };
    const auto whole = run("whole.safetensors", -1);
    ASSERT_TRUE(whole.has_value()) << whole.error().message;
    ASSERT_FALSE(run("parts.safetensors", 6)->finished);
    const auto rest = run("parts.safetensors", -1);
    ASSERT_TRUE(rest.has_value()) << rest.error().message;
    EXPECT_EQ(rest->curve, whole->curve);
    EXPECT_EQ(rest->best_step, whole->best_step);
    EXPECT_EQ(rest->held.average_drop, whole->held.average_drop);
    const auto a = MaskModule::load(folder_ / "whole.safetensors"), b = MaskModule::load(folder_ / "parts.safetensors");
    ASSERT_TRUE(a && b);
    ASSERT_EQ(a->backbone.size(), 2U);
    for (const auto& [name, tensor] : a->backbone) EXPECT_TRUE(at::equal(tensor, b->backbone.at(name))) << name;
    for (std::size_t i = 0; i < a->parameters().size(); ++i)
        EXPECT_TRUE(at::equal(a->parameters()[i].second, b->parameters()[i].second)) << a->parameters()[i].first;
    EXPECT_FALSE(at::equal(a->backbone.at("bn.running_mean"), mean)) << "the run's own moved";
    EXPECT_TRUE(at::equal(model.mean, mean) && at::equal(model.variance, variance)) << "the opened model's did not";
    const auto plain = train_mask(model, options("plain", {{"steps", "11"}, {"held", "0.1"}, {"batch", "32"}})),
               reference = train_mask(
                   model,
                   options("reference", {{"steps", "11"}, {"held", "0.1"}, {"batch", "32"}, {"mode", "reference"}}));
    ASSERT_TRUE(plain && reference);
    EXPECT_NE(plain->curve, reference->curve);
    EXPECT_TRUE(MaskModule::load(folder_ / "plain")->backbone.empty());

    model.folded = true;
    EXPECT_THAT(train_mask(model, options("m", {{"mode", "reference"}})).error().message,
                testing::HasSubstr("its batch norms were folded"));
    model.folded = false;
    model.program = true;
    EXPECT_THAT(train_mask(model, options("m", {{"mode", "reference"}})).error().message,
                testing::HasSubstr("runs as it was exported"));
}

TEST_F(TrainMask, TheBestByTheHeldPicturesIsWritten) {
    // A rate that falls to nothing at the end, after one that ruins the mask in the middle.
    const auto set = [](std::int64_t every) {
        return std::vector<std::pair<std::string, std::string>>{
            {"held", "0.3"}, {"steps", "24"}, {"lr", "0.3"}, {"best_every", std::to_string(every)}};
    };
    const auto best = train_mask(model_, options("best", set(1)));
    ASSERT_TRUE(best.has_value()) << best.error().message;
    const auto last = train_mask(model_, options("last", set(0)));
    ASSERT_TRUE(last.has_value());
    EXPECT_EQ(last->best_step, 0);
    EXPECT_GE(best->best_step, 1);
    EXPECT_EQ(best->curve, last->curve) << "looking changes nothing";
    EXPECT_LE(best->held.average_drop[2], last->held.average_drop[2]);
    // What was written is the mask of that step, as a preview sees it.
    auto again = options("again", set(0));
    again.settings.emplace_back("preview_every", "1");
    at::Tensor then;
    again.preview = [&](const MaskModule& mask, std::int64_t step) {
        if (step == best->best_step) then = mask.parameters().back().second.detach().clone();
    };
    ASSERT_TRUE(train_mask(model_, again).has_value());
    const auto written = MaskModule::load(folder_ / "best"), end = MaskModule::load(folder_ / "last");
    ASSERT_TRUE(written && end);
    EXPECT_TRUE(at::equal(written->parameters().back().second, then));
    EXPECT_EQ(best->best_step == 24, at::equal(end->parameters().back().second, then));
    EXPECT_LT(best->best_step, 24) << "else the setting shows nothing here";
}

TEST_F(TrainMask, TheFirstReportAfterResumingHasTheAgreement) {
    std::stop_source stop;
    auto half = options("m.safetensors");
    half.stop = stop.get_token();
    double before = -1, after = -1;
    half.progress = [&](const MaskStep& at) {
        if (at.note.empty()) before = at.agreement;
        if (at.step == 5) stop.request_stop();
    };
    ASSERT_TRUE(train_mask(model_, half).has_value());
    EXPECT_GT(before, 0);
    auto rest = options("m.safetensors");
    rest.progress = [&](const MaskStep& at) {
        if (after < 0) after = at.agreement;
    };
    ASSERT_TRUE(train_mask(model_, rest).has_value());
    EXPECT_EQ(after, before);
}

class SharedTraining : public TrainMask {
  protected:
    using Summaries = std::vector<Result<TrainMaskSummary>>;
    static Summaries trained(int count, const std::function<TrainMaskOptions(int rank)>& make) {
        Summaries out(static_cast<std::size_t>(count), fail(ErrorCode::Internal, "not run"));
        together(count, [&](Peers& peers) {
            SquareModel model;
            TrainMaskOptions o = make(peers.rank());
            o.peers = &peers;
            out[static_cast<std::size_t>(peers.rank())] = train_mask(model, o);
        });
        return out;
    }
    static void expect_close(const at::Tensor& a, const at::Tensor& b, const std::string& what) {
        EXPECT_LE((a - b).abs().max().item<double>(), 1e-5 * a.abs().max().item<double>()) << what;
    }
    static void expect_close(const TrainMaskSummary& a, const TrainMaskSummary& b) {
        constexpr double kWithin = 1e-5;
        ASSERT_EQ(a.curve.size(), b.curve.size());
        for (std::size_t i = 0; i < a.curve.size(); ++i)
            for (std::size_t k = 0; k < 5; ++k)
                EXPECT_NEAR(a.curve[i][k], b.curve[i][k], kWithin * std::abs(a.curve[i][k])) << i << " " << k;
    }
    void expect_close_files(const std::string& first, const std::string& second) const {
        const auto a = MaskModule::load(folder_ / first), b = MaskModule::load(folder_ / second);
        ASSERT_TRUE(a && b);
        for (std::size_t i = 0; i < a->parameters().size(); ++i)
            expect_close(a->parameters()[i].second, b->parameters()[i].second, a->parameters()[i].first);
        for (std::size_t i = 0; i < a->statistics().size(); ++i)
            expect_close(a->statistics()[i].second, b->statistics()[i].second, a->statistics()[i].first);
    }
};

TEST_F(SharedTraining, FindsWhatOneProcessFinds) {
    for (const auto& [count, more] : std::vector<std::pair<int, std::vector<std::pair<std::string, std::string>>>>{
             {2, {{"held", "0.1"}}},
             {3, {{"policy", "mean"}}},  // 2, 3 and 3 of 8 pictures
             {2, {{"masking", "diagonal"}, {"version", "sigmoid"}}}}) {
        const auto alone = train_mask(model_, options("alone.safetensors", more));
        ASSERT_TRUE(alone.has_value()) << alone.error().message;
        std::atomic<int> reports = 0;
        const auto shared = trained(count, [&, &more = more](int) {
            auto o = options("shared.safetensors", more);
            o.progress = [&](const MaskStep&) { ++reports; };
            return o;
        });
        for (const auto& one : shared) {
            ASSERT_TRUE(one.has_value()) << one.error().message;
            EXPECT_TRUE(one->finished);
            EXPECT_EQ(one->curve, shared[0]->curve) << "the same bits in every process";
        }
        EXPECT_EQ(reports, 12) << "process 0 alone reports";
        expect_close(*alone, *shared[0]);
        expect_close_files("alone.safetensors", "shared.safetensors");
        EXPECT_EQ(alone->held.pictures, shared[0]->held.pictures);
        EXPECT_NEAR(alone->held.average_drop[0], shared[0]->held.average_drop[0], 1e-3);
        EXPECT_FALSE(fs::exists(folder_ / "shared.safetensors.checkpoint"));
    }
}

TEST_F(SharedTraining, SharesTheStatisticsOfTheFrozenModel) {
    NormedSquareModel one, other;
    const auto alone = train_mask(one, options("alone.safetensors", {{"mode", "reference"}}));
    ASSERT_TRUE(alone.has_value()) << alone.error().message;
    // One process's norm rounds in fp32, the shared one is summed in double precision, and twelve steps enlarge what
    // lies between by an amount that hangs on the compiler. What they make of a unit in the last place says how much.
    other.off = 0x1p-23;
    const auto rounded = train_mask(other, options("rounded.safetensors", {{"mode", "reference"}}));
    ASSERT_TRUE(rounded.has_value()) << rounded.error().message;
    Summaries shared(3, fail(ErrorCode::Internal, "not run"));
    together(3, [&](Peers& peers) {
        NormedSquareModel model;
        auto o = options("shared.safetensors", {{"mode", "reference"}});
        o.peers = &peers;
        shared[static_cast<std::size_t>(peers.rank())] = train_mask(model, o);
    });
    for (const auto& each : shared) ASSERT_TRUE(each.has_value()) << each.error().message;
    constexpr double kUnits = 10;
    const auto far = [](const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); };
    for (std::size_t k = 0; k < 5; ++k) {
        double unit = 0;
        for (std::size_t i = 0; i < alone->curve.size(); ++i)
            unit = std::max(unit, double{std::abs(alone->curve[i][k] - rounded->curve[i][k])});
        for (std::size_t i = 0; i < alone->curve.size(); ++i)
            EXPECT_NEAR(shared[0]->curve[i][k], alone->curve[i][k], 1e-5 * std::abs(alone->curve[i][k]) + kUnits * unit)
                << i << " " << k;
    }
    const auto a = MaskModule::load(folder_ / "alone.safetensors"),
               b = MaskModule::load(folder_ / "shared.safetensors"),
               c = MaskModule::load(folder_ / "rounded.safetensors");
    ASSERT_TRUE(a && b && c);
    const auto expect_near = [&](const auto& wanted, const auto& found, const auto& moved) {
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            const auto& [name, tensor] = wanted[i];
            EXPECT_LE(far(tensor, found[i].second),
                      1e-5 * tensor.abs().max().template item<double>() + kUnits * far(tensor, moved[i].second))
                << name;
        }
    };
    expect_near(a->parameters(), b->parameters(), c->parameters());
    expect_near(a->statistics(), b->statistics(), c->statistics());
    // The norm's own statistics are of the pictures alone.
    for (const auto& [name, tensor] : a->backbone) expect_close(tensor, b->backbone.at(name), name);
}

TEST_F(SharedTraining, GoesOnWithAnotherNumberOfProcesses) {
    const auto whole = train_mask(model_, options("whole.safetensors"));
    ASSERT_TRUE(whole.has_value()) << whole.error().message;
    std::stop_source early, late;
    auto half = options("parts.safetensors");
    half.stop = early.get_token();
    half.progress = [&](const MaskStep& at) {
        if (at.step == 3) early.request_stop();
    };
    ASSERT_TRUE(train_mask(model_, half).has_value());
    // Two go on; process 1 is asked to stop, which stops both.
    const auto two = trained(2, [&](int rank) {
        auto o = options("parts.safetensors");
        if (rank == 1) o.stop = late.get_token();
        o.progress = [&](const MaskStep& at) {
            if (at.step == 6) late.request_stop();
        };
        return o;
    });
    for (const auto& one : two) {
        ASSERT_TRUE(one.has_value()) << one.error().message;
        EXPECT_FALSE(one->finished);
        EXPECT_EQ(one->steps, two[0]->steps);
        EXPECT_THAT(one->notes, testing::Contains(testing::HasSubstr("resumed at step 3")));
    }
    EXPECT_GE(two[0]->steps, 6);
    EXPECT_LT(two[0]->steps, 12);
    const auto three = trained(3, [&](int) { return options("parts.safetensors"); });
    ASSERT_TRUE(three[0].has_value()) << three[0].error().message;
    EXPECT_TRUE(three[0]->finished);
    expect_close(*whole, *three[0]);
    expect_close_files("whole.safetensors", "parts.safetensors");
}

TEST_F(SharedTraining, EndsInWordsEverywhere) {
    const auto other = trained(2, [&](int rank) {
        return options("m.safetensors", {{"lr", rank == 0 ? "0.02" : "0.03"}});
    });
    const auto crowd = trained(3, [&](int) { return options("m.safetensors", {{"batch", "2"}}); });
    for (const auto& one : other) EXPECT_THAT(one.error().message, testing::HasSubstr("process 1 has other settings"));
    for (const auto& one : crowd) EXPECT_THAT(one.error().message, testing::HasSubstr("3 processes cannot share"));
    // What only one of them meets, in the middle of a step.
    const auto broken = trained(2, [&](int rank) {
        auto o = options("m.safetensors");
        if (rank == 0)
            o.progress = [](const MaskStep& at) {
                if (at.step == 4) throw std::runtime_error("the lamp went out");
            };
        return o;
    });
    EXPECT_THAT(broken[0].error().message, testing::HasSubstr("the lamp went out"));
    EXPECT_THAT(broken[1].error().message, testing::HasSubstr("the others are gone"));
    EXPECT_FALSE(fs::exists(folder_ / "m.safetensors"));
}

TEST(SharedBatchNorm, HasTheValuesAndGradientsOfTheWholeBatch) {
    auto g = at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{9});
    const at::Tensor x = at::randn({5, 3, 4, 2}, g, at::kDouble) * 2 + 3,
                     pull = at::randn({5, 3, 4, 2}, g, at::kDouble), weight = at::randn({3}, g, at::kDouble),
                     bias = at::randn({3}, g, at::kDouble);
    struct Seen {
        at::Tensor y, x, weight, bias, mean, variance;
    };
    const auto seen = [&](std::int64_t from, std::int64_t count, Peers* peers) {
        Seen out{{},           x.narrow(0, from, count).clone(), weight.clone(),
                 bias.clone(), at::zeros({3}, at::kDouble),      at::ones({3}, at::kDouble)};
        for (at::Tensor* leaf : {&out.x, &out.weight, &out.bias}) leaf->requires_grad_(true);
        out.y = peers == nullptr
                    ? at::batch_norm(out.x, out.weight, out.bias, out.mean, out.variance, true, 0.1, 1e-5,
                                     /*cudnn_enabled=*/false)
                    : shared_batch_norm(out.x, out.weight, out.bias, out.mean, out.variance, 0.1, 1e-5, *peers);
        (out.y.square() * pull.narrow(0, from, count)).sum().backward();
        return out;
    };
    const Seen whole = seen(0, 5, nullptr);
    std::array<Seen, 2> part;
    together(2, [&](Peers& peers) {
        part[static_cast<std::size_t>(peers.rank())] = peers.rank() == 0 ? seen(0, 2, &peers) : seen(2, 3, &peers);
    });
    const auto expect_near = [](const at::Tensor& a, const at::Tensor& b, const char* what) {
        EXPECT_LT((a - b).abs().max().item<double>(), 1e-11) << what;
    };
    expect_near(whole.y, at::cat({part[0].y, part[1].y}), "values");
    expect_near(whole.x.grad(), at::cat({part[0].x.grad(), part[1].x.grad()}), "to x");
    expect_near(whole.weight.grad(), part[0].weight.grad() + part[1].weight.grad(), "to the weight");
    expect_near(whole.bias.grad(), part[0].bias.grad() + part[1].bias.grad(), "to the bias");
    for (const Seen& one : part) {
        expect_near(whole.mean, one.mean, "running mean");
        expect_near(whole.variance, one.variance, "running variance");
    }
}

TEST(MaskLayers, AreTheLastResolutionsOfAConvolutionalNetwork) {
    SquareModel model;
    const auto layers = mask_layers(model, "tame");
    ASSERT_TRUE(layers.has_value()) << layers.error().message;
    EXPECT_EQ(*layers, (std::vector<std::string>{"cells", "wide"}));
    EXPECT_EQ(*mask_layers(model, "l_cam"), (std::vector<std::string>{"wide"}));
}

}  // namespace
}  // namespace vitrine
