// Preprocessing as the packages do it: the same 8-bit pixels from the same configuration files, and the same logits.
#include <ATen/TensorOperators.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <vitrine/configure.h>

#include "parity_case.h"

namespace vitrine {
namespace {

/// Blocks of 9 pixels with noise on top, as tests/parity/recipes/preprocess.py draws them.
Image picture(const Case& c, const std::string& name) {
    const auto& size = c.json.at("pictures").at(name);
    const std::int64_t height = size[0].get<std::int64_t>(), width = size[1].get<std::int64_t>();
    const auto seed = c.json.at("seed").get<std::uint64_t>();
    const std::int64_t across = (width + 8) / 9;
    const at::Tensor coarse = draw(name + " coarse", {(height + 8) / 9, across, 3}, 127.5, 127.5, seed);
    const at::Tensor fine = draw(name + " fine", {height, width, 3}, 127.5, 127.5, seed);
    Image image(width, height);
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x)
            for (std::int64_t channel = 0; channel < 3; ++channel) {
                const float block = coarse.const_data_ptr<float>()[((y / 9) * across + x / 9) * 3 + channel];
                const float grain = fine.const_data_ptr<float>()[(y * width + x) * 3 + channel];
                image.at(x, y)[channel] = static_cast<std::uint8_t>((3 * std::lrint(block) + std::lrint(grain)) / 4);
            }
    return image;
}

Result<Preprocess> configured(const nlohmann::json& row) {
    if (row.contains("preset")) {
        const Case model = load(row.at("preset").get<std::string>());
        return VITRINE_TRY(build(model, checkpoint_of(model)))->preprocess();
    }
    Checkpoint checkpoint;
    checkpoint.path = "model.safetensors";
    checkpoint.config = row.at("config");
    checkpoint.preprocessor = row.value("preprocessor", nlohmann::json::object());
    return preprocess_for(checkpoint, {});
}

TEST(PreprocessParity, PixelsEqualThePackages) {
    const Case c = load("preprocess");
    const auto& rows = c.json.at("cases");
    ASSERT_GT(rows.size(), 30U);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        SCOPED_TRACE(rows[i].at("title").get<std::string>());
        const auto p = configured(rows[i]);
        if (!p) {
            ADD_FAILURE() << p.error().message;
            continue;
        }
        // A preset is all assumed; a file must be followed, not guessed.
        EXPECT_EQ(p->assumed.empty(), !rows[i].contains("preset")) << p->summary();
        for (std::size_t channel = 0; channel < 3; ++channel) {
            EXPECT_NEAR(p->mean[channel], rows[i].at("mean")[channel].get<double>(), 1e-9);
            EXPECT_NEAR(p->std[channel], rows[i].at("std")[channel].get<double>(), 1e-9);
        }
        const auto step = rows[i].at("step").get<std::int64_t>();
        for (const auto& [name, size] : c.json.at("pictures").items()) {
            const auto input = prepare(picture(c, name), *p);
            ASSERT_TRUE(input.has_value()) << input.error().message;
            const at::Tensor& wanted = c.wanted.at(fmt::format("{}.{}", i, name));  // [rows, cols, 3]
            ASSERT_EQ((p->input_height + step - 1) / step, wanted.size(0)) << p->summary();
            ASSERT_EQ(p->input_width, wanted.size(1)) << p->summary();
            const std::int64_t length = p->input_width * 3;
            std::int64_t different = 0;
            for (std::int64_t y = 0; y < wanted.size(0); ++y)
                for (std::int64_t x = 0; x < length; ++x)
                    different += input->seen.at(0, y * step)[x] != wanted.const_data_ptr<float>()[y * length + x];
            EXPECT_EQ(different, 0) << name << ": " << p->summary();
        }
    }
}

TEST(PreprocessParity, LogitsEqualTransformersFromThePicture) {
    const Case c = load("preprocess");
    for (const auto& row : c.json.at("logits")) {
        const auto name = row.at("model").get<std::string>();
        SCOPED_TRACE(name);
        const Case model_case = load(name);
        Checkpoint checkpoint = checkpoint_of(model_case);
        checkpoint.preprocessor = row.at("preprocessor");
        auto model = build(model_case, checkpoint);
        ASSERT_TRUE(model.has_value()) << model.error().message;
        for (const char* which : {"tall", "wide"}) {
            const auto input = prepare(picture(c, which), (*model)->preprocess());
            ASSERT_TRUE(input.has_value()) << input.error().message;
            const c10::InferenceMode guard;
            const at::Tensor& wanted = c.wanted.at(fmt::format("{}.{}", name, which));
            const at::Tensor logits = (*model)->forward(input->pixels);
            ASSERT_EQ(logits.sizes(), wanted.sizes());
            EXPECT_GT((wanted.max() - wanted.min()).item<double>(), 1.0) << "the case proves nothing";
            const double error = ((logits - wanted).abs().max() / wanted.abs().max()).item<double>();
            // DINOv3's processor resizes in float, this program in 8 bit as all the others do: up to a level apart.
            EXPECT_LT(error, name == "hf_dinov3" ? 2e-2 : 1e-4);
            std::printf("%s %s: logits within %.1e relative\n", name.c_str(), which, error);
        }
    }
}

}  // namespace
}  // namespace vitrine
