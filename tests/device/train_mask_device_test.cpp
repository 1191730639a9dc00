// Training a mask on a CUDA device: steps that were recorded are the steps that would have been taken.
#include <vitrine/train_mask.h>

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>

#include <vitrine/device.h>
#include <vitrine/pack.h>
#include <vitrine/registry.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;

class TrainMaskOnADevice : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        if (const auto device = device_named("cuda"); !device) GTEST_SKIP() << device.error().message;
        folder_ = fs::path(testing::TempDir()) / ("train_mask_device_" + std::string(GetParam()));
        fs::remove_all(folder_);
        fs::create_directories(folder_);
    }
    void TearDown() override {
        unsetenv("VITRINE_GRAPHS");
        if (!folder_.empty()) fs::remove_all(folder_);
    }

    TrainMaskSummary trained(const std::string& out, const char* graphs, std::int64_t stop_at = 0,
                             at::Device device = at::kCUDA, const std::string& mode = "default") {
        setenv("VITRINE_GRAPHS", graphs, 1);
        auto model = registry().architecture(GetParam()).value()->tiny(3).value();
        model->to(device, at::kFloat);
        const auto& wanted = model->preprocess();
        const std::int64_t side = std::max(wanted.input_height, wanted.input_width) + 8;
        Pack pack;
        pack.images = at::randint(0, 256, {40, side, side, 3}, at::make_generator<at::CPUGeneratorImpl>(5), at::kLong)
                          .to(at::kByte);
        pack.labels = at::zeros({40}, at::kLong);
        pack.classes = {"pictures"};
        EXPECT_TRUE(write_pack(folder_ / "pack.safetensors", pack));
        TrainMaskOptions options;
        options.data = folder_ / "pack.safetensors";
        options.out = folder_ / out;
        // Slowly: a higher rate doubles what rounding leaves at every step.
        options.settings = {{"batch", "8"}, {"steps", "14"}, {"report_seconds", "0"},
                            {"held", "0"},  {"lr", "0.0002"}, {"floor", "2"}};
        options.settings.emplace_back("mode", mode);
        std::stop_source stop;
        options.stop = stop.get_token();
        options.progress = [&](const MaskStep& now) {
            if (stop_at > 0 && now.step == stop_at) stop.request_stop();
        };
        auto summary = train_mask(*model, options);
        EXPECT_TRUE(summary) << summary.error().message;
        return summary ? *summary : TrainMaskSummary{};
    }

    fs::path folder_;
};

TEST_P(TrainMaskOnADevice, RecordedStepsAreTheSteps) {
    const TrainMaskSummary each = trained("each.safetensors", "off"), recorded = trained("recorded.safetensors", "on");
    EXPECT_EQ(each.recorded_floor_pictures_per_second, 0);
    EXPECT_GT(recorded.recorded_floor_pictures_per_second, 0) << "nothing was recorded";
    // Stopped within the recorded part, and gone on with.
    EXPECT_FALSE(trained("halved.safetensors", "on", 8).finished);
    const TrainMaskSummary halved = trained("halved.safetensors", "on");
    ASSERT_EQ(each.curve.size(), 14U);
    ASSERT_EQ(recorded.curve.size(), 14U);
    ASSERT_EQ(halved.curve.size(), 14U);
    EXPECT_GT(std::abs(each.curve.front()[0] - each.curve.back()[0]), 1e-3) << "nothing was learnt";
    for (std::size_t step = 0; step < each.curve.size(); ++step)
        for (std::size_t k = 0; k < each.curve[step].size(); ++k) {
            EXPECT_NEAR(recorded.curve[step][k], each.curve[step][k], 2e-4) << "figure " << k << " of step " << step;
            EXPECT_NEAR(halved.curve[step][k], each.curve[step][k], 2e-4) << "figure " << k << " of step " << step;
        }
}

TEST_P(TrainMaskOnADevice, ReferenceModeFindsWhatItFindsOnTheCpu) {
    const TrainMaskSummary here = trained("here.safetensors", "off", 0, at::kCPU, "reference"),
                           there = trained("there.safetensors", "on", 0, at::kCUDA, "reference");
    ASSERT_EQ(here.curve.size(), 14U);
    ASSERT_EQ(there.curve.size(), 14U);
    for (std::size_t step = 0; step < here.curve.size(); ++step)
        for (std::size_t k = 0; k < here.curve[step].size(); ++k)
            EXPECT_NEAR(there.curve[step][k], here.curve[step][k], 1e-3) << "figure " << k << " of step " << step;
}

INSTANTIATE_TEST_SUITE_P(Models, TrainMaskOnADevice, testing::Values("vit", "cnn"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace vitrine
