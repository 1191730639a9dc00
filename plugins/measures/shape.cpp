// Measures of the map alone: sparseness and complexity.
#include "measures.h"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>

namespace vitrine::plugin::measures {

namespace {

class Shape final : public Basic {
  public:
    explicit Shape(bool sparseness) : sparseness_(sparseness) {}

    Description description() const override {
        if (sparseness_)
            return {
                "sparseness",
                "Sparseness",
                "Gini index of the map's magnitudes: 0 when all are alike, near 1 when one holds everything",
                "P. Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training, ICML 2020",
                0,
                "Shape",
                "Gini index of |map|; native map unless on=pixels"};
        return {"complexity",
                "Complexity",
                "Entropy of the map's magnitudes: how many cells it takes to say it",
                "U. Bhatt et al., Evaluating and Aggregating Feature-based Model Explanations, IJCAI 2020",
                0,
                "Shape",
                "entropy of |map| / sum |map|; native map unless on=pixels"};
    }

    std::vector<Parameter> parameters() const override {
        return {{"on",
                 std::string("native"),
                 "the cells of the map as the method gives it, or the input's pixels after bilinear resizing",
                 "",
                 "ours; quantus takes what it is given",
                 {},
                 {},
                 {"native", "pixels"}}};
    }

    /// Neither: a wrong map may be as sparse as one likes.
    std::optional<bool> higher_is_better() const override { return std::nullopt; }

    Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const override {
        if (context.stop.stop_requested()) return fail(ErrorCode::Cancelled, "stopped");
        const at::Tensor map = VITRINE_TRY(settings.text("on") == "pixels" ? pixel_map(context, subject.attribution)
                                                                           : native_map(subject.attribution));
        const at::Tensor size = map.abs().flatten().to(at::kDouble);
        const double total = size.sum().item<double>(), count = static_cast<double>(size.numel());
        Score out;
        out.unit = sparseness_ ? "" : "nats";
        if (!(total > 0)) {
            out.left_out = "the map is zero everywhere";
            return out;
        }
        if (sparseness_) {
            const at::Tensor rising = std::get<0>(at::sort(size));
            const at::Tensor weight = 2 * at::arange(1, size.numel() + 1, at::kDouble) - count - 1;
            out.value = (weight * rising).sum().item<double>() / (count * total);
        } else {
            const at::Tensor p = size / total;
            out.value = -(p * at::where(p > 0, p, 1).log()).sum().item<double>();
            out.notes.push_back(fmt::format("as if {:.4g} of {} cells were alike and the others empty",
                                            std::exp(out.value), size.numel()));
        }
        return out;
    }

  private:
    bool sparseness_;
};

}  // namespace

std::unique_ptr<Measure> make_sparseness() { return std::make_unique<Shape>(true); }
std::unique_ptr<Measure> make_complexity() { return std::make_unique<Shape>(false); }

}  // namespace vitrine::plugin::measures
