// FullGrad: the score of a piecewise linear network as input times gradient plus every bias times its gradient.
#include "cam.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/generated/Functions.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <unordered_set>

namespace vitrine::plugin::cam {
namespace {

using torch::autograd::Edge;
using torch::autograd::Node;

/// Lets the model's weights carry gradients while it lives, so that the graph knows the biases.
class WeightsInGraph {
  public:
    explicit WeightsInGraph(Model& model) {
        for (const auto& [name, tensor] : model.parameters())
            if (tensor.is_floating_point() && tensor.is_leaf() && !tensor.requires_grad()) {
                tensor.set_requires_grad(true);
                changed_.push_back(tensor);
            }
    }
    ~WeightsInGraph() {
        for (const at::Tensor& tensor : changed_) tensor.set_requires_grad(false);
    }
    WeightsInGraph(const WeightsInGraph&) = delete;
    WeightsInGraph& operator=(const WeightsInGraph&) = delete;

  private:
    std::vector<at::Tensor> changed_;
};

/// Where a bias enters the graph: what is added there, and the node whose output's gradient it is multiplied by.
struct BiasAt {
    Edge at;
    at::Tensor bias;  ///< [channels], or like the output for an activation's constant part
    bool of_activation = false;
};

/// The parameter behind a node's input; undefined where there is none.
at::Tensor parameter_at(const Node& node, std::size_t input) {
    if (input >= node.num_outputs()) return {};
    const Edge& edge = node.next_edge(input);
    const auto* leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(edge.function.get());
    return leaf != nullptr ? leaf->variable.detach() : at::Tensor{};
}

/// A clamp is z inside its bounds and a constant outside: that constant is a bias.
at::Tensor constant_part(const at::Tensor& z, double low, double high) {
    return at::where(z <= low, at::ones_like(z) * low,
                     at::where(z >= high, at::ones_like(z) * high, at::zeros_like(z)));
}

/// Every bias of the graph behind a number.
std::vector<BiasAt> biases_of(const at::Tensor& number) {
    namespace graph = torch::autograd::generated;
    std::vector<BiasAt> out;
    std::unordered_set<Node*> seen;
    std::vector<std::shared_ptr<Node>> waiting{number.grad_fn()};
    while (!waiting.empty()) {
        const std::shared_ptr<Node> node = std::move(waiting.back());
        waiting.pop_back();
        if (!node || !seen.insert(node.get()).second) continue;
        for (const Edge& edge : node->next_edges()) waiting.push_back(edge.function);
        if (const auto* norm = dynamic_cast<graph::NativeBatchNormBackward0*>(node.get())) {
            // y = (x - mean) / deviation * weight + bias: the mean's share is a bias too.
            const at::Tensor mean = norm->running_mean_.unpack(), var = norm->running_var_.unpack();
            const at::Tensor weight = norm->weight_.unpack(), bias = parameter_at(*node, 2);
            at::Tensor constant = -mean / (var + norm->eps).sqrt();
            if (weight.defined()) constant = constant * weight.detach();
            if (bias.defined()) constant = constant + bias;
            out.push_back({Edge(node, 0), constant.detach(), false});
        } else if (const auto* clamp = dynamic_cast<graph::ClampBackward1*>(node.get())) {
            const double infinity = std::numeric_limits<double>::infinity();
            out.push_back(
                {Edge(node, 0),
                 constant_part(clamp->self_.unpack().detach(), clamp->min ? clamp->min->toDouble() : -infinity,
                               clamp->max ? clamp->max->toDouble() : infinity),
                 true});
        } else if (const auto* tanh = dynamic_cast<graph::HardtanhBackward0*>(node.get())) {
            out.push_back(
                {Edge(node, 0),
                 constant_part(tanh->self_.unpack().detach(), tanh->min_val.toDouble(), tanh->max_val.toDouble()),
                 true});
        } else if (node->name() == "ConvolutionBackward0" || node->name() == "AddmmBackward0") {
            const at::Tensor bias = parameter_at(*node, node->name() == "AddmmBackward0" ? 0 : 2);
            if (bias.defined()) out.push_back({Edge(node, 0), bias, false});
        }
    }
    return out;
}

/// From 0 to 1: the least becomes 0, the largest 1.
at::Tensor scaled(const at::Tensor& x, at::IntArrayRef axes, double eps) {
    const at::Tensor moved = x - x.amin(axes, true);
    return moved / (moved.amax(axes, true) + eps);
}

constexpr const char* kNoRegion = "it explains a class's logit, not a region";

class FullGrad final : public Explainer {
  public:
    Description description() const override {
        return {"full_grad",
                "FullGrad",
                "Input times gradient and every bias times its gradient, over all layers",
                "S. Srinivas, F. Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019, "
                "arXiv 1905.00780; fullgrad-saliency 26fb91b",
                0,
                "Class activation",
                "psi(|x * df/dx|) + sum over biases of psi(|b * df/db|), psi scales to 0 to 1 and enlarges",
                "What sums to the score before no longer does once each layer is scaled for the map (our observation)"};
    }
    std::vector<Parameter> parameters() const override {
        return {{"preset",
                 std::string("paper"),
                 "paper: the size of each layer's terms, scaled to 0 to 1 over the layer and enlarged with aligned "
                 "corners, as the authors' code does; pytorch-grad-cam: scaled channel by channel, so that a channel "
                 "that hardly matters counts as much as any, and enlarged without aligned corners",
                 "",
                 "the authors' code",
                 {},
                 {},
                 {"paper", "pytorch-grad-cam"}},
                {"activations",
                 true,
                 "the constant parts of activations that saturate (ReLU6) are biases too, as the paper defines them; "
                 "neither code has them, and they are left out under preset pytorch-grad-cam",
                 "",
                 "the paper, section 3",
                 {},
                 {},
                 {}}};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        const ModelInfo& info = model.info();
        if (info.layers > 0 || info.readout != Readout::GlobalPool)
            return info.name +
                   " is no network of convolutions and piecewise linear activations, and only there biases "
                   "and input account for the score";
        if (!model.is_native()) return "the biases of a traced model cannot be reached";
        if (info.classes == 0) return info.name + " has no classes, and this method explains a class";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kNoRegion; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 1}; }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        if (!context.target.region.empty()) return fail(ErrorCode::Unsupported, "{}", kNoRegion);
        const WeightsInGraph weights(context.model);
        CaptureOptions options;
        options.mixings = false;
        options.gradients = true;
        options.stop = context.stop;
        options.memory_budget = context.memory_budget;
        const auto capture = VITRINE_TRY(run_captured(context.model, context.input.pixels, options));
        const Objective objective = VITRINE_TRY(objective_of(context.model, context.target, capture->output.detach()));
        if (objective.probability)
            return fail(ErrorCode::Unsupported, "FullGrad takes a logit apart; a probability is no sum of its parts");
        return guarded([&]() -> Result<Attribution> {
            const at::AutoGradMode mode(true);
            const at::Tensor number = objective.of(capture->output).sum();
            const std::vector<BiasAt> biases = biases_of(number);
            std::vector<Edge> wanted{torch::autograd::impl::gradient_edge(capture->input)};
            for (const BiasAt& one : biases) wanted.push_back(one.at);
            const auto found = torch::autograd::Engine::get_default_engine().execute(
                {torch::autograd::impl::gradient_edge(number)}, {at::ones_like(number)}, /*keep_graph=*/false,
                /*create_graph=*/false, /*accumulate_grad=*/false, wanted);
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            return map_of(context, settings, objective, number.item<double>(), capture->input.detach(), biases, found);
        });
    }

  private:
    static Result<Attribution> map_of(ExplainContext& context, const Settings& settings, const Objective& objective,
                                      double score, const at::Tensor& input, const std::vector<BiasAt>& biases,
                                      const std::vector<at::Tensor>& gradients) {
        const bool package = settings.text("preset") == "pytorch-grad-cam";
        const at::NoGradGuard no_grad;
        const auto onto_picture = [&](const at::Tensor& terms) {
            const at::Tensor size = terms.abs();
            const at::Tensor one = package ? scaled(size, {2, 3}, 1e-7) : scaled(size, {1, 2, 3}, 1e-6);
            // Enlarging is linear, so the channels may be summed before it.
            return at::upsample_bilinear2d(one.sum(1, true), {input.size(2), input.size(3)}, !package)[0][0];
        };
        if (!gradients[0].defined()) return fail(ErrorCode::Unsupported, "the score does not depend on the picture");
        at::Tensor terms = input.to(at::kCPU, at::kDouble) * gradients[0].to(at::kCPU, at::kDouble);
        at::Tensor map = onto_picture(terms);
        double sum = terms.sum().item<double>();
        std::int64_t layers = 0, constants = 0;
        for (std::size_t i = 0; i < biases.size(); ++i) {
            const at::Tensor& gradient = gradients[i + 1];
            if (!gradient.defined()) continue;  // the score does not depend on that layer
            at::Tensor bias = biases[i].bias.to(at::kCPU, at::kDouble);
            if (bias.dim() == 1 && gradient.dim() == 4) bias = bias.reshape({1, -1, 1, 1});
            terms = bias * gradient.to(at::kCPU, at::kDouble);
            sum += terms.sum().item<double>();
            if (terms.dim() != 4) continue;  // a linear layer's bias has no place in the picture
            if (biases[i].of_activation && (package || !settings.flag("activations"))) continue;
            if (biases[i].of_activation && terms.abs().max().item<double>() == 0) continue;
            map = map + onto_picture(terms);
            ++(biases[i].of_activation ? constants : layers);
        }
        Attribution out;
        out.method = "full_grad";
        out.map = map.to(at::kFloat).contiguous();
        out.on_tokens = false;
        out.class_specific = true;
        out.explained = objective.explained;
        out.implementation = "one pass and its gradient";
        const double gap = std::abs(sum - score) / std::max(std::abs(score), 1e-12);
        out.checks.push_back({"completeness", gap <= 0.01,
                              fmt::format("input, biases and the constant parts of activations sum to {:.6g}, the "
                                          "score is {:.6g}: a gap of {:.1e}",
                                          sum, score, gap)});
        out.notes.push_back(
            fmt::format("the biases of {} layers{}", layers,
                        constants > 0 ? fmt::format(" and the constant parts of {} activations", constants) : ""));
        if (context.progress) context.progress({1, 1, "maps"});
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_full_grad() { return std::make_unique<FullGrad>(); }

}  // namespace vitrine::plugin::cam
