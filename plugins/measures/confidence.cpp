// Measures of a picture seen through its map: average drop, increase in confidence, average gain.
#include "measures.h"

#include <algorithm>

namespace vitrine::plugin::measures {

namespace {

enum class Kind : std::uint8_t { Drop, Increase, Gain };

class Confidence final : public Basic {
  public:
    explicit Confidence(Kind kind) : kind_(kind) {}

    Description description() const override {
        switch (kind_) {
            case Kind::Drop:
                return {"average_drop",
                        "Average drop",
                        "How much of the confidence is lost when only what the map shows is seen",
                        "A. Chattopadhay et al., Grad-CAM++, WACV 2018; budgets: M. Ntrougkas et al., T-TAME, IEEE "
                        "Access 2024",
                        0,
                        "Faithfulness",
                        "100 max(0, p(x) - p(m x)) / p(x); m: the native map scaled to 0 to 1, then resized bilinearly "
                        "(align_corners = false)"};
            case Kind::Increase:
                return {"increase_in_confidence",
                        "Increase in confidence",
                        "How often the model is surer when only what the map shows is seen",
                        "A. Chattopadhay et al., Grad-CAM++, WACV 2018; budgets: M. Ntrougkas et al., T-TAME, IEEE "
                        "Access 2024",
                        0,
                        "Faithfulness",
                        "100 where p(m x) > p(x), else 0; m: the native map scaled to 0 to 1, then resized bilinearly "
                        "(align_corners = false)"};
            case Kind::Gain:
                break;
        }
        return {"average_gain",
                "Average gain",
                "How much of the missing confidence is won when only what the map shows is seen",
                "H. Zhang et al., Opti-CAM: Optimizing saliency maps for interpretability, CVIU 2024; budgets: M. "
                "Ntrougkas et al., T-TAME, IEEE Access 2024",
                0,
                "Faithfulness",
                "100 max(0, p(m x) - p(x)) / (1 - p(x)); m: the native map scaled to 0 to 1, then resized bilinearly "
                "(align_corners = false)"};
    }

    std::vector<Parameter> parameters() const override {
        return {{"keep",
                 100.0,
                 "share of the map's highest values that is kept, the usual three: 100, 50, 15",
                 "%",
                 "T-TAME",
                 0.1,
                 100.0,
                 {}},
                {"preset",
                 std::string("paper"),
                 "paper: the map times the picture, so that what it hides is black; torchcam: the map times the "
                 "normalised input, so that it is the mean colour",
                 "",
                 "Grad-CAM++; torchcam 0.5",
                 {},
                 {},
                 {"paper", "torchcam"}}};
    }

    std::optional<bool> higher_is_better() const override { return kind_ != Kind::Drop; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        const MaskPolicy policy = settings.text("preset") == "torchcam" ? MaskPolicy::Mean : MaskPolicy::Black;
        const auto looked =
            VITRINE_TRY(look_through(context, subject.attribution, {settings.number("keep")}, policy)).front();
        const double whole = looked.whole, seen = looked.seen;
        Score out;
        out.unit = "%";
        out.notes.push_back(fmt::format("{}: {:.4g} of the whole picture, {:.4g} through the map",
                                        looked.objective.explained, whole, seen));
        switch (kind_) {
            case Kind::Drop:
                if (!(whole > 0)) {
                    out.left_out = "the explained number of the whole picture is not positive: no share of it is lost";
                    return out;
                }
                out.value = 100 * std::max(0.0, whole - seen) / whole;
                break;
            case Kind::Increase:
                out.value = seen > whole ? 100 : 0;
                break;
            case Kind::Gain:
                if (!(whole < 1)) {
                    out.left_out = "the explained number of the whole picture is 1 or more: there is nothing to win";
                    return out;
                }
                out.value = 100 * std::max(0.0, seen - whole) / (1 - whole);
                break;
        }
        return out;
    }

  private:
    Kind kind_;
};

}  // namespace

std::unique_ptr<Measure> make_average_drop() { return std::make_unique<Confidence>(Kind::Drop); }
std::unique_ptr<Measure> make_increase_in_confidence() { return std::make_unique<Confidence>(Kind::Increase); }
std::unique_ptr<Measure> make_average_gain() { return std::make_unique<Confidence>(Kind::Gain); }

}  // namespace vitrine::plugin::measures
