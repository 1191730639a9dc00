// Native models against the published packages: weights drawn alike from names, logits and attention maps compared,
// faults planted.
#include <algorithm>
#include <cmath>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/topk.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vitrine/capture.h>

#include "parity_case.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;

fs::path test_data() {
    if (const char* set = std::getenv("VITRINE_TEST_DATA")) return set;
    return fs::path(VITRINE_SOURCE_DIR) / "../shared/data";
}

std::vector<std::string> cases_of(const std::string& architecture) {
    std::vector<std::string> out;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(kData, ignored)) {
        if (entry.path().extension() != ".json" || entry.path().filename().string().starts_with("capture_")) continue;
        std::ifstream file(entry.path());
        const auto json = nlohmann::json::parse(file, nullptr, false);
        if (json.is_object() && json.value("architecture", "") == architecture)
            out.push_back(entry.path().stem().string());
    }
    std::sort(out.begin(), out.end());
    return out;
}

at::Tensor pixels_of(const Case& c) {
    return draw("pixels", c.json.at("pixels").get<std::vector<std::int64_t>>(), 1.8, 0.0,
                c.json.at("seed").get<std::uint64_t>());
}

double relative_error(const at::Tensor& have, const at::Tensor& want) {
    if (have.sizes() != want.sizes()) return std::numeric_limits<double>::infinity();
    return ((have - want).abs().max() / want.abs().max()).item<double>();
}

/// The mean entropy of a map's rows as a share of that of rows that are all alike; near 1 a map says nothing.
double entropy_share(const at::Tensor& map) {
    const auto entropy = -(map * map.clamp_min(1e-30).log()).sum(-1).mean();
    return entropy.item<double>() / std::log(static_cast<double>(map.size(-1)));
}

class Parity : public testing::TestWithParam<std::string> {};

TEST_P(Parity, LogitsAndAttentionMapsEqualThePackages) {
    const Case c = load(GetParam());
    auto built = build(c, checkpoint_of(c));
    ASSERT_TRUE(built.has_value()) << built.error().message;
    Model& model = **built;
    const auto pixels = pixels_of(c);
    const double tolerance = c.json.at("tolerance").get<double>();
    {
        const c10::InferenceMode guard;
        const auto logits = model.forward(pixels);
        ASSERT_EQ(logits.sizes(), c.wanted.at("logits").sizes());
        EXPECT_GT((c.wanted.at("logits")[0].max() - c.wanted.at("logits")[0].min()).item<double>(), 1.0)
            << "the case proves nothing";
        const double error = relative_error(logits, c.wanted.at("logits"));
        EXPECT_LT(error, tolerance);
        std::printf("%s: logits within %.1e relative\n", c.name.c_str(), error);
    }
    const bool convolutional = c.wanted.count("features") != 0;
    CaptureOptions options;
    options.mixings = !convolutional;
    if (convolutional) options.points = {"features"};
    const auto captured = run_captured(model, pixels.narrow(0, 0, 1), options);
    ASSERT_TRUE(captured.has_value()) << captured.error().message;
    const Capture& capture = **captured;
    if (convolutional) {
        ASSERT_EQ(capture.points.count("features"), 1u);
        EXPECT_LT(relative_error(capture.points.at("features"), c.wanted.at("features").narrow(0, 0, 1)), tolerance);
        return;
    }
    std::size_t maps = 0;
    for (const auto& [key, tensor] : c.wanted) maps += key.starts_with("attention.") ? 1 : 0;
    ASSERT_GT(maps, 0u);
    ASSERT_EQ(capture.flow.steps.size(), maps);
    double worst = 0;
    for (std::size_t i = 0; i < maps; ++i) {
        const auto& want = c.wanted.at(fmt::format("attention.{}", i));
        const Mixing& mixing = *capture.flow.steps[i].mixing;
        const auto have = mixing.rows({}, {});
        ASSERT_TRUE(have.has_value()) << have.error().message;
        ASSERT_EQ(have->sizes(), want.sizes()) << mixing.name;
        EXPECT_LT(entropy_share(want), 0.8) << mixing.name << ": the case proves nothing";
        worst = std::max(worst, (*have - want).abs().max().item<double>());
        EXPECT_EQ(mixing.key_layout.tokens(), mixing.keys);
        EXPECT_EQ(mixing.key_layout, model.layout(pixels.size(2), pixels.size(3)));
    }
    EXPECT_LT(worst, 1e-5);  // of the maps that the package computed by softmax
    ASSERT_TRUE(capture.flow.readout.defined());
    EXPECT_NEAR(capture.flow.readout.sum().item<double>(), 1.0, 1e-6);
    EXPECT_EQ(capture.flow.readout.size(0), capture.flow.steps.back().mixing->queries);
    std::printf("%s: %zu maps within %.1e\n", c.name.c_str(), maps, worst);
}

INSTANTIATE_TEST_SUITE_P(Vit, Parity, testing::ValuesIn(cases_of("vit")), [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cnn, Parity, testing::ValuesIn(cases_of("cnn")), [](const auto& info) { return info.param; });

TEST(ParityData, IsThere) {
    // An empty folder would make every suite above pass by having no cases.
    EXPECT_GE(cases_of("vit").size(), 20u);
    EXPECT_GE(cases_of("cnn").size(), 6u);
}

/// What a mistake in the code would do to the weights. Each returns false where the model has no such part.
using Parameters = std::map<std::string, at::Tensor>;
struct Fault {
    std::string name;
    std::function<bool(Parameters&, const ModelInfo&)> plant;
};

const std::vector<Fault>& faults() {
    static const std::vector<Fault> all{
        {"q and k swapped",
         [](Parameters& p, const ModelInfo& info) {
             for (const char* kind : {"weight", "bias"}) {
                 const auto found = p.find(fmt::format("blocks.1.attn.qkv.{}", kind));
                 if (found == p.end()) continue;
                 const auto parts = found->second.split(info.width, 0);
                 found->second.copy_(at::cat({parts[1], parts[0], parts[2]}, 0));
             }
             // The same norm on both sides would hide the swap of a model with q/k norms; theirs differ here.
             return true;
         }},
        {"attention bias dropped",
         [](Parameters& p, const ModelInfo&) {
             const auto found = p.find("blocks.1.attn.qkv.bias");
             if (found == p.end()) return false;
             found->second.zero_();
             return true;
         }},
        {"MLP bias dropped",
         [](Parameters& p, const ModelInfo&) { return p.at("blocks.1.mlp.fc2.bias").zero_().defined(); }},
        {"norm dropped",
         [](Parameters& p, const ModelInfo&) {
             p.at("blocks.1.norm2.weight").fill_(1);
             p.at("blocks.1.norm2.bias").zero_();
             return true;
         }},
        {"last norm dropped",
         [](Parameters& p, const ModelInfo&) {
             const std::string name = p.count("norm.weight") != 0 ? "norm" : "fc_norm";
             p.at(name + ".weight").fill_(1);
             p.at(name + ".bias").zero_();
             return true;
         }},
        {"heads permuted",
         [](Parameters& p, const ModelInfo& info) {
             // The first two heads change places before the projection that tells them apart.
             auto& proj = p.at("blocks.1.attn.proj.weight");
             const std::int64_t dim = info.width / info.heads;
             const auto first = proj.narrow(1, 0, dim).clone();
             proj.narrow(1, 0, dim).copy_(proj.narrow(1, dim, dim));
             proj.narrow(1, dim, dim).copy_(first);
             return info.heads > 1;
         }},
        {"layer scale skipped",
         [](Parameters& p, const ModelInfo&) {
             const auto found = p.find("blocks.1.ls1.gamma");
             if (found == p.end()) return false;
             found->second.fill_(1);
             return true;
         }},
        {"class token zeroed",
         [](Parameters& p, const ModelInfo&) {
             const auto found = p.find("cls_token");
             if (found == p.end()) return false;
             found->second.zero_();
             return true;
         }},
        {"distillation token zeroed",
         [](Parameters& p, const ModelInfo&) {
             const auto found = p.find("dist_token");
             if (found == p.end()) return false;
             found->second.zero_();
             return true;
         }},
        {"register zeroed",
         [](Parameters& p, const ModelInfo&) {
             const auto found = p.find("reg_token");
             if (found == p.end()) return false;
             found->second.select(1, 0).zero_();
             return true;
         }},
        {"q norm dropped",
         [](Parameters& p, const ModelInfo&) {
             const auto found = p.find("blocks.1.attn.q_norm.weight");
             if (found == p.end()) return false;
             found->second.fill_(1);
             return true;
         }},
    };
    return all;
}

class PlantedFaults : public testing::TestWithParam<std::string> {};

TEST_P(PlantedFaults, MakeParityFail) {
    const Case c = load(GetParam());
    auto built = build(c, checkpoint_of(c));
    ASSERT_TRUE(built.has_value()) << built.error().message;
    Model& model = **built;
    // One picture is enough to see a fault.
    const auto pixels = pixels_of(c).narrow(0, 0, 1);
    const auto wanted = c.wanted.at("logits").narrow(0, 0, 1);
    const c10::NoGradGuard guard;
    std::vector<std::string> planted;
    for (const Fault& fault : faults()) {
        Parameters parameters, before;
        for (auto& [name, tensor] : model.parameters()) {
            parameters[name] = tensor;
            // Only what a fault may touch is kept aside.
            if (name.starts_with("blocks.1.") || name.find("_token") != std::string::npos ||
                name.find("norm") != std::string::npos)
                before[name] = tensor.clone();
        }
        if (!fault.plant(parameters, model.info())) continue;
        planted.push_back(fault.name);
        // A hundred times the tolerance that parity is held to, so that no fault hides near it.
        EXPECT_GT(relative_error(model.forward(pixels), wanted), 100 * c.json.at("tolerance").get<double>())
            << fault.name;
        for (auto& [name, tensor] : before) parameters.at(name).copy_(tensor);
    }
    EXPECT_GE(planted.size(), 5U);
    // A part that goes by another name one day must not leave its fault unplanted unseen.
    static const std::map<std::string, std::vector<std::string>> parts{
        {"timm_vit_tiny",
         {"q and k swapped", "attention bias dropped", "MLP bias dropped", "norm dropped", "last norm dropped",
          "heads permuted", "class token zeroed"}},
        {"timm_deit_tiny_distilled", {"class token zeroed", "distillation token zeroed"}},
        {"timm_dinov2_small_reg4", {"layer scale skipped", "register zeroed"}},
        {"timm_vit_qk_norm", {"q norm dropped"}}};
    if (const auto found = parts.find(c.name); found != parts.end()) {
        EXPECT_THAT(planted, testing::IsSupersetOf(found->second));
    }
    EXPECT_LT(relative_error(model.forward(pixels), wanted), c.json.at("tolerance").get<double>())
        << "the faults were not undone";
}

INSTANTIATE_TEST_SUITE_P(Vit, PlantedFaults, testing::ValuesIn(cases_of("vit")),
                         [](const auto& info) { return info.param; });

// ---- real weights

std::map<std::string, at::Tensor> real_answers() {
    std::map<std::string, at::Tensor> out;
    const auto file = read_safetensors(kData / "real_models.safetensors").value();
    for (const auto& [key, entry] : file.tensors) out[key] = to_tensor(entry).value();
    return out;
}

std::vector<std::string> golden_photographs() {
    std::vector<std::string> out;
    std::ifstream golden(test_data() / "vit_tiny_patch16_224/golden_top5.tsv");
    std::string line;
    std::getline(golden, line);
    while (std::getline(golden, line)) {
        const auto first = line.find('\t');
        out.push_back(line.substr(first + 1, line.find('\t', first + 1) - first - 1));
    }
    return out;
}

std::unique_ptr<Model> open(const fs::path& path) {
    auto checkpoint = read_checkpoint(path);
    if (!checkpoint) {
        ADD_FAILURE() << checkpoint.error().message;
        return nullptr;
    }
    const Architecture* best = nullptr;
    double confidence = 0;
    for (const auto& architecture : registry().architectures())
        if (const auto r = architecture->recognise(*checkpoint); r.confidence > confidence)
            best = architecture.get(), confidence = r.confidence;
    if (best == nullptr) {
        ADD_FAILURE() << "nobody knows " << path;
        return nullptr;
    }
    auto model = best->build(*checkpoint);
    if (!model) {
        ADD_FAILURE() << model.error().message;
        return nullptr;
    }
    return std::move(*model);
}

TEST(RealModels, PreprocessingGivesTimmsLogits) {
    if (!fs::exists(test_data() / "vit_tiny_patch16_224")) GTEST_SKIP() << "no test data at " << test_data();
    const auto model = open(test_data() / "vit_tiny_patch16_224");
    ASSERT_TRUE(model);
    const auto wanted = real_answers().at("vit_tiny_timm_transform");
    const auto photographs = golden_photographs();
    ASSERT_EQ(static_cast<std::int64_t>(photographs.size()), wanted.size(0));
    Preprocess p = model->preprocess();
    EXPECT_EQ(p.source, "timm config.json");
    EXPECT_TRUE(p.assumed.empty());
    ASSERT_TRUE(p.set("exif", "ignore"));  // timm does not turn pictures
    const c10::InferenceMode guard;
    double worst = 0;
    for (std::size_t i = 0; i < photographs.size(); ++i) {
        const auto input = load_input(test_data() / "imagenet_photos" / photographs[i], p);
        ASSERT_TRUE(input.has_value()) << input.error().message;
        worst = std::max(
            worst,
            (model->forward(input->pixels)[0] - wanted[static_cast<std::int64_t>(i)]).abs().max().item<double>());
    }
    std::printf("20 photographs through our preprocessing: logits within %.1e of timm's\n", worst);
    EXPECT_LT(worst, 0.05);
}

TEST(RealModels, CifarResNetsAnswerAsTheirAuthorsCode) {
    if (!fs::exists(test_data() / "resnet_cifar10")) GTEST_SKIP() << "no test data at " << test_data();
    const auto answers = real_answers();
    const auto pixels = draw("pixels", {4, 3, 32, 32}, 1.8, 0.0, 9);
    for (const char* name : {"resnet20.safetensors", "resnet56.safetensors", "resnet20_legacy_format.th"}) {
        const auto model = open(test_data() / "resnet_cifar10" / name);
        ASSERT_TRUE(model) << name;
        EXPECT_EQ(model->info().architecture, "cnn");
        EXPECT_EQ(model->labels().names.size(), 10u);
        EXPECT_TRUE(model->info().relu_only);
        const c10::InferenceMode guard;
        EXPECT_LT(relative_error(model->forward(pixels), answers.at(fs::path(name).stem().string())), 1e-4) << name;
    }
}

TEST(RealModels, TheFoldedMobileNetAnswersAsTensorFlowPads) {
    if (!fs::exists(test_data() / "mobilenet_v2_tf")) GTEST_SKIP() << "no test data at " << test_data();
    const auto model = open(test_data() / "mobilenet_v2_tf/model.safetensors");
    ASSERT_TRUE(model);
    const auto wanted = real_answers().at("mobilenet_v2_tf");
    const auto photographs = golden_photographs();
    Preprocess p = model->preprocess();
    p.apply_exif = false;
    EXPECT_FALSE(p.assumed.empty());
    const c10::InferenceMode guard;
    for (std::int64_t i = 0; i < wanted.size(0); ++i) {
        const auto input = load_input(test_data() / "imagenet_photos" / photographs[static_cast<std::size_t>(i)], p);
        ASSERT_TRUE(input.has_value()) << input.error().message;
        EXPECT_LT((model->forward(input->pixels)[0] - wanted[i]).abs().max().item<double>(), 0.02)
            << photographs[static_cast<std::size_t>(i)];
    }
}

}  // namespace
}  // namespace vitrine
