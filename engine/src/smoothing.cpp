// Maps of changed copies of a picture and of several layers, fused.
#include <vitrine/smoothing.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <fmt/ranges.h>

#include <vitrine/torch_errors.h>

namespace vitrine {
namespace {

constexpr double kLeastScale = 0.25, kLargestScale = 4, kLargestFactor = 10;

std::vector<std::string> parts_of(std::string_view text) {
    std::vector<std::string> out;
    while (!text.empty()) {
        const auto comma = std::min(text.find(','), text.size());
        std::string part(text.substr(0, comma));
        part.erase(0, part.find_first_not_of(' '));
        part.erase(part.find_last_not_of(' ') + 1);
        if (!part.empty()) out.push_back(std::move(part));
        text.remove_prefix(std::min(comma + 1, text.size()));
    }
    return out;
}

Result<std::vector<double>> numbers_of(const std::string& name, const std::string& text, double low, double high) {
    std::vector<double> out;
    for (const std::string& part : parts_of(text)) {
        double number = 0;
        const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), number);
        if (error != std::errc() || end != part.data() + part.size() || !(number >= low) || !(number <= high))
            return fail(ErrorCode::BadInput, "{} is '{}', expected numbers from {} to {} with commas between them",
                        name, part, low, high);
        out.push_back(number);
    }
    if (out.empty()) return fail(ErrorCode::BadInput, "{} names no number: 1 leaves the picture as it is", name);
    return out;
}

/// One changed picture.
struct Copy {
    bool across = false, down = false;  ///< mirrored left to right, top to bottom
    double scale = 1, factor = 1;
    bool changed() const { return across || down || scale != 1 || factor != 1; }
};

struct Plan {
    std::vector<Copy> copies;
    std::vector<std::string> layers;  ///< empty: the method's own
    std::string fuse;
    bool unit = false;
    std::string words;  ///< "2 flips, factors 0.9, 1, 1.1"
    bool identity() const { return copies.size() == 1 && !copies.front().changed() && layers.empty(); }
};

Result<Plan> plan_of(const Settings& options) {
    Plan out;
    std::string flips = options.text("flips"), factors = options.text("factors");
    out.fuse = options.text("fuse");
    out.unit = options.text("range") == "unit";
    if (options.text("preset") == "grad_cam") {
        if (options.is_default("flips")) flips = "horizontal";
        if (options.is_default("factors")) factors = "0.9, 1, 1.1";
        if (options.is_default("range")) out.unit = true;
    }
    const auto scales = VITRINE_TRY(numbers_of("scales", options.text("scales"), kLeastScale, kLargestScale));
    const auto strengths = VITRINE_TRY(numbers_of("factors", factors, -kLargestFactor, kLargestFactor));
    out.layers = parts_of(options.text("layers"));
    const std::vector<std::pair<bool, bool>> mirrored =
        flips == "horizontal" ? std::vector<std::pair<bool, bool>>{{false, false}, {true, false}}
        : flips == "vertical" ? std::vector<std::pair<bool, bool>>{{false, false}, {false, true}}
        : flips == "both"
            ? std::vector<std::pair<bool, bool>>{{false, false}, {true, false}, {false, true}, {true, true}}
            : std::vector<std::pair<bool, bool>>{{false, false}};
    for (const auto& [across, down] : mirrored)
        for (const double scale : scales)
            for (const double factor : strengths) out.copies.push_back({across, down, scale, factor});
    std::vector<std::string> said;
    if (flips != "none") said.push_back(flips == "both" ? "flips of both axes" : flips + " flips");
    if (scales.size() > 1 || scales.front() != 1) said.push_back(fmt::format("scales {}", fmt::join(scales, ", ")));
    if (strengths.size() > 1 || strengths.front() != 1)
        said.push_back(fmt::format("factors {}", fmt::join(strengths, ", ")));
    if (!out.layers.empty()) said.push_back(fmt::format("layers {}", fmt::join(out.layers, ", ")));
    out.words = fmt::format("{}", fmt::join(said, "; "));
    return out;
}

at::Tensor resized(const at::Tensor& map, std::int64_t rows, std::int64_t cols) {
    if (map.size(0) == rows && map.size(1) == cols) return map;
    return at::upsample_bilinear2d(map.unsqueeze(0).unsqueeze(0), {rows, cols}, /*align_corners=*/false)[0][0];
}

at::Tensor to_unit(const at::Tensor& map, bool is_signed) {
    if (is_signed) {
        const double largest = map.abs().max().item<double>();
        return largest > 0 ? map / largest : map;
    }
    const at::Tensor above = map - map.min();
    return above / (1e-7 + above.max());  // 1e-7: pytorch-grad-cam's scale_cam_image
}

/// One of many, all of one size.
at::Tensor fused(const std::vector<at::Tensor>& maps, const std::string& how) {
    at::Tensor out = maps.front().clone();
    for (std::size_t i = 1; i < maps.size(); ++i)
        out = how == "max" ? at::maximum(out, maps[i]) : how == "product" ? out * maps[i] : out + maps[i];
    return how == "mean" ? out / static_cast<double>(maps.size()) : out;
}

Status all_finite(const Attribution& found) {
    if (!found.map.defined()) return {};
    const auto bad = found.map.numel() - at::isfinite(found.map).sum().item<std::int64_t>();
    if (bad > 0)
        return fail(ErrorCode::Unsupported, "the map of {} holds {} numbers that are not finite, of {}", found.method,
                    bad, found.map.numel());
    return {};
}

constexpr std::string_view kElsewhere =
    "a place in the picture is explained, and in a changed copy it would be another place";

bool changes_picture(const Plan& plan) { return plan.copies.size() > 1 || plan.copies.front().changed(); }

class Smoothed final : public Explainer {
  public:
    Smoothed(const Explainer& inner, Settings options) : inner_(inner), options_(std::move(options)) {}

    Description description() const override { return inner_.description(); }
    std::vector<Parameter> parameters() const override { return inner_.parameters(); }
    std::optional<std::string> why_not(const Model& model) const override { return inner_.why_not(model); }
    bool class_specific() const override { return inner_.class_specific(); }
    bool reads_other(const Settings& settings) const override { return inner_.reads_other(settings); }
    std::optional<std::string> no_region(const Settings& settings) const override {
        if (auto why = inner_.no_region(settings)) return why;
        const auto plan = plan_of(options_);
        if (plan && changes_picture(*plan)) return std::string(kElsewhere);
        return std::nullopt;
    }
    std::optional<Passes> passes(const Model& model, const Settings& settings) const override {
        auto out = inner_.passes(model, settings);
        const auto plan = plan_of(options_);
        if (!out || !plan) return out;
        const auto times =
            static_cast<std::int64_t>(plan->copies.size() * std::max<std::size_t>(1, plan->layers.size()));
        out->forwards *= times;
        out->backwards *= times;
        return out;
    }

    Result<Attribution> explain(ExplainContext& context, const Settings& settings) const override {
        const Plan plan = VITRINE_TRY(plan_of(options_));
        if (plan.identity()) {
            Attribution out = VITRINE_TRY(inner_.explain(context, settings));
            VITRINE_CHECK(all_finite(out));
            out.checks.push_back({"finite numbers", true, fmt::format("all {}", out.map.numel())});
            return out;
        }
        return fuse_copies(context, settings, plan);
    }

  private:
    /// The class that the picture as it is predicts: a changed copy may predict another.
    Result<Target> settled(ExplainContext& context) const {
        Target target = context.target;
        if (inner_.class_specific() && !target.index && target.region.empty() && !target.reference.defined() &&
            context.model.info().classes > 0)
            target.index = VITRINE_TRY(context.objective()).index;
        return target;
    }

    Result<Attribution> fuse_copies(ExplainContext& context, const Settings& settings, const Plan& plan) const {
        const std::string name = inner_.description().name;
        const auto declared = inner_.parameters();
        if (!plan.layers.empty() &&
            std::none_of(declared.begin(), declared.end(), [](const Parameter& p) { return p.name == "layer"; }))
            return fail(ErrorCode::Unsupported, "{} reads no layer that could be chosen", name);
        if (changes_picture(plan) && !context.target.region.empty())
            return fail(ErrorCode::Unsupported, "{}", kElsewhere);
        const Target target = VITRINE_TRY(settled(context));
        const std::size_t layers = std::max<std::size_t>(1, plan.layers.size());
        const auto all = static_cast<std::int64_t>(plan.copies.size() * layers);
        std::int64_t done = 0;
        std::vector<at::Tensor> maps;
        std::optional<Attribution> out;
        for (const Copy& copy : plan.copies) {
            std::vector<at::Tensor> of_layers;
            bool is_signed = false;
            const Input input = VITRINE_TRY(changed(context.input, copy));
            for (std::size_t layer = 0; layer < layers; ++layer, ++done) {
                if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
                Settings own = settings;
                if (!plan.layers.empty()) VITRINE_CHECK(own.set("layer", plan.layers[layer]));
                ExplainContext part(context.model, copy.changed() ? input : context.input, target, context.seed);
                part.stop = context.stop;
                part.memory_budget = context.memory_budget;
                part.batch = context.batch;
                part.other = context.other;
                part.boxes = context.boxes;
                if (context.progress)
                    part.progress = [&](const Progress& p) {
                        // Of the whole: a hundredth of a map is the finest step that is told.
                        const std::int64_t share = p.total > 0 ? 100 * p.done / p.total : 0;
                        context.progress(
                            {100 * done + std::clamp<std::int64_t>(share, 0, 100), 100 * all, "% of a map"});
                    };
                auto found = inner_.explain(part, own);
                if (!found)
                    return tl::make_unexpected(std::move(found).error().with_context(words_of(copy, plan, layer)));
                VITRINE_CHECK(all_finite(*found));
                is_signed = is_signed || found->is_signed;
                if (plan.fuse == "product" && is_signed)
                    return fail(ErrorCode::Unsupported, "the map of {} has a sign, and a product would lose it", name);
                at::Tensor map = found->map.to(at::kDouble);
                if (copy.across) map = at::flip(map, {1});
                if (copy.down) map = at::flip(map, {0});
                of_layers.push_back(plan.unit ? to_unit(map, is_signed) : map);
                if (!out) out = std::move(*found);
                out->is_signed = out->is_signed || is_signed;
            }
            std::int64_t rows = 0, cols = 0;
            for (const auto& map : of_layers) rows = std::max(rows, map.size(0)), cols = std::max(cols, map.size(1));
            for (auto& map : of_layers) map = resized(map, rows, cols);
            at::Tensor map = fused(of_layers, plan.fuse);
            if (plan.unit && layers > 1) map = to_unit(map, is_signed);
            if (!maps.empty()) map = resized(map, maps.front().size(0), maps.front().size(1));
            maps.push_back(map);
            if (context.refined && done < all) {
                Attribution so_far = *out;
                finish(so_far, maps, plan);
                so_far.partial = true;
                context.refined(so_far);
            }
        }
        finish(*out, maps, plan);
        VITRINE_CHECK(all_finite(*out));
        out->checks.push_back({"finite numbers", true, fmt::format("all {}", out->map.numel())});
        return std::move(*out);
    }

    void finish(Attribution& out, const std::vector<at::Tensor>& maps, const Plan& plan) const {
        out.map = fused(maps, plan.fuse).to(at::kFloat).contiguous();
        out.channels = at::Tensor();
        out.colours = at::Tensor();
        out.checks.clear();
        out.tables.clear();
        out.notes = {fmt::format("{} of {} {} maps: {}", plan.fuse == "max" ? "maximum" : plan.fuse,
                                 maps.size() * std::max<std::size_t>(1, plan.layers.size()),
                                 plan.unit ? "0 to 1" : "raw", plan.words)};
        // A method that names its layer says only the first of several.
        if (plan.layers.size() > 1)
            if (const auto at = out.explained.rfind(plan.layers.front()); at != std::string::npos)
                out.explained = fmt::format("{}{}", out.explained.substr(0, at), fmt::join(plan.layers, ", "));
    }

    static std::string words_of(const Copy& copy, const Plan& plan, std::size_t layer) {
        std::vector<std::string> words;
        if (copy.across) words.emplace_back("mirrored left to right");
        if (copy.down) words.emplace_back("mirrored top to bottom");
        if (copy.scale != 1) words.push_back(fmt::format("at scale {}", copy.scale));
        if (copy.factor != 1) words.push_back(fmt::format("times {}", copy.factor));
        if (!plan.layers.empty()) words.push_back("layer " + plan.layers[layer]);
        return words.empty() ? "the picture as it is" : fmt::format("{}", fmt::join(words, ", "));
    }

    /// A changed copy: its pixels are what the model is given, the photograph stays behind.
    static Result<Input> changed(const Input& input, const Copy& copy) {
        Input out;
        if (!copy.changed()) return out;
        return guarded([&]() -> Result<Input> {
            const at::NoGradGuard no_grad;
            out.file = input.file;
            out.name = input.name;
            out.geometry = input.geometry;
            out.pixels = input.pixels * copy.factor;
            if (copy.across) out.pixels = at::flip(out.pixels, {3});
            if (copy.down) out.pixels = at::flip(out.pixels, {2});
            if (copy.scale != 1) {
                const auto side = [&](std::int64_t pixels) {
                    return std::max<std::int64_t>(1, std::llround(static_cast<double>(pixels) * copy.scale));
                };
                out.pixels = at::upsample_bilinear2d(out.pixels, {side(out.pixels.size(2)), side(out.pixels.size(3))},
                                                     /*align_corners=*/false);
            }
            return out;
        });
    }

    const Explainer& inner_;
    Settings options_;
};

}  // namespace

std::vector<Parameter> smoothing_parameters() {
    return {
        {"preset",
         std::string("none"),
         "none: what is set below; grad_cam: pytorch-grad-cam's aug_smooth, where below nothing is set: horizontal "
         "flips, factors 0.9, 1 and 1.1, maps from 0 to 1",
         "",
         "",
         {},
         {},
         {"none", "grad_cam"}},
        {"flips",
         std::string("none"),
         "mirrored copies of the picture beside the picture as it is",
         "",
         "",
         {},
         {},
         {"none", "horizontal", "vertical", "both"}},
        {"scales",
         std::string("1"),
         "copies of these sizes, 1 being the picture as it is, with commas between them; for models that take other "
         "sizes",
         "",
         "weakly supervised segmentation: 0.5, 1, 1.5, 2",
         {},
         {},
         {}},
        {"factors",
         std::string("1"),
         "copies whose normalised pixels are multiplied by these, with commas between them",
         "",
         "pytorch-grad-cam: 0.9, 1, 1.1",
         {},
         {},
         {}},
        {"layers",
         std::string(),
         "named points, with commas between them: the maps of each become one; empty: what the method's own setting "
         "says",
         "",
         "",
         {},
         {},
         {}},
        {"fuse",
         std::string("mean"),
         "how several maps become one",
         "",
         "pytorch-grad-cam",
         {},
         {},
         {"mean", "max", "product"}},
        {"range",
         std::string("raw"),
         "raw: maps as they are; unit: each from 0 to 1 before they become one",
         "",
         "",
         {},
         {},
         {"raw", "unit"}}};
}

Status check_smoothing(const Settings& options) {
    VITRINE_TRY(plan_of(options));
    return {};
}

std::unique_ptr<Explainer> smoothed(const Explainer& explainer, const Settings& options) {
    return std::make_unique<Smoothed>(explainer, options);
}

}  // namespace vitrine
