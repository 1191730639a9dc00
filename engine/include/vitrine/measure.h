// Plugin kind: says how faithful an explanation is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <vitrine/explainer.h>
#include <vitrine/plugin.h>

namespace vitrine {

/// What is measured: a map, and how it was made, for measures that make it again.
struct Subject {
    const Explainer& explainer;
    const Settings& settings;
    const Attribution& attribution;
};

/// One number for one picture. Figures over many pictures are means of these.
struct Score {
    double value = 0;
    std::string unit;                  ///< "" for a share or a correlation
    std::vector<double> steps, curve;  ///< what the number was read from, where that is a curve: share changed, explained number
    std::vector<std::string> notes;
    std::optional<std::string> left_out;  ///< why this picture does not count: "no box is given"
};

class Measure : public Plugin {
  public:
    /// Why this measure has no meaning on this model or for this method; empty when it has. Asked before work starts.
    virtual std::optional<std::string> why_not(const Model& model, const Explainer& explainer) const = 0;
    /// Which way is better; nothing where neither is (sparseness).
    virtual std::optional<bool> higher_is_better() const = 0;
    virtual Result<Score> measure(ExplainContext& context, const Subject& subject, const Settings& settings) const = 0;
};

}  // namespace vitrine
