// Parity of captured TorchScript models with maps and gradients formed in Python, and what is refused.
//
// The files are made by tests/parity/recipes/capture_torchscript.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/ranges.h>
#include <unistd.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include <vitrine/base/readers.h>
#include <vitrine/capture.h>
#include <vitrine/checkpoint.h>
#include <vitrine/torchscript.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(VITRINE_SOURCE_DIR) / "tests/parity/data";
constexpr std::int64_t kTarget = 4;

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

/// The mean entropy of a map's rows as a share of that of rows that are all alike; near 1 a map says nothing.
double entropy_share(const at::Tensor& map) {
    const at::Tensor entropy = -(map * map.clamp_min(1e-30).log()).sum(-1).mean();
    return entropy.item<double>() / std::log(static_cast<double>(map.size(-1)));
}

struct Reference {
    TensorFile file;
    explicit Reference(const std::string& family)
        : file(read_safetensors(kData / ("capture_" + family + ".safetensors")).value()) {}
    bool has(const std::string& name) const { return file.tensors.count(name) != 0; }
    at::Tensor operator[](const std::string& name) const { return to_tensor(file.tensors.at(name)).value(); }
    at::Tensor index(const std::string& name) const { return (*this)[name].to(at::kLong); }
    std::size_t layers() const {
        std::size_t count = 0;
        while (has("map." + std::to_string(count))) ++count;
        return count;
    }
};

nlohmann::json sidecar(const fs::path& file) {
    std::ifstream in(fs::path(file).replace_extension(".json"));
    return nlohmann::json::parse(in);
}

/// A program in place of the child, for as long as this lives.
class OtherChild {
  public:
    explicit OtherChild(const std::string& script)
        : program_(fs::temp_directory_path() / fmt::format("vitrine_child_{}", ::getpid())) {
        std::ofstream(program_) << "#!/bin/sh\n" << script << "\n";
        fs::permissions(program_, fs::perms::owner_all);
        setenv("VITRINE_PROBE_PROGRAM", program_.c_str(), 1);
    }
    ~OtherChild() {
        unsetenv("VITRINE_PROBE_PROGRAM");
        fs::remove(program_);
    }

  private:
    fs::path program_;
};

Result<std::unique_ptr<Model>> open(const std::string& name) {
    // The child takes a second a file to start; the tests below it is about use the real one.
    const OtherChild quick(R"(echo '{"height": 32, "width": 32, "shape": [1, 11]}')");
    const fs::path file = kData / ("capture_" + name + ".pt");
    return open_torchscript(file, true, sidecar(file));
}

struct Case {
    const char* family;
    const char* kind;
    Readout readout;
    std::size_t prefix;
};

class EveryTrace : public testing::TestWithParam<Case> {};

TEST_P(EveryTrace, GivesTheMapsAndGradientsOfTheEagerModel) {
    const Case& c = GetParam();
    const Reference want(c.family);
    auto opened = open(std::string(c.family) + "_" + c.kind);
    ASSERT_TRUE(opened) << opened.error().message;
    Model& model = **opened;
    const at::Tensor pixels = want["pixels"], logits = want["logits"];
    const auto capture = run_captured(model, pixels);
    ASSERT_TRUE(capture) << capture.error().message;
    EXPECT_LT(largest((*capture)->output - logits), 1e-4 * largest(logits));
    EXPECT_GT((logits.max() - logits.min()).item<double>(), 1);

    const Flow& flow = (*capture)->flow;
    ASSERT_EQ(flow.steps.size(), want.layers()) << flow.unknown;
    EXPECT_TRUE(flow.known()) << flow.unknown;
    EXPECT_EQ(model.info().readout, c.readout);
    ASSERT_TRUE(flow.readout.defined());
    EXPECT_NEAR(flow.readout.sum().item<double>(), 1, 1e-6);
    for (std::size_t i = 0; i < flow.steps.size(); ++i) {
        const Mixing& mixing = *flow.steps[i].mixing;
        SCOPED_TRACE(mixing.name);
        EXPECT_EQ(mixing.kind(), "softmax");
        const at::Tensor map = mixing.rows({}, {}).value();
        ASSERT_EQ(map.sizes(), want["map." + std::to_string(i)].sizes());
        EXPECT_LT(entropy_share(want["map." + std::to_string(i)]), 0.8);
        EXPECT_LT(largest(map - want["map." + std::to_string(i)]), 1e-5);
        EXPECT_LT(largest(map.sum(-1) - 1), 1e-5);
        const MixingCheck check = mixing.check().value();
        EXPECT_TRUE(check.passed) << check.sentence;
        EXPECT_EQ(flow.steps[i].residual, flow.steps[i].layer >= 0);
        EXPECT_EQ(mixing.key_layout.prefix.size(), c.prefix);
        EXPECT_EQ(mixing.key_layout.rows, pixels.size(2) / 8);
        EXPECT_EQ(mixing.key_layout.cols, pixels.size(3) / 8);
        if (c.prefix > 0) {
            EXPECT_EQ(mixing.key_layout.prefix[0], "cls");
        }
    }

    for (int repeat = 0; repeat < 4; ++repeat) {
        CaptureOptions options;
        options.gradients = true;
        const auto run = run_captured(model, pixels, options);
        ASSERT_TRUE(run) << run.error().message;
        std::vector<at::Tensor> wanted{(*run)->input};
        std::vector<std::string> names{"the input"};
        for (const FlowStep& step : (*run)->flow.steps) {
            wanted.push_back(step.mixing->output());
            names.push_back(step.mixing->name);
        }
        const auto found = gradients((*run)->output[0][kTarget], wanted, names);
        ASSERT_TRUE(found) << found.error().message;
        const at::Tensor pixel_gradient = want["pixel_gradient"];
        EXPECT_LT(largest((*found)[0] - pixel_gradient), 1e-4 * largest(pixel_gradient));
        for (std::size_t i = 0; i < want.layers(); ++i) {
            const at::Tensor g = want["gradient." + std::to_string(i)];
            EXPECT_GT(largest(g), 1e-4);
            EXPECT_LT(largest((*found)[i + 1] - g), 1e-4 * largest(g)) << names[i + 1] << " in run " << repeat;
        }
    }
}

std::vector<Case> cases() {
    return {{"timm_fused", "traced", Readout::ClassToken, 1},
            {"timm_fused", "traced_grad", Readout::ClassToken, 1},
            {"timm_fused", "scripted", Readout::ClassToken, 1},
            {"timm_plain", "traced", Readout::ClassToken, 1},
            {"timm_plain", "scripted", Readout::ClassToken, 1},
            {"timm_mean", "traced", Readout::MeanPatches, 0},
            {"timm_map", "traced", Readout::AttentionPool, 0},
            {"torchvision", "traced", Readout::ClassToken, 1},
            {"torchvision", "traced_grad", Readout::ClassToken, 1},
            {"torchvision", "scripted", Readout::ClassToken, 1},
            {"encoder_pre", "traced", Readout::ClassToken, 1},
            {"encoder_post", "traced", Readout::ClassToken, 1},
            {"encoder_post", "traced_grad", Readout::ClassToken, 1},
            {"encoder_pre", "traced_grad", Readout::ClassToken, 1},
            {"encoder_pre", "scripted", Readout::ClassToken, 1},
            {"encoder_post", "scripted", Readout::ClassToken, 1},
            {"hub", "traced", Readout::ClassToken, 1}};
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
    return std::string(info.param.family) + "_" + info.param.kind;
}

INSTANTIATE_TEST_SUITE_P(Traces, EveryTrace, testing::ValuesIn(cases()), case_name);

/// The map over all tokens of a grid, from those of the windows. [windows, heads, n, n] -> [heads, tokens, tokens]
at::Tensor joined(const at::Tensor& windows, const at::Tensor& place) {
    const std::int64_t n = windows.size(2);
    at::Tensor out = at::zeros({windows.size(1), place.numel(), place.numel()});
    for (std::int64_t w = 0; w < windows.size(0); ++w) {
        const at::Tensor at = place.narrow(0, w * n, n);
        for (std::int64_t i = 0; i < n; ++i)
            out.select(1, at[i].item<std::int64_t>()).index_copy_(1, at, windows[w].select(1, i));
    }
    return out;
}

class Windows : public testing::TestWithParam<const char*> {};

TEST_P(Windows, AreOneMapOverTheGridWithItsGradients) {
    const Reference want(GetParam());
    const auto opened = open(std::string(GetParam()) + "_traced");
    ASSERT_TRUE(opened) << opened.error().message;
    Model& model = **opened;
    model.to(at::kCPU, at::kFloat);  // as the program does; indices must stay what they are
    EXPECT_EQ(model.info().heads, 2);
    EXPECT_EQ(model.info().patch_height, 4);
    EXPECT_EQ(model.info().readout, Readout::MeanPatches);
    const at::Tensor pixels = want["pixels"], logits = want["logits"];
    const auto capture = run_captured(model, pixels);
    ASSERT_TRUE(capture) << capture.error().message;
    EXPECT_LT(largest((*capture)->output - logits), 1e-4 * largest(logits));
    const Flow& flow = (*capture)->flow;
    ASSERT_EQ(flow.steps.size(), 4U);
    EXPECT_NE(flow.unknown.find("the 8 x 16 tokens become 4 x 8"), std::string::npos) << flow.unknown;
    for (std::size_t i = 0; i < flow.steps.size(); ++i) {
        const Mixing& mixing = *flow.steps[i].mixing;
        SCOPED_TRACE(mixing.name);
        const at::Tensor expected = joined(want["map." + std::to_string(i)], want.index("place." + std::to_string(i)));
        EXPECT_EQ(mixing.kind(), "softmax");
        EXPECT_EQ(mixing.heads, i < 2 ? 2 : 4);
        EXPECT_TRUE(mixing.key_layout.known()) << mixing.key_layout.unknown;
        EXPECT_EQ(mixing.key_layout.rows, i < 2 ? 8 : 4);
        EXPECT_EQ(mixing.key_layout.cols, i < 2 ? 16 : 8);
        const auto map = mixing.rows({}, {});
        ASSERT_TRUE(map) << map.error().message;
        ASSERT_EQ(map->sizes(), expected.sizes());
        EXPECT_LT(entropy_share(want["map." + std::to_string(i)]), 0.8);
        EXPECT_LT(largest(*map - expected), 1e-5);
        EXPECT_LT(largest(map->sum(-1) - 1), 1e-5);
        // A head, two queries in two windows; two keys; a tile; a product from either side.
        const std::vector<std::int64_t> head{1}, tokens{mixing.queries - 1, 2};
        EXPECT_LT(largest(mixing.rows(head, tokens).value() - map->slice(0, 1, 2).index_select(1, at::tensor(tokens))),
                  1e-6);
        EXPECT_LT(
            largest(mixing.columns(head, tokens).value() - map->slice(0, 1, 2).index_select(2, at::tensor(tokens))),
            1e-6);
        const at::Tensor tile = mixing.tile(head, 1, 5, 0, mixing.keys, 2).value();
        EXPECT_LT(largest(tile - map->slice(0, 1, 2).slice(1, 1, 5).reshape({1, 2, 2, -1, 2}).mean({2, 4})), 1e-6);
        const at::Tensor r = at::softmax(at::arange(mixing.heads * mixing.queries, at::kFloat).sin() * 3, 0)
                                 .reshape({mixing.heads, mixing.queries});
        EXPECT_LT(largest(mixing.left(r).value() - r.unsqueeze(1).matmul(*map).squeeze(1)), 1e-6);
        EXPECT_LT(largest(mixing.right(mixing.v()).value() - map->matmul(mixing.v())), 1e-4);
        EXPECT_LT(largest(map->matmul(mixing.v()) - mixing.output()), 1e-4);
        const MixingCheck check = mixing.check().value();
        EXPECT_TRUE(check.passed) << check.sentence;
    }
    for (int repeat = 0; repeat < 4; ++repeat) {
        CaptureOptions options;
        options.gradients = true;
        const auto run = run_captured(model, pixels, options);
        ASSERT_TRUE(run) << run.error().message;
        std::vector<at::Tensor> wanted{(*run)->input};
        for (const FlowStep& step : (*run)->flow.steps) wanted.push_back(step.mixing->output());
        const auto found = gradients((*run)->output[0][kTarget], wanted, {});
        ASSERT_TRUE(found) << found.error().message;
        EXPECT_LT(largest((*found)[0] - want["pixel_gradient"]), 1e-4 * largest(want["pixel_gradient"]));
        for (std::size_t i = 0; i < 4; ++i) {
            const at::Tensor g = want["gradient." + std::to_string(i)].transpose(0, 1).flatten(1, 2);
            const at::Tensor order = want.index("place." + std::to_string(i)).argsort();
            EXPECT_GT(largest(g), 1e-4);
            EXPECT_LT(largest((*found)[i + 1] - g.index_select(1, order)), 1e-4 * largest(g)) << i;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Traces, Windows, testing::Values("swin_fused", "swin_plain"));

TEST(TorchScript, AblatingAHeadOfWindowsChangesTheAnswer) {
    auto model = open("swin_fused_traced").value();
    const Reference want("swin_fused");
    CaptureOptions options;
    options.edits.push_back({Edit::Kind::ScaleHead, "layers.1.blocks.0.attn", 3, 0, {}});
    const auto ablated = run_captured(*model, want["pixels"], options);
    ASSERT_TRUE(ablated) << ablated.error().message;
    EXPECT_GT(largest((*ablated)->output - want["logits"]), 1e-2);
    const Mixing& mixing = *(*ablated)->flow.steps[2].mixing;
    EXPECT_EQ(largest(mixing.output().select(0, 3)), 0);
    EXPECT_GT(largest(mixing.output().select(0, 2)), 0);
    EXPECT_TRUE(mixing.check().value().passed);
    options.edits[0].head = 4;
    EXPECT_NE(run_captured(*model, want["pixels"], options).error().message.find("has 4"), std::string::npos);
}

TEST(TorchScript, ALayerScaleOfOneHundredThousandthHidesNothing) {
    const Reference want("layer_scale");
    const auto opened = open("layer_scale_traced");
    ASSERT_TRUE(opened) << opened.error().message;
    const auto capture = run_captured(**opened, want["pixels"]).value();
    EXPECT_LT(largest(capture->output - want["logits"]), 1e-4 * largest(want["logits"]));
    EXPECT_TRUE(capture->flow.known()) << capture->flow.unknown;
    ASSERT_EQ(capture->flow.steps.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
        const FlowStep& step = capture->flow.steps[i];
        EXPECT_TRUE(step.residual);
        EXPECT_LT(largest(step.mixing->rows({}, {}).value() - want["map." + std::to_string(i)]), 1e-5);
        EXPECT_EQ(step.mixing->key_layout.prefix, std::vector<std::string>{"cls"});
    }
    EXPECT_EQ((*opened)->info().readout, Readout::ClassToken);
    ASSERT_TRUE(capture->flow.readout.defined());
    EXPECT_EQ(capture->flow.readout[0].item<double>(), 1);
}

TEST(TorchScript, NamesItsAttentionByTheModuleThatRuns) {
    for (const char* kind : {"traced", "scripted"}) {
        auto model = open(std::string("timm_fused_") + kind).value();
        const auto capture = run_captured(*model, Reference("timm_fused")["pixels"]).value();
        EXPECT_EQ(capture->flow.steps.at(2).mixing->name, "blocks.2.attn") << kind;
    }
}

TEST(TorchScript, AblatingAHeadAndReplacingAPointChangeTheAnswer) {
    auto model = open("timm_fused_traced").value();
    const at::Tensor pixels = Reference("timm_fused")["pixels"];
    const at::Tensor before = run(*model, pixels).value();
    CaptureOptions options;
    options.edits.push_back({Edit::Kind::ScaleHead, "blocks.1.attn", 1, 0, {}});
    EXPECT_GT(largest(run_captured(*model, pixels, options).value()->output - before), 1e-2);
    std::vector<std::string> names;
    for (const NamedPoint& point : model->points()) names.push_back(point.name);
    for (const char* wanted : {"patch_embed.proj", "blocks.0.norm1", "blocks.2", "norm", "head"})
        EXPECT_NE(std::find(names.begin(), names.end(), wanted), names.end())
            << wanted << " is not among " << fmt::format("{}", fmt::join(names, " "));
    EXPECT_EQ(model->info().cam_point, "blocks.2.norm1");
    options.edits.clear();
    options.points = {"blocks.1", "head"};
    const auto kept = run_captured(*model, pixels, options).value();
    EXPECT_EQ(kept->points.at("blocks.1").sizes(), at::IntArrayRef({1, 25, 32}));
    EXPECT_EQ(largest(kept->points.at("head") - kept->output), 0);
    options.edits.push_back({Edit::Kind::ReplacePoint, "blocks.1", 0, 0, [](const at::Tensor& x) { return x * 0.5; }});
    const auto replaced = run_captured(*model, pixels, options).value();
    EXPECT_GT(largest(replaced->output - before), 1e-3);
    EXPECT_LT(largest(replaced->points.at("blocks.1") - kept->points.at("blocks.1") * 0.5), 1e-6);
}

TEST(TorchScript, AStopRequestEndsTheRun) {
    auto model = open("timm_plain_traced").value();
    std::stop_source source;
    source.request_stop();
    CaptureOptions options;
    options.stop = source.get_token();
    EXPECT_EQ(run_captured(*model, Reference("timm_plain")["pixels"], options).error().code, ErrorCode::Cancelled);
}

TEST(TorchScript, ShuffledPatchesGetTokenIndicesOnly) {
    const auto opened = open("shuffled_traced");
    ASSERT_TRUE(opened) << opened.error().message;
    const Reference want("shuffled");
    const auto capture = run_captured(**opened, want["pixels"]).value();
    const Mixing& mixing = *capture->flow.steps.at(0).mixing;
    EXPECT_LT(largest(mixing.rows({}, {}).value() - want["map.0"]), 1e-5) << "maps do not need a layout";
    EXPECT_FALSE(mixing.key_layout.known());
    EXPECT_FALSE(capture->flow.known());
    const TokenLayout layout = (*opened)->layout(32, 48);
    EXPECT_NE(layout.unknown.find("changing the 8 x 8 pixels"), std::string::npos) << layout.unknown;
}

TEST(TorchScript, LayersWithoutAPathAroundThemAreSeenAsSuch) {
    const auto opened = open("no_residual_traced");
    ASSERT_TRUE(opened) << opened.error().message;
    const auto capture = run_captured(**opened, Reference("no_residual")["pixels"]).value();
    EXPECT_TRUE(capture->flow.known()) << capture->flow.unknown;
    for (const FlowStep& step : capture->flow.steps) EXPECT_FALSE(step.residual) << step.mixing->name;
}

TEST(TorchScript, IsRefusedWithoutConsent) {
    const auto refused = open_torchscript(kData / "capture_timm_fused_traced.pt", false, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
    EXPECT_NE(refused.error().message.find("--trust"), std::string::npos);
}

TEST(TorchScript, QuantisedProgramsAreRefusedInWords) {
    const auto refused = open_torchscript(kData / "capture_quantised_scripted.pt", true, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
    EXPECT_NE(refused.error().message.find("quantised"), std::string::npos) << refused.error().message;
}

TEST(TorchScript, OpensThroughTheChild) {
    const fs::path file = kData / "capture_timm_fused_traced.pt";
    const auto opened = open_torchscript(file, true, sidecar(file));
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_EQ((*opened)->info().classes, 11);
    EXPECT_EQ((*opened)->info().layers, 3);
    EXPECT_EQ((*opened)->info().heads, 2);
    EXPECT_EQ((*opened)->info().width, 32);
    EXPECT_EQ((*opened)->info().patch_height, 8);
    EXPECT_FALSE((*opened)->is_native());
}

TEST(TorchScript, AModelOfAnotherInputSizeIsFoundOrRefused) {
    // Without NAME.json usual sizes are tried; this one takes 32 x 48 only.
    const auto refused = open_torchscript(kData / "capture_timm_fused_traced.pt", true, nlohmann::json::object());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::BadInput);
    const auto square = open_torchscript(kData / "capture_torchvision_traced.pt", true, nlohmann::json::object());
    ASSERT_TRUE(square) << square.error().message;
    EXPECT_EQ((*square)->preprocess().input_height, 32);
    EXPECT_EQ((*square)->preprocess().assumed.count("input_size"), 1U);
}

TEST(TorchScript, FilesThatAreNoProgramAreRefused) {
    const fs::path folder = fs::temp_directory_path() / fmt::format("vitrine_torchscript_{}", ::getpid());
    fs::create_directories(folder);
    std::ifstream in(kData / "capture_timm_fused_traced.pt", std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    for (const std::size_t length : {std::size_t{0}, std::size_t{100}, bytes.size() / 2, bytes.size() - 30}) {
        std::ofstream(folder / "cut.pt", std::ios::binary) << bytes.substr(0, length);
        EXPECT_FALSE(open_torchscript(folder / "cut.pt", true, {})) << length;
    }
    EXPECT_FALSE(open_torchscript(folder / "none.pt", true, {}));
    fs::remove_all(folder);
}

TEST(TorchScript, AChildThatDiesIsAnErrorAndNoCrash) {
    for (const auto& [script, words] :
         {std::pair{"kill -SEGV $$", "crashed"}, {"exit 7", "broke the child"}, {"echo '{}'", "no answer"}}) {
        const OtherChild dying(script);
        const auto refused = open_torchscript(kData / "capture_timm_fused_traced.pt", true, {});
        ASSERT_FALSE(refused);
        EXPECT_NE(refused.error().message.find(words), std::string::npos) << refused.error().message;
    }
    setenv("VITRINE_PROBE_PROGRAM", "/nonexistent/probe", 1);
    EXPECT_EQ(open_torchscript(kData / "capture_timm_fused_traced.pt", true, {}).error().code, ErrorCode::NotFound);
    unsetenv("VITRINE_PROBE_PROGRAM");
}

TEST(TorchScript, ProgramsThatLoopAllocateOrWriteEndInASentence) {
    setenv("VITRINE_PROBE_SECONDS", "2", 1);
    for (const auto& [how, words] :
         {std::pair{"loop", "processor time"}, {"memory", "allocate memory"}, {"write", "write a file"}}) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
        if (std::string(how) == "memory") continue;  // sanitizers map too much for a limit on memory
#endif
        const auto refused =
            open_torchscript(kData / fmt::format("capture_hostile_{}.pt", how), true, nlohmann::json::object());
        ASSERT_FALSE(refused) << how;
        EXPECT_NE(refused.error().message.find(words), std::string::npos) << refused.error().message;
        EXPECT_EQ(refused.error().message.find('\n'), std::string::npos);
    }
    unsetenv("VITRINE_PROBE_SECONDS");
    std::error_code ignored;
    EXPECT_EQ(fs::exists("vitrine_was_here.bin") ? fs::file_size("vitrine_was_here.bin", ignored) : 0, 0U);
    fs::remove("vitrine_was_here.bin", ignored);
}

TEST(TorchScript, TheChildsAnswerCanGoToAFile) {
    const fs::path out = fs::temp_directory_path() / fmt::format("vitrine_probe_{}", ::getpid());
    // Behind what the file holds already, as a log would be written.
    std::ofstream(out) << std::string(100000, ' ');
    const std::string command = fmt::format("'{}' '{}' 32 48 >> '{}'", probe_program().string(),
                                            (kData / "capture_timm_fused_traced.pt").string(), out.string());
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::ifstream in(out);
    EXPECT_EQ(nlohmann::json::parse(in).at("shape"), nlohmann::json::array({1, 11}));
    fs::remove(out);
}

TEST(TorchScript, TheTinyOneIsCapturedLikeAnyOther) {
    const auto made = tiny_torchscript(3);
    ASSERT_TRUE(made) << made.error().message;
    const at::Tensor pixels = Reference("torchvision")["pixels"];
    const auto capture = run_captured(**made, pixels);
    ASSERT_TRUE(capture) << capture.error().message;
    EXPECT_TRUE((*capture)->flow.known()) << (*capture)->flow.unknown;
    EXPECT_EQ((*capture)->flow.layers(), 2);
    EXPECT_EQ((*made)->info().readout, Readout::ClassToken);
    EXPECT_EQ(largest(run(*tiny_torchscript(3).value(), pixels).value() - (*capture)->output), 0);
    EXPECT_GT(largest(run(*tiny_torchscript(4).value(), pixels).value() - (*capture)->output), 1e-3);
}

}  // namespace
}  // namespace vitrine
