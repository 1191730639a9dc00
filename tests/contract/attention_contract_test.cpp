// What attention methods promise on every architecture's tiny model that has attention layers.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <vitrine/explainer.h>
#include <vitrine/registry.h>

namespace vitrine {
namespace {

using kernels::HeadFusion;

/// Calls body(model, capture) for each architecture's tiny model whose layers hang together in a known way.
template <class Body>
void on_every_flow(const Body& body) {
    int ran = 0;
    for (const auto& architecture : registry().architectures()) {
        auto model = architecture->tiny(2);
        if (!model || (*model)->info().layers == 0) continue;
        SCOPED_TRACE(architecture->description().name);
        const auto generator = at::detail::createCPUGenerator(4);
        Input input;
        input.pixels =
            at::randn({1, 3, (*model)->preprocess().input_height, (*model)->preprocess().input_width}, generator);
        const auto capture = run_captured(**model, input.pixels);
        ASSERT_TRUE(capture.has_value()) << capture.error().message;
        if (!(*capture)->flow.known() || !(*capture)->flow.readout.defined()) {
            EXPECT_FALSE((*model)->is_native());
            continue;
        }
        body(**model, input, **capture);
        ++ran;
    }
    EXPECT_GT(ran, 0);
}

TEST(AttentionContract, FusedMapsAgreeWithTheHeads) {
    on_every_flow([](Model&, const Input&, const Capture& capture) {
        for (const FlowStep& step : capture.flow.steps) {
            const Mixing& mixing = *step.mixing;
            SCOPED_TRACE(mixing.name);
            const at::Tensor map = *mixing.rows({}, {});
            const at::Tensor r = at::randn({mixing.queries}).abs();
            for (const auto& [fusion, whole] : {std::pair{HeadFusion::Mean, map.mean(0)},
                                                {HeadFusion::Max, map.amax(0)},
                                                {HeadFusion::Min, map.amin(0)}}) {
                EXPECT_TRUE(mixing.fused_rows(fusion, {})->allclose(whole, 1e-5, 1e-6));
                EXPECT_TRUE(mixing.fused_left(fusion, r)->allclose(r.matmul(whole), 1e-4, 1e-5));
                EXPECT_TRUE(mixing.fused_row_sums(fusion)->allclose(whole.sum(-1), 1e-4, 1e-5));
                const FusedCounts counts = *mixing.fused_counts(fusion, 0, 15, 32768);
                std::int64_t all = counts.below;
                for (const std::int64_t count : counts.bins) all += count;
                EXPECT_EQ(all, map.size(1) * map.size(2));
            }
            EXPECT_LT((mixing.fused_row_sums(HeadFusion::Mean)->sub(1)).abs().max().item<double>(), 1e-4);
            EXPECT_TRUE(mixing.entropy()->allclose(-(map * map.clamp_min(1e-30).log()).sum(-1), 1e-3, 1e-4));
        }
    });
}

TEST(AttentionContract, RolloutKeepsItsMassInEveryForm) {
    const Explainer* rollout = registry().explainer("rollout").value();
    on_every_flow([&](Model& model, const Input& input, const Capture&) {
        for (const char* fusion : {"mean", "max", "min"})
            for (const char* ratio : {"0", "0.4", "0.9"}) {
                SCOPED_TRACE(std::string(fusion) + " " + ratio);
                ExplainContext context(model, input, {});
                Settings settings(rollout->parameters());
                ASSERT_TRUE(settings.set("fusion", fusion));
                ASSERT_TRUE(settings.set("discard_ratio", ratio));
                const auto found = rollout->explain(context, settings);
                ASSERT_TRUE(found.has_value()) << found.error().message;
                EXPECT_TRUE(at::isfinite(found->map).all().item<bool>());
                EXPECT_GE(found->map.min().item<double>(), 0);
                EXPECT_NEAR(found->map.sum().item<double>() + found->prefix_mass, 1, 1e-4);
            }
    });
}

TEST(AttentionContract, ExplainersStopBetweenLayers) {
    for (const char* name : {"rollout", "chefer", "legrad", "attention_distance", "attention_entropy"}) {
        const Explainer* explainer = registry().explainer(name).value();
        on_every_flow([&](Model& model, const Input& input, const Capture&) {
            if (explainer->why_not(model) || model.info().layers < 2) return;
            SCOPED_TRACE(name);
            ExplainContext context(model, input, {});
            std::stop_source source;
            context.stop = source.get_token();
            int told = 0;
            context.progress = [&](const Progress&) {
                ++told;
                source.request_stop();
            };
            const auto found = explainer->explain(context, Settings(explainer->parameters()));
            ASSERT_FALSE(found.has_value());
            EXPECT_EQ(found.error().code, ErrorCode::Cancelled);
            EXPECT_EQ(told, 1) << "it went on after it was asked to stop";
        });
    }
}

}  // namespace
}  // namespace vitrine
