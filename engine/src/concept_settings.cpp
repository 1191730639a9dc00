// The settings of training concepts, and the presets: what four libraries train with where nothing else is asked for.
#include "concept_settings.h"

#include <algorithm>
#include <map>
#include <sstream>

#include <vitrine/autoencoder.h>
#include <vitrine/train_concepts.h>

#include "parameters.h"
#include "text.h"

namespace vitrine {

namespace {

std::vector<std::string> all_kinds() {
    std::vector<std::string> out = autoencoder_kinds();
    for (const std::string& kind : factor_kinds()) out.push_back(kind);
    return out;
}

struct Preset {
    const char *name, *value;
    const char* kinds = "";  ///< only of these; empty: of all
};
constexpr const char *kChoose = "top_k batch_top_k", *kFree = "relu gated jump_relu",
                     *kTrained = "relu gated top_k batch_top_k jump_relu";

/// A setting that is read only where another one is one of some values. With a value of its own: that value only there.
struct ReadWhere {
    const char *name, *value, *by, *values;
};
constexpr ReadWhere kReadWhere[] = {
    {"k", "", "kind", kChoose},
    {"negative", "", "kind", "nmf"},
    {"weigh_by_decoder", "", "kind", kChoose},
    {"keep_negative", "", "kind", kChoose},
    {"form", "step", "kind", "jump_relu"},
    {"form", "tanh", "kind", "jump_relu"},
    {"form", "", "kind", kFree},
    {"sparsity", "", "kind", kFree},
    {"band", "", "kind", "jump_relu"},
    {"pull", "", "kind", "jump_relu"},
    {"threshold_rate", "", "kind", "batch_top_k"},
    // What is fitted to one buffer of tokens takes no steps.
    {"preset", "", "kind", kTrained},
    {"normalise", "", "kind", kTrained},
    {"convention", "", "kind", kTrained},
    {"start", "", "kind", kTrained},
    {"rows", "", "kind", kTrained},
    {"subtract_bias", "", "kind", kTrained},
    {"revive", "", "kind", kTrained},
    {"revive_k", "", "kind", kTrained},
    {"revive_k", "", "revive", "aux auxk_saev"},
    {"revive_weight", "", "kind", kTrained},
    {"revive_weight", "", "revive", "aux auxk_saev"},
    {"dead_tokens", "", "kind", kTrained},
    {"dead_steps", "", "kind", kTrained},
    {"prefixes", "", "kind", kTrained},
    {"epochs", "", "kind", kTrained},
    {"steps", "", "kind", "relu gated top_k batch_top_k jump_relu k_means nmf"},
    {"batch", "", "kind", kTrained},
    {"lr", "", "kind", kTrained},
    {"lr_end", "", "kind", kTrained},
    {"warmup", "", "kind", kTrained},
    {"epsilon", "", "kind", kTrained},
    {"clip", "", "kind", kTrained},
    {"held_every", "", "kind", kTrained},
    {"products", "", "kind", kTrained},
    {"checkpoint_seconds", "", "kind", kTrained},
    {"floor", "", "kind", kTrained},
};

/// Sizes (latents, batch, the length of a run) are no part of a preset.
const std::map<std::string, std::vector<Preset>>& presets() {
    static const std::map<std::string, std::vector<Preset>> known{
        {"none", {}},
        // openai/sparse_autoencoder, sparse_autoencoder/train.py: Config, init_from_data_; tokens normalised as in
        // L. Gao et al., 2024. The rate is constant, and gradients are not clipped.
        {"openai",
         {{"kind", "top_k"},
          {"k", "32"},
          {"normalise", "layer_norm"},
          {"convention", "openai"},
          {"start", "openai"},
          {"revive", "aux"},
          {"revive_k", "256"},
          {"revive_weight", "0.03125"},
          {"dead_tokens", "10000000"},
          {"lr", "1e-4"},
          {"lr_end", "1"},
          {"warmup", "0"},
          {"epsilon", "6.25e-10"},
          {"clip", "0"}}},
        // SAELens 6.18, sae_lens/config.py: LanguageModelSAERunnerConfig; sae_lens/saes/{topk,batchtopk,standard,
        // gated,jumprelu}_sae.py: the training configurations. Decoder rows are left as they become.
        {"saelens",
         {{"kind", "top_k"},
          {"k", "100"},
          {"normalise", "none"},
          {"convention", "saelens"},
          {"start", "saelens"},
          {"rows", "free"},
          {"weigh_by_decoder", "true", kChoose},
          {"revive", "auxk_saelens", kChoose},
          {"revive", "none", kFree},
          {"sparsity", "1", kFree},
          {"form", "step", "jump_relu"},
          {"band", "0.05"},
          {"dead_steps", "1000"},
          {"threshold_rate", "0.01"},
          {"lr", "3e-4"},
          {"lr_end", "1"},
          {"warmup", "0"},
          {"epsilon", "1e-8"},
          {"clip", "1"}}},
        // ViT-Prisma, src/vit_prisma/sae/config.py: VisionModelSAERunnerConfig; training/get_scheduler.py; train_sae.py
        // (lr_end is a tenth of the rate, and is used as a share of it). Its activation is "topk", which stops without
        // a k; the published all-token autoencoders are ReLU, those of top-k have k 64.
        {"prisma",
         {{"kind", "relu"},
          {"k", "64"},
          {"normalise", "layer_norm"},
          {"convention", "prisma"},
          {"start", "prisma"},
          {"sparsity", "2e-4", "relu gated"},
          {"revive", "none"},
          {"dead_steps", "5000"},
          {"lr", "1e-3"},
          {"lr_end", "1e-4"},
          {"warmup", "500"},
          {"epsilon", "1e-8"},
          {"clip", "1"}}},
        // saev, src/saev/nn/modeling.py: SparseAutoencoderConfig, Relu, TopK, BatchTopK, AuxK; objectives.py:
        // Matryoshka; framework/train.py: Config, make_saes.
        {"saev",
         {{"kind", "top_k"},
          {"k", "32"},
          {"normalise", "none"},
          {"convention", "saev"},
          {"start", "saev"},
          {"subtract_bias", "false"},
          {"keep_negative", "true", kChoose},
          {"prefixes", "10"},
          {"revive", "auxk_saev", kChoose},
          {"revive", "none", kFree},
          {"revive_k", "512"},
          {"revive_weight", "0.03125"},
          {"sparsity", "4e-4", "relu"},
          {"dead_tokens", "10000000"},
          {"threshold_rate", "0.1"},
          {"lr", "4e-4"},
          {"lr_end", "0"},
          {"warmup", "500"},
          {"epsilon", "1e-8"},
          {"clip", "1"}}}};
    return known;
}

std::vector<std::string> preset_names() {
    std::vector<std::string> out;
    for (const auto& [name, settings] : presets()) out.push_back(name);
    return out;
}

bool among(const char* kinds, const std::string& kind) {
    return fmt::format(" {} ", kinds).find(fmt::format(" {} ", kind)) != std::string::npos;
}

/// The first reason why a setting is not read, beside what the others are; null where it is.
/// @param value  null: whatever it is
const ReadWhere* unread_for(const std::string& name, const std::string* value, const Settings& all) {
    for (const ReadWhere& one : kReadWhere)
        if (name == one.name && (*one.value == 0 || (value != nullptr && *value == one.value)) &&
            !among(one.values, all.text(one.by)))
            return &one;
    return nullptr;
}

/// "relu", "top_k and batch_top_k", "relu, gated and jump_relu"
std::string listed_words(const std::string& spaced) {
    std::string out;
    std::istringstream words(spaced);
    std::vector<std::string> all;
    for (std::string word; words >> word;) all.push_back(word);
    for (std::size_t i = 0; i < all.size(); ++i) out += (i == 0 ? "" : i + 1 == all.size() ? " and " : ", ") + all[i];
    return out;
}

Status check_read(const std::vector<std::pair<std::string, std::string>>& given, const Settings& all) {
    for (const auto& [name, value] : given) {
        const ReadWhere* const why = unread_for(name, &value, all);
        if (why == nullptr) continue;
        const std::string values = why->values, by = why->by;
        return fail(ErrorCode::BadInput, "{} is of {}, and {} is {}: leave {} out, or set {}={}",
                    *why->value == 0 ? name : name + "=" + value, listed_words(values), by == "kind" ? "the kind" : by,
                    all.text(by), name, by, values.substr(0, values.find(' ')));
    }
    return {};
}

/// Where nobody says how sparse: the library's own weight. openai's code has none; 0.1 is ours.
const char* usual_sparsity(const std::string& convention) {
    if (convention == "prisma") return "2e-4";
    if (convention == "saelens") return "1";
    if (convention == "saev") return "4e-4";
    return "0.1";
}

/// The preset's, then what is given.
Result<Settings> put_together(const std::vector<std::pair<std::string, std::string>>& given) {
    Settings out(concept_parameters());
    const auto take = [&](const char* only) -> Status {
        for (const auto& [name, value] : given)
            if (*only == 0 || name == only) VITRINE_CHECK(out.set(name, value));
        return {};
    };
    VITRINE_CHECK(take("preset"));
    const std::vector<Preset>& preset = presets().at(out.text("preset"));
    for (const Preset& one : preset)
        if (std::string_view(one.name) == "kind") VITRINE_CHECK(out.set(one.name, one.value));
    VITRINE_CHECK(take("kind"));
    const std::string kind = out.text("kind");
    for (const Preset& one : preset)
        if (std::string_view(one.name) != "kind" && (*one.kinds == 0 || among(one.kinds, kind)))
            VITRINE_CHECK(out.set(one.name, one.value));
    VITRINE_CHECK(take(""));
    return out;
}

}  // namespace

std::vector<Parameter> concept_parameters() {
    const auto number = number_parameter;
    const auto whole = whole_parameter;
    const auto words = words_parameter;
    const auto flag = [](const char* name, bool standard, const char* meaning) {
        return Parameter{name, standard, meaning, "", "", {}, {}, {}};
    };
    const auto from = [](double low, Parameter parameter) {
        parameter.low = low;
        return parameter;
    };
    const char* gao = "L. Gao et al., 2024";
    return {
        words("point", "", "the named point whose tokens are read; empty: three quarters deep", {}, ""),
        words("tokens", "all", "which of them", {"all", "class", "patches"}, ""),
        words("kind", "top_k", "how latents are chosen; pca, k_means and nmf are fitted to one buffer of tokens",
              all_kinds(), gao),
        whole("latents", 0, "concepts; 0: eight times the width, of the fitted kinds 64", "", ""),
        whole("k", 32, "latents a token, of the two top-k kinds", "", gao),
        words("negative", "drop", "of nmf, numbers below zero: dropped, or each number counted from its least (shift)",
              {"drop", "shift"}, ""),
        words("preset", "none",
              "how a library trains: all below but sizes; what is set beside it holds, and a kind set beside it takes "
              "what the library has for that kind",
              preset_names(), ""),
        words("normalise", "none", "what is done to a token first",
              {"none", "layer_norm", "constant_norm", "expected_average"}, ""),
        words("convention", "openai", "whose loss", {"openai", "saelens", "prisma", "saev"}, ""),
        words("start", "median",
              "what it starts from. The encoder is the decoder's rows, and the bias the tokens' geometric median "
              "(median) or mean (mean); openai: the encoder also scaled so that lengths are kept; prisma: the encoder "
              "drawn for itself; saelens: rows 0.1 long, no bias; saev: rows of 0.8 tokens less their mean and 0.2 "
              "drawn, no bias",
              {"median", "mean", "openai", "prisma", "saelens", "saev"}, ""),
        words("rows", "unit", "the decoder's rows: kept at length 1, or free", {"unit", "free"}, gao),
        flag("weigh_by_decoder", false,
             "of the top-k kinds: latents are chosen by what they add, their rows' lengths counted; at the end these "
             "are folded into the encoder (SAELens)"),
        flag("keep_negative", false, "of the top-k kinds: chosen numbers below zero stay (saev); else they become 0"),
        flag("subtract_bias", true, "the decoder's bias is taken off a token before it is encoded; saev does not"),
        number("sparsity", -1,
               "weight of the sparsity term, of relu, gated and jump_relu: more gives fewer latents a token. -1: that "
               "of the convention's library (saelens 1, prisma 2e-4, saev 4e-4), of openai's 0.1",
               -1, 1e6, ""),
        words("form", "l1", "the sparsity term; step and tanh are of jump_relu", {"l1", "step", "tanh"}, ""),
        number("band", 0.05, "width of jump_relu's gradients, in the codes' unit", 1e-6, 1e6, "SAELens"),
        number("pull", 0, "of jump_relu, weight of what draws silent latents' thresholds down; Anthropic's is 3e-6", 0,
               1e6, ""),
        number("threshold_rate", 0.01, "of batch_top_k, how fast its threshold follows the least that is chosen", 0, 1,
               "SAELens"),
        words(
            "revive", "aux",
            "what is done for dead latents: aux (openai), auxk_saelens (half the width of them, weight 1), auxk_saev, "
            "ghost (Prisma), none",
            {"aux", "auxk_saelens", "auxk_saev", "ghost", "none"}, gao),
        whole("revive_k", 256, "dead latents that try to explain the error, of aux and auxk_saev", "", gao),
        number("revive_weight", 0.03125, "weight of that, of aux and auxk_saev", 0, 1e6, gao),
        whole("dead_tokens", 0,
              "tokens of silence after which a latent counts as dead; 0: 10 million (openai), or an eighth of the run "
              "where this is less",
              "tokens", gao),
        whole("dead_steps", 0, "the same in steps; 0: dead_tokens says it", "", ""),
        whole("prefixes", 0, "Matryoshka: reconstructions from the first so many latents; 0: one of all", "",
              "B. Bussmann et al., 2025"),
        number("epochs", 8, "passes over all pictures", 0, 1e6, ""),
        whole("steps", 0, "optimiser steps; 0 takes them from epochs; of the fitted kinds rounds, 0: 200", "", ""),
        whole("batch", 4096, "tokens a step", "tokens", ""),
        number("lr", 4e-4, "learning rate after the warm-up; then half a cosine down to lr_end of it", 0, 10,
               "saev, Prisma"),
        number("lr_end", 0, "share of the rate that is left at the end; 1: it stays", 0, 1, ""),
        whole("warmup", 200, "steps until the full learning rate", "", "Prisma"),
        number("epsilon", 1e-8, "Adam's, which is added to what it divides by", 0, 1, ""),
        number("clip", 1, "the largest length of all gradients together; 0: any", 0, 1e9, ""),
        whole("buffer", 256, "megabytes in which tokens are mixed", "MB", ""),
        whole("pictures", 32, "pictures the model runs at once", "pictures", ""),
        number("held", 0.1, "share of the pictures that is held out and measured at the end, 512 at the most", 0, 0.9,
               ""),
        from(-1, whole("held_every", 0,
                       "steps between looks at 64 of the pictures held out: how much is explained, and how far the "
                       "answer moves. 0: about twenty looks, fewer where they would take over a twentieth of the time; "
                       "-1: only at the end",
                       "", "")),
        words(
            "products", "fp32",
            "how a device multiplies matrices: tf32 keeps ten bits after the point of each factor and is several times "
            "as fast",
            {"fp32", "tf32"}, ""),
        whole("seed", 0, "every random choice follows from it", "", ""),
        words("shuffled_weights", "",
              "a seed: the model's weights are shuffled by it first, for the control of uncertainty_response; empty: "
              "they are not",
              {}, ""),
        words("rung", "clean",
              "what pictures become first, drawn anew on every pass: a step of uncertainty_response, such as gaussian "
              "for its noise, \"shuffle 14\" or \"blend 0.5\". Its control by concepts of noise",
              {}, ""),
        number("checkpoint_seconds", 30, "seconds between checkpoints, which hold the buffer too", 0, 1e6, ""),
        number("report_seconds", 1, "seconds between reports; 0: every step", 0, 1e6, ""),
        whole(
            "floor", 3,
            "repetitions of a step's matrix products alone, timed at the end; where one takes over a second it is the "
            "only one; 0: not timed",
            "", ""),
    };
}

Result<Settings> concept_settings(const std::vector<std::pair<std::string, std::string>>& given,
                                  std::vector<std::string>& notes) {
    std::vector<std::string> names;
    for (const Parameter& one : concept_parameters()) names.push_back(one.name);
    for (const auto& [name, value] : given)
        if (std::find(names.begin(), names.end(), name) == names.end())
            return fail(ErrorCode::BadInput, "{}", no_setting(name, names, "train-concepts"));
    Settings out = VITRINE_TRY(put_together(given));
    VITRINE_CHECK(check_read(given, out));
    const std::string kind = out.text("kind"), form = out.text("form");
    if (!among(kFree, kind)) {
        VITRINE_CHECK(out.set("sparsity", "0"));
    } else if (out.number("sparsity") < 0) {
        const std::string convention = out.text("convention");
        if (form != "l1" && convention != "saelens")
            return fail(ErrorCode::BadInput,
                        "how much form={} is to weigh is not known for the convention {}: set sparsity", form,
                        convention);
        VITRINE_CHECK(out.set("sparsity", usual_sparsity(convention)));
        notes.push_back(
            fmt::format("{} is kept sparse by sparsity={}, as nothing else was said; more gives fewer latents a token",
                        kind, out.number("sparsity")));
    } else if (out.number("sparsity") == 0) {
        notes.push_back(fmt::format("sparsity is 0: nothing keeps the latents of {} few", kind));
    }
    return out;
}

std::vector<std::string> unread_concept_settings(const std::vector<std::pair<std::string, std::string>>& settings) {
    std::vector<std::string> out;
    const auto all = put_together(settings);
    if (!all) return out;  // training says what is wrong with them
    for (const Parameter& one : all->declared())
        if (unread_for(one.name, nullptr, *all) != nullptr) out.push_back(one.name);
    return out;
}

std::int64_t steps_between_looks(std::int64_t held_every, std::int64_t steps) {
    constexpr std::int64_t kLooks = 20;
    if (held_every != 0) return std::max<std::int64_t>(held_every, 0);
    return std::max<std::int64_t>(1, (steps + kLooks - 1) / kLooks);
}

bool has_time_to_look(double spent, double looked, double expected) {
    constexpr double kShare = 0.05;
    return looked + expected <= kShare * spent;
}

}  // namespace vitrine
