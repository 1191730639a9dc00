// The gradient of the explained number with respect to the pixels, alone and times the picture.
#include "gradient.h"

#include <ATen/TensorOperators.h>

namespace vitrine::plugin::gradient {
namespace {

class PlainGradient final : public Explainer {
  public:
    explicit PlainGradient(bool times_input) : times_input_(times_input) {}

    Description description() const override {
        if (times_input_)
            return {"input_x_gradient",
                    "Input x gradient",
                    "The gradient of the score times the normalised picture",
                    "A. Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating "
                    "Activation Differences, 2016, arXiv 1605.01713",
                    0,
                    "Gradients",
                    "x * df/dx",
                    "Blind where the score is saturated, and much of what is seen is the picture it is multiplied by "
                    "(Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018)"};
        return {"saliency",
                "Saliency",
                "How strongly the score reacts to each pixel: the size of its gradient",
                "K. Simonyan, A. Vedaldi, A. Zisserman, Deep Inside Convolutional Networks: Visualising Image "
                "Classification Models and Saliency Maps, ICLR 2014 workshop, arXiv 1312.6034",
                0,
                "Gradients",
                "max over colours of |df/dx|",
                "Noisy (Smilkov et al., SmoothGrad: removing noise by adding noise, 2017), and zero where the score is "
                "saturated (Shrikumar, Greenside and Kundaje, DeepLIFT, ICML 2017)"};
    }
    std::vector<Parameter> parameters() const override { return {reduce_parameter(times_input_ ? "sum" : "max_abs")}; }
    std::optional<std::string> why_not(const Model&) const override { return std::nullopt; }
    bool class_specific() const override { return true; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 1}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Objective objective = VITRINE_TRY(context.objective());
        const at::Tensor& x = context.input.pixels;
        const auto found = VITRINE_TRY(context.slopes(objective, x));
        const at::Tensor gradient = found.gradients[0];
        return to_attribution(*this, settings, objective,
                              times_input_ ? gradient * x[0].to(at::kCPU, at::kFloat) : gradient);
    }

  private:
    bool times_input_;
};

}  // namespace

std::unique_ptr<Explainer> make_saliency() { return std::make_unique<PlainGradient>(false); }
std::unique_ptr<Explainer> make_input_x_gradient() { return std::make_unique<PlainGradient>(true); }

}  // namespace vitrine::plugin::gradient
