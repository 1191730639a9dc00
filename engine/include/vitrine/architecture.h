// Plugin kind: recognises a checkpoint and builds a native model from it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <vitrine/checkpoint.h>
#include <vitrine/model.h>
#include <vitrine/plugin.h>

namespace vitrine {

struct Recognition {
    double confidence = 0;  ///< 0 no, 1 certain
    std::string why;        ///< one sentence, for both: "timm names: patch_embed.proj, 12 blocks, width 192"
};

class Architecture : public Plugin {
  public:
    virtual Recognition recognise(const Checkpoint& checkpoint) const = 0;
    virtual Result<std::unique_ptr<Model>> build(const Checkpoint& checkpoint) const = 0;
    /// A small model with random, spread-out weights for the contract suite and for training from scratch.
    /// Equal seeds give equal weights.
    virtual Result<std::unique_ptr<Model>> tiny(std::uint64_t seed = 0) const = 0;
    /// A fresh model to train, from this plugin's parameters(). Not every architecture can.
    virtual Result<std::unique_ptr<Model>> create(const Settings&, std::uint64_t /*seed*/) const {
        return fail(ErrorCode::Unsupported, "{} cannot be trained from scratch here", description().name);
    }
    /// config.json for a model of this architecture, so that what is saved under its parameters()' names is opened again; an empty
    /// object when there is no such form.
    virtual nlohmann::json configuration(const Model& /*model*/, const std::string& /*name*/) const { return nlohmann::json::object(); }
};

}  // namespace vitrine
