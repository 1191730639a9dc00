// Finding plugins by name.
#include <vitrine/registry.h>

#include "text.h"

namespace vitrine {

namespace {

template <class T>
Result<const T*> find(const std::vector<std::unique_ptr<T>>& plugins, std::string_view name, std::string_view kind) {
    std::vector<std::string> names;
    for (const auto& plugin : plugins) {
        names.push_back(plugin->description().name);
        if (names.back() == name) return plugin.get();
    }
    return fail(ErrorCode::NotFound, "there is no {} '{}'{}", kind, name, suggest(name, names));
}

}  // namespace

Result<const Explainer*> Registry::explainer(std::string_view name) const { return find(explainers_, name, "method"); }
Result<const Architecture*> Registry::architecture(std::string_view name) const {
    return find(architectures_, name, "architecture");
}
Result<const Measure*> Registry::measure(std::string_view name) const { return find(measures_, name, "measure"); }

}  // namespace vitrine
