// The tiny vision transformer written out in double precision with every map formed: what tests hold methods against.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>

#include <vitrine/model.h>

namespace vitrine {

/// Weights by timm's names; a class token, registers behind it, positions on the patches, one answer from the class
/// token: what tiny() of the architecture "vit" is.
class PlainVit {
  public:
    explicit PlainVit(Model& model) : heads(model.info().heads), depth(model.info().layers) {
        for (const auto& [name, tensor] : model.parameters()) weights[name] = tensor.detach().to(at::kDouble);
        patch = model.info().patch_height;
        prefix = 1 + (weights.count("reg_token") != 0 ? weights.at("reg_token").size(1) : 0);
    }

    /// Sees and may change what passes: "blocks.1.heads" [heads, tokens, dim], "blocks.1.attn", "blocks.1.mlp" and
    /// "blocks.1" [tokens, width].
    using Change = std::function<at::Tensor(const std::string&, const at::Tensor&)>;

    /// One list entry a layer.
    struct Run {
        at::Tensor embedding;                           ///< [tokens, width]
        std::vector<at::Tensor> normed;                 ///< what the attention is given
        std::vector<at::Tensor> maps, values, outputs;  ///< [heads, tokens, ...]
        std::vector<at::Tensor> attention, mlp, tokens;
        at::Tensor features;  ///< [width], what the head is given
        at::Tensor logits;    ///< [classes]
    };

    at::Tensor weight(const std::string& name) const { return weights.at(name); }
    at::Tensor norm(const at::Tensor& x, const std::string& name) const {
        const at::Tensor moved = x - x.mean(-1, true);
        return moved / (moved.square().mean(-1, true) + 1e-6).sqrt() * weight(name + ".weight") +
               weight(name + ".bias");
    }
    at::Tensor linear(const at::Tensor& x, const std::string& name) const {
        return at::matmul(x, weight(name + ".weight").t()) + weight(name + ".bias");
    }
    at::Tensor answer(const at::Tensor& tokens) const { return linear(norm(tokens, "norm"), "head"); }

    Run run(const at::Tensor& pixels, const Change& change = {}) const {
        const auto pass = [&](const std::string& name, const at::Tensor& x) { return change ? change(name, x) : x; };
        Run out;
        at::Tensor x = at::conv2d(pixels.to(at::kDouble), weight("patch_embed.proj.weight"),
                                  weight("patch_embed.proj.bias"), {patch, patch})[0]
                           .flatten(1)
                           .t();
        x = x + weight("pos_embed")[0];
        std::vector<at::Tensor> parts{weight("cls_token")[0]};
        if (prefix > 1) parts.push_back(weight("reg_token")[0]);
        parts.push_back(x);
        x = out.embedding = at::cat(parts);
        const std::int64_t n = x.size(0), width = x.size(1), dim = width / heads;
        for (std::int64_t layer = 0; layer < depth; ++layer) {
            const std::string block = "blocks." + std::to_string(layer);
            out.normed.push_back(pass(block + ".norm1", norm(x, block + ".norm1")));
            const auto qkv = linear(out.normed.back(), block + ".attn.qkv")
                                 .reshape({n, 3, heads, dim})
                                 .permute({1, 2, 0, 3})
                                 .unbind(0);
            out.values.push_back(qkv[2]);
            out.maps.push_back(
                at::softmax(at::matmul(qkv[0], qkv[1].transpose(1, 2)) / std::sqrt(static_cast<double>(dim)), -1));
            out.outputs.push_back(pass(block + ".heads", at::matmul(out.maps.back(), qkv[2])));
            out.attention.push_back(pass(
                block + ".attn", linear(out.outputs.back().transpose(0, 1).reshape({n, width}), block + ".attn.proj")));
            x = x + out.attention.back();
            at::Tensor hidden = linear(norm(x, block + ".norm2"), block + ".mlp.fc1");
            hidden = hidden * 0.5 * (1 + (hidden / std::sqrt(2.0)).erf());
            out.mlp.push_back(pass(block + ".mlp", linear(hidden, block + ".mlp.fc2")));
            x = pass(block, x + out.mlp.back());
            out.tokens.push_back(x);
        }
        out.features = norm(x[0], "norm");
        out.logits = linear(out.features, "head");
        return out;
    }

    std::map<std::string, at::Tensor> weights;
    std::int64_t heads, depth, patch, prefix;
};

}  // namespace vitrine
