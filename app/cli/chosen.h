// Plugins that a command line names, with what --set says of them.
#pragma once

#include <string>
#include <vector>

#include "cli/common.h"

namespace vitrine::cli {

template <class T>
struct Chosen {
    const T* plugin = nullptr;
    std::string name;
    Settings settings;
};

/// @param find    a name's plugin: Result<const T*>(const std::string&)
/// @param owners  gets the names, for check_owners()
/// @error NotFound  no such plugin
/// @error BadInput  no such setting, or a value it does not take
template <class T, class Find>
Result<std::vector<Chosen<T>>> choose(const Common& common, const std::vector<std::string>& names, const Find& find,
                                      std::vector<std::string>& owners) {
    std::vector<Chosen<T>> out;
    for (const auto& name : names) {
        Chosen<T> chosen{VITRINE_TRY(find(name)), name, {}};
        chosen.settings = Settings(chosen.plugin->parameters());
        for (const auto& [key, value] : VITRINE_TRY(settings_of(common, name))) {
            auto set = chosen.settings.set(key, value);
            if (!set) return tl::make_unexpected(std::move(set).error().with_context("--set " + name + "." + key));
        }
        owners.push_back(name);
        out.push_back(std::move(chosen));
    }
    return out;
}

}  // namespace vitrine::cli
