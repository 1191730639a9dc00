// The inner views against the same sums written out in double precision, and what they refuse.
#include "views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vitrine/registry.h>

#include "../../tests/cases/plain_vit.h"

namespace vitrine::plugin::views {
namespace {

using testing::HasSubstr;
using Set = std::vector<std::pair<std::string, std::string>>;
constexpr std::int64_t kClass = 3, kVersus = 7;

class Views : public testing::Test {
  protected:
    void SetUp() override {
        model = registry().architecture("vit").value()->tiny(2).value();
        input.pixels = picture(1);
        other.pixels = picture(2);
        plain = std::make_unique<PlainVit>(*model);
        run = plain->run(input.pixels);
        layout = model->layout(32, 32);
    }
    static at::Tensor picture(std::uint64_t seed) {
        return at::randn({1, 3, 32, 32}, at::make_generator<at::CPUGeneratorImpl>(seed));
    }
    Result<Attribution> explain(const std::string& method, const Set& set = {}, Target target = {.index = kClass},
                                std::int64_t batch = 3) {
        const Explainer* explainer = registry().explainer(method).value();
        ExplainContext context(*model, input, std::move(target), 5);
        context.batch = batch;
        context.other = &other;
        Settings settings(explainer->parameters());
        for (const auto& [name, value] : set) VITRINE_CHECK(settings.set(name, value));
        return explainer->explain(context, settings);
    }
    /// On the patch grid, from one number a token.
    at::Tensor grid(const at::Tensor& tokens) const {
        return tokens.slice(0, layout.prefix_count()).reshape({layout.rows, layout.cols});
    }
    /// Within 1e-5 of the largest value, which must be a map that says something.
    static void expect_map(const Result<Attribution>& found, const at::Tensor& wanted) {
        ASSERT_TRUE(found) << found.error().message;
        ASSERT_EQ(found->map.sizes(), wanted.sizes());
        const double size = wanted.abs().max().item<double>();
        EXPECT_GT((wanted.max() - wanted.min()).item<double>(), 1e-3 * size) << "proves nothing";
        EXPECT_LT((found->map - wanted).abs().max().item<double>(), 1e-5 * size);
        for (const Check& check : found->checks) EXPECT_TRUE(check.passed) << check.name << ": " << check.finding;
    }
    static double at_table(const Attribution& found, const std::string& row, const std::string& col) {
        const Table& table = found.tables.at(0);
        const auto i = std::find(table.rows.begin(), table.rows.end(), row) - table.rows.begin();
        const auto j = std::find(table.cols.begin(), table.cols.end(), col) - table.cols.begin();
        return table.values.at(static_cast<std::size_t>(i)).at(static_cast<std::size_t>(j));
    }

    std::unique_ptr<Model> model;
    Input input, other;
    std::unique_ptr<PlainVit> plain;
    PlainVit::Run run;
    TokenLayout layout;
};

TEST_F(Views, ThePlainModelIsTheModel) {
    const at::Tensor logits = vitrine::run(*model, input.pixels).value()[0];
    EXPECT_LT((logits - run.logits).abs().max().item<double>(), 1e-5);
}

TEST_F(Views, TheLogitLensIsNormAndHeadOfEachToken) {
    for (std::int64_t layer = 0; layer < 3; ++layer) {
        const auto found = explain("logit_lens", {{"layer", std::to_string(layer)}});
        const at::Tensor answers = plain->answer(run.tokens[static_cast<std::size_t>(layer)]);
        expect_map(found, grid(answers.select(1, kClass)));
        const std::string row = "blocks." + std::to_string(layer);
        EXPECT_NEAR(at_table(*found, row, "the answer read here"), answers[0][kClass].item<double>(), 1e-5);
        const at::Tensor won = answers.slice(0, layout.prefix_count()).argmax(1) == kClass;
        EXPECT_NEAR(at_table(*found, row, "share of patches that answer it"), won.to(at::kDouble).mean().item<double>(),
                    1e-9);
        EXPECT_THAT(found->notes.back(), HasSubstr("head not trained for this token"));
    }
    const at::Tensor answers = plain->answer(run.tokens[2]);
    expect_map(explain("logit_lens", {}, {.index = kClass, .versus = kVersus}),
               grid(answers.select(1, kClass) - answers.select(1, kVersus)));
    const auto shares = explain("logit_lens", {}, {.index = kClass, .scale = Scale::Probability});
    expect_map(shares, grid(at::softmax(answers, 1).select(1, kClass)));
    EXPECT_FALSE(shares->is_signed);
    EXPECT_EQ(explain("logit_lens", {{"layer", "3"}}).error().code, ErrorCode::BadInput);
    EXPECT_EQ(explain("logit_lens", {}, {.region = {0}}).error().code, ErrorCode::Unsupported);
}

TEST_F(Views, DirectLogitAttributionIsTheSumOfWhatIsWritten) {
    const auto found = explain("direct_logit_attribution");
    ASSERT_TRUE(found) << found.error().message;
    const at::Tensor x = run.tokens.back()[0], weight = plain->weight("norm.weight");
    const double scale = 1 / std::sqrt((x - x.mean()).square().mean().item<double>() + 1e-6);
    // Of what is added to the class token's stream: centred, scaled as the sum was, read by the class.
    const auto of = [&](const at::Tensor& written) {
        return ((written - written.mean(-1, true)) * scale * weight * plain->weight("head.weight")[kClass]).sum(-1);
    };
    EXPECT_NEAR(at_table(*found, "embedding", "sum"), of(run.embedding[0]).item<double>(), 1e-5);
    double total = of(run.embedding[0]).item<double>();
    at::Tensor map = at::zeros({layout.tokens()}, at::kDouble);
    for (std::size_t layer = 0; layer < 3; ++layer) {
        const std::string block = "blocks." + std::to_string(layer);
        const at::Tensor proj = plain->weight(block + ".attn.proj.weight");
        for (std::int64_t head = 0; head < 2; ++head) {
            const at::Tensor through = proj.slice(1, head * 16, head * 16 + 16).t();  // [dim, width]
            const double own = of(run.outputs[layer][head][0].matmul(through)).item<double>();
            EXPECT_NEAR(at_table(*found, block + ".attn", "head " + std::to_string(head)), own, 1e-5);
            total += own;
            map += run.maps[layer][head][0] * of(run.values[layer][head].matmul(through));
        }
        const double bias = of(plain->weight(block + ".attn.proj.bias")).item<double>();
        EXPECT_NEAR(at_table(*found, block + ".attn", "bias"), bias, 1e-5);
        EXPECT_NEAR(at_table(*found, block + ".mlp", "sum"), of(run.mlp[layer][0]).item<double>(), 1e-5);
        total += bias + of(run.mlp[layer][0]).item<double>();
    }
    const double constant = (plain->weight("norm.bias") * plain->weight("head.weight")[kClass]).sum().item<double>() +
                            plain->weight("head.bias")[kClass].item<double>();
    EXPECT_NEAR(at_table(*found, "bias of the last norm and the head", "sum"), constant, 1e-5);
    EXPECT_NEAR(total + constant, run.logits[kClass].item<double>(), 1e-9) << "the formula itself";
    expect_map(found, grid(map));
    EXPECT_EQ(found->checks.size(), 2U);
    // Two classes are one line.
    const auto both = explain("direct_logit_attribution", {}, {.index = kClass, .versus = kVersus}),
               second = explain("direct_logit_attribution", {}, {.index = kVersus});
    ASSERT_TRUE(both && second);
    EXPECT_LT((both->map - (found->map - second->map)).abs().max().item<double>(), 1e-5);
    EXPECT_THAT(explain("direct_logit_attribution", {}, {.index = 1, .scale = Scale::Probability}).error().message,
                HasSubstr("no sum"));
}

TEST_F(Views, HeadAblationRunsWithoutEachHead) {
    for (const bool by_mean : {false, true}) {
        const auto found = explain("head_ablation", {{"by", by_mean ? "mean" : "zero"}});
        ASSERT_TRUE(found) << found.error().message;
        at::Tensor map = at::zeros({layout.tokens()}, at::kDouble);
        double weight = 0;
        for (std::size_t layer = 0; layer < 3; ++layer)
            for (std::int64_t head = 0; head < 2; ++head) {
                const std::string block = "blocks." + std::to_string(layer);
                const auto without = plain->run(input.pixels, [&](const std::string& name, const at::Tensor& out) {
                    if (name != block + ".heads") return out;
                    at::Tensor changed = out.clone();
                    changed[head].copy_(by_mean ? out[head].mean(0, true).expand_as(out[head])
                                                : at::zeros_like(out[head]));
                    return changed;
                });
                const double drop = (run.logits - without.logits)[kClass].item<double>();
                EXPECT_NEAR(at_table(*found, block + ".attn", "head " + std::to_string(head)), drop, 1e-5);
                map += drop * run.maps[layer][head][0];
                weight += std::abs(drop);
            }
        EXPECT_GT(weight, 1e-2) << "proves nothing";
        expect_map(found, grid(map / weight));
    }
}

TEST_F(Views, HeadAblationOfAModelWithoutBlocksIsTheSame) {
    // The same model behind an interface that only runs whole: heads are scaled where attention is intercepted.
    struct Whole final : Model {
        Model& inner;
        explicit Whole(Model& of) : inner(of) { info_ = of.info(); }
        at::Tensor forward(const at::Tensor& pixels) override { return inner.forward(pixels); }
        TokenLayout layout(std::int64_t height, std::int64_t width) const override {
            return inner.layout(height, width);
        }
        void to(at::Device, at::ScalarType) override {}
    } whole(*model);
    const Explainer* explainer = registry().explainer("head_ablation").value();
    ExplainContext context(whole, input, {.index = kClass});
    Settings settings(explainer->parameters());
    const auto found = explainer->explain(context, settings), wanted = explain("head_ablation");
    ASSERT_TRUE(found && wanted) << found.error().message;
    EXPECT_LT((found->map - wanted->map).abs().max().item<double>(), 1e-5);
    ASSERT_TRUE(settings.set("by", "mean"));
    EXPECT_EQ(explainer->explain(context, settings).error().code, ErrorCode::Unsupported);
    // And what needs blocks says so.
    EXPECT_TRUE(registry().explainer("activation_patching").value()->why_not(whole));
    EXPECT_TRUE(registry().explainer("direct_logit_attribution").value()->why_not(whole));
}

TEST_F(Views, PatchingTakesOneTokenFromTheOtherPicture) {
    const auto source = plain->run(other.pixels);
    const auto of = [](const PlainVit::Run& one, const std::string& part, std::size_t layer) {
        return part == "block" ? one.tokens[layer] : part == "attention" ? one.attention[layer] : one.mlp[layer];
    };
    for (const auto& [part, suffix] :
         {std::pair<std::string, std::string>{"block", ""}, {"attention", ".attn"}, {"mlp", ".mlp"}}) {
        const std::size_t layer = 1;
        const auto found = explain("activation_patching", {{"layer", "1"}, {"part", part}});
        at::Tensor change = at::zeros({layout.tokens()}, at::kDouble);
        for (std::int64_t token = layout.prefix_count(); token < layout.tokens(); ++token) {
            const auto patched = plain->run(
                input.pixels, [&, suffix = suffix, part = part](const std::string& name, const at::Tensor& x) {
                    if (name != "blocks.1" + suffix) return x;
                    at::Tensor changed = x.clone();
                    changed[token].copy_(of(source, part, layer)[token]);
                    return changed;
                });
            change[token].copy_((patched.logits - run.logits)[kClass]);
        }
        expect_map(found, grid(change));
        for (std::size_t i = 0; i < 3; ++i)
            for (const auto& [col, of_col] :
                 {std::pair<std::string, std::string>{"attention", ".attn"}, {"mlp", ".mlp"}}) {
                const auto patched = plain->run(
                    input.pixels, [&, col = col, of_col = of_col](const std::string& name, const at::Tensor& x) {
                        return name == "blocks." + std::to_string(i) + of_col ? of(source, col, i) : x;
                    });
                EXPECT_NEAR(at_table(*found, "blocks." + std::to_string(i) + ".attn", col),
                            (patched.logits - run.logits)[kClass].item<double>(), 1e-5);
            }
    }
    // Batches do not matter but for rounding.
    const auto one = explain("activation_patching", {}, {.index = kClass}, 1),
               many = explain("activation_patching", {}, {.index = kClass}, 16);
    ASSERT_TRUE(one && many);
    EXPECT_LT((one->map - many->map).abs().max().item<double>(), 1e-5);
    EXPECT_THAT(explain("activation_patching", {{"layer", "-1"}}).error().message,
                HasSubstr("choose an earlier layer"));
    EXPECT_EQ(explain("activation_patching", {{"layer", "last"}}).error().code, ErrorCode::BadInput);
}

TEST_F(Views, PatchingWantsASecondPictureOfTheSameSize) {
    const Explainer* explainer = registry().explainer("activation_patching").value();
    ExplainContext context(*model, input, {.index = kClass});
    const Settings settings(explainer->parameters());
    const auto none = explainer->explain(context, settings);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, ErrorCode::Unsupported);
    EXPECT_THAT(none.error().message, HasSubstr("a second picture, and none is given"));
    Input wrong;
    wrong.pixels = at::zeros({1, 3, 40, 32});
    context.other = &wrong;
    EXPECT_EQ(explainer->explain(context, settings).error().code, ErrorCode::BadInput);
    // The picture itself changes nothing, and there is no map of nothing.
    context.other = &input;
    EXPECT_EQ(explainer->explain(context, settings).error().code, ErrorCode::Unsupported);
}

TEST_F(Views, TokenNormsAreLengthsAndCountArtifacts) {
    const at::Tensor norms = run.tokens[1].norm(2, 1);
    const auto found = explain("token_norms", {{"layer", "1"}, {"times", "1.1"}});
    expect_map(found, grid(norms));
    const at::Tensor sorted = std::get<0>(grid(norms).flatten().sort());
    const double median = (sorted[7] + sorted[8]).item<double>() / 2;
    const double longer = (sorted > 1.1 * median).to(at::kDouble).sum().item<double>();
    ASSERT_GT(longer, 0) << "proves nothing";
    EXPECT_NEAR(at_table(*found, "blocks.1", "median"), median, 1e-5);
    EXPECT_EQ(at_table(*found, "blocks.1", "artifacts"), longer);
    EXPECT_NEAR(at_table(*found, "blocks.1", "share of patches"), longer / 16, 1e-12);
    EXPECT_NEAR(at_table(*found, "blocks.1", "longest prefix token"), norms.slice(0, 0, 2).max().item<double>(), 1e-5);
    const auto given = explain("token_norms", {{"layer", "1"}, {"threshold", "1e6"}});
    EXPECT_EQ(at_table(*given, "blocks.1", "artifacts"), 0);
    EXPECT_EQ(at_table(*given, "blocks.1", "threshold"), 1e6);
}

TEST_F(Views, TokenPcaIsTheSingularVectorsWithASignRule) {
    const at::Tensor x = run.tokens[2].slice(0, layout.prefix_count());
    const auto projected = [](const at::Tensor& rows) {
        const auto [u, s, vh] = at::linalg_svd(rows - rows.mean(0, true), false);
        at::Tensor out = (u * s).slice(1, 0, 3).clone();
        for (std::int64_t k = 0; k < 3; ++k)
            if (out.select(1, k)[out.select(1, k).abs().argmax()].item<double>() < 0) out.select(1, k).neg_();
        return std::pair{out, s};
    };
    const auto scaled = [](const at::Tensor& p) { return (p - p.min()) / (p.max() - p.min()); };
    const auto [all, sizes] = projected(x);
    const auto found = explain("token_pca");
    expect_map(found, all.select(1, 0).reshape({4, 4}));
    ASSERT_EQ(found->colours.sizes(), at::IntArrayRef({3, 4, 4}));
    for (std::int64_t k = 0; k < 3; ++k) {
        EXPECT_LT((found->colours[k] - scaled(all.select(1, k)).reshape({4, 4})).abs().max().item<double>(), 1e-4);
        EXPECT_NEAR(at_table(*found, "component " + std::to_string(k + 1), "share"),
                    (sizes[k].square() / sizes.square().sum()).item<double>(), 1e-5);
    }
    const auto front = explain("token_pca", {{"foreground", "above"}});
    ASSERT_TRUE(front) << front.error().message;
    EXPECT_TRUE(front->map.equal(found->map));
    const at::Tensor chosen = (scaled(all.select(1, 0)) > 0.5).nonzero().reshape({-1});
    ASSERT_GE(chosen.numel(), 2);
    const auto [some, unused] = projected(x.index_select(0, chosen));
    for (std::int64_t k = 0; k < std::min<std::int64_t>(3, chosen.numel() - 1); ++k) {
        at::Tensor wanted = at::zeros({16}, at::kDouble);
        wanted.index_copy_(0, chosen, scaled(some.select(1, k)));
        EXPECT_LT((front->colours[k].reshape({-1}) - wanted).abs().max().item<double>(), 1e-4);
    }
    // Behind the norm; and a threshold that leaves nobody.
    const at::Tensor normed = plain->norm(run.tokens[2], "norm").slice(0, layout.prefix_count());
    expect_map(explain("token_pca", {{"layer", "norm"}}), projected(normed).first.select(1, 0).reshape({4, 4}));
    EXPECT_EQ(explain("token_pca", {{"foreground", "above"}, {"threshold", "1"}}).error().code, ErrorCode::BadInput);
}

TEST_F(Views, MapsOfANetworkWithoutTokensAreItsOwnLastMap) {
    const auto cnn = registry().architecture("cnn").value()->tiny(2).value();
    Input seen;
    seen.pixels = at::randn({1, 3, cnn->preprocess().input_height, cnn->preprocess().input_width},
                            at::make_generator<at::CPUGeneratorImpl>(3));
    CaptureOptions options;
    options.mixings = false;
    options.points = {cnn->info().cam_point};
    const at::Tensor x = run_captured(*cnn, seen.pixels, options).value()->points.at(cnn->info().cam_point)[0];
    const Explainer* norms = registry().explainer("token_norms").value();
    ExplainContext context(*cnn, seen, {});
    const auto found = norms->explain(context, Settings(norms->parameters()));
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_LT((found->map - x.norm(2, 0)).abs().max().item<double>(), 1e-4);
    EXPECT_TRUE(registry().explainer("logit_lens").value()->why_not(*cnn));
    EXPECT_TRUE(registry().explainer("head_ablation").value()->why_not(*cnn));
}

}  // namespace
}  // namespace vitrine::plugin::views
