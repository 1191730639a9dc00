// The plain vision transformer: patches, positions, blocks of attention and MLP, and the readout.
#include "vit.h"

#include "linear_of_tokens.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/meshgrid.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <vitrine/capture.h>

namespace vitrine::plugin::vit {

namespace {

/// point() under a name that is only made while someone listens.
template <class... Args>
at::Tensor at_point(at::Tensor x, fmt::format_string<Args...> format, Args&&... args) {
    if (!points_wanted()) return x;
    return point(fmt::format(format, std::forward<Args>(args)...), std::move(x));
}

std::string shape_text(at::IntArrayRef shape) {
    return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

Status check(const VitConfig& c) {
    const auto positive = [](std::int64_t v) { return v >= 1 && v <= (std::int64_t{1} << 24); };
    if (!positive(c.width) || !positive(c.depth) || !positive(c.heads) || !positive(c.mlp_hidden) ||
        !positive(c.patch_height) || !positive(c.patch_width) || !positive(c.image_height) ||
        !positive(c.image_width) || c.classes < 0 || c.registers < 0)
        return fail(ErrorCode::BadInput,
                    "a vision transformer of width {}, depth {}, {} heads and patch {} x {} is impossible", c.width,
                    c.depth, c.heads, c.patch_height, c.patch_width);
    if (c.width % c.heads != 0)
        return fail(ErrorCode::BadInput, "the width {} is not a multiple of the {} heads", c.width, c.heads);
    if (c.image_height % c.patch_height != 0 || c.image_width % c.patch_width != 0)
        return fail(ErrorCode::BadInput, "the input {} x {} is not a multiple of the patch {} x {}", c.image_height,
                    c.image_width, c.patch_height, c.patch_width);
    if (c.rope_theta && (c.width / c.heads) % 4 != 0)
        return fail(ErrorCode::BadInput, "rotary positions need a head width that is a multiple of 4, found {}",
                    c.width / c.heads);
    if (c.pool == Pool::ClassToken && !c.class_token)
        return fail(ErrorCode::BadInput, "the answer is read from a class token, but there is none");
    return {};
}

/// How many hidden numbers of an MLP exist at once, 128 MiB of floats: a model of usual size never gets there.
constexpr std::int64_t kHiddenNumbers = std::int64_t{1} << 25;

/// transformers' and torch's quick_gelu: x * sigmoid(1.702 x).
at::Tensor quick_gelu(const at::Tensor& x) { return x * at::sigmoid(1.702 * x); }

}  // namespace

std::string_view name_of(Activation activation) {
    switch (activation) {
        case Activation::Gelu:
            return "GELU";
        case Activation::GeluTanh:
            return "tanh GELU";
        case Activation::QuickGelu:
            return "quick GELU";
        case Activation::Silu:
            return "SiLU";
        case Activation::Relu:
            return "ReLU";
    }
    return "";
}

NamedShapes expected_tensors(const VitConfig& c) {
    NamedShapes out;
    const std::int64_t w = c.width;
    const auto add = [&](std::string name, std::vector<std::int64_t> shape) {
        out.emplace_back(std::move(name), std::move(shape));
    };
    const auto affine = [&](const std::string& name, std::int64_t to, std::int64_t from, bool bias) {
        add(name + ".weight", {to, from});
        if (bias) add(name + ".bias", {to});
    };
    const auto norm = [&](const std::string& name, std::int64_t size) {
        add(name + ".weight", {size});
        add(name + ".bias", {size});
    };
    if (c.class_token) add("cls_token", {1, 1, w});
    if (c.distillation_token) add("dist_token", {1, 1, w});
    if (c.registers > 0) add("reg_token", {1, c.registers, w});
    if (c.learned_positions) add("pos_embed", {1, c.position_prefix + c.grid_height() * c.grid_width(), w});
    add("patch_embed.proj.weight", {w, 3, c.patch_height, c.patch_width});
    if (c.patch_bias) add("patch_embed.proj.bias", {w});
    if (c.pre_norm) norm("norm_pre", w);
    for (std::int64_t i = 0; i < c.depth; ++i) {
        const std::string block = fmt::format("blocks.{}.", i);
        norm(block + "norm1", w);
        affine(block + "attn.qkv", 3 * w, w, c.qkv_bias);
        if (c.qk_norm) {
            norm(block + "attn.q_norm", w / c.heads);
            norm(block + "attn.k_norm", w / c.heads);
        }
        affine(block + "attn.proj", w, w, c.proj_bias);
        if (c.layer_scale) add(block + "ls1.gamma", {w});
        norm(block + "norm2", w);
        affine(block + "mlp.fc1", c.mlp_hidden * (c.gated_mlp ? 2 : 1), w, c.mlp_bias);
        affine(block + "mlp.fc2", w, c.mlp_hidden, c.mlp_bias);
        if (c.layer_scale) add(block + "ls2.gamma", {w});
    }
    if (c.final_norm) norm("norm", w);
    if (c.pool == Pool::AttentionPool) {
        add("attn_pool.latent", {1, 1, w});
        affine("attn_pool.qkv", 3 * w, w, true);
        affine("attn_pool.proj", w, w, true);
        norm("attn_pool.norm", w);
        affine("attn_pool.mlp.fc1", c.attention_pool_hidden, w, true);
        affine("attn_pool.mlp.fc2", w, c.attention_pool_hidden, true);
    }
    const std::int64_t pooled = c.pool == Pool::ClassAndMean ? 2 * w : w;
    if (c.fc_norm) norm("fc_norm", pooled);
    if (const std::int64_t answers = c.classes > 0 ? c.classes : c.features; answers > 0) {
        affine("head", answers, pooled, c.head_bias);
        if (c.distillation_head) affine("head_dist", answers, pooled, c.head_bias);
    }
    return out;
}

VitModel::VitModel(VitConfig config, NamedTensors tensors) : config_(config), tensors_(std::move(tensors)) {
    bind();
    describe();
    // Only once: to() must not undo what a configuration or a person said about the input.
    preprocess_.input_height = config_.image_height;
    preprocess_.input_width = config_.image_width;
    preprocess_.resize_to = std::min(config_.image_height, config_.image_width);
}

Result<std::unique_ptr<VitModel>> VitModel::make(VitConfig config, NamedTensors tensors) {
    VITRINE_CHECK(check(config));
    const NamedShapes wanted = expected_tensors(config);
    NamedTensors ordered;
    for (const auto& [name, shape] : wanted) {
        const auto found =
            std::find_if(tensors.begin(), tensors.end(), [&](const auto& item) { return item.first == name; });
        if (found == tensors.end()) return fail(ErrorCode::BadInput, "{} is missing", name);
        if (found->second.sizes() != at::IntArrayRef(shape))
            return fail(ErrorCode::BadInput, "{} is {}, expected {}", name, shape_text(found->second.sizes()),
                        shape_text(shape));
        ordered.push_back(*found);
    }
    return std::unique_ptr<VitModel>(new VitModel(config, std::move(ordered)));
}

Result<std::unique_ptr<VitModel>> VitModel::fresh(VitConfig config, std::uint64_t seed, double layer_scale_init) {
    VITRINE_CHECK(check(config));
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    NamedTensors tensors;
    for (const auto& [name, shape] : expected_tensors(config)) {
        at::Tensor value;
        if (name.ends_with(".gamma"))
            value = at::full(shape, layer_scale_init, at::kFloat);
        else if (shape.size() == 1 && name.find("norm") != std::string::npos && name.ends_with(".weight"))
            value = at::ones(shape, at::kFloat);
        else if (name.ends_with(".bias"))
            value = at::zeros(shape, at::kFloat);
        // timm's init: truncated normal at 2 standard deviations; clamping differs from it in 5 % of the draws and in
        // nothing that matters.
        else
            value = at::randn(shape, generator, at::kFloat)
                        .clamp_(-2, 2)
                        .mul_(name == "cls_token" || name == "reg_token" ? 1e-6 : 0.02);
        tensors.emplace_back(name, value);
    }
    return make(config, std::move(tensors));
}

Result<std::unique_ptr<VitModel>> VitModel::spread(VitConfig config, std::uint64_t seed) {
    VITRINE_CHECK(check(config));
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    const double w = static_cast<double>(config.width);
    NamedTensors tensors;
    for (const auto& [name, shape] : expected_tensors(config)) {
        at::Tensor value = at::randn(shape, generator, at::kFloat);
        if (shape.size() == 1) {
            const bool centred_on_one =
                (name.find("norm") != std::string::npos && name.ends_with(".weight")) || name.ends_with(".gamma");
            value.mul_(0.2).add_(centred_on_one ? 1.0 : 0.0);
        } else if (name.find("qkv") != std::string::npos) {
            // A score is a sum of head_dim products of numbers of variance width * a^2, over sqrt(head_dim): deviation
            // width * a^2.
            value.mul_(std::sqrt(3.0 / w));
            // The values of the first kind only carry on; they need no spreading.
            value.narrow(0, 2 * config.width, config.width).mul_(std::sqrt(1.0 / 3.0));
        } else if (name.starts_with("patch_embed")) {
            value.mul_(1.0 / std::sqrt(3.0 * static_cast<double>(config.patch_height * config.patch_width)));
        } else if (shape.size() == 2) {
            value.mul_(std::sqrt(1.0 / static_cast<double>(shape[1])));
            if (name.starts_with("head")) value.mul_(2.0);
        }
        tensors.emplace_back(name, value);
    }
    return make(config, std::move(tensors));
}

void VitModel::bind() {
    const auto get = [&](const std::string& name) -> at::Tensor {
        const auto found =
            std::find_if(tensors_.begin(), tensors_.end(), [&](const auto& item) { return item.first == name; });
        return found == tensors_.end() ? at::Tensor{} : found->second;
    };
    const auto affine = [&](const std::string& name) { return Affine{get(name + ".weight"), get(name + ".bias")}; };
    class_token_ = get("cls_token");
    distillation_token_ = get("dist_token");
    register_tokens_ = get("reg_token");
    positions_ = get("pos_embed");
    patch_ = affine("patch_embed.proj");
    pre_norm_ = affine("norm_pre");
    norm_ = affine("norm");
    fc_norm_ = affine("fc_norm");
    head_ = affine("head");
    head_distillation_ = affine("head_dist");
    pool_latent_ = get("attn_pool.latent");
    pool_qkv_ = affine("attn_pool.qkv");
    pool_proj_ = affine("attn_pool.proj");
    pool_norm_ = affine("attn_pool.norm");
    pool_fc1_ = affine("attn_pool.mlp.fc1");
    pool_fc2_ = affine("attn_pool.mlp.fc2");
    blocks_.clear();
    for (std::int64_t i = 0; i < config_.depth; ++i) {
        const std::string block = fmt::format("blocks.{}.", i);
        blocks_.push_back({affine(block + "norm1"), affine(block + "attn.qkv"), affine(block + "attn.q_norm"),
                           affine(block + "attn.k_norm"), affine(block + "attn.proj"), affine(block + "norm2"),
                           affine(block + "mlp.fc1"), affine(block + "mlp.fc2"), get(block + "ls1.gamma"),
                           get(block + "ls2.gamma")});
    }
}

void VitModel::describe() {
    info_.architecture = "vit";
    info_.layers = config_.depth;
    info_.heads = config_.heads;
    info_.width = config_.width;
    info_.classes = config_.classes;
    // Normed or turned queries and keys lie beside those they were made from, which the values keep alive.
    info_.kept_widths = config_.qk_norm || config_.rope_theta ? 6 : 4;
    info_.patch_height = config_.patch_height;
    info_.patch_width = config_.patch_width;
    switch (config_.pool) {
        case Pool::MeanPatches:
            info_.readout = Readout::MeanPatches;
            break;
        case Pool::AttentionPool:
            info_.readout = Readout::AttentionPool;
            break;
        case Pool::ClassToken:
        case Pool::ClassAndMean:
            info_.readout = Readout::ClassToken;
            break;
    }
    // With a class token the last block's patch outputs no longer reach the answer, so CAM reads where they still do
    // (design, section 8).
    info_.cam_point = info_.readout == Readout::ClassToken ? fmt::format("blocks.{}.norm1", config_.depth - 1)
                                                           : fmt::format("blocks.{}", config_.depth - 1);
    info_.relu_only = config_.activation == Activation::Relu;
    info_.parameters = 0;
    info_.size_bytes = 0;
    for (const auto& [name, tensor] : tensors_) {
        info_.parameters += tensor.numel();
        info_.size_bytes += static_cast<std::int64_t>(tensor.nbytes());
    }
}

void VitModel::to(at::Device device, at::ScalarType dtype) {
    for (auto& [name, tensor] : tensors_) tensor = tensor.detach().to(device, dtype);
    bind();
    describe();
}

TokenLayout VitModel::layout(std::int64_t input_height, std::int64_t input_width) const {
    TokenLayout out;
    if (config_.class_token) out.prefix.emplace_back("cls");
    if (config_.distillation_token) out.prefix.emplace_back("dist");
    for (std::int64_t i = 0; i < config_.registers; ++i) out.prefix.push_back(fmt::format("reg{}", i));
    if (input_height < config_.patch_height || input_width < config_.patch_width ||
        input_height % config_.patch_height != 0 || input_width % config_.patch_width != 0) {
        out.unknown = fmt::format("the input {} x {} is not a multiple of the patch {} x {}", input_height, input_width,
                                  config_.patch_height, config_.patch_width);
        return out;
    }
    out.rows = input_height / config_.patch_height;
    out.cols = input_width / config_.patch_width;
    return out;
}

std::vector<NamedPoint> VitModel::points() const {
    std::vector<NamedPoint> out;
    out.push_back({"patch_embed", "patches before positions [batch, patches, width]"});
    out.push_back({"embed", "tokens before the first block, positions added [batch, tokens, width]"});
    for (std::int64_t i = 0; i < config_.depth; ++i) {
        out.push_back(
            {fmt::format("blocks.{}.norm1", i), "tokens after the norm before attention [batch, tokens, width]"});
        out.push_back(
            {fmt::format("blocks.{}.attn", i), "what attention adds, before layer scale [batch, tokens, width]"});
        out.push_back({fmt::format("blocks.{}.mid", i), "tokens after what attention adds [batch, tokens, width]"});
        out.push_back(
            {fmt::format("blocks.{}.norm2", i), "tokens after the norm before the MLP [batch, tokens, width]"});
        out.push_back(
            {fmt::format("blocks.{}.mlp", i), "what the MLP adds, before layer scale [batch, tokens, width]"});
        out.push_back({fmt::format("blocks.{}", i), "tokens after the block [batch, tokens, width]"});
    }
    if (config_.final_norm) out.push_back({"norm", "tokens after the last norm [batch, tokens, width]"});
    out.push_back({"head_input", "what the classifier is given [batch, width]"});
    return out;
}

at::Tensor VitModel::cast(const at::Tensor& tensor) const {
    if (!tensor.defined() || !compute_dtype || tensor.scalar_type() == *compute_dtype) return tensor;
    return tensor.to(*compute_dtype);
}

at::Tensor VitModel::linear(const at::Tensor& x, const Affine& affine) const {
    return affine.bias.defined() ? at::linear(x, cast(affine.weight), cast(affine.bias))
                                 : at::linear(x, cast(affine.weight));
}

at::Tensor VitModel::norm(const at::Tensor& x, const Affine& affine, std::int64_t width) const {
    return at::layer_norm(x, {width}, cast(affine.weight), cast(affine.bias), config_.norm_eps);
}

at::Tensor VitModel::activate(const at::Tensor& x) const {
    switch (config_.activation) {
        case Activation::Gelu:
            return at::gelu(x);
        case Activation::GeluTanh:
            return at::gelu(x, "tanh");
        case Activation::QuickGelu:
            return quick_gelu(x);
        case Activation::Silu:
            return at::silu(x);
        case Activation::Relu:
            return at::relu(x);
    }
    return x;
}

at::Tensor VitModel::mlp(const at::Tensor& x, const Affine& fc1, const Affine& fc2, bool gated) const {
    // The hidden tokens are the largest thing a run makes: of a large picture they are made a piece at a time. A graph
    // would hold all pieces anyway.
    const std::int64_t hidden_width = fc1.weight.size(0), tokens = x.dim() == 3 ? x.size(1) : 1;
    const std::int64_t most = std::max<std::int64_t>(1, kHiddenNumbers / (hidden_width * x.size(0)));
    if (tokens > most && !(at::GradMode::is_enabled() && x.requires_grad())) {
        auto out = at::empty_like(x);
        for (std::int64_t from = 0; from < tokens; from += most) {
            const std::int64_t count = std::min(most, tokens - from);
            out.narrow(1, from, count).copy_(mlp(x.narrow(1, from, count), fc1, fc2, gated));
        }
        return out;
    }
    auto hidden = linear(x, fc1);
    if (gated) {
        const auto halves = hidden.chunk(2, -1);
        hidden = activate(halves[0]) * halves[1];
    } else {
        hidden = activate(hidden);
    }
    const auto weight = cast(fc2.weight), bias = cast(fc2.bias);
    const bool fixed = !weight.requires_grad() && bias.defined() && !bias.requires_grad();
    if (fixed && hidden.dim() == 3 && at::GradMode::is_enabled() && hidden.requires_grad())
        return linear_of_tokens(hidden, weight, bias);
    return linear(hidden, fc2);
}

/// Learned positions for a grid of this size: [1, position_prefix + rows * cols, width].
at::Tensor VitModel::positions(std::int64_t rows, std::int64_t cols) const {
    const std::int64_t from_rows = config_.grid_height(), from_cols = config_.grid_width();
    if (rows == from_rows && cols == from_cols) return cast(positions_);
    const std::int64_t prefix = config_.position_prefix;
    auto grid = positions_.narrow(1, prefix, from_rows * from_cols).to(at::kFloat);
    grid = grid.reshape({1, from_rows, from_cols, config_.width}).permute({0, 3, 1, 2});
    switch (config_.position_resize) {
        case PositionResize::BicubicAntialias:
            grid = at::_upsample_bicubic2d_aa(grid, {rows, cols}, false);
            break;
        case PositionResize::Bicubic:
            grid = at::upsample_bicubic2d(grid, {rows, cols}, false);
            break;
        case PositionResize::BicubicOffset:
            // facebookresearch/dinov2 passes a scale factor with 0.1 cells added, and that factor, not the ratio of the
            // sizes, is what the interpolation steps by.
            grid = at::upsample_bicubic2d(grid, {rows, cols}, false,
                                          (static_cast<double>(rows) + 0.1) / static_cast<double>(from_rows),
                                          (static_cast<double>(cols) + 0.1) / static_cast<double>(from_cols));
            break;
        case PositionResize::BicubicAligned:
            grid = at::upsample_bicubic2d(grid, {rows, cols}, true);
            break;
    }
    grid = grid.permute({0, 2, 3, 1}).reshape({1, rows * cols, config_.width}).to(positions_.scalar_type());
    return cast(prefix > 0 ? at::cat({positions_.narrow(1, 0, prefix), grid}, 1) : grid);
}

at::Tensor VitModel::drop_path(const at::Tensor& x, std::int64_t index) const {
    // Without gradients nobody trains: validation between epochs sees the whole network.
    if (training_drop_path <= 0 || config_.depth < 2 || !at::GradMode::is_enabled()) return x;
    const double rate = training_drop_path * static_cast<double>(index) / static_cast<double>(config_.depth - 1);
    if (rate <= 0) return x;
    const double keep = 1.0 - rate;
    const auto mask = at::rand({x.size(0), 1, 1}, x.options().dtype(at::kFloat)).lt(keep).to(x.scalar_type());
    return x * mask.div(keep);
}

std::array<at::Tensor, 3> VitModel::Projection::operator()(const at::Tensor& x) const {
    const std::int64_t batch = x.size(0), tokens = x.size(1), dim = qkv.weight.size(0) / 3 / heads;
    // One unbind, not three selects: its gradient is one stack instead of three padded copies and their sum.
    const auto parts =
        at::linear(x, qkv.weight, qkv.bias).reshape({batch, tokens, 3, heads, dim}).permute({2, 0, 3, 1, 4}).unbind(0);
    auto q = parts[0], k = parts[1];
    if (q_norm.weight.defined()) {
        q = at::layer_norm(q, {dim}, q_norm.weight, q_norm.bias, norm_eps);
        k = at::layer_norm(k, {dim}, k_norm.weight, k_norm.bias, norm_eps);
    }
    if (cos.defined()) {
        // Only patches have a place to turn by; transformers' apply_rotary_pos_emb, halves swapped.
        const auto turn = [&](const at::Tensor& t) {
            const auto patches = t.narrow(2, prefix, tokens - prefix);
            const auto swapped = at::cat({-patches.narrow(3, dim / 2, dim / 2), patches.narrow(3, 0, dim / 2)}, 3);
            const auto turned = (patches * cos + swapped * sin).to(t.scalar_type());
            return prefix > 0 ? at::cat({t.narrow(2, 0, prefix), turned}, 2) : turned;
        };
        q = turn(q);
        k = turn(k);
    }
    return {q, k, parts[2]};
}

at::Tensor VitModel::attend(std::int64_t index, const Block& block, const at::Tensor& x, const Place& place) const {
    const std::int64_t batch = x.size(0), tokens = x.size(1);
    const auto cast_both = [&](const Affine& affine) { return Affine{cast(affine.weight), cast(affine.bias)}; };
    const Projection project{
        cast_both(block.qkv), cast_both(block.q_norm), cast_both(block.k_norm), place.cos, place.sin,
        config_.heads,        config_.prefix(),        config_.norm_eps};
    at::Tensor mixed;
    {
        const auto [q, k, v] = project(x);
        const MixingScope scope([&] {
            return MixingScope::Facts{fmt::format("blocks.{}.attn", index), index, true, place.tokens, place.tokens};
        });
        report_recipe([&] { return Recipe{x, project}; });
        mixed = at::scaled_dot_product_attention(q, k, v);
    }
    return linear(mixed.transpose(1, 2).reshape({batch, tokens, config_.width}), block.proj);
}

/// SigLIP's head: one learned query reads all tokens, then an MLP with a residual path. [batch, width]
at::Tensor VitModel::pool_by_attention(const at::Tensor& x, const TokenLayout& layout) const {
    const std::int64_t batch = x.size(0), tokens = x.size(1), heads = config_.heads, w = config_.width, dim = w / heads;
    const auto weight = cast(pool_qkv_.weight), bias = cast(pool_qkv_.bias);
    const auto q = at::linear(cast(pool_latent_), weight.narrow(0, 0, w), bias.narrow(0, 0, w))
                       .reshape({1, 1, heads, dim})
                       .transpose(1, 2)
                       .expand({batch, heads, 1, dim});
    const auto kv = at::linear(x, weight.narrow(0, w, 2 * w), bias.narrow(0, w, 2 * w))
                        .reshape({batch, tokens, 2, heads, dim})
                        .permute({2, 0, 3, 1, 4});
    at::Tensor mixed;
    {
        const MixingScope scope([&] {
            TokenLayout query;
            query.prefix.emplace_back("pool");
            return MixingScope::Facts{"attn_pool", -1, false, query, layout};
        });
        mixed = at::scaled_dot_product_attention(q, kv.select(0, 0), kv.select(0, 1));
    }
    auto out = linear(mixed.transpose(1, 2).reshape({batch, 1, w}), pool_proj_);
    out = out + mlp(norm(out, pool_norm_, w), pool_fc1_, pool_fc2_, false);
    return out.select(1, 0);
}

at::Tensor VitModel::forward(const at::Tensor& pixels) {
    TORCH_CHECK(pixels.dim() == 4 && pixels.size(1) == 3, "the input is ", pixels.sizes(),
                ", expected [batch, 3, height, width]");
    const Place place = place_of(pixels.size(2), pixels.size(3));
    auto x = embed(pixels, place.tokens);
    for (std::int64_t i = 0; i < config_.depth; ++i) x = run_block(i, std::move(x), place);
    return answer(std::move(x), place.tokens);
}

at::Tensor VitModel::forward_kept(const at::Tensor& pixels, const at::Tensor& kept) {
    Place place = place_of(pixels.size(2), pixels.size(3));
    const auto all = embed(pixels, place.tokens);  // positions are added by now
    const std::int64_t prefix = config_.prefix(), batch = all.size(0), count = kept.size(1);
    TORCH_CHECK(kept.dim() == 2 && kept.size(0) == batch && count > 0, "the patches to keep are ", kept.sizes(),
                ", expected [", batch, ", count]");
    const auto index = kept.to(all.device());
    auto x = all.narrow(1, prefix, all.size(1) - prefix)
                 .gather(1, index.unsqueeze(-1).expand({batch, count, config_.width}));
    if (prefix > 0) x = at::cat({all.narrow(1, 0, prefix), x}, 1);
    if (place.cos.defined()) {
        const auto turns = [&](const at::Tensor& t) {
            return t.index_select(0, index.reshape({-1})).reshape({batch, 1, count, t.size(1)});
        };
        place.cos = turns(place.cos);
        place.sin = turns(place.sin);
    }
    place.tokens.rows = count;
    place.tokens.cols = 1;
    place.tokens.unknown = "patches were left out";
    for (std::int64_t i = 0; i < config_.depth; ++i) x = run_block(i, std::move(x), place);
    return answer(std::move(x), place.tokens);
}

std::optional<Chain> VitModel::chain(std::int64_t input_height, std::int64_t input_width) {
    const Place place = place_of(input_height, input_width);
    return Chain{config_.depth, [this, place](const at::Tensor& pixels) { return embed(pixels, place.tokens); },
                 [this, place](std::int64_t block, const at::Tensor& x) { return run_block(block, x, place); },
                 [this, place](const at::Tensor& x) { return answer(x, place.tokens); }};
}

VitModel::Place VitModel::place_of(std::int64_t input_height, std::int64_t input_width) const {
    Place place{layout(input_height, input_width), {}, {}};
    TORCH_CHECK(place.tokens.known(), place.tokens.unknown);
    if (!config_.rope_theta) return place;
    // DINOv3: patch centres in [-1, 1] on both axes, head_dim / 4 frequencies each, in float32 whatever the model's
    // type.
    const auto compute = compute_dtype.value_or(patch_.weight.scalar_type());
    const std::int64_t dim = config_.width / config_.heads;
    const auto options = at::TensorOptions().dtype(at::kFloat).device(patch_.weight.device());
    const auto centres = [&](std::int64_t n) {
        return (at::arange(n, options) + 0.5) / static_cast<double>(n) * 2.0 - 1.0;
    };
    const auto grid = at::meshgrid({centres(place.tokens.rows), centres(place.tokens.cols)}, "ij");
    const auto coords = at::stack({grid[0], grid[1]}, -1).flatten(0, 1);  // [patches, 2]
    const auto exponents = at::arange(dim / 4, options) * (4.0 / static_cast<double>(dim));
    const auto frequencies = exponents.mul(-std::log(*config_.rope_theta)).exp();
    auto angles = (2.0 * std::numbers::pi * coords.unsqueeze(-1) * frequencies).flatten(1);
    angles = at::cat({angles, angles}, 1);  // [patches, head_dim]
    place.cos = angles.cos().to(compute);
    place.sin = angles.sin().to(compute);
    return place;
}

at::Tensor VitModel::embed(const at::Tensor& pixels, const TokenLayout& tokens) const {
    const std::int64_t batch = pixels.size(0), width = config_.width, prefix = config_.prefix();
    const auto compute = compute_dtype.value_or(patch_.weight.scalar_type());
    auto x = at::conv2d(pixels.to(patch_.weight.device(), compute), cast(patch_.weight), cast(patch_.bias),
                        {config_.patch_height, config_.patch_width});
    x = x.flatten(2).transpose(1, 2);
    x = at_point(std::move(x), "patch_embed");

    // Prefix tokens in order; the first `position_prefix` of them have a learned position.
    std::vector<at::Tensor> parts;
    if (prefix > 0) {
        std::vector<at::Tensor> front;
        for (const auto& token : {class_token_, distillation_token_, register_tokens_})
            if (token.defined()) front.push_back(cast(token));
        auto head = front.size() == 1 ? front.front() : at::cat(front, 1);
        parts.push_back(head);
    }
    if (config_.learned_positions) {
        const auto place = positions(tokens.rows, tokens.cols);
        const std::int64_t placed = config_.position_prefix;
        if (placed > 0) {
            auto head = parts.front();
            auto moved = head.narrow(1, 0, placed) + place.narrow(1, 0, placed);
            parts.front() = placed < prefix ? at::cat({moved, head.narrow(1, placed, prefix - placed)}, 1) : moved;
        }
        x = x + place.narrow(1, placed, tokens.rows * tokens.cols);
    }
    if (prefix > 0) x = at::cat({parts.front().expand({batch, prefix, width}), x}, 1);
    if (config_.pre_norm) x = norm(x, pre_norm_, width);
    return at_point(std::move(x), "embed");
}

at::Tensor VitModel::run_block(std::int64_t i, at::Tensor x, const Place& place) const {
    const Block& block = blocks_[static_cast<std::size_t>(i)];
    const std::int64_t width = config_.width;
    auto normed = at_point(norm(x, block.norm1, width), "blocks.{}.norm1", i);
    auto branch = at_point(attend(i, block, normed, place), "blocks.{}.attn", i);
    if (block.scale1.defined()) branch = branch * cast(block.scale1);
    x = at_point(x + drop_path(branch, i), "blocks.{}.mid", i);
    normed = at_point(norm(x, block.norm2, width), "blocks.{}.norm2", i);
    branch = at_point(mlp(normed, block.fc1, block.fc2, config_.gated_mlp), "blocks.{}.mlp", i);
    if (block.scale2.defined()) branch = branch * cast(block.scale2);
    return at_point(x + drop_path(branch, i), "blocks.{}", i);
}

at::Tensor VitModel::answer(at::Tensor x, const TokenLayout& tokens) const {
    const std::int64_t width = config_.width, prefix = config_.prefix();
    if (config_.final_norm) x = at_point(norm(x, norm_, width), "norm");

    const auto mean_of_patches = [&] { return x.narrow(1, prefix, x.size(1) - prefix).mean(1); };
    at::Tensor pooled, second;
    switch (config_.pool) {
        case Pool::ClassToken:
            pooled = x.select(1, 0);
            if (config_.distillation_head) second = x.select(1, 1);
            break;
        case Pool::MeanPatches:
            pooled = mean_of_patches();
            break;
        case Pool::ClassAndMean:
            pooled = at::cat({x.select(1, 0), mean_of_patches()}, 1);
            break;
        case Pool::AttentionPool:
            pooled = pool_by_attention(x, tokens);
            break;
    }
    report_readout([&] {
        if (config_.pool == Pool::AttentionPool) return at::ones({1}, at::kFloat);
        auto r = at::zeros({tokens.tokens()}, at::kFloat);
        const std::int64_t patches = tokens.rows * tokens.cols;
        const double on_class = config_.pool == Pool::MeanPatches    ? 0.0
                                : config_.pool == Pool::ClassAndMean ? 0.5
                                                                     : 1.0;
        if (on_class > 0 && config_.distillation_head)
            r.narrow(0, 0, 2).fill_(on_class / 2);
        else if (on_class > 0)
            r[0].fill_(on_class);
        if (on_class < 1) r.narrow(0, prefix, patches).fill_((1.0 - on_class) / static_cast<double>(patches));
        return r;
    });
    if (config_.fc_norm) pooled = norm(pooled, fc_norm_, pooled.size(1));
    pooled = at_point(std::move(pooled), "head_input");
    if (!head_.weight.defined()) return pooled.to(at::kFloat);
    auto logits = linear(pooled, head_);
    if (second.defined()) logits = (logits + linear(second, head_distillation_)) / 2;
    return logits.to(at::kFloat);
}

std::optional<std::string> VitModel::no_layer_answer() const {
    if (config_.classes == 0) return "it has no classes";
    return std::nullopt;
}

at::Tensor VitModel::layer_answer(const at::Tensor& tokens, const TokenLayout& layout) const {
    const auto normed = [&](const at::Tensor& x) { return config_.final_norm ? norm(x, norm_, config_.width) : x; };
    at::Tensor pooled;
    if (config_.pool == Pool::AttentionPool) {
        pooled = pool_by_attention(normed(tokens), layout);
    } else {
        pooled = normed(tokens.mean(1));
        // A head over class token and mean of the patches gets the mean of all tokens for both.
        if (config_.pool == Pool::ClassAndMean) pooled = at::cat({pooled, pooled}, 1);
    }
    if (config_.fc_norm) pooled = norm(pooled, fc_norm_, pooled.size(1));
    auto logits = linear(pooled, head_);
    if (config_.distillation_head) logits = (logits + linear(pooled, head_distillation_)) / 2;
    return logits.to(at::kFloat);
}

nlohmann::json timm_config(const VitModel& model, const std::string& name) {
    const VitConfig& c = model.config();
    const Preprocess& p = model.preprocess();
    const auto size = [](std::int64_t height, std::int64_t width) -> nlohmann::json {
        if (height == width) return height;
        return nlohmann::json::array({height, width});
    };
    // Readers floor(input / crop_pct): a quarter pixel more keeps the floor from falling one short.
    const bool cropped = p.resize == Preprocess::Resize::ShortSide && p.resize_to != c.image_height;
    const double crop_pct =
        cropped ? static_cast<double>(c.image_height) / (static_cast<double>(p.resize_to) + 0.25) : 1.0;
    nlohmann::json arguments{{"img_size", size(c.image_height, c.image_width)},
                             {"patch_size", size(c.patch_height, c.patch_width)},
                             {"embed_dim", c.width},
                             {"depth", c.depth},
                             {"num_heads", c.heads},
                             {"mlp_ratio", static_cast<double>(c.mlp_hidden) / static_cast<double>(c.width)},
                             {"class_token", c.class_token},
                             {"reg_tokens", c.registers},
                             {"no_embed_class", c.position_prefix == 0},
                             {"qk_norm", c.qk_norm}};
    if (c.layer_scale) arguments["init_values"] = 1e-4;
    nlohmann::json config{{"architecture", name},
                          {"num_classes", c.classes},
                          {"num_features", c.width},
                          {"global_pool", c.pool == Pool::MeanPatches     ? "avg"
                                          : c.pool == Pool::AttentionPool ? "map"
                                                                          : "token"},
                          {"model_args", arguments},
                          {"pretrained_cfg",
                           {{"input_size", {3, c.image_height, c.image_width}},
                            {"interpolation", std::string(name_of(p.interpolation))},
                            {"crop_pct", crop_pct},
                            {"crop_mode", p.resize == Preprocess::Resize::Exact ? "squash" : "center"},
                            {"mean", p.mean},
                            {"std", p.std},
                            {"num_classes", c.classes}}}};
    if (!model.labels().names.empty()) config["label_names"] = model.labels().names;
    return config;
}

}  // namespace vitrine::plugin::vit
