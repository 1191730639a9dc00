// The inner views, gradient rollout, Grad-SAM and CDAM against hooks on timm's modules in double precision, and the
// published code where there is some (recipes/views.py).
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <vitrine/explainer.h>

#include "parity_case.h"

namespace vitrine {
namespace {

using Set = std::vector<std::pair<const char*, std::string>>;

class ViewsParity : public testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        given = load(std::string("attention_methods/") + GetParam());
        wanted.clear();
        const auto data = read_safetensors(kData / (std::string("views/") + GetParam() + ".safetensors")).value();
        for (const auto& [key, entry] : data.tensors) wanted[key] = to_tensor(entry).value().clone();
        auto built = build(given, checkpoint_of(given));
        ASSERT_TRUE(built.has_value()) << built.error().message;
        model = std::move(*built);
        input.pixels = draw("pixels", given.json.at("pixels").get<std::vector<std::int64_t>>(), 1.8, 0.0,
                            given.json.at("seed").get<std::uint64_t>())
                           .narrow(0, 0, 1);
        other.pixels = (input.pixels.flip({2, 3}) * 0.7).contiguous();
    }
    Result<Attribution> explain(const char* method, const Set& set = {}) {
        const Explainer* explainer = registry().explainer(method).value();
        if (auto why = explainer->why_not(*model)) return fail(ErrorCode::Unsupported, "{}", *why);
        ExplainContext context(*model, input, {.index = 4});
        context.other = &other;
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return explainer->explain(context, settings);
    }
    /// Within 1e-4 of the largest value, which must vary.
    void expect(const std::string& name, const at::Tensor& found, const at::Tensor& want) {
        SCOPED_TRACE(name);
        ASSERT_EQ(found.numel(), want.numel());
        const double size = want.abs().max().item<double>(),
                     error = (found.flatten() - want.flatten()).abs().max().item<double>() / size;
        EXPECT_LT(error, 1e-4);
        EXPECT_GT((want.max() - want.min()).item<double>(), 1e-2 * size) << "proves nothing";
        worst = std::max(worst, error);
    }
    void expect_map(const std::string& name, const Result<Attribution>& found) {
        ASSERT_TRUE(found.has_value()) << name << ": " << found.error().message;
        expect(name, found->map, wanted.at(name));
        for (const Check& check : found->checks)
            EXPECT_TRUE(check.passed) << name << ", " << check.name << ": " << check.finding;
    }
    /// Chosen columns of a table's rows that end in `suffix`. [rows, columns]
    static at::Tensor table(const Attribution& found, const std::string& suffix, std::size_t from, std::size_t count) {
        std::vector<double> values;
        const Table& table = found.tables.at(0);
        std::int64_t rows = 0;
        for (std::size_t i = 0; i < table.rows.size(); ++i) {
            if (!table.rows[i].ends_with(suffix)) continue;
            ++rows;
            for (std::size_t j = 0; j < count; ++j) values.push_back(table.values[i].at(from + j));
        }
        at::Tensor out = at::empty({rows, static_cast<std::int64_t>(count)}, at::kDouble);
        std::copy(values.begin(), values.end(), out.mutable_data_ptr<double>());
        return out;
    }
    bool has(const char* name) const { return wanted.count(name) != 0; }
    void TearDown() override { std::printf("%s: within %.1e of the largest value\n", given.name.c_str(), worst); }

    Case given;
    std::map<std::string, at::Tensor> wanted;
    std::unique_ptr<Model> model;
    Input input, other;
    double worst = 0;
};

TEST_P(ViewsParity, LogitLensNormsAndComponentsOfEveryLayer) {
    for (std::int64_t layer = 0; layer < model->info().layers; ++layer) {
        const std::string number = std::to_string(layer);
        const auto lens = explain("logit_lens", {{"layer", number}}),
                   norms = explain("token_norms", {{"layer", number}});
        ASSERT_TRUE(lens && norms) << lens.error().message;
        expect("lens " + number, lens->map, wanted.at("lens")[layer]);
        expect("norms " + number, norms->map, wanted.at("norms")[layer]);
        for (const Check& check : lens->checks) EXPECT_TRUE(check.passed) << check.finding;
    }
    const auto pca = explain("token_pca");
    ASSERT_TRUE(pca) << pca.error().message;
    expect("pca", pca->map, wanted.at("pca")[0]);
    for (std::int64_t k = 0; k < 3; ++k) {
        const at::Tensor component = wanted.at("pca")[k];
        const at::Tensor colour = (component - component.min()) / (component.max() - component.min());
        EXPECT_LT((pca->colours[k].flatten() - colour).abs().max().item<double>(), 1e-3) << k;
    }
}

TEST_P(ViewsParity, DirectLogitAttribution) {
    const auto found = explain("direct_logit_attribution");
    if (!has("dla.map")) {
        ASSERT_FALSE(found);
        EXPECT_NE(found.error().message.find("pooling head"), std::string::npos);
        return;
    }
    expect_map("dla.map", found);
    const auto heads = static_cast<std::size_t>(model->info().heads);
    expect("heads", table(*found, ".attn", 1, heads), wanted.at("dla.heads"));
    expect("bias", table(*found, ".attn", 1 + heads, 1), wanted.at("dla.bias"));
    expect("mlp", table(*found, ".mlp", 0, 1), wanted.at("dla.mlp"));
    const at::Tensor ends = at::cat({table(*found, "embedding", 0, 1), table(*found, "the head", 0, 1)});
    EXPECT_LT((ends.flatten() - wanted.at("dla.ends")).abs().max().item<double>(), 1e-4);
}

TEST_P(ViewsParity, HeadAblation) {
    for (const std::string by : {"zero", "mean"}) {
        const auto found = explain("head_ablation", {{"by", by}});
        expect_map("ablation." + by + "_map", found);
        ASSERT_TRUE(found);
        expect("ablation." + by, table(*found, ".attn", 0, static_cast<std::size_t>(model->info().heads)),
               wanted.at("ablation." + by));
    }
}

TEST_P(ViewsParity, ActivationPatching) {
    for (const std::string part : {"block", "attention", "mlp"}) {
        const auto found = explain("activation_patching", {{"part", part}});
        expect_map("patching." + part, found);
        ASSERT_TRUE(found);
        expect("patching.table", table(*found, ".attn", 0, 2), wanted.at("patching.table"));
    }
}

TEST_P(ViewsParity, GradSam) {
    expect_map("grad_sam.rows", explain("grad_sam"));
    expect_map("grad_sam.columns", explain("grad_sam", {{"sum", "columns"}}));
    expect_map("grad_sam.readout", explain("grad_sam", {{"sum", "readout"}}));
}

TEST_P(ViewsParity, GradientRolloutIsVitExplainsOwn) {
    expect_map("gradient_rollout", explain("gradient_rollout"));
    if (!has("vit_explain.0.9")) return;  // its code wants one prefix token, read as the class token, and a square grid
    for (const std::string ratio : {"0.0", "0.5", "0.9"})
        expect_map("vit_explain." + ratio,
                   explain("gradient_rollout", {{"preset", "vit-explain"}, {"discard_ratio", ratio}}));
}

TEST_P(ViewsParity, CdamIsTheNotebooksOwn) {
    if (!has("cdam")) GTEST_SKIP() << "its code wants a prefix token";
    expect_map("cdam", explain("cdam"));
    if (has("cdam.similarity")) expect_map("cdam.similarity", explain("cdam", {{"score", "similarity"}}));
}

INSTANTIATE_TEST_SUITE_P(Cases, ViewsParity,
                         testing::Values("class_token", "distilled", "mean_pooling", "registers", "clip",
                                         "pooling_head"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace vitrine
