// Measures that compare maps: with those of a broken model, of another class, of another method.
#include "measures.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randint.h>

#include <vitrine/registry.h>

namespace vitrine::plugin::measures {

namespace {

Parameter likeness_parameter() {
    return {"likeness",
            std::string("spearman"),
            "how two maps are compared: Spearman's rank correlation, or structural similarity of the maps divided by "
            "their largest magnitude",
            "",
            "J. Adebayo et al., NeurIPS 2018",
            {},
            {},
            {"spearman", "ssim"}};
}

Parameter absolute_parameter() {
    return {"absolute", false, "compares magnitudes only", "", "J. Adebayo et al., NeurIPS 2018", {}, {}, {}};
}

/// Nothing where a map is flat: it is like none, and no number says so.
std::optional<double> likeness(const at::Tensor& a, const at::Tensor& b, const std::string& how, bool absolute) {
    at::Tensor x = absolute ? a.abs() : a, y = absolute ? b.abs() : b;
    if (how == "spearman") return spearman(x, y);
    const double most_x = x.abs().max().item<double>(), most_y = y.abs().max().item<double>();
    if (!(most_x > 0) || !(most_y > 0)) return std::nullopt;
    return ssim(x / most_x, y / most_y);
}

/// The method once more, on the picture itself, with nothing kept from earlier runs.
Result<at::Tensor> explained_again(const ExplainContext& context, const Subject& subject, const Target& target,
                                   std::uint64_t seed) {
    ExplainContext again(context.model, context.input, target, seed);
    again.stop = context.stop;
    again.memory_budget = context.memory_budget;
    again.batch = context.batch;
    again.boxes = context.boxes;
    again.other = context.other;
    return native_map(VITRINE_TRY(subject.explainer.explain(again, subject.settings)));
}

class ParameterRandomisation final : public Basic {
  public:
    Description description() const override {
        return {"parameter_randomisation",
                "Parameter randomisation",
                "How alike the map stays while the model's layers are broken from the head on: near 1 it explains the "
                "picture, not the model",
                "J. Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018",
                0,
                "Sanity",
                "mean over layers, from the head on, and seeds of the likeness of the map to that of the model with "
                "those layers permuted; native maps"};
    }

    std::vector<Parameter> parameters() const override {
        return {likeness_parameter(),
                absolute_parameter(),
                {"seeds", std::int64_t{10}, "how often everything is drawn anew", "", "ours", 1.0, 10000.0, {}},
                {"order",
                 std::string("cascading"),
                 "cascading: broken layers stay broken; independent: one layer at a time",
                 "",
                 "Adebayo et al., sections 3.1 and 3.2",
                 {},
                 {},
                 {"cascading", "independent"}}};
    }

    std::optional<std::string> why_not(const Model& model, const Explainer&) const override {
        if (!model.is_native()) return model.info().name + " does not let its parameters be reached";
        return std::nullopt;
    }
    std::optional<bool> higher_is_better() const override { return false; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        if (context.model.parameters().empty())
            return fail(ErrorCode::Unsupported, "{} does not let its parameters be reached", context.model.info().name);
        const at::Tensor own = VITRINE_TRY(native_map(subject.attribution));
        // The class that the sound model predicts: a broken one predicts others.
        const Target target = VITRINE_TRY(settled(context));
        const std::string how = settings.text("likeness");
        const bool absolute = settings.flag("absolute");
        Score out;
        if (!likeness(own, own, how, absolute)) {
            out.left_out = "the map is flat";
            return out;
        }
        const auto layers = VITRINE_TRY(layers_from_the_head(context));
        const auto seeds = settings.integer("seeds");
        const auto steps = static_cast<std::int64_t>(layers.size());
        std::vector<double> sum(layers.size(), 0.0);
        std::int64_t flat = 0;
        // All four ways to compare cost next to nothing beside the maps: what was not asked for goes into the notes.
        struct Way {
            const char* how;
            bool absolute;
            double sum = 0;
        };
        std::array<Way, 4> ways{{{"spearman", false}, {"spearman", true}, {"ssim", false}, {"ssim", true}}};
        ParametersAside aside(context.model);
        for (std::int64_t s = 0; s < seeds; ++s) {
            const auto drawn = static_cast<std::uint64_t>(s) << 32;
            for (std::size_t l = 0; l < layers.size(); ++l) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                if (settings.text("order") == "independent") aside.restore();
                for (const std::size_t parameter : layers[l])
                    aside.shuffle(parameter, generator(context.seed, 0xBAD00000000u + drawn + parameter));
                const at::Tensor broken = VITRINE_TRY(explained_again(context, subject, target, context.seed));
                const auto found = likeness(own, broken, how, absolute);
                // A broken model may answer so that nothing is left to show; such a map is not like the first.
                if (!found) ++flat;
                sum[l] += found.value_or(0) / static_cast<double>(seeds);
                for (Way& way : ways)
                    way.sum +=
                        likeness(own, broken, way.how, way.absolute).value_or(0) / static_cast<double>(seeds * steps);
                if (context.progress)
                    context.progress({s * steps + static_cast<std::int64_t>(l) + 1, seeds * steps, "broken models"});
            }
            aside.restore();
        }
        // What the method's own chance does to the map, beside which the number has to be read: the course begins
        // there, with no layer broken. It takes no part in the mean.
        const at::Tensor other = VITRINE_TRY(explained_again(context, subject, target, context.seed + 1));
        out.steps.push_back(0);
        out.curve.push_back(likeness(own, other, how, absolute).value_or(0));
        for (std::size_t l = 0; l < layers.size(); ++l) {
            out.steps.push_back(static_cast<double>(l + 1) / static_cast<double>(layers.size()));
            out.curve.push_back(sum[l]);
            out.value += sum[l] / static_cast<double>(layers.size());
        }
        std::vector<std::string> order;
        for (const auto& layer : layers) {
            const std::string& name = aside.names()[layer.front()];
            order.push_back(name.substr(0, name.rfind('.')));
        }
        out.notes.push_back(fmt::format("mean over {} layers and {} seeds, layers by the first of their parameters: {}",
                                        layers.size(), seeds, fmt::join(order, ", ")));
        if (flat > 0)
            out.notes.push_back(fmt::format("{} of {} broken maps were flat and count as 0", flat, seeds * steps));
        for (const Way& way : ways)
            out.notes.push_back(fmt::format("{}{}: {:.3f}; the sound model's own map from another seed: {:.3f}",
                                            way.how, way.absolute ? " of magnitudes" : "", way.sum,
                                            likeness(own, other, way.how, way.absolute).value_or(0)));
        return out;
    }
};

class RandomLogit final : public Basic {
  public:
    Description description() const override {
        return {"random_logit",
                "Random logit",
                "How alike the map is to that of another class: near 1 it does not say why this class",
                "L. Sixt et al., When Explanations Lie, ICML 2020",
                0,
                "Sanity",
                "mean over other classes of the likeness of the map to that of the class; native maps"};
    }

    std::vector<Parameter> parameters() const override {
        return {likeness_parameter(),
                absolute_parameter(),
                {"classes",
                 std::int64_t{5},
                 "how many other classes are drawn",
                 "",
                 "ours; Sixt et al.: 1",
                 1.0,
                 10000.0,
                 {}}};
    }

    std::optional<std::string> why_not(const Model& model, const Explainer& explainer) const override {
        if (!explainer.class_specific())
            return explainer.description().name + " does not depend on the class, so another class has the same map";
        if (model.info().classes < 2) return model.info().name + " has no other class to explain";
        return std::nullopt;
    }
    std::optional<bool> higher_is_better() const override { return false; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const at::Tensor own = VITRINE_TRY(native_map(subject.attribution));
        const Target target = VITRINE_TRY(settled(context));
        if (!target.index)
            return fail(ErrorCode::Unsupported, "the target is no class: there is no other to compare with");
        const std::string how = settings.text("likeness");
        Score out;
        if (!likeness(own, own, how, settings.flag("absolute"))) {
            out.left_out = "the map is flat";
            return out;
        }
        const std::int64_t classes = context.model.info().classes, count = settings.integer("classes");
        const at::Tensor drawn = at::randint(0, classes - 1, {count}, generator(context.seed, 0x106175), at::kLong);
        std::vector<std::int64_t> others;
        for (std::int64_t i = 0; i < count; ++i) {
            if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
            const auto other = drawn[i].item<std::int64_t>();
            Target changed = target;
            changed.index = other < *target.index ? other : other + 1;
            others.push_back(*changed.index);
            const at::Tensor map = VITRINE_TRY(explained_again(context, subject, changed, context.seed));
            out.value += likeness(own, map, how, settings.flag("absolute")).value_or(0) / static_cast<double>(count);
            if (context.progress) context.progress({i + 1, count, "classes"});
        }
        out.notes.push_back(fmt::format("class {} against {}", *target.index, fmt::join(others, ", ")));
        return out;
    }
};

class Agreement final : public Basic {
  public:
    Description description() const override {
        return {"agreement",
                "Agreement",
                "How alike the map is to another method's",
                "S. Krishna et al., The Disagreement Problem in Explainable Machine Learning, TMLR 2024",
                0,
                "Agreement",
                "likeness of the map to another method's; native maps where their sizes agree, else over the patches"};
    }

    std::vector<Parameter> parameters() const override {
        return {{"with",
                 std::string("edges"),
                 "the other method, with its own defaults; edges: is it more than an edge "
                 "detector",
                 "",
                 "ours",
                 {},
                 {},
                 {}},
                {"likeness",
                 std::string("spearman"),
                 "Spearman's rank correlation, structural similarity, or the share of the highest cells that both have",
                 "",
                 "Krishna et al.",
                 {},
                 {},
                 {"spearman", "ssim", "top"}},
                {"top", 10.0, "how much of the map counts as its highest cells", "%", "ours", 0.01, 100.0, {}}};
    }

    /// Neither: methods that agree may be wrong together.
    std::optional<bool> higher_is_better() const override { return std::nullopt; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        const std::string name = settings.text("with");
        const Explainer* other = VITRINE_TRY(registry().explainer(name));
        if (auto why = other->why_not(context.model))
            return fail(ErrorCode::Unsupported, "{} cannot run on {}: {}", name, context.model.info().name, *why);
        const Attribution second = VITRINE_TRY(other->explain(context, Settings(other->parameters())));
        at::Tensor a = VITRINE_TRY(native_map(subject.attribution)), b = VITRINE_TRY(native_map(second));
        if (a.sizes() != b.sizes()) {
            // The finer of two maps loses to the coarser: both are taken over the patches where there are any.
            const auto patches = patch_map(context, subject.attribution);
            if (patches) {
                a = *patches;
                b = VITRINE_TRY(patch_map(context, second));
            } else {
                a = VITRINE_TRY(pixel_map(context, subject.attribution));
                b = VITRINE_TRY(pixel_map(context, second));
            }
        }
        Score out;
        const std::string how = settings.text("likeness");
        if (how == "top") {
            const auto k = std::max<std::int64_t>(
                1,
                static_cast<std::int64_t>(std::llround(static_cast<double>(a.numel()) * settings.number("top") / 100)));
            out.value = top_overlap(a, b, k, context.seed);
            out.notes.push_back(fmt::format("with {}: the {} highest of {} cells", name, k, a.numel()));
            return out;
        }
        const auto found = likeness(a, b, how, false);
        if (!found) {
            out.left_out = fmt::format("the map, or that of {}, is flat", name);
            return out;
        }
        out.value = *found;
        out.notes.push_back(fmt::format("with {}, over {} x {} cells", name, a.size(0), a.size(1)));
        return out;
    }
};

}  // namespace

std::unique_ptr<Measure> make_parameter_randomisation() { return std::make_unique<ParameterRandomisation>(); }
std::unique_ptr<Measure> make_random_logit() { return std::make_unique<RandomLogit>(); }
std::unique_ptr<Measure> make_agreement() { return std::make_unique<Agreement>(); }

}  // namespace vitrine::plugin::measures
