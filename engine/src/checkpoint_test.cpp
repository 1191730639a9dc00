// Tests of finding a checkpoint's file, what lies beside it, and tensors of every kind.
#include <vitrine/checkpoint.h>

#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace vitrine {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class Checkpoints : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::temp_directory_path() / fmt::format("vitrine_checkpoint_test_{}", getpid());
        fs::create_directories(folder_);
    }
    void TearDown() override {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }
    fs::path save(const std::string& name, const std::vector<std::string>& tensors) {
        static const float values[6] = {0, 1, 2, 3, 4, 5};
        std::vector<NamedTensor> list;
        for (const auto& tensor : tensors) {
            TensorEntry entry;
            entry.shape = {2, 3};
            entry.strides = {3, 1};
            entry.data = reinterpret_cast<const std::byte*>(values);
            list.push_back({tensor, entry});
        }
        const auto written = write_safetensors(folder_ / name, list, {});
        EXPECT_TRUE(written.has_value());
        return folder_ / name;
    }
    void text(const std::string& name, const std::string& content) { std::ofstream(folder_ / name) << content; }
    fs::path folder_;
};

/// The checkpoint, or an empty one and a failed test.
Checkpoint opened(const fs::path& path) {
    auto checkpoint = read_checkpoint(path);
    if (checkpoint) return std::move(*checkpoint);
    ADD_FAILURE() << path << ": " << checkpoint.error().message;
    return {};
}

TEST_F(Checkpoints, AHubFolderIsReadWithItsConfiguration) {
    save("model.safetensors", {"a.weight"});
    text("config.json", R"({"architecture": "vit_tiny"})");
    text("preprocessor_config.json", R"({"size": 224})");
    const auto checkpoint = read_checkpoint(folder_);
    ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message;
    EXPECT_EQ(checkpoint->config["architecture"], "vit_tiny");
    EXPECT_EQ(checkpoint->preprocessor["size"], 224);
    EXPECT_EQ(checkpoint->shape("a.weight"), (std::vector<std::int64_t>{2, 3}));
    EXPECT_FLOAT_EQ(checkpoint->tensor("a.weight")->sum().item<float>(), 15);
}

TEST_F(Checkpoints, TheImageProcessorIsFoundInAWholeProcessorsFile) {
    save("model.safetensors", {"a"});
    text("processor_config.json", R"({"image_processor": {"size": 224}, "processor_class": "CLIPProcessor"})");
    EXPECT_EQ(opened(folder_).preprocessor["size"], 224);
}

TEST_F(Checkpoints, AnOpenClipFileTakesItsOwnConfiguration) {
    const auto file = save("open_clip_model.safetensors", {"a"});
    text("config.json", R"({"model_type": "clip"})");
    text("preprocessor_config.json", R"({"size": 224})");
    text("open_clip_config.json", R"({"model_cfg": {}})");
    EXPECT_TRUE(opened(file).config.contains("model_cfg"));
    EXPECT_TRUE(opened(file).preprocessor.empty());
}

TEST_F(Checkpoints, ASidecarIsAboutItsOwnFile) {
    const auto file = save("mine.safetensors", {"a"});
    text("config.json", R"({"architecture": "another"})");
    EXPECT_TRUE(opened(file).config.empty());
    text("mine.json", R"({"num_heads": 7})");
    EXPECT_EQ(opened(file).config["num_heads"], 7);
}

TEST_F(Checkpoints, AHeaderLengthThatLooksLikeAPickleIsStillSafetensors) {
    // These two names make a header of 128 bytes, and 0x80 opens a pickle too.
    const auto file = save("a.safetensors", {"module.x", "module.y"});
    std::ifstream in(file, std::ios::binary);
    ASSERT_EQ(in.get(), 0x80) << "the writer pads otherwise now; choose other names";
    EXPECT_TRUE(opened(file).has("x"));
}

TEST_F(Checkpoints, WrappersAreTakenOff) {
    EXPECT_EQ(opened(save("a.safetensors", {"module.x", "module.y"})).stripped_prefix, "module.");
    const auto trained = opened(save("b.safetensors", {"model.x", "model.y", "optimizer.state.0"}));
    EXPECT_EQ(trained.stripped_prefix, "model.");
    EXPECT_TRUE(trained.has("x"));
    EXPECT_FALSE(trained.has("optimizer.state.0"));
    EXPECT_EQ(opened(save("c.safetensors", {"state_dict.module.x"})).stripped_prefix, "state_dict.module.");
    const auto dino =
        opened(save("d.safetensors", {"teacher.backbone.x", "teacher.head.y", "student.module.backbone.x"}));
    EXPECT_TRUE(dino.has("x"));
    // A name that only some share is no wrapper.
    EXPECT_EQ(opened(save("e.safetensors", {"model.x", "classifier.y"})).stripped_prefix, "");
}

TEST_F(Checkpoints, ErrorsNameTheTensorAndBothShapes) {
    const auto checkpoint = read_checkpoint(save("a.safetensors", {"module.blocks.3.attn.qkv.weight"}));
    EXPECT_EQ(checkpoint->tensor("blocks.3.attn.qkv.weight", {4, 6}).error().message,
              "module.blocks.3.attn.qkv.weight is [2, 3], expected [4, 6]");
    EXPECT_EQ(checkpoint->tensor("nothing").error().code, ErrorCode::NotFound);
    EXPECT_EQ(checkpoint->tensor("nothing").error().message, "module.nothing is missing");
}

TEST_F(Checkpoints, WhatIsNoCheckpointIsRefusedInASentence) {
    EXPECT_EQ(read_checkpoint(folder_ / "vanished").error().code, ErrorCode::NotFound);
    EXPECT_THAT(read_checkpoint(folder_).error().message, HasSubstr("holds no checkpoint"));
    text("words.pt", "no checkpoint at all");
    EXPECT_FALSE(read_checkpoint(folder_ / "words.pt").has_value());
    text("empty.safetensors", "");
    EXPECT_FALSE(read_checkpoint(folder_ / "empty.safetensors").has_value());
    EXPECT_FALSE(read_checkpoint("/dev/null").has_value());
    save("one.safetensors", {"a"});
    save("two.safetensors", {"a"});
    fs::remove(folder_ / "words.pt");
    fs::remove(folder_ / "empty.safetensors");
    EXPECT_THAT(read_checkpoint(folder_).error().message, HasSubstr("one.safetensors, two.safetensors"));
}

TEST_F(Checkpoints, ABrokenConfigurationIsNotPassedOver) {
    save("model.safetensors", {"a"});
    text("config.json", "{\"architecture\": ");
    EXPECT_THAT(read_checkpoint(folder_).error().message, HasSubstr("config.json is not a JSON object"));
    text("config.json", "[1, 2]");
    EXPECT_FALSE(read_checkpoint(folder_).has_value());
    text("config.json", std::string(100000, '['));
    EXPECT_FALSE(read_checkpoint(folder_).has_value());
}

TEST(ToTensor, ConvertsEveryPlainTypeAtAnyAlignment) {
    alignas(8) std::byte bytes[64] = {};
    const auto entry = [&](DType dtype, std::size_t offset, std::vector<std::int64_t> shape,
                           std::vector<std::int64_t> strides) {
        TensorEntry e;
        e.dtype = dtype;
        e.shape = std::move(shape);
        e.strides = std::move(strides);
        e.data = bytes + offset;
        return e;
    };
    const float values[3] = {1.5f, -2, 3};
    std::memcpy(bytes + 1, values, sizeof values);  // not aligned
    EXPECT_FLOAT_EQ(to_tensor(entry(DType::F32, 1, {3}, {1}))->sum().item<float>(), 2.5f);
    const std::uint16_t half[2] = {0x3E00, 0xC000}, bf16[2] = {0x3FC0, 0xC000};
    std::memcpy(bytes + 32, half, sizeof half);
    std::memcpy(bytes + 36, bf16, sizeof bf16);
    EXPECT_FLOAT_EQ(to_tensor(entry(DType::F16, 32, {2}, {1}))->sum().item<float>(), -0.5f);
    EXPECT_FLOAT_EQ(to_tensor(entry(DType::BF16, 36, {2}, {1}))->sum().item<float>(), -0.5f);
    const std::int64_t whole = -7;
    std::memcpy(bytes + 40, &whole, sizeof whole);
    EXPECT_FLOAT_EQ(to_tensor(entry(DType::I64, 40, {1}, {1}))->item<float>(), -7);
    EXPECT_FLOAT_EQ(to_tensor(entry(DType::I64, 40, {}, {}))->item<float>(), -7);
    const auto transposed = to_tensor(entry(DType::U8, 32, {2, 3}, {1, 2}));
    EXPECT_TRUE(transposed->is_contiguous());
    EXPECT_EQ(transposed->size(1), 3);
    EXPECT_EQ(to_tensor(entry(DType::F32, 0, {0, 5}, {5, 1}))->numel(), 0);
}

TEST(ToTensor, RefusesWhatItCannotRepresent) {
    static const std::byte bytes[8] = {};
    TensorEntry e;
    e.shape = {1};
    e.strides = {1};
    e.data = bytes;
    for (const DType dtype : {DType::C64, DType::QI8, DType::QU8, DType::QI32}) {
        e.dtype = dtype;
        EXPECT_EQ(to_tensor(e).error().code, ErrorCode::Unsupported);
    }
    e.dtype = DType::F32;
    e.shape = {1 << 20, 1 << 20};
    e.strides = {0, 0};
    EXPECT_THAT(to_tensor(e).error().message, HasSubstr("repeats"));
    e.shape = {std::int64_t{1} << 40, std::int64_t{1} << 40};
    EXPECT_FALSE(to_tensor(e).has_value());
}

}  // namespace
}  // namespace vitrine
