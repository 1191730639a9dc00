// What the methods of this folder share: a layer's activation and gradient on its grid, and rules that make a map of
// them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <vitrine/explainer.h>
#include <vitrine/torch_errors.h>

namespace vitrine::plugin::cam {

/// The explained number of an answer, which need not be the target's own.
struct Number {
    std::function<at::Tensor(const at::Tensor& answer)> of;  ///< [batch, ...] -> [batch], with the graph
    std::string explained;
};

/// A layer as the model had it on this picture.
struct Layer {
    std::string name;
    at::Tensor raw;                 ///< the activation at the point: [1, tokens, width] or [1, channels, rows, cols]
    at::Tensor a;                   ///< the same on the grid: [channels, rows, cols], float64, on the CPU
    at::Tensor g;                   ///< d number / d a, where the rule needs it
    at::Tensor ha;                  ///< the number's Hessian at the layer times the activation, where the rule needs it
    std::int64_t channel_axis = 1;  ///< of `raw`
    bool constant = false;          ///< under Needs::Linear: autograd knows no way from the activation to the gradient
};

enum class Needs : std::uint8_t { Activation, Gradient, Linear, Hessian };

/// What a rule is given for one layer.
struct Work {
    ExplainContext& context;
    const Settings& settings;
    const Objective* objective = nullptr;  ///< null for rules that explain no target
    const Number* number = nullptr;
    const Layer& layer;
    double score = 0;  ///< the number of this picture
};

/// One method: how it is called, what it needs, and the map it makes of a layer.
struct Rule {
    const char* name;
    const char* title;
    const char* summary;
    const char* source;
    const char* formula;
    const char* weakness;
    Needs needs = Needs::Gradient;
    bool class_specific = true;
    bool several = true;  ///< may read several layers
    bool relu = true;     ///< the paper drops what is negative
    /// The map of one layer before the ReLU: [rows, cols], float64. Adds checks and notes to `out`.
    Result<at::Tensor> (*map)(const Work& work, Attribution& out);
    std::vector<Parameter> parameters = {};  ///< beside layer, fusion and relu
    std::optional<std::string> (*why_not)(const Model& model) = nullptr;
    /// The number explained instead of the target's; `answer` is that of this picture.
    Result<Number> (*number)(const Objective& objective, const at::Tensor& answer, const Settings& settings) = nullptr;
    /// Why it cannot explain a region's activation.
    std::optional<std::string> (*no_region)(const Settings& settings) = nullptr;
    /// Where it is not one pass and what `needs` says.
    std::optional<Passes> (*passes)(const Model& model, const Settings& settings) = nullptr;
};

/// All methods but FullGrad.
const std::vector<Rule>& rules();
std::unique_ptr<Explainer> make_cam(const Rule& rule);
std::unique_ptr<Explainer> make_full_grad();

/// What one run left at some layers.
struct Look {
    std::vector<Layer> layers;
    std::optional<Objective> objective;
    Number number;
    double score = 0;
};
/// One run, and one backward pass where gradients are needed. The number is made from this picture's answer.
///
/// @param number_of  null for methods that explain no target
/// @error Unsupported  an activation that is no map of this picture; a number that does not depend on the layer
using NumberOf = std::function<Result<Number>(const at::Tensor& answer, std::optional<Objective>& objective)>;
Result<Look> look(ExplainContext& context, const std::vector<std::string>& layers, Needs needs,
                  const NumberOf& number_of, std::vector<Edit> edits = {});

/// Why no activation can be read; empty when one can.
std::optional<std::string> needs_activations(const Model& model);

/// The channels' weighted sum. [rows, cols]
///
/// @param weights  one a channel, of any shape
/// @param a        [channels, rows, cols], double
inline at::Tensor weighted(const at::Tensor& weights, const at::Tensor& a) {
    return (weights.to(at::kDouble).reshape({-1, 1, 1}) * a).sum(0);
}

/// The projection of each row of x on the first principal axis. The sign, which the decomposition leaves open, is the
/// one that makes the projection grow with `guide`.
///
/// @param x      [cells, channels], float64
/// @param guide  [cells]
/// @param centre the mean over cells is taken away first
/// @param agreement  set to the correlation of projection and guide, at least 0
/// @return       [cells]
at::Tensor principal_projection(at::Tensor x, const at::Tensor& guide, bool centre, double& agreement);

// Maps of masked pictures and of layers with a channel left out (masks.cpp).
Result<at::Tensor> score_map(const Work& work, Attribution& out);
Result<at::Tensor> smoothed_score_map(const Work& work, Attribution& out);
Result<at::Tensor> integrated_score_map(const Work& work, Attribution& out);
Result<at::Tensor> ablation_map(const Work& work, Attribution& out);

}  // namespace vitrine::plugin::cam
