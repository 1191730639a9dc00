// Figures of an autoencoder, against the same counted over everything at once in double precision.
#include <cmath>
#include <filesystem>

#include <ATen/ops/argmax.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/rand.h>
#include <gmock/gmock.h>

#include <vitrine/autoencoder_fidelity.h>
#include <vitrine/train_concepts.h>

#include "capture_test_model.h"
#include "tensor_io.h"

namespace vitrine {
namespace {

using testing_model::SmallVit;

constexpr std::int64_t kPictures = 7;

Autoencoder random_concepts() {
    AutoencoderConfig config;
    config.kind = "relu";
    config.width = SmallVit::kWidth;
    config.latents = 2 * SmallVit::kWidth;
    config.point = "blocks.1";
    return Autoencoder::make(config, 5).value();
}

class AutoencoderFidelity : public testing::Test {
  protected:
    AutoencoderFidelity() {
        pictures_ = at::rand({kPictures, 3, 32, 32}, at::make_generator<at::CPUGeneratorImpl>(std::uint64_t{7}));
        options_.pictures = kPictures;
        options_.pixels = [&](std::int64_t i) { return Result<at::Tensor>(pictures_.narrow(0, i, 1)); };
        options_.batch = 3;  // the last is shorter
        options_.resamples = 200;
    }
    /// As many latents as make every token again.
    void make_exact() {
        const at::Tensor eye = at::eye(SmallVit::kWidth);
        at::Tensor(concepts_.tensor("W_enc")).copy_(at::cat({eye, -eye}, 1));
        at::Tensor(concepts_.tensor("W_dec")).copy_(at::cat({eye, -eye}));
    }
    Fidelity found() { return autoencoder_fidelity(model_, concepts_, options_).value(); }
    std::string refusal() {
        const auto result = autoencoder_fidelity(model_, concepts_, options_);
        return result ? std::string("measured") : result.error().message;
    }

    SmallVit model_;
    Autoencoder concepts_ = random_concepts();
    at::Tensor pictures_;
    FidelityOptions options_;
};

TEST_F(AutoencoderFidelity, IsWhatAllTokensAtOnceGive) {
    const Fidelity fidelity = found();
    const at::Tensor tokens = concept_tokens(model_, pictures_, concepts_.config()).value();
    const Codes codes = concepts_.encode(tokens.reshape({-1, SmallVit::kWidth}));
    const at::Tensor again = concepts_.decode(codes.active, codes).view(tokens.sizes()).to(at::kDouble);
    const at::Tensor on = codes.active.ne(0).view({kPictures, tokens.size(1), -1}), x = tokens.to(at::kDouble);
    ASSERT_EQ(fidelity.tokens.size(), 3u);
    EXPECT_EQ(fidelity.pictures, kPictures);
    const std::int64_t patches = tokens.size(1) - 1;
    const struct {
        const char* name;
        std::int64_t from, count;
    } kinds[] = {{"all", 0, patches + 1}, {"class", 0, 1}, {"patches", 1, patches}};
    for (std::size_t k = 0; k < 3; ++k) {
        SCOPED_TRACE(kinds[k].name);
        const FidelityOfTokens& kind = fidelity.tokens[k];
        EXPECT_EQ(kind.name, kinds[k].name);
        EXPECT_EQ(kind.tokens, kPictures * kinds[k].count);
        const auto some = [&](const at::Tensor& of) {
            return of.narrow(1, kinds[k].from, kinds[k].count).reshape({-1, of.size(2)});
        };
        const at::Tensor of = some(x), errors = (some(again) - of).square().sum(1);
        EXPECT_NEAR(kind.active.value, some(on).sum(1).to(at::kDouble).mean().item<double>(), 1e-9);
        EXPECT_NEAR(kind.explained_variance.value, 1 - (errors.sum() / (of - of.mean(0)).square().sum()).item<double>(),
                    1e-6);
        double by_token = 0, varied = 0;
        for (std::int64_t from = 0; from < kPictures; from += 3) {
            const std::int64_t n = std::min<std::int64_t>(3, kPictures - from);
            if (n * kinds[k].count == 1) continue;  // no spread
            varied += static_cast<double>(n * kinds[k].count);
            const at::Tensor batch = some(x.narrow(0, from, n)), made = some(again.narrow(0, from, n));
            by_token +=
                (1 - (made - batch).square().sum(1) / (batch - batch.mean(0)).square().sum(1)).sum().item<double>();
        }
        EXPECT_NEAR(kind.token_variance.value, by_token / varied, 1e-5);
        EXPECT_LE(kind.active.low, kind.active.value);
        EXPECT_GE(kind.active.high, kind.active.value);
        EXPECT_LT(kind.explained_variance.low, kind.explained_variance.high);
    }
    EXPECT_NEAR(fidelity.distinct.value, on.any(1).sum(1).to(at::kDouble).mean().item<double>(), 1e-9);
    const at::Tensor share = on.to(at::kDouble).mean(at::IntArrayRef{0, 1});
    EXPECT_NEAR(fidelity.dense, share.gt(1e-2).to(at::kDouble).mean().item<double>(), 1e-9);
    EXPECT_NEAR(fidelity.never, share.eq(0).to(at::kDouble).mean().item<double>(), 1e-9);
    std::int64_t counted = 0;
    for (const std::int64_t bin : fidelity.densities) counted += bin;
    EXPECT_EQ(counted, share.gt(0).sum().item<std::int64_t>());
}

TEST_F(AutoencoderFidelity, AnExactOneChangesNoAnswer) {
    make_exact();
    const at::Tensor answers = model_.forward(pictures_);
    const at::Tensor label = at::argmax(answers, 1);
    for (std::int64_t i = 0; i < kPictures; ++i) options_.labels.push_back(i == 2 ? -1 : label[i].item<std::int64_t>());
    const Fidelity fidelity = found();
    EXPECT_GT(fidelity.tokens[0].explained_variance.value, 1 - 1e-9);
    EXPECT_NEAR(fidelity.tokens[0].cosine.value, 1, 1e-6);
    EXPECT_EQ(fidelity.agreement.value, 1);
    EXPECT_NEAR(fidelity.divergence.value, 0, 1e-6);
    EXPECT_GT(fidelity.zeroed.value, 1e-3);
    EXPECT_NEAR(fidelity.substitution.value, 1, 1e-4);
    EXPECT_EQ(fidelity.labelled, kPictures - 1);
    EXPECT_NEAR(fidelity.loss.value, fidelity.loss_substituted.value, 1e-6);
    const at::Tensor losses = -at::log_softmax(answers.to(at::kDouble), 1).gather(1, label.unsqueeze(1)).squeeze(1);
    EXPECT_NEAR(fidelity.loss.value, (losses.sum() - losses[2]).item<double>() / (kPictures - 1), 1e-6);
    EXPECT_NE(fidelity.loss_zeroed.value, fidelity.loss.value);
    EXPECT_NEAR(fidelity.loss_recovered.value, 1, 1e-4);
}

TEST_F(AutoencoderFidelity, APictureThatCannotBeReadIsSaidAndLeftOut) {
    options_.pixels = [&](std::int64_t i) -> Result<at::Tensor> {
        if (i == 0) return fail(ErrorCode::BadInput, "the first is broken");
        return pictures_.narrow(0, i, 1);
    };
    const Fidelity fidelity = found();
    EXPECT_EQ(fidelity.pictures, kPictures - 1);
    EXPECT_EQ(fidelity.skipped, std::vector<std::string>{"the first is broken"});
    options_.pixels = [&](std::int64_t) -> Result<at::Tensor> { return fail(ErrorCode::BadInput, "broken"); };
    EXPECT_THAT(refusal(), testing::HasSubstr("none of the 7 pictures can be read: broken"));
}

TEST_F(AutoencoderFidelity, IntervalsHoldTheMeanOfManyAndAreDrawnBySeed) {
    // One number a picture of known spread: latents a picture of 400 pictures that are 7 again and again.
    options_.pictures = 120;
    options_.pixels = [&](std::int64_t i) { return Result<at::Tensor>(pictures_.narrow(0, i % kPictures, 1)); };
    options_.resamples = 400;
    const Fidelity one = found(), same = found();
    EXPECT_EQ(one.distinct.low, same.distinct.low);
    EXPECT_EQ(one.tokens[1].explained_variance.high, same.tokens[1].explained_variance.high);
    options_.seed = 1;
    const Fidelity other = found();
    EXPECT_NE(one.tokens[0].active.low, other.tokens[0].active.low);
    const at::Tensor tokens = concept_tokens(model_, pictures_, concepts_.config()).value();
    const at::Tensor each = concepts_.encode(tokens.reshape({-1, SmallVit::kWidth}))
                                .active.ne(0)
                                .view({kPictures, -1})
                                .sum(1)
                                .to(at::kDouble) /
                            static_cast<double>(tokens.size(1));
    const double expected = 1.96 * each.std(/*unbiased=*/false).item<double>() / std::sqrt(120.0);
    EXPECT_NEAR((one.tokens[0].active.high - one.tokens[0].active.low) / 2, expected, 0.25 * expected);
}

TEST_F(AutoencoderFidelity, ResamplesOfOnePictureAloneSayNothingOfTheVariance) {
    options_.pictures = 2;
    const Fidelity two = found();
    ASSERT_EQ(two.tokens[1].name, "class");
    EXPECT_GT(two.tokens[1].explained_variance.low, -1000);  // rounding over rounding is -1e9 and less
    options_.pictures = 1;
    EXPECT_TRUE(std::isnan(found().tokens[1].explained_variance.value));
}

TEST_F(AutoencoderFidelity, RefusesWhatDoesNotFit) {
    options_.labels = {1, 2};
    EXPECT_THAT(refusal(), testing::HasSubstr("2 labels for 7 pictures"));
    options_.labels.assign(kPictures, 99);
    EXPECT_THAT(refusal(), testing::HasSubstr("there are 7 classes"));
    options_.labels.clear();
    options_.class_rows = at::ones({4, 9});
    EXPECT_THAT(refusal(), testing::HasSubstr("has classes of its own"));
    options_.class_rows = at::Tensor();
    AutoencoderConfig config = concepts_.config();
    config.point = "blocks.77";
    concepts_ = Autoencoder::make(config, 1).value();
    EXPECT_THAT(refusal(), testing::HasSubstr("blocks.77"));
}

TEST_F(AutoencoderFidelity, ClassRowsAreOneMatrix) {
    const auto file = std::filesystem::path(testing::TempDir()) / "fidelity_rows.safetensors";
    const auto said = [&] { return class_rows_in(file).error().message; };
    ASSERT_TRUE(write_tensors(file, {{"text", at::rand({4, 9})}, {"scale", at::rand({1})}}, {}));
    EXPECT_EQ(class_rows_in(file).value().sizes(), (at::IntArrayRef{4, 9}));
    ASSERT_TRUE(write_tensors(file, {{"a", at::rand({4, 9})}, {"b", at::rand({4, 9})}}, {}));
    EXPECT_THAT(said(), testing::HasSubstr("holds 2 matrices; expected one"));
    ASSERT_TRUE(write_tensors(file, {{"a", at::rand({4, 9}) / 0}}, {}));
    EXPECT_THAT(said(), testing::HasSubstr("not finite"));
    std::filesystem::remove(file);
}

}  // namespace
}  // namespace vitrine
