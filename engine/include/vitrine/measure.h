// Plugin kind: says how faithful an explanation is.
#pragma once

#include <optional>
#include <string>

#include <vitrine/explainer.h>
#include <vitrine/plugin.h>

namespace vitrine {

struct Score {
    double value = 0;
    bool higher_is_better = true;
    std::string unit;
};

class Measure : public Plugin {
  public:
    virtual std::optional<std::string> why_not(const Model& model) const = 0;
    virtual Result<Score> measure(ExplainContext& context, const Attribution& attribution, const Settings& settings) const = 0;
};

}  // namespace vitrine
