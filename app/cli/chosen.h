// Plugins that a command line names, with what --set says of them.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <vitrine/smoothing.h>

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

/// NAME, or NAME:key=value:key=value, so that one run can hold a method or measure with several settings. The whole
/// text is the name of it in tables and files.
template <class T, class Find>
Result<std::vector<Chosen<T>>> choose_each(const Common& common, const std::vector<std::string>& texts,
                                           const Find& find, std::vector<std::string>& owners) {
    std::vector<Chosen<T>> out;
    for (const std::string& text : texts) {
        std::vector<std::string> parts;
        for (std::size_t at = 0; at <= text.size();) {
            const std::size_t end = std::min(text.find(':', at), text.size());
            parts.push_back(text.substr(at, end - at));
            at = end + 1;
        }
        Chosen<T> chosen = VITRINE_TRY(choose<T>(common, {parts.front()}, find, owners)).front();
        for (std::size_t i = 1; i < parts.size(); ++i) {
            const std::size_t equals = parts[i].find('=');
            if (equals == std::string::npos || equals == 0)
                return fail(ErrorCode::BadInput, "'{}' is in {}, expected NAME:key=value", parts[i], text);
            auto set = chosen.settings.set(parts[i].substr(0, equals), parts[i].substr(equals + 1));
            if (!set) return tl::make_unexpected(std::move(set).error().with_context(text));
        }
        chosen.name = text;
        for (const auto& other : out)
            if (other.name == text) return fail(ErrorCode::BadInput, "{} is named twice", text);
        out.push_back(std::move(chosen));
    }
    return out;
}

/// The options that all methods take, and the methods under them.
struct Smooth {
    Settings options;
    std::vector<std::unique_ptr<Explainer>> explainers;
    bool any() const {
        return std::any_of(options.declared().begin(), options.declared().end(),
                           [&](const Parameter& p) { return !options.is_default(p.name); });
    }
};

/// Puts "--set smooth.key=value" around every method; what is returned must outlive them.
inline Result<Smooth> smooth(const Common& common, std::vector<Chosen<Explainer>>& methods,
                             std::vector<std::string>& owners) {
    Smooth out{Settings(smoothing_parameters()), {}};
    owners.emplace_back(kSmoothing);
    const auto with_context = [](Error error) {
        return tl::make_unexpected(std::move(error).with_context("--set smooth"));
    };
    for (const auto& [key, value] : VITRINE_TRY(settings_of(common, kSmoothing)))
        if (auto set = out.options.set(key, value); !set) return with_context(set.error());
    if (auto fine = check_smoothing(out.options); !fine) return with_context(fine.error());
    for (auto& method : methods) {
        out.explainers.push_back(smoothed(*method.plugin, out.options));
        method.plugin = out.explainers.back().get();
    }
    return out;
}

}  // namespace vitrine::cli
