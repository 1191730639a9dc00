// Tests of preprocessing and of what configuration files say about it.
#include <cmath>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <vitrine/base/file.h>
#include <vitrine/configure.h>

namespace vitrine {
namespace {

using nlohmann::json;
using testing::HasSubstr;

Image ramp(std::int64_t width, std::int64_t height) {
    Image image(width, height);
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x)
            for (int c = 0; c < 3; ++c) image.at(x, y)[c] = static_cast<std::uint8_t>((x * 3 + y * 5 + c * 40) % 256);
    return image;
}

Preprocess cropping(std::int64_t side) {
    Preprocess p;
    p.resize = Preprocess::Resize::None;
    p.input_height = p.input_width = side;
    return p;
}

Checkpoint with(const json& config, const json& preprocessor = json::object()) {
    Checkpoint c;
    c.path = "model.safetensors";
    c.config = config;
    c.preprocessor = preprocessor;
    return c;
}

TEST(Preprocess, CropOffsetsRoundHalfToEven) {
    // (13 - 10) / 2 is 1.5 and goes to 2; (15 - 10) / 2 is 2.5 and goes to 2 as well. The floor differs on the first.
    EXPECT_EQ(prepare(ramp(13, 15), cropping(10))->geometry.offset_x, -2);
    EXPECT_EQ(prepare(ramp(13, 15), cropping(10))->geometry.offset_y, -2);
    Preprocess floored = cropping(10);
    floored.floor_crop = true;
    EXPECT_EQ(prepare(ramp(13, 15), floored)->geometry.offset_x, -1);
    EXPECT_EQ(prepare(ramp(13, 15), floored)->geometry.offset_y, -2);
}

TEST(Preprocess, SmallPicturesArePaddedWithBlack) {
    const auto input = prepare(ramp(7, 20), cropping(10));
    ASSERT_TRUE(input.has_value());
    // torchvision: (10 - 7) // 2 = 1 column before, 2 after.
    EXPECT_EQ(input->geometry.offset_x, 1);
    EXPECT_EQ(int{input->seen.at(0, 5)[0]}, 0);
    EXPECT_EQ(input->seen.at(1, 0)[0], input->photo.at(0, 5)[0]);
    const Box seen = input->geometry.seen();
    EXPECT_DOUBLE_EQ(seen.x0, -1);
    EXPECT_DOUBLE_EQ(seen.x1, 9);
    EXPECT_DOUBLE_EQ(seen.y0, 5);
}

TEST(Preprocess, TransformersPutsAnOddPixelOfPaddingFirst) {
    Preprocess p = cropping(10);
    p.floor_crop = true;
    // 7 of 10 columns: (7 - 10) // 2 is -2, so two columns before and one after.
    const auto input = prepare(ramp(7, 20), p);
    ASSERT_TRUE(input.has_value());
    EXPECT_EQ(input->geometry.offset_x, 2);
    EXPECT_EQ(input->seen.at(2, 0)[0], input->photo.at(0, 5)[0]);
}

TEST(Preprocess, ABorderShowsTheWholePictureOnTheMeanColour) {
    const auto p = preprocess_for(with({{"input_size", {3, 40, 40}},
                                        {"crop_pct", 1.0},
                                        {"crop_mode", "border"},
                                        {"mean", {0.5, 0.25, 1.0}},
                                        {"std", {0.5, 0.5, 0.5}},
                                        {"interpolation", "bilinear"}}),
                                  {});
    ASSERT_TRUE(p.has_value()) << p.error().message;
    EXPECT_EQ(p->padding, (std::array<std::uint8_t, 3>{128, 64, 255}));  // 127.5 and 63.75, halves to even
    const auto input = prepare(ramp(100, 50), *p);
    ASSERT_TRUE(input.has_value());
    EXPECT_DOUBLE_EQ(input->geometry.scale_x, 0.4);
    EXPECT_EQ(input->geometry.offset_y, 10);
    EXPECT_EQ(int{input->seen.at(0, 9)[0]}, 128);
    EXPECT_EQ(int{input->seen.at(39, 30)[1]}, 64);
    EXPECT_NEAR(input->pixels.abs().select(2, 0).max().item<double>(), 0, 0.01);  // the border is no signal
    EXPECT_THAT(p->summary(), HasSubstr("fit in 40 x 40"));
    const Box seen = input->geometry.seen();
    EXPECT_DOUBLE_EQ(seen.y0, -25);
    EXPECT_DOUBLE_EQ(seen.y1, 75);
}

TEST(Preprocess, ShortSideResizeTruncatesTheLongSide) {
    Preprocess p;
    p.resize_to = 50;
    p.input_height = p.input_width = 40;
    const auto input = prepare(ramp(101, 67), p);
    ASSERT_TRUE(input.has_value()) << input.error().message;
    // 50 * 101 / 67 = 75.37
    EXPECT_DOUBLE_EQ(input->geometry.scale_x, 75.0 / 101);
    EXPECT_DOUBLE_EQ(input->geometry.scale_y, 50.0 / 67);
    EXPECT_EQ(input->seen.width, 40);
    EXPECT_EQ(input->pixels.sizes(), at::IntArrayRef({1, 3, 40, 40}));
}

TEST(Preprocess, GeometryLeadsFromAPatchBackToThePhoto) {
    Preprocess p;
    p.resize_to = 50;
    p.input_height = p.input_width = 40;
    const auto input = prepare(ramp(100, 200), p);
    ASSERT_TRUE(input.has_value());
    // Scale 1/2, crop 5 columns and 30 rows: the first of 4 x 4 patches is [5, 15) x [30, 40) of the resized picture.
    const Box box = input->geometry.cell(0, 0, 4, 4);
    EXPECT_DOUBLE_EQ(box.x0, 10);
    EXPECT_DOUBLE_EQ(box.x1, 30);
    EXPECT_DOUBLE_EQ(box.y0, 60);
    EXPECT_DOUBLE_EQ(box.y1, 80);
}

TEST(Preprocess, NormaliseIsDoneInFloatPerChannel) {
    Image image(2, 1);
    image.pixels = {0, 128, 255, 10, 20, 30};
    Preprocess p;
    const auto pixels = normalise(image, p);
    EXPECT_EQ(pixels.sizes(), at::IntArrayRef({1, 3, 1, 2}));
    EXPECT_FLOAT_EQ(pixels[0][0][0][0].item<float>(), (0.0f - 0.485f) / 0.229f);
    EXPECT_FLOAT_EQ(pixels[0][1][0][0].item<float>(), (128.0f / 255.0f - 0.456f) / 0.224f);
    EXPECT_FLOAT_EQ(pixels[0][2][0][1].item<float>(), (30.0f / 255.0f - 0.406f) / 0.225f);
}

TEST(Preprocess, AThinStripIsRefusedBeforeItIsEnlarged) {
    Preprocess p;
    const auto input = prepare(Image(60000, 1), p);
    ASSERT_FALSE(input.has_value());
    EXPECT_THAT(input.error().message, HasSubstr("too large"));
    p.resize = Preprocess::Resize::Contain;
    p.resize_height = p.resize_width = 224;
    EXPECT_THAT(prepare(Image(60000, 1), p).error().message, HasSubstr("no pixels"));
    EXPECT_FALSE(prepare(Image{}, p).has_value());
}

TEST(Preprocess, SettingsOverrideFields) {
    Preprocess p;
    p.assumed = {"mean", "std"};
    ASSERT_TRUE(p.set("mean", "0.5, 0.4,0.3"));
    ASSERT_TRUE(p.set("std", "0.5"));
    EXPECT_EQ(p.mean, (std::array<double, 3>{0.5, 0.4, 0.3}));
    EXPECT_EQ(p.std, (std::array<double, 3>{0.5, 0.5, 0.5}));
    EXPECT_TRUE(p.assumed.empty());
    ASSERT_TRUE(p.set("interpolation", "Bilinear"));
    ASSERT_TRUE(p.set("crop_pct", "0.875"));
    EXPECT_EQ(p.resize_to, 256);
    ASSERT_TRUE(p.set("input_size", "3,448,448"));
    EXPECT_EQ(p.input_width, 448);
    EXPECT_EQ(p.resize_to, 512);
    ASSERT_TRUE(p.set("exif", "ignore"));
    EXPECT_FALSE(p.apply_exif);
    ASSERT_TRUE(p.set("resize", "none"));
    EXPECT_EQ(p.resize, Preprocess::Resize::None);
    EXPECT_THAT(p.summary(), HasSubstr("centre crop 448"));
}

TEST(Preprocess, NonsenseSettingsAreRefusedInWords) {
    Preprocess p;
    for (const auto& [key, value] : std::vector<std::pair<const char*, const char*>>{{"mean", "a"},
                                                                                     {"mean", "1,2"},
                                                                                     {"mean", ""},
                                                                                     {"std", "0"},
                                                                                     {"std", "nan"},
                                                                                     {"interpolation", "best"},
                                                                                     {"crop_pct", "0"},
                                                                                     {"crop_pct", "-1"},
                                                                                     {"input_size", "0"},
                                                                                     {"input_size", "1e9"},
                                                                                     {"input_size", "1.5"},
                                                                                     {"exif", "maybe"},
                                                                                     {"crop", "left"},
                                                                                     {"resize", "big"}})
        EXPECT_FALSE(p.set(key, value).has_value()) << key << "=" << value;
    EXPECT_THAT(p.set("maen", "1").error().message, HasSubstr("did you mean mean"));
}

TEST(Configure, TimmConfigIsTakenAsTimmTakesIt) {
    const auto p = preprocess_for(with({{"pretrained_cfg",
                                         {{"input_size", {3, 224, 224}},
                                          {"crop_pct", 0.9},
                                          {"interpolation", "bicubic"},
                                          {"mean", {0.5, 0.5, 0.5}},
                                          {"std", {0.5, 0.5, 0.5}}}}}),
                                  {});
    ASSERT_TRUE(p.has_value()) << p.error().message;
    EXPECT_EQ(p->resize_to, 248);  // floor(224 / 0.9)
    EXPECT_EQ(p->resize, Preprocess::Resize::ShortSide);
    EXPECT_TRUE(p->assumed.empty());
    const auto squash = preprocess_for(with({{"input_size", {3, 384, 384}},
                                             {"crop_pct", 1.0},
                                             {"crop_mode", "squash"},
                                             {"mean", {0.5, 0.5, 0.5}},
                                             {"std", {0.5, 0.5, 0.5}},
                                             {"interpolation", "bilinear"}}),
                                       {});
    EXPECT_EQ(squash->resize, Preprocess::Resize::Exact);
    EXPECT_EQ(squash->resize_width, 384);
    const auto wide = preprocess_for(with({{"input_size", {3, 128, 256}}, {"crop_pct", 0.5}}), {});
    EXPECT_EQ(wide->resize, Preprocess::Resize::Cover);
    EXPECT_EQ(wide->resize_width, 512);
    EXPECT_EQ(wide->assumed, (std::set<std::string>{"mean", "std", "interpolation"}));
}

TEST(Configure, TransformersProcessorsAreTakenAsTheyWork) {
    const auto vit = preprocess_for(with({}, {{"size", {{"height", 224}, {"width", 224}}},
                                              {"resample", 2},
                                              {"image_mean", {0.5, 0.5, 0.5}},
                                              {"image_std", {0.5, 0.5, 0.5}}}),
                                    {});
    ASSERT_TRUE(vit.has_value()) << vit.error().message;
    EXPECT_EQ(vit->resize, Preprocess::Resize::Exact);
    EXPECT_EQ(vit->interpolation, Interpolation::Bilinear);
    const auto clip = preprocess_for(with({}, {{"size", {{"shortest_edge", 256}}},
                                               {"crop_size", {{"height", 224}, {"width", 224}}},
                                               {"do_center_crop", true},
                                               {"resample", 3},
                                               {"image_mean", {0.4, 0.4, 0.4}},
                                               {"image_std", {0.2, 0.2, 0.2}}}),
                                     {});
    EXPECT_EQ(clip->resize_to, 256);
    EXPECT_EQ(clip->input_height, 224);
    EXPECT_TRUE(clip->floor_crop);
    EXPECT_EQ(clip->interpolation, Interpolation::Bicubic);
}

TEST(Configure, WhatABareSizeMeansIsTheProcessorsOwn) {
    const json old{{"size", 256},   {"crop_size", 224},  {"do_center_crop", true},
                   {"resample", 3}, {"image_mean", 0.5}, {"image_std", 0.5}};
    const auto typed = [&](const char* type) {
        json file = old;
        file["feature_extractor_type"] = type;
        return preprocess_for(with({}, file), {});
    };
    EXPECT_EQ(typed("CLIPFeatureExtractor")->resize, Preprocess::Resize::ShortSide);
    EXPECT_EQ(typed("DeiTFeatureExtractor")->resize, Preprocess::Resize::Exact);
    EXPECT_TRUE(typed("DeiTFeatureExtractor")->assumed.empty());
    EXPECT_EQ(typed("SomeImageProcessor")->assumed.count("resize"), 1U);
    EXPECT_EQ(preprocess_for(with({{"model_type", "deit"}}, old), {})->resize, Preprocess::Resize::Exact);
}

TEST(Configure, WhatAProcessorsFileLeavesOutIsTheProcessorsOwn) {
    const auto vit = preprocess_for(with({{"model_type", "vit"}}, {{"size", 224}}), {});
    ASSERT_TRUE(vit.has_value()) << vit.error().message;
    EXPECT_EQ(vit->interpolation, Interpolation::Bilinear);
    EXPECT_EQ(vit->mean, (std::array<double, 3>{0.5, 0.5, 0.5}));
    EXPECT_TRUE(vit->assumed.empty());
    const auto convnext = [](int size) {
        return preprocess_for(with({}, {{"image_processor_type", "ConvNextImageProcessor"},
                                        {"size", {{"shortest_edge", size}}},
                                        {"crop_pct", 0.875}}),
                              {});
    };
    EXPECT_EQ(convnext(224)->resize_to, 256);
    EXPECT_EQ(convnext(224)->input_width, 224);
    EXPECT_EQ(convnext(384)->resize, Preprocess::Resize::Exact);
    EXPECT_EQ(convnext(384)->resize_width, 384);
}

TEST(Configure, SilenceIsMarkedAsAssumed) {
    Preprocess usual;
    usual.source = "torchvision preset";
    const auto p = preprocess_for(with(json::object()), usual);
    ASSERT_TRUE(p.has_value());
    EXPECT_EQ(p->source, "torchvision preset");
    EXPECT_EQ(p->assumed.count("mean"), 1u);
}

TEST(Configure, BrokenFieldsAreRefusedInWords) {
    const auto refused = [](const json& config) { return preprocess_for(with(config), {}); };
    EXPECT_THAT(refused({{"mean", "a"}}).error().message, HasSubstr("expected three numbers"));
    EXPECT_FALSE(refused({{"std", {0, 1, 1}}}).has_value());
    EXPECT_FALSE(refused({{"input_size", {3, -1, 4}}}).has_value());
    EXPECT_FALSE(refused({{"input_size", {3, 99999999, 4}}}).has_value());
    EXPECT_FALSE(refused({{"input_size", {1, 28, 28}}}).has_value());
    EXPECT_FALSE(refused({{"crop_pct", 0}}).has_value());
    EXPECT_FALSE(refused({{"crop_pct", "most"}}).has_value());
    EXPECT_FALSE(refused({{"interpolation", "sharp"}}).has_value());
    EXPECT_FALSE(preprocess_for(with({}, {{"do_resize", true}}), {}).has_value());
    EXPECT_FALSE(preprocess_for(with({}, {{"size", "big"}}), {}).has_value());
    EXPECT_THAT(refused({{"mean", 0.5}, {"crop_mode", "middle"}}).error().message, HasSubstr("squash or border"));
    EXPECT_FALSE(preprocess_for(with({}, {{"size", {{"shortest_edge", 9}, {"longest_edge", 12}}}}), {}).has_value());
    EXPECT_FALSE(preprocess_for(with({}, {{"size", 9}, {"do_pad", true}}), {}).has_value());
    EXPECT_FALSE(preprocess_for(with({{"preprocess_cfg", {{"resize_mode", "wide"}}}}), {}).has_value());
}

TEST(Configure, LabelsComeFromTheConfigurationOrAreAssumedByCount) {
    const auto named = labels_for(with({{"id2label", {{"0", "cat"}, {"1", "dog"}}}}), 2);
    EXPECT_EQ(named->names, (std::vector<std::string>{"cat", "dog"}));
    EXPECT_FALSE(named->assumed);
    EXPECT_TRUE(labels_for(with({{"id2label", {{"0", "LABEL_0"}, {"1", "LABEL_1"}}}}), 2)->names.empty());
    EXPECT_TRUE(labels_for(with(json::object()), 1000)->assumed);
    EXPECT_FALSE(labels_for(with({{"pretrained_cfg", {{"tag", "augreg_in21k_ft_in1k"}}}}), 1000)->assumed);
    EXPECT_EQ(labels_for(with(json::object()), 10)->names[3], "cat");
    EXPECT_TRUE(labels_for(with(json::object()), 37)->names.empty());
    EXPECT_EQ(labels_for(with({{"label_names", {"a", "b", "c"}}}), 3)->names.size(), 3u);
    EXPECT_THAT(labels_for(with({{"labels", {"a", "b", "c"}}}), 4).error().message, HasSubstr("3 names, expected 4"));
    EXPECT_FALSE(labels_for(with({{"labels", "../../etc/passwd"}}), 4).has_value());
    EXPECT_FALSE(labels_for(with({{"labels", {1, 2}}}), 2).has_value());
}

TEST(Configure, ALabelFileBesideTheCheckpointIsRead) {
    const auto folder = std::filesystem::temp_directory_path() / fmt::format("vitrine_labels_{}", getpid());
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "labels.txt") << "one\r\ntwo\nthree\n\n";
    auto checkpoint = with({{"labels", "labels.txt"}});
    checkpoint.path = folder / "model.pt";
    const auto labels = labels_for(checkpoint, 3);
    ASSERT_TRUE(labels.has_value()) << labels.error().message;
    EXPECT_EQ(labels->names, (std::vector<std::string>{"one", "two", "three"}));
    EXPECT_FALSE(labels_for(checkpoint, 5).has_value());
    std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace vitrine
