// Autoencoders on disk: our own file, and those of SAELens, ViT-Prisma, saev and OpenAI.
#include "autoencoder_files.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string_view>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <vitrine/autoencoder_asks.h>
#include <vitrine/autoencoder_file.h>
#include <vitrine/base/bytes.h>
#include <vitrine/base/file.h>
#include <vitrine/base/json_text.h>
#include <vitrine/base/readers.h>
#include <vitrine/checkpoint.h>
#include <vitrine/engine.h>
#include <vitrine/torch_errors.h>

#include "tensor_io.h"

namespace vitrine {

std::filesystem::path built_in_concepts() {
    return resource("starter/concepts.safetensors").value_or(std::filesystem::path());
}

namespace {

constexpr const char* kFormat = "vitrine.autoencoder";
constexpr std::string_view kWrapped = "state_dict.";  // how the libraries' checkpoints name what they wrap

/// The file that is meant by a folder of SAELens' or ViT-Prisma's; `path` itself where it is no such folder.
std::filesystem::path file_within(const std::filesystem::path& path) {
    std::error_code ignored;
    auto file = path;
    if (std::filesystem::is_directory(path, ignored))
        for (const char* name : {"sae_weights.safetensors", "weights.pt"})
            if (std::filesystem::exists(path / name, ignored)) file = path / name;
    return file;
}

/// One entry of the configuration from its text.
Status set(AutoencoderConfig& config, const std::string& key, const std::string& text) {
    const auto flag = [&](bool& value) -> Status {
        if (text != "true" && text != "false")
            return fail(ErrorCode::BadInput, "{} is '{}', expected true or false", key, text);
        value = text == "true";
        return {};
    };
    if (key == "kind")
        config.kind = text;
    else if (key == "normalise")
        config.normalise = text;
    else if (key == "point")
        config.point = text;
    else if (key == "tokens")
        config.tokens = text;
    else if (key == "subtract_decoder_bias")
        return flag(config.subtract_decoder_bias);
    else if (key == "keep_negative")
        return flag(config.keep_negative);
    else if (key == "weigh_by_decoder")
        return flag(config.weigh_by_decoder);
    else if (key == "k") {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), config.k);
        if (error != std::errc() || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "k is '{}', expected a whole number", text);
    } else if (key == "scale" || key == "ridge") {
        double& value = key == "scale" ? config.scale : config.ridge;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size())
            return fail(ErrorCode::BadInput, "the {} is '{}', expected a number", key, text);
    } else {
        return fail(ErrorCode::BadInput, "an autoencoder has no setting '{}'", key);
    }
    return {};
}

const std::vector<std::string>& config_keys() {
    static const std::vector<std::string> keys = {
        "kind",  "k",      "normalise", "scale", "subtract_decoder_bias", "keep_negative", "weigh_by_decoder",
        "point", "tokens", "ridge"};
    return keys;
}

bool is_config_key(const std::string& key) {
    return std::find(config_keys().begin(), config_keys().end(), key) != config_keys().end();
}

}  // namespace

Status Autoencoder::save(const std::filesystem::path& file) const {
    std::map<std::string, std::string> metadata = facts;
    const auto word = [](bool value) { return value ? "true" : "false"; };
    metadata["format"] = kFormat;
    metadata["kind"] = config_.kind;
    metadata["k"] = std::to_string(config_.k);
    metadata["normalise"] = config_.normalise;
    metadata["scale"] = fmt::format("{}", config_.scale);  // the shortest text that reads back as the same number
    metadata["subtract_decoder_bias"] = word(config_.subtract_decoder_bias);
    metadata["keep_negative"] = word(config_.keep_negative);
    metadata["weigh_by_decoder"] = word(config_.weigh_by_decoder);
    if (config_.ridge != 0) metadata["ridge"] = fmt::format("{}", config_.ridge);
    metadata["point"] = config_.point;
    metadata["tokens"] = config_.tokens;
    NamedTensors tensors;
    for (const auto& [name, tensor] : tensors_) tensors.emplace_back(name, tensor.detach().to(at::kFloat));
    return write_tensors(file, tensors, metadata);
}

namespace {

using Given = std::map<std::string, std::string>;
using Asked = std::vector<std::string>;  // what could be given where reading fails

/// What a file holds, in our names.
struct Found {
    AutoencoderConfig config;
    std::map<std::string, std::string> facts;
    std::map<std::string, TensorEntry> tensors;
    std::map<std::string, at::Tensor> made;  ///< those that had to be turned or computed
    std::set<std::string> used;     ///< tensors that `made` took up, and those that say nothing of the concepts
    std::string hook;               ///< the library's name of what is read; empty: it does not say
    std::vector<std::string> asks;  ///< settings that the file leaves open
    std::set<std::string> stated;   ///< those that a file of ours says
    bool ours = false;
};

/// The library's names of points that are ours. The norms' (`hook_normalized`) are left out: with a norm's weights
/// folded into the next layer, as the libraries can do, they mean something else.
std::string point_of_hook(const std::string& hook) {
    static const std::regex block(
        R"(blocks\.(\d{1,4})\.(hook_resid_post|hook_resid_mid|hook_resid_pre|hook_mlp_out|hook_attn_out))");
    std::smatch match;
    if (!std::regex_match(hook, match, block)) return {};
    const int layer = std::stoi(match[1]);
    const std::string what = match[2];
    if (what == "hook_resid_post") return fmt::format("blocks.{}", layer);
    if (what == "hook_resid_pre") return layer == 0 ? "embed" : fmt::format("blocks.{}", layer - 1);
    return fmt::format("blocks.{}.{}", layer,
                       what == "hook_mlp_out"     ? "mlp"
                       : what == "hook_resid_mid" ? "mid"
                                                  : "attn");
}

std::string why_no_point(const std::string& hook) {
    static const std::regex norm(R"(blocks\.(\d{1,4})\.ln([12])\.hook_normalized)");
    std::smatch match;
    if (std::regex_match(hook, match, norm))
        return fmt::format(
            "it reads '{0}', which is the norm with or without its weights, as the model was loaded; if they were not "
            "folded into the next layer, give point=blocks.{1}.norm{2}, which is the same",
            hook, match[1].str(), match[2].str());
    return fmt::format(
        "it reads '{}', which is no point here; known are blocks.N.hook_resid_pre, hook_resid_mid, hook_resid_post, "
        "hook_attn_out and hook_mlp_out; give point=NAME, one of those that vitrine info MODEL --points lists",
        hook);
}

/// Scalars of a configuration by their names, "a.b" for b within a, as the reader of torch.save names them.
using Said = std::map<std::string, std::string>;

void flatten(const nlohmann::json& value, const std::string& name, Said& out, int depth = 0) {
    constexpr int kDeepest = 8;  // no library nests so far, and a file may nest as far as it likes
    if (value.is_null()) return;
    if (depth > kDeepest) {
        out[name] = "more within";
        return;
    }
    if (value.is_object() || (value.is_array() && !(value.size() == 1 && value.front().is_number()))) {
        for (const auto& [key, inner] : value.items())
            flatten(inner, name.empty() ? key : name + '.' + key, out, depth + 1);
        return;
    }
    const nlohmann::json& one = value.is_array() ? value.front() : value;
    out[name] = one.is_string() ? one.get<std::string>() : json_text(one);
}

std::string value_of(const Said& said, const std::string& key) {
    const auto it = said.find(key);
    return it == said.end() ? std::string() : it->second;
}
std::string first_of(const Said& said, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (std::string value = value_of(said, key); !value.empty()) return value;
    return {};
}

/// What the configuration beside says; nothing where none lies there. One that is there and cannot be read is refused:
/// without its settings the concepts would be others.
Result<Said> said_beside(const std::filesystem::path& file) {
    constexpr std::size_t kLargest = 16'000'000;
    Said out;
    for (const char* name : {"cfg.json", "config.json"}) {
        const auto path = file.parent_path() / name;
        std::error_code ignored;
        // Not what a link leads to: one that leads nowhere was a configuration too.
        if (std::filesystem::symlink_status(path, ignored).type() == std::filesystem::file_type::not_found) continue;
        const auto text = read_text(path, kLargest);
        if (!text)
            return fail(ErrorCode::BadInput, "{} beside it cannot be read ({}); bring it back or remove it", name,
                        text.error().message);
        const auto read = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
        if (!read.is_object())
            return fail(ErrorCode::BadInput, "{} beside it is no JSON object; bring it back or remove it", name);
        flatten(read, "", out);
        break;
    }
    return out;
}

std::set<std::string> words(const std::string& text) {
    std::istringstream in(text);
    return {std::istream_iterator<std::string>(in), {}};
}

/// Settings of SAELens (1 to 6.54) and ViT-Prisma that are read below.
const std::set<std::string>& settings_that_matter() {
    static const std::set<std::string> names = words(
        "activation_fn activation_fn_kwargs activation_fn_str apply_b_dec_to_input architecture cls_token "
        "cls_token_only d_in d_sae finetuning_scaling_factor hook_head_index hook_name hook_name_out "
        "hook_point hook_point_head_index is_transcoder k normalize_activations rescale_acts_by_decoder_norm "
        "reshape_activations seqpos_slice use_patches_only");
    return names;
}

/// Settings of theirs that the concepts of a finished autoencoder do not hang on: how it was trained and begun, from
/// what, and where that was kept. Of a transcoder's, which says it otherwise too, what it writes.
const std::set<std::string>& settings_of_no_matter() {
    static const std::set<std::string> names = words(
        "_device _dtype act_store_device activations_mixing_fraction adam_beta1 adam_beta2 autocast "
        "autocast_lm aux_loss_coefficient b_dec_init_method begin_batch_token begin_sequence_token "
        "buffer_size_gb cached_activations_path checkpoint_path column_name compile_llm compile_sae "
        "context_size d_out data_dir data_files dataset_name dataset_path dataset_train_path "
        "dataset_trust_remote_code dataset_val_path dead_feature_estimation_method dead_feature_threshold "
        "dead_feature_window decoder_heuristic_init decoder_heuristic_init_norm decoder_init_norm "
        "decoder_orthogonal_init device disable_concat_sequences dtype eval_batch_size_prompts "
        "eval_every_n_wandb_logs exclude_special_tokens expansion_factor feature_reinit_scale "
        "feature_sampling_method feature_sampling_window finetuning_method finetuning_tokens "
        "from_pretrained_path hf_is_private_repo hf_num_shards hf_repo_id hf_revision hook_eval hook_layer "
        "hook_point_eval hook_point_layer image_size init_encoder_as_decoder_transpose initialization_method "
        "is_dataset_tokenized is_training jumprelu_bandwidth jumprelu_init_threshold "
        "jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient "
        "l0_warm_up_steps l1_coefficient l1_loss_wd_norm l1_warm_up_steps layer_out_subtype layer_subtype "
        "llm_compilation_mode llm_device log_activations_store_to_wandb log_optimizer_state_to_wandb "
        "log_to_wandb log_weights_to_wandb logger lp_norm lr lr_decay_steps lr_end lr_scheduler_name "
        "lr_warm_up_steps matryoshka_widths max_grad_norm metadata min_explained_variance min_l0 "
        "model_batch_size model_class_name model_classs_name model_from_pretrained_kwargs model_kwargs "
        "model_name model_path mse_loss_normalization n_batches_for_norm_estimate n_batches_in_buffer "
        "n_checkpoints n_eval_batches n_eval_seqs n_restart_cycles n_shuffles_final n_shuffles_in_entire_dir "
        "n_shuffles_with_last_section n_validation_runs neuronpedia_id new_cached_activations_path "
        "noise_scale normalize_sae_decoder num_epochs num_patch num_proc num_workers out_hook_point_layer "
        "output_path pre_act_loss_coefficient prefetch_llm_batches prepend_bos pretokenize_batch_size "
        "resample_batches resume resume_from_checkpoint run_name sae_compilation_mode "
        "sae_lens_training_version sae_lens_version save_final_checkpoint save_path "
        "scale_sparsity_penalty_by_decoder_norm seed sequence_separator_token shuffle "
        "shuffle_every_n_buffers sparsity_coefficient split store_batch_size store_batch_size_prompts "
        "streaming tokenizer_name tokens_per_buffer topk_threshold_lr total_training_images "
        "total_training_samples total_training_steps total_training_tokens train_batch_size "
        "train_batch_size_samples train_batch_size_tokens training_tokens transcoder_with_skip_connection "
        "use_cached_activations use_chat_formatting use_ghost_grads use_matryoshka_aux_loss "
        "use_sparse_activations verbose vit_model_cfg vit_prisma_version wandb_entity wandb_id "
        "wandb_log_frequency wandb_project");
    return names;
}

/// The first entry that nobody here knows and that says something.
Status nothing_unknown(const Said& said) {
    for (const auto& [key, value] : said) {
        const std::string name = key.substr(0, key.find('.'));
        if (settings_that_matter().count(name) != 0 || settings_of_no_matter().count(name) != 0) continue;
        if (value.empty() || value == "false" || value == "none") continue;
        return fail(ErrorCode::Unsupported,
                    "its configuration has '{}' = '{}', which is not known here; take that line out of its JSON if the "
                    "concepts do not hang on it",
                    key, value.substr(0, 60));
    }
    return {};
}

Status normalised_by(Found& found, const std::string& name, Asked& asked) {
    // SAELens' earlier files say true or false.
    if (name.empty() || name == "none" || name == "false") {
        found.config.normalise = "none";
    } else if (name == "layer_norm") {
        found.config.normalise = name;
    } else if (name == "constant_norm_rescale") {
        found.config.normalise = "constant_norm";
    } else if (name == "expected_average_only_in" || name == "true") {
        found.config.normalise = "expected_average";
        found.asks.push_back("scale");  // the libraries fold it into the weights or do not write it
    } else {
        asked.emplace_back("normalise");
        return fail(ErrorCode::Unsupported,
                    "it normalises its input by '{}', which is not known here; give normalise=none, layer_norm, "
                    "constant_norm or expected_average to take that in its place",
                    name);
    }
    return {};
}

/// The kind that SAELens' and ViT-Prisma's words mean.
Result<std::string> kind_of(const std::string& architecture, const std::string& activation, Asked& asked) {
    const bool plain = activation.empty() || activation == "relu", chooses = activation == "topk";
    if ((architecture.empty() || architecture == "standard") && plain) return "relu";
    if ((architecture.empty() || architecture == "standard" || architecture == "topk") && chooses) return "top_k";
    if (architecture == "topk" && plain) return "top_k";
    if (architecture == "gated" && plain) return "gated";
    if (architecture == "jumprelu" && plain) return "jump_relu";
    if ((architecture == "batchtopk" || architecture == "matryoshka_batchtopk") && plain) return "batch_top_k";
    asked.emplace_back("kind");
    return fail(
        ErrorCode::Unsupported,
        "its architecture is '{}' with the activation '{}', which is not known here; give kind=VALUE, one of {}, "
        "to take that in its place",
        architecture, activation, fmt::join(autoencoder_kinds(), ", "));
}

/// What an earlier SAELens multiplied codes by before decoding. Into the decoder's rows, where it does the same.
Status take_scaling_factor(Found& found, const std::string& allowed) {
    for (const char* name : {"scaling_factor", "finetuning_scaling_factor"}) {
        const auto it = found.tensors.find(name);
        if (it == found.tensors.end()) continue;
        found.used.insert(name);
        const at::Tensor factor = VITRINE_TRY(to_tensor(it->second));
        if ((factor - 1).abs().le(1e-5).all().item<bool>()) continue;
        const auto rows = found.tensors.find("W_dec");
        if (rows == found.tensors.end()) continue;
        const at::Tensor decoder = VITRINE_TRY(to_tensor(rows->second));
        if (allowed != "true" || found.config.weigh_by_decoder || factor.dim() != 1 || decoder.dim() != 2 ||
            factor.size(0) != decoder.size(0))
            return fail(ErrorCode::BadInput,
                        "it has {} [{}], expected one number for each of W_dec's rows and finetuning_scaling_factor "
                        "true in its configuration; say so there, or take the tensor out",
                        name, fmt::join(factor.sizes(), ", "));
        found.made["W_dec"] = decoder * factor.unsqueeze(1);
    }
    return {};
}

/// SAELens and ViT-Prisma: tensors in our names, a configuration of theirs. What is given is not asked of it.
Status of_saelens_or_prisma(Found& found, const Said& said, const Given& given, Asked& asked) {
    const auto is_given = [&](const char* name) { return given.count(name) != 0; };
    for (const char* name : {"b_enc", "b_gate", "r_mag", "b_mag", "threshold", "log_threshold", "topk_threshold",
                             "scaling_factor", "finetuning_scaling_factor"})
        if (is_given("kind") && found.tensors.count(name) != 0) found.used.insert(name);
    const std::string architecture = value_of(said, "architecture"), activation = value_of(said, "activation_fn_str"),
                      earlier = value_of(said, "activation_fn");
    if (value_of(said, "is_transcoder") == "true" || architecture.find("transcoder") != std::string::npos ||
        !first_of(said, {"hook_name_out", "metadata.hook_name_out"}).empty())
        return fail(ErrorCode::Unsupported,
                    "it is a transcoder, which reads one point and writes another; open an autoencoder of one point");
    if (const std::string head =
            first_of(said, {"hook_head_index", "hook_point_head_index", "metadata.hook_head_index"});
        !head.empty())
        return fail(ErrorCode::Unsupported, "it reads head {} alone, which is no point here; open one of whole tokens",
                    head);
    if (const std::string reshape = value_of(said, "reshape_activations"); !reshape.empty() && reshape != "none")
        return fail(ErrorCode::Unsupported,
                    "it reads activations reshaped by '{}', which is not done here; open one of whole tokens", reshape);
    for (const auto& [key, value] : said) {
        if (key.starts_with("activation_fn_kwargs.") && key != "activation_fn_kwargs.k")
            return fail(ErrorCode::Unsupported, "its activation has '{}' = '{}', which is not known here",
                        key.substr(key.find('.') + 1), value.substr(0, 60));
        if ((key.starts_with("seqpos_slice") || key.starts_with("metadata.seqpos_slice")) && !is_given("tokens")) {
            asked.emplace_back("tokens");
            return fail(ErrorCode::Unsupported,
                        "it was trained on some places of the row ({} = {}), which has no name here; give tokens=all, "
                        "class or patches",
                        key, value);
        }
    }
    if (!activation.empty() && !earlier.empty() && activation != earlier && !is_given("kind")) {
        asked.emplace_back("kind");
        return fail(ErrorCode::BadInput,
                    "its activation is both '{}' and '{}'; take one out of its configuration, or give kind=VALUE",
                    activation, earlier);
    }
    VITRINE_CHECK(nothing_unknown(said));
    const bool silent = architecture.empty() && activation.empty() && earlier.empty();
    if (is_given("kind")) {
        found.config.kind = given.at("kind");
    } else if (silent) {
        found.asks = {"kind"};
        if (found.tensors.count("b_gate") != 0) found.config.kind = "gated", found.asks.clear();
        if (found.tensors.count("threshold") != 0) found.config.kind = "jump_relu", found.asks.clear();
    } else {
        found.config.kind = VITRINE_TRY(kind_of(architecture, activation.empty() ? earlier : activation, asked));
    }
    if (found.config.kind == "batch_top_k")
        if (const auto it = found.tensors.find("topk_threshold"); it != found.tensors.end()) {
            found.made["threshold"] = VITRINE_TRY(to_tensor(it->second)).reshape({-1});
            found.used.insert("topk_threshold");
        }
    if (found.config.kind == "jump_relu")
        if (const auto it = found.tensors.find("log_threshold"); it != found.tensors.end()) {
            found.made["threshold"] = VITRINE_TRY(to_tensor(it->second)).exp();
            found.used.insert("log_threshold");
        }
    if (found.config.kind == "gated") found.used.insert("b_enc");  // ViT-Prisma keeps one that it does not read
    if (found.config.kind == "top_k" || found.config.kind == "batch_top_k") {
        std::string k = first_of(said, {"k", "activation_fn_kwargs.k"});
        if (k.ends_with(".0")) k.resize(k.size() - 2);
        if (k.empty())
            found.asks.push_back("k");
        else if (!is_given("k"))
            VITRINE_CHECK(set(found.config, "k", k));
        found.config.weigh_by_decoder = value_of(said, "rescale_acts_by_decoder_norm") == "true";
    }
    if (silent)
        found.asks.push_back("normalise");
    else if (!is_given("normalise"))
        VITRINE_CHECK(normalised_by(found, value_of(said, "normalize_activations"), asked));
    found.config.subtract_decoder_bias = value_of(said, "apply_b_dec_to_input") != "false";
    VITRINE_CHECK(take_scaling_factor(found, value_of(said, "finetuning_scaling_factor")));
    if (value_of(said, "cls_token_only") == "true" || value_of(said, "cls_token") == "true")
        found.config.tokens = "class";
    if (value_of(said, "use_patches_only") == "true") found.config.tokens = "patches";
    found.hook = first_of(said, {"metadata.hook_name", "hook_name", "hook_point"});
    if (const std::string part = value_of(said, "layer_subtype"); found.hook.empty() && !part.empty())
        found.hook = fmt::format("blocks.{}.{}", value_of(said, "hook_point_layer"), part);
    if (const std::string model = first_of(said, {"metadata.model_name", "model_name"}); !model.empty())
        found.facts.emplace("model", model);
    const std::vector<std::int64_t> encoder = found.tensors.at("W_enc").shape;
    for (const std::size_t axis : {0, 1}) {
        const std::string size = value_of(said, axis == 0 ? "d_in" : "d_sae");
        if (!size.empty() && encoder.size() == 2 && size != std::to_string(encoder[axis]))
            return fail(ErrorCode::BadInput,
                        "its configuration says {} = {} and W_enc is [{}]: they are not of one autoencoder; put the "
                        "right configuration beside it",
                        axis == 0 ? "d_in" : "d_sae", size, fmt::join(encoder, ", "));
    }
    return {};
}

/// OpenAI: matrices the other way round. What is chosen by size is read after a norm.
Status of_openai(Found& found, const std::map<std::string, std::string>& metadata, const Given& given, Asked& asked) {
    const auto take = [&](const char* from, const char* to, bool turned) -> Status {
        const auto it = found.tensors.find(from);
        if (it == found.tensors.end()) return fail(ErrorCode::BadInput, "it lacks {}; save it whole", from);
        at::Tensor tensor = VITRINE_TRY(to_tensor(it->second));
        if (turned && tensor.dim() != 2) return fail(ErrorCode::BadInput, "{} is no matrix", from);
        found.made[to] = turned ? tensor.t().contiguous() : tensor;
        found.used.insert(from);
        return {};
    };
    VITRINE_CHECK(take("encoder.weight", "W_enc", true));
    VITRINE_CHECK(take("latent_bias", "b_enc", false));
    VITRINE_CHECK(take("pre_bias", "b_dec", false));
    const bool tied = found.tensors.count("decoder.weight") == 0 && found.tensors.count("decoder.linear.weight") != 0;
    VITRINE_CHECK(tied ? take("encoder.weight", "W_dec", false) : take("decoder.weight", "W_dec", true));
    for (const char* name :
         {"decoder.linear.weight", "stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"})
        found.used.insert(name);
    const std::string activation = value_of(metadata, "activation"),
                      after = value_of(metadata, "activation_state_dict.postact_fn");
    const auto kind = given.find("kind");
    if (kind != given.end()) {
        found.config.kind = kind->second;
    } else if (activation.empty()) {
        found.asks = {"kind"};
    } else if (activation == "ReLU") {
        found.config.kind = "relu";
    } else if (activation == "TopK") {
        found.config.kind = "top_k";
    } else {
        asked.emplace_back("kind");
        return fail(
            ErrorCode::Unsupported,
            "its activation is '{}', which is not known here; give kind=VALUE, one of {}, to take that in its place",
            activation, fmt::join(autoencoder_kinds(), ", "));
    }
    if (activation == "TopK") {
        found.config.normalise = "layer_norm";
        if (!after.empty() && after != "ReLU" && after != "Identity")
            return fail(ErrorCode::Unsupported, "after its choice of latents comes '{}', known are ReLU and Identity",
                        after);
        found.config.keep_negative = after == "Identity";
        if (const std::string k = value_of(metadata, "activation_state_dict.k"); k.empty())
            found.asks.push_back("k");
        else if (given.count("k") == 0)
            VITRINE_CHECK(set(found.config, "k", k));
    }
    return {};
}

/// saev: a line of JSON, then a file of torch.save. Neither the decoder's bias is taken off nor ReLU put on the chosen.
Status of_saev(Found& found, const nlohmann::json& header, const Given& given, Asked& asked) {
    static const std::set<std::string> known = words(
        "schema cfg cls commit lib d_model d_vit d_sae exp_factor activation top_k seed reinit_blend "
        "reinit_enc_dec_tranpose sparsity_coeff ghost_grads l1_coeff use_ghost_grads n_reinit_samples "
        "remove_parallel_grads normalize_w_dec");
    static const std::set<std::string> of_activation = words("key kind top_k sparsity aux momentum");
    Said said;
    flatten(header, "", said);
    const std::string schema = value_of(said, "schema");
    if (!schema.empty() && schema != "1" && schema != "2" && schema != "3" && schema != "4" && schema != "5")
        return fail(ErrorCode::Unsupported,
                    "its schema is {}, expected 1 to 5, saev's known ones; save it by one of these", schema);
    for (const auto& [key, value] : said) {
        std::string name = key;
        if (name.starts_with("cfg.")) name.erase(0, 4);
        constexpr std::string_view kParams = "activation.params.";
        const bool within = name.starts_with(kParams);
        if (within) name.erase(0, kParams.size());
        name = name.substr(0, name.find('.'));
        if (!(within ? of_activation : known).contains(name))
            return fail(ErrorCode::Unsupported, "its header has '{}' = '{}', which is not known here", key,
                        value.substr(0, 60));
    }
    found.used.insert("activation.threshold");
    found.config.subtract_decoder_bias = false;
    std::string kind = first_of(said, {"cfg.activation.cls", "activation.cls"});
    if (kind.empty()) kind = value_of(said, "cls");
    if (kind.empty() && schema.empty()) kind = "Relu";
    if (const auto it = given.find("kind"); it != given.end()) {
        found.config.kind = it->second;
    } else if (kind.empty() || kind == "SparseAutoencoderConfig") {
        found.asks.push_back("kind");
    } else if (kind == "Relu" || kind == "TopK" || kind == "BatchTopK") {
        found.config.kind = kind == "Relu" ? "relu" : kind == "TopK" ? "top_k" : "batch_top_k";
    } else {
        asked.emplace_back("kind");
        return fail(
            ErrorCode::Unsupported,
            "its activation is '{}', which is not known here; give kind=VALUE, one of {}, to take that in its place",
            kind, fmt::join(autoencoder_kinds(), ", "));
    }
    if (found.config.kind != "top_k" && found.config.kind != "batch_top_k") return {};
    found.config.keep_negative = true;
    const std::string k =
        first_of(said, {"cfg.activation.params.top_k", "cfg.top_k", "activation.params.top_k", "top_k"});
    if (given.count("k") == 0) VITRINE_CHECK(set(found.config, "k", k.empty() ? "32" : k));  // 32 is saev's own
    if (const auto it = found.tensors.find("activation.threshold"); it != found.tensors.end())
        found.made["threshold"] = VITRINE_TRY(to_tensor(it->second)).reshape({-1});
    return {};
}

/// A file of JSON alone: where the tensors are that it speaks of.
tl::unexpected<Error> no_tensors(const std::filesystem::path& file) {
    std::vector<std::string> beside;
    std::error_code failed;
    const auto folder = file.has_parent_path() ? file.parent_path() : std::filesystem::path(".");
    for (std::filesystem::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed))
        if (const auto ending = it->path().extension(); ending == ".safetensors" || ending == ".pt")
            beside.push_back(it->path().filename().string());
    std::sort(beside.begin(), beside.end());
    constexpr std::size_t kNamed = 3;
    if (beside.size() > kNamed) beside.resize(kNamed);
    return fail(ErrorCode::BadInput,
                "{} is a configuration without tensors: open the weights that lie beside it{}, and it is read with "
                "them",
                file.filename().string(),
                beside.empty() ? " (there are none here)" : fmt::format(", {}", fmt::join(beside, " or ")));
}

Result<std::pair<nlohmann::json, TensorFile>> read_saev(const std::filesystem::path& file) {
    const MappedFile mapped = VITRINE_TRY(map_file(file));
    constexpr std::size_t kLongestHeader = 1 << 20;
    const std::string_view head = bytes::text(mapped.bytes.first(std::min(mapped.bytes.size(), kLongestHeader + 1)));
    const std::string_view line = head.substr(0, head.find('\n'));
    auto header = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (file.extension() == ".json" && (!header.is_object() || mapped.bytes.size() <= line.size() + 1))
        return no_tensors(file);
    if (!header.is_object())
        return fail(ErrorCode::BadInput, "{} is no autoencoder: JSON without the tensors that saev writes behind it",
                    file.string());
    if (mapped.bytes.size() <= line.size() + 1)
        return fail(ErrorCode::BadInput, "{} ends after its header", file.string());
    auto read = VITRINE_TRY(parse_torch_save(mapped.bytes.subspan(line.size() + 1), mapped.keep_alive));
    return std::pair{std::move(header), std::move(read)};
}

Result<Found> find_autoencoder(const std::filesystem::path& file, const Given& given, Asked& asked) {
    const FileKind kind = VITRINE_TRY(sniff(file));
    Found found;
    if (kind == FileKind::Json) {
        auto [header, read] = VITRINE_TRY(read_saev(file));
        found.tensors = std::move(read.tensors);
        VITRINE_CHECK(of_saev(found, header, given, asked));
        found.facts["format"] = "saev";
        return found;
    }
    const bool saved = kind == FileKind::TorchSaveZip || kind == FileKind::TorchSaveLegacy;
    if (!saved && kind != FileKind::Safetensors)
        return fail(ErrorCode::BadInput, "it is neither safetensors nor a file of torch.save");
    auto read = VITRINE_TRY(saved ? read_torch_save(file) : read_safetensors(file));
    const auto format = read.metadata.find("format");
    if (!saved && format != read.metadata.end() && format->second == kFormat) {
        found.tensors = std::move(read.tensors);
        found.ours = true;
        for (const auto& [key, value] : read.metadata) {
            if (key == "format") continue;
            if (!is_config_key(key)) {
                found.facts[key] = value;
                continue;
            }
            VITRINE_CHECK(set(found.config, key, value));
            if (!value.empty()) found.stated.insert(key);
        }
        return found;
    }
    if (!saved && format != read.metadata.end() && format->second.starts_with("vitrine."))
        return fail(ErrorCode::BadInput, "it is no autoencoder but a file of the format {}", format->second);
    for (auto& [name, entry] : read.tensors)
        found.tensors.emplace(name.starts_with(kWrapped) ? name.substr(kWrapped.size()) : name, std::move(entry));
    if (found.tensors.count("encoder.weight") != 0 && found.tensors.count("latent_bias") != 0) {
        VITRINE_CHECK(of_openai(found, read.metadata, given, asked));
        found.facts["format"] = "OpenAI";
        return found;
    }
    if (found.tensors.count("W_enc") == 0)
        return fail(
            ErrorCode::BadInput,
            "it has no W_enc [width, latents] and no encoder.weight [latents, width]; open the file of an autoencoder");
    Said said;
    for (const auto& [key, value] : read.metadata)
        if (key.starts_with("cfg.")) said[key.substr(4)] = value;
    const bool own = !said.empty();
    if (!own) said = VITRINE_TRY(said_beside(file));
    VITRINE_CHECK(of_saelens_or_prisma(found, said, given, asked));
    found.facts["format"] = said.count("layer_subtype") != 0 ? "ViT-Prisma" : "SAELens";
    return found;
}

/// All that the file leaves open and nobody gave, in one sentence.
Status nothing_missing(const Found& found, const Given& given, Asked& names) {
    std::vector<std::string> wanted;
    const auto ask = [&](const std::string& name, const std::string& values) {
        names.push_back(name);
        wanted.push_back(fmt::format("{} ({})", name + (name == "point" ? "=NAME" : "=VALUE"), values));
    };
    const auto open = [&](const std::string& name) {
        return given.count(name) == 0 && std::find(found.asks.begin(), found.asks.end(), name) != found.asks.end();
    };
    for (const std::string& name : found.asks) {
        if (!open(name) || (name == "k" && open("kind"))) continue;  // whether there is a k the kind says
        if (name == "kind")
            ask(name, fmt::format("one of {}; of the two top-k kinds k too", fmt::join(autoencoder_kinds(), ", ")));
        else if (name == "normalise")
            ask(name, "none, layer_norm, constant_norm or expected_average");
        else
            ask(name, name == "k" ? "how many latents a token has" : "a number");
    }
    if (names.empty()) return {};
    if (found.config.point.empty() && found.hook.empty()) ask("point", "vitrine info MODEL --points lists them");
    return fail(ErrorCode::BadInput,
                "it does not say its {}; give {}, with commas between (as --given of a command, or as METHOD.given of "
                "a method)",
                fmt::join(names, ", "), fmt::join(wanted, ", "));
}

Result<Autoencoder> assembled(Found found, const Given& given, Asked& asked) {
    for (const auto& [key, value] : given) {
        const auto all = [](const AutoencoderConfig& c) {
            return std::tie(c.kind, c.k, c.normalise, c.scale, c.subtract_decoder_bias, c.keep_negative,
                            c.weigh_by_decoder, c.point, c.tokens, c.ridge);
        };
        const AutoencoderConfig before = found.config;
        VITRINE_CHECK(set(found.config, key, value));
        if (found.stated.contains(key) && all(found.config) != all(before))
            return fail(ErrorCode::BadInput,
                        "it says another {0} itself than the {0}={1} that is given; leave {0} out, as only what a file "
                        "does not say can be given",
                        key, value);
    }
    VITRINE_CHECK(nothing_missing(found, given, asked));
    if (found.config.point.empty() && !found.hook.empty()) {
        found.config.point = point_of_hook(found.hook);
        if (found.config.point.empty()) {
            asked.emplace_back("point");
            return fail(ErrorCode::Unsupported, "{}", why_no_point(found.hook));
        }
    }
    std::vector<std::string> wanted;
    for (const auto& [name, shape] : autoencoder_shapes(found.config)) wanted.push_back(name);
    for (const auto& [name, entry] : found.tensors)
        if (!found.ours && found.used.count(name) == 0 &&
            std::find(wanted.begin(), wanted.end(), name) == wanted.end()) {
            asked.emplace_back("kind");
            return fail(ErrorCode::Unsupported,
                        "it has the tensor {}, which the kind {} has not; give kind=VALUE if it is of another kind",
                        name, found.config.kind);
        }
    return Autoencoder::of(found.config, std::move(found.facts), [&](const std::string& name) -> Result<at::Tensor> {
        if (const auto made = found.made.find(name); made != found.made.end()) return made->second;
        if (const auto it = found.tensors.find(name); it != found.tensors.end()) return to_tensor(it->second);
        if (!found.ours) asked.emplace_back("kind");
        return fail(ErrorCode::BadInput,
                    "it lacks {}, expected {} for the kind {}; save it whole, or give kind=VALUE if it is of another",
                    name, fmt::join(wanted, ", "), found.config.kind);
    });
}

}  // namespace

Result<Autoencoder> Autoencoder::of(AutoencoderConfig config, std::map<std::string, std::string> facts,
                                    const std::function<Result<at::Tensor>(const std::string&)>& tensor) {
    Autoencoder out;
    out.config_ = std::move(config);
    out.facts = std::move(facts);
    const at::Tensor encoder = VITRINE_TRY(tensor("W_enc"));
    if (encoder.dim() != 2)
        return fail(ErrorCode::BadInput, "W_enc has {} axes, expected [width, latents]", encoder.dim());
    out.config_.width = encoder.size(0);
    out.config_.latents = encoder.size(1);
    VITRINE_CHECK(check_config(out.config_));
    for (const auto& [name, shape] : autoencoder_shapes(out.config_)) {
        at::Tensor one = name == "W_enc" ? encoder : VITRINE_TRY(tensor(name));
        if (one.sizes() != at::IntArrayRef(shape))
            return fail(ErrorCode::BadInput, "{} is [{}], expected [{}]", name, fmt::join(one.sizes(), ", "),
                        fmt::join(shape, ", "));
        if (!at::isfinite(one).all().item<bool>())
            return fail(ErrorCode::BadInput,
                        "{} has numbers that are not finite, expected none: its training went wrong; open an earlier "
                        "save of it, or train it again",
                        name);
        if (out.config_.kind == "nmf" && name == "W_dec" && one.lt(0).any().item<bool>())
            return fail(ErrorCode::BadInput, "W_dec has negative numbers, which a dictionary of nmf has not");
        out.tensors_.emplace_back(name, std::move(one));
    }
    return out;
}

namespace {

Result<Autoencoder> loaded(const std::filesystem::path& given_path, const Given& given, Asked& asked) {
    std::error_code ignored;
    const auto file = file_within(given_path);
    if (std::filesystem::is_directory(file, ignored))
        return fail(ErrorCode::NotFound, "{} holds neither sae_weights.safetensors nor weights.pt", file.string());
    if (!std::filesystem::exists(file, ignored))
        return fail(ErrorCode::NotFound, "there is no autoencoder at {}", file.string());
    auto made = guarded([&]() -> Result<Autoencoder> {
        Found found = VITRINE_TRY(find_autoencoder(file, given, asked));
        return assembled(std::move(found), given, asked);
    });
    if (!made) return tl::make_unexpected(std::move(made.error()).with_context("reading " + file.string()));
    return made;
}

}  // namespace

Result<Autoencoder> Autoencoder::load(const std::filesystem::path& file,
                                      const std::map<std::string, std::string>& given) {
    Asked asked;
    return loaded(file, given, asked);
}

std::vector<std::string> asked_by_autoencoder(const std::filesystem::path& file,
                                              const std::map<std::string, std::string>& given) {
    Asked asked;
    const auto one = loaded(file, given, asked);
    if (one && one->config().point.empty()) asked.emplace_back("point");
    return asked;
}

bool holds_autoencoder(const std::filesystem::path& path) {
    const auto file = file_within(path);
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) return false;
    const auto kind = sniff(file);
    if (!kind) return false;
    if (*kind == FileKind::Json) return read_saev(file).has_value();
    const bool saved = *kind == FileKind::TorchSaveZip || *kind == FileKind::TorchSaveLegacy;
    if (!saved && *kind != FileKind::Safetensors) return false;
    const auto read = saved ? read_torch_save(file) : read_safetensors(file);
    if (!read) return false;
    if (const auto format = read->metadata.find("format"); !saved && format != read->metadata.end())
        if (format->second.starts_with("vitrine.")) return format->second == kFormat;
    const auto has = [&](const std::string& name) {
        return read->tensors.contains(name) || read->tensors.contains(std::string(kWrapped) + name);
    };
    return has("W_enc") || (has("encoder.weight") && has("latent_bias"));
}

}  // namespace vitrine
