// Steered models: the edit is in every run of them, exactly where it should be, and nowhere else.
#include <vitrine/steering.h>

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include <vitrine/capture.h>
#include <vitrine/mask_module.h>
#include <vitrine/model_identity.h>
#include <vitrine/model_mark.h>
#include <vitrine/registry.h>
#include <vitrine/torchscript.h>
#include <vitrine/train_concepts.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Mode = ConceptEdit::Mode;
using Tokens = Steering::Tokens;

at::Tensor noise(at::IntArrayRef shape, std::uint64_t seed) {
    return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

/// A traced transformer; the child that would try it first is a program that has its answer ready.
std::unique_ptr<Model> traced() {
    const fs::path child = fs::temp_directory_path() / ("vitrine_steering_child_" + std::to_string(::getpid()));
    std::ofstream(child) << "#!/bin/sh\necho '{\"height\": 32, \"width\": 32, \"shape\": [1, 11]}'\n";
    fs::permissions(child, fs::perms::owner_all);
    setenv("VITRINE_PROBE_PROGRAM", child.c_str(), 1);
    const fs::path file = fs::path(VITRINE_SOURCE_DIR) / "tests/parity/data/capture_timm_fused_traced.pt";
    auto config = nlohmann::json::parse(std::ifstream(fs::path(file).replace_extension(".json")));
    auto opened = open_torchscript(file, true, config);
    unsetenv("VITRINE_PROBE_PROGRAM");
    fs::remove(child);
    EXPECT_TRUE(opened) << opened.error().message;
    return opened ? std::move(*opened) : nullptr;
}

struct Case {
    std::string name, point;
    std::string kind = "relu", normalise = "none";
};

/// A model, concepts of one of its points, and a picture.
struct Scene {
    std::shared_ptr<Model> model;
    Autoencoder concepts;
    at::Tensor pixels;

    explicit Scene(const Case& c, const std::string& tokens = "all") {
        if (c.name == "torchscript")
            model = traced();
        else
            model = registry().architecture(c.name).value()->tiny(3).value();
        const auto& p = model->preprocess();
        pixels = noise({1, 3, p.input_height, p.input_width}, 5);
        CaptureOptions options;
        options.mixings = false;
        options.points = {c.point};
        const auto seen = run_captured(*model, pixels, options);
        EXPECT_TRUE(seen) << seen.error().message;
        const at::Tensor x = (*seen)->points.at(c.point);
        AutoencoderConfig config;
        config.kind = c.kind;
        config.normalise = c.normalise;
        config.width = x.dim() == 4 ? x.size(1) : x.size(2);
        config.latents = 3 * config.width;
        config.k = 6;
        config.point = c.point;
        config.tokens = tokens;
        concepts = Autoencoder::make(config, 7).value();
    }

    Steering steering(std::vector<ConceptEdit> edits, Tokens tokens = Tokens::All,
                      std::vector<PatchBox> boxes = {}) const {
        Steering out;
        out.autoencoder = concepts;
        out.edits = std::move(edits);
        out.tokens = tokens;
        out.boxes = std::move(boxes);
        return out;
    }
    std::unique_ptr<Model> steered(std::vector<ConceptEdit> edits, Tokens tokens = Tokens::All,
                                   std::vector<PatchBox> boxes = {}) const {
        auto made = vitrine::steered(model, steering(std::move(edits), tokens, std::move(boxes)));
        EXPECT_TRUE(made) << made.error().message;
        return made ? std::move(*made) : nullptr;
    }
    std::string refusal(std::vector<ConceptEdit> edits, Tokens tokens = Tokens::All,
                        std::vector<PatchBox> boxes = {}) const {
        auto made = vitrine::steered(model, steering(std::move(edits), tokens, std::move(boxes)));
        return made ? std::string("steered") : made.error().message;
    }

    /// What the model answers with the edit put in by hand.
    at::Tensor by_hand(const std::function<at::Tensor(const at::Tensor&)>& changed, const AutoencoderConfig& config,
                       bool gradients = false, std::shared_ptr<const Capture>* kept = nullptr) const {
        CaptureOptions options;
        options.mixings = false;
        options.gradients = gradients;
        Edit edit;
        edit.kind = Edit::Kind::ReplacePoint;
        edit.where = config.point;
        const TokenLayout layout = model->layout(pixels.size(2), pixels.size(3));
        edit.replace = [&, layout](const at::Tensor& x) {
            return with_changed_tokens(x, layout, config, [&](const at::Tensor& tokens) {
                const Codes codes = concepts.encode(tokens);
                return tokens + concepts.difference(changed(codes.active), codes);
            });
        };
        options.edits = {edit};
        const auto run = run_captured(*model, pixels, options);
        EXPECT_TRUE(run) << run.error().message;
        if (kept != nullptr) *kept = *run;
        return (*run)->output;
    }
};

at::Tensor answer(Model& model, const at::Tensor& pixels) {
    const auto out = run(model, pixels);
    EXPECT_TRUE(out) << out.error().message;
    return out ? *out : at::zeros({1});
}

double distance(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

const std::vector<ConceptEdit> kEdits = {
    {2, Mode::Set, 3.0}, {5, Mode::Suppress}, {7, Mode::Scale, -2.0}, {9, Mode::Add, 1.5}};

at::Tensor edited_by_hand(const at::Tensor& f) {
    at::Tensor g = f.clone();
    g.select(1, 2).fill_(3.0);
    g.select(1, 5).zero_();
    g.select(1, 7).mul_(-2.0);
    g.select(1, 9).add_(1.5);
    return g;
}

class EverySteered : public testing::TestWithParam<Case> {};

TEST_P(EverySteered, AnswersAsBeforeWhenNothingChanges) {
    const Scene scene(GetParam());
    const at::Tensor before = answer(*scene.model, scene.pixels);
    const auto same = [&](std::vector<ConceptEdit> edits) {
        const auto model = scene.steered(std::move(edits));
        EXPECT_TRUE(at::equal(before, answer(*model, scene.pixels)));
        const auto kept = run_captured(*model, scene.pixels), plain = run_captured(*scene.model, scene.pixels);
        EXPECT_TRUE(at::equal((*kept)->output, (*plain)->output));
    };
    same({});
    same({{1, Mode::Scale, 1.0}, {2, Mode::Add, 0.0}});
    // Nothing is skipped here: the edit runs and finds the latent silent on all tokens.
    Scene silent(GetParam());
    for (auto& [name, tensor] : silent.concepts.tensors())
        if (name == "b_enc") tensor.select(0, 4).fill_(-1e4);
    if (GetParam().kind != "relu") return;
    const auto model = silent.steered({{4, Mode::Suppress}});
    EXPECT_TRUE(at::equal(before, answer(*model, scene.pixels)));
    EXPECT_FALSE(at::equal(before, answer(*silent.steered({{4, Mode::Set, 9.0}}), scene.pixels)));
}

TEST_P(EverySteered, IsTheEditMadeByHand) {
    const Scene scene(GetParam());
    const auto model = scene.steered(kEdits);
    const at::Tensor before = answer(*scene.model, scene.pixels), after = answer(*model, scene.pixels),
                     wanted = scene.by_hand(edited_by_hand, scene.concepts.config());
    const double moved = distance(before, wanted);
    EXPECT_GT(moved, 1e-2);
    EXPECT_LT(distance(after, wanted), 1e-5 * (1 + wanted.abs().max().item<double>()));
    // The model it was made of stays as it was.
    EXPECT_TRUE(at::equal(before, answer(*scene.model, scene.pixels)));
}

TEST_P(EverySteered, IsSeenByCaptures) {
    const Scene scene(GetParam());
    const auto model = scene.steered(kEdits);
    const at::Tensor after = answer(*model, scene.pixels);
    const std::string point = scene.concepts.config().point;
    for (const bool gradients : {false, true}) {
        CaptureOptions options;
        options.points = {point};
        options.gradients = gradients;
        const auto kept = run_captured(*model, scene.pixels, options),
                   plain = run_captured(*scene.model, scene.pixels, options);
        ASSERT_TRUE(kept) << kept.error().message;
        EXPECT_LT(distance((*kept)->output, after), 1e-5 * (1 + after.abs().max().item<double>()));
        // The point is reported as the model goes on with it.
        const at::Tensor x = (*plain)->points.at(point).detach(), y = (*kept)->points.at(point).detach();
        const at::Tensor rows =
            x.dim() == 4 ? x.permute({0, 2, 3, 1}).reshape({-1, x.size(1)}) : x.reshape({-1, x.size(2)});
        const at::Tensor now =
            y.dim() == 4 ? y.permute({0, 2, 3, 1}).reshape({-1, y.size(1)}) : y.reshape({-1, y.size(2)});
        const Codes codes = scene.concepts.encode(rows);
        const at::Tensor wanted = rows + scene.concepts.difference(edited_by_hand(codes.active), codes);
        EXPECT_LT(distance(now, wanted), 1e-5 * (1 + wanted.abs().max().item<double>()));
        ASSERT_EQ((*kept)->flow.steps.size(), (*plain)->flow.steps.size());
        EXPECT_EQ((*kept)->flow.unknown, (*plain)->flow.unknown);
    }
}

TEST_P(EverySteered, HasGradientsThroughTheEdit) {
    const Scene scene(GetParam());
    const auto model = scene.steered(kEdits);
    CaptureOptions options;
    options.gradients = true;
    options.mixings = false;
    const auto kept = run_captured(*model, scene.pixels, options);
    ASSERT_TRUE(kept) << kept.error().message;
    const auto found = gradients((*kept)->output[0][1].sum(), {(*kept)->input}, {"the input"});
    ASSERT_TRUE(found) << found.error().message;
    std::shared_ptr<const Capture> hand;
    const at::Tensor wanted_answer = scene.by_hand(edited_by_hand, scene.concepts.config(), true, &hand);
    const at::Tensor wanted = gradients(wanted_answer[0][1].sum(), {hand->input}, {"the input"}).value()[0];
    EXPECT_GT(wanted.abs().max().item<double>(), 1e-4);
    EXPECT_LT(distance((*found)[0], wanted), 1e-4 * wanted.abs().max().item<double>());
    // And it is another one than the model's own.
    const auto plain = run_captured(*scene.model, scene.pixels, options);
    const at::Tensor own = gradients((*plain)->output[0][1].sum(), {(*plain)->input}, {"the input"}).value()[0];
    EXPECT_GT(distance(own, wanted), 1e-2 * wanted.abs().max().item<double>());
}

TEST_P(EverySteered, AnswersBatches) {
    const Scene scene(GetParam());
    if (GetParam().name == "torchscript") GTEST_SKIP() << "a trace is of one picture";
    const auto model = scene.steered(kEdits, Tokens::Chosen, {{0, 1, 1, 2}});
    const at::Tensor other = noise(scene.pixels.sizes(), 8);
    const at::Tensor both = answer(*model, at::cat({scene.pixels, other}));
    EXPECT_LT(distance(both[0], answer(*model, scene.pixels)[0]), 1e-4);
    EXPECT_LT(distance(both[1], answer(*model, other)[0]), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Models, EverySteered,
                         testing::Values(Case{"vit", "blocks.1"}, Case{"vit", "patch_embed"},
                                         Case{"vit", "norm", "top_k", "layer_norm"}, Case{"cnn", "features"},
                                         Case{"cnn", "features", "jump_relu", "constant_norm"},
                                         Case{"vit", "blocks.1", "pca"}, Case{"vit", "blocks.1", "nmf"},
                                         Case{"torchscript", "blocks.1"}, Case{"torchscript", "blocks.0.norm1"}),
                         [](const auto& info) {
                             std::string name = info.param.name + "_" + info.param.point + "_" + info.param.kind;
                             std::replace(name.begin(), name.end(), '.', '_');
                             return name;
                         });

TEST(Steered, EditsTheTokensThatAreAskedFor) {
    const Scene scene({"vit", "blocks.0"});
    const std::string point = scene.concepts.config().point;
    CaptureOptions options;
    options.mixings = false;
    options.points = {point};
    const at::Tensor plain = (*run_captured(*scene.model, scene.pixels, options))->points.at(point)[0];
    const auto changed = [&](Tokens tokens, std::vector<PatchBox> boxes = {}) {
        const auto model = scene.steered({{2, Mode::Set, 5.0}}, tokens, std::move(boxes));
        const at::Tensor now = (*run_captured(*model, scene.pixels, options))->points.at(point)[0];
        std::vector<std::int64_t> out;
        for (std::int64_t t = 0; t < now.size(0); ++t)
            if (!at::equal(now[t], plain[t])) out.push_back(t);
        return out;
    };
    // A class token, a register and 4 x 4 patches.
    const std::vector<std::int64_t> patches = {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
    EXPECT_EQ(changed(Tokens::Class), std::vector<std::int64_t>{0});
    EXPECT_EQ(changed(Tokens::Patches), patches);
    EXPECT_EQ(changed(Tokens::All).size(), 18);
    EXPECT_EQ(changed(Tokens::Chosen, {{0, 1, 1, 2}, {3, 3, 3, 3}}), (std::vector<std::int64_t>{3, 4, 7, 8, 17}));
    EXPECT_EQ(changed(Tokens::Chosen, boxes_of({9, 0, 1, 2, 4}, 4)), (std::vector<std::int64_t>{2, 3, 4, 6, 11}));
}

TEST(Steered, ChosenPatchesOfAMapAreItsPlaces) {
    const Scene scene({"cnn", "features"});
    CaptureOptions options;
    options.mixings = false;
    options.points = {"features"};
    const auto model = scene.steered({{2, Mode::Set, 5.0}}, Tokens::Chosen, {{1, 0, 1, 1}});
    const at::Tensor plain = (*run_captured(*scene.model, scene.pixels, options))->points.at("features")[0],
                     now = (*run_captured(*model, scene.pixels, options))->points.at("features")[0];
    const at::Tensor moved = (now != plain).any(0);
    EXPECT_EQ(moved.sum().item<std::int64_t>(), 2);
    EXPECT_TRUE(moved[1][0].item<bool>() && moved[1][1].item<bool>());
}

TEST(Steered, ItsChainIsItsForward) {
    for (const char* point : {"patch_embed", "blocks.1", "blocks.1.mlp", "norm"}) {
        const Scene scene({"vit", point});
        const auto model = scene.steered(kEdits);
        ASSERT_TRUE(model->has_chain());
        const at::NoGradGuard no_grad;
        const auto chain = model->chain(scene.pixels.size(2), scene.pixels.size(3));
        at::Tensor x = chain->begin(scene.pixels);
        for (std::int64_t block = 0; block < chain->blocks; ++block) x = chain->block(block, x);
        EXPECT_TRUE(at::equal(chain->end(x), answer(*model, scene.pixels))) << point;
        // A capture of one block holds the edit too.
        if (std::string(point) != "blocks.1") continue;
        const at::Tensor in = chain->block(0, chain->begin(scene.pixels));
        const auto part = run_captured([&](const at::Tensor& y) { return chain->block(1, y); }, in);
        ASSERT_TRUE(part) << part.error().message;
        EXPECT_TRUE(at::equal((*part)->output, chain->block(1, in)));
        EXPECT_FALSE(at::equal((*part)->output, scene.model->chain(32, 32)->block(1, in)));
    }
}

TEST(Steered, KeptPatchesAreEditedWhereTheyLie) {
    for (const char* point : {"patch_embed", "blocks.1"}) {
        const Scene scene({"vit", point});
        const auto chosen = scene.steered({{2, Mode::Set, 5.0}}, Tokens::Chosen, {{1, 1, 2, 2}});
        const at::NoGradGuard no_grad;
        const at::Tensor every = at::arange(16, at::kLong).unsqueeze(0);
        EXPECT_LT(distance(chosen->forward_kept(scene.pixels, every), answer(*chosen, scene.pixels)), 1e-4) << point;
        // Row 0 alone has none of the chosen patches; rows 0 and 1 have two.
        const at::Tensor top = at::arange(4, at::kLong).unsqueeze(0), half = at::arange(8, at::kLong).unsqueeze(0);
        EXPECT_TRUE(at::equal(chosen->forward_kept(scene.pixels, top), scene.model->forward_kept(scene.pixels, top)));
        EXPECT_FALSE(
            at::equal(chosen->forward_kept(scene.pixels, half), scene.model->forward_kept(scene.pixels, half)));
    }
}

TEST(Steered, ReadsLayersOnlyWhereTheEndIsItsOwn) {
    EXPECT_FALSE(Scene({"vit", "blocks.1"}).steered(kEdits)->no_layer_answer());
    const auto why = Scene({"vit", "norm"}).steered(kEdits)->no_layer_answer();
    ASSERT_TRUE(why);
    EXPECT_THAT(*why, HasSubstr("behind the last block"));
}

TEST(Steered, CanBeSteeredOnceMore) {
    const Scene scene({"vit", "blocks.1"});
    std::shared_ptr<Model> once = scene.steered({{2, Mode::Set, 3.0}});
    auto twice = steered(once, scene.steering({{5, Mode::Add, 4.0}}));
    ASSERT_TRUE(twice) << twice.error().message;
    // The second edit reads the codes that the first left.
    CaptureOptions options;
    options.mixings = false;
    options.points = {"blocks.1"};
    const at::Tensor x = (*run_captured(*once, scene.pixels, options))->points.at("blocks.1")[0],
                     y = (*run_captured(**twice, scene.pixels, options))->points.at("blocks.1")[0];
    const Codes codes = scene.concepts.encode(x);
    at::Tensor f = codes.active.clone();
    f.select(1, 5).add_(4.0);
    EXPECT_LT(distance(y, x + scene.concepts.difference(f, codes)), 1e-5);
}

TEST(Steered, OtherEditsAreCheap) {
    const Scene scene({"vit", "blocks.1"});
    const auto first = scene.steered({});
    EXPECT_EQ(steering_of(*scene.model), nullptr);
    ASSERT_NE(steering_of(*first), nullptr);
    EXPECT_EQ(unsteered(*first), scene.model);
    auto second = steered_again(*first, kEdits, Tokens::Class);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_TRUE(at::equal(answer(**second, scene.pixels), answer(*scene.steered(kEdits, Tokens::Class), scene.pixels)));
    EXPECT_THAT(steered_again(*first, {{999, Mode::Set, 1}}).error().message, HasSubstr("no concept 999"));
    EXPECT_THAT(steered_again(*scene.model, {}).error().message, HasSubstr("is not steered"));
    EXPECT_THAT((*second)->info().notes.back(), HasSubstr("concept 2 set to 3"));
    EXPECT_EQ(weights_hash(**second), weights_hash(*scene.model));
}

TEST(Steered, SmallerNumbersKeepTheEdit) {
    const Scene scene({"vit", "blocks.1"});
    const at::Tensor before = answer(*scene.steered(kEdits), scene.pixels);
    const auto model = scene.steered(kEdits);
    model->to(at::kCPU, at::kBFloat16);
    EXPECT_LT(distance(answer(*model, scene.pixels), before), 0.1 * before.abs().max().item<double>());
    const auto idle = scene.steered({{1, Mode::Scale, 1.0}});
    EXPECT_TRUE(at::equal(answer(*idle, scene.pixels), answer(*scene.model, scene.pixels)));
}

TEST(Steered, MovedItForgetsWhatWasRecorded) {
    const Scene scene({"vit", "blocks.1"});
    const auto model = scene.steered(kEdits);
    // A recording of a device reads the edit where it lay, which is not where it lies after a move.
    model->remembered = std::make_shared<int>(3);
    model->to(at::kCPU, at::kFloat);
    EXPECT_EQ(model->remembered, nullptr);
}

TEST(ModelMark, IsOfOneSteeringThoughAnAddressIsGivenAgain) {
    const Scene scene({"vit", "blocks.1"});
    std::vector<ModelMark> before{ModelMark(*scene.model)};
    std::set<const Model*> places;
    for (int i = 0; i < 50; ++i) {
        const auto model = scene.steered({{1, Mode::Set, double(i)}});
        const ModelMark mark(*model);
        EXPECT_EQ(mark, ModelMark(*model));
        for (const ModelMark& other : before) EXPECT_NE(mark, other);
        before.push_back(mark);
        places.insert(model.get());
    }
    EXPECT_LT(places.size(), 50u) << "no address was given again, so this shows nothing";
    EXPECT_EQ(before.front(), ModelMark(*scene.model));
}

TEST(ModelIdentity, IsOfWhatTheModelComputes) {
    const Scene scene({"vit", "blocks.1"});
    const std::string plain = model_identity(*scene.model);
    EXPECT_EQ(plain, weights_hash(*scene.model)) << "files of before stay valid";
    EXPECT_EQ(steering_identity(*scene.model), "");
    const auto of = [&](std::vector<ConceptEdit> edits, Tokens tokens = Tokens::All, std::vector<PatchBox> boxes = {}) {
        return model_identity(*scene.steered(std::move(edits), tokens, std::move(boxes)));
    };
    EXPECT_EQ(of({}), plain);
    EXPECT_EQ(of({{1, Mode::Scale, 1.0}, {2, Mode::Add, 0.0}}), plain) << "nothing is changed";
    const std::string once = of({{1, Mode::Set, 3.0}});
    std::set<std::string> all{plain, once};
    for (const ConceptEdit& edit : std::vector<ConceptEdit>{
             {1, Mode::Set, 3.5}, {2, Mode::Set, 3.0}, {1, Mode::Add, 3.0}, {1, Mode::Scale, 3.0}, {1, Mode::Suppress}})
        EXPECT_TRUE(all.insert(of({edit})).second) << edit.index << " " << name_of(edit.mode) << " " << edit.value;
    EXPECT_TRUE(all.insert(of({{1, Mode::Set, 3.0}}, Tokens::Class)).second);
    EXPECT_TRUE(all.insert(of({{1, Mode::Set, 3.0}}, Tokens::Patches)).second);
    EXPECT_TRUE(all.insert(of({{1, Mode::Set, 3.0}}, Tokens::Chosen, {{0, 0, 1, 1}})).second);
    EXPECT_TRUE(all.insert(of({{1, Mode::Set, 3.0}}, Tokens::Chosen, {{0, 0, 1, 0}})).second);
    Scene other({"vit", "blocks.1"});
    other.concepts = Autoencoder::make(scene.concepts.config(), 8).value();
    EXPECT_TRUE(all.insert(model_identity(*other.steered({{1, Mode::Set, 3.0}}))).second) << "other concepts";

    // What does the same is the same.
    EXPECT_EQ(of({{1, Mode::Set, 0.0}}), of({{1, Mode::Suppress}}));
    EXPECT_EQ(of({{1, Mode::Scale, -0.0}}), of({{1, Mode::Suppress}}));
    EXPECT_EQ(of({{2, Mode::Set, 1.0}, {1, Mode::Set, 9.0}, {1, Mode::Set, 3.0}}),
              of({{1, Mode::Set, 3.0}, {2, Mode::Set, 1.0}}));
    EXPECT_EQ(of({{1, Mode::Set, 3.0}}, Tokens::Chosen, {{1, 0, 1, 1}, {0, 0, 0, 1}}),
              of({{1, Mode::Set, 3.0}}, Tokens::Chosen, {{0, 0, 1, 1}}));
    EXPECT_EQ(model_identity(*Scene({"vit", "blocks.1"}).steered({{1, Mode::Set, 3.0}})), once) << "opened again";
    const auto moved = scene.steered({{1, Mode::Set, 3.0}});
    moved->to(at::kCPU, at::kBFloat16);
    EXPECT_EQ(model_identity(*moved), once);
    scene.model->to(at::kCPU, at::kFloat);

    // A steered model that is steered again.
    const std::shared_ptr<Model> inner = scene.steered({{1, Mode::Set, 3.0}});
    EXPECT_EQ(model_identity(**steered(inner, scene.steering({}))), once);
    EXPECT_TRUE(all.insert(model_identity(**steered(inner, scene.steering({{1, Mode::Set, 3.0}})))).second);
    // Without weights to compare there is the name.
    const Scene program({"torchscript", "blocks.1"});
    if (program.model->parameters().empty()) {
        EXPECT_EQ(model_identity(*program.model), "");
        const std::string named = model_identity(*program.steered({{1, Mode::Set, 3.0}}));
        program.model->info().name = "another";
        EXPECT_NE(model_identity(*program.steered({{1, Mode::Set, 3.0}})), named);
    }
}

TEST(Steered, RefusesWhatCannotBe) {
    const Scene scene({"vit", "blocks.1"});
    EXPECT_THAT(scene.refusal({{96, Mode::Set, 1}}), HasSubstr("no concept 96, the file has 0 to 95"));
    EXPECT_THAT(scene.refusal({{-1, Mode::Suppress}}), HasSubstr("no concept -1"));
    EXPECT_THAT(scene.refusal({{1, Mode::Set, std::nan("")}}), HasSubstr("expected a finite number"));
    EXPECT_THAT(scene.refusal({{1, Mode::Set, 1e38}}), HasSubstr("expected a finite number"));
    EXPECT_THAT(scene.refusal({}, Tokens::Chosen), HasSubstr("none is chosen"));
    EXPECT_THAT(scene.refusal({}, Tokens::Chosen, {{0, 0, 4, 0}}), HasSubstr("no box of a grid of 4 x 4"));
    EXPECT_THAT(scene.refusal({}, Tokens::Chosen, {{2, 0, 1, 0}}), HasSubstr("no box"));
    EXPECT_THAT(Scene({"vit", "patch_embed"}).refusal({}, Tokens::Class), HasSubstr("no class token"));
    EXPECT_THAT(Scene({"cnn", "features"}).refusal({}, Tokens::Class), HasSubstr("no class token"));
    EXPECT_THAT(Scene({"vit", "blocks.1"}, "class").refusal({}, Tokens::Patches), HasSubstr("class token alone"));
    EXPECT_THAT(Scene({"vit", "blocks.1"}, "patches").refusal({}, Tokens::Class), HasSubstr("patches alone"));

    Steering other = scene.steering({});
    other.autoencoder.facts = {{"model", "ViT-X"}, {"weights", "0123456789abcdef"}};
    EXPECT_THAT(steered(scene.model, other).error().message, HasSubstr("trained on ViT-X"));
    const Scene wide({"cnn", "features"});
    Steering elsewhere = wide.steering({});
    EXPECT_THAT(steered(scene.model, elsewhere).error().message, HasSubstr("no point 'features'"));
    EXPECT_THAT(steered(nullptr, scene.steering({})).error().message, HasSubstr("no model"));

    Steering grid = scene.steering({{1, Mode::Set, 1}}, Tokens::Chosen, {{0, 0, 0, 0}});
    grid.rows = grid.cols = 5;
    EXPECT_THAT(steered(scene.model, grid).error().message, HasSubstr("grid of 5 x 5, and blocks.1 has 4 x 4"));
    // An input with another grid: the patches mean nothing there.
    const auto chosen = scene.steered({{1, Mode::Set, 1}}, Tokens::Chosen, {{0, 0, 0, 0}});
    const auto wider = run(*chosen, noise({1, 3, 40, 40}, 1));
    ASSERT_FALSE(wider);
    EXPECT_THAT(wider.error().message, HasSubstr("grid of 4 x 4, and this input has 5 x 5"));
}

}  // namespace
}  // namespace vitrine
