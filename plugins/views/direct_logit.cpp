// Direct logit attribution: a logit as the sum of what the embedding, each head, each MLP and the biases add to it.
#include "views.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace vitrine::plugin::views {
namespace {

/// The model's weights by timm's names, in float64 on the CPU.
class Weights {
  public:
    explicit Weights(Model& model) {
        for (const auto& [name, tensor] : model.parameters()) all_[name] = tensor;
    }
    /// Undefined where there is none.
    at::Tensor get(const std::string& name) const {
        const auto found = all_.find(name);
        return found == all_.end() ? at::Tensor{} : found->second.detach().to(at::kCPU, at::kDouble);
    }
    Result<at::Tensor> wanted(const std::string& name) const {
        at::Tensor found = get(name);
        if (!found.defined())
            return fail(ErrorCode::Unsupported, "the model keeps no weight named {}, which is needed to take it apart",
                        name);
        return found;
    }

  private:
    std::map<std::string, at::Tensor> all_;
};

/// A layer norm with its statistics held: row i of x becomes weight * scale_i * (x_i - mean of x_i) + bias.
struct Frozen {
    at::Tensor weight, bias;  ///< [width]
    at::Tensor scale;         ///< [rows]
};

/// The scales are read off what the norm gave, so that nothing need be known of its epsilon.
Result<Frozen> frozen(const Weights& weights, const std::string& name, const at::Tensor& x, const at::Tensor& normed) {
    Frozen out;
    out.weight = VITRINE_TRY(weights.wanted(name + ".weight"));
    out.bias = weights.get(name + ".bias");
    if (!out.bias.defined()) out.bias = at::zeros(out.weight.sizes(), at::kDouble);
    const at::Tensor shape = out.weight * (x - x.mean(-1, /*keepdim=*/true)), moved = normed - out.bias;
    out.scale = (moved * shape).sum(-1) / (shape * shape).sum(-1).clamp_min(1e-30);
    const double off = (moved - out.scale.unsqueeze(-1) * shape).abs().max().item<double>();
    // Of bfloat16 half a percent is rounding; a norm of another kind is off by its mean.
    if (off > 2e-2 * moved.abs().max().item<double>())
        return fail(ErrorCode::Unsupported, "{} is no layer norm, whose scale could be held", name);
    return out;
}

/// A part of the answer: the tokens it reads and the direction it reads them by. The answer is a constant and the sum
/// over parts and tokens of weight[t] * <x[t], direction>.
struct Part {
    at::Tensor weight;     ///< [tokens]
    at::Tensor direction;  ///< [width]
};

struct Line {
    std::vector<Part> parts;
    double constant = 0;  ///< biases of the last norm and the head
    double of(const at::Tensor& x) const {
        double sum = 0;
        for (const Part& part : parts) sum += part.weight.dot(x.matmul(part.direction)).item<double>();
        return sum;
    }
};

class DirectLogitAttribution final : public Explainer {
  public:
    Description description() const override {
        return {
            "direct_logit_attribution",
            "Direct logit attribution",
            "A logit as the sum of what the embedding, each head, each MLP and the biases write towards it",
            "N. Elhage et al., A Mathematical Framework for Transformer Circuits, 2021; for vision Y. Gandelsman, A. "
            "A. Efros, J. Steinhardt, Interpreting CLIP's Image Representation via Text-Based Decomposition, ICLR "
            "2024, arXiv 2310.05916",
            0,
            "Inner views",
            "sum over layers and heads of a_j (v_j W_O) u, u the class's direction behind the last norm, its scale "
            "held",
            "Sees only what is written straight to the logit: a head that works through later layers counts for "
            "nothing, and later layers may undo what is written (for language models: McGrath et al., The Hydra "
            "Effect, 2023)"};
    }
    std::optional<std::string> why_not(const Model& model) const override {
        if (auto why = needs_blocks(model)) return why;
        if (model.info().classes == 0)
            return model.info().name + " has no classes, and this method takes a logit apart";
        if (model.info().readout == Readout::AttentionPool)
            return model.info().name +
                   " reads its answer by a pooling head, whose attention and MLP are not linear: its logit is no sum "
                   "of what the blocks add";
        return std::nullopt;
    }
    bool class_specific() const override { return true; }
    std::optional<std::string> no_region(const Settings&) const override { return kFromTheAnswer; }
    std::optional<Passes> passes(const Model&, const Settings&) const override { return Passes{1, 0}; }

    Result<Attribution> explain(ExplainContext& context, const Settings&) const override {
        const at::NoGradGuard no_grad;
        Model& model = context.model;
        const std::int64_t layers = model.info().layers, heads = model.info().heads;
        const auto known = model.points();
        const auto has = [&](const char* name) {
            return std::any_of(known.begin(), known.end(), [&](const NamedPoint& p) { return p.name == name; });
        };
        std::vector<std::string> points;
        for (std::int64_t layer = 0; layer < layers; ++layer) {
            points.push_back(point_name(layer));
            points.push_back(point_name(layer, "mlp"));
        }
        points.emplace_back("head_input");
        if (has("norm")) points.emplace_back("norm");
        const auto seen = VITRINE_TRY(look(context, context.input.pixels, points, /*mixings=*/true));
        const Objective objective = VITRINE_TRY(answer_objective(context, seen->output));
        if (objective.probability || objective.index < 0)
            return fail(ErrorCode::Unsupported, "{} is no sum of contributions: explain a logit", objective.explained);
        const Flow& flow = seen->flow;
        if (flow.layers() != layers || !flow.readout.defined())
            return fail(ErrorCode::Unsupported, "not all attention layers of {} were seen", model.info().name);
        const auto at_point = [&](const std::string& name) {
            return seen->points.at(name)[0].detach().to(at::kCPU, at::kDouble);
        };
        const Weights weights(model);
        const at::Tensor last = at_point(point_name(layers - 1));  // [tokens, width]
        const Line line = VITRINE_TRY(line_of(weights, objective, model, flow.readout, last,
                                              has("norm") ? at_point("norm") : at::Tensor{}, at_point("head_input")));

        const Blocks blocks = VITRINE_TRY(Blocks::make(context, *seen));
        Attribution out;
        Table table{"direct_logit_attribution", "logit", {}, {"sum"}, {}};
        for (std::int64_t head = 0; head < heads; ++head) table.cols.push_back(fmt::format("head {}", head));
        table.cols.emplace_back("bias");
        const auto row = [&](std::string name, std::vector<double> values) {
            table.rows.push_back(std::move(name));
            table.values.push_back(std::move(values));
        };
        const double embedding = line.of(blocks.input(0)[0].to(at::kCPU, at::kDouble));
        row("embedding", {embedding});
        double total = embedding + line.constant, by_attention = 0, by_mlp = 0, by_bias = 0;
        at::Tensor map;  // [keys]
        for (std::int64_t layer = 0; layer < layers; ++layer) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const Mixing& mixing = *flow.block(layer)->mixing;
            if (!mixing.output().defined() || !mixing.v().defined())
                return fail(ErrorCode::OutOfMemory, "what the heads of {} gave was not kept: allow more memory",
                            mixing.name);
            const std::string block = fmt::format("blocks.{}.", layer);
            const at::Tensor proj = VITRINE_TRY(weights.wanted(block + "attn.proj.weight"));  // [width, width]
            const at::Tensor proj_bias = weights.get(block + "attn.proj.bias"),
                             scale1 = weights.get(block + "ls1.gamma"), scale2 = weights.get(block + "ls2.gamma");
            const at::Tensor output = mixing.output().to(at::kCPU, at::kDouble),
                             v = mixing.v().to(at::kCPU, at::kDouble);
            const at::Tensor mlp = at_point(point_name(layer, "mlp"));
            at::Tensor of_heads = at::zeros({heads}, at::kDouble);
            double bias = 0, of_mlp = 0;
            for (const Part& part : line.parts) {
                const at::Tensor along = scale1.defined() ? scale1 * part.direction : part.direction;
                // The direction in each head's own space. [heads, dim, 1]
                const at::Tensor read = proj.t().mv(along).reshape({heads, -1, 1});
                of_heads = of_heads + at::bmm(output, read).squeeze(2).mv(part.weight);
                const at::Tensor reached =
                    VITRINE_TRY(mixing.left(part.weight.to(at::kFloat).unsqueeze(0))).to(at::kCPU, at::kDouble);
                const at::Tensor by_key = (reached * at::bmm(v, read).squeeze(2)).sum(0);
                map = map.defined() ? map + by_key : by_key;
                if (proj_bias.defined()) bias += part.weight.sum().item<double>() * proj_bias.dot(along).item<double>();
                of_mlp += part.weight.dot(mlp.matmul(scale2.defined() ? scale2 * part.direction : part.direction))
                              .item<double>();
            }
            std::vector<double> values(of_heads.const_data_ptr<double>(), of_heads.const_data_ptr<double>() + heads);
            const double sum = of_heads.sum().item<double>();
            values.insert(values.begin(), sum + bias);
            values.push_back(bias);
            row(mixing.name, std::move(values));
            row(block + "mlp", {of_mlp});
            total += sum + bias + of_mlp;
            by_attention += sum;
            by_mlp += of_mlp;
            by_bias += bias;
            out.implementation = mixing.implementation();
            if (context.progress) context.progress({layer + 1, layers, "layers"});
        }
        row("bias of the last norm and the head", {line.constant});

        // What is added up in half precision is rounded at each step.
        const bool single = seen->points.at(points.front()).scalar_type() == at::kFloat;
        const double allowed = single ? 1e-4 : 2e-2;
        const double answer = objective.of(seen->output).item<double>(), gap = std::abs(total - answer);
        out.checks.push_back(
            {"sums to the logit", gap <= allowed * std::max(1.0, std::abs(answer)),
             fmt::format("all rows sum to {:.6g}, the number is {:.6g}: {:.0e} apart", total, answer, gap)});
        const double parts = std::abs(map.sum().item<double>() - by_attention);
        out.checks.push_back(
            {"heads", parts <= allowed * std::max(1.0, std::abs(by_attention)),
             fmt::format("what the heads read from all tokens sums to their rows within {:.0e}", parts)});
        const TokenLayout& layout = flow.block(0)->mixing->key_layout;
        out.map = VITRINE_TRY(patches_of(map, layout));
        const std::int64_t prefix = layout.prefix_count();
        const double size = map.abs().sum().item<double>();
        out.prefix_mass = prefix > 0 && size > 0 ? map.narrow(0, 0, prefix).abs().sum().item<double>() / size : 0;
        out.method = "direct_logit_attribution";
        out.is_signed = true;
        out.class_specific = true;
        out.explained = objective.explained + ", what all heads write to it, by the patch that they read";
        out.notes.push_back(fmt::format(
            "of {:.4g}: heads {:.4g} ({:.4g} of it from {} prefix token{}, not drawn), MLPs {:.4g}, embedding {:.4g}, "
            "biases {:.4g}; the last norm's scale is held",
            answer, by_attention, prefix > 0 ? map.narrow(0, 0, prefix).sum().item<double>() : 0.0, prefix,
            prefix == 1 ? "" : "s", by_mlp, embedding, by_bias + line.constant));
        out.tables.push_back(std::move(table));
        return out;
    }

  private:
    /// The logit as a line in the tokens behind the last block, its norms' scales held.
    static Result<Line> line_of(const Weights& weights, const Objective& objective, const Model& model,
                                const at::Tensor& readout, const at::Tensor& x, const at::Tensor& normed,
                                const at::Tensor& pooled) {
        const std::int64_t tokens = x.size(0), width = x.size(1), classes = model.info().classes;
        at::Tensor of_class = at::zeros({classes}, at::kDouble);
        of_class[objective.index] += 1;
        for (const std::int64_t other : objective.also) of_class[other] += 1;
        if (objective.versus) of_class[*objective.versus] -= 1;

        Line out;
        at::Tensor u = VITRINE_TRY(weights.wanted("head.weight")).t().mv(of_class);
        if (const at::Tensor bias = weights.get("head.bias"); bias.defined())
            out.constant += bias.dot(of_class).item<double>();
        const at::Tensor second = weights.get("head_dist.weight");
        const at::Tensor reads = readout.to(at::kCPU, at::kDouble).reshape({-1});
        if (reads.numel() != tokens)
            return fail(ErrorCode::Unsupported, "the answer is read from {} tokens, and there are {}", reads.numel(),
                        tokens);
        const at::Tensor n = normed.defined() ? normed : x;
        const auto only = [&](std::int64_t token) {
            at::Tensor one = at::zeros({tokens}, at::kDouble);
            one[token].fill_(1);
            return one;
        };
        if (second.defined()) {
            // Two heads, the answers averaged.
            if (const at::Tensor bias = weights.get("head_dist.bias"); bias.defined())
                out.constant = (out.constant + bias.dot(of_class).item<double>()) / 2;
            else
                out.constant /= 2;
            out.parts = {{only(0), u / 2}, {only(1), second.t().mv(of_class) / 2}};
        } else {
            if (weights.get("fc_norm.weight").defined()) {
                // In front of the head, behind the pooling: its input is the pooled tokens.
                at::Tensor before = reads.unsqueeze(0).matmul(n)[0];
                if (u.numel() == 2 * width)
                    return fail(ErrorCode::Unsupported, "a norm over class token and mean side by side is not covered");
                const Frozen norm = VITRINE_TRY(frozen(weights, "fc_norm", before.unsqueeze(0), pooled.unsqueeze(0)));
                out.constant += u.dot(norm.bias).item<double>();
                u = u * norm.weight * norm.scale[0];
                u = u - u.mean();
            }
            if (u.numel() == 2 * width) {
                // The class token beside the mean of the patches.
                at::Tensor patches = reads.clone();
                patches[0].fill_(0);
                out.parts = {{only(0), u.narrow(0, 0, width)}, {patches / patches.sum(), u.narrow(0, width, width)}};
            } else {
                out.parts = {{reads, u}};
            }
        }
        if (normed.defined()) {
            const Frozen norm = VITRINE_TRY(frozen(weights, "norm", x, normed));
            for (Part& part : out.parts) {
                out.constant += part.weight.sum().item<double>() * part.direction.dot(norm.bias).item<double>();
                part.direction = part.direction * norm.weight;
                part.direction = part.direction - part.direction.mean();
                part.weight = part.weight * norm.scale;
            }
        }
        return out;
    }
};

}  // namespace

std::unique_ptr<Explainer> make_direct_logit_attribution() { return std::make_unique<DirectLogitAttribution>(); }

}  // namespace vitrine::plugin::views
