// Translates checkpoints of timm, transformers, torchvision, OpenCLIP and the original repositories into one set of
// names.
#include "dialects.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

namespace vitrine::plugin::vit {

namespace {

using nlohmann::json;

/// How one of our tensors is made of a dialect's: parts in order along the first axis ("a|b" are alternative names, "0"
/// stands for zeros where the dialect has no such bias). "{}" is the block's index.
struct Row {
    const char* ours;
    std::vector<const char*> theirs;
    bool transposed = false;
};

/// A dialect: its name, a prefix its encoder's tensors may carry, what gives it away, and its names.
struct Dialect {
    const char* name;
    std::vector<const char*> prefixes;   ///< tried in this order; "" is no prefix
    std::vector<const char*> signature;  ///< all must be there, after the prefix
    std::vector<Row> rows;
};

/// Adds ".weight" and ".bias" rows.
void affine(std::vector<Row>& rows, const char* ours_weight, const char* ours_bias, std::vector<const char*> weights,
            std::vector<const char*> biases) {
    rows.push_back({ours_weight, std::move(weights)});
    rows.push_back({ours_bias, std::move(biases)});
}

const std::vector<Dialect>& dialects() {
    static const std::vector<Dialect> all = [] {
        std::vector<Dialect> out;
        {
            Dialect d{
                "timm",
                {"", "visual.trunk.", "trunk."},
                {"patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc2.weight|blocks.0.mlp.w3.weight"},
                {}};
            d.rows = {
                {"cls_token", {"cls_token"}},
                {"dist_token", {"dist_token"}},
                {"reg_token", {"reg_token|register_tokens|storage_tokens"}},
                {"pos_embed", {"pos_embed"}},
                {"patch_embed.proj.weight", {"patch_embed.proj.weight"}},
                {"patch_embed.proj.bias", {"patch_embed.proj.bias"}},
                {"norm_pre.weight", {"norm_pre.weight"}},
                {"norm_pre.bias", {"norm_pre.bias"}},
                {"blocks.{}.norm1.weight", {"blocks.{}.norm1.weight"}},
                {"blocks.{}.norm1.bias", {"blocks.{}.norm1.bias"}},
                {"blocks.{}.attn.qkv.weight", {"blocks.{}.attn.qkv.weight"}},
                {"blocks.{}.attn.qkv.weight",
                 {"blocks.{}.attn.q_proj.weight", "blocks.{}.attn.k_proj.weight", "blocks.{}.attn.v_proj.weight"}},
                {"blocks.{}.attn.qkv.bias", {"blocks.{}.attn.qkv.bias"}},
                {"blocks.{}.attn.qkv.bias", {"blocks.{}.attn.q_bias", "0", "blocks.{}.attn.v_bias"}},
                {"blocks.{}.attn.qkv.bias",
                 {"blocks.{}.attn.q_proj.bias", "0|blocks.{}.attn.k_proj.bias", "blocks.{}.attn.v_proj.bias"}},
                {"blocks.{}.attn.q_norm.weight", {"blocks.{}.attn.q_norm.weight"}},
                {"blocks.{}.attn.q_norm.bias", {"blocks.{}.attn.q_norm.bias"}},
                {"blocks.{}.attn.k_norm.weight", {"blocks.{}.attn.k_norm.weight"}},
                {"blocks.{}.attn.k_norm.bias", {"blocks.{}.attn.k_norm.bias"}},
                {"blocks.{}.attn.proj.weight", {"blocks.{}.attn.proj.weight"}},
                {"blocks.{}.attn.proj.bias", {"blocks.{}.attn.proj.bias"}},
                {"blocks.{}.ls1.gamma", {"blocks.{}.ls1.gamma|blocks.{}.gamma_1"}},
                {"blocks.{}.norm2.weight", {"blocks.{}.norm2.weight"}},
                {"blocks.{}.norm2.bias", {"blocks.{}.norm2.bias"}},
                {"blocks.{}.mlp.fc1.weight", {"blocks.{}.mlp.fc1.weight|blocks.{}.mlp.w12.weight"}},
                {"blocks.{}.mlp.fc1.weight",
                 {"blocks.{}.mlp.fc1_g.weight|blocks.{}.mlp.w1.weight",
                  "blocks.{}.mlp.fc1_x.weight|blocks.{}.mlp.w2.weight"}},
                {"blocks.{}.mlp.fc1.bias", {"blocks.{}.mlp.fc1.bias|blocks.{}.mlp.w12.bias"}},
                {"blocks.{}.mlp.fc1.bias",
                 {"blocks.{}.mlp.fc1_g.bias|blocks.{}.mlp.w1.bias", "blocks.{}.mlp.fc1_x.bias|blocks.{}.mlp.w2.bias"}},
                {"blocks.{}.mlp.fc2.weight", {"blocks.{}.mlp.fc2.weight|blocks.{}.mlp.w3.weight"}},
                {"blocks.{}.mlp.fc2.bias", {"blocks.{}.mlp.fc2.bias|blocks.{}.mlp.w3.bias"}},
                {"blocks.{}.ls2.gamma", {"blocks.{}.ls2.gamma|blocks.{}.gamma_2"}},
                {"norm.weight", {"norm.weight"}},
                {"norm.bias", {"norm.bias"}},
                {"fc_norm.weight", {"fc_norm.weight"}},
                {"fc_norm.bias", {"fc_norm.bias"}},
                {"attn_pool.latent", {"attn_pool.latent"}},
                {"attn_pool.qkv.weight", {"attn_pool.q.weight", "attn_pool.kv.weight"}},
                {"attn_pool.qkv.bias", {"attn_pool.q.bias", "attn_pool.kv.bias"}},
                {"attn_pool.proj.weight", {"attn_pool.proj.weight"}},
                {"attn_pool.proj.bias", {"attn_pool.proj.bias"}},
                {"attn_pool.norm.weight", {"attn_pool.norm.weight"}},
                {"attn_pool.norm.bias", {"attn_pool.norm.bias"}},
                {"attn_pool.mlp.fc1.weight", {"attn_pool.mlp.fc1.weight"}},
                {"attn_pool.mlp.fc1.bias", {"attn_pool.mlp.fc1.bias"}},
                {"attn_pool.mlp.fc2.weight", {"attn_pool.mlp.fc2.weight"}},
                {"attn_pool.mlp.fc2.bias", {"attn_pool.mlp.fc2.bias"}},
                {"head.weight", {"head.weight"}},
                {"head.bias", {"head.bias"}},
                {"head_dist.weight", {"head_dist.weight"}},
                {"head_dist.bias", {"head_dist.bias"}}};
            out.push_back(std::move(d));
        }
        {
            // ViT, DeiT, DINOv2 with and without registers. Layers are "encoder.layer.N" in files and "layers.N" in
            // newer memory.
            Dialect d{"transformers",
                      {"vit.", "deit.", "dinov2.", "dinov2_with_registers.", ""},
                      {"embeddings.patch_embeddings.projection.weight"},
                      {}};
#define LAYER(suffix) "encoder.layer.{}." suffix "|layers.{}." suffix "|layer.{}." suffix
            d.rows = {{"cls_token", {"embeddings.cls_token"}},
                      {"dist_token", {"embeddings.distillation_token"}},
                      {"reg_token", {"embeddings.register_tokens"}},
                      {"pos_embed", {"embeddings.position_embeddings"}},
                      {"patch_embed.proj.weight", {"embeddings.patch_embeddings.projection.weight"}},
                      {"patch_embed.proj.bias", {"embeddings.patch_embeddings.projection.bias"}},
                      {"norm.weight", {"layernorm.weight"}},
                      {"norm.bias", {"layernorm.bias"}},
                      {"head.weight", {"classifier.weight|cls_classifier.weight"}},
                      {"head.bias", {"classifier.bias|cls_classifier.bias"}},
                      {"head_dist.weight", {"distillation_classifier.weight"}},
                      {"head_dist.bias", {"distillation_classifier.bias"}}};
            affine(d.rows, "blocks.{}.norm1.weight", "blocks.{}.norm1.bias",
                   {LAYER("layernorm_before.weight") "|" LAYER("norm1.weight")},
                   {LAYER("layernorm_before.bias") "|" LAYER("norm1.bias")});
            affine(d.rows, "blocks.{}.attn.qkv.weight", "blocks.{}.attn.qkv.bias",
                   {LAYER("attention.attention.query.weight") "|" LAYER("attention.q_proj.weight"),
                    LAYER("attention.attention.key.weight") "|" LAYER("attention.k_proj.weight"),
                    LAYER("attention.attention.value.weight") "|" LAYER("attention.v_proj.weight")},
                   {LAYER("attention.attention.query.bias") "|" LAYER("attention.q_proj.bias"),
                    LAYER("attention.attention.key.bias") "|" LAYER("attention.k_proj.bias"),
                    LAYER("attention.attention.value.bias") "|" LAYER("attention.v_proj.bias")});
            affine(d.rows, "blocks.{}.attn.proj.weight", "blocks.{}.attn.proj.bias",
                   {LAYER("attention.output.dense.weight") "|" LAYER("attention.o_proj.weight")},
                   {LAYER("attention.output.dense.bias") "|" LAYER("attention.o_proj.bias")});
            d.rows.push_back({"blocks.{}.ls1.gamma", {LAYER("layer_scale1.lambda1")}});
            affine(d.rows, "blocks.{}.norm2.weight", "blocks.{}.norm2.bias",
                   {LAYER("layernorm_after.weight") "|" LAYER("norm2.weight")},
                   {LAYER("layernorm_after.bias") "|" LAYER("norm2.bias")});
            affine(d.rows, "blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.bias",
                   {LAYER("intermediate.dense.weight") "|" LAYER("mlp.fc1.weight") "|" LAYER("mlp.weights_in.weight")},
                   {LAYER("intermediate.dense.bias") "|" LAYER("mlp.fc1.bias") "|" LAYER("mlp.weights_in.bias")});
            affine(d.rows, "blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.bias",
                   {LAYER("mlp.gate_proj.weight"), LAYER("mlp.up_proj.weight")},
                   {LAYER("mlp.gate_proj.bias"), LAYER("mlp.up_proj.bias")});
            affine(d.rows, "blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.fc2.bias",
                   {LAYER("output.dense.weight") "|" LAYER("mlp.fc2.weight") "|" LAYER(
                       "mlp.weights_out.weight") "|" LAYER("mlp.down_proj.weight")},
                   {LAYER("output.dense.bias") "|" LAYER("mlp.fc2.bias") "|" LAYER("mlp.weights_out.bias") "|" LAYER(
                       "mlp.down_proj.bias")});
            d.rows.push_back({"blocks.{}.ls2.gamma", {LAYER("layer_scale2.lambda1")}});
            out.push_back(std::move(d));
        }
        {
            Dialect d{"transformers dinov3",
                      {"", "dinov3_vit."},
                      {"embeddings.patch_embeddings.weight", "embeddings.register_tokens"},
                      {}};
#define LAYER3(suffix) "layer.{}." suffix "|model.layer.{}." suffix
            d.rows = {{"cls_token", {"embeddings.cls_token"}},
                      {"reg_token", {"embeddings.register_tokens"}},
                      {"patch_embed.proj.weight", {"embeddings.patch_embeddings.weight"}},
                      {"patch_embed.proj.bias", {"embeddings.patch_embeddings.bias"}},
                      {"norm.weight", {"norm.weight"}},
                      {"norm.bias", {"norm.bias"}},
                      {"head.weight", {"classifier.weight"}},
                      {"head.bias", {"classifier.bias"}}};
            affine(d.rows, "blocks.{}.norm1.weight", "blocks.{}.norm1.bias", {LAYER3("norm1.weight")},
                   {LAYER3("norm1.bias")});
            affine(d.rows, "blocks.{}.attn.qkv.weight", "blocks.{}.attn.qkv.bias",
                   {LAYER3("attention.q_proj.weight"), LAYER3("attention.k_proj.weight"),
                    LAYER3("attention.v_proj.weight")},
                   {LAYER3("attention.q_proj.bias"), "0|" LAYER3("attention.k_proj.bias"),
                    LAYER3("attention.v_proj.bias")});
            affine(d.rows, "blocks.{}.attn.proj.weight", "blocks.{}.attn.proj.bias",
                   {LAYER3("attention.o_proj.weight")}, {LAYER3("attention.o_proj.bias")});
            d.rows.push_back({"blocks.{}.ls1.gamma", {LAYER3("layer_scale1.lambda1")}});
            affine(d.rows, "blocks.{}.norm2.weight", "blocks.{}.norm2.bias", {LAYER3("norm2.weight")},
                   {LAYER3("norm2.bias")});
            affine(d.rows, "blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.bias",
                   {LAYER3("mlp.gate_proj.weight"), LAYER3("mlp.up_proj.weight")},
                   {LAYER3("mlp.gate_proj.bias"), LAYER3("mlp.up_proj.bias")});
            affine(d.rows, "blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.bias", {LAYER3("mlp.up_proj.weight")},
                   {LAYER3("mlp.up_proj.bias")});
            affine(d.rows, "blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.fc2.bias", {LAYER3("mlp.down_proj.weight")},
                   {LAYER3("mlp.down_proj.bias")});
            d.rows.push_back({"blocks.{}.ls2.gamma", {LAYER3("layer_scale2.lambda1")}});
            out.push_back(std::move(d));
        }
        {
            // CLIP's and SigLIP's image towers in transformers; told apart by the class embedding.
            Dialect d{"transformers clip",
                      {"vision_model.", "clip.vision_model.", "vision_model.vision_model.", ""},
                      {"embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"},
                      {}};
#define TOWER(suffix) "encoder.layers.{}." suffix
            d.rows = {{"cls_token", {"embeddings.class_embedding"}},
                      {"pos_embed", {"embeddings.position_embedding.weight"}},
                      {"patch_embed.proj.weight", {"embeddings.patch_embedding.weight"}},
                      {"patch_embed.proj.bias", {"embeddings.patch_embedding.bias"}},
                      {"norm_pre.weight", {"pre_layrnorm.weight"}},
                      {"norm_pre.bias", {"pre_layrnorm.bias"}},
                      {"norm.weight", {"post_layernorm.weight"}},
                      {"norm.bias", {"post_layernorm.bias"}},
                      {"attn_pool.latent", {"head.probe"}},
                      {"attn_pool.qkv.weight", {"head.attention.in_proj_weight"}},
                      {"attn_pool.qkv.bias", {"head.attention.in_proj_bias"}},
                      {"attn_pool.proj.weight", {"head.attention.out_proj.weight"}},
                      {"attn_pool.proj.bias", {"head.attention.out_proj.bias"}},
                      {"attn_pool.norm.weight", {"head.layernorm.weight"}},
                      {"attn_pool.norm.bias", {"head.layernorm.bias"}},
                      {"attn_pool.mlp.fc1.weight", {"head.mlp.fc1.weight"}},
                      {"attn_pool.mlp.fc1.bias", {"head.mlp.fc1.bias"}},
                      {"attn_pool.mlp.fc2.weight", {"head.mlp.fc2.weight"}},
                      {"attn_pool.mlp.fc2.bias", {"head.mlp.fc2.bias"}},
                      {"head.weight", {"visual_projection.weight|classifier.weight"}},
                      {"head.bias", {"classifier.bias"}}};
            affine(d.rows, "blocks.{}.norm1.weight", "blocks.{}.norm1.bias", {TOWER("layer_norm1.weight")},
                   {TOWER("layer_norm1.bias")});
            affine(
                d.rows, "blocks.{}.attn.qkv.weight", "blocks.{}.attn.qkv.bias",
                {TOWER("self_attn.q_proj.weight"), TOWER("self_attn.k_proj.weight"), TOWER("self_attn.v_proj.weight")},
                {TOWER("self_attn.q_proj.bias"), TOWER("self_attn.k_proj.bias"), TOWER("self_attn.v_proj.bias")});
            affine(d.rows, "blocks.{}.attn.proj.weight", "blocks.{}.attn.proj.bias",
                   {TOWER("self_attn.out_proj.weight")}, {TOWER("self_attn.out_proj.bias")});
            affine(d.rows, "blocks.{}.norm2.weight", "blocks.{}.norm2.bias", {TOWER("layer_norm2.weight")},
                   {TOWER("layer_norm2.bias")});
            affine(d.rows, "blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.bias", {TOWER("mlp.fc1.weight")},
                   {TOWER("mlp.fc1.bias")});
            affine(d.rows, "blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.fc2.bias", {TOWER("mlp.fc2.weight")},
                   {TOWER("mlp.fc2.bias")});
            out.push_back(std::move(d));
        }
        {
            Dialect d{"torchvision", {""}, {"class_token", "conv_proj.weight", "encoder.pos_embedding"}, {}};
#define ENCODER(suffix) "encoder.layers.encoder_layer_{}." suffix
            d.rows = {{"cls_token", {"class_token"}},
                      {"pos_embed", {"encoder.pos_embedding"}},
                      {"patch_embed.proj.weight", {"conv_proj.weight"}},
                      {"patch_embed.proj.bias", {"conv_proj.bias"}},
                      {"norm.weight", {"encoder.ln.weight"}},
                      {"norm.bias", {"encoder.ln.bias"}},
                      {"head.weight", {"heads.head.weight"}},
                      {"head.bias", {"heads.head.bias"}}};
            affine(d.rows, "blocks.{}.norm1.weight", "blocks.{}.norm1.bias", {ENCODER("ln_1.weight")},
                   {ENCODER("ln_1.bias")});
            affine(d.rows, "blocks.{}.attn.qkv.weight", "blocks.{}.attn.qkv.bias",
                   {ENCODER("self_attention.in_proj_weight")}, {ENCODER("self_attention.in_proj_bias")});
            affine(d.rows, "blocks.{}.attn.proj.weight", "blocks.{}.attn.proj.bias",
                   {ENCODER("self_attention.out_proj.weight")}, {ENCODER("self_attention.out_proj.bias")});
            affine(d.rows, "blocks.{}.norm2.weight", "blocks.{}.norm2.bias", {ENCODER("ln_2.weight")},
                   {ENCODER("ln_2.bias")});
            affine(d.rows, "blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.bias",
                   {ENCODER("mlp.0.weight") "|" ENCODER("mlp.linear_1.weight")},
                   {ENCODER("mlp.0.bias") "|" ENCODER("mlp.linear_1.bias")});
            affine(d.rows, "blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.fc2.bias",
                   {ENCODER("mlp.3.weight") "|" ENCODER("mlp.linear_2.weight")},
                   {ENCODER("mlp.3.bias") "|" ENCODER("mlp.linear_2.bias")});
            out.push_back(std::move(d));
        }
        {
            Dialect d{
                "openclip",
                {"visual.", "module.visual.", ""},
                {"class_embedding", "positional_embedding", "conv1.weight", "transformer.resblocks.0.ln_1.weight"},
                {}};
#define RES(suffix) "transformer.resblocks.{}." suffix
            d.rows = {{"cls_token", {"class_embedding"}},
                      {"pos_embed", {"positional_embedding"}},
                      {"patch_embed.proj.weight", {"conv1.weight"}},
                      {"norm_pre.weight", {"ln_pre.weight"}},
                      {"norm_pre.bias", {"ln_pre.bias"}},
                      {"norm.weight", {"ln_post.weight"}},
                      {"norm.bias", {"ln_post.bias"}},
                      {"head.weight", {"proj"}, true}};
            affine(d.rows, "blocks.{}.norm1.weight", "blocks.{}.norm1.bias", {RES("ln_1.weight")}, {RES("ln_1.bias")});
            affine(d.rows, "blocks.{}.attn.qkv.weight", "blocks.{}.attn.qkv.bias", {RES("attn.in_proj_weight")},
                   {RES("attn.in_proj_bias")});
            affine(d.rows, "blocks.{}.attn.proj.weight", "blocks.{}.attn.proj.bias", {RES("attn.out_proj.weight")},
                   {RES("attn.out_proj.bias")});
            d.rows.push_back({"blocks.{}.ls1.gamma", {RES("ls_1.gamma")}});
            affine(d.rows, "blocks.{}.norm2.weight", "blocks.{}.norm2.bias", {RES("ln_2.weight")}, {RES("ln_2.bias")});
            affine(d.rows, "blocks.{}.mlp.fc1.weight", "blocks.{}.mlp.fc1.bias", {RES("mlp.c_fc.weight")},
                   {RES("mlp.c_fc.bias")});
            affine(d.rows, "blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.fc2.bias", {RES("mlp.c_proj.weight")},
                   {RES("mlp.c_proj.bias")});
            d.rows.push_back({"blocks.{}.ls2.gamma", {RES("ls_2.gamma")}});
            out.push_back(std::move(d));
        }
        return out;
    }();
    return all;
}

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> out;
    std::size_t at = 0;
    while (true) {
        const std::size_t end = text.find('|', at);
        out.push_back(text.substr(at, end == std::string::npos ? std::string::npos : end - at));
        if (end == std::string::npos) return out;
        at = end + 1;
    }
}

std::string with_index(std::string pattern, std::int64_t index) {
    for (std::size_t at = pattern.find("{}"); at != std::string::npos; at = pattern.find("{}"))
        pattern.replace(at, 2, std::to_string(index));
    return pattern;
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

const json& child(const json& object, const char* key) {
    static const json nothing;
    if (!object.is_object()) return nothing;
    const auto found = object.find(key);
    return found == object.end() ? nothing : *found;
}

/// One dialect's names looked up in one checkpoint.
class Names {
  public:
    Names(const Checkpoint& checkpoint, const Dialect& dialect, std::string prefix)
        : checkpoint_(checkpoint), dialect_(dialect), prefix_(std::move(prefix)) {}

    /// The file's names for one of ours; empty when it is not there. "0" marks a part of zeros.
    std::vector<std::string> origin(const std::string& ours, const Row** chosen = nullptr) const {
        std::vector<std::string> partial;
        for (const Row& row : dialect_.rows) {
            const std::int64_t index = block_of(ours);
            if (with_index(row.ours, std::max<std::int64_t>(index, 0)) != ours) continue;
            std::vector<std::string> parts;
            std::size_t there = 0;
            for (const char* pattern : row.theirs) {
                std::string found;
                bool zeros = false;
                for (const std::string& alternative : split(pattern)) {
                    if (alternative == "0")
                        zeros = true;
                    else if (found.empty())
                        found = in_file(with_index(alternative, index));
                }
                if (!found.empty())
                    ++there;
                else if (zeros)
                    found = '0';
                parts.push_back(found);
            }
            if (chosen != nullptr) *chosen = &row;
            if (there > 0 && std::none_of(parts.begin(), parts.end(), [](const auto& p) { return p.empty(); }))
                return parts;
        }
        return {};
    }

    bool has(const std::string& ours) const { return !origin(ours).empty(); }

    /// The shape our tensor would have by the file, as far as it can be told: parts joined along the first axis.
    std::vector<std::int64_t> shape(const std::string& ours) const {
        std::vector<std::int64_t> out;
        for (const auto& part : origin(ours)) {
            if (part == "0") continue;
            auto shape = checkpoint_.shape(part);
            if (out.empty())
                out = shape;
            else if (!out.empty() && !shape.empty())
                out[0] += shape[0];
        }
        return out;
    }

    /// What the dialect would call it, for messages.
    std::string called(const std::string& ours) const {
        for (const Row& row : dialect_.rows)
            if (with_index(row.ours, std::max<std::int64_t>(block_of(ours), 0)) == ours) {
                const auto alternatives = split(row.theirs.front());
                return checkpoint_.stripped_prefix + prefix_ +
                       with_index(alternatives.front() == "0" ? alternatives.back() : alternatives.front(),
                                  block_of(ours));
            }
        return ours;
    }

    /// Reads one of ours, checked against the wanted shape.
    Result<at::Tensor> read(const std::string& ours, const std::vector<std::int64_t>& wanted,
                            std::set<std::string>& used) const {
        const Row* row = nullptr;
        const auto parts = origin(ours, &row);
        if (parts.empty())
            return fail(ErrorCode::BadInput, "{} is missing, expected a tensor {}", called(ours), shape_text(wanted));
        std::vector<at::Tensor> pieces;
        std::int64_t rows_left = wanted.empty() ? 0 : wanted[0];
        for (std::size_t i = 0; i < parts.size(); ++i) {
            // Where a dialect splits, the parts share the first axis equally (query, key, value; gate and value),
            // except the pooler's query beside key and value in one, which take what they are.
            auto expected = wanted;
            if (parts.size() > 1 && !expected.empty()) {
                const bool pooler = ours.starts_with("attn_pool.qkv");
                const std::int64_t third = wanted[0] / 3;
                expected[0] =
                    pooler ? (i == 0 ? third : 2 * third) : wanted[0] / static_cast<std::int64_t>(parts.size());
            }
            if (parts[i] == "0") {
                pieces.push_back(at::zeros(expected, at::kFloat));
                rows_left -= expected[0];
                continue;
            }
            used.insert(parts[i]);
            const auto have = checkpoint_.shape(parts[i]);
            auto target = expected;
            if (row->transposed) std::reverse(target.begin(), target.end());
            // Tokens and positions are published with and without leading axes of 1.
            const auto squeezed = [](const std::vector<std::int64_t>& shape) {
                std::size_t ones = 0;
                while (ones < shape.size() && shape[ones] == 1) ++ones;
                return std::vector<std::int64_t>(shape.begin() + static_cast<std::ptrdiff_t>(ones), shape.end());
            };
            const bool token = ours.ends_with("_token") || ours == "pos_embed" || ours == "attn_pool.latent";
            if (have != target && !(token && squeezed(have) == squeezed(target)))
                return fail(ErrorCode::BadInput, "{}{} is {}, expected {}", checkpoint_.stripped_prefix, parts[i],
                            shape_text(have), shape_text(target));
            auto tensor = VITRINE_TRY(checkpoint_.tensor(parts[i]));
            if (row->transposed) tensor = tensor.t().contiguous();
            pieces.push_back(tensor.reshape(expected));
            rows_left -= expected.empty() ? 0 : expected[0];
        }
        if (rows_left != 0 && !wanted.empty())
            return fail(ErrorCode::BadInput, "{} has {} rows, which do not divide among its {} parts", called(ours),
                        wanted[0], parts.size());
        return pieces.size() == 1 ? pieces.front() : at::cat(pieces, 0);
    }

    const std::string& prefix() const { return prefix_; }

    static std::int64_t block_of(const std::string& ours) {
        if (!ours.starts_with("blocks.")) return -1;
        return std::stoll(ours.substr(7, ours.find('.', 7) - 7));
    }

  private:
    /// Under the prefix, or beside it (heads stand outside of the encoder).
    std::string in_file(const std::string& name) const {
        if (checkpoint_.has(prefix_ + name)) return prefix_ + name;
        if (!prefix_.empty() && checkpoint_.has(name)) return name;
        return {};
    }

    const Checkpoint& checkpoint_;
    const Dialect& dialect_;
    std::string prefix_;
};

struct Found {
    const Dialect* dialect = nullptr;
    std::string prefix;
};

std::optional<Found> find_dialect(const Checkpoint& checkpoint) {
    for (const Dialect& dialect : dialects())
        for (const char* prefix : dialect.prefixes) {
            const bool all = std::all_of(dialect.signature.begin(), dialect.signature.end(), [&](const char* name) {
                const auto alternatives = split(name);
                return std::any_of(alternatives.begin(), alternatives.end(),
                                   [&](const auto& a) { return checkpoint.has(prefix + a); });
            });
            if (all) return Found{&dialect, prefix};
        }
    return std::nullopt;
}

/// Tensors that are known to say nothing about the picture's way to the answer.
bool beside_the_point(const std::string& name) {
    static const std::array<const char*, 20> prefixes{
        "text_model.",     "text_projection",      "logit_scale", "logit_bias", "transformer.",
        "token_embedding", "positional_embedding", "ln_final",    "decoder",    "text.",
        "pooler.",         "mask_token",           "rope",        "teacher",    "dino_head",
        "ibot_head",       "local_cls_norm",       "last_layer",  "prototypes", "optimizer"};
    if (std::any_of(prefixes.begin(), prefixes.end(), [&](const char* p) { return name.starts_with(p); })) return true;
    static const std::array<const char*, 7> anywhere{
        "mask_token",   "position_ids", "num_batches_tracked", "rope_embed.periods", "bias_mask",
        "pooler.dense", ".pooler."};
    return std::any_of(anywhere.begin(), anywhere.end(),
                       [&](const char* p) { return name.find(p) != std::string::npos; });
}

std::optional<std::int64_t> integer_at(const json& object, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const json& v = child(object, key); v.is_number_integer()) return v.get<std::int64_t>();
    return std::nullopt;
}

std::optional<double> number_at(const json& object, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const json& v = child(object, key); v.is_number()) return v.get<double>();
    return std::nullopt;
}

std::string text_at(const json& object, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const json& v = child(object, key); v.is_string()) return v.get<std::string>();
    return {};
}

/// A size as 224, [224, 192] or {"height", "width"}.
std::optional<std::pair<std::int64_t, std::int64_t>> pair_of(const json& v) {
    if (v.is_number_integer()) return std::pair{v.get<std::int64_t>(), v.get<std::int64_t>()};
    if (v.is_array() && v.size() >= 2 && v[v.size() - 1].is_number_integer() && v[v.size() - 2].is_number_integer())
        return std::pair{v[v.size() - 2].get<std::int64_t>(), v[v.size() - 1].get<std::int64_t>()};
    return std::nullopt;
}

/// The number of heads of timm's models by name: it is in no tensor.
std::optional<std::int64_t> heads_by_name(const std::string& architecture, std::int64_t width) {
    struct Known {
        const char* part;
        std::int64_t width, heads;
    };
    // timm/models/vision_transformer.py, deit.py, eva.py.
    static const Known known[] = {
        {"_tiny_", 192, 3},        {"_small_", 384, 6},      {"_base_", 768, 12},       {"_large_", 1024, 16},
        {"_huge_plus_", 1280, 20}, {"_huge_", 1280, 16},     {"_giant_", 1408, 16},     {"_giant_", 1536, 24},
        {"_giantopt_", 1536, 16},  {"_gigantic_", 1664, 16}, {"_so400m_", 1152, 16},    {"_medium_", 512, 8},
        {"_mediumd_", 512, 8},     {"_betwixt_", 640, 10},   {"_little_", 320, 5},      {"_wee_", 256, 4},
        {"_pwee_", 256, 4},        {"_dlittle_", 320, 5},    {"_dpwee_", 256, 4},       {"_dwee_", 256, 4},
        {"_xsmall_", 256, 4},      {"_small_plus_", 384, 6}, {"_7b_", 4096, 32},        {"_base_", 896, 14},
        {"_so150m_", 896, 14},     {"_so150m2_", 832, 13},   {"_intern300m_", 1024, 16}};
    for (const Known& k : known)
        if (width == k.width && architecture.find(k.part) != std::string::npos) return k.heads;
    return std::nullopt;
}

Result<Activation> activation_named(std::string name, const char* key) {
    if (name == "gelu") return Activation::Gelu;
    if (name == "gelu_tanh" || name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::GeluTanh;
    if (name == "quick_gelu") return Activation::QuickGelu;
    if (name == "silu" || name == "swish") return Activation::Silu;
    if (name == "relu") return Activation::Relu;
    return fail(ErrorCode::Unsupported, "{} is '{}', expected gelu, gelu_pytorch_tanh, quick_gelu, silu or relu", key,
                name);
}

}  // namespace

Recognition recognise_dialect(const Checkpoint& checkpoint) {
    const auto found = find_dialect(checkpoint);
    if (!found) {
        if (checkpoint.has("encoder.layers.0.self_attn.in_proj_weight") ||
            checkpoint.has("transformer.layers.0.self_attn.in_proj_weight") ||
            checkpoint.has("layers.0.self_attn.in_proj_weight"))
            return {0.3,
                    "names of nn.TransformerEncoder: whether norms stand before or after, the activation and the "
                    "number of heads are not in the file; save the "
                    "model as TorchScript instead"};
        return {0, "no patch embedding and blocks of a vision transformer under any known names"};
    }
    const Names names(checkpoint, *found->dialect, found->prefix);
    std::int64_t depth = 0;
    while (depth < 4096 && names.has(fmt::format("blocks.{}.norm1.weight", depth))) ++depth;
    const auto patch = names.shape("patch_embed.proj.weight");
    if (depth == 0 || patch.size() != 4)
        return {0.1, fmt::format("{} names, but {}", found->dialect->name,
                                 depth == 0 ? "no blocks" : "no convolution cuts the patches")};
    return {0.95, fmt::format("{} names: {}, {} blocks, width {}, patch {}x{}", found->dialect->name,
                              names.called("patch_embed.proj.weight"), depth, patch[0], patch[2], patch[3])};
}

Result<Translation> translate(const Checkpoint& checkpoint) {
    const auto found = find_dialect(checkpoint);
    if (!found)
        return fail(ErrorCode::Unsupported, "this is no plain vision transformer: {}",
                    recognise_dialect(checkpoint).why);
    const Dialect& dialect = *found->dialect;
    const Names names(checkpoint, dialect, found->prefix);
    const std::string dialect_name = dialect.name;
    const bool timm = dialect_name == "timm", clip = dialect_name == "transformers clip",
               openclip = dialect_name == "openclip", dinov3 = dialect_name == "transformers dinov3";
    Translation out;
    out.dialect = dialect_name;
    VitConfig& c = out.config;

    // Which part of the configuration is about the image tower.
    const json& root = checkpoint.config;
    const json& vision = child(root, "vision_config").is_object() ? child(root, "vision_config") : root;
    const json& arguments = child(root, "model_args");
    const json& pretrained = child(root, "pretrained_cfg");
    const json& open = child(child(root, "model_cfg"), "vision_cfg");
    // OpenCLIP around a timm trunk names it in its own configuration.
    const std::string trunk = timm ? text_at(open, {"timm_model_name"}) : "";
    const std::string architecture = trunk.empty() ? text_at(root, {"architecture"}) : trunk;
    const std::string model_type = text_at(vision, {"model_type"});

    // ---- shapes
    const auto patch = names.shape("patch_embed.proj.weight");
    if (patch.size() != 4)
        return fail(ErrorCode::Unsupported, "{} is {}, expected a convolution [width, 3, patch, patch]",
                    names.called("patch_embed.proj.weight"), shape_text(patch));
    if (patch[1] != 3)
        return fail(ErrorCode::Unsupported, "{} is {}: the model takes {} channels, expected 3",
                    names.called("patch_embed.proj.weight"), shape_text(patch), patch[1]);
    c.width = patch[0];
    c.patch_height = patch[2];
    c.patch_width = patch[3];
    c.depth = 0;
    while (c.depth < 4096 && names.has(fmt::format("blocks.{}.norm1.weight", c.depth))) ++c.depth;
    if (c.depth == 0)
        return fail(ErrorCode::Unsupported, "{} is missing: there are no blocks",
                    names.called("blocks.0.norm1.weight"));
    if (!names.has("blocks.0.attn.qkv.weight"))
        return fail(ErrorCode::BadInput, "{} is missing, expected [{}, {}]", names.called("blocks.0.attn.qkv.weight"),
                    3 * c.width, c.width);
    const auto fc1 = names.shape("blocks.0.mlp.fc1.weight"), fc2 = names.shape("blocks.0.mlp.fc2.weight");
    if (fc1.size() != 2 || fc2.size() != 2)
        return fail(ErrorCode::BadInput, "{} is {}, expected a matrix",
                    names.called(fc1.size() != 2 ? "blocks.0.mlp.fc1.weight" : "blocks.0.mlp.fc2.weight"),
                    shape_text(fc1.size() != 2 ? fc1 : fc2));
    c.mlp_hidden = fc2[1];
    c.gated_mlp = fc1[0] == 2 * fc2[1];
    c.patch_bias = names.has("patch_embed.proj.bias");
    c.class_token = names.has("cls_token");
    c.distillation_token = names.has("dist_token");
    c.registers = 0;
    if (const auto registers = names.shape("reg_token"); registers.size() >= 2)
        c.registers = registers[registers.size() - 2];
    c.pre_norm = names.has("norm_pre.weight");
    c.final_norm = names.has("norm.weight");
    c.fc_norm = names.has("fc_norm.weight");
    c.qkv_bias = names.has("blocks.0.attn.qkv.bias");
    c.proj_bias = names.has("blocks.0.attn.proj.bias");
    c.mlp_bias = names.has("blocks.0.mlp.fc1.bias");
    c.qk_norm = names.has("blocks.0.attn.q_norm.weight");
    c.layer_scale = names.has("blocks.0.ls1.gamma");
    c.learned_positions = names.has("pos_embed");
    if (!names.has("blocks.0.norm1.bias") || (c.qk_norm && !names.has("blocks.0.attn.q_norm.bias")))
        return fail(
            ErrorCode::Unsupported,
            "{} is missing: norms without a bias are RMS norms, which this version does not know",
            names.called(names.has("blocks.0.norm1.bias") ? "blocks.0.attn.q_norm.bias" : "blocks.0.norm1.bias"));

    // Relatives of timm that compute something else with the very same tensors, known by name alone.
    if (timm && architecture.find("_rpn_") != std::string::npos)
        return fail(ErrorCode::Unsupported, "{} norms after each branch, which this version does not know",
                    architecture);
    if (timm && c.learned_positions &&
        (architecture.find("rope") != std::string::npos || architecture.find("eva02") != std::string::npos))
        return fail(ErrorCode::Unsupported,
                    "{} has rotary positions beside learned ones, which this version does not know", architecture);
    if (timm && c.learned_positions && checkpoint.has(found->prefix + "blocks.0.attn.q_bias") &&
        !architecture.starts_with("eva_"))
        return fail(ErrorCode::Unsupported,
                    "{}blocks.0.attn.q_bias marks a relative of EVA or BEiT, and whether it has rotary positions is in "
                    "no tensor",
                    checkpoint.stripped_prefix + found->prefix);

    // ---- heads: in no tensor
    std::optional<std::int64_t> heads = integer_at(vision, {"num_attention_heads", "num_heads"});
    if (!heads) heads = integer_at(arguments, {"num_heads"});
    if (!heads && open.is_object()) {
        if (const auto head_width = integer_at(open, {"head_width"}); head_width && *head_width > 0)
            heads = c.width / *head_width;
        else
            heads = c.width / 64;  // open_clip.model.CLIPVisionCfg.head_width
    }
    if (!heads && c.qk_norm)
        if (const auto size = names.shape("blocks.0.attn.q_norm.weight"); size.size() == 1 && size[0] > 0)
            heads = c.width / size[0];
    if (!heads) heads = heads_by_name(architecture, c.width);
    if (!heads) {
        // Widths whose published models do not have 64 channels a head.
        static const std::map<std::int64_t, std::int64_t> published{
            {1152, 16}, {1280, 16}, {1408, 16}, {1664, 16}, {4096, 32}};
        if (const auto it = published.find(c.width); it != published.end())
            heads = it->second;
        else if (c.width % 64 == 0)
            heads = c.width / 64;
        else
            return fail(ErrorCode::Unsupported,
                        "the number of heads cannot be told: it is in no tensor, and the width {} is not a multiple of "
                        "64; put {{\"num_heads\": N}} into NAME.json "
                        "beside the file",
                        c.width);
        out.notes.push_back(fmt::format("assumed: {} heads, by the width {} (the file does not say)", *heads, c.width));
    }
    if (*heads < 1 || c.width % *heads != 0)
        return fail(ErrorCode::BadInput, "the configuration says {} heads, which do not divide the width {}", *heads,
                    c.width);
    c.heads = *heads;

    // ---- norms and activation
    auto eps = number_at(vision, {"layer_norm_eps", "norm_eps"});
    if (openclip && !eps) eps = number_at(child(open, "norm_kwargs"), {"eps"});
    const bool timm_rope = timm && !c.learned_positions;
    c.norm_eps = eps ? *eps : openclip || clip || (timm && c.pre_norm) || timm_rope || dinov3 ? 1e-5 : 1e-6;
    if (dialect_name == "transformers" && !eps) c.norm_eps = c.layer_scale ? 1e-6 : 1e-12;  // Dinov2Config, ViTConfig
    if (clip && !c.class_token && !eps) c.norm_eps = 1e-6;                                  // SiglipVisionConfig
    if (!(c.norm_eps > 0) || c.norm_eps > 1)
        return fail(ErrorCode::BadInput, "the configuration's norm epsilon is {}, expected a small positive number",
                    c.norm_eps);
    const std::string act = text_at(vision, {"hidden_act", "act_layer"});
    const std::string act_timm = text_at(arguments, {"act_layer"});
    const auto lower_name = [&] {
        std::string text = architecture + " " + checkpoint.path.filename().string();
        std::transform(text.begin(), text.end(), text.begin(),
                       [](unsigned char ch) { return static_cast<char>(std::tolower(ch)); });
        return text;
    }();
    if (const json& quick = child(child(root, "model_cfg"), "quick_gelu"); openclip && quick.is_boolean()) {
        c.activation = quick.get<bool>() ? Activation::QuickGelu : Activation::Gelu;
    } else if (const json& flat = child(root, "quick_gelu"); flat.is_boolean()) {
        c.activation = flat.get<bool>() ? Activation::QuickGelu : Activation::Gelu;
    } else if (openclip && child(root, "model_cfg").is_object()) {
        // open_clip.model.CLIPVisionCfg without quick_gelu
        c.activation =
            text_at(child(open, "act_kwargs"), {"approximate"}) == "tanh" ? Activation::GeluTanh : Activation::Gelu;
    } else if (!act.empty()) {
        c.activation = VITRINE_TRY(activation_named(act, "hidden_act"));
    } else if (!act_timm.empty()) {
        c.activation = VITRINE_TRY(activation_named(act_timm, "act_layer"));
    } else if (lower_name.find("quickgelu") != std::string::npos) {
        c.activation = Activation::QuickGelu;
    } else if (openclip || (timm && c.pre_norm && architecture.empty())) {
        return fail(ErrorCode::Unsupported,
                    "a CLIP image tower, but whether it was trained with GELU or quick GELU is in no tensor; put "
                    "{{\"quick_gelu\": true}} (OpenAI's) or false "
                    "(most of OpenCLIP's) into NAME.json beside the file");
    } else if (clip) {
        return fail(ErrorCode::Unsupported,
                    "a CLIP or SigLIP image tower of transformers without its config.json, which names the activation; "
                    "put the file back beside it");
    } else if (timm && architecture.find("siglip") != std::string::npos) {
        // timm's SigLIP models differ: the first ones run exact GELU, these the tanh form that they were trained with
        // (timm/models/vision_transformer.py, act_layer of each entry).
        static constexpr std::array tanh_names{"patch32_siglip", "large_patch16_siglip_512",
                                               "large_patch16_siglip_gap_512", "so400m_patch16_siglip", "giantopt"};
        const bool tanh = std::any_of(tanh_names.begin(), tanh_names.end(),
                                      [&](const char* part) { return architecture.find(part) != std::string::npos; });
        c.activation = tanh ? Activation::GeluTanh : Activation::Gelu;
    } else if (timm && names.has("attn_pool.latent") && architecture.empty()) {
        return fail(ErrorCode::Unsupported,
                    "an attention-pooled image tower (SigLIP) without its configuration, which names the activation; "
                    "put {{\"act_layer\": "
                    "\"gelu_tanh\"}} into NAME.json beside the file");
    } else {
        c.activation = Activation::Gelu;
    }
    if (c.gated_mlp && (timm || dialect_name == "transformers"))
        c.activation = Activation::Silu;  // SwiGLU, whatever hidden_act says

    // ---- positions
    if (timm) {
        const bool dinov2_original = checkpoint.has(found->prefix + "register_tokens") ||
                                     (checkpoint.has(found->prefix + "mask_token") && c.layer_scale);
        c.position_resize = dinov2_original ? PositionResize::BicubicOffset : PositionResize::BicubicAntialias;
    } else if (dialect_name == "torchvision") {
        c.position_resize = PositionResize::BicubicAligned;
    } else {
        c.position_resize = openclip ? PositionResize::BicubicAntialias : PositionResize::Bicubic;
    }
    std::optional<std::pair<std::int64_t, std::int64_t>> image;
    for (const json* place : {&child(arguments, "img_size"), &child(vision, "image_size"), &child(open, "image_size"),
                              &child(root, "img_size"), &child(pretrained, "input_size"), &child(root, "input_size")})
        if (!image) image = pair_of(*place);
    if (image && (image->first < c.patch_height || image->second < c.patch_width || image->first > 65536 ||
                  image->second > 65536))
        return fail(ErrorCode::BadInput, "the configuration's input size is {} x {}, which holds no patch of {} x {}",
                    image->first, image->second, c.patch_height, c.patch_width);
    const std::int64_t front = (c.class_token ? 1 : 0) + (c.distillation_token ? 1 : 0);
    if (c.learned_positions) {
        const auto shape = names.shape("pos_embed");
        if (shape.size() < 2)
            return fail(ErrorCode::BadInput, "{} is {}, expected [1, tokens, {}]", names.called("pos_embed"),
                        shape_text(shape), c.width);
        const std::int64_t length = shape[shape.size() - 2];
        std::vector<std::int64_t> prefixes{front};
        if (timm) {
            for (const std::int64_t other : {front + c.registers, std::int64_t{0}})
                if (std::find(prefixes.begin(), prefixes.end(), other) == prefixes.end()) prefixes.push_back(other);
        }
        bool settled = false;
        std::int64_t rows = 0, cols = 0;
        if (image) {
            rows = image->first / c.patch_height;
            cols = image->second / c.patch_width;
            for (const std::int64_t prefix : prefixes)
                if (!settled && length - prefix == rows * cols) c.position_prefix = prefix, settled = true;
        }
        if (!settled) {
            for (const std::int64_t prefix : prefixes) {
                const auto side = static_cast<std::int64_t>(
                    std::llround(std::sqrt(static_cast<double>(std::max<std::int64_t>(0, length - prefix)))));
                if (settled || side < 1 || side * side != length - prefix) continue;
                c.position_prefix = prefix;
                rows = cols = side;
                settled = true;
                if (prefix != front && !image)
                    out.notes.push_back(
                        fmt::format("assumed: {} x {} patches, and {} of the {} prefix tokens with a position (by the "
                                    "{} positions)",
                                    side, side, prefix, front + c.registers, length));
            }
            if (settled && image)
                out.notes.push_back(
                    fmt::format("the configuration's input {} x {} does not fit the {} positions; taken as {} x {}",
                                image->first, image->second, length, rows * c.patch_height, cols * c.patch_width));
        }
        if (!settled)
            return fail(ErrorCode::Unsupported,
                        "{} has {} positions, which make no square grid, and the configuration gives no input size "
                        "that does; put "
                        "{{\"input_size\": [3, H, W]}} into NAME.json beside the file",
                        names.called("pos_embed"), length);
        c.image_height = rows * c.patch_height;
        c.image_width = cols * c.patch_width;
    } else {
        c.position_prefix = 0;
        // Without positions of either kind a transformer sees a bag of patches: it must be DINOv3's rotary ones.
        const bool known = dinov3 || lower_name.find("dinov3") != std::string::npos ||
                           checkpoint.has(found->prefix + "rope_embed.periods") ||
                           checkpoint.has(found->prefix + "storage_tokens");
        if (!known)
            return fail(
                ErrorCode::Unsupported,
                "there are no learned positions, and only DINOv3's rotary ones are known here; put {{\"architecture\": "
                "\"...dinov3...\"}} into NAME.json if that is what it is");
        const auto theta = number_at(vision, {"rope_theta"});
        c.rope_theta = theta.value_or(100.0);
        if (!(*c.rope_theta > 1))
            return fail(ErrorCode::BadInput, "rope_theta is {}, expected more than 1", *c.rope_theta);
        const auto size = image.value_or(std::pair{16 * c.patch_height, 16 * c.patch_width});
        c.image_height = size.first / c.patch_height * c.patch_height;
        c.image_width = size.second / c.patch_width * c.patch_width;
        if (!image)
            out.notes.push_back(
                fmt::format("assumed: input {} x {}; rotary positions take any", c.image_height, c.image_width));
    }

    // ---- readout and head
    const auto head = names.shape("head.weight");
    std::string pool = text_at(arguments, {"global_pool"}).empty() ? text_at(root, {"global_pool"})
                                                                   : text_at(arguments, {"global_pool"});
    if (const std::string open_pool = text_at(open, {openclip ? "pool_type" : "timm_pool"});
        (openclip || !trunk.empty()) && !open_pool.empty())
        pool = open_pool == "tok" ? "token" : open_pool;
    // CLIPA (open_clip.transformer.VisionTransformer._pool): the last norm comes after the mean, as timm's fc_norm.
    const json& after_pool = child(open, "final_ln_after_pool");
    const bool norm_after_pool = openclip && pool == "avg" && after_pool.is_boolean() && after_pool.get<bool>();
    if (norm_after_pool) std::swap(c.final_norm, c.fc_norm);
    if (openclip && !c.pre_norm && !open.is_object())
        return fail(ErrorCode::Unsupported,
                    "a CLIP image tower without ln_pre, which CLIPA's have not either, and whether it reads the class "
                    "token or the mean is in no tensor; put open_clip_config.json beside the file");
    if (names.has("attn_pool.latent")) {
        c.pool = Pool::AttentionPool;
        const auto hidden = names.shape("attn_pool.mlp.fc1.weight");
        c.attention_pool_hidden = hidden.empty() ? c.mlp_hidden : hidden[0];
    } else if (c.fc_norm || pool == "avg" || !c.class_token) {
        c.pool = Pool::MeanPatches;
    } else if (!pool.empty() && pool != "token") {
        return fail(ErrorCode::Unsupported,
                    "global_pool is '{}', which this version does not know; expected token, avg or map", pool);
    } else {
        c.pool = Pool::ClassToken;
    }
    if (timm_rope && pool.empty() && c.class_token)
        out.notes.emplace_back("assumed: features are read from the class token (timm's own default is the mean)");
    if (pool == "map" && c.pool != Pool::AttentionPool)
        return fail(ErrorCode::BadInput, "global_pool is map, but {} is missing", names.called("attn_pool.latent"));
    if (clip && !c.class_token && c.pool != Pool::AttentionPool && head.empty())
        out.notes.emplace_back("no pooling head in the file: features are the mean of the patches");
    if (clip && checkpoint.has("classifier.weight")) {
        // CLIPForImageClassification takes the mean of the patches before the last norm, Siglip's after it.
        c.pool = Pool::MeanPatches;
        if (c.class_token) c.final_norm = false;
    }
    const bool head_used = names.has("head.weight");
    if (head_used && head.size() != 2)
        return fail(ErrorCode::BadInput, "{} is {}, expected a matrix", names.called("head.weight"), shape_text(head));
    c.classes = 0;
    c.features = 0;
    c.head_bias = names.has("head.bias");
    if (head_used) {
        const Row* row = nullptr;
        names.origin("head.weight", &row);
        const std::int64_t answers = row != nullptr && row->transposed ? head[1] : head[0];
        const std::int64_t from = row != nullptr && row->transposed ? head[0] : head[1];
        const bool projection = openclip || (clip && !checkpoint.has("classifier.weight"));
        (projection ? c.features : c.classes) = answers;
        if (dialect_name == "transformers" && from == 2 * c.width) c.pool = Pool::ClassAndMean;
    }
    c.distillation_head = names.has("head_dist.weight");
    if (c.distillation_head && !(c.distillation_token && head_used))
        return fail(ErrorCode::BadInput, "{} is there without the distillation token and the first head",
                    names.called("head_dist.weight"));

    // ---- gather
    std::set<std::string> used;
    for (const auto& [ours, shape] : expected_tensors(c))
        out.tensors.emplace_back(
            ours, VITRINE_TRY(names.read(norm_after_pool && ours.starts_with("fc_norm.") ? ours.substr(3) : ours, shape,
                                         used)));
    for (auto& [name, tensor] : out.tensors) {
        // DINOv3's own code multiplies this bias by a mask that is zero for keys; the numbers under the mask mean
        // nothing.
        if (name.ends_with("attn.qkv.bias") && checkpoint.has(found->prefix + name + "_mask"))
            tensor.narrow(0, c.width, c.width).zero_();
    }

    // ---- what is left. A tensor inside the blocks that has no place is computation we would leave out: that is
    // refused.
    std::vector<std::string> unused;
    for (const auto& [name, entry] : checkpoint.file.tensors) {
        if (used.count(name) != 0) continue;
        if (entry.count() == 0) continue;  // DINOv3 without registers keeps an empty tensor
        if (beside_the_point(name)) {
            unused.push_back(name);
            continue;
        }
        static constexpr std::array words{"block", "layers.", "layer.", "attn", "stage",
                                          "embed", "token",   "pos_",   "patch"};
        const bool inside = std::any_of(words.begin(), words.end(),
                                        [&](const char* word) { return name.find(word) != std::string::npos; });
        if (inside)
            return fail(ErrorCode::Unsupported,
                        "{}{} has no place in a plain vision transformer; what it does is not known here",
                        checkpoint.stripped_prefix, name);
        unused.push_back(name);
    }
    if (!unused.empty())
        out.notes.push_back(fmt::format(
            "{} tensors were left unused: {}{}", unused.size(),
            fmt::join(unused.begin(),
                      unused.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(unused.size(), 4)), ", "),
            unused.size() > 4 ? ", ..." : ""));
    return out;
}

}  // namespace vitrine::plugin::vit
