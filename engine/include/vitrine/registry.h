// The one place where plugins are known.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include <vitrine/architecture.h>
#include <vitrine/explainer.h>
#include <vitrine/kernel.h>
#include <vitrine/measure.h>
#include <vitrine/reference.h>
#include <vitrine/variant.h>

namespace vitrine {

/// Owns all plugins. Filled once at start-up by register_plugins(), read-only afterwards (so any thread may read it).
class Registry {
  public:
    void add(std::unique_ptr<Architecture> plugin) { architectures_.push_back(std::move(plugin)); }
    void add(std::unique_ptr<Variant> plugin) { variants_.push_back(std::move(plugin)); }
    void add(std::unique_ptr<Explainer> plugin) { explainers_.push_back(std::move(plugin)); }
    void add(std::unique_ptr<Measure> plugin) { measures_.push_back(std::move(plugin)); }
    void add(std::unique_ptr<Kernel> plugin) { kernels_.push_back(std::move(plugin)); }
    void add(std::unique_ptr<Reference> plugin) { references_.push_back(std::move(plugin)); }

    const auto& architectures() const { return architectures_; }
    const auto& variants() const { return variants_; }
    const auto& explainers() const { return explainers_; }
    const auto& measures() const { return measures_; }
    const auto& kernels() const { return kernels_; }
    const auto& references() const { return references_; }

    /// @error NotFound  "there is no explainer 'rollot'; did you mean rollout?"
    Result<const Explainer*> explainer(std::string_view name) const;
    Result<const Architecture*> architecture(std::string_view name) const;
    Result<const Measure*> measure(std::string_view name) const;

  private:
    std::vector<std::unique_ptr<Architecture>> architectures_;
    std::vector<std::unique_ptr<Variant>> variants_;
    std::vector<std::unique_ptr<Explainer>> explainers_;
    std::vector<std::unique_ptr<Measure>> measures_;
    std::vector<std::unique_ptr<Kernel>> kernels_;
    std::vector<std::unique_ptr<Reference>> references_;
};

/// Every plugin that was built in. Generated from the folders under plugins/.
const Registry& registry();

}  // namespace vitrine
