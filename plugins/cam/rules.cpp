// The table of weight rules: what each class activation map makes of a layer's activation A and gradient G.
#include "cam.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>
#include <vitrine/base/random.h>

namespace vitrine::plugin::cam {

at::Tensor principal_projection(at::Tensor x, const at::Tensor& guide, bool centre, double& agreement) {
    if (centre) x = x - x.mean(0, /*keepdim=*/true);
    // The smaller of the two Gram matrices: its first eigenvector gives the projection either way.
    const bool by_cells = x.size(0) <= x.size(1);
    const auto [values, vectors] = at::linalg_eigh(by_cells ? x.mm(x.t()) : x.t().mm(x));
    const at::Tensor first = vectors.select(1, vectors.size(1) - 1);
    at::Tensor out = by_cells ? first * values[values.size(0) - 1].clamp_min(0).sqrt() : x.mv(first);
    const at::Tensor a = out - out.mean(), b = guide - guide.mean();
    const double scale = (a.norm() * b.norm()).item<double>();
    const double correlation = scale > 0 ? a.dot(b).item<double>() / scale : 0.0;
    agreement = std::abs(correlation);
    return correlation < 0 ? -out : out;
}

namespace {

using Map = Result<at::Tensor>;

/// sum_k w_k A_k. weights: [channels]
/// The weight of a channel is its gradient, the same everywhere, where pooling and one linear layer follow. Both are
/// tried: the gradient must not vary over the map, nor when the activation is turned into its opposite, which would
/// pass a ReLU or a norm in between.
Map cam_map(const Work& w, Attribution& out) {
    const at::Tensor& g = w.layer.g;
    const double scale = g.abs().max().item<double>(), allowed = 1e-4 * scale;
    const auto not_linear = [&](const char* what) {
        const auto points = w.context.model.points();
        const bool has_norm = std::any_of(points.begin(), points.end(), [](const auto& p) { return p.name == "norm"; });
        return fail(ErrorCode::Unsupported, "CAM needs global average pooling and one linear layer behind {}, and {}{}",
                    w.layer.name, what,
                    has_norm && w.layer.name != "norm" ? ": try layer=norm, or grad_cam" : ": grad_cam needs neither");
    };
    const double varies = (g - g.mean({1, 2}, true)).abs().max().item<double>();
    if (varies > allowed) return not_linear("the gradient differs from place to place");
    if (w.layer.constant && w.context.model.is_native()) {
        out.checks.push_back({"linear head", true,
                              fmt::format("weights within {:.0e}, none depends on the activation", varies / scale)});
        out.implementation = "one pass and its gradient";
        return weighted(g.sum({1, 2}), w.layer.a);
    }
    // A program may cut its graph, which says nothing then: the opposite activation must give the same gradient.
    Edit opposite;
    opposite.kind = Edit::Kind::ReplacePoint;
    opposite.where = w.layer.name;
    opposite.replace = [](const at::Tensor& x) { return -x; };
    const NumberOf same = [&](const at::Tensor&, std::optional<Objective>& objective) -> Result<Number> {
        objective = *w.objective;
        return *w.number;
    };
    const Look again = VITRINE_TRY(look(w.context, {w.layer.name}, Needs::Gradient, same, {opposite}));
    const double bends = (again.layers.front().g - g).abs().max().item<double>();
    if (bends > allowed) return not_linear("the gradient depends on the activation");
    out.checks.push_back({"linear head", true, fmt::format("weights within {:.0e}", std::max(varies, bends) / scale)});
    out.implementation = "two passes and their gradients";
    return weighted(g.sum({1, 2}), w.layer.a);
}

std::optional<std::string> no_cam(const Model& model) {
    const ModelInfo& info = model.info();
    if (info.classes == 0) return info.name + " has no classes, and CAM reads a class's weights";
    if (info.readout == Readout::ClassToken || info.readout == Readout::AttentionPool)
        return fmt::format("{} reads its answer from {}, and CAM needs global average pooling and one linear layer",
                           info.name, info.readout == Readout::ClassToken ? "the class token" : "a pooling head");
    return std::nullopt;
}

/// One class's logit, as CAM and its kin have it.
Result<Number> logit_only(const Objective& objective, const at::Tensor&, const Settings&) {
    if (objective.index < 0 || objective.probability)
        return fail(ErrorCode::BadInput, "this method explains a class's logit, found {}", objective.explained);
    return Number{[objective](const at::Tensor& x) { return objective.of(x); }, objective.explained};
}

std::optional<std::string> only_logits(const Settings&) { return "it explains a class's logit, not a region"; }

Map grad_cam_map(const Work& w, Attribution&) { return weighted(w.layer.g.mean({1, 2}), w.layer.a); }

/// Grad-CAM++, equations 10 and 19 with Y = exp(S): the factor exp(S) of all weights is left out.
Map grad_cam_plus_plus_map(const Work& w, Attribution&) {
    const at::Tensor &a = w.layer.a, &g = w.layer.g;
    const std::string preset = w.settings.text("preset");
    const at::Tensor squares = g * g;
    at::Tensor alpha;
    if (preset == "torchcam") {
        alpha = squares;
    } else {
        const double eps = preset == "pytorch-grad-cam" ? 1e-6 : 0;
        const at::Tensor below = 2 * squares + a.sum({1, 2}, true) * squares * g + eps;
        alpha = at::where((g != 0).logical_and(below != 0), squares / below, at::zeros_like(g));
    }
    return weighted((alpha * at::relu(g)).sum({1, 2}), a);
}

Map xgrad_cam_map(const Work& w, Attribution&) {
    const at::Tensor &a = w.layer.a, &g = w.layer.g;
    const std::string preset = w.settings.text("preset");
    const double eps = preset == "pytorch-grad-cam" ? 1e-7 : preset == "torchcam" ? 1e-8 : 0;
    const at::Tensor sum = a.sum({1, 2}) + eps;
    return weighted(at::where(sum != 0, (g * a).sum({1, 2}) / sum, at::zeros_like(sum)), a);
}

Map hires_cam_map(const Work& w, Attribution&) { return (w.layer.g * w.layer.a).sum(0); }
Map layer_cam_map(const Work& w, Attribution&) { return (at::relu(w.layer.g) * w.layer.a).sum(0); }
Map shapley_cam_map(const Work& w, Attribution&) {
    return weighted((w.layer.g - 0.5 * w.layer.ha).mean({1, 2}), w.layer.a);
}

Map projected(const at::Tensor& x, const at::Tensor& guide, bool centre, const char* with, Attribution& out) {
    double agreement = 0;
    const at::Tensor cells = x.flatten(1).t();
    const at::Tensor map = principal_projection(cells, guide.flatten(), centre, agreement);
    out.notes.push_back(
        fmt::format("the sign is the one that makes the map grow with {} (correlation {:.2f})", with, agreement));
    return map.reshape({x.size(1), x.size(2)});
}
Map eigen_cam_map(const Work& w, Attribution& out) {
    const at::Tensor& a = w.layer.a;
    return projected(a, (a * a).sum(0).sqrt(), w.settings.text("preset") == "pytorch-grad-cam",
                     "the length of the activation", out);
}
Map eigen_grad_cam_map(const Work& w, Attribution& out) {
    const at::Tensor x = w.layer.g * w.layer.a;
    return projected(x, x.sum(0), true, "the sum of gradient times activation", out);
}

Map random_cam_map(const Work& w, Attribution&) {
    // A generator of its own for each layer, so that one layer's map does not depend on which others are read.
    auto generator = at::make_generator<at::CPUGeneratorImpl>(hash_of(w.layer.name) ^ w.context.seed);
    return weighted(at::rand({w.layer.a.size(0)}, generator, at::kDouble) * 2 - 1, w.layer.a);
}

/// The target's logit less those of the classes next to it.
Result<Number> finer_number(const Objective& objective, const at::Tensor& answer, const Settings& settings) {
    if (objective.index < 0 || objective.probability || !objective.also.empty())
        return fail(ErrorCode::BadInput, "FinerCAM compares one class's logit with others', found {}",
                    objective.explained);
    const std::int64_t classes = answer.size(1), main = objective.index;
    std::vector<std::int64_t> others;
    if (objective.versus) {
        others = {*objective.versus};
    } else {
        const at::Tensor far = (answer[0] - answer[0][main]).abs().to(at::kCPU, at::kDouble).contiguous();
        const auto* distance = far.const_data_ptr<double>();
        std::vector<std::int64_t> order(static_cast<std::size_t>(classes));
        std::iota(order.begin(), order.end(), 0);
        std::erase(order, main);
        std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return distance[i] < distance[j]; });
        order.resize(std::min(order.size(), static_cast<std::size_t>(settings.integer("references"))));
        others = std::move(order);
    }
    const bool package = settings.text("preset") == "pytorch-grad-cam";
    const double given = settings.number("strength"), strength = given >= 0 ? given : package ? 1.0 : 0.6;
    Number out;
    out.of = [=](const at::Tensor& answers) {
        const at::Tensor x = answers.to(at::kFloat);
        const at::Tensor rest = x.index_select(1, at::tensor(others, at::kLong).to(x.device()));
        const at::Tensor own = x.select(1, main);
        if (!package) return own - strength * rest.mean(1);
        const at::Tensor p = at::softmax(x, 1).index_select(1, at::tensor(others, at::kLong).to(x.device()));
        return (p * (own.unsqueeze(1) - strength * rest)).sum(1) / (p.sum(1) + 1e-9);
    };
    out.explained = fmt::format("logit of class {} less {:g} times {} of class{} {}", main, strength,
                                package ? "the weighted mean" : "the mean", others.size() == 1 ? "" : "es",
                                fmt::join(others, ", "));
    return out;
}
std::optional<std::string> no_finer(const Model& model) {
    if (model.info().classes < 2) return model.info().name + " has no two classes that could be compared";
    return std::nullopt;
}

std::optional<std::string> only_classes(const Settings& settings) {
    if (settings.text("utility") == "target") return std::nullopt;
    return "utility=rest adds one class's logit and log-probability; utility=target takes a region";
}

Result<Number> shapley_number(const Objective& objective, const at::Tensor&, const Settings& settings) {
    if (settings.text("utility") == "target")
        return Number{[objective](const at::Tensor& x) { return objective.of(x); }, objective.explained};
    if (objective.index < 0 || objective.probability || objective.versus || !objective.also.empty())
        return fail(ErrorCode::BadInput,
                    "utility=rest adds one class's logit and log-probability, found {}: set "
                    "utility=target",
                    objective.explained);
    return Number{[index = objective.index](const at::Tensor& answers) {
                      const at::Tensor x = answers.to(at::kFloat);
                      return x.select(1, index) + at::log_softmax(x, 1).select(1, index);
                  },
                  fmt::format("logit and log-probability of class {}", objective.index)};
}

/// One pass, and `times` for each channel, whose number is known of transformers only.
std::optional<Passes> masked(const Model& model, std::int64_t times) {
    if (model.info().layers == 0 || !model.is_native()) return std::nullopt;
    return Passes{1 + times * model.info().width, 0};
}

Parameter preset(std::string meaning, std::vector<std::string> choices, std::string standard = "paper") {
    return {"preset", std::move(standard), std::move(meaning), "", "the paper", {}, {}, std::move(choices)};
}

}  // namespace

const std::vector<Rule>& rules() {
    static const std::vector<Rule> all = [] {
        std::vector<Rule> r;
        Rule one;
        const auto begin = [&](const char* name, const char* title, const char* summary, const char* source,
                               Map (*map)(const Work&, Attribution&), const char* formula, const char* weakness) {
            one = Rule{name, title, summary, source, formula, weakness, Needs::Gradient, true, true,
                       true, map,   {},      {},     {},      {}};
        };
        begin("cam", "CAM", "The class's weights in the linear layer behind global average pooling times the last map",
              "B. Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, arXiv 1512.04150",
              cam_map, "sum_k w_k A_k, w the class's weights in the linear head",
              "Only for networks whose head is global average pooling and one linear layer (Selvaraju et al., "
              "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017)");
        one.needs = Needs::Linear;
        one.passes = [](const Model& model, const Settings&) {
            return std::optional(model.is_native() ? Passes{1, 1} : Passes{2, 2});
        };
        one.several = false;
        one.relu = false;
        one.why_not = no_cam;
        one.number = logit_only;
        one.no_region = only_logits;
        r.push_back(one);

        begin(
            "grad_cam", "Grad-CAM", "A layer's channels, each weighed by its mean gradient",
            "R. R. Selvaraju et al., Grad-CAM, ICCV 2017, arXiv 1610.02391, equations 1 and 2", grad_cam_map,
            "relu(sum_k mean(dy/dA_k) A_k)",
            "Gradients averaged over places can mark what did not raise the score (Draelos and Carin, HiResCAM, 2020)");
        r.push_back(one);

        begin("grad_cam_plus_plus", "Grad-CAM++",
              "A layer's channels, weighed by their positive gradients, each scaled by its pixel's share",
              "A. Chattopadhay et al., Grad-CAM++, WACV 2018, arXiv 1710.11063, equations 10 and 19",
              grad_cam_plus_plus_map, "relu(sum_k sum(alpha_k * relu(dy/dA_k)) A_k)",
              "In practice all but the same as Grad-CAM with positive gradients (Lerma and Lucas, Grad-CAM++ is "
              "Equivalent to Grad-CAM With Positive Gradients, 2022)");
        one.parameters = {
            preset("paper: equation 19 for exp(logit), whose factor exp(logit) of the whole map is left out; "
                   "pytorch-grad-cam: "
                   "1e-6 added to the denominator, which outweighs gradients below 1e-3; torchcam: its division by the "
                   "denominator is done on a copy and lost, so that a weight is the sum of relu(gradient) cubed",
                   {"paper", "pytorch-grad-cam", "torchcam"})};
        r.push_back(one);

        begin("xgrad_cam", "XGrad-CAM", "A layer's channels, weighed by gradients averaged where they are active",
              "R. Fu et al., Axiom-based Grad-CAM, BMVC 2020, arXiv 2008.02312", xgrad_cam_map,
              "relu(sum_k (sum(dy/dA_k * A_k) / sum(A_k)) A_k)",
              "Meets its two axioms only as far as it can (Fu et al., BMVC 2020): exactly where the layers behind are "
              "linear");
        one.parameters = {
            preset("paper: no constant in the denominator, a channel that sums to zero weighs nothing; "
                   "pytorch-grad-cam: 1e-7 added; torchcam: 1e-8 added",
                   {"paper", "pytorch-grad-cam", "torchcam"})};
        r.push_back(one);

        begin("hires_cam", "HiResCAM", "Gradient times activation, place by place",
              "R. L. Draelos, L. Carin, Use HiResCAM instead of Grad-CAM, arXiv 2011.08891", hires_cam_map,
              "sum_k dy/dA_k * A_k",
              "Is exact only where one linear layer follows the map; elsewhere it is gradient times input of that "
              "layer (Draelos and Carin 2020)");
        one.relu = false;
        r.push_back(one);

        begin("layer_cam", "LayerCAM", "Positive gradient times activation, place by place, of one or several layers",
              "P.-T. Jiang et al., LayerCAM, IEEE TIP 2021", layer_cam_map, "relu(sum_k relu(dy/dA_k) * A_k)",
              "Early layers give fine maps of low values, which must be scaled before they are fused (Jiang et al., "
              "IEEE TIP 2021)");
        r.push_back(one);

        begin("eigen_cam", "Eigen-CAM",
              "The layer's activation along its first principal axis; the same for every class",
              "M. B. Muhammad, M. Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020, "
              "arXiv 2008.00299",
              eigen_cam_map, "A v_1, v_1 the first right singular vector of the activation",
              "Uses no class score, which Muhammad and Yeasin (IJCNN 2020) name as a strength: the map is the same "
              "whatever is asked");
        one.needs = Needs::Activation;
        one.class_specific = false;
        one.relu = false;
        one.parameters = {
            preset("paper: the activation as it is; pytorch-grad-cam: each channel's mean is taken away "
                   "first. The sign, which neither fixes, is the one that makes the map grow with the "
                   "activation's length",
                   {"paper", "pytorch-grad-cam"})};
        r.push_back(one);

        begin("eigen_grad_cam", "EigenGrad-CAM", "Gradient times activation along its first principal axis",
              "J. Gildenblat, pytorch-grad-cam 1.5; no paper", eigen_grad_cam_map, "(dy/dA * A) v_1",
              "The sign of an axis is arbitrary, and nobody has published how faithful it is (pytorch-grad-cam names "
              "no paper)");
        one.relu = false;
        r.push_back(one);

        const Parameter masks = preset(
            "paper: a channel is enlarged to the picture, then scaled to 0 to 1; pytorch-grad-cam: the same, enlarged "
            "with aligned corners; torchcam: scaled first, then enlarged",
            {"paper", "pytorch-grad-cam", "torchcam"});
        begin("score_cam", "Score-CAM",
              "A layer's channels, weighed by what the model says of the picture seen through each",
              "H. Wang et al., Score-CAM, CVPR Workshops 2020, arXiv 1910.01279", score_map,
              "relu(sum_k softmax over k of y(x * mask_k) A_k)",
              "Masked pictures are unlike what the model was trained on (as Hooker et al., NeurIPS 2019, say of all "
              "removal), and each channel costs a run");
        one.passes = [](const Model& model, const Settings&) { return masked(model, 1); };
        one.needs = Needs::Activation;
        one.several = false;
        one.parameters = {masks};
        r.push_back(one);

        begin("ss_cam", "SS-CAM", "Score-CAM with noise on the channels, averaged",
              "H. Wang et al., SS-CAM: Smoothed Score-CAM, arXiv 2006.14255; as torchcam has it", smoothed_score_map,
              "relu(sum_k softmax over k of mean over noise of y(x * (mask_k + noise)) A_k)",
              "Costs Score-CAM many times over, and its pictures are as unlike what the model was trained on (our "
              "observation)");
        one.passes = [](const Model& model, const Settings& s) { return masked(model, s.integer("samples")); };
        one.needs = Needs::Activation;
        one.several = false;
        one.parameters = {
            {"samples", std::int64_t{35}, "noisy passes a channel", "", "torchcam 0.5", 1.0, 1000.0, {}},
            {"std", 2.0, "deviation of the noise on a channel scaled to 0 to 1", "", "torchcam 0.5", 0.0, 100.0, {}}};
        r.push_back(one);

        begin("is_cam", "IS-CAM", "Score-CAM summed over masks of growing strength",
              "R. Naidu et al., IS-CAM: Integrated Score-CAM, arXiv 2010.03023; as torchcam has it",
              integrated_score_map, "relu(sum_k softmax over k of mean over strengths s of y(s x * mask_k) A_k)",
              "Costs Score-CAM many times over, and its pictures are as unlike what the model was trained on (our "
              "observation)");
        one.passes = [](const Model& model, const Settings& s) { return masked(model, s.integer("samples")); };
        one.needs = Needs::Activation;
        one.several = false;
        one.parameters = {
            {"samples", std::int64_t{10}, "strengths a channel", "", "torchcam 0.5", 1.0, 1000.0, {}},
            {"path",
             std::string("sums"),
             "strength of the i-th mask of n: sums: (1 + ... + i) / n, as torchcam has it, which goes beyond 1; line: "
             "i / n, from nothing to the whole mask",
             "",
             "torchcam 0.5",
             {},
             {},
             {"sums", "line"}}};
        r.push_back(one);

        begin("ablation_cam", "Ablation-CAM", "A layer's channels, weighed by how far the score falls without each",
              "S. Desai, H. G. Ramaswamy, Ablation-CAM, WACV 2020", ablation_map,
              "relu(sum_k ((y - y_k) / y) A_k), y_k the score without channel k",
              "One channel at a time: channels that stand in for one another weigh little (our observation)");
        one.passes = [](const Model&, const Settings&) {
            return std::optional<Passes>();
        };  // parts of the model, by layer
        one.needs = Needs::Activation;
        one.several = false;
        one.parameters = {preset(
            "paper: a channel without which the score is taken is zero; pytorch-grad-cam: zero where the layer's least "
            "value is zero, else the least value less 1e7, and 1e7 more for each channel before it in its batch of 32",
            {"paper", "pytorch-grad-cam"})};
        r.push_back(one);

        begin(
            "finer_cam", "Finer-CAM", "Grad-CAM of what sets the class apart from those most like it",
            "Z. Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details, CVPR 2025, arXiv 2501.11309",
            grad_cam_map, "relu(sum_k mean(dz/dA_k) A_k), z = y - strength * mean of the nearest classes' y",
            "Shows what sets the class apart: what it shares with its neighbours is missing (Zhang et al., CVPR 2025)");
        one.number = finer_number;
        one.no_region = only_logits;
        one.why_not = no_finer;
        one.parameters = {
            preset("paper: the logit less `strength` times the mean logit of the references, as torchcam has it; "
                   "pytorch-grad-cam: the references are weighed by their probabilities, which are differentiated too",
                   {"paper", "pytorch-grad-cam"}),
            {"references",
             std::int64_t{3},
             "how many classes of the nearest logits it is compared with; with "
             "--versus that class alone",
             "",
             "both packages",
             1.0,
             1000.0,
             {}},
            {"strength",
             -1.0,
             "how much of the references' logits is taken away; below 0: the preset's own, 0.6 and 1",
             "",
             "torchcam 0.5, pytorch-grad-cam 1.5",
             -1.0,
             10.0,
             {}}};
        r.push_back(one);

        begin("shapley_cam", "ShapleyCAM", "Grad-CAM with the second-order term of a Shapley value",
              "H. Cai, CAMs as Shapley Value-based Explainers, arXiv 2501.06261", shapley_cam_map,
              "relu(sum_k mean(dy/dA_k - (H A)_k / 2) A_k), H the Hessian of y at the layer",
              "Its second-order expansion is exact only where the score is quadratic in the layer (Cai 2025)");
        one.needs = Needs::Hessian;
        one.number = shapley_number;
        one.no_region = only_classes;
        one.parameters = {{"utility",
                           std::string("rest"),
                           "rest: logit plus log-probability of the class (residual softmax target); target: the "
                           "target's own number",
                           "",
                           "the paper",
                           {},
                           {},
                           {"rest", "target"}}};
        r.push_back(one);

        begin("random_cam", "RandomCAM", "A layer's channels, weighed at random: a control",
              "J. Gildenblat, pytorch-grad-cam 1.5; no paper", random_cam_map,
              "relu(sum_k u_k A_k), u uniform between -1 and 1",
              "A control: it shows the layer and knows nothing of the answer (our observation)");
        one.needs = Needs::Activation;
        one.class_specific = false;
        r.push_back(one);
        return r;
    }();
    return all;
}

}  // namespace vitrine::plugin::cam
