// Operators that hide an attention inside: replaced by the same computation in operators that can be seen and
// differentiated.
//
// torchscript makes them of torchvision's ViT and nn.TransformerEncoder when they are traced without gradients.
#include "intercept.h"

#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_native_multi_head_attention_ops.h>
#include <ATen/ops/_transformer_encoder_layer_fwd_ops.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

namespace vitrine {

void link_hidden_attention() {}

namespace {

using OptionalTensor = std::optional<at::Tensor>;
using c10::DispatchKeySet;

bool wanted() {
    Recorder* recorder = Recorder::current();
    if (recorder == nullptr) return false;
    recorder->tick();
    return recorder->wants_mixings() || recorder->options().gradients;
}

/// Where attention is allowed, as the fused operator wants it. The hidden operators' masks say where it is not; kind 0
/// is [queries, keys], 1 is [batch, keys], 2 is [batch, heads, queries, keys]
/// (aten/src/ATen/native/transformers/attention.cpp).
OptionalTensor allowed(const OptionalTensor& mask, std::optional<std::int64_t> kind) {
    if (!mask || !mask->defined()) return {};
    at::Tensor open = mask->to(at::kBool).logical_not();
    if (kind.value_or(0) == 1) open = open.unsqueeze(1).unsqueeze(1);
    return open;
}

std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                          std::int64_t width, std::int64_t heads, const at::Tensor& qkv_weight,
                                          const at::Tensor& qkv_bias, const at::Tensor& out_weight,
                                          const at::Tensor& out_bias, const OptionalTensor& mask, bool need_weights,
                                          bool average, std::optional<std::int64_t> mask_kind) {
    if (query.is_nested()) {
        Recorder::current()->leave(
            {ErrorCode::Unsupported, "this model's attention runs over nested tensors, which are not supported"});
    }
    const auto part = [&](const at::Tensor& x, std::int64_t index) {
        const at::Tensor y = at::linear(x, qkv_weight.slice(0, index * width, (index + 1) * width),
                                        qkv_bias.slice(0, index * width, (index + 1) * width));
        return y.reshape({y.size(0), y.size(1), heads, width / heads}).transpose(1, 2);
    };
    const at::Tensor q = part(query, 0), k = part(key, 1), v = part(value, 2);
    const OptionalTensor open = allowed(mask, mask_kind);
    const at::Tensor mixed = at::scaled_dot_product_attention(q, k, v, open);
    const at::Tensor out =
        at::linear(mixed.transpose(1, 2).reshape({query.size(0), query.size(1), width}), out_weight, out_bias);
    if (!need_weights) return {out, at::Tensor()};
    const c10::impl::ExcludeDispatchKeyGuard hidden(kInterceptionKey);
    at::Tensor scores = at::matmul(q, k.transpose(-2, -1)) / std::sqrt(static_cast<double>(width / heads));
    if (open) scores = scores.masked_fill(open->logical_not(), -std::numeric_limits<double>::infinity());
    const at::Tensor map = at::softmax(scores, -1);
    return {out, average ? map.mean(1) : map};
}

std::tuple<at::Tensor, at::Tensor> multi_head(DispatchKeySet keys, const at::Tensor& query, const at::Tensor& key,
                                              const at::Tensor& value, std::int64_t width, std::int64_t heads,
                                              const at::Tensor& qkv_weight, const at::Tensor& qkv_bias,
                                              const at::Tensor& out_weight, const at::Tensor& out_bias,
                                              const OptionalTensor& mask, bool need_weights, bool average,
                                              std::optional<std::int64_t> mask_kind) {
    if (!wanted())
        return at::_ops::_native_multi_head_attention::redispatch(below(keys), query, key, value, width, heads,
                                                                  qkv_weight, qkv_bias, out_weight, out_bias, mask,
                                                                  need_weights, average, mask_kind);
    return attend(query, key, value, width, heads, qkv_weight, qkv_bias, out_weight, out_bias, mask, need_weights,
                  average, mask_kind);
}

at::Tensor encoder_layer(DispatchKeySet keys, const at::Tensor& src, std::int64_t width, std::int64_t heads,
                         const at::Tensor& qkv_weight, const at::Tensor& qkv_bias, const at::Tensor& out_weight,
                         const at::Tensor& out_bias, bool use_gelu, bool norm_first, double eps,
                         const at::Tensor& norm1_weight, const at::Tensor& norm1_bias, const at::Tensor& norm2_weight,
                         const at::Tensor& norm2_bias, const at::Tensor& up_weight, const at::Tensor& up_bias,
                         const at::Tensor& down_weight, const at::Tensor& down_bias, const OptionalTensor& mask,
                         std::optional<std::int64_t> mask_kind) {
    if (!wanted())
        return at::_ops::_transformer_encoder_layer_fwd::redispatch(
            below(keys), src, width, heads, qkv_weight, qkv_bias, out_weight, out_bias, use_gelu, norm_first, eps,
            norm1_weight, norm1_bias, norm2_weight, norm2_bias, up_weight, up_bias, down_weight, down_bias, mask,
            mask_kind);
    const auto attention = [&](const at::Tensor& x) {
        return std::get<0>(
            attend(x, x, x, width, heads, qkv_weight, qkv_bias, out_weight, out_bias, mask, false, false, mask_kind));
    };
    const auto feed = [&](const at::Tensor& x) {
        const at::Tensor up = at::linear(x, up_weight, up_bias);
        return at::linear(use_gelu ? at::gelu(up) : at::relu(up), down_weight, down_bias);
    };
    const auto norm1 = [&](const at::Tensor& x) { return at::layer_norm(x, {width}, norm1_weight, norm1_bias, eps); };
    const auto norm2 = [&](const at::Tensor& x) { return at::layer_norm(x, {width}, norm2_weight, norm2_bias, eps); };
    if (norm_first) {
        const at::Tensor x = src + attention(norm1(src));
        return x + feed(norm2(x));
    }
    const at::Tensor x = norm1(src + attention(src));
    return norm2(x + feed(x));
}

}  // namespace
}  // namespace vitrine

TORCH_LIBRARY_IMPL(aten, TESTING_ONLY_GenericMode, m) {
    m.impl("_native_multi_head_attention", TORCH_FN(vitrine::multi_head));
    m.impl("_transformer_encoder_layer_fwd", TORCH_FN(vitrine::encoder_layer));
}
