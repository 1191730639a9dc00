// A model that counts how often it is run forwards and backwards, whole or in parts.
#pragma once

#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <vitrine/model.h>

namespace vitrine {

/// Hands everything on to the model it wraps. Pictures of a batch count one each; of a block by itself it counts its
/// share of a pass.
class CountingModel final : public Model {
  public:
    explicit CountingModel(Model& inner) : inner_(inner) {
        info_ = inner.info();
        preprocess_ = inner.preprocess();
        labels_ = inner.labels();
    }
    at::Tensor forward(const at::Tensor& pixels) override {
        whole_ += pixels.size(0);
        return listened(inner_.forward(pixels));
    }
    at::Tensor forward_kept(const at::Tensor& pixels, const at::Tensor& kept) override {
        whole_ += pixels.size(0);
        return listened(inner_.forward_kept(pixels, kept));
    }
    std::optional<Chain> chain(std::int64_t height, std::int64_t width) override {
        auto chain = inner_.chain(height, width);
        if (!chain) return chain;
        chain->block = [this, run = chain->block](std::int64_t block, const at::Tensor& x) {
            blocks_ += x.size(0);
            return run(block, x);
        };
        return chain;
    }
    at::Tensor layer_answer(const at::Tensor& tokens, const TokenLayout& layout) const override {
        // What LeGrad differentiates: the scores of all layers in one walk.
        return listened(inner_.layer_answer(tokens, layout), 1);
    }
    TokenLayout layout(std::int64_t height, std::int64_t width) const override { return inner_.layout(height, width); }
    std::vector<NamedPoint> points() const override { return inner_.points(); }
    bool has_chain() const override { return inner_.has_chain(); }
    std::optional<std::string> no_layer_answer() const override { return inner_.no_layer_answer(); }
    std::optional<std::string> no_token_removal() const override { return inner_.no_token_removal(); }
    std::vector<std::pair<std::string, at::Tensor>> parameters() override { return inner_.parameters(); }
    void to(at::Device device, at::ScalarType dtype) override { inner_.to(device, dtype); }
    bool is_native() const override { return inner_.is_native(); }

    void reset() { whole_ = blocks_ = *backwards_ = 0; }
    std::int64_t forwards() const {
        const std::int64_t depth = std::max<std::int64_t>(1, info_.layers);
        return whole_ + (blocks_ + depth - 1) / depth;
    }
    std::int64_t backwards() const { return *backwards_; }

  private:
    at::Tensor listened(at::Tensor answer, std::int64_t count = 0) const {
        if (answer.requires_grad())
            answer.register_hook(
                [counter = backwards_, n = count > 0 ? count : answer.size(0)](const at::Tensor& gradient) {
                    *counter += n;
                    return gradient;
                });
        return answer;
    }

    Model& inner_;
    std::int64_t whole_ = 0, blocks_ = 0;
    std::shared_ptr<std::int64_t> backwards_ = std::make_shared<std::int64_t>(0);
};

}  // namespace vitrine
