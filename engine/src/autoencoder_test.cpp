// The autoencoder's kinds against loops written out here, its files, what it refuses.
#include <vitrine/autoencoder.h>
#include <vitrine/autoencoder_asks.h>

#include <gmock/gmock.h>

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vitrine/concept_doubt.h>
#include <vitrine/engine.h>
#include <vitrine/mask_module.h>

#include "tensor_io.h"

namespace vitrine {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using Given = std::map<std::string, std::string>;

constexpr std::int64_t kWidth = 16, kLatents = 64, kTokens = 7;

at::Generator generator(std::uint64_t seed) { return at::make_generator<at::CPUGeneratorImpl>(seed); }

at::Tensor some_tokens(std::int64_t count = kTokens) {
    auto g = generator(11);
    return at::randn({count, kWidth}, g, at::kFloat) * 2 + 0.7;
}

/// Every tensor random, decoder rows of many lengths.
Autoencoder random_one(AutoencoderConfig config, std::uint64_t seed = 5) {
    config.width = kWidth;
    config.latents = kLatents;
    auto made = Autoencoder::make(config, seed);
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().message);
    auto g = generator(seed + 1);
    for (const auto& [name, tensor] : made->tensors()) {
        if (name == "threshold")
            tensor.copy_(at::rand(tensor.sizes(), g, at::kFloat) * 0.6 + 0.2);
        else
            tensor.copy_(at::randn(tensor.sizes(), g, at::kFloat) * (name.starts_with("W_") ? 0.4 : 0.3));
    }
    return std::move(*made);
}

/// Codes and reconstruction by loops in double precision.
struct Written {
    std::vector<double> active, decoded;
};
Written written_out(const Autoencoder& one, const at::Tensor& tokens, bool batch = false) {
    const auto& c = one.config();
    const std::int64_t d = c.width, m = c.latents, n = tokens.size(0);
    const auto read = [&](const std::string& name) {
        const at::Tensor t = one.tensor(name).detach().to(at::kDouble).contiguous();
        return std::vector<double>(t.const_data_ptr<double>(), t.const_data_ptr<double>() + t.numel());
    };
    const auto in = read("W_enc"), out = read("W_dec"), offset = read("b_dec");
    const auto bias = read(c.kind == "gated" ? "b_gate" : "b_enc");
    std::vector<double> threshold, scale_by, magnitude;
    if (c.kind == "jump_relu" || c.kind == "batch_top_k") threshold = read("threshold");
    if (c.kind == "gated") scale_by = read("r_mag"), magnitude = read("b_mag");
    const at::Tensor exact = tokens.to(at::kDouble).contiguous();
    const double* x0 = exact.const_data_ptr<double>();
    std::vector<double> shift(n, 0), scale(n, 1), length(m, 1), h(n * m), product(n * m);
    if (c.weigh_by_decoder)
        for (std::int64_t i = 0; i < m; ++i) {
            double sum = 0;
            for (std::int64_t j = 0; j < d; ++j) sum += out[i * d + j] * out[i * d + j];
            length[i] = std::sqrt(sum);
        }
    for (std::int64_t t = 0; t < n; ++t) {
        std::vector<double> x(x0 + t * d, x0 + (t + 1) * d);
        double sum = 0, square = 0;
        for (const double v : x) sum += v, square += v * v;
        double divisor = 1;
        if (c.normalise == "layer_norm") {
            shift[t] = sum / d;
            double deviation = 0;
            for (const double v : x) deviation += (v - shift[t]) * (v - shift[t]);
            scale[t] = std::sqrt(deviation / (d - 1));
            divisor = scale[t] + 1e-5;
        } else if (c.normalise == "constant_norm") {
            divisor = scale[t] = std::sqrt(square) / std::sqrt(double(d));
        } else if (c.normalise == "expected_average") {
            divisor = scale[t] = 1 / c.scale;
        }
        for (std::int64_t j = 0; j < d; ++j) {
            x[j] = (x[j] - shift[t]) / divisor;
            if (c.subtract_decoder_bias) x[j] -= offset[j];
        }
        for (std::int64_t i = 0; i < m; ++i) {
            double p = 0;
            for (std::int64_t j = 0; j < d; ++j) p += x[j] * in[j * m + i];
            product[t * m + i] = p;
            h[t * m + i] = (p + bias[i]) * length[i];
        }
    }
    Written result;
    result.active.assign(n * m, 0);
    const auto choose = [&](std::int64_t from, std::int64_t count, std::int64_t k) {
        std::vector<std::int64_t> order(count);
        for (std::int64_t i = 0; i < count; ++i) order[i] = from + i;
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return h[a] > h[b]; });
        for (std::int64_t i = 0; i < k; ++i)
            result.active[order[i]] = c.keep_negative ? h[order[i]] : std::max(h[order[i]], 0.0);
    };
    if (c.kind == "top_k")
        for (std::int64_t t = 0; t < n; ++t) choose(t * m, m, c.k);
    else if (c.kind == "batch_top_k" && batch)
        choose(0, n * m, c.k * n);
    else
        for (std::int64_t at = 0; at < n * m; ++at) {
            const std::int64_t i = at % m;
            double f = std::max(h[at], 0.0);
            if (c.kind == "jump_relu" && !(h[at] > threshold[i])) f = 0;
            if (c.kind == "batch_top_k" && !(h[at] > threshold[0])) f = 0;
            if (c.kind == "gated")
                f = h[at] > 0 ? std::max(product[at] * std::exp(scale_by[i]) + magnitude[i], 0.0) : 0;
            result.active[at] = f;
        }
    result.decoded.assign(n * d, 0);
    for (std::int64_t t = 0; t < n; ++t)
        for (std::int64_t j = 0; j < d; ++j) {
            double sum = offset[j];
            for (std::int64_t i = 0; i < m; ++i) sum += result.active[t * m + i] / length[i] * out[i * d + j];
            result.decoded[t * d + j] = sum * scale[t] + shift[t];
        }
    return result;
}

double worst(const at::Tensor& found, const std::vector<double>& expected) {
    const at::Tensor exact = found.detach().to(at::kDouble).contiguous();
    EXPECT_EQ(exact.numel(), static_cast<std::int64_t>(expected.size()));
    double out = 0;
    for (std::size_t i = 0; i < expected.size(); ++i)
        out = std::max(out, std::abs(exact.const_data_ptr<double>()[i] - expected[i]));
    return out;
}

AutoencoderConfig config_of(const std::string& kind, const std::string& normalise = "none") {
    AutoencoderConfig config;
    config.kind = kind;
    config.normalise = normalise;
    config.scale = normalise == "expected_average" ? 0.37 : 1;
    config.k = 6;
    config.width = kWidth;
    config.latents = kLatents;
    config.point = "blocks.1";
    return config;
}

TEST(Autoencoder, EveryKindAndNormalisationIsItsFormula) {
    const at::Tensor tokens = some_tokens();
    for (const std::string& kind : autoencoder_kinds())
        for (const std::string normalise : {"none", "layer_norm", "constant_norm", "expected_average"})
            for (const int variant : {0, 1, 2, 3}) {
                AutoencoderConfig config = config_of(kind, normalise);
                config.subtract_decoder_bias = variant != 1;
                config.keep_negative = variant == 2;
                config.weigh_by_decoder = variant == 3;
                const bool chooses = kind == "top_k" || kind == "batch_top_k";
                if (!chooses && variant > 1) continue;
                for (const bool batch : {false, true}) {
                    if (batch && kind != "batch_top_k") continue;
                    const Autoencoder one = random_one(config);
                    const Codes codes = one.encode(tokens, batch);
                    const Written expected = written_out(one, tokens, batch);
                    EXPECT_LT(worst(codes.active, expected.active), 1e-5) << kind << normalise << variant;
                    EXPECT_LT(worst(one.decode(codes.active, codes), expected.decoded), 2e-5)
                        << kind << normalise << variant;
                    EXPECT_GT(codes.active.count_nonzero().item<std::int64_t>(), 0);
                }
            }
}

TEST(Autoencoder, DoubleWeightsCodeInDouble) {
    Autoencoder one = random_one(config_of("relu", "layer_norm"));
    AutoencoderConfig config = one.config();
    const Written expected = written_out(one, some_tokens());
    for (const auto& [name, tensor] : one.tensors()) const_cast<at::Tensor&>(tensor) = tensor.to(at::kDouble);
    const Codes codes = one.encode(some_tokens());
    EXPECT_EQ(codes.active.scalar_type(), at::kDouble);
    EXPECT_LT(worst(codes.active, expected.active), 1e-12);
}

TEST(Autoencoder, TopKTakesTheFirstOfEqualOnes) {
    const at::Tensor rows = at::tensor({1.F, 3.F, 3.F, 0.F, 3.F, 3.F, 2.F, 2.F, 2.F, 2.F, 9.F, 2.F}).view({2, 6});
    Autoencoder one = random_one(config_of("top_k"));
    // 64 latents, all alike: the first six are active.
    const at::Tensor active = one.activate(at::ones({3, kLatents}));
    EXPECT_TRUE(at::equal(active.narrow(1, 0, 6), at::ones({3, 6})));
    EXPECT_EQ(active.count_nonzero().item<std::int64_t>(), 18);
    const at::Tensor chosen = std::get<0>(largest(rows, 3).sort(1));
    EXPECT_TRUE(at::equal(chosen, at::tensor({1, 2, 4, 0, 1, 4}, at::kLong).view({2, 3})));
    // Over a batch the first is that of the first token.
    const Autoencoder whole = random_one(config_of("batch_top_k"));
    const at::Tensor first = whole.activate(at::ones({2, kLatents}), true);
    EXPECT_TRUE(at::equal(first[0].narrow(0, 0, 12), at::ones({12})));
    EXPECT_EQ(first.count_nonzero().item<std::int64_t>(), 12);
}

TEST(Autoencoder, TopKHasAtMostKAndBatchTopKExactlyKPerTokenOnAverage) {
    const at::Tensor tokens = some_tokens(40);
    const Codes codes = random_one(config_of("top_k")).encode(tokens);
    EXPECT_LE((codes.active != 0).sum(1).max().item<std::int64_t>(), 6);
    AutoencoderConfig config = config_of("batch_top_k");
    config.keep_negative = true;  // before ReLU
    const Codes batch = random_one(config).encode(tokens, true);
    EXPECT_EQ((batch.active != 0).sum().item<std::int64_t>(), 6 * 40);
    EXPECT_NE((batch.active != 0).sum(1).max().item<std::int64_t>(), 6);
}

TEST(Autoencoder, AThresholdOfZeroOrLessIsReLU) {
    const Autoencoder one = random_one(config_of("batch_top_k"));
    one.tensor("threshold").fill_(-0.4);
    const at::Tensor before = one.encode(some_tokens()).before;
    EXPECT_TRUE(at::equal(one.activate(before), before.clamp_min(0)));
}

TEST(Autoencoder, ANullEditChangesNothingAndAnEditIsThatOfTheReconstruction) {
    for (const std::string normalise : {"none", "layer_norm", "constant_norm", "expected_average"})
        for (const bool weigh : {false, true}) {
            AutoencoderConfig config = config_of("top_k", normalise);
            config.weigh_by_decoder = weigh;
            const Autoencoder one = random_one(config);
            const at::Tensor tokens = some_tokens();
            const Codes codes = one.encode(tokens);
            EXPECT_TRUE(at::equal(tokens + one.difference(codes.active, codes), tokens));
            const at::Tensor changed = codes.active * 0.25 + 0.1;
            EXPECT_TRUE(at::allclose(one.difference(changed, codes),
                                     one.decode(changed, codes) - one.decode(codes.active, codes), 1e-4, 1e-4))
                << normalise;
        }
}

TEST(Autoencoder, APrefixUsesOnlyItsLatents) {
    const Autoencoder one = random_one(config_of("relu", "layer_norm"));
    const Codes codes = one.encode(some_tokens());
    at::Tensor cut = codes.active.clone();
    cut.narrow(1, 20, kLatents - 20).zero_();
    EXPECT_TRUE(at::allclose(one.decode(codes.active, codes, 20), one.decode(cut, codes), 1e-5, 1e-5));
}

TEST(Autoencoder, ATokenWithoutLengthOrSpreadStaysFinite) {
    for (const std::string normalise : {"layer_norm", "constant_norm"}) {
        const Autoencoder one = random_one(config_of("relu", normalise));
        const Codes codes = one.encode(at::zeros({2, kWidth}));
        EXPECT_TRUE(one.decode(codes.active, codes).isfinite().all().item<bool>());
    }
}

TEST(Autoencoder, FoldingKeepsEveryReconstruction) {
    for (const std::string& kind : autoencoder_kinds()) {
        AutoencoderConfig config = config_of(kind, "layer_norm");
        config.weigh_by_decoder = kind == "top_k" || kind == "batch_top_k";
        Autoencoder one = random_one(config);
        const Autoencoder before = one;  // shares the tensors: they must not be written into
        const at::Tensor tokens = some_tokens();
        const Codes old = before.encode(tokens);
        const at::Tensor expected = before.decode(old.active, old);
        ASSERT_TRUE(fold_decoder_norms(one).has_value());
        const Codes codes = one.encode(tokens);
        EXPECT_LT((one.decode(codes.active, codes) - expected).abs().max().item<float>(), 1e-5) << kind;
        EXPECT_LT((at::linalg_vector_norm(one.tensor("W_dec"), 2, {1}) - 1).abs().max().item<float>(), 1e-6);
        EXPECT_FALSE(at::equal(before.tensor("W_dec"), one.tensor("W_dec")));
        if (config.weigh_by_decoder) {
            EXPECT_TRUE(at::allclose(codes.active, old.active, 1e-4, 1e-5)) << kind;
        }
    }
    Autoencoder plain = random_one(config_of("top_k"));
    EXPECT_EQ(fold_decoder_norms(plain).error().code, ErrorCode::Unsupported);
}

TEST(Autoencoder, FreshOnesAreTiedButNotTheSameMemory) {
    const Autoencoder one = *Autoencoder::make(config_of("relu"), 3);
    const Autoencoder same = *Autoencoder::make(config_of("relu"), 3), other = *Autoencoder::make(config_of("relu"), 4);
    EXPECT_TRUE(at::equal(one.tensor("W_enc"), one.tensor("W_dec").t()));
    EXPECT_FALSE(one.tensor("W_enc").is_alias_of(one.tensor("W_dec")));
    EXPECT_TRUE(at::equal(one.tensor("W_enc"), same.tensor("W_enc")));
    EXPECT_FALSE(at::equal(one.tensor("W_enc"), other.tensor("W_enc")));
    EXPECT_LT((at::linalg_vector_norm(one.tensor("W_dec"), 2, {1}) - 1).abs().max().item<float>(), 1e-6);
}

TEST(Autoencoder, MakeRefusesWhatCannotBe) {
    const auto message = [](auto change) {
        AutoencoderConfig config = config_of("top_k");
        change(config);
        const auto made = Autoencoder::make(config, 0);
        return made ? std::string("made") : made.error().message;
    };
    EXPECT_THAT(message([](auto& c) { c.kind = "vae"; }), HasSubstr("the kind is 'vae'"));
    EXPECT_THAT(message([](auto& c) { c.normalise = "batch"; }), HasSubstr("normalised by 'batch'"));
    EXPECT_THAT(message([](auto& c) { c.tokens = "some"; }), HasSubstr("the tokens are 'some'"));
    EXPECT_THAT(message([](auto& c) { c.k = 65; }), HasSubstr("k is 65, expected 1 to 64"));
    EXPECT_THAT(message([](auto& c) { c.k = 0; }), HasSubstr("k is 0"));
    EXPECT_THAT(message([](auto& c) { c.width = 0; }), HasSubstr("found 0 and 64"));
    EXPECT_THAT(message([](auto& c) { c.scale = std::nan(""); }), HasSubstr("the scale is nan"));
    EXPECT_THAT(message([](auto& c) { c.kind = "relu", c.weigh_by_decoder = true; }), HasSubstr("only top_k"));
}

class AutoencoderFile : public testing::Test {
  protected:
    fs::path folder =
        fs::path(testing::TempDir()) /
        ("vitrine_autoencoder_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    void SetUp() override {
        fs::remove_all(folder);
        fs::create_directories(folder);
    }
    void TearDown() override { fs::remove_all(folder); }

    /// Saves one with its tensors changed, and says what reading it says.
    std::string after(const std::function<void(NamedTensors&, std::map<std::string, std::string>&)>& change,
                      const std::string& kind = "jump_relu") {
        const Autoencoder one = random_one(config_of(kind));
        NamedTensors tensors(one.tensors().begin(), one.tensors().end());
        std::map<std::string, std::string> metadata = {
            {"format", "vitrine.autoencoder"}, {"kind", kind}, {"k", "6"}, {"point", "blocks.1"}};
        change(tensors, metadata);
        EXPECT_TRUE(write_tensors(folder / "x.safetensors", tensors, metadata).has_value());
        const auto read = Autoencoder::load(folder / "x.safetensors");
        return read ? std::string("read") : read.error().message;
    }
};

TEST_F(AutoencoderFile, ComesBackToTheBit) {
    for (const std::string& kind : autoencoder_kinds()) {
        AutoencoderConfig config = config_of(kind, "expected_average");
        config.scale = 0.1 + 0.2;
        config.subtract_decoder_bias = false;
        config.keep_negative = kind == "top_k";
        config.weigh_by_decoder = kind == "batch_top_k";
        config.tokens = "patches";
        Autoencoder one = random_one(config);
        one.facts = {{"model", "tiny"}, {"tokens_seen", "12345"}};
        ASSERT_TRUE(one.save(folder / "x.safetensors").has_value());
        const auto back = Autoencoder::load(folder / "x.safetensors");
        ASSERT_TRUE(back.has_value()) << back.error().message;
        ASSERT_EQ(back->tensors().size(), one.tensors().size());
        for (const auto& [name, tensor] : one.tensors()) EXPECT_TRUE(at::equal(back->tensor(name), tensor)) << name;
        EXPECT_EQ(back->facts, one.facts);
        EXPECT_EQ(back->config().kind, kind);
        EXPECT_EQ(back->config().k, 6);
        EXPECT_EQ(back->config().width, kWidth);
        EXPECT_EQ(back->config().latents, kLatents);
        EXPECT_EQ(back->config().scale, 0.1 + 0.2);
        EXPECT_EQ(back->config().normalise, "expected_average");
        EXPECT_EQ(back->config().point, "blocks.1");
        EXPECT_EQ(back->config().tokens, "patches");
        EXPECT_FALSE(back->config().subtract_decoder_bias);
        EXPECT_EQ(back->config().keep_negative, kind == "top_k");
        EXPECT_EQ(back->config().weigh_by_decoder, kind == "batch_top_k");
    }
}

TEST_F(AutoencoderFile, OfOursWhatItSaysIsNotGivenOtherwise) {
    AutoencoderConfig config = config_of("top_k");
    config.point = "";
    ASSERT_TRUE(random_one(config).save(folder / "x.safetensors").has_value());
    const auto read =
        Autoencoder::load(folder / "x.safetensors", {{"point", "blocks.3"}, {"kind", "top_k"}, {"scale", "1.0"}});
    ASSERT_TRUE(read.has_value()) << read.error().message;
    EXPECT_EQ(read->config().point, "blocks.3");
    for (const auto& [key, value] : Given{{"kind", "relu"}, {"k", "5"}, {"tokens", "class"}, {"keep_negative", "true"}})
        EXPECT_THAT(Autoencoder::load(folder / "x.safetensors", {{key, value}}).error().message,
                    HasSubstr("it says another " + key + " itself than the " + key + "=" + value));
    EXPECT_THAT(Autoencoder::load(folder / "x.safetensors", {{"colour", "red"}}).error().message,
                HasSubstr("no setting 'colour'"));
}

TEST_F(AutoencoderFile, IsRefusedInASentenceWhereItIsBroken) {
    const auto drop = [](const std::string& key) {
        return [key](NamedTensors& tensors, auto&) {
            std::erase_if(tensors, [&](const auto& item) { return item.first == key; });
        };
    };
    const auto put = [](const std::string& key, at::Tensor value) {
        return [key, value](NamedTensors& tensors, auto&) {
            for (auto& [name, tensor] : tensors)
                if (name == key) tensor = value;
        };
    };
    const auto say = [](const std::string& key, const std::string& value) {
        return [key, value](auto&, std::map<std::string, std::string>& metadata) { metadata[key] = value; };
    };
    EXPECT_EQ(after([](auto&, auto&) {}), "read");
    EXPECT_THAT(after(drop("W_enc")), HasSubstr("it lacks W_enc"));
    EXPECT_THAT(after(drop("b_dec")), HasSubstr("lacks b_dec"));
    EXPECT_THAT(after(drop("threshold")), HasSubstr("lacks threshold"));
    EXPECT_THAT(after(drop("r_mag"), "gated"), HasSubstr("lacks r_mag"));
    EXPECT_THAT(after(put("W_dec", at::zeros({kWidth, kLatents}))), HasSubstr("W_dec is [16, 64], expected [64, 16]"));
    EXPECT_THAT(after(put("W_enc", at::zeros({kWidth}))), HasSubstr("W_enc has 1 axes, expected [width, latents]"));
    EXPECT_THAT(after(put("W_enc", at::zeros({0, 0}))), HasSubstr("found 0 and 0"));
    EXPECT_THAT(after(put("b_enc", at::full({kLatents}, std::nan("")))), HasSubstr("b_enc has numbers that are not"));
    EXPECT_THAT(after(put("threshold", at::full({kLatents}, std::numeric_limits<float>::infinity()))),
                HasSubstr("threshold has numbers"));
    EXPECT_THAT(after(say("format", "vitrine.mask")),
                HasSubstr("it is no autoencoder but a file of the format vitrine.mask"));
    EXPECT_THAT(after(say("kind", "vae")), HasSubstr("the kind is 'vae'"));
    EXPECT_THAT(after(say("k", "many"), "top_k"), HasSubstr("k is 'many'"));
    EXPECT_THAT(after(say("k", "65"), "top_k"), HasSubstr("k is 65"));
    EXPECT_THAT(after(say("scale", "1e999")), HasSubstr("scale"));
    EXPECT_THAT(after(say("keep_negative", "perhaps")), HasSubstr("keep_negative is 'perhaps'"));
    EXPECT_EQ(Autoencoder::load(folder / "none.safetensors").error().code, ErrorCode::NotFound);
}

/// A library's folder: its tensors and its configuration.
class PublishedAutoencoder : public AutoencoderFile {
  protected:
    std::string reading(
        const std::string& config, const std::function<void(NamedTensors&)>& change = [](auto&) {},
        const std::map<std::string, std::string>& given = {}) {
        const Autoencoder one = random_one(config_of("relu"));
        NamedTensors tensors(one.tensors().begin(), one.tensors().end());
        change(tensors);
        EXPECT_TRUE(write_tensors(folder / "sae_weights.safetensors", tensors, {}).has_value());
        fs::remove(folder / "cfg.json");
        if (!config.empty()) std::ofstream(folder / "cfg.json") << config;
        const auto read = Autoencoder::load(folder, given);
        return read ? "point " + read->config().point : read.error().message;
    }
    static std::string config(const std::string& more) {
        return R"({"architecture": "standard", "normalize_activations": "none")" + (more.empty() ? "" : ", " + more) +
               "}";
    }
    static std::string hook(const std::string& name) { return config(R"("metadata": {"hook_name": ")" + name + "\"}"); }
};

TEST_F(PublishedAutoencoder, HooksBecomeOurPointsWhereTheyMeanTheSame) {
    EXPECT_EQ(reading(hook("blocks.9.hook_resid_post")), "point blocks.9");
    EXPECT_EQ(reading(hook("blocks.9.hook_resid_pre")), "point blocks.8");
    EXPECT_EQ(reading(hook("blocks.9.hook_mlp_out")), "point blocks.9.mlp");
    EXPECT_EQ(reading(hook("blocks.9.hook_attn_out")), "point blocks.9.attn");
    EXPECT_EQ(reading(hook("blocks.9.hook_resid_mid")), "point blocks.9.mid");
    EXPECT_EQ(reading(hook("blocks.0.hook_resid_pre")), "point embed");
    for (const char* other : {"blocks.99999.hook_mlp_out", "hook_embed"})
        EXPECT_THAT(reading(hook(other)),
                    testing::AllOf(HasSubstr(other), HasSubstr("known are"), HasSubstr("give point=NAME")))
            << other;
    EXPECT_THAT(reading(hook("blocks.9.ln2.hook_normalized")), HasSubstr("give point=blocks.9.norm2"));
    EXPECT_EQ(reading(hook("blocks.9.ln2.hook_normalized"), [](auto&) {}, {{"point", "blocks.9.norm2"}}),
              "point blocks.9.norm2");
    EXPECT_EQ(reading(config("")), "point ");
    EXPECT_EQ(reading(config(R"("hook_point": "blocks.4.hook_resid_post")")), "point blocks.4") << "before SAELens 6";
    EXPECT_EQ(reading(R"({"activation_fn_str": "relu", "hook_point_layer": 4, "layer_subtype": "hook_mlp_out"})"),
              "point blocks.4.mlp")
        << "ViT-Prisma";
}

TEST_F(PublishedAutoencoder, EarlierConfigurationsAreReadAsTheirLibraryReadsThem) {
    const auto loaded = [&](const std::string& text, const Given& given = {}) {
        reading(text);
        return Autoencoder::load(folder, given);
    };
    // SAELens' handle_pre_6_0_config: the activation's name moved, and normalisation was said by true or false.
    const auto chosen =
        loaded(R"({"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": 8},
                                   "hook_point": "blocks.7.hook_resid_post", "normalize_activations": false})");
    ASSERT_TRUE(chosen.has_value()) << chosen.error().message;
    EXPECT_EQ(chosen->config().kind, "top_k");
    EXPECT_EQ(chosen->config().k, 8);
    EXPECT_EQ(chosen->config().normalise, "none");
    const Codes codes = chosen->encode(some_tokens());
    EXPECT_LE((codes.active > 0).sum(1).max().item<std::int64_t>(), 8);
    EXPECT_THAT(reading(R"({"architecture": "standard", "normalize_activations": true})"),
                HasSubstr("give scale=VALUE"));
    const auto class_only = loaded(config(R"("cls_token": true)"));
    ASSERT_TRUE(class_only.has_value()) << class_only.error().message;
    EXPECT_EQ(class_only->config().tokens, "class");
    EXPECT_THAT(reading(R"({"activation_fn": "topk", "activation_fn_str": "relu"})"),
                HasSubstr("both 'relu' and 'topk'"));
}

TEST_F(PublishedAutoencoder, AScalingFactorIsAppliedWhereItsConfigurationSaysSo) {
    const at::Tensor factor = at::full({kLatents}, 3.F);
    const auto with = [&](const at::Tensor& value) {
        return [value](NamedTensors& tensors) { tensors.emplace_back("scaling_factor", value); };
    };
    EXPECT_THAT(reading(config(""), with(factor)), HasSubstr("finetuning_scaling_factor true"));
    EXPECT_THAT(reading(config(R"("finetuning_scaling_factor": true)"), with(at::full({3}, 3.F))),
                HasSubstr("scaling_factor [3]"));
    EXPECT_EQ(reading(config(""), with(at::ones({kLatents}))), "point ") << "ones say nothing";
    ASSERT_EQ(reading(config(R"("finetuning_scaling_factor": true)"), with(factor)), "point ");
    const auto scaled = Autoencoder::load(folder);
    ASSERT_EQ(reading(config("")), "point ");
    const auto plain = Autoencoder::load(folder);
    const Codes codes = plain->encode(some_tokens());
    EXPECT_TRUE(at::equal(scaled->encode(some_tokens()).active, codes.active));
    EXPECT_TRUE(at::allclose(scaled->decode(codes.active, codes), plain->decode(codes.active * 3, codes), 1e-4, 1e-4));
}

TEST_F(PublishedAutoencoder, WhatIsGivenHoldsBeforeTheFilesOwn) {
    const auto whitened = R"({"architecture": "standard", "normalize_activations": "covariance_whitening"})";
    EXPECT_THAT(reading(whitened), HasSubstr("give normalise=none"));
    EXPECT_EQ(reading(whitened, [](auto&) {}, {{"normalise", "none"}}), "point ");
    EXPECT_THAT(reading(R"({"architecture": "vae"})"), HasSubstr("give kind=VALUE"));
    EXPECT_EQ(reading(R"({"architecture": "vae"})", [](auto&) {}, {{"kind", "relu"}}), "point ");
    EXPECT_EQ(reading(R"({"architecture": "topk", "k": 2.5})", [](auto&) {}, {{"k", "4"}}), "point ");
    EXPECT_EQ(reading(R"({"activation_fn": "topk", "activation_fn_str": "relu"})", [](auto&) {}, {{"kind", "relu"}}),
              "point ");
    // OpenAI's: Identity has no kind of ours.
    const Autoencoder one = random_one(config_of("relu"));
    const auto openai = [&](const std::string& activation, const Given& given) {
        const NamedTensors tensors = {{"encoder.weight", one.tensor("W_enc").t().contiguous()},
                                      {"latent_bias", one.tensor("b_enc")},
                                      {"pre_bias", one.tensor("b_dec")},
                                      {"decoder.weight", one.tensor("W_dec").t().contiguous()}};
        EXPECT_TRUE(write_tensors(folder / "o.safetensors", tensors, {{"activation", activation}}).has_value());
        const auto read = Autoencoder::load(folder / "o.safetensors", given);
        return read ? read->config().kind : read.error().message;
    };
    EXPECT_EQ(openai("ReLU", {}), "relu");
    EXPECT_THAT(openai("Identity", {}), testing::AllOf(HasSubstr("'Identity'"), HasSubstr("give kind=VALUE")));
    EXPECT_EQ(openai("Identity", {{"kind", "relu"}}), "relu");
}

TEST_F(PublishedAutoencoder, WhatTheFileDoesNotSayIsAskedFor) {
    EXPECT_THAT(reading(""), HasSubstr("give kind=VALUE"));
    EXPECT_THAT(reading("", [](auto&) {}, {{"kind", "relu"}}), HasSubstr("give normalise=VALUE"));
    EXPECT_EQ(reading("", [](auto&) {}, {{"kind", "relu"}, {"normalise", "none"}, {"point", "blocks.2"}}),
              "point blocks.2");
    EXPECT_THAT(reading(R"({"architecture": "topk"})"), HasSubstr("give k=VALUE"));
    EXPECT_THAT(reading(R"({"architecture": "standard", "normalize_activations": "expected_average_only_in"})"),
                HasSubstr("give scale=VALUE"));
}

TEST_F(PublishedAutoencoder, AllThatIsMissingIsAskedForAtOnceWithItsValues) {
    EXPECT_THAT(reading(""),
                AllOf(HasSubstr("it does not say its kind, normalise, point; give kind=VALUE (one of relu, "),
                      HasSubstr("normalise=VALUE (none, layer_norm, "), HasSubstr("point=NAME (vitrine info"),
                      HasSubstr("--given of a command"), HasSubstr("METHOD.given")));
    EXPECT_THAT(reading("", [](auto&) {}, {{"kind", "relu"}, {"point", "blocks.2"}}),
                HasSubstr("it does not say its normalise; give normalise=VALUE"));
}

TEST_F(PublishedAutoencoder, WhatIsAskedForIsToldByNameAndNotOnlyInASentence) {
    using Names = std::vector<std::string>;
    const auto asked = [&](const std::string& configuration, const Given& given = {}) {
        reading(
            configuration, [](auto&) {}, given);
        return asked_by_autoencoder(folder, given);
    };
    EXPECT_EQ(asked(""), (Names{"kind", "normalise", "point"}));
    EXPECT_EQ(asked("", {{"kind", "relu"}, {"point", "blocks.2"}}), Names{"normalise"});
    EXPECT_EQ(asked("", {{"kind", "relu"}, {"normalise", "none"}, {"point", "blocks.2"}}), Names{});
    EXPECT_EQ(asked(R"({"architecture": "vae"})"), Names{"kind"}) << "a word that is not known";
    EXPECT_EQ(asked(R"({"architecture": "standard", "normalize_activations": "covariance_whitening"})"),
              Names{"normalise"});
    EXPECT_EQ(asked(R"({"architecture": "topk", "hook_name": "blocks.2.hook_resid_post"})"), Names{"k"});
    EXPECT_EQ(asked(R"({"architecture": "standard", "hook_name": "blocks.2.ln2.hook_normalized"})"), Names{"point"});
    EXPECT_EQ(asked(R"({"architecture": "standard", "hook_name": "blocks.2.hook_resid_post"})"), Names{});
    // What nothing that is given would mend.
    EXPECT_EQ(asked(R"({"architecture": "standard", "a_new_setting": 3})"), Names{});
    EXPECT_EQ(asked(R"({"architecture": "standard", "hook_name": "blocks.2.hook_resid_post"})", {{"k", "many"}}),
              Names{});
    EXPECT_EQ(asked_by_autoencoder(folder / "nowhere", {}), Names{});
    // A file of ours opens without a point, but nothing is read at none.
    AutoencoderConfig config = config_of("relu");
    config.point.clear();
    ASSERT_TRUE(random_one(config).save(folder / "ours.safetensors"));
    EXPECT_EQ(asked_by_autoencoder(folder / "ours.safetensors", {}), Names{"point"});
    EXPECT_EQ(asked_by_autoencoder(folder / "ours.safetensors", {{"point", "blocks.2"}}), Names{});
}

TEST_F(PublishedAutoencoder, AConfigurationThatCannotBeReadIsNotTakenForNone) {
    const Given all{{"kind", "relu"}, {"normalise", "none"}, {"point", "blocks.2"}};
    EXPECT_EQ(reading(
                  "", [](auto&) {}, all),
              "point blocks.2");
    for (const std::string broken : {"{ not json", "[1, 2]", "\"text\"", " "})
        EXPECT_THAT(reading(
                        broken, [](auto&) {}, all),
                    HasSubstr("cfg.json beside it is no JSON object; bring it back or remove it"));
    EXPECT_THAT(reading(
                    "{\"a\": \"" + std::string(16'000'000, 'a') + "\"}", [](auto&) {}, all),
                AllOf(HasSubstr("cfg.json beside it cannot be read"), HasSubstr("larger than")));
    // What is no file: a pipe would be read for ever, a link that leads nowhere was one.
    for (const bool pipe : {true, false}) {
        EXPECT_EQ(reading(
                      "", [](auto&) {}, all),
                  "point blocks.2");
        if (pipe)
            ASSERT_EQ(mkfifo((folder / "config.json").c_str(), 0600), 0);
        else
            fs::create_symlink(folder / "gone", folder / "config.json");
        EXPECT_THAT(reading(
                        "", [](auto&) {}, all),
                    HasSubstr("config.json beside it cannot be read"));
        fs::remove(folder / "config.json");
    }
}

TEST_F(PublishedAutoencoder, WhatIsNotKnownIsRefused) {
    EXPECT_THAT(reading(R"({"architecture": "vae"})"), HasSubstr("its architecture is 'vae'"));
    EXPECT_THAT(reading(R"({"architecture": "jumprelu_transcoder"})"), HasSubstr("transcoder"));
    EXPECT_THAT(reading(config(R"("reshape_activations": "hook_z")")), HasSubstr("hook_z"));
    EXPECT_THAT(reading(R"({"architecture": "standard", "normalize_activations": "covariance_whitening"})"),
                HasSubstr("covariance_whitening"));
    EXPECT_THAT(reading(R"({"architecture": "standard", "activation_fn_str": "tanh-relu"})"), HasSubstr("tanh-relu"));
    EXPECT_THAT(reading(R"({"architecture": "topk", "k": 2.5})"), HasSubstr("k is '2.5'"));
    EXPECT_THAT(reading(config(R"("hook_head_index": 3)")), HasSubstr("head 3 alone"));
    EXPECT_EQ(reading(config(R"("hook_head_index": null)")), "point ");
    EXPECT_THAT(reading(config(R"("hook_name_out": "blocks.1.hook_mlp_out")")), HasSubstr("transcoder"));
    EXPECT_THAT(reading(config(R"("activation_fn_kwargs": {"postact_fn": "tanh"})")),
                HasSubstr("'postact_fn' = 'tanh'"));
    EXPECT_THAT(reading(config(R"("seqpos_slice": [1, 9])")), HasSubstr("give tokens=all"));
    EXPECT_EQ(reading(config(R"("seqpos_slice": [null])")), "point ");
    EXPECT_THAT(reading(config(R"("decoder_gain": 2)")), HasSubstr("has 'decoder_gain' = '2', which is not known"));
    EXPECT_EQ(reading(config(R"("decoder_gain": false, "lr": 3e-4, "metadata": {"mine": 1})")), "point ");
    EXPECT_THAT(reading(config("\"mine\": " + std::string(100000, '[') + std::string(100000, ']'))),
                HasSubstr("'mine.0.0.0.0.0.0.0.0' = 'more within'"));
    EXPECT_THAT(reading(config(R"("d_in": 768)")), HasSubstr("d_in = 768 and W_enc is [16, 64]"));
    const auto more = [](const char* name) {
        return [name](NamedTensors& tensors) { tensors.emplace_back(name, at::ones({kLatents})); };
    };
    EXPECT_THAT(reading(config(""), more("W_skip")), HasSubstr("the tensor W_skip, which the kind relu has not"));
    EXPECT_THAT(reading(config(""), more("threshold")), HasSubstr("the tensor threshold"));
}

TEST_F(PublishedAutoencoder, SaevsSchemasAndHeadersAreKnownOrRefused) {
    std::ifstream in(fs::path(VITRINE_SOURCE_DIR) / "tests/parity/data/autoencoders/saev_topk.pt", std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    const std::string rest = text.substr(text.find('\n'));
    const auto message = [&](const std::string& header) {
        std::ofstream(folder / "x.pt", std::ios::binary) << header << rest;
        const auto read = Autoencoder::load(folder / "x.pt");
        return read ? fmt::format("{} {}", read->config().kind, read->config().k) : read.error().message;
    };
    const std::string cfg =
        R"("cfg": {"d_model": 16, "d_sae": 64, "activation": {"cls": "TopK", "params": {"top_k": 8}}})";
    EXPECT_EQ(message(R"({"schema": 5, )" + cfg + "}"), "top_k 8");
    EXPECT_EQ(message(R"({"schema": 1, "cls": "TopK", "cfg": {"d_vit": 16, "exp_factor": 4, "top_k": 6}})"), "top_k 6");
    EXPECT_EQ(message(R"({"schema": 2, "cfg": {"activation": {"cls": "TopK", "params": {}}}})"), "top_k 32");
    EXPECT_EQ(message(R"({"d_vit": 16, "exp_factor": 4, "sparsity_coeff": 1e-4})"), "relu 32");
    EXPECT_THAT(message(R"({"schema": 9, )" + cfg + "}"), HasSubstr("its schema is 9, expected 1 to 5"));
    EXPECT_THAT(message(R"({"schema": 5, "cfg": {"gain": 2, "activation": {"cls": "Relu", "params": {}}}})"),
                HasSubstr("'cfg.gain' = '2'"));
    EXPECT_THAT(message(R"({"schema": 5, "cfg": {"activation": {"cls": "Relu", "params": {"slope": 0.1}}}})"),
                HasSubstr("slope"));
    EXPECT_THAT(message(R"({"schema": 5, "cfg": {"activation": {"cls": "Gelu", "params": {}}}})"),
                HasSubstr("'Gelu', which is not known here; give kind=VALUE"));
}

TEST_F(PublishedAutoencoder, BrokenTensorsAreNamed) {
    const auto with = [](const std::string& key, const at::Tensor& value) {
        return [key, value](NamedTensors& tensors) {
            std::erase_if(tensors, [&](const auto& item) { return item.first == key; });
            if (value.defined()) tensors.emplace_back(key, value);
        };
    };
    EXPECT_THAT(reading(config(""), with("W_enc", {})), HasSubstr("no W_enc"));
    EXPECT_THAT(
        reading(config(""), with("b_dec", {})),
        testing::AllOf(HasSubstr("it lacks b_dec, expected W_enc, b_enc, W_dec, b_dec"), HasSubstr("save it whole")));
    EXPECT_THAT(reading(config(""), with("W_dec", at::zeros({kWidth, kLatents}))), HasSubstr("W_dec is [16, 64]"));
    EXPECT_THAT(reading(config(""), with("W_dec", at::full({kLatents, kWidth}, std::nan("")))),
                testing::AllOf(HasSubstr("not finite"), HasSubstr("open an earlier save")));
    EXPECT_THAT(reading(R"({"architecture": "jumprelu"})"), HasSubstr("it lacks threshold"));
    EXPECT_THAT(reading(R"({"architecture": "gated"})"), HasSubstr("it lacks b_gate"));
}

TEST_F(PublishedAutoencoder, OtherFilesAreNone) {
    const auto message = [&](const std::string& text) {
        std::ofstream(folder / "x.pt", std::ios::binary) << text;
        const auto read = Autoencoder::load(folder / "x.pt");
        return read ? std::string("read") : read.error().message;
    };
    EXPECT_THAT(message("hello"), HasSubstr("neither safetensors nor"));
    EXPECT_THAT(message(""), HasSubstr("x.pt"));
    EXPECT_THAT(message("{\"schema\": 5}"), HasSubstr("ends after its header"));
    EXPECT_THAT(message("{ no json\nrest"), HasSubstr("no autoencoder"));
    EXPECT_THAT(message("{\"schema\": 5}\nnothing that torch wrote"), HasSubstr("x.pt"));
    EXPECT_THAT(message("{" + std::string(2'000'000, ' ')), HasSubstr("no autoencoder"));
    EXPECT_THAT(Autoencoder::load(folder).error().message, HasSubstr("neither sae_weights.safetensors nor"));
}

TEST_F(PublishedAutoencoder, AConfigurationSaysWhereItsWeightsAre) {
    for (const char* name : {"cfg.json", "config.json"})
        for (const char* text : {R"({"architecture": "standard"})", "{\n  \"architecture\": \"standard\"\n}\n"}) {
            std::ofstream(folder / name) << text;
            const auto read = Autoencoder::load(folder / name);
            ASSERT_FALSE(read);
            EXPECT_THAT(read.error().message,
                        AllOf(HasSubstr(std::string(name) + " is a configuration without tensors"),
                              HasSubstr("open the weights that lie beside it (there are none here)")));
        }
    std::ofstream(folder / "sae_weights.safetensors") << "x";
    EXPECT_THAT(Autoencoder::load(folder / "cfg.json").error().message,
                HasSubstr("open the weights that lie beside it, sae_weights.safetensors, and it is read with them"));
}

TEST(Autoencoder, SaysWhatIsNotCertainOfItsModel) {
    const auto model = open_model("starter");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    AutoencoderConfig config = config_of("relu");
    config.width = (*model)->info().width;
    config.point = "blocks.3";
    const auto doubt = [&](std::map<std::string, std::string> facts) {
        auto one = Autoencoder::make(config, 1);
        one->facts = std::move(facts);
        return doubt_of(*one, **model);
    };
    const std::string unsaid = "the file does not say which weights these concepts were trained on";
    EXPECT_EQ(doubt({}), unsaid);
    EXPECT_EQ(doubt({{"weights", ""}}), unsaid);
    EXPECT_EQ(doubt({{"weights", weights_hash(**model)}, {"model", "gpt2"}}), "") << "the weights were compared";
    for (const char* other : {"gpt2", "gpt2-small", "meta-llama/Llama-3-8B", "resnet50"})
        EXPECT_EQ(doubt({{"model", other}}),
                  fmt::format("{}; the file says {}, and this model is {}", unsaid, other, (*model)->info().name));
    for (const char* perhaps :
         {"google/vit-base-patch16-224", "open-clip:laion/CLIP-ViT-B-32", "facebook/dino-vitb16", "", "7"})
        EXPECT_EQ(doubt({{"model", perhaps}}), unsaid) << perhaps;
}

TEST(Autoencoder, FitsOnlyTheModelItWasMadeFor) {
    const auto model = open_model("starter");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    AutoencoderConfig config = config_of("relu");
    config.width = (*model)->info().width;
    config.point = "blocks.3";
    const auto said = [&](AutoencoderConfig c, const std::string& weights = "") {
        auto one = Autoencoder::make(std::move(c), 1);
        one->facts = {{"model", "ViT-X"}, {"weights", weights}};
        const Status fits = one->fits(**model);
        return fits ? std::string("fits") : fits.error().message;
    };
    EXPECT_EQ(said(config), "fits");
    EXPECT_EQ(said(config, weights_hash(**model)), "fits");
    EXPECT_THAT(said(config, "0123456789abcdef"), HasSubstr("trained on ViT-X with weights 0123456789abcdef"));
    config.point = "blocks.33";
    EXPECT_THAT(said(config), HasSubstr("has no point 'blocks.33'"));
    config.point = "";
    EXPECT_THAT(said(config), HasSubstr("does not say which activations"));
    config.point = "blocks.3";
    config.width += 8;
    EXPECT_THAT(said(config), AllOf(HasSubstr("wide"), HasSubstr("; open concepts that were made of this model")));
}

TEST(Autoencoder, ReadsTheTokensThatAreAskedFor) {
    const auto model = open_model("starter");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const auto& p = (*model)->preprocess();
    auto g = generator(2);
    const at::Tensor pixels = at::randn({2, 3, p.input_height, p.input_width}, g, at::kFloat);
    const TokenLayout layout = (*model)->layout(p.input_height, p.input_width);
    AutoencoderConfig config = config_of("relu");
    config.width = (*model)->info().width;
    config.point = "blocks.2";
    const at::Tensor all = *concept_tokens(**model, pixels, config);
    config.tokens = "class";
    const at::Tensor first = *concept_tokens(**model, pixels, config);
    config.tokens = "patches";
    const at::Tensor patches = *concept_tokens(**model, pixels, config);
    EXPECT_EQ(all.size(1), layout.tokens());
    EXPECT_TRUE(at::equal(first, all.narrow(1, 0, 1)));
    EXPECT_TRUE(at::equal(patches, all.narrow(1, layout.prefix_count(), layout.rows * layout.cols)));
    EXPECT_FALSE(at::equal(all[0], all[1]));
}

TEST(Autoencoder, PointsBetweenTheHalvesOfABlockAddUp) {
    const auto model = open_model("starter");
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const auto& p = (*model)->preprocess();
    auto g = generator(3);
    const at::Tensor pixels = at::randn({1, 3, p.input_height, p.input_width}, g, at::kFloat);
    AutoencoderConfig config = config_of("relu");
    config.width = (*model)->info().width;
    config.tokens = "all";
    const auto tokens = [&](const std::string& point) {
        config.point = point;
        const auto read = concept_tokens(**model, pixels, config);
        EXPECT_TRUE(read.has_value()) << (read ? "" : read.error().message);
        return *read;
    };
    EXPECT_TRUE(at::equal(tokens("embed") + tokens("blocks.0.attn"), tokens("blocks.0.mid")));
    EXPECT_TRUE(at::equal(tokens("blocks.0.mid") + tokens("blocks.0.mlp"), tokens("blocks.0")));
    EXPECT_TRUE(at::equal(tokens("blocks.6") + tokens("blocks.7.attn"), tokens("blocks.7.mid")));
}

}  // namespace
}  // namespace vitrine
