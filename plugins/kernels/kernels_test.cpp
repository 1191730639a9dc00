// The list of kernels, and that the one that is forced is the one that answers.
#include <vitrine/capture.h>
#include <vitrine/kernels/chooser.h>
#include <vitrine/registry.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>

#include <cstdlib>
#include <set>

namespace vitrine {
namespace {

/// Forces a kernel while it lives.
class Forced {
  public:
    explicit Forced(const std::string& name) {
        if (const char* before = std::getenv("VITRINE_KERNEL")) before_ = before;
        setenv("VITRINE_KERNEL", name.c_str(), 1);
    }
    ~Forced() {
        if (before_)
            setenv("VITRINE_KERNEL", before_->c_str(), 1);
        else
            unsetenv("VITRINE_KERNEL");
    }
    Forced(const Forced&) = delete;
    Forced& operator=(const Forced&) = delete;

  private:
    std::optional<std::string> before_;
};

/// Three attentions of 3 heads over 50 tokens, the queries, keys and values views of one tensor.
class Attentions final : public Model {
  public:
    Attentions() {
        info_.layers = 3;
        info_.heads = 3;
        const auto random = at::make_generator<at::CPUGeneratorImpl>(5);
        for (int layer = 0; layer < 3; ++layer) qkv_.push_back(at::randn({1, 50, 3, 3, 20}, random));
    }
    TokenLayout layout(std::int64_t, std::int64_t) const override { return {{"cls"}, 7, 7, ""}; }
    void to(at::Device, at::ScalarType) override {}
    at::Tensor forward(const at::Tensor& pixels) override {
        at::Tensor sum;
        for (std::int64_t layer = 0; layer < 3; ++layer) {
            const MixingScope scope([&] {
                return MixingScope::Facts{"blocks." + std::to_string(layer), layer, true, layout(0, 0), layout(0, 0)};
            });
            const at::Tensor t = (qkv_[static_cast<std::size_t>(layer)] + pixels.mean()).permute({2, 0, 3, 1, 4});
            const at::Tensor out = at::scaled_dot_product_attention(t.select(0, 0), t.select(0, 1), t.select(0, 2));
            sum = sum.defined() ? sum + out.sum() : out.sum();
        }
        return sum.reshape({1, 1});
    }

  private:
    std::vector<at::Tensor> qkv_;
};

class Kernels : public testing::Test {
  protected:
    Kernels() {
        capture = run_captured(model, at::ones({1, 3, 4, 4})).value();
        mixing = capture->flow.steps.front().mixing;
        map = at::softmax(at::matmul(mixing->q(), mixing->k().transpose(-2, -1)) / std::sqrt(20.0), -1);
    }
    Attentions model;
    std::shared_ptr<const Capture> capture;
    std::shared_ptr<const Mixing> mixing;
    at::Tensor map;
};

TEST_F(Kernels, AreListedForEveryOperation) {
    std::set<std::string> names;
    for (const auto& kernel : registry().kernels()) {
        EXPECT_TRUE(names.insert(kernel->description().name).second) << kernel->description().name;
        EXPECT_FALSE(kernel->description().summary.empty());
        if (kernel->implementation() == "reference") {
            EXPECT_FALSE(kernel->why_not());
        }
    }
    for (const char* wanted : {"map_rows_reference", "map_sweep_reference", "map_sweep_gradient_reference"})
        EXPECT_TRUE(names.count(wanted)) << wanted;
}

TEST_F(Kernels, ThoseOfADeviceSayWhatIsMissing) {
    int found = 0;
    for (const auto& kernel : registry().kernels()) {
        if (kernel->implementation().rfind("cuda", 0) != 0) continue;
        ++found;
        const auto why = kernel->why_not();
        EXPECT_TRUE(!why || why->find("CUDA device") != std::string::npos || why->find("nvcc") != std::string::npos)
            << *why;
    }
    // Two with one form; where nvcc compiled the map kernels 8 in two forms, 2 of these in a third, and one more.
    EXPECT_TRUE(found == 2 || found == 2 + 16 + 2 + 1) << found;
}

TEST_F(Kernels, TheLeanOneNamesItsPaperAndWhatRuns) {
    std::set<std::string> probes;
    for (const auto& kernel : registry().kernels()) {
        if (kernel->operation() != "probe") continue;
        EXPECT_EQ(kernel->description().system, 46);
        EXPECT_THAT(kernel->description().source, testing::HasSubstr("2405.10480"));
        probes.insert(kernel->description().name);
        if (kernel->description().name != "attn_decode_lean") continue;
        EXPECT_FALSE(kernel->why_not());
        bool runs = false;
        for (const kernels::AttentionKernels* table : kernels::attention_kernels())
            runs = runs || (kernel->implementation() == table->name && table->machine() == nullptr);
        EXPECT_TRUE(runs) << kernel->implementation();
    }
    EXPECT_TRUE(probes.count("attn_decode_lean"));
    EXPECT_TRUE(probes.count("probe_cuda"));
    EXPECT_TRUE(probes.count("probe_reference"));
}

TEST_F(Kernels, TheForcedOneAnswersInEveryOperation) {
    const std::int64_t one[] = {17};
    std::set<std::string> rows;
    std::size_t can_run = 0;
    for (const kernels::AttentionKernels* table : kernels::attention_kernels()) {
        const Forced forced(table->name);
        if (const char* why = table->machine()) {
            const auto refused = mixing->rows({}, one);
            ASSERT_FALSE(refused);
            EXPECT_THAT(refused.error().message, testing::HasSubstr(why));
            continue;
        }
        ++can_run;
        const std::string name = table->name;
        const at::Tensor row = mixing->rows({}, one).value();
        EXPECT_EQ(mixing->implementation(), "map_rows " + name);
        EXPECT_LT((row - map.slice(1, 17, 18)).abs().max().item<double>(), 1e-6);
        rows.emplace(static_cast<const char*>(row.data_ptr()), row.nbytes());
        EXPECT_LT((mixing->columns({}, one).value() - map.slice(2, 17, 18)).abs().max().item<double>(), 1e-6);
        EXPECT_EQ(mixing->implementation(), "map_columns " + name);
        EXPECT_LT((mixing->tile({}, 0, 50, 0, 50, 1).value() - map).abs().max().item<double>(), 1e-6);
        EXPECT_EQ(mixing->implementation(), "map_tile " + name);
        EXPECT_LT((mixing->left(at::ones({50})).value() - map.sum(1)).abs().max().item<double>(), 1e-5);
        EXPECT_EQ(mixing->implementation(), "map_sweep " + name);
        EXPECT_LT((mixing->right(mixing->v()).value() - mixing->output()).abs().max().item<double>(), 1e-5);
        EXPECT_EQ(mixing->implementation(), "map_apply " + name);
        EXPECT_TRUE(mixing->sensitivity(at::ones({50}), Sensitivity::ReluPdP, mixing->output()));
        EXPECT_EQ(mixing->implementation(), "map_sweep_gradient " + name);
        EXPECT_EQ(rows_of_layers(capture->flow, one, false)->implementation, "map_rows_layers " + name);
        const auto check = mixing->check();
        ASSERT_TRUE(check);
        EXPECT_TRUE(check->passed) << check->sentence;
    }
    // Each rounds a single row in its own way: what is named is what ran.
    EXPECT_EQ(rows.size(), can_run);
}

TEST_F(Kernels, AnUnknownNameIsAnErrorInWords) {
    const Forced forced("fastest");
    const auto refused = mixing->rows({}, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::BadInput);
    EXPECT_THAT(refused.error().message, testing::HasSubstr("fastest"));
    EXPECT_THAT(refused.error().message, testing::HasSubstr("reference"));
}

TEST_F(Kernels, SensitivityIsTheSumOverTheDenseGradient) {
    const at::Tensor d_output = at::randn({3, 50, 20}, at::make_generator<at::CPUGeneratorImpl>(6));
    const at::Tensor r = at::randn({3, 50}, at::make_generator<at::CPUGeneratorImpl>(7));
    const at::Tensor dp = at::matmul(d_output, mixing->v().transpose(-2, -1));
    const auto swept = [&](const at::Tensor& x) { return at::matmul(r.unsqueeze(1), x).select(1, 0); };
    for (const auto& [functor, wanted] : {std::pair{Sensitivity::ReluPdP, (map * dp).clamp_min(0)},
                                          {Sensitivity::PdP, map * dp},
                                          {Sensitivity::ReluDP, dp.clamp_min(0)},
                                          {Sensitivity::AbsDP, dp.abs()}}) {
        const at::Tensor found = mixing->sensitivity(r, functor, d_output).value();
        EXPECT_LT((found - swept(wanted)).abs().max().item<double>(), 1e-5 * swept(wanted).abs().max().item<double>());
    }
    EXPECT_EQ(mixing->sensitivity(r, Sensitivity::PdP, d_output.slice(2, 0, 4)).error().code, ErrorCode::BadInput);
}

TEST_F(Kernels, RowsOfLayersAreTheRowsOfEachLayer) {
    const std::int64_t queries[] = {0, -1, 23};
    const LayerRows every = rows_of_layers(capture->flow, queries, false).value();
    const LayerRows mean = rows_of_layers(capture->flow, queries, true).value();
    ASSERT_EQ(every.rows.size(), 3U);
    for (std::size_t layer = 0; layer < 3; ++layer) {
        const at::Tensor rows = capture->flow.steps[layer].mixing->rows({}, queries).value();
        EXPECT_TRUE(at::equal(every.rows[layer], rows));
        EXPECT_LT((mean.rows[layer] - rows.mean(0)).abs().max().item<double>(), 1e-7);
    }
    const std::int64_t outside[] = {50};
    EXPECT_EQ(rows_of_layers(capture->flow, outside, false).error().code, ErrorCode::BadInput);
}

}  // namespace
}  // namespace vitrine
