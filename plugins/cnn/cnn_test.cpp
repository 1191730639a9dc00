// Tests of the convolutional networks: tiny models, refusal in words.
#include "cnn.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/capture.h>
#include <vitrine/registry.h>

namespace vitrine::plugin::cnn {
namespace {

using testing::HasSubstr;

const Architecture& architecture() { return *registry().architecture("cnn").value(); }

NamedTensors tiny_tensors() {
    auto model = architecture().tiny(1).value();
    return dynamic_cast<CnnModel&>(*model).tensors();
}

TEST(Cnn, TinyModelsAreEqualBySeedAndSpread) {
    const c10::InferenceMode guard;
    const auto a = architecture().tiny(4).value(), b = architecture().tiny(4).value(), c = architecture().tiny(5).value();
    const auto pixels = at::randn({2, 3, 32, 32});
    const auto answer = a->forward(pixels);
    EXPECT_TRUE(answer.equal(b->forward(pixels)));
    EXPECT_FALSE(answer.equal(c->forward(pixels)));
    EXPECT_GT((answer.max() - answer.min()).item<double>(), 1.0);
    EXPECT_GT((answer[0] - answer[1]).abs().max().item<double>(), 0.1) << "the picture does not matter";
    EXPECT_FALSE(a->layout(32, 32).known());
}

TEST(Cnn, EveryDeclaredPointIsReported) {
    auto model = architecture().tiny(0).value();
    CaptureOptions options;
    options.mixings = false;
    options.points = {"*"};
    const auto capture = run_captured(*model, at::randn({1, 3, 32, 32}), options);
    ASSERT_TRUE(capture.has_value()) << capture.error().message;
    for (const auto& declared : model->points()) EXPECT_EQ((*capture)->points.count(declared.name), 1u) << declared.name;
    EXPECT_EQ((*capture)->points.size(), model->points().size());
    EXPECT_EQ((*capture)->points.count(model->info().cam_point), 1u);
}

TEST(Cnn, AMissingTensorIsNamed) {
    auto tensors = tiny_tensors();
    std::erase_if(tensors, [](const auto& item) { return item.first == "layer2.0.bn2.running_var"; });
    const auto built = build_cnn(checkpoint_of(tensors));
    ASSERT_FALSE(built.has_value());
    EXPECT_THAT(built.error().message, HasSubstr("layer2.0.bn2.running_var is missing"));
}

TEST(Cnn, AWrongShapeIsNamedWithWhatWasExpected) {
    auto tensors = tiny_tensors();
    for (auto& [name, tensor] : tensors)
        if (name == "layer3.0.conv2.weight") tensor = at::zeros({32, 31, 3, 3});
    const auto built = build_cnn(checkpoint_of(tensors));
    ASSERT_FALSE(built.has_value());
    EXPECT_EQ(built.error().code, ErrorCode::BadInput);
    EXPECT_EQ(built.error().message, "layer3.0.conv2.weight is [32, 31, 3, 3], expected [32, 32, 3, 3]");
}

TEST(Cnn, ARelativeThatComputesMoreIsRefused) {
    auto tensors = tiny_tensors();
    tensors.emplace_back("layer1.0.se.fc1.weight", at::zeros({2, 8, 1, 1}));
    const auto built = build_cnn(checkpoint_of(tensors));
    ASSERT_FALSE(built.has_value());
    EXPECT_EQ(built.error().code, ErrorCode::Unsupported);
    EXPECT_THAT(built.error().message, HasSubstr("layer1.0.se.fc1.weight has no place"));
}

TEST(Cnn, ScalarAndEmptyTensorsAreRefused) {
    for (const auto& shape : std::vector<std::vector<std::int64_t>>{{}, {0, 3, 3, 3}, {16}, {16, 0, 3, 3}}) {
        auto tensors = tiny_tensors();
        for (auto& [name, tensor] : tensors)
            if (name == "layer1.0.conv1.weight") tensor = at::zeros(shape);
        EXPECT_FALSE(build_cnn(checkpoint_of(tensors)).has_value());
    }
}

}  // namespace
}  // namespace vitrine::plugin::cnn
