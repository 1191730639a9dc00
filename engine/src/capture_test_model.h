// A small transformer with spread-out weights for the tests of capture: every part of it is under the test's control.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <vitrine/capture.h>
#include <vitrine/model.h>

namespace vitrine::testing_model {

/// How the attention is written.
enum class Writing : std::uint8_t {
    Fused,
    Masked,
    Causal,
    Unfused,
    UnfusedMasked,
    InPlace,  ///< overwrites its queries after they were used
    Odd,      ///< scores that are no product
    Einsum,
    Baddbmm,  ///< as nn.MultiheadAttention writes it with a mask
    InPlaceScores,
    Where,
    HalfScores,   ///< casts between the steps
    TalkingHeads  ///< mixes the heads' maps before the values: cannot be followed
};

class SmallVit final : public Model {
  public:
    static constexpr std::int64_t kHeads = 3, kDim = 16, kWidth = kHeads * kDim, kPatch = 8, kClasses = 7;

    explicit SmallVit(Writing writing = Writing::Fused, std::int64_t depth = 3, std::uint64_t seed = 1)
        : writing_(writing), depth_(depth) {
        auto random = at::make_generator<at::CPUGeneratorImpl>(seed);
        const auto draw = [&](at::IntArrayRef shape, double spread) { return at::randn(shape, random) * spread; };
        patch_ = draw({kWidth, 3, kPatch, kPatch}, 0.15);
        cls_ = draw({1, 1, kWidth}, 1);
        head_ = draw({kClasses, kWidth}, 0.4);
        position_ = draw({1, 17, kWidth}, 0.3);
        for (std::int64_t i = 0; i < depth; ++i) {
            qkv_.push_back(draw({3 * kWidth, kWidth}, 0.3));
            bias_.push_back(draw({3 * kWidth}, 0.2));
            out_.push_back(draw({kWidth, kWidth}, 0.15));
            up_.push_back(draw({2 * kWidth, kWidth}, 0.15));
            down_.push_back(draw({kWidth, 2 * kWidth}, 0.15));
        }
        mask_ = draw({1, kHeads, 17, 17}, 1.5);
        info_.name = "small";
        info_.layers = depth;
        info_.heads = kHeads;
        info_.width = kWidth;
        info_.classes = kClasses;
        info_.readout = Readout::ClassToken;
        preprocess_.input_height = preprocess_.input_width = 32;
    }

    TokenLayout layout(std::int64_t h, std::int64_t w) const override { return {{"cls"}, h / kPatch, w / kPatch, ""}; }
    void to(at::Device, at::ScalarType) override {}
    std::vector<NamedPoint> points() const override {
        std::vector<NamedPoint> out;
        for (std::int64_t i = 0; i < depth_; ++i) {
            out.push_back({fmt::format("blocks.{}.norm1", i), "tokens after the norm [batch, tokens, width]"});
            out.push_back({fmt::format("blocks.{}", i), "tokens after the block [batch, tokens, width]"});
        }
        return out;
    }

    at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
        const double scale = 0.25;
        switch (writing_) {
            case Writing::Fused:
                return at::scaled_dot_product_attention(q, k, v);
            case Writing::Masked:
                return at::scaled_dot_product_attention(q, k, v, mask_);
            case Writing::Causal:
                return at::scaled_dot_product_attention(q, k, v, {}, 0.0, true);
            case Writing::Unfused:
                return at::matmul(at::softmax(at::matmul(q * scale, k.transpose(-2, -1)), -1), v);
            case Writing::UnfusedMasked: {
                at::Tensor scores = at::matmul(q, k.transpose(-2, -1)) * scale;
                scores = scores + mask_;
                scores = scores.masked_fill(mask_ > 1.5, -std::numeric_limits<double>::infinity());
                return at::matmul(at::softmax(scores, -1), v);
            }
            case Writing::InPlace: {
                at::Tensor out = at::scaled_dot_product_attention(q, k, v);
                at::Tensor next = out.clone();
                q.mul_(0.5);  // the queries are spoilt after they were used
                return next;
            }
            case Writing::Einsum:
                return at::einsum("bhqk,bhkd->bhqd", {at::softmax(at::einsum("bhqd,bhkd->bhqk", {q, k}) / 4.0, -1), v});
            case Writing::Baddbmm: {
                const std::int64_t n = q.size(2);
                const auto flat = [&](const at::Tensor& x) { return x.reshape({kHeads, n, kDim}); };
                const at::Tensor map = at::softmax(
                    at::baddbmm(mask_.reshape({kHeads, n, n}), flat(q) * scale, flat(k).transpose(-2, -1)), -1);
                return at::bmm(map, flat(v)).reshape(q.sizes());
            }
            case Writing::InPlaceScores: {
                at::Tensor scores = at::matmul(q, k.transpose(-2, -1));
                scores.div_(4.0).add_(mask_).masked_fill_(mask_ > 1.5, -1e9);
                return at::matmul(at::dropout(at::softmax(scores, -1), 0.1, false), v);
            }
            case Writing::Where: {
                const at::Tensor low = at::full({}, -3.0e38);
                const at::Tensor scores = at::where(mask_ < 1.5, at::matmul(q, k.transpose(-2, -1)) * scale, low);
                return at::matmul(at::softmax(scores, -1), v);
            }
            case Writing::HalfScores: {
                const at::Tensor scores = (at::matmul(q, k.transpose(-2, -1)) * scale).to(at::kDouble);
                return at::matmul(at::softmax(scores, -1).to(at::kFloat), v);
            }
            case Writing::TalkingHeads: {
                const at::Tensor map = at::softmax(at::matmul(q, k.transpose(-2, -1)) * scale, -1);
                return at::matmul((map + map.flip(at::IntArrayRef{1})) * 0.5, v);
            }
            case Writing::Odd: {  // scores that are no product of queries and keys
                const at::Tensor distance = -(q.unsqueeze(3) - k.unsqueeze(2)).pow(2).sum(-1);
                return at::matmul(at::softmax(distance * scale, -1), v);
            }
        }
        return {};
    }

    at::Tensor forward(const at::Tensor& pixels) override {
        at::Tensor x = at::conv2d(pixels, patch_, {}, kPatch).flatten(2).transpose(1, 2);
        const std::int64_t h = pixels.size(2), w = pixels.size(3);
        x = at::cat({cls_.expand({x.size(0), 1, kWidth}), x}, 1) + position_;
        for (std::int64_t i = 0; i < depth_; ++i) {
            const std::string name = fmt::format("blocks.{}", i);
            at::Tensor y = point(name + ".norm1", at::layer_norm(x, {kWidth}));
            y = at::linear(y, qkv_[i], bias_[i])
                    .reshape({y.size(0), y.size(1), 3, kHeads, kDim})
                    .permute({2, 0, 3, 1, 4});
            {
                const MixingScope scope([&] {
                    return MixingScope::Facts{name + ".attn", i, true, layout(h, w), layout(h, w)};
                });
                y = attend(y.select(0, 0), y.select(0, 1), y.select(0, 2));
            }
            x = x + at::linear(y.transpose(1, 2).reshape(x.sizes()), out_[i]);
            x = x + at::linear(at::gelu(at::linear(at::layer_norm(x, {kWidth}), up_[i])), down_[i]);
            x = point(name, x);
        }
        report_readout([&] {
            at::Tensor r = at::zeros({x.size(1)});
            r[0].fill_(1);
            return r;
        });
        return at::linear(at::layer_norm(x, {kWidth}).select(1, 0), head_);
    }

  private:
    Writing writing_;
    std::int64_t depth_;
    at::Tensor patch_, cls_, head_, position_, mask_;
    std::vector<at::Tensor> qkv_, bias_, out_, up_, down_;
};

inline at::Tensor picture(std::uint64_t seed = 3) {
    return at::randn({1, 3, 32, 32}, at::make_generator<at::CPUGeneratorImpl>(seed));
}

}  // namespace vitrine::testing_model
