// T-TAME's module, loss, schedule and optimiser against formulas written out here.
#include <vitrine/mask_module.h>

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <functional>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vitrine/engine.h>

#include "mask_objective.h"
#include "tensor_io.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

MaskConfig tiny() { return {"tame", {"a", "b", "c"}, {8, 16, 16}, 5}; }

at::Generator generator(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

std::vector<at::Tensor> features() {
    auto g = generator(3);
    return {at::randn({2, 8, 12, 12}, g, at::kFloat), at::randn({2, 16, 6, 6}, g, at::kFloat),
            at::randn({2, 16, 3, 3}, g, at::kFloat)};
}

const at::Tensor& named(const MaskModule& mask, const std::string& name) {
    for (const auto* list : {&mask.parameters(), &mask.statistics()})
        for (const auto& [key, tensor] : *list)
            if (key == name) return tensor;
    throw std::runtime_error(name);
}

/// Every number by loops in double precision. [batch][class][row][col] flattened.
std::vector<double> written_out(const MaskModule& mask, const std::vector<at::Tensor>& maps, bool training) {
    const auto at4 = [](const at::Tensor& t, std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
        return static_cast<double>(t.const_data_ptr<float>()[((a * t.size(1) + b) * t.size(2) + c) * t.size(3) + d]);
    };
    const std::int64_t batch = maps[0].size(0), side = maps[0].size(2), classes = mask.config().classes;
    std::vector<std::vector<double>> fused;  // [channel][batch * side * side]
    for (std::size_t s = 0; s < maps.size(); ++s) {
        const at::Tensor f = maps[s].contiguous();
        const std::int64_t channels = f.size(1), n = f.size(2);
        const at::Tensor w = named(mask, "convs." + std::to_string(s) + ".weight").contiguous(),
                         b = named(mask, "convs." + std::to_string(s) + ".bias");
        const std::string norm = "bns." + std::to_string(s);
        for (std::int64_t o = 0; o < channels; ++o) {
            std::vector<double> u(static_cast<std::size_t>(batch * n * n));
            double sum = 0, squares = 0;
            for (std::int64_t i = 0; i < batch * n * n; ++i) {
                double x = b[o].item<double>();
                for (std::int64_t k = 0; k < channels; ++k)
                    x += at4(w, o, k, 0, 0) * at4(f, i / (n * n), k, i / n % n, i % n);
                u[static_cast<std::size_t>(i)] = x;
                sum += x;
                squares += x * x;
            }
            const auto count = static_cast<double>(u.size());
            const double mean = training ? sum / count : named(mask, norm + ".running_mean")[o].item<double>();
            const double variance =
                training ? squares / count - mean * mean : named(mask, norm + ".running_var")[o].item<double>();
            for (std::int64_t i = 0; i < batch * n * n; ++i) {
                double& x = u[static_cast<std::size_t>(i)];
                x = (x - mean) / std::sqrt(variance + 1e-5) * named(mask, norm + ".weight")[o].item<double>() +
                    named(mask, norm + ".bias")[o].item<double>();
                x = std::max(0.0, x + at4(f, i / (n * n), o, i / n % n, i % n));
            }
            std::vector<double> large(static_cast<std::size_t>(batch * side * side));
            const auto place = [&](std::int64_t i) {
                return std::max(
                    0.0, (static_cast<double>(i) + 0.5) * static_cast<double>(n) / static_cast<double>(side) - 0.5);
            };
            for (std::int64_t i = 0; i < batch * side * side; ++i) {
                const double y = place(i / side % side), x = place(i % side);
                const auto y0 = static_cast<std::int64_t>(y), x0 = static_cast<std::int64_t>(x);
                const std::int64_t y1 = std::min(y0 + 1, n - 1), x1 = std::min(x0 + 1, n - 1);
                const double fy = y - static_cast<double>(y0), fx = x - static_cast<double>(x0);
                const auto value = [&](std::int64_t r, std::int64_t c) {
                    return u[static_cast<std::size_t>(i / (side * side) * n * n + r * n + c)];
                };
                large[static_cast<std::size_t>(i)] = (1 - fy) * ((1 - fx) * value(y0, x0) + fx * value(y0, x1)) +
                                                     fy * ((1 - fx) * value(y1, x0) + fx * value(y1, x1));
            }
            fused.push_back(std::move(large));
        }
    }
    const at::Tensor w = named(mask, "fuser.weight").contiguous(), b = named(mask, "fuser.bias");
    std::vector<double> out;
    for (std::int64_t i = 0; i < batch; ++i)
        for (std::int64_t k = 0; k < classes; ++k)
            for (std::int64_t p = 0; p < side * side; ++p) {
                double x = b[k].item<double>();
                for (std::size_t c = 0; c < fused.size(); ++c)
                    x += at4(w, k, static_cast<std::int64_t>(c), 0, 0) *
                         fused[c][static_cast<std::size_t>(i * side * side + p)];
                out.push_back(x);
            }
    return out;
}

TEST(MaskModule, HasThePublishedNumbersOfParameters) {
    const auto count = [](std::vector<std::int64_t> channels) {
        return MaskModule::make({"tame", {"a", "b", "c"}, std::move(channels), 1000}, 0)->size();
    };
    EXPECT_EQ(count({256, 512, 512}), 1'874'664);    // VGG-16
    EXPECT_EQ(count({512, 1024, 2048}), 9'100'776);  // ResNet-50
    EXPECT_EQ(count({768, 768, 768}), 4'081'384);    // ViT-B/16
}

TEST(MaskModule, IsItsDefinitionWrittenOut) {
    const MaskModule mask = *MaskModule::make(tiny(), 1);
    {
        // Statistics and norms that are no identity.
        const at::NoGradGuard no_grad;
        auto g = generator(9);
        for (const auto* list : {&mask.parameters(), &mask.statistics()})
            for (const auto& [name, tensor] : *list)
                if (name.starts_with("bns.")) const_cast<at::Tensor&>(tensor).uniform_(0.5, 1.5, g);
    }
    const auto maps = features();
    for (const bool training : {true, false}) {
        SCOPED_TRACE(training);
        const auto wanted = written_out(mask, maps, training);
        const at::Tensor before = named(mask, "bns.0.running_mean").clone();
        const at::Tensor c = mask.logits(maps, {}, training).contiguous();
        ASSERT_EQ(c.sizes(), (std::vector<std::int64_t>{2, 5, 12, 12}));
        for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(c.const_data_ptr<float>()[i], wanted[i], 1e-5);
        EXPECT_EQ(at::equal(before, named(mask, "bns.0.running_mean")), !training) << "kept only while training";
    }
}

TEST(MaskModule, LayersAddUpAndRowsAreRows) {
    const MaskModule mask = *MaskModule::make(tiny(), 1);
    const auto maps = features();
    const at::Tensor c = mask.logits(maps);
    for (std::int64_t k : {0, 4}) {
        const at::Tensor sum = mask.contributions(maps, k).sum(1) + named(mask, "fuser.bias")[k];
        EXPECT_LT((sum - c.select(1, k)).abs().max().item<double>(), 1e-5);
    }
    const at::Tensor some = mask.logits(maps, at::tensor({4, 0, 4}, at::kLong));
    EXPECT_LT((some - c.index_select(1, at::tensor({4, 0, 4}, at::kLong))).abs().max().item<double>(), 1e-6);
    const at::Tensor map = min_max(c);
    EXPECT_EQ(map.amin().item<float>(), 0.0F);
    EXPECT_FLOAT_EQ(map.amax({-2, -1}).min().item<float>(), 1.0F);
    EXPECT_EQ(min_max(at::zeros({1, 2, 3, 3})).abs().max().item<float>(), 0.0F) << "flat: zero, no NaN";
}

TEST(MaskModule, EveryVersionRunsAndUnknownOnesAreNamed) {
    for (const std::string& version : mask_versions()) {
        SCOPED_TRACE(version);
        MaskConfig config = tiny();
        config.version = version;
        auto maps = features();
        if (version == "l_cam") {
            config.layers = {"c"};
            config.channels = {16};
            maps = {maps[2]};
        } else if (version == "volume") {
            for (auto& map : maps) map = at::stack({map, map + 1}, 2);
        } else if (config.reads_tokens()) {
            const std::int64_t width = version == "attention_v3" ? 128 : 24;
            config.channels = {width, width, width};
            config.prefix = 2;
            auto g = generator(8);
            for (auto& map : maps) map = at::randn({2, 2 + 9, width}, g, at::kFloat);
        }
        const auto mask = MaskModule::make(config, 0);
        ASSERT_TRUE(mask.has_value()) << mask.error().message;
        const at::Tensor a = at::sigmoid(mask->logits(maps));
        EXPECT_EQ(a.size(1), 5);
        EXPECT_GT(a.min().item<double>(), 0);
        EXPECT_LT(a.max().item<double>(), 1);
        const at::Tensor parts = mask->contributions(maps, 2);
        EXPECT_EQ(parts.defined(), !version.starts_with("attention_v1")) << "they mix the layers";
        if (!parts.defined()) continue;
        const at::Tensor sum = parts.sum(1) + named(*mask, "fuser.bias")[2];
        EXPECT_LT((sum - mask->logits(maps).select(1, 2)).abs().max().item<double>(), 1e-5);
    }
    MaskConfig config = tiny();
    config.version = "tam";
    EXPECT_THAT(MaskModule::make(config, 0).error().message, testing::HasSubstr("'tam'"));
    EXPECT_FALSE(MaskModule::make({"l_cam", {"a", "b"}, {8, 8}, 5}, 0).has_value());
    EXPECT_THAT(MaskModule::make({"attention_v1", {"a", "b"}, {8, 8}, 5}, 0).error().message,
                testing::HasSubstr("12 heads"));
    EXPECT_THAT(MaskModule::make({"attention_v3", {"a"}, {96}, 5}, 0).error().message,
                testing::HasSubstr("heads of 64 channels"));
}

TEST(MaskModule, FilesThatLieAboutTokensOrStatisticsAreRefused) {
    const fs::path file = fs::path(testing::TempDir()) / "lying_mask.safetensors";
    MaskModule mask = *MaskModule::make(tiny(), 1);
    mask.facts["prefix"] = "-5";
    ASSERT_TRUE(mask.save(file, at::kFloat).has_value());
    EXPECT_THAT(MaskModule::load(file).error().message, testing::HasSubstr("-5 tokens before the patches"));
    mask.facts.erase("prefix");
    mask.backbone["bn.running_var"] = at::ones({3}) / 0;
    ASSERT_TRUE(mask.save(file, at::kFloat).has_value());
    EXPECT_THAT(MaskModule::load(file).error().message, testing::HasSubstr("backbone.bn.running_var"));
    fs::remove(file);
}

TEST(MaskModule, OnAWideGridTheMaskIsWideAndAtMost56) {
    const MaskModule mask = *MaskModule::make({"tame", {"a"}, {4}, 2}, 0);
    EXPECT_EQ(mask.logits({at::zeros({1, 4, 8, 60})}).sizes(), (std::vector<std::int64_t>{1, 2, 8, 56}));
}

TEST(MaskLoss, TermsAreTheirFormulas) {
    auto g = generator(5);
    for (const std::int64_t batch : {2, 4}) {
        const at::Tensor a = at::sigmoid(at::randn({batch, batch, 4, 6}, g, at::kDouble));
        const at::Tensor answer = at::randn({batch, 7}, g, at::kDouble);
        std::vector<std::int64_t> labels;
        for (std::int64_t i = 0; i < batch; ++i) labels.push_back((3 * i + 1) % 7);
        const MaskLoss loss = mask_loss(answer, at::tensor(labels, at::kLong), a, {}, 1);
        double entropy = 0, area = 0, rough = 0;
        const auto x = a.accessor<double, 4>();
        for (std::int64_t i = 0; i < batch; ++i) {
            double sum = 0;
            for (std::int64_t k = 0; k < 7; ++k) sum += std::exp(answer[i][k].item<double>());
            entropy += std::log(sum) - answer[i][labels[static_cast<std::size_t>(i)]].item<double>();
            for (std::int64_t k = 0; k < batch; ++k)
                for (std::int64_t r = 0; r < 4; ++r)
                    for (std::int64_t c = 0; c < 6; ++c) {
                        const double v = x[i][k][r][c];
                        area += std::pow(v + 0.0005, 0.3);
                        if (r > 0) rough += std::pow(v - x[i][k][r - 1][c], 2);
                        if (c > 0) rough += std::pow(v - x[i][k][r][c - 1], 2);
                        rough += 0.3 * v * v * ((r == 0) + (r == 3) + (c == 0) + (c == 5));
                    }
        }
        const auto n = static_cast<double>(batch);
        EXPECT_NEAR(loss.cross_entropy.item<double>(), 1.5 * entropy / n, 1e-9);
        EXPECT_NEAR(loss.area.item<double>(), 2 * area / (n * n * 24), 1e-9);
        EXPECT_NEAR(loss.smooth.item<double>(), 0.01 * rough / (2 * n), 1e-9);
        EXPECT_NEAR(loss.total.item<double>(), (loss.cross_entropy + loss.area + loss.smooth).item<double>(), 1e-12);
        EXPECT_NEAR(mask_loss(answer, at::tensor(labels, at::kLong), a, {}, 8).smooth.item<double>(),
                    0.08 * rough / (2 * n), 1e-9);
    }
}

TEST(MaskLoss, RoughnessByHandAndAreaAtZero) {
    // One mask with a single 1 in the middle of 3 x 3: four differences of 1, no border.
    at::Tensor a = at::zeros({1, 1, 3, 3});
    a[0][0][1][1] = 1;
    EXPECT_FLOAT_EQ(mask_roughness(a, {}).item<float>(), 2.0F);
    // In a corner: two differences, and the corner counts in its row and its column.
    a.zero_();
    a[0][0][0][0] = 1;
    EXPECT_FLOAT_EQ(mask_roughness(a, {}).item<float>(), (2 + 0.3F * 2) / 2);
    at::Tensor zero = at::zeros({1, 1, 2, 2}).requires_grad_(true);
    mask_area(zero, {}).backward();
    EXPECT_TRUE(at::isfinite(zero.grad()).all().item<bool>());
    EXPECT_NEAR(zero.grad()[0][0][0][0].item<double>() * 4, 0.3 * std::pow(0.0005, -0.7), 1e-2);
}

TEST(MaskLoss, GradientsAreDifferences) {
    const MaskModule mask = *MaskModule::make(tiny(), 2);
    auto maps = features();
    for (auto& map : maps) map = map.to(at::kDouble);
    for (const auto* list : {&mask.parameters(), &mask.statistics()})
        for (const auto& [name, tensor] : *list) tensor.set_data(tensor.to(at::kDouble));
    auto g = generator(11);
    const at::Tensor classes = at::tensor({3, 1}, at::kLong), head = at::randn({5, 144}, g, at::kDouble);
    const auto loss = [&] {
        const at::Tensor a = at::sigmoid(mask.logits(maps, classes, true));
        const at::Tensor own = a.diagonal(0, 0, 1).permute({2, 0, 1});
        return mask_loss(own.flatten(1).matmul(head.t()), classes, a, {}, 1).total;
    };
    for (const auto& [name, tensor] : mask.parameters()) const_cast<at::Tensor&>(tensor).requires_grad_(true);
    loss().backward();
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : mask.parameters()) {
        SCOPED_TRACE(name);
        double* const at = const_cast<at::Tensor&>(tensor).data_ptr<double>();
        for (const std::int64_t i : {std::int64_t{0}, tensor.numel() / 2, tensor.numel() - 1}) {
            constexpr double kStep = 1e-5;
            const double kept = at[i];
            at[i] = kept + kStep;
            const double above = loss().item<double>();
            at[i] = kept - kStep;
            const double below = loss().item<double>();
            at[i] = kept;
            EXPECT_NEAR(tensor.grad().flatten()[i].item<double>(), (above - below) / (2 * kStep), 1e-6);
        }
    }
}

TEST(MaskSchedule, IsTheOneCycle) {
    OneCycle cycle;
    cycle.steps = 100;
    EXPECT_NEAR(cycle.at(0).first, 4e-5, 1e-12);
    EXPECT_NEAR(cycle.at(29).first, 1e-3, 1e-12);
    EXPECT_NEAR(cycle.at(99).first, 4e-9, 1e-15);
    EXPECT_NEAR(cycle.at(0).second, 0.95, 1e-12);
    EXPECT_NEAR(cycle.at(29).second, 0.85, 1e-12);
    EXPECT_NEAR(cycle.at(99).second, 0.95, 1e-12);
    EXPECT_NEAR(cycle.at(64).first, 4e-9 + (1e-3 - 4e-9) / 2, 1e-12) << "half way down";
    for (const std::int64_t steps : {1, 2, 3, 4}) {
        cycle.steps = steps;
        for (std::int64_t i = 0; i < steps; ++i) EXPECT_TRUE(std::isfinite(cycle.at(i).first)) << steps;
    }
}

TEST(MaskSgd, StepsWithNesterovAndDecaysNoBias) {
    at::Tensor w = at::tensor({1.0F, -2.0F}), b = at::tensor({0.5F});
    MaskSgd sgd({{"fuser.weight", w}, {"fuser.bias", b}}, 0.1);
    double weight = 1, bias = 0.5, weight_momentum = 0, bias_momentum = 0;
    for (int step = 0; step < 3; ++step) {
        const double rate = 0.1 * (step + 1), momentum = 0.95 - 0.02 * step, gw = 0.3 * (step + 1), gb = -0.2;
        {
            const at::NoGradGuard no_grad;
            w.mutable_grad() = at::tensor({static_cast<float>(gw), 0.0F});
            b.mutable_grad() = at::tensor({static_cast<float>(gb)});
        }
        sgd.step(rate, momentum);
        const double decayed = gw + 0.1 * weight;
        weight_momentum = step == 0 ? decayed : momentum * weight_momentum + decayed;
        bias_momentum = step == 0 ? gb : momentum * bias_momentum + gb;
        weight -= rate * (decayed + momentum * weight_momentum);
        bias -= rate * (gb + momentum * bias_momentum);
        EXPECT_NEAR(w[0].item<double>(), weight, 1e-5);
        EXPECT_NEAR(b[0].item<double>(), bias, 1e-5);
    }
}

TEST(Masked, BlackIsBlackBeforeAndMeanAfterNormalising) {
    Preprocess preprocess;
    auto g = generator(1);
    const at::Tensor colours = at::sigmoid(at::randn({2, 3, 8, 8}, g, at::kFloat)),
                     mask = at::sigmoid(at::randn({2, 1, 4, 4}, g, at::kFloat));
    const at::Tensor pixels = normalise(colours, preprocess);
    const at::Tensor black = masked(pixels, mask, MaskPolicy::Black, preprocess);
    const at::Tensor zero = masked(pixels, at::zeros({2, 1, 4, 4}), MaskPolicy::Black, preprocess);
    EXPECT_LT(colours_of(zero, preprocess).abs().max().item<double>(), 1e-6);
    EXPECT_EQ(masked(pixels, at::zeros({2, 1, 4, 4}), MaskPolicy::Mean, preprocess).abs().max().item<double>(), 0);
    EXPECT_LT(
        (masked(pixels, at::ones({2, 1, 4, 4}), MaskPolicy::Black, preprocess) - pixels).abs().max().item<double>(),
        1e-6);
    // normalise(m * colours), the mask resized to the picture.
    const at::Tensor m = masked(at::ones({2, 3, 8, 8}), mask, MaskPolicy::Mean, preprocess);
    EXPECT_LT((black - normalise(m * colours, preprocess)).abs().max().item<double>(), 1e-5);
}

class MaskFile : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = fs::path(testing::TempDir()) /
                  ("mask_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        fs::create_directories(folder_);
    }
    void TearDown() override { fs::remove_all(folder_); }
    fs::path folder_;
};

TEST_F(MaskFile, ComesBackAsItWas) {
    MaskModule mask = *MaskModule::make(tiny(), 4);
    mask.facts["model"] = "somebody";
    ASSERT_TRUE(mask.save(folder_ / "m.safetensors", at::kFloat).has_value());
    const auto back = MaskModule::load(folder_ / "m.safetensors");
    ASSERT_TRUE(back.has_value()) << back.error().message;
    EXPECT_EQ(back->config().layers, mask.config().layers);
    EXPECT_EQ(back->facts.at("model"), "somebody");
    EXPECT_TRUE(at::equal(back->logits(features()), mask.logits(features())));
}

TEST_F(MaskFile, BrokenOnesAreRefusedInWords) {
    const MaskModule mask = *MaskModule::make(tiny(), 4);
    const auto refused = [&](const char* what) {
        const auto found = MaskModule::load(folder_ / "m.safetensors");
        ASSERT_FALSE(found.has_value());
        EXPECT_THAT(found.error().message, testing::HasSubstr(what));
    };
    const std::map<std::string, std::string> good{
        {"format", "vitrine.mask"}, {"version", "tame"}, {"layers", R"(["a","b","c"])"}};
    const auto write = [&](NamedTensors tensors, const std::map<std::string, std::string>& facts) {
        ASSERT_TRUE(write_tensors(folder_ / "m.safetensors", tensors, facts).has_value());
    };
    NamedTensors all = mask.parameters();
    for (const auto& item : mask.statistics()) all.push_back(item);
    refused("there is no mask");
    write(all, {});
    refused("no mask");
    auto facts = good;
    facts["layers"] = "[3]";
    write(all, facts);
    refused("which layers");
    facts = good;
    facts["version"] = "nonsense";
    write(all, facts);
    refused("'nonsense'");
    NamedTensors fewer = all;
    std::erase_if(fewer, [](const auto& item) { return item.first == "bns.1.running_var"; });
    write(fewer, good);
    refused("bns.1.running_var");
    NamedTensors sick = all;
    sick[0].second = sick[0].second / 0.0;
    write(sick, good);
    refused("not finite");
    NamedTensors other = all;
    other[0].second = at::zeros({8, 9, 1, 1});
    write(other, good);
    refused("convs.0.weight");
    std::ofstream(folder_ / "m.safetensors") << "hello";
    refused("no mask");
    write(all, good);
    EXPECT_TRUE(MaskModule::load(folder_ / "m.safetensors").has_value()) << "and the good one is taken";
}

TEST_F(MaskFile, TheBuiltInMaskFitsTheBuiltInModelAlone) {
    const auto model = open_model("starter");
    ASSERT_TRUE(model.has_value());
    const auto file = resource("starter/ttame.safetensors");
    ASSERT_TRUE(file.has_value());
    EXPECT_LT(fs::file_size(*file), 3'000'000U);
    const auto mask = MaskModule::load(*file);
    ASSERT_TRUE(mask.has_value()) << mask.error().message;
    EXPECT_TRUE(mask->fits(**model).has_value()) << mask->fits(**model).error().message;
    const auto weights = (*model)->parameters();
    const at::NoGradGuard no_grad;
    at::Tensor other = weights.front().second.clone();
    other.view({-1})[0] += 1;
    const at::Tensor kept = weights.front().second.detach();
    weights.front().second.set_data(other);
    const auto refused = mask->fits(**model);
    weights.front().second.set_data(kept);
    ASSERT_FALSE(refused.has_value());
    EXPECT_THAT(refused.error().message, testing::HasSubstr("train one for this model"));
    MaskModule fewer = *MaskModule::make({"tame", {"blocks.7.norm1"}, {192}, 7}, 0);
    EXPECT_THAT(fewer.fits(**model).error().message, testing::HasSubstr("7 classes"));
}

}  // namespace
}  // namespace vitrine
