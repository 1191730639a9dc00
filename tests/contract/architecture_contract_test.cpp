// What every architecture promises, shown on its own tiny model.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <vitrine/capture.h>
#include <vitrine/registry.h>

namespace vitrine {
namespace {

at::Tensor random_picture(const Model& model, std::uint64_t seed = 1) {
    auto generator = at::detail::createCPUGenerator(seed);
    return at::randn({1, 3, model.preprocess().input_height, model.preprocess().input_width}, generator);
}

class ArchitectureContract : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        architecture_ = *registry().architecture(GetParam());
        auto model = architecture_->tiny(3);
        if (!model && model.error().code == ErrorCode::Unsupported) GTEST_SKIP() << model.error().message;
        ASSERT_TRUE(model.has_value()) << model.error().message;
        model_ = std::move(*model);
    }
    const Architecture* architecture_ = nullptr;
    std::unique_ptr<Model> model_;
};

TEST_P(ArchitectureContract, AnswersWithOneFiniteLogitAClass) {
    const auto logits = run(*model_, random_picture(*model_));
    ASSERT_TRUE(logits.has_value()) << logits.error().message;
    EXPECT_EQ(logits->size(0), 1);
    if (model_->info().classes > 0) {
        EXPECT_EQ(logits->size(1), model_->info().classes);
    }
    EXPECT_TRUE(at::isfinite(*logits).all().item<bool>());
    EXPECT_GT((logits->max() - logits->min()).item<double>(), 1.0)
        << "weights that answer alike for all classes prove nothing";
}

TEST_P(ArchitectureContract, EqualSeedsMakeEqualModels) {
    const auto again = architecture_->tiny(3);
    const auto other = architecture_->tiny(4);
    ASSERT_TRUE(again.has_value() && other.has_value());
    const at::Tensor picture = random_picture(*model_);
    const at::Tensor first = *run(*model_, picture);
    EXPECT_TRUE(first.equal(*run(**again, picture)));
    EXPECT_FALSE(first.equal(*run(**other, picture)));
}

TEST_P(ArchitectureContract, CaptureChangesNoLogit) {
    const at::Tensor picture = random_picture(*model_);
    const auto capture = run_captured(*model_, picture, {.points = {"*"}});
    ASSERT_TRUE(capture.has_value()) << capture.error().message;
    EXPECT_TRUE((*capture)->output.equal(*run(*model_, picture)));
    EXPECT_EQ((*capture)->flow.layers(), model_->info().layers);
}

TEST_P(ArchitectureContract, EveryMixingPassesItsOwnCheck) {
    const auto capture = run_captured(*model_, random_picture(*model_));
    ASSERT_TRUE(capture.has_value()) << capture.error().message;
    for (const auto& step : (*capture)->flow.steps) {
        const auto check = step.mixing->check(5);
        ASSERT_TRUE(check.has_value()) << check.error().message;
        EXPECT_TRUE(check->passed) << step.mixing->name << ": " << check->sentence;
        EXPECT_EQ(step.mixing->query_layout.tokens(), step.mixing->queries) << step.mixing->name;
        EXPECT_EQ(step.mixing->key_layout.tokens(), step.mixing->keys) << step.mixing->name;
    }
}

TEST_P(ArchitectureContract, RowsColumnsAndProductsAgree) {
    const auto capture = run_captured(*model_, random_picture(*model_));
    ASSERT_TRUE(capture.has_value());
    for (const auto& step : (*capture)->flow.steps) {
        const Mixing& mixing = *step.mixing;
        const at::Tensor whole = *mixing.rows({}, {});
        const std::int64_t query = mixing.queries / 2, key = mixing.keys / 3;
        EXPECT_TRUE(mixing.rows({}, std::vector{query})->squeeze(1).allclose(whole.select(1, query), 1e-5, 1e-6));
        EXPECT_TRUE(mixing.columns({}, std::vector{key})->squeeze(2).allclose(whole.select(2, key), 1e-5, 1e-6));
        const at::Tensor r = at::randn({mixing.heads, mixing.queries}).abs();
        EXPECT_TRUE(mixing.left(r)->allclose(r.unsqueeze(1).matmul(whole).squeeze(1), 1e-4, 1e-5));
        const at::Tensor v = at::randn({mixing.heads, mixing.keys, 3});
        EXPECT_TRUE(mixing.right(v)->allclose(whole.matmul(v), 1e-4, 1e-5));
        EXPECT_TRUE(whole.sum(-1).allclose(at::ones_like(whole.select(2, 0)), 1e-5, 1e-5));
    }
}

TEST_P(ArchitectureContract, NamedPointsCanBeReadAndReplaced) {
    const at::Tensor picture = random_picture(*model_);
    const auto capture = run_captured(*model_, picture, {.points = {"*"}});
    ASSERT_TRUE(capture.has_value());
    const auto points = model_->points();
    if (model_->is_native()) {
        ASSERT_FALSE(points.empty());
        for (const auto& point : points)
            EXPECT_TRUE((*capture)->points.count(point.name)) << point.name << " is declared but never reported";
    }
    if (model_->info().cam_point.empty()) return;
    Edit edit{Edit::Kind::ReplacePoint, model_->info().cam_point, 0, 0,
              [](const at::Tensor& x) { return at::zeros_like(x); }};
    const auto edited = run_captured(*model_, picture, {.edits = {edit}});
    ASSERT_TRUE(edited.has_value()) << edited.error().message;
    EXPECT_GT(((*edited)->output - (*capture)->output).abs().max().item<double>(), 1e-3);
}

TEST_P(ArchitectureContract, GradientsReachTheInput) {
    const auto capture = run_captured(*model_, random_picture(*model_), {.gradients = true});
    ASSERT_TRUE(capture.has_value()) << capture.error().message;
    const auto gradient = gradients((*capture)->output[0][0], {(*capture)->input}, {"input"});
    ASSERT_TRUE(gradient.has_value()) << gradient.error().message;
    EXPECT_GT((*gradient)[0].abs().max().item<double>(), 0.0);
}

TEST_P(ArchitectureContract, AStopRequestEndsTheRun) {
    std::stop_source source;
    source.request_stop();
    const auto capture = run_captured(*model_, random_picture(*model_), {.stop = source.get_token()});
    ASSERT_FALSE(capture.has_value());
    EXPECT_EQ(capture.error().code, ErrorCode::Cancelled);
}

TEST_P(ArchitectureContract, NonsenseInputIsAnErrorAndNotACrash) {
    for (const at::Tensor& nonsense : {at::randn({1, 5, 7, 7}), at::randn({3}), at::Tensor()}) {
        const auto answer = run(*model_, nonsense);
        EXPECT_FALSE(answer.has_value());
    }
}

TEST_P(ArchitectureContract, AnEmptyCheckpointIsNotRecognised) {
    const Checkpoint empty;
    EXPECT_LT(architecture_->recognise(empty).confidence, 0.5);
    EXPECT_FALSE(architecture_->build(empty).has_value());
}

std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const auto& architecture : registry().architectures()) all.push_back(architecture->description().name);
    return all;
}
INSTANTIATE_TEST_SUITE_P(All, ArchitectureContract, testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace vitrine
