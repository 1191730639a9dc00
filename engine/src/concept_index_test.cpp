// Building an index of concepts: against the autoencoder on each picture, changed folders, stops, and what is refused.
#include <vitrine/concept_index.h>

#include <cmath>
#include <fstream>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include <vitrine/base/file.h>
#include <vitrine/base/random.h>
#include <vitrine/base/test_bytes.h>
#include <vitrine/capture.h>
#include <vitrine/mask_module.h>
#include <vitrine/registry.h>
#include <vitrine/steering.h>
#include <vitrine/train_concepts.h>

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

class IndexConcepts : public ::testing::Test {
  protected:
    void SetUp() override {
        model_ = registry().architecture("vit").value()->tiny(3).value();
        fs::create_directories(folder_ / "p/sub");
        for (int i = 0; i < 5; ++i) picture(fmt::format("p/{}{}.ppm", i % 2 == 1 ? "sub/" : "", i), i);
        config_.kind = "top_k";
        config_.k = 3;
        config_.width = model_->info().width;
        config_.latents = 48;
        config_.point = "blocks.0";
        save();
    }
    void picture(const std::string& name, std::uint64_t seed) {
        const auto& p = model_->preprocess();
        Image image(p.input_width, p.input_height);
        // Coarse blocks, so that pictures differ where patches are.
        for (std::int64_t y = 0; y < image.height; ++y)
            for (std::int64_t x = 0; x < image.width; ++x)
                for (int c = 0; c < 3; ++c)
                    image.at(x, y)[c] = static_cast<std::uint8_t>(
                        random_bits(seed, 1, static_cast<std::uint64_t>(((y / 8) * 64 + x / 8) * 3 + c)));
        ASSERT_TRUE(write_picture(folder_ / name, image));
    }
    void save() { ASSERT_TRUE(Autoencoder::make(config_, 2)->save(folder_ / "c.safetensors")); }
    IndexConceptsOptions options(const std::string& out = "i") {
        return {.folder = folder_ / "p",
                .autoencoder = folder_ / "c.safetensors",
                .out = folder_ / out,
                .settings = {{"rounds", "10"}}};
    }
    Result<IndexConceptsSummary> build(const std::string& out = "i") { return index_concepts(*model_, options(out)); }
    std::string refusal(const IndexConceptsOptions& options) {
        const auto found = index_concepts(*model_, options);
        return found ? "built" : found.error().message;
    }
    ConceptIndex open(const std::string& name = "i") { return *ConceptIndex::open(folder_ / name); }
    std::string bytes(const std::string& name) { return *read_text(folder_ / name); }
    Input input(const std::string& name) { return *load_input(folder_ / "p" / name, model_->preprocess()); }

    vitrine::testing::Folder folder_;
    std::unique_ptr<Model> model_;
    AutoencoderConfig config_;
};

TEST_F(IndexConcepts, FiguresAreWhatTheAutoencoderSaysOfEachPicture) {
    const auto summary = build();
    ASSERT_TRUE(summary.has_value()) << summary.error().message;
    EXPECT_TRUE(summary->finished);
    EXPECT_EQ(summary->run, 5);
    EXPECT_EQ(summary->added, 5);
    const ConceptIndex index = open();
    const Autoencoder concepts = *Autoencoder::load(folder_ / "c.safetensors");
    ASSERT_EQ(index.pictures(), 5);
    EXPECT_TRUE(index_fits(index, *model_, concepts));
    const auto layout = model_->layout(model_->preprocess().input_height, model_->preprocess().input_width);
    EXPECT_EQ(index.rows(), layout.rows);
    const std::int64_t cells = layout.rows * layout.cols;
    at::Tensor values = at::zeros({5, cells, 48}), classes = at::zeros({5, 48});
    for (std::int64_t i = 0; i < 5; ++i) {
        const IndexedPicture one = index.picture(i);
        const Input seen = input(std::string(one.name));
        const at::Tensor active = concepts.encode((*concept_tokens(*model_, seen.pixels, config_))[0]).active;
        values[i].copy_(active.narrow(0, layout.prefix_count(), cells));
        classes[i].copy_(active[0]);
        EXPECT_EQ(one.answer, run(*model_, seen.pixels)->argmax().item<std::int64_t>());
        const auto strongest = index.strongest(i);
        ASSERT_FALSE(strongest.empty());
        EXPECT_NEAR(strongest[0].value, values[i].max().item<float>(), 1e-5);
    }
    int fired = 0;
    for (std::int64_t latent = 0; latent < 48; ++latent) {
        const at::Tensor mine = values.select(2, latent);  // [pictures, cells]
        const auto k = static_cast<std::size_t>(latent);
        EXPECT_NEAR(index.column("frequency")[k], mine.gt(0).to(at::kFloat).mean().item<float>(), 1e-6);
        EXPECT_NEAR(index.column("picture_frequency")[k], mine.gt(0).any(1).to(at::kFloat).mean().item<float>(), 1e-6);
        EXPECT_NEAR(index.column("class_frequency")[k],
                    classes.select(1, latent).gt(0).to(at::kFloat).mean().item<float>(), 1e-6);
        EXPECT_NEAR(index.column("maximum")[k], mine.max().item<float>(), 1e-5);
        for (const ConceptTop& top : index.tops(latent)) {
            EXPECT_NEAR(top.value, mine[top.picture].max().item<float>(), 1e-5);
            EXPECT_EQ(top.cell, mine[top.picture].argmax().item<std::int64_t>());
            ++fired;
        }
        EXPECT_EQ(static_cast<std::int64_t>(index.tops(latent).size()), mine.gt(0).any(1).sum().item<std::int64_t>());
    }
    EXPECT_GT(fired, 20);
}

TEST_F(IndexConcepts, EffectIsTheSlopeOfTheAnswerAlongTheConcept) {
    for (const char* name : {"p/1.ppm", "p/sub/1.ppm", "p/2.ppm", "p/sub/3.ppm", "p/4.ppm"}) fs::remove(folder_ / name);
    struct Case {
        const char *kind, *normalise;
        std::int64_t k, latents;
        bool weigh;
    };
    for (const Case& one : {Case{"top_k", "layer_norm", 3, 1000, true}, Case{"relu", "none", 3, 60, false}}) {
        SCOPED_TRACE(one.kind);
        config_.kind = one.kind;
        config_.k = one.k;
        config_.latents = one.latents;
        config_.normalise = one.normalise;
        config_.weigh_by_decoder = one.weigh;
        Autoencoder concepts = *Autoencoder::make(config_, 2);
        {
            const at::NoGradGuard no_grad;
            concepts.tensor("W_dec").detach().mul_(0.7);  // a row's length matters
        }
        ASSERT_TRUE(concepts.save(folder_ / "c.safetensors"));
        ASSERT_TRUE(build(one.kind));
        const ConceptIndex index = open(one.kind);
        ASSERT_EQ(index.pictures(), 1);
        const at::Tensor pixels = input("0.ppm").pixels;
        const auto logit = [&](std::int64_t latent, double scale) {
            CaptureOptions options;
            options.mixings = false;
            Edit edit;
            edit.kind = Edit::Kind::ReplacePoint;
            edit.where = config_.point;
            edit.replace = [&](const at::Tensor& x) {
                const auto change = [&](const at::Tensor& tokens) {
                    const Codes codes = concepts.encode(tokens);
                    at::Tensor changed = codes.active.clone();
                    changed.select(1, latent).mul_(scale);
                    return tokens + concepts.difference(changed, codes);
                };
                return with_changed_tokens(x, model_->layout(pixels.size(2), pixels.size(3)), config_, change);
            };
            options.edits = {edit};
            const auto run = run_captured(*model_, pixels, options);
            return (*run)->output[0][index.picture(0).answer].item<double>();
        };
        int tried = 0;
        for (const std::uint32_t latent : index.order("picture_frequency")) {
            if (index.tops(latent).empty() || ++tried > 6) break;
            const double slope = (logit(latent, 1.05) - logit(latent, 0.95)) / 0.1;
            EXPECT_NEAR(index.column("effect")[latent], slope, 2e-3 + 0.03 * std::abs(slope)) << latent;
        }
        EXPECT_GE(tried, 6);
        EXPECT_GT(std::abs(index.column("effect")[index.order("effect").front()]), 1e-3);
    }
}

TEST_F(IndexConcepts, AChangedFolderLeavesTheBytesOfAFreshIndex) {
    ASSERT_TRUE(build());
    const std::string before = bytes("i");
    const auto again = build();
    EXPECT_EQ(again->run, 0);
    EXPECT_EQ(bytes("i"), before);
    EXPECT_TRUE(changes_since(open())->none());

    fs::remove(folder_ / "p/2.ppm");
    picture("p/sub/3.ppm", 33);
    fs::last_write_time(folder_ / "p/sub/3.ppm", fs::file_time_type::clock::now() + std::chrono::seconds(5));
    picture("p/new.ppm", 44);
    EXPECT_EQ(changes_since(open())->sentence(),
              "of the pictures 1 was added, 1 was removed, 1 was changed since the index was built");
    const auto updated = build();
    ASSERT_TRUE(updated.has_value()) << updated.error().message;
    EXPECT_EQ(updated->run, 2);
    EXPECT_EQ(updated->added, 1);
    EXPECT_EQ(updated->removed, 1);
    EXPECT_EQ(updated->changed, 1);
    EXPECT_EQ(build("fresh")->run, 5);
    EXPECT_EQ(bytes("i"), bytes("fresh"));
    EXPECT_NE(bytes("i"), before);
}

TEST_F(IndexConcepts, AStoppedBuildGoesOnWhereItWas) {
    ASSERT_TRUE(build("whole"));
    std::stop_source stop;
    IndexConceptsOptions some = options();
    some.stop = stop.get_token();
    some.progress = [&](const Progress& p) {
        if (p.done == 2) stop.request_stop();
    };
    const auto first = index_concepts(*model_, some);
    ASSERT_TRUE(first.has_value());
    EXPECT_FALSE(first->finished);
    EXPECT_EQ(first->run, 2);
    EXPECT_FALSE(fs::exists(folder_ / "i"));
    const auto second = build();
    EXPECT_EQ(second->run, 3);
    EXPECT_THAT(second->notes, Contains(HasSubstr("2 of 5 pictures are done")));
    EXPECT_EQ(bytes("i"), bytes("whole"));
}

TEST_F(IndexConcepts, PicturesAtOnceAgreeWithinRounding) {
    ASSERT_TRUE(build());
    IndexConceptsOptions four = options("four");
    four.settings.emplace_back("pictures", "4");
    ASSERT_TRUE(index_concepts(*model_, four));
    const ConceptIndex one = open(), other = open("four");
    for (const auto& name : ConceptIndex::column_names())
        for (std::size_t i = 0; i < 48; ++i) {
            const float a = one.column(name)[i], b = other.column(name)[i];
            ASSERT_EQ(std::isnan(a), std::isnan(b)) << name;
            if (!std::isnan(a)) {
                ASSERT_NEAR(a, b, 1e-4) << name;
            }
        }
}

TEST_F(IndexConcepts, ClassTokensAndPatchesAloneAreIndexed) {
    config_.tokens = "class";
    save();
    ASSERT_TRUE(build("class"));
    const ConceptIndex classes = open("class");
    EXPECT_EQ(classes.rows(), 0);
    const auto latent = classes.order("maximum").front();
    EXPECT_EQ(classes.tops(latent)[0].cell, kNoCell);
    EXPECT_EQ(classes.tops(latent)[0].value, classes.class_tops(latent)[0].value);
    EXPECT_TRUE(std::isnan(classes.column("localisation")[latent]));
    config_.tokens = "patches";
    save();
    ASSERT_TRUE(build("patches"));
    const ConceptIndex patches = open("patches");
    EXPECT_GT(patches.rows(), 0);
    EXPECT_TRUE(std::isnan(patches.column("class_frequency")[0]));
    EXPECT_FALSE(std::isnan(patches.column("localisation")[patches.order("maximum").front()]));
}

TEST_F(IndexConcepts, MapsOfAConvolutionAreTokensToo) {
    model_ = registry().architecture("cnn").value()->tiny(3).value();
    config_.point = model_->info().cam_point;
    CaptureOptions looking;
    looking.mixings = false;
    looking.points = {config_.point};
    const at::Tensor map = (*run_captured(*model_, input("0.ppm").pixels, looking))->points.at(config_.point);
    config_.width = map.size(1);
    save();
    const auto summary = build();
    ASSERT_TRUE(summary.has_value()) << summary.error().message;
    const ConceptIndex index = open();
    EXPECT_EQ(index.rows(), map.size(2));
    EXPECT_EQ(index.cols(), map.size(3));
    const auto latent = index.order("picture_frequency").front();
    const ConceptTop top = index.tops(latent).at(0);
    const Autoencoder concepts = *Autoencoder::load(folder_ / "c.safetensors");
    const at::Tensor seen = input(std::string(index.picture(top.picture).name)).pixels;
    const at::Tensor mine =
        concepts.encode((*concept_tokens(*model_, seen, config_))[0]).active.select(1, std::int64_t{latent});
    EXPECT_NEAR(top.value, mine.max().item<float>(), 1e-5);
    EXPECT_EQ(top.cell, mine.argmax().item<std::int64_t>());
    EXPECT_TRUE(std::isfinite(index.column("effect")[latent]));
    EXPECT_TRUE(std::isnan(index.column("class_frequency")[latent]));
}

/// The codes of k_means are all 1: without it every picture would be as strong as another.
TEST_F(IndexConcepts, ClustersAreRankedByHowCloseAPatchIsToTheCentroid) {
    config_.kind = "k_means";
    config_.latents = 6;
    at::Tensor centroids;
    const auto layout = model_->layout(model_->preprocess().input_height, model_->preprocess().input_width);
    {
        const at::NoGradGuard no_grad;
        std::vector<at::Tensor> tokens;
        for (const char* name : {"0.ppm", "2.ppm", "4.ppm"})
            tokens.push_back(
                (*concept_tokens(*model_, input(name).pixels, config_))[0].narrow(0, layout.prefix_count(), 2));
        centroids = at::cat(tokens);
    }
    const at::Tensor bias = centroids.mean(0);
    ASSERT_TRUE(Autoencoder::of_rows(config_, centroids - bias, bias)->save(folder_ / "c.safetensors"));
    ASSERT_TRUE(build());
    const ConceptIndex index = open();
    EXPECT_EQ(index.fact("value"), "closeness");
    const double reach = (centroids - bias).square().sum(1).mean().item<double>();
    const std::int64_t cells = layout.rows * layout.cols;
    at::Tensor far = at::zeros({5, cells, 6});  // squared distances
    for (std::int64_t i = 0; i < 5; ++i) {
        const at::Tensor tokens =
            (*concept_tokens(*model_, input(std::string(index.picture(i).name)).pixels, config_))[0];
        far[i] = (tokens.narrow(0, layout.prefix_count(), cells).unsqueeze(1) - centroids).square().sum(2);
    }
    const at::Tensor mine = far.argmin(2);
    int pictures = 0;
    for (std::int64_t latent = 0; latent < 6; ++latent) {
        float before = 1;
        for (const ConceptTop& top : index.tops(latent)) {
            ASSERT_EQ(mine[top.picture][top.cell].item<std::int64_t>(), latent);
            const double d = far[top.picture][top.cell][latent].item<double>();
            EXPECT_NEAR(top.value, reach / (reach + d), 1e-4);
            EXPECT_LE(top.value, before);
            before = top.value;
            ++pictures;
        }
        EXPECT_NEAR(index.column("frequency")[static_cast<std::size_t>(latent)],
                    mine.eq(latent).to(at::kFloat).mean().item<float>(), 1e-6);
    }
    EXPECT_GT(pictures, 6);
    EXPECT_NEAR(index.column("maximum")[index.order("maximum").front()], 1, 1e-3) << "a centroid is one of the tokens";
}

TEST_F(IndexConcepts, MovedTogetherTheIndexStillFindsItsPictures) {
    fs::create_directories(folder_ / "a");
    for (const char* name : {"p", "c.safetensors"}) fs::rename(folder_ / name, folder_ / "a" / name);
    IndexConceptsOptions here = options("a/i");
    here.folder = folder_ / "a/p";
    here.autoencoder = folder_ / "a/c.safetensors";
    ASSERT_TRUE(index_concepts(*model_, here));
    EXPECT_EQ(open("a/i").folder(), fs::canonical(folder_ / "a/p"));
    fs::rename(folder_ / "a", folder_ / "b");
    EXPECT_EQ(open("b/i").folder(), fs::canonical(folder_ / "b/p"));
    EXPECT_TRUE(changes_since(open("b/i"))->none());
    // The index alone: the pictures are where they were, though another folder is called as theirs.
    fs::create_directories(folder_ / "a");
    fs::rename(folder_ / "b/p", folder_ / "a/p");
    folder_.put("b/p/another.jpg", "other");
    EXPECT_EQ(open("b/i").folder(), fs::canonical(folder_ / "a/p"));
    EXPECT_TRUE(changes_since(open("b/i"))->none());
    // Neither: where they were is what is told.
    fs::rename(folder_ / "a", folder_ / "gone");
    fs::remove_all(folder_ / "b/p");
    EXPECT_THAT(changes_since(open("b/i")).error().message, HasSubstr("there is no folder"));
    EXPECT_THAT(changes_since(open("b/i")).error().message, HasSubstr("a/p"));
    // Said to be elsewhere, nothing is run again, and the new place is kept.
    fs::rename(folder_ / "gone/p", folder_ / "q");
    here.folder = folder_ / "q";
    here.autoencoder = folder_ / "b/c.safetensors";
    here.out = folder_ / "b/i";
    EXPECT_EQ(index_concepts(*model_, here)->run, 0);
    EXPECT_EQ(open("b/i").folder(), fs::canonical(folder_ / "q"));
}

TEST_F(IndexConcepts, AFolderMayHaveANameOfAnyBytes) {
    fs::rename(folder_ / "p", folder_ / "br\xe9k");
    save();
    IndexConceptsOptions o = options();
    o.folder = folder_ / "br\xe9k";
    const auto made = index_concepts(*model_, o);
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_EQ(open().folder(), fs::canonical(folder_ / "br\xe9k"));
    EXPECT_TRUE(changes_since(open())->none());
}

TEST_F(IndexConcepts, WhatTheFileDoesNotSayIsKeptInTheIndex) {
    const std::string point = std::exchange(config_.point, "");
    save();
    EXPECT_THAT(refusal(options()), HasSubstr("does not say which activations"));
    IndexConceptsOptions given = options();
    given.given = {{"k", std::to_string(config_.k)}, {"point", point}};
    ASSERT_TRUE(index_concepts(*model_, given));
    EXPECT_EQ(open().fact("given"), fmt::format("k={},point={}", config_.k, point));
    EXPECT_EQ(*given_of(open().fact("given")), given.given);
    EXPECT_TRUE(index_fits(open(), *model_, *Autoencoder::load(folder_ / "c.safetensors", given.given)));
    EXPECT_THAT(given_of("k=2,point").error().message, HasSubstr("'point' is not NAME=VALUE"));
}

TEST_F(IndexConcepts, WhatCannotBeReadIsLeftOutAndSaid) {
    folder_.put("p/broken.jpg", "no picture");
    const auto summary = build();
    ASSERT_TRUE(summary.has_value());
    EXPECT_THAT(summary->skipped, ::testing::ElementsAre(HasSubstr("broken.jpg: ")));
    const ConceptIndex index = open();
    EXPECT_TRUE(index.picture(index.find("broken.jpg")).skipped);
    for (const std::uint32_t latent : index.order("picture_frequency"))
        EXPECT_LE(index.column("picture_frequency")[latent], 1);
    EXPECT_FLOAT_EQ(index.column("picture_frequency")[index.order("picture_frequency").front()] * 5,
                    std::round(index.column("picture_frequency")[index.order("picture_frequency").front()] * 5));
    fs::remove_all(folder_ / "p");
    fs::create_directories(folder_ / "p");
    EXPECT_THAT(refusal(options()), HasSubstr("has no pictures in it"));
    folder_.put("p/broken.jpg", "no picture");
    EXPECT_THAT(refusal(options("none")), HasSubstr("none of the 1 pictures"));
}

TEST_F(IndexConcepts, ASteeredModelHasFiguresOfItsOwn) {
    const std::shared_ptr<Model> plain(model_.get(), [](Model*) {});
    const auto with = [&](double value) {
        Steering steering;
        steering.autoencoder = *Autoencoder::load(folder_ / "c.safetensors");
        steering.edits = {{5, ConceptEdit::Mode::Set, value}};
        return std::move(*steered(plain, steering));
    };
    const auto steered = with(20), otherwise = with(21);
    ASSERT_TRUE(index_concepts(*steered, options()));
    const Autoencoder concepts = *Autoencoder::load(folder_ / "c.safetensors");
    EXPECT_TRUE(index_fits(open(), *steered, concepts));
    EXPECT_EQ(open().fact("steered"), "concept 5 set to 20 at blocks.0");
    EXPECT_THAT(index_fits(open(), *model_, concepts).error().message,
                AllOf(HasSubstr("(concept 5 set to 20 at blocks.0), and this is"),
                      HasSubstr("(nothing steered); build it again with this model")));
    EXPECT_FALSE(index_fits(open(), *otherwise, concepts));
    EXPECT_EQ(index_concepts(*steered, options())->run, 0) << "it is brought up to date as any";
    EXPECT_EQ(index_concepts(*otherwise, options())->run, 5);

    // The model as it is finds nothing that it could take over.
    const auto again = build();
    ASSERT_TRUE(again.has_value()) << again.error().message;
    EXPECT_EQ(again->run, 5);
    EXPECT_EQ(again->added, 5);
    ASSERT_TRUE(build("fresh"));
    EXPECT_EQ(bytes("i"), bytes("fresh"));
    EXPECT_TRUE(index_fits(open(), *model_, concepts));
    EXPECT_FALSE(index_fits(open(), *steered, concepts));
    // In fp16 weights are not compared, and what is steered is.
    model_->to(at::kCPU, at::kHalf);
    EXPECT_TRUE(index_fits(open(), *model_, concepts));
    EXPECT_FALSE(index_fits(open(), *steered, concepts));
}

TEST_F(IndexConcepts, NothingButAnIndexIsWrittenOver) {
    ASSERT_TRUE(fs::copy_file(folder_ / "p/0.ppm", folder_ / "photo"));
    for (const char* name : {"photo", "c.safetensors"}) {
        const std::string before = bytes(name);
        EXPECT_THAT(refusal(options(name)), HasSubstr("is no index of concepts; name another file")) << name;
        EXPECT_EQ(bytes(name), before);
        EXPECT_FALSE(fs::exists(folder_ / (std::string(name) + ".records")));
    }
    fs::create_symlink("photo", folder_ / "link");
    EXPECT_THAT(refusal(options("link")), HasSubstr("is no index of concepts"));
    // What is broken of an index, and what holds nothing, may go.
    ASSERT_TRUE(build());
    const std::string whole = bytes("i");
    ASSERT_TRUE(write_text(folder_ / "i", std::string_view(whole).substr(0, whole.size() / 2)));
    ASSERT_TRUE(write_text(folder_ / "empty", ""));
    EXPECT_TRUE(build());
    EXPECT_EQ(bytes("i"), whole);
    EXPECT_TRUE(build("empty"));
}

TEST_F(IndexConcepts, OfWhichModelTheConceptsAreIsNotedWhereTheFileDoesNotSay) {
    const auto unsure = build();
    EXPECT_THAT(unsure->notes, Contains("the file does not say which weights these concepts were trained on"));
    EXPECT_EQ(open().fact("doubt"), "the file does not say which weights these concepts were trained on");
    Autoencoder concepts = *Autoencoder::load(folder_ / "c.safetensors");
    concepts.facts = {{"weights", weights_hash(*model_)}};
    ASSERT_TRUE(concepts.save(folder_ / "c.safetensors"));
    EXPECT_THAT(build()->notes, Not(Contains(HasSubstr("which weights"))));
    EXPECT_EQ(open().fact("doubt"), "") << "it is put together anew";
}

TEST_F(IndexConcepts, WhatDoesNotFitIsRefusedInWords) {
    ASSERT_TRUE(build());
    const ConceptIndex index = open();
    Autoencoder concepts = *Autoencoder::load(folder_ / "c.safetensors");
    const auto other_model = registry().architecture("vit").value()->tiny(4).value();
    EXPECT_THAT(index_fits(index, *other_model, concepts).error().message, HasSubstr("build it again with this model"));
    EXPECT_THAT(index_fits(index, *model_, *Autoencoder::make(config_, 3)).error().message,
                HasSubstr("built with another autoencoder (48 concepts of blocks.0)"));
    EXPECT_NE(concepts_hash(concepts), concepts_hash(*Autoencoder::make(config_, 3)));
    EXPECT_EQ(concept_index_file("a/c.safetensors"), fs::path("a/c.safetensors.index"));

    IndexConceptsOptions bad = options();
    bad.folder = folder_ / "nowhere";
    EXPECT_THAT(refusal(bad), HasSubstr("there is no folder"));
    bad = options();
    bad.autoencoder = folder_ / "nothing.safetensors";
    EXPECT_THAT(refusal(bad), HasSubstr("there is no autoencoder at"));
    bad = options();
    bad.settings = {{"roundz", "3"}};
    EXPECT_THAT(refusal(bad), HasSubstr("roundz"));
    bad = options();
    bad.out = folder_ / "p";
    EXPECT_NE(refusal(bad), "built");
    concepts.facts = {{"model", "ViT-X"}, {"weights", "0123456789abcdef"}};
    ASSERT_TRUE(concepts.save(folder_ / "c.safetensors"));
    EXPECT_THAT(refusal(options()), HasSubstr("weights 0123456789abcdef"));
    config_.width += 8;
    save();
    EXPECT_THAT(refusal(options()), HasSubstr("wide"));
    config_.width -= 8;
    config_.point = "blocks.99";
    save();
    EXPECT_THAT(refusal(options()), HasSubstr("has no point 'blocks.99'"));
}

}  // namespace
}  // namespace vitrine
