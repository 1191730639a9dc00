// Plugin kind: makes a changed model from a model, with the correspondence of tokens.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <vitrine/model.h>
#include <vitrine/plugin.h>

namespace vitrine {

class Variant : public Plugin {
  public:
    virtual std::optional<std::string> why_not(const Model& model) const = 0;
    /// The changed model; with the settings that change nothing it must answer as the original.
    virtual Result<std::unique_ptr<Model>> make(std::shared_ptr<Model> model, const Settings& settings) const = 0;
};

}  // namespace vitrine
