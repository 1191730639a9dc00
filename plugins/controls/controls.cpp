// The four controls.
#include "controls.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/replication_pad2d.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>

#include <vitrine/control.h>

namespace vitrine::plugin::controls {

namespace {

/// What the four have in common: no model is refused, none is asked.
class Control : public Explainer {
  public:
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return false; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{0, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const at::Tensor& pixels = context.input.pixels;
        if (!pixels.defined() || pixels.dim() != 4)
            return fail(ErrorCode::BadInput, "there is no picture to make a map of");
        Attribution out;
        out.method = description().name;
        out.explained = kExplainsNothing;
        out.implementation = "made without the model";
        draw(context, settings, out);
        return out;
    }

  protected:
    virtual void draw(ExplainContext& context, const Settings& settings, Attribution& out) const = 0;
};

class Random final : public Control {
  public:
    Description description() const override {
        return {"random",
                "Random (control)",
                "Noise: what a map that knows nothing scores",
                "the usual control",
                0,
                "Controls",
                "uniform noise by seed",
                "Knows neither model nor picture: a method that does not beat it says nothing (random importance is "
                "the baseline of Hooker et al., NeurIPS 2019, which many methods did not beat)"};
    }

  protected:
    void draw(ExplainContext& context, const Settings&, Attribution& out) const override {
        const std::int64_t high = context.input.pixels.size(2), wide = context.input.pixels.size(3);
        const TokenLayout layout = context.model.layout(high, wide);
        auto generator = at::make_generator<at::CPUGeneratorImpl>(context.seed);
        if (layout.known() && layout.rows * layout.cols > 1) {
            out.map = at::rand({layout.rows, layout.cols}, generator, at::kFloat);
            return;
        }
        // Pixel by pixel it would be finer than any method's map, and measures reward or punish fineness by itself.
        constexpr std::int64_t kCell = 32;
        const at::Tensor cells = at::rand({1, 1, std::max<std::int64_t>(2, (high + kCell - 1) / kCell),
                                           std::max<std::int64_t>(2, (wide + kCell - 1) / kCell)},
                                          generator, at::kFloat);
        out.map = at::upsample_bilinear2d(cells, {high, wide}, false).reshape({high, wide});
        out.on_tokens = false;
    }
};

class CentreGaussian final : public Control {
  public:
    Description description() const override {
        return {"centre_gaussian",
                "Centre (control)",
                "A bump in the middle, where photographers put the object: what a guess without looking scores",
                "the usual control where objects are pointed at",
                0,
                "Controls",
                "exp(-d^2 / 2 width^2), d the distance from the middle",
                "Knows neither model nor picture, and yet points well, since photographers centre objects (our "
                "observation)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"width", 0.25, "standard deviation as a share of each side", "", "ours", 0.01, 10.0, {}}};
    }

  protected:
    void draw(ExplainContext& context, const Settings& settings, Attribution& out) const override {
        const auto bell = [&](std::int64_t side) {
            const double size = static_cast<double>(side);
            const at::Tensor x = (at::arange(side, at::kDouble) + 0.5 - size / 2) / (size * settings.number("width"));
            return (-0.5 * x * x).exp();
        };
        out.map = (bell(context.input.pixels.size(2)).unsqueeze(1) * bell(context.input.pixels.size(3)).unsqueeze(0))
                      .to(at::kFloat);
        out.on_tokens = false;
    }
};

class Edges final : public Control {
  public:
    Description description() const override {
        return {"edges",
                "Edges (control)",
                "Where the picture itself has edges (Sobel): it has not looked at the model",
                "J. Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (the edge detector); I. Sobel, 1968",
                0,
                "Controls",
                "length of the Sobel gradient of the grey picture",
                "Looks like an explanation and has never seen the model (Adebayo et al., NeurIPS 2018)"};
    }

  protected:
    void draw(ExplainContext& context, const Settings&, Attribution& out) const override {
        // From the pixels and not from the 8-bit picture, so that a changed input has the edges of its change.
        const Preprocess& p = context.model.preprocess();
        const at::Tensor luma = at::tensor({0.299, 0.587, 0.114}, at::kFloat).reshape({1, 3, 1, 1});  // ITU-R BT.601
        const at::Tensor grey = (colours_of(context.input.pixels, p) * luma).sum(1, true);            // [1, 1, H, W]
        const at::Tensor across =
            at::tensor({-1.0, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0}, at::kFloat).reshape({3, 3});
        const at::Tensor kernels = at::stack({across, across.t()}).unsqueeze(1);
        out.map = at::conv2d(at::replication_pad2d(grey, {1, 1, 1, 1}), kernels).norm(2, {1}).squeeze(0).contiguous();
        out.on_tokens = false;
    }
};

class Constant final : public Control {
  public:
    Description description() const override {
        return {"constant",
                "Constant (control)",
                "The same everywhere: what the measure's order of ties scores",
                "the usual control",
                0,
                "Controls",
                "1 everywhere",
                "Ranks nothing: what it scores is the measure's own rule for ties (by construction)"};
    }

  protected:
    void draw(ExplainContext& context, const Settings&, Attribution& out) const override {
        const std::int64_t high = context.input.pixels.size(2), wide = context.input.pixels.size(3);
        const TokenLayout layout = context.model.layout(high, wide);
        out.on_tokens = layout.known() && layout.rows * layout.cols > 0;
        out.map = out.on_tokens ? at::ones({layout.rows, layout.cols}) : at::ones({high, wide});
    }
};

}  // namespace

std::unique_ptr<Explainer> make_random() { return std::make_unique<Random>(); }
std::unique_ptr<Explainer> make_centre_gaussian() { return std::make_unique<CentreGaussian>(); }
std::unique_ptr<Explainer> make_edges() { return std::make_unique<Edges>(); }
std::unique_ptr<Explainer> make_constant() { return std::make_unique<Constant>(); }

}  // namespace vitrine::plugin::controls
