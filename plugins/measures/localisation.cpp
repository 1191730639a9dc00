// Measures against where the object is: where the map's maximum, mass and highest cells lie. A mask comes as the boxes
// that make it up.
#include "measures.h"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>

namespace vitrine::plugin::measures {

namespace {

/// Measures that need to know where the object is: says why a picture does not count, else hands on.
class Boxed : public Basic {
  public:
    std::vector<Parameter> parameters() const override {
        return {{"boxes",
                 std::string("all"),
                 "small leaves out pictures whose boxes or mask cover half of what the model sees or more, where a "
                 "guess hits",
                 "",
                 "ours",
                 {},
                 {},
                 {"all", "small"}},
                {"answers",
                 std::string("all"),
                 "right leaves out pictures for which the model predicts another class than the target",
                 "",
                 "ours",
                 {},
                 {},
                 {"all", "right"}}};
    }
    std::optional<bool> higher_is_better() const override { return true; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        Score out;
        if (context.boxes.empty()) {
            out.left_out = "no box or mask is given";
            return out;
        }
        const at::Tensor inside = box_mask(context);
        const auto covered = inside.sum().item<std::int64_t>();
        if (covered == 0) {
            out.left_out = "nothing of the boxes or mask lies in what the model sees";
            return out;
        }
        // Pixels that a box touches count here, as where half a picture was first the border (149 of 250 photographs of
        // imagenette_boxes are below it so, 152 by the pixels' centres).
        if (settings.text("boxes") == "small")
            if (const auto touched = box_mask(context, true).sum().item<std::int64_t>();
                2 * touched >= inside.numel()) {
                out.left_out = fmt::format("its boxes or mask cover {:.0f} % of what the model sees",
                                           100.0 * static_cast<double>(touched) / static_cast<double>(inside.numel()));
                return out;
            }
        if (settings.text("answers") == "right" && context.target.index) {
            const at::Tensor answer = VITRINE_TRY(context.capture())->output;
            if (const auto best = answer[0].argmax().item<std::int64_t>(); best != *context.target.index) {
                out.left_out = fmt::format("the model predicts {}", context.model.labels().name(best));
                return out;
            }
        }
        VITRINE_CHECK(place(context, subject, settings, inside, out));
        return out;
    }

  protected:
    virtual Status place(const ExplainContext& context, const Subject& subject, const Settings& settings,
                         const at::Tensor& inside, Score& out) const = 0;
};

class PointingGame final : public Boxed {
  public:
    Description description() const override {
        return {"pointing_game",
                "Pointing game",
                "Whether the centre of the map's highest cell lies in a box or the mask",
                "J. Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018",
                0,
                "Localisation",
                "1 where the centre of the highest native cell lies in a box (or the mask) or within the tolerance of "
                "one, else 0; "
                "ties drawn by seed"};
    }
    std::vector<Parameter> parameters() const override {
        auto out = Boxed::parameters();
        out.insert(out.begin(), {"tolerance",
                                 0.0,
                                 "how far outside a box or the mask still counts",
                                 "pixels of the input",
                                 "Zhang et al.: 15",
                                 0.0,
                                 4096.0,
                                 {}});
        return out;
    }

  protected:
    Status place(const ExplainContext& context, const Subject& subject, const Settings& settings, const at::Tensor&,
                 Score& out) const override {
        const at::Tensor map = VITRINE_TRY(native_map(subject.attribution));
        const std::int64_t cell = ranked(map, context.seed).front();
        const double x = (static_cast<double>(cell % map.size(1)) + 0.5) *
                         static_cast<double>(context.input.pixels.size(3)) / static_cast<double>(map.size(1));
        const double y = (static_cast<double>(cell / map.size(1)) + 0.5) *
                         static_cast<double>(context.input.pixels.size(2)) / static_cast<double>(map.size(0));
        double nearest = INFINITY;
        for (const Box& box : boxes_in_input(context)) {
            // Inside is [x0, x1) x [y0, y1); outside, the distance to the box.
            const double dx = std::max({box.x0 - x, 0.0, x - box.x1}), dy = std::max({box.y0 - y, 0.0, y - box.y1});
            nearest = std::min(nearest, box.contains({x, y}) ? -1.0 : std::hypot(dx, dy));
        }
        const double tolerance = settings.number("tolerance");
        out.value = nearest < 0 || (tolerance > 0 && nearest <= tolerance) ? 1 : 0;
        out.notes.push_back(fmt::format("highest at {:.1f}, {:.1f} of the input{}", x, y,
                                        nearest > 0 ? fmt::format(", {:.1f} pixels off", nearest) : ""));
        const auto ties = (map == map.max()).sum().item<std::int64_t>();
        if (ties > 1) out.notes.push_back(fmt::format("{} cells are equally high; one was drawn", ties));
        return {};
    }
};

class EnergyPointingGame final : public Boxed {
  public:
    Description description() const override {
        return {"energy_pointing_game",
                "Energy pointing game",
                "Share of the map, brought to [0, 1], that lies in the boxes or the mask",
                "H. Wang et al., Score-CAM, CVPR Workshops 2020",
                0,
                "Localisation",
                "sum of the map in the boxes or mask / sum of the map; map resized bilinearly (align_corners = false), "
                "then "
                "scaled to 0 to 1"};
    }

  protected:
    Status place(const ExplainContext& context, const Subject& subject, const Settings&, const at::Tensor& inside,
                 Score& out) const override {
        const at::Tensor map = unit_range(VITRINE_TRY(pixel_map(context, subject.attribution))).to(at::kDouble);
        const double total = map.sum().item<double>();
        if (total > 0)
            out.value = (map * inside).sum().item<double>() / total;
        else
            out.left_out = "the map is flat";
        return {};
    }
};

class LocalisationMass final : public Boxed {
  public:
    Description description() const override {
        return {"localisation_mass",
                "Localisation mass",
                "Share of the map's positive relevance that lies in the boxes or the mask",
                "M. Kohlbrenner et al., Towards Best Practice in Explaining Neural Network Decisions with LRP, IJCNN "
                "2020; relevance mass accuracy: L. Arras et al., CLEVR-XAI, Information Fusion 2022",
                0,
                "Localisation",
                "sum of the positive map in the boxes or mask / sum of the positive map; map resized bilinearly "
                "(align_corners "
                "= false)"};
    }
    std::vector<Parameter> parameters() const override {
        auto out = Boxed::parameters();
        out.insert(out.begin(),
                   {"weighted",
                    false,
                    "divides by the share of the input that the boxes or mask cover, so that a flat map gets 1",
                    "",
                    "Kohlbrenner et al., the weighted form",
                    {},
                    {},
                    {}});
        return out;
    }

  protected:
    Status place(const ExplainContext& context, const Subject& subject, const Settings& settings,
                 const at::Tensor& inside, Score& out) const override {
        const at::Tensor map = VITRINE_TRY(pixel_map(context, subject.attribution)).clamp_min(0).to(at::kDouble);
        const double total = map.sum().item<double>();
        if (!(total > 0)) {
            out.left_out = "the map has nothing positive";
            return {};
        }
        out.value = (map * inside).sum().item<double>() / total;
        if (settings.flag("weighted")) out.value *= static_cast<double>(inside.numel()) / inside.sum().item<double>();
        return {};
    }
};

class TopkLocalisation final : public Boxed {
  public:
    Description description() const override {
        return {
            "topk_localisation",
            "Top-k localisation",
            "Share of the k highest pixels that lie in the boxes or the mask",
            "J. Theiner et al., Interpretable Semantic Photo Geolocation, WACV 2022; k=0 is relevance rank accuracy: "
            "L. Arras et al., Information Fusion 2022",
            0,
            "Localisation",
            "share of the k highest pixels that lie in the boxes or mask; map resized bilinearly (align_corners = "
            "false), ties "
            "drawn by seed"};
    }
    std::vector<Parameter> parameters() const override {
        auto out = Boxed::parameters();
        out.insert(out.begin(), {"k",
                                 std::int64_t{1000},
                                 "how many pixels; 0: as many as the boxes or mask have",
                                 "pixels",
                                 "Theiner et al.",
                                 0.0,
                                 1e9,
                                 {}});
        return out;
    }

  protected:
    Status place(const ExplainContext& context, const Subject& subject, const Settings& settings,
                 const at::Tensor& inside, Score& out) const override {
        const at::Tensor map = VITRINE_TRY(pixel_map(context, subject.attribution));
        std::int64_t k = settings.integer("k");
        if (k == 0) k = inside.sum().item<std::int64_t>();
        k = std::min(k, map.numel());
        const std::vector<std::int64_t> order = ranked(map, context.seed);
        const at::Tensor flat = inside.contiguous();
        const auto* hit = flat.const_data_ptr<bool>();
        const auto hits = std::count_if(order.begin(), order.begin() + k, [&](std::int64_t i) { return hit[i]; });
        out.value = static_cast<double>(hits) / static_cast<double>(k);
        out.notes.push_back(fmt::format("the {} highest of {} pixels", k, map.numel()));
        return {};
    }
};

}  // namespace

std::unique_ptr<Measure> make_pointing_game() { return std::make_unique<PointingGame>(); }
std::unique_ptr<Measure> make_energy_pointing_game() { return std::make_unique<EnergyPointingGame>(); }
std::unique_ptr<Measure> make_localisation_mass() { return std::make_unique<LocalisationMass>(); }
std::unique_ptr<Measure> make_topk_localisation() { return std::make_unique<TopkLocalisation>(); }

}  // namespace vitrine::plugin::measures
