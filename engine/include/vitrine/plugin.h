// What every plugin kind shares, and the one entry by which plugins register.
#pragma once

#include <string>
#include <vector>

#include <vitrine/settings.h>

namespace vitrine {

/// Registration is documentation: menus, help and reports print this.
struct Description {
    std::string name;     ///< stable identifier, snake case: "rollout"
    std::string title;    ///< for people: "Attention rollout"
    std::string summary;  ///< one sentence
    std::string source;   ///< paper or package it follows
    int system = 0;       ///< number of the published system it belongs to; 0 for none
    // Of explainers and measures:
    std::string family = {};    ///< the heading it stands under: "Gradients"
    std::string formula = {};   ///< one line of plain text: "(x - x0) * mean over a of df/dx at x0 + a (x - x0)"
    std::string weakness = {};  ///< one sentence: where it is known to fail, and who showed it
};

class Plugin {
  public:
    virtual ~Plugin() = default;
    virtual Description description() const = 0;
    virtual std::vector<Parameter> parameters() const { return {}; }
};

class Registry;

}  // namespace vitrine

/// Opens a plugin's entry: `VITRINE_PLUGIN(rollout) { registry.add(std::make_unique<Rollout>()); }`
#define VITRINE_PLUGIN(plugin_name) \
    void vitrine_register_##plugin_name([[maybe_unused]] ::vitrine::Registry& registry)
