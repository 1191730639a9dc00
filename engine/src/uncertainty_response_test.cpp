// The ladder's figures against what an autoencoder says of each input alone, and suppression against the edit by hand.
#include <vitrine/uncertainty_response.h>

#include <gmock/gmock.h>

#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <vitrine/capture.h>
#include <vitrine/mask_module.h>
#include <vitrine/parameters_aside.h>
#include <vitrine/registry.h>

namespace vitrine {
namespace {

using testing::Contains;
using testing::HasSubstr;

constexpr std::int64_t kWidth = 32, kLatents = 64, kTokens = 18, kPatches = 16;  // class, register, 4 x 4 patches

class Response : public testing::Test {
  protected:
    void SetUp() override {
        for (const auto& architecture : registry().architectures())
            if (architecture->description().name == "vit") model_ = std::move(*architecture->tiny(2));
        ASSERT_NE(model_, nullptr);
        config_.kind = "relu";
        config_.width = kWidth;
        config_.latents = kLatents;
        config_.point = "blocks.1";
        options_.pixels = [this](std::int64_t i) -> Result<at::Tensor> { return picture(i); };
        options_.autoencoders = {{"c", random_one()}};
        options_.ladder = {{1, 2}, {}, "gaussian", {"gaussian"}};
        options_.seeds = 3;
        options_.resamples = 200;
        options_.risk = "none";
        of_pictures(4);
    }
    void of_pictures(std::int64_t count) {
        options_.names.clear();
        for (std::int64_t i = 0; i < count; ++i) options_.names.push_back("picture " + std::to_string(i));
    }
    /// Smooth colours that differ from picture to picture.
    at::Tensor picture(std::int64_t i) const {
        const at::Tensor coarse =
            at::rand({1, 3, 4, 4}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t(40 + i)), at::kFloat);
        return normalise(coarse.repeat_interleave(8, 2).repeat_interleave(8, 3), model_->preprocess());
    }
    Autoencoder random_one() const {
        Autoencoder one = *Autoencoder::make(config_, 5);
        at::Tensor bias = one.tensor(config_.kind == "gated" ? "b_gate" : "b_enc");
        bias.copy_(at::randn(bias.sizes(), at::make_generator<at::CPUGeneratorImpl>(6)));
        return one;
    }
    /// max(x, 0) and max(-x, 0): every token is explained whole.
    Autoencoder exact_one() const {
        AutoencoderConfig config = config_;
        config.latents = 2 * kWidth;
        Autoencoder one = *Autoencoder::make(config, 5);
        const at::Tensor eye = at::eye(kWidth);
        at::Tensor(one.tensor("W_enc")).copy_(at::cat({eye, -eye}, 1));
        at::Tensor(one.tensor("W_dec")).copy_(at::cat({eye, -eye}));
        return one;
    }
    UncertaintyResponse found() {
        auto out = uncertainty_response(*model_, options_);
        EXPECT_TRUE(out.has_value()) << out.error().message;
        return out ? std::move(*out) : UncertaintyResponse{};
    }
    static const RungFigures& figures_of(const std::vector<RungFigures>& rungs, const std::string& rung,
                                         const std::string& tokens) {
        for (const RungFigures& one : rungs)
            if (one.rung == rung && one.tokens == tokens) return one;
        ADD_FAILURE() << "no " << rung << ", " << tokens;
        static const RungFigures none;
        return none;
    }
    /// [18, 32] of one input
    at::Tensor tokens_at(const Rung& rung, std::int64_t picture_index, std::uint64_t seed) {
        const at::Tensor pixels = *rung_pixels(rung, picture(picture_index), model_->preprocess(), seed,
                                               options_.names[std::size_t(picture_index)]);
        return (*concept_tokens(*model_, pixels, config_))[0];
    }

    std::unique_ptr<Model> model_;
    AutoencoderConfig config_;
    UncertaintyOptions options_;
};

TEST_F(Response, FiguresAreWhatTheAutoencoderSaysOfEachInputAlone) {
    const at::NoGradGuard no_grad;
    const Autoencoder& one = options_.autoencoders[0].second;
    const UncertaintyResponse out = found();
    ASSERT_EQ(out.climbed, 4);
    EXPECT_EQ(out.seeds, (std::vector<std::uint64_t>{0, 1, 2}));
    EXPECT_EQ(out.inputs, 4 + 2 * 4 * (1 + 2 * 3));
    const LayerResponse& layer = out.layers.at(0);
    ASSERT_EQ(layer.rungs.size(), 4u * 3u);
    struct Part {
        const char* name;
        std::int64_t from, count;
    };
    for (const Part part : {Part{"class", 0, 1}, Part{"registers", 1, 1}, Part{"patches", 2, kPatches}}) {
        for (const Rung& rung : {Rung{Rung::Kind::Shuffle, 2, 0, ""}, Rung{Rung::Kind::Noise, 1, 1, "gaussian"}}) {
            SCOPED_TRACE(std::string(part.name) + ", " + rung.name());
            double active = 0, distinct = 0, overlap = 0, norm = 0, clean_active = 0;
            std::vector<at::Tensor> tokens, again;
            for (std::int64_t p = 0; p < 4; ++p) {
                const at::Tensor clean = one.encode(tokens_at({}, p, 0)).active.narrow(0, part.from, part.count).gt(0);
                clean_active += clean.sum().item<double>() / double(part.count) / 4;
                for (std::uint64_t s = 0; s < 3; ++s) {
                    const at::Tensor x = tokens_at(rung, p, s);
                    const Codes codes = one.encode(x);
                    const at::Tensor on = codes.active.narrow(0, part.from, part.count).gt(0);
                    active += on.sum().item<double>() / double(part.count) / 12;
                    distinct += on.any(0).sum().item<double>() / 12;
                    overlap += on.any(0).logical_and(clean.any(0)).sum().item<double>() /
                               on.any(0).logical_or(clean.any(0)).sum().item<double>() / 12;
                    tokens.push_back(x.narrow(0, part.from, part.count));
                    again.push_back(one.decode(codes.active, codes).narrow(0, part.from, part.count));
                    norm += tokens.back().norm(2, 1).mean().item<double>() / 12;
                }
            }
            const at::Tensor x = at::cat(tokens).to(at::kDouble), y = at::cat(again).to(at::kDouble);
            const double explained = 1 - ((x - y).square().sum() / (x - x.mean(0)).square().sum()).item<double>();
            const RungFigures& figures = figures_of(layer.rungs, rung.name(), part.name);
            EXPECT_EQ(figures.inputs, 12);
            EXPECT_NEAR(figures.active.mean, active, 1e-6);
            EXPECT_NEAR(figures.ratio.mean, active / clean_active, 1e-6);
            EXPECT_NEAR(figures.distinct.mean, distinct, 1e-6);
            EXPECT_NEAR(figures.overlap.mean, overlap, 1e-6);
            EXPECT_NEAR(figures.norm, norm, 1e-4);
            EXPECT_NEAR(figures.explained_variance, explained, 1e-4 * std::max(1.0, std::abs(explained)));
            EXPECT_EQ(figures.unreliable, explained < 0.5);
            EXPECT_LE(figures.active.low, figures.active.mean);
            EXPECT_GE(figures.active.high, figures.active.mean);
            EXPECT_LT(figures.overlap.mean, 1);
        }
    }
}

TEST_F(Response, OneTileAndNoNoiseAreTheCleanRunExactly) {
    options_.ladder = {{1}, {0, 1}, "gaussian", {"gaussian"}};
    const LayerResponse layer = found().layers.at(0);
    for (const char* rung : {"shuffle 1", "blend 0"})
        for (const char* tokens : {"class", "registers", "patches"}) {
            const RungFigures &one = figures_of(layer.rungs, rung, tokens),
                              &clean = figures_of(layer.rungs, "clean", tokens);
            EXPECT_EQ(one.active.mean, clean.active.mean);
            EXPECT_EQ(one.active.low, clean.active.low);
            EXPECT_EQ(one.ratio.mean, 1);
            EXPECT_EQ(one.ratio.high, 1);
            EXPECT_EQ(one.distinct.mean, clean.distinct.mean);
            EXPECT_EQ(one.overlap.mean, 1);
            EXPECT_EQ(one.explained_variance, clean.explained_variance);
            EXPECT_EQ(one.norm, clean.norm);
        }
    // All noise is the noise of the same seeds.
    EXPECT_NEAR(figures_of(layer.rungs, "blend 1", "patches").active.mean,
                figures_of(layer.rungs, "gaussian", "patches").active.mean, 1e-9);
    EXPECT_NE(figures_of(layer.rungs, "gaussian", "patches").active.mean,
              figures_of(layer.rungs, "clean", "patches").active.mean);
}

TEST_F(Response, EqualSeedsGiveEqualNumbersHoweverManyInputsARunHas) {
    const auto figures = [&](std::uint64_t seed, std::int64_t batch) {
        options_.seed = seed;
        options_.batch = batch;
        std::vector<double> out;
        const LayerResponse layer = found().layers.at(0);
        for (const RungFigures& one : layer.rungs)
            out.insert(out.end(), {one.active.mean, one.active.high, one.distinct.mean, one.overlap.low, one.norm});
        return out;
    };
    const auto first = figures(1, 0);
    EXPECT_EQ(first, figures(1, 0));
    const auto pieces = figures(1, 2), other = figures(2, 0);
    for (std::size_t i = 0; i < first.size(); ++i) EXPECT_NEAR(first[i], pieces[i], 1e-5 * std::abs(first[i]));
    EXPECT_NE(first, other);
}

TEST_F(Response, TheControlHasOtherWeightsAndTheModelIsAsBefore) {
    const at::Tensor before = *run(*model_, picture(0));
    const LayerResponse layer = found().layers.at(0);
    EXPECT_TRUE(before.equal(*run(*model_, picture(0))));
    ASSERT_EQ(layer.control.size(), layer.rungs.size());
    EXPECT_NE(figures_of(layer.control, "clean", "patches").active.mean,
              figures_of(layer.rungs, "clean", "patches").active.mean);
    EXPECT_EQ(figures_of(layer.control, "clean", "patches").overlap.mean, 1);
    options_.control = false;
    EXPECT_TRUE(found().layers.at(0).control.empty());
}

TEST_F(Response, SeveralLayersAreReadInOneCourse) {
    config_.point = "blocks.2";
    options_.autoencoders.emplace_back("d", random_one());
    const UncertaintyResponse both = found();
    ASSERT_EQ(both.layers.size(), 2u);
    options_.autoencoders.erase(options_.autoencoders.begin());
    const UncertaintyResponse second = found();
    EXPECT_EQ(figures_of(both.layers[1].rungs, "shuffle 2", "patches").active.mean,
              figures_of(second.layers[0].rungs, "shuffle 2", "patches").active.mean);
    EXPECT_NE(figures_of(both.layers[0].rungs, "shuffle 2", "patches").active.mean,
              figures_of(both.layers[1].rungs, "shuffle 2", "patches").active.mean);
}

/// All numbers of a climb, to be compared to the bit.
std::vector<double> numbers_of(const UncertaintyResponse& found) {
    std::vector<double> out{double(found.climbed), double(found.inputs)};
    for (const LayerResponse& layer : found.layers) {
        for (const auto* rungs : {&layer.rungs, &layer.control})
            for (const RungFigures& one : *rungs) {
                for (const Estimate* e : {&one.active, &one.ratio, &one.distinct, &one.overlap})
                    out.insert(out.end(), {e->mean, e->low, e->high});
                out.insert(out.end(), {double(one.inputs), one.explained_variance, one.norm});
            }
        for (const at::Tensor* some : {&layer.heard, &layer.insensitivity}) {
            const at::Tensor flat = some->flatten().nan_to_num(-9);
            out.insert(out.end(), flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel());
        }
    }
    return out;
}

TEST_F(Response, WhoLooksOnSeesRungsAndPicturesComeAndSettle) {
    options_.so_far_seconds = 0;
    options_.batch = 1;
    std::vector<UncertaintyResponse> seen;
    std::vector<LadderPlace> places;
    options_.so_far = [&](const UncertaintyResponse& so_far) { seen.push_back(so_far); };
    options_.place = [&](const LadderPlace& place) { places.push_back(place); };
    const UncertaintyResponse whole = found();
    ASSERT_EQ(places.size(), 2u * 4u * 7u) << "two courses, four pictures: clean, two rungs by three seeds";
    EXPECT_EQ(places[3].rung, "shuffle 2");
    EXPECT_EQ(places[3].picture, 1);
    EXPECT_EQ(places[3].pictures, 4);
    EXPECT_EQ(places[3].seed, 2);
    EXPECT_FALSE(places[27].control);
    EXPECT_TRUE(places[28].control);
    ASSERT_EQ(seen.size(), places.size() + 2) << "and at the end of either";
    // Of the first picture alone, first as it is, then a rung more.
    const auto& first = seen[0].layers.at(0).rungs;
    ASSERT_EQ(first.size(), whole.layers[0].rungs.size());
    EXPECT_EQ(figures_of(first, "clean", "patches").inputs, 1);
    EXPECT_EQ(figures_of(first, "shuffle 2", "patches").inputs, 0);
    EXPECT_TRUE(std::isnan(figures_of(first, "shuffle 2", "patches").active.mean));
    EXPECT_TRUE(std::isnan(figures_of(first, "clean", "patches").active.low)) << "one picture has no interval";
    EXPECT_EQ(figures_of(seen[1].layers[0].rungs, "shuffle 2", "patches").inputs, 1);
    EXPECT_EQ(figures_of(seen[1].layers[0].rungs, "gaussian", "patches").inputs, 0);
    EXPECT_EQ(figures_of(seen[2].layers[0].rungs, "gaussian", "patches").inputs, 1);
    // After two pictures the figures are those of two pictures.
    options_.so_far = {};
    options_.place = {};
    options_.pictures = 2;
    const UncertaintyResponse two = found();
    const UncertaintyResponse& half = seen[13];
    EXPECT_EQ(half.climbed, 2);
    for (std::size_t i = 0; i < first.size(); ++i) {
        const RungFigures &one = half.layers[0].rungs[i], &other = two.layers[0].rungs[i];
        EXPECT_EQ(one.inputs, other.inputs);
        EXPECT_EQ(one.active.mean, other.active.mean);
        EXPECT_EQ(one.active.high, other.active.high) << "as many resamples are enough";
        EXPECT_EQ(one.explained_variance, other.explained_variance);
    }
    // The last is the end.
    for (std::size_t i = 0; i < first.size(); ++i) {
        EXPECT_EQ(seen.back().layers[0].rungs[i].active.low, whole.layers[0].rungs[i].active.low);
        EXPECT_EQ(seen.back().layers[0].control[i].ratio.high, whole.layers[0].control[i].ratio.high);
    }
}

TEST_F(Response, AStoppedClimbGoesOnAndFindsWhatOneThatWasNotStoppedFinds) {
    of_pictures(6);
    const UncertaintyResponse whole = found();
    for (const std::int64_t after : {1, 9, 20, 40}) {
        SCOPED_TRACE(after);
        std::stop_source source;
        std::int64_t runs = 0;
        options_.memory = std::make_shared<LadderMemory>();
        options_.stop = source.get_token();
        options_.place = [&](const LadderPlace&) {
            if (++runs == after) source.request_stop();
        };
        std::int64_t at_the_end = -1;
        options_.so_far = [&](const UncertaintyResponse& so_far) { at_the_end = so_far.inputs; };
        EXPECT_EQ(uncertainty_response(*model_, options_).error().code, ErrorCode::Cancelled);
        EXPECT_GT(at_the_end, 0) << "what there is was told";
        options_.stop = {};
        options_.so_far = {};
        const std::int64_t before = runs;
        EXPECT_EQ(numbers_of(found()), numbers_of(whole));
        const std::int64_t all = 2 * 6 * 4;  // clean, three seeds of two rungs
        EXPECT_EQ(runs - before, all - before) << "what was read is not read again";
    }
}

/// What is kept, by picture and part.
class Kept final : public FolderJournal {
  public:
    Status begin(const std::map<std::string, std::string>& with, const std::vector<std::string>& parts,
                 std::int64_t pictures) override {
        made_with = with;
        planned = std::ssize(parts) * pictures;
        return {};
    }
    Result<std::optional<std::string>> found(std::int64_t picture, const std::string& part) override {
        const auto one = pieces.find({picture, part});
        return one == pieces.end() ? std::nullopt : std::optional(one->second);
    }
    Status keep(std::int64_t picture, const std::string& part, std::string_view bytes) override {
        EXPECT_TRUE(pieces.try_emplace({picture, part}, bytes).second) << picture << ' ' << part;
        return {};
    }

    std::map<std::string, std::string> made_with;
    std::map<std::pair<std::int64_t, std::string>, std::string> pieces;
    std::int64_t planned = 0;
};

TEST_F(Response, ARunThatIsBrokenOffGoesOnFromItsJournalPictureByPicture) {
    of_pictures(6);
    options_.pictures = 5;
    options_.ladder = {{1, 2}, {}, "gaussian", {"gaussian", "phase"}};
    AutoencoderConfig other = config_;
    other.point = "blocks.0";
    other.latents = 48;
    other.tokens = "patches";
    options_.autoencoders.emplace_back("d", *Autoencoder::make(other, 9));
    const UncertaintyResponse whole = found();
    for (const std::int64_t after : {1, 9, 20, 37}) {
        SCOPED_TRACE(after);
        std::stop_source source;
        std::int64_t runs = 0;
        Kept kept;
        options_.journal = &kept;
        options_.stop = source.get_token();
        options_.place = [&](const LadderPlace&) {
            if (++runs == after) source.request_stop();
        };
        EXPECT_EQ(uncertainty_response(*model_, options_).error().code, ErrorCode::Cancelled);
        EXPECT_EQ(kept.planned, 2 * 5);
        const std::int64_t through = std::ssize(kept.pieces);
        EXPECT_EQ(through, after / 4) << "a picture takes four runs: as it is, and one for each seed";
        options_.stop = {};
        runs = 0;
        const UncertaintyResponse rest = found();
        EXPECT_EQ(runs, 4 * (2 * 5 - through)) << "what was kept is not run again";
        EXPECT_EQ(std::ssize(kept.pieces), 2 * 5);
        EXPECT_EQ(numbers_of(rest), numbers_of(whole));
        for (std::size_t l = 0; l < 2; ++l) {
            EXPECT_TRUE(rest.layers[l].heard.equal(whole.layers[l].heard));
            EXPECT_TRUE(rest.layers[l].insensitivity.equal(whole.layers[l].insensitivity));
        }
        runs = 0;
        EXPECT_EQ(numbers_of(found()), numbers_of(whole));
        EXPECT_EQ(runs, 0) << "nothing is left to do";
    }
    // What the bytes hang on is told; what is of another length is no piece of this ladder.
    Kept kept;
    options_.journal = &kept;
    options_.place = {};
    found();
    const auto made_with = kept.made_with;
    EXPECT_EQ(made_with.count("the autoencoder c") + made_with.count("the autoencoder d"), 2u);
    options_.autoencoders[0].second.tensor("b_enc")[0] += 1;
    Kept anew;
    options_.journal = &anew;
    found();
    EXPECT_NE(anew.made_with.at("the autoencoder c"), made_with.at("the autoencoder c"));
    EXPECT_EQ(anew.made_with.at("the autoencoder d"), made_with.at("the autoencoder d"));
    anew.pieces.begin()->second.pop_back();
    EXPECT_THAT(uncertainty_response(*model_, options_).error().message, HasSubstr("take another file"));
}

TEST_F(Response, MoreSeedsAndPicturesAreAddedToWhatThereIs) {
    of_pictures(6);
    options_.pictures = 3;
    options_.seeds = 2;
    options_.memory = std::make_shared<LadderMemory>();
    std::int64_t runs = 0;
    options_.place = [&](const LadderPlace&) { ++runs; };
    const auto small = numbers_of(found());
    EXPECT_EQ(runs, 2 * 3 * 3);
    runs = 0;
    EXPECT_EQ(numbers_of(found()), small);
    EXPECT_EQ(runs, 0) << "nothing is new";
    options_.seeds = 4;
    options_.pictures = 5;
    const auto grown = numbers_of(found());
    EXPECT_EQ(runs, 2 * (3 * 2 + 2 * 5));
    // Fewer, or another ladder, begin anew.
    runs = 0;
    options_.seeds = 2;
    options_.pictures = 3;
    EXPECT_EQ(numbers_of(found()), small);
    EXPECT_EQ(runs, 2 * 3 * 3);
    runs = 0;
    options_.memory->stamp = "other pictures";
    EXPECT_EQ(numbers_of(found()), small);
    EXPECT_EQ(runs, 2 * 3 * 3);
    options_.memory = nullptr;
    options_.seeds = 4;
    options_.pictures = 5;
    EXPECT_EQ(numbers_of(found()), grown);
}

TEST_F(Response, TheControlIsReadByAnAutoencoderOfItsOwnWeightsAlone) {
    const UncertaintyResponse same = found();
    Autoencoder own = exact_one();
    own.facts = {{"shuffled_weights", "7"}, {"tokens_seen", "1000"}, {"held", R"({"explained_variance":0.75})"}};
    {
        ParametersAside aside(*model_);
        aside.shuffle_all(7);
        own.facts["weights"] = weights_hash(*model_);
    }
    options_.control_autoencoders = {{"own", own}};
    const UncertaintyResponse fair = found();
    const LayerResponse& layer = fair.layers.at(0);
    EXPECT_EQ(fair.shuffled_by, 7u);
    EXPECT_EQ(layer.control_name, "own");
    EXPECT_EQ(layer.control_tokens_seen, "1000");
    EXPECT_EQ(layer.control_held, 0.75);
    EXPECT_EQ(figures_of(layer.rungs, "gaussian", "patches").active.mean,
              figures_of(same.layers[0].rungs, "gaussian", "patches").active.mean);
    for (const RungFigures& one : layer.control) EXPECT_NEAR(one.explained_variance, 1, 1e-6);

    const auto refusal = [&](auto change) {
        Autoencoder other = own;
        change(other);
        options_.control_autoencoders = {{"own", other}};
        const auto out = uncertainty_response(*model_, options_);
        return out ? std::string("measured") : out.error().message;
    };
    EXPECT_THAT(refusal([](auto& one) { one.facts.erase("shuffled_weights"); }),
                HasSubstr("own was not trained on shuffled weights; the control needs one of"));
    EXPECT_THAT(refusal([](auto& one) { one.facts["shuffled_weights"] = "8"; }),
                HasSubstr("own was trained on other shuffled weights than those of"));
    EXPECT_THAT(refusal([](auto& one) { one.facts["weights"] = "0123"; }), HasSubstr("other shuffled weights"));
    config_.point = "blocks.0";
    const Autoencoder elsewhere = exact_one();
    EXPECT_THAT(refusal([&](auto& one) {
                    const auto facts = one.facts;
                    one = elsewhere;
                    one.facts = facts;
                }),
                HasSubstr("own reads blocks.0 (all), expected blocks.1 (all) as c"));
    options_.control_autoencoders = {{"a", own}, {"b", own}};
    EXPECT_THAT(uncertainty_response(*model_, options_).error().message, HasSubstr("1 autoencoders have 2"));
}

TEST_F(Response, TopKSaysWhyItsCountCannotMove) {
    config_.kind = "top_k";
    config_.k = 6;
    config_.keep_negative = true;  // exactly k
    options_.autoencoders = {{"c", random_one()}};
    const LayerResponse layer = found().layers.at(0);
    EXPECT_THAT(layer.notes, Contains(HasSubstr("its 6 strongest concepts, whatever the token is")));
    for (const RungFigures& one : layer.rungs) EXPECT_EQ(one.active.mean, 6);
    EXPECT_NE(figures_of(layer.rungs, "gaussian", "patches").distinct.mean,
              figures_of(layer.rungs, "clean", "patches").distinct.mean);
}

TEST_F(Response, AWholeExplanationIsReliable) {
    options_.autoencoders = {{"c", exact_one()}};
    const UncertaintyResponse response = found();
    for (const RungFigures& one : response.layers.at(0).rungs) {
        EXPECT_NEAR(one.explained_variance, 1, 1e-6) << one.rung << ", " << one.tokens;
        EXPECT_FALSE(one.unreliable);
    }
}

TEST_F(Response, ConceptsHeardOnNoiseAndInsensitivityAreTheFormulas) {
    const at::NoGradGuard no_grad;
    of_pictures(40);
    options_.pictures = 22;  // 66 noises
    options_.control = false;
    const Autoencoder& one = options_.autoencoders[0].second;
    const UncertaintyResponse out = found();
    const LayerResponse& layer = out.layers.at(0);
    ASSERT_EQ(layer.noise_inputs, 66);
    at::Tensor heard = at::zeros({kLatents}, at::kDouble);
    std::vector<at::Tensor> pictures;
    const auto number_of = [](const std::string& name) { return std::stoll(name.substr(8)); };
    for (std::int64_t p = 0; p < 22; ++p) {
        std::vector<at::Tensor> members;
        for (std::uint64_t s = 0; s < 3; ++s) {
            const auto codes = [&](const Rung& rung) {
                return one.encode(tokens_at(rung, number_of(out.pictures[std::size_t(p)]), s))
                    .active.narrow(0, 2, kPatches);
            };
            heard += codes({Rung::Kind::Noise, 1, 1, "gaussian"}).gt(0).any(0);
            members.push_back(codes({Rung::Kind::Shuffle, 2, 0, ""}).mean(0).to(at::kDouble));
        }
        pictures.push_back(at::stack(members));
    }
    EXPECT_LT((layer.heard[0] - heard / 66).abs().max().item<double>(), 1e-12);
    const at::Tensor members = at::stack(pictures);  // [pictures, seeds, latents]
    const at::Tensor index =
        1 - members.mean(1).var(at::IntArrayRef{0}, false) / members.var(at::IntArrayRef{0, 1}, false);
    std::int64_t compared = 0, listed = 0;
    for (std::int64_t i = 0; i < kLatents; ++i) {
        if (const double want = index[i].item<double>(); std::isfinite(want)) {
            EXPECT_NEAR(layer.insensitivity[i].item<double>(), want, 1e-4);
            ++compared;
        }
        listed += heard[i].item<double>() / 66 >= 0.9;
    }
    EXPECT_GT(compared, 30);
    EXPECT_GT(listed, 0);
    EXPECT_LT(listed, kLatents);
    ASSERT_EQ(std::ssize(layer.insensitive), listed);
    for (const NoiseConcept& noisy : layer.insensitive) {
        EXPECT_GE(noisy.heard[0], 0.9);
        if (noisy.frequency * 40 >= 16) {
            EXPECT_EQ(noisy.pictures.size(), 16u);
            ASSERT_TRUE(noisy.coherence.has_value());
        }
    }
    // The strongest pictures of the first in the list, by hand.
    const NoiseConcept& first = layer.insensitive.front();
    std::vector<std::pair<double, std::string>> strengths;
    for (std::int64_t p = 0; p < 40; ++p)
        strengths.emplace_back(
            -one.encode(tokens_at({}, p, 0)).active.narrow(0, 2, kPatches).select(1, first.latent).max().item<double>(),
            options_.names[std::size_t(p)]);
    std::sort(strengths.begin(), strengths.end());
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(out.pictures[std::size_t(first.pictures[i])], strengths[i].second);
}

TEST_F(Response, SuppressingAConceptIsTheEditByHand) {
    const at::NoGradGuard no_grad;
    of_pictures(40);
    options_.pictures = 1;
    options_.seeds = 1;
    options_.control = false;
    options_.risk = "confidence";
    options_.autoencoders = {{"c", exact_one()}};
    options_.suppressed = 2;
    options_.suppression_controls = 2;
    options_.predictor.permutations = 3;
    const UncertaintyResponse out = found();
    const LayerResponse& layer = out.layers.at(0);
    ASSERT_TRUE(layer.risk.has_value()) << (layer.notes.empty() ? "" : layer.notes.back());
    EXPECT_THAT(out.notes, Contains(HasSubstr("is an adaptation")));
    ASSERT_EQ(layer.suppression.size(), 2u);
    const auto number_of = [](const std::string& name) { return std::stoll(name.substr(8)); };
    for (const Suppression& one : layer.suppression) {
        double before = 0, after = 0;
        std::int64_t inputs = 0;
        for (std::size_t f = 0; f < layer.risk->folds.size(); ++f) {
            std::vector<std::pair<double, at::Tensor>> held;
            for (const std::int64_t i : layer.risk->folds[f].held) {
                const at::Tensor pixels = picture(number_of(out.pictures[std::size_t(i)]));
                held.emplace_back(1 - at::softmax(*run(*model_, pixels), 1).max().item<double>(), pixels);
            }
            ASSERT_EQ(held.size(), 8u);
            std::sort(held.begin(), held.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
            for (std::size_t i = 0; i < 2; ++i) {  // above the 75 % quantile of eight
                CaptureOptions capture;
                capture.mixings = false;
                Edit edit;
                edit.kind = Edit::Kind::ReplacePoint;
                edit.where = "blocks.1";
                edit.replace = [&](const at::Tensor& x) {
                    at::Tensor y = x.clone();
                    for (const std::int64_t latent : one.latents[f]) {
                        at::Tensor column = y.select(2, latent % kWidth);
                        if (latent < kWidth)
                            column.clamp_max_(0);
                        else
                            column.clamp_min_(0);
                    }
                    return y;
                };
                capture.edits = {edit};
                const auto edited = run_captured(*model_, held[i].second, capture);
                before += held[i].first;
                after += 1 - at::softmax((*edited)->output, 1).max().item<double>();
                ++inputs;
            }
        }
        EXPECT_EQ(one.inputs, inputs);
        EXPECT_NEAR(one.before.mean, before / double(inputs), 1e-5);
        EXPECT_NEAR(one.after.mean, after / double(inputs), 1e-5);
        EXPECT_NEAR(one.change.mean, (after - before) / double(inputs), 1e-5);
        EXPECT_NEAR(one.difference.mean, one.change.mean - one.control.mean, 1e-9);
        EXPECT_GT(std::abs(one.change.mean), 1e-6);
    }
}

TEST_F(Response, LabelsAndScoresStandForTheRisk) {
    of_pictures(30);
    options_.pictures = 1;
    options_.seeds = 1;
    options_.control = false;
    options_.predictor.permutations = 3;
    options_.risk = "scores";
    for (int i = 0; i < 30; ++i) options_.scores.push_back(i < 5 ? std::nan("") : 0.1 * i * i);
    const UncertaintyResponse scored = found();
    ASSERT_TRUE(scored.layers[0].risk.has_value());
    EXPECT_EQ(scored.layers[0].risk->inputs, 25);
    EXPECT_TRUE(scored.layers[0].suppression.empty());
    EXPECT_THAT(scored.layers[0].notes, Contains(HasSubstr("cannot be made again")));
    options_.risk = "label";
    options_.suppressed = 0;
    for (int i = 0; i < 30; ++i) options_.labels.push_back(i % 10);
    EXPECT_TRUE(found().layers[0].risk.has_value());
    options_.labels.assign(30, -1);
    EXPECT_THAT(found().layers[0].notes, Contains(HasSubstr("no picture has a score")));
    options_.risk = "confidence";
    options_.risk_on_ladder = true;
    const UncertaintyResponse ladder = found();
    EXPECT_EQ(ladder.layers[0].risk->inputs, 90);  // clean, one shuffle, noise
    EXPECT_EQ(ladder.layers[0].risk->groups, 30);
}

TEST_F(Response, PicturesThatCannotBeReadAreToldAndPassedOver) {
    of_pictures(6);
    options_.pixels = [this](std::int64_t i) -> Result<at::Tensor> {
        if (i % 2 == 0) return fail(ErrorCode::BadInput, "it is broken");
        return picture(i);
    };
    const UncertaintyResponse out = found();
    EXPECT_EQ(out.climbed, 3);
    EXPECT_EQ(out.pictures.size(), 3u);
    EXPECT_EQ(out.skipped.size(), 3u);
    EXPECT_THAT(out.skipped, Contains("picture 2: it is broken"));
}

TEST_F(Response, StopsAndRefusesInWords) {
    std::stop_source source;
    source.request_stop();
    options_.stop = source.get_token();
    EXPECT_EQ(uncertainty_response(*model_, options_).error().code, ErrorCode::Cancelled);
    options_.stop = {};
    const auto refusal = [&](const auto& change) {
        UncertaintyOptions options = options_;
        change(options);
        const auto out = uncertainty_response(*model_, options);
        return out ? std::string("measured") : out.error().message;
    };
    EXPECT_THAT(refusal([](auto& o) { o.autoencoders.clear(); }), HasSubstr("no autoencoder"));
    EXPECT_THAT(refusal([](auto& o) { o.names.clear(); }), HasSubstr("no pictures"));
    EXPECT_THAT(refusal([](auto& o) { o.ladder.noises = {"pink"}; }), HasSubstr("no noise 'pink'"));
    EXPECT_THAT(refusal([](auto& o) { o.ladder.tiles = {100}; }), HasSubstr("more than a picture"));
    EXPECT_THAT(refusal([](auto& o) {
                    o.names.resize(7000);
                    for (std::size_t i = 0; i < 7000; ++i) o.names[i] = std::to_string(i);
                    o.reference = 7000;
                    o.risk = "confidence";
                    o.risk_on_ladder = true;
                }),
                HasSubstr("foretold of 21000 inputs, 12000 at the most"));
    EXPECT_THAT(refusal([](auto& o) { o.risk = "fear"; }), HasSubstr("risk is 'fear'"));
    EXPECT_THAT(refusal([](auto& o) {
                    o.pixels = [](std::int64_t) -> Result<at::Tensor> { return fail(ErrorCode::BadInput, "broken"); };
                }),
                HasSubstr("none of the 4 pictures can be read"));
    config_.point = "blocks.9";
    const Autoencoder elsewhere = random_one();
    EXPECT_THAT(refusal([&](auto& o) {
                    o.autoencoders = {{"far.safetensors", elsewhere}};
                }),
                HasSubstr("has no point 'blocks.9'"));
}

}  // namespace
}  // namespace vitrine
